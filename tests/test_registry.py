"""The table of parts: names that are imported when asked for."""

import subprocess
import sys

import pytest

from violet.core.registry import Registry


@pytest.fixture
def codecs() -> Registry:
    return Registry("codec", "encodings", {"utf": "utf_8:StreamReader", "latin": "latin_1:Codec", "none": "absent:X"})


def test_an_entry_is_imported_when_it_is_asked_for(codecs):
    import encodings.latin_1

    assert codecs["latin"] is codecs.find("latin") is encodings.latin_1.Codec
    assert list(codecs) == ["utf", "latin", "none"] and len(codecs) == 3 and "utf" in codecs


def test_a_table_costs_no_import():
    program = """
import sys
sys.argv = ["violet"]  # the command, which registers only when it needs to
from violet.core.registry import Registry
table = Registry("x", "email", {"mime": "generator:Generator"})
assert "email.generator" not in sys.modules
table["mime"]
assert "email.generator" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_refused_with_the_known_ones(codecs):
    for ask in (codecs.find, codecs.file):
        with pytest.raises(ValueError, match="No codec is named 'ascii'; there are utf, latin, none."):
            ask("ascii")
    assert codecs.get("ascii") is None


def test_a_part_of_ones_own_is_added_once(codecs):
    class Mine:
        pass

    assert codecs.add("mine", Mine) is codecs["mine"] is Mine
    codecs.add("mine", Mine)  # a module that is imported again
    with pytest.raises(ValueError, match="A codec is named 'mine' already."):
        codecs.add("mine", dict)
    with pytest.raises(ValueError, match="A codec is named 'utf' already."):
        codecs.add("utf", Mine)


def test_the_file_of_a_part_is_where_it_was_written(codecs):
    codecs.add("mine", type("Mine", (), {"__module__": __name__}))
    assert codecs.file("latin").name == "latin_1.py"
    assert str(codecs.file("mine")) == __file__


def test_a_part_that_a_checkpoint_does_not_carry_is_said_to_be_missing(codecs):
    with pytest.raises(ImportError, match="The codec 'none' is not among the code that came with this checkpoint"):
        codecs["none"]
