"""CLIP against transformers, with random weights, and its laws. What transformers says is kept in fixtures/clip.npz,
which test_peers_clip.py writes and checks. The vocabulary is made up: bytes, and what a few merges make of them."""

import functools
import gzip
import json
import math
import pickle
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.special
from PIL import Image
from safetensors.numpy import save_file
from tokenizers.pre_tokenizers import ByteLevel

from guided_distill import evaluate, metrics, torch_weights
from guided_distill.errors import UserError
from guided_distill.features import clip as image_clip
from guided_distill.layers import transformer
from guided_distill.metrics import FeatureSet, clip_score
from guided_distill.text import clip as text_clip

FIXTURE = Path(__file__).parent / "fixtures" / "clip.npz"
LENGTH, WIDTH, PROJECTION = 16, 128, 48
MERGES = (("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("s", "a"), ("sa", "t</w>"))
SIGNS = sorted(ByteLevel.alphabet())
TOKENS = [*SIGNS, *(f"{sign}</w>" for sign in SIGNS), *("".join(pair) for pair in MERGES)]
TOKENS += ["<|startoftext|>", "<|endoftext|>"]
START, END = len(TOKENS) - 2, len(TOKENS) - 1
CASES = {
    "openai": {"activation": "quick_gelu", "end": 2, "pad": END, "patch": 32, "size": 64},
    "openclip": {"activation": "gelu", "end": END, "pad": 0, "patch": 14, "size": 56},
}


def config_of(case):
    """config.json of a CLIPModel; that of "openclip" is of an old kind, in which the first description of the text
    tower counts, and the second is wrong."""
    given = CASES[case]
    both = {"hidden_act": given["activation"], "hidden_size": WIDTH, "num_attention_heads": 2, "projection_dim": 7}
    text = {"num_hidden_layers": 3, "intermediate_size": 256, "vocab_size": len(TOKENS), "bos_token_id": START}
    text |= {"max_position_embeddings": LENGTH, "eos_token_id": given["end"], "pad_token_id": given["pad"], **both}
    vision = {"num_hidden_layers": 2, "intermediate_size": 192, "image_size": given["size"]}
    vision |= {"patch_size": given["patch"], **both}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": PROJECTION}
    config |= {"text_config": text, "vision_config": vision}
    if case == "openclip":
        config |= {"text_config_dict": text, "text_config": {**text, "hidden_act": "quick_gelu"}}
    return config


def layout(case):
    """{name: shape} of a CLIPModel."""
    patch, places = CASES[case]["patch"], (CASES[case]["size"] // CASES[case]["patch"]) ** 2 + 1
    shapes = {"logit_scale": (), "text_projection.weight": (PROJECTION, WIDTH)}
    shapes |= {"visual_projection.weight": (PROJECTION, WIDTH), "vision_model.embeddings.class_embedding": (WIDTH,)}
    shapes["vision_model.embeddings.patch_embedding.weight"] = (WIDTH, 3, patch, patch)
    shapes["vision_model.embeddings.position_embedding.weight"] = (places, WIDTH)
    shapes["text_model.embeddings.position_embedding.weight"] = (LENGTH, WIDTH)
    shapes["text_model.embeddings.token_embedding.weight"] = (len(TOKENS), WIDTH)
    norms = ["text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for tower, layers, hidden in (("text_model", 3, 256), ("vision_model", 2, 192)):
        for k in range(layers):
            layer = f"{tower}.encoder.layers.{k}"
            norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
            sizes = {f"self_attn.{name}": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
            for name, shape in (sizes | {"mlp.fc1": (hidden, WIDTH), "mlp.fc2": (WIDTH, hidden)}).items():
                shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    return shapes | {f"{name}.{leaf}": (WIDTH,) for name in norms for leaf in ("weight", "bias")}


def random_weights(case):
    """{name: array}. Matrices keep what they are given of one size, so that every layer has its say."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in sorted(layout(case).items()):
        drawn = rng.standard_normal(shape)
        if len(shape) < 2:
            drawn = 0.2 * drawn + ("norm" in name and name.endswith("weight"))
        elif "token" not in name and "position" not in name:
            drawn = drawn / math.sqrt(np.prod(shape[1:]))
        weights[name] = np.asarray(drawn, np.float32)
    return weights


def write(folder, case, **changed):
    """A folder as Hugging Face writes it. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(case)))
    save_file(random_weights(case) | changed, folder / "model.safetensors")
    write_vocabulary(folder)
    return folder


def write_vocabulary(folder):
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]))


def tokens_of(case):
    """Two texts of 5 and 9 tokens."""
    rng, tokens = np.random.default_rng(1), np.full((2, LENGTH), CASES[case]["pad"], np.int32)
    for row, num in zip(tokens, (5, 9), strict=True):
        row[: num + 2] = [START, *rng.integers(1, START, num), END]
    return tokens


def seen_of(case):
    """Two images, as the tower sees them."""
    size = CASES[case]["size"]
    return np.random.default_rng(2).standard_normal((2, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="session", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    return {case: write(root / case, case) for case in CASES}


@pytest.fixture(scope="session")
def openai(folders):
    return text_clip.load(folders["openai"])


def assert_close(found, expected):
    """To 1e-5 of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@functools.partial(jax.jit, static_argnums=0, static_argnames=("skip", "normed"))
def applied(tower, params, inputs, **arguments):
    return tower.apply({"params": params}, inputs, **arguments)


def run(loaded, inputs, **arguments):
    return applied(loaded.tower, loaded.params, inputs, **arguments)


def everything(folder, case):
    """{name: array} that the towers say about the inputs of a case."""
    text, image = text_clip.load(folder), image_clip.load(folder)
    full, seen = run(text, tokens_of(case)), run(image, seen_of(case))
    found = {f"text/{key}": value for key, value in full._asdict().items()}
    found |= {f"image/{key}": value for key, value in seen._asdict().items()}
    return found | {"text/penultimate": run(text, tokens_of(case), skip=1, normed=False).states}


# Parity.


def test_both_towers_are_those_of_transformers(case, folders):
    found, expected = everything(folders[case], case), np.load(FIXTURE)
    keys = [key for key in expected if key.startswith(case)]
    assert {key.removeprefix(f"{case}/") for key in keys} == set(found)
    for key in keys:
        assert_close(found[key.removeprefix(f"{case}/")], expected[key])
        assert np.abs(expected[key][0] - expected[key][1]).max() > 0.1 * np.abs(expected[key]).max()


def sizes(tower, inputs):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(tower.init, jax.random.key(0), inputs)))


def test_towers_have_as_many_parameters_as_the_published_ones():
    tokens, seen = jnp.zeros((1, 77), jnp.int32), jnp.zeros((1, 224, 224, 3))
    scale = 1  # Of the logits, beside the towers.
    text, image = text_clip.TextTower(), image_clip.ImageTower()
    assert sizes(text, tokens) + sizes(image, seen) + scale == 151_277_313  # ViT-B/32.
    text = text.clone(width=768, heads=12, hidden=3072, projection=768)
    image = image.clone(width=1024, layers=24, heads=16, hidden=4096, patch=14, projection=768)
    assert sizes(text, tokens) + sizes(image, seen) + scale == 427_616_513  # ViT-L/14.
    assert sizes(text.clone(projection=None), tokens) == 123_060_480  # Stable Diffusion 1.


def test_a_file_alone_says_all_but_heads_and_activation(case, folders, tmp_path):
    path = tmp_path / "some.safetensors"
    save_file(random_weights(case), path)
    activation = CASES[case]["activation"]
    text, image = text_clip.load(path, activation), image_clip.load(path, activation)
    known = text_clip.load(folders[case]).tower, image_clip.load(folders[case]).tower
    assert text.tower.end is None and image.tower == known[1]
    assert text.tower.clone(end=known[0].end) == known[0]
    expected = np.load(FIXTURE)[f"{case}/text/embedding"]
    assert_close(run(text, tokens_of(case)).embedding, expected)  # The end is the highest token in both.


@pytest.mark.parametrize(
    "module, width, heads, activation",
    [
        (text_clip, 768, 12, "quick_gelu"),  # L
        (text_clip, 1024, 16, "gelu"),  # H
        (text_clip, 1280, 20, "gelu"),  # bigG
        (image_clip, 768, 12, "quick_gelu"),  # B
        (image_clip, 896, 14, "gelu"),  # B plus
        (image_clip, 1024, 16, "quick_gelu"),  # L
        (image_clip, 1280, 16, "gelu"),  # H
        (image_clip, 1664, 16, "gelu"),  # bigG
    ],
)
def test_without_config_heads_and_activation_are_those_in_print(module, width, heads, activation):
    arrays = {"encoder.layers.0.mlp.fc1.weight": np.zeros((4, width)), "encoder.layers.11.x": np.zeros(1)}
    found = transformer.measured(arrays, module.OPENAI, module.MOST_HEADS)
    assert found == {"width": width, "layers": 12, "heads": heads, "hidden": 4, "activation": activation}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_text_tower_alone_in_16_bits_without_projection(folders, tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in random_weights("openai").items() if "text_model" in name}
    arrays = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    arrays["embeddings.position_ids"] = np.arange(LENGTH)[None]
    (tmp_path / "config.json").write_text(json.dumps(config_of("openai")["text_config"]))
    save_file(arrays, tmp_path / "model.safetensors")
    loaded = text_clip.load(tmp_path)
    assert loaded.tower.projection is None and loaded.tower.end is None
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(loaded.params))
    found = loaded.params["encoder"]["layers_1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(found, arrays["encoder.layers.1.mlp.fc1.weight"].astype(np.float32).T)
    said = run(loaded, tokens_of("openai"))
    assert said.embedding is None and np.isfinite(said.pooled).all()
    write_vocabulary(tmp_path)
    with pytest.raises(UserError, match="has no text_projection"):
        text_clip.make(tmp_path)


def test_weights_in_parts_are_those_of_one_file(folders, tmp_path):
    weights, part_of = random_weights("openai"), {}
    for part, k in (("a.safetensors", 0), ("b.safetensors", 1)):
        names = sorted(weights)[k::2]
        save_file({name: weights[name] for name in names}, tmp_path / part)
        part_of |= dict.fromkeys(names, part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": part_of}))
    found = torch_weights.pretrained(tmp_path)
    assert found.config is None and set(found.arrays) == set(weights)
    assert all(np.array_equal(found.arrays[name], weights[name]) for name in weights)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"there is no b\.safetensors"):
        torch_weights.pretrained(tmp_path)


@pytest.mark.parametrize("load", [text_clip.load, image_clip.load])
def test_wrong_weights_are_told_in_one_line(load, tmp_path):
    folder, weights = write(tmp_path / "clip", "openai"), random_weights("openai")
    tower = "text_model" if load is text_clip.load else "vision_model"
    del weights[f"{tower}.encoder.layers.1.mlp.fc1.bias"]
    weights[f"{tower}.extra"] = np.zeros(3, np.float32)
    weights[f"{tower}.encoder.layers.0.mlp.fc2.weight"] = np.zeros((WIDTH, 9), np.float32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        load(folder)
    told = str(error.value)
    assert "\n" not in told and "missing: encoder.layers.1.mlp.fc1.bias;" in told and "not expected: extra;" in told
    assert re.search(
        r"of another shape: encoder.layers.0.mlp.fc2.weight \[128, 9\] instead of \[128, (256|192)\]$", told
    )


def of_eight_bits():
    """A safetensors file of one number of 8 bits, by its format: the header's length, the header, the numbers."""
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"8"


def test_what_is_no_clip_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        text_clip.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        text_clip.load(tmp_path)
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no tower of CLIP in these weights"):
        image_clip.load(tmp_path)
    (tmp_path / "eight.safetensors").write_bytes(of_eight_bits())
    with pytest.raises(UserError, match="numbers of type float8_e4m3fn, which are not read: convert"):
        torch_weights.pretrained(tmp_path / "eight.safetensors")
    config = config_of("openai")
    for section, key, value, message in (
        ("text_config", "hidden_act", "relu", "unknown activation 'relu'; valid: quick_gelu, gelu"),
        ("text_config", "num_attention_heads", 3, "does not divide into 3 heads"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {section: config[section] | {key: value}}))
        with pytest.raises(UserError, match=message):
            text_clip.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list"):
        text_clip.load(tmp_path)


def test_activations_in_closed_form():
    x = np.linspace(-6, 6, 25, dtype=np.float32)
    expected = {"quick_gelu": x / (1 + np.exp(-1.702 * x)), "gelu": x * scipy.special.ndtr(x)}
    assert set(expected) == set(transformer.ACTIVATIONS)
    for name, activation in transformer.ACTIVATIONS.items():
        np.testing.assert_allclose(activation(jnp.asarray(x)), expected[name], atol=1e-6)


# Laws of the text tower.


def test_no_token_sees_a_later_one(openai):
    tokens = tokens_of("openai")
    changed = tokens.copy()
    changed[:, 6] = 5
    before, after = run(openai, tokens).states, run(openai, changed).states
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before - after)[:, 6:].max(-1) > 1e-3).all()


def test_what_follows_the_end_does_not_matter(openai):
    tokens = tokens_of("openai")
    changed = tokens.copy()
    for row in changed:
        row[list(row).index(END) + 1 :] = 7
    before, after = run(openai, tokens), run(openai, changed)
    np.testing.assert_array_equal(before.pooled, after.pooled)
    np.testing.assert_array_equal(before.embedding, after.embedding)
    short = run(openai, tokens[:, :11])  # Both texts, and no padding of the longer one.
    assert_close(short.embedding, before.embedding)


def test_pooled_is_the_state_at_the_first_end(openai):
    tokens = tokens_of("openai")
    found = run(openai, tokens)
    np.testing.assert_array_equal(found.pooled, found.states[np.arange(2), [6, 10]])
    other = openai._replace(tower=openai.tower.clone(end=int(tokens[0, 3])))
    assert_close(run(other, tokens).pooled[:1], found.states[:1, 3])


def test_skipped_layers_are_those_at_the_end(openai):
    tokens = tokens_of("openai")
    params = {"encoder": {f"layers_{k}": openai.params["encoder"][f"layers_{k}"] for k in range(2)}}
    shorter = openai._replace(tower=openai.tower.clone(layers=2), params=openai.params | params)
    found, expected = run(openai, tokens, skip=1), run(shorter, tokens)
    assert_close(found.states, expected.states)
    assert_close(found.embedding, run(openai, tokens).embedding)  # Skipping is for the states only.
    norm = openai.params["final_layer_norm"]
    plain = np.asarray(run(openai, tokens, skip=1, normed=False).states)
    centred = plain - plain.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
    assert_close(found.states, normed)
    for skip in (-1, 4):
        with pytest.raises(UserError, match="expected 0 to 3"):
            run(openai, tokens, skip=skip)


def test_texts_that_are_too_long_are_refused(openai):
    with pytest.raises(UserError, match="17 tokens a text; this tower has 16 places"):
        run(openai, np.zeros((1, 17), np.int32))


# What the image tower sees.


@pytest.mark.parametrize("shape", [(8, 8), (48, 33), (224, 300), (400, 310), (301, 224)])
def test_images_are_resized_as_by_pil(shape):
    rng, (high, wide) = np.random.default_rng(0), shape
    pixels = rng.integers(0, 256, (1, high, wide, 3), dtype=np.uint8)
    pixels[:, : high // 2] = pixels[:, : high // 2, :1]  # Noise, and stripes.
    found = np.asarray(image_clip.resized(jnp.asarray(pixels, jnp.float32), 224))[0]
    scale = 224 / min(shape)
    size = (int(wide * scale), 224) if high <= wide else (224, int(high * scale))
    whole = np.asarray(Image.fromarray(pixels[0]).resize(size, Image.Resampling.BICUBIC), np.float32)
    left, top = ((side - 224) // 2 for side in size)
    expected = whole[top : top + 224, left : left + 224]
    assert found.shape == (224, 224, 3) and np.array_equal(found, np.round(found))
    assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 2e-3


def test_a_constant_image_stays_constant_and_is_normalised():
    pixels = jnp.full((1, 30, 50, 3), 200.0)
    found = image_clip.resized(pixels, 64)
    np.testing.assert_array_equal(found, np.full((1, 64, 64, 3), 200.0))
    expected = (200 / 255 - np.array(image_clip.MEAN)) / np.array(image_clip.STD)
    np.testing.assert_allclose(image_clip.normalised(found)[0, 5, 7], expected, rtol=1e-6)


def test_the_middle_is_kept():
    pixels = jnp.broadcast_to(jnp.arange(11.0)[None, None, :, None], (1, 4, 11, 3))
    for x in (pixels, pixels.swapaxes(1, 2)):
        found = image_clip.resized(x, 4)
        found = found if x is pixels else found.swapaxes(1, 2)
        np.testing.assert_array_equal(found[0, 0, :, 0], [3, 4, 5, 6])  # Of 7 columns too many, 3 go on the left.


# Features and metrics.


@pytest.fixture(scope="session")
def both(folders):
    folder = folders["openclip"]
    return clip_score.Clip(image_clip.make(str(folder), batch_size=3), text_clip.make(folder, batch_size=3))


CAPTIONS = ["the cat sat", "The cat", "42 cats", "sat", "é"]


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(4).uniform(-1, 1, (5, 20, 30, 3)).astype(np.float32)


def test_features_are_found_by_name_and_need_weights(folders, images):
    name, features = evaluate.load_features("clip", str(folders["openai"]))
    assert name == "CLIP-128-32-64"
    assert features.preprocessing == image_clip.PREPROCESSING and features.preprocessing in features.identity
    assert features(images).shape == (5, PROJECTION)
    assert features(images[..., :1]).shape == (5, PROJECTION)
    with pytest.raises(UserError, match="give the folder of a CLIP"):
        evaluate.load_features("clip")


def test_embeddings_are_the_towers_on_what_they_see(both, images, folders):
    image, text = (module.load(folders["openclip"]) for module in (image_clip, text_clip))
    pixels = np.clip(np.round((images[3:4] + 1) * 127.5), 0, 255)
    seen = image_clip.normalised(image_clip.resized(jnp.asarray(pixels), 56))
    assert_close(both.images(images)[3:4], np.asarray(run(image, seen).embedding, np.float64))
    tokens = np.array([[START, TOKENS.index("sat</w>"), *[END] * 14]], np.int32)
    assert_close(both.texts(CAPTIONS)[3:4], np.asarray(run(text, tokens).embedding, np.float64))


def test_a_batch_does_not_matter(both, images):
    assert_close(both.images(images)[4:], both.images(images[4:]))
    assert_close(both.texts(CAPTIONS)[4:], both.texts(CAPTIONS[4:]))


def test_clip_score_is_100_times_the_cosine_of_pairs(both, images):
    found = clip_score.clip_score(images, CAPTIONS, both)
    cosines = [a @ b / math.hypot(*a) / math.hypot(*b) for a, b in zip(both.images(images), both.texts(CAPTIONS))]
    np.testing.assert_allclose(found.values, 100 * np.maximum(cosines, 0), rtol=1e-9)
    alone = clip_score.clip_score(images[:1], CAPTIONS[:1], both)
    np.testing.assert_allclose(alone.values, found.values[:1], atol=1e-3)
    assert math.isnan(alone.error)
    with pytest.raises(UserError, match="5 images, 4 captions"):
        clip_score.clip_score(images, CAPTIONS[:4], both)


def test_clip_score_in_closed_form(monkeypatch):
    images = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    texts = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, math.sqrt(3)]])  # Same, across, opposite, 60°.
    found = clip_score.scores(images, texts)
    np.testing.assert_allclose(found.values, [100, 0, 0, 50], atol=1e-12)
    named = clip_score.compute(FeatureSet(images), FeatureSet(texts))
    assert named["clip_score"] == found.mean == pytest.approx(37.5)
    deviations = np.array([62.5, -37.5, -37.5, 12.5])
    assert named["clip_score_error"] == pytest.approx(math.sqrt((deviations**2).sum() / 3 / 4))
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 4)  # Two rows at a time.
    np.testing.assert_array_equal(clip_score.scores(images, texts).values, found.values)
    same = clip_score.compute(FeatureSet(texts), FeatureSet(texts))
    assert same["clip_score"] == pytest.approx(100) and same["clip_score_error"] == pytest.approx(0, abs=1e-9)


def test_clip_score_of_what_is_no_pair_is_refused():
    rows = np.eye(3)
    with pytest.raises(UserError, match="3 images and 2 captions"):
        clip_score.compute(FeatureSet(rows), FeatureSet(rows[:2]))
    with pytest.raises(UserError, match="1 of 3 pairs have an embedding that is 0"):
        clip_score.compute(FeatureSet(rows), FeatureSet(rows * [[1], [1], [0]]))


# Tokens.


@pytest.fixture(scope="session")
def tokenizer(folders):
    return text_clip.tokenizer(folders["openai"])


def words(line):
    """The tokens of a line between start and end, by name."""
    assert line[0] == START and END in line
    return [TOKENS[k] for k in line[1 : list(line).index(END)]]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("  The \n\t CAT ", ["the</w>", "cat</w>"]),
        ("the cats", ["the</w>", "ca", "t", "s</w>"]),
        ("cat7 42", ["cat</w>", "7</w>", "4</w>", "2</w>"]),
        ("the's", ["the</w>", "'", "s</w>"]),
        ("sat!?the", ["sat</w>", "!", "?</w>", "the</w>"]),
        ("É", ["Ã", "©</w>"]),
        ("e\u0301", ["Ã", "©</w>"]),  # Composed first.
    ],
)
def test_byte_pairs(tokenizer, text, expected):
    [line] = tokenizer([text])
    assert line.dtype == np.int32 and line.shape == (77,) and words(line) == expected
    assert set(line[len(expected) + 2 :]) == {END}


def test_long_texts_lose_their_ends_but_not_the_end(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(words(tokenizer(["cat " * 75])[0])) == 75
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 75 tokens and lose their ends; the first: 'cat "):
        lines = tokenizer(["the", "cat " * 76])
    assert words(lines[1]) == ["cat</w>"] * 75 and lines[1, -1] == END
    assert words(lines[0]) == ["the</w>"]


def test_the_token_to_fill_up_with(folders, tmp_path):
    def last():
        return text_clip.tokenizer(tmp_path, length=9)(["cat"])[0, 3:].tolist()

    write_vocabulary(tmp_path)
    assert last() == [END] * 6
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "#"}}))
    assert last() == [TOKENS.index("#")] * 6
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert last() == [TOKENS.index("!")] * 6 == [0] * 6
    new = {"pad_token": "#", "added_tokens_decoder": {}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(new))
    assert last() == [TOKENS.index("#")] * 6
    with pytest.raises(UserError, match=r"has no <\|pad\|>"):
        text_clip.tokenizer(tmp_path, pad="<|pad|>")


def test_other_files_of_the_same_vocabulary(tokenizer, tmp_path):
    texts = ["The cat's 12 cats sat!", "naïve 🙂", ""]
    tokenizer.core.save(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(text_clip.tokenizer(tmp_path)(texts), tokenizer(texts))
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["bpe", *(" ".join(pair) for pair in MERGES), ""]).encode()))
    np.testing.assert_array_equal(text_clip.tokenizer(path)(texts), tokenizer(texts))


def test_what_is_no_vocabulary_or_text_is_refused(tokenizer, folders, tmp_path):
    with pytest.raises(UserError, match=r"expected vocab\.json and merges\.txt, or tokenizer\.json"):
        text_clip.tokenizer(tmp_path)
    with pytest.raises(UserError, match="reads a list of texts, not str 'cat'"):
        tokenizer("cat")
    write_vocabulary(tmp_path)
    more = {token: k for k, token in enumerate([*TOKENS[:-2], "new", *TOKENS[-2:]])}
    (tmp_path / "vocab.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match=f"has {len(TOKENS) + 1} tokens, the tower at .* {len(TOKENS)}"):
        text_clip.make(folders["openai"], tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq q\n")
    with pytest.raises(UserError, match="cannot be read"):
        text_clip.tokenizer(tmp_path)
