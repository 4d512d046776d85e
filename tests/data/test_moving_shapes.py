"""The built-in data set: its words are true of its decoded videos, and its folder is whole or absent."""

import json
import math
import multiprocessing
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
    GAP,
    KINDS,
    NAMELESS_FORMS,
    PLACES,
    QUESTION_TYPES,
    SHAPES,
    SPLITS,
    TRAVEL,
    UNLIKE_EACH_OTHER,
    UNLIKE_UNSEEN,
    UNSEEN_PAIRS,
    WORDS,
    draw_clip,
    moving_shapes,
    open_ended,
    plan_clip,
    signed_distance,
)

SMALL = {"train": 50, "validation": 10, "test": 10, "test_unseen": 30, "test_together": 12, "pretrain": 40}
NONE = dict.fromkeys(SPLITS, 0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return moving_shapes(tmp_path_factory.mktemp("data") / "shapes", **SMALL)


@pytest.fixture(scope="module")
def plans():
    """Clips of one shape, or of one in each half."""
    return [plan_clip(3, "test", index) for index in range(6000)]


@pytest.fixture(scope="module")
def together():
    return [plan_clip(3, "test_together", index) for index in range(3000)]


@pytest.fixture(scope="module")
def pretraining():
    return [plan_clip(3, "pretrain", index) for index in range(3000)]


def decode(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def clips(splits, *kinds: str):
    return [clip for split in splits.values() for clip in split if not kinds or clip["kind"] in kinds]


def plan_of(clip):
    split, index = clip["id"].rsplit("-", 1)
    return plan_clip(0, split, int(index))


def spans(clip, num_frames: int = 8) -> list[slice]:
    """The frames in which each shape acts."""
    half = num_frames // 2
    return [slice(0, num_frames)] if clip["kind"] == "single" else [slice(0, half), slice(half, num_frames)]


def around(subject, size: int = 64, margin: float = 0.0) -> np.ndarray:
    """(frames, size, size): the pixels of a planned shape and its hole, widened by a margin (a share of the width)."""
    grid = (np.arange(size) + 0.5) / size
    x, y, radius, angle = (v[:, None, None] for v in (subject.x, subject.y, subject.radius, subject.angle))
    dx, dy = grid[None, None, :] - x, grid[None, :, None] - y
    u, v = np.abs(dx * np.cos(angle) + dy * np.sin(angle)), np.abs(dy * np.cos(angle) - dx * np.sin(angle))
    filled = {  # the outlines, written again: the drawing has its own
        "disc": np.hypot(u, v),
        "square": np.maximum(u, v) / 0.9,
        "cross": np.minimum(np.maximum(u, v / 0.28), np.maximum(u / 0.28, v)),
        "bars": np.maximum(u / 0.67, v),
    }
    return filled.get(subject.form, np.hypot(u, v)) < radius + margin  # the nameless ones stay in a circle


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
    """One of SHAPES; only for a shape that has a name."""
    euler = holes_and_pieces(mask)
    if euler != 1:
        return {0: "square", 2: "bars"}[euler]
    offsets = np.argwhere(mask) - np.argwhere(mask).mean(axis=0)
    return "disc" if mask.sum() > 0.75 * np.pi * (offsets**2).sum(axis=1).max() else "cross"


def seen_action(masks: np.ndarray) -> tuple[str, str]:
    """The action and the direction, only from the marked pixels."""
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


def nearest_colour(pixels: np.ndarray) -> str:
    """The named colour that most of the pixels (n, 3) are nearest to."""
    distances = np.linalg.norm(pixels[:, None].astype(float) - np.array(list(COLOURS.values())), axis=-1)
    return list(COLOURS)[np.bincount(distances.argmin(axis=1)).argmax()]


def test_every_annotation_is_what_the_decoded_video_shows(splits):
    checked = Counter()
    for clip in clips(splits, "single", "sequence"):
        frames = decode(clip["video"])
        assert frames.shape == (8, 64, 64, 3)
        for subject, span in zip(clip["shapes"], spans(clip), strict=True):
            masks = bright(frames[span])
            if subject["colour"]:
                assert nearest_colour(frames[span][masks]) == subject["colour"], clip["id"]
            assert seen_action(masks) == (subject["action"], subject["direction"]), clip["id"]
            whole = [mask for mask in masks if not (mask[[0, -1]].any() or mask[:, [0, -1]].any())]
            if whole and subject["shape"]:
                largest = max(whole, key=np.sum)
                assert seen_shape(largest) == subject["shape"], clip["id"]
                checked[subject["shape"], bool(subject["colour"])] += 1
    assert min(checked[shape, True] for shape in SHAPES) > 10
    assert all(checked[shape, False] for shape in SHAPES)


def test_of_two_shapes_together_one_moves_in_each_half_and_both_are_always_in_sight(splits):
    checked = Counter()
    for clip in clips(splits, "together"):
        frames = decode(clip["video"])
        plan = plan_of(clip)
        nearby = [around(subject, margin=2 / 64) for subject in plan]  # H.264 smears colours over a pixel or two
        assert frames[~(nearby[0] | nearby[1])].max() < 170, clip["id"]
        for i, (subject, span, rest) in enumerate(zip(clip["shapes"], spans(clip), spans(clip)[::-1], strict=True)):
            masks = bright(frames) & around(plan[i])
            assert masks.any(axis=(1, 2)).all()
            if subject["colour"]:
                assert nearest_colour(frames[masks]) == subject["colour"], clip["id"]
            assert seen_action(masks[span]) == ("moves", subject["direction"]), clip["id"]
            assert np.ptp(centres(masks[rest]), axis=0).max() < 0.02, clip["id"]
            x, y = plan[i].x, plan[i].y
            inside = np.flatnonzero((np.minimum(x, y) > 0.22) & (np.maximum(x, y) < 0.78))
            if len(inside) and subject["shape"]:
                assert seen_shape(masks[inside[0]]) == subject["shape"], clip["id"]
                checked[subject["shape"]] += 1
    assert all(checked[shape] > 1 for shape in SHAPES)


def test_colours_survive_the_codec(splits):
    for clip in clips(splits, "single", "sequence"):
        frames = decode(clip["video"])
        for subject, span in zip(plan_of(clip), spans(clip), strict=True):
            pixels = frames[span][bright(frames[span])]
            assert np.abs(np.median(pixels, axis=0) - subject.rgb).max() < 50, clip["id"]


def test_words_agree_with_the_shapes(splits):
    types = set()
    for clip in clips(splits):
        subjects = clip["shapes"]
        clauses = [
            " ".join(filter(None, ["a", s["size"], s["colour"], s["shape"] or "shape", s["action"], s["direction"]]))
            for s in subjects
        ]
        assert clip["caption"] == ", then ".join(clauses)
        assert len(subjects) == (1 if clip["kind"] == "single" else 2)
        for question in clip["questions"]:
            words = question["question"].rstrip("?").split()
            if question["type"] in ("order", "order_in_sight"):
                expected = subjects[0 if "first" in words else -1]["colour" if "colour" in words else "shape"]
                assert ("moves" if clip["kind"] == "together" else "comes") in words
            else:
                (subject,) = subjects
                expected = subject[question["type"]]
                names = set(filter(None, (subject["shape"], subject["colour"])))
                assert names & set(words) == (names if "the" in words else set())
            assert question["answer"] == expected
            assert expected.isalpha() and expected.islower()
            types.add(question["type"])
        asked = [question["type"] for question in clip["questions"]]
        if clip["kind"] == "single":
            assert ("direction" in asked) == (subjects[0]["action"] == "moves")
        else:
            order = "order" if clip["kind"] == "sequence" else "order_in_sight"
            assert asked == [order] * (4 if subjects[0]["colour"] and subjects[0]["shape"] else 2)
        assert [(q["question"], q["type"], q["answer"]) for q in clip["questions"]] == [
            (c["question"], c["type"], c["options"][c["answer"]]) for c in clip["multiple_choice"]
        ]
        assert all(len(set(choice["options"])) == 4 for choice in clip["multiple_choice"])
        assert [q["answer"] for q in clip["questions"]] == [b["answer"] for b in clip["fill_in_the_blank"]]
        assert all(blank["sentence"].count("[MASK]") == 1 for blank in clip["fill_in_the_blank"])
    assert types == set(QUESTION_TYPES)


def names_unseen_pair(caption: str) -> bool:
    clauses = [set(clause.split()) for clause in caption.split(", then ")]
    return any(words >= set(pair) for words in clauses for pair in UNSEEN_PAIRS)


def test_a_wrong_caption_is_the_caption_with_one_word_of_a_kind_that_is_not_true(splits):
    kinds = {word: kind for kind, words in WORDS.items() for word in words}
    changed = Counter()
    for clip in clips(splits):
        right, wrong = clip["caption"].replace(",", "").split(), clip["wrong_caption"].replace(",", "").split()
        differ = [(a, b) for a, b in zip(right, wrong, strict=True) if a != b]
        found = sorted({kinds[word] for pair in differ for word in pair})
        if len(clip["shapes"]) == 2:
            first, last = differ[: len(found)], differ[len(found) :]
            assert last == [pair[::-1] for pair in first], "the two shapes' words are exchanged"
        if len(found) == 2:  # whole names, since exchanging one word would make an unseen pair
            assert found == ["colour", "shape"]
            (colours, shapes) = ([shape[kind] for shape in clip["shapes"]] for kind in found)
            assert set(zip(shapes, colours[::-1], strict=True)) & set(UNSEEN_PAIRS)
        elif len(clip["shapes"]) == 1:
            assert len(differ) == 1
        changed["+".join(found)] += 1
    assert set(changed) == {*WORDS, "colour+shape"}


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


def looks_unseen(shape: str, rgb, least: float = UNLIKE_UNSEEN) -> bool:
    """Whether a shape of that colour, named or not, comes near an unseen pair."""
    unseen = dict(UNSEEN_PAIRS).get(shape)
    return unseen is not None and bool(np.linalg.norm(np.subtract(rgb, COLOURS[unseen])) < least)


@pytest.mark.parametrize("split", ["train", "validation", "pretrain"])
def test_no_table_to_train_on_has_an_unseen_pair_in_its_words_or_its_videos(splits, split):
    for clip in splits[split]:
        assert not names_unseen_pair(clip["caption"]), clip["caption"]
        assert not names_unseen_pair(clip["wrong_caption"]), clip["wrong_caption"]
        frames, plan = decode(clip["video"]), plan_of(clip)
        for subject in plan:
            shown = frames[subject.frames.start : subject.frames.stop]
            others = [around(other, margin=2 / 64) for other in plan if other is not subject]
            if others and clip["kind"] == "together":
                shown = np.where(others[0][..., None], 0, shown)
            rgb = np.median(shown[bright(shown)], axis=0)
            assert np.linalg.norm(rgb - subject.rgb) < 60, clip["id"]
            assert not looks_unseen(subject.form, rgb, least=UNLIKE_UNSEEN - 30), clip[
                "id"
            ]  # compression mixes colours


@pytest.mark.parametrize("split", ["train", "validation", "pretrain"])
def test_no_split_to_train_on_draws_what_comes_near_an_unseen_pair(split):
    subjects = [subject for index in range(1200) for subject in plan_clip(11, split, index)]
    assert not [s for s in subjects if looks_unseen(s.form, s.rgb)]
    assert {(s.shape, s.colour) for s in subjects if s.shape and s.colour} == (
        {(shape, colour) for shape in SHAPES for colour in COLOURS} - set(UNSEEN_PAIRS)
    )
    assert looks_unseen("disc", COLOURS["yellow"]) and not looks_unseen("disc", COLOURS["white"])


def pairs_of(index: int) -> list[tuple[str, str]]:
    return [(subject.shape, subject.colour) for subject in plan_clip(0, "test", index)]


def test_each_split_has_its_share_of_each_kind():
    for split, shares in KINDS.items():
        number = 1000 if len(shares) > 1 else 100  # of one kind each is of that kind
        plans = [plan_clip(0, split, index) for index in range(number)]
        found = Counter(
            "single" if len(plan) == 1 else "together" if plan[0].frames == plan[1].frames else "sequence"
            for plan in plans
        )
        assert set(found) == set(shares)
        assert all(abs(found[kind] / len(plans) - share) < 0.05 for kind, share in shares.items()), (split, found)
    assert "order_in_sight" not in {
        question["type"]
        for split in ("validation", "test", "test_unseen")
        for index in range(100)
        for question in draw_clip(0, split, index, size=16)[1]["questions"]
    }


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
@pytest.mark.parametrize("kinds", ["plans", "together"])
def test_the_place_of_a_shape_in_a_single_frame_does_not_tell_its_direction(request, kinds, frame):
    """A histogram over the place learns on half of the clips and reads the others no better than chance, 0.25."""
    rows = []
    for subject in (subject for plan in request.getfixturevalue(kinds) for subject in plan):
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


def share_of_first_movers_found(together, features) -> float:
    """A histogram over whole-number features of (one shape, the other) learns on half of the clips which moves first;
    how often it is right on the other half."""
    shuffled = np.random.default_rng(0).random(len(together)) < 0.5  # where the first mover comes second
    pairs = [plan[::-1] if turned else plan for plan, turned in zip(together, shuffled, strict=True)]
    bins = np.unique(np.array([features(one, other) for one, other in pairs]), axis=0, return_inverse=True)[1]
    half = len(bins) // 2
    votes = np.bincount(bins[:half], weights=1 - 2.0 * shuffled[:half], minlength=bins.max() + 1)
    return ((votes[bins[half:]] < 0) == shuffled[half:]).mean()


@pytest.mark.parametrize("frame", range(8))
def test_no_single_frame_tells_which_of_two_shapes_moves_first(together, frame):
    def step(one, other):
        return int((other.x[frame] - one.x[frame]) // 0.15), int((other.y[frame] - one.y[frame]) // 0.15)

    def places(one, other):
        return [int((value - PLACES[0]) // 0.24) for s in (one, other) for value in (s.x[frame], s.y[frame])]

    def looks(one, other):
        return SHAPES.index(one.shape), SHAPES.index(other.shape), list(COLOURS).index(one.colour)

    def geometry(one, other):
        return one.radius[frame] > other.radius[frame], one.angle[frame] > other.angle[frame]

    for features in (step, places, looks, geometry):
        assert 0.46 < share_of_first_movers_found(together, features) < 0.54, features.__name__


def test_two_frames_tell_which_of_two_shapes_moves_first(together):
    assert share_of_first_movers_found(together, lambda one, other: [one.x[0] == one.x[3], one.y[0] == one.y[3]]) == 1


def test_of_two_shapes_together_each_is_still_in_one_half_and_the_first_mover_is_as_often_on_either_side(together):
    for first, last in together:
        assert first.action == last.action == "moves" and first.size == last.size == "small"
        assert first.frames == last.frames == range(8)
        assert first.shape != last.shape and first.colour != last.colour
        assert not {(s.shape, s.colour) for s in (first, last)} & set(UNSEEN_PAIRS)
        for subject, moving, still in ((first, slice(0, 4), slice(3, 8)), (last, slice(4, 8), slice(0, 5))):
            places = np.stack([subject.x, subject.y])
            assert np.ptp(places[:, still], axis=1).max() == 0
            assert (np.abs(np.diff(places[:, moving])).max(axis=0) > 0.09).all()
            assert np.ptp(subject.radius) == np.ptp(subject.angle) == 0
    for key in ("x", "y"):
        before = np.array([getattr(first, key) < getattr(last, key) for first, last in together])
        assert (np.abs(before.mean(axis=0) - 0.5) < 0.03).all()
    directions = Counter((first.direction, last.direction) for first, last in together)
    assert len(directions) == 16
    assert all(abs(count / len(together) - 1 / 16) < 0.015 for count in directions.values())


@pytest.mark.parametrize("num_frames", [4, 5, 8, 32])
def test_two_shapes_together_never_touch(num_frames):
    for index in range(min(60, 480 // num_frames)):
        first, last = plan_clip(1, "test_together", index, num_frames)
        assert not (around(first, 128, GAP / 4) & around(last, 128, GAP / 4)).any()
        assert (np.hypot(first.x - last.x, first.y - last.y) > first.radius + last.radius).all()
        for subject in (first, last):
            assert len(subject.x) == num_frames
            assert min(subject.x.min(), subject.y.min()) >= PLACES[0] - 1e-9
            assert max(subject.x.max(), subject.y.max()) <= PLACES[1] + 1e-9


def test_two_in_five_of_the_clips_for_pretraining_have_any_colour_but_none_near_an_unseen_pair(pretraining):
    any_colour = [plan for plan in pretraining if not plan[0].colour]
    assert 0.37 < len(any_colour) / len(pretraining) < 0.43
    unseen = dict(UNSEEN_PAIRS)
    for plan in any_colour:
        for subject in plan:
            assert math.dist(subject.rgb, COLOURS[unseen[subject.shape]]) >= UNLIKE_UNSEEN
            assert 178 < max(subject.rgb) <= 255
        if len(plan) == 2:
            assert math.dist(plan[0].rgb, plan[1].rgb) >= UNLIKE_EACH_OTHER
            assert plan[0].shape != plan[1].shape
    colours = np.array([subject.rgb for plan in any_colour for subject in plan])
    assert len(np.unique(colours // 32, axis=0)) > 100


def test_three_in_ten_of_the_clips_for_pretraining_have_forms_without_a_name(pretraining):
    nameless = [plan for plan in pretraining if not plan[0].shape]
    assert 0.27 < len(nameless) / len(pretraining) < 0.33
    seen = Counter((subject.form, subject.colour) for plan in nameless for subject in plan)
    assert len(seen) == len(NAMELESS_FORMS) * len(COLOURS)
    for plan in nameless:
        assert len({subject.form for subject in plan}) == len({subject.colour for subject in plan}) == len(plan)


@pytest.mark.parametrize(("form", "area"), [("triangle", 27**0.5 / 4), ("diamond", 1.0), ("half", np.pi / 2)])
def test_a_nameless_form_has_its_area_and_stays_within_its_radius(form, area):
    grid = (np.arange(400) + 0.5) / 200 - 1
    u, v = np.meshgrid(grid, grid)
    inside = signed_distance(form, u, v, np.array(0.9)) < 0
    assert inside.sum() / 200**2 == pytest.approx(0.9**2 * area, rel=0.01)
    assert 0.88 < np.hypot(u, v)[inside].max() <= 0.9 + 1e-9


def test_words_name_no_shape_where_its_form_has_no_name(splits):
    nameless = [clip for clip in clips(splits) if not clip["shapes"][0]["shape"]]
    assert {clip["id"].split("-")[0] for clip in nameless} == {"train", "pretrain"}
    for clip in nameless:
        words = {key: clip[key] for key in ("caption", "questions", "multiple_choice", "fill_in_the_blank")}
        assert not set(json.dumps(words).replace('"', " ").split()) & {*SHAPES, *NAMELESS_FORMS}
        assert clip["questions"]


def test_words_name_no_colour_in_a_part_of_the_clips_for_training_alone(splits):
    named = Counter()
    for clip in clips(splits):
        words = set(json.dumps({key: clip[key] for key in clip if key not in ("id", "video")}).split('"'))
        words |= set(" ".join(words).split())
        if any(subject["colour"] for subject in clip["shapes"]):
            assert all(subject["colour"] in clip["caption"].split() for subject in clip["shapes"])
            named[clip["id"].split("-")[0]] += 1
        else:
            assert clip["id"].startswith(("pretrain-", "train-"))
            assert not words & set(COLOURS) and "colour" not in clip["caption"]
            assert clip["questions"]
    assert 15 <= named["pretrain"] <= 33  # of 40
    assert 20 <= named["train"] <= 40  # of 50


def test_a_movement_is_seen_between_the_sampled_frames(plans):
    for plan in plans[:200]:
        for subject in plan:
            if subject.direction:
                step = np.hypot(subject.x[1] - subject.x[0], subject.y[1] - subject.y[0])
                step = min(step, PLACES[1] - PLACES[0] - step)
                expected = TRAVEL["single" if len(plan) == 1 else "sequence"] / (len(subject.frames) - 1)
                np.testing.assert_allclose(step, expected)


def test_same_seed_same_bytes_whatever_the_number_of_workers(tmp_path):
    counts = {"validation": 0, "test": 0, "test_unseen": 4, "test_together": 4, "pretrain": 8}
    first = moving_shapes(tmp_path / "a", train=40, num_proc=1, **counts)
    longer = moving_shapes(tmp_path / "b", train=50, num_proc=3, **counts)
    assert set(first) == {"train", "test_unseen", "test_together", "pretrain"}
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
    assert len(set(drawn.values())) == len(splits) >= 6


def test_open_ended_is_a_row_a_question(splits):
    rows = open_ended(splits["test"])
    assert rows.column_names == ["video", "question", "answer", "question_type", "caption", "id"]
    assert len(rows) == sum(len(clip["questions"]) for clip in splits["test"])
    assert list(dict.fromkeys(rows["id"])) == splits["test"]["id"]


def test_a_second_call_reuses_the_folder_and_other_settings_are_refused(tmp_path):
    small = {**NONE, "train": 3}
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
        moving_shapes(tmp_path, **{**NONE, "train": 1})
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("wrong", [{"train": -1}, {"size": 63}, {"num_frames": 2}, dict.fromkeys(SMALL, 0)])
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError):
        moving_shapes(tmp_path / "shapes", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_half_data_set(tmp_path):
    folder = tmp_path / "shapes"
    process = multiprocessing.get_context("fork").Process(target=moving_shapes, args=(folder,), kwargs={"train": 5000})
    process.start()
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.mp4"))) < 20:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    assert not folder.exists()
    (partial,) = tmp_path.iterdir()
    assert partial.name == ".shapes.partial"

    rows = moving_shapes(folder, **{**NONE, "train": 5})["train"]
    assert list(tmp_path.iterdir()) == [folder]
    assert len(list(folder.rglob("*.mp4"))) == len(rows) == 5
    assert json.loads((folder / "settings.json").read_text())["clips"] == {"train": 5}
