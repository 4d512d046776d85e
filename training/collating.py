"""Rows of a table -> a batch of tensors. It runs in the data loader's workers, where the videos are decoded."""

import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from ..data import open_video
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing import VideoTextProcessor, VioletVideoProcessor
from ..processing.questions import by_question, question_with_option


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
            video: a text that names a clip, see `data.sources`.
            num_frames: how many; by default as many as the processor says.
        """
        num_frames = num_frames or self.video_processor.num_frames
        if (video, num_frames) in self.clips:
            return self.clips[video, num_frames]

        def sample(metadata):
            return self.video_processor.sample_frames(metadata, num_frames)

        frames, metadata = self.video_processor.fetch_videos(open_video(video), sample)
        clip = frames, metadata.frames_indices
        if frames.nbytes <= self.free:
            self.clips[video, num_frames] = clip
            self.free -= frames.nbytes
        return clip


class VideoTextCollator:
    """
    Rows with a `video` and texts -> what a model takes. A video is decoded once for all its rows.

    Args:
        processor: makes tensors of videos and texts.
        shuffle_frames: whether to put each video's frames into another order, drawn from its path, as a test of
            whether a model looks at time.
        cache_bytes: how much memory decoded frames may take, in each of the data loader's workers.
        name_videos: whether a batch has `videos`, their names, which `VioletTrainer` takes out for its messages.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        shuffle_frames: bool = False,
        cache_bytes: int = 0,
        name_videos: bool = False,
    ):
        self.processor = processor
        self.shuffle_frames = shuffle_frames
        self.name_videos = name_videos
        self.cache = FrameCache(processor.video_processor, cache_bytes)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        `pixel_values_videos` (videos, frames, 3, height, width), `video_index` (rows,) and what `texts` gives.
        """
        first_rows: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            first_rows.setdefault(row["video"], row)
        numbers = {video: number for number, video in enumerate(first_rows)}
        batch: dict[str, Any] = {"video_index": torch.tensor([numbers[row["video"]] for row in rows])}
        batch |= self.texts(rows, list(first_rows.values()))
        frames = [self.cache.read(video)[0] for video in first_rows]
        pixels = self.processor(videos=frames, do_sample_frames=False)["pixel_values_videos"]
        if self.shuffle_frames:
            pixels = torch.stack([shuffled(clip, video) for clip, video in zip(pixels, first_rows, strict=True)])
        batch["pixel_values_videos"] = pixels
        if self.name_videos:
            batch["videos"] = list(first_rows)
        return batch

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        What a batch has beside its videos.

        Args:
            rows: those of the batch.
            first_rows: the first row of each video.
        """
        raise NotImplementedError


class QuestionCollator(VideoTextCollator):
    """
    Questions about videos -> what `VioletForQuestionAnswering` takes.

    Args:
        processor, settings: as of `VideoTextCollator`.
        label2id: the answers' numbers; an answer that is not there gets the label −100: no loss, never right.
        captions: whether to pass the videos' captions on for the contrastive loss, where the rows have them.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        label2id: Mapping[str, int] | None = None,
        captions: bool = False,
        **settings: Any,
    ):
        super().__init__(processor, **settings)
        self.label2id = label2id
        self.captions = captions

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `question` and, for labels, `answer` -> `input_ids` and `attention_mask` (rows, tokens), `labels`
        (rows,), and `caption_ids` and `caption_attention_mask` (videos, tokens) and `video_ids` (videos,) where every
        video has a `caption`.
        """
        batch = dict(self.processor(text=[row["question"] for row in rows]))
        if self.label2id is not None:
            labels = [self.label2id.get(normalize_answer(row["answer"]), IGNORE_INDEX) for row in rows]
            batch["labels"] = torch.tensor(labels)
        if self.captions and all(row.get("caption") for row in first_rows):
            captions = self.processor(text=[row["caption"] for row in first_rows])
            batch["caption_ids"] = captions["input_ids"]
            batch["caption_attention_mask"] = captions["attention_mask"]
            batch["video_ids"] = video_ids(first_rows)
        return batch


class MultipleChoiceCollator(VideoTextCollator):
    """Questions with options -> what `VioletForMultipleChoice` takes: each option behind its question."""

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `question`, `options` (texts) and `answer` (the right one's number) -> `input_ids` and
        `attention_mask` (rows, options, tokens), all padding where a row has fewer options, and `labels` (rows,).
        """
        texts = [question_with_option(row["question"], option) for row in rows for option in row["options"]]
        flat = self.processor(text=texts)
        counts = [len(row["options"]) for row in rows]
        batch: dict[str, Any] = by_question(flat, counts, self.processor.tokenizer.pad_token_id)
        batch["labels"] = torch.tensor([row["answer"] for row in rows])
        return batch


class BlankCollator(VideoTextCollator):
    """
    Sentences with blanks -> what `VioletForMaskedLM` takes. An answer of several tokens makes as many [MASK]s of its
    blank; a row with a word that the vocabulary does not have gets the labels −100: no loss, never right.
    """

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `text`, a sentence with [MASK]s, and `answer`, one text or a list of them, in order -> `input_ids`
        and `attention_mask` (rows, tokens), and `labels` (rows, tokens), −100 but at the [MASK]s.
        """
        tokenizer = self.processor.tokenizer
        mask, unknown = tokenizer.mask_token, tokenizer.unk_token_id
        sentences, answers = [], []
        for row in rows:
            given = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            tokens = [tokenizer(str(answer), add_special_tokens=False)["input_ids"] for answer in given]
            parts = row["text"].split(mask)
            masks = [" ".join([mask] * len(answer)) for answer in tokens]
            sentences.append("".join(part + filler for part, filler in zip(parts, [*masks, ""], strict=True)))
            words = [token for answer in tokens for token in answer]
            answers.append([IGNORE_INDEX] * len(words) if unknown in words else words)
        batch = dict(self.processor(text=sentences))
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for line, ids, words, sentence in zip(labels, batch["input_ids"], answers, sentences, strict=True):
            places = (ids == tokenizer.mask_token_id).nonzero().flatten()
            if len(places) != len(words):
                raise ValueError(
                    f"{sentence!r} is cut after {len(ids)} tokens, before its last {mask}: give a greater "
                    "`max_text_length`, or shorten it."
                )
            line[places] = torch.tensor(words)
        batch["labels"] = labels
        return batch


class RetrievalCollator(VideoTextCollator):
    """Captions -> what `VioletForRetrieval` takes: all of them against all videos of the batch."""

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows with `caption` -> `input_ids` and `attention_mask` (rows, tokens), `video_ids` (videos,)."""
        batch = dict(self.processor(text=[row["caption"] for row in rows]))
        return batch | {"video_ids": video_ids(first_rows)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`labels` (rows,) in place of `video_index`."""
        batch = super().__call__(rows)
        batch["labels"] = batch.pop("video_index")
        return batch


class CaptionCollator(VideoTextCollator):
    """
    Captions -> what `VioletForCaptioning` learns from: masked words, the end of the text among them, or, with
    `next_word`, all words.

    Args:
        processor, settings: as of `VideoTextCollator`.
        word_ratio: the share of words that are masked, at least one of each caption. Which ones is drawn from the
            row's `draw` (see `DrawnRows`), or from its caption where it has none.
        next_word: for a model whose configuration has `next_word_prediction`.
    """

    def __init__(
        self, processor: VideoTextProcessor, word_ratio: float = 0.15, next_word: bool = False, **settings: Any
    ):
        super().__init__(processor, **settings)
        self.word_ratio = word_ratio
        self.next_word = next_word

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows with `caption` -> `input_ids`, `attention_mask` and `labels`, (rows, tokens) each."""
        batch = dict(self.processor(text=[row["caption"] for row in rows]))
        ids, labels = batch["input_ids"], torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for row, line, mask, target in zip(rows, ids, batch["attention_mask"], labels, strict=True):
            length = int(mask.sum())
            if self.next_word:
                target[:length] = line[:length]
                continue
            draw = row.get("draw", zlib.crc32(str(row["caption"]).encode()))
            count = max(1, round(self.word_ratio * (length - 1)))  # [CLS] stays
            order = torch.randperm(length - 1, generator=torch.Generator().manual_seed(draw))
            places = 1 + order[:count]
            target[places] = line[places]
            line[places] = self.processor.tokenizer.mask_token_id
        batch["labels"] = labels
        return batch


def video_ids(first_rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """(videos,), numbers of their names, by which processes that train together know a video again."""
    digests = (blake2b(row["video"].encode(), digest_size=8).digest() for row in first_rows)
    return torch.tensor([int.from_bytes(digest, signed=True) for digest in digests])


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
