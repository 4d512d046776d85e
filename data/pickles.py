"""Pickles of the original code, read without running anything in them."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .tables import TableError


class UnsafePickleError(ValueError):
    """A pickle that asks for more than arrays and plain containers; nothing of it was run."""


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle holds, if that is made of numpy arrays of numbers or text, numpy scalars and dtypes, str, bytes,
    int, float, bool, None, list, tuple and dict only; unlike `pickle.load` it can run nothing.

    Raises:
        UnsafePickleError: if the pickle asks for anything else.
        TableError: if the file is absent, damaged or no pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        with open(path, "rb") as file:
            return _plain(_Unpickler(file).load(), {})
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path} {error}; only arrays and plain containers are read.") from None
    except RecursionError as error:
        raise TableError(f"{path}: its containers are nested too deeply.") from error
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise TableError(f"{path}: damaged, or no pickle ({error}).") from error


class _Dtype:
    """Stands in for `numpy.dtype` while a pickle is read: numpy's own takes any state for true, even a wrong size."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]|f16|c8|c16|[SU]\d+|\?", code):
            raise UnsafePickleError(f"holds an array of dtype {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(">" if state[1] == ">" else "<" if state[1] == "<" else "=")


class _Array:
    """Stands in for an array while a pickle is read: an array is first made empty and then told what it holds."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, in_columns, data = state
        self.value = _array(data, dtype, shape, "F" if in_columns else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """numpy checks that the data suffice for the shape."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise UnsafePickleError("holds an array of Python objects")
    return np.ndarray(shape, dtype.value, buffer=data, order=order).copy(order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """How the protocols before 3 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"asks for the encoding {encoding!r}")
    return text.encode("latin-1")


class _Unpickler(pickle._Unpickler):  # the one in Python: the other one's memo fills the memory by a number of 5 bytes
    """Knows the few names by which numpy 1 and 2 write arrays; each stands for something of this file."""

    def find_class(self, module: str, name: str) -> Any:
        # A new function each time: a pickle can set attributes of what it gets.
        spelling = re.sub(r"^numpy\.core\.", "numpy._core.", module)  # numpy 1, numpy 2
        known: dict[tuple[str, str], Callable] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
            ("numpy._core.multiarray", "scalar"): lambda dtype, data: _array(data, dtype, (), "C")[()],
            ("numpy._core.numeric", "_frombuffer"): lambda *contents: _Array(_array(*contents)),
            ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding),
            ("__builtin__", "bytes"): lambda: b"",
            ("builtins", "bytes"): lambda: b"",
        }
        try:
            return known[spelling, name]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}") from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """`value` with its stand-ins replaced; `done` maps the id of a container to (the container, what became of it)."""
    if value is None or isinstance(value, str | bytes | int | float | np.generic):
        return value
    if isinstance(value, _Array | _Dtype):
        if value.value is None:
            raise UnsafePickleError("holds an array without content")
        return value.value
    if type(value) not in (list, tuple, dict):
        raise UnsafePickleError(f"holds an object of type {type(value).__name__}")
    if id(value) not in done:
        done[id(value)] = value, None
        if isinstance(value, dict):
            result: Any = {_plain(key, done): _plain(content, done) for key, content in value.items()}
        else:
            result = type(value)(_plain(item, done) for item in value)
        done[id(value)] = value, result
    elif done[id(value)][1] is None:
        raise UnsafePickleError("holds a container that is inside itself")
    return done[id(value)][1]
