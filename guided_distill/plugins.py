"""One method, network, data set, codec, metric, feature net or verb = one file, found by name. There is no registry."""

import ast
import importlib
from importlib.resources import files
from types import ModuleType
from typing import Any

from guided_distill.errors import UserError, one_of


def names(kind: str) -> list[str]:
    """The files of a folder of the package: names("models") -> ["mixture", "mlp", "unet"]."""
    found = files(f"guided_distill.{kind}").iterdir()
    return sorted(f.name[:-3] for f in found if f.name.endswith(".py") and f.name[0] != "_")


def resolve(kind: str, name: str) -> ModuleType:
    """The module guided_distill.<kind>.<name>. Raises `UserError` for an unknown name, with the valid ones."""
    one_of(f"name in guided_distill/{kind}:", name, names(kind))
    return importlib.import_module(f"guided_distill.{kind}.{name}")


def spec(spelled: str, *names: str) -> dict[str, Any]:
    """ "data:emoji:heldout:size=32" with the names "data", "name", "split" -> {"name": "emoji", "split": "heldout",
    "size": 32}: the first word is the first name itself, other words have the next names, as far as they go (the
    second is a must), and the rest are arguments. Raises `UserError`."""
    kind, *parts = spelled.split(":")
    words, arguments = [part for part in parts if "=" not in part], {}
    if kind != names[0] or not 1 <= len(words) < len(names) or not all(words):
        shown = ":".join([names[0], names[1].upper()]), ":".join([names[0], *(name.upper() for name in names[1:])])
        raise UserError(f"{spelled!r} is not {' or '.join(dict.fromkeys(shown))}, with :KEY=VALUE for its arguments")
    for part in (part for part in parts if "=" in part):
        key, _, value = part.partition("=")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return dict(zip(names[1:], words, strict=False)) | arguments
