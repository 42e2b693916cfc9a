"""Seeded, batched, sharded generation from a Denoiser and a codec. Sample k is a function of (seed, k), at any batch
size."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from guided_distill import parallel, samplers, streams
from guided_distill.codecs import Codec
from guided_distill.guidance import clipped
from guided_distill.prediction import Denoiser


def noise(seed: int, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal [n, *shape]; row k depends on (seed, indices[k]) only, bit for bit."""
    draw = jax.jit(lambda ks: jax.vmap(lambda k: jax.random.normal(k, shape))(ks))
    return np.asarray(draw(streams.keys(seed, "noise", jnp.asarray(indices))))


class Generator:
    """Runs samplers over batches. `bind(params) -> Denoiser`; weights are an argument of the compiled program, which
    serves every round."""

    def __init__(self, bind: Callable[[Any], Denoiser], codec: Codec, clip: bool, mesh: Mesh | None = None):
        self.mesh = parallel.make_mesh() if mesh is None else mesh
        self._programs: dict[tuple[str, bool], Callable] = {}
        self._bind, self._codec, self._clip = bind, codec, clip

    def _program(self, sampler: str, encode: bool) -> Callable:
        def run(params, keys, z, cond, logsnrs):
            denoise = self._bind(params)
            if self._clip and not encode:
                denoise = clipped(denoise)
            end = samplers.sample(keys, denoise, samplers.get(sampler), z, cond, logsnrs)
            return end if encode else self._codec.decode(end)

        return self._programs.setdefault((sampler, encode), jax.jit(run))

    def __call__(
        self,
        params: Any,
        sampler: str,
        z: np.ndarray,
        cond: Mapping[str, np.ndarray],
        logsnrs: jax.Array,
        *,
        seed: int,
        indices: np.ndarray,
        batch_size: int = 256,
        encode: bool = False,
    ) -> np.ndarray:
        """z [n, *shape] run along `logsnrs`: decoded images float32 [n, ...], or with `encode` the codes as they
        end."""
        num = len(z)
        size = -(-min(batch_size, num) // self.mesh.size) * self.mesh.size
        program, out = self._program(sampler, encode), []
        for start in range(0, num, size):
            # The last batch is filled up with its own first rows, so that one shape is compiled.
            rows = np.arange(start, start + size) % num if start + size > num else np.arange(start, start + size)
            part = parallel.put_batch(
                {"z": z[rows], "index": indices[rows], **{k: v[rows] for k, v in cond.items()}}, self.mesh
            )
            z_part, keys = part.pop("z"), streams.keys(seed, "sampler", part.pop("index"))
            out.append(program(params, keys, z_part, part, logsnrs))
        return np.concatenate([np.asarray(o) for o in out])[:num]
