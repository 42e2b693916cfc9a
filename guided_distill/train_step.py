"""Objective + optimiser -> one pure step: (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from guided_distill import streams
from guided_distill.codecs import to_float
from guided_distill.errors import one_of
from guided_distill.objectives import Nets, Objective
from guided_distill.prediction import Denoiser
from guided_distill.rounds import Rounds
from guided_distill.state import TrainState


@dataclasses.dataclass(frozen=True)
class Ingredients:
    """What a step is made of; nothing in here is trained.

    `student(params, dropout_key or None)` and `teacher(teacher leaves)` give Denoisers; `encode` takes images in [-1,
    1] to what is diffused, and if it `draws` a key beside them; `show` (see `channels`) adds what a network is shown
    beside that.
    """

    objective: Objective | None
    student: Callable[..., Denoiser] | None
    teacher: Callable[[Any], Denoiser] | None
    encode: Callable[[Array], Array]
    optimiser: optax.GradientTransformation | None
    learning_rate: Callable[[Array], Array] | None
    rounds: Rounds
    seed: int
    ema_decay: float = 0.0
    dropout: bool = False
    flip: bool = False
    accumulate: int = 1
    draws: bool = False
    show: Callable[[Array, dict[str, Any]], dict[str, Any]] | None = None


def optimiser(
    name: str = "adam",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Global-norm clip (0: none), then "adam" or "adamw", without the learning rate, which is the step's business."""
    one_of("optimiser", name, ("adam", "adamw"))
    parts = [optax.clip_by_global_norm(clip)] if clip else []
    parts.append(optax.scale_by_adam(b1, b2, eps))
    if name == "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    elif weight_decay:
        raise ValueError("weight_decay needs optim.name = 'adamw'")
    return optax.chain(*parts)


def make(of: Ingredients) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step. Pure; jit it with the state donated. Metrics are scalars: loss, grad_norm, learning_rate, num_steps,
    skipped, skipped_in_row.

    Where loss or gradient is not finite, the update is left out (weights, moments and average stay) and counted.
    """

    def step(state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, dict[str, Array]]:
        num_steps = of.rounds.num_steps_at(state.step)
        loss, metrics, gradient = gradient_of(of, state, batch, num_steps)
        norm = optax.tree.norm(gradient)
        updates, opt_state = of.optimiser.update(gradient, state.opt_state, state.params)
        rate = of.learning_rate(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        done, _ = of.rounds.within(state.step)
        ema = None if state.ema is None else moving_average(state.ema, params, of.ema_decay, done)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, ema, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema, opt_state),
            (state.params, state.ema, state.opt_state),
        )
        total, in_row = state.skipped
        skipped = jnp.where(finite, jnp.stack([total, 0]), jnp.stack([total + 1, in_row + 1]))
        metrics |= {"loss": loss, "grad_norm": norm, "learning_rate": rate, "num_steps": num_steps}
        metrics |= {"skipped": skipped[0], "skipped_in_row": skipped[1]}
        return TrainState(state.step + 1, params, ema, opt_state, state.teacher, skipped), metrics

    return step


def trace(step: Callable, state: TrainState, batch: Mapping[str, Any], updates_per_call: int = 1) -> jax.stages.Traced:
    """The program that training runs, traced: the state is donated, and stays where it is. State and batch (stacked
    [k, b, ...] for several updates a call) are arrays, or `jax.ShapeDtypeStruct`s with shardings."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    program = repeat(step) if updates_per_call > 1 else step
    return jax.jit(program, donate_argnums=0, out_shardings=(shardings, None)).trace(state, batch)


def repeat(step: Callable) -> Callable:
    """The step over stacked batches [k, b, ...], as one program: k updates a call, and the metrics of the last."""

    def steps(state: TrainState, batches: Mapping[str, Any]) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = jax.lax.scan(step, state, batches)
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return steps


def gradient_of(
    of: Ingredients, state: TrainState, batch: Mapping[str, Any], num_steps: Array
) -> tuple[Array, dict[str, Array], Any]:
    """(loss, metrics, gradient): means over the global batch, computed in `of.accumulate` parts, one after another.

    Part k has every accumulate-th row from the k-th on, so that each device has its share of each part.
    """

    def part(rows: Mapping[str, Any], draw: Array) -> tuple[Array, dict[str, Array], Any]:
        rows = prepare(of, rows, draw)
        (loss, metrics), gradient = jax.value_and_grad(total_loss, argnums=1, has_aux=True)(
            of, state.params, state, rows, num_steps, draw
        )
        return loss, metrics, gradient

    if of.accumulate == 1:
        return part(batch, state.step)
    parts = jax.tree.map(lambda v: jnp.swapaxes(v.reshape(-1, of.accumulate, *v.shape[1:]), 0, 1), dict(batch))
    draws = state.step * of.accumulate + jnp.arange(of.accumulate)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(part, *jax.tree.map(lambda v: v[0], (parts, draws))))

    def add(total: Any, this: tuple) -> tuple[Any, None]:
        return jax.tree.map(lambda sum_, value: sum_ + value / of.accumulate, total, part(*this)), None

    return jax.lax.scan(add, zeros, (parts, draws))[0]


def total_loss(
    of: Ingredients, params: Any, state: TrainState, batch: Mapping[str, Any], num_steps: Array, draw: Array
) -> tuple[Array, dict[str, Array]]:
    """(sum over networks of the mean over the batch, metrics); `draw` numbers the random draws of the run."""
    key = streams.key(of.seed, "dropout", draw) if of.dropout else None
    nets = Nets(
        student=of.student(params["student"], key),
        teacher=None if of.teacher is None else of.teacher(state.teacher),
        ema=None if state.ema is None else of.student(state.ema["student"], None),
    )
    losses, metrics = of.objective(streams.key(of.seed, "objective", draw), nets, batch, num_steps)
    return sum(jnp.mean(loss) for loss in losses.values()), metrics


def prepare(of: Ingredients, batch: Mapping[str, Any], draw: Array) -> dict[str, Any]:
    """The raw batch flipped at random (where its data set allows it) and encoded, on the device, with what is shown."""
    images = {name: batch[name] for name in ("x", "image") if name in batch}
    told = {name: value for name, value in batch.items() if name not in images}
    if of.flip:
        chosen = jax.random.bernoulli(streams.key(of.seed, "flip", draw), 0.5, (batch["x"].shape[0], 1, 1, 1))
        images = {name: jnp.where(chosen, image[:, :, ::-1], image) for name, image in images.items()}
    key = (streams.key(of.seed, "encode", draw),) if of.draws else ()
    codes = {"x": of.encode(to_float(images["x"]), *key)}
    if of.show is None:
        return {**told, **codes}
    if "image" in images:
        codes["image"] = of.encode(to_float(images["image"]))
    return of.show(streams.key(of.seed, "show", draw), {**told, **codes})


def moving_average(ema: Any, params: Any, decay: float, done: Array) -> Any:
    """ema <- d ema + (1 - d) params, with d = min(decay, (1 + k) / (10 + k)) after k updates: a short memory while it
    is young."""
    d = jnp.minimum(decay, (1 + done) / (10 + done))
    return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)
