"""DINOv2 beside transformers with random weights (fixtures/dinov2.npz, `PYTHONPATH=. python tests/test_dinov2.py`)."""

import importlib.util
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from guided_distill import evaluate
from guided_distill.errors import UserError
from guided_distill.features import dinov2

FIXTURE = Path(__file__).parent / "fixtures" / "dinov2.npz"
WIDTH, LAYERS, HIDDEN, GRID = 128, 2, 256, 5  # Places for 70 x 70: they are interpolated.
CONFIG = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "mlp_ratio": 2}
CONFIG |= {"image_size": 14 * GRID, "patch_size": 14}


def arrays():
    """{name: array} as Hugging Face names them, of a seed."""
    draw = np.random.default_rng(0).standard_normal
    out = {
        "embeddings.cls_token": draw((1, 1, WIDTH)),
        "embeddings.mask_token": draw((1, WIDTH)),
        "embeddings.position_embeddings": draw((1, GRID**2 + 1, WIDTH)),
        "embeddings.patch_embeddings.projection.weight": draw((WIDTH, 3, 14, 14)) / 24,
        "embeddings.patch_embeddings.projection.bias": draw(WIDTH),
    }
    norms, products = ["layernorm"], {}
    for k in range(LAYERS):
        layer = f"encoder.layer.{k}"
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        products |= {f"{layer}.attention.attention.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        products |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH)}
        products |= {f"{layer}.mlp.fc1": (HIDDEN, WIDTH), f"{layer}.mlp.fc2": (WIDTH, HIDDEN)}
        out |= {f"{layer}.layer_scale{n}.lambda1": 0.5 + 0.2 * draw(WIDTH) for n in (1, 2)}
    for name in norms:
        out |= {f"{name}.weight": 1 + 0.1 * draw(WIDTH), f"{name}.bias": 0.1 * draw(WIDTH)}
    for name, shape in products.items():
        out |= {f"{name}.weight": draw(shape) / shape[1] ** 0.5, f"{name}.bias": 0.1 * draw(shape[0])}
    return {name: array.astype(np.float32) for name, array in out.items()}


def inputs():
    return np.random.default_rng(1).standard_normal((2, 224, 224, 3)).astype(np.float32)


def told():
    """What transformers says of them."""
    import torch
    from transformers import Dinov2Model

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "dinov2", **CONFIG}))
        save_file(arrays(), Path(folder) / "model.safetensors", {"format": "pt"})
        model, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model(torch.tensor(inputs()).permute(0, 3, 1, 2)).pooler_output.numpy()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    where = tmp_path_factory.mktemp("dinov2") / "model.safetensors"
    save_file(arrays(), where)
    return where


def test_features_are_those_of_transformers(path):
    tower, params, _ = dinov2.load(path)
    found = np.asarray(tower.apply({"params": params}, jnp.asarray(inputs())))
    expected = np.load(FIXTURE)["pooled"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.peers
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "transformers"))), reason="needs torch and transformers"
)
def test_transformers_says_the_same_as_is_kept():
    np.testing.assert_allclose(told(), np.load(FIXTURE)["pooled"], rtol=1e-4, atol=1e-5)


def test_both_spellings_of_names_are_read(path, tmp_path):
    """transformers 5 has other names in memory than the published files."""
    other = {
        name.replace("attention.attention.query", "attention.q_proj")
        .replace("attention.attention.key", "attention.k_proj")
        .replace("attention.attention.value", "attention.v_proj")
        .replace("attention.output.dense", "attention.o_proj"): array
        for name, array in arrays().items()
    }
    save_file(other, tmp_path / "model.safetensors")
    first, second = (dinov2.load(where).params for where in (path, tmp_path))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_places_are_interpolated_as_a_cubic_does():
    """A constant stays, a line is a line away from the edges, and as many places are themselves."""
    weights = dinov2.cubic(37, 16)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(dinov2.cubic(9, 9), np.eye(9), atol=1e-12)
    at = (np.arange(16) + 0.5) * 37 / 16 - 0.5
    np.testing.assert_allclose(weights @ np.arange(37.0), at, atol=0.2)  # PyTorch's kernel bends lines a little.
    places = np.random.default_rng(0).standard_normal((1, 26, 3)).astype(np.float32)
    assert dinov2.placed(places, 5) is places and dinov2.placed(places, 16).shape == (1, 257, 3)


def test_a_feature_function_by_path(path):
    name, net = evaluate.load_features("dinov2", str(path))
    images = np.random.default_rng(2).uniform(-1, 1, (3, 20, 30, 3)).astype(np.float32)
    found = net(images)
    assert name == net.name == "DINOv2-128-14" and found.shape == (3, WIDTH)
    np.testing.assert_allclose(net(images[1:2]), found[1:2], rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_what_is_no_dinov2_is_told(path, tmp_path):
    with pytest.raises(UserError, match="features dinov2: no weights"):
        dinov2.make()
    for change, said in (
        ({"encoder.layer.0.norm1.weight": None}, r"missing: encoder\.layers\.0\.layer_norm1\.weight"),
        ({"head.weight": np.zeros((3, 3), np.float32)}, r"not expected: head\.weight"),
        ({"encoder.layer.0.mlp.weights_in.weight": np.zeros((3, 3), np.float32)}, "SwiGLU"),
    ):
        given = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
        save_file(given, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=said):
            dinov2.load(tmp_path)


if __name__ == "__main__":
    np.savez(FIXTURE, pooled=told())
