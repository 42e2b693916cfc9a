"""Inception-v3 against torch-fidelity and PyTorch, with random weights. What they say about two small pictures is kept
in fixtures/inception.npz; it was written, in an environment with PyTorch and torch-fidelity (`pip install --no-deps
torch-fidelity==0.4.0`; its other dependencies are not needed), by

    PYTHONPATH=. python tests/test_inception.py
"""

import hashlib
import importlib
import pickle
import sys
from importlib import util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill.errors import UserError
from guided_distill.features import inception

FIXTURE = Path(__file__).parent / "fixtures" / "inception.npz"
PUBLISHED = {"arrays": 566, "bytes": 95_628_359}  # Of the file of weights.
SHAPES = {"up": (48, 33), "down": (400, 310)}
CROP = np.s_[:, 140:156, -24:]  # Of pictures of 299x299: the right border too.


def pictures(shape, seed=0):
    """Two pictures [2, h, w, 3], uint8: fine noise, and patches of 8x8."""
    rng, (h, w) = np.random.default_rng(seed), shape
    fine, coarse = (rng.integers(0, 256, size, dtype=np.uint8) for size in ((h, w, 3), (1 + h // 8, 1 + w // 8, 3)))
    return np.stack([fine, coarse.repeat(8, axis=0).repeat(8, axis=1)[:h, :w]])


def random_weights():
    """{name: array} as in the file. Kernels keep what they are given of one size, so that every layer has its say."""
    rng, weights = np.random.default_rng(0), {}
    low_high = {"weight": (0.8, 1.2), "bias": (-0.2, 0.2), "running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5)}
    for name, shape in sorted(inception.expected().items()):
        bound = np.sqrt(6 / np.prod(shape[1:])) if len(shape) > 1 else None
        low, high = (-bound, bound) if bound else low_high[name.rpartition(".")[2]]
        weights[name] = (low + (high - low) * rng.random(shape, np.float32)).astype(np.float32)
    return weights


@pytest.fixture(scope="session")
def weights():
    return random_weights()


@pytest.fixture(scope="session")
def taps(weights):
    """pixels [b, h, w, 3] in [0, 255] -> {tap: [b, d]}."""
    params = inception.params_of(weights)
    run = jax.jit(lambda params, x: inception.Inception().apply({"params": params}, inception.torch_fidelity(x)))
    return lambda pixels: jax.device_get(run(params, pixels.astype(np.float32)))


@pytest.fixture(scope="session")
def folder(weights, tmp_path_factory):
    """A data folder with the random weights."""
    root = tmp_path_factory.mktemp("inception")
    path = root / "downloads" / "inception" / list(inception.FILES)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(weights, protocol=4))
    yield root
    path.unlink()


@pytest.fixture
def published(folder, monkeypatch):
    """The path of the random weights, which stand in for the real ones."""
    [path] = folder.glob("downloads/inception/*")
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(folder))
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def seen(name, images):
    """What our network sees of uint8 images."""
    return np.asarray(inception.PREPROCESSINGS[name](jnp.asarray(images, jnp.float32)))


def assert_close(found, expected):
    """To 1e-5 of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_there_are_as_many_weights_as_in_the_published_file():
    shapes = inception.expected()
    norms = sum(name.endswith(".bn.weight") for name in shapes)
    assert len(shapes) + norms == PUBLISHED["arrays"]  # Each BatchNorm also counts its updates.
    content = 4 * sum(np.prod(shape) for shape in shapes.values()) + 8 * norms
    assert 0.99 * PUBLISHED["bytes"] < content < PUBLISHED["bytes"]
    assert all(f"-{inception.SHA256[:8]}.pth" in name for name in inception.FILES)


def test_taps_are_those_of_torch_fidelity(taps):
    found, expected = taps(pictures(SHAPES["up"])), np.load(FIXTURE)
    assert set(found) == set(inception.TAPS)
    for tap in inception.TAPS:
        assert_close(found[tap], expected[tap])
        assert np.abs(expected[tap][0] - expected[tap][1]).max() > 1e-3 * np.abs(expected[tap]).max()


@pytest.mark.parametrize("direction", SHAPES)
@pytest.mark.parametrize("name", inception.PREPROCESSINGS)
def test_pictures_are_resized_as_by_their_authors(name, direction):
    found = seen(name, pictures(SHAPES[direction]))
    assert_close(found[CROP], np.load(FIXTURE)[f"{name}/{direction}"])


@pytest.mark.parametrize("size", [8, 299, 500])
def test_a_ramp_is_resized_in_closed_form(size):
    at, last = np.arange(299), size - 1
    ramp = jnp.zeros((1, size, 5, 3)) + jnp.arange(size, dtype=jnp.float32)[None, :, None, None]
    for x in (ramp, ramp.swapaxes(1, 2)):
        corner = np.asarray(inception.torch_fidelity(x)) * 128 + 128
        centre = (np.asarray(inception.pytorch_fid(x)) + 1) / 2 * 255
        if x is not ramp:
            corner, centre = corner.swapaxes(1, 2), centre.swapaxes(1, 2)
        np.testing.assert_allclose(corner[0, :, 7, 1], np.minimum(at * size / 299, last), atol=1e-3)
        np.testing.assert_allclose(centre[0, :, 7, 1], np.clip((at + 0.5) * size / 299 - 0.5, 0, last), atol=1e-3)


def test_weights_are_found_in_the_data_folder_and_by_path(published, tmp_path, monkeypatch):
    images = pictures(SHAPES["up"]).astype(np.float32) / 127.5 - 1
    net = inception.make(tap="64")
    assert net.name == "Inception-64" and inception.SHA256 in net.identity
    found = net(images)
    assert_close(found, np.load(FIXTURE)["64"].astype(np.float64))
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path))
    assert_close(inception.make(str(published), tap="64", batch_size=1)(images), found)


def test_pictures_are_seen_as_8_bits(published):
    net, images = inception.make(tap="64"), pictures(SHAPES["up"]).astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(net(images + 0.4 / 127.5), net(images))
    np.testing.assert_array_equal(net(np.full_like(images, 3)), net(np.ones_like(images)))
    grey = images[..., :1]
    assert_close(net(grey), net(grey.repeat(3, axis=3)))


def test_the_two_preprocessings_have_different_names_and_features(published):
    images = pictures(SHAPES["up"]).astype(np.float32) / 127.5 - 1
    ours, theirs = (inception.make(tap="64", preprocessing=name) for name in inception.PREPROCESSINGS)
    assert [inception.make().name, theirs.name] == ["Inception", "Inception-64-pytorch-fid"]
    assert len({inception.make().identity, ours.identity, theirs.identity}) == 3
    assert ours.apply is inception.make(tap="64").apply  # Hence compiled once.
    assert np.abs(ours(images) - theirs(images)).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 8, 8), (0, 8, 8, 3)])
def test_what_is_no_picture_is_refused(shape, published):
    with pytest.raises(UserError, match=r"Inception sees images \[n, h, w, 1 or 3\], not"):
        inception.make()(np.zeros(shape, np.float32))


def test_weights_are_fetched_once_and_checked(published, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path))
    monkeypatch.setattr(inception, "URL", published.as_uri())
    images = pictures(SHAPES["up"]).astype(np.float32) / 127.5 - 1
    net = inception.make(inception.DOWNLOAD, tap="64")
    monkeypatch.setattr(inception, "URL", (tmp_path / "nothing").as_uri())
    again = inception.make(inception.DOWNLOAD, tap="64")
    np.testing.assert_array_equal(net(images), again(images))
    (file,) = (tmp_path / "downloads/inception").iterdir()
    file.unlink()
    with pytest.raises(UserError, match=r"cannot download .*nothing"):
        inception.make(inception.DOWNLOAD)
    (tmp_path / "other").write_bytes(b"another file")
    monkeypatch.setattr(inception, "URL", (tmp_path / "other").as_uri())
    with pytest.raises(UserError, match=r"its sha256 is .* instead of"):
        inception.make(inception.DOWNLOAD)


def test_without_weights_it_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path))
    with pytest.raises(UserError) as error:
        inception.make()
    told = str(error.value)
    assert all(name in told and url in told for name, url in inception.FILES.items())
    assert str(tmp_path / "downloads" / "inception") in told and "\n" not in told
    with pytest.raises(UserError, match=r"no file of weights .*missing\.pth"):
        inception.make(str(tmp_path / "missing.pth"))


def test_another_file_is_refused(tmp_path):
    path = tmp_path / next(iter(inception.FILES))
    path.write_bytes(b"another")
    with pytest.raises(UserError, match=f"has sha256 .*, expected {inception.SHA256}"):
        inception.make(str(path))


@pytest.mark.parametrize(
    "arguments, told", [({"tap": "512"}, "'512'.*; there are 64, 192"), ({"preprocessing": "tf"}, "torch-fidelity, ")]
)
def test_unknown_names_are_told_with_the_valid_ones(arguments, told):
    with pytest.raises(UserError, match=told):
        inception.make(**arguments)


def test_weights_have_to_fit_exactly(weights):
    wrong = dict(weights)
    del wrong["Mixed_7c.branch_pool.conv.weight"]
    wrong["AuxLogits.fc.bias"] = np.zeros(3, np.float32)
    wrong["fc.bias"] = np.zeros(1000, np.float32)
    with pytest.raises(UserError) as error:
        inception.params_of(wrong)
    told = str(error.value)
    assert "missing: Mixed_7c.branch_pool.conv.weight;" in told
    assert "not expected: AuxLogits.fc.bias;" in told
    assert "of another shape: fc.bias [1000] instead of [1008]" in told
    with pytest.raises(UserError, match=r"missing: .* and 466 more$"):
        inception.params_of({})
    counters = {name.replace(".weight", ".num_batches_tracked"): np.int64(0) for name in weights if ".bn.w" in name}
    inception.params_of(weights | counters)


# Beside PyTorch.


def peer(name):
    """A module of torch-fidelity, without the package's own imports, which ask for more than PyTorch."""
    if "torch_fidelity" not in sys.modules:
        sys.modules["torch_fidelity"] = util.module_from_spec(util.find_spec("torch_fidelity"))
    return importlib.import_module(f"torch_fidelity.{name}")


def torch_taps(weights, images, folder):
    """{tap: [b, d]} as torch-fidelity has them."""
    import torch

    norms = [name.removesuffix(".weight") for name in weights if name.endswith(".bn.weight")]
    state = {name: torch.tensor(array) for name, array in weights.items()}
    state |= {f"{name}.num_batches_tracked": torch.tensor(0) for name in norms}
    path = Path(folder) / "weights.pth"
    torch.save(state, path)
    make = peer("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    net = make("inception", list(inception.TAPS), feature_extractor_weights_path=str(path))
    found = net(torch.tensor(images).permute(0, 3, 1, 2))
    return {tap: value.numpy() for tap, value in zip(inception.TAPS, found, strict=True)}


def torch_seen(name, images):
    """What the network of torch-fidelity or pytorch-fid sees of uint8 images: [b, 299, 299, 3]."""
    import torch

    x = torch.tensor(images).permute(0, 3, 1, 2).float()
    if name == "torch-fidelity":
        resize = peer("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
        x = (resize(x, size=(299, 299), align_corners=False) - 128) / 128
    else:
        x = 2 * torch.nn.functional.interpolate(x / 255, size=(299, 299), mode="bilinear", align_corners=False) - 1
    return x.permute(0, 2, 3, 1).numpy()


needs_peer = pytest.mark.skipif(
    not (util.find_spec("torch") and util.find_spec("torch_fidelity")),
    reason="needs torch and pip install --no-deps torch-fidelity",
)


@pytest.mark.peers
@needs_peer
def test_taps_are_those_of_torch_fidelity_that_is_installed(taps, weights, tmp_path):
    images = pictures((40, 64), seed=1)
    found, expected = taps(images), torch_taps(weights, images, tmp_path)
    for tap in inception.TAPS:
        assert_close(found[tap], expected[tap])


@pytest.mark.peers
@needs_peer
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (299, 299), (512, 300)])
@pytest.mark.parametrize("name", inception.PREPROCESSINGS)
def test_whole_pictures_are_resized_as_by_their_authors(name, shape):
    images = pictures(shape, seed=1)
    assert_close(seen(name, images), torch_seen(name, images))


def write(folder):
    """Writes the fixture."""
    found = torch_taps(random_weights(), pictures(SHAPES["up"]), folder)
    for name in inception.PREPROCESSINGS:
        found |= {f"{name}/{key}": torch_seen(name, pictures(shape))[CROP] for key, shape in SHAPES.items()}
    np.savez_compressed(FIXTURE, **found)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(folder)
