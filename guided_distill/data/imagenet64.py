"""ImageNet-2012 at 64 x 64 (Deng et al. 2009; Russakovsky et al. 2015): the square in the middle, then the mean over
areas. Classes are the sorted wnids.

TFDS's imagenet_resized/64x64 squashes pictures to a square instead: `--tfds_resized` takes it where the archives are
not to be had, and what is trained on it is not comparable.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from PIL import Image

from guided_distill import downloads as raw
from guided_distill.data import Info, Source, prepared
from guided_distill.errors import UserError, one_of
from guided_distill.shards import Job, labelled

INFO = Info((64, 64, 3), 1000, "non-commercial research (ImageNet terms)", True, "https://image-net.org")
SPLITS = {"train": 1_281_167, "val": 50_000}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
MD5 = {"train": "1d675b47d978889d74fa0da5fadfb00e", "val": "29b22e2961454d5413ddabcf34fc5622"}
LABELS = ("val.txt", "validation_labels.txt")
HOW = (
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of https://image-net.org, or folders train/WNID/*.JPEG and "
    "val/WNID/*.JPEG, are looked for in {downloads} or --source=FOLDER; beside the val tar its labels, "
    "val.txt ('ILSVRC2012_val_00000001.JPEG 65' a line) or TFDS's validation_labels.txt (a wnid a line)"
)
NOTE = "not comparable: TFDS imagenet_resized squashes the aspect ratio"
CLASSES_A_SHARD, FILES_A_SHARD = 5, 5_000  # Up to 80 MB, a minute's work: 200 files to hold open, not 1,000.


def make(split: str = "train", directory: str | None = None) -> Source:
    """uint8 [n, 64, 64, 3] and labels, "train" or "val", read from disk."""
    one_of("split of imagenet64", split, SPLITS)
    return prepared("imagenet64", split, INFO, HOW, directory)


def job(
    split: str, downloads: Path, source: Path | None = None, verify: bool = False, tfds_resized: bool = False
) -> Job:
    """Shards of five classes, or of 5,000 files of the val archive. `verify`: its md5 too, which takes a while. Raises
    `UserError` where nothing is to be found, or its structure is not ImageNet's."""
    if tfds_resized:
        version = raw.tfds_version("imagenet_resized/64x64")
        if version is None:
            raise UserError("TFDS has no imagenet_resized/64x64 prepared as array_record on this machine")
        theirs = {"train": "train", "val": "validation"}[split]
        tasks = raw.tfds_tasks("imagenet_resized/64x64", theirs, SPLITS[split], FILES_A_SHARD)
        origin = {"source": f"TFDS imagenet_resized/64x64 {version}", "note": NOTE}
        return Job(read_tfds, tasks, labelled(INFO.shape), SPLITS[split], origin)
    origin = {"crop": "centre", "resize": "area"}
    for folder in raw.folders(downloads, source):
        archive = folder / ARCHIVES[split]
        if archive.is_file():
            if verify:
                raw.check(archive, MD5[split])
            read, tasks = (read_classes, _classes(archive)) if split == "train" else (read_files, _files(archive))
            return Job(read, tasks, labelled(INFO.shape), SPLITS[split], {"source": archive.name, **origin})
        if (folder / split).is_dir():
            tasks, origin["source"] = _folders(folder / split), f"folder {split}/WNID"
            return Job(read_folders, tasks, labelled(INFO.shape), SPLITS[split], origin)
    other = "; to go without it: --split=train" if split == "val" else ""
    raise UserError(f"no files of imagenet64's {split} split found: {HOW.format(downloads=downloads)}{other}")


def picture(stream: BufferedIOBase | Path, what: object) -> np.ndarray:
    """A JPEG (or what else is called so) -> uint8 [64, 64, 3]. Raises `UserError` naming it where it is damaged."""
    size = INFO.shape[0]
    try:
        with Image.open(stream) as image:
            colours = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} is not a picture that can be read ({error}): download the archive again") from error
    side = min(colours.size)
    left, top = (colours.width - side) // 2, (colours.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(colours.resize((size, size), Image.Resampling.BOX, box))


def read_classes(task: tuple[Path, list[tuple[int, str]]]) -> dict[str, np.ndarray]:
    """(train archive, [(label, tar of its class)]) -> arrays."""

    def found() -> Iterator[tuple[int, np.ndarray]]:
        with _opened(task[0]) as archive:
            tars = {member.name: member for member in archive.getmembers()}
            for label, name in task[1]:
                try:
                    with tarfile.open(fileobj=archive.extractfile(tars[name])) as inner:
                        for member in sorted(inner.getmembers(), key=lambda m: m.name):
                            yield label, picture(inner.extractfile(member), f"{task[0]}: {member.name}")
                except tarfile.TarError as error:
                    raise UserError(f"{task[0]}: {name} is damaged ({error}): download it again") from error

    return _stacked(found())


def read_files(task: tuple[Path, list[tuple[int, str]]]) -> dict[str, np.ndarray]:
    """(val archive, [(label, file)]) -> arrays."""
    path, files = task
    with _opened(path) as archive:
        members = {member.name: member for member in archive.getmembers()}
        return _stacked(
            (label, picture(archive.extractfile(members[name]), f"{path}: {name}")) for label, name in files
        )


def read_folders(task: list[tuple[int, Path]]) -> dict[str, np.ndarray]:
    """[(label, folder of its class)] -> arrays."""
    files = ((label, path) for label, folder in task for path in sorted(folder.iterdir()))
    return _stacked((label, picture(path, path)) for label, path in files if path.suffix.lower() in (".jpeg", ".jpg"))


def read_tfds(task: tuple[str, str, int, int]) -> dict[str, np.ndarray]:
    """TFDS's pictures; its labels are in another order there, by their names in that of the wnids here."""
    arrays = raw.tfds_read(task)
    order = np.argsort(raw.tfds_classes(task[0]))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    return {**arrays, "label": rank[arrays["label"]]}


def _stacked(pictures: Iterable[tuple[int, np.ndarray]]) -> dict[str, np.ndarray]:
    labels, images = zip(*pictures, strict=True)
    return {"x": np.stack(images), "label": np.array(labels, np.int32)}


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError as error:
        raise UserError(f"{path} is no tar archive, or damaged ({error}): download it again") from error


def _names(path: Path) -> list[str]:
    """Of the files in an archive, sorted. Their sizes add up: a truncated one shows here, not hours later."""
    with _opened(path) as archive:
        try:
            members = [member for member in archive.getmembers() if member.isfile()]
        except tarfile.TarError as error:
            raise UserError(f"{path} is damaged ({error}): download it again") from error
    if members and max(m.offset_data + m.size for m in members) > path.stat().st_size:
        raise UserError(f"{path} is truncated: download it again")
    return sorted(member.name for member in members)


def _in_groups(classes: list, what: object) -> list[list[tuple[int, object]]]:
    if len(classes) != INFO.num_classes:
        raise UserError(f"{what} has {len(classes)} classes instead of {INFO.num_classes}: it is not ImageNet-2012's")
    numbered = list(enumerate(classes))
    return [numbered[k : k + CLASSES_A_SHARD] for k in range(0, len(numbered), CLASSES_A_SHARD)]


def _classes(path: Path) -> list[tuple[Path, list]]:
    names = [name for name in _names(path) if re.fullmatch(r"n\d{8}\.tar", Path(name).name)]
    return [(path, group) for group in _in_groups(names, path)]


def _folders(path: Path) -> list[list]:
    return _in_groups(sorted(p for p in path.iterdir() if p.is_dir() and re.fullmatch(r"n\d{8}", p.name)), path)


def _files(path: Path) -> list[tuple[Path, list]]:
    names = [name for name in _names(path) if name.endswith(".JPEG")]
    if len(names) != SPLITS["val"]:
        raise UserError(f"{path} has {len(names):,} pictures instead of {SPLITS['val']:,}: it is not ImageNet-2012's")
    labelled = list(zip(_val_labels(path.parent, names), names, strict=True))
    return [(path, labelled[k : k + FILES_A_SHARD]) for k in range(0, len(labelled), FILES_A_SHARD)]


def _val_labels(folder: Path, names: list[str]) -> list[int]:
    """Of these files. The devkit's ground truth is no help: its numbers 1 .. 1000 are not in the order of wnids."""
    path = next((folder / name for name in LABELS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"no labels of the val pictures: put {' or '.join(LABELS)} into {folder}, or --split=train")
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    try:
        if all(len(words) == 1 for words in lines):
            found = [kind for (kind,) in lines]
        else:
            of = {Path(file).name: kind for file, kind in lines}
            found = [of[Path(name).name] for name in names]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: a line is not as expected, or a picture has none ({error})") from error
    numbers, wnids = [str(k) for k in range(INFO.num_classes)], sorted(set(found))
    classes = numbers if set(found) == set(numbers) and len(lines[0]) == 2 else wnids
    if len(found) != len(names) or len(classes) != INFO.num_classes:
        raise UserError(f"{path} has {len(found):,} labels of {len(classes)} classes; not ImageNet-2012's")
    if classes is wnids and not all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids):
        raise UserError(f"{path}: classes must be wnids such as n01440764, or 0 .. {INFO.num_classes - 1}")
    index = {kind: k for k, kind in enumerate(classes)}
    return [index[kind] for kind in found]
