"""Words of captions: our rules against Stanford's PTBTokenizer, as pycocoevalcap calls it."""

import itertools
import json
import random

import pytest

from violet.data.moving_shapes import plan_clip
from violet.evaluation.caption_tokens import has_java, own_words, ptb_words


def parts(text):
    return text.split("|")


WHO = parts(
    "a man|A woman|two kids|the dog's owner|the U.S. team|Dr. Smith|mr. bean|a 3-year-old girl|the player #23|"
    "an old, grey-haired lady|the boys|José|the café owner|@someone|Messi (Argentina)|a rock 'n' roll band|"
    "a rock'n'roll DJ|the man in the '90s|an R&B singer|a 50's diner|women's-only team|o'neil|ma'am|मेरा नाम|東京"
)
DOES = parts(
    "is playing|isn't moving|doesn’t want to leave|can't stop eating|is cutting 1/2 of|walks past 2 or 3|cannot find|"
    "'s looking at|is gonna show|said \"hello\" to|shows 10,000|pours 1.5 l of|asks: what's|won't open|who'll film|"
    "explains (in detail)|zooms in/out on|runs - fast - to|records...|should've seen|lemme see|'tis|adds 1 1/2 of"
)
WHAT = parts(
    "a game of chess|the boys' room|mother-in-law's car|$5.00 worth of candy|a 4k/60fps video|some text: \"SALE 50% "
    'off!"|an apple; then a pear|a black/white/red cat|Mario Kart 8 (Wii U)|a 16:9 screen|food @ 10:30am|#food #yum|'
    "http://www.youtube.com/watch?v=abc|www.example.com/a|someone@example.org|a 5'10\" player|50 km/h|something "
    "'special'|a [blurred] face|“quotes” and ‘quotes’|co-workers|it's own tail|the 1980s|No. 5|St. Mary's church|£20|"
    "€15 menu|½ cup of sugar|emoji 😀👍🏽|❤️ love ★|crème brûlée|tea etc.|e.g. apples|an x-ray|50-60 people|C++ code|"
    "vs. another team|5 p.m. news|Mt. Everest|washington d.c.|step 1. mix|a, b,c|red,green-blue|3840x2160 (uhd)|"
    "a_b _5|<b>bold</b> R&amp;B|US$5|vitamin c.|{braces}|25°C|a--b|a—b|-5 to +3|sq. ft. house|12/25/2017|"
    "Jan. 5th, 2019:"
)
ENDS = (
    "",
    ".",
    " .",
    "!",
    "!!!",
    "?",
    " ...",
    "…",
    " – slowly",
    ", and he's happy.",
    " (part 2)",
    " :)",
    ": 1/3",
    "'",
)


@pytest.fixture(scope="module")
def captions():
    """Made up, with whatever people write; and the built-in ones."""
    written = [" ".join(chosen) for chosen in itertools.product(WHO, DOES, WHAT)]
    chosen = random.Random(0).sample(written, 900)
    made = [f"{caption}{end}" for caption, end in zip(chosen, itertools.cycle(ENDS), strict=False)]
    drawn = {subject.clause for index in range(60) for subject in plan_clip(0, "test", index)}
    return [*made, *sorted(drawn)]


@pytest.fixture(scope="module")
def peoples(shared_folder):
    """Every caption and question in the original's sample files."""
    folder, found = shared_folder / "data" / "original", []
    for name in ("txt_cc3m", "txt_webvid2.5m"):
        for by_id in json.loads((folder / f"{name}.json").read_text()).values():
            found += [caption for captions in by_id.values() for caption in captions]
    for name, column in (("msrvtt-retrieval", "caption"), ("msvd-qa", "question"), ("tgif-action", "question")):
        for rows in json.loads((folder / f"txt_{name}.json").read_text()).values():
            found += [row[column] for row in rows if isinstance(row, dict)]
    return list(dict.fromkeys(found))


def differing(captions):
    theirs = ptb_words(captions)
    assert sum(map(len, theirs)) > 5 * len(captions)
    return [(words, own) for words, own in zip(theirs, map(own_words, captions), strict=True) if words != own]


@pytest.mark.skipif(not has_java(), reason="PTB's tokenizer needs Java")
class TestWithJava:
    def test_made_up_captions_have_the_words_of_ptb(self, captions):
        assert len(captions) > 900
        assert differing(captions) == []

    @pytest.mark.shared
    def test_two_thousand_captions_have_the_words_of_ptb(self, peoples, captions):
        both = [*peoples, *captions]
        assert len(both) > 2000
        assert differing(both) == []

    def test_ptbs_words_are_those_that_pycocoevalcap_gives(self, captions):
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        some = [caption for caption in captions if caption.isascii()][:300]
        theirs = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(some)})
        assert [words.split(" ") for (words,) in theirs.values()] == ptb_words(some)


def test_words_are_in_lower_case_and_without_punctuation():
    assert own_words('"Don\'t stop!" said the DJ...') == ["do", "n't", "stop", "said", "the", "dj"]
    assert own_words("a well-known man, (from the U.S.)") == [
        "a",
        "well-known",
        "man",
        "-lrb-",
        "from",
        "the",
        "u.s.",
        "-rrb-",
    ]
    assert own_words("Look?! 5.50 €") == ["look", "?!", "5.50", "$"]
    assert own_words(" . ") == own_words("") == []
