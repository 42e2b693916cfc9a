"""Run by test_training with eight virtual devices: first gradient and samples on one device and on all, as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import mixture2d_stage2
from guided_distill import data, generate, parallel, runs, schedules, stages, train_step


def gradient(stage, mesh, batch):
    """Of the stage's first step, with state and batch laid out over the mesh."""
    leaves = stage.leaves()
    shardings = parallel.shardings(jax.eval_shape(stage.init, leaves), mesh)
    state = jax.jit(stage.init, out_shardings=shardings)(jax.device_get(leaves))
    captured = {}

    def update(gradients, opt_state, params):
        captured["tree"] = gradients
        return gradients, opt_state

    ingredients = stage.steps[0].__closure__[0].cell_contents
    probe = train_step.dataclasses.replace(ingredients, optimiser=optax.GradientTransformation(lambda p: (), update))
    step = jax.jit(lambda s, b: (train_step.make(probe)(s, b)[1], captured["tree"]))
    return jax.device_get(step(state, parallel.put_batch(batch, mesh))[1])


config = mixture2d_stage2.get_config("tiny")
config.teacher = sys.argv[1]
stage = stages.build(config.to_dict())
batch = next(data.batches(stage.source, 64, 0))
meshes = [parallel.make_mesh(jax.devices()[:1]), parallel.make_mesh()]
one, all_of_them = (jax.flatten_util.ravel_pytree(gradient(stage, mesh, batch))[0] for mesh in meshes)
run = runs.load(sys.argv[1])
samples = []
for mesh in meshes:
    generator = generate.Generator(runs.bind(run.manifest), run.codec, False, mesh)
    weights = jax.device_put(jax.device_get(run.weights()), parallel.shardings(run.weights(), mesh))
    cond = {"label": np.arange(20) % 4, "guidance": np.ones(20, np.float32)}
    z, grid = run.noise(20), schedules.grid(run.schedule, 4)
    samples.append(generator(weights, "stochastic", z, cond, grid, seed=0, indices=np.arange(20), batch_size=16))
found = {
    "devices": len(jax.devices()),
    "gradient": float(jnp.linalg.norm(one - all_of_them) / jnp.linalg.norm(one)),
    "samples": float(np.abs(samples[0] - samples[1]).max()),
}
print(json.dumps(found))
