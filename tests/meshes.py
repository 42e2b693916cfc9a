"""Run by test_parallel in a process with eight virtual devices: the same training on many meshes. Prints JSON: how far
each is from one device, by mesh."""

import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from configs import digits_teacher, mixture2d_stage2
from guided_distill import checkpoint, collectives, data, generate, parallel, runs, schedules, stages, train_step

UPDATES = 10
SIZES = {
    "1": {},
    "fsdp 2": {"data": 1, "fsdp": 2},
    "data 2 x fsdp 2": {"data": 2, "fsdp": 2},
    "data 8": {"data": 8},
    "data 4 x fsdp 2": {"data": 4, "fsdp": 2},
    "fsdp 8": {"data": 1, "fsdp": 8},
    "data 2 x fsdp 2 x tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
}
# The first product of a block by columns, the second by rows: what is between them stays where it is.
TENSOR = (("block_\\d_in|conv_in|film", "columns"), ("block_\\d_out|conv_out", "rows"), ("", "fsdp"))


def layout_of(label: str) -> parallel.Layout:
    """The first devices, as many as it takes."""
    sizes = {"data": 1} | SIZES[label]
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    return parallel.Layout(parallel.make_mesh(devices, **sizes), TENSOR if "tensor" in label else parallel.DEFAULT)


def created(stage: stages.Stage, layout: parallel.Layout) -> Any:
    """The state at update 0."""
    return jax.jit(stage.init, out_shardings=layout.shardings(stage.abstract()))(stage.leaves(layout))


def train(stage: stages.Stage, layout: parallel.Layout, updates: int = UPDATES) -> tuple[Any, Any, Any]:
    """(first gradient, state after `updates`, program)."""
    state, size, program, gradient = created(stage, layout), stage.loop.batch_size, None, None
    for _, batch in zip(range(updates), data.batches(stage.source, size, 0), strict=False):
        batch = parallel.put_batch(batch, layout.mesh)
        program = program or train_step.trace(stage.steps[0], state, batch).lower().compile()
        state, _ = program(state, batch)
        if gradient is None:  # Adam's first moments are (1 - b1) of it: nothing clips it here.
            gradient = jax.device_get(optax.tree.get(state.opt_state, "mu"))
    return gradient, state, program


def distance(found: Any, wanted: Any) -> float:
    """Of two trees, over the norm of what is wanted."""
    found, wanted = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def compare(stage: stages.Stage, labels: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """({mesh: gradient and outputs, each relative to one device; there, how far training moved outputs},
    {mesh: state})."""
    z = jax.random.normal(jax.random.key(0), (16, *stage.manifest["code_shape"]))
    logsnr = np.linspace(-4.0, 4.0, 16, dtype=np.float32)
    cond = {"label": np.arange(16) % stage.manifest["num_classes"], "guidance": np.linspace(0, 4, 16, dtype=np.float32)}
    denoise = runs.bind(stage.manifest)
    student = jax.jit(lambda params: denoise(params)(z, logsnr, cond).x)
    gradients, outputs, states, found = {}, {}, {}, {}
    before = np.asarray(student(jax.device_get(created(stage, layout_of("1")).params["student"])))
    for label in labels:
        gradients[label], states[label], _ = train(stage, layout_of(label))
        outputs[label] = np.asarray(student(jax.device_get(states[label].params["student"])))
        largest = np.abs(outputs["1"] - outputs[label]).max() / np.abs(outputs["1"]).max()
        found[label] = {"gradient": distance(gradients[label], gradients["1"]), "outputs": float(largest)}
    found["1"]["moved"] = distance(outputs["1"], before)
    return found, states


def accumulated(stage: stages.Stage) -> dict[str, Any]:
    """Accumulation on eight devices beside one, and what the eight send each other."""
    one, _, _ = train(stage, layout_of("1"), 1)
    eight, _, program = train(stage, layout_of("data 8"), 1)
    return {"gradient": distance(eight, one), "sent": collectives.count(program.as_text())}


def share(stage: stages.Stage) -> float:
    """What one of eight devices would hold of a state, over what one alone would; nothing is made."""
    placed = jax.tree.leaves(layout_of("fsdp 8").place(stage.abstract()))
    size = lambda leaf, shape: np.prod(shape) * leaf.dtype.itemsize  # noqa: E731
    held = sum(size(leaf, leaf.sharding.shard_shape(leaf.shape)) for leaf in placed)
    return float(held / sum(size(leaf, leaf.shape) for leaf in placed))


def held(state: Any) -> float:
    """What the first device does hold, over what one alone would."""
    leaves, first = jax.tree.leaves(state), jax.devices()[0]
    parts = [part.data.nbytes for leaf in leaves for part in leaf.addressable_shards if part.device == first]
    return sum(parts) / sum(leaf.nbytes for leaf in leaves)


def restored(stage: stages.Stage, state: Any) -> dict[str, bool]:
    """Whether a checkpoint of eight devices comes back equal on fewer."""
    with tempfile.TemporaryDirectory() as directory:
        saved = checkpoint.Checkpoints(directory)
        saved.save(state, UPDATES)
        saved.close()
        equal = {}
        for label in ("1", "fsdp 2"):
            back, _ = saved.restore(layout_of(label).place(stage.abstract()), UPDATES)
            equal[label] = jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(back), jax.device_get(state)))
            equal[label] &= all(len(leaf.devices()) == int(label[-1]) for leaf in jax.tree.leaves(back))
    return equal


def sampled(run_dir: str) -> float:
    """The largest difference of samples made on one device and on eight."""
    run, samples = runs.load(run_dir), []
    cond = {"label": np.arange(20) % 4, "guidance": np.ones(20, np.float32)}
    for label in ("1", "data 4 x fsdp 2"):
        layout = layout_of(label)
        generator = generate.Generator(runs.bind(run.manifest), run.codec, False, layout.mesh)
        weights = run.read_weights(layout.place(runs.abstract_weights(run.manifest)))
        z, grid = run.noise(20), schedules.grid(run.schedule, 4)
        samples.append(generator(weights, "stochastic", z, cond, grid, seed=0, indices=np.arange(20), batch_size=16))
    return float(np.abs(samples[0] - samples[1]).max())


def built(module: Any, argument: str = "", **changes: Any) -> stages.Stage:
    """The stage of a config, without a clip, with some keys changed."""
    config = module.get_config(argument)
    config.update(changes)
    config.optim.clip = 0.0
    return stages.build(config.to_dict())


def main(run_dir: str) -> Mapping[str, Any]:
    """Everything; `run_dir` holds the tiny stage one of the mixture."""
    mlp = built(mixture2d_stage2, "tiny", teacher=run_dir)
    parts = built(mixture2d_stage2, "tiny", teacher=run_dir, compute={"accumulate": 4})
    unet = built(digits_teacher, "tiny", batch_size=32)
    of_mlp, states = compare(mlp, list(SIZES))
    of_unet, _ = compare(unet, ["1", "data 2 x fsdp 2 x tensor 2"])
    return {
        "devices": len(jax.devices()),
        "mlp": of_mlp,
        "unet": of_unet,
        "accumulated": accumulated(parts),
        "share": share(built(digits_teacher)),
        "held": [held(states["fsdp 8"]), share(mlp)],
        "restored": restored(mlp, states["fsdp 8"]),
        "samples": sampled(run_dir),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
