"""Networks that are shown an image, on digits: one that paints what is masked, and one that edits as it is told.

    python -m experiments.shown --workdir=DIR [--num=200] [--tiny] [--publish]      (one CPU core, half an hour)

Teacher, stage one and stage two of configs/digits_inpaint_* and digits_edits_*, by longer budgets, trained on the even
images and asked of the odd ones, which they never saw. Every row is from the same noise. Writes results and sheets to
DIR/inpainting and DIR/instructions; --publish makes docs/results/shown_digits.md of what is there. Expected: students
down to one step paint what is taken for the class and do the edit that was told, as the many-step teacher does, at a
128th and a 192nd of its evaluations.
"""

import argparse
import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import guided_distill
from configs import (
    digits_edits_stage1,
    digits_edits_stage2,
    digits_edits_teacher,
    digits_inpaint_stage1,
    digits_inpaint_stage2,
    digits_inpaint_teacher,
)
from experiments.digits import longer
from experiments.editing import apart
from experiments.results import DOCS, Results, arguments, markdown, read, spent, start
from experiments.scenes import Digits
from guided_distill import codecs, data, editing, launch, pictures
from guided_distill.data.digits_edits import EDITS
from guided_distill.errors import UserError
from guided_distill.runs import Run

MANY, STEPS, GUIDANCE, SHOWN = 64, (4, 2, 1), (0.0, 1.0), 12
INPAINTING = (digits_inpaint_teacher, digits_inpaint_stage1, digits_inpaint_stage2)
INSTRUCTIONS = (digits_edits_teacher, digits_edits_stage1, digits_edits_stage2)
UPDATES = {"teacher": 2000, "matched": 1000, "student": 200}


def chain(results: Results, modules: tuple, tiny: bool, seed: int) -> dict[str, Run]:
    """Trains what is missing, on the even images."""
    runs, above = {}, None
    for (name, updates), module in zip(UPDATES.items(), modules, strict=True):
        config = module.get_config("tiny" if tiny else "")
        if above is None:
            config.data.split = "even"
        config = config if tiny else longer(config, updates)
        above = results.train(config, name, seed, above)
        runs[name] = guided_distill.load(above)
    return runs


def plan(runs: dict[str, Run], together: int) -> list[tuple[str, Run, int, int]]:
    """(method, run, steps, evaluations), the partner of the rest first. `together`: the evaluations of a teacher's
    step."""
    few = [n for n in STEPS if n in runs["student"].trained_steps]
    return [
        ("teacher", runs["teacher"], MANY, MANY * together),
        ("matched", runs["matched"], MANY, MANY),
        *(("student", runs["student"], n, n) for n in few),
        *(("DDIM on the teacher", runs["teacher"], n, n * together) for n in few),
    ]


def measured(
    results: Results, planned: list, make: Callable[[Run, int, float], np.ndarray], score: Callable, seed: int
) -> dict[str, np.ndarray]:
    """A row of what each method makes at each w, beside what the first one makes; and the pictures at the last w."""
    for w in GUIDANCE:
        shown: dict[str, np.ndarray] = {}
        for name, run, steps, evaluations in planned:
            out = shown[f"{name}, {steps}"] = make(run, steps, w)
            partner = next(iter(shown.values()))
            key = {"method": name, "sampler": "ddim", "steps": steps, "guidance": w, "seed": seed, "weights": run.hash}
            results.row(key, evaluations, functools.partial(score, out, partner))
    return shown


def painted(workdir: Path, num: int, seed: int, tiny: bool) -> None:
    """Rows and a sheet of the right half painted anew, the class being told."""
    of, results = Digits(num, seed, workdir), Results(workdir, num=num, seed=seed)
    runs = chain(results, INPAINTING, tiny, seed)
    mask = editing.half(of.images.shape[1:])
    hidden = np.where(mask[..., None], 0, of.images).astype(np.float32)
    shown = {"images": of.images, "right half hidden": hidden}

    def score(out: np.ndarray, partner: np.ndarray | None = None) -> dict[str, float]:
        found = {"is_itself": of.share(out, of.was), "to_hidden_half": apart(out, of.images, mask)}
        found["known_pixels_moved_by"] = float(np.abs(out - of.images)[:, ~mask].max())
        return found if partner is None else {**found, "to_teacher": apart(out, partner, mask)}

    references = {"images themselves": of.images, "half of another of the class": of.others}
    for name, images in references.items():
        key = {"method": name, "sampler": "none", "steps": 0, "guidance": 0.0, "seed": seed}
        results.row(key, 0, lambda images=images: score(np.where(mask[..., None], images, of.images)))
    paint = lambda run, steps, w: editing.inpaint(run, of.images, mask, steps, guidance=w, seed=seed, **of.was)  # noqa: E731
    shown |= measured(results, plan(runs, 2), paint, score, seed)
    draw(workdir, shown)


def instructed(workdir: Path, num: int, seed: int, tiny: bool) -> None:
    """Rows and a sheet of digits kept, inverted, mirrored and turned, as is told; w is both strengths'."""
    results = Results(workdir, num=num, seed=seed)
    runs = chain(results, INSTRUCTIONS, tiny, seed)
    odd = data.load("digits", "odd")[:]["x"]
    images = odd[np.sort(np.random.default_rng(seed).permutation(len(odd))[: num // len(EDITS)])]
    answers = [codecs.to_float(edit(images)) for edit in EDITS.values()]  # Of every image, by every edit.
    told = np.tile(np.arange(len(EDITS)), len(images))  # One edit after the other of an image.
    source, answer = np.repeat(codecs.to_float(images), len(EDITS), 0), np.stack(answers, 1).reshape(-1, 8, 8, 1)
    shown = {"images": source, f"told: {', '.join(EDITS)}": answer}

    def score(out: np.ndarray, partner: np.ndarray | None = None) -> dict[str, float]:
        of_edit = {f"to_answer_{name}": apart(out[told == k], answer[told == k]) for k, name in enumerate(EDITS)}
        every = np.stack([np.repeat(one, len(EDITS), 0) for one in answers])
        nearest = np.square(every - out).reshape(*every.shape[:2], -1).sum(-1).argmin(0)
        found = {"as_told": float(np.mean(nearest == told)), "to_answer": apart(out, answer), **of_edit}
        return found if partner is None else {**found, "to_teacher": apart(out, partner)}

    key = {"method": "images as they are", "sampler": "none", "steps": 0, "guidance": 0.0, "seed": seed}
    results.row(key, 0, lambda: score(source))
    edit = lambda run, steps, w: editing.instruct(run, source, told, steps, w, w, seed)  # noqa: E731
    shown |= measured(results, plan(runs, 3), edit, score, seed)
    draw(workdir, shown)


def draw(workdir: Path, shown: dict[str, np.ndarray]) -> None:
    """DIR/sheet.png."""
    pictures.save_sheet(workdir / "sheet.png", {name: images[:SHOWN] for name, images in shown.items()})


def main() -> None:
    """Trains what is missing, measures, draws; with --publish, writes the page of what is there."""
    parser = arguments(__doc__)
    parser.add_argument("--num", type=int, default=200, help="images a row (default 200)")
    start(parser, run, publish, "shown_digits.md and its sheets")


def run(args: argparse.Namespace) -> None:
    """All but the page."""
    num = 24 if args.tiny else args.num
    if num < len(EDITS) or num % len(EDITS):
        raise UserError(f"--num={num}: expected a multiple of {len(EDITS)}, as images are edited in every way")
    painted(args.workdir / "inpainting", num, args.seed, args.tiny)
    instructed(args.workdir / "instructions", num, args.seed, args.tiny)


COLUMNS = {
    "inpainting": (
        *("guidance", "method", "steps", "evaluations", "is_itself", "to_hidden_half", "to_teacher"),
        "known_pixels_moved_by",
    ),
    "instructions": (
        *("guidance", "method", "steps", "evaluations", "as_told", "to_answer"),
        *(f"to_answer_{name}" for name in EDITS),
        "to_teacher",
    ),
}
HEADER = """# Digits: networks that are shown an image

Made by `python -m experiments.shown --publish` from its runs; no number of its tables is typed by hand. What such
networks are stands in [editing.md](../editing.md#networks-that-are-shown-an-image).

Trained on the even images of scikit-learn's digits (8 x 8), asked of odd ones, which they never saw; seed {seed}, every
row from the same noise. Distances are root mean squares over pixels in [-1, 1], averaged over images; `to teacher` is
to the teacher's result in {many} steps from the same noise.
"""
SECTIONS = {
    "inpainting": """## Inpainting: the right half, the class being told

The network is shown the mask and the rest of the image, of {num} images. `is itself`: taken for its class by a support
vector machine on pixels that was fitted on the even images. `to hidden half` and `to teacher` are over the painted
pixels. A blurred half is nearer to the hidden one than a sharp one that guesses: the least distance is not the best
picture.""",
    "instructions": """## Edits as told: keep, invert, mirror, turn

{few} images, each edited in all {edits} ways; every answer is known exactly. `as told`: the share of results to which,
of the four edits of their image, the one that was told is nearest; `to answer`: the distance to it, over all and for
each. w is both strengths', that of what is told and that of the image; the teacher takes three evaluations a step, its
students one.""",
}
CLOSING = """## What came out

Students down to one step paint halves that are taken for the class as often as the many-step teacher's, and make of
every image the edit that was told. From the exact answer they are two to four times as far as the teacher where an edit
is easy (keep, invert), by eye as exact, and about a tenth further where it is hard (turn). At w = 0, where there is no
guidance to distil, plain DDIM on the teacher in four or two steps is nearer to the answer than any student; at w = 1 it
is further in every number of steps, by up to 2.6 times. In inpainting, DDIM in few steps stays near the mean
of what could be there: the least distance to the hidden half, and blurred. In two steps and one students are nearer to
the teacher's picture, in four DDIM is a little nearer.
"""


def publish(workdir: Path) -> None:
    """docs/results/shown_digits.md, and a sheet for each section."""
    lines = []
    for name, words in SECTIONS.items():
        rows, hardware = read(workdir / name)
        settings = hardware["settings"]
        lines = lines or [HEADER.format(**settings, many=MANY)]
        shutil.copy(workdir / name / "sheet.png", DOCS / f"shown_digits_{name}.png")
        commits = ", ".join(sorted({str(row["commit"])[:12] for row in rows}))
        told = words.format(num=settings["num"], few=settings["num"] // len(EDITS), edits=len(EDITS))
        lines += [told, "", f"On {spent(hardware)}; commit {commits}.", ""]
        lines += [f"![{name}, w = {GUIDANCE[-1]:g}](shown_digits_{name}.png)", "", markdown(rows, COLUMNS[name]), ""]
    lines += [CLOSING]
    (DOCS / "shown_digits.md").write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
