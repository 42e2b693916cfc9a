"""Autoencoders beside diffusers. In an environment with PyTorch and diffusers,

    PYTHONPATH=. python tests/test_peers_autoencoders.py

writes tests/fixtures/autoencoders.npz.
"""

import functools
import importlib.util
import json
import tempfile
from pathlib import Path

import beside_torch
import numpy as np
import pytest
import test_autoencoders as own

from guided_distill.codecs import kl_vae, vq_vae

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "diffusers")), reason="needs torch and diffusers"
    ),
]


@functools.cache
def classes():
    beside_torch.allow_no_torchvision()
    from diffusers import AutoencoderKL, VQModel

    return {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


@pytest.fixture(scope="module")
def peers():
    return classes()


def opened(folder, kind):
    """diffusers' model of a folder, which must have what it wants and nothing else."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model.eval()


def layout_of(kind, config):
    """{name: shape} of a model of a config, nothing computed."""
    import torch

    with torch.device("meta"):
        model = kind(**{key: value for key, value in config.items() if key[0] != "_"})
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def told(folder, case, kinds):
    """{name: array} that diffusers says of the inputs of a case."""
    import torch

    model = opened(folder, kinds[own.CASES[case]["_class_name"]])
    turn = lambda x: torch.tensor(x).permute(0, 3, 1, 2)  # noqa: E731
    with torch.no_grad():
        encoded, z = model.encode(turn(own.images_of(case))), turn(own.latents_of(case))
        if own.CASES[case]["_class_name"] == "VQModel":
            found = {"latents": encoded.latents, "decoded": model.decode(z).sample}
            found["unrounded"] = model.decode(z, force_not_quantize=True).sample
        else:
            drawn = encoded.latent_dist
            found = {"mean": drawn.mode(), "logvar": drawn.logvar, "kl": drawn.kl(), "decoded": model.decode(z).sample}
    return {
        key: np.moveaxis(value.numpy(), 1, -1) if value.ndim == 4 else value.numpy() for key, value in found.items()
    }


@pytest.mark.parametrize("case", own.CASES)
def test_networks_are_those_of_diffusers_that_is_installed(case, tmp_path, peers):
    shapes = layout_of(peers[own.CASES[case]["_class_name"]], own.CASES[case])
    assert shapes == own.layout(case)
    folder = own.write(tmp_path / case, case, shapes)
    found, expected, kept = own.everything(folder, case), told(folder, case, peers), np.load(own.FIXTURE)
    assert set(found) == set(expected)
    for key, value in expected.items():
        own.assert_close(found[key], value)
        own.assert_close(kept[f"{case}/{key}"], value)


@pytest.mark.parametrize("case", own.REAL)
def test_layouts_of_real_size_are_those_of_diffusers(case, peers):
    assert layout_of(peers[own.REAL[case]["_class_name"]], own.REAL[case]) == own.layout(case)


@pytest.mark.parametrize("case", own.CASES)
def test_our_export_is_opened_by_diffusers(case, tmp_path, peers):
    kind = own.CASES[case]["_class_name"]
    module = {"AutoencoderKL": kl_vae, "VQModel": vq_vae}[kind]
    ours = module.load(own.write(tmp_path / "given", case))
    module.save(tmp_path / "saved", ours.network, ours.params, scale=0.4)
    model, found = opened(tmp_path / "saved", peers[kind]), own.random_weights(own.layout(case))
    assert model.config.scaling_factor == 0.4
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), found[name])


def test_old_names_are_read_alike(tmp_path, peers):
    folder = own.write(tmp_path / "old", "kl", old=True)
    own.assert_close(own.everything(folder, "kl")["decoded"], told(folder, "kl", peers)["decoded"])


def write():
    """Writes the fixture."""
    kinds, found = classes(), {}
    for case, config in (own.CASES | own.REAL).items():
        shapes = layout_of(kinds[config["_class_name"]], config)
        found[f"{case}/layout"] = np.array(json.dumps(shapes))
        if case in own.CASES:
            with tempfile.TemporaryDirectory() as folder:
                said = told(own.write(Path(folder) / case, case, shapes), case, kinds)
            found |= {f"{case}/{key}": value for key, value in said.items()}
    np.savez_compressed(own.FIXTURE, **found)


if __name__ == "__main__":
    write()
