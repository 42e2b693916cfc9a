"""The style-transfer figure (GD): images of one class, taken to noise as what they are by the distilled encoder, and to
data as other classes by the student; beside the teacher doing both in many steps.

    python -m experiments.style_transfer --on=imagenet64 --workdir=DIR --chain=CHAIN
    python -m experiments.style_transfer --on=fashion_mnist --workdir=DIR --chain=CHAIN    (one CPU core: 42 minutes)
    python -m experiments.style_transfer --tiny                                            minutes, stand-in pictures

CHAIN has the runs teacher, matched and student of `experiments.<on>`, which are only read; images are those that are
not trained on. Trains the encoder in DIR by the config's `encoding`, draws DIR/style_transfer.png, and writes
DIR/results.json: distances to the teacher's result and to the image. --publish makes
docs/results/style_transfer_<on>.md of what is there. Expected: what an image's class leaves open, such as the outline
or the shade, stays; nearer to the teacher with more steps.
"""

import argparse
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np

import guided_distill
from experiments.editing import apart, tiny_chain
from experiments.results import DOCS, Results, arguments, devices, markdown, read, spent, start
from guided_distill import codecs, data, editing, launch, pictures
from guided_distill.cli import numbers
from guided_distill.errors import UserError
from guided_distill.runs import Run

ON = {"imagenet64": ("val", 950, "945,949"), "cifar10": ("test", 7, "4,5"), "fashion_mnist": ("test", 7, "5,9")}
"""Split and classes: oranges as bell peppers and strawberries; horses as deer and dogs; sneakers as sandals and boots.
Those of ImageNet are in the order of their wnids."""
STEPS = (16, 8, 4, 2)  # Of encoder and student alike.
SHOWN = (16, 4)
BLOCK = 1024


def images_of(source: data.Source, label: int, num: int) -> np.ndarray:
    """The first `num` images of a class, float32 [num, h, w, c]."""
    found: list[np.ndarray] = []
    for begin in range(0, len(source), BLOCK):
        block = source[begin : begin + BLOCK]
        found += [*block["x"][block["label"] == label]]
        if len(found) >= num:
            return codecs.to_float(np.stack(found[:num]))
    raise UserError(f"there are {len(found)} images of class {label}, not {num}")


def measure(results: Results, runs: dict[str, Run], images: np.ndarray, asked: argparse.Namespace) -> None:
    """Rows for each target and number of steps, beside the teacher's; the sheet."""
    drawn, many = {f"class {asked.source}": images}, runs["teacher"].default_steps()
    few = [n for n in STEPS if n in runs["student"].trained_steps and n in runs["encoder"].trained_steps]
    pairs = [("teacher", "teacher", many, 4 * many), *(("encoder", "student", n, 2 * n) for n in few)]
    shared = {"sampler": "ddim", "guidance": asked.guidance, "seed": asked.seed}
    for target in asked.targets:
        partner = None
        for up, down, n, evaluations in pairs:
            out = editing.translate(runs[up], runs[down], images, asked.source, target, n, n, asked.guidance)
            partner = out if partner is None else partner
            key = {"method": f"{up} and {down}, as {target}", "steps": n, **shared}
            key["weights"] = f"{runs[up].hash} {runs[down].hash}"
            found = {"to_teacher": apart(out, partner), "to_source": apart(out, images)}
            results.row(key, evaluations, lambda found=found: found)
            if down == "teacher" or n in SHOWN:
                drawn[f"as {target}, {'teacher ' if down == 'teacher' else ''}{n} + {n}"] = out
    pictures.save_sheet(results.workdir / "style_transfer.png", drawn)


def main() -> None:
    """Trains the encoder, draws, measures; with --publish, writes the page of what is there."""
    parser = arguments(__doc__, Path("runs/style_transfer"))
    parser.add_argument("--on", choices=ON, default="imagenet64", help="whose chain (default imagenet64)")
    parser.add_argument("--chain", type=Path, help="directory of experiments.<on>")
    parser.add_argument("--source", type=int, help="class of the images (default: one that is known for this)")
    parser.add_argument("--targets", help="classes that they become, such as 945,949")
    parser.add_argument("--num", type=int, default=16, help="images (default 16)")
    parser.add_argument("--guidance", type=float, default=1.0, help="w on the way down (default 1)")
    start(parser, run, publish, "style_transfer_<on>.md and .png")


def run(args: argparse.Namespace) -> None:
    """All but the page."""
    if not (args.chain or args.tiny):
        raise UserError(f"--chain is missing: the directory of experiments.{args.on}, or --tiny")
    if args.num < 1:
        raise UserError(f"--num={args.num} is not positive")
    split, source, targets = ("test", 0, "1,2") if args.tiny else ON[args.on]
    args.source, args.targets = source if args.source is None else args.source, numbers(args.targets or targets, int)
    module = importlib.import_module(f"configs.{args.on}_chain")
    chain = args.chain or tiny_chain(args.workdir / f"{args.on}_chain", module)
    runs = {name: guided_distill.load(chain / name) for name in ("teacher", "student")}
    argument = "tiny" if args.tiny else argument_of(chain, args.on)
    for label in (args.source, *args.targets):  # Whatever is wrong with them is told before anything is trained.
        runs["student"].cond(args.num, args.guidance, labels=label)
    editing.check_fit(runs["teacher"], runs["student"])
    images = images_of(data.load(**{**runs["teacher"].manifest["data"], "split": split}), args.source, args.num)
    settings = {"on": args.on, "source": args.source, "targets": args.targets, "num": args.num, "seed": args.seed}
    results = Results(args.workdir, **settings, guidance=args.guidance)
    stage2 = importlib.import_module(f"configs.{args.on}_stage2")
    config = stage2.get_config(",".join(filter(None, [argument, "encoding"])))
    runs["encoder"] = guided_distill.load(results.train(config, "encoder", args.seed, chain / "matched"))
    measure(results, runs, images, args)
    print(f"-> {args.workdir / 'style_transfer.png'}")


def argument_of(chain: Path, on: str) -> str:
    """The budget that a table's directory was made with. Raises `UserError` for that of another experiment."""
    settings = read(chain)[1]["settings"]
    if settings.get("table") != on:
        raise UserError(f"{chain} is of another experiment than {on}")
    return settings["argument"]


PAGE = """# Style transfer on {on}

Made by `python -m experiments.style_transfer --publish`; no number of its table is typed by hand. {num} images of class
{source} that were not trained on, to noise as what they are at w = 0, from there to data as another class at w =
{guidance:g}: by the teacher in many steps, two evaluations each, and by distilled encoder and student in few, one
evaluation each. Distances are root mean squares over pixels in [-1, 1], averaged over images. Encoder trained on
{spent}; rows made on {devices}, beside other work.

![The images, and what they became](style_transfer_{on}.png)
"""


def publish(workdir: Path) -> None:
    """docs/results/style_transfer_<on>.md and .png."""
    rows, hardware = read(workdir)
    if hardware["settings"].get("on") not in ON:
        raise UserError(f"{workdir} is of another experiment than style_transfer")
    known = {**hardware["settings"], "spent": spent(hardware), "devices": devices(rows)}
    table = markdown(rows, ("method", "steps", "evaluations", "to_teacher", "to_source"))
    path = DOCS / f"style_transfer_{known['on']}.md"
    path.write_text("\n".join([PAGE.format(**known), table]) + "\n")
    shutil.copy(workdir / "style_transfer.png", path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
