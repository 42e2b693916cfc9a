"""Emoji redrawn in another style: pairs of drawings of one thing, with the instruction that leads from one to the
other, "in noto style".

Made of the set `emoji`, which has to be prepared. "train" is every ordered pair of styles of a name in its train split;
"heldout" asks for the held-out drawings, from those of the same names in train. `name` and `style` (of "x") as there.
"""

import numpy as np
from jaxtyping import Int

from guided_distill.data import Source, emoji
from guided_distill.errors import one_of


def make(split: str = "train", size: int = 64, faces: bool = False, directory: str | None = None) -> Source:
    """uint8 "image", and "x" in another style, [n, size, size, 3], with captions; arguments as `emoji` has them."""
    one_of("split of emoji_styles", split, emoji.SPLITS)
    given = emoji.make("train", size, faces, directory)
    asked = given if split == "train" else emoji.make(split, size, faces, directory)
    return paired(given, asked)


def paired(given: Source, asked: Source) -> Source:
    """Every drawing of `asked` after every one of `given` that has its name and another style."""
    old, new = given[:], asked[:]
    first, second = pairs(*((arrays["name"], arrays["style"]) for arrays in (old, new)))
    told = np.array([f"in {style} style".encode() for style in emoji.STYLES])
    arrays = {
        "x": new["x"][second],
        "image": old["x"][first],
        "caption": told[new["style"][second]],
        "name": new["name"][second],
        "style": new["style"][second],
    }
    return Source(arrays, asked.info)


def pairs(
    given: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]],
    asked: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]],
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Places in `given` and in `asked`, (names, styles) each, of one name and two styles; in the order of `asked`."""
    same = asked[0][:, None] == given[0][None]
    other = asked[1][:, None] != given[1][None]
    second, first = np.nonzero(same & other)
    return first, second
