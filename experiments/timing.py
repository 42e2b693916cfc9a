"""Programs timed side by side, and the networks that they are timed on."""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from guided_distill import schedules
from guided_distill.denoiser import Parameterised
from guided_distill.plugins import resolve

SCHEDULE = schedules.Cosine()


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, `of` which kind, and the work it is timed on: a batch, and `steps` of sampling; `text`: the shape of a
    caption's states, where it reads one."""

    name: str
    shape: tuple[int, int, int]
    batch: int
    steps: int
    repeats: int
    network: Mapping[str, Any]
    of: str = "unet"
    text: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}"

    def denoiser(self, guided: bool = True) -> Parameterised:
        """The U-Net; with classes and w, or told nothing but the time."""
        known = {"num_classes": 10, "embed_guidance": True} if guided else {}
        network = resolve("models", self.of).Network(out_channels=self.shape[-1], **self.network, **known)
        return Parameterised(network, "v", "u", SCHEDULE)

    def inputs(self) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(z, cond), from a fixed seed."""
        z = jax.random.normal(jax.random.key(0), (self.batch, *self.shape))
        cond = {"label": jnp.arange(self.batch) % 10, "guidance": jnp.ones((self.batch,))}
        if self.text:
            cond["text"] = jax.random.normal(jax.random.key(3), (self.batch, *self.text))
        return z, cond

    def parameters(self, of: Parameterised) -> Any:
        """Random parameters, none of them zero, so that nothing can be skipped."""
        z, cond = self.inputs()
        params = jax.jit(of.init)(jax.random.key(1), z, cond)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        return jax.tree.unflatten(
            tree, [p + 0.01 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
        )


DIGITS = {"channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}
LARGER = {"channels": 64, "channel_multipliers": (1, 2, 2), "num_res_blocks": 1, "attention_resolutions": (16,)}
CASES = (
    Case("8x8 digits", (8, 8, 1), 64, 16, 15, DIGITS | {"num_heads": 2}),
    Case("32x32x3", (32, 32, 3), 8, 8, 9, LARGER),
)
LATENT = {"channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_downsampling": (1, 2)}
LATENT |= {"head_dim": 16, "groups": 8, "cross_attention_dim": 384}
CAPTIONED = Case("8x8x8 latents, captions", (8, 8, 8), 64, 16, 15, LATENT, "latent_unet", (16, 384))
TINY = (Case("tiny", (8, 8, 3), 2, 2, 2, DIGITS | {"channels": 8}),)


def cases(tiny: bool, captioned: bool = False) -> tuple[Case, ...]:
    """What is timed; with a network that reads captions, if `captioned`."""
    if tiny:
        return (*TINY, dataclasses.replace(CAPTIONED, batch=2, repeats=2)) if captioned else TINY
    return (*CASES, CAPTIONED) if captioned else CASES


def interleave(programs: Mapping[str, Callable[[], Any]], repeats: int, warmups: int = 2) -> dict[str, list[float]]:
    """Seconds of each program, `repeats` of them: every round runs all of them in turn, the order turned round in every
    other one, so that whatever slows the machine slows all alike. A program returns what is to be waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for index in range(-warmups, repeats):
        for name in list(programs)[:: 1 if index % 2 else -1]:
            begin = time.perf_counter()
            jax.block_until_ready(programs[name]())
            if index >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def combined(seconds: Mapping[str, list[float]], times: Mapping[str, int]) -> list[float]:
    """Each round's sum of `times` of the programs."""
    return [sum(n * seconds[name][i] for name, n in times.items()) for i in range(len(next(iter(seconds.values()))))]


def compared(seconds: list[float], other: list[float]) -> dict[str, float]:
    """Medians, their ratio, and the range of the ratio round by round."""
    of = statistics.median(seconds), statistics.median(other)
    rounds = [a / b for a, b in zip(seconds, other, strict=True)]
    return {"median": of[0], "against": of[1], "ratio": of[0] / of[1], "low": min(rounds), "high": max(rounds)}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}


def load() -> float:
    """Processes that wanted to run in the last minute, per core."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def stateful(step: Callable, state: Any, *arguments: Any) -> Callable[[], Any]:
    """A program that runs (state, *arguments) -> (state, ...) on its own last state, which may be donated."""
    kept = [state]

    def program():
        kept[0], *_ = step(kept[0], *arguments)
        return kept[0]

    return program


def parameters(params: Any) -> int:
    """How many there are."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))
