"""One method, network, data set, codec, metric, feature net or verb = one file, found by name. There is no registry."""

import importlib
from importlib.resources import files
from types import ModuleType

from guided_distill.errors import one_of


def names(kind: str) -> list[str]:
    """The files of a folder of the package: names("models") -> ["mixture", "mlp", "unet"]."""
    found = files(f"guided_distill.{kind}").iterdir()
    return sorted(f.name[:-3] for f in found if f.name.endswith(".py") and f.name[0] != "_")


def resolve(kind: str, name: str) -> ModuleType:
    """The module guided_distill.<kind>.<name>. Raises `UserError` for an unknown name, with the valid ones."""
    one_of(f"name in guided_distill/{kind}:", name, names(kind))
    return importlib.import_module(f"guided_distill.{kind}.{name}")
