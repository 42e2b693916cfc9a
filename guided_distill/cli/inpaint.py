"""Inpaint: paint images anew under a mask, and leave the rest exactly as it is.

    python -m guided_distill inpaint runs/digits_stage2 --images=data:digits --mask=half --steps=4 --labels=0,1,2,3
    python -m guided_distill inpaint runs/emoji_stage2 --images=cat.png --mask=mask.png --prompt="cat, noto"

--mask: a picture of the run's size, white where to paint; half, the right one; centre, a square of half the side. A run
that was trained with masks is shown this one, and one step is enough. Any other takes each step --resample times, so
that what is painted comes to agree with what is there (docs/editing.md).
"""

import argparse
from pathlib import Path

import numpy as np

import guided_distill
from guided_distill import editing, image_sets
from guided_distill.cli import _images
from guided_distill.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `inpaint`."""
    parser.add_argument("run", help="run directory")
    parser.add_argument("--mask", required=True, help="a picture, white where to paint; half; centre")
    parser.add_argument("--resample", type=int, help=f"how often each step is taken (default {editing.RESAMPLE})")
    _images.add_arguments(parser)
    _images.add_told(parser)


def main(args: argparse.Namespace) -> None:
    """Writes args.out."""
    run = guided_distill.load(args.run, args.step)
    images = _images.read(args, run)
    if args.mask in editing.MASKS:
        mask = editing.MASKS[args.mask](tuple(run.manifest["shape"]))
    elif not Path(args.mask).is_file():
        raise UserError(f"no mask {args.mask!r}: give {', '.join(editing.MASKS)}, or a picture")
    else:
        mask = image_sets.pixels(Path(args.mask), True)[..., 0] > 127
    told = _images.told(args, len(images))
    how = (args.steps, args.resample, args.guidance, args.seed, args.sampler)
    out = editing.inpaint(run, images, mask, *how, **told)
    masked = np.where(np.broadcast_to(editing.masks_of(run, mask, len(images))[0], images.shape), 0, images)
    rows = {"before": images, "masked": masked.astype(np.float32), "after": out}
    sees = "mask" in run.manifest.get("channels", ())
    said = "the mask shown" if sees else f"each step taken {args.resample or editing.RESAMPLE} times"
    _images.write(args, rows, said, mask=mask)
