"""Retrieval: every text against every video."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...data import COLUMNS, captioned, gallery
from ...evaluation.measures import Evaluation
from ...evaluation.retrieval import retrieval_measures
from ...evaluation.searching import score_gallery
from ...evaluation.sharing import gather
from ...modeling_violet import Tokens, VioletForRetrieval
from ..collating import VideoTextCollator, video_ids
from .evaluation_batches import encoded_videos, first_of_each, need_some, precision
from .task import Task

if TYPE_CHECKING:
    from ..arguments import DataArguments


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


@torch.no_grad()
def measure_retrieval(
    model, collator: VideoTextCollator, rows: Dataset, data: "DataArguments", training: TrainingArguments
) -> Evaluation:
    """
    Recall and ranks, both ways, of every text of the rows against every one of their videos. Each process encodes and
    scores its share of the videos.
    """
    encoded, mine = [], []
    for of_batch, tokens in encoded_videos(model, collator, first_of_each(rows), training):
        encoded.append(tokens)
        mine += [row["video"] for row in of_batch]
    texts = collator.processor(text=list(rows["caption"]), return_tensors="pt").to(model.device)
    columns = np.empty((0, len(rows)), np.float32)
    if encoded:
        with precision(model, training):
            scores = score_gallery(model, Tokens.join(encoded), texts["input_ids"], texts["attention_mask"])
        columns = scores.t().cpu().numpy()
    by_video = dict(gather(list(zip(mine, columns, strict=True))))
    need_some(by_video, rows)
    videos = {video: number for number, video in enumerate(by_video)}
    asked = [number for number, video in enumerate(rows["video"]) if video in videos]
    scores = torch.from_numpy(np.stack(list(by_video.values()), 1)[asked])
    own = [videos[rows["video"][number]] for number in asked]
    measures = retrieval_measures(scores, own)
    ranks = measures["text_to_video_mean_rank"].values
    names, captions = list(videos), rows["caption"]
    samples = [
        {
            "row": number,
            "video": names[video],
            "question": captions[number],
            "prediction": names[best],
            "found": names[best],
            "truth": names[video],
            "right": bool(rank == 1),
            "score": -float(rank),
        }
        for number, video, best, rank in zip(asked, own, scores.argmax(1).tolist(), ranks, strict=True)
    ]
    if data.dual_softmax:
        measures |= retrieval_measures(scores, own, use_dual_softmax=True)
    notes = {"score": "minus the rank of the text's own video; equal scores count as in a random order of them"}
    return Evaluation(measures, {"gallery": float(len(videos))}, samples, notes, len(rows) - len(asked))


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return RetrievalCollator(processor, **settings)


def _ask(row: Mapping[str, Any]) -> list[str]:
    video = str(row["video"])
    folder = str(Path(video).parent) if os.path.exists(video) else video
    return ["--gallery", folder, "--text", str(row["caption"])]


TASK = Task(
    model_class=VioletForRetrieval,
    columns=COLUMNS["retrieval"],
    texts=("caption",),
    reads=("caption",),
    rows=captioned,
    test_rows=gallery,
    collate=_collate,
    measure=measure_retrieval,
    metrics=None,
    ask=_ask,
    apart=True,
)
