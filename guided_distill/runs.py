"""A run as its users hold it: rebuilt from its directory's manifest, never from a config.

run = guided_distill.load("runs/digits_stage2")
images = run.sample(16, steps=4, guidance=1.0, labels=3, seed=0)
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_distill import channels, codecs, conditions, guidance, parallel, presets, samplers, schedules
from guided_distill.checkpoint import Checkpoints, fingerprint
from guided_distill.denoiser import Parameterised
from guided_distill.errors import UserError, one_of
from guided_distill.generate import Generator, Paint, batch_of, noise
from guided_distill.plugins import resolve
from guided_distill.prediction import Denoiser

FORMAT = 1


def load(run_dir: str | Path, step: int | None = None) -> "Run":
    """The run in `run_dir`, with the weights of its newest checkpoint, or of `step`. Raises `UserError` when there is
    none, or it is damaged."""
    return Run(run_dir, step)


def read_manifest(run_dir: str | Path) -> dict[str, Any]:
    """manifest.json of a run directory. Raises `UserError` when it is missing or not readable."""
    path = Path(run_dir) / "manifest.json"
    if not path.is_file():
        raise UserError(f"no run in {run_dir}: {path} is missing")
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is damaged: it holds a {type(manifest).__name__}; expected a JSON object")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} has format {manifest.get('format')}; this version reads {FORMAT}")
    arguments = manifest["network"]["args"]
    if isinstance(arguments.get("remat"), bool):  # So it was written before there was a choice.
        arguments["remat"] = "full" if arguments["remat"] else "none"
    return manifest


def parameterised(manifest: Mapping[str, Any]) -> Parameterised:
    """The network of a manifest with the meaning of its output. Raises `UserError` for unknown names and arguments."""
    name, arguments = manifest["network"]["name"], manifest["network"]["args"]
    make = resolve("models", name).Network
    try:
        network = make(**_tuples(arguments))
    except TypeError as error:
        raise UserError(f"network {name}: {error}") from error
    shown = tuple(manifest.get("channels", ()))
    return Parameterised(
        network, manifest["prediction"], manifest["time_input"], schedules.make(**manifest["schedule"]), shown
    )


def network_fields(name: str) -> set[str]:
    """The arguments that a network takes."""
    return {field.name for field in dataclasses.fields(resolve("models", name).Network)} - {"parent", "name"}


def abstract_weights(manifest: Mapping[str, Any]) -> Any:
    """The weights' shapes and dtypes, nothing computed."""
    z = jnp.zeros((1, *manifest["code_shape"]), jnp.float32)
    cond = conditions.example(manifest)
    return jax.eval_shape(lambda key: parameterised(manifest).init(key, z, cond), jax.random.key(0))


def bind(manifest: Mapping[str, Any]) -> Callable[[Any], Denoiser]:
    """weights -> Denoiser that reads cond["guidance"], whatever kind of guidance the run has: external is applied
    here."""
    network, kind = parameterised(manifest), manifest["guidance"]["kind"]
    if kind == "external":
        null, bounds = conditions.null(manifest), manifest["guidance"].get("interval")
        if manifest["guidance"].get("image"):
            both = lambda denoise: guidance.guided_by_both(denoise, null, channels.NULL_IMAGE)  # noqa: E731
            return lambda params: guidance.interval(both(network.bind(params)), bounds)
        return lambda params: guidance.interval(guidance.guided(network.bind(params), null), bounds)
    return network.bind if kind == "embedded" else lambda params: guidance.unguided(network.bind(params))


def _tuples(value):
    """Lists, as JSON has them, as tuples, so that networks are hashable."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class Run:
    """A trained run. `.manifest`, `.schedule`, `.codec`, and `.denoise`: (z, logsnr, cond) -> Prediction with
    cond["guidance"] and, where it knows them, cond["label"] and cond["text"]."""

    def __init__(self, run_dir: str | Path, step: int | None = None):
        self.dir = Path(run_dir)
        self.manifest = read_manifest(run_dir)
        self.schedule = schedules.make(**self.manifest["schedule"])
        self.codec = codecs.load(**self.manifest["codec"])
        self.code_shape = tuple(self.manifest["code_shape"])
        self._bind = bind(self.manifest)
        self._checkpoints = Checkpoints(run_dir)
        self._generator = Generator(self._bind, self.codec, self.manifest["clip"])
        self._weights: dict[int, Any] = {}
        self._only = step
        self.step = self._find_step(step)

    def _find_step(self, step: int | None) -> int:
        if not self.manifest["trains"]:
            if step:
                raise UserError(f"{self.dir} is exact: it has no checkpoints")
            return 0
        steps = self._checkpoints.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.dir}: its training has not saved one yet")
        if step is not None and step not in steps:
            raise UserError(f"no checkpoint of step {step} in {self.dir}; there are {', '.join(map(str, steps))}")
        return steps[-1] if step is None else step

    @property
    def hash(self) -> str:
        """Of the checkpoint, for students to name their teacher by."""
        return fingerprint(self.dir, self.step)

    def weights(self, step: int | None = None) -> Any:
        """The weights of a checkpoint (the EMA where the run keeps one), read once. Raises `UserError` when damaged."""
        step = self.step if step is None else step
        if step not in self._weights:
            layout = parallel.Layout(self._generator.mesh, parallel.EVERYWHERE)
            self._weights[step] = self.read_weights(layout.place(abstract_weights(self.manifest)), step)
        return self._weights[step]

    def read_weights(self, placed: Any, step: int | None = None) -> Any:
        """The weights of a checkpoint, read anew, as `placed` (`jax.ShapeDtypeStruct`s with shardings) says. Raises
        `UserError` when damaged."""
        if not self.manifest["trains"]:
            return {}
        step = self.step if step is None else step
        return self._checkpoints.restore_weights(placed, step, self.manifest["weights"])

    @property
    def denoise(self) -> Denoiser:
        """The newest (or asked-for) weights as a Denoiser, not clipped."""
        return self._bind(self.weights())

    @property
    def images_per_second(self) -> float | None:
        """Of the last `sample` or `encode`, compilation left out; None where it was a single batch."""
        return self._generator.images_per_second

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """{"preview", "fast", "quality": {"steps", "sampler", "guidance", ...}}, as `sweep` left them. Raises
        `UserError` where there are none."""
        return presets.read(self.dir)["presets"]

    @property
    def trained_steps(self) -> dict[int, int] | None:
        """Steps N -> checkpoint of its student, for a halved chain, as far as it has got; None for a run that takes any
        N."""
        if self.manifest["rounds"] is None:
            return None
        if self._only is None:
            saved = self._checkpoints.steps()
            trained = {n: end for n, end in self.manifest["rounds"] if end in saved}
        else:  # The round that the asked-for checkpoint belongs to, which it may be in the middle of.
            trained = {next(n for n, end in self.manifest["rounds"] if end >= self._only): self._only}
        if self.manifest["sampler"] == "stochastic" and 2 in trained:
            trained[1] = trained[2]
        return trained

    def weights_for(self, steps: int) -> Any:
        """The weights that are sampled with in `steps` steps: those of its round, of a halved chain. Raises `UserError`
        for steps that it was not trained for."""
        trained = self.trained_steps
        if steps < 1:
            raise UserError(f"steps {steps} is not positive")
        if trained is None:
            return self.weights()
        if steps not in trained:
            raise UserError(
                f"{self.dir} has no student of {steps} steps; trained: {', '.join(map(str, trained)) or 'none yet'}"
            )
        return self.weights(trained[steps])

    def check_sampler(self, sampler: str) -> None:
        """Raises `UserError` for an unknown sampler, or one that a halved chain was not trained for."""
        one_of("sampler", sampler, samplers.names())
        if self.manifest["rounds"] is not None and sampler != self.manifest["sampler"]:
            raise UserError(f"{self.dir} was trained for the sampler {self.manifest['sampler']!r}, not {sampler!r}")

    def check_guidance(self, w: np.ndarray) -> None:
        """Raises `UserError` for w that the run cannot be asked for."""
        kind = self.manifest["guidance"]
        low, high = {"none": (0.0, 0.0), "external": (0.0, np.inf)}.get(kind["kind"]) or kind["range"]
        if not np.all(np.isfinite(w) & (w >= low - 1e-6) & (w <= high + 1e-6)):
            shown = ", ".join(f"{x:g}" for x in np.unique(w)[:4])
            raise UserError(
                f"guidance {shown} is outside the range of {self.dir}: [{low:g}, {high:g}] (w = 0 is no guidance)"
            )

    def cond(
        self,
        num: int,
        guidance: float | np.ndarray | None = None,
        labels: int | np.ndarray | None = None,
        prompts: str | Sequence[str] | None = None,
        negative_prompt: str | None = None,
    ) -> dict[str, np.ndarray]:
        """What `num` samples are told, for `denoise`: "guidance" and, where the run knows them, "label" and "text";
        None as in `sample`. Raises `UserError` for what it does not know."""
        w = guidance
        w = self.manifest["recommended"]["guidance"] if w is None else w
        w = np.asarray(w, np.float32)
        if w.shape not in ((), (num,)):
            raise UserError(f"guidance must be one number or {num} of them; got shape {w.shape}")
        cond = {"guidance": np.broadcast_to(w, (num,)).copy()}
        self.check_guidance(cond["guidance"])
        return cond | conditions.of(self.manifest, num, labels, prompts, negative_prompt, self.dir)

    def sample(
        self,
        num: int,
        steps: int | None = None,
        guidance: float | np.ndarray | None = None,
        labels: int | np.ndarray | None = None,
        seed: int = 0,
        sampler: str | None = None,
        noise: np.ndarray | None = None,
        batch_size: int | None = None,
        clip: bool | None = None,
        prompts: str | Sequence[str] | None = None,
        negative_prompt: str | None = None,
    ) -> np.ndarray:
        """float32 [num, *shape]: images [h, w, c] in [-1, 1], or points.

        None = what the manifest recommends; labels None = all classes in turn; noise [num, *code shape] None = seeded,
        sample k being a function of (seed, k). `steps` = N of a halved chain takes the round-N weights. `clip`: x to
        [-1, 1] at every step (False: images may end beyond). `prompts`: one for all, or `num` of them; guidance leads
        away from `negative_prompt`, where it is not built in. Raises `UserError` for what it cannot do.
        """
        if self.manifest["objective"] == "encoding":
            raise UserError(f"{self.dir} is an encoder: it goes towards noise, with Run.encode")
        if num < 1:
            raise UserError(f"num {num} is not positive")
        steps = self.default_steps() if steps is None else steps
        sampler = self.manifest["sampler"] if sampler is None else sampler
        self.check_sampler(sampler)
        cond = self.cond(num, guidance, labels, prompts, negative_prompt)
        weights, indices = self.weights_for(steps), np.arange(num)
        z = self.noise(num, seed) if noise is None else _checked(noise, (num, *self.code_shape), "noise")
        grid = schedules.grid(self.schedule, steps)
        batch_size = batch_of(self.manifest["shape"], batch_size)
        shared = {"seed": seed, "indices": indices, "batch_size": batch_size, "clip": clip}
        return self._generator(weights, sampler, z, cond, grid, **shared)

    def default_steps(self) -> int:
        """What the manifest recommends, or the fewest that a chain has got to."""
        trained = self.trained_steps
        if trained is None or self.manifest["recommended"]["steps"] in trained:
            return self.manifest["recommended"]["steps"]
        if not trained:
            raise UserError(f"{self.dir} has not finished a round yet")
        return min(trained)

    def noise(self, num: int, seed: int = 0) -> np.ndarray:
        """The seeded noise that `sample` starts from, [num, *code shape]."""
        return noise(seed, np.arange(num), self.code_shape)

    def encode(
        self,
        images: np.ndarray,
        steps: int | None = None,
        labels: int | np.ndarray | None = None,
        guidance: float = 0.0,
        batch_size: int | None = None,
        prompts: str | Sequence[str] | None = None,
    ) -> np.ndarray:
        """noise [num, *code shape]: DDIM upwards from images in [-1, 1], or uint8 (or points), with a distilled
        encoder's own steps where it is one."""
        if self.manifest["rounds"] is not None and self.manifest["objective"] != "encoding":
            raise UserError(
                f"{self.dir} was trained for steps towards data; encode with an encoder, stage one or a teacher"
            )
        num = len(images)
        steps = self.default_steps() if steps is None else steps
        cond, weights = self.cond(num, guidance, labels, prompts), self.weights_for(steps)
        z = self.codes(codecs.checked(images, self.manifest["shape"], self.dir), batch_size)
        batch_size = batch_of(self.manifest["shape"], batch_size)
        grid = schedules.encoding_grid(self.schedule, steps)
        return self._generator(
            weights, "ddim", z, cond, grid, seed=0, indices=np.arange(num), batch_size=batch_size, encode=True
        )

    def codes(self, images: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """What images in [-1, 1] (or points) are to the network, float32 [n, *code shape]."""
        num, out = len(images), []
        for start in range(0, num, size := min(batch_of(self.manifest["shape"], batch_size), num)):
            rows = np.arange(start, start + size) % num  # The last batch is filled up, so that one shape is compiled.
            out.append(np.asarray(self.codec.encode(jnp.asarray(images[rows]))))
        return np.concatenate(out)[:num]

    def down(
        self,
        z: np.ndarray,
        levels: jax.Array,
        steps: int,
        cond: Mapping[str, np.ndarray],
        seed: int = 0,
        sampler: str | None = None,
        batch_size: int | None = None,
        paint: Paint | None = None,
    ) -> np.ndarray:
        """Images from codes z [n, *code shape] at the first of the log-SNRs `levels`, by the weights for `steps` steps
        along them: what `sample` does with noise, for whoever begins elsewhere. Raises `UserError` for a sampler that
        the run cannot be asked for."""
        sampler = self.manifest["sampler"] if sampler is None else sampler
        self.check_sampler(sampler)
        rows = {
            "seed": seed,
            "indices": np.arange(len(z)),
            "batch_size": batch_of(self.manifest["shape"], batch_size),
        }
        return self._generator(self.weights_for(steps), sampler, z, cond, levels, **rows, paint=paint)


def _checked(array: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.shape != shape:
        raise UserError(f"{what} must have shape {shape}; got {array.shape}")
    return array
