"""Draw samples from a run, as a PNG grid or an npz file.

    python -m guided_distill sample runs/digits_stage2 --steps=4 --guidance=1 --labels=3,8 --out=grid.png
    python -m guided_distill sample runs/digits_stage2 --preset=fast
    python -m guided_distill sample runs/emoji_stage2 --prompt="red apple, noto" --steps=4 --guidance=3 --num=8

An npz holds `images` (uint8 [n, h, w, c]; points: float32 [n, 2]), `guidance`, and `labels` or `prompts` where there
are any. What is not said is as the run recommends, or as a preset says that `sweep` has left in the run
(docs/presets.md).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import guided_distill
from guided_distill import conditions, pictures, presets
from guided_distill.cli import natural, numbers
from guided_distill.codecs import to_uint8
from guided_distill.errors import UserError
from guided_distill.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `sample`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="run directory")
    parser.add_argument("--num", type=int, help="samples (default 100; of captions 20, or one for each --prompt)")
    parser.add_argument("--preset", help="preview, fast or quality, as `sweep` chose them; the flags below go first")
    parser.add_argument("--steps", type=int, help="sampling steps; a halved chain has those that it was trained for")
    parser.add_argument("--guidance", type=float, help="w, 0 is no guidance")
    parser.add_argument("--prompt", action="append", help="a caption; give several for several, in turn")
    parser.add_argument("--negative", help="a caption to lead away from (teachers only)")
    parser.add_argument("--labels", help="one class or several, in turn: 3 or 3,8 (default: all in turn)")
    parser.add_argument("--sampler", help="ddim, ancestral, stochastic, consistency, heun or dpmpp_2m")
    parser.add_argument("--seed", type=natural, default=0, help="sample k depends on it and k alone (default 0)")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--columns", type=int, help="of the grid")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="a .png or .npz (default samples.png)")


def main(args: argparse.Namespace) -> None:
    """Writes args.out."""
    if args.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out {args.out} must end in .png or .npz")
    if args.columns is not None and args.columns < 1:
        raise UserError(f"--columns={args.columns} is not positive")
    run = guided_distill.load(args.run, args.step)
    if args.num is None:
        args.num = len(args.prompt or range(20)) if run.manifest.get("text") else 100
    if args.preset:
        fill_in(args, run)
    labels = None
    if args.labels:
        labels = np.resize(np.asarray(numbers(args.labels, int)), max(args.num, 0))
    if args.prompt and len(args.prompt) > args.num:
        raise UserError(f"--num={args.num} is less than the {len(args.prompt)} prompts that are given")
    prompts = [args.prompt[k % len(args.prompt)] for k in range(args.num)] if args.prompt else None
    prompts = conditions.prompts_of(run.manifest, max(args.num, 0), prompts, run.dir)
    asked = {"prompts": prompts, "negative_prompt": args.negative}
    samples = run.sample(args.num, args.steps, args.guidance, labels, args.seed, args.sampler, **asked)
    if labels is None and run.manifest["num_classes"]:
        labels = np.arange(args.num) % run.manifest["num_classes"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".png":
        pictures.save_grid(args.out, samples, args.columns, labels)
    else:
        w = run.manifest["recommended"]["guidance"] if args.guidance is None else args.guidance
        images = to_uint8(samples) if samples.ndim == 4 else samples
        extra = {} if labels is None else {"labels": labels.astype(np.int32)}
        extra |= {} if prompts is None else {"prompts": np.array(prompts)}
        np.savez(args.out, images=images, guidance=np.full(args.num, w, np.float32), **extra)
    print(f"{args.num} samples of {args.run} -> {args.out}")


def fill_in(args: argparse.Namespace, run: Run) -> None:
    """Sets the steps, sampler and guidance that are not given to the preset's; says on standard error what speaks
    against using it so. Raises `UserError` where there is no such preset."""
    preset = presets.named(args.run, args.preset)
    for name in ("steps", "sampler", "guidance"):
        if getattr(args, name) is None:
            setattr(args, name, preset[name])
    doubt = presets.doubt(presets.read(args.run), args.steps, args.sampler, args.guidance, run.hash)
    if doubt:
        print(f"warning: {doubt}", file=sys.stderr)
