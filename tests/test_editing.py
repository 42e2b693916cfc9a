"""Edits, translations and inpainting: their two ends, what is exact, and a conditional that is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

import guided_distill
from configs import mixture2d_teacher
from guided_distill import codecs, data, editing, samplers, schedules, trainer
from guided_distill.__main__ import main
from guided_distill.data.mixture2d import modes
from guided_distill.denoiser import Parameterised
from guided_distill.errors import UserError
from guided_distill.models.mixture import Mixture
from guided_distill.prediction import from_x

SCHEDULE = schedules.Cosine()
LABELS = np.arange(8) // 2  # Of `points`.


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """The mixture's exact denoiser as a run that takes any number of steps."""
    return guided_distill.load(
        trainer.run(mixture2d_teacher.get_config().to_dict(), tmp_path_factory.mktemp("exact") / "run", say=str)
    )


@pytest.fixture(scope="module")
def student(digits):
    """Of 4, 2 and 1 steps, held by all tests that leave it as it is, so that they share its programs."""
    return guided_distill.load(digits / "stage2")


@pytest.fixture
def points():
    source = data.load("mixture2d", "test", num=64)
    return np.concatenate([source[source.arrays["label"] == k]["x"][:2] for k in range(4)])


@pytest.fixture
def images():
    return codecs.to_float(data.load("digits")[:4]["x"])


# The step that paints.


@pytest.mark.parametrize("name", samplers.names())
def test_a_mask_of_everything_is_the_plain_sampler(name, ring):
    z, cond = jax.random.normal(jax.random.key(0), (16, 2)), {"label": jnp.arange(16) % 4}
    step, levels, key = samplers.get(name), schedules.grid(SCHEDULE, 4), jax.random.key(1)
    run = jax.jit(lambda step: samplers.sample(key, ring, step, z, cond, levels), static_argnums=0)
    everything = samplers.masked(step, jnp.full_like(z, 7.0), jnp.ones(z.shape, bool))
    np.testing.assert_allclose(run(everything), run(step), atol=1e-5)


@pytest.mark.parametrize("resample", [1, 3])
def test_a_mask_of_nothing_returns_what_is_known(resample, ring):
    known = jax.random.normal(jax.random.key(3), (16, 2))
    step = samplers.masked(samplers.stochastic, known, jnp.zeros(known.shape, bool), resample)
    cond = {"label": jnp.arange(16) % 4}
    end = samplers.sample(jax.random.key(1), ring, step, 3 * known, cond, schedules.grid(SCHEDULE, 3))
    np.testing.assert_array_equal(end, known)


def test_forward_composes():
    """q(t | s) after q(s | x) is q(t | x), in mean and variance; and from a level to itself it adds nothing."""
    x = jnp.full((100_000, 1), 0.8)
    clean, near, far = (jnp.full((len(x),), level) for level in (jnp.inf, 1.5, -0.5))
    keys = [jax.random.split(jax.random.key(k), len(x)) for k in range(2)]
    z = samplers.forward(keys[0], x, clean, near)
    np.testing.assert_array_equal(samplers.forward(keys[1], z, near, near), z)
    alpha, sigma = schedules.alpha_sigma(far[0])
    end = samplers.forward(keys[1], z, near, far)
    assert float(end.mean()) == pytest.approx(float(alpha) * 0.8, abs=1e-2)
    assert float(end.std()) == pytest.approx(float(sigma), rel=1e-2)


def test_the_known_part_is_noised_to_each_level():
    """Where nothing is painted, what the next step is shown has the mean and the deviation of its level."""
    seen, known = [], jnp.full((20_000, 1), 0.5)

    def spy(z, logsnr, cond):
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z, ordered=True)
        return from_x(jnp.zeros_like(z), z, logsnr)

    step, levels = samplers.masked(samplers.ddim, known, jnp.zeros(known.shape, bool), 2), schedules.grid(SCHEDULE, 2)
    samplers.sample(jax.random.key(0), spy, step, known, {}, levels)
    jax.effects_barrier()
    # Each of two steps twice: what the second evaluation is shown is up again at the level of the first.
    assert len(seen) == 4
    for z, level in zip(seen[1:], levels[jnp.array([0, 1, 1])], strict=True):
        alpha, sigma = schedules.alpha_sigma(level)
        assert z.mean() == pytest.approx(0.5 * float(alpha), abs=3e-2)
        assert z.std() == pytest.approx(float(sigma), rel=3e-2)


def test_resampling_approaches_the_exact_conditional():
    """Of two modes on a diagonal, given x = 0.1: the largest difference to the exact distribution of y shrinks with
    every fourfold resampling, from more than 0.17 to less than 0.11 (64 steps of DDIM, 1,500 points)."""
    centres, sigma, num = ((0.5, 0.6), (-0.5, -0.6)), 0.3, 1500
    oracle = Parameterised(Mixture((centres,), sigma), "v", "logsnr", SCHEDULE).bind({})
    weights = [math.exp(-((0.1 - x) ** 2) / (2 * sigma**2)) for x, _ in centres]

    @jax.jit
    def painted(resample):
        known, mask = jnp.array([[0.1, 9.0]] * num), jnp.array([[False, True]] * num)
        z, cond = jax.random.normal(jax.random.key(5), (num, 2)), {"label": jnp.zeros(num, jnp.int32)}
        step = samplers.masked(samplers.ddim, known, mask, resample)
        return samplers.sample(jax.random.key(0), oracle, step, z, cond, schedules.grid(SCHEDULE, 64))[:, 1]

    def distribution(y):
        return sum(w * stats.norm.cdf(y, mean, sigma) for w, (_, mean) in zip(weights, centres, strict=True)) / sum(
            weights
        )

    apart = [stats.kstest(np.asarray(painted(np.int32(r))), distribution).statistic for r in (1, 4, 16)]
    assert apart[0] > 0.17 and apart[2] < 0.11 and apart == sorted(apart, reverse=True), apart


# Runs.


def test_strength_one_is_a_sample(exact, points):
    found = editing.edit(exact, points, strength=1.0, steps=8, seed=3, labels=LABELS, guidance=1.0)
    assert (found.strength, found.steps) == (1.0, 8)
    np.testing.assert_allclose(found.images, exact.sample(8, 8, 1.0, LABELS, seed=3), atol=1e-3)


def test_a_little_strength_returns_the_image(exact, points):
    far = [
        np.abs(editing.edit(exact, points, strength=s, steps=4, labels=LABELS, guidance=0.0).images - points).mean()
        for s in (0.1, 0.01, 0.001)
    ]
    assert far[0] > far[1] > far[2] and far[2] < 5e-3


def test_a_student_edits_at_its_own_times(student, images):
    """Strength 0.6 of 4 steps is 2 of them, from t = 1/2, with the weights of 4 steps."""
    found = editing.edit(student, images, strength=0.6, steps=4, guidance=1.0, labels=3, seed=5)
    assert (found.strength, found.steps) == (0.5, 2)
    alpha, sigma = schedules.alpha_sigma(SCHEDULE(0.5))
    z = jnp.asarray(alpha * images + sigma * student.noise(4, 5))
    denoise, cond = jax.jit(student._bind(student.weights(4))), jax.tree.map(jnp.asarray, student.cond(4, 1.0, 3))
    for t, s in ((0.5, 0.25), (0.25, 0.0)):
        now, then = (jnp.full(4, level) for level in schedules.to_clean(SCHEDULE, jnp.array([t, s])))
        x = jnp.clip(denoise(z, now, cond).x, -1, 1)
        z = samplers.recombine(from_x(x, z, now), then)
    np.testing.assert_allclose(found.images, z, atol=1e-4)


@pytest.mark.parametrize("verb", ["edit", "inpaint"])
def test_an_image_is_a_function_of_itself_and_its_place(verb, student, images):
    mask = editing.centre((8, 8, 1))
    go = {
        "edit": lambda images, **more: editing.edit(student, images, 0.5, 4, **more).images,
        "inpaint": lambda images, **more: editing.inpaint(student, images, mask, 4, 2, **more),
    }[verb]
    many = go(images, labels=3, seed=2)
    np.testing.assert_allclose(go(images[:3], labels=3, seed=2, batch_size=2), many[:3], atol=1e-4)
    assert np.abs(go(images, labels=3, seed=4) - many).max() > 1e-2


def test_translation_there_and_back(exact, points):
    """To noise as one class and down as another, and the other way round: the flows are invertible."""
    to = (LABELS + 1) % 4
    there = editing.translate(exact, exact, points, LABELS, to, 256, 256, guidance=0.0)
    back = editing.translate(exact, exact, there, to, LABELS, 256, 256, guidance=0.0)
    np.testing.assert_allclose(back, points, atol=5e-2)
    near = np.linalg.norm(there[:, None] - np.asarray(modes("RING"))[to], axis=-1).min(1)
    assert near.max() < 0.5


def test_inpainting_keeps_the_known_pixels_exactly(student, images):
    masks = np.stack([editing.half((8, 8, 1)), editing.centre((8, 8, 1))] * 2)
    out = editing.inpaint(student, images, masks, 2, labels=np.arange(4))
    np.testing.assert_array_equal(out[~masks], images[~masks])
    assert all(np.abs(out[k] - images[k]).max() > 1e-2 for k in range(4))
    none, everything = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    np.testing.assert_array_equal(editing.inpaint(student, images, none, 2, labels=1), images)
    plain = student.sample(4, 2, 1.0, 1, seed=7)
    np.testing.assert_allclose(editing.inpaint(student, images, everything, 2, 1, 1.0, 7, labels=1), plain, atol=1e-5)


def test_what_is_under_the_mask_has_no_say(student, images):
    mask = editing.half((8, 8, 1))
    others = np.where(mask[..., None], -images, images)
    ends = [editing.inpaint(student, given, mask, 2, labels=1) for given in (images, others)]
    np.testing.assert_array_equal(*ends)


def test_masks_in_latent_space_are_conservative(digits):
    run = guided_distill.load(digits / "stage2")  # Its own, to be altered.
    run.code_shape = (4, 4, 3)
    mask = np.zeros((8, 8), bool)
    mask[3, 5] = True
    pixels, codes = editing.masks_of(run, mask, 2)
    assert pixels.shape == (2, 8, 8, 1) and pixels.sum() == 2
    assert codes.shape == (2, 4, 4, 3) and codes.sum() == 2 * 3 and codes[:, 1, 2].all()


def test_latent_inpainting_composes_with_the_pixels(digits, images):
    """Codes of 4 x 4 of a decoder that loses detail: the known pixels are still those of the image."""
    run = guided_distill.load(digits / "teacher")
    halved = lambda x: x.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))  # noqa: E731
    run.codec = run.codec._replace(encode=halved, decode=lambda z: jnp.repeat(jnp.repeat(z, 2, 1), 2, 2))
    run.code_shape = (4, 4, 1)
    run._generator = type(run._generator)(run._bind, run.codec, True)
    mask = editing.centre((8, 8, 1))
    out = editing.inpaint(run, images, mask, 2, labels=1)
    np.testing.assert_array_equal(out[:, ~mask], images[:, ~mask])
    hidden = np.where(mask[..., None], -images, images)
    np.testing.assert_array_equal(out, editing.inpaint(run, hidden, mask, 2, labels=1))


def test_covered_pixels_are_their_nearest_known_ones():
    image = np.zeros((1, 3, 4, 1), np.float32)
    image[0, :, :2], image[0, :, 2:] = 0.5, 9.0
    mask = np.broadcast_to(np.arange(4) >= 2, (1, 3, 4))[..., None]
    np.testing.assert_array_equal(editing.covered(image, mask), np.full_like(image, 0.5))
    np.testing.assert_array_equal(editing.covered(image, np.ones_like(mask)), np.zeros_like(image))


def test_one_program_for_every_mask_and_resampling(digits, images):
    run, traced = guided_distill.load(digits / "teacher"), []
    decode = run.codec.decode
    run.codec = run.codec._replace(decode=lambda z: traced.append(z.shape) or decode(z))
    run._generator = type(run._generator)(run._bind, run.codec, True)
    for mask, resample, steps in ((editing.half, 1, 2), (editing.centre, 3, 2)):
        editing.inpaint(run, images, mask((8, 8, 1)), steps, resample, labels=1)
    assert len(traced) == 1


# Mistakes.


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strength": 0.0}, r"strength 0 is not in \(0, 1\]"),
        ({"strength": 1.5}, r"strength 1.5 is not in"),
        ({"strength": float("nan")}, "strength nan"),
        ({"strength": 0.1, "steps": 2}, r"strength 0.1 leaves no step of the student of 2 steps .* multiples of 0.5"),
        ({"steps": 3}, "no student of 3 steps; trained: 4, 2, 1"),
        ({"labels": None}, "knows classes 0 .. 9: give labels"),
        ({"labels": 10}, "labels must be in 0 .. 9"),
        ({"prompts": "a three"}, "no text|no prompts"),
        ({"images": np.zeros((2, 9, 8, 1), np.float32)}, "images are 2 x 9 x 8 x 1; .* takes n x 8 x 8 x 1"),
        ({"images": np.zeros((0, 8, 8, 1), np.float32)}, "images are 0 x 8 x 8 x 1"),
        ({"images": np.full((2, 8, 8, 1), 255.0)}, "images go from 255 to 255; expected uint8"),
        ({"sampler": "heun"}, "trained for the sampler 'ddim', not 'heun'"),
        ({"guidance": 9.0}, "outside the range"),
    ],
)
def test_what_an_edit_refuses(arguments, message, student, images):
    with pytest.raises(UserError, match=message) as error:
        editing.edit(student, **{"images": images, "strength": 0.5, "steps": 4, "labels": 3, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mask": np.zeros((4, 4), bool)}, "mask is 4 x 4; .* takes 8 x 8"),
        ({"mask": np.zeros((3, 8, 8), bool)}, "mask is 3 x 8 x 8"),
        ({"mask": np.zeros((8, 8))}, "mask is float64; expected bool"),
        ({"steps": 1}, "steps 1: .* 2 steps or more"),
        ({"resample": 0}, "resample 0 is not positive"),
        ({"batch_size": -1}, "batch_size -1 is not positive"),
    ],
)
def test_what_an_inpainting_refuses(arguments, message, student, images):
    with pytest.raises(UserError, match=message):
        editing.inpaint(
            student, **{"images": images, "mask": np.zeros((8, 8), bool), "steps": 4, "labels": 3, **arguments}
        )


@pytest.fixture
def altered(digits):
    """A run whose manifest says something else."""

    def make(name, **entries):
        run = guided_distill.load(digits / name)
        run.manifest = {**run.manifest, **entries}
        return run

    return make


def test_runs_that_do_not_fit(altered, images):
    teacher, student = altered("teacher"), altered("stage2")
    encoder = altered("stage2", objective="encoding")
    for refused in (
        lambda: editing.edit(encoder, images, labels=1),
        lambda: editing.inpaint(encoder, images, np.zeros((8, 8), bool), labels=1),
        lambda: editing.translate(teacher, encoder, images, 1, 2),
    ):
        with pytest.raises(UserError, match="is an encoder: it goes towards noise; take a teacher or a student"):
            refused()
    with pytest.raises(UserError, match="trained for steps towards data"):
        editing.translate(student, teacher, images, 1, 2)
    for key, value in {
        "schedule": {"name": "Discrete"},
        "codec": {"name": "identity"},
        "code_shape": [4, 4, 1],
    }.items():
        with pytest.raises(UserError, match=f"does not encode for .*: its {key} is"):
            editing.translate(teacher, altered("stage2", **{key: value}), images, 1, 2)
    with pytest.raises(UserError, match="samples with 'stochastic', which adds noise"):
        editing.translate(teacher, altered("stage2", sampler="stochastic"), images, 1, 2)
    with pytest.raises(UserError, match="give labels"):
        editing.translate(teacher, student, images, 1)


# Verbs.


def test_the_verbs_write_sheets_and_arrays(digits, images, tmp_path, capsys):
    student, teacher = str(digits / "stage2"), str(digits / "teacher")
    folder = tmp_path / "in"
    folder.mkdir()
    for k, image in enumerate(codecs.to_uint8(images)):
        Image.fromarray(image[..., 0]).save(folder / f"{k}.png")
    Image.fromarray(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((4, 4), np.uint8))).save(tmp_path / "mask.png")
    for verb in (
        ["edit", student, "--strength=0.5", "--labels=3,8"],
        ["inpaint", student, f"--mask={tmp_path / 'mask.png'}", "--labels=3"],
        ["translate", teacher, student, "--source=0,1,2,3", "--target=8", "--encode_steps=2"],
    ):
        out = tmp_path / f"{verb[0]}.npz"
        assert main([*verb, f"--images={folder}", "--steps=4", f"--out={out}"]) == 0
        found = np.load(out)
        assert found["images"].shape == (4, 8, 8, 1) and found["images"].dtype == np.uint8
    one = [f"--images={folder / '0.png'}", f"--out={tmp_path / 'a.png'}", "--steps=2", "--labels=3"]
    assert main(["inpaint", student, "--mask=centre", *one]) == 0
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "strength 0.5 in 2 steps" in capsys.readouterr().out
    found = np.load(tmp_path / "inpaint.npz")
    np.testing.assert_array_equal(found["images"][:, ~found["mask"]], codecs.to_uint8(images)[:, ~found["mask"]])


def test_the_verbs_tell_mistakes_in_one_line(digits, tmp_path, capsys):
    student = str(digits / "stage2")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    edit, given = ["edit", student, "--labels=3"], "--images=data:digits"
    for bad in (
        [*edit, "--images=nowhere.png"],
        [*edit, f"--images={tmp_path / 'torn.png'}"],
        [*edit, "--images=data:fashion_nothing"],
        [*edit, given, "--out=a.gif"],
        [*edit, given, "--num=0"],
        [*edit, given, "--strength=2"],
        ["edit", student, given],
        ["inpaint", student, given, "--labels=3", "--mask=quarter.png"],
        ["translate", student, student, given, "--source=1", "--target=2"],
        ["sample", student, f"--out={tmp_path / 'torn.png' / 'a.png'}"],
        ["sample", student, "--columns=0"],
    ):
        capsys.readouterr()
        assert main(bad) == 2, bad
        assert len(capsys.readouterr().err.strip().splitlines()) == 1, bad
