"""The table of parts: names that are imported when asked for."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from violet.core.registry import Registry


@pytest.fixture
def codecs() -> Registry:
    return Registry("codec", "encodings", {"utf": "utf_8:StreamReader", "latin": "latin_1:Codec", "none": "absent:X"})


@pytest.fixture
def own_module(codecs, tmp_path, monkeypatch):
    """A function: runs a source, which knows the table `codecs`, as a module of a file."""

    def run(name: str, source: str) -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(source)
        module = ModuleType(name)
        module.__file__ = str(file)
        module.codecs = codecs
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, file, "exec"), vars(module))
        return file

    return run


def test_an_entry_is_imported_when_it_is_asked_for(codecs):
    import encodings.latin_1

    assert codecs["latin"] is codecs.find("latin") is encodings.latin_1.Codec
    assert list(codecs) == list(codecs.keys()) == ["utf", "latin", "none"] and len(codecs) == 3 and "utf" in codecs


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


def test_the_file_of_a_part_is_the_one_that_makes_it_known(codecs, own_module):
    mine = own_module("mine", "class Mine: pass\ncodecs.add('mine', Mine)\ncodecs.add('made', Mine())")
    assert codecs.file("latin").name == "latin_1.py"
    assert codecs.file("mine") == codecs.file("made") == mine
    assert codecs.source("mine") == ("mine", "Mine", None) and codecs.source("made") == ("mine", None, None)


@pytest.mark.parametrize(
    "source, says",
    [
        ("def start():\n    codecs.add('mine', dict)\nstart()", "was added by start of .*mine.py"),
        ("__name__ = '__main__'\ncodecs.add('mine', dict)", "was added in .*, which no checkpoint can carry"),
    ],
)
def test_a_part_that_no_import_makes_known_has_no_file(codecs, own_module, source, says):
    own_module("mine", source)
    with pytest.raises(ValueError, match=f"The codec 'mine' {says}"):
        codecs.file("mine")


def test_a_table_finds_its_names_in_a_configuration():
    table = Registry("codec", "encodings", config_keys=("codec", "parts.codec", "targets", "list"))
    assert table.used({"codec": "a", "parts": {"codec": "b"}, "targets": {"c": {}, "a": {}}, "list": ["d"]}) == [
        *("a", "b", "c", "d")
    ]
    assert table.used({"parts": None, "targets": {}, "list": None}) == table.used({"parts": "x"}) == []


def test_a_part_that_a_checkpoint_does_not_carry_is_said_to_be_missing(codecs):
    with pytest.raises(ImportError, match="The codec 'none' is not among the code that came with this checkpoint"):
        codecs["none"]
