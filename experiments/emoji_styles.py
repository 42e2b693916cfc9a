"""Emoji redrawn as one is told: a network that is shown a drawing, told "in noto style", and distilled to one step.

    python -m experiments.emoji_styles --workdir=DIR --chain=CHAIN [--num=200] [--publish]    (one CPU core, 45 minutes)

CHAIN is a directory of `experiments.emoji`, which is only read: the network begins as its teacher of captions, and its
autoencoder encodes the pairs (with --tiny and no CHAIN, one of made-up pictures is trained in DIR). Teacher, stage one
and stage two of configs/emoji_styles_*; asked of all pairs whose second drawing was held out, and of `num` that were
trained on; every row is from the same noise, with both guidance strengths w. Writes results.json and a sheet to DIR;
--publish makes docs/results/emoji_styles.md of what is there. Expected: students down to one step redraw as the teacher
does, at a 192nd of its evaluations.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

import guided_distill
from configs import emoji_styles_stage1, emoji_styles_stage2, emoji_styles_teacher
from experiments import emoji
from experiments.editing import apart
from experiments.emoji import SCALES, TINY, Pairs, Scale, embedding
from experiments.matcher import Matcher
from experiments.results import DOCS, Results, arguments, devices, markdown, read, spent, start
from experiments.shown import draw, measured, plan
from guided_distill import codecs, data, editing, evaluate, latents, launch
from guided_distill.errors import UserError
from guided_distill.runs import Run

MODULES = {"teacher": emoji_styles_teacher, "matched": emoji_styles_stage1, "student": emoji_styles_stage2}


def pairs_of(source: dict) -> dict:
    """The set of pairs of a scale's set of pictures."""
    return {**source, "name": "emoji_styles"} if source["name"] == "emoji" else {**source, "shown": True}


class Some:
    """Pairs that are asked for: `images`, what they are `told`, the `answers`, and the `captions` of those."""

    def __init__(self, scale: Scale, spec: dict, num: int | None, seed: int):
        arrays = data.load(**pairs_of(spec))[:]
        chosen = np.sort(np.random.default_rng(seed).permutation(len(arrays["x"]))[:num])
        arrays = {name: array[chosen] for name, array in arrays.items()}
        self.images, self.answers = codecs.to_float(arrays["image"]), codecs.to_float(arrays["x"])
        self.told = self.captions = [caption.decode() for caption in arrays["caption"].tolist()]
        if "style" in arrays:
            known = _captions(scale)
            self.captions = [known[key] for key in zip(arrays["name"].tolist(), arrays["style"].tolist(), strict=True)]


def _captions(scale: Scale) -> dict[tuple[int, int], str]:
    """What drawings are called, by name and style."""
    known = {}
    for spec in (scale.source, scale.heldout):
        of = data.load(**spec)[:]
        keys = zip(of["name"].tolist(), of["style"].tolist(), strict=True)
        known |= dict(zip(keys, (caption.decode() for caption in of["caption"].tolist()), strict=True))
    return known


def train(results: Results, scale: Scale, chain: Path, seed: int) -> dict[str, Run]:
    """What is missing: encoded pairs, teacher, stage one, stage two."""
    name, spec = f"{scale.name}_pairs", {**pairs_of(scale.source), "split": "train"}
    encoders = latents.Encoders({"name": "kl_vae", "weights": str(chain / "autoencoder")}, scale.text)
    with results.timed("encoding"):
        latents.write(data.load(**spec), spec, encoders, name, str(results.workdir / "data"))
    runs, above = {}, None
    for stage, module in MODULES.items():
        config = module.get_config(scale.argument)
        if above is None:
            config.data = {"name": "encoded", "of": name, "directory": str(results.workdir / "data")}
            config.start, config.start_command = str(chain / "teacher"), "python -m experiments.emoji"
            for part in ("codec", "schedule", "network"):
                config[part] = {"name": "inherit"}
            config.prediction = config.time_input = "inherit"
        above = results.train(config, stage, seed, above)
        runs[stage] = guided_distill.load(above)
    return runs


class Asked:
    """All that is asked for, pairs that were held out first; and what judges it."""

    def __init__(self, scale: Scale, num: int, seed: int):
        self.parts = {"held_out_": Some(scale, scale.heldout, None, seed), "": Some(scale, scale.source, num, seed)}
        _, self.features = evaluate.load_features(scale.features)
        real = Pairs(data.load(**scale.source), self.features, num)
        self.matcher = Matcher(real.real.features, real.captions, embedding(scale), seed)
        self.images, self.answers = (
            np.concatenate([getattr(of, name) for of in self.parts.values()]) for name in ("images", "answers")
        )
        self.told = [one for of in self.parts.values() for one in of.told]

    def score(self, out: np.ndarray, partner: np.ndarray | None = None) -> dict[str, float]:
        """Of results for all pairs, beside those of a `partner`."""
        found = {} if partner is None else {"to_teacher": apart(out, partner)}
        ends = np.cumsum([len(of.images) for of in self.parts.values()])[:-1]
        for (prefix, of), own in zip(self.parts.items(), np.split(out, ends), strict=True):
            seen = evaluate.feature_set(own, None, self.features).features
            found[f"{prefix}r_precision"] = self.matcher.precision(seen, of.captions)
            found[f"{prefix}to_answer"] = apart(own, of.answers)
            found[f"{prefix}to_source"] = apart(own, of.images)
        return found


def measure(results: Results, of: Asked, runs: dict[str, Run], seed: int) -> None:
    """Rows and the sheet."""
    references = {"drawings as they are": of.images, "real answers": of.answers}
    for name, pictures_of in references.items():
        key = {"method": name, "sampler": "none", "steps": 0, "guidance": 0.0, "seed": seed}
        results.row(key, 0, lambda out=pictures_of: of.score(out))
    redraw = lambda run, steps, w: editing.instruct(run, of.images, of.told, steps, w, w, seed)  # noqa: E731
    draw(results.workdir, references | measured(results, plan(runs, 3), redraw, of.score, seed))


def main() -> None:
    """Trains what is missing, measures, draws; with --publish, writes the page of what is there."""
    parser = arguments(__doc__)
    parser.add_argument("--chain", type=Path, help="directory of experiments.emoji")
    parser.add_argument("--num", type=int, default=200, help="pairs that were trained on (default 200)")
    start(parser, run, publish, "emoji_styles.md and .png")


def run(args: argparse.Namespace) -> None:
    """All but the page."""
    chain = args.chain
    if chain is None and not args.tiny:
        raise UserError("--chain is missing: the directory of experiments.emoji, or --tiny")
    if args.num < 1:
        raise UserError(f"--num={args.num} is not positive")
    chain = emoji.run(args.workdir / "chain", TINY, args.seed) if chain is None else chain
    name = read(chain)[1]["settings"].get("scale")
    if name not in SCALES:
        raise UserError(f"{chain} is of another experiment than emoji")
    asked = Asked(SCALES[name], args.num, args.seed)
    results = Results(args.workdir, scale=name, num=args.num, seed=args.seed, features=SCALES[name].features)
    measure(results, asked, train(results, SCALES[name], chain, args.seed), args.seed)


COLUMNS = (
    *("guidance", "method", "steps", "evaluations", "r_precision", "to_answer", "to_source"),
    *("held_out_r_precision", "held_out_to_answer", "held_out_to_source", "to_teacher"),
)
PAGE = """# Emoji redrawn as one is told

Made by `python -m experiments.emoji_styles --publish` from its runs; no number of its table is typed by hand. A network
that is shown a drawing and told "in noto style", "in fluent style" or "in twemoji style" ([what such networks
are](../editing.md#networks-that-are-shown-an-image)); scale {scale}, seed {seed}. Asked of {num} pairs that were
trained on, and of all whose second drawing was held out; every row is from the same noise. `r precision`: how often a
matcher, fitted on real drawings that were trained on, finds the caption of the answer ("name, style") among a hundred,
given the result. Distances are root mean squares over pixels in [-1, 1], averaged over pairs: to the real drawing in
the style that was asked for, to the drawing that was given, and to the teacher's result in 64 steps. w is both
strengths'; the teacher takes three evaluations a step, its students one.

On {spent}; rows made on {devices}.

![Drawings, and what became of them, w = 1; pairs that were held out](emoji_styles.png)
"""
CLOSING = """
## What came out

Of pairs that were trained on, the answer is drawn, a little blurred. Of those that were held out the thing is right and
mostly so is the style, while details are not: what is drawn is nearer to the answer than the drawing that was given,
but the matcher, which knows drawings by heart, finds its caption less often than that of the latter, which is of the
same thing. That is the teacher's doing (1,500 updates, a few hundred drawings); its students, down to one step, draw
what it draws. In 4 steps plain DDIM on the teacher, at three times the evaluations, is nearer to it than they are; in 2
and 1 they are nearer, most at w = 1.
"""


def publish(workdir: Path) -> None:
    """docs/results/emoji_styles.md and .png."""
    rows, hardware = read(workdir)
    if not {"scale", "num"} <= hardware["settings"].keys():
        raise UserError(f"{workdir} is of another experiment than emoji_styles")
    page = PAGE.format(**hardware["settings"], spent=spent(hardware), devices=devices(rows))
    path = DOCS / "emoji_styles.md"
    path.write_text("\n".join([page, markdown(rows, COLUMNS), CLOSING]).rstrip() + "\n")
    shutil.copy(workdir / "sheet.png", path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
