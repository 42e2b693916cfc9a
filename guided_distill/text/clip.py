"""CLIP's text tower (Radford et al. 2021, arXiv:2103.00020), its tokens, and captions' embeddings.

Reads what Hugging Face writes: CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, and the text encoders of Stable
Diffusion, which are of these kinds.
"""

import dataclasses
import functools
import gzip
import itertools
import warnings
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

NAME = "CLIP"
LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # Of OpenAI's file, which has more of them.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # Of lower case: endings, letters, a digit, the rest.
KEYS = {"vocab": "vocab_size", "length": "max_position_embeddings", "end": "eos_token_id"}
OPENAI = (512, 768)  # Widths of their text towers beside image transformers.
MOST_HEADS = 20  # Of the widest one, bigG.
OTHERS = ("vision_model.", "visual_projection.", "logit_scale")
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


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts -> tokens [n, length]: start, byte pairs of the lower-case text, end, and `pad` from there on."""

    core: tokenizers.Tokenizer
    start: int
    end: int
    pad: int
    length: int = LENGTH

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "n {self.length}"]:
        """int32. Texts that are too long lose their last tokens, but not the end, and a warning says how many did.
        Raises `UserError` for what is no list of texts."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"a tokenizer reads a list of texts, not {type(texts).__name__} {str(texts)[:40]!r}")
        room = self.length - 2
        found = [line.ids for line in self.core.encode_batch(list(texts), add_special_tokens=False)]
        if cut := [text for text, ids in zip(texts, found, strict=True) if len(ids) > room]:
            told = f"{len(cut)} of {len(found)} texts have more than {room} tokens and lose their ends"
            warnings.warn(f"{told}; the first: {cut[0][:60]!r}...", stacklevel=2)
        tokens = np.full((len(found), self.length), self.pad, np.int32)
        for row, ids in zip(tokens, found, strict=True):
            line = [self.start, *ids[:room], self.end]
            row[: len(line)] = line
        return tokens


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
        if not len(captions):
            raise UserError(f"{self.name} embeds captions; got none")
        tokens = self.tokenizer(captions)
        num, size = len(tokens), min(self.batch_size, len(tokens))
        starts = range(0, num, size)
        # The last batch is filled up with the first captions, so that one shape is compiled.
        parts = [_embedded(self.tower, self.params, tokens[np.arange(k, k + size) % num]) for k in starts]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])[:num]


@functools.partial(jax.jit, static_argnums=0)
def _embedded(tower: TextTower, params: dict[str, Any], tokens: Int[Array, "b l"]) -> Float[Array, "b p"]:
    return tower.apply({"params": params}, tokens).embedding


def make(weights: str | Path, vocabulary: str | Path | None = None, batch_size: int = 64) -> Texts:
    """Captions -> embeddings by the tower at `weights`; `vocabulary`: the path of a `tokenizer`, by default the folder
    of the weights. Raises `UserError` for a tower without projection, and for tokens that it does not know."""
    tower, params, sha256 = load(weights)
    if tower.projection is None:
        raise UserError(f"the text tower at {weights} has no text_projection, so it cannot be compared with images")
    vocabulary = vocabulary or (weights if Path(weights).is_dir() else Path(weights).parent)
    tokens = tokenizer(vocabulary, length=tower.length)
    if tokens.core.get_vocab_size() > tower.vocab:
        raise UserError(f"{vocabulary} has {tokens.core.get_vocab_size()} tokens, the tower at {weights} {tower.vocab}")
    return Texts(NAME, f"{NAME} text {sha256}", tower, params, tokens, batch_size)
