"""Prepared data sets: round trips through tiny archives in the formats of their publishers, what a kill or a flipped
byte leaves, and mistakes told in one line."""

import fcntl
import gzip
import hashlib
import io
import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from guided_distill import data, shards
from guided_distill.__main__ import main
from guided_distill.data import cifar10, fashion_mnist, imagenet64
from guided_distill.downloads import fetch
from guided_distill.errors import UserError
from guided_distill.shards import Job, NotPrepared, Shards, labelled, write


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Data sets are kept here; no TFDS, and no package of the system."""
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    return tmp_path / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Shards.


ARRAYS = {
    "x": np.random.default_rng(1).integers(256, size=(40, 4, 3, 2), dtype=np.uint8),
    "label": (np.arange(40) % 4).astype(np.int32),
}


class Reader:
    """Ten records of ARRAYS a task; remembers what it was asked for, and dies at task `dies`."""

    def __init__(self, dies=None):
        self.asked, self.dies = [], dies

    def __call__(self, task):
        if task == self.dies:
            raise KeyboardInterrupt
        self.asked.append(task)
        return {name: array[10 * task : 10 * task + 10] for name, array in ARRAYS.items()}


def a_job(read=None, **changes):
    origin = {"source": "here"}
    return Job(
        **{"read": read or Reader(), "tasks": range(4), "dtype": labelled((4, 3, 2)), "total": 40, "origin": origin}
        | changes
    )


@pytest.fixture
def split(home):
    """A prepared split of four shards."""
    write(home / "cifar10" / "train", a_job())
    return home / "cifar10" / "train"


def shard(split, k):
    return split / f"{k:05d}-of-00004.array_record"


def hashes(split):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(split.glob("*.array_record"))}


@pytest.mark.parametrize(
    "index",
    [
        7,
        -1,
        slice(None),
        slice(8, 31, 5),
        np.array([39, 0, 11, 11, 10]),
        np.array([[3, 38], [20, 1]]),
        np.array([], int),
    ],
)
def test_shards_give_back_the_arrays_that_went_in(split, index):
    part = Shards(split)[index]
    assert set(part) == set(ARRAYS) and len(Shards(split)) == 40
    for name, array in ARRAYS.items():
        assert part[name].dtype == array.dtype
        np.testing.assert_array_equal(part[name], array[index])


def test_an_index_out_of_range_is_refused(split):
    with pytest.raises(IndexError):
        Shards(split)[np.array([40])]


def test_on_disk_and_in_memory_are_the_same_source(home, monkeypatch):
    monkeypatch.setattr(imagenet64, "SPLITS", {"train": 40})
    write(home / "imagenet64" / "train", a_job())
    memory = data.load("imagenet64")
    monkeypatch.setattr(data, "MEMORY_BYTES", 40 * (4 * 3 * 2 + 4) - 1)
    disk = data.load("imagenet64")
    assert type(memory) is data.Source and type(disk) is data.ShardSource
    assert len(disk) == len(memory) == 40 and disk.info == memory.info
    np.testing.assert_array_equal(disk.class_counts()[:4], [10, 10, 10, 10])
    np.testing.assert_array_equal(disk.class_counts(), memory.class_counts())
    streams = [data.batches(source, 8, seed=3) for source in (memory, disk)] + [data.batches(disk, 8, seed=3, start=9)]
    first, second = ([next(stream) for _ in range(12)] for stream in streams[:2])
    third = [next(streams[2]) for _ in range(3)]
    for a, b in [*zip(first, second, strict=True), *zip(first[9:], third, strict=True)]:
        np.testing.assert_array_equal(a["x"], b["x"])
        np.testing.assert_array_equal(a["label"], b["label"])
    seen = np.concatenate([batch["x"].reshape(8, -1) for batch in first[:5]])
    assert sorted(map(bytes, seen)) == sorted(map(bytes, ARRAYS["x"].reshape(40, -1)))


@pytest.mark.parametrize("limit", [0, 2**20])
def test_without_classes_there_are_no_labels(home, monkeypatch, limit):
    monkeypatch.setattr(data, "MEMORY_BYTES", limit)
    write(home / "cifar10" / "train", a_job())
    source = data.load("cifar10", classes=False)
    assert source.info.num_classes == 0 and set(source[3]) == {"x"} and len(source.class_counts()) == 0
    np.testing.assert_array_equal(source[5]["x"], ARRAYS["x"][5])


def test_a_killed_preparation_goes_on_where_it_was(home, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(home / "cifar10" / "train", a_job(Reader(dies=2)))
    with pytest.raises(NotPrepared, match=r"2 of 4 shards.*go on with: python -m guided_distill data prepare cifar10"):
        data.load("cifar10")
    again = Reader()
    write(home / "cifar10" / "train", a_job(again))
    assert again.asked == [2, 3]
    write(tmp_path / "other" / "at once", a_job())
    assert hashes(home / "cifar10" / "train") == hashes(tmp_path / "other" / "at once")
    np.testing.assert_array_equal(data.load("cifar10")[:]["x"], ARRAYS["x"])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, lambda path: path.unlink()])
def test_a_shard_of_another_size_is_named_and_mended(split, harm):
    before = hashes(split)
    harm(shard(split, 2))
    with pytest.raises(
        UserError, match=r"00002-of-00004.*damaged.*mend it with: .*data prepare cifar10 --split=train$"
    ):
        Shards(split)
    again = Reader()
    write(split, a_job(again))
    assert again.asked == [2] and hashes(split) == before


def test_a_flipped_byte_is_found(split):
    before = hashes(split)
    content = shard(split, 1).read_bytes()
    at = content.index(ARRAYS["x"][14].tobytes())
    shard(split, 1).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    found = Shards(split)
    np.testing.assert_array_equal(found[np.arange(10)]["x"], ARRAYS["x"][:10])  # The others can be read.
    with pytest.raises(UserError, match=r"00001-of-00004.*damaged"):
        found[14]
    with pytest.raises(UserError, match=r"00001-of-00004.*sha256"):
        found.verify()
    again = Reader()
    write(split, a_job(again)).verify()
    assert again.asked == [1] and hashes(split) == before


def test_records_of_another_origin_are_not_mixed(split):
    with pytest.raises(UserError, match=r"another preparation.*from here.*origin differs"):
        write(split, a_job(origin={"source": "elsewhere"}))
    with pytest.raises(UserError, match="fields, total"):
        write(split, a_job(dtype=labelled((2,)), total=3))


def test_shares_do_not_write_over_a_whole_set(split):
    before = hashes(split)
    with pytest.raises(UserError, match=r"another preparation.*origin differs"):
        write(split, a_job(origin={"source": "elsewhere"}), share=(0, 2))
    assert hashes(split) == before
    again = Reader()
    assert len(write(split, a_job(again), share=(1, 2))) == 40 and not again.asked  # It is whole.


def test_more_shards_than_files_that_may_be_open(split, monkeypatch):
    """The limit of this process is raised as far as it may be; beyond that, it is told."""
    limits = [(30, 4096), (30, 30)]
    monkeypatch.setattr(shards.resource, "getrlimit", lambda _: limits[0])
    monkeypatch.setattr(shards.resource, "setrlimit", lambda _, new: asked.append(new))
    asked = []
    source = Shards(split)
    assert asked[0][0] > 64 and asked[0][1] == 4096 and source.only("label")._readers is source._readers
    limits.pop(0)
    with pytest.raises(UserError, match=r"has 4 shards, each an open file.*--per_shard"):
        Shards(split)


def test_a_wrong_number_of_records_is_an_error_and_the_next_run_starts_afresh(home):
    with pytest.raises(UserError, match="here has 40 examples instead of 41"):
        write(home / "cifar10" / "train", a_job(total=41))
    with pytest.raises(NotPrepared):
        Shards(home / "cifar10" / "train")
    again = Reader()
    write(home / "cifar10" / "train", a_job(again))
    assert again.asked == [0, 1, 2, 3]


def test_two_processes_do_not_prepare_the_same(split):
    with (split / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process"):
            write(split, a_job())


def test_an_index_that_is_damaged_or_of_another_format(split):
    (split / "index.json").write_text('{"format": 0}')
    with pytest.raises(UserError, match="format 0"):
        Shards(split)
    (split / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index.json is damaged.*data prepare"):
        Shards(split)


def test_where_data_sets_are(monkeypatch, tmp_path):
    assert shards.root("there").name == "there" and shards.root() == tmp_path / "data"
    assert "--directory=" not in shards.command(tmp_path / "data/cifar10/test")
    assert shards.command(tmp_path / "cifar10/test").endswith(f"cifar10 --split=test --directory={tmp_path}")
    monkeypatch.delenv("GUIDED_DISTILL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shards.root() == tmp_path / "guided_distill" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(shards.root()) == "/h/.cache/guided_distill/data"


# Fashion-MNIST.


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def clothes(tmp_path, monkeypatch, rng):
    """(folder of four tiny files, what is in them)."""
    folder, content = tmp_path / "idx", {}
    folder.mkdir()
    for k, (split, names) in enumerate(fashion_mnist.FILES.items()):
        n = 20 + k
        content[split] = (rng.integers(256, size=(n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10)
        monkeypatch.setitem(fashion_mnist.SPLITS, split, n)
        for name, array, packed in zip(names, content[split], (True, split == "train"), strict=True):
            raw = idx(array)
            monkeypatch.setitem(fashion_mnist.SHA256, name, hashlib.sha256(raw).hexdigest())
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder, content


def test_fashion_mnist_from_idx_files(clothes):
    folder, content = clothes
    assert main(["data", "prepare", "fashion_mnist", f"--source={folder}"]) == 0
    for split, (images, labels) in content.items():
        source = data.load("fashion_mnist", split)
        everything = source[:]
        assert source.info.shape == everything["x"].shape[1:] == (32, 32, 1) and not source.info.flip
        np.testing.assert_array_equal(everything["x"][:, 2:30, 2:30, 0], images)
        np.testing.assert_array_equal(everything["label"], labels)
        border = everything["x"].copy()
        border[:, 2:30, 2:30] = 0
        assert not border.any()


def test_fashion_mnist_is_found_in_downloads_and_in_debians_folder(clothes, home, tmp_path):
    folder, content = clothes
    folder.rename(tmp_path / "debian")
    assert len(write(home / "a" / "test", fashion_mnist.job("test", home / "none"))) == len(content["test"][0])
    (tmp_path / "debian").rename(home / "downloads")
    assert fashion_mnist.job("test", home / "downloads").tasks[0][0][0].parent == home / "downloads"


def test_small_fashion_mnist_is_the_mean_of_pixels(clothes):
    folder, content = clothes
    main(["data", "prepare", "fashion_mnist", f"--source={folder}", "--split=train"])
    source = data.load("fashion_mnist", size=16)
    assert source.info.shape == (16, 16, 1) and source[:]["x"].shape == (20, 16, 16, 1)
    corner = content["train"][0][:, :2, :2].mean(axis=(1, 2))  # The padding is two pixels: blocks do not straddle it.
    np.testing.assert_allclose(source[:]["x"][:, 1, 1, 0], corner, atol=0.5)
    assert len(source.class_counts()) == 10
    with pytest.raises(UserError, match=r"size.*20; valid: 32, 16, 8"):
        data.load("fashion_mnist", size=20)
    with pytest.raises(UserError, match=r"split.*'val'; valid: train, test"):
        data.load("fashion_mnist", "val")


def test_shrinking_keeps_a_constant_and_the_mean(rng):
    assert (fashion_mnist.shrink(np.full((2, 8, 8, 1), 201, np.uint8), 4) == 201).all()
    blocks = 4 * rng.integers(60, size=(3, 4, 4, 1))
    spread = np.array([[-3, 1], [0, 2]])  # Of mean 0.
    images = (np.kron(blocks[..., 0], np.ones((2, 2), int)) + 3 + np.tile(spread, (4, 4)))[..., None].astype(np.uint8)
    np.testing.assert_array_equal(fashion_mnist.shrink(images, 2), blocks + 3)


def test_other_or_damaged_idx_files_are_refused(clothes, capsys):
    folder, _ = clothes
    path = folder / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    for bad, message in (
        (good[:-50], "damaged"),
        (gzip.compress(b"\0" * 99), "not Fashion-MNIST's"),
        (b"<html>", "damaged"),
    ):
        path.write_bytes(bad)
        assert main(["data", "prepare", "fashion_mnist", f"--source={folder}"]) == 2
        assert message in one_line(capsys) and not list(folder.parent.glob("data/**/*.array_record"))


# CIFAR-10.


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A tiny archive: file k has 3 records, of labels k, k + 1, k + 2, and pixel 100 c + 2 y + x + label."""
    y, x = np.arange(32)[:, None], np.arange(32)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for k, name in enumerate([*cifar10.FILES["train"], *cifar10.FILES["test"]]):
            planes = [[100 * c + 2 * y + x + label for c in range(3)] for label in range(k, k + 3)]
            records = [bytes([k + j]) + np.array(p).astype(np.uint8).tobytes() for j, p in enumerate(planes)]
            add(archive, f"cifar-10-batches-bin/{name}", b"".join(records))
    path = tmp_path / cifar10.ARCHIVE
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(cifar10, "SPLITS", {"train": 15, "test": 3})
    return path


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("where", ["file", "folder", "downloads"])
def test_cifar10_from_its_archive(photographs, home, where):
    if where == "downloads":
        (home / "downloads").mkdir(parents=True)
        photographs = photographs.rename(home / "downloads" / "moved")
        (home / "downloads" / "cifar10").mkdir()
        photographs.rename(home / "downloads" / "cifar10" / cifar10.ARCHIVE)
    flags = {"file": [f"--source={photographs}"], "folder": [f"--source={photographs.parent}"], "downloads": []}[where]
    assert main(["data", "prepare", "cifar10", "--workers=1", *flags]) == 0
    check_cifar10()


def check_cifar10():
    source = data.load("cifar10")
    assert source.info.flip and len(data.load("cifar10", "test")) == 3
    everything = source[:]
    np.testing.assert_array_equal(everything["label"], np.add.outer(np.arange(5), np.arange(3)).ravel())
    c, y, x = np.arange(3), np.arange(32)[:, None, None], np.arange(32)[:, None]
    expected = everything["label"][:, None, None, None] + (100 * c + 2 * y + x)[None]
    np.testing.assert_array_equal(everything["x"], expected.astype(np.uint8))


def test_processes_write_the_same_shards(photographs, home, tmp_path):
    assert main(["data", "prepare", "cifar10", "--workers=2", f"--source={photographs}"]) == 0
    check_cifar10()
    main(["data", "prepare", "cifar10", "--workers=1", f"--source={photographs}", f"--directory={tmp_path / 'one'}"])
    assert hashes(home / "cifar10/train") == hashes(tmp_path / "one/cifar10/train")


def test_a_wrong_archive_is_refused(photographs, capsys):
    photographs.write_bytes(photographs.read_bytes()[:-5])
    assert main(["data", "prepare", "cifar10", f"--source={photographs}"]) == 2
    assert "its md5 is" in one_line(capsys)


def test_fetching_is_whole_and_checked_or_not_at_all(photographs, home, monkeypatch, capsys):
    target = home / "downloads" / "cifar10" / cifar10.ARCHIVE
    with pytest.raises(UserError, match="md5"):
        fetch(photographs.as_uri(), target, "0" * 32)
    assert not target.exists()
    monkeypatch.setattr(cifar10, "URL", photographs.as_uri())
    assert main(["data", "prepare", "cifar10", "--download", "--workers=1"]) == 0
    assert target.read_bytes() == photographs.read_bytes()
    check_cifar10()


def test_no_network_is_told_in_one_line(home, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar")  # Nothing listens there.
    assert main(["data", "prepare", "cifar10", "--download"]) == 2
    assert "cannot download http://127.0.0.1:9/cifar" in one_line(capsys)


# ImageNet.


WNIDS = ("n00000007", "n00000002", "n00000005")  # Not in order.
COLOURS = {"n00000002": 20, "n00000005": 50, "n00000007": 70}


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")  # Lossless, so that pixels can be compared; one of ImageNet's is a PNG.
    return buffer.getvalue()


def plain(value, size=(70, 90)):
    return png(np.full((*size, 3), value, np.uint8))


@pytest.fixture
def imagenet(monkeypatch):
    monkeypatch.setattr(imagenet64, "INFO", data.Info((64, 64, 3), 3, "test", flip=True))
    monkeypatch.setattr(imagenet64, "SPLITS", {"train": 9, "val": 6})
    monkeypatch.setattr(imagenet64, "CLASSES_A_SHARD", 2)
    monkeypatch.setattr(imagenet64, "FILES_A_SHARD", 4)


@pytest.fixture
def archives(tmp_path, imagenet):
    """A folder with both tars: three pictures of each class, their value the class's colour + 0, 1, 2; and labels."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    with tarfile.open(folder / imagenet64.ARCHIVES["train"], "w") as archive:
        for wnid in WNIDS:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for k in (2, 0, 1):
                    add(inner, f"{wnid}_{k}.JPEG", plain(COLOURS[wnid] + k))
            add(archive, f"{wnid}.tar", buffer.getvalue())
    with tarfile.open(folder / imagenet64.ARCHIVES["val"], "w") as archive:
        for k in (3, 1, 2, 0, 5, 4):
            add(archive, f"ILSVRC2012_val_0000000{k}.JPEG", plain(100 + k))
    (folder / "val.txt").write_text("".join(f"ILSVRC2012_val_0000000{k}.JPEG {k // 2}\n" for k in range(6)))
    return folder


def prepare_imagenet(folder, *flags):
    return main(["data", "prepare", "imagenet64", f"--source={folder}", "--workers=1", *flags])


def check_train():
    everything = data.load("imagenet64")[:]
    assert (everything["x"] == everything["x"][:, :1, :1, :1]).all()  # A constant picture stays constant.
    np.testing.assert_array_equal(everything["x"][:, 0, 0, 0], [20, 21, 22, 50, 51, 52, 70, 71, 72])
    np.testing.assert_array_equal(everything["label"], np.repeat([0, 1, 2], 3))


def test_imagenet64_from_its_archives(archives, home, capsys):
    assert prepare_imagenet(archives) == 0
    check_train()
    val = data.load("imagenet64", "val")[:]
    np.testing.assert_array_equal(val["x"][:, 5, 5, 1], 100 + np.arange(6))
    np.testing.assert_array_equal(val["label"], np.arange(6) // 2)
    assert len(list((home / "imagenet64/train").glob("*.array_record"))) == 2
    assert data.load("imagenet64").info.note == "" and "not comparable" not in capsys.readouterr().out


def test_imagenet64_from_folders(tmp_path, imagenet):
    for split, count in (("train", 3), ("val", 2)):
        for wnid in WNIDS:
            (tmp_path / "in" / split / wnid).mkdir(parents=True)
            (tmp_path / "in" / split / wnid / ".listing").write_text("no picture")
            for k in range(count):
                (tmp_path / "in" / split / wnid / f"{wnid}_{k}.JPEG").write_bytes(plain(COLOURS[wnid] + k))
    assert prepare_imagenet(tmp_path / "in") == 0
    check_train()
    assert len(data.load("imagenet64", "val")) == 6


def test_wnids_label_the_val_pictures_in_order(archives):
    (archives / "val.txt").rename(archives / "validation_labels.txt")
    wnids = [WNIDS[k] for k in (0, 1, 2, 2, 1, 0)]
    (archives / "validation_labels.txt").write_text("\n".join(wnids))
    assert prepare_imagenet(archives, "--split=val") == 0
    np.testing.assert_array_equal(data.load("imagenet64", "val")[:]["label"], [2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no labels of the val pictures: put val.txt"),
        ("1\n2\n3\n1\n2\n3\n", "wnids such as"),  # The devkit's numbers.
        ("0\n1\n2\n0\n1\n2\n", "wnids such as"),
        ("ILSVRC2012_val_00000000.JPEG 0\n", "a picture has none"),
        ("n00000002\nn00000005\n", "2 labels of 2 classes"),
        ("a b c\n", "not as expected"),
    ],
)
def test_val_labels_that_do_not_fit(archives, capsys, text, message):
    (archives / "val.txt").unlink() if text is None else (archives / "val.txt").write_text(text)
    assert prepare_imagenet(archives) == 2
    assert message in one_line(capsys)
    assert prepare_imagenet(archives, "--split=train") == 0


def picture_of(array):
    return imagenet64.picture(io.BytesIO(png(array)), "test")


@pytest.mark.parametrize("wide", [True, False])
def test_the_square_in_the_middle_is_taken(wide):
    image = np.zeros((128, 200, 3), np.uint8)
    image[:, 36:164] = 90  # 36 columns of border on both sides.
    assert (picture_of(image if wide else image.transpose(1, 0, 2)) == 90).all()


def test_area_resize_is_the_mean_of_blocks(rng):
    blocks = 4 * rng.integers(60, size=(64, 64, 3))
    image = blocks.repeat(2, 0).repeat(2, 1) + 3 + np.tile([[-3, 1], [0, 2]], (64, 64))[..., None]
    np.testing.assert_array_equal(picture_of(image.astype(np.uint8)), blocks + 3)


def test_grey_and_transparent_pictures_have_three_channels():
    assert (picture_of(np.full((64, 64), 7, np.uint8)) == 7).all()
    assert picture_of(np.full((80, 64, 4), 200, np.uint8)).shape == (64, 64, 3)


def damage_structure(folder):
    with tarfile.open(folder / imagenet64.ARCHIVES["train"], "w") as archive:
        add(archive, "n00000001.tar", b"")


def damage_picture(folder):
    path = folder / imagenet64.ARCHIVES["train"]
    content = path.read_bytes()
    at = content.index(b"PNG")
    path.write_bytes(content[:at] + b"?" + content[at + 1 :])


def lose_picture(folder):
    path = folder / imagenet64.ARCHIVES["train"]
    with tarfile.open(path, "a") as archive:  # The later member of the same name counts.
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as inner:
            add(inner, "n00000005_0.JPEG", plain(1))
        add(archive, "n00000009.tar", buffer.getvalue())


@pytest.mark.parametrize(
    "harm, message",
    [
        (damage_structure, "1 classes instead of 3"),
        (damage_picture, "n00000007_2.JPEG is not a picture"),
        (lose_picture, "4 classes instead of 3"),
        (lambda folder: (folder / imagenet64.ARCHIVES["train"]).write_bytes(b"x" * 2000), "is no tar archive"),
        (lambda folder: truncate_far(folder / imagenet64.ARCHIVES["train"]), "truncated|damaged"),
    ],
)
def test_a_damaged_train_archive(archives, capsys, harm, message):
    import re

    harm(archives)
    assert prepare_imagenet(archives, "--split=train") == 2
    assert re.search(message, one_line(capsys))
    with pytest.raises(NotPrepared):
        data.load("imagenet64")


def truncate_far(path):
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])


def test_a_missing_picture_is_missed_in_the_end(archives, monkeypatch, capsys):
    monkeypatch.setattr(imagenet64, "SPLITS", {"train": 10, "val": 6})
    assert prepare_imagenet(archives, "--split=train") == 2
    assert "9 examples instead of 10" in one_line(capsys)


def test_md5_of_large_archives_is_checked_when_asked_for(archives, capsys):
    assert prepare_imagenet(archives, "--verify") == 2
    assert "its md5 is" in one_line(capsys)


# TFDS.


@pytest.fixture
def tfds(monkeypatch):
    """Its interface, with data sets of six examples: x = index, label = index % 3; classes' names not in order."""

    class Examples(list):
        def __getitems__(self, indices):
            return [self[k] for k in indices]

    def builder(name):
        shape = {"cifar10": (32, 32, 3), "imagenet_resized/64x64": (64, 64, 3), "fashion_mnist": (28, 28, 1)}[name]
        examples = Examples({"image": np.full(shape, k, np.uint8), "label": k % 3} for k in range(6))
        splits = {split: SimpleNamespace(num_examples=6) for split in ("train", "test", "validation")}
        info = SimpleNamespace(
            splits=splits,
            version="3.0.2",
            file_format=SimpleNamespace(value=fake.file_format),
            features={"label": SimpleNamespace(names=list(WNIDS))},
        )
        return SimpleNamespace(info=info, as_data_source=lambda split: examples)

    fake = SimpleNamespace(builder=builder, file_format="array_record")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    for module in (cifar10, fashion_mnist):
        monkeypatch.setattr(module, "SPLITS", {"train": 6, "test": 6})
    return fake


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_tfds_is_read_where_the_files_are_not(name, tfds):
    assert main(["data", "prepare", name]) == 0
    everything = data.load(name)[:]
    np.testing.assert_array_equal(everything["x"][:, 16, 16, 0], np.arange(6))
    np.testing.assert_array_equal(everything["label"], np.arange(6) % 3)
    assert everything["x"].shape[1:3] == (32, 32)


def test_tfds_in_another_file_format_or_number_is_not_read(tfds, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "SPLITS", {"train": 7, "test": 6})
    assert main(["data", "prepare", "cifar10"]) == 2
    assert "6 examples in train instead of 7" in one_line(capsys)
    tfds.file_format = "tfrecord"
    assert main(["data", "prepare", "cifar10"]) == 2
    assert "no files of cifar10 found" in one_line(capsys)


def test_resized_imagenet_is_marked_and_its_classes_put_in_order(tfds, imagenet, monkeypatch, capsys, home):
    monkeypatch.setattr(imagenet64, "SPLITS", {"train": 6, "val": 6})
    assert main(["data", "prepare", "imagenet64", "--tfds_resized", "--workers=1"]) == 0
    assert "not comparable" in capsys.readouterr().out
    source = data.load("imagenet64", "val")
    assert "not comparable" in source.info.note
    assert "not comparable" in json.loads((home / "imagenet64/val/index.json").read_text())["origin"]["note"]
    np.testing.assert_array_equal(source[:]["label"], [2, 0, 1, 2, 0, 1])  # WNIDS' ranks.
    assert main(["data", "show", "imagenet64"]) == 0 and "not comparable" in capsys.readouterr().out


# The verb.


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_list_has_every_data_set_and_the_way_to_those_that_are_not_ready(split, capsys):
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert set(data_names()) <= set(rows)
    assert "40 in train" in rows["cifar10"] and "1,797 in train" in rows["digits"]
    assert "data prepare imagenet64" in rows["imagenet64"]


def data_names():
    from guided_distill.plugins import names

    return names("data")


def test_show_tells_and_draws(photographs, tmp_path, capsys):
    main(["data", "prepare", "cifar10", f"--source={photographs}", "--workers=1"])
    sheet = tmp_path / "deep" / "sheet.png"
    assert main(["data", "show", "cifar10", "--verify", f"--out={sheet}"]) == 0
    out = capsys.readouterr().out
    assert "1, 2, 3, 3, 3, 2, 1, 0, 0, 0" in out and "verified" in out and cifar10.ARCHIVE in out
    assert Image.open(sheet).size == (4 * 33 + 1, 4 * 33 + 1)
    flip(shard_of(cifar10_train := shards.root() / "cifar10" / "train"))
    assert cifar10_train.is_dir() and main(["data", "show", "cifar10", "--verify"]) == 2


def shard_of(split):
    return sorted(split.glob("*.array_record"))[0]


def test_show_of_points_is_a_scatter(tmp_path, capsys):
    assert main(["data", "show", "mixture2d", f"--out={tmp_path / 'points.png'}"]) == 0
    assert (tmp_path / "points.png").is_file() and "65,536" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("show cifar10", "is not prepared; run: python -m guided_distill data prepare cifar10"),
        ("show cifar10", "cifar-10-binary.tar.gz is looked for in "),
        ("show cifar", "'cifar'; valid: captioned_folder, cifar10"),
        ("show digits --split=test", "split of digits 'test'; valid: train"),
        ("show digits --out=x.jpg", "must end in .png"),
        ("show digits --directory=x", "digits is not kept in a directory"),
        ("prepare digits", "digits needs no preparation"),
        ("prepare cifar10", "no files of cifar10 found"),
        ("prepare fashion_mnist", "no files of fashion_mnist's train split found"),
        ("prepare imagenet64", "no files of imagenet64's train split found"),
        ("prepare imagenet64 --split=val", "--split=train"),
        ("prepare imagenet64 --tfds_resized", "TFDS has no imagenet_resized"),
        ("prepare cifar10 --source=/nowhere", "--source=/nowhere does not exist"),
        ("prepare cifar10 --split=val", "'val'; valid: train, test"),
        ("prepare cifar10 --workers=0", "--workers=0 is not positive"),
        ("prepare cifar10 --tfds_resized", "'--tfds_resized'; valid: --download"),
        ("prepare fashion --download", "'fashion'; valid: "),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    assert main(["data", *arguments.split()]) == 2
    assert message in one_line(capsys)
