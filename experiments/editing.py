"""Edits, translations and inpainting by few-step students, beside the many-step teacher doing the same, on digits or on
emoji; and inpainting on the mixture, where the exact answer is known.

    python -m experiments.editing --workdir=DIR --chain=CHAIN [--on=emoji] [--mixture=MIXTURE] [--num=100] [--publish]

CHAIN has the runs teacher, matched and student of `experiments.digits` (or of `experiments.emoji`), MIXTURE those of
`experiments.mixture2d`; both are only read. With --tiny and no CHAIN, tiny chains are trained in DIR. Trains
an encoder of 4 steps in DIR, at 300 updates a round (2 CPU cores: digits 3 minutes, emoji 6), and measures (4 minutes).
Writes DIR/editing.json and DIR/editing.png; --publish makes docs/results/editing_digits.md and .png (or those of emoji)
of what is there. Expected: a student's edits and translations are what was asked for as often as the teacher's; known
pixels are exact; resampling brings inpainting closer to the truth.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import stats

import guided_distill
from configs import digits_chain, digits_stage2, mixture2d_chain
from experiments import emoji
from experiments.results import DOCS, Results, arguments, device, markdown, start
from experiments.scenes import ENCODER_STEPS, SCENES, Scene
from guided_distill import data, editing, launch, manifests, pictures
from guided_distill.errors import UserError
from guided_distill.files import write_json
from guided_distill.runs import Run

SHOWN = 12
STEPS = (4, 2)  # Of students.
STRENGTHS = (0.25, 0.5, 0.75)
RESAMPLE = (1, 4, 16)
LEFT = 0.1  # A pixel that the many-step teacher changes by less is one that it leaves.


def apart(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean over images of the root of the mean squared difference of pixels, of those in `where` [h, w]."""
    squares = ((a - b) ** 2).reshape(len(a), -1)
    squares = squares if where is None else squares[:, np.broadcast_to(where[..., None], a.shape[1:]).ravel()]
    return float(np.sqrt(squares.mean(1)).mean())


def changed(of: Scene, out: np.ndarray, asked: dict[str, Any], partner: np.ndarray | None, **row: Any) -> dict:
    """A row of an edit or a translation; the many-step teacher's own, where there is no `partner`."""
    row |= {"is_target": of.share(out, asked), "is_source": of.share(out, of.was)}
    row |= {"to_source": apart(out, of.images), "features_to_source": of.apart(out)}
    left = np.abs((out if partner is None else partner) - of.images) < LEFT
    row["where_teacher_leaves"] = float(np.abs(out - of.images)[left].mean())
    return row if partner is None else {**row, "to_teacher": apart(out, partner)}


def edits(of: Scene, teacher: Run, student: Run, seed: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows and pictures: at each strength the teacher's many steps, and few of the student and of the teacher."""
    rows, shown = [], {}
    for strength in STRENGTHS:
        go = partial(editing.edit, images=of.images, strength=strength, guidance=of.guidance, seed=seed, **of.edited)
        partner = go(teacher, steps=round(of.many * strength))
        known = {"strength": strength, "method": "teacher", "steps": partner.steps, "evaluations": 2 * partner.steps}
        rows.append(changed(of, partner.images, of.edited, None, **known))
        for n in STEPS:
            if strength * n != int(strength * n):
                continue
            found = go(student, steps=n)
            known = {
                "strength": strength,
                "method": f"student of {n}",
                "steps": found.steps,
                "evaluations": found.steps,
            }
            rows.append(changed(of, found.images, of.edited, partner.images, **known))
            few = go(teacher, steps=found.steps).images
            known = {**known, "method": "DDIM on the teacher", "evaluations": 2 * found.steps}
            rows.append(changed(of, few, of.edited, partner.images, **known))
            if strength == 0.5:
                shown[f"edited at 0.5, {found.steps} of {n} steps"] = found.images
        if strength == 0.5:
            shown = {f"edited at 0.5, teacher, {partner.steps} x 2": partner.images, **shown}
    return rows, shown


def translations(
    of: Scene, teacher: Run, student: Run, encoder: Run
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows and pictures: up with an encoder, down with a decoder, and what they cost together."""
    rows, shown, partner = [], {}, None
    many, encodes = (teacher, of.many, 2), (encoder, ENCODER_STEPS, 1)
    plan = {("teacher", "teacher"): (many, many), ("teacher", "student"): (many, (student, STEPS[0], 1))}
    plan |= {("encoder", f"student of {n}"): (encodes, (student, n, 1)) for n in STEPS}
    plan |= {("DDIM on the teacher", "DDIM on the teacher"): ((teacher, STEPS[0], 2),) * 2}
    for (a, b), ((source, n, cost_up), (target, m, cost_down)) in plan.items():
        was, wanted = (next(iter(told.values())) for told in (of.was, of.translated))
        go = partial(editing.translate, source, target, of.images, was, encode_steps=n, steps=m)
        out, back = go(target=wanted, guidance=of.guidance), go(target=was, guidance=0.0)
        known = {"up": f"{a}, {n} steps", "down": f"{b}, {m} steps", "evaluations": n * cost_up + m * cost_down}
        rows.append(changed(of, out, of.translated, partner, **known, there_and_back=apart(back, of.images)))
        partner = out if partner is None else partner
        if a == "encoder" or b == "teacher":
            shown[f"translated, {a} {n}, {b.split()[0]} {m}"] = out
    return rows, shown


def inpaintings(of: Scene, teacher: Run, student: Run, seed: int):
    """Rows and pictures: the right half of every image painted anew, the class being told."""
    mask = editing.half(of.images.shape[1:])
    shown = {"right half to be painted": np.where(mask[..., None], 0, of.images).astype(np.float32)}
    references = {"images themselves": of.images, "half of another of its kind": of.others}
    rows = []

    def row(out: np.ndarray, **known: Any) -> None:
        kept = float(np.abs(out - of.images)[:, ~mask].max())
        known |= {"is_itself": of.share(out, of.was), "to_hidden_half": apart(out, of.images, mask)}
        rows.append({**known, "known_pixels_moved_by": kept})

    for name, images in references.items():
        row(np.where(mask[..., None], images, of.images), method=name)
    plan = [("teacher", teacher, of.many, 2, (1, 4)), ("DDIM on the teacher", teacher, STEPS[0], 2, RESAMPLE)]
    plan += [(f"student of {n}", student, n, 1, RESAMPLE) for n in STEPS]
    for name, run, n, cost, turns in plan:
        for resample in turns:
            out = editing.inpaint(run, of.images, mask, n, resample, of.guidance, seed, **of.was)
            row(out, method=name, steps=n, resample=resample, evaluations=n * resample * cost)
            if resample == 4 and name[0] != "D":
                shown[f"inpainted, {name.split()[0]}, {n} steps, 4 times"] = out
    return rows, shown


def on_the_mixture(directory: Path, num: int, seed: int) -> list[dict[str, Any]]:
    """Rows: y painted given x, for points of the data. By the exact conditional's distribution function the painted y
    are uniform: `distance` is the largest difference to that; `wrong`, those beyond 3 sigma of every mode that x leaves
    more than 1 % of the weight."""
    teacher, student = (guided_distill.load(directory / name) for name in ("teacher", "student"))
    source = data.load(**{**teacher.manifest["data"], "split": "test"})
    points, labels = source[:num]["x"], source[:num]["label"]
    sigma, modes = teacher.manifest["data"]["sigma"], np.asarray(teacher.manifest["network"]["args"]["modes"])[labels]
    log = -((points[:, :1] - modes[..., 0]) ** 2) / (2 * sigma**2)
    weights = np.exp(log - log.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    mask, rows = np.array([False, True]), []

    def row(y: np.ndarray, **known: Any) -> None:
        uniform = (weights * stats.norm.cdf(y[:, None], modes[..., 1], sigma)).sum(1)
        near = (np.abs(y[:, None] - modes[..., 1]) < 3 * sigma) & (weights > 0.01)
        distance = float(stats.kstest(uniform, "uniform").statistic)
        rows.append({**known, "distance": distance, "wrong": float(1 - near.any(1).mean())})

    row(points[:, 1], method="the data")
    exact = [("exact denoiser", teacher, n) for n in (64, 4)]
    for name, run, n in [*exact, *((f"student of {n}", student, n) for n in (8, 4, 2) if n in student.trained_steps)]:
        for resample in RESAMPLE:
            out = editing.inpaint(run, points, mask, n, resample, 0.0, seed, labels=labels)
            row(out[:, 1], method=name, steps=n, resample=resample)
    return rows


def encoder_of(results: Results, of: Scene, above: Path, seed: int, tiny: bool) -> Run:
    """A distilled encoder, trained unless it stands."""
    config = digits_stage2.get_config("tiny,encoding") if tiny else of.encoder()
    return guided_distill.load(results.train(config, "encoder", seed, above))


def tiny_chain(directory: Path, module: ModuleType) -> Path:
    """A chain of seconds, under the names that the experiments give to their runs."""
    if not (directory / "student").exists():
        launch.train(module.get_config("tiny").to_dict(), str(directory))
        (directory / "student").symlink_to("stage2")
        (directory / "matched").symlink_to("stage1")
    return directory


def main() -> None:
    """Measures, draws; with --publish, writes the page of what is there."""
    parser = arguments(__doc__)
    parser.add_argument("--on", choices=SCENES, default="digits", help="what is edited (default digits)")
    parser.add_argument("--chain", type=Path, help="directory of experiments.digits, or of experiments.emoji")
    parser.add_argument("--mixture", type=Path, help="directory of experiments.mixture2d")
    parser.add_argument("--num", type=int, default=100, help="images a row (default 100)")
    start(parser, measure, publish, "editing_*.md and .png")


def measure(args: argparse.Namespace) -> None:
    """Writes editing.json and editing.png."""
    num, chain, mixture = 24 if args.tiny else args.num, args.chain, args.mixture
    if args.tiny and chain is None and args.on == "emoji":
        chain = emoji.run(args.workdir / "emoji", emoji.TINY, args.seed)
    elif args.tiny and chain is None:
        chain = tiny_chain(args.workdir / "digits", digits_chain)
        mixture = tiny_chain(args.workdir / "mixture", mixture2d_chain)
    if chain is None:
        raise UserError("--chain is missing: the directory of experiments.digits or experiments.emoji, or --tiny")
    teacher, student = (guided_distill.load(chain / name) for name in ("teacher", "student"))
    of = SCENES[args.on](num, args.seed, chain)
    results = Results(args.workdir, on=args.on, num=num, seed=args.seed)
    encoder = encoder_of(results, of, chain / "matched", args.seed, args.tiny and args.on == "digits")
    found = {"settings": {"num": num, "seed": args.seed, "guidance": of.guidance, "accuracy": of.accuracy}}
    found |= {"on": args.on, "device": device(), "commit": manifests.provenance()["git_commit"]}
    found["runs"] = {name: run.hash for name, run in (("teacher", teacher), ("student", student), ("encoder", encoder))}
    found["encoder_seconds"] = json.loads((args.workdir / "hardware.json").read_text())["seconds"]["encoder"]
    pictures_of = {"images": of.images}
    for name, (rows, shown) in {
        "edit": edits(of, teacher, student, args.seed),
        "translate": translations(of, teacher, student, encoder),
        "inpaint": inpaintings(of, teacher, student, args.seed),
    }.items():
        found[name] = rows
        pictures_of |= shown
        print(table(name, rows), flush=True)
    found["mixture"] = on_the_mixture(mixture, 64 if args.tiny else 2000, args.seed) if mixture else []
    print(table("mixture", found["mixture"]))
    write_json(args.workdir / "editing.json", found)
    pictures.save_sheet(args.workdir / "editing.png", {name: rows[:SHOWN] for name, rows in pictures_of.items()})
    asked = {"is": of.was, "edited": of.edited, "translated": of.translated}
    told = {name: [str(value) for value in next(iter(known.values()))[:SHOWN]] for name, known in asked.items()}
    (args.workdir / "editing.txt").write_text("\n".join(f"{k}: {'; '.join(v)}" for k, v in told.items()) + "\n")


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """Of the columns that any row has."""
    return markdown(rows, tuple(key for key in COLUMNS[name] if any(row.get(key) is not None for row in rows)))


SHARES = ("is_target", "is_source", "to_source", "features_to_source", "where_teacher_leaves", "to_teacher")
COLUMNS = {
    "edit": ("strength", "method", "steps", "evaluations", *SHARES),
    "translate": ("up", "down", "evaluations", *SHARES, "there_and_back"),
    "inpaint": (
        *("method", "steps", "resample", "evaluations"),
        *("is_itself", "to_hidden_half", "known_pixels_moved_by"),
    ),
    "mixture": ("method", "steps", "resample", "distance", "wrong"),
}
HEADER = """# {title}: edits, translations, inpainting

Made by `python -m experiments.editing --publish` from the chain of `python -m experiments.{on}`; no number of its
tables is typed by hand. What the methods are stands in [editing.md](../editing.md).

{num} images, w = {guidance:g}, seed {seed}: a share has a standard error of at most {error:.1%}. {judge} Distances are
root mean squares over pixels in [-1, 1], averaged over images; `to teacher` is to the many-step teacher's result from
the same start; `where teacher leaves` is the mean change of those pixels that the many-step teacher changes by less
than {left:g}. On {device}, beside other work.

![Images and what became of them](editing_{on}.png)
"""
TITLES = {"digits": "Digits", "emoji": "Emoji"}
JUDGES = {
    "digits": """Classes in turn; an edit and a translation make the next class of a digit. `is target` and `is source`:
the share that a support vector machine on pixels takes for the class that was asked for, and for the image's own
(fitted on half of the images, it knows {accuracy:.1%} of the other half, which those here are of).""",
    "emoji": """First those that were held out of training, then some that were trained on. An edit asks for another
name in the same style, a translation for the same name in another style. `is target` and `is source`: the share whose
caption, of the two, a matcher finds among a hundred (fitted on the real pairs that were trained on; of the real
pictures that were held out it finds {accuracy:.1%}). `features to source`: distance of the features that the chain is
measured by, where two different pictures are 1 apart.""",
}
SECTIONS = {
    "edit": """## Edits: noise to t = strength, then down as something else

Steps are those that are run; the student of N steps runs strength x N of its own.""",
    "translate": """## Translations: to noise as what it is (w = 0), down as something else

The encoder was distilled from stage one in {encoder_seconds:.0f} seconds. `there and back` is the distance after
decoding as what the image was, w = 0.""",
    "inpaint": """## Inpainting: the right half, what it is being told

`is itself`: taken for what it was. `to hidden half` is over the painted pixels. The first rows: the images as they are,
and with the right half of another image in place of their own, of the same class, or of the same name in another style.
A blurred half is nearer to the hidden one than a sharp one that guesses: the least distance is not the best
picture.""",
    "mixture": """## Inpainting where the answer is known: y painted, given x, on the mixture

Points of the data, of all four classes, w = 0. Painted exactly, y is uniform under the conditional's distribution
function: `distance` is the largest difference to that; `wrong` the share beyond three standard deviations of every mode
that x leaves more than 1 % of the weight.""",
}

CLOSING = {
    "digits": """## What came out

From strength 0.5 on, and in translations, students do in 2 to 4 steps what was asked as often as the teacher does in
many, and end near its pictures. At 0.25 even the teacher changes one digit in four; the one step that a student of 4
has from there changes fewer, and keeps more of the image. DDIM of as many steps on the teacher does so as often or
oftener, but disturbs what the teacher leaves alone. Painted halves pass for the digit with every method.
""",
    "emoji": """## What came out

A caption has one drawing here, and the teacher knows it by heart: told another name it makes that drawing at any
strength, and of the source nothing is left but the white around (`features to source` is that of two different
pictures). So do its students, in 2 and 3 steps nearly as often as the teacher in many; the one step that a student of 4
has from t = 0.25 is too few. Only a translation keeps what it is of: the style changes and the name stays, and encoder
and student together take 6 or 8 evaluations for the teacher's 512. DDIM of as few steps on the teacher fails at both.
Inpainting students of 4 and of 2 are as good as the teacher in 128 steps, and resampling adds nothing, since the
caption says what belongs there.
""",
}


def publish(workdir: Path) -> None:
    """docs/results/editing_*.md and .png."""
    if not (path := workdir / "editing.json").is_file():
        raise UserError(f"{path} is missing: there is nothing to publish yet")
    found = json.loads(path.read_text())
    on, settings = found["on"], found["settings"]
    known = {**settings, "on": on, "device": found["device"], "encoder_seconds": found["encoder_seconds"]}
    known |= {"title": TITLES[on], "left": LEFT, "error": 0.5 / settings["num"] ** 0.5}
    lines = [HEADER.format(**known, judge=JUDGES[on].format(**settings))]
    for name, words in SECTIONS.items():
        if found[name]:
            lines += [words.format(**known), "", table(name, found[name]), ""]
    asked = (workdir / "editing.txt").read_text().splitlines()
    lines += ["## What was asked for, in the order of the pictures", "", *(f"- {line}" for line in asked), ""]
    lines += [CLOSING[on]]
    (DOCS / f"editing_{on}.md").write_text("\n".join(lines))
    shutil.copy(workdir / "editing.png", DOCS / f"editing_{on}.png")


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
