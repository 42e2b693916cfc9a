"""Noise schedules: t in [0, 1] <-> log-SNR. t = 0 is clean, t = 1 is noise.

Variance preserving: z_t = alpha_t x + sigma_t eps with logsnr = log(alpha² / sigma²), so that alpha² = sigmoid(logsnr)
and sigma² = sigmoid(-logsnr). Clean data itself is logsnr = +inf (alpha = 1, sigma = 0), and `grid` ends there, so that
the last step of every sampler returns the predicted x.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from guided_distill.errors import UserError, one_of


@runtime_checkable
class Schedule(Protocol):
    """t -> logsnr, strictly decreasing, and its inverse. Any shape."""

    def __call__(self, t: ArrayLike) -> Array:
        """t -> logsnr."""

    def inverse(self, logsnr: ArrayLike) -> Array:
        """logsnr -> t."""


def alpha_sigma(logsnr: ArrayLike) -> tuple[Array, Array]:
    """(alpha, sigma) = (sqrt(sigmoid(logsnr)), sqrt(sigmoid(-logsnr))); logsnr = +inf gives (1, 0)."""
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


@dataclasses.dataclass(frozen=True)
class Cosine:
    """logsnr = -2 log tan(a t + b) from `logsnr_max` at t = 0 to `logsnr_min` at t = 1 (PD, appendix E)."""

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    @property
    def _abc(self) -> tuple[float, float, float]:
        b = math.atan(math.exp(-self.logsnr_max / 2))
        c = math.atan(math.exp(self.logsnr_min / 2))
        return math.pi / 2 - b - c, b, c

    def __call__(self, t: ArrayLike) -> Array:
        """t -> logsnr."""
        # Each half measures its angle from its own end: near pi/2 float32 would leave a 0.3 % error in tan.
        a, b, c = self._abc
        t = jnp.asarray(t, jnp.float32)
        clean = -2 * jnp.log(jnp.tan(a * jnp.minimum(t, 0.5) + b))
        noisy = 2 * jnp.log(jnp.tan(a * (1 - jnp.maximum(t, 0.5)) + c))
        return jnp.where(t < 0.5, clean, noisy)

    def inverse(self, logsnr: ArrayLike) -> Array:
        """logsnr -> t."""
        a, b, c = self._abc
        logsnr = jnp.asarray(logsnr, jnp.float32)
        clean = (jnp.arctan(jnp.exp(-logsnr / 2)) - b) / a
        noisy = 1 - (jnp.arctan(jnp.exp(logsnr / 2)) - c) / a
        return jnp.where(logsnr > 0, clean, noisy)


@dataclasses.dataclass(frozen=True)
class ShiftedCosine:
    """Cosine + 2 log(reference / resolution): more noise for larger images (Hoogeboom et al. 2023)."""

    resolution: int
    reference: int = 64
    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    @property
    def _shift(self) -> float:
        return 2 * math.log(self.reference / self.resolution)

    def __call__(self, t: ArrayLike) -> Array:
        """t -> logsnr."""
        return Cosine(self.logsnr_min, self.logsnr_max)(t) + self._shift

    def inverse(self, logsnr: ArrayLike) -> Array:
        """logsnr -> t."""
        return Cosine(self.logsnr_min, self.logsnr_max).inverse(jnp.asarray(logsnr, jnp.float32) - self._shift)


def _squared_cosine(_: float, __: float, num: int) -> np.ndarray:
    alpha_bar = np.cos((np.linspace(0, 1, num + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


BETAS = {
    "scaled_linear": lambda start, end, num: np.linspace(start**0.5, end**0.5, num) ** 2,
    "linear": np.linspace,
    "squaredcos_cap_v2": _squared_cosine,
}
"""By the names that they have in diffusers: (beta_start, beta_end, num_timesteps) -> betas."""
LOGSNR_OF_ZERO = -40.0
"""What stands for the log-SNR of no signal at all, so that arithmetic stays finite: alpha is 2e-9, and float32 cannot
tell 1 + alpha from 1."""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The discrete schedules of Stable Diffusion and LDM as functions of t.

    Index k of `num_timesteps` sits at t = (k + 1) / num_timesteps; log-SNR is linear in between, and goes on to
    `logsnr_max` at t = 0. Defaults are Stable Diffusion's; LDM ImageNet-256 has betas 0.0015 ... 0.0195.

    Fields: `betas`: how they go from `beta_start` to `beta_end`, "scaled_linear" (linear in the square root), "linear",
    or "squaredcos_cap_v2", which has no ends (Nichol and Dhariwal 2021, eq. 17); `trained_betas`: a list to be taken
    instead; `zero_terminal_snr`: rescaled so that the last index is pure noise (Lin et al. 2023, algorithm 1), where
    log-SNR is LOGSNR_OF_ZERO. Else the terminal SNR is not zero: z at t = 1 still holds alpha x, 7 % of it in Stable
    Diffusion, and a sampler that starts from pure noise there starts from what the network was not trained on. Students
    are trained on the same times, and start where their sampler starts.

    Raises `UserError` for unknown `betas`, and for values that are none.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000
    logsnr_max: float = 20.0
    betas: str = "scaled_linear"
    trained_betas: Sequence[float] = ()
    zero_terminal_snr: bool = False

    def __post_init__(self):
        one_of("betas of a schedule", self.betas, BETAS)
        # JSON has lists; schedules have to be hashable.
        object.__setattr__(self, "trained_betas", tuple(map(float, self.trained_betas)))
        if self.trained_betas and len(self.trained_betas) != self.num_timesteps:
            raise UserError(f"{len(self.trained_betas)} trained betas for {self.num_timesteps} timesteps; one for each")
        values = self._betas()
        if len(values) < 2 or not (np.all(values > 0) and np.all(values < 1)):
            raise UserError(f"schedule Discrete: betas must be two or more, and between 0 and 1, not {values[:3]} ...")
        if not np.all(np.diff(self.table[1]) < 0):
            raise UserError(f"schedule Discrete: log-SNR must fall from logsnr_max {self.logsnr_max:g}, and rises")

    def _betas(self) -> np.ndarray:
        if self.trained_betas:
            return np.array(self.trained_betas)
        return BETAS[self.betas](self.beta_start, self.beta_end, self.num_timesteps)

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(t, logsnr), both [num_timesteps + 1], t rising."""
        alpha_bar = np.cumprod(1 - self._betas())
        if self.zero_terminal_snr:
            first, last = np.sqrt(alpha_bar[[0, -1]])
            alpha_bar = ((np.sqrt(alpha_bar) - last) * first / (first - last)) ** 2
        with np.errstate(divide="ignore"):
            logsnr = np.maximum(np.log(alpha_bar) - np.log1p(-alpha_bar), LOGSNR_OF_ZERO)
        return np.linspace(0, 1, self.num_timesteps + 1), np.concatenate([[self.logsnr_max], logsnr])

    def __call__(self, t: ArrayLike) -> Array:
        """t -> logsnr."""
        ts, logsnrs = (jnp.asarray(x, jnp.float32) for x in self.table)
        return jnp.interp(jnp.asarray(t, jnp.float32), ts, logsnrs)

    def inverse(self, logsnr: ArrayLike) -> Array:
        """logsnr -> t."""
        ts, logsnrs = (jnp.asarray(x, jnp.float32) for x in self.table)
        return jnp.interp(jnp.asarray(logsnr, jnp.float32), logsnrs[::-1], ts[::-1])


def make(name: str, **arguments) -> Schedule:
    """The schedule class of that name, built. Raises `UserError` for an unknown name or argument."""
    one_of("schedule", name, ("Cosine", "ShiftedCosine", "Discrete"))
    try:
        schedule = globals()[name](**arguments)
    except TypeError as error:
        raise UserError(f"schedule {name}: {error}") from error
    with jax.ensure_compile_time_eval():  # Networks are also made while tracing.
        ends = schedule(jnp.array([0.0, 1.0])).tolist()
    if not ends[0] > ends[1]:
        raise UserError(f"schedule {name}: log-SNR must fall from t = 0 to 1, and goes from {ends[0]:g} to {ends[1]:g}")
    return schedule


def to_clean(schedule: Schedule, t: ArrayLike) -> Array:
    """logsnr at t, and +inf (clean data) at t <= 0: where a step that goes down to t = 0 lands."""
    return jnp.where(t > 0, schedule(t), jnp.inf)


def grid(schedule: Schedule, num_steps: int) -> Float[Array, " levels"]:
    """The log-SNRs of `num_steps` equal steps in t, from noise (t = 1) to clean data (+inf)."""
    return to_clean(schedule, jnp.linspace(1.0, 0.0, num_steps + 1))


def encoding_grid(schedule: Schedule, num_steps: int) -> Float[Array, " levels"]:
    """The log-SNRs of `num_steps` equal steps in t from data (t = 0, where the schedule still has a finite value) to
    noise."""
    return schedule(jnp.linspace(0.0, 1.0, num_steps + 1))
