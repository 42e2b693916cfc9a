"""Captions as conditions, data that were encoded once, and the autoencoder that encodes them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import guided_distill
from configs import base
from guided_distill import (
    autoencoding,
    codecs,
    data,
    editing,
    evaluate,
    guidance,
    latents,
    manifests,
    shards,
    stages,
    state,
    teachers,
    text,
    train_step,
    trainer,
)
from guided_distill.__main__ import main as command_line
from guided_distill.codecs import kl_vae
from guided_distill.errors import UserError
from guided_distill.layers.autoencoder import GaussianAutoencoder
from guided_distill.prediction import Prediction
from guided_distill.preemption import Preempted, Preemption


def pixels(source):
    """The images of a data set, in [-1, 1]."""
    return jnp.asarray(source[:]["x"] / 127.5 - 1, jnp.float32)


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """A tiny autoencoder on disk, random, scaled to unit deviation."""
    folder = tmp_path_factory.mktemp("vae")
    network = GaussianAutoencoder(block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4, layers_per_block=1)
    params = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    kl_vae.save(folder, network, params, 1.0)
    found = codecs.load("kl_vae", weights=str(folder)).encode(pixels(data.load("synthetic", num=32)))
    kl_vae.save(folder, network, params, float(1 / np.std(found)))
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory, vae):
    """A data directory with the encoded set "blobs", in shards of 20."""
    home = tmp_path_factory.mktemp("data")
    spec = {"name": "synthetic", "num": 48, "captions": True, "split": "train"}
    encoders = latents.Encoders({"name": "kl_vae", "weights": str(vae)}, {"name": "words", "length": 5, "width": 16})
    latents.write(data.load(**spec), spec, encoders, "blobs", str(home), per_shard=20)
    return home


def teacher_config(**of):
    config = base.tiny(base.teacher("text_teacher"), 4)
    config.data = of
    config.codec = {"name": "as_data"}
    config.network = {
        "name": "latent_unet",
        "channels": 8,
        "channel_multipliers": (1,),
        "num_res_blocks": 1,
        "attention_downsampling": (1,),
        "num_heads": 2,
        "groups": 4,
    }
    return config


def test_words_are_vectors_in_their_order():
    reads = text.load("words", length=4, width=8)
    one, other, empty = reads.encode(["a red Apple", "red a", ""])
    assert np.array_equal(one[1], other[2]) and np.array_equal(one[2], other[1])
    assert not np.array_equal(one[1], one[2]) and not other[3].any()
    assert np.array_equal(empty[0], one[0]) and not empty[1:].any()
    assert np.array_equal(reads.null, empty)
    np.testing.assert_array_equal(*reads.encode(["caf\u00e9", "cafe\u0301"]))
    with pytest.warns(UserWarning, match="1 of 1 captions have more than 3 words"):
        assert np.array_equal(reads.encode(["a red apple here"])[0], one)


def test_a_negative_prompt_takes_the_place_of_the_null():
    def denoise(z, logsnr, cond):
        told = cond["text"].mean(axis=(1, 2))[:, None]
        return Prediction(told + 0 * z, told + 0 * z)

    z, logsnr, w = jnp.zeros((2, 1)), jnp.zeros(2), jnp.array([0.0, 2.0])
    cond = {"text": jnp.full((2, 3, 4), 5.0), "guidance": w}
    away = {**cond, "null_text": jnp.full((2, 3, 4), 3.0)}
    guided = guidance.guided(denoise, {"text": np.ones((3, 4))})
    np.testing.assert_allclose(guided(z, logsnr, cond).x[:, 0], 5 + w * (5 - 1))
    np.testing.assert_allclose(guided(z, logsnr, away).x[:, 0], 5 + w * (5 - 3))


def test_what_is_stored_is_what_the_codec_encodes(home, vae):
    source, images = data.load("encoded", of="blobs", directory=str(home)), data.load("synthetic", num=48)
    codec = codecs.load("kl_vae", weights=str(vae), sample=True)
    assert source.info.codec == {"name": "kl_vae", "weights": str(vae), "sample": True} | dict(codec.pin)
    kept, there = jnp.asarray(source[:]["x"], jnp.float32), pixels(images)
    np.testing.assert_allclose(codec.stored(kept), codec.encode(there), atol=2e-3)
    key = jax.random.key(1)
    np.testing.assert_allclose(codec.stored(kept, key), codec.encode(there, key), atol=5e-3)
    assert source.captions(3) == list(dict.fromkeys(source.captions(3)))
    assert np.array_equal(data.images("encoded", of="blobs", directory=str(home))[:]["x"], images[:]["x"])
    assert source.info.shape == (16, 16, 3)
    assert set(next(data.batches(source, 4, 0))) == {"x", "text"}


def test_shares_of_several_machines_make_one_set(home, vae, tmp_path):
    spec = {"name": "synthetic", "num": 48, "captions": True, "split": "train"}
    encoders = latents.Encoders({"name": "kl_vae", "weights": str(vae)}, {"name": "words", "length": 5, "width": 16})
    job = latents.job(data.load(**spec), spec, encoders, 20)
    assert shards.write(tmp_path / "s" / "train", job, share=(1, 2)) is None
    with pytest.raises(shards.NotPrepared):
        shards.Shards(tmp_path / "s" / "train")
    made, whole = shards.write(tmp_path / "s" / "train", job, share=(0, 2)), shards.Shards(home / "encoded/blobs/train")
    for name, array in whole[:].items():
        assert np.array_equal(made[:][name], array), name


def test_mirrored_images_follow_their_images(vae):
    spec = {"name": "synthetic", "num": 4, "flip": True, "num_classes": 3}
    source, encoders = data.load(**spec), latents.Encoders({"name": "kl_vae", "weights": str(vae)})
    job = latents.job(source, spec, encoders, mirrored=True)
    found = job.read(job.tasks[0])
    x, codec = pixels(source), codecs.load("kl_vae", weights=str(vae))
    np.testing.assert_allclose(found["x"][0::2], codec.store(x), atol=2e-3)
    np.testing.assert_allclose(found["x"][1::2], codec.store(x[:, :, ::-1]), atol=2e-3)
    assert job.total == 8 and np.array_equal(found["label"], np.repeat(source[:]["label"], 2))


def test_the_image_that_an_example_is_an_edit_of_is_encoded_too(vae):
    plain = data.load("synthetic", num=4, num_classes=0)
    pairs = data.Source({**plain.arrays, "image": plain.arrays["x"][::-1]}, plain.info)
    found = latents.job(pairs, {"name": "pairs"}, latents.Encoders({"name": "kl_vae", "weights": str(vae)})).read(
        (0, 4)
    )
    np.testing.assert_array_equal(found["image"], found["x"][::-1])


@pytest.fixture(scope="session")
def teacher(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("text") / "teacher"
    config = teacher_config(name="encoded", of="blobs", directory=str(home))
    trainer.run(config.to_dict(), workdir)
    return workdir


def test_a_teacher_of_captions(teacher):
    run = guided_distill.load(teacher)
    assert run.manifest["text"] == {"name": "words", "length": 5, "width": 16}
    assert run.manifest["guidance"]["kind"] == "external" and run.manifest["code_shape"] == [8, 8, 3]
    assert run.manifest["network"]["args"]["cross_attention_dim"] == 16
    assert all(prompt.startswith("a blob") for prompt in run.manifest["recommended"]["prompts"])
    images = run.sample(2, steps=2, prompts=["a blob", "nothing"], guidance=2.0)
    again = run.sample(2, steps=2, prompts=["a blob", "a blob"], guidance=2.0)
    assert images.shape == (2, 16, 16, 3) and np.array_equal(images[0], again[0])
    assert not np.array_equal(images[1], again[1])
    away = run.sample(2, steps=2, prompts=["a blob", "nothing"], guidance=2.0, negative_prompt="place 3")
    assert not np.array_equal(away, images) and not np.array_equal(away[0], away[1])
    assert (teacher / "samples").is_dir() and run.sample(3, steps=1).shape[0] == 3


def test_a_student_of_captions(teacher, home, tmp_path):
    config = base.tiny(base.student("text_stage1", "", "text_teacher", ""), 4)
    base.matching(config, 0.0, 4.0)
    config.teacher = str(teacher)
    trainer.run(config.to_dict(), tmp_path / "stage1")
    run = guided_distill.load(tmp_path / "stage1")
    assert run.manifest["guidance"] == {"kind": "embedded", "range": [0.0, 4.0]} and run.manifest["text"]
    assert run.sample(1, steps=2, prompts="a blob", guidance=3.0).shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match=r"takes no negative prompt.*ask its teacher"):
        run.sample(1, steps=2, prompts="a blob", negative_prompt="noise")


def test_pictures_are_edited_in_latent_space(teacher):
    run, images = guided_distill.load(teacher), np.asarray(pixels(data.load("synthetic", num=3)))
    told = {"prompts": "a red blob", "negative_prompt": "blue"}
    mask = np.zeros(images.shape[1:3], bool)
    mask[3:7, 3:9] = True
    painted = editing.inpaint(run, images, mask, 2, 2, **told)
    assert np.array_equal(painted[:, ~mask], images[:, ~mask])
    other = images.copy()
    other[:, mask] = 1
    assert np.array_equal(painted, editing.inpaint(run, other, mask, 2, 2, **told))  # What is under it is not seen.
    with pytest.raises(UserError, match="give prompts"):
        editing.edit(run, images)


def test_the_verbs(home, vae, teacher, tmp_path, capsys):
    asked = ["data", "encode", "data:synthetic:num=8:captions=True", "--name=few", f"--directory={tmp_path}"]
    command_line([*asked, f"--codec=codec:kl_vae:weights={vae}", "--text=text:words:width=8"])
    assert "few train: 8 examples" in capsys.readouterr().out
    out = tmp_path / "a.npz"
    command_line(["sample", str(teacher), "--prompt=a blob", "--prompt=none", "--num=3", "--steps=1", f"--out={out}"])
    assert np.load(out)["prompts"].tolist() == ["a blob", "none", "a blob"]


def test_runs_are_asked_for_the_captions_of_what_they_are_held_against(teacher, home):
    manifest, source = guided_distill.load(teacher).manifest, data.images("encoded", of="blobs", directory=str(home))
    asked = evaluate.told(manifest, source, 6)["prompts"]
    assert asked == source.captions_at(np.arange(6) * 8) and len(evaluate.told(manifest, source, 60)["prompts"]) == 60
    assert set(evaluate.told({"num_classes": 3}, source, 4)) == {"labels"}
    with pytest.raises(UserError, match="held against a data set that has them"):
        evaluate.told(manifest, data.load("synthetic"), 6)


def test_shares_of_different_sets_are_not_mixed(vae, tmp_path):
    spec = {"name": "synthetic", "num": 32, "split": "train"}
    jobs = [
        latents.job(
            data.load(**spec), spec, latents.Encoders({"name": "kl_vae", "weights": str(vae), "tile": tile}), 16
        )
        for tile in (0, 8)
    ]
    assert shards.write(tmp_path / "s" / "train", jobs[0], share=(0, 2)) is None
    with pytest.raises(UserError, match=r"holds a share of something else .*origin differs"):
        shards.write(tmp_path / "s" / "train", jobs[1], share=(1, 2))


def test_the_codec_of_encoded_data_is_that_which_encoded_them(home, vae):
    info = data.load("encoded", of="blobs", directory=str(home)).info
    assert manifests.stored_codec({"name": "as_data", "tile": 8}, info) == {**info.codec, "tile": 8}
    own = {"name": "kl_vae", "weights": str(vae)}
    assert manifests.stored_codec(own, info) == own
    with pytest.raises(UserError, match=r"the data were encoded by .*name it 'as_data'"):
        manifests.stored_codec({"name": "pixel"}, info)
    with pytest.raises(UserError, match="these data are not encoded"):
        manifests.stored_codec({"name": "as_data"}, data.load("synthetic").info)


def test_weights_are_the_same_wherever_they_are(home):
    info = data.load("encoded", of="blobs", directory=str(home)).info
    ours = {"codec": dict(info.codec), "text": {"name": "clip", "weights": "a", "sha256": "1"}}
    moved = {"codec": {**info.codec, "weights": "b"}, "text": {"name": "clip", "weights": "b", "sha256": "1"}}
    for key in ours:
        teachers.require_same(key, ours, moved, "here")
    with pytest.raises(UserError, match="its codec is"):
        teachers.require_same("codec", ours, {"codec": {**info.codec, "sha256": "0"}}, "here")


def test_mistakes(home, vae, teacher, tmp_path):
    encoders, spec = latents.Encoders({"name": "kl_vae", "weights": str(vae)}), {"name": "synthetic"}
    with pytest.raises(UserError, match="synthetic has captions, and needs --text"):
        latents.job(data.load(**spec, captions=True), spec, encoders)
    with pytest.raises(UserError, match="is not to be mirrored"):
        latents.job(data.load(**spec), spec, encoders, mirrored=True)
    with pytest.raises(UserError, match="'pixel' makes nothing that is worth"):
        latents.job(data.load(**spec), spec, latents.Encoders({"name": "pixel"}))
    far = latents.Encoders({"name": "kl_vae", "weights": str(vae), "scale": 1e-3})
    with pytest.raises(UserError, match=r"standard deviation of .*take a scale .* times as large"):
        latents.job(data.load(**spec), spec, far)
    with pytest.raises(shards.NotPrepared, match="data encode data:NAME:train --name=none"):
        data.load("encoded", of="none", directory=str(home))
    told = teacher_config(name="synthetic", captions=True)
    told.codec = {"name": "pixel"}
    with pytest.raises(UserError, match=r"encode them first"):
        stages.build(told.to_dict())
    run = guided_distill.load(teacher)
    with pytest.raises(UserError, match="takes no labels"):
        run.sample(1, labels=3)
    with pytest.raises(UserError, match="prompts must be one text or 2 of them; got 3"):
        run.sample(2, prompts=["a", "b", "c"])


# An autoencoder of one's own.


SMALL = autoencoding.Settings(widths=(8,), groups=4, updates=6, batch_size=8, save_every=3, log_every=2)


def test_an_autoencoder_goes_on_where_it_stopped(tmp_path, monkeypatch):
    source = data.load("synthetic", num=32)
    whole = autoencoding.train(source, tmp_path / "whole", SMALL, say=str)
    asked = iter([False, False, False, True])
    with monkeypatch.context() as patched, pytest.raises(Preempted, match="update 4 is saved"):
        patched.setattr(Preemption, "due", lambda self: next(asked))
        autoencoding.train(source, tmp_path / "parts", SMALL, say=str)
    parts = autoencoding.train(source, tmp_path / "parts", SMALL, say=str)
    ours, theirs = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (whole, parts))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    codec = codecs.load("kl_vae", weights=str(whole))
    drawn = codec.stored(codec.store(pixels(source)), jax.random.key(0))
    assert float(jnp.std(drawn)) == pytest.approx(1, abs=0.05)  # What the scale is for.
    assert (whole / "restored.png").is_file()
    with pytest.raises(UserError, match=r"begun with other settings .*latent was 4, not 3"):
        autoencoding.train(source, whole, dataclasses.replace(SMALL, latent=3), say=str)


def test_an_autoencoder_learns():
    source = data.load("synthetic", num=64)
    settings = dataclasses.replace(SMALL, updates=60, lr=3e-3)
    of, x = autoencoding.ingredients(settings.network(3), settings), pixels(source)[:16]
    current = state.create(
        {"student": settings.network(3).init(jax.random.key(0), x)["params"]}, {}, of.optimiser, True
    )
    step, errors = jax.jit(train_step.make(of)), []
    for _ in range(60):
        current, metrics = step(current, {"x": x})
        errors.append(float(metrics["error"]))
    assert errors[-1] < errors[0] / 2


def test_what_an_autoencoder_cannot_be_trained_on(tmp_path):
    with pytest.raises(UserError, match=r"for images \[h, w, c\], not \[2\]"):
        autoencoding.train(data.load("mixture2d", num=64), tmp_path, SMALL)
    with pytest.raises(UserError, match="do not divide by 4"):
        autoencoding.train(
            data.load("synthetic", shape=(10, 10, 3)), tmp_path, dataclasses.replace(SMALL, widths=(8, 8, 8))
        )
