"""CLIP's text tower (Radford et al. 2021, arXiv:2103.00020), its tokens, and captions' embeddings.

Reads what Hugging Face writes: CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, and the text encoders of Stable
Diffusion, which are of these kinds.
"""

import dataclasses
import functools
import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Float, Float64, Int
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE

from guided_distill import torch_weights
from guided_distill.errors import UserError
from guided_distill.layers import transformer
from guided_distill.text import Encoder
from guided_distill.text._tokens import Tokenizer, in_batches, require_sha256

NAME = "CLIP"
LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # Of OpenAI's file, which has more of them.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # Of lower case: endings, letters, a digit, the rest.
KEYS = {"vocab": "vocab_size", "length": "max_position_embeddings", "end": "eos_token_id"}
OPENAI = (512, 768)  # Widths of their text towers beside image transformers.
MOST_HEADS = 20  # Of the widest one, bigG.
OTHERS = ("vision_model.", "visual_projection.", "logit_scale")
FILES = ("vocab.json", "merges.txt", "tokenizer.json")  # Of tokenizers.
LEGACY_END = 2  # What old files call the end, though it is no such token.


# The tower.


class Text(NamedTuple):
    """`states` of all tokens; `pooled`: the last layer's, normed, at the end-of-text token; `embedding`: `pooled`
    projected to the space that images share, None without a projection."""

    states: Float[Array, "b l d"]
    pooled: Float[Array, "b d"]
    embedding: Float[Array, "b p"] | None


class _Embeddings(nn.Module):
    vocab: int
    length: int
    width: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        places = nn.Embed(self.length, self.width, name="position_embedding")(jnp.arange(tokens.shape[1]))
        return nn.Embed(self.vocab, self.width, name="token_embedding")(tokens) + places[None]


class TextTower(nn.Module):
    """A causal transformer on tokens. The fields' defaults are Hugging Face's.

    `end`: the token that ends a text, at whose first place it is pooled; None: the highest number, as OpenAI does.
    `projection`: dimensions of the embedding, None for a tower without one.
    """

    width: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 2048
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    vocab: int = 49408
    length: int = LENGTH
    end: int | None = 49407
    projection: int | None = 512

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"], skip: int = 0, normed: bool = True) -> Text:
        """Products are in full float32.

        `skip`: how many of the last layers `states` leaves out ("clip skip"; 1 is the penultimate layer), `normed`:
        whether the final norm is applied to them. Raises `UserError` for more tokens than places, and a `skip` beyond
        the layers.
        """
        batch, length = tokens.shape
        if length > self.length:
            raise UserError(f"{length} tokens a text; this tower has {self.length} places")
        if not 0 <= skip <= self.layers:
            raise UserError(f"skip={skip}; expected 0 to {self.layers}, the layers of this tower")
        with jax.default_matmul_precision("highest"):
            x = _Embeddings(self.vocab, self.length, self.width, name="embeddings")(tokens)
            sizes = (self.layers, self.heads, self.hidden, self.activation, self.epsilon)
            states = transformer.Encoder(*sizes, causal=True, name="encoder")(x)
            norm = nn.LayerNorm(self.epsilon, name="final_layer_norm")
            last, chosen = norm(states[-1]), states[-1 - skip]
            pooled = last[jnp.arange(batch), self._ends(tokens)]
            project = nn.Dense(self.projection, use_bias=False, name="text_projection") if self.projection else None
            return Text(norm(chosen) if normed else chosen, pooled, project(pooled) if project else None)

    def _ends(self, tokens: Int[Array, "b l"]) -> Int[Array, " b"]:
        return jnp.argmax(tokens if self.end is None else tokens == self.end, axis=1)


def load(weights: str | Path, activation: str | None = None) -> transformer.Loaded:
    """The text tower in a .safetensors file or folder (`torch_weights.pretrained`), by its config.json, or, without
    one, by `transformer.measured`; `activation` overrides both. Raises `UserError` for weights of something else."""
    given = torch_weights.pretrained(weights, lambda name: not name.startswith(OTHERS) and "position_ids" not in name)
    arrays = {name.removeprefix("text_model."): array for name, array in given.arrays.items()}
    if given.config is not None:
        fields = transformer.described(given.config, "text", KEYS)
        fields["end"] = None if fields.get("end") == LEGACY_END else fields.get("end", TextTower.end)
    else:
        fields = _measured(arrays)
    if "text_projection.weight" not in arrays:
        fields["projection"] = None
    tower = TextTower(**fields | ({"activation": activation} if activation else {}))
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, tower.length), jnp.int32))["params"]
    what = f"CLIP's text tower of {tower.layers} layers and width {tower.width} ({weights})"
    return transformer.Loaded(tower, torch_weights.to_flax(arrays, shapes, what), given.sha256)


def _measured(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    fields = transformer.measured(arrays, OPENAI, MOST_HEADS) | {"end": None}
    rows = {
        "vocab": "embeddings.token_embedding.weight",
        "length": "embeddings.position_embedding.weight",
        "projection": "text_projection.weight",
    }
    return fields | {field: len(arrays[name]) for field, name in rows.items() if name in arrays}


# Its tokens.


def tokenizer(path: str | Path, pad: str | None = None, length: int = LENGTH) -> Tokenizer:
    """The tokenizer of a folder with vocab.json and merges.txt, or with tokenizer.json; or of OpenAI's own file,
    bpe_simple_vocab_16e6.txt.gz.

    `pad`: the token to fill up with. None: what special_tokens_map.json or tokenizer_config.json says, else the end
    (Stable Diffusion 1); OpenCLIP's take "!", token 0. Raises `UserError` where files or tokens are missing.
    """
    path = Path(path)
    core = _core(path)
    pad = pad or _pad_of(path) or END
    if missing := [token for token in (START, END, pad) if core.token_to_id(token) is None]:
        raise UserError(f"the vocabulary at {path} has no {' and no '.join(missing)}")
    start, end, filler = (core.token_to_id(token) for token in (START, END, pad))
    return Tokenizer(core, start, end, filler, length)


def _core(path: Path) -> tokenizers.Tokenizer:
    pairs = [str(path / name) for name in ("vocab.json", "merges.txt")]
    try:
        if path.is_file():
            core = _byte_pairs(*_openai(path))
        elif all(Path(file).is_file() for file in pairs):
            core = _byte_pairs(*BPE.read_file(*pairs))
        elif (path / "tokenizer.json").is_file():
            core = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        else:
            raise UserError(f"no tokenizer in {path}: expected vocab.json and merges.txt, or tokenizer.json")
    except UserError:
        raise
    except Exception as error:  # The package raises nothing more special.
        raise UserError(f"the tokenizer at {path} cannot be read: {error}") from error
    core.no_padding()
    core.no_truncation()
    return core


def _byte_pairs(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(BPE(vocab, merges, end_of_word_suffix="</w>", unk_token=END))
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    core.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    # All that WORDS finds is a word, and what lies between words goes.
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.add_special_tokens([token for token in (START, END) if token in vocab])
    return core


def _openai(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges: a line of comment, then a pair a line. Signs come first, then those that end a word, then
    what the pairs make."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines if line)]
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in merges), START, END]
    return dict(zip(tokens, itertools.count(), strict=False)), merges


def _pad_of(folder: Path) -> str | None:
    """Of old folders special_tokens_map.json has the last word; new ones list their added tokens and have all in
    tokenizer_config.json."""
    said: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file() and "added_tokens_decoder" not in said:
            said |= torch_weights.read_json(folder / name)
    pad = said.get("pad_token")
    return pad.get("content") if isinstance(pad, dict) else pad


# Captions' embeddings.


@dataclasses.dataclass(frozen=True)
class Texts:
    """Captions -> their embeddings, float64 [n, p], `batch_size` at a time: the partner of the features `clip`."""

    name: str
    identity: str
    tower: TextTower
    params: dict[str, Any]
    tokenizer: Tokenizer
    batch_size: int = 64

    def __call__(self, captions: Sequence[str]) -> Float64[np.ndarray, "n p"]:
        """Raises `UserError` for no caption, or what is no list of them."""
        apply = functools.partial(_embedded, self.tower, self.params)
        return in_batches(apply, self.tokenizer(captions), self.batch_size).astype(np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _embedded(tower: TextTower, params: dict[str, Any], tokens: Int[Array, "b l"]) -> Float[Array, "b p"]:
    return tower.apply({"params": params}, tokens).embedding


def make(weights: str | Path, vocabulary: str | Path | None = None, batch_size: int = 64) -> Texts:
    """Captions -> embeddings by the tower at `weights`; `vocabulary`: the path of a `tokenizer`, by default as of
    `encoder`. Raises `UserError` for a tower without projection, and for tokens that it does not know."""
    tower, params, sha256 = load(weights)
    if tower.projection is None:
        raise UserError(f"the text tower at {weights} has no text_projection, so it cannot be compared with images")
    return Texts(NAME, f"{NAME} text {sha256}", tower, params, _known(tower, weights, vocabulary), batch_size)


def _known(tower: TextTower, weights: str | Path, vocabulary: str | Path | None) -> Tokenizer:
    """The tokenizer of a tower, whose tokens it must know."""
    vocabulary = Path(vocabulary or _beside(weights))
    tokens = tokenizer(vocabulary, length=tower.length)
    if tokens.core.get_vocab_size() > tower.vocab:
        raise UserError(f"{vocabulary} has {tokens.core.get_vocab_size()} tokens, the tower at {weights} {tower.vocab}")
    return tokens


def _beside(weights: str | Path) -> Path:
    """The folder of the weights, or, in a pipeline's, the folder "tokenizer" beside it ("tokenizer_2" for
    text_encoder_2)."""
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    sibling = folder.resolve().parent / folder.resolve().name.replace("text_encoder", "tokenizer")
    return sibling if sibling.is_dir() and not any((folder / file).is_file() for file in FILES) else folder


# What conditions a network.


def encoder(
    weights: str | Path = "",
    vocabulary: str | Path | None = None,
    skip: int = 0,
    sha256: str = "",
    batch_size: int = 64,
) -> Encoder:
    """Captions -> the states of all tokens [n, length, d], after the final norm: what Stable Diffusion's networks are
    given. Places after a text's end have states too, as its networks know them.

    `weights`: a folder text_encoder; `vocabulary`: of the tokenizer, by default the same folder, or "tokenizer" beside
    it. `skip`: layers that are left out ("clip skip" of diffusers). `sha256`: what the weights must have, if not "".
    Raises `UserError` for weights that are missing or others, and for tokens that they do not know.
    """
    if not weights:
        raise UserError("text encoder clip has no weights; give the folder text_encoder of a pipeline as weights")
    tower, params, found = load(weights)
    require_sha256(weights, found, sha256)
    if not 0 <= skip <= tower.layers:
        raise UserError(f"skip={skip}; expected 0 to {tower.layers}, the layers of this tower")
    tokens = _known(tower, weights, vocabulary)
    apply = functools.partial(_states, tower, skip, jax.device_put(params))
    encode = lambda captions: in_batches(apply, tokens(captions), batch_size)  # noqa: E731
    return Encoder((tower.length, tower.width), encode, (("sha256", found),))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(tower: TextTower, skip: int, params: dict[str, Any], tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
    return tower.apply({"params": params}, tokens, skip).states
