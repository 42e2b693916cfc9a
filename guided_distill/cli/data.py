"""Data sets: list them, look at one, prepare one, encode one.

    python -m guided_distill data list
    python -m guided_distill data prepare fashion_mnist
    python -m guided_distill data prepare imagenet64 --source=/data/imagenet --workers=16 --verify
    python -m guided_distill data show fashion_mnist --out=sheet.png --verify
    python -m guided_distill data encode data:emoji:size=64 --name=emoji64 --codec=codec:kl_vae:weights=runs/vae \\
        --text=text:minilm

They are kept in $GUIDED_DISTILL_DATA (default: guided_distill/data in the user's cache), and what they are prepared
from is looked for in downloads/NAME there. A preparation that was stopped goes on where it was, and a shard that is
damaged is made anew.
"""

import argparse
import inspect
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console
from rich.table import Table

from guided_distill import data, latents, pictures, plugins, shards
from guided_distill.codecs import to_float
from guided_distill.errors import UserError, one_of
from guided_distill.plugins import names, resolve

OPTIONS = ("download", "verify", "tfds_resized")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `data`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(act=list_all)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | show | prepare | encode")
    actions.add_parser("list", help="all of them, and whether they are ready").set_defaults(act=list_all)

    show_parser = actions.add_parser("show", help="shape, counts, licence and pictures of one")
    show_parser.add_argument("name", help="data set: NAME, or NAME:KEY=VALUE..., encoded:of=emoji64")
    show_parser.add_argument("--split", default="train", help="(default train)")
    show_parser.add_argument("--out", type=Path, help="a .png for a sheet of 100 examples, ordered by class")
    show_parser.add_argument("--verify", action="store_true", help="read every shard and compare its sha256")
    show_parser.set_defaults(act=show)

    prepare_parser = actions.add_parser("prepare", help="make the shards of one from what its authors publish")
    prepare_parser.add_argument("name", help="data set")
    prepare_parser.add_argument("--source", type=Path, help="where its files are (default: downloads/NAME)")
    prepare_parser.add_argument("--split", help="only this one (default: all)")
    prepare_parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    prepare_parser.add_argument("--download", action="store_true", help="fetch what is missing")
    prepare_parser.add_argument("--verify", action="store_true", help="check the md5 of large archives too")
    prepare_parser.add_argument("--tfds_resized", action="store_true", help="imagenet64 of TFDS: not comparable")
    prepare_parser.set_defaults(act=prepare)

    encode_parser = actions.add_parser("encode", help="run a codec and a text encoder over one, once")
    encode_parser.add_argument("source", help="data:NAME[:SPLIT][:KEY=VALUE...]")
    encode_parser.add_argument("--name", required=True, help="of the encoded set: data set encoded, of=NAME")
    encode_parser.add_argument("--codec", required=True, help="codec:NAME[:KEY=VALUE...], codec:kl_vae:weights=PATH")
    encode_parser.add_argument("--text", help="text:NAME[:KEY=VALUE...], for captions: text:minilm")
    encode_parser.add_argument("--mirrored", action="store_true", help="every image and its mirror image")
    encode_parser.add_argument("--per_shard", type=int, default=2048, help="images (default 2048)")
    encode_parser.add_argument("--share", default="0/1", help="K/N: every N-th shard from the K-th on (default 0/1)")
    encode_parser.set_defaults(act=encode)
    for action in (show_parser, prepare_parser, encode_parser):
        action.add_argument("--directory", help="where data sets are kept (what `encode` reads, too)")


def main(args: argparse.Namespace) -> None:
    """Does what the action says."""
    args.act(args)


def list_all(args: argparse.Namespace) -> None:
    """A row for each data set; what is not ready with the command that makes it so."""
    table = Table()
    for column in ("data set", "shape", "classes", "licence", "ready"):
        table.add_column(column, overflow="fold")
    for name in names("data"):
        info, ready = getattr(resolve("data", name), "INFO", None), "yes"
        try:
            source = data.load(name)
            info, ready = source.info, f"{len(source):,} in train"
        except shards.NotPrepared:
            ready = f"no: python -m guided_distill data prepare {name}"
        except UserError as error:
            ready = f"no: {error}"
        shape, classes, licence = (info.shape, info.num_classes, info.licence) if info else ("?", "?", "?")
        table.add_row(name, str(shape), str(classes), licence, ready)
    _print(table)


def show(args: argparse.Namespace) -> None:
    """What is known of a split; its sheet, if asked for."""
    if args.out and args.out.suffix != ".png":
        raise UserError(f"--out {args.out} must end in .png")
    spec = plugins.spec(f"data:{args.name}", "data", "name") | {"split": args.split}
    module = resolve("data", spec["name"])
    spec |= _where(module, args.directory)
    source = data.load(**spec)
    info, first = source.info, source[:1]["x"]
    table = Table(show_header=False, title=f"{args.name}: {args.split}", title_justify="left")
    table.add_row("examples", f"{len(source):,}")
    table.add_row("shape", f"{info.shape} {first.dtype}")
    if info.num_classes:
        table.add_row("classes", f"{info.num_classes}: {_counts(source.class_counts())}")
    table.add_row("mirrored in training", "yes" if info.flip else "no")
    for key in ("licence", "homepage", "note"):
        if getattr(info, key):
            table.add_row(key, getattr(info, key))
    if hasattr(module, "job") or "of" in spec:
        place = f"{shards.ENCODED}/{spec['of']}" if "of" in spec else spec["name"]
        directory = shards.root(args.directory) / place / args.split
        found = shards.Shards(directory)
        table.add_row("made from", found.origin["source"])
        table.add_row("kept in", str(directory))
        if args.verify:
            found.verify()
            table.add_row("sha256", "verified")
    _print(table)
    if args.out:
        images = data.images(**spec)
        batch = next(data.batches(images, min(100, len(images)), seed=0))
        order = np.argsort(batch["label"], kind="stable") if "label" in batch else slice(None)
        pictures.save_grid(
            args.out, to_float(batch["x"][order]), labels=batch["label"][order] if info.num_classes else None
        )
        print(f"-> {args.out}")


def prepare(args: argparse.Namespace) -> None:
    """Writes the shards of one split, or of all."""
    module = resolve("data", args.name)
    if not hasattr(module, "job"):
        raise UserError(f"{args.name} needs no preparation")
    if args.workers < 1:
        raise UserError(f"--workers={args.workers} is not positive")
    options = {option: True for option in OPTIONS if getattr(args, option)}
    known = inspect.signature(module.job).parameters
    for option in options:
        one_of(f"option of data set {args.name}", f"--{option}", [f"--{o}" for o in OPTIONS if o in known])
    if args.split:
        one_of(f"split of {args.name}", args.split, module.SPLITS)
    raw = data.downloads(args.name, args.directory)
    jobs = {
        split: module.job(split, raw, args.source, **options)
        for split in ([args.split] if args.split else module.SPLITS)
    }
    for split, job in jobs.items():
        directory = shards.root(args.directory) / args.name / split
        made = shards.write(directory, job, args.workers)
        note = f" ({job.origin['note']})" if "note" in job.origin else ""
        print(f"{args.name} {split}: {len(made):,} examples from {job.origin['source']}{note} -> {directory}")


def encode(args: argparse.Namespace) -> None:
    """Writes the encoded shards of a split, or this process's share of them."""
    found = re.fullmatch(r"(\d+)/(\d+)", args.share)
    if not found or not (share := tuple(map(int, found.groups())))[0] < share[1]:
        raise UserError(f"--share={args.share} is not K/N with K below N")
    if args.per_shard < 1:
        raise UserError(f"--per_shard={args.per_shard} is not positive")
    spec = {"split": "train"} | plugins.spec(args.source, "data", "name", "split")
    reads = plugins.spec(args.text, "text", "name") if args.text else None
    encoders = latents.Encoders(plugins.spec(args.codec, "codec", "name"), reads)
    options = args.directory, args.per_shard, args.mirrored, share
    where = inspect.signature(resolve("data", spec["name"]).make).parameters
    spec |= {"directory": args.directory} if args.directory and "directory" in where else {}
    made = latents.write(data.load(**spec), spec, encoders, args.name, *options)
    if made is None:
        print(f"share {args.share} of {args.name} is done; others are not")
        return
    print(f"{args.name} {spec['split']}: {len(made):,} examples of {args.source} -> {made.directory}")


def _where(module: ModuleType, directory: str | None) -> dict[str, str]:
    if directory is not None and "directory" not in inspect.signature(module.make).parameters:
        raise UserError(f"{module.__name__.split('.')[-1]} is not kept in a directory")
    return {} if directory is None else {"directory": directory}


def _counts(counts: np.ndarray) -> str:
    """ "6,000 of each", all of a few, or the least and the most of many."""
    low, high = counts.min(), counts.max()
    if low == high:
        return f"{low:,} of each"
    return ", ".join(f"{count:,}" for count in counts) if len(counts) <= 20 else f"{low:,} to {high:,} of each"


def _print(table: Table) -> None:
    Console(width=None if Console().is_terminal else 180).print(table)
