"""Seeded, batched, sharded generation from a Denoiser and a codec. Sample k is a function of (seed, k), at any batch
size."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from guided_distill import parallel, samplers, streams
from guided_distill.codecs import Codec
from guided_distill.errors import UserError
from guided_distill.guidance import clipped
from guided_distill.prediction import Denoiser


def noise(seed: int, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal [n, *shape]; row k depends on (seed, indices[k]) only, bit for bit. Raises `UserError` for a seed
    of more than 32 bits, which would be that of another's noise."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: expected 0 to {2**32 - 1}")
    return np.asarray(_normal(streams.keys(seed, "noise", jnp.asarray(indices)), shape))


@functools.partial(jax.jit, static_argnums=1)  # Here, so that it is compiled once for a shape.
def _normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def batch_of(shape: Sequence[int], asked: int | None = None) -> int:
    """How many images of a shape are drawn or encoded at a time: what is `asked` for, or 256 of 64 x 64, 4 of 512 x
    512. Raises `UserError` where none would be."""
    if asked is not None and asked < 1:
        raise UserError(f"batch_size {asked} is not positive")
    return asked or max(1, min(256, 256 * 64**2 // int(np.prod(shape[:2]))))


class Paint(NamedTuple):
    """Of codes [n, *shape]: `mask`, bool, is true where they are to be painted, and elsewhere they are `known`. Each
    step is taken `resample` times (`samplers.masked`)."""

    known: np.ndarray
    mask: np.ndarray
    resample: int = 1


class Generator:
    """Runs samplers over batches. `bind(params) -> Denoiser`; weights are an argument of the compiled program, which
    serves every round. `images_per_second`: of the last call, its first batch left out, which may have had to be
    compiled; None where there was no second one."""

    def __init__(self, bind: Callable[[Any], Denoiser], codec: Codec, clip: bool, mesh: Mesh | None = None):
        self.mesh = parallel.make_mesh() if mesh is None else mesh
        self._programs: dict[tuple[str, bool, bool], Callable] = {}
        self._bind, self._codec, self._clip = bind, codec, clip
        self._codec_weights = jax.device_put(codec.weights, NamedSharding(self.mesh, PartitionSpec()))
        self.images_per_second: float | None = None

    def _program(self, sampler: str, encode: bool, clip: bool) -> Callable:
        def run(params, codec_weights, seed, z, indices, cond, logsnrs, paint):
            denoise, keys = self._bind(params), streams.keys(seed, "sampler", indices)
            if clip and not encode:
                denoise = clipped(denoise)
            step = samplers.get(sampler)
            step = samplers.masked(step, **paint) if paint else step
            end = samplers.sample(keys, denoise, step, z, cond, logsnrs)
            return end if encode else self._codec.bind(codec_weights).decode(end)

        everywhere = NamedSharding(self.mesh, PartitionSpec())  # So that every process has all images.
        return self._programs.setdefault((sampler, encode, clip), jax.jit(run, out_shardings=everywhere))

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
        clip: bool | None = None,
        paint: Paint | None = None,
    ) -> np.ndarray:
        """z [n, *shape] run along `logsnrs`: decoded images float32 [n, ...], or with `encode` the codes as they
        end. `clip`: None is the Generator's own. `paint`: only there."""
        num = len(z)
        shards = parallel.batch_shards(self.mesh)
        size = -(-min(batch_size, num) // shards) * shards
        program, out = self._program(sampler, encode, self._clip if clip is None else clip), []
        for start in range(0, num, size):
            # The last batch is filled up with its own first rows, so that one shape is compiled.
            rows = np.arange(start, start + size) % num if start + size > num else np.arange(start, start + size)
            part = parallel.put_batch(
                {"z": z[rows], "index": indices[rows], **{k: v[rows] for k, v in cond.items()}}, self.mesh
            )
            z_part, index = part.pop("z"), part.pop("index")
            at = np.uint32(seed & 0xFFFFFFFF), z_part, index, part, np.asarray(logsnrs), self._put(paint, rows)
            out.append(program(params, self._codec_weights, *at))
            if len(out) > 2:
                out[-3] = np.asarray(out[-3])  # Devices hold no more of them than keeps them busy.
            if start == 0:
                out[0].block_until_ready()
                clock = time.perf_counter()
        out = [np.asarray(o) for o in out]
        seconds = time.perf_counter() - clock
        self.images_per_second = size * (len(out) - 1) / seconds if len(out) > 1 else None
        return np.concatenate(out)[:num]

    def _put(self, paint: Paint | None, rows: np.ndarray) -> dict[str, Any]:
        """The arguments of `samplers.masked` for these rows; {} where all is painted."""
        if paint is None:
            return {}
        arrays = parallel.put_batch({"known": paint.known[rows], "mask": paint.mask[rows]}, self.mesh)
        return {**arrays, "resample": np.int32(paint.resample)}
