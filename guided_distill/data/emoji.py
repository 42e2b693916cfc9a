"""Emoji: about 1,040 things, drawn in three styles, with captions such as "red apple, noto".

Drawings of the npm packages of Iconify's sets, in whose icons.json they lie as SVG: Noto Emoji (Google, Apache-2.0),
Fluent Emoji Flat (Microsoft, MIT), Twemoji (Twitter, Inc and other contributors, CC-BY-4.0: https://github.com/jdecked/
twemoji; whoever publishes pictures of that style says so). `resvg_py` draws them on white. Smileys, animals, food,
activities, travel and objects; no people, skin tones, flags, symbols or parts of emoji.

"heldout" is a tenth of the pairs of a name and a style: every name in it is in "train" in another style, so that it
asks for a known thing in a known style that were never seen together. It never asks for unknown words.

`name` (the place among all names, sorted), `style` (in STYLES) and `category` (in CATEGORIES), int32, are there for
whoever measures; networks see pictures and captions only.
"""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from guided_distill import downloads as raw
from guided_distill.data import Info, Source, prepared
from guided_distill.data.fashion_mnist import shrink
from guided_distill.errors import UserError, one_of
from guided_distill.shards import Job

LICENCE = "Apache-2.0 (noto), MIT (fluent), CC-BY-4.0 (twemoji: (c) Twitter, Inc and other contributors)"
INFO = Info((64, 64, 3), 0, LICENCE, homepage="https://icon-sets.iconify.design", captions=True)
SPLITS = {"train": 2800, "heldout": 293}
STYLES = ("noto", "fluent", "twemoji")
PACKAGES = {"noto": "noto-1.2.9", "fluent": "fluent-emoji-flat-1.2.6", "twemoji": "twemoji-1.2.5"}
CATEGORIES = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Activities",
    "Travel & Places",
    "Objects",
)
RENAMED = {  # In Fluent: in the other sets the same characters have these names.
    "blackbird": "black-bird",
    "hugging-face": "smiling-face-with-open-hands",
    "knocked-out-face": "face-with-crossed-out-eyes",
    "phoenix-bird": "phoenix",
    "piata": "pinata",
    "pouting-face": "enraged-face",
}
SIZES = (128, 64, 32, 16)
HELD = 0.1  # Of the pairs.
PICTURES_A_SHARD = 512
RECORD = np.dtype(
    [
        ("x", "u1", (SIZES[0], SIZES[0], 3)),
        ("caption", "S64"),
        ("name", "<i4"),
        ("style", "<i4"),
        ("category", "<i4"),
    ]
)
URL = "https://registry.npmjs.org/@iconify-json"
TGZ_SHA256 = {
    "noto": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "fluent": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "twemoji": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
}
SHA256 = {  # Of (icons.json, metadata.json) in them.
    "noto": (
        "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6",
        "2c2aa0df0fc8371d08cb6183f8f45eec0d73dce85fc4bbc8e17980ba024c4d5c",
    ),
    "fluent": (
        "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63",
        "4ed8946717f6cda4906929a6b666d572e57433aa159b7531737556ef16325248",
    ),
    "twemoji": (
        "5d5d820790565b764f2728675d487c9ee4c1fc83916d8567d5aca8ba7527c242",
        "3e9271ca3ad7df6bb30a8819ed50e33501c0d98ea9098166357502306f1a2c34",
    ),
}
HOW = (
    "the .tgz files that `npm pack` leaves of @iconify-json/noto@1.2.9, @iconify-json/fluent-emoji-flat@1.2.6 and "
    "@iconify-json/twemoji@1.2.5, or a node_modules with them, or folders noto, fluent-emoji-flat and twemoji with "
    "their icons.json and metadata.json, are looked for in {downloads} or --source=FOLDER; --download fetches them"
)


class Drawing(NamedTuple):
    """An SVG and what is known of it: its place among all names, and in STYLES and CATEGORIES."""

    svg: str
    caption: str
    name: int
    style: int
    category: int


def make(split: str = "train", size: int = 64, faces: bool = False, directory: str | None = None) -> Source:
    """uint8 [n, size, size, 3] and captions, "train" or "heldout"; `size`: of SIZES, by means over squares of the 128
    pixels that they are drawn at. `faces`: only smileys and emotions, which besides faces are hearts and the like."""
    one_of("split of emoji", split, SPLITS)
    one_of("size of emoji", size, SIZES)
    source = prepared("emoji", split, INFO, HOW, directory)
    arrays = source[:]
    if faces:
        wanted = arrays["category"] == CATEGORIES.index("Smileys & Emotion")
        arrays = {name: array[wanted] for name, array in arrays.items()}
    images = shrink(arrays["x"], SIZES[0] // size)
    return Source({**arrays, "x": images}, dataclasses.replace(source.info, shape=(size, size, 3)))


def job(split: str, downloads: Path, source: Path | None = None, download: bool = False) -> Job:
    """Shards of drawings. Raises `UserError` where the packages are not to be found, or are of other versions, and
    without the package that draws."""
    try:
        import resvg_py
    except ImportError:
        raise UserError("emoji are drawn by the package resvg_py: pip install resvg_py==0.5.0") from None
    if download:
        for style, package in PACKAGES.items():
            if not (path := downloads / f"{package}.tgz").is_file():
                url = f"{URL}/{package.rpartition('-')[0]}/-/{package}.tgz"
                raw.fetch(url, path, TGZ_SHA256[style], "sha256")
    folders = raw.folders(downloads, source)
    contents = {style: _content(style, folders, downloads) for style in STYLES}
    chosen = [drawing for drawing, held in _drawings(contents) if held == (split == "heldout")]
    tasks = [chosen[k : k + PICTURES_A_SHARD] for k in range(0, len(chosen), PICTURES_A_SHARD)]
    origin = {"source": f"npm's @iconify-json packages {', '.join(PACKAGES.values())}"}
    return Job(read, tasks, RECORD, SPLITS[split], origin | {"drawn_by": f"resvg_py {resvg_py.__version__}"})


def read(task: list[Drawing]) -> dict[str, np.ndarray]:
    """Drawings -> arrays."""
    known = {field: np.array([getattr(drawing, field) for drawing in task], np.int32) for field in Drawing._fields[2:]}
    captions = np.array([drawing.caption.encode() for drawing in task], RECORD["caption"])
    return {"x": np.stack([drawn(drawing.svg) for drawing in task]), "caption": captions, **known}


def drawn(svg: str, size: int = SIZES[0]) -> np.ndarray:
    """An SVG on white -> uint8 [size, size, 3]."""
    import resvg_py

    content = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(content))) as image:
        return np.asarray(image.convert("RGB"))


def held_out(name: str, styles: tuple[str, ...]) -> str | None:
    """Which of the styles that a name is drawn in is kept from training, None for most names. A function of the name
    and of nothing else: a hash in [0, 1) falls into one of as many intervals of length HELD as there are styles."""
    if len(styles) < 2:
        return None  # It would not be in train at all.
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    turn = int(place / HELD)
    return styles[turn] if turn < len(styles) else None


def _drawings(contents: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple[Drawing, bool]]:
    """Of all styles, by name, and whether they are held out. A name's category is that of the first style that has
    it."""
    found: dict[str, dict[str, str]] = {}
    category: dict[str, int] = {}
    for style, (icons, metadata) in contents.items():
        for kind, names in metadata["categories"].items():
            for theirs in names if kind in CATEGORIES else ():
                name = RENAMED.get(theirs, theirs)
                found.setdefault(name, {})[style] = _svg(icons, theirs)
                category.setdefault(name, CATEGORIES.index(kind))
    out = []
    for number, name in enumerate(sorted(found)):
        held = held_out(name, tuple(style for style in STYLES if style in found[name]))
        for style, svg in found[name].items():
            caption = f"{name.replace('-', ' ')}, {style}"
            drawing = Drawing(svg, caption, number, STYLES.index(style), category[name])
            out.append((drawing, style == held))
    return out


def _svg(icons: dict[str, Any], name: str) -> str:
    """Its body in the middle of a square, by its own frame if it has one, and else that of the set (IconifyJSON)."""
    own = icons["icons"][name]
    frame = {"left": 0, "top": 0, "width": 16, "height": 16}  # What IconifyJSON leaves out.
    left, top, width, height = (own.get(key, icons.get(key, default)) for key, default in frame.items())
    side = max(width, height)
    box = f'viewBox="{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"'
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {space} {box}>{own['body']}</svg>"


def _content(style: str, folders: list[Path], downloads: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(icons.json, metadata.json) of a style, checked."""
    files = [
        _checked(_bytes(style, file, folders, downloads), sha256, f"{file} of @iconify-json/{PACKAGES[style]}")
        for file, sha256 in zip(("icons.json", "metadata.json"), SHA256[style], strict=True)
    ]
    return files[0], files[1]


def _bytes(style: str, file: str, folders: list[Path], downloads: Path) -> bytes:
    package = PACKAGES[style]
    name = package.rpartition("-")[0]
    for folder in folders:
        for path in (folder / f"{package}.tgz", folder / f"iconify-json-{package}.tgz"):
            if path.is_file():
                try:
                    with tarfile.open(path) as archive:
                        return archive.extractfile(f"package/{file}").read()
                except (tarfile.TarError, OSError, EOFError, KeyError) as error:
                    raise UserError(f"{path} is damaged ({error}); download it again") from error
        for path in (folder / "node_modules/@iconify-json", folder / "@iconify-json", folder):
            if (path / name / file).is_file():
                return (path / name / file).read_bytes()
    raise UserError(f"no {file} of emoji's style {style} found: {HOW.format(downloads=downloads)}")


def _checked(content: bytes, sha256: str, what: str) -> dict[str, Any]:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{what} is damaged, or of another version: its sha256 is not {sha256}; download it again")
    return json.loads(content)
