"""The phrases that tools/check_words.py finds, and what it does not take for one."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "check_words.py"
CODE = """'''A row a
clip.'''
x = 1  # made anew
y = f"so many {x}"

'''
Raises:
    ValueError: where it is not.
'''
"""


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_words", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_phrases_are_found_in_docstrings_comments_strings_and_markdown(check, tmp_path, capsys):
    code, text = tmp_path / "code.py", tmp_path / "text.md"
    code.write_text(CODE)
    text.write_text("It is\nso, and the\nlike.\n")
    assert check.main([str(code), str(text)]) == 1
    found = [line.split(": better ")[0] for line in capsys.readouterr().err.splitlines()]
    assert [line.removeprefix(f"{tmp_path}/") for line in found] == [
        "code.py:1: 'A row a clip'",
        "code.py:3: 'anew'",
        "code.py:4: 'so many'",
        "code.py:8: 'ValueError: where'",
        "text.md:2: 'the like'",
    ]


def test_names_in_code_and_ordinary_sentences_are_no_hits(check, tmp_path):
    code, text = tmp_path / "code.py", tmp_path / "text.md"
    code.write_text('alone = anew = 1  # "left alone"; so many that; as far as we know\nx = torch.where(a, b)\n')
    text.write_text("The folder where it is. A row is a clip.\n\n```python\nanew = 1\n```\n")
    assert check.main([str(code), str(text)]) == 0
