"""The built-in data set: its words are true of its decoded videos, and its folder is whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from violet.data.moving_shapes import (
    ACTIONS,
    COLOURS,
    DIRECTIONS,
    PLACES,
    QUESTION_TYPES,
    SHAPES,
    TRAVEL,
    UNSEEN_PAIRS,
    draw_clip,
    moving_shapes,
    open_ended,
    plan_clip,
)

SMALL = {"train": 50, "validation": 10, "test": 10, "test_unseen": 30}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return moving_shapes(tmp_path_factory.mktemp("data") / "shapes", **SMALL)


@pytest.fixture(scope="module")
def plans():
    return [plan_clip(3, "train", index) for index in range(6000)]


def decode(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def clips(splits):
    return [clip for split in splits.values() for clip in split]


def spans(clip, num_frames: int = 8) -> list[slice]:
    half = num_frames // 2
    return [slice(0, num_frames)] if clip["kind"] == "single" else [slice(0, half), slice(half, num_frames)]


def bright(frames: np.ndarray) -> np.ndarray:
    """Where the shape is: every colour is brighter in some channel than any background."""
    return frames.max(axis=-1) > 125


def centres(masks: np.ndarray) -> np.ndarray:
    """(frames, height, width) → (frames, 2): the mean (x, y) of the marked pixels, as a share of the width."""
    return np.array([np.argwhere(mask).mean(axis=0)[::-1] for mask in masks]) / masks.shape[-1]


def holes_and_pieces(mask: np.ndarray) -> int:
    """The Euler number, pieces minus holes, from the counts of 2 x 2 corners (8-connected)."""
    padded = np.pad(mask, 1).astype(int)
    quads = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    count = sum(quads)
    diagonal = (count == 2) & (quads[0] == quads[3])
    return ((count == 1).sum() - (count == 3).sum() - 2 * diagonal.sum()) // 4


def seen_shape(mask: np.ndarray) -> str:
    euler = holes_and_pieces(mask)
    if euler != 1:
        return {0: "square", 2: "bars"}[euler]
    offsets = np.argwhere(mask) - np.argwhere(mask).mean(axis=0)
    return "disc" if mask.sum() > 0.75 * np.pi * (offsets**2).sum(axis=1).max() else "cross"


def seen_action(masks: np.ndarray) -> tuple[str, str]:
    """The action and the direction, from the marked pixels alone."""
    places = centres(masks)
    width = PLACES[1] - PLACES[0]
    steps = (np.diff(places, axis=0) + width / 2) % width - width / 2  # what leaves the range comes back opposite
    travel = steps.sum(axis=0)
    growth = masks[-1].sum() / masks[0].sum()
    if np.abs(travel).max() > 0.15:
        axis = np.abs(travel).argmax()
        step = tuple(np.eye(2, dtype=int)[axis] * int(np.sign(travel[axis])))
        return "moves", next(word for word, vector in DIRECTIONS.items() if vector == step)
    if not 0.75 < growth < 1.33:
        return ("grows" if growth > 1 else "shrinks"), ""
    changed = (masks[0] ^ masks[len(masks) // 2]).sum() / masks[0].sum()
    return ("turns" if changed > 0.2 else "stays"), ""


def test_every_annotation_is_what_the_decoded_video_shows(splits):
    checked = Counter()
    for clip in clips(splits):
        frames = decode(clip["video"])
        assert frames.shape == (8, 64, 64, 3)
        for subject, span in zip(clip["shapes"], spans(clip), strict=True):
            masks = bright(frames[span])
            pixels = frames[span][masks].astype(float)
            distances = np.linalg.norm(pixels[:, None] - np.array(list(COLOURS.values())), axis=-1)
            nearest = np.bincount(distances.argmin(axis=1), minlength=len(COLOURS))
            assert list(COLOURS)[nearest.argmax()] == subject["colour"], clip["id"]
            assert seen_action(masks) == (subject["action"], subject["direction"]), clip["id"]
            whole = [mask for mask in masks if not (mask[[0, -1]].any() or mask[:, [0, -1]].any())]
            if whole:
                largest = max(whole, key=np.sum)
                assert seen_shape(largest) == subject["shape"], clip["id"]
                checked[subject["shape"]] += 1
    assert min(checked[shape] for shape in SHAPES) > 10


def test_colours_survive_the_codec(splits):
    for clip in clips(splits):
        frames = decode(clip["video"])
        for subject, span in zip(clip["shapes"], spans(clip), strict=True):
            colour = np.array(COLOURS[subject["colour"]])
            pixels = frames[span][bright(frames[span])]
            assert np.abs(np.median(pixels, axis=0) - colour).max() < 40, clip["id"]


def test_words_agree_with_the_shapes(splits):
    types = set()
    for clip in clips(splits):
        subjects = clip["shapes"]
        clauses = [
            " ".join(filter(None, ["a", s["size"], s["colour"], s["shape"], s["action"], s["direction"]]))
            for s in subjects
        ]
        assert clip["caption"] == ", then ".join(clauses)
        assert len(subjects) == (1 if clip["kind"] == "single" else 2)
        for question in clip["questions"]:
            words = question["question"].rstrip("?").split()
            if question["type"] == "order":
                expected = subjects[0 if "first" in words else -1]["colour" if "colour" in words else "shape"]
                assert clip["kind"] == "sequence"
            else:
                (subject,) = subjects
                expected = subject[question["type"]]
                named = {subject["shape"], subject["colour"]} & set(words)
                assert named == ({subject["shape"], subject["colour"]} if "the" in words else set())
            assert question["answer"] == expected
            assert expected.isalpha() and expected.islower()
            types.add(question["type"])
        asked = [question["type"] for question in clip["questions"]]
        if clip["kind"] == "sequence":
            assert asked == ["order"] * 4
        else:
            assert ("direction" in asked) == (subjects[0]["action"] == "moves")
        assert [(q["question"], q["type"], q["answer"]) for q in clip["questions"]] == [
            (c["question"], c["type"], c["options"][c["answer"]]) for c in clip["multiple_choice"]
        ]
        assert all(len(set(choice["options"])) == 4 for choice in clip["multiple_choice"])
        assert [q["answer"] for q in clip["questions"]] == [b["answer"] for b in clip["fill_in_the_blank"]]
        assert all(blank["sentence"].count("[MASK]") == 1 for blank in clip["fill_in_the_blank"])
    assert types == set(QUESTION_TYPES)


def test_unseen_pairs_are_in_every_clip_of_their_split_and_in_no_other(splits):
    for name, split in splits.items():
        for clip in split:
            unseen = [s for s in clip["shapes"] if (s["shape"], s["colour"]) in UNSEEN_PAIRS]
            if name != "test_unseen":
                assert not unseen
                continue
            assert len(unseen) == 1
            if clip["kind"] == "single":
                colour, shape = clip["questions"][:2]
                assert (shape["answer"], colour["answer"]) in UNSEEN_PAIRS
    assert not {pair for plan in map(pairs_of, range(3000)) for pair in plan} & set(UNSEEN_PAIRS)


def pairs_of(index: int) -> list[tuple[str, str]]:
    return [(subject.shape, subject.colour) for subject in plan_clip(0, "test", index)]


def test_sequences_differ_in_shape_and_colour_and_singles_are_half(plans):
    pairs = [plan for plan in plans if len(plan) == 2]
    assert all(a.shape != b.shape and a.colour != b.colour for a, b in pairs)
    assert 0.47 < len(pairs) / len(plans) < 0.53


def test_answers_are_balanced(plans):
    subjects = [subject for plan in plans for subject in plan]
    for key, words, share in (("shape", SHAPES, 1 / 4), ("colour", tuple(COLOURS), 1 / 6)):
        counts = Counter(getattr(subject, key) for subject in subjects)
        assert set(counts) == set(words)
        assert all(abs(count / len(subjects) - share) < 0.015 for count in counts.values()), counts
    actions = Counter(subject.action for subject in subjects)
    assert set(actions) == set(ACTIONS)
    assert 0.58 < actions["moves"] / len(subjects) < 0.62
    assert all(count / len(subjects) > 0.06 for count in actions.values())
    directions = Counter(subject.direction for subject in subjects if subject.direction)
    assert all(abs(directions[word] / actions["moves"] - 1 / 4) < 0.03 for word in DIRECTIONS)
    assert not any(subject.action == "turns" and subject.shape == "disc" for subject in subjects)


@pytest.mark.parametrize("frame", range(8))
def test_no_single_frame_tells_the_direction(plans, frame):
    """A histogram over the place learns on half of the clips and reads the others no better than chance, 0.25."""
    rows = []
    for subject in (subject for plan in plans for subject in plan):
        if subject.direction and frame in subject.frames:
            i = subject.frames.index(frame)
            rows.append((subject.x[i], subject.y[i], list(DIRECTIONS).index(subject.direction)))
    places, labels = np.array(rows)[:, :2], np.array(rows)[:, 2].astype(int)
    bins = np.clip((places - PLACES[0]) / (PLACES[1] - PLACES[0]) * 5, 0, 4).astype(int) @ [5, 1]
    half = len(labels) // 2
    counts = np.zeros((25, 4))
    np.add.at(counts, (bins[:half], labels[:half]), 1)
    accuracy = (counts.argmax(axis=1)[bins[half:]] == labels[half:]).mean()
    assert len(labels) > 2000
    assert 0.20 < accuracy < 0.30


def test_a_movement_is_seen_between_the_sampled_frames(plans):
    for plan in plans[:200]:
        for subject in plan:
            if subject.direction:
                step = np.hypot(subject.x[1] - subject.x[0], subject.y[1] - subject.y[0])
                step = min(step, PLACES[1] - PLACES[0] - step)
                expected = TRAVEL["single" if len(plan) == 1 else "sequence"] / (len(subject.frames) - 1)
                np.testing.assert_allclose(step, expected)


def test_same_seed_same_bytes_whatever_the_number_of_workers(tmp_path):
    counts = {"validation": 0, "test": 0, "test_unseen": 4}
    first = moving_shapes(tmp_path / "a", train=40, num_proc=1, **counts)
    longer = moving_shapes(tmp_path / "b", train=50, num_proc=3, **counts)
    assert set(first) == {"train", "test_unseen"}
    for split, rows in first.items():
        for a, b in zip(rows, longer[split], strict=False):
            assert Path(a.pop("video")).read_bytes() == Path(b.pop("video")).read_bytes()
            assert a == b
    other = moving_shapes(tmp_path / "c", train=40, seed=1, **counts)
    assert first["train"]["caption"] != other["train"]["caption"]


def test_a_clip_can_be_drawn_alone_and_splits_differ(splits):
    frames, annotation = draw_clip(0, "train", 7)
    row = splits["train"][7]
    assert annotation == {key: row[key] for key in annotation}
    assert np.abs(decode(row["video"]).astype(int) - frames).mean() < 6
    drawn = {name: draw_clip(0, name, 7)[0].tobytes() for name in splits}
    assert len(set(drawn.values())) == 4


def test_open_ended_is_a_row_a_question(splits):
    rows = open_ended(splits["test"])
    assert rows.column_names == ["video", "question", "answer", "question_type", "caption", "id"]
    assert len(rows) == sum(len(clip["questions"]) for clip in splits["test"])
    assert list(dict.fromkeys(rows["id"])) == splits["test"]["id"]


def test_a_second_call_reuses_the_folder_and_other_settings_are_refused(tmp_path):
    small = {"train": 3, "validation": 0, "test": 0, "test_unseen": 0}
    folder = tmp_path / "shapes"
    first = moving_shapes(folder, **small)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert moving_shapes(folder, **small)["train"].to_list() == first["train"].to_list()
    for change in ({"seed": 1}, {"train": 4}, {"size": 32}):
        with pytest.raises(FileExistsError, match=r"shapes holds moving shapes with other settings"):
            moving_shapes(folder, **{**small, **change})
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    Path(first["train"][0]["video"]).unlink()
    with pytest.raises(FileExistsError, match=r"shapes was changed: its split 'train'"):
        moving_shapes(folder, **small)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="no moving-shapes data set"):
        moving_shapes(tmp_path, train=1, validation=0, test=0, test_unseen=0)
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("wrong", [{"train": -1}, {"size": 63}, {"num_frames": 2}, dict.fromkeys(SMALL, 0)])
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError):
        moving_shapes(tmp_path / "shapes", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_half_data_set(tmp_path):
    folder = tmp_path / "shapes"
    script = f"from violet.data import moving_shapes; moving_shapes({str(folder)!r}, train=5000)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.mp4"))) < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not folder.exists()
    (partial,) = tmp_path.iterdir()
    assert partial.name == ".shapes.partial"

    rows = moving_shapes(folder, train=5, validation=0, test=0, test_unseen=0)["train"]
    assert list(tmp_path.iterdir()) == [folder]
    assert len(list(folder.rglob("*.mp4"))) == len(rows) == 5
    assert json.loads((folder / "settings.json").read_text())["clips"] == {"train": 5}
