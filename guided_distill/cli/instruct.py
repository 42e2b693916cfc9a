"""Edit images as they are told to, with a network that is shown them (InstructPix2Pix).

    python -m guided_distill instruct runs/digits_edits_stage2 --images=data:digits --labels=1 --steps=4
    python -m guided_distill instruct runs/styles_stage2 --images=cat.png --prompt="in noto style" --guidance_image=1

--guidance is how strictly the instruction is followed, --guidance_image how strictly the image is kept to, both w: 0 is
none (docs/editing.md). A .png is a sheet of before and after; an .npz holds `images`, uint8 [n, h, w, c].
"""

import argparse

import guided_distill
from guided_distill import editing
from guided_distill.cli import _images
from guided_distill.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `instruct`."""
    parser.add_argument("run", help="run directory")
    parser.add_argument("--guidance_image", type=float, help="w by the image (default: as the run recommends)")
    _images.add_arguments(parser)
    _images.add_told(parser)


def main(args: argparse.Namespace) -> None:
    """Writes args.out."""
    if args.negative:
        raise UserError("--negative: an instruction is led away from the image and from nothing, not from a caption")
    run = guided_distill.load(args.run, args.step)
    images = _images.read(args, run)
    told = _images.told(args, len(images))
    if len(told) > 1:
        raise UserError("--labels and --prompt: an instruction is one of the two")
    instruction = next(iter(told.values()), None)
    how = (args.steps, args.guidance, args.guidance_image, args.seed, args.sampler)
    out = editing.instruct(run, images, instruction, *how)
    _images.write(args, {"before": images, "after": out}, "as instructed")
