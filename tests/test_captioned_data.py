"""Captioned pictures of the user's own: folders and tar shards, made here, read back in any order, whole or told in one
line."""

import io
import json
import os
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from guided_distill import data
from guided_distill.data import _pictures, tfds, webdataset
from guided_distill.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Where indices are kept that cannot lie beside their shards."""
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def plain(value, height=10, width=16, mode="RGB", form="PNG", **options):
    """The bytes of a picture of one colour."""
    colour = (value, 2 * value, 3 * value) if mode == "RGB" else value
    out = io.BytesIO()
    Image.new(mode, (width, height), colour).save(out, form, **options)
    return out.getvalue()


def write(root, files):
    """{name: bytes or text} -> files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def pack(path, files):
    """{name: bytes or text} -> a tar archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def texts(source):
    return [caption.decode() for caption in source[:]["caption"]]


def colours(source):
    """The red of each picture, which must be of one colour."""
    images = source[:]["x"]
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


FOUR = {f"p{k}": (10 * k + 10, caption) for k, caption in enumerate(("a red boat", "zwei Kähne", "", "雨"))}


@pytest.fixture
def folder(tmp_path):
    files = {f"{name}.png": plain(value) for name, (value, _) in FOUR.items()}
    return write(tmp_path / "pictures", files | {f"{name}.txt": f" {text}\n" for name, (_, text) in FOUR.items()})


@pytest.fixture
def shards(tmp_path):
    """Two shards of two samples."""
    (a, b, c, d), root = FOUR, tmp_path / "shards"
    png, text = ({name: pair[k] for name, pair in FOUR.items()} for k in (0, 1))
    first = {f"{a}.png": plain(png[a]), f"{a}.txt": text[a], f"{b}.txt": text[b], f"{b}.png": plain(png[b])}
    second = {f"x/{c}.PNG": plain(png[c]), f"x/{c}.json": json.dumps({"caption": text[c], "n": 1})}
    second |= {f"x/{d}.json": json.dumps({"text": text[d]}), f"x/{d}.png": plain(png[d])}
    pack(root / "00000.tar", first)
    pack(root / "00001.tar", second)
    return root


@pytest.fixture(params=["captioned_folder", "webdataset"])
def source(request, folder, shards):
    path = folder if request.param == "captioned_folder" else shards
    return data.load(request.param, path=str(path), size=8)


# What both are.


def test_what_went_in_comes_out(source):
    assert colours(source) == [10, 20, 30, 40] and texts(source) == [text for _, text in FOUR.values()]
    assert source[:]["x"].dtype == np.uint8 and source[:]["x"].shape == (4, 8, 8, 3)
    assert source.info.captions and source.info.num_classes == 0 and source.info.shape == (8, 8, 3)
    assert "your pictures" in source.info.licence and not source.info.note


@pytest.mark.parametrize("index", [2, -1, slice(1, None, 2), np.array([3, 0, 0]), np.array([[1], [2]]), slice(0)])
def test_access_is_random(source, index):
    part, whole = source[index], source[:]
    assert set(part) == {"x", "caption"}
    for name, array in whole.items():
        np.testing.assert_array_equal(part[name], array[index])
    with pytest.raises(IndexError):
        source[np.array([4])]


def test_batches_are_given_no_captions(source):
    batch = next(data.batches(source, 4, seed=0))
    assert set(batch) == {"x"} and sorted(batch["x"][:, 0, 0, 0].tolist()) == [10, 20, 30, 40]


def test_pictures_alone(source):
    plain = source.unlabelled()
    assert set(plain[:]) == {"x"} and len(plain) == 4 and not plain.info.captions and plain.captions(3) == []
    np.testing.assert_array_equal(plain[1:]["x"], source[1:]["x"])


def test_captions_are_spread_over_the_set():
    arrays = {"x": np.zeros((100, 1, 1, 3), np.uint8), "caption": np.array([b"%03d" % k for k in range(100)])}
    made = data.Source(arrays, _pictures.info_of(1, False, "none"))
    assert [made.captions(3)[k] for k in (0, 2)] == ["000", "099"] and "040" < made.captions(3)[1] < "060"
    assert len(set(made.captions(20))) == 20


def test_captions_that_no_file_should_have_are_kept_as_far_as_they_are_text():
    assert list(_pictures.as_bytes(["a \ud83d cat", " plain "])) == [b"a ? cat", b"plain"]


def test_captions_are_told_without_reading_pictures(source, monkeypatch):
    monkeypatch.setattr(_pictures, "ThreadPoolExecutor", None)
    assert source.captions(1) == ["a red boat"] and set(source.captions(4)) <= {text for _, text in FOUR.values()}


def test_long_captions_are_cut_between_characters(monkeypatch):
    monkeypatch.setattr(_pictures, "MOST", 5)
    with pytest.warns(UserWarning, match="2 of 3 captions have more than 5 bytes"):
        found = _pictures.as_bytes(["ab", " äöü ", "abcdef"])
    assert found.dtype == "S5" and [text.decode() for text in found] == ["ab", "äö", "abcde"]


# Pictures.


def square(content, size):
    return _pictures.square(io.BytesIO(content), size, "it")


def saved(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_is_kept_and_shrunk_to_means(turned):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 250, (4, 4, 3))
    middle = blocks.repeat(2, 0).repeat(2, 1) + np.array([0, 2, 4, 6])[[0, 1, 2, 3] * 2].reshape(1, 8, 1) % 4
    image = np.pad(middle, ((0, 0), (3, 4), (0, 0)), constant_values=255).astype(np.uint8)
    image, expected = (image.swapaxes(0, 1), blocks.swapaxes(0, 1)) if turned else (image, blocks)
    np.testing.assert_array_equal(square(saved(Image.fromarray(image)), 4), expected + 1)


def test_pictures_stand_upright():
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    exif = Image.Exif()
    exif[274] = 6  # To be turned by a quarter, clockwise.
    found = square(saved(Image.fromarray(pixels), exif=exif.tobytes()), 4)
    np.testing.assert_array_equal(found[..., 0], np.repeat([0, 255], 2)[:, None].repeat(4, 1))


def test_grey_and_transparent_and_small_pictures():
    assert (square(plain(9, mode="L"), 4) == 9).all()
    assert (square(saved(Image.new("RGBA", (6, 6), (0, 0, 0, 0))), 3) == 255).all()
    assert (square(saved(Image.new("LA", (6, 6), (0, 255))), 3) == 0).all()
    large = square(plain(40, height=3, width=3), 12)
    assert large.shape == (12, 12, 3) and (large[..., 0] == 40).all()
    assert np.abs(square(plain(40, form="JPEG", quality=95), 4).astype(int) - [40, 80, 120]).max() <= 2
    np.testing.assert_array_equal(square(plain(40, form="WEBP", lossless=True), 4)[0, 0], [40, 80, 120])


@pytest.mark.parametrize("content", [b"no picture", plain(3)[:40], saved(Image.new("I;16", (4, 4), 1000))])
def test_what_is_no_picture_of_8_bits_is_told_when_it_is_asked_for(tmp_path, content):
    root = write(tmp_path / "p", {"a.png": plain(1), "a.txt": "a", "b.png": content, "b.txt": "b"})
    source = data.load("captioned_folder", path=str(root), size=4)
    assert (source[0]["x"] == source[:1]["x"][0]).all()
    with pytest.raises(UserError, match=r"b\.png is not a picture that can be read"):
        source[:]
    shard = pack(tmp_path / "s.tar", {"a.png": plain(1), "a.txt": "a", "b.png": content, "b.txt": "b"})
    with pytest.raises(UserError, match=r"s\.tar: the picture at byte 2,560 is not a picture"):
        data.load("webdataset", path=str(shard), size=4)[:]


# Folders.


@pytest.mark.parametrize(
    "name, table",
    [
        ("metadata.jsonl", '{"file_name": "b.png", "text": "a\u2028b"}\n\n{"file_name": "sub/a.png", "text": "c"}\n'),
        ("metadata.csv", 'file_name,text\nb.png,"a\nb"\nsub/a.png,c\n'),
        ("captions.csv", "\ufefffile_name,caption,other\nsub/a.png,c,1\nb.png,a b,2\n"),
    ],
)
def test_captions_of_a_table(tmp_path, name, table):
    root = write(tmp_path / "p", {"b.png": plain(2), "sub/a.png": plain(1), "unused.png": plain(3), name: table})
    source = data.load("captioned_folder", path=str(root), size=4)
    assert colours(source) == [2, 1] and [text.split() for text in texts(source)] == [["a", "b"], ["c"]]


def test_a_picture_may_have_several_captions_and_columns(tmp_path):
    table = "file_name,de,text\na.png,eins,one\na.png,zwei,two\n"
    root = write(tmp_path / "p", {"a.png": plain(7), "metadata.csv": table})
    assert texts(data.load("captioned_folder", path=str(root), size=4)) == ["one", "two"]
    source = data.load("captioned_folder", path=str(root), size=4, column="de", licence="CC0")
    assert texts(source) == ["eins", "zwei"] and colours(source) == [7, 7] and source.info.licence == "CC0"


def test_folders_are_splits(tmp_path):
    files = {f"{split}/{k}.png": plain(k) for split, k in (("train", 1), ("val", 2))}
    root = write(tmp_path / "p", files | {"train/1.txt": "a", "val/2.txt": "b"})
    assert texts(data.load("captioned_folder", path=str(root), size=4)) == ["a"]
    assert texts(data.load("captioned_folder", "val", path=str(root), size=4)) == ["b"]
    with pytest.raises(UserError, match=r"no folder 'test' in .*; there are: train, val"):
        data.load("captioned_folder", "test", path=str(root), size=4)


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, r"no pictures \(\.jpg, \.jpeg, \.png, \.webp\) in "),
        ({"a.png": b"", "b.png": b"", "b.txt": "b"}, r"1 of 2 pictures in .* have no caption: a\.png; write a \.txt"),
        ({"a.png": b"", "a.txt": b"\xff"}, r"a\.txt cannot be read as UTF-8"),
        ({"metadata.jsonl": "{}"}, r"metadata\.jsonl, line 1: file_name is None"),
        ({"metadata.jsonl": '\n{"file_name": "a.png", "text": "a"}'}, r"line 2: file_name is 'a\.png'; expected a pic"),
        ({"metadata.jsonl": "[1]"}, r"line 1 holds a list"),
        ({"metadata.jsonl": "{"}, r"line 1 is no JSON"),
        (
            {"a.png": b"", "metadata.jsonl": '{"file_name": "a.png", "text": 3}'},
            "no caption 'text' among file_name, text",
        ),
        (
            {"a.png": b"", "metadata.csv": "file_name,title\na.png,x"},
            "no caption 'text' among file_name, title; name ano",
        ),
    ],
)
def test_mistakes_in_a_folder_are_told_in_one_line(tmp_path, files, message):
    root = write(tmp_path / "p", {"note.md": "", **files})
    with pytest.raises(UserError, match=message) as error:
        data.load("captioned_folder", path=str(root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["captioned_folder", "webdataset"])
def test_what_is_not_said_is_asked_for(name, folder):
    with pytest.raises(UserError, match=f"{name} reads files of your own: say where they are, path=FOLDER"):
        data.load(name)
    with pytest.raises(UserError, match="path=/nowhere does not exist"):
        data.load(name, path="/nowhere")
    with pytest.raises(UserError, match="size=0 of pictures is not positive"):
        data.load("captioned_folder", path=str(folder), size=0)


# Shards.


def test_an_index_is_written_once_and_anew_for_another_shard(shards, monkeypatch):
    before = texts(data.load("webdataset", path=str(shards), size=4))
    assert sorted(path.name for path in shards.glob("*.npz")) == ["00000.tar.index.npz", "00001.tar.index.npz"]
    scanned = []
    monkeypatch.setattr(webdataset, "_samples", lambda tar, column: scanned.append(tar.name) or iter([{}]))
    assert texts(data.load("webdataset", path=str(shards), size=4)) == before and not scanned
    os.utime(shards / "00001.tar", ns=(1, 1))
    assert texts(data.load("webdataset", path=str(shards), size=4)) == before[:2] and scanned == ["00001.tar"]


def test_a_damaged_index_is_made_anew(shards):
    before = texts(data.load("webdataset", path=str(shards), size=4))
    path = shards / "00000.tar.index.npz"
    for content in (b"", b"PK\x03\x04 no archive", path.read_bytes()[:100]):
        path.write_bytes(content)
        assert texts(data.load("webdataset", path=str(shards), size=4)) == before


def test_where_the_shards_lie_nothing_need_be_written(shards, home, monkeypatch):
    save = webdataset.write_index

    def refused(path, index):
        if path.parent == shards:
            raise PermissionError(path)
        return save(path, index)

    monkeypatch.setattr(webdataset, "write_index", refused)
    before = texts(data.load("webdataset", path=str(shards), size=4))
    assert len(list((home / "webdataset").glob("*.npz"))) == 2 and not list(shards.glob("*.npz"))
    monkeypatch.setattr(webdataset, "_samples", None)
    assert texts(data.load("webdataset", path=str(shards), size=4)) == before


def test_samples_that_are_not_whole_are_left_out_and_counted(tmp_path):
    files = {"a.png": plain(1), "b.txt": "no picture", "c.json": "{}", "c.png": plain(3), "d.cls": "7"}
    files |= {"e.seg.png": plain(4), "e.txt": "no e.png", "f.jpg": plain(5), "f.txt": "whole"}
    source = data.load("webdataset", path=str(pack(tmp_path / "s.tar", files)), size=4)
    assert texts(source) == ["whole"]
    assert source.info.note == "5 samples without a picture or a caption are left out"


def test_which_caption_counts(tmp_path):
    files = {"a.png": plain(1), "a.txt": "of txt", "a.json": json.dumps({"caption": "of json", "de": "Bild", "n": 3})}
    path = str(pack(tmp_path / "s.tar", files))
    assert texts(data.load("webdataset", path=path, size=4)) == ["of txt"]
    assert texts(data.load("webdataset", path=path, size=4, column="de")) == ["Bild"]  # Another index.
    with pytest.raises(UserError, match=r"no sample in .* has both a picture"):
        data.load("webdataset", path=path, size=4, column="n")


def truncated(path):
    content = pack(path, {"a.png": plain(1), "a.txt": "a" * 2000}).read_bytes()
    path.write_bytes(content[:2700])


def compressed(path):
    with tarfile.open(path, "w:gz"):
        pass


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path.write_bytes(b"x" * 2000), r"s\.tar is damaged, or no tar archive that is not compressed"),
        (truncated, r"s\.tar is damaged"),
        (compressed, r"s\.tar is damaged, or no tar"),
        (lambda path: pack(path, {"a.png": b"", "a.txt": b"\xff"}), r"s\.tar: a\.txt cannot be read"),
        (lambda path: pack(path, {"a.png": b"", "a.json": "{"}), r"s\.tar: a\.json cannot be read"),
        (lambda path: pack(path, {"a.png": b"", "a.json": "[]"}), "no sample in "),
        (lambda path: None, r"no shards \*\.tar in "),
    ],
)
def test_mistakes_in_shards_are_told_in_one_line(tmp_path, make, message):
    (tmp_path / "shards").mkdir()
    make(tmp_path / "shards" / "s.tar")
    with pytest.raises(UserError, match=message) as error:
        data.load("webdataset", path=str(tmp_path / "shards"))
    assert "\n" not in str(error.value)


def test_folders_of_classes_are_labels(tmp_path):
    write(tmp_path, {f"train/{name}/{k}.JPEG": plain(10 * k + n) for n, name in enumerate("ba") for k in range(3)})
    write(tmp_path, {"train/a/notes.txt": "not a picture", "train/.hidden/x.png": plain(1), "val/a/1.png": plain(9)})
    source = data.load("image_folder", path=str(tmp_path), size=4)
    assert source[:]["label"].tolist() == [0, 0, 0, 1, 1, 1] and source.info.num_classes == 2
    assert colours(source) == [1, 11, 21, 0, 10, 20] and source.info.flip and not source.info.captions
    assert source[np.array([5, 0])]["label"].tolist() == [1, 0] and source[:2]["x"].shape == (2, 4, 4, 3)
    assert set(source.unlabelled()[:1]) == {"x"} and source.unlabelled().info.num_classes == 0
    assert len(data.load("image_folder", "val", path=str(tmp_path), size=4)) == 1
    write(tmp_path, {"test/b/1.png": plain(9)})  # Of one of the classes.
    source = data.load("image_folder", "test", path=str(tmp_path), size=4)
    assert source[:]["label"].tolist() == [1] and source.info.num_classes == 2
    write(tmp_path, {"other/d/1.png": plain(9)})
    with pytest.raises(UserError, match=r"other has classes that train/ does not: d"):
        data.load("image_folder", "other", path=str(tmp_path))
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(UserError, match=r"no pictures \(.jpg, .*\) in .*train/c"):
        data.load("image_folder", path=str(tmp_path))
    with pytest.raises(UserError, match=r"no folders of classes in .*val/a; pictures with captions"):
        data.load("image_folder", path=str(tmp_path / "val" / "a"))
    with pytest.raises(UserError, match=r"no folder 'odd' in .*; there are: other, test, train, val"):
        data.load("image_folder", "odd", path=str(tmp_path))


@pytest.fixture
def tensorflow_datasets(monkeypatch):
    """Its interface, with one data set of three records."""
    told = (["one", "two"], ["three"], [])
    records = [
        {"image": plain(10 * k), "captions": {"text": [t.encode() for t in told[k]], "id": [k]}, "kind": k % 2}
        for k in range(3)
    ]

    def builder(name, data_dir=None):
        if name != "coco":
            raise LookupError(f"Dataset {name} not found.\nMore.")
        features = {"image": None, "captions": None, "kind": SimpleNamespace(num_classes=2)}
        splits = {"train": 3} if fake.prepared else {}
        kind = SimpleNamespace(value=fake.file_format)
        info = SimpleNamespace(splits=splits, version="1.0.0", file_format=kind, features=features)
        return SimpleNamespace(info=info, data_path="/data/coco", as_data_source=lambda split, decoders: records)

    decode = SimpleNamespace(SkipDecoding=object)
    fake = SimpleNamespace(builder=builder, decode=decode, file_format="array_record", prepared=True)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    return fake


def test_tfds_has_as_many_examples_as_captions(tensorflow_datasets, monkeypatch):
    source = data.load("tfds", dataset="coco", size=4)
    assert texts(source) == ["one", "two", "three"] and colours(source) == [0, 0, 10]
    source = data.load("tfds", dataset="coco", size=4, column="kind")
    assert source[:]["label"].tolist() == [0, 1, 0] and source.info.num_classes == 2 and not source.info.captions
    monkeypatch.setattr(tfds, "_scanned", None)  # What was said was kept.
    assert texts(data.load("tfds", dataset="coco", size=4)) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({}, "say which, dataset=coco_captions"),
        ({"dataset": "mine"}, r"no data set 'mine' \(Dataset mine not found.\)$"),
        ({"dataset": "coco", "split": "val"}, "no split 'val'; there are: train"),
        ({"dataset": "coco", "column": "captions/french"}, "record 0 has no 'captions/french' among image, captions"),
    ],
)
def test_what_tfds_cannot_do_is_told_in_a_line(arguments, told, tensorflow_datasets):
    with pytest.raises(UserError, match=told):
        data.load("tfds", **arguments)


def test_tfds_has_to_be_prepared_in_the_format_that_is_read(tensorflow_datasets, monkeypatch):
    tensorflow_datasets.file_format = "tfrecord"
    with pytest.raises(UserError, match=r"prepared as tfrecord; with TensorFlow installed: tfds.builder\(\"coco\", "):
        data.load("tfds", dataset="coco")
    tensorflow_datasets.prepared = False
    with pytest.raises(UserError, match="coco is not prepared"):
        data.load("tfds", dataset="coco")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        data.load("tfds", dataset="coco")
