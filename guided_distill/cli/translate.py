"""Translate images: encode them as one class or caption, decode them as another, structure kept.

    python -m guided_distill translate runs/digits_stage2-encoding runs/digits_stage2 --images=data:digits \\
        --source=3 --target=8 --steps=4 --out=translated.png

ENCODER is a distilled encoder (`:encoding` of a stage two), or a run that takes any number of steps: a teacher, a stage
one. Both runs must have the same schedule and codec. --source and --target are classes, one or several, in turn, or
captions where the runs read text (docs/editing.md).
"""

import argparse

import numpy as np

import guided_distill
from guided_distill import editing
from guided_distill.cli import _images, numbers
from guided_distill.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `translate`."""
    parser.add_argument("encoder", metavar="ENCODER", help="run directory")
    parser.add_argument("decoder", metavar="DECODER", help="run directory")
    parser.add_argument("--source", help="what the images are: 3 or 3,8, or a caption")
    parser.add_argument("--target", help="what they are to be")
    parser.add_argument("--encode_steps", type=int, help="of the encoder (default: as it recommends)")
    _images.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Writes args.out."""
    encoder, decoder = guided_distill.load(args.encoder), guided_distill.load(args.decoder)
    images = _images.read(args, decoder)
    source, target = (
        _spoken(run, given, len(images)) for run, given in ((encoder, args.source), (decoder, args.target))
    )
    out = editing.translate(encoder, decoder, images, source, target, args.encode_steps, args.steps, args.guidance)
    _images.write(args, {"before": images, "after": out}, f"{args.source} -> {args.target}")


def _spoken(run: Run, given: str | None, num: int) -> np.ndarray | str | None:
    """Classes for a run that knows them, else the caption."""
    if given is None or not run.manifest["num_classes"]:
        return given
    return np.resize(np.asarray(numbers(given, int)), num)
