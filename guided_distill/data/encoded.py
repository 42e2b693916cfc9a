"""A set that `python -m guided_distill data encode` has made: what a codec keeps of images, and the states of captions,
so that training runs neither encoder. It is known by its folder's name."""

import json
from typing import Any

from guided_distill import shards
from guided_distill.data import MEMORY_BYTES, Info, ShardSource, Source
from guided_distill.errors import UserError

FOLDER = shards.ENCODED


def make(split: str = "train", of: str = "", directory: str | None = None) -> Source:
    """float16 "x", what the codec keeps of an image, with "text" [l, d], "caption" and "label" where there are any;
    `of` is what the set was called. Raises `NotPrepared` with the command where there is none."""
    if not of:
        raise UserError("data set encoded is known by a name; give of=NAME, as `data encode --name=NAME` made it")
    place = shards.root(directory) / FOLDER / of / split
    try:
        found = shards.Shards(place)
    except shards.NotPrepared as error:
        raise shards.NotPrepared(f"{place} is not there, or not whole; run: {shards.command(place)}") from error
    info = described(found.origin["info"])
    return Source(found[:], info) if found.nbytes <= MEMORY_BYTES else ShardSource(found, info)


def made_of(of: str = "", directory: str | None = None, **others: Any) -> dict[str, Any]:
    """The data set of images that an encoded one was made of: name and arguments, but for the split. Raises `UserError`
    where no split of it is there."""
    folder = shards.root(directory) / FOLDER / of
    for index in sorted(folder.glob("*/index.json")):
        return dict(json.loads(index.read_text())["origin"]["info"]["images"])
    raise shards.NotPrepared(f"no encoded set {of!r} in {folder.parent}; `data encode --name={of}` makes one")


def described(info: dict[str, Any]) -> Info:
    """`Info` from JSON."""
    return Info(**{**info, "shape": tuple(info["shape"])})
