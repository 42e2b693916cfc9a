"""A config of which every key has to be read: one that nobody reads is a mistake, and is found when the stage is
built."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from guided_distill.errors import UserError, one_of


class Keys:
    """A config as a mapping that remembers what was read of it."""

    def __init__(self, values: Mapping[str, Any], path: str = "config"):
        self._values, self._path, self._read = dict(values), path, set()
        self._parts: dict[str, Keys] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> Any:
        """A value; raises `UserError` when the config has no such key."""
        if name not in self._values:
            raise UserError(f"{self._path} has no key {name!r}; it has {', '.join(sorted(self._values))}")
        self._read.add(name)
        return self._values[name]

    def part(self, name: str) -> "Keys":
        """A sub-config, whose keys have to be read in their turn."""
        if name not in self._parts:
            self._parts[name] = Keys(self.take(name), f"{self._path}.{name}")
        return self._parts[name]

    def others(self, *but: str) -> dict[str, Any]:
        """All values but those of the named keys, read or not."""
        return {name: self.take(name) for name in self._values if name not in but}

    def rest(self) -> dict[str, Any]:
        """All that has not been read yet."""
        return {name: self.take(name) for name in self._values if name not in self._read}

    def call(self, function: Callable, but: tuple[str, ...] = (), **others) -> Any:
        """function(**others, **all values but those named); unknown, missing and bad arguments raise `UserError`."""
        arguments = self.others(*but)
        valid = [name for name in inspect.signature(function).parameters if name not in others]
        for name in arguments:
            one_of(f"key in {self._path}:", name, valid)
        try:
            return function(**others, **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._path}: {error}") from error

    def unread(self) -> list[str]:
        """Paths of the keys that nobody has read."""
        own = [f"{self._path}.{name}" for name in self._values if name not in self._read]
        return own + [path for part in self._parts.values() for path in part.unread()]
