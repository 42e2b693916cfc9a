"""The command line: `python -m guided_distill VERB`, a verb a file with `add_arguments(parser)` and `main(args)`."""

import argparse

from guided_distill.errors import UserError


def natural(text: str) -> int:
    """A seed, for argparse: an integer from 0, of 32 bits."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to {2**32 - 1}")
    return number


def numbers(text: str, kind: type = float) -> list:
    """ "0,1,4" -> [0.0, 1.0, 4.0]. Raises `UserError` for what is no number."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers such as 1,2,4") from None
