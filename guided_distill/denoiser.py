"""A network and what its output means -> params -> Denoiser.

With `schedules` the only place that knows time: networks are told the noise level in the form that they were trained
with.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_distill import prediction as predictions
from guided_distill.errors import UserError, one_of
from guided_distill.prediction import Cond, Denoiser, Prediction
from guided_distill.schedules import Schedule

PREDICTIONS = ("x", "eps", "v", "both")
TIME_INPUTS = ("u", "index", "logsnr")


def time_input(name: str, schedule: Schedule) -> Callable[[Float[Array, " b"]], Float[Array, " b"]]:
    """logsnr -> what the network is told, float32.

    "u": arctan(exp(-logsnr / 2)) / (pi / 2) in [0, 1] (PD, appendix B); "index": the (fractional) index of a discrete
    schedule, 0 where it is cleaner than that; "logsnr": itself. Raises `UserError` for another name.
    """
    one_of("time input", name, TIME_INPUTS)
    if name == "index":
        one_of("schedule for time input 'index'", type(schedule).__name__, ("Discrete",))
        return lambda logsnr: jnp.maximum(schedule.inverse(logsnr) * schedule.num_timesteps - 1, 0.0)
    if name == "u":
        return lambda logsnr: jnp.arctan(jnp.exp(-logsnr / 2)) / (jnp.pi / 2)
    return lambda logsnr: logsnr


def beside(z: Float[Array, "b *s"], cond: Cond, channels: Sequence[str]) -> Float[Array, "b *t"]:
    """What a network reads: z and, as channels after its own, the named entries of cond (see `channels`).

    What is not in cond is not shown: an "image" is 0 then, which is the null of guidance, too, and a "mask" 1, for all
    is to be painted.
    """
    if not channels:
        return z
    blank = {"image": jnp.zeros_like(z), "mask": jnp.ones((*z.shape[:-1], 1), z.dtype)}
    return jnp.concatenate([z, *(cond.get(name, blank[name]) for name in channels)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Parameterised:
    """A network with the meaning of its input and output; `bind(params)` is a Denoiser. `channels`: the entries of cond
    that it reads beside z."""

    network: nn.Module
    prediction: str
    time: str
    schedule: Schedule
    channels: tuple[str, ...] = ()

    def __post_init__(self):
        one_of("prediction", self.prediction, PREDICTIONS)
        if self.prediction == "eps" and getattr(self.schedule, "zero_terminal_snr", False):
            raise UserError(
                "prediction 'eps' says nothing of x at the end of this schedule, which has zero terminal SNR: x would "
                "be (z - sigma eps) / 0; take a network that predicts v, or zero_terminal_snr=False"
            )
        time_input(self.time, self.schedule)

    def bind(self, params, dropout_key: Array | None = None) -> Denoiser:
        """params (and a key, where dropout is wanted) -> Denoiser. Maths in float32, whatever the network computes
        in."""
        to_time = time_input(self.time, self.schedule)
        rngs = None if dropout_key is None else {"dropout": dropout_key}

        def denoise(z: Float[Array, "b *s"], logsnr: Float[Array, " b"], cond: Cond) -> Prediction:
            read = beside(z, cond, self.channels)
            output = self.network.apply({"params": params}, read, to_time(logsnr), cond, rngs=rngs)
            output = output.astype(jnp.float32)
            if self.prediction == "both":
                return predictions.from_both(*jnp.split(output, 2, axis=-1), z, logsnr)
            return getattr(predictions, f"from_{self.prediction}")(output, z, logsnr)

        return denoise

    def init(self, key: Array, z: Float[Array, "b *s"], cond: Cond):
        """Fresh parameters, float32."""
        variables = self.network.init(
            key, beside(z, cond, self.channels), jnp.full(z.shape[:1], 0.5, jnp.float32), cond
        )
        return variables.get("params", {})
