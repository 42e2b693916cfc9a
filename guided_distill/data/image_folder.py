"""Pictures of your own in a folder for each class, as ImageNet's are:

    imagenet/train/n01440764/n01440764_10026.JPEG          classes are the folders, numbered in the order of their names
    imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG

Folders train/, val/, ... are splits; without them the folders of classes stand in `path` itself. Pictures are decoded
at every access; `python -m guided_distill data encode` does it once.
"""

import functools

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
    classes = sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name[0] != ".")
    if not classes:
        raise UserError(f"image_folder: no folders of classes in {root}; pictures with captions are a captioned_folder")
    files, labels = [], []
    for number, folder in enumerate(classes):
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise UserError(f"image_folder: no pictures ({', '.join(SUFFIXES)}) in {folder}")
        files += found
        labels += [number] * len(found)
    picture = functools.partial(in_file, tuple(files), size)
    info = info_of(size, flip, licence, num_classes=len(classes))
    return Pictures({"label": np.array(labels, np.int32)}, info, picture, len(files))
