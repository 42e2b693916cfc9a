"""Scores from files: images and arrays that stay on disk, features in one pass on any devices, and the verb."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from guided_distill import data, evaluate, extraction, image_sets, mapped, parallel, runs, scoring
from guided_distill.__main__ import main
from guided_distill.codecs import to_uint8
from guided_distill.data import Info, Source
from guided_distill.errors import UserError
from guided_distill.features import Net, inception, pixels
from guided_distill.image_sets import ImageSet
from guided_distill.metrics import FeatureSet, frechet, kernel, precision_recall
from guided_distill.scoring.sets import Draw

ROOT = Path(__file__).parents[1]
EXTRA = {*scoring.NEAREST, "features", "fd_name", "preprocessing", "seeds", "notes"}


def mixed(params, x):
    """Features that tell images apart, [b, 6]."""
    return jnp.tanh(x.reshape(len(x), -1) @ params)


def mixed_both(params, x):
    found = mixed(params, x)
    return found, 3 * found[:, :4]


def net(batch_size=4, identity="mixed 1"):
    params = np.random.default_rng(0).standard_normal((8 * 8 * 3, 6)).astype(np.float32) / 8
    return Net("Mixed", identity, mixed, params, 8, batch_size, mixed_both, "to 8 x 8")


def pictures(n, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def digit_images():
    return np.round(load_digits().images * 255 / 16).astype(np.uint8)[..., None]


def save_folder(path, images):
    path.mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path / f"{k:05d}.png")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


# Arrays in files.


def test_a_file_appears_when_it_is_whole(tmp_path):
    path, rows = tmp_path / "a" / "x.npy", np.arange(12.0).reshape(6, 2)
    with mapped.writer(path, 6) as add, mapped.writer(path, 6) as other:  # Two at once.
        for part in (rows[:4], rows[4:]):
            add(part)
            other(part)
            assert mapped.load(path) is None
    found = mapped.load(path)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    np.testing.assert_array_equal(found, rows)
    with pytest.raises(ValueError, match="4 rows of 6"), mapped.writer(tmp_path / "y.npy", 6) as add:
        add(rows[:4])
    with pytest.raises(KeyboardInterrupt), mapped.writer(tmp_path / "y.npy", 6) as add:
        add(rows)
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.parent.iterdir()] == ["x.npy"]
    path.write_bytes(path.read_bytes()[:-1])
    assert mapped.load(path) is None


def test_pages_that_were_released_are_read_again(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5000))
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    for view in (array, array[10:], np.asarray(array)):
        first = view.copy()
        mapped.release(view)
        np.testing.assert_array_equal(view, first)
    own = np.arange(3)
    mapped.release(own)
    assert own.tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_are_memory_mapped(save, tmp_path):
    arrays = {
        "images": pictures(5),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "none": np.zeros((0, 3)),
    }
    save(tmp_path / "x.npz", **arrays)
    found = mapped.npz(tmp_path / "x.npz")
    assert set(found) == set(arrays) and isinstance(found["images"], np.memmap)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_is_no_npz_is_told(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"something")
    with pytest.raises(UserError, match=r"x\.npz is no npz file"):
        mapped.npz(path)
    np.savez(path, images=np.array([{}], object))
    with pytest.raises(UserError, match="Python objects"):
        mapped.npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00garbage")
    with pytest.raises(UserError, match=r"x\.npz is no npz file"):
        mapped.npz(path)
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is no npz file"):
        mapped.npz(path)


# Images.


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_in_the_order_of_its_names(channels, tmp_path):
    images = pictures(7, (5, 6, channels))
    folder = save_folder(tmp_path / "f", images)
    (folder / "notes.txt").write_text("no image")
    (folder / "z").mkdir()
    (folder / "00006.png").rename(folder / "z" / "00006.PNG")  # Below it, in capitals.
    found = image_sets.of_folder(folder)
    assert len(found) == 7 and found.shape == (5, 6, channels)
    for size in (None, 2, 7):
        np.testing.assert_array_equal(np.concatenate(list(found.parts(size))), images)


def test_one_colour_image_makes_the_folder_colour(tmp_path):
    folder = save_folder(tmp_path / "f", pictures(2, (4, 4, 1)))
    Image.fromarray(pictures(1, (4, 4, 4))[0], "RGBA").save(folder / "z.webp", lossless=True)
    found = image_sets.of_folder(folder)
    assert found.shape == (4, 4, 3) and found.read(0, 3).shape == (3, 4, 4, 3)


def test_folders_are_seen_as_data_sets_see_them(tmp_path):
    """Upright, and on white whatever is behind the transparent."""
    pixels = pictures(1, (6, 8, 4))[0]
    pixels[:3, :, 3], pixels[3:, :, 3] = 0, 255
    (tmp_path / "f").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # By a quarter.
    Image.fromarray(pixels, "RGBA").save(tmp_path / "f" / "a.png", exif=turned)
    found = image_sets.of_folder(tmp_path / "f")
    expected = pixels[..., :3].copy()
    expected[:3] = 255
    assert found.shape == (8, 6, 3)
    np.testing.assert_array_equal(found.read(0, 1)[0], np.rot90(expected, -1))
    content = (tmp_path / "f" / "a.png").read_bytes()
    at = content.index(b"eXIf") - 4
    size = 12 + int.from_bytes(content[at : at + 4], "big")
    late = content[:at] + content[at + size : -12] + content[at : at + size] + content[-12:]  # Behind the pixels.
    (tmp_path / "f" / "a.png").write_bytes(late)
    with pytest.raises(UserError, match=r"a\.png is 6 x 8, turned"):
        list(image_sets.of_folder(tmp_path / "f").parts())
    broken = bytearray(content)
    broken[broken.index(b"IDAT")] = 0xFF
    (tmp_path / "f" / "a.png").write_bytes(broken)
    with pytest.raises(UserError, match=r"is not a picture"):
        list(image_sets.of_folder(tmp_path / "f").parts())


def test_folders_that_cannot_be_measured_are_told(tmp_path):
    def told(match, change):
        folder = save_folder(tmp_path / str(len(list(tmp_path.iterdir()))), pictures(2))
        change(folder)
        with pytest.raises(UserError, match=match) as error:
            list(image_sets.of_folder(folder).parts())
        assert "\n" not in str(error.value)

    other = Image.fromarray(pictures(1, (4, 9, 3))[0])
    told(r"differ in size: 00000\.png \(8 x 8\) and z\.png \(9 x 4\)", lambda folder: other.save(folder / "z.png"))
    told("no images in .*expected files that end in .png", lambda folder: [p.unlink() for p in folder.iterdir()])
    deep = Image.fromarray(np.zeros((8, 8), np.uint16))
    told("z.png has pixels of the kind I;16", lambda folder: deep.save(folder / "z.png"))
    told("z.png is not a picture", lambda folder: (folder / "z.png").write_bytes(b"something"))
    told(r"00001.png is not a picture", lambda f: (f / "00001.png").write_bytes((f / "00001.png").read_bytes()[:90]))


def test_a_digest_is_of_contents(tmp_path):
    images = pictures(6)
    whole = image_sets.of_array(images)
    in_parts = ImageSet(6, whole.shape, whole.read)
    assert whole.digest() == in_parts.digest() != image_sets.of_array(images[:5]).digest()
    source = Source({"x": images}, Info((8, 8, 3), 0, "made here"))
    assert (
        image_sets.of_source(source, np.arange(6)).digest() == image_sets.of_source(source).digest() == whole.digest()
    )
    folder = save_folder(tmp_path / "f", images)
    first = image_sets.of_folder(folder).digest()
    shutil.copy(folder / "00000.png", folder / "00001.png")
    assert image_sets.of_folder(folder).digest() != first


# Features in one pass.


def test_a_pass_gives_features_and_logits_whatever_the_batches(tmp_path):
    images = image_sets.of_array(pictures(11))
    expected, logits = extraction.in_memory(net(batch_size=11), images, logits=True)
    np.testing.assert_allclose(expected, net()(pictures(11).astype(np.float32) / 127.5 - 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, 3 * expected[:, :4], rtol=1e-6)
    for size in (1, 4, 64):
        found = extraction.extract(net(batch_size=size), images, tmp_path / f"{size}", logits=True)
        assert all(isinstance(array, np.memmap) and array.dtype == np.float32 for array in found)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], logits, rtol=1e-5, atol=1e-6)


def test_only_what_is_whole_counts_as_extracted(tmp_path):
    seen = []

    def read(start, stop):
        seen.append(stop - start)
        return pictures(6)[start:stop]

    images, stem = ImageSet(6, (8, 8, 3), read), tmp_path / "a.b"
    extraction.extract(net(), images, stem)
    extraction.extract(net(), images, stem)
    assert sum(seen) == 6
    extraction.extract(net(), images, stem, logits=True)  # They were not asked for before.
    path = tmp_path / "a.b.npy"
    path.write_bytes(path.read_bytes()[:-4])
    extraction.extract(net(), images, stem, logits=True)
    assert sum(seen) == 18 and sorted(p.name for p in tmp_path.iterdir()) == ["a.b.logits.npy", "a.b.npy"]


def test_what_has_no_logits_or_no_images_is_told(tmp_path):
    images = image_sets.of_array(pictures(3))
    for features in (pixels.make(), Net("Bare", "bare", mixed, net().params, 8)):
        with pytest.raises(UserError, match="have no logits"):
            extraction.extract(features, images, tmp_path / "x", logits=True)
    with pytest.raises(UserError, match="no images"):
        extraction.extract(net(), image_sets.of_array(pictures(0)), tmp_path / "x")
    with pytest.raises(UserError, match=r"Mixed sees images \[n, h, w, 1 or 3\], not \[3, 2\]"):
        extraction.in_memory(net(), image_sets.of_array(np.zeros((3, 2))))
    assert not list(tmp_path.iterdir())


def environment(devices=1):
    """Of a process of its own."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def test_eight_devices_give_the_features_of_one(tmp_path):
    command = [sys.executable, __file__, "devices", str(tmp_path)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    one, eight = (mapped.load(tmp_path / f"{n}.npy") for n in (1, 8))
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)
    expected, _ = extraction.in_memory(net(), image_sets.of_array(pictures(37)))
    np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_have_all_features_each(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, __file__, "process", str(tmp_path), address]
    both = [subprocess.Popen([*command, str(k)], env=environment(2), cwd=ROOT) for k in (0, 1)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    expected, logits = extraction.in_memory(net(), image_sets.of_array(pictures(37)), logits=True)
    for k in (0, 1):
        np.testing.assert_allclose(mapped.load(tmp_path / str(k) / "x.npy"), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mapped.load(tmp_path / str(k) / "x.logits.npy"), logits, rtol=1e-5, atol=1e-6)


def run_as_devices(folder):
    """A quarter of the batch of 37 images is left over on eight devices."""
    for count in (1, 8):
        mesh = parallel.make_mesh(jax.devices()[:count])
        extraction.extract(net(batch_size=10), image_sets.of_array(pictures(37)), folder / str(count), mesh=mesh)


def run_as_process(folder, address, index):
    """One of two; the second has its features already, and takes part in the pass of the first."""
    jax.distributed.initialize(address, 2, index)
    images, stem = image_sets.of_array(pictures(37)), folder / str(index) / "x"
    alone = parallel.make_mesh(jax.local_devices())
    if index:
        with (
            mapped.writer(stem.with_name("x.npy"), 37) as features,
            mapped.writer(stem.with_name("x.logits.npy"), 37) as logits,
        ):
            for of_features, of_logits in extraction.parts(net(), images, True, alone):
                features(of_features)
                logits(of_logits)
    extraction.extract(net(), images, stem, logits=True)


# Scores.


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Digits as an npz and as folders: {name: path}."""
    root, images = tmp_path_factory.mktemp("sets"), digit_images()
    np.savez(root / "real.npz", images=images[:300])
    np.savez_compressed(root / "again.npz", images=images[:300])
    save_folder(root / "fake", images[300:400])
    save_folder(root / "colour", images[300:320].repeat(3, axis=3))
    for name, count in (("one", 1), ("two", 2)):
        np.savez(root / f"{name}.npz", images=images[400 : 400 + count])
    return {path.stem: str(path) for path in root.iterdir()}


def scored(fake, real, **more):
    found = scoring.score(fake, real, **more)
    assert set(found) >= {*scoring.KEYS, *EXTRA}
    assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in found.values())
    return found


def test_a_set_against_itself(sets):
    found = scored(sets["again"], sets["real"])
    images = digit_images()[:300].astype(np.float64) / 127.5 - 1
    assert 0 <= found["fd"] < 1e-9 * images.reshape(300, -1).var(axis=0).sum()
    assert (found["precision"], found["recall"], found["nearest_share"]) == (1, 1, 1)
    # Copies count between the sets, not within; subsets of the whole sets are all alike.
    assert found["kid"] < 0 and found["kid_std"] < 1e-12
    assert found["num_fake"] == found["num_real"] == 300 and found["floor"] is None
    assert "floor: 300 real samples are fewer than twice the 300 fake ones" in found["notes"]
    assert "kid: subsets of 300" in found["notes"]


def test_scores_are_those_of_the_metrics(sets):
    found = scored(sets["fake"], sets["real"], metrics=["fd", "kid", "pr"])
    x = pixels.make()(digit_images()[:400].astype(np.float32) / 127.5 - 1)
    fake, real = FeatureSet(x[300:]), FeatureSet(x[:300])
    np.testing.assert_allclose(found["fd"], frechet.compute(fake, real)["frechet_distance"], rtol=1e-5)
    np.testing.assert_allclose(found["kid"], kernel.kid(fake, real)[0], rtol=1e-5)
    assert {key: found[key] for key in ("precision", "recall")} == precision_recall.compute(fake, real)
    assert found["nearest_share"] is None and found["inception_score"] is None
    assert found["features"] == "pixels" and found["fd_name"] == "FD-pixels"


def test_the_floor_is_of_the_data_at_the_count_of_the_fakes(sets):
    found = scored(sets["fake"], sets["real"], metrics=["fd"])
    x = pixels.make()(digit_images()[:300].astype(np.float32) / 127.5 - 1)
    order = evaluate.order(300, 0)
    expected = frechet.compute(FeatureSet(x[order[:100]]), FeatureSet(x[order[100:]]))["frechet_distance"]
    np.testing.assert_allclose(found["floor"], expected, rtol=1e-5)
    assert scored(sets["fake"], sets["real"], metrics=["fd"], floor=False)["floor"] is None


def test_few_images_give_nulls_and_say_why(sets):
    one = scored(sets["one"], sets["real"])
    assert (one["num_fake"], one["fd"], one["kid"], one["precision"], one["floor"]) == (1, None, None, None, None)
    assert one["nearest_median"] > 0
    for name in ("fd", "kid", "pr"):
        assert f"{name}: too few fake samples: 1" in one["notes"]
    two = scored(sets["two"], sets["real"])
    assert two["fd"] > 0 and two["kid"] is not None and two["precision"] is None and two["floor"] > 0
    assert "fd: 2 fake samples of 64 dimensions, so their covariance is singular" in two["notes"]
    against_one = scored(sets["two"], sets["one"])
    assert against_one["fd"] is against_one["nearest_median"] is None


def test_a_network_sees_grey_and_colour_alike_and_gives_logits(sets, monkeypatch, cache):
    monkeypatch.setattr(evaluate, "load_features", lambda *_: ("Mixed", net()))
    grey = scored(sets["fake"], sets["real"], features="mixed", cache=cache, metrics=["fd", "is"])
    assert grey["inception_score"] > 1 and grey["inception_score_std"] > 0
    assert grey["fd_name"] == "FD-Mixed" and grey["preprocessing"] == "to 8 x 8"
    scored(sets["colour"], sets["real"], features="mixed", cache=cache, metrics=["fd"])
    assert sorted(path.name for path in cache.iterdir()) == [
        f"{grey['fingerprint']}.{what}" for what in ("gaussian.npz", "npy")
    ]


def test_a_reference_is_seen_once_and_known_by_its_fingerprint(sets, monkeypatch, cache):
    counts, parts = [], extraction.parts

    def counted(features, images, *more):
        counts.append(len(images))
        return parts(features, images, *more)

    def fingerprint(real="real", identity="mixed 1"):
        monkeypatch.setattr(evaluate, "load_features", lambda *_: ("Mixed", net(identity=identity)))
        return scored(sets["two"], sets[real], features="mixed", cache=cache, metrics=["fd", "pr"])["fingerprint"]

    monkeypatch.setattr(extraction, "parts", counted)
    first = fingerprint()
    assert fingerprint() == first and counts == [2, 300, 2]
    for path in cache.iterdir():  # What is half there does not count.
        path.write_bytes(path.read_bytes()[:200])
    assert fingerprint() == first and counts == [2, 300, 2, 2, 300]
    assert fingerprint("again") == first  # The same images.
    assert len({first, fingerprint("fake"), fingerprint(identity="mixed 2"), fingerprint("two")}) == 4


def test_cached_statistics_change_nothing(sets, cache):
    metrics = ["fd", "pr", "nearest"]
    first = scored(sets["fake"], sets["real"], cache=cache, metrics=metrics)
    assert len(list(cache.iterdir())) == 2  # Of pixels, no features.
    assert scored(sets["fake"], sets["real"], cache=cache, metrics=metrics) == first
    assert scored(sets["fake"], sets["real"], metrics=metrics) == first


def test_only_the_standard_inception_is_fid():
    for identity, label, name in [
        (f"Inception {scoring.STANDARD}", "Inception", "FID"),
        ("Inception 0123", "Inception", "FD-Inception"),
        (f"Inception-64 {scoring.STANDARD}", "Inception-64", "FD-Inception-64"),
    ]:
        assert scoring.fd_name(label, Net(label, identity, mixed, (), 8)) == name
    assert scoring.STANDARD == inception.SHA256 and scoring.fd_name("given", None) == "FD-given"


def test_ready_features_are_taken_as_they_are(tmp_path, sets, monkeypatch):
    rng = np.random.default_rng(0)
    fake, real = rng.standard_normal((40, 6)), rng.standard_normal((60, 6)) + 1
    paths = [str(tmp_path / f"{name}.npz") for name in ("fake", "real")]
    np.savez(paths[0], features=fake, logits=3 * fake)
    np.savez(paths[1], features=real)
    found = scored(*paths)
    assert found["fd"] == frechet.compute(FeatureSet(fake), FeatureSet(real))["frechet_distance"]
    assert found["features"] == "given" and found["inception_score"] > 1
    with pytest.raises(UserError, match=r"fake\.npz holds features; say with --features which ones"):
        scored(paths[0], sets["real"])
    with pytest.raises(UserError, match="hold features already; leave --features out"):
        scored(*paths, features="pixels")
    monkeypatch.setattr(evaluate, "load_features", lambda *_: ("Mixed", net()))
    assert "taken to be of Mixed" in scored(paths[0], sets["real"], features="mixed", metrics=["fd"])["notes"]


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A copy of the tiny student on digits."""
    return str(shutil.copytree(digits / "stage2", tmp_path_factory.mktemp("runs") / "student"))


def test_samples_that_are_no_numbers_have_no_score(run, monkeypatch, capsys):
    nothing = lambda self, num, *_, **__: np.full((num, 8, 8, 1), np.nan, np.float32)  # noqa: E731
    monkeypatch.setattr(runs.Run, "sample", nothing)
    with pytest.raises(UserError, match=r"12 of 12 samples of .* have NaN"):
        scored(run, "data:digits", draw=Draw(num=12, steps=1), seeds=[3], metrics=["fd"])
    for metric, told in (("paired", "name it with --teacher"), ("clip_score", "of samples and their captions")):
        assert main(["evaluate", run, f"--metrics={metric}"]) == 2 and told in capsys.readouterr().err
    monkeypatch.setattr(runs.Run, "images_per_second", None, raising=False)
    assert main(["evaluate", run, "--num=12", "--steps=1,2", "--num_reference=20"]) == 2
    told = capsys.readouterr()
    assert told.out.count("left out, 12 of 12 fake samples") == 2 and "no samples that are numbers" in told.err


def test_a_run_scores_as_the_images_that_it_saves(run, tmp_path):
    import guided_distill

    draw = Draw(num=12, steps=1)
    images = to_uint8(guided_distill.load(run).sample(12, 1, seed=3))
    folder = save_folder(tmp_path / "f", images)
    of_run = scored(run, "data:digits", draw=draw, seeds=[3], metrics=["fd", "pr"])
    of_folder = scored(str(folder), "data:digits", metrics=["fd", "pr"])
    how = {"seeds": "3", "steps": 1, "guidance": 1.0, "sampler": "ddim", "hash": guided_distill.load(run).hash}
    assert of_run == of_folder | how and {of_folder[key] for key in how} == {None}
    assert of_run["num_real"] == len(data.load("digits"))


def test_several_seeds_give_means_and_spread(run):
    each = [
        scored(run, "data:digits", draw=Draw(8, 1), seeds=[s], metrics=["fd"], floor=False)["fd"] for s in (0, 1, 2)
    ]
    found = scored(run, "data:digits", draw=Draw(8, 1), seeds=[0, 1, 2], metrics=["fd"], floor=False)
    np.testing.assert_allclose(found["fd"], np.mean(each), rtol=1e-12)
    np.testing.assert_allclose(found["fd_spread"], np.std(each, ddof=1), rtol=1e-9)
    assert found["seeds"] == "0,1,2" and len(set(each)) == 3


def test_two_runs_are_not_drawn_from_the_same_noise(run):
    """The same noise would make dependent sets: of one run, equal ones."""
    found = scored(run, run, draw=Draw(8, 1), metrics=["fd", "nearest"], floor=False)
    assert found["fd"] > 1e-3 and found["nearest_median"] > 1e-3


def test_evaluate_takes_the_inception_score_too(run, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(evaluate, "load_features", lambda *_: ("Mixed", net()))
    out = tmp_path / "rows.json"
    for num_reference in (20, 1797):  # The floor is of other images, or of a half.
        command = ["evaluate", run, "--num=12", "--steps=1", "--metrics=inception_score", f"--json={out}"]
        assert main([*command, f"--num_reference={num_reference}"]) == 0
        found = json.loads(out.read_text())
        assert min(found["rows"][0]["inception_score"], found["floor"]["inception_score"]) > 1


# The verb.


def test_the_verb_prints_one_flat_object(run, cache, capsys):
    assert (
        main(["score", run, "data:digits:even", "--num=10", "--steps=1", "--seeds=0,1", "--metrics=fd,pr", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(found)[: len(scoring.KEYS)] == list(scoring.KEYS) and set(found) >= EXTRA
    assert not any(isinstance(value, list | dict) for value in found.values())
    assert len(found["fingerprint"]) == 64 and found["num_fake"] == 10
    section = json.loads((Path(run) / "sections" / "score.json").read_text())
    assert (
        section["tables"][0]["rows"][0][0] == "FD-pixels"
        and "10 of 1 steps, w = 1, ddim against 899" in section["title"]
    )


def test_the_verb_prints_a_table_that_says_on_what(sets, cache, capsys):
    assert main(["score", sets["fake"], sets["real"]]) == 0
    told = capsys.readouterr().out
    for said in ("100 against 300", "FD-pixels", "KD-pixels", "recall", "the floor", "subsets of 100", "fingerprint"):
        assert said in told


@pytest.mark.parametrize(
    "fake, real, options, said",
    [
        ("nowhere", "real", [], "nowhere is no folder of images, .npz file, run directory or data:NAME"),
        ("fake", "data:nowhere", [], "digits"),
        ("fake", "data:digits:half", [], "half"),
        ("fake", "data:digits:odd:even", [], "not data:NAME"),
        ("colour", "real", [], "compare images of one shape, not 8x8x3 and 8x8x1"),
        ("fake", "real", ["--metrics=fid"], "valid: fd, kid, is, pr, nearest"),
        ("fake", "real", ["--steps=4"], "is none"),
        ("fake", "real", ["--seeds=0,1"], "is none"),
        ("fake", "real", ["--num=4"], "neither set is one"),
        ("fake", "real", ["--features=vgg"], "pixels"),
        ("fake", "real", ["--preprocessing=tf"], "preprocessing"),
        ("run", "real", ["--seeds=1,1"], "must differ"),
        ("run", "real", ["--num=0"], "not positive"),
        ("run", "real", ["--steps=3"], "no student of 3 steps"),
        ("run", "real", ["--sampler=heun"], "was trained for the sampler"),
    ],
)
def test_the_verb_tells_mistakes_in_one_line(fake, real, options, said, sets, run, cache, capsys):
    known = {**sets, "run": run}
    assert main(["score", known.get(fake, fake), known.get(real, real), *options]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"images": np.zeros((4, 8, 8, 3), np.float32)}, "images are float32 .* expected uint8"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "expected uint8"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "no images in"),
        ({"labels": np.zeros(4)}, "holds labels; expected images or features"),
        ({"features": np.zeros(4)}, "expected floats"),
        ({"features": np.zeros((4, 2)), "logits": np.zeros((3, 2))}, "a row a sample"),
        ({"features": np.full((4, 2), np.nan)}, "4 of 4 fake samples have NaN"),
    ],
)
def test_files_that_cannot_be_scored_are_told(arrays, said, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    np.savez(tmp_path / "y.npz", features=np.eye(4)[:, :2])
    with pytest.raises(UserError, match=said) as error:
        scoring.score(str(tmp_path / "x.npz"), str(tmp_path / "y.npz"))
    assert "\n" not in str(error.value)


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        run_as_devices(Path(sys.argv[2]))
    else:
        run_as_process(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
