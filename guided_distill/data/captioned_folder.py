"""Pictures of your own in a folder, with captions: a .txt beside each, or one table of them, as the "imagefolder" of
Hugging Face has it.

    pictures/a.jpg  pictures/a.txt                  "a red boat on a lake"
    pictures/metadata.jsonl                         {"file_name": "a.jpg", "text": "a red boat on a lake"} a line
    pictures/metadata.csv, or captions.csv          file_name,text

A picture with several rows is as many examples. Folders train/, val/, ... in it are splits. Pictures are decoded at
every access; `python -m guided_distill data encode` does it once.
"""

import csv
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path

from guided_distill.data import Source
from guided_distill.data._pictures import KEYS, LICENCE, SUFFIXES, Pictures, as_bytes, in_file, info_of, root_of
from guided_distill.errors import UserError

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv")


def make(
    split: str = "train", path: str = "", size: int = 64, column: str = "", flip: bool = False, licence: str = LICENCE
) -> Source:
    """uint8 [n, size, size, 3] and captions, by the names of files: the square in the middle of each picture, shrunk to
    the mean over areas. `column` of a table that has the captions ("": text, or caption). `flip`: whether
    captions are true of mirror images, too.

    Raises `UserError` where there are no pictures, or not a caption for each; for a damaged one when it is asked for.
    """
    root = root_of("captioned_folder", split, path)
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    pairs = sorted(_beside(root) if table is None else _listed(table, column), key=lambda pair: pair[0])
    if not pairs:
        raise UserError(f"captioned_folder: no pictures ({', '.join(SUFFIXES)}) in {root}")
    files, captions = zip(*pairs, strict=True)
    picture = functools.partial(in_file, files, size)
    return Pictures({"caption": as_bytes(captions)}, info_of(size, flip, licence), picture, len(files))


def _beside(root: Path) -> list[tuple[Path, str]]:
    files = [file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    if without := sorted(str(file.relative_to(root)) for file in files if not file.with_suffix(".txt").is_file()):
        told = f"{len(without)} of {len(files)} pictures in {root} have no caption: {', '.join(without[:3])}"
        raise UserError(f"{told}; write a .txt beside each, or a {' or '.join(TABLES)}")
    return [(file, _text(file.with_suffix(".txt"))) for file in files]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8: {error}") from error


def _listed(table: Path, column: str) -> Iterator[tuple[Path, str]]:
    """(picture, caption) of each row. Pictures that have no row are left out."""
    for number, row in _rows(table):
        where = f"{table}, line {number}"
        name = row.get("file_name")
        if not isinstance(name, str) or not (table.parent / name).is_file():
            raise UserError(f"{where}: file_name is {name!r}; expected a picture in {table.parent}")
        key = column or next((key for key in KEYS if key in row), KEYS[0])
        if not isinstance(row.get(key), str):
            has = ", ".join(str(key) for key in row)
            raise UserError(f"{where}: no caption {key!r} among {has}; name another with column=NAME")
        yield table.parent / name, row[key]


def _rows(table: Path) -> Iterator[tuple[int, dict]]:
    """(number of its line, row)."""
    text = _text(table)
    if table.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))  # A caption in quotes may have line ends.
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise UserError(f"{table}, line {reader.line_num} is no CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{table}, line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{table}, line {number} holds a {type(row).__name__}; expected a JSON object")
        yield number, row
