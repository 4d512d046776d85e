"""
The modules that a checkpoint carries: the package's own and those of parts that were added from outside of it.

They are written into one folder, their imports rewritten to siblings. One more file, `violet_code.py`, imports the
classes: everything is loaded through it, because transformers copies the files of each entry into a folder of their
own, and the classes of two copies are not the same. Parts of a `Registry` come first there, so that they are known
before a configuration names them.
"""

import ast
import functools
import importlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from .catalogue import ENTRY, PUBLIC
from .registry import PACKAGE, ROOT, Registry

CARRIED = ("core", "configuration", "modeling_violet", "processing", "evaluation", "pipelines")
"""The package's folders whose modules a checkpoint may carry."""
STAYING = frozenset({"flat_modules", "galleries", "reading_ahead"})
"""Modules that stay behind: a function that imports one says that it needs the package."""


def flat_modules(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """
    The files that these classes need, and the parts that a config.json names, by name: flattened, and the entry.

    Raises:
        ValueError: for code that cannot be carried, with its file and statement.
    """
    modules = Modules()
    classes = {name: modules.take(_path(PUBLIC[name]).with_suffix(".py")) for name in names}
    parts: dict[str, Path] = {}
    known: set[tuple[int, str]] = set()
    while further := [
        (registry, name)
        for registry in modules.registries()
        for name in registry.used(config)
        if (id(registry), name) not in known
    ]:
        for registry, name in further:
            known.add((id(registry), name))
            source, file = registry.source(name), registry.file(name)
            modules.take(file, _home(source.module, file))
            attribute = source.attribute or f"__name__ as {file.stem}_module"
            if classes.get(attribute, parts.get(attribute, file)) != file:
                raise ValueError(f"{classes.get(attribute) or parts[attribute]} and {file} both define {attribute}.")
            if attribute not in classes:
                parts[attribute] = file
    imported = [*sorted(parts.items()), *classes.items()]
    entry = "\n".join(f"from .{file.stem} import {name}" for name, file in imported)
    modules.sources[f"{ENTRY}.py"] = (
        f'"""The code of violet-video {__version__} that this checkpoint needs: its classes."""\n\n'
        f"{entry}\n\n__all__ = {list(classes)}\n"
    )
    return dict(sorted(modules.sources.items()))


class Modules:
    """
    Modules that a checkpoint carries, with all that they import.

    Attributes:
        sources: flattened, by the file's name.
    """

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self._files: dict[str, Path] = {f"{ENTRY}.py": ROOT / f"{ENTRY}.py"}

    def take(self, file: Path, home: Path | None = None) -> Path:
        """
        Adds a file and what it imports, and gives it back.

        Args:
            home: of a file that is not the package's, see `flatten`.

        Raises:
            ValueError: for a name that two files have, or an import that cannot be flattened.
        """
        needed = {file}
        while needed:
            one = needed.pop()
            if one.stem == "__init__":
                raise ValueError(f"{one} cannot be carried: write what it defines into a file with a name.")
            if self._files.setdefault(one.name, one) != one:
                raise ValueError(f"{self._files[one.name]} and {one} cannot lie in one folder: rename one of them.")
            if one.name not in self.sources:
                source = one.read_text(encoding="utf-8")
                try:
                    flat = _flatten_ours(source, one.parent) if _is_ours(one) else flatten(source, one.parent, home)
                except ValueError as error:
                    raise ValueError(f"{one}: {error}") from error
                self.sources[one.name] = flat[0]
                needed |= flat[1]
        return file

    def registries(self) -> Iterator[Registry[Any]]:
        """The tables that these modules define."""
        files = set(self._files.values())
        for file in filter(_is_ours, files):
            importlib.import_module(".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)))
        for module in list(sys.modules.values()):
            content = getattr(module, "__dict__", {})
            if isinstance(content.get("__file__"), str) and Path(content["__file__"]) in files:
                yield from (value for value in list(content.values()) if isinstance(value, Registry))


def _path(module: str) -> Path:
    """Where one of our modules lies, without a suffix."""
    return ROOT.joinpath(*module.split(".")[1:])


def _home(module: str, file: Path) -> Path | None:
    """Where the names of a user's modules begin: shop, if shop/parts/mine.py is imported as parts.mine."""
    if _is_ours(file):
        return None
    steps = module.split(".")
    return file.parents[len(steps) - 1] if file.with_suffix("").parts[-len(steps) :] == tuple(steps) else file.parent


def _is_ours(file: Path) -> bool:
    """Whether a file is one of the package's that a checkpoint may carry."""
    return (
        file.is_relative_to(ROOT)
        and file.relative_to(ROOT).parts[0] in (*CARRIED, "_version.py")
        and file.stem not in STAYING
    )


def flatten(source: str, folder: Path, home: Path | None = None) -> tuple[str, set[Path]]:
    """
    The source of a module in this folder, with imports that are right if all modules lie in one folder; and the files
    that it imports.

    Args:
        home: of a module that is not the package's, the folder from which the names of its own modules begin. What it
            imports from there, and from the package by its name, is carried too.

    Raises:
        ValueError: for an import that cannot be flattened, with the statement.
    """
    lines = list(io.StringIO(source))
    needed: set[Path] = set()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(found, key=lambda node: -node.lineno):
        if isinstance(node, ast.Import):
            _check_foreign(node, folder, home)
            continue
        target = _target(node, folder, home)
        if target is None:
            continue
        by_file: dict[Path, list[str]] = {}
        for name in node.names:
            by_file.setdefault(_file_of(target, node, name.name), []).append(ast.unparse(name))
        indent = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        if indent.strip():
            raise ValueError(f"`{ast.unparse(node)}` must stand on a line of its own.")
        statements = []
        for file, imported in by_file.items():
            if file.stem in STAYING and file.is_relative_to(ROOT) and node.col_offset:
                statements.append('raise ImportError("This needs the whole package: pip install violet-video")')
                break
            _check_carried(file, node, home)
            needed.add(file)
            statements.append(f"from .{file.stem} import {', '.join(imported)}")
        end = node.end_lineno or node.lineno
        rest = lines[end - 1].encode()[node.end_col_offset :].decode()  # a comment, the end of the line
        lines[node.lineno - 1 : end] = [indent + f"\n{indent}".join(statements) + rest]
    return "".join(lines), needed


@functools.lru_cache(maxsize=512)
def _flatten_ours(source: str, folder: Path) -> tuple[str, set[Path]]:
    """`flatten` of the package's own module: each checkpoint of a process needs most of them."""
    return flatten(source, folder)


def _target(node: ast.ImportFrom, folder: Path, home: Path | None) -> Path | None:
    """The module, without its suffix, or folder that is imported from; None for what others must install."""
    steps = node.module.split(".") if node.module else []
    if node.level:
        for _ in range(node.level - 1):
            folder = folder.parent
        return folder.joinpath(*steps)
    return None if home is None else _named(steps, folder, home)


def _named(steps: list[str], folder: Path, home: Path) -> Path | None:
    """The same for a full name in a user's module: one of ours, or one of theirs."""
    if steps[0] == PACKAGE:
        return ROOT.joinpath(*steps[1:])
    target = home.joinpath(*steps)
    if folder != home:
        return target if steps[0] == folder.relative_to(home).parts[0] else None
    if home.name in ("site-packages", "dist-packages"):
        return None
    return target if target.with_suffix(".py").is_file() or (target / "__init__.py").is_file() else None


def _check_foreign(node: ast.Import, folder: Path, home: Path | None) -> None:
    """Refuses `import x` of what is carried: its names would have to be rewritten all over the module."""
    for name in node.names:
        if home is not None and _named(name.name.split("."), folder, home) is not None:
            raise ValueError(f"`{ast.unparse(node)}` cannot be carried: write `from {name.name} import …`.")


def _file_of(target: Path, node: ast.ImportFrom, name: str) -> Path:
    """The file that defines what is imported here, through the `__init__.py` of folders."""
    if target == ROOT and name in PUBLIC:
        target = _path(PUBLIC[name])
    if not target.is_dir():
        return target.with_suffix(".py")
    init = target / "__init__.py"
    for inner in ast.parse(init.read_text(encoding="utf-8")).body if init.is_file() else ():
        if isinstance(inner, ast.ImportFrom) and inner.level and name in {alias.name for alias in inner.names}:
            further = _target(inner, target, None)
            if further is not None:
                return _file_of(further, inner, name)
    raise ValueError(f"`{ast.unparse(node)}`: {init} does not import {name} from a module.")


def _check_carried(file: Path, node: ast.ImportFrom, home: Path | None) -> None:
    by_our_name = not node.level and (node.module or "").partition(".")[0] == PACKAGE
    theirs = home is not None and file.is_relative_to(home) and not by_our_name
    if not file.is_file() or not (_is_ours(file) or theirs):
        raise ValueError(f"`{ast.unparse(node)}` leads to {file}, which no checkpoint carries.")
