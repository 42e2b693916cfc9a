"""MiniLM beside transformers: the tower, and the tokens of the tokenizer. In an environment with PyTorch and
transformers,

    PYTHONPATH=. python tests/test_peers_minilm.py

writes tests/fixtures/minilm.npz.
"""

import importlib.util
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import test_minilm as own

from guided_distill.text import minilm

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "transformers")),
        reason="needs torch and transformers",
    ),
]
CAPTIONS = [
    "",
    "A  red\n APPLES, noto",
    "naïve café Ångström e\u0301 日本",
    "don't! [MASK] 3.14 a_b-c",
    "🙂 emoji\u200d\u0000",
    "cat " * 20,
]


def told(folder, tokens=own.TOKENS):
    """The states that transformers' BertModel gives."""
    import torch
    from transformers import BertModel

    model, info = BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        ids = torch.tensor(tokens, dtype=torch.long)
        return model(ids, attention_mask=(ids != 0).long()).last_hidden_state.numpy()


def test_the_tower_is_that_of_transformers_that_is_installed(tmp_path):
    folder = own.write(tmp_path)
    found, expected, known = own.states_of(folder), told(folder), own.TOKENS != 0
    own.assert_close(found[known], expected[known])
    own.assert_close(np.load(own.FIXTURE)["states"], expected)


def test_tokens_are_those_of_its_tokenizer(tmp_path):
    from transformers import BertTokenizer

    folder = own.write(tmp_path)
    theirs = BertTokenizer({word: k for k, word in enumerate(own.WORDS)})
    expected = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=14)["input_ids"]
    with pytest.warns(UserWarning, match="lose their ends"):
        np.testing.assert_array_equal(minilm.tokenizer(folder, length=14)(CAPTIONS), expected)


def test_the_packaged_weights_say_what_they_say_there():
    try:
        path = Path(str(metadata.distribution(minilm.PACKAGE).locate_file(minilm.FOLDER)))
    except metadata.PackageNotFoundError as error:
        pytest.skip(str(error))
    captions = ["a red apple, noto", "smiling face with open hands, twemoji", ""]
    tokens = minilm.tokenizer()(captions)
    expected, found = told(path, tokens), minilm.encoder().encode(captions)
    own.assert_close(found[tokens != 0], expected[tokens != 0])


def write():
    """Writes the fixture."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(own.FIXTURE, states=told(own.write(Path(folder))))


if __name__ == "__main__":
    write()
