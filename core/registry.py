"""One table for each kind of part (encoders, objectives, …): names, and classes that are imported when asked for."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Part = TypeVar("Part")

HERE = Path(__file__).parent
TRAVELLING = HERE.name != "core" or not (HERE.parent / "configuration").is_dir()
"""Whether this module came with a checkpoint, flattened, and is not in the package."""
ROOT = HERE if TRAVELLING else HERE.parent
PACKAGE = __name__.removesuffix(".registry") if TRAVELLING else __name__.removesuffix(".core.registry")
"""What our modules' names begin with."""


class Source(NamedTuple):
    """
    The module that makes a part known.

    Attributes:
        module: its full name.
        attribute: the part's name there; None if an `add` gave a part that has no name.
        function: the function there that called `add`; None if importing the module is enough.
    """

    module: str
    attribute: str | None = None
    function: str | None = None


class Registry(Mapping[str, Part], Generic[Part]):
    """
    A mapping from names to parts. An entry is the text "module:Name", imported when it is first asked for, so that the
    table costs no import and the modules may import the table; or the part itself, given to `add`.

    Args:
        role: what the parts are, for messages: "vision encoder".
        package: `__package__` of the module that holds the table; "module" is looked up beside it. If a checkpoint
            carries the code, all modules lie in one folder, and the same entry finds the same module there: of
            "folder.module" the last name.
        entries: name -> "module:Name".
        config_keys: where a checkpoint's config.json names entries, such as "vision_config.model_type" (one name) or
            "mvm_targets" (the names are the keys there, or a list): the checkpoint carries the modules of these.
        default: the entry that every name stands for which the table has not; without it such a name is refused.
        always: entries that a checkpoint carries whatever its config.json names.
    """

    def __init__(
        self,
        role: str,
        package: str,
        entries: Mapping[str, str] | None = None,
        config_keys: Sequence[str] = (),
        default: str | None = None,
        always: Sequence[str] = (),
    ) -> None:
        self.role = role
        self.default = default
        self.always = tuple(always)
        self.config_keys = tuple(config_keys)
        self._entries: dict[str, str | Part] = dict(entries or {})
        self._sources = {name: _source(package, entry) for name, entry in (entries or {}).items()}

    def __getitem__(self, name: str) -> Part:
        if name not in self._entries:
            raise KeyError(f"No {self.role} is named {name!r}; there are {', '.join(self._entries) or 'none'}.")
        entry = self._entries[name]
        if isinstance(entry, str):
            source = self._sources[name]
            try:
                entry = getattr(importlib.import_module(source.module), str(source.attribute))
            except ModuleNotFoundError as error:
                if error.name != source.module:
                    raise
                raise ImportError(
                    f"The {self.role} {name!r} is not among the code that came with this checkpoint: pip install "
                    "violet-video"
                ) from error
            self._entries[name] = entry
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> Part:
        """
        The part of that name, or the default one.

        Raises:
            ValueError: for an unknown name, with the known ones.
        """
        name = self._known(name)
        self._check(name)
        return self[name]

    def add(self, name: str, part: Part) -> Part:
        """
        Makes a part of your own known under that name, and gives it back. A checkpoint that needs it carries the file
        that calls this, so call it at the end of the part's file and not in a function.

        Raises:
            ValueError: for a name that another part has.
        """
        known, source = self._entries.get(name), _caller()
        if known is not None and _origin(known, self._sources[name]) != _origin(part, source):
            raise ValueError(f"A {self.role} is named {name!r} already.")
        self._entries[name] = part
        self._sources[name] = source
        return part

    def is_here(self, name: str) -> bool:
        """Whether the part of that name can be imported: a checkpoint's code holds those that it needs, not all."""
        return not isinstance(self._entries[name], str) or find_spec(self._sources[name].module) is not None

    def used(self, config: Mapping[str, Any]) -> list[str]:
        """The entries that a checkpoint with this config.json needs, see `config_keys` and `always`."""
        found: dict[str, None] = dict.fromkeys(self.always)
        for key in self.config_keys:
            value: Any = config
            for step in key.split("."):
                value = value.get(step) if isinstance(value, Mapping) else None
            found |= dict.fromkeys(map(self._known, [value] if isinstance(value, str) else value or ()))
        return list(found)

    def source(self, name: str) -> Source:
        """
        The module that a checkpoint must import to have that part.

        Raises:
            ValueError: for an unknown name, with the known ones.
        """
        self._check(name)
        source = self._sources[name]
        if source.attribute is None and source.function is None:
            here = vars(sys.modules[source.module])
            attribute = next((key for key, value in here.items() if value is self._entries[name]), None)
            return source._replace(attribute=attribute)
        return source

    def file(self, name: str) -> Path:
        """
        The source file of that part: what a checkpoint must carry to have it.

        Raises:
            ValueError: for an unknown name; for a part that was added in a notebook, in the script that runs, or by a
                function: nothing that a checkpoint carries would add it again.
        """
        self.find(name)
        source = self.source(name)
        file = vars(sys.modules[source.module]).get("__file__")
        where = file or "a notebook or at a prompt"
        if source.module == "__main__" or file is None:
            raise ValueError(
                f"The {self.role} {name!r} was added in {where}, which no checkpoint can carry: write it into a file "
                "of its own that ends with `add`, and import that."
            )
        if source.function:
            raise ValueError(
                f"The {self.role} {name!r} was added by {source.function} of {where}, and importing that file does "
                "not add it: call `add` outside of functions."
            )
        return Path(file)

    def _known(self, name: str) -> str:
        return name if name in self._entries or self.default is None else self.default

    def _check(self, name: str) -> None:
        if name not in self._entries:
            raise ValueError(f"No {self.role} is named {name!r}; there are {', '.join(self._entries) or 'none'}.")


def _source(package: str, entry: str) -> Source:
    module, _, attribute = entry.partition(":")
    return Source(f"{package}.{module.rpartition('.')[2] if TRAVELLING else module}", attribute)


def _caller() -> Source:
    """The module that called `add`; not a function of ours in between, such as `catalogue.add_pipeline`."""
    frame = sys._getframe(2)
    while (
        frame.f_back and frame.f_code.co_name != "<module>" and frame.f_globals["__name__"].startswith(f"{PACKAGE}.")
    ):
        frame = frame.f_back
    function = frame.f_code.co_name
    return Source(frame.f_globals["__name__"], function=None if function == "<module>" else function)


def _origin(part: object, source: Source) -> object:
    """
    What tells two parts apart: the name of a class or function; of another object the module that added it, if it did
    so outside of functions. The same module may be imported again, in a notebook or from a checkpoint.
    """
    return getattr(part, "__qualname__", part if source.function else source)
