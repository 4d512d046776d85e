"""A built-in data set: short videos of shapes that move, turn, grow, shrink or stay, with captions and questions.

It needs no download, is drawn in seconds, and holds what pictures cannot answer: the direction of a movement and the
order of two events. Everything is a pure function of (seed, split, index): a clip can be drawn alone, more clips in
a split never change the earlier ones, and the same seed gives the same bytes.

    >>> splits = moving_shapes("shapes", train=6000)
    >>> splits["train"][0]["caption"]
    'a small red disc moves left, then a large blue cross stays'
    >>> open_ended(splits["test"])[0]["question"]
    'what colour is it?'

What one frame gives away, by design: colour, shape, size. The place of a shape is uniform over the same range in
every frame for every action and direction (a shape that reaches the end of the range comes back at the other end),
and so is the angle of every shape: neither tells what the shape does or where it goes. Two things a frame does tell
to who knows its index: the radius separates growing from shrinking, and a shape seen early in a sequence comes first.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import new_folder, write_json

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 250),
    "yellow": (240, 215, 40),
    "purple": (190, 60, 220),
    "white": (240, 240, 240),
}
SHAPES = ("disc", "square", "cross", "bars")
ACTIONS = ("moves", "turns", "grows", "shrinks", "stays")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Steps in (x, y); y points down, as the rows of a picture do."""
SIZES = {"small": (0.14, 0.165), "large": (0.2, 0.225)}
"""The range of the radius, as a share of the picture's width."""
WORDS = {"colour": tuple(COLOURS), "shape": SHAPES, "action": ACTIONS, "direction": tuple(DIRECTIONS)}
"""What each property of a shape can be: every answer is one of these."""
QUESTION_TYPES = ("colour", "shape", "direction", "action", "order")
SPLITS = ("train", "validation", "test", "test_unseen")
UNSEEN_PAIRS = (("disc", "yellow"), ("square", "blue"), ("cross", "red"), ("bars", "green"))
"""The (shape, colour) pairs that only the split test_unseen shows."""

MOVES_SHARE = 0.6
PLACES = (0.15, 0.85)
"""Where the centre of a shape may be, as a share of the width: at the ends, an edge cuts off a part of the shape."""
TRAVEL = {"single": 0.35, "sequence": 0.3}
"""How far a moving shape goes from the first to the last frame in which it is seen, as a share of the width."""
SWEEP = np.deg2rad(75)
FRAMES_PER_SECOND = 8
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Subject:
    """One shape and what it does: the words for it, and where it is in each frame (lengths in shares of the width)."""

    shape: str
    colour: str
    size: str
    action: str
    direction: str
    frames: range
    """The frames that show it; the arrays below have one value for each."""
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def clause(self) -> str:
        words = ["a", self.size, self.name, self.action, self.direction]
        return " ".join(word for word in words if word)


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index])


def _pick(generator: np.random.Generator, options):
    return options[int(generator.integers(len(options)))]


def _draw_pair(generator: np.random.Generator) -> tuple[str, str]:
    """A (shape, colour) outside UNSEEN_PAIRS. The colour goes first: so both colours and shapes stay uniform."""
    colour = _pick(generator, tuple(COLOURS))
    return _pick(generator, [shape for shape in SHAPES if (shape, colour) not in UNSEEN_PAIRS]), colour


def _draw_pairs(generator: np.random.Generator, split: str, count: int) -> list[tuple[str, str]]:
    """`count` (shape, colour) pairs that differ in both; in test_unseen one of them is an unseen pair."""
    while True:
        pairs = [_draw_pair(generator) for _ in range(count)]
        if split == "test_unseen":
            pairs[int(generator.integers(count))] = _pick(generator, UNSEEN_PAIRS)
        if all(len(set(words)) == count for words in zip(*pairs, strict=True)):
            return pairs


def _draw_subject(generator: np.random.Generator, shape: str, colour: str, kind: str, frames: range) -> Subject:
    others = [a for a in ACTIONS if a != "moves" and not (a == "turns" and shape == "disc")]
    action = "moves" if generator.random() < MOVES_SHARE else _pick(generator, others)
    direction = _pick(generator, tuple(DIRECTIONS)) if action == "moves" else ""
    size = _pick(generator, tuple(SIZES)) if action not in ("grows", "shrinks") else ""

    time = np.linspace(0, 1, len(frames)) if len(frames) > 1 else np.zeros(1)
    low, high = PLACES
    step = np.array(DIRECTIONS.get(direction, (0, 0))) * TRAVEL[kind]
    start = generator.uniform(0, high - low, size=2)
    x, y = low + (start[:, None] + step[:, None] * time) % (high - low)

    radii = {name: generator.uniform(*SIZES[name]) for name in SIZES}
    if action == "grows":
        radius = radii["small"] + (radii["large"] - radii["small"]) * time
    elif action == "shrinks":
        radius = radii["large"] + (radii["small"] - radii["large"]) * time
    else:
        radius = np.full(len(frames), radii[size])

    turn = SWEEP * generator.choice([-1, 1]) if action == "turns" else 0.0
    angle = generator.uniform(0, 2 * np.pi) + turn * time
    return Subject(shape, colour, size, action, direction, frames, x, y, radius, angle)


def plan_clip(seed: int, split: str, index: int, num_frames: int = 8) -> list[Subject]:
    """What clip `index` of a split shows: one subject through the whole clip, or one in each half of it."""
    return _plan(_generator(seed, split, index), split, num_frames)


def _plan(generator: np.random.Generator, split: str, num_frames: int) -> list[Subject]:
    if generator.random() < 0.5:
        kind, spans = "single", [range(num_frames)]
    else:
        kind, spans = "sequence", [range(num_frames // 2), range(num_frames // 2, num_frames)]
    pairs = _draw_pairs(generator, split, len(spans))
    return [
        _draw_subject(generator, shape, colour, kind, span) for (shape, colour), span in zip(pairs, spans, strict=True)
    ]


def _signed_distance(shape: str, u: np.ndarray, v: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The distance of points (u, v), in the shape's own axes, to its outline; negative inside."""
    u, v = np.abs(u), np.abs(v)
    if shape == "disc":
        return np.hypot(u, v) - r
    if shape == "square":  # a thick frame around a hole, so that no part of it looks like the thin bars
        return np.abs(np.maximum(u, v) - 0.63 * r) - 0.27 * r
    if shape == "cross":
        return np.minimum(np.maximum(u - r, v - 0.28 * r), np.maximum(u - 0.28 * r, v - r))
    return np.maximum(np.abs(u - 0.5 * r) - 0.17 * r, v - r)  # two bars


def _paint(generator: np.random.Generator, subjects: list[Subject], size: int, num_frames: int) -> np.ndarray:
    """The frames, (num_frames, size, size, 3) uint8: the subjects over a dark grey gradient, with noise."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    tone, slope = generator.uniform(20, 60), generator.uniform(-25, 25, size=2)
    background = tone + slope[0] * (grid[:, None] - 0.5) + slope[1] * (grid[None, :] - 0.5)
    frames = np.empty((num_frames, size, size, 3), np.float32)
    frames[:] = background[None, :, :, None]
    for subject in subjects:
        # (frames,) -> (frames, 1, 1), against the picture's (height, width)
        x, y, radius, angle = (
            values.astype(np.float32)[:, None, None]
            for values in (subject.x, subject.y, subject.radius, subject.angle)
        )
        dx, dy = grid[None, None, :] - x, grid[None, :, None] - y
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        cover = np.clip(0.5 - size * _signed_distance(subject.shape, u, v, radius), 0, 1)[..., None]
        shown = frames[subject.frames.start : subject.frames.stop]
        shown += cover * (np.array(COLOURS[subject.colour], np.float32) - shown)
    frames += 6 * generator.standard_normal((num_frames, size, size, 1), dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _words(generator: np.random.Generator, subjects: list[Subject]) -> dict[str, Any]:
    """The caption of a clip and all that is asked: of one shape its properties, of two their order."""
    questions, blanks = [], []

    def ask(kind: str, answer: str, question: str, sentence: str) -> None:
        questions.append({"question": question, "answer": answer, "type": kind})
        blanks.append({"sentence": sentence, "answer": answer, "type": kind})

    if len(subjects) == 1:
        subject = subjects[0]
        shape, colour, name = subject.shape, subject.colour, subject.name
        # Neither names the other property: pairs of shape and colour that are never seen would be told by the words.
        ask("colour", colour, "what colour is it?", "it is [MASK]")
        ask("shape", shape, "what shape is it?", "it is a [MASK]")
        ask("action", subject.action, f"what does the {name} do?", f"the {name} [MASK]")
        if subject.direction:
            ask("direction", subject.direction, f"where does the {name} move?", f"the {name} moves [MASK]")
    else:
        for subject, place in zip(subjects, ("first", "last"), strict=True):
            ask("order", subject.shape, f"what comes {place}?", f"the [MASK] comes {place}")
            ask("order", subject.colour, f"which colour comes {place}?", f"the [MASK] shape comes {place}")

    return {
        "kind": "single" if len(subjects) == 1 else "sequence",
        "caption": ", then ".join(subject.clause for subject in subjects),
        "shapes": [
            {key: getattr(subject, key) for key in ("shape", "colour", "size", "action", "direction")}
            for subject in subjects
        ],
        "questions": questions,
        "multiple_choice": [_with_options(generator, question, subjects) for question in questions],
        "fill_in_the_blank": blanks,
    }


def _with_options(generator: np.random.Generator, question: dict[str, str], subjects: list[Subject]) -> dict[str, Any]:
    """The question with four options; the wrong ones hold what is true of the clip's other shape."""
    answer = question["answer"]
    kind, words = next((kind, words) for kind, words in WORDS.items() if answer in words)
    wrong = [str(word) for word in generator.permutation([word for word in words if word != answer])]
    seen = {getattr(subject, kind) for subject in subjects}
    wrong.sort(key=lambda word: word not in seen)  # stable: the rest stays shuffled
    options = [str(word) for word in generator.permutation([answer, *wrong[:3]])]
    return {
        "question": question["question"],
        "options": options,
        "answer": options.index(answer),
        "type": question["type"],
    }


def draw_clip(
    seed: int, split: str, index: int, size: int = 64, num_frames: int = 8
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw one clip: its frames, (num_frames, size, size, 3) uint8, and its annotation (all columns but `video`)."""
    generator = _generator(seed, split, index)
    subjects = _plan(generator, split, num_frames)
    annotation = {"id": f"{split}-{index:06d}", **_words(generator, subjects)}
    return _paint(generator, subjects, size, num_frames), annotation


def _encode(frames: np.ndarray, path: Path) -> None:
    """Write frames, (num_frames, height, width, 3) uint8, as H.264, always with the same bytes.

    That needs one thread and no B-frames: with them, one file in ten differed from run to run (x264 core 165).
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def moving_shapes(
    folder: str | os.PathLike,
    *,
    train: int = 6000,
    validation: int = 300,
    test: int = 600,
    test_unseen: int = 300,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    num_proc: int | None = None,
) -> "DatasetDict":
    """Write the data set into `folder`, or reuse it there, and return its splits; a split of 0 clips is left out.

    A row is a clip: `id`, `video` (the absolute path of an mp4), `kind` ("single" or "sequence"), `caption`,
    `shapes`, `questions`, `multiple_choice`, `fill_in_the_blank`; see `open_ended` for a row a question. The split
    `test_unseen` is about the UNSEEN_PAIRS of shape and colour, which the others never show.

    The folder is whole or absent: clips go to `.<name>.partial` beside it, which is renamed at the end and which the
    next call replaces when a process was killed half-way.

    Args:
        size: height and width in pixels, even.
        num_frames: frames a clip, at least 4, at 8 frames a second.
        num_proc: how many clips are drawn at a time, in threads (a killed process then leaves no orphans behind);
            by default as many as there are cores, at most 8.

    Raises:
        ValueError: for an odd size, too few frames, a negative count or no clip at all.
        FileExistsError: if `folder` holds something else, or this data set with other settings. Nothing is deleted.
    """
    counts = {"train": train, "validation": validation, "test": test, "test_unseen": test_unseen}
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ValueError(f"the splits need zero or more clips, and one of them at least one: {counts}")
    if size < 16 or size % 2 or num_frames < 4:
        raise ValueError(f"size must be even and at least 16, num_frames at least 4: got {size} and {num_frames}")
    counts = {split: count for split, count in counts.items() if count}
    drawn = {"seed": seed, "size": size, "num_frames": num_frames}
    settings = {"version": FORMAT_VERSION, "drawn": drawn, "clips": counts}

    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _check_reuse(folder, settings)
    else:
        _write(folder, settings, num_proc or min(os.cpu_count() or 1, 8))
    return _load(folder, counts)


def _write(folder: Path, settings: dict[str, Any], num_proc: int) -> None:
    from tqdm.auto import tqdm

    if folder.exists():
        folder.rmdir()  # it is empty
    with new_folder(folder) as partial:

        def write_clip(split: str, index: int) -> str:
            frames, annotation = draw_clip(split=split, index=index, **settings["drawn"])
            _encode(frames, partial / split / f"{annotation['id']}.mp4")
            return json.dumps(annotation)

        with (
            ThreadPoolExecutor(num_proc) as pool,
            tqdm(total=sum(settings["clips"].values()), desc="moving shapes", unit="clip") as bar,
        ):
            for split, count in settings["clips"].items():
                (partial / split).mkdir()
                with open(partial / f"{split}.jsonl", "w", encoding="utf-8") as file:
                    for line in pool.map(write_clip, [split] * count, range(count)):
                        file.write(line + "\n")
                        bar.update()
        content = {split: _fingerprint(partial, split) for split in settings["clips"]}
        write_json(partial / "settings.json", {**settings, "content": content})


def _fingerprint(folder: Path, split: str) -> dict[str, Any]:
    """What tells a split's content from another's without reading its videos."""
    sizes = [file.stat().st_size for file in (folder / split).glob("*.mp4")]
    annotations = (folder / f"{split}.jsonl").read_bytes()
    return {"files": len(sizes), "bytes": sum(sizes), "annotations_sha256": hashlib.sha256(annotations).hexdigest()}


def _check_reuse(folder: Path, settings: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / "settings.json").read_text())
        content = found.pop("content")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FileExistsError(f"{folder} exists and is no moving-shapes data set; give another folder") from error
    if found != settings:
        raise FileExistsError(
            f"{folder} holds moving shapes with other settings: {found}, not {settings}; give another folder"
        )
    for split in settings["clips"]:
        try:
            unchanged = _fingerprint(folder, split) == content[split]
        except (OSError, KeyError):
            unchanged = False
        if not unchanged:
            raise FileExistsError(f"{folder} was changed: its split {split!r} is not what was written; move it away")


def _load(folder: Path, counts: dict[str, int]) -> "DatasetDict":
    from datasets import Dataset, DatasetDict

    def rows(split: str) -> Iterator[dict[str, Any]]:
        with open(folder / f"{split}.jsonl") as file:
            for row in map(json.loads, file):
                yield {"id": row["id"], "video": str(folder / split / f"{row['id']}.mp4"), **row}

    return DatasetDict({split: Dataset.from_list(list(rows(split))) for split in counts})


def open_ended(dataset: "Dataset") -> "Dataset":
    """One row a question, a clip's rows adjacent: `video`, `question`, `answer`, `question_type`, `caption`, `id`."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "video": clip["video"],
                "question": question["question"],
                "answer": question["answer"],
                "question_type": question["type"],
                "caption": clip["caption"],
                "id": clip["id"],
            }
            for clip in dataset
            for question in clip["questions"]
        ]
    )
