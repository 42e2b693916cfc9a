"""Scores beside torch-fidelity 0.4.0, on given features. What it says of them is kept in fixtures/torch_fidelity.json,
which was written, in an environment with PyTorch and torch-fidelity (`pip install --no-deps torch-fidelity==0.4.0`), by

    PYTHONPATH=. python tests/test_peers_score.py
"""

import importlib
import json
import sys
import types
from importlib import util
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from guided_distill.__main__ import main
from guided_distill.metrics import FeatureSet, frechet, inception_score, kernel, precision_recall

FIXTURE = Path(__file__).parent / "fixtures" / "torch_fidelity.json"
CASES = {  # (fake samples, real ones, dimensions, classes): the last but one has more dimensions than samples.
    "even": (1100, 1050, 64, 30),
    "uneven": (1500, 2100, 32, 10),
    "few": (60, 70, 100, 7),
    "near": (300, 250, 8, 1008),
}
SIZES = {"uneven": 300, "few": 50, "near": 250}  # Of KID's subsets, where there are fewer than 1,000 samples.


def made(name):
    """(fake, real) float32, of the seed: clusters, and rectified as a network's features are; nothing is multiplied as
    matrices, so that they are the same everywhere."""
    n, m, d, classes = CASES[name]
    rng = np.random.default_rng(list(CASES).index(name))
    centres, scale = 2 * rng.random((5, d)), 0.2 + rng.random(d)

    def draw(num, shift):
        noise = rng.random((num, d)) + rng.random((num, d)) - 1
        return np.maximum(centres[np.arange(num) % 5] + scale * noise + shift, 0).astype(np.float32)

    real, fake = draw(m, 0), draw(n, 0.05 if n > d else 0.15)
    return FeatureSet(fake, None, (8 * rng.random((n, classes)) ** 3).astype(np.float32)), FeatureSet(real)


def ours(name):
    """{metric: value} as torch-fidelity's are kept."""
    fake, real = made(name)
    kid, kid_std, _ = kernel.kid(fake, real, subset_size=SIZES.get(name, 1000))
    return {
        "fid": frechet.compute(fake, real)["frechet_distance"],
        "kid": kid,
        "kid_std": kid_std,
        **inception_score.compute(fake, real),
        **precision_recall.compute(fake, real),
    }


def assert_agree(found, expected, exact=True):
    """Closely if torch-fidelity was given float64; it takes means and kernels as they are given."""
    np.testing.assert_allclose(found["fid"], expected["fid"], rtol=1e-6 if exact else 1e-4)
    for key in ("kid", "kid_std"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-9 if exact else 0, atol=0 if exact else 1e-6)
    for key in ("inception_score", "inception_score_std"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-9)
    num_fake, num_real = expected["num"]
    assert round(found["precision"] * num_fake) == round(expected["precision"] * num_fake)
    assert round(found["recall"] * num_real) == round(expected["recall"] * num_real)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_torch_fidelity(name):
    expected = json.loads(FIXTURE.read_text())[name]
    assert min(expected["precision"], expected["recall"]) > 0.1 and expected["kid"] > 1e-3 and expected["fid"] > 0.05
    assert_agree(ours(name), expected)


def test_the_verb_says_the_same_of_an_npz(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("guided_distill.evaluate.CACHE", tmp_path / "cache")
    (fake, real), paths = made("near"), [str(tmp_path / f"{name}.npz") for name in ("fake", "real")]
    np.savez(paths[0], features=fake.features, logits=fake.logits)
    np.savez_compressed(paths[1], features=real.features)
    assert main(["score", *paths, "--metrics=fd,kid,is,pr", "--no-floor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert_agree(found | {"fid": found["fd"]}, json.loads(FIXTURE.read_text())["near"])


# Beside PyTorch.


def peer(name):
    """A module of torch-fidelity, without the package's own imports, which ask for more than PyTorch."""
    if "torch_fidelity" not in sys.modules:
        sys.modules["torch_fidelity"] = util.module_from_spec(util.find_spec("torch_fidelity"))
    with mock.patch.dict(sys.modules):
        utils = sys.modules["torch_fidelity.utils"] = types.ModuleType("torch_fidelity.utils")
        utils.__getattr__ = lambda name: mock.Mock() if not name.startswith("__") else None
        return importlib.import_module(f"torch_fidelity.{name}")


def theirs(name, dtype="float64"):
    """{metric: value}, by torch-fidelity, of features given in `dtype`."""
    import torch

    fake, real = made(name)
    x, y, logits = (torch.tensor(array.astype(dtype)) for array in (fake.features, real.features, fake.logits))
    of_fid = peer("metric_fid")
    statistics = [of_fid.fid_features_to_statistics(z) for z in (x, y)]
    kid = peer("metric_kid").kid_features_to_metric(x, y, kid_subset_size=SIZES.get(name, 1000), verbose=False)
    score = peer("metric_isc").isc_features_to_metric(logits)
    both = [peer("metric_prc").prc_features_to_metric(x, y, save_cpu_ram=save, verbose=False) for save in (False, True)]
    assert both[0] == both[1]
    return {
        "num": [len(x), len(y)],
        "fid": of_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "inception_score": score["inception_score_mean"],
        "inception_score_std": score["inception_score_std"],
        "precision": both[0]["precision"],
        "recall": both[0]["recall"],
    }


@pytest.mark.peers
@pytest.mark.skipif(
    not (util.find_spec("torch") and util.find_spec("torch_fidelity")),
    reason="needs torch and pip install --no-deps torch-fidelity",
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_torch_fidelity_that_is_installed(name, dtype):
    assert_agree(ours(name), theirs(name, dtype), exact=dtype == "float64")


if __name__ == "__main__":
    FIXTURE.write_text(json.dumps({name: theirs(name) for name in CASES}, indent=1) + "\n")
