"""`violet predict`: asks a checkpoint what it can be asked, about one video or many."""

import glob
import itertools
import json
import os
import shlex
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import pipeline
from transformers.modeling_outputs import ImageClassifierOutput

from ..core.catalogue import MODEL_CLASSES, tasks_of
from ..core.clip_inputs import PIXELS
from ..core.files import new_file
from ..core.quiet import silence_transformers
from ..core.weights import pretrained, pretrained_names
from ..data.folders import clip_paths
from ..data.reading_ahead import read_ahead, workers_for
from ..data.remote import is_url
from ..evaluation.galleries import SETTINGS_FILE
from ..hub import HubError, WeightsError, pull
from ..hub.cards import REPO_NAME
from ..hub.conversion import read_configuration
from ..pipelines.answering import OPEN_ENDED, WITH_OPTIONS
from ..pipelines.compiling import CompileError, compile_parts
from ..pipelines.pairs import READY, pair_up
from ..processing.decoding import IMAGE_SUFFIXES

FEATURES_SUFFIX = ".npz"
CACHE_BYTES = 256 * 2**20
"""Of decoded frames, if videos are asked about more than once."""
BLACK_CLIP = np.zeros((1, 8, 8, 3), np.uint8)


class PredictError(ValueError):
    """A request that this checkpoint cannot answer; the message says which it can."""


@dataclass(frozen=True)
class PredictArguments:
    """
    A checkpoint and what to ask it.

    Attributes:
        model: a folder, a Hub name, or weights that come with the package.
        video, gallery: clips, see `find_clips`; `gallery` may also be the folder of a stored gallery.
        question, text: one for all videos, or one for each; or several for one video. With `gallery`, the searches.
        options: to choose among.
        prompt: what a caption is written for.
        features: the file to write, see `write_features`.
        top_k: answers, words, captions or videos found; by default one, of videos found five.
        batch_size: how many videos, or texts of a search, go through the model together.
        json: one JSON object a line, instead of lines for people.
        compile: whether the model is compiled first, see `compile_parts`.
    """

    model: str
    video: Sequence[str] | None = None
    question: Sequence[str] | None = None
    options: Sequence[str] | None = None
    text: Sequence[str] | None = None
    gallery: Sequence[str] | None = None
    prompt: str | None = None
    features: str | None = None
    top_k: int | None = None
    batch_size: int = 8
    json: bool = False
    compile: bool = False

    def given(self) -> set[str]:
        """The names of those that are given and say what is asked."""
        names = ("video", "question", "options", "text", "gallery", "prompt", "features")
        return {name for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Request:
    """
    Something to ask.

    Attributes:
        task: of the pipeline that answers.
        needs, may_have: the arguments.
        cannot: what a checkpoint that cannot be asked so does not do.
        how: the thing, and how it is asked on the command line.
    """

    task: str
    needs: frozenset[str]
    cannot: str
    how: str
    may_have: frozenset[str] = frozenset()


REQUESTS: Mapping[str, Request] = {
    "question": Request(
        "video-question-answering",
        frozenset({"video", "question"}),
        "answers no open questions",
        'an answer (--video CLIP --question "…")',
    ),
    "choice": Request(
        "video-question-answering",
        frozenset({"video", "options"}),
        "chooses among no options",
        'a choice (--video CLIP --question "…" --options A B)',
        frozenset({"question"}),
    ),
    "blanks": Request(
        "video-fill-mask",
        frozenset({"video", "text"}),
        "fills no blanks",
        'the words of blanks (--video CLIP --text "a [MASK] …")',
    ),
    "caption": Request(
        "video-captioning",
        frozenset({"video"}),
        "writes no captions",
        "a caption (--video CLIP and nothing else)",
        frozenset({"prompt"}),
    ),
    "classes": Request(
        "video-classification",
        frozenset({"video"}),
        "knows no classes",
        "a class (--video CLIP and nothing else)",
    ),
    "search": Request(
        "video-text-retrieval",
        frozenset({"gallery", "text"}),
        "finds no videos by text",
        'a search (--gallery FOLDER --text "…")',
    ),
    "features": Request(
        "video-feature-extraction",
        frozenset({"video", "features"}),
        "gives no features",
        f"features (--video CLIP --features FILE{FEATURES_SUFFIX})",
        frozenset({"text"}),
    ),
}


def find_requests(arguments: PredictArguments) -> list[str]:
    """
    The keys of what may be asked so; the checkpoint decides between several.

    Raises:
        PredictError: if the arguments ask for nothing, or for two things.
    """
    given = arguments.given()
    found = [name for name, request in REQUESTS.items() if request.needs <= given <= request.needs | request.may_have]
    if found:
        return found
    told = ", ".join(f"--{name}" for name in sorted(given)) or "nothing"
    ways = "; ".join(request.how for request in REQUESTS.values())
    raise PredictError(f"{told} together make no request. There are: {ways}.")


def abilities(holds: str) -> list[str]:
    """What a checkpoint of this model class can be asked: keys of `REQUESTS`; none for a class that is not ours."""
    loaded = tasks_of(holds)
    if not loaded:
        return []
    answering = loaded.get("video-question-answering")
    able = {
        "question": answering in OPEN_ENDED,
        "choice": answering in WITH_OPTIONS,
        "features": True,  # every model has the one without a head inside
    }
    return [name for name, request in REQUESTS.items() if able.get(name, request.task in loaded)]


def check_request(names: Sequence[str], model: str, holds: str) -> str:
    """
    The key of what is asked: that of these which a checkpoint of this class can be asked.

    Raises:
        PredictError: if a checkpoint of this class cannot be asked this; it says what it can be.
    """
    able = abilities(holds)
    if not able:
        known = ", ".join(filter(tasks_of, MODEL_CLASSES))
        raise PredictError(f"{model} holds {holds}, of which nothing can be asked: only of {known}.")
    for name in names:
        if name in able:
            return name
    cannot = " and ".join(REQUESTS[name].cannot for name in names)
    ways = " or ".join(REQUESTS[other].how for other in able)
    raise PredictError(f"{model} holds {holds}, which {cannot}: ask it for {ways}.")


def find_model(model: str) -> tuple[str, str]:
    """
    The folder of a checkpoint, fetched if it is a name on the Hub, and the class that it holds. Of an adapter, the
    class that it was trained on.

    Raises:
        PredictError: if there is no such folder, or no VIOLET model in it.
        HubError: if the Hub has none, or does not give it.
    """
    if os.path.isdir(model):
        folder = model
    elif model in pretrained_names():
        folder = pretrained(model)
    elif not REPO_NAME.fullmatch(model) or model.startswith("."):
        raise PredictError(
            f"There is no folder {model}; a name on the Hub is ORG/NAME, and {', '.join(pretrained_names())} comes "
            "with the package."
        )
    else:
        try:
            folder = str(pull(model))
        except HubError as error:
            raise HubError(f"{error} There is no folder {model} here either.") from error
    adapter_file = Path(folder, "adapter_config.json")
    adapter = json.loads(adapter_file.read_text()) if adapter_file.is_file() else {}
    source = folder if Path(folder, "config.json").is_file() else adapter.get("base_model_name_or_path")
    if source is None:
        raise PredictError(f"{model} holds no model: there is no config.json in it.")
    try:
        config = read_configuration(source)
    except WeightsError as error:
        raise PredictError(f"{str(error).removesuffix('.')}: it cannot be asked about videos.") from error
    trained = (adapter.get("auto_mapping") or {}).get("base_model_class")
    return folder, trained or (config.architectures or ["a configuration without `architectures`"])[0]


def find_clips(videos: Sequence[str]) -> list[str]:
    """
    Paths, URLs and whatever else a table's `video` may be, as they are; for a folder its video files and folders of
    frames, unless it holds the frames of one clip, only pictures; for a pattern (`clips/*.mp4`) what matches it.

    Raises:
        PredictError: for a folder without clips, or a pattern that nothing matches.
    """
    found: list[str] = []
    for video in videos:
        if os.path.isdir(video):
            inside = clip_paths(Path(video))
            if not inside:
                raise PredictError(f"{video} holds no clips: video files, pictures or folders of frames.")
            clips = [str(path) for path in inside if path.suffix.lower() not in IMAGE_SUFFIXES]
            found += clips or [video]
        elif glob.has_magic(video) and not is_url(video) and not os.path.exists(video):
            matching = sorted(glob.glob(video, recursive=True))
            if not matching:
                raise PredictError(f"Nothing matches {video}.")
            found += matching
        else:
            found.append(video)
    return found


class Clips:
    """
    The clips that are asked about, in order, with a bar on a terminal. If they are more than go through the model
    together, the next ones are made ready by other processes (`read_ahead`). One that cannot be read is named there,
    counted, and passed over.

    Args:
        processor: whatever has a `video_processor`.
        videos: the clip of each question, one or several about each.
        together: how many go through the model together.
    """

    def __init__(self, processor: Any, videos: Sequence[str], together: int):
        self.frames = processor.video_processor
        self.videos = videos
        self.different = set(videos)
        self.workers = workers_for(len(self.different), together)
        self.bar = tqdm(total=len(videos), unit="clip", disable=None if len(videos) > 1 else True, leave=False)
        self.unread: set[str] = set()

    def read(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """The number of each clip that can be read, and what `VideoTextPipeline.read_video` would give of it."""

        def inputs() -> Iterator[dict[str, Any]]:
            for number, video in enumerate(self.videos):
                if video in self.unread:
                    self.bar.update()
                else:
                    yield {"video": video, "number": number}

        cache = CACHE_BYTES if len(self.different) < len(self.videos) else 0
        for one, read in read_ahead(self.frames, inputs(), self.workers, cache):
            if not isinstance(read, ValueError):
                yield one["number"], read
            elif one["video"] not in self.unread:
                self.unread.add(one["video"])
                self.say(f"violet predict: {read}", sys.stderr)
            self.bar.update()

    def say(self, line: str, file: Any = None) -> None:
        """Prints a line, above the bar."""
        with self.bar.external_write_mode(file=file or sys.stdout):
            print(line, file=file or sys.stdout, flush=True)

    def close(self) -> int:
        """Ends the bar, tells how many could not be read, and gives the exit status: 1 if there were some."""
        self.bar.close()
        if self.unread:
            told = f"{len(self.unread)} of {len(self.different)} clips could not be read."
            print(f"violet predict: {told}", file=sys.stderr)
        return 1 if self.unread else 0


def predict(arguments: PredictArguments) -> int:
    """
    Prints what the checkpoint says, a line each, or writes features into a file. A clip that cannot be read is named
    on stderr and passed over.

    Returns:
        The exit status: 1 if clips could not be read.

    Raises:
        PredictError: for what this checkpoint cannot be asked, or not in this way: nothing was asked then.
        HubError, GalleryError: for a model or a stored gallery that cannot be had.
    """
    silence_transformers()
    folder, name = find_asked(arguments.model, find_requests(arguments))
    if name == "features":
        _check_features_file(Path(str(arguments.features)))
    stored = arguments.gallery is not None and _is_stored(arguments.gallery)
    clips = [] if stored else find_clips(arguments.gallery or arguments.video or ())
    pipe = load_pipeline(arguments.model, folder, name)
    ways = {"search": search, "features": write_features, "classes": classify}
    ask = ways.get(name, answer)
    return compiled(ask, pipe, clips, arguments) if arguments.compile else ask(pipe, clips, arguments)


def compiled(ask: Callable[..., int], pipe: Any, clips: Sequence[str], arguments: PredictArguments) -> int:
    """What a compiled model says."""
    compile_parts(pipe.model)
    with warnings.catch_warnings():  # masks that are kept for each shape are traced with the rest
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`", module="torch")
        try:
            return ask(pipe, clips, arguments)
        except CompileError as error:
            raise PredictError(f"{error} Leave --compile out.") from error


def find_asked(model: str, names: Sequence[str]) -> tuple[str, str]:
    """
    The folder of a checkpoint, and the key of what it is asked: that of these which it can be asked.

    Raises:
        PredictError: if it cannot be asked any of them, or holds no processor.
        HubError: as of `find_model`.
    """
    folder, holds = find_model(model)
    name = check_request(names, model, holds)
    if Path(folder, "config.json").is_file() and not Path(folder, "processor_config.json").is_file():
        raise PredictError(
            f"{model} holds no processor: there is no processor_config.json in it. Save the model's there, by "
            "`processor.save_pretrained`."
        )
    return folder, name


def load_pipeline(model: str, folder: str, name: str) -> Any:
    """
    The pipeline that asks a checkpoint that.

    Args:
        model: how the user names the checkpoint.
        folder, name: as `find_asked` gives them.

    Raises:
        PredictError: if the checkpoint cannot be loaded.
    """
    try:
        return pipeline(REQUESTS[name].task, model=folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]  # behind transformers' tracebacks of each class that it tried
        raise PredictError(f"{model} cannot be loaded: {reason}") from error


def answer(pipe: Any, videos: Sequence[str], arguments: PredictArguments) -> int:
    """Questions, choices, blanks and captions: a line for each video and text, as soon as its batch is done."""
    asked = _with_texts(videos, arguments)
    best = arguments.top_k or 1
    settings: dict[str, Any] = {"top_k": best}
    if pipe.task == "video-captioning":
        settings = {"num_return_sequences": best, "num_beams": best} if best > 1 else {}
        settings |= {} if arguments.prompt is None else {"prompt": arguments.prompt}
    _check_texts(pipe, asked, settings)
    clips = Clips(pipe.processor, [one["video"] for one in asked], arguments.batch_size)
    for number, said in _ask(pipe, asked, clips, arguments, **settings):
        one = asked[number]
        clips.say(json.dumps(_as_json(one, said)) if arguments.json else _as_line(one, said))
    return clips.close()


def classify(pipe: Any, videos: Sequence[str], arguments: PredictArguments) -> int:
    """A line for each video with its classes. The pipeline is transformers' own, which reads no clips ahead."""
    clips = Clips(pipe, videos, arguments.batch_size)
    reading = clips.read()
    while batch := dict(itertools.islice(reading, arguments.batch_size)):
        pixels = {name: torch.cat([clip[name] for clip in batch.values()]) for name in next(iter(batch.values()))}
        for name, values in pixels.items():
            if name.startswith(PIXELS):
                values = pipe.video_processor.normalize_pixels(values.to(pipe.device))
            pixels[name] = values.to(pipe.dtype) if values.is_floating_point() else values
        for number, logits in zip(batch, pipe.forward(pixels).logits, strict=True):
            said = pipe.postprocess(ImageClassifierOutput(logits=logits[None]), top_k=arguments.top_k or 1)
            one = {"video": videos[number]}
            line = f"{one['video']}  {_scored(said, 'label')}"
            clips.say(json.dumps({**one, "classes": said}) if arguments.json else line)
    return clips.close()


def _with_texts(videos: Sequence[str], arguments: PredictArguments) -> list[dict[str, Any]]:
    """An input for each video and its question or text."""
    name = "text" if arguments.text is not None else "question"
    texts = getattr(arguments, name)
    if arguments.options is not None and texts is None:
        texts = [""]
    if texts is None:
        return [{"video": video} for video in videos]
    try:
        asked = pair_up(list(videos), list(texts), name)
    except ValueError as error:
        raise PredictError(str(error)) from error
    if arguments.options is not None:
        asked = [{**one, "options": list(arguments.options)} for one in asked]
    return asked


def _check_texts(pipe: Any, asked: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Refuses texts that cannot be asked before any video is read: about a black clip, and without the model."""
    reading = pipe._sanitize_parameters(**settings)[0]
    for one in {(one.get("question"), one.get("text")): one for one in asked}.values():
        try:
            pipe.preprocess({**one, "video": BLACK_CLIP, "sound": None}, **reading)
        except ValueError as error:
            raise PredictError(str(error)) from error


def _ask(
    pipe: Any, asked: Sequence[Mapping[str, Any]], clips: Clips, arguments: PredictArguments, **settings: Any
) -> Iterator[tuple[int, Any]]:
    """The number of each input whose video can be read, and what the pipeline says to it."""
    waiting: deque[int] = deque()

    def inputs() -> Iterator[dict[str, Any]]:
        for number, clip in clips.read():
            waiting.append(number)
            yield {**asked[number], READY: clip}

    for said in pipe(inputs(), batch_size=arguments.batch_size, **settings):
        yield waiting.popleft(), said


def _as_json(one: Mapping[str, Any], said: Any) -> dict[str, Any]:
    if "text" in one:
        return {**one, "blanks": said if isinstance(said[0], list) else [said]}
    if "question" in one:
        return {**one, "answers": said}
    return {**one, "captions": [caption["generated_text"] for caption in said]}


def _as_line(one: Mapping[str, Any], said: Any) -> str:
    if "text" in one:
        blanks = said if isinstance(said[0], list) else [said]
        told = "; ".join(_scored(words, "token_str") for words in blanks)
    elif "question" in one:
        told = _scored(said, "answer")
    else:
        told = "; ".join(caption["generated_text"] for caption in said)
    return "  ".join(part for part in (one["video"], one.get("text") or one.get("question"), told) if part)


def _scored(entries: Iterable[Mapping[str, Any]], name: str) -> str:
    return ", ".join(f"{entry[name]} ({entry['score']:.0%})" for entry in entries)


def _is_stored(gallery: Sequence[str]) -> bool:
    return len(gallery) == 1 and Path(gallery[0], SETTINGS_FILE).is_file()


def search(pipe: Any, videos: Sequence[str], arguments: PredictArguments) -> int:
    """The videos that fit each text best, in a stored gallery or, without one, among clips that are encoded now."""
    texts = list(arguments.text or ())
    try:
        for text in texts:
            pipe.tokenize(text)
    except ValueError as error:
        raise PredictError(str(error)) from error
    clips = Clips(pipe.processor, videos, arguments.batch_size)
    if arguments.gallery and not videos:
        pipe.open(arguments.gallery[0])
    reading = ({"video": videos[number], READY: clip} for number, clip in clips.read())
    first = list(itertools.islice(reading, 1))
    if first:
        pipe.add(itertools.chain(first, reading), batch_size=arguments.batch_size)
    found = pipe(texts, top_k=arguments.top_k or 5, batch_size=arguments.batch_size) if pipe.gallery else []
    for text, of_text in zip(texts, found, strict=False):
        best = [{"video": one["video"], "score": one["score"]} for one in of_text]
        if arguments.json:
            print(json.dumps({"text": text, "videos": best}))
        else:
            for one in best:
                print(f"{text}  {one['video']}  {one['score']:.0%}")
    return clips.close()


def write_features(pipe: Any, videos: Sequence[str], arguments: PredictArguments) -> int:
    """
    A vector for each video, or for each video with its text, into a file that `numpy.load` reads, whole or not at all:
    `features` (rows, width) float32; `videos` (rows,), their names; `texts` (rows,), if there are some.
    """
    asked = _with_texts(videos, arguments)
    _check_texts(pipe, asked, {})
    clips = Clips(pipe.processor, [one["video"] for one in asked], arguments.batch_size)
    kept, vectors = [], []
    for number, vector in _ask(pipe, asked, clips, arguments):
        kept.append(asked[number])
        vectors.append(vector.float().numpy())
    if kept:
        columns = {"features": np.stack(vectors), "videos": np.array([one["video"] for one in kept])}
        if arguments.text is not None:
            columns["texts"] = np.array([one["text"] for one in kept])
        path = Path(str(arguments.features))
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as file:
            np.savez(file, **columns)  # type: ignore[arg-type]  # numpy 2.2's own setting
        shape = columns["features"].shape
        told = {"file": str(path), "rows": shape[0], "width": shape[1]}
        clips.say(json.dumps(told) if arguments.json else f"{path} holds {shape[0]} features of width {shape[1]}.")
    return clips.close()


def _check_features_file(path: Path) -> None:
    if path.suffix != FEATURES_SUFFIX or path.is_dir():
        raise PredictError(f"--features: {path} must be the name of a file that ends in {FEATURES_SUFFIX}.")


def example_command(model: str, task: str, row: Mapping[str, Any]) -> str:
    """The arguments of a `violet` command that asks a model what a row of its fine-tuning task is about."""
    from ..training import tasks  # asking loads nothing of training

    asked = tasks.TASKS[task].of(read_configuration(model)).ask(row)
    return shlex.join(["predict", "--model", str(model), *asked])
