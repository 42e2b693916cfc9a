"""The emoji set, from packages that are made here in the format of the published ones: which drawings, whose names,
what is held out. They are drawn by a stand-in, but where it is about drawing."""

import hashlib
import io
import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from guided_distill import data
from guided_distill.__main__ import main
from guided_distill.data import emoji
from guided_distill.errors import UserError
from guided_distill.shards import NotPrepared

THINGS = [f"thing-{k}" for k in range(40)]
BODIES = {"noto": "<a/>", "fluent": "<b/>", "twemoji": "<c/>"}
SHADES = {"<a/>": 53, "<b/>": 103, "<c/>": 153}


def published(style):
    """(icons.json, metadata.json) of a style: smileys, food with a name that only Fluent spells so, one thing that the
    style alone has, and what is not taken."""
    own = "piata" if style == "fluent" else "pinata"
    categories = {
        "Smileys & Emotion": THINGS[:10],
        "Objects": [*THINGS[10:], f"only-{style}"],
        "Activities": [own],
        "People & Body": ["waving-hand", "waving-hand-dark-skin-tone"],
        "Symbols": ["plus"],
        "Flags": ["flag-for-france"],
    }
    names = [name for some in categories.values() for name in some]
    icons = {"prefix": style, "icons": {name: {"body": BODIES[style]} for name in names}, "aliases": {}}
    return json.dumps(icons | {"width": 36, "height": 36}), json.dumps({"categories": categories})


@pytest.fixture
def contents(monkeypatch, tmp_path):
    """What is published, and known by its hashes; a stand-in that draws: grey by the body, white elsewhere."""
    found = {style: published(style) for style in emoji.STYLES}
    digests = {style: tuple(hashlib.sha256(c.encode()).hexdigest() for c in pair) for style, pair in found.items()}
    monkeypatch.setattr(emoji, "SHA256", digests)
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path / "data"))

    def svg_to_bytes(svg_string, width, height, background, **_):
        [shade] = [shade for body, shade in SHADES.items() if f">{body}</svg>" in svg_string]
        out, image = io.BytesIO(), Image.new("L", (width, height), background)
        image.paste(shade, (0, 0, 1, height))  # A column of 128: half of one of 64.
        image.save(out, "PNG")
        return out.getvalue()

    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(__version__="0", svg_to_bytes=svg_to_bytes))
    return found


def tgz(path, pair):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in zip(("icons.json", "metadata.json"), pair, strict=True):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def name_of(style):
    return emoji.PACKAGES[style].rpartition("-")[0]


def as_registry(root, found):
    for style, pair in found.items():
        tgz(root / f"{emoji.PACKAGES[style]}.tgz", pair)


def as_npm_pack(root, found):
    for style, pair in found.items():
        tgz(root / f"iconify-json-{emoji.PACKAGES[style]}.tgz", pair)


def as_folders(root, found):
    for style, pair in found.items():
        (root / name_of(style)).mkdir(parents=True)
        for file, content in zip(("icons.json", "metadata.json"), pair, strict=True):
            (root / name_of(style) / file).write_text(content)


def as_npm_install(root, found):
    as_folders(root / "node_modules" / "@iconify-json", found)


def drawings(split, root):
    return [drawing for task in emoji.job(split, root, root).tasks for drawing in task]


@pytest.fixture
def source(contents, tmp_path):
    as_registry(tmp_path / "source", contents)
    return tmp_path / "source"


@pytest.fixture
def prepared(source, monkeypatch):
    """Prepared shards. Returns the number of examples by split."""
    counts = {split: len(drawings(split, source)) for split in emoji.SPLITS}
    monkeypatch.setattr(emoji, "SPLITS", counts)
    monkeypatch.setattr(emoji, "PICTURES_A_SHARD", 50)
    assert main(["data", "prepare", "emoji", f"--source={source}", "--workers=1"]) == 0
    return counts


# Which.


@pytest.mark.parametrize("lay", [as_registry, as_npm_pack, as_folders, as_npm_install])
def test_packages_are_read_wherever_they_lie(contents, tmp_path, lay):
    lay(tmp_path / "there", contents)
    found = {drawing.caption for split in emoji.SPLITS for drawing in drawings(split, tmp_path / "there")}
    expected = {f"{name.replace('-', ' ')}, {style}" for name in [*THINGS, "pinata"] for style in emoji.STYLES}
    assert found == expected | {f"only {style}, {style}" for style in emoji.STYLES}


def test_names_are_those_of_all_styles(source):
    everything = [drawing for split in emoji.SPLITS for drawing in drawings(split, source)]
    names = sorted([*THINGS, "pinata", *(f"only-{style}" for style in emoji.STYLES)])
    for drawing in everything:
        name, style = drawing.caption.rsplit(", ", 1)
        assert drawing.name == names.index(name.replace(" ", "-")) and drawing.style == emoji.STYLES.index(style)
        assert f">{BODIES[style]}</svg>" in drawing.svg
        kind = "Activities" if name == "pinata" else "Objects"
        kind = "Smileys & Emotion" if name.replace(" ", "-") in THINGS[:10] else kind
        assert emoji.CATEGORIES[drawing.category] == kind


def test_held_out_names_are_known_in_another_style(source):
    train, held = ({(d.name, d.style) for d in drawings(split, source)} for split in ("train", "heldout"))
    assert held and not train & held and len(train | held) == 3 * 41 + 3
    assert {name for name, _ in held} <= {name for name, _ in train}
    assert len({name for name, _ in held}) == len(held)


def test_a_tenth_of_the_pairs_is_held_out_evenly():
    names, styles = [f"name-{k}" for k in range(6000)], emoji.STYLES
    found = [emoji.held_out(name, styles) for name in names]
    counts = np.array([found.count(style) for style in styles])
    assert (np.abs(counts - 600) < 5 * np.sqrt(600 * 0.9)).all()
    of_two = [emoji.held_out(name, styles[1:]) for name in names]
    assert all(abs(of_two.count(style) - 600) < 5 * np.sqrt(600 * 0.9) for style in styles[1:])
    assert {emoji.held_out(name, styles[:1]) for name in names} == {None}


# Pictures.


def test_sets_are_shrunk_by_means_and_keep_what_is_for_measuring(prepared):
    assert set(prepared) == {"train", "heldout"} and prepared["heldout"] > 3
    large, small = (data.load("emoji", size=size) for size in (128, 64))
    assert len(large) == prepared["train"] and large.info.captions and large.info.shape == (128, 128, 3)
    assert small.info.shape == (64, 64, 3) == data.load("emoji").info.shape
    left = np.array([53, 103, 153])[large[:]["style"]]
    np.testing.assert_array_equal(large[:]["x"][:, 5, 0, 1], left)
    np.testing.assert_array_equal(small[:]["x"][:, 5, 0, 1], (left + 255) // 2)
    assert (small[:]["x"][:, :, 1:] == 255).all()
    for name in ("caption", "name", "style", "category"):
        np.testing.assert_array_equal(small[:][name], large[:][name])
    styles = [caption.decode().rsplit(", ", 1)[1] for caption in small[:]["caption"]]
    assert styles == [emoji.STYLES[k] for k in small[:]["style"]]
    assert set(next(data.batches(small, 8, seed=0))) == {"x"}


def test_faces_are_smileys_only(prepared):
    found = {caption for split in prepared for caption in data.load("emoji", split, faces=True)[:]["caption"].tolist()}
    assert found == {f"thing {k}, {style}".encode() for k in range(10) for style in emoji.STYLES}


def test_a_drawing_stands_in_the_middle_on_white():
    pytest.importorskip("resvg_py")
    body = '<path fill="#f00" d="M0 0h16v8H0z"/>'
    icons = {"icons": {"flat": {"body": body, "height": 8}, "high": {"body": body}}, "width": 16, "height": 16}
    flat, high = (emoji.drawn(emoji._svg(icons, name), 16) for name in ("flat", "high"))
    white, red = [255, 255, 255], [255, 0, 0]
    for image, rows in ((flat, slice(4, 12)), (high, slice(0, 8))):
        expected = np.full((16, 16, 3), white)
        expected[rows] = red
        np.testing.assert_array_equal(image, expected)


def test_a_drawing_may_have_half_of_a_pixel_and_gradients():
    pytest.importorskip("resvg_py")
    body = '<linearGradient id="a"><stop stop-color="#000"/><stop offset="1" stop-color="#fff"/></linearGradient>'
    body += '<path fill="url(#a)" d="M0 0h16v16H0z"/><path fill="#00f" d="M0 0h16v.5H0z"/>'
    image = emoji.drawn(emoji._svg({"icons": {"x": {"body": body}}}, "x"), 16).astype(int)
    assert (np.diff(image[8, :, 0]) > 0).all() and (image[8] == image[8, :, :1]).all()
    np.testing.assert_allclose(image[0, :, 0], image[8, :, 0] / 2, atol=1.5)


# Mistakes.


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_what_is_missing_or_another_version_is_told(contents, source, capsys, monkeypatch, tmp_path):
    assert main(["data", "prepare", "emoji"]) == 2
    assert "no icons.json of emoji's style noto found: the .tgz files that `npm pack` leaves" in one_line(capsys)
    tgz(source / f"{emoji.PACKAGES['fluent']}.tgz", published("noto"))
    assert main(["data", "prepare", "emoji", f"--source={source}"]) == 2
    assert "icons.json of @iconify-json/fluent-emoji-flat-1.2.6 is damaged, or of another version" in one_line(capsys)
    path = source / f"{emoji.PACKAGES['noto']}.tgz"
    path.write_bytes(path.read_bytes()[:60])
    assert main(["data", "prepare", "emoji", f"--source={source}"]) == 2
    assert "noto-1.2.9.tgz is damaged" in one_line(capsys)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert main(["data", "prepare", "emoji", f"--source={source}"]) == 2
    assert "pip install resvg_py==" in one_line(capsys)
    with pytest.raises(NotPrepared, match="data prepare emoji --split=train"):
        data.load("emoji")
    for arguments, message in (({"split": "val"}, "valid: train, heldout"), ({"size": 48}, "valid: 128, 64, 32, 16")):
        with pytest.raises(UserError, match=message):
            data.load("emoji", **arguments)


def test_packages_are_fetched(contents, monkeypatch, tmp_path):
    for style, pair in contents.items():
        path = tgz(tmp_path / "registry" / name_of(style) / "-" / f"{emoji.PACKAGES[style]}.tgz", pair)
        monkeypatch.setitem(emoji.TGZ_SHA256, style, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(emoji, "URL", (tmp_path / "registry").as_uri())
    downloads = tmp_path / "downloads"
    assert len(emoji.job("train", downloads, download=True).tasks) == 1
    assert sorted(path.name for path in downloads.iterdir()) == sorted(f"{p}.tgz" for p in emoji.PACKAGES.values())
    monkeypatch.setattr(emoji, "URL", "file:///nowhere")
    emoji.job("heldout", downloads, download=True)  # What is there is not fetched again.
    monkeypatch.setitem(emoji.TGZ_SHA256, "noto", "0" * 64)
    with pytest.raises(UserError, match="cannot download file:///nowhere/noto/-/noto"):
        emoji.job("train", tmp_path / "other", download=True)
