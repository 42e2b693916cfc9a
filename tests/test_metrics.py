"""The metrics against closed forms: sets whose statistics, neighbours and distances are known beforehand."""

import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.special
from sklearn.datasets import load_digits

from guided_distill import metrics
from guided_distill.errors import UserError
from guided_distill.features import pixels
from guided_distill.metrics import (
    FeatureSet,
    class_variance,
    energy,
    frechet,
    inception_score,
    kernel,
    nearest,
    paired,
    precision_recall,
)

NAMES = ("frechet", "kernel", "precision_recall", "class_variance", "paired", "energy", "nearest")


def features(array, labels=None):
    return FeatureSet(np.asarray(array, np.float64), None if labels is None else np.asarray(labels))


def frechet_distance(a, b):
    return frechet.compute(features(a), features(b))["frechet_distance"]


def exact_gaussian(rng, mean, covariance, n=200):
    """n samples whose mean and unbiased covariance are the given ones, exactly."""
    x = rng.standard_normal((n, len(mean)))
    q, _ = np.linalg.qr(x - x.mean(axis=0))  # Orthonormal columns, orthogonal to the constant one.
    return mean + math.sqrt(n - 1) * q @ scipy.linalg.cholesky(covariance)


def random_covariance(rng, d):
    a = rng.standard_normal((d, d))
    return a @ a.T + 0.1 * np.eye(d)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    images = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    return pixels.make()(images[..., None].astype(np.float32) / 127.5 - 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_found_by_name_and_returns_floats(name, rng):
    compute = importlib.import_module(f"guided_distill.metrics.{name}").compute
    given = features(rng.standard_normal((12, 3)).astype(np.float32), np.arange(12) % 2)
    assert all(type(value) is float and math.isfinite(value) for value in compute(given, given).values())


def test_frechet_of_commuting_covariances(rng):
    basis = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    std1, std2 = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 2.0, 0.1, 1.0])
    shift = np.array([1.0, -2.0, 0.0, 0.5])
    a = exact_gaussian(rng, np.zeros(4), basis * std1**2 @ basis.T)
    b = exact_gaussian(rng, shift, basis * std2**2 @ basis.T)
    expected = np.sum(shift**2) + np.sum((std1 - std2) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_frechet_of_other_covariances_against_sqrtm(rng):
    s1, s2, shift = random_covariance(rng, 6), random_covariance(rng, 6), rng.standard_normal(6)
    assert np.abs(s1 @ s2 - s2 @ s1).max() > 1
    expected = shift @ shift + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    a, b = exact_gaussian(rng, np.zeros(6), s1), exact_gaussian(rng, shift, s2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_frechet_in_one_dimension(rng):
    a, b = exact_gaussian(rng, np.zeros(1), np.eye(1)), exact_gaussian(rng, np.ones(1), 9 * np.eye(1))
    np.testing.assert_allclose(frechet_distance(a, b), 1 + (3 - 1) ** 2, rtol=1e-10)


def test_frechet_of_a_set_to_itself_is_zero_although_singular(rng, digits):
    few = rng.standard_normal((10, 300))  # Rank 9 of 300.
    for x in (digits, few, np.ones((5, 3))):
        assert frechet_distance(x, x.copy()) <= 1e-8 * x.var(axis=0, ddof=1).sum()


def test_frechet_of_singular_covariances_on_different_subspaces(rng):
    a, b = np.zeros((200, 5)), np.zeros((200, 5))
    a[:, :3] = exact_gaussian(rng, np.zeros(3), np.diag([4.0, 1.0, 1.0]))
    b[:, 2:] = exact_gaussian(rng, np.zeros(3), np.diag([9.0, 1.0, 2.0]))
    np.testing.assert_allclose(frechet_distance(a, b), 4 + 1 + (3 - 1) ** 2 + 1 + 2, rtol=1e-10)


def test_frechet_is_symmetric_and_invariant_under_rotation_and_offset(rng, digits):
    a, b = digits[::2], digits[1::2]
    rotation = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    expected = frechet_distance(a, b)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(a @ rotation + 3, b @ rotation + 3), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(2 * a, 2 * b), 4 * expected, rtol=1e-9)


def test_precision_and_recall_are_not_swapped():
    # Real: two clusters of five. Fake: five samples in the first one, and a stray one, whose ball reaches to
    # its third neighbour, at 0.25. Every other ball ends near its cluster.
    cluster = np.array([0.0, 0.1, 0.2, 0.3, 0.4])[:, None]
    real = np.concatenate([cluster, cluster + 2000])
    fake = np.concatenate([cluster + 0.05, [[-500.0]]])
    values = precision_recall.compute(features(fake), features(real))
    assert values == {"precision": 5 / 6, "recall": 1 / 2}
    assert precision_recall.compute(features(real), features(fake)) == {"precision": 1 / 2, "recall": 5 / 6}


def test_the_third_neighbour_sets_the_radius_and_the_edge_is_inside():
    real = np.array([0.0, 1.0, 2.0, 4.0])[:, None]  # Radii 4, 3, 2, 4: the manifold is [-4, 8].
    inside, outside = [[-4.0], [8.0], [3.0]], [[-4.01], [8.01], [9.0]]
    fake = features(inside + outside)
    assert precision_recall.compute(fake, features(real))["precision"] == 0.5


def test_precision_and_recall_of_a_set_against_itself(digits):
    duplicates = np.repeat(digits[:20] + 1e3, 6, axis=0)  # Radii of zero.
    for x in (digits[:500], duplicates):
        assert precision_recall.compute(features(x), features(x.copy())) == {"precision": 1.0, "recall": 1.0}


def test_disjoint_sets_have_neither_precision_nor_recall(digits):
    values = precision_recall.compute(features(digits[:50]), features(digits[50:100] + 100))
    assert values == {"precision": 0.0, "recall": 0.0}


def test_class_variance_scales_with_the_square_about_the_class_means(rng):
    labels = np.arange(90) % 3
    means = 100 * rng.standard_normal((3, 4))
    noise = rng.standard_normal((90, 4))
    noise -= np.stack([noise[labels == c].mean(axis=0) for c in range(3)])[labels]
    real = features(means[labels] + noise, labels)
    for s in (0.0, 0.3, 1.0, 2.0):
        fake = features(-means[labels] + s * noise, labels)  # Where the classes lie does not matter.
        value = class_variance.compute(fake, real)["class_variance"]
        np.testing.assert_allclose(value, s**2, rtol=1e-9, atol=1e-20)


def test_class_variance_counts_classes_in_both_sets_equally():
    # Class 2 has one real sample, class 3 no fake one: neither counts, and the others count the same.
    fake = features([[-2.0], [2.0], [0.0], [2.0], [0.0], [99.0]], [0, 0, 1, 1, 2, 2])
    real = features([[-1.0], [1.0], [5.0], [6.0], [7.0], [8.0], [0.0], [77.0]], [0, 0, 1, 1, 1, 1, 3, 2])
    expected = (8 + 2) / (2 + 5 / 3)
    np.testing.assert_allclose(class_variance.compute(fake, real)["class_variance"], expected, rtol=1e-12)


def test_paired_distance_of_a_shift_is_its_length(digits):
    shift = np.zeros(64)
    shift[:2] = 3, 4
    assert paired.compute(features(digits), features(digits))["paired_distance"] == 0
    value = paired.compute(features(digits + shift), features(digits))["paired_distance"]
    np.testing.assert_allclose(value, 5, rtol=1e-12)
    one, other = features([[0.0], [1.0]]), features([[1.0], [0.0]])  # The same set, but other partners.
    assert paired.compute(one, other)["paired_distance"] == 1


def mean_abs_normal(mean, std):
    """E|N(mean, std²)|, the folded normal."""
    r = mean / std
    return std * math.sqrt(2 / math.pi) * math.exp(-(r**2) / 2) + mean * math.erf(r / math.sqrt(2))


def energy_distances(rng, d, mean, std, repeats=2000):
    """Of 20 standard normal samples to 30 with the given mean and standard deviation, many times."""
    pairs = ((rng.standard_normal((20, d)), mean + std * rng.standard_normal((30, d))) for _ in range(repeats))
    return [energy.compute(features(x), features(y))["energy_distance"] for x, y in pairs]


def test_energy_distance_of_two_normals_is_unbiased(rng):
    mean, std = 1.0, 2.0
    expected = 2 * mean_abs_normal(mean, math.hypot(1, std))
    expected -= mean_abs_normal(0, math.sqrt(2)) + mean_abs_normal(0, std * math.sqrt(2))
    values = energy_distances(rng, 1, mean, std)
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(len(values)) < 0.1 * expected


def test_energy_distance_is_about_zero_where_distributions_are_equal(rng):
    values = energy_distances(rng, 2, 0.0, 1.0)
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values)) < 0.02


def test_energy_distance_by_hand():
    # E|X - Y| = (3 + 5 + 1 + 3) / 4, E|X - X'| = 2, E|Y - Y'| = 2.
    given = features([[0.0], [2.0]]), features([[3.0], [5.0]])
    np.testing.assert_allclose(energy.compute(*given)["energy_distance"], 2 * 3 - 2 - 2, rtol=1e-12)


def naive_squared_mmd(x, y):
    """The unbiased estimate by its definition: a loop over pairs."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_squared_mmd_by_its_definition(rng):
    x, y = rng.standard_normal((7, 3)), 1 + rng.standard_normal((5, 3))
    np.testing.assert_allclose(kernel.squared_mmd(x, y), naive_squared_mmd(x, y), rtol=1e-12)


def test_squared_mmd_by_hand():
    # One dimension: k(0, 0) = k(0, 1) = 1, k(1, 1) = 8, so 1 + 8 - 2.
    np.testing.assert_allclose(kernel.squared_mmd(np.zeros((3, 1)), np.ones((2, 1))), 7, rtol=1e-12)


def test_kernel_distance_of_all_pairs_of_subsets_is_that_of_the_sets(rng):
    # Four samples each, two a subset: 36 pairs of subsets, whose mean the random ones approach.
    x, y = rng.standard_normal((4, 2)), 1 + rng.standard_normal((4, 2))
    pairs = list(itertools.combinations(range(4), 2))
    every = [naive_squared_mmd(x[list(a)], y[list(b)]) for a in pairs for b in pairs]
    np.testing.assert_allclose(np.mean(every), naive_squared_mmd(x, y), rtol=1e-12)
    found = kernel.compute(features(x), features(y), subsets=2000)["kernel_distance"]
    assert abs(found - np.mean(every)) < 4 * np.std(every) / math.sqrt(2000)


def kernel_distances(rng, shift, n=60, m=60, repeats=100):
    """(distances, errors) between n normal samples and m shifted ones, of many draws."""
    draws = ((rng.standard_normal((n, 3)), shift + rng.standard_normal((m, 3))) for _ in range(repeats))
    values = [kernel.compute(features(x), features(y), subsets=25) for x, y in draws]
    return tuple(np.array([v[key] for v in values]) for key in ("kernel_distance", "kernel_distance_error"))


def normal_squared_mmd(shift):
    """Of N(0, I) and N(s, I) in three dimensions, s = (shift, shift, shift): with u = (s·s) / 3 and k = (1 + X·Y / 3)³,
    E k = 1 + 3 E (X·Y / 3)² + 3 E X·Y / 3 + E (X·Y / 3)³."""
    s2 = 3 * shift**2

    def mean(a, b, ab):  # |mean of X|², |mean of Y|², their product; X and Y independent, of unit covariance.
        first, second = ab / 3, (ab**2 + a + b + 3) / 9
        third = (ab**3 + 3 * ab * (a + b + 3) + 6 * ab) / 27
        return 1 + 3 * first + 3 * second + third

    return mean(0, 0, 0) + mean(s2, s2, s2) - 2 * mean(0, s2, 0)


@pytest.mark.parametrize("n, m", [(60, 60), (40, 90)])
def test_kernel_distance_is_unbiased_and_its_error_is_the_scatter_of_draws(rng, n, m):
    found, errors = kernel_distances(rng, 0.7, n, m)
    expected = normal_squared_mmd(0.7)
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found)) < 0.2 * expected
    # Exact to first order for sets of one size; otherwise the larger set counts as if it were as small as the other.
    assert 0.8 < errors.mean() / found.std() < (1.25 if n == m else 2)


def test_kernel_distance_is_about_zero_where_distributions_are_equal(rng):
    found, errors = kernel_distances(rng, 0.0)
    assert found.min() < 0 < found.max()
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(len(found))
    # Only the second order is left there: subsets of a half scatter √3 times as much as the draws.
    assert 1.2 < errors.mean() / found.std() < 2.4


def test_kernel_distance_grows_with_a_shift_and_not_with_the_order_of_samples(rng, digits):
    x, y = digits[:300], digits[300:600]
    values = [kernel.compute(features(x), features(y + shift)) for shift in (0.0, 0.1, 0.2)]
    assert values[0]["kernel_distance"] < values[1]["kernel_distance"] < values[2]["kernel_distance"]
    shuffled = kernel.compute(features(rng.permutation(x)), features(rng.permutation(y) + 0.1))
    difference = abs(shuffled["kernel_distance"] - values[1]["kernel_distance"])
    assert 0 < difference < 6 * values[1]["kernel_distance_error"] / math.sqrt(kernel.SUBSETS)


def whole(a, b):
    """All distances, put together from the tiles."""
    found = np.full((len(a), len(b)), np.nan)
    for rows, columns, tile in metrics.distance_tiles(a, b):
        found[rows, columns] = tile
    return found


@pytest.mark.parametrize("entries", [1, 40, 10_000])
def test_distances_do_not_depend_on_the_blocks(entries, rng, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", entries)
    a, b = 1e3 + rng.standard_normal((23, 5)), 1e3 + rng.standard_normal((11, 5))
    np.testing.assert_allclose(whole(a, b), np.linalg.norm(a[:, None] - b, axis=-1), rtol=1e-9)
    own = np.linalg.norm(a[:, None] - a, axis=-1)
    tiles = list(metrics.distance_tiles(a))
    assert all(columns.start >= rows.start for rows, columns, _ in tiles)
    for rows, columns, tile in tiles:
        np.testing.assert_allclose(tile, own[rows, columns], rtol=1e-9)
    np.testing.assert_allclose(metrics.nearest_distances(a, 3), np.sort(own, axis=1)[:, 1:4], rtol=1e-9)


def test_equal_rows_are_at_exactly_zero(rng):
    x = rng.standard_normal((200, 64))
    distances = whole(x[::-1], x)[::-1]
    assert np.all(np.diag(distances) == 0) and np.sum(distances == 0) == 200


def test_one_real_image_again_and_again_is_precise_and_recalls_nothing(digits):
    real = features(digits[:300])
    found = precision_recall.compute(features(np.repeat(digits[7:8], 60, axis=0)), real)
    assert found["precision"] == 1 and found["recall"] < 0.01


def test_missing_classes_lower_recall_and_not_precision(digits):
    labels = load_digits().target
    real, rest = np.arange(0, 900), np.arange(900, 1797)
    whole_set, half = rest[:400], rest[labels[rest] < 5][:400]
    values = [precision_recall.compute(features(digits[i]), features(digits[real])) for i in (whole_set, half)]
    assert values[1]["recall"] < values[0]["recall"] - 0.25
    assert values[1]["precision"] > values[0]["precision"] - 0.05


def test_known_radii_change_nothing(digits):
    fake, real = features(digits[:80]), features(digits[80:200])
    radii = metrics.nearest_distances(real.features, 3)
    found = precision_recall.compute(fake, real, real_radii=radii[:, 2])
    assert found == precision_recall.compute(fake, real)
    assert nearest.compute(fake, real, own=radii[:, 0]) == nearest.compute(fake, real)


def test_nearest_tells_copies():
    real = np.array([0.0, 1.0, 3.0, 7.0])[:, None]  # Own distances 1, 1, 2, 4: the 1 % quantile is 1.
    fake = np.array([0.0, 0.5, 5.0, 9.0, 2.0])[:, None]  # 0, 0.5, 2, 2 and 1, which is not below it.
    found = nearest.compute(features(fake), features(real))
    assert found["nearest_limit"] == 1 and found["nearest_median"] == 1 and found["nearest_share"] == 2 / 5
    np.testing.assert_allclose(found["nearest_percentile"], 0.02)
    twice = np.repeat(real, 2, axis=0)  # Limit 0: exact copies count, and nothing else.
    found = nearest.compute(features(fake), features(twice))
    assert found["nearest_limit"] == 0 and found["nearest_share"] == 1 / 5


def test_new_samples_of_the_distribution_are_near_in_one_of_a_hundred(rng):
    x = rng.standard_normal((4000, 6))
    share = nearest.compute(features(x[:2000]), features(x[2000:]))["nearest_share"]
    assert 0.003 < share < 0.02
    copies = x[2000:4000] + 1e-3 * rng.standard_normal((2000, 6))
    assert nearest.compute(features(copies), features(x[2000:]))["nearest_share"] > 0.99


def logits_of(p, n):
    """A set of n samples, all of whose answers are p."""
    return FeatureSet(np.zeros((n, 1)), None, np.log(np.broadcast_to(p, (n, len(p)))) + 5.0)


def test_inception_score_in_closed_form():
    same = inception_score.compute(logits_of([0.5, 0.25, 0.25], 40), features([[0.0]]))
    np.testing.assert_allclose(list(same.values()), [1, 0], atol=1e-12)
    certain = 50 * np.eye(4)[np.arange(400) % 4]
    mean, std = inception_score.of_logits(certain, splits=1)
    np.testing.assert_allclose((mean, std), (4, 0), rtol=1e-9, atol=1e-9)
    for n in (1, 3):  # Fewer than parts: a sample each.
        np.testing.assert_allclose(inception_score.of_logits(certain[:n]), (1, 0), atol=1e-9)


def test_inception_score_by_its_definition(rng):
    logits = 2 * rng.standard_normal((57, 5)) - 1e3
    order = np.random.RandomState(2020).permutation(57)
    p = scipy.special.softmax(logits[order], axis=1)
    parts = [p[k * 57 // 10 : (k + 1) * 57 // 10] for k in range(10)]
    scores = [np.exp(np.mean(np.sum(q * np.log(q / q.mean(axis=0)), axis=1))) for q in parts]
    np.testing.assert_allclose(inception_score.of_logits(logits), (np.mean(scores), np.std(scores)), rtol=1e-12)


def test_inception_score_says_what_it_needs():
    for given, message in [
        (features(GOOD), "needs a classifier's logits"),
        (FeatureSet(GOOD, None, GOOD[:5]), "5 rows of logits for 8 samples"),
        (FeatureSet(GOOD, None, np.where(GOOD > 500, np.nan, GOOD)), "NaN or infinite logits"),
    ]:
        with pytest.raises(UserError, match=message):
            inception_score.compute(given, features(GOOD))


def test_kid_takes_the_whole_of_small_sets(rng):
    x, y = rng.standard_normal((30, 4)), 1 + rng.standard_normal((30, 4))
    mean, std, size = kernel.kid(features(x), features(y))
    assert size == 30 and std < 1e-12
    np.testing.assert_allclose(mean, kernel.squared_mmd(x, y), rtol=1e-12)
    large = features(rng.standard_normal((40, 4))), features(1 + rng.standard_normal((50, 4)))
    mean, _, size = kernel.kid(*large, subset_size=20)
    assert size == 20 and mean == kernel.compute(*large, subset_size=20)["kernel_distance"]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_gaussians_are_exact_about_any_offset_and_in_any_blocks(offset, rng, monkeypatch):
    mean, covariance = offset + rng.standard_normal(5), random_covariance(rng, 5)
    x = exact_gaussian(rng, mean, covariance, 300)
    for entries in (5, 64, 2**22):
        monkeypatch.setattr(metrics, "BLOCK_ENTRIES", entries)
        found = frechet.gaussian(x)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(found.factor @ found.factor.T, covariance, rtol=1e-8, atol=1e-8)
        index = np.arange(0, 300, 3)
        part = frechet.gaussian(x, index)
        np.testing.assert_allclose(part.factor @ part.factor.T, np.cov(x[index].T), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [*NAMES, "inception_score"])
def test_metrics_of_files_are_those_of_arrays(name, digits, tmp_path, monkeypatch):
    labels = np.arange(60) % 3
    fake, real = (FeatureSet(digits[k : k + 60].astype(np.float32), labels, digits[k : k + 60]) for k in (0, 60))
    for k, part in enumerate((fake, real)):
        np.save(tmp_path / f"features{k}.npy", part.features)
        np.save(tmp_path / f"logits{k}.npy", part.logits)
    on_disk = [
        FeatureSet(*(np.load(tmp_path / f"{what}{k}.npy", mmap_mode="r") if what else labels for what in names))
        for k, names in enumerate([("features", "", "logits")] * 2)
    ]
    compute = importlib.import_module(f"guided_distill.metrics.{name}").compute
    expected = compute(fake, real)
    assert compute(*on_disk) == expected
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 700)  # 10 rows.
    found = compute(*on_disk)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12)


def test_distances_grow_with_noise_and_blur_of_pixels(rng, digits):
    real, images = digits[:600], digits[600:1200].reshape(-1, 8, 8)
    noise = rng.standard_normal(images.shape)
    noisy = [images + sigma * noise for sigma in (0, 0.1, 0.2, 0.4)]
    blurred = [scipy.ndimage.gaussian_filter(images, (0, r, r)) for r in (0, 0.5, 0.7, 1.0)]
    for sets in (noisy, blurred):
        values = [frechet_distance(x.reshape(600, 64), real) for x in sets]
        assert all(a < b for a, b in itertools.pairwise(values))


def test_few_samples_of_many_dimensions(rng):
    # On four orthogonal axes: the covariance is known although singular.
    a, b = np.zeros((4, 50)), np.zeros((4, 50))
    a[:, :4], b[:, :4] = np.eye(4), 3 * np.eye(4)
    # Centred, both are s times the same projection over 3: (3 - 1)² tr P / 3, and means 2 / 4 apart on four axes.
    np.testing.assert_allclose(frechet_distance(a, b), 4 * 3 / 3 + 4 * 0.25, rtol=1e-12)


def test_pixels_are_the_images_flattened(rng):
    images = rng.uniform(-1, 1, (7, 4, 4, 3)).astype(np.float32)
    values = pixels.make()(images)
    assert values.dtype == np.float64 and values.shape == (7, 48)
    np.testing.assert_array_equal(values, images.reshape(7, 48))
    assert pixels.make()(images[:0]).shape == (0, 48)
    with pytest.raises(UserError, match="a sample a row"):
        pixels.make()(images[:, 0, 0, 0])


def test_two_halves_of_the_digits_are_about_0_30_apart(digits):
    values = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(digits))
        values.append(frechet_distance(digits[order[:898]], digits[order[898:]]))
    np.testing.assert_allclose(np.mean(values), 0.30, atol=0.05)


GOOD, LABELS = np.arange(24.0).reshape(8, 3) ** 2, np.arange(8) % 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad, message",
    [
        (GOOD[:0], "too few fake samples: 0"),
        (GOOD[:, :2], "feature dimensions differ: fake 2, real 3"),
        (np.where(GOOD > 500, np.nan, GOOD), "1 of 8 fake samples have NaN"),
        (GOOD[0], r"fake features have shape \(3,\)"),
        (GOOD[:, :0], r"fake features have shape \(8, 0\)"),
    ],
)
def test_bad_features_are_refused_in_one_line(name, bad, message):
    compute = importlib.import_module(f"guided_distill.metrics.{name}").compute
    with pytest.raises(ValueError, match=message) as error:
        compute(features(bad, LABELS[: len(bad)]), features(GOOD, LABELS))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "module, fake, real, message",
    [
        (frechet, features(GOOD), features(GOOD[:1]), "too few real samples: 1;"),
        (energy, features(GOOD[:1]), features(GOOD), "at least 2"),
        (precision_recall, features(GOOD[:3]), features(GOOD), "at least 4"),
        (kernel, features(GOOD), features(GOOD[:3]), "at least 4"),
        (paired, features(GOOD[:7]), features(GOOD), "7 fake samples and 8 real"),
        (class_variance, features(GOOD, LABELS), features(GOOD), "needs labels; the real set has none"),
        (
            class_variance,
            features(GOOD, LABELS[:5]),
            features(GOOD, LABELS),
            r"fake labels have shape \(5,\)",
        ),
        (class_variance, features(GOOD, LABELS + 2), features(GOOD, LABELS), "no class has two samples"),
        (class_variance, features(GOOD, LABELS), features(np.full_like(GOOD, 0.1), LABELS), "do not vary"),
    ],
)
def test_each_metric_says_what_it_needs(module, fake, real, message):
    with pytest.raises(UserError, match=message):
        module.compute(fake, real)
