"""The metrics against closed forms: sets whose statistics, neighbours and distances are known beforehand."""

import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import load_digits

from guided_distill import metrics
from guided_distill.errors import UserError
from guided_distill.features import pixels
from guided_distill.metrics import FeatureSet, class_variance, energy, frechet, kernel, paired, precision_recall

NAMES = ("frechet", "kernel", "precision_recall", "class_variance", "paired", "energy")


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


def test_distances_do_not_depend_on_the_blocks(rng, monkeypatch):
    a, b = 1e3 + rng.standard_normal((23, 5)), 1e3 + rng.standard_normal((11, 5))
    expected = np.linalg.norm(a[:, None] - b, axis=-1)
    for entries in (1, 40, 10_000):
        monkeypatch.setattr(metrics, "BLOCK_ENTRIES", entries)
        np.testing.assert_allclose(np.concatenate(list(metrics.distance_blocks(a, b))), expected, rtol=1e-9)


def test_equal_rows_are_at_exactly_zero(rng):
    x = rng.standard_normal((200, 64))
    distances = np.concatenate(list(metrics.distance_blocks(x[::-1], x)))[::-1]
    assert np.all(np.diag(distances) == 0) and np.sum(distances == 0) == 200


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
        (class_variance, features(GOOD, LABELS), features(np.ones_like(GOOD), LABELS), "do not vary"),
    ],
)
def test_each_metric_says_what_it_needs(module, fake, real, message):
    with pytest.raises(UserError, match=message):
        module.compute(fake, real)
