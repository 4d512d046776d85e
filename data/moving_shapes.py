"""A built-in data set: short videos of shapes that move, turn, grow, shrink or stay, with captions and questions.

It needs no download, is drawn in seconds, and holds what pictures cannot answer: the direction of a movement and the
order of two events. Everything is a pure function of (seed, split, index): a clip can be drawn by itself, more clips
in a split never change the earlier ones, and the same seed gives the same bytes.

    >>> splits = moving_shapes("shapes", train=6000)
    >>> splits["train"][0]["caption"]
    'a small red disc moves left, then a large blue cross stays'
    >>> open_ended(splits["test"])[0]["question"]
    'what colour is it?'

With `sound=True` every shape in sight makes a tone, and there are questions that only the ear answers, see TONES:

    >>> splits = moving_shapes("heard", train=6000, sound=True)
    >>> splits["test_heard"][0]["questions"][0]
    {'question': 'what makes the low tone?', 'answer': 'disc', 'type': 'heard_shape'}

What one frame tells:

- colour, shape and size;
- if its index is known, growing from shrinking (by the radius), and which of two shapes in a sequence comes first.

What no frame tells:

- the action or the direction: a shape's position is uniform over the same range in every frame for all of them (a
  shape that reaches one end comes back at the other), and so is its angle;
- which of two shapes "together" moves first: only the step from one shape to the other matters, and a clip mirrored
  through a point, with the two exchanged, is just as likely. (That step, and the angles, which must leave room, do
  tell a part of their directions.)
"""

import colorsys
import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import new_folder, write_json

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
QUESTION_TYPES = ("colour", "shape", "direction", "action", "order", "order_in_sight")
HEARD_TYPES = ("heard_shape", "heard_colour", "heard_direction")
"""What is asked of two shapes in sight that make tones: no picture tells which of them makes the low one."""
SPLITS = ("train", "validation", "test", "test_unseen", "test_together", "pretrain", "test_heard")
"""A split's place here is part of its seed: new ones go to the end."""
KINDS = {
    "train": {"single": 0.4, "sequence": 0.35, "together": 0.25},
    "validation": {"single": 0.5, "sequence": 0.5},
    "test": {"single": 0.5, "sequence": 0.5},
    "test_unseen": {"single": 0.5, "sequence": 0.5},
    "test_together": {"together": 1.0},
    "pretrain": {"single": 0.25, "sequence": 0.4, "together": 0.35},
    "test_heard": {"together": 1.0},
}
"""How much of a split is of each kind: one shape; one shape in each half of the clip; or two shapes in sight all the
time, of which one moves in the first half and the other in the second."""
UNSEEN_PAIRS = (("disc", "yellow"), ("square", "blue"), ("cross", "red"), ("bars", "green"))
"""The (shape, colour) pairs that only the split test_unseen shows."""

MOVES_SHARE = 0.6
PLACES = (0.15, 0.85)
"""Where the centre of a shape may be, as a share of the width: at the ends, an edge cuts off a part of the shape."""
TRAVEL = {"single": 0.35, "sequence": 0.3, "together": 0.3}
"""How far a moving shape goes from the first to the last frame in which it is seen, as a share of the width."""
GAP = 0.01
"""What is at least free between two shapes in sight, as a share of the width."""
NAMELESS_SHARE = {
    "train": {"colour": 0.4, "shape": 0.3},
    "pretrain": {"colour": 0.4, "shape": 0.3},
}
"""The part of a split whose shapes have any colour at all, or a form of NAMELESS_FORMS, which its words do not name:
so shapes are learned apart from colours, and colours apart from shapes. If both are always named, the order of the
shapes and the pairs that exist tell the order of the colours, and nobody learns to see it."""
NAMELESS_FORMS = ("triangle", "diamond", "half")
"""Filled: an equal-sided triangle, a rhombus twice as long as wide, half a disc. Words call each "shape"."""
SATURATION, VALUE = (0.0, 0.9), (0.7, 1.0)
"""The ranges of any colour; the least value is far brighter than the brightest background."""
UNLIKE_UNSEEN, UNLIKE_EACH_OTHER = 70, 120
"""The least RGB distance (of 0..255 a channel) from the colour of an UNSEEN pair, and between two shapes' colours."""
TONES = {
    "disc": 250.0, "triangle": 297.3, "square": 353.6, "diamond": 420.4, "cross": 500.0, "half": 594.6, "bars": 707.1,
}  # fmt: skip
"""Hz of each form's low tone, a quarter of an octave apart. Which of a clip's shapes is low is drawn by itself."""
REGISTERS = {"low": 1, "high": 4}
"""How many times that: the lowest high tone is above the highest low one."""
RHYTHMS = {"red": 4, "green": 6, "blue": 8, "yellow": 10, "purple": 12, "white": 14}
"""How often a second a tone of each colour swells; one of a colour without a name as the nearest named one."""
SWELL = 0.2
"""How loud a tone is between two swells, in parts of a swell's top."""
LOUDNESS = (0.1, 0.4)
"""The amplitude of a tone at the left and at the right end of PLACES."""
FADE = 0.02
"""Seconds in which a tone begins and ends."""
SAMPLES_PER_SECOND = 16000
SWEEP = np.deg2rad(75)
FRAMES_PER_SECOND = 8
FORMAT_VERSION = 6


@dataclass(frozen=True)
class Subject:
    """One shape and what it does: the words for it, and where it is in each frame (lengths in shares of the width)."""

    form: str
    """One of SHAPES or of NAMELESS_FORMS."""
    colour: str
    """One of COLOURS, or "" for a colour without a name."""
    rgb: tuple[float, float, float]
    """0..255 a channel."""
    size: str
    action: str
    direction: str
    frames: range
    """The frames that show it; the arrays below have one value for each."""
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    tone: str = ""
    """One of REGISTERS, or "" if it is not heard."""

    @property
    def shape(self) -> str:
        """The word for the form, or "" if it has none."""
        return self.form if self.form in SHAPES else ""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape or 'shape'}".lstrip()

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


def _draw_looks(generator: np.random.Generator, split: str, count: int) -> list[dict[str, Any]]:
    """`form`, `colour` and `rgb` of each of `count` shapes, which differ in form and colour."""
    shares = NAMELESS_SHARE.get(split, {"colour": 0.0, "shape": 0.0})
    draw = generator.random() if split in NAMELESS_SHARE else 1.0
    if draw < shares["colour"]:
        forms = [str(shape) for shape in generator.permutation(SHAPES)[:count]]
        while True:
            colours = [_draw_any_colour(generator, shape) for shape in forms]
            if count == 1 or math.dist(*colours) >= UNLIKE_EACH_OTHER:
                return [{"form": form, "colour": "", "rgb": rgb} for form, rgb in zip(forms, colours, strict=True)]
    if draw < shares["colour"] + shares["shape"]:
        words = (generator.permutation(tuple(options))[:count] for options in (NAMELESS_FORMS, COLOURS))
        pairs = [(str(form), str(colour)) for form, colour in zip(*words, strict=True)]
    else:
        pairs = _draw_pairs(generator, split, count)
    return [{"form": form, "colour": colour, "rgb": COLOURS[colour]} for form, colour in pairs]


def _draw_any_colour(generator: np.random.Generator, shape: str) -> tuple[float, float, float]:
    """RGB of 0..255, clearly another than the colour that is unseen in this shape."""
    unseen = [COLOURS[colour] for other, colour in UNSEEN_PAIRS if other == shape]
    while True:
        hue, saturation, value = generator.random(), generator.uniform(*SATURATION), generator.uniform(*VALUE)
        red, green, blue = (255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, value))
        if all(math.dist((red, green, blue), rgb) >= UNLIKE_UNSEEN for rgb in unseen):
            return red, green, blue


def _draw_subject(generator: np.random.Generator, look: dict[str, Any], kind: str, frames: range) -> Subject:
    others = [a for a in ACTIONS if a != "moves" and not (a == "turns" and look["form"] == "disc")]
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
    return Subject(
        **look, size=size, action=action, direction=direction, frames=frames, x=x, y=y, radius=radius, angle=angle
    )


def _draw_together(generator: np.random.Generator, looks: list[dict[str, Any]], num_frames: int) -> list[Subject]:
    """Two small shapes in sight in every frame: the first moves in the first half, the other in the second."""
    half = num_frames // 2
    gone = np.zeros((2, num_frames))  # the share of its way that each shape has gone
    gone[0, :half], gone[0, half:] = np.linspace(0, 1, half), 1
    gone[1, half:] = np.linspace(0, 1, num_frames - half)
    directions = [_pick(generator, tuple(DIRECTIONS)) for _ in looks]
    steps = np.array([DIRECTIONS[direction] for direction in directions]) * TRAVEL["together"]
    ways = steps[:, None] * gone[..., None]  # (shapes, frames, (x, y))

    low, high = PLACES
    clear = np.zeros(1, bool)
    while not clear.any():
        tries = 256
        apart = generator.uniform(0, high - low, size=(tries, 2))  # from the first shape to the other, in frame 0
        radii = generator.uniform(*SIZES["small"], size=(tries, 2))
        angles = generator.uniform(0, 2 * np.pi, size=(tries, 2))
        between = (apart[:, None] + ways[1] - ways[0]) % (high - low)  # (tries, frames, (x, y))
        clear = np.ones(tries, bool)
        for across in (0, high - low):  # the ends of the range meet: there are two ways round in x, and two in y
            for along in (0, high - low):
                clear &= _are_clear(looks, between - (across, along), radii, angles).all(axis=1)
    chosen = clear.argmax()
    first = generator.uniform(0, high - low, size=2)
    start = np.stack([first, first + apart[chosen]])
    places = low + (start[:, None] + ways) % (high - low)
    return [
        Subject(
            **look,
            size="small",
            action="moves",
            direction=directions[i],
            frames=range(num_frames),
            x=places[i, :, 0],
            y=places[i, :, 1],
            radius=np.full(num_frames, radii[chosen, i]),
            angle=np.full(num_frames, angles[chosen, i]),
        )
        for i, look in enumerate(looks)
    ]


def _are_clear(looks: list[dict[str, Any]], between: np.ndarray, radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Whether two shapes leave the GAP between them: (tries, frames, (x, y)), two times (tries, shapes) -> bool
    (tries, frames). It is measured along the line of their centres, on which each keeps at least its radius free."""
    distance = np.hypot(between[..., 0], between[..., 1])
    needed = np.full_like(distance, GAP)
    for look, radius, angle in zip(looks, radii.T[..., None], angles.T[..., None], strict=True):
        u = np.abs(between[..., 0] * np.cos(angle) + between[..., 1] * np.sin(angle)) / distance
        v = np.abs(between[..., 1] * np.cos(angle) - between[..., 0] * np.sin(angle)) / distance
        needed += radius * np.maximum(_reach(look["form"], u, v), 1)
    return distance >= needed


def plan_clip(seed: int, split: str, index: int, num_frames: int = 8, sound: bool = False) -> list[Subject]:
    """What clip `index` of a split shows: one subject, or two in the order in which they act; with their tones."""
    subjects = _plan(_generator(seed, split, index), split, num_frames)[1]
    return _with_tones(_sound_generator(seed, split, index), subjects) if sound else subjects


def _sound_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """What is heard is drawn apart, so that the pictures are those of the clip without sound."""
    return np.random.default_rng([seed, SPLITS.index(split), index, 1])


def _with_tones(generator: np.random.Generator, subjects: list[Subject]) -> list[Subject]:
    """The subjects with a tone each: of two, one is low and the other high."""
    tones = [str(tone) for tone in generator.permutation(tuple(REGISTERS))]
    return [replace(subject, tone=tone) for subject, tone in zip(subjects, tones, strict=False)]


def _plan(generator: np.random.Generator, split: str, num_frames: int) -> tuple[str, list[Subject]]:
    """The kind of a clip, and its subjects in the order in which they act."""
    kinds = KINDS[split]
    place = int(np.searchsorted(np.cumsum(list(kinds.values()))[:-1], generator.random(), side="right"))
    kind = list(kinds)[place]
    looks = _draw_looks(generator, split, 1 if kind == "single" else 2)
    if kind == "together":
        return kind, _draw_together(generator, looks, num_frames)
    half = num_frames // 2
    spans = [range(num_frames)] if kind == "single" else [range(half), range(half, num_frames)]
    return kind, [_draw_subject(generator, look, kind, span) for look, span in zip(looks, spans, strict=True)]


def signed_distance(form: str, u: np.ndarray, v: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The distance of points (u, v), in the shape's own axes, to its outline; negative inside."""
    if form == "half":
        return np.maximum(np.hypot(u, v) - r, -v)
    u = np.abs(u)
    if form == "triangle":
        return np.maximum(v, np.sqrt(0.75) * u - 0.5 * v) - 0.5 * r
    v = np.abs(v)
    if form == "diamond":
        return (0.5 * u + v - 0.5 * r) / np.sqrt(1.25)
    if form == "disc":
        return np.hypot(u, v) - r
    if form == "square":  # a thick frame around a hole, so that no part of it looks like the thin bars
        return np.abs(np.maximum(u, v) - 0.63 * r) - 0.27 * r
    if form == "cross":
        return np.minimum(np.maximum(u - r, v - 0.28 * r), np.maximum(u - 0.28 * r, v - r))
    return np.maximum(np.abs(u - 0.5 * r) - 0.17 * r, v - r)  # two bars


def _reach(form: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far a shape of radius 1 reaches along (u, v), a direction in its own axes: of length 1, nothing negative."""
    if form == "disc" or form in NAMELESS_FORMS:  # those stay within a circle
        return np.ones_like(u)
    if form == "square":
        return 0.9 * (u + v)
    if form == "cross":
        return np.maximum(u + 0.28 * v, 0.28 * u + v)
    return 0.67 * u + v  # two bars


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
        cover = np.clip(0.5 - size * signed_distance(subject.form, u, v, radius), 0, 1)[..., None]
        shown = frames[subject.frames.start : subject.frames.stop]
        shown += cover * (np.array(subject.rgb, np.float32) - shown)
    frames += 6 * generator.standard_normal((num_frames, size, size, 1), dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def draw_sound(seed: int, split: str, index: int, num_frames: int = 8) -> np.ndarray:
    """
    What is heard in a clip: (num_frames / FRAMES_PER_SECOND * SAMPLES_PER_SECOND,) float32 in -1..1.

    Each shape is heard as long as it is in sight: its form is the pitch (TONES), its colour the rhythm (RHYTHMS), and
    its place from left to right the loudness, which follows its movement without a jump.
    """
    generator = _sound_generator(seed, split, index)
    subjects = _with_tones(generator, _plan(_generator(seed, split, index), split, num_frames)[1])
    time = np.arange(num_frames * SAMPLES_PER_SECOND // FRAMES_PER_SECOND) / SAMPLES_PER_SECOND
    heard = np.zeros(len(time))
    for subject in subjects:
        pitch = TONES[subject.form] * REGISTERS[subject.tone]
        rhythm = RHYTHMS[subject.colour or min(COLOURS, key=lambda name: math.dist(COLOURS[name], subject.rgb))]
        phase, beat = generator.uniform(0, 2 * np.pi, 2)
        swell = SWELL + (1 - SWELL) * (1 - np.cos(2 * np.pi * rhythm * time + beat)) / 2
        shown = (np.array(subject.frames) + 0.5) / FRAMES_PER_SECOND  # the middle of each frame
        loudness = np.interp(np.interp(time, shown, subject.x), PLACES, LOUDNESS)
        begin, end = subject.frames.start / FRAMES_PER_SECOND, subject.frames.stop / FRAMES_PER_SECOND
        fade = np.clip(np.minimum(time - begin, end - time) / FADE, 0, 1)
        heard += fade * loudness * swell * np.sin(2 * np.pi * pitch * time + phase)
    return heard.astype(np.float32)


def _heard_questions(generator: np.random.Generator, subjects: list[Subject]) -> dict[str, list[dict[str, Any]]]:
    """What is asked of two shapes in sight that make tones, in the forms of `_words`."""
    questions, blanks = [], []
    for subject, other in (subjects, subjects[::-1]):
        tone = f"the {subject.tone} tone"
        asked = [
            ("heard_shape", subject.shape, f"what makes {tone}?", f"the [MASK] makes {tone}"),
            ("heard_colour", subject.colour, f"which colour makes {tone}?", f"the [MASK] shape makes {tone}"),
        ]
        if subject.direction != other.direction:
            where = f"where does the shape move that makes {tone}?", f"the shape that makes {tone} moves [MASK]"
            asked.append(("heard_direction", subject.direction, *where))
        for kind, answer, question, sentence in asked:
            if answer:
                questions.append({"question": question, "answer": answer, "type": kind})
                blanks.append({"sentence": sentence, "answer": answer, "type": kind})
    return {
        "questions": questions,
        "multiple_choice": [_with_options(generator, question, subjects) for question in questions],
        "fill_in_the_blank": blanks,
    }


def _words(generator: np.random.Generator, kind: str, subjects: list[Subject]) -> dict[str, Any]:
    """The caption of a clip and all that is asked: of one shape its properties, of two their order.

    Nothing asks for or names a colour or a form that has no name.
    """
    questions, blanks = [], []

    def ask(question_type: str, answer: str, question: str, sentence: str) -> None:
        if answer:
            questions.append({"question": question, "answer": answer, "type": question_type})
            blanks.append({"sentence": sentence, "answer": answer, "type": question_type})

    if kind == "single":
        (subject,) = subjects
        shape, colour, name = subject.shape, subject.colour, subject.name
        # Neither names the other property: pairs of shape and colour that are never seen would be told by the words.
        ask("colour", colour, "what colour is it?", "it is [MASK]")
        ask("shape", shape, "what shape is it?", "it is a [MASK]")
        ask("action", subject.action, f"what does the {name} do?", f"the {name} [MASK]")
        ask("direction", subject.direction, f"where does the {name} move?", f"the {name} moves [MASK]")
    else:
        order, does = ("order", "comes") if kind == "sequence" else ("order_in_sight", "moves")
        for subject, place in zip(subjects, ("first", "last"), strict=True):
            ask(order, subject.shape, f"what {does} {place}?", f"the [MASK] {does} {place}")
            ask(order, subject.colour, f"which colour {does} {place}?", f"the [MASK] shape {does} {place}")

    return {
        "kind": kind,
        "caption": ", then ".join(subject.clause for subject in subjects),
        "wrong_caption": _wrong_caption(generator, subjects),
        "shapes": [
            {key: getattr(subject, key) for key in ("shape", "colour", "size", "action", "direction")}
            for subject in subjects
        ],
        "questions": questions,
        "multiple_choice": [_with_options(generator, question, subjects) for question in questions],
        "fill_in_the_blank": blanks,
    }


def _wrong_caption(generator: np.random.Generator, subjects: list[Subject]) -> str:
    """
    The caption with one word exchanged: for another of its kind, or with the other shape's. No exchange makes one of
    the UNSEEN_PAIRS: a word that would is not taken, and two shapes exchange both words then.
    """
    does = "direction" if subjects[0].direction else "action"
    kinds = ("shape", "colour") if len(subjects) == 2 else ("shape", "colour", does, does)
    kind = _pick(generator, [kind for kind in kinds if getattr(subjects[0], kind)])

    def is_unseen(subject: Subject, word: str) -> bool:
        shape = word if kind == "shape" else subject.shape
        colour = word if kind == "colour" else subject.colour
        return (shape, colour) in UNSEEN_PAIRS and (shape, colour) != (subject.shape, subject.colour)

    if len(subjects) == 2:
        words = [getattr(subject, kind) for subject in reversed(subjects)]
        if any(map(is_unseen, subjects, words)):
            kind, words = "name", [subject.name for subject in reversed(subjects)]
    else:
        (subject,) = subjects
        own = getattr(subject, kind)
        words = [_pick(generator, [word for word in WORDS[kind] if word != own and not is_unseen(subject, word)])]
    clauses = [
        subject.clause.replace(getattr(subject, kind), word, 1) for subject, word in zip(subjects, words, strict=True)
    ]
    return ", then ".join(clauses)


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
    seed: int, split: str, index: int, size: int = 64, num_frames: int = 8, sound: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """
    Draw one clip: its frames, (num_frames, size, size, 3) uint8, and its annotation (all columns but `video`). Frames
    and words are the same with sound and without; with it there are the tone of each shape, and what is asked of two
    shapes in sight; the split test_heard asks nothing else. What is heard is `draw_sound`.
    """
    generator = _generator(seed, split, index)
    kind, subjects = _plan(generator, split, num_frames)
    annotation = {"id": f"{split}-{index:06d}", **_words(generator, kind, subjects)}
    frames = _paint(generator, subjects, size, num_frames)
    if sound:
        own = _sound_generator(seed, split, index)
        subjects = _with_tones(own, subjects)
        for shape, subject in zip(annotation["shapes"], subjects, strict=True):
            shape["tone"] = subject.tone
        asked = _heard_questions(own, subjects) if kind == "together" else {}
        for column, entries in asked.items():
            annotation[column] = entries if split == "test_heard" else [*annotation[column], *entries]
    return frames, annotation


def encode_clip(frames: np.ndarray, path: Path, sound: np.ndarray | None = None) -> None:
    """Write frames, (num_frames, height, width, 3) uint8, as H.264, and sound, (samples,) float32, as AAC; always with
    the same bytes.

    That needs one thread and no B-frames: with them, one file in ten differed from run to run (x264 core 165).
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}
        tones = None if sound is None else container.add_stream("aac", rate=SAMPLES_PER_SECOND, layout="mono")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None and tones is not None:
            heard = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLES_PER_SECOND, 0
            container.mux(tones.encode(heard))
            container.mux(tones.encode(None))


def moving_shapes(
    folder: str | os.PathLike,
    *,
    train: int = 6000,
    validation: int = 300,
    test: int = 600,
    test_unseen: int = 300,
    test_together: int = 300,
    pretrain: int = 0,
    test_heard: int | None = None,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    sound: bool = False,
    num_proc: int | None = None,
) -> "DatasetDict":
    """Write the data set into `folder`, or reuse it there, and return its splits; a split of 0 clips is left out.

    A row is a clip: `id`, `video` (the absolute path of an mp4), `kind` (see KINDS), `caption`, `shapes`, `questions`,
    `multiple_choice`, `fill_in_the_blank`; see `open_ended` for one row per question. Some splits differ:

    - `test_unseen` is about the UNSEEN_PAIRS of shape and colour, which no other split shows.
    - `test_together` holds the harder question of order, "order_in_sight", which the other test splits do not ask.
    - `pretrain` is for learning from captions.
    - `test_heard`, only with sound, shows two shapes all the time, and asks what makes the low and the high tone, in
      which colour, and where it moves: pictures leave two answers, equally often right.

    Of `train` and `pretrain`, two clips in five show shapes in any colour and name none ("a small disc moves left";
    `colour` is ""; none comes near the colour that is UNSEEN in its shape, see UNLIKE_UNSEEN), and three in ten forms
    without a name ("a small red shape moves left"; `shape` is ""). No `wrong_caption` names an UNSEEN pair either.

    The folder is whole or absent: clips go to `.<name>.partial` beside it, which is renamed at the end and which the
    next call replaces when a process was killed half-way.

    Args:
        size: height and width in pixels, even.
        num_frames: frames of a clip, at least 4, at 8 frames a second.
        test_heard: clips of that split; 300 with sound if it is not given.
        sound: whether shapes make tones, which the files hold as AAC, see `draw_sound`; and what is heard is asked.
        num_proc: how many clips are drawn at a time, in threads (a killed process then leaves no orphans behind);
            by default as many as there are cores, at most 8.

    Raises:
        ValueError: for an odd size, too few frames, a negative count or no clip at all.
        FileExistsError: if `folder` holds something else, or this data set with other settings. Nothing is deleted.
    """
    counts = {
        "train": train,
        "validation": validation,
        "test": test,
        "test_unseen": test_unseen,
        "test_together": test_together,
        "pretrain": pretrain,
        "test_heard": (300 if sound else 0) if test_heard is None else test_heard,
    }
    if counts["test_heard"] and not sound:
        raise ValueError("the split test_heard asks what is heard: it needs `sound=True`")
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ValueError(f"the splits need zero or more clips, and one of them at least one: {counts}")
    if size < 16 or size % 2 or num_frames < 4:
        raise ValueError(f"size must be even and at least 16, num_frames at least 4: got {size} and {num_frames}")
    counts = {split: count for split, count in counts.items() if count}
    drawn = {"seed": seed, "size": size, "num_frames": num_frames} | ({"sound": True} if sound else {})
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
            drawn = settings["drawn"]
            heard = draw_sound(drawn["seed"], split, index, drawn["num_frames"]) if "sound" in drawn else None
            encode_clip(frames, partial / split / f"{annotation['id']}.mp4", heard)
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
    """One row per question, a clip's side by side: `video`, `question`, `answer`, `question_type`, `caption`, `id`."""
    return _asked(dataset, "questions", "question", "answer")


def multiple_choice(dataset: "Dataset") -> "Dataset":
    """As `open_ended`, with `options`, a list of four; `answer` is the number of the right one."""
    return _asked(dataset, "multiple_choice", "question", "options", "answer")


def fill_in_the_blank(dataset: "Dataset") -> "Dataset":
    """As `open_ended`, with `text`, a sentence with [MASK] for the word `answer`, in place of `question`."""
    return _asked(dataset, "fill_in_the_blank", "sentence", "answer").rename_column("sentence", "text")


def captioned(dataset: "Dataset") -> "Dataset":
    """One row per clip: `video`, `caption`, `id`."""
    return dataset.select_columns(["video", "caption", "id"])


def described(dataset: "Dataset") -> "Dataset":
    """
    As `captioned`, for the clips whose caption names colour and form of every shape. A model that learns to write from
    the others too learns to leave names out: "a large cross" of a white one.
    """
    named = [
        number
        for number, shapes in enumerate(dataset["shapes"])
        if all(one["colour"] and one["shape"] for one in shapes)
    ]
    return captioned(dataset.select(named))


def classified(dataset: "Dataset") -> "Dataset":
    """
    One row per clip of a single shape: `video`, `label`, a list with what the shape does ("moves left", "grows"),
    `caption`, `id`.
    """
    from datasets import Dataset

    rows = []
    for clip in dataset:
        if len(clip["shapes"]) == 1:
            (shape,) = clip["shapes"]
            label = " ".join(word for word in (shape["action"], shape["direction"]) if word)
            rows.append({"video": clip["video"], "label": [label], "caption": clip["caption"], "id": clip["id"]})
    return Dataset.from_list(rows)


def _asked(dataset: "Dataset", column: str, *keys: str) -> "Dataset":
    """A row for each entry of a clip's `column`, with those of its keys."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "video": clip["video"],
                **{key: entry[key] for key in keys},
                "question_type": entry["type"],
                "caption": clip["caption"],
                "id": clip["id"],
            }
            for clip in dataset
            for entry in clip[column]
        ]
    )


def gallery(dataset: "Dataset", size: int = 100) -> "Dataset":
    """
    Captioned clips to be told apart, one row per clip as of `captioned`: at most `size`, no caption twice. Up to half
    of them are pairs that differ only in motion: one shape of the same colour, form and size.
    """
    first: dict[str, int] = {}
    for number, clip in enumerate(dataset):
        first.setdefault(clip["caption"], number)
    looks: dict[tuple, list[int]] = {}
    for number in first.values():
        if len(shapes := dataset[number]["shapes"]) == 1:
            looks.setdefault(tuple(shapes[0][key] for key in ("colour", "shape", "size")), []).append(number)
    pairs = [number for alike in looks.values() if len(alike) > 1 for number in alike[:2]]
    chosen = dict.fromkeys(pairs[: size // 4 * 2])
    chosen |= dict.fromkeys(number for number in first.values() if number not in chosen)
    return captioned(dataset.select(list(chosen)[:size]))
