"""Images beside z: what networks are shown, how they start from those that are not, two strengths of guidance, and
chains that paint and edit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import guided_distill
from configs import digits_edits_chain, digits_inpaint_chain, digits_inpaint_teacher, digits_stage2
from guided_distill import channels, codecs, data, editing, guidance, launch, runs, stages, train_step
from guided_distill.__main__ import main
from guided_distill.data import digits_edits, emoji_styles
from guided_distill.denoiser import beside
from guided_distill.errors import UserError
from guided_distill.layers.blocks import ResBlock
from guided_distill.models.latent_unet import LatentUNet
from guided_distill.models.unet import UNet
from guided_distill.prediction import Prediction, expand
from guided_distill.rounds import Rounds
from guided_distill.state import INPUT, graft

UNET = UNet(1, channels=8, channel_multipliers=(1,), num_res_blocks=1, attention_resolutions=())
LATENT = LatentUNet(1, 8, (1, 2), (2,), num_res_blocks=1, num_heads=2, groups=4)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def painter(digits, tmp_path_factory):
    """A tiny chain that inpaints digits, of a single round, from a teacher that was shown nothing."""
    workdir, config = tmp_path_factory.mktemp("inpaint"), digits_inpaint_chain.get_config("tiny,start")
    assert config.stages.teacher.start == "runs/digits_teacher-tiny"
    config.stages.teacher.start = str(digits / "teacher")
    config.stages.stage2.halving.start_steps, config.stages.stage2.sampling.steps = 2, 1
    launch.train(config.to_dict(), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """A tiny teacher that edits digits, and its student of both strengths."""
    workdir, config = tmp_path_factory.mktemp("edits"), digits_edits_chain.get_config("tiny")
    launch.train({**config.to_dict(), "order": ("teacher", "stage1")}, str(workdir))
    return workdir


@pytest.fixture
def images():
    return codecs.to_float(data.load("digits")[:4]["x"])


# What a network reads.


def test_channels_follow_z_in_their_order():
    z, cond = normal(0, 2, 4, 4, 3), {"image": normal(1, 2, 4, 4, 3), "mask": normal(2, 2, 4, 4, 1)}
    read = beside(z, cond, ("mask", "image"))
    np.testing.assert_array_equal(read, np.concatenate([z, cond["mask"], cond["image"]], -1))
    np.testing.assert_array_equal(beside(z, cond, ("image",)), np.concatenate([z, cond["image"]], -1))
    assert beside(z, cond, ()) is z
    nothing = beside(z, {}, ("mask", "image"))
    assert (nothing[..., 3] == 1).all() and (nothing[..., 4:] == 0).all()


class Net(nn.Module):
    """A network with the parts that matter, two convolutions of one name."""

    @nn.compact
    def __call__(self, z, time, cond):
        h = nn.Conv(4, (3, 3), name="conv_in")(z) + time[:, None, None, None]
        return nn.Conv(1, (3, 3), name="conv_out")(ResBlock(6, name="block")(h, time[:, None]))


def test_a_network_that_is_shown_more_starts_as_the_one_that_was_not():
    z, more, time = normal(0, 2, 8, 8, 1), normal(1, 2, 8, 8, 3), jnp.array([0.2, 0.7])
    both, net = jnp.concatenate([z, more], -1), Net()

    def fresh(z, seed):
        shapes = jax.eval_shape(net.init, jax.random.key(0), z, time, {})["params"]
        return jax.tree.map(lambda leaf: 0.3 * normal(seed, *leaf.shape), shapes)

    old, new = fresh(z, 1), fresh(both, 2)
    params, added = graft(new, old)
    assert added == [INPUT] and jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, new)
    apply = jax.jit(lambda params, z: net.apply({"params": params}, z, time, {}))
    want = apply(old, z)
    np.testing.assert_allclose(apply(params, both), want, atol=1e-5 * np.abs(want).max())
    with pytest.raises(UserError, match="do not fit"):
        graft(old, new)  # What was seen is not forgotten.
    wider = {**new, "block": jax.tree.map(lambda leaf: leaf, new["block"])}
    wider["block"]["conv_in"]["kernel"] = jnp.zeros((3, 3, 5, 6))
    with pytest.raises(UserError, match=r"\['block'\]\['conv_in'\]\['kernel'\]: \(3, 3, 4, 6\) for \(3, 3, 5, 6\)"):
        graft(wider, old)  # Only the input may.


@pytest.mark.parametrize("net", [UNET, LATENT], ids=["unet", "latent_unet"])
def test_networks_have_an_input(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1), {})["params"]
    paths = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    assert paths[INPUT] == (3, 3, 3, 8)


# Masks.


def test_masks_are_of_every_kind_and_of_no_resolution():
    small, large = (
        np.asarray(jax.jit(channels.masks, static_argnums=(1, 2, 3))(jax.random.key(0), 400, n, n)) for n in (8, 32)
    )
    for masks in (small, large):
        assert set(np.unique(masks)) == {0.0, 1.0} and masks.any((1, 2, 3)).all()
        assert 0.2 < masks.all((1, 2, 3)).mean() < 0.35
    # The same draws at another resolution cover about the same share.
    apart = np.abs(small.mean((1, 2, 3)) - large.mean((1, 2, 3)))
    assert (apart < 0.15).mean() > 0.98 and abs(small.mean() - large.mean()) < 0.02
    corners = large[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert (corners.sum(1) == 2).mean() > 0.15  # Whole sides.


def test_the_parts_of_masks_are_where_they_should_be():
    y, x = jnp.meshgrid((jnp.arange(10) + 0.5) / 10, (jnp.arange(10) + 0.5) / 10, indexing="ij")
    places = jnp.stack([y, x], -1)
    box = np.zeros((10, 10), bool)
    box[2:5, 6:9] = True
    np.testing.assert_array_equal(channels.rectangle(places, jnp.array([0.2, 0.6]), jnp.array([0.5, 0.9])), box)
    line = np.zeros((10, 10), bool)
    line[4:6, 2:8] = True
    drawn = channels.stroke(places, jnp.array([[0.5, 0.25], [0.5, 0.75], [0.5, 0.5]]), jnp.float32(0.01))
    np.testing.assert_array_equal(drawn, line)
    drawn = np.asarray(jax.vmap(lambda key: channels.beyond(places, key))(jax.random.split(jax.random.key(0), 30)))
    rows, columns = (np.all(drawn == drawn.any(axis, keepdims=True), (1, 2)) for axis in (2, 1))
    assert (rows ^ columns).all() and rows.any() and columns.any()
    assert drawn.mean((1, 2)).min() > 0.15 and drawn.mean((1, 2)).max() < 0.85


def test_nothing_under_a_mask_is_shown():
    mask = jax.jit(channels.masks, static_argnums=(1, 2, 3))(jax.random.key(3), 8, 8, 8)
    x, other = normal(0, 8, 8, 8, 2), normal(1, 8, 8, 8, 2)
    shown = channels.blanked(x, mask)
    np.testing.assert_array_equal(shown["image"], channels.blanked(jnp.where(mask > 0, other, x), mask)["image"])
    np.testing.assert_array_equal(shown["image"], x * (1 - mask))
    batch = jax.jit(channels.inpainting())(jax.random.key(3), {"x": x, "label": jnp.arange(8)})
    np.testing.assert_array_equal(batch["mask"], mask)
    np.testing.assert_array_equal(batch["image"], shown["image"])
    np.testing.assert_array_equal(batch["x"], x)


# What a step is given.


def ingredients(**of):
    nothing = dict.fromkeys(("objective", "student", "teacher", "optimiser", "learning_rate"))
    return train_step.Ingredients(**nothing, encode=lambda x: 2 * x, rounds=Rounds((0,), (1,)), seed=0, **of)


def test_an_image_is_mirrored_and_encoded_with_what_becomes_of_it():
    x = normal(0, 32, 4, 4, 1)
    batch = {"x": x, "image": x + 1, "label": jnp.arange(32)}
    out = train_step.prepare(ingredients(flip=True, show=channels.editing(0.0, {})), batch, jnp.int32(0))
    np.testing.assert_allclose(out["image"], out["x"] + 2, atol=1e-5)
    assert (out["x"] == 2 * x).all((1, 2, 3)).sum() not in (0, 32)
    assert set(train_step.prepare(ingredients(), batch, jnp.int32(0))) == {"x", "label"}
    of = ingredients(show=channels.inpainting())
    shown = jax.jit(lambda batch: train_step.prepare(of, batch, jnp.int32(1)))({"x": x})
    np.testing.assert_allclose(shown["image"], 2 * x * (1 - shown["mask"]), atol=1e-5)


def test_images_are_left_out_alone_and_with_all_else():
    num, null = 4000, {"label": 7, "text": np.ones((3, 2))}
    batch = {"x": normal(0, num, 2, 2, 1), "image": normal(1, num, 2, 2, 1), "label": jnp.zeros(num, int)}
    batch["text"] = jnp.zeros((num, 3, 2))
    out = channels.editing(0.2, null)(jax.random.key(0), batch)
    no_image, no_label = (out["image"] == 0).all((1, 2, 3)), out["label"] == 7
    np.testing.assert_array_equal((out["text"] == 1).all((1, 2)), no_label)
    assert bool((no_image | ~no_label).all())
    assert float(no_image.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(no_label.mean()) == pytest.approx(0.1, abs=0.02)
    np.testing.assert_array_equal(out["image"][~no_image], batch["image"][~no_image])


# Two strengths.


def test_guidance_by_both_is_instruct_pix2pixs():
    """Eq. 3 of Brooks et al. with scales s = 1 + w, from one forward; and its ends."""
    seen = []

    def denoise(z, logsnr, cond):
        seen.append(len(z))
        told = expand(jnp.sin(cond["label"] + 1.0), z) * (1 + cond["image"] ** 2) + z
        return Prediction(told, 3 * told)

    z, label = normal(0, 4, 2, 2, 1), jnp.arange(4)
    cond = {"label": label, "image": normal(1, 4, 2, 2, 1)}
    w, w_image = jnp.array([0.0, 1.0, 2.5, 0.0]), jnp.array([0.0, 0.5, 0.0, 3.0])
    null, null_image = {"label": 9}, channels.NULL_IMAGE
    both = guidance.guided_by_both(denoise, null, null_image)
    out = both(z, jnp.zeros(4), {**cond, "guidance": w, "guidance_image": w_image})
    assert seen == [12]
    s, s_image = (1 + expand(value, z) for value in (w, w_image))
    x = lambda image, label: denoise(z, jnp.zeros(4), {"image": image, "label": label}).x  # noqa: E731
    nothing, image = x(0 * z, label * 0 + 9), x(cond["image"], label * 0 + 9)
    want = nothing + s_image * (image - nothing) + s * (x(cond["image"], label) - image)
    np.testing.assert_allclose(out.x, want, atol=1e-5)
    np.testing.assert_allclose(out.eps, 3 * want, atol=2e-5)
    np.testing.assert_array_equal(out.x[0], x(cond["image"], label)[0])

    alone = guidance.guided(denoise, null)(z, jnp.zeros(4), {**cond, "guidance": w})
    by_told = both(z, jnp.zeros(4), {**cond, "guidance": w, "guidance_image": 0 * w})
    np.testing.assert_allclose(by_told.x, alone.x, atol=1e-6)
    np.testing.assert_array_equal(both(z, jnp.zeros(4), {**cond, "guidance": w}).x, alone.x)
    by_image = guidance.guided_by_both(denoise, {}, null_image)
    by_image = by_image(z, jnp.zeros(4), {**cond, "guidance": w, "guidance_image": w_image})
    alone = guidance.guided(denoise, null_image)(z, jnp.zeros(4), {**cond, "guidance": w_image})
    np.testing.assert_allclose(by_image.x, alone.x, atol=1e-6)
    off = guidance.interval(both, (1.0, 2.0))(z, jnp.zeros(4), {**cond, "guidance": w, "guidance_image": w_image})
    np.testing.assert_array_equal(off.x, x(cond["image"], label))


# Data.


def test_edits_are_what_they_are_called():
    source = data.load("digits_edits")
    digits = data.load("digits")[:]["x"]
    assert len(source) == 4 * len(digits) and source.info.num_classes == 4
    for label, edit in enumerate(digits_edits.EDITS.values()):
        part = source[source.arrays["label"] == label]
        np.testing.assert_array_equal(part["image"], digits)
        np.testing.assert_array_equal(part["x"], edit(digits))
    assert set(next(data.batches(source, 4, 0))) == {"x", "image", "label"}


def test_pairs_of_styles():
    """Of a thing in three styles six pairs, of one in two styles two, of one in a single style none."""
    name, style = np.array([5, 5, 5, 8, 8, 9]), np.array([0, 1, 2, 2, 0, 1])
    info = data.Info((1, 1, 1), 0, "", captions=True)
    old = data.Source({"x": np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), "name": name, "style": style}, info)
    source = emoji_styles.paired(old, old)
    found = {(int(a), int(b)) for a, b in zip(source.arrays["image"].ravel(), source.arrays["x"].ravel(), strict=True)}
    assert found == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4), (4, 3)} and len(source) == 8
    told = [f"in {('noto', 'fluent', 'twemoji')[style[k]]} style" for k in source.arrays["x"].ravel()]
    assert [caption.decode() for caption in source[:]["caption"]] == told
    held = data.Source({"x": np.full((1, 1, 1, 1), 77, np.uint8), "name": np.array([9]), "style": np.array([0])}, info)
    assert emoji_styles.paired(old, held)[:]["image"].ravel().tolist() == [5]


# Chains.


def test_an_inpainting_chain(painter, images):
    teacher, student = (guided_distill.load(painter / name) for name in ("teacher", "stage2"))
    assert student.manifest["channels"] == teacher.manifest["channels"] == ["mask", "image"]
    assert teacher.weights()["conv_in"]["kernel"].shape[2] == 3
    for run, steps in ((teacher, 3), (student, 1)):
        mask = editing.half((8, 8, 1))
        out = editing.inpaint(run, images, mask, steps, seed=2, labels=3)
        np.testing.assert_array_equal(out[:, ~mask], images[:, ~mask])
        hidden = editing.inpaint(run, np.where(mask[..., None], -images, images), mask, steps, seed=2, labels=3)
        np.testing.assert_array_equal(hidden, out)
        around = editing.inpaint(run, np.where(mask[..., None], images, -images), mask, steps, seed=2, labels=3)
        assert np.abs(around[:, mask] - out[:, mask]).max() > 1e-3


def test_what_is_painted_everywhere_is_a_sample(painter, images):
    run = guided_distill.load(painter / "stage2")
    out = editing.inpaint(run, images, np.ones((8, 8), bool), 1, guidance=1.0, seed=5, labels=3)
    np.testing.assert_allclose(out, run.sample(4, 1, 1.0, 3, seed=5), atol=1e-5)


def test_a_teacher_starts_as_one_that_was_shown_nothing(digits, painter, images):
    config = digits_inpaint_teacher.get_config("tiny,start")
    config.start = str(digits / "teacher")
    stage, above = stages.build(config.to_dict()), guided_distill.load(digits / "teacher")
    made = jax.jit(stage.init)(stage.leaves(stage.layout(jax.devices()[:1])))
    assert made.teacher == {} and stage.manifest["teacher"] == []
    shown = {"label": jnp.arange(4), "image": jnp.asarray(images), "mask": jnp.ones((4, 8, 8, 1))}
    at = (normal(0, 4, 8, 8, 1), jnp.linspace(-3.0, 3.0, 4))
    new = jax.jit(runs.parameterised(stage.manifest).bind(made.params["student"]))(*at, shown)
    old = jax.jit(runs.parameterised(above.manifest).bind(above.weights()))(*at, {"label": shown["label"]})
    np.testing.assert_allclose(new.x, old.x, atol=1e-5)
    manifest = runs.read_manifest(painter / "teacher")
    assert manifest["start"][0]["hash"] == above.hash and manifest["guidance"]["kind"] == "external"


def test_editing_follows_image_and_strengths(editor, images):
    teacher, student = (guided_distill.load(editor / name) for name in ("teacher", "stage1"))
    assert teacher.manifest["guidance"] == {"kind": "external", "interval": None, "image": True}
    assert student.manifest["guidance"] == {"kind": "embedded", "range": [0.0, 2.0], "image_range": [0.0, 2.0]}
    for run in (teacher, student):
        edit = lambda images, w_image, run=run: editing.instruct(run, images, 1, 1, 1.0, w_image, seed=2)  # noqa: E731
        out = edit(images, 1.0)
        assert out.shape == images.shape and np.abs(out).max() <= 1
        np.testing.assert_allclose(edit(np.concatenate([images[:2], -images[:2]]), 1.0)[:2], out[:2], atol=1e-5)
        assert np.abs(edit(-images, 1.0) - out).max() > 1e-3
        assert np.abs(edit(images, 0.0) - out).max() > 1e-4
        np.testing.assert_allclose(edit(images, None), edit(images, 0.0), atol=1e-5)


def test_both_strengths_are_halved_with(editor):
    config = digits_edits_chain.get_config("tiny")["stages"]["stage2"]
    config.teacher = str(editor / "stage1")
    stage = stages.build(config.to_dict())
    assert stage.manifest["guidance"]["image_range"] == [0.0, 2.0] and stage.steps[0] is stage.steps[1]
    images = jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8)
    batch = {"x": images, "image": images, "label": jax.ShapeDtypeStruct((4,), np.int32)}
    state, metrics = jax.eval_shape(stage.steps[0], stage.abstract(), batch)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, stage.abstract()) and "loss" in metrics


def test_a_student_of_both_strengths_starts_as_its_teacher(editor, images):
    config = digits_edits_chain.get_config("tiny")["stages"]["stage1"]
    config.teacher = str(editor / "teacher")
    stage, teacher = stages.build(config.to_dict()), guided_distill.load(editor / "teacher")
    made = jax.jit(stage.init)(stage.leaves(stage.layout(jax.devices()[:1])))
    cond = {"label": jnp.arange(4), "image": jnp.asarray(images)}
    strengths = {"guidance": jnp.full(4, 1.5), "guidance_image": jnp.full(4, 0.5)}
    at = (normal(0, 4, 8, 8, 1), jnp.linspace(-3.0, 3.0, 4))
    new = jax.jit(runs.bind(stage.manifest)(made.params["student"]))(*at, {**cond, **strengths})
    old = jax.jit(runs.parameterised(teacher.manifest).bind(teacher.weights()))(*at, cond)
    np.testing.assert_allclose(new.x, old.x, atol=1e-5)


def test_manifests_from_before_load(digits, tmp_path):
    shutil.copytree(digits / "teacher", tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("channels") == [] and manifest.pop("start") == []
    manifest["network"]["args"].pop("embed_guidance_image")
    path.write_text(json.dumps(manifest))
    old, new = (guided_distill.load(of).sample(2, 2) for of in (tmp_path / "old", digits / "teacher"))
    np.testing.assert_array_equal(old, new)
    config = digits_inpaint_teacher.get_config("tiny,start")
    config.start = str(tmp_path / "old")
    assert stages.build(config.to_dict()).manifest["channels"] == ["mask", "image"]


# Verbs and mistakes.


def test_the_verbs(painter, editor, tmp_path, capsys):
    out, few = tmp_path / "a.npz", ["--images=data:digits", "--num=3"]
    assert (
        main(["inpaint", str(painter / "stage2"), *few, "--mask=half", "--steps=1", "--labels=3", f"--out={out}"]) == 0
    )
    assert "the mask shown" in capsys.readouterr().out and np.load(out)["images"].shape == (3, 8, 8, 1)
    asked = ["instruct", str(editor / "stage1"), *few, "--steps=1", f"--out={out}"]
    assert main([*asked, "--labels=1,2", "--guidance_image=1"]) == 0
    assert np.load(out)["images"].shape == (3, 8, 8, 1)
    for bad in (asked, [*asked, "--labels=1", "--prompt=turn it"], [*asked, "--labels=1", "--negative=no"]):
        capsys.readouterr()
        assert main(bad) == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_runs_refuse(painter, editor, digits, images):
    painting, edits, plain = (
        guided_distill.load(at) for at in (painter / "stage2", editor / "stage1", digits / "stage2")
    )
    mask = editing.half((8, 8, 1))
    with pytest.raises(UserError, match=r"resample 4: .* is shown the mask"):
        editing.inpaint(painting, images, mask, 1, 4, labels=1)
    for run in (painting, plain):
        with pytest.raises(UserError, match=r"is not shown the image to edit .*channels=\('image',\), or edit"):
            editing.instruct(run, images, 1)
    with pytest.raises(UserError, match=r"guidance_image 3 is outside the range of .*\[0, 2\]"):
        editing.instruct(edits, images, 1, guidance_image=3.0)
    with pytest.raises(UserError, match="guidance_image must be one number or 4"):
        editing.instruct(edits, images, 1, guidance_image=np.ones(3))
    with pytest.raises(UserError, match=r"takes no prompts|give labels"):
        editing.instruct(edits, images, "turn it")
    with pytest.raises(UserError, match=r"takes no prompts|give labels"):
        editing.instruct(edits, images, np.array(["turn it"] * 4))
    with pytest.raises(UserError, match="no class and no caption is given"):
        editing.instruct(edits, images, [])


@pytest.mark.parametrize(
    "stage, changes, message",
    [
        ("teacher", {"channels": ("depth",)}, r"config.channels \('depth',\); valid: .*'mask', 'image'"),
        ("teacher", {"data": {"name": "digits"}}, "no images to be edited; digits_edits has"),
        ("teacher", {"channels": ("mask", "image")}, r"image_dropout and image_range are for .* \('image',\)"),
        ("teacher", {"image_dropout": 1.5}, "image_dropout 1.5 is no probability"),
        ("teacher", {"objective.dropout": 0.0}, "needs labels or captions that are dropped, too"),
        ("teacher", {"data": {"name": "mixture2d"}, "channels": ("mask", "image")}, "points, which have no channels"),
        ("teacher", {"start": "x", "start_command": "y"}, "no run in x: .* make it with: y"),
        ("stage1", {"objective.image_range": (2.0, 1.0)}, r"image_range \(2.0, 1.0\) is not \(low, high\)"),
        ("stage1", {"channels": ()}, r"image_range are for networks with channels \('image',\)"),
        (
            "stage2",
            {"objective.image_range": (0.0, 3.0)},
            r"knows guidance_image in \[0, 2\], and \[0.0, 3.0\] is asked",
        ),
        (
            "stage2",
            {"objective.image_range": ()},
            r"embeds guidance_image in \[0, 2\]; give config.objective.image_range",
        ),
    ],
)
def test_mistakes_in_configs(stage, changes, message, editor):
    config = digits_edits_chain.get_config("tiny")["stages"][stage]
    with config.unlocked():
        if stage != "teacher":
            config.teacher = str(editor / {"stage1": "teacher", "stage2": "stage1"}[stage])
        for path, value in changes.items():
            *parents, last = path.split(".")
            node = config
            for part in parents:
                node = node[part]
            node[last] = value
    with pytest.raises(UserError, match=message) as error:
        stages.build(config.to_dict())
    assert "\n" not in str(error.value)


def test_runs_that_do_not_go_together(digits, editor):
    config = digits_inpaint_teacher.get_config("tiny,start")
    for at, message in (
        (digits / "stage2", "it is a student, with its guidance built in; start from a teacher"),
        (editor / "teacher", "does not fit: its num_classes is 4, not 10"),
    ):
        config.start = str(at)
        with pytest.raises(UserError, match=message):
            stages.build(config.to_dict())
    config = digits_edits_chain.get_config("tiny")["stages"]["stage1"]
    config.teacher = config.teacher_unconditional = str(editor / "teacher")
    with pytest.raises(UserError, match="knows no guidance_image; name no teacher_unconditional"):
        stages.build(config.to_dict())
    config = digits_stage2.get_config("tiny")
    config.teacher, config.channels = str(digits / "stage1"), ("mask", "image")
    with pytest.raises(UserError, match=r"does not fit: its channels is \[\], not \['mask', 'image'\]"):
        stages.build(config.to_dict())
