"""What pipelines of videos and texts share: their inputs, one or many of each; reading and tokenizing; batches."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Pipeline

from ..core.clip_inputs import take_clip_inputs
from ..processing.decoding import VideoDecodeError, is_encoded_file
from ..processing.questions import TokenIds
from ..processing.video_processing_violet import RAW_PIXELS, is_list, match_sound, split_into_clips

NUMBER = "input_number"
"""The key under which an input knows its place among many."""
READY = "ready"
"""The key of what was made of an input's video already, see `VideoTextPipeline.read_video`."""


@dataclass(frozen=True)
class Asked:
    """
    What is asked about a video. A dataclass, so that the pipeline's collate function does not stack it.

    Attributes:
        texts: token ids of what the model reads; what each of them is depends on who asks.
        answers: the names of what may be answered, if they are given with the question.
        answer_tokens: their token ids.
    """

    texts: Sequence[TokenIds]
    answers: Sequence[str] = ()
    answer_tokens: Sequence[TokenIds] = ()


class VideoTextPipeline(Pipeline):
    """
    A pipeline whose processor takes videos and texts. An input is a dictionary with a `video` and what belongs to it;
    inputs come one by one, as a list, or from a generator. A model that hears (`audio_config`) is given the sound of
    the video's file too; frames in memory need a `sound` beside them, None for none.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        match_sound(self.processor.video_processor, self.model.config)

    def run(self, inputs: Any, num_workers: int | None = None, **kwargs: Any) -> Any:
        """
        One input, a list or a generator of them -> what is answered to each, in the same form.

        Args:
            num_workers: how many processes make the next videos ready while the model works, by default the
                pipeline's own, or none; see `read_videos`.
        """
        self.check_batch_size(kwargs.get("batch_size"))
        workers = self.check_workers(num_workers)
        if not isinstance(inputs, list | tuple | Iterator):
            return super().__call__(inputs, num_workers=num_workers, **kwargs)
        if isinstance(inputs, list | tuple) and not inputs:
            raise ValueError("The list of inputs is empty.")
        numbered: Iterator[Any] = (_numbered(item, number) for number, item in enumerate(inputs))
        if workers:
            numbered = self._with_videos(numbered, workers)
        answers = super().__call__(numbered, num_workers=0, **kwargs)
        return answers if isinstance(inputs, Iterator) else list(answers)

    def check_workers(self, num_workers: int | None) -> int:
        """
        How many processes make videos ready: as asked, or the pipeline's own, or none.

        Raises:
            ValueError: for less than 0.
        """
        workers = (self._num_workers if num_workers is None else num_workers) or 0
        if workers < 0:
            raise ValueError(f"`num_workers` must be 0 or more, got {workers}.")
        return workers

    def check_batch_size(self, batch_size: int | None) -> int:
        """
        How many inputs go through the model together: as asked, or the pipeline's own.

        Raises:
            ValueError: for several, if the processor takes as many frames of a video as it is long.
        """
        size, frames = batch_size or self._batch_size or 1, self.processor.video_processor
        if size > 1 and (frames.fps is not None or not frames.do_sample_frames):
            raise ValueError(
                f"The videos of a batch need as many frames each, and this processor takes as many as a video is long "
                f"(`fps` {frames.fps}, `do_sample_frames` {frames.do_sample_frames}): leave `batch_size` at 1, or set "
                "`num_frames` in place of `fps`."
            )
        return size

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any):
        """
        Saves model and processor, each with these settings (`with_code`, …): `pipeline(task, model=save_directory)`
        gives this pipeline again.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def read_video(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """
        The input's video as (1, frames, 3, height, width) in bytes, by name: what the processor makes of it; its
        sound, if the model hears: that of the video's file, or `sound` of the input (see `sound.SOUND_FORMS`); and
        the part of it that is meant, if the input has `boxes` (see `boxes.Boxes`). An input that has all this already
        (`READY`) is not read again.

        Raises:
            ValueError: for a `sound` that the model does not hear; for boxes that are none.
            VideoDecodeError: names the video; one in memory, which has no name, by its number among the inputs.
        """
        if READY in inputs:
            return dict(inputs[READY])
        video, given = inputs["video"], {}
        if self._has_sound(inputs):
            given = {"sound": [inputs["sound"]]}
        if "boxes" in inputs:  # None among those of others is a whole video
            given["boxes"] = [inputs["boxes"]]
        try:
            return take_clip_inputs(self.processor(videos=[video], **RAW_PIXELS, **given).data)
        except VideoDecodeError as error:
            placed = _placed(error, inputs)
            if placed is error:
                raise
            raise placed from error

    def read_videos(
        self, inputs: Iterable[Mapping[str, Any]], num_workers: int
    ) -> Iterator[tuple[Mapping[str, Any], dict[str, torch.Tensor] | ValueError]]:
        """
        As `read_video`, of many inputs: each with its video, in order, or with the error of one that cannot be read.

        Args:
            num_workers: how many processes read the next videos while this one does something else; they are replaced
                if they die, and files have a time limit. With 0 this process reads each video when it is asked for.
        """
        if not num_workers:
            for one in inputs:
                try:
                    yield one, self.read_video(one)
                except VideoDecodeError as error:
                    yield one, error
            return
        from ..data.reading_ahead import read_ahead  # no checkpoint carries it, see flat_modules

        for one, read in read_ahead(self.processor.video_processor, map(self._checked, inputs), num_workers):
            yield one, _placed(read, one) if isinstance(read, VideoDecodeError) else read

    def clip_inputs(self, model_inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """What `read_video` gave, among the inputs of a batch and out of them, as the model takes it on its device."""
        return self.processor.to_device(take_clip_inputs(model_inputs), self.device)

    def _with_videos(self, inputs: Iterable[Mapping[str, Any]], num_workers: int) -> Iterator[Mapping[str, Any]]:
        """The inputs with what was read of their videos."""
        for one, read in self.read_videos(inputs, num_workers):
            if isinstance(read, ValueError):
                raise read
            yield {**one, READY: read} if read else one  # a chat has no video of its own

    def _checked(self, inputs: Any) -> Mapping[str, Any]:
        inputs = inputs if isinstance(inputs, Mapping) else need(inputs)
        self._has_sound(inputs)
        return inputs

    def _has_sound(self, inputs: Mapping[str, Any]) -> bool:
        """
        Whether the input brings its own sound.

        Raises:
            ValueError: for one that the model does not hear.
        """
        if "sound" in inputs and self.processor.video_processor.hears:
            return True
        if inputs.get("sound") is not None:
            raise ValueError("The input has a `sound`, and this model does not hear: it has no `audio_config`.")
        return False

    def tokenize(self, text: str) -> TokenIds:
        """`[CLS] text [SEP]`, checked to fit."""
        return self.fitting(self.processor.tokenizer(text)["input_ids"], text)

    def fitting(self, ids: TokenIds, text: str) -> TokenIds:
        """
        The ids as they are: a pipeline cuts nothing off.

        Raises:
            ValueError: for a text longer than the model has positions.
        """
        most = self.model.config.max_position_embeddings
        if len(ids) > most:
            raise ValueError(f"{text!r} makes {len(ids)} tokens, and this model takes {most} at most: shorten it.")
        return ids


def need(inputs: Any, *names: str) -> Mapping[str, Any]:
    """
    The inputs, if they have a `video` and these names.

    Raises:
        ValueError: if they do not.
    """
    if not isinstance(inputs, Mapping) or not {"video", *names} <= set(inputs):
        wanted = " and a ".join(["video", *names])
        keys = ", ".join(f'"{name}":' for name in ("video", *names))
        raise ValueError(f"Each input needs a {wanted}: pipe({', '.join(('video', *names))}) or {{{keys}}}.")
    return inputs


def in_batch(value: Any) -> list:
    """One input's value, or those of a batch, as a list."""
    return value if isinstance(value, list) else [value]


def check_top_k(top_k: int | None) -> dict[str, int]:
    """`top_k` as a keyword, if it is given."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be 1 or more, got {top_k}.")
    return {} if top_k is None else {"top_k": top_k}


def pair_up(videos: Any, texts: str | list[str], name: str) -> Any:
    """
    One input if one video and one text are given, else a list: of lists of one length pair by pair, or of one of
    them with all of the other. A generator of videos with one text for all stays a generator.

    Args:
        name: the texts' key.

    Raises:
        ValueError: for an empty list, or lists of unequal length.
    """
    if isinstance(texts, str) and not is_many(videos):
        return {"video": videos, name: texts}
    if isinstance(texts, str) and isinstance(videos, Iterator):
        return ({"video": video, name: texts} for video in videos)
    texts = [texts] if isinstance(texts, str) else list(texts)
    clips = list(videos) if is_many(videos) else [videos]
    if not texts or not clips:
        raise ValueError(f"The list of {'videos' if texts else name + 's'} is empty.")
    count = max(len(texts), len(clips))
    if {len(texts), len(clips)} - {1, count}:
        raise ValueError(f"{len(clips)} videos and {len(texts)} {name}s: give as many, or one of either.")
    clips, texts = clips * (count // len(clips)), texts * (count // len(texts))
    return [{"video": clip, name: text} for clip, text in zip(clips, texts, strict=True)]


def alone(videos: Any) -> Any:
    """
    Videos without texts as inputs: one, a list, or a generator of them; what is an input already stays as it is. A
    video may be a dictionary too, see `is_encoded_file`.

    Raises:
        ValueError: for an empty list.
    """
    if isinstance(videos, Iterator):
        return (as_input(video) for video in videos)
    if isinstance(videos, Mapping) or not is_many(videos):
        return as_input(videos)
    return [as_input(video) for video in videos]


def with_boxes(inputs: Any, boxes: Any) -> Any:
    """
    Inputs with the part of each video that is meant.

    Args:
        inputs: one, or a list of them.
        boxes: of one input its boxes (see `processing.boxes.Boxes`), or those of each in a list; None for whole
            videos.

    Raises:
        ValueError: for another number of boxes than of inputs, or a generator of inputs.
    """
    if boxes is None:
        return inputs
    if isinstance(inputs, Mapping):
        return {**inputs, "boxes": boxes}
    if not isinstance(inputs, list):
        raise ValueError('A generator\'s inputs have their own boxes: {"video": …, "boxes": …}.')
    if len(boxes) != len(inputs):
        raise ValueError(f"{len(boxes)} boxes for {len(inputs)} videos: give one for each, or None for a whole one.")
    return [{**one, "boxes": box} for one, box in zip(inputs, boxes, strict=True)]


def as_input(video: Any) -> Mapping[str, Any]:
    """A video without a text as an input; what is one already stays as it is."""
    return video if isinstance(video, Mapping) and not is_encoded_file(video) else {"video": video}


def is_many(videos: Any) -> bool:
    """
    Whether this holds several videos: a list, a data set's column, an iterator or a batch, but not one clip's list of
    frames.
    """
    if isinstance(videos, list | tuple):
        return split_into_clips(videos)[0] is not videos
    return isinstance(videos, Iterator) or is_list(videos) or getattr(videos, "ndim", None) == 5


def _placed(error: VideoDecodeError, inputs: Mapping[str, Any]) -> VideoDecodeError:
    """The error, with the number of a video that has no name."""
    if NUMBER not in inputs or isinstance(inputs["video"], str | os.PathLike):
        return error
    return VideoDecodeError(f"input {inputs[NUMBER]} (counted from 0), {error.source}", error.reason, error.advice)


def _numbered(item: Any, number: int) -> Any:
    return {**item, NUMBER: number} if isinstance(item, Mapping) else item
