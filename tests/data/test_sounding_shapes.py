"""Shapes that make tones: what is heard is what is planned, questions need the ear, and pictures stay as they were."""

import hashlib
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.sounding_files import loudest
from violet.data.moving_shapes import (
    FRAMES_PER_SECOND,
    HEARD_TYPES,
    LOUDNESS,
    PLACES,
    REGISTERS,
    RHYTHMS,
    SAMPLES_PER_SECOND,
    SPLITS,
    TONES,
    UNSEEN_PAIRS,
    draw_sound,
    fill_in_the_blank,
    moving_shapes,
    multiple_choice,
    open_ended,
    plan_clip,
)
from violet.processing.sound import decode_with_sound

NONE = dict.fromkeys(SPLITS, 0)
COUNTS = {**NONE, "train": 30, "test_heard": 10}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return moving_shapes(tmp_path_factory.mktemp("data") / "heard", **COUNTS, sound=True)


def rows(splits):
    return [row for split in splits.values() for row in split]


def sound_of(path, rate=SAMPLES_PER_SECOND):
    return decode_with_sound(path, None, sampling_rate=rate, num_samples=rate).sound


def parts_of(wave: np.ndarray, subject) -> float:
    """The share of a wave's energy within a quarter tone of the subject's pitch."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / SAMPLES_PER_SECOND)
    pitch = TONES[subject.form] * REGISTERS[subject.tone]
    return float(power[np.abs(frequencies - pitch) < 25].sum() / power.sum())


def test_files_hold_the_drawn_sound_in_time_with_the_frames(splits):
    for row in rows(splits):
        split, index = row["id"].rsplit("-", 1)
        drawn, heard = draw_sound(0, split, int(index)), sound_of(row["video"])
        assert heard.mask.all() and heard.missing == 0 and len(drawn) == SAMPLES_PER_SECOND
        assert np.corrcoef(drawn, heard.values)[0, 1] > 0.99, row["id"]
        assert np.abs(drawn).max() <= 1
        with av.open(row["video"]) as container:
            assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]


def test_pitch_is_the_shapes_rhythm_its_colours_and_loudness_its_place():
    seen = Counter()
    for index in range(400):
        (subject, *others) = plan_clip(5, "test", index, sound=True)
        if others:
            continue
        wave = draw_sound(5, "test", index)
        pitch = TONES[subject.form] * REGISTERS[subject.tone]
        assert loudest(wave, SAMPLES_PER_SECOND) == pytest.approx(pitch, abs=16)  # or the rhythm's side band
        assert parts_of(wave, subject) > 0.9
        time = np.arange(len(wave)) / SAMPLES_PER_SECOND
        width = SAMPLES_PER_SECOND // 50
        envelope = np.sqrt(np.convolve(wave**2, np.ones(width) / width, "same"))
        place = np.interp(time, (np.arange(8) + 0.5) / FRAMES_PER_SECOND, subject.x)
        level = envelope / np.interp(place, PLACES, LOUDNESS)
        inner = slice(width * 2, -width * 2)
        beats = np.abs(np.fft.rfft(level[inner] - level[inner].mean(), 4 * SAMPLES_PER_SECOND))
        assert np.argmax(beats[8 : 4 * 20]) + 8 == pytest.approx(4 * RHYTHMS[subject.colour], abs=2)
        assert 0.85 < np.percentile(level[inner], 98) * np.sqrt(2) < 1.1, "as loud as its place says"
        seen[subject.form, subject.tone] += 1
    assert len(seen) == 8 and min(seen.values()) > 5


def test_a_tone_is_continuous_and_ends_with_what_makes_it():
    for index in range(60):
        subjects = plan_clip(1, "train", index, sound=True)
        wave = draw_sound(1, "train", index)
        highest = max(TONES[subject.form] * REGISTERS[subject.tone] for subject in subjects)
        steepest = 2 * np.pi * highest / SAMPLES_PER_SECOND * len(subjects) * LOUDNESS[1]
        assert np.abs(np.diff(wave)).max() < 1.2 * steepest and abs(wave[0]) < 0.01 and abs(wave[-1]) < 0.02
        if len(subjects) == 2 and subjects[0].frames != subjects[1].frames:
            half = SAMPLES_PER_SECOND // 2
            assert parts_of(wave[:half], subjects[0]) > 0.8 and parts_of(wave[half:], subjects[1]) > 0.8


def test_the_pictures_and_their_words_are_those_without_sound(splits, tmp_path):
    plain = moving_shapes(tmp_path / "plain", **{**COUNTS, "test_heard": 0})
    for silent, row in zip(plain["train"], splits["train"], strict=True):
        for name in ("id", "kind", "caption", "wrong_caption"):
            assert silent[name] == row[name]
        for column in ("questions", "multiple_choice", "fill_in_the_blank"):
            assert [entry for entry in row[column] if entry["type"] not in HEARD_TYPES] == silent[column]
        pictures = []
        for path in (silent["video"], row["video"]):
            with av.open(path) as container:
                pictures.append([bytes(packet) for packet in container.demux(video=0)])
        assert pictures[0] == pictures[1], "the same H.264 to the byte"
    assert not {"test_heard"} & set(plain)


def test_drawn_data_without_sound_are_what_they_were(tmp_path):
    """The sum was made before shapes made tones."""
    splits = moving_shapes(tmp_path / "x", train=6, validation=2, test=2, test_unseen=2, test_together=2, pretrain=2)
    digest = hashlib.sha256()
    for split in splits:
        digest.update((tmp_path / "x" / f"{split}.jsonl").read_bytes())
    assert digest.hexdigest() == BEFORE
    assert "sound" not in (tmp_path / "x" / "settings.json").read_text()


BEFORE = "23aeaea16a2b3bd2a05a8180812f3aea1a3630b533013a82c2c2b0cc5b3abd65"


def test_questions_that_need_the_ear_ask_for_what_makes_the_tone(splits):
    asked = list(open_ended(splits["test_heard"]))
    assert {row["question_type"] for row in asked} == set(HEARD_TYPES)
    by_clip = {row["id"]: row["shapes"] for row in splits["test_heard"]}
    keys = {"heard_shape": "shape", "heard_colour": "colour", "heard_direction": "direction"}
    for row in asked:
        tone = next(word for word in REGISTERS if f"{word} tone" in row["question"])
        (shape,) = [shape for shape in by_clip[row["id"]] if shape["tone"] == tone]
        assert row["answer"] == shape[keys[row["question_type"]]]
    for row in multiple_choice(splits["test_heard"]):
        assert len(set(row["options"])) == 4 and row["question_type"] in HEARD_TYPES
    assert all("[MASK]" in row["text"] for row in fill_in_the_blank(splits["test_heard"]))
    heard = [row for row in splits["train"] if any(entry["type"] in HEARD_TYPES for entry in row["questions"])]
    assert heard and {row["kind"] for row in heard} == {"together"}


def test_no_picture_tells_which_of_two_shapes_is_low():
    low = Counter()
    for index in range(1000):
        subjects = plan_clip(2, "test_heard", index, sound=True)
        assert sorted(subject.tone for subject in subjects) == ["high", "low"] and len(subjects) == 2
        (one,) = [subject for subject in subjects if subject.tone == "low"]
        (other,) = [subject for subject in subjects if subject.tone == "high"]
        low["first"] += one is subjects[0]
        low["right"] += one.x.mean() > other.x.mean()
        low["larger"] += one.radius[0] > other.radius[0]
        low["shape"] += one.shape < other.shape
        low["colour"] += one.colour < other.colour
    assert all(abs(count / 1000 - 0.5) < 0.05 for count in low.values()), low


def test_the_split_that_is_heard_keeps_to_the_seen_pairs():
    pairs = {(s.shape, s.colour) for index in range(200) for s in plan_clip(0, "test_heard", index, sound=True)}
    assert not pairs & set(UNSEEN_PAIRS) and len(pairs) == 20


def test_the_same_seed_gives_the_same_bytes(splits, tmp_path):
    again = moving_shapes(tmp_path / "again", **COUNTS, sound=True, num_proc=1)
    for one, other in zip(rows(splits), rows(again), strict=True):
        assert Path(one["video"]).read_bytes() == Path(other["video"]).read_bytes()


def test_settings_of_sound_are_part_of_the_folder_and_checked(splits, tmp_path):
    folder = Path(splits["train"][0]["video"]).parents[1]
    reused = moving_shapes(folder, **COUNTS, sound=True)
    assert reused["train"][0] == splits["train"][0]
    with pytest.raises(FileExistsError, match="other settings"):
        moving_shapes(folder, **{**COUNTS, "test_heard": 0})
    with pytest.raises(ValueError, match="test_heard asks what is heard: it needs `sound=True`"):
        moving_shapes(tmp_path / "x", **COUNTS)
