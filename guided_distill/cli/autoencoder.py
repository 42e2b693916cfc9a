"""Train an autoencoder on images, as a codec for a latent space of their own.

    python -m guided_distill autoencoder data:emoji:size=64 runs/emoji_vae --widths=32,64,64 --latent=4 --updates=6000

Leaves a folder that codec kl_vae (weights=runs/emoji_vae) and diffusers read, with the scale that gives codes unit
deviation, and restored.png: images above, what comes back below. Run again, it goes on where it stopped.
"""

import argparse
import dataclasses
from pathlib import Path

from guided_distill import autoencoding, data, plugins
from guided_distill.cli import numbers

HELP = {
    "widths": "channels of the levels, each half the resolution of the one before",
    "latent": "channels of a code",
    "layers": "residual blocks of a level",
    "groups": "of norms; widths divide by it",
    "power": "of the error: 1 or 2",
    "kl_weight": "of KL(code || standard normal)",
    "ema": "decay of the moving average, which is what is kept",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `autoencoder`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", help="data:NAME[:SPLIT][:KEY=VALUE...]")
    parser.add_argument("out", type=Path, help="folder")
    for field in dataclasses.fields(autoencoding.Settings):
        kind = str if field.name == "widths" else type(field.default)
        shown = ",".join(map(str, field.default)) if field.name == "widths" else field.default
        parser.add_argument(f"--{field.name}", type=kind, help=f"{HELP.get(field.name, '')} (default {shown})".strip())


def main(args: argparse.Namespace) -> None:
    """Trains, from where it stopped."""
    fields = [field.name for field in dataclasses.fields(autoencoding.Settings)]
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    if "widths" in given:
        given["widths"] = tuple(numbers(given["widths"], int))
    source = data.images(**plugins.spec(args.source, "data", "name", "split"))
    autoencoding.train(source, args.out, autoencoding.Settings(**given))
    print(f"-> {args.out}")
