"""Trains a Gaussian autoencoder, the codec of a latent space of one's own: LDM (Rombach et al. 2022, appendix G)
without its adversary and its perceptual part, which need pictures and time of another order.

The folder that it leaves is what codec kl_vae and diffusers' AutoencoderKL read. It stops and goes on as a training of
a network does.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_distill import data, files, logs, parallel, pictures, rounds, state, streams, train_step
from guided_distill.checkpoint import Checkpoints
from guided_distill.codecs import kl_vae, to_float
from guided_distill.errors import UserError
from guided_distill.layers.autoencoder import GaussianAutoencoder, gaussian_loss
from guided_distill.objectives import Losses, Nets
from guided_distill.preemption import Preempted, Preemption

MEASURED = 1024  # Images that the scale of the latents, and the error, are found on.
SHOWN = 10
AT_A_TIME = 32
MEASURED_FILE = "measured.json"  # Written last.
MAX_SKIPPED = 100  # Updates in a row that were not finite.


@dataclasses.dataclass(frozen=True)
class Settings:
    """`widths` of the levels, each half the resolution of the one before; `latent` channels of a code; residual blocks
    of a level in `layers`; `groups` of norms. `kl_weight`: of KL(code || standard normal) beside the absolute error,
    both summed over an image."""

    widths: tuple[int, ...] = (32, 64, 64)
    latent: int = 4
    layers: int = 1
    groups: int = 8
    updates: int = 4000
    batch_size: int = 32
    lr: float = 1e-3
    kl_weight: float = 1e-6
    power: int = 1
    ema: float = 0.998
    seed: int = 0
    save_every: int = 1000
    log_every: int = 100

    def __post_init__(self):
        least = {"latent": 1, "layers": 1, "groups": 1, "updates": 1, "batch_size": 1, "save_every": 1, "log_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} {getattr(self, name)} of an autoencoder is less than {value}")
        if not (self.lr > 0 and self.kl_weight >= 0 and 0 <= self.ema < 1):
            raise UserError(
                f"lr {self.lr:g}, kl_weight {self.kl_weight:g}, ema {self.ema:g}: expected > 0, >= 0, [0, 1)"
            )

    def network(self, channels: int) -> GaussianAutoencoder:
        """For images of so many channels. Raises `UserError` for widths that do not divide into groups."""
        return GaussianAutoencoder(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(self.widths),
            layers_per_block=self.layers,
            latent_channels=self.latent,
            norm_num_groups=self.groups,
        )


def train(source: data.Source, workdir: str | Path, settings: Settings, say: Callable[[str], Any] = print) -> Path:
    """Trains on the images of `source`, from where it stopped, and writes the autoencoder into `workdir`. Raises
    `UserError` for settings that cannot work, or are not those that it was begun with, and `Preempted` after
    SIGTERM."""
    workdir = Path(workdir)
    if len(source.info.shape) != 3:
        raise UserError(f"an autoencoder is for images [h, w, c], not {list(source.info.shape)}")
    network = settings.network(source.info.shape[-1])
    if any(side % network.factor for side in source.info.shape[:2]):
        raise UserError(f"images of {source.info.shape[:2]} do not divide by {network.factor}, as widths ask")
    data.order(source, settings.batch_size, settings.seed)  # Fails here if it is too small.
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, (settings.updates,))
    with files.alone(workdir, "trained"), contextlib.closing(checkpoints), Preemption() as preemption:
        if done := _require_own(workdir, settings, source):
            say(f"{workdir}: trained, {told(done)}")
            return workdir
        trained = _trained(source, network, settings, workdir, checkpoints, preemption, say)
        found = finish(source, network, jax.device_get(trained.ema["student"]), workdir)
        files.write_json(workdir / MEASURED_FILE, found)
    say(f"{workdir}: {told(found)}")
    return workdir


def told(found: Mapping[str, float]) -> str:
    """What `finish` has found, for people."""
    return f"mean |error| {found['error']:.4f}, PSNR {found['psnr']:.1f} dB, scale {found['scale']:.4f}"


def _require_own(workdir: Path, settings: Settings, source: data.Source) -> dict[str, float] | None:
    """What it was measured at, if it is done."""
    path, own = workdir / "settings.json", json.loads(json.dumps(dataclasses.asdict(settings)))
    first = hashlib.sha256(np.ascontiguousarray(source[:1]["x"]).tobytes()).hexdigest()[:16]
    own["images"] = f"{len(source)} of {list(source.info.shape)}, the first with hash {first}"
    if path.is_file() and (there := json.loads(path.read_text())) != own:
        wrong = [f"{key} was {there.get(key)}, not {value}" for key, value in own.items() if there.get(key) != value]
        raise UserError(f"{workdir} was begun with other settings ({'; '.join(wrong)}): take another folder")
    files.write_json(path, own)
    done = workdir / MEASURED_FILE
    return json.loads(done.read_text()) if done.is_file() else None


def ingredients(network: GaussianAutoencoder, settings: Settings) -> train_step.Ingredients:
    """What the step is made of: the same step as a network's, with an autoencoder in the place of a Denoiser."""

    def objective(key: Any, nets: Nets, batch: Any, num_steps: Any) -> tuple[Losses, dict[str, Any]]:
        x = batch["x"]
        restored, moments = nets.student(x, key)
        loss = gaussian_loss(x, restored, moments, settings.kl_weight, settings.power) / x[0].size
        return {"student": loss}, {"error": jnp.mean(jnp.abs(restored - x)), "kl": jnp.mean(moments.kl())}

    plan = rounds.Rounds((0,), (settings.updates,))
    return train_step.Ingredients(
        objective=objective,
        student=lambda params, dropout_key: functools.partial(network.apply, {"params": params}),
        teacher=None,
        encode=lambda x: x,
        optimiser=train_step.optimiser(),
        learning_rate=rounds.learning_rate(plan, settings.lr, min(100, settings.updates // 10), "cosine"),
        rounds=plan,
        seed=settings.seed,
        ema_decay=settings.ema,
    )


def _trained(
    source: data.Source,
    network: GaussianAutoencoder,
    settings: Settings,
    workdir: Path,
    checkpoints: Checkpoints,
    preemption: Preemption,
    say: Callable[[str], Any],
) -> state.TrainState:
    of = ingredients(network, settings)
    layout = parallel.Layout(parallel.make_mesh(), parallel.EVERYWHERE)
    parallel.check_batch_size(settings.batch_size, layout.mesh)
    x = jnp.zeros((1, *source.info.shape))
    init = lambda key: state.create({"student": network.init(key, x)["params"]}, {}, of.optimiser, True)  # noqa: E731
    abstract = jax.eval_shape(init, jax.random.key(0))
    newest = checkpoints.latest_sound(say)
    if newest is None:
        start, shardings = 0, layout.shardings(abstract)
        current = jax.jit(init, out_shardings=shardings)(streams.key(settings.seed, "init", 0))
    else:
        current, start = checkpoints.restore(layout.place(abstract), newest)
    step, log = jax.jit(train_step.make(of), donate_argnums=0), logs.Log(workdir, start)
    with contextlib.closing(log):
        for k, batch in enumerate(_batches(source, settings, start), start + 1):
            current, metrics = step(current, parallel.put_batch(batch, layout.mesh))
            if k % settings.log_every == 0:
                row = {name: float(value) for name, value in metrics.items()}
                if row["skipped_in_row"] >= MAX_SKIPPED:
                    raise UserError(f"{workdir}: {MAX_SKIPPED} updates in a row were not finite; take a lower lr")
                log.write(k, row)
                say(f"{workdir}: update {k} of {settings.updates}, mean |error| {row['error']:.4f}")
            due = preemption.due()
            if k % settings.save_every == 0 or k == settings.updates or due:
                checkpoints.save(current, k)
            if due:
                raise Preempted(f"{workdir}: asked to stop; update {k} is saved")
        checkpoints.wait()
    return current


def _batches(source: data.Source, settings: Settings, start: int) -> Iterator[dict[str, np.ndarray]]:
    found = data.batches(source, settings.batch_size, settings.seed, start)
    for _, batch in zip(range(start, settings.updates), found, strict=False):
        yield {"x": batch["x"]}


def finish(source: data.Source, network: GaussianAutoencoder, params: Any, workdir: Path) -> dict[str, float]:
    """Writes the folder, with the scale that gives drawn latents unit deviation, and restored.png; returns {"scale",
    "error", "psnr"}, the errors being those of means of latents."""
    index = np.linspace(0, len(source) - 1, min(MEASURED, len(source))).astype(int)
    restored = jax.jit(lambda params, x: network.apply({"params": params}, x))
    size, shown = min(AT_A_TIME, len(index)), ([], [])
    # Of the latents: their number, sums of means, of squares of means, of variances. Of the images: of errors.
    total = np.zeros(4)
    errors, squares, values = 0.0, 0.0, 0
    for start in range(0, len(index), size):
        images = to_float(source[index[start : start + size]]["x"])
        num = len(images)
        back, moments = restored(params, np.resize(images, (size, *images.shape[1:])))
        back, mean, logvar = (np.asarray(part, np.float64)[:num] for part in (back, *moments))
        back = np.clip(back, -1, 1)
        total += [mean.size, mean.sum(), (mean**2).sum(), np.exp(logvar).sum()]
        errors, squares = errors + np.abs(back - images).sum(), squares + ((back - images) ** 2).sum()
        values += images.size
        wanted = max(0, SHOWN - sum(map(len, shown[0])))
        for kept, part in zip(shown, (images, back), strict=True):
            kept.append(part[:wanted].astype(np.float32))
    latents, sum_, squared, variances = total
    scale = float(1 / np.sqrt(squared / latents - (sum_ / latents) ** 2 + variances / latents))
    kl_vae.save(workdir, network, params, scale)
    above, below = map(np.concatenate, shown)
    pictures.save_grid(workdir / "restored.png", np.concatenate([above, below]), len(above))
    return {"scale": scale, "error": errors / values, "psnr": float(10 * np.log10(4 * values / squares))}
