"""Stage one's error where it was made: on noised data, over log-SNR and w."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from guided_distill import conditions, runs, streams
from guided_distill.codecs import to_float
from guided_distill.data import Source
from guided_distill.prediction import expand
from guided_distill.runs import Run
from guided_distill.schedules import alpha_sigma

LOGSNR = tuple(range(-7, 8, 2))  # Middles of cells of width 2. Beyond them z is all noise, or all data.
NUM = 128
CELLS = 5  # Values of w.


def compute(teacher: Run, student: Run, source: Source, seed: int = 0, num: int = NUM) -> dict[str, Any]:
    """{"logsnr" [8], "guidance" [5], "v_error" [8][5]}: E |v_student - v_teacher|², a number of the mean dimension, for
    the same `num` noised examples in every cell; the teacher is guided. In x it is sigma² times that (PD, appendix D).
    """
    low, high = student.manifest["guidance"].get("range", (0.0, 0.0))
    strengths = np.linspace(low, high, CELLS if high > low else 1)
    examples = source[np.random.default_rng([2023, seed]).permutation(len(source))[:num]]
    x = jnp.asarray(student.codes(to_float(examples["x"])))
    eps = jax.random.normal(streams.key(seed, "golden map", 0), x.shape)
    captions = [text.decode() for text in examples["caption"].tolist()] if student.manifest.get("text") else None
    labels = examples["label"] if student.manifest["num_classes"] else None
    told = conditions.of(student.manifest, len(x), labels, captions)
    cond = {name: jnp.asarray(value) for name, value in told.items()}
    binds = runs.bind(teacher.manifest), runs.bind(student.manifest)
    weights = teacher.weights(), student.weights()

    @jax.jit
    def error(weights: tuple, logsnr: jax.Array, w: jax.Array) -> jax.Array:
        at, asked = jnp.full(len(x), logsnr), cond | {"guidance": jnp.full(len(x), w)}
        alpha, sigma = (expand(c, x) for c in alpha_sigma(at))
        z = alpha * x + sigma * eps
        theirs, ours = (bind(of)(z, at, asked).v(at) for bind, of in zip(binds, weights, strict=True))
        return jnp.mean(jnp.square(ours - theirs))

    table = [[float(error(weights, np.float32(level), np.float32(w))) for w in strengths] for level in LOGSNR]
    return {"logsnr": list(LOGSNR), "guidance": strengths.tolist(), "v_error": table, "num": len(x)}


def draw(path: Path, found: dict[str, Any]) -> None:
    """The table as a picture, coloured by order of magnitude."""
    values = np.asarray(found["v_error"])
    figure = Figure(figsize=(1.6 + 0.8 * values.shape[1], 3.6), dpi=110)
    axis = figure.subplots()
    shown = axis.imshow(np.log10(np.maximum(values, 1e-12)), cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        bright = shown.norm(np.log10(max(value, 1e-12))) > 0.6
        axis.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7, color="black" if bright else "white")
    axis.set_xticks(range(values.shape[1]), [f"{w:g}" for w in found["guidance"]])
    axis.set_yticks(range(values.shape[0]), [f"{level:g}" for level in found["logsnr"]])
    axis.set(xlabel="w", ylabel="log-SNR", title="|v stage one - v teacher|²")
    figure.savefig(path, bbox_inches="tight", facecolor="white")
