"""Pickles: the values come back as `pickle` gives them, and nothing is run."""

import os
import pickle
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from violet.data import TableError, UnsafePickleError, read_pickle


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vq_cc3m.pkl", "msrvtt_vq.pkl", "msrvtt.pkl"])
def test_real_pickles_are_read_as_pickle_reads_them(original, name):
    expected, found = pickle.loads((original / name).read_bytes()), read_pickle(original / name)
    assert list(found) == list(expected) and len(found) >= 10
    for key in expected:
        assert type(found[key]) is type(expected[key])
        np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(expected[key]), strict=True)


VALUES = {
    "tokens": [np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros((0, 7), np.float32)],
    "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big": np.arange(3, dtype=">i4"),
    "words": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "true": np.array([True, False]),
    "scalars": (np.float32(1.5), np.int64(3), np.bool_(True)),
    "dtype": np.dtype("f4"),
    "plain": [1, 2.5, "é", b"", b"\xff", None, True, 10**30, (), {}, {"a": [(1, 2)]}],
    (1, "key"): "tuple as a key",
}


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
        assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous
    else:
        assert found == expected


def spelled(pickled: bytes, core: str) -> bytes:
    """A small pickle with numpy's modules named as numpy 1 ("numpy.core.") or 2 ("numpy._core.") names them."""
    if pickled[2:3] == pickle.FRAME:
        pickled = pickled[:2] + pickled[11:]  # without the frame and its length, which are not obligatory
    for module in ("multiarray", "numeric"):
        new = (core + module).encode()
        for old in (b"numpy.core." + module.encode(), b"numpy._core." + module.encode()):
            pickled = pickled.replace(b"c" + old + b"\n", b"c" + new + b"\n")
            pickled = pickled.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    return pickled


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core.", "numpy._core."])
def test_arrays_and_plain_containers_come_back_whatever_the_protocol_and_numpy(tmp_path, protocol, core):
    pickled = spelled(pickle.dumps(VALUES, protocol), core)
    assert f"{core}multiarray".encode() in pickled
    (tmp_path / "values.pkl").write_bytes(pickled)
    same(read_pickle(tmp_path / "values.pkl"), VALUES)


def test_what_is_in_two_places_stays_one_object(tmp_path):
    tokens = [np.arange(3)]
    (tmp_path / "values.pkl").write_bytes(pickle.dumps({"a": tokens, "b": tokens}))
    found = read_pickle(tmp_path / "values.pkl")
    assert found["a"] is found["b"]


class Asks:
    """Pickles as a call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def loop():
    values = []
    values.append(values)
    return values


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda mark: Asks(os.system, (f"touch {mark}",)), r"asks for \w+\.system; only arrays and plain containers"),
        (lambda mark: Asks(eval, (f"open({str(mark)!r}, 'w')",)), r"asks for (builtins|__builtin__)\.eval"),
        (lambda mark: Asks(subprocess.run, (["touch", str(mark)],)), r"asks for (subprocess|commands)\.run"),
        (lambda mark: Asks(np.fromfile, (str(mark),)), r"asks for numpy\.\S*fromfile"),
        (lambda mark: Fraction(1, 2), r"asks for fractions\.Fraction"),
        (lambda mark: Path(mark), r"asks for pathlib"),
        (lambda mark: np.array([1, "a"], object), r"dtype 'O8'"),
        (lambda mark: np.zeros(2, [("a", "i4")]), r"dtype 'V4'"),
        (lambda mark: [np.ndarray], r"holds an object of type type"),
        (lambda mark: loop(), r"a container that is inside itself"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_by_name_and_not_run(tmp_path, make, message, protocol):
    pickled, mark = tmp_path / "values.pkl", tmp_path / "mark"
    pickled.write_bytes(pickle.dumps({"a": [1, make(mark)]}, protocol))
    with pytest.raises(UnsafePickleError, match=rf"values.pkl .*{message}"):
        read_pickle(pickled)
    assert not mark.exists()


def test_a_hand_written_pickle_cannot_hold_a_set_or_lie_about_a_dtype(tmp_path):
    file = tmp_path / "values.pkl"
    file.write_bytes(pickle.dumps({1, 2}, 4))
    with pytest.raises(UnsafePickleError, match="holds an object of type set"):
        read_pickle(file)
    honest = pickle.dumps(np.arange(3, dtype="i8"), 2)
    file.write_bytes(honest.replace(b"i8", b"O8"))
    with pytest.raises(UnsafePickleError, match="dtype 'O8'"):
        read_pickle(file)
    file.write_bytes(honest.replace(b"K\x03\x85", b"K\x63\x85"))  # a shape of 99 with the data of 3
    with pytest.raises(TableError, match="damaged"):
        read_pickle(file)


def test_a_damaged_or_absent_pickle_is_named(tmp_path):
    file = tmp_path / "values.pkl"
    with pytest.raises(TableError, match="values.pkl: there is no such file"):
        read_pickle(file)
    whole = pickle.dumps(VALUES)
    for content in (b"", b"no pickle", whole[: len(whole) // 2], b"\x80\x63."):
        file.write_bytes(content)
        with pytest.raises(TableError, match="values.pkl: damaged, or no pickle"):
            read_pickle(file)
