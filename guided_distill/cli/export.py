"""Write a run as a folder that diffusers opens, with its card (docs/interchange.md).

python -m guided_distill export runs/sd15_stage2 sd15-4-steps --steps=4
"""

import argparse
from pathlib import Path

import guided_distill
from guided_distill.interchange import export_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `export`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="run directory, of a latent_unet")
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--steps", type=int, help="which student of a halved chain (default: what it recommends)")


def main(args: argparse.Namespace) -> None:
    """Writes args.folder."""
    for note in export_pipeline(guided_distill.load(args.run), args.folder, args.steps):
        print(f"note: {note}")
    print(f"{args.run} -> {args.folder}; how to run it stands in {args.folder / 'README.md'}")
