"""
The benchmarks that VIOLET is measured on: what each asks, in which files it comes, how it was trained and what was
reached.

    >>> BENCHMARKS["msvd-qa"].published["v2, paper"]
    {'accuracy': 54.7}
    >>> check_benchmark(BENCHMARKS["msvd-qa"], "downloads").problems
    ['txt_msvd-qa.json: missing. …']
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .annotations import class_rows, published_rows, read_original
from .class_annotations import ClassReader, activitynet, kinetics, moments, something_v1, something_v2
from .long_annotations import RowReader, activitynet_captions, activitynet_qa, condensed_movies, didemo, how2qa, queryd
from .rows import COLUMNS
from .tables import TableError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Recipe:
    """
    How a published model was fine-tuned, as its `args_*.json` says.

    Attributes:
        epochs, batch_size: passes over the training rows; rows (or videos, in retrieval) a GPU and step.
        learning_rate: the peak, of AdamW with betas (0.9, 0.98).
        schedule: "linear" (a tenth of the steps up, then down to 0), "cosine" (a hundredth) or "constant".
        frames, side: frames of a clip, and their width and height in pixels.
        logit_scale_rate: learning rate of the temperature, as a multiple of `learning_rate`.
        text_length: tokens of a text, beyond which it is cut.
        by_mask: whether the masked-language head answers, at the [MASK] of the benchmark's `prompt`, instead of a
            classifier, or of one score for each option.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 2e-5
    weight_decay: float = 1e-3
    schedule: str = "linear"
    frames: int = 5
    side: int = 224
    text_length: int = 25
    logit_scale_rate: float = 1.0
    by_mask: bool = False


def _clip_vip(epochs: int, **more: Any) -> Recipe:
    """CLIP-ViP's, on eight GPUs; the learning rate of B/16 and B/32."""
    settings = {"batch_size": 16, "learning_rate": 1e-6, "weight_decay": 0.2, "schedule": "cosine", "frames": 12}
    return Recipe(epochs, **{**settings, **more})


def _v1(batch_size: int) -> Recipe:
    return Recipe(epochs=20, batch_size=batch_size, learning_rate=1.2e-5, schedule="constant")


@dataclass(frozen=True)
class Benchmark:
    """
    Attributes:
        name: such as "msvd-qa"; its annotations lie in `txt_{name}.json`, if `files` names no others.
        dataset: whose videos they are: `{dataset}.tsv`, `{dataset}.pkl` or the folder `{dataset}/`.
        task: one of `violet.training.TASKS`.
        about: a sentence: what is asked of what.
        splits: by name ("train", "val", "test"), how many `counted` the published split has; `None` if that is not
            known.
        files: split -> the file of its annotations as the data set's authors publish it, by the names that are in use;
            without any it is the original's, with all splits.
        read: what reads these files, but the original's: of `long_annotations`, for classes of `class_annotations`.
        layout: what these files look like, in words.
        counted: "questions" or "videos": what `splits` counts.
        split_note: which of the data set's splits these are, if there are several in use.
        texts: "sentences", each a row of its own, or "paragraph": all of a video's joined to one text, one sentence
            per line.
        example: a row of the annotations as the file has it.
        num_answers: the size of the answer vocabulary, the file's `vocab`.
        num_options: how many options each question has.
        prompt: how VIOLETv2's masked language head was asked; "" for a classifier or the match head.
        metrics: what is reported, the first being the one that counts; of those of the task's evaluation.
        recipes: by model: "v1" and "v2", if their files have one; "default", this project's, if neither has; and other
            systems' own, such as "clip-vip".
        published: what was reached, by whom; in percent, as `metrics` are in shares.
    """

    name: str
    dataset: str
    task: str
    about: str
    splits: Mapping[str, int | None]
    example: Mapping[str, Any]
    metrics: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    split_note: str = ""
    texts: str = "sentences"
    num_answers: int | None = None
    num_options: int | None = None
    prompt: str = ""
    counted: str = "questions"
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    read: ClassReader | RowReader | None = None
    layout: str = ""

    @property
    def annotations(self) -> str:
        return " and ".join(dict.fromkeys(names[0] for names in self.files.values())) or self.original

    @property
    def original(self) -> str:
        """The file of the original's that has all splits."""
        return f"txt_{self.name}.json"

    def find_annotations(self, folder: str | os.PathLike, split: str) -> Path:
        """The file of a split: of the names in use the first that is there, or the first of all."""
        paths = [Path(folder) / name for name in self.files.get(split, (self.annotations,))]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def pictures(self) -> tuple[str, ...]:
        """Where its videos may be: the first of these that is there."""
        return f"{self.dataset}.tsv", f"{self.dataset}.pkl", self.dataset

    def find_pictures(self, folder: str | os.PathLike) -> Path | None:
        return next((path for name in self.pictures if (path := Path(folder) / name).exists()), None)

    def rows(self, folder: str | os.PathLike, split: str) -> "Dataset":
        """
        The rows of a split, as `TASKS[task]` takes them.

        Raises:
            TableError: if the folder does not hold what it should, see `check_benchmark`.
        """
        problems = _missing(self, Path(folder))
        if problems:
            raise TableError(" ".join(problems))
        pictures = self.find_pictures(folder)
        assert pictures is not None  # else it were among the problems
        annotations = self.find_annotations(folder, split)
        if self.read is not None and annotations.name != self.original:
            read: Any = class_rows if self.task == "classification" else published_rows
            return read(annotations, pictures, split, self.read)
        rows = read_original(annotations, pictures, split, COLUMNS[self.task])
        return _paragraphs(rows) if self.texts == "paragraph" else rows


@dataclass(frozen=True)
class BenchmarkCheck:
    """
    Attributes:
        problems: what is missing or cannot be read: file, what is wrong, what it should look like.
        notes: what is not as published, such as the number of rows.
        tables: the rows of each split that can be read.
    """

    problems: list[str]
    notes: list[str] = field(default_factory=list)
    tables: dict[str, "Dataset"] = field(default_factory=dict)


def check_benchmark(benchmark: Benchmark, folder: str | os.PathLike) -> BenchmarkCheck:
    """Whether a folder holds the benchmark; every row is read, no video is decoded."""
    check = BenchmarkCheck(_missing(benchmark, Path(folder)))
    if check.problems:
        return check
    for split, published in benchmark.splits.items():
        try:
            rows = benchmark.rows(folder, split)
        except TableError as error:
            if split == "val":
                check.notes.append(f"There is no validation: {error}")
            else:
                check.problems.append(f"{error} {_layout(benchmark)}")
            continue
        check.tables[split] = rows
        found = len(set(rows["video"])) if benchmark.counted == "videos" else len(rows)
        if published is not None and found != published:
            check.notes.append(
                f"The split {split!r} has {found} {benchmark.counted}; the published one has {published}."
            )
    return check


def _missing(benchmark: Benchmark, folder: Path) -> list[str]:
    problems = []
    files = dict.fromkeys(benchmark.find_annotations(folder, split) for split in benchmark.splits)
    problems += [f"{file}: missing. {_layout(benchmark)}" for file in files if not file.is_file()]
    if benchmark.find_pictures(folder) is None:
        tsv, pickled, clips = benchmark.pictures
        name = benchmark.example["video"]
        problems.append(
            f"{folder / tsv}: missing, and so are {pickled} and {clips}/. One is needed: a TSV whose lines are an id "
            f"and base64 JPEG frames between tabs ({name}\\t/9j/4AAQ…\\t/9j/4AAQ…), a pickle "
            f"{{id: [base64 JPEG, …]}}, or a folder of clips ({clips}/{name}.mp4) or of frame folders."
        )
    return problems


def _layout(benchmark: Benchmark) -> str:
    if benchmark.layout:
        return benchmark.layout
    answers = ', and "vocab": [answer, …], of which `answer` is a number' if benchmark.num_answers else ""
    return (
        f'{benchmark.annotations} is a JSON object with the rows of "train", "val" (if there is one) and "test"'
        f"{answers}; a row: {json.dumps(benchmark.example)}"
    )


def _paragraphs(rows: "Dataset") -> "Dataset":
    """All captions of a video joined to one, in their order, one per line."""
    from datasets import Dataset

    joined: dict[str, dict[str, Any]] = {}
    for row in rows:
        sentence = " ".join(row["caption"].split())
        if row["video"] in joined:
            joined[row["video"]]["caption"] += "\n" + sentence
        else:
            joined[row["video"]] = {**row, "caption": sentence}
    return Dataset.from_list(list(joined.values()))


RECALLS = ("text_to_video_r1", "text_to_video_r5", "text_to_video_r10")
CAPTION_METRICS = ("cider_d", "bleu_4", "meteor", "rouge_l")


def _recalls(*values: float) -> dict[str, float]:
    return dict(zip(RECALLS, values, strict=True))


def _retrieval(dataset: str, about: str, name: str = "", **more: Any) -> Benchmark:
    return Benchmark(
        **{
            "name": name or f"{dataset}-retrieval",
            "dataset": dataset,
            "task": "retrieval",
            "about": about,
            "example": {"video": "video7010", "caption": "a man is cooking"},
            "metrics": RECALLS,
            "counted": "videos",
            "recipes": {"v2": Recipe(epochs=20, batch_size=8)},
            **more,
        }
    )


def _open_ended(dataset: str, name: str, about: str, num_answers: int, **more: Any) -> Benchmark:
    return Benchmark(
        **{
            "name": name,
            "dataset": dataset,
            "task": "open-ended",
            "about": about,
            "example": {"video": "video7010", "question": "what is a man doing?", "answer": 17},
            "metrics": ("accuracy",),
            "num_answers": num_answers,
            "prompt": "{question} answer: [MASK]",
            "recipes": {"v2": Recipe(epochs=20, batch_size=10, by_mask=True)},
            **more,
        }
    )


def _multiple_choice(dataset: str, name: str, about: str, **more: Any) -> Benchmark:
    question = {"video": "video7010", "question": "what does the man do 2 times?"}
    options = {f"option_{number}": text for number, text in enumerate(("nod", "jump", "wave", "clap", "turn"))}
    return Benchmark(
        **{
            "name": name,
            "dataset": dataset,
            "task": "multiple-choice",
            "about": about,
            "example": question | options | {"answer": 1},
            "metrics": ("accuracy",),
            "num_options": 5,
            "recipes": {"v2": Recipe(epochs=20, batch_size=8)},
            **more,
        }
    )


def _captioning(dataset: str, about: str, **more: Any) -> Benchmark:
    return Benchmark(
        **{
            "name": f"{dataset}-caption",
            "dataset": dataset,
            "task": "captioning",
            "about": about,
            "example": {"video": "video7010", "caption": "a man is cooking"},
            "metrics": CAPTION_METRICS,
            "counted": "videos",
            "recipes": {"default": Recipe(epochs=20, batch_size=8, text_length=50)},
            **more,
        }
    )


def _classification(name: str, dataset: str, about: str, **more: Any) -> Benchmark:
    return Benchmark(
        **{
            "name": name,
            "dataset": dataset,
            "task": "classification",
            "about": about,
            "metrics": ("accuracy", "accuracy_top5", "mean_class_accuracy"),
            "recipes": {"default": Recipe(epochs=20, batch_size=8, frames=8)},
            "counted": "videos",
            "split_note": "the test split is the data set's validation split, as is usual: the labels of its test "
            "split are not published",
            **more,
        }
    )


def _kinetics(classes: int, **more: Any) -> Benchmark:
    return _classification(
        f"kinetics-{classes}",
        f"kinetics{classes}",
        f"What people do in ten seconds of a web video, of {classes} classes.",
        example={"video": "0347ZoDXyP0_000095_000105", "label": "abseiling"},
        files={
            "train": ("train.csv", "kinetics_train.csv", f"kinetics-{classes}_train.csv"),
            "test": ("val.csv", "validate.csv", "kinetics_val.csv", f"kinetics-{classes}_val.csv"),
        },  # of CVDF, DeepMind (validate.csv), MMAction2 and ActivityNet's crawler
        read=kinetics,
        layout="train.csv and val.csv (or validate.csv) are tables with a header: "
        "label,youtube_id,time_start,time_end,split; a row: abseiling,0347ZoDXyP0,95,105,train",
        **more,
    )


def _something(version: int, read: ClassReader, files: Mapping[str, tuple[str, ...]], **more: Any) -> Benchmark:
    name = f"something-something-v{version}"
    return _classification(
        name,
        f"20bn-{name}",
        "What a hand does with something, of 174 classes that differ in time.",
        files=files,
        read=read,
        **more,
    )


def _top(first: float, five: float | None = None) -> dict[str, float]:
    return {"accuracy": first} | ({} if five is None else {"accuracy_top5": five})


# https://github.com/OpenGVLab/UniFormerV2/blob/main/MODEL_ZOO.md, which has no top-5
_UNIFORMER = "UniFormerV2-L/14, its MODEL_ZOO.md{}"
"""… and what that file tells of it: side, frames x spatial crops x clips of a test."""
# https://github.com/google-research/google-research/blob/master/vatt/README.md, "Fine-tuned checkpoints"
_VATT = "VATT-L, its README"


_DIGITS = "{question} [SEP] option 0: {option_0} [SEP] … [MASK]"
_ALL = (
    _retrieval(
        "msrvtt",
        "One of 20 sentences about a clip finds it among the clips of the test split.",
        splits={"train": 7010, "val": None, "test": 1000},
        split_note="7k: the training and validation clips of the data set's own split; 1,000 test clips with a "
        "sentence each",
        recipes={"v1": _v1(6), "v2": Recipe(epochs=20, batch_size=8)},
        published={"v2, paper": _recalls(37.2, 64.8, 75.8), "v2, rerun": _recalls(36.3, 64.9, 75.5)},
    ),
    _retrieval(
        "msrvtt",
        "Text-to-video retrieval with the split 1k-A (Yu et al., 2018, arXiv:1808.02559).",
        name="msrvtt-1ka-retrieval",
        splits={"train": 9000, "val": None, "test": 1000},
        split_note="9k: all clips but the 1,000 of 1k-A, which are the test split, a sentence each",
        # Five passes over the captions: its hundred "epochs" each draw one of the 20 of a video.
        recipes={"default": Recipe(epochs=20, batch_size=8), "clip-vip": _clip_vip(5, text_length=50)},
        published={
            "CLIP-ViP B/32, its authors' issue 13": _recalls(50.1, 74.8, 84.6),
            "CLIP-ViP B/16 without fine-tuning, issue 26": _recalls(31.7, 53.8, 63.2),
        },
    ),
    _retrieval(
        "didemo",
        "All sentences about a video, as one paragraph, find it.",
        splits={"train": 8395, "val": 1065, "test": 1004},
        texts="paragraph",
        files={split: ("txt_didemo-retrieval.json", f"{split}_data.json") for split in ("train", "val", "test")},
        read=didemo,
        layout='It is the original VIOLET\'s JSON object with the rows of "train", "val" and "test"; a row: '
        '{"video": "26292851@N04_4253489686_265c3c8051", "caption": "someone kicks the bug towards some rocks."}. Or '
        "there are the data set's own train_data.json, val_data.json and test_data.json, JSON lists; a row: "
        '{"num_segments": 6, "description": "someone kicks the bug towards some rocks.", "dl_link": "https://www.'
        'flickr.com/video_download.gne?id=4253489686", "times": [[4, 4], [4, 4], [0, 0], [4, 4]], "video": '
        '"26292851@N04_4253489686_265c3c8051.m4v", "annotation_id": 1}',
        recipes={
            "v2": Recipe(epochs=20, batch_size=8, text_length=100),
            "clip-vip": _clip_vip(20, text_length=70, logit_scale_rate=10.0),
        },
        published={"v2, paper": _recalls(47.9, 76.5, 84.1), "v2, rerun": _recalls(46.0, 74.1, 83.9)},
    ),
    _retrieval(
        "lsmdc",
        "A sentence from a film's audio description finds its clip.",
        splits={"train": 101079, "val": 7408, "test": 1000},
        recipes={"v2": Recipe(epochs=20, batch_size=8), "clip-vip": _clip_vip(10, text_length=50)},
        published={"v2, paper": _recalls(24.0, 43.5, 54.1), "v2, rerun": _recalls(25.1, 44.2, 54.9)},
    ),
    _retrieval(
        "activitynet",
        "All sentences about a video, as one paragraph, find it: paragraph-to-video on ActivityNet Captions.",
        name="activitynet-paragraph-retrieval",
        # https://github.com/albanie/collaborative-experts, misc/datasets/activity-net/README.md
        splits={"train": 10009, "test": 4917},
        split_note="the test split is the data set's val_1, as is usual; val_2 has other sentences about 4,885 of the "
        "same videos",
        texts="paragraph",
        recipes={
            "default": Recipe(epochs=20, batch_size=8, text_length=100),
            "clip-vip": _clip_vip(20, text_length=70, batch_size=8, frames=32),
        },
        example={"video": "v_QOlSCBRmfWY", "caption": "A young woman is seen standing in a room. …"},
        files={
            "train": ("train.json", "captions/train.json", "txt_activitynet-paragraph-retrieval.json"),
            "test": ("val_1.json", "captions/val_1.json", "txt_activitynet-paragraph-retrieval.json"),
        },
        read=activitynet_captions,
        layout='train.json and val_1.json are JSON objects {id: video}; a video: {"duration": 82.73, "timestamps": '
        '[[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]], "sentences": ["A young woman is seen standing in a room and '
        'leads into her dancing.", " The girl dances around the room while the camera captures her movements.", …]}',
    ),
    _retrieval(
        "queryd",
        "All sentences of a person's audio description of a video, as one paragraph, find it.",
        # The lists of the first version's archive, whose sha1 is 0207ea85…: https://github.com/akoepke/
        # audio-retrieval-benchmark, utils/misc/datasets/queryd/README.md. No numbers of the second were found.
        splits={"train": 1796, "val": 384, "test": 386},
        split_note="the data set's own lists; its second version has more videos than these numbers",
        texts="paragraph",
        recipes={"default": Recipe(epochs=20, batch_size=8, text_length=200)},
        example={"video": "video-RXFilHLLqPM", "caption": "…"},
        files={
            split: (f"{split}_list.txt", f"exists_{split}_list.txt", f"structured-symlinks/{split}_list.txt")
            for split in ("train", "val", "test")
        },
        read=queryd,
        layout="train_list.txt, val_list.txt and test_list.txt have a line for each video: video-RXFilHLLqPM; beside "
        "them is raw_captions_combined_filtered.pkl (or …-v2.pkl), a pickle {id: [[word, …], …]}: the words of each "
        "sentence",
        # https://github.com/oncescuandreea/QuerYD_downloader, README.md, "2nd Version": CE, text to video
        published={"Collaborative Experts, version 2, QuerYD's README": _recalls(31.9, 64.5, 76.1)},
    ),
    _retrieval(
        "condensed-movies",
        "A paragraph about a scene of a film finds its clip of some two minutes.",
        splits={"train": None, "val": None, "test": None},  # no publisher's numbers were found
        split_note="those of the challenge of 2021, or of the first edition if its files are there; they differ",
        texts="paragraph",
        recipes={"default": Recipe(epochs=20, batch_size=8, text_length=100)},
        example={"video": "Sv-BxH3SVS8", "caption": "…"},
        files={
            "train": ("train_val_challf0.csv", "metadata/train_val_challf0.csv", "clips.csv", "metadata/clips.csv"),
            "val": ("train_val_challf0.csv", "metadata/train_val_challf0.csv", "clips.csv", "metadata/clips.csv"),
            "test": ("test_challf0.csv", "metadata/test_challf0.csv", "clips.csv", "metadata/clips.csv"),
        },
        read=condensed_movies,
        layout="train_val_challf0.csv and test_challf0.csv are tables with a header, of which videoid, caption and "
        "split (train, val, test) are read. Or there are the first edition's clips.csv (videoid, imdbid, …), "
        "descriptions.csv (videoid, description) and split.csv (imdbid,split)",
    ),
    _multiple_choice(
        "how2qa",
        "how2qa",
        "Which of four answers is right about a span of a video in which people speak.",
        splits={"train": 34187, "test": 3115},  # https://github.com/VALUE-Leaderboard/DataRelease, DATA.md
        split_note="the test split is VALUE's validation split: the answers of its test_public are not published; the "
        "first release, in .csv, has other numbers",
        num_options=4,
        recipes={"default": Recipe(epochs=20, batch_size=4, text_length=50)},
        example={"video": "inUvyZl_hjA_180_240", "question": "how many knife is there?", "answer": 3},
        files={
            "train": ("how2qa_train_release.jsonl", "how2qa/how2qa_train_release.jsonl", "how2QA_train_release.csv"),
            "test": ("how2qa_val_release.jsonl", "how2qa/how2qa_val_release.jsonl", "how2QA_val_release.csv"),
        },
        read=how2qa,
        layout="how2qa_train_release.jsonl and how2qa_val_release.jsonl have a JSON object a line: "
        '{"vid_name": "0", "q": "how many knife is there?", "a0": "10", "a1": "12", "a2": "16", "a3": "1", '
        '"answer_idx": 3, "ts": "7.2-18.0", "qid": 7}; beside them may be how2_subtitles.jsonl, {"vid_name": "0", '
        '"sub": [{"text": …, "start": 0.8, "end": 1.8}]}, and how2_vid_mapping.json, {"0": "inUvyZl_hjA_180_240"}. '
        "Or there are the first release's how2QA_train_release.csv and how2QA_val_release.csv, without a header; a "
        "row: NOuQuofjk44,[7.2:18.0],10,12,16,how many knife is there?,1",
    ),
    _open_ended(
        "activitynet",
        "activitynet-qa",
        "Questions of people about a whole web video, with an answer of one or few words.",
        1654,  # as LF-VILA has it; here the most frequent ones of the training rows
        splits={"train": 32000, "val": 18000, "test": 8000},  # https://github.com/MILVLG/activitynet-qa, dataset/
        prompt="",
        recipes={"default": Recipe(epochs=20, batch_size=10, text_length=50)},
        example={"video": "v_TIEzvhv6xaI", "question": "is the no.3 athlete playing indoor", "answer": "yes"},
        files={split: (f"{split}_q.json", f"dataset/{split}_q.json") for split in ("train", "val", "test")},
        read=activitynet_qa,
        layout='train_q.json, val_q.json and test_q.json are JSON lists; a row: {"video_name": "TIEzvhv6xaI", '
        '"question": "is the no.3 athlete playing indoor", "question_id": "v_TIEzvhv6xaI_2"}; beside them are '
        'train_a.json, val_a.json and test_a.json; a row: {"answer": "yes", "type": 3, "question_id": '
        '"v_TIEzvhv6xaI_2"}',
    ),
    _open_ended(
        "msrvtt",
        "msrvtt-qa",
        "Questions made of captions, with one word for an answer.",
        1500,
        splits={"train": 158581, "val": 12278, "test": 72821},
        published={"v2, paper": {"accuracy": 44.5}, "v2, rerun": {"accuracy": 44.5}},
    ),
    _open_ended(
        "msvd",
        "msvd-qa",
        "Questions made of captions, with one word for an answer.",
        1000,
        splits={"train": 30933, "val": 6415, "test": 13157},
        recipes={"v1": _v1(10), "v2": Recipe(epochs=20, batch_size=10, by_mask=True)},
        published={"v2, paper": {"accuracy": 54.7}, "v2, rerun": {"accuracy": 54.6}},
    ),
    _open_ended(
        "tgif",
        "tgif-frame",
        "Questions about GIFs that a frame can answer, with one word for an answer.",
        1540,
        splits={"train": 39392, "val": None, "test": 13691},
        published={"v2, paper": {"accuracy": 72.8}, "v2, rerun": {"accuracy": 72.7}},
    ),
    Benchmark(
        name="lsmdc-fib",
        dataset="lsmdc",
        task="fill-in-the-blank",
        about="The word that is left out of a film's audio description.",
        splits={"train": 296960, "val": 21689, "test": 30349},
        example={"video": "1001_American_Beauty_00.00.51.926", "question": "someone [MASK] at the door", "answer": 17},
        metrics=("accuracy",),
        num_answers=908,
        prompt="{question}",
        recipes={"v2": Recipe(epochs=10, batch_size=10, by_mask=True)},
        published={"v2, paper": {"accuracy": 56.9}, "v2, rerun": {"accuracy": 56.9}},
    ),
    _multiple_choice(
        "tgif",
        "tgif-action",
        "Which action is repeated a given number of times in a GIF.",
        splits={"train": 20475, "val": None, "test": 2274},
        prompt=_DIGITS,
        recipes={"v1": _v1(8), "v2": Recipe(epochs=60, batch_size=8, text_length=100, by_mask=True)},
        published={"v2, paper": {"accuracy": 94.8}, "v2, rerun": {"accuracy": 94.9}},
    ),
    _multiple_choice(
        "tgif",
        "tgif-transition",
        "What happens before or after something else in a GIF.",
        splits={"train": 52704, "val": None, "test": 6232},
        prompt=_DIGITS,
        recipes={"v2": Recipe(epochs=10, batch_size=8, text_length=100, by_mask=True)},
        published={"v2, paper": {"accuracy": 99.0}, "v2, rerun": {"accuracy": 99.0}},
    ),
    _multiple_choice(
        "msrvtt",
        "msrvtt-mc",
        "Which of five sentences is about the clip.",
        splits={"train": None, "val": None, "test": 2990},
        published={"v2, paper": {"accuracy": 97.6}, "v2, rerun": {"accuracy": 96.8}},
    ),
    _multiple_choice(
        "lsmdc",
        "lsmdc-mc",
        "Which of five sentences of audio descriptions is about the clip.",
        splits={"train": 101079, "val": None, "test": 10053},
        published={"v2, paper": {"accuracy": 84.4}, "v2, rerun": {"accuracy": 84.4}},
    ),
    _captioning(
        "msrvtt",
        "A sentence about a clip, measured against the 20 of people.",
        splits={"train": 6513, "val": 497, "test": 2990},
        split_note="the data set's own split",
    ),
    _captioning(
        "msvd",
        "A sentence about a clip, measured against some 40 of people.",
        splits={"train": 1200, "val": 100, "test": 670},
    ),
    _kinetics(
        400,
        # The rows of CVDF's files, https://github.com/cvdfoundation/kinetics-dataset, arrange_by_classes.py and issue
        # 51; with the 39,805 of its test.csv they are the paper's 306,245. DeepMind's own files have since lost what
        # YouTube has lost: 219,782 and 18,035 rows.
        splits={"train": 246534, "test": 19906},
        published={_UNIFORMER.format(", 336 px, 64x3x2"): _top(90.0), _VATT: _top(82.1, 95.5)},
    ),
    _kinetics(
        600,
        # 50 of each class, https://github.com/cvdfoundation/kinetics-dataset/issues/11 with arXiv:1808.01340. No exact
        # number of training rows was found; papers say 392,000.
        splits={"train": None, "test": 30000},
        # What CVDF's files lack: its README.md, and its issues 11 and 33.
        split_note="the test split is the data set's validation split; CVDF's train.csv and val.csv name only some of "
        "its clips, half of those for validation, and its complete train.txt and val.txt are not read here",
        published={_UNIFORMER.format(", 336 px, 64x3x2"): _top(90.1), _VATT: _top(83.6, 96.6)},
    ),
    _kinetics(
        700,
        # There are two editions, of 2019 (arXiv:1907.06987) and of 2020 (arXiv:2010.10864), whose files have the same
        # names; no publisher's number of rows was found for the splits of either.
        splits={"train": None, "test": None},
        published={_UNIFORMER.format(", 336 px, 64x3x2"): _top(82.7), _VATT: _top(72.7, 90.5)},
    ),
    _classification(
        "moments-in-time",
        "moments",
        "What happens in three seconds, of 339 classes.",
        # arXiv:1801.03150 as others quote it; the files that came later have 802,244 training clips, says one who
        # used them. The columns are explained in the README.txt that comes with the files.
        splits={"train": 802264, "test": 33900},
        example={"video": "blocking/getty-karate-video-id635808620_4", "label": "blocking"},
        files={"train": ("trainingSet.csv",), "test": ("validationSet.csv",)},
        read=moments,
        layout="trainingSet.csv and validationSet.csv are tables without a header: clip, label, votes for it and "
        "against it; a row: blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0",
        published={_UNIFORMER.format(", 336 px, 8x3x4"): _top(47.8), _VATT: _top(41.1, 67.7)},
    ),
    _something(
        1,
        something_v1,
        {"train": ("something-something-v1-train.csv",), "test": ("something-something-v1-validation.csv",)},
        # As Papers With Code and many papers say it; with the 10,960 of the test split they are the 108,499 of
        # arXiv:1706.04261. The publisher's own page is gone.
        splits={"train": 86017, "test": 11522},
        example={"video": "100218", "label": "Something falling like a feather or paper"},
        layout="the files are tables without a header: id;label; a row: "
        "100218;Something falling like a feather or paper",
        published={_UNIFORMER.format(", 32x3x1"): _top(62.7)},
    ),
    _something(
        2,
        something_v2,
        {
            "train": ("something-something-v2-train.json", "labels/train.json", "train.json"),
            "test": ("something-something-v2-validation.json", "labels/validation.json", "validation.json"),
        },  # of TwentyBN, and of Qualcomm, who publishes it now
        # https://www.qualcomm.com/developer/software/something-something-v-2-dataset as others quote it, with 27,157
        # videos for the test split
        splits={"train": 168913, "test": 24777},
        example={"video": "78687", "label": "Holding something next to something"},
        layout='the files are JSON lists; a row: {"id": "78687", "label": "holding potato next to vicks vaporub '
        'bottle", "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub '
        'bottle"]}',
        published={_UNIFORMER.format(", 32x3x1"): _top(73.0)},
    ),
    _classification(
        "activitynet",
        "activitynet",
        "What people do in a whole web video, of 200 classes.",
        splits={"train": 10024, "test": 4926},  # http://activity-net.org/download.html, release 1.3
        example={"video": "v_5n7NCViB5TU", "label": "Discus throw"},
        files=dict.fromkeys(("train", "test"), ("activity_net.v1-3.min.json",)),
        read=activitynet,
        layout='activity_net.v1-3.min.json is a JSON object {"database": {id: video}}; a video: {"subset": '
        '"training", "annotations": [{"segment": [24.25018, 38.08036], "label": "Discus throw"}]}',
        published={_UNIFORMER.format(", 32x3x10"): _top(94.7)},
    ),
    _classification(
        "hacs",
        "hacs",
        "What people do in a whole web video, of 200 classes: HACS Segments.",
        splits={"train": 37613, "test": 5981},  # https://github.com/hangzhaomit/HACS-dataset, README.md, of v1.1.1
        example={"video": "v_--0edUL8zmA", "label": "Dodgeball"},
        files=dict.fromkeys(("train", "test"), ("HACS_segments_v1.1.1.json", "HACS_v1.1.1/HACS_segments_v1.1.1.json")),
        read=activitynet,
        layout='HACS_segments_v1.1.1.json is a JSON object {"database": {id: video}}; a video: {"subset": '
        '"training", "annotations": [{"segment": [5.4, 11.6], "label": "Dodgeball"}]}',
        # That file does not say whether it was trained on HACS Segments or on HACS Clips, of 492,748 videos. Both have
        # 5,981 videos for validation.
        published={_UNIFORMER.format(", 16x3x10"): _top(95.5)},
    ),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
