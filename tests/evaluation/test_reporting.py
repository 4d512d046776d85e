"""Reports: the page a person reads, the JSON and the lines that a program does."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from violet.evaluation.answers import answer_measures
from violet.evaluation.measures import Evaluation
from violet.evaluation.reporting import Report, best_and_worst, write_report
from violet.processing import VideoDecodeError, decode_video

COUNT = 60


@pytest.fixture(scope="module")
def videos(shapes_folder):
    return [str(file) for file in sorted(shapes_folder.rglob("*.mp4"))[:10]]


@pytest.fixture
def evaluation(videos):
    places = np.random.default_rng(0).integers(1, 4, COUNT)
    samples = [
        {
            "row": row,
            "video": videos[row % 10],
            "question": f"what <b>moves</b> in {row}?",
            "prediction": "left" if place == 1 else "right & up",
            "truth": "left",
            "right": bool(place == 1),
            "score": 1 / place + row / 1000,
        }
        for row, place in enumerate(places)
    ]
    measures = answer_measures(places, ["direction", "order"] * (COUNT // 2), videos=[one["video"] for one in samples])
    return Evaluation(measures, {"loss": 1.25}, samples, {"words": "ours"}, failed=3)


def report_of(evaluation, **changes):
    facts = {
        "title": "Moving shapes & co",
        "task": "open-ended",
        "settings": {"frames": 4, "prompt": "answer <it>"},
        "origin": {"checkpoint": "violet-tiny", "checkpoint sha256": "abc123", "split sha256": "def456", "seed": 7},
        "published": {"accuracy": 0.445},
    }
    return Report(evaluation=evaluation, **{**facts, **changes})


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text, self.pictures, self.addresses = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        self.addresses += [value for name, value in attributes if name in ("src", "href") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def read(path):
    page = Page()
    page.feed(path.read_text())
    assert page.open == [], "every tag is closed"
    return page


def test_the_page_and_the_json_have_every_number_with_its_interval(evaluation, tmp_path):
    path = write_report(tmp_path / "report", report_of(evaluation), lambda video: decode_video(video).frames)
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json", "samples.jsonl"]
    facts = json.loads((path.parent / "report.json").read_text())
    metrics = evaluation.metrics
    assert (
        facts["metrics"].keys()
        == metrics.keys()
        == {"loss", "accuracy", "accuracy_top5", "accuracy_direction", "accuracy_order"}
    )
    low, high = facts["metrics"]["accuracy"]["interval"]
    assert low < facts["metrics"]["accuracy"]["value"] == metrics["accuracy"] < high
    assert facts["metrics"]["accuracy"]["published"] == 0.445 and facts["metrics"]["loss"]["interval"] is None
    assert facts["samples"] == COUNT and facts["samples_failed"] == 3 and facts["origin"]["seed"] == 7
    assert (
        facts["settings"]["frames"] == 4 and {"torch", "violet", "python", "transformers"} <= facts["software"].keys()
    )

    page = read(path)
    text = " ".join(page.text)
    for said in (
        "Moving shapes & co", f"{100 * metrics['accuracy']:.1f} %", "published: 44.5 %", f"{100 * low:.1f} %", "1.25",
        "accuracy direction", "3 rows could not be read", "abc123", "def456", "answer <it>", "ours", "torch",
        "The 20 worst samples", "The 20 best samples", "right & up", "what <b>moves</b> in",
    ):  # fmt: skip
        assert said in text, said
    assert len(page.pictures) == 40
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses), "nothing is fetched"


def test_a_sample_shows_the_frames_of_its_own_video(evaluation, videos, tmp_path):
    path = write_report(
        tmp_path, report_of(evaluation), lambda video: np.full((3, 8, 12, 3), 20 * videos.index(video), np.uint8)
    )
    best, worst = best_and_worst(evaluation.samples)
    shown = [*worst, *best]
    for sample, picture in zip(shown, read(path).pictures, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))))
        assert pixels.shape[:2] == (120, 3 * 180 + 8)
        assert abs(int(pixels[60, 90].mean()) - 20 * videos.index(sample["video"])) <= 3


def test_samples_are_lines_of_their_own_and_the_worst_and_best_are_no_others(evaluation, tmp_path):
    path = write_report(tmp_path, report_of(evaluation))
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert lines == evaluation.samples
    ordered = sorted(evaluation.samples, key=lambda sample: sample["score"])
    best, worst = best_and_worst(evaluation.samples)
    assert worst == ordered[:20] and best == ordered[::-1][:20]
    rows = [int(row) for row in re.findall(r"row (\d+) ", path.read_text())]
    assert rows == [sample["row"] for sample in [*worst, *best]] and len(set(rows)) == 40
    few = best_and_worst(evaluation.samples[:5])
    assert [len(one) for one in few] == [3, 2] and best_and_worst([]) == ([], [])


def test_a_video_that_is_gone_is_said_so_and_costs_no_report(evaluation, videos, tmp_path):
    def frames_of(video):
        if video == videos[0]:
            raise VideoDecodeError(video, "there is no such file")
        return decode_video(video).frames

    page = read(write_report(tmp_path, report_of(evaluation), frames_of))
    gone = [sample for part in best_and_worst(evaluation.samples) for sample in part if sample["video"] == videos[0]]
    assert gone and len(page.pictures) == 40 - len(gone)
    assert sum("no such file" in text for text in page.text) == len(gone)


def test_a_search_shows_what_was_found_in_the_place_of_the_right_video(evaluation, videos, tmp_path):
    samples = []
    for row in range(4):
        found = videos[row // 2 * 2]
        sample = {"row": row, "video": videos[row], "found": found, "prediction": found, "truth": videos[row]}
        samples.append(sample | {"question": "a red disc", "right": row % 2 == 0, "score": -float(row)})
    searched = Evaluation(evaluation.measures, {}, samples)
    page = read(write_report(tmp_path, report_of(searched), lambda video: decode_video(video).frames))
    assert len(page.pictures) == 6 and sum("found in its place" in text for text in page.text) == 2


def test_a_published_number_of_another_metric_is_refused(evaluation, tmp_path):
    with pytest.raises(ValueError, match="Published numbers of cider, but the metrics are loss, accuracy"):
        write_report(tmp_path / "none", report_of(evaluation, published={"cider": 1.0}))
    assert not (tmp_path / "none").exists()
