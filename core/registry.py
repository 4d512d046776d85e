"""One table for each kind of part (encoders, objectives, …): names, and classes that are imported when asked for."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

Part = TypeVar("Part")


class Registry(Mapping[str, Part], Generic[Part]):
    """
    A mapping from names to parts. An entry is the text "module:Name", imported when it is first asked for, so that the
    table costs no import and the modules may import the table; or the part itself, given to `add`.

    Args:
        role: what the parts are, for messages: "vision encoder".
        package: `__package__` of the module that holds the table; "module" is looked up beside it. Where a checkpoint
            carries the code, all modules lie in one folder, and the same entry finds the same module there.
        entries: name -> "module:Name".
    """

    def __init__(self, role: str, package: str, entries: Mapping[str, str] | None = None):
        self.role = role
        self._package = package
        self._entries: dict[str, str | Part] = dict(entries or {})

    def __getitem__(self, name: str) -> Part:
        if name not in self._entries:
            raise KeyError(f"No {self.role} is named {name!r}; there are {', '.join(self._entries) or 'none'}.")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            path = f"{self._package}.{module}"
            try:
                entry = self._entries[name] = getattr(importlib.import_module(path), attribute)
            except ModuleNotFoundError as error:
                if error.name != path:
                    raise
                raise ImportError(
                    f"The {self.role} {name!r} is not among the code that came with this checkpoint: pip install "
                    "violet-video"
                ) from error
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> Part:
        """
        The part of that name.

        Raises:
            ValueError: for an unknown name, with the known ones.
        """
        try:
            return self[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def add(self, name: str, part: Part) -> Part:
        """
        Makes a part of your own known under that name, and gives it back. A checkpoint that needs it carries its file.

        Raises:
            ValueError: for a name that another part has.
        """
        known = self._entries.get(name)
        if known is not None and _origin(known) != _origin(part):
            raise ValueError(f"A {self.role} is named {name!r} already.")
        self._entries[name] = part
        return part

    def file(self, name: str) -> Path:
        """The source file of that part: what a checkpoint must carry to have it."""
        part = self.find(name)
        module = getattr(part, "__module__", None) or type(part).__module__
        return Path(str(sys.modules[module].__file__))


def _origin(part: object) -> object:
    """What tells two parts apart; the same module may be imported again, in a notebook or from a checkpoint."""
    return getattr(part, "__qualname__", part)
