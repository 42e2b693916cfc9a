"""Floating-point operations of a function, from its jaxpr: nothing is compiled or run, a loop's body counts each time.

    count(lambda z: run.denoise(z, logsnr, cond), z)    one forward of a Denoiser
    count(stage.steps[0], state, batch)                 one update (abstract values do: `jax.ShapeDtypeStruct`)

The convention is that of model FLOPs. XLA's `cost_analysis` leaves padding out and counts the body of a loop once.

    products          2 a multiply-add, densely: padding counts, zeros put in between by dilation do not
    reductions        1 an input element (means, norms, softmax, sorts none)
    everything else   1 an output element that is a float: exp counts as much as +
    moving data       0, and so do integers, random bits and comparisons
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from guided_distill.errors import UserError

MOVES = frozenset(
    """all_gather bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p device_put
    dynamic_slice dynamic_update_slice expand_dims gather iota optimization_barrier pad rev reshape scatter
    select_and_gather_add select_n sharding_constraint slice sort split squeeze stop_gradient tile transpose""".split()  # noqa: SIM905
)
REDUCTIONS = frozenset(
    ("argmax", "argmin", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum", "scatter-add", "scatter-mul")
)
OPAQUE = frozenset(("custom_partitioning", "ffi_call", "io_callback", "pallas_call", "pure_callback", "shard_map"))
"""Kernels that cannot be looked into, or that are written for one device's share."""


def count(function: Callable, *args: Any, **kwargs: Any) -> float:
    """FLOPs of function(*args, **kwargs), for arrays or `jax.ShapeDtypeStruct`s. Of a `cond`, the dearest branch.

    Raises:
      UserError: an unbounded loop that computes with floats, or a kernel that cannot be looked into.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*args, **kwargs).jaxpr)


def of_jaxpr(jaxpr: Jaxpr) -> float:
    """The same of what is traced already."""
    return math.fsum(map(_equation, jaxpr.eqns))


def _equation(equation: JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    if name in OPAQUE:
        raise UserError(f"FLOPs inside {name!r} cannot be counted; count a function without it")
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.startswith("dot_product_attention"):
        return _attention(equation)
    if name in MOVES:
        return 0.0
    if name in REDUCTIONS:
        return _floats(equation.invars[-1:] if name.startswith("scatter") else equation.invars)
    inner = list(map(of_jaxpr, _inner(params.values())))
    if name == "while" and any(inner):
        raise UserError("a while_loop's FLOPs depend on its data; use lax.scan or fori_loop with fixed bounds")
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * math.fsum(inner) if inner else _floats(equation.outvars)


def _convolution(equation: JaxprEqn) -> float:
    # A kernel [out, in / groups, ...] meets each output once, whether its groups are of features or of the batch.
    dimension, kernel = equation.params["dimension_numbers"].rhs_spec[0], equation.invars[1].aval.shape
    taps = math.prod(kernel) / kernel[dimension] / math.prod(equation.params["lhs_dilation"])
    return 2.0 * equation.outvars[0].aval.size * taps


def _attention(equation: JaxprEqn) -> float:
    # cuDNN's fused kernel of q [b, l, n, d] and k [b, m, n, d]: two products, and on the way back five.
    query, key = (value.aval for value in equation.invars[:2])
    return 2.0 * query.size * key.shape[1] * (5 if "bwd" in equation.primitive.name else 2)


def _floats(values: Iterable) -> float:
    sizes = (v.aval.size for v in values if jnp.issubdtype(getattr(v.aval, "dtype", bool), jnp.inexact))
    return float(max(sizes, default=0))


def _inner(values: Iterable) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of an equation: those of pjit, remat, custom derivatives, scan, reduce, ..."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
