"""Pairs of pictures: every system is asked for the same labels (and, if wished, from the same noise), and what it
makes is stored so that nothing but the picture tells whose it is."""

import dataclasses
import io
import itertools
import re
import secrets
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from guided_distill import data, evaluate, image_sets, presets, runs
from guided_distill.codecs import require_finite, to_uint8
from guided_distill.comparison import FORMAT, Comparison, load
from guided_distill.errors import UserError
from guided_distill.files import write_json
from guided_distill.image_sets import ImageSet

QUESTION = "Which picture is better?"
OPTIONS = {"steps": int, "w": float, "sampler": str, "preset": str, "seconds": float}
TIMED = 5  # Single pictures that are timed, after one that compiles; the median stands.


@dataclasses.dataclass(frozen=True)
class System:
    """One side of the comparison: a run with what it is asked for, or pictures: a folder, or an npz of `images` and
    perhaps `labels`. What is not said is as the run's `preset` has it, or as the run recommends. `seconds`: to the
    first picture, where it is known; runs are timed."""

    name: str
    source: Path
    steps: int | None = None
    w: int | float | None = None
    sampler: str | None = None
    preset: str | None = None
    seconds: int | float | None = None

    @property
    def is_run(self) -> bool:
        """Whether there is a manifest."""
        return (self.source / "manifest.json").is_file()


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pictures of a system, uint8 [n, h, w, 3], and what comparison.json says of it."""

    images: UInt8[np.ndarray, "n h w 3"]
    told: dict


def parse(text: str) -> System:
    """ "student=runs/x,steps=4,w=1" -> System. Raises `UserError` for what it cannot read."""
    name, equals, rest = text.partition("=")
    source, *options = rest.split(",")
    if not equals or not source or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(
            f"--system {text!r} is not NAME=RUN_OR_FOLDER[,steps=4,w=1,sampler=ddim,preset=fast,seconds=0.5]"
        )
    found = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in OPTIONS:
            raise UserError(f"--system {name}: unknown option {key!r}; valid: {', '.join(OPTIONS)}")
        try:
            found[key] = OPTIONS[key](value)
        except ValueError:
            raise UserError(f"--system {name}: {key}={value!r} is not {OPTIONS[key].__name__}") from None
    return System(name, Path(source), **found)


def make(
    out: str | Path,
    systems: Sequence[System],
    num: int = 100,
    seed: int = 0,
    same_noise: bool = False,
    question: str = QUESTION,
) -> Comparison:
    """Draws `num` pairs in all into `out`: with more than two systems, every two of them in turn.

    The pictures of a pair are the same number of either system's sequence: the same label, and with `same_noise` the
    same noise, where codes have one shape. No picture is in two pairs, so pairs are independent. Raises
    `UserError` before anything is written: for fewer than two systems, two of a name, sizes or labels that differ, too
    few pictures in a folder, and where there is a comparison already.
    """
    out, rng = Path(out), np.random.default_rng([seed, 0])
    _check(out, systems, num)
    matches = list(itertools.combinations(systems, 2))
    each = -(-num // len(matches))
    starts = _starts(len(systems), each)
    needed = max(starts) + each
    labels, prompts = _labels(systems, needed), _prompts(systems, needed)
    drawn = {}
    for system in systems:
        print(f"{system.name}: {needed} pictures of {system.source}", flush=True)
        drawn[system.name] = draw(system, needed, seed if same_noise else int(rng.integers(2**31)), labels, prompts)
    shapes = {name: found.images.shape[1:3] for name, found in drawn.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {h}x{w}" for name, (h, w) in shapes.items())
        raise UserError(
            f"pictures differ in size, which would tell whose they are: {told}; bring them to one size first"
        )
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # What is in it tells whose a picture is.
    (out / "images").mkdir(exist_ok=True)
    pairs = []
    for k in range(num):
        sides, index = matches[k % len(matches)], starts[k % len(matches)] + k // len(matches)
        images = [secrets.token_hex(12) for _ in sides]
        for system, image in zip(sides, images, strict=True):
            (out / "images" / f"{image}.png").write_bytes(encoded(drawn[system.name].images[index]))
        label = None if labels is None else int(labels[index])
        pairs.append({"id": secrets.token_hex(12), "label": label, "index": index})
        pairs[-1] |= {"caption": prompts[index]} if prompts else {}
        pairs[-1] |= {"systems": [system.name for system in sides], "images": images}
    told = {"format": FORMAT, "seed": seed, "same_noise": same_noise, "question": question}
    told |= {"salt": secrets.token_hex(16), "systems": {name: found.told for name, found in drawn.items()}}
    write_json(out / "comparison.json", {**told, "pairs": pairs})
    return load(out)


def _check(out: Path, systems: Sequence[System], num: int) -> None:
    names = [system.name for system in systems]
    if len(systems) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"a comparison needs two systems or more, each of its own name; got {', '.join(names) or 'none'}"
        )
    if num < 1:
        raise UserError(f"num {num} is not positive")
    if (out / "comparison.json").exists():
        raise UserError(f"there is a comparison in {out}, perhaps with votes: take another directory, or delete it")


def _starts(systems: int, each: int) -> list[int]:
    """Where in all systems' sequences the `each` pictures of every two systems begin, so that no system shows one of
    its pictures twice: matches of one sum, modulo their number, have no system in common."""
    sums = [sum(match) % systems for match in itertools.combinations(range(systems), 2)]
    return [sorted(set(sums)).index(found) * each for found in sums]


def _labels(systems: Sequence[System], num: int) -> np.ndarray | None:
    """What all systems show, [num]: as the npz files say, else all classes in turn; None where there are no classes.
    Raises `UserError` where they differ."""
    given, classes, bare = {}, {}, []
    for system in systems:
        if system.is_run:
            if count := runs.read_manifest(system.source)["num_classes"]:
                classes[system.name] = np.arange(num) % count
            else:
                bare.append(system.name)
        elif (labels := _pictures(system)[1]) is not None:
            given[system.name] = labels[:num]
    if classes and bare:
        raise UserError(f"{next(iter(classes))} knows classes and {bare[0]} does not, so their pictures make no pairs")
    (first, labels), *others = (given or classes or {"": None}).items()
    for name, found in others:
        if not np.array_equal(found, labels):
            raise UserError(f"{first} and {name} are not of the same labels, so their pictures make no pairs")
    return labels


def _prompts(systems: Sequence[System], num: int) -> list[str] | None:
    """The captions that all runs are asked for, [num]: of the data of the first that knows some; None where no run
    reads any. Raises `UserError` where some runs read captions and others do not."""
    read = [(system, runs.read_manifest(system.source)) for system in systems if system.is_run]
    texts = [bool(manifest.get("text")) for _, manifest in read]
    if len(set(texts)) > 1:
        raise UserError("some of the runs read captions and others do not, so their pictures make no pairs")
    if not any(texts):
        return None
    known = next((m for _, m in read if m["data"]["name"] != "unknown"), None)
    if known is None:
        raise UserError("no run knows a data set whose captions could be asked for: import one with --data=NAME")
    return evaluate.told(known, data.images(**known["data"]), num)["prompts"]


def draw(system: System, num: int, seed: int, labels: np.ndarray | None, prompts: Sequence[str] | None = None) -> Drawn:
    """The first `num` pictures of a system. Raises `UserError` where it has none, or too few."""
    if system.is_run:
        return _draw_run(system, num, seed, labels, prompts)
    if unused := [key for key in ("steps", "w", "sampler", "preset") if getattr(system, key) is not None]:
        raise UserError(f"--system {system.name}: {system.source} is not a run, so it takes no {', '.join(unused)}")
    pictures, _ = _pictures(system)
    if len(pictures.shape) != 3:
        raise UserError(f"{system.source} holds points: no pictures")
    if len(pictures) < num:
        raise UserError(f"{system.source} has {len(pictures)} pictures; {num} are needed, or a smaller --num")
    told = {"source": str(system.source), "run": False, "steps": None, "guidance": None, "sampler": None}
    return Drawn(rgb(pictures.read(0, num)), told | {"seconds": system.seconds})


def _draw_run(system: System, num: int, seed: int, labels: np.ndarray | None, prompts: Sequence[str] | None) -> Drawn:
    run = runs.load(system.source)
    if len(run.manifest["shape"]) != 3:
        raise UserError(f"samples of {system.source} have shape {tuple(run.manifest['shape'])}: no pictures")
    labels = labels if run.manifest["num_classes"] else None
    preset = presets.named(system.source, system.preset) if system.preset else {}
    asked = {
        "steps": (preset.get("steps") or run.default_steps()) if system.steps is None else system.steps,
        "guidance": preset.get("guidance", run.manifest["recommended"]["guidance"]) if system.w is None else system.w,
        "sampler": system.sampler or preset.get("sampler") or run.manifest["sampler"],
        "seed": seed,
    }
    images = run.sample(num, labels=labels, prompts=prompts, **asked)
    require_finite(images, system.source)
    seconds = system.seconds
    if seconds is None:
        one = {**asked, "labels": None if labels is None else labels[:1], "prompts": prompts and prompts[:1]}
        run.sample(1, **one)
        seconds = statistics.median(_timed(lambda: run.sample(1, **one)) for _ in range(TIMED))
    return Drawn(rgb(to_uint8(images)), {"source": str(system.source), "run": True, **asked, "seconds": seconds})


def _timed(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _pictures(system: System) -> tuple[ImageSet, np.ndarray | None]:
    """(pictures of a folder or an npz, labels of the npz if it has some)."""
    if system.source.is_dir():
        return image_sets.of_folder(system.source), None
    if system.source.suffix != ".npz":
        raise UserError(f"--system {system.name}: {system.source} is no run, no folder of pictures and no .npz")
    try:
        with np.load(system.source) as file:
            found = {name: file[name] for name in file.files}
        images, labels = image_sets.of_npz(system.source, found["images"]), found.get("labels")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"--system {system.name}: cannot read images in {system.source}: {error}") from error
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(images),)):
        told = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"--system {system.name}: labels in {system.source} are {told}; expected an integer a picture")
    return images, labels


def rgb(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Grey as red, green and blue, so that a file's kind tells nothing."""
    return np.broadcast_to(images[..., : 3 if images.shape[-1] >= 3 else 1], (*images.shape[:3], 3))


def encoded(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A PNG that is not compressed: as many bytes for a sharp picture as for a blurred one, and nothing else in it."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "png", compress_level=0)
    return buffer.getvalue()
