"""Pictures of your own in a folder for each class, as ImageNet's are:

    imagenet/train/n01440764/n01440764_10026.JPEG          classes are train's folders, numbered by their names' order
    imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG

Folders train/, val/, ... are splits; without them the folders of classes stand in `path` itself. Pictures are decoded
at every access; `python -m guided_distill data encode` does it once.
"""

import functools
from pathlib import Path

import numpy as np

from guided_distill.data import Source
from guided_distill.data._pictures import LICENCE, SUFFIXES, Pictures, in_file, info_of, root_of
from guided_distill.errors import UserError


def make(split: str = "train", path: str = "", size: int = 64, flip: bool = True, licence: str = LICENCE) -> Source:
    """uint8 [n, size, size, 3] and labels, class by class: the square in the middle of each picture, shrunk to the mean
    over areas. `flip`: whether a class stays what it is in the mirror.

    Raises `UserError` where there are no classes, or one without pictures; for a damaged picture when it is asked for.
    """
    root = root_of("image_folder", split, path)
    classes = _classes(root)
    if not classes:
        raise UserError(f"image_folder: no folders of classes in {root}; pictures with captions are a captioned_folder")
    known = [folder.name for folder in _classes(root_of("image_folder", "train", path)) or classes]
    if others := [folder.name for folder in classes if folder.name not in known]:
        raise UserError(f"image_folder: {root} has classes that train/ does not: {', '.join(others[:5])}")
    files, labels = [], []
    for folder in classes:
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise UserError(f"image_folder: no pictures ({', '.join(SUFFIXES)}) in {folder}")
        files += found
        labels += [known.index(folder.name)] * len(found)
    picture = functools.partial(in_file, tuple(files), size)
    info = info_of(size, flip, licence, num_classes=len(known))
    return Pictures({"label": np.array(labels, np.int32)}, info, picture, len(files))


def _classes(root: Path) -> list[Path]:
    """The folders of classes, in order."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name[0] != ".")
