"""Text to image, whole: an autoencoder, a teacher of captions in its latent space, and its students, on emoji.

    python -m experiments.emoji --workdir=DIR               (an accelerator; 64 x 64, about 2 hours, estimated)
    python -m experiments.emoji --workdir=DIR --cpu         (faces, 32 x 32, two CPU cores: 78 minutes, and rows)
    python -m experiments.emoji --tiny                      seconds, on made-up pictures with made-up words

Needs `python -m guided_distill data prepare emoji` and the packages of requirements-features.txt. Captions are "name,
style"; MiniLM reads them, as it comes with weights and knows what words mean, where an encoder learned here would have
seen each name three times. A tenth of the (name, style) pairs is held out: known names in known styles that never came
together. Every row is of samples from the same noise, for captions of both kinds. `r precision`: how often a matcher,
fitted on the real pairs that were trained on, finds a picture's own caption among a hundred.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guided_distill
from configs import emoji_stage1, emoji_stage2, emoji_teacher
from experiments.matcher import Matcher
from experiments.measure import apart
from experiments.results import Results, arguments
from experiments.timing import interleave
from guided_distill import autoencoding, data, evaluate, latents, launch, mapped, pictures, report, runs
from guided_distill.codecs import to_float
from guided_distill.metrics import FeatureSet, frechet, kernel, paired
from guided_distill.runs import Run
from guided_distill.text import minilm, words

GUIDANCE = (2.0, 0.0, 1.0, 4.0)
STEPS = (16, 8, 4, 2, 1)
SHOWN, TIMED = 20, 64


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is. `source` of pictures, its split held out, `seen` captions a row, `repeats` of each
    caption that is held out; the `steps` and the `guidance` of the rows, in the order of measuring."""

    name: str
    argument: str
    source: dict
    heldout: dict
    autoencoder: autoencoding.Settings
    text: dict
    teacher_steps: int
    seen: int
    repeats: int
    features: str = "efficientnet_lite0"
    steps: tuple[int, ...] = STEPS
    guidance: tuple[float, ...] = GUIDANCE


FULL = Scale(
    "emoji64",
    "",
    {"name": "emoji", "size": 64},
    {"name": "emoji", "split": "heldout", "size": 64},
    autoencoding.Settings(widths=(64, 128, 128), layers=2, groups=32, updates=20_000, batch_size=64, lr=5e-4),
    {"name": "minilm"},
    250,
    1_000,
    2,
)
CPU = Scale(
    "emoji_faces32",
    "cpu",
    {"name": "emoji", "size": 32, "faces": True},
    {"name": "emoji", "split": "heldout", "size": 32, "faces": True},
    autoencoding.Settings(widths=(16, 32, 32), latent=8, groups=8, updates=7_000, batch_size=16, lr=2e-3),
    {"name": "minilm"},
    250,
    400,
    4,
)
MADE_UP = {"name": "synthetic", "num": 64, "captions": True}
TINY = Scale(
    "blobs",
    "tiny",
    MADE_UP,
    {**MADE_UP, "split": "test", "num": 8},
    autoencoding.Settings(widths=(8, 8), groups=4, updates=8, batch_size=8, save_every=4, log_every=4),
    {"name": "words"},
    8,
    24,
    3,
    "pixels",
    (4, 1),
    (2.0, 0.0),
)
SCALES = {scale.name: scale for scale in (FULL, CPU, TINY)}


def embedding(scale: Scale) -> Callable[[Sequence[str]], np.ndarray]:
    """Captions -> one vector each, for a matcher."""
    if scale.text["name"] == "minilm":
        return minilm.make()
    return lambda captions: words.encoder().encode(captions).mean(1)


class Pairs:
    """Pictures with captions, and their features; `repeats` times the captions are what is asked for."""

    def __init__(self, source: data.Source, features, num: int, repeats: int = 1):
        found = source[:]
        self.captions = [caption.decode() for caption in found["caption"].tolist()]
        self.images = to_float(found["x"])
        self.real = evaluate.feature_set(self.images, None, features, evaluate.CACHE)
        spread = np.unique(np.linspace(0, len(source) - 1, min(num, len(source))).astype(int))
        spread = np.random.default_rng(0).permutation(spread)  # In no order, so that halves of a row are alike.
        self.asked = [self.captions[k] for k in spread] * repeats


class Measured:
    """Rows: samples for the captions of both kinds, against the real pictures, against the teacher's samples from the
    same noise, and before the matcher."""

    def __init__(self, results: Results, scale: Scale, teacher: Run, seed: int):
        self.results, self.teacher, self.scale, self.seed = results, teacher, scale, seed
        _, self.features = evaluate.load_features(scale.features)
        self.kinds = {
            "": Pairs(data.load(**scale.source), self.features, scale.seen),
            "held_out_": Pairs(data.load(**scale.heldout), self.features, 10**6, scale.repeats),
        }
        seen = self.kinds[""]
        self.matcher = Matcher(seen.real.features, seen.captions, embedding(scale), seed)

    def sampled(self, run: Run, steps: int, w: float, sampler: str, kind: str) -> FeatureSet:
        """Features of a run's samples for the captions of a kind."""
        asked = self.kinds[kind].asked
        images = run.sample(len(asked), steps, w, seed=self.seed, sampler=sampler, prompts=asked)
        return evaluate.feature_set(images, None, self.features)

    def scores(self, fake: FeatureSet, kind: str) -> dict[str, float]:
        """Against the real pictures of a kind, and before the matcher."""
        pairs = self.kinds[kind]
        found = {**kernel.compute(fake, pairs.real, subsets=25), **frechet.compute(fake, pairs.real)}
        found["r_precision"] = self.matcher.precision(fake.features, pairs.asked)
        return {kind + name: value for name, value in found.items()}

    def row(self, method: str, run: Run, sampler: str, steps: int, w: float, evaluations: int) -> None:
        """One row, unless it stands."""

        def compute() -> dict[str, float]:
            out: dict[str, float] = {}
            for kind in self.kinds:
                fake = self.sampled(run, steps, w, sampler, kind)
                seconds = 1 / run.images_per_second if run.images_per_second else None
                out |= self.scores(fake, kind)
                if not kind:
                    partner = self.partner(w, fake if method == "teacher" else None)
                    out |= {**paired.compute(fake, partner), **apart(fake, partner, True)}
                    out |= {"seconds_an_image": seconds} if seconds else {}
            return out

        key = {"method": method, "sampler": sampler, "steps": steps, "guidance": w, "seed": self.seed}
        self.results.row({**key, "weights": f"{run.hash} {self.teacher.hash}"}, evaluations, compute)

    def partner(self, w: float, fake: FeatureSet | None = None) -> FeatureSet:
        """The teacher's samples from the same noise, for captions that were trained on: kept, as they are the
        dearest."""
        steps = self.scale.teacher_steps
        path = self.results.workdir / "partners" / f"w{w:g}_steps{steps}_seed{self.seed}_{self.teacher.hash}.npy"
        if fake is None and (there := mapped.load(path)) is not None:
            return FeatureSet(np.asarray(there))
        found = fake or self.sampled(self.teacher, steps, w, "ddim", "")
        with mapped.whole(path) as file:
            np.save(file, found.features)
        return found

    def real(self) -> None:
        """What real pictures get: those that were trained on by a matcher that was fitted on others of them (so that
        samples, for which it knows all, may do better), those that were held out by the matcher that judges samples."""

        def compute() -> dict[str, float]:
            seen, held = self.kinds[""], self.kinds["held_out_"]
            found = {"r_precision": self.matcher.left_out}
            found["held_out_r_precision"] = self.matcher.precision(held.real.features, held.captions)
            half = len(seen.real.features) // 2
            order = np.random.default_rng(self.seed).permutation(len(seen.real.features))
            halves = [FeatureSet(seen.real.features[rows]) for rows in (order[:half], order[half:])]
            return {**found, **kernel.compute(*halves, subsets=25), **frechet.compute(*halves)}

        key = {"method": "real pictures", "sampler": "none", "steps": 0, "guidance": 0.0, "seed": self.seed}
        self.results.row(key, 0, compute)


def sheet(path: Path, measured: Measured, lines: dict[str, tuple], w: float, kind: str) -> None:
    """A row of pictures for each {name: (run, steps)} of `lines`, for the same captions from the same noise."""
    asked = list(dict.fromkeys(measured.kinds[kind].asked))
    asked = [asked[k] for k in np.linspace(0, len(asked) - 1, min(SHOWN, len(asked))).astype(int)]
    real = [measured.kinds[kind].images[measured.kinds[kind].captions.index(caption)] for caption in asked]
    rows = {"real": np.stack(real)}
    for name, (run, *how) in lines.items():
        steps, sampler = (*how, None)[:2]
        rows[name] = run.sample(len(asked), steps, w, seed=measured.seed, sampler=sampler, prompts=asked)
    pictures.save_sheet(path, rows)
    path.with_suffix(".txt").write_text("\n".join(asked) + "\n")


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    parser = arguments(__doc__, Path("runs") / "emoji")
    parser.add_argument("--cpu", action="store_true", help="faces at 32 x 32, for two CPU cores")
    args = parser.parse_args()
    launch.prepare_process()
    run(args.workdir, TINY if args.tiny else CPU if args.cpu else FULL, args.seed)


def run(workdir: Path, scale: Scale, seed: int) -> Path:
    """All of it, in `workdir`, which it returns."""
    results = Results(workdir, scale=scale.name, seed=seed, features=scale.features)
    codec = dataclasses.replace(scale.autoencoder, seed=seed)
    with results.timed("autoencoder"):
        autoencoding.train(data.load(**scale.source), workdir / "autoencoder", codec)
    spec = {**scale.source, "split": "train"}
    encoders = latents.Encoders({"name": "kl_vae", "weights": str(workdir / "autoencoder")}, scale.text)
    with results.timed("encoding"):
        latents.write(data.load(**spec), spec, encoders, scale.name, str(workdir / "data"))
    loaded: dict[str, Run] = {}
    for name, module, above in (
        ("teacher", emoji_teacher, None),
        ("matched", emoji_stage1, "teacher"),
        ("student", emoji_stage2, "matched"),
    ):
        config = module.get_config(scale.argument)
        if above is None:
            config.data = {"name": "encoded", "of": scale.name, "directory": str(workdir / "data")}
            config.codec = {"name": "as_data"}
        trained = results.train(config, name, seed, above and workdir / above)
        loaded[name] = guided_distill.load(trained)
    measure(results, scale, loaded, seed)
    title = "Emoji: captions to pictures, distilled to one step"
    print(f"-> {report.of_experiment(workdir, title, features=scale.features)}")
    return workdir


def speed(
    results: Results, teacher: Run, student: Run, many: int, w: float, few: int, seed: int, prompts: list[str]
) -> None:
    """Medians of seconds for an image of each of `prompts`, caption to pixels: by the teacher in `many` steps and by
    the student in `few`; of reading the captions, of one evaluation of the student's network, and of one decoding; and
    how much faster the student is, beside what evaluations and decoding alone would give."""
    num = len(prompts)

    def compute() -> dict[str, float]:
        z, weights = student.noise(num, seed), student.weights_for(few)
        cond = {key: jnp.asarray(value) for key, value in student.cond(num, w, prompts=prompts).items()}
        logsnr = jnp.zeros((num,))
        evaluate_once = jax.jit(lambda weights, z: runs.bind(student.manifest)(weights)(z, logsnr, cond).x)
        decode = jax.jit(lambda weights, z: student.codec.bind(weights).decode(z))
        sampled = lambda run, steps: run.sample(num, steps, w, seed=seed, prompts=prompts)  # noqa: E731
        found = interleave(
            {
                "teacher": lambda: sampled(teacher, many),
                "student": lambda: sampled(student, few),
                "reading": lambda: student.cond(num, w, prompts=prompts),
                "evaluation": lambda: evaluate_once(weights, z),
                "decoding": lambda: decode(student.codec.weights, z),
            },
            repeats=3,
            warmups=1,
        )
        of = {name: statistics.median(seconds) for name, seconds in found.items()}
        out = {f"{name}_seconds": value for name, value in of.items()}
        out |= {
            "num": num,
            "num_captions": len(set(prompts)),
            "few_steps": few,
            "speed_up": of["teacher"] / of["student"],
        }
        evaluations = lambda n: n * of["evaluation"] + of["decoding"]  # noqa: E731
        return {**out, "speed_up_of_evaluations": evaluations(2 * many) / evaluations(few)}

    key = {"method": "speed", "sampler": "ddim", "steps": many, "guidance": w, "seed": seed}
    results.row({**key, "weights": f"{student.hash} {teacher.hash}"}, 2 * many, compute)


def measure(results: Results, scale: Scale, loaded: dict[str, Run], seed: int) -> None:
    """All rows, and the sheets."""
    teacher, matched, student = loaded["teacher"], loaded["matched"], loaded["student"]
    of, many = Measured(results, scale, teacher, seed), scale.teacher_steps
    of.real()
    steps = [n for n in scale.steps if n in student.trained_steps]
    for w in scale.guidance:
        of.row("teacher", teacher, "ddim", many, w, 2 * many)
        of.row("matched", matched, "ddim", many, w, many)
        for n in steps:
            of.row("student", student, "ddim", n, w, n)
            of.row("DDIM on the teacher", teacher, "ddim", n, w, 2 * n)
            of.row("DPM-Solver++ on the teacher", teacher, "dpmpp_2m", n, w, 2 * n)
    few, prompts = max(n for n in steps if n <= 4), of.kinds[""].asked[:TIMED]
    speed(results, teacher, student, many, scale.guidance[0], few, seed, prompts)
    lines = {f"teacher {many} x 2": (teacher, many), f"stage one {many}": (matched, many)}
    lines |= {f"student {n}": (student, n) for n in steps}
    lines |= {f"DPM-Solver++ {n} x 2": (teacher, n, "dpmpp_2m") for n in (8, 4) if n in steps}
    w = scale.guidance[0]
    for kind in of.kinds:
        sheet(results.workdir / f"sheet_{kind or 'seen_'}w{w:g}.png", of, lines, w, kind)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
