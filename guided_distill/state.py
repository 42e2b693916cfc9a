"""The state of training: a pytree, made and promoted by pure functions under jit."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from guided_distill.errors import UserError

Params = Any
INPUT = "['conv_in']['kernel']"
"""The kernel [..., channels in, out] of the convolution that reads z, and what is shown beside it."""
CODEC = "codec"
"""Under which name the codec's weights are among the frozen ones, where it has any."""


@flax.struct.dataclass
class TrainState:
    """`params`, `ema` (None: off) and `opt_state` belong to the trained networks, by name, "student" always.

    `teacher` are the frozen weights: leaves of the state, never a closure, so that promotion does not recompile.
    """

    # JAX rebuilds pytrees with placeholders for leaves, so the fields are typed by their names alone.
    step: Any  # int32 [], updates since the run began
    params: Any  # dict[str, Params]
    ema: Any  # dict[str, Params] or None
    opt_state: Any
    teacher: Any  # dict[str, Params]
    skipped: Any  # int32 [2]: updates left out for not being finite, in all and the last in a row

    def teacher_of(self, weights: dict[str, Params]) -> dict[str, Params]:
        """What `teacher` is with another teacher's weights: those of the codec, where it has any, stay."""
        return weights | {name: kept for name, kept in self.teacher.items() if name == CODEC}


def create(
    params: dict[str, Params], teacher: dict[str, Params], optimiser: optax.GradientTransformation, keep_ema: bool
) -> TrainState:
    """A state at step 0; the EMA starts at the weights themselves, so it needs no debiasing."""
    ema = jax.tree.map(jnp.copy, params) if keep_ema else None
    skipped = jnp.zeros((2,), jnp.int32)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimiser.init(params), teacher, skipped)


def promote(state: TrainState, optimiser: optax.GradientTransformation) -> TrainState:
    """The next round: the student's raw weights become the teacher, the optimiser restarts (PD, algorithm 2). The step
    goes on."""
    return state.replace(
        teacher=state.teacher_of({"teacher": jax.tree.map(jnp.copy, state.params["student"])}),
        opt_state=optimiser.init(state.params),
        ema=None if state.ema is None else jax.tree.map(jnp.copy, state.params),
    )


def graft(new: Params, old: Params) -> tuple[Params, list[str]]:
    """`old` weights in the tree of `new`, where they fit: (weights, names of the leaves that `old` lacks, which stay as
    in `new`).

    An INPUT that reads more channels than `old` does is padded with zeros, and named, too: those are not seen yet (GD,
    inpainting: zero-initialised extra channels).

    Raises `UserError` for leaves that `new` lacks, and for other shapes.
    """
    flat_new, tree = jax.tree_util.tree_flatten_with_path(new)
    flat_old = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    leaves, added, wrong = [], [], []
    for path, leaf in flat_new:
        name = jax.tree_util.keystr(path)
        given = flat_old.pop(name, None)
        if name == INPUT and given is not None and reads_more(leaf.shape, given.shape):
            more = jnp.zeros((*leaf.shape[:-2], leaf.shape[-2] - given.shape[-2], leaf.shape[-1]), given.dtype)
            given = jnp.concatenate([given, more], axis=-2)
            added.append(name)
        elif given is None:
            added.append(name)
        elif given.shape != leaf.shape:
            wrong.append(f"{name}: {given.shape} for {leaf.shape}")
        leaves.append(leaf if given is None else given)
    if wrong or flat_old:
        raise UserError(
            "the teacher's weights do not fit: " + "; ".join(wrong + [f"{name}: unexpected" for name in flat_old])
        )
    return jax.tree.unflatten(tree, leaves), added


def reads_more(new: tuple[int, ...], old: tuple[int, ...]) -> bool:
    """Whether kernels of these shapes differ in that the `new` one has more input channels."""
    return (*new[:-2], new[-1]) == (*old[:-2], old[-1]) and new[-2] > old[-2]
