"""Make a run of a folder that diffusers wrote, to be sampled from or distilled (docs/interchange.md).

    python -m guided_distill import stable-diffusion-v1-5 runs/sd15
    python -m guided_distill import unet.safetensors runs/ldm --preset=ldm_imagenet256 --vae=vq-f4 --scale=1 \\
        --scheduler=scheduler_config.json --class-tokens=tokens.safetensors --resolution=256
"""

import argparse

from guided_distill import runs
from guided_distill.cli import numbers
from guided_distill.errors import UserError
from guided_distill.interchange import import_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `import`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", help="a folder with unet, vae, scheduler and so on, or the U-Net's .safetensors")
    parser.add_argument("run", help="a new run directory")
    for name in ("vae", "text-encoder", "tokenizer", "scheduler"):
        parser.add_argument(f"--{name}", metavar="PATH", help=f"the {name} from elsewhere")
    parser.add_argument("--class-tokens", metavar="PATH", help="LDM's table of classes, a .safetensors of one array")
    parser.add_argument("--preset", help="of the network, where no config.json is beside the U-Net: sd1, sd2, ...")
    parser.add_argument("--prediction", help="eps, v or x, where the scheduler does not say it")
    parser.add_argument("--scale", type=float, help="of latents, where the autoencoder does not say it")
    parser.add_argument("--resolution", type=int, help="side of the images in pixels, where the U-Net does not say it")
    parser.add_argument("--w-range", help="0,13: the w that a U-Net with an input for it was trained for")
    parser.add_argument("--data", default="unknown", help="a data set to measure it by")


def main(args: argparse.Namespace) -> None:
    """Writes args.run."""
    options = ("vae", "text_encoder", "tokenizer", "scheduler", "class_tokens", "preset", "prediction", "scale")
    given = {name: getattr(args, name) for name in (*options, "resolution", "data")}
    w_range = tuple(numbers(args.w_range)) if args.w_range else None
    if w_range and len(w_range) != 2:
        raise UserError(f"--w-range {args.w_range} is not two numbers such as 0,13")
    for note in import_pipeline(args.source, args.run, w_range=w_range, **given):
        print(f"note: {note}")
    said = ' --prompt="..."' if runs.read_manifest(args.run).get("text") else ""
    print(f"{args.source} -> {args.run}; try: python -m guided_distill sample {args.run} --num=4{said}")
