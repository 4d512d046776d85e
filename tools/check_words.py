"""
Refuses phrases that make the project's texts hard to read: in docstrings, comments, strings and Markdown.

`python tools/check_words.py [FILES]`, by default every file that git knows. Prints file, line and the better words,
and exits with 1 if there are any.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

COUNTED = (
    r"(?:answer|box|caption|channel|class|clip|epoch|file|frame|fusion layer|image|item|layer|line|list|module|number|"
    r"option|orientation|panel|part|patch|picture|pictures|place|process|quantity|question|row|rows|sample|sentence|stage|step|"
    r"sub-command|task|text|token|video|word|words)"
)
GIVEN = r"(?:absent|asked for|given|installed|known|missing|needed|not (?:given|known|set|there)|ours|set|there)"
PHRASES = {
    r"the like(?! of)\b": "name what is meant, or: and so on",
    r"(?<!left\s)(?<!leave\s)(?<!let\s)(?<![`\"_-])\balone\b(?!`)": "only, by itself",
    r"\banew\b": "again, new",
    r"\bso many\b(?! that)": "this many, that many, or the number",
    r"\bby and by\b": "one by one",
    r"\bas far as\b(?! \w+(?: \w+)? knows?\b)": "if, or: of those that",
    rf"\b(?:a|an|one) {COUNTED} (?:a|an) {COUNTED}\b": "one … per …",
    r"\w+(?:Error|Failure): (?:also )?where\b": "if",
    r"\b(?:None|fewer|infinite) where\b": "if",
    rf"\bwhere (?:it|they|none|one|that|`\w+`) (?:is|are|was|were) {GIVEN}(?!\w)": "if",
    r"\bwhere (?:there (?:is|are|was|were)|asked for|given|needed)\b": "if",
    r"\bno other (?:was|were)\b": "say what is the case",
    r"\bhears? (?:nothing|no)\b": "say what happens",
}
SKIPPED = ("check_words.py", "test_words.py")
"""They show the phrases."""
GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*)"
RULES = [(re.compile(phrase.replace(" ", GAP), re.IGNORECASE), better) for phrase, better in PHRASES.items()]


def prose(file: Path) -> str:
    """A file's text with the same line numbers; of Python only comments and strings, the rest is blanked."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return re.sub(r"```.*?```", lambda code: "\0\n" * code[0].count("\n"), text, flags=re.DOTALL)
    source = text.splitlines()
    lines = [[" " if letter.isspace() else "\0" for letter in line] for line in source]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            continue
        for row in range(token.start[0], token.end[0] + 1):
            line = source[row - 1]
            begin = token.start[1] if row == token.start[0] else 0
            end = token.end[1] if row == token.end[0] else len(line)
            lines[row - 1][begin:end] = line[begin:end].lstrip("#").rjust(end - begin)
    return "\n".join("".join(line) for line in lines)


def hits(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, the phrase found, what to write instead) of each phrase in a file."""
    text = prose(file)
    for rule, better in RULES:
        for found in rule.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), better


def main(names: list[str]) -> int:
    """The number of files with such phrases, at most 1."""
    if not names:
        listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.splitlines() if Path(name).is_file()]
    found = [
        f"{name}:{line}: {phrase!r}: better {better}"
        for name in names
        if Path(name).name not in SKIPPED
        for line, phrase, better in sorted(hits(Path(name)))
    ]
    sys.stderr.write("".join(f"{one}\n" for one in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
