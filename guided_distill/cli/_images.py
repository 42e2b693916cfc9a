"""What the verbs that take images share: reading them, writing what became of them."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill import codecs, image_sets, pictures
from guided_distill.cli import natural, numbers
from guided_distill.errors import UserError
from guided_distill.runs import Run
from guided_distill.scoring.sets import Draw, opened

SHOWN = 20
"""Images that are taken for a sheet, unless it is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--images, --num, --steps, --guidance, --out."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", required=True, help="a picture, a folder of them, .npz, or data:NAME[:SPLIT]")
    parser.add_argument("--num", type=int, help=f"the first so many (default: {SHOWN} for a .png, all for an .npz)")
    parser.add_argument("--steps", type=int, help="of a halved chain's student, or that are run (default: the run's)")
    parser.add_argument("--guidance", type=float, help="w, 0 is no guidance (default: as recommended)")
    parser.add_argument("--out", type=Path, help="a .png, before and after, or an .npz (default VERB.png)")


def add_told(parser: argparse.ArgumentParser) -> None:
    """--labels, --prompt, --negative, --sampler, --seed, --step: of a verb with one run."""
    parser.add_argument("--labels", help="one class or several, in turn: 3 or 3,8")
    parser.add_argument("--prompt", action="append", help="a caption; give several for several, in turn")
    parser.add_argument("--negative", help="a caption to lead away from (teachers only)")
    parser.add_argument("--sampler", help="of a run that is no halved chain (default: its own)")
    parser.add_argument("--seed", type=natural, default=0, help="image k depends on it and k (default 0)")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")


def told(args: argparse.Namespace, num: int) -> dict[str, Any]:
    """What `add_told` was given, for `num` images."""
    labels = None if args.labels is None else np.resize(np.asarray(numbers(args.labels, int)), num)
    prompts = None if args.prompt is None else [args.prompt[k % len(args.prompt)] for k in range(num)]
    given = {"labels": labels, "prompts": prompts, "negative_prompt": args.negative}
    return {name: value for name, value in given.items() if value is not None}


def read(args: argparse.Namespace, run: Run) -> np.ndarray:
    """float32 [n, *shape] of --images; grey ones are taken for colour where the run has colour. Checks --out, too.
    Raises `UserError` for what is not there, or is no image."""
    args.out = args.out or Path(f"{args.verb}.png")
    if args.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out {args.out} must end in .png or .npz")
    num = SHOWN if args.num is None and args.out.suffix == ".png" else args.num
    if num is not None and num < 1:
        raise UserError(f"--num {num} is not positive")
    channels = run.manifest["shape"][-1]
    path = Path(args.images)
    if path.is_file() and path.suffix != ".npz":
        return codecs.to_float(image_sets.pixels(path, channels == 1)[None])
    found = opened(args.images).drawn(Draw(num), 0)
    if found is None:
        raise UserError(f"{args.images} holds features; expected images")
    images = codecs.to_float(found.read(0, min(len(found), num or len(found))))
    grey = images.ndim == 4 and images.shape[-1] == 1 and channels == 3
    return images.repeat(3, -1) if grey else images


def write(args: argparse.Namespace, rows: dict[str, np.ndarray], said: str, **more: Any) -> None:
    """`rows`, the result last, as a sheet or, the result alone and `more`, as an npz; prints what was done."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = list(rows.values())[-1]
    if args.out.suffix == ".png":
        pictures.save_sheet(args.out, rows)
    else:
        np.savez(args.out, images=codecs.to_uint8(result) if result.ndim == 4 else result, **more)
    print(f"{len(result)} images of {args.images}, {said} -> {args.out}")
