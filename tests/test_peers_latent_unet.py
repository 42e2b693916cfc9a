"""The U-Nets of latent diffusion beside diffusers. In an environment with PyTorch and diffusers,

    PYTHONPATH=. python tests/test_peers_latent_unet.py

writes tests/fixtures/latent_unet.npz.
"""

import importlib.util
import json

import beside_torch
import jax.numpy as jnp
import numpy as np
import pytest
import test_latent_unet as own
from safetensors.numpy import save_file

from guided_distill import torch_weights
from guided_distill.layers.embeddings import sinusoidal
from guided_distill.models import latent_unet

has_diffusers = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not has_diffusers, reason="needs torch and diffusers"),
]
W = {"with w": 24, "without w": None}


def diffusers():
    """The package, which asks for an operator of torchvision."""
    beside_torch.allow_no_torchvision()
    import diffusers

    return diffusers


def model_of(config):
    """Its network, in evaluation, and {key: shape}."""
    model = diffusers().UNet2DConditionModel.from_config(config).eval()
    return model, {key: tuple(value.shape) for key, value in model.state_dict().items()}


def loaded(config):
    """Its network with random weights, and these."""
    import torch

    model, layout = model_of(config)
    weights = own.random_weights(layout)
    model.load_state_dict({key: torch.tensor(value) for key, value in weights.items()}, strict=True)
    return model, weights


def told(model, z, time, cond):
    """What a network of diffusers says."""
    import torch

    size, classes = model.config.time_cond_proj_dim, model.config.num_class_embeds
    features = size and np.array(sinusoidal(1000 * jnp.asarray(cond["guidance"]), size))
    with torch.no_grad():
        output = model(
            torch.tensor(z).permute(0, 3, 1, 2),
            torch.tensor(time),
            torch.tensor(cond["text"]),
            class_labels=torch.tensor(cond["label"]) if classes else None,
            timestep_cond=torch.tensor(features) if size else None,
        ).sample
    return output.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("w", W)
@pytest.mark.parametrize("case", own.CASES)
def test_the_network_is_that_of_diffusers_that_is_installed(case, w):
    config = own.config_of(case) | {"time_cond_proj_dim": W[w]}
    model, weights = loaded(config)
    inputs = own.inputs_of(case)
    expected = told(model, *inputs)
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 3e-2)):
        network, params = latent_unet.from_diffusers(config, weights, dtype=dtype, **own.options(case))
        own.assert_close(own.applied(network, params, *inputs), expected, tolerance)


@pytest.mark.parametrize("case", own.CASES)
def test_the_fixture_is_what_it_says(case):
    found, kept = fixture_of(case), own.kept()
    np.testing.assert_array_equal(kept[f"{case}/keys"], found[f"{case}/keys"])
    np.testing.assert_array_equal(kept[f"{case}/shapes"], found[f"{case}/shapes"])
    own.assert_close(kept[f"{case}/output"], found[f"{case}/output"])


@pytest.mark.parametrize("case", own.CASES)
def test_it_opens_what_we_write(case, tmp_path):
    _, layout = model_of(own.config_of(case))
    ours = latent_unet.load(own.write(tmp_path / "given", case, layout), **own.options(case))
    config, arrays = latent_unet.to_diffusers(ours.network, ours.params)
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(arrays, folder / latent_unet.FILE)
    model, info = diffusers().UNet2DConditionModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    inputs = own.inputs_of(case)
    own.assert_close(own.applied(ours.network, ours.params, *inputs), told(model.eval(), *inputs))
    # And what it writes itself, with every default, is read again.
    model.save_pretrained(tmp_path / "again")
    again = latent_unet.load(tmp_path / "again", **own.options(case))
    assert again.network == ours.network
    own.assert_same(again.params, ours.params)


@pytest.mark.parametrize(("preset", "channels"), [("sd1", 4), ("sd2", 4), ("ldm_imagenet256", 3)])
@pytest.mark.parametrize("w", [False, True])
def test_keys_at_real_size_are_its(preset, channels, w):
    import torch

    network = latent_unet.Network(out_channels=channels, embed_guidance=w, **latent_unet.PRESETS[preset])
    flat = own.traverse_util.flatten_dict(latent_unet.shapes(network, channels))
    ours = {torch_weights.torch_name(path): sorted(leaf.shape) for path, leaf in flat.items()}
    with torch.device("meta"):
        _, theirs = model_of(latent_unet._diffusers.config_of(network, channels, None))
    assert ours == {key: sorted(shape) for key, shape in theirs.items()}


@pytest.mark.parametrize("dim", [8, 256])
def test_guidance_is_embedded_as_in_its_pipeline(dim):
    import torch

    w = np.array([0.0, 0.5, 1.0, 6.5, 13.0], np.float32)
    pipeline = diffusers().LatentConsistencyModelPipeline
    expected = pipeline.get_guidance_scale_embedding(None, torch.tensor(w), embedding_dim=dim).numpy()
    found = np.asarray(sinusoidal(1000 * jnp.asarray(w), dim))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def fixture_of(case):
    """What is kept of a case: keys, shapes filled up with zeros, and the output."""
    model, weights = loaded(own.config_of(case))
    keys = sorted(weights)
    sizes = np.array([[*weights[key].shape, 0, 0, 0][:4] for key in keys], np.int16)
    output = told(model, *own.inputs_of(case))
    return {f"{case}/keys": np.array(keys), f"{case}/shapes": sizes, f"{case}/output": output}


def write():
    """Writes the fixture."""
    found = [fixture_of(case) for case in own.CASES]
    np.savez_compressed(own.FIXTURE, **{key: value for part in found for key, value in part.items()})


if __name__ == "__main__":
    write()
