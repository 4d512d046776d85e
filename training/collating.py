"""Rows of a table -> a batch of tensors. It runs in the data loader's workers, where the videos are decoded."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data import read_video
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing import VideoTextProcessor, VioletVideoProcessor


class FrameCache:
    """
    The sampled frames of the videos that were read, until they fill `capacity` bytes: the videos of a small table are
    decoded in the first epoch only. What is there stays: with each video seen once an epoch, no other were better.
    """

    def __init__(self, video_processor: VioletVideoProcessor, capacity: int):
        self.video_processor = video_processor
        self.free = capacity
        self.clips: dict[tuple[str, int], tuple[np.ndarray, list[int]]] = {}

    def read(self, video: str, num_frames: int | None = None) -> tuple[np.ndarray, list[int]]:
        """
        The frames (frames, height, width, 3) uint8 that the processor samples of this video, and their numbers in it.

        Args:
            video: a path, a URL, or a clip of a TSV file, see `data.original`.
            num_frames: how many; by default as many as the processor says.
        """
        num_frames = num_frames or self.video_processor.num_frames
        if (video, num_frames) in self.clips:
            return self.clips[video, num_frames]

        def sample(metadata):
            return self.video_processor.sample_frames(metadata, num_frames)

        source = read_video(video) if ".tsv#" in video else video
        frames, metadata = self.video_processor.fetch_videos(source, sample)
        clip = frames, metadata.frames_indices
        if frames.nbytes <= self.free:
            self.clips[video, num_frames] = clip
            self.free -= frames.nbytes
        return clip


class QuestionCollator:
    """
    Questions about videos -> what `VioletForQuestionAnswering` takes. A video is decoded once for all its rows.

    Args:
        processor: makes tensors of videos and texts.
        label2id: the answers' numbers; an answer that is not there gets the label −100: no loss, never right.
        captions: whether to pass the videos' captions on for the contrastive loss, where the rows have them.
        shuffle_frames: whether to put each video's frames into another order, drawn from its path, as a test of
            whether a model looks at time.
        cache_bytes: how much memory decoded frames may take, in each of the data loader's workers.
        name_videos: whether a batch has `videos`, their names, which `VioletTrainer` takes out for its messages.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        label2id: Mapping[str, int] | None = None,
        captions: bool = False,
        shuffle_frames: bool = False,
        cache_bytes: int = 0,
        name_videos: bool = False,
    ):
        self.processor = processor
        self.label2id = label2id
        self.captions = captions
        self.shuffle_frames = shuffle_frames
        self.name_videos = name_videos
        self.cache = FrameCache(processor.video_processor, cache_bytes)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `video`, `question` and, for labels, `answer` -> `input_ids` and `attention_mask` (texts, tokens),
        `video_index` (texts,), `pixel_values_videos` (videos, frames, 3, height, width), `labels` (texts,), and
        `caption_ids` and `caption_attention_mask` (videos, tokens) where every row has a `caption`.
        """
        first_rows: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            first_rows.setdefault(row["video"], row)
        numbers = {video: number for number, video in enumerate(first_rows)}
        batch = dict(self.processor(text=[row["question"] for row in rows]))
        batch["video_index"] = torch.tensor([numbers[row["video"]] for row in rows])
        frames = [self.cache.read(video)[0] for video in first_rows]
        pixels = self.processor(videos=frames, do_sample_frames=False)["pixel_values_videos"]
        if self.shuffle_frames:
            pixels = torch.stack([shuffled(clip, video) for clip, video in zip(pixels, first_rows, strict=True)])
        batch["pixel_values_videos"] = pixels
        if self.label2id is not None:
            labels = [self.label2id.get(normalize_answer(row["answer"]), IGNORE_INDEX) for row in rows]
            batch["labels"] = torch.tensor(labels)
        if self.captions and all(row.get("caption") for row in first_rows.values()):
            captions = self.processor(text=[row["caption"] for row in first_rows.values()])
            batch["caption_ids"] = captions["input_ids"]
            batch["caption_attention_mask"] = captions["attention_mask"]
        if self.name_videos:
            batch["videos"] = list(first_rows)
        return batch


def normalize_answer(answer: Any) -> str:
    """An answer as answers are compared: lower case, single spaces."""
    return " ".join(str(answer).lower().split())


def shuffled(frames: torch.Tensor, name: str) -> torch.Tensor:
    """(frames, ...) in another order, which depends on `name` alone; a single frame stays as it is."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    order = np.arange(len(frames))
    while len(frames) > 1 and (order == np.arange(len(frames))).all():
        order = generator.permutation(len(frames))
    return frames[torch.from_numpy(order)]
