"""The one exception that is meant for a person."""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that its user can mend. The message is one clear line: the value, what was expected, the way out.

    `main.py` and the command line print it without a traceback and exit with status 2.
    """


def one_of(what: str, value: object, valid: Iterable) -> None:
    """Raises `UserError` unless `value` is in `valid`, and names the valid ones."""
    valid = list(valid)
    if value not in valid:
        raise UserError(f"unknown {what} {value!r}; valid: {', '.join(map(str, valid))}")
