"""The style-transfer figure (GD): images of one class, taken to noise as what they are by the distilled encoder, and to
data as other classes by the student; beside the teacher doing both in many steps.

    python -m experiments.style_transfer --on=imagenet64 --workdir=DIR --chain=CHAIN
    python -m experiments.style_transfer --on=fashion_mnist --workdir=DIR --chain=CHAIN    (one CPU core: 42 minutes)
    python -m experiments.style_transfer --tiny                                            minutes, stand-in pictures

CHAIN has the runs teacher, matched and student of `experiments.<on>`, which are only read; images are of the test
split. Trains the encoder in DIR by the config's `encoding`, draws DIR/style_transfer.png, and writes DIR/results.json:
distances to the teacher's result and to the image. --publish makes docs/results/style_transfer_<on>.md of what is
there. Expected: what an image's class leaves open, such as the outline or the shade, stays; nearer to the teacher with
more steps.
"""

import argparse
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np

import guided_distill
from experiments.editing import apart, tiny_chain
from experiments.results import DOCS, Results, arguments, devices, markdown, read, spent
from guided_distill import codecs, data, editing, launch, pictures
from guided_distill.cli import numbers
from guided_distill.errors import UserError
from guided_distill.runs import Run

ON = {"imagenet64": (950, "945,949"), "cifar10": (7, "4,5"), "fashion_mnist": (7, "5,9")}
"""Classes: an orange to bell peppers and strawberries; a horse to deer and dogs; a sneaker to sandals and boots."""
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


def measure(results: Results, runs: dict[str, Run], images: np.ndarray, source: int, targets: list[int], w: float):
    """Rows for each target and number of steps; the sheet."""
    teacher, drawn = runs["teacher"], {f"class {source}": images}
    many = teacher.default_steps()
    few = [n for n in STEPS if n in runs["student"].trained_steps and n in runs["encoder"].trained_steps]
    pairs = [("teacher", "teacher", many, 4 * many), *(("encoder", "student", n, 2 * n) for n in few)]
    for target in targets:
        partner = None
        for up, down, n, evaluations in pairs:
            out = editing.translate(runs[up], runs[down], images, source, target, n, n, w)
            partner = out if partner is None else partner
            key = {"method": f"{up}, {down}", "sampler": "ddim", "steps": n, "guidance": w, "seed": target}
            key["weights"] = f"{runs[up].hash} {runs[down].hash}"
            found = {"target": target, "to_teacher": apart(out, partner), "to_source": apart(out, images)}
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
    parser.add_argument("--publish", action="store_true", help="write docs/results/style_transfer_<on>.md and .png")
    args = parser.parse_args()
    if args.publish:
        return publish(args.workdir)
    launch.prepare_process()
    return run(args)


def run(args: argparse.Namespace) -> None:
    """All but the page."""
    if args.tiny and not args.chain:
        module = importlib.import_module(f"configs.{args.on}_chain")
        args.chain = tiny_chain(args.workdir / f"{args.on}_chain", module)
        args.source, args.targets = args.source or 0, args.targets or "1,2"
    if not args.chain:
        raise UserError(f"--chain is missing: the directory of experiments.{args.on}, or --tiny")
    source, targets = ON[args.on]
    source, targets = source if args.source is None else args.source, numbers(args.targets or targets, int)
    runs = {name: guided_distill.load(args.chain / name) for name in ("teacher", "student")}
    given = runs["teacher"].manifest["data"]
    images = images_of(data.load(**{**given, "split": "test"}), source, args.num)
    argument = "tiny" if args.tiny else read(args.chain)[1]["settings"].get("argument", "")
    settings = {"on": args.on, "source": source, "targets": targets, "num": args.num, "seed": args.seed}
    results = Results(args.workdir, **settings, guidance=args.guidance)
    stage2 = importlib.import_module(f"configs.{args.on}_stage2")
    config = stage2.get_config(",".join(filter(None, [argument, "encoding"])))
    runs["encoder"] = guided_distill.load(results.train(config, "encoder", args.seed, args.chain / "matched"))
    measure(results, runs, images, source, targets, args.guidance)
    print(f"-> {args.workdir / 'style_transfer.png'}")


PAGE = """# Style transfer on {on}

Made by `python -m experiments.style_transfer --publish`; no number of its table is typed by hand. {num} images of class
{source} of the test split, to noise as what they are at w = 0, from there to data as another class at w =
{guidance:g}: by the teacher in many steps, two evaluations each, and by distilled encoder and student in few, one
evaluation each. Distances are root mean squares over pixels in [-1, 1], averaged over images. Encoder trained on
{spent}; rows made on {devices}, beside other work.

![The images, and what they became](style_transfer_{on}.png)
"""


def publish(workdir: Path) -> None:
    """docs/results/style_transfer_<on>.md and .png."""
    rows, hardware = read(workdir)
    known = {**hardware["settings"], "spent": spent(hardware), "devices": devices(rows)}
    table = markdown(rows, ("target", "method", "steps", "evaluations", "to_teacher", "to_source"))
    path = DOCS / f"style_transfer_{known['on']}.md"
    path.write_text("\n".join([PAGE.format(**known), table]) + "\n")
    shutil.copy(workdir / "style_transfer.png", path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
