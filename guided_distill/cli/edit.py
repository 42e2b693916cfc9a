"""Edit images: noise them part of the way, and denoise them as another class or by a caption (SDEdit).

    python -m guided_distill edit runs/digits_stage2 --images=data:digits --strength=0.5 --steps=4 --labels=3
    python -m guided_distill edit runs/emoji_stage2 --images=cat.png --strength=0.75 --prompt="cat, noto" --out=cat.npz

--strength 1 begins at noise, less keeps more of the image. A halved chain's student of N steps knows multiples of 1/N:
the strength is rounded to one of them, and N times as many steps are run (docs/editing.md). A .png is a sheet of before
and after; an .npz holds `images`, uint8 [n, h, w, c], and `strength`.
"""

import argparse

import numpy as np

import guided_distill
from guided_distill import editing
from guided_distill.cli import _images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `edit`."""
    parser.add_argument("run", help="run directory")
    parser.add_argument("--strength", type=float, default=0.5, help="in (0, 1] (default 0.5)")
    _images.add_arguments(parser)
    _images.add_told(parser)


def main(args: argparse.Namespace) -> None:
    """Writes args.out."""
    run = guided_distill.load(args.run, args.step)
    images = _images.read(args, run)
    told = _images.told(args, len(images))
    found = editing.edit(run, images, args.strength, args.steps, args.guidance, args.seed, args.sampler, **told)
    said = f"strength {found.strength:g} in {found.steps} steps"
    _images.write(args, {"before": images, "after": found.images}, said, strength=np.float32(found.strength))
