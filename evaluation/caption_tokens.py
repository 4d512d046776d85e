"""
Captions as the words that caption metrics count: split by the Penn Treebank's rules, in lower case, without
punctuation. With Java `pycocoevalcap`'s program does it, without by rules that give the same words on captions.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""
What is left out. `pycocoevalcap` lists brackets too, but as -LRB- and after all was put in lower case: they stay, as
-lrb-, in every number that was computed with it, and so here.
"""

LETTER = r"[^\W\d_²³¹¼½¾⅐-⅟⁰-₉①-⓿]|[\u0300-\u036f\u0900-\u0963\u0970-\u0d4f]"
X = rf"(?:{LETTER}|\d)"
"""A letter or a digit."""
APOSTROPHE = r"['’]"
NUMBER = r"(?:\d+(?:[.:,]\d+)*|(?:[.:,]\d+)+)"
ELIDED = rf"[dol]{APOSTROPHE}{X}+"  # d'angelo, o'clock, l'heure
PART = rf"(?:{ELIDED}|{X}+|{NUMBER})"
WITH_HYPHENS = r"[a-z0-9]+(?:-[a-z]+){0,2}"
ABBREVIATIONS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri mr mrs ms dr drs prof profs "
    "sr jr st ste mt ft vs v etc inc corp co cos ltd bros ave blvd rd gen lt col cpl sgt capt cmdr gov govs sen sens "
    "rep reps rev hon esq pres est al alex wm jos cie cf dept sq p tel ext messrs mme mlle pvt maj adm pfc supt "
    "assn univ ind mfg intl natl bldg ct calif ariz ala conn colo fla ga kan ky md mich minn mo mont neb nev okla "
    "penn tenn va vt wis wyo asst assoc elec ph.d"
)
BEFORE_NUMBERS = "no nos pp fig figs art op"

RULES = [
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"</?[a-z][^<>]*>",
        r"https?://[^\s<>\"|(){}]+[^\s<>\"|.!?(){},-]",
        r"(?:[\w-]+\.)+(?:com|net|org|edu)(?:/[^\s<>\"|(){}]+[^\s<>\"|.!?(){},-])?",
        r"[\w.%+-]+@(?:[^\s<>\"|().]|\.(?=[^\s.]))+",
        r"@[a-z_]\w*",
        r"#[a-z]+",
        rf"(?:{LETTER}){X}*(?:[.!?](?:{LETTER}){X}*)*",  # words, and those that a dot without a space joins
        rf"{PART}(?:[-‐‑]{PART})*",
        rf"{X}+(?:,{X}+)+(?:-{X}+)+",
        rf"{X}+(?:_{X}+)+",
        rf"{WITH_HYPHENS}(?:/{WITH_HYPHENS}){{1,2}}",
        rf"[-+]?{NUMBER}",
        r"\d+[ -]\d/\d+",  # one and a half: one word
        rf"(?:{'|'.join(ABBREVIATIONS.replace('.', '[.]').split())})\.",
        rf"(?:{'|'.join(BEFORE_NUMBERS.split())})\.(?= ?\d)",
        r"[a-z](?:\.[a-z])*\.",  # initials
        rf"'(?:em|cause|till?|tis|twas)(?!{X})",
        rf"'n(?:'|(?!{X}))",
        rf"{APOSTROPHE}[2-9]0s(?!{X})",
        rf"y'(?={X})",
        rf"(?:ol'|c'mon)(?!{X})",
        rf"(?!y')(?:{LETTER})*[aeiouy]'[aeiou](?:{LETTER})*",  # ma'am
        r"c(?:\+\+|#)",
        r"[!?]+",
        r"\*+",
        r"_+",
        r"#+",
        r"[:;=]['-]?[()]",
        r":-?[dp](?!\w)",
        r"[-^]_[-^]",
    )
] + [re.compile(rule) for rule in (r"[A-Z]+(?:[&+][A-Z]+)+", r"[A-Z]+\$")]
"""If several match, the longest does."""

PLAIN = re.compile(r"[A-Za-z]+(?= |$)")
JOINED = re.compile(r"(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|('t)(is|was)|(more)('n)", re.IGNORECASE)
NOT = re.compile(rf"((?:{LETTER})+?)(n)[`'’](t)(?!{X})", re.IGNORECASE)
ENDING = re.compile(rf"['’](s|m|d|re|ve|ll)(?!{X})", re.IGNORECASE)
ENTITY = re.compile("&(amp|lt|gt|quot|apos);", re.IGNORECASE)
ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
NAMES = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **dict.fromkeys('"“”«»', "``"),
    **dict.fromkeys("‘‛‹’›", "`"),
    **dict.fromkeys("–—―", "--"),
    **{"…": "...", "£": "#", "€": "$", "¤": "$", "¢": "cents"},
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
}
WITHIN = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0"})
"""What stands within a word: of smileys, and of words with a space."""
DROPPED = re.compile("[\u00ad\ufeff\ufe00-\ufe0f]")
NO_WORDS = re.compile("[\u200b-\u200f\U00010000-\U0010ffff]")


def has_java() -> bool:
    """Whether there is a `java` to run PTB's tokenizer and METEOR with."""
    return shutil.which("java") is not None


def ptb_words(captions: Sequence[str]) -> list[list[str]]:
    """
    The words of each caption by `pycocoevalcap`'s program, Stanford's PTBTokenizer 3.4.1; it needs Java.

    Raises:
        RuntimeError: if the program fails; with what it said.
    """
    import pycocoevalcap

    folder = Path(pycocoevalcap.__path__[0]) / "tokenizer"
    lines = [" ".join(caption.split()) for caption in captions]
    ran = subprocess.run(
        ["java", "-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"]
        + ["-preserveLines", "-lowerCase", "-encoding", "utf-8"],
        cwd=folder,
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
    )
    found = ran.stdout.decode().split("\n")[:-1]
    if ran.returncode or len(found) != len(lines):
        raise RuntimeError(f"PTB's tokenizer gave {len(found)} lines for {len(lines)}: {ran.stderr.decode()[-2000:]}")
    return [_counted(line.split(" ")) for line in found]


def own_words(caption: str) -> list[str]:
    """The words of a caption by the rules of this file."""
    text = NO_WORDS.sub(" ", DROPPED.sub("", ENTITY.sub(lambda found: ENTITIES[found[1].lower()], caption)))
    text = " ".join(text.split())
    tokens: list[str] = []
    place = 0
    while place < len(text):
        if text[place] == " ":
            place += 1
        elif found := ENDING.match(text, place):  # it 's
            tokens.append(f"'{found[1]}")
            place = found.end()
        elif found := NOT.match(text, place):  # do n't
            tokens += [found[1], "n't"]
            place = found.end()
        else:
            plain = PLAIN.match(text, place)
            ends = [plain.end()] if plain else [found.end() for rule in RULES if (found := rule.match(text, place))]
            token = text[place : max(ends, default=place + 1)]
            place += len(token)
            joined = JOINED.fullmatch(token)
            tokens += filter(None, joined.groups()) if joined else [NAMES.get(token, token)]
    return _counted([token.lower().translate(WITHIN) for token in tokens])


def _counted(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if token and token not in PUNCTUATION]
