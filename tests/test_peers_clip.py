"""CLIP beside transformers (towers, images, tokens) and beside OpenCLIP's tokenizer with the real vocabulary.

In an environment with PyTorch, transformers and `pip install --no-deps open_clip_torch` with ftfy and regex,

    PYTHONPATH=. python tests/test_peers_clip.py

writes tests/fixtures/clip.npz.
"""

import importlib.util
import json
import tempfile
from importlib import metadata
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import test_clip as own

from guided_distill.features import clip as image_clip
from guided_distill.text import clip as text_clip

TEXTS = [
    "",
    "The  CAT's\n\tsat; don't we'll I'M",
    "naïve café Ångström e\u0301",
    "日本語のテキスト",
    "🙂🚀 emoji 👩‍👩‍👧",
    "12345 3.14 1,000 ½ Ⅷ ٣",
    "ΑΒΓ ς Σ İstanbul",
    "!!! ??? ... a_b-c#d@e",
    "\u00a0nbsp\u3000wide",
    "cat " * 100,
]


def has(*names):
    return all(importlib.util.find_spec(name) for name in names)


pytestmark = pytest.mark.peers
needs_transformers = pytest.mark.skipif(not has("torch", "transformers"), reason="needs torch and transformers")
needs_open_clip = pytest.mark.skipif(
    not has("open_clip", "ftfy", "regex"), reason="needs pip install --no-deps open_clip_torch, ftfy and regex"
)


def told(folder, case):
    """{name: array} that transformers says about the inputs of a case."""
    import torch
    from transformers import CLIPModel

    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        text = model.text_model(torch.tensor(own.tokens_of(case), dtype=torch.long), output_hidden_states=True)
        image = model.vision_model(torch.tensor(own.seen_of(case)).permute(0, 3, 1, 2))
        found = {
            "text/states": text.last_hidden_state,
            "text/penultimate": text.hidden_states[-2],
            "text/pooled": text.pooler_output,
            "text/embedding": model.text_projection(text.pooler_output),
            "image/states": image.last_hidden_state,
            "image/pooled": image.pooler_output,
            "image/embedding": model.visual_projection(image.pooler_output),
        }
    return {key: value.numpy() for key, value in found.items()}


@needs_transformers
@pytest.mark.parametrize("case", own.CASES)
def test_both_towers_are_those_of_transformers_that_is_installed(case, tmp_path):
    folder = own.write(tmp_path / case, case)
    found, expected, kept = own.everything(folder, case), told(folder, case), np.load(own.FIXTURE)
    assert set(found) == set(expected)
    for key, value in expected.items():
        own.assert_close(found[key], value)
        own.assert_close(kept[f"{case}/{key}"], value)


@needs_transformers
@pytest.mark.parametrize("shape", [(8, 8), (32, 47), (500, 333), (225, 224)])
def test_images_are_seen_as_by_its_processor(shape):
    from transformers import CLIPImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    pixels = image_clip.resized(jnp.asarray(image[None], jnp.float32), 224)
    found = np.asarray(image_clip.normalised(pixels))[0]
    level = 1 / 255 / np.array(image_clip.STD)
    assert (np.abs(found - expected) < 1.01 * level).all()
    assert (np.abs(found - expected) > 1e-5).mean() < 2e-3


@needs_transformers
def test_tokens_are_those_of_its_tokenizer(tmp_path):
    from transformers import CLIPTokenizer

    own.write_vocabulary(tmp_path)
    texts = [*TEXTS, "a<|endoftext|>b"]
    theirs = CLIPTokenizer.from_pretrained(tmp_path, model_max_length=77)
    expected = theirs(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    with pytest.warns(UserWarning, match="lose their ends"):
        np.testing.assert_array_equal(text_clip.tokenizer(tmp_path)(texts), expected)
    theirs.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").is_file()
    with pytest.warns(UserWarning, match="lose their ends"):
        np.testing.assert_array_equal(text_clip.tokenizer(tmp_path / "new")(texts), expected)


@needs_transformers
@pytest.mark.parametrize("new", [False, True])
def test_the_token_to_fill_up_with_is_the_one_that_it_takes(tmp_path, new):
    from transformers import CLIPTokenizer

    own.write_vocabulary(tmp_path)
    config = {"pad_token": "#", "tokenizer_class": "CLIPTokenizer"} | ({"added_tokens_decoder": {}} if new else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    expected = CLIPTokenizer.from_pretrained(tmp_path)(["the cat"], padding="max_length", max_length=77)["input_ids"]
    np.testing.assert_array_equal(text_clip.tokenizer(tmp_path)(["the cat"]), expected)


@needs_open_clip
def test_tokens_of_the_real_vocabulary_are_those_of_open_clip():
    package = metadata.distribution("open_clip_torch")
    spec = importlib.util.spec_from_file_location("peer", package.locate_file("open_clip/tokenizer.py"))
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    theirs = peer.SimpleTokenizer()
    ours = text_clip.tokenizer(Path(str(package.locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz"))))
    assert (ours.start, ours.end) == (49406, 49407)
    with pytest.warns(UserWarning, match="lose their ends"):
        found = ours(TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        line = [ours.start, *theirs.encode(text)[:75], ours.end]
        assert row.tolist() == line + [ours.end] * (77 - len(line)), text


def write():
    """Writes the fixture."""
    found = {}
    for case in own.CASES:
        with tempfile.TemporaryDirectory() as folder:
            said = told(own.write(Path(folder) / case, case), case)
        found |= {f"{case}/{key}": value for key, value in said.items()}
    np.savez_compressed(own.FIXTURE, **found)


if __name__ == "__main__":
    write()
