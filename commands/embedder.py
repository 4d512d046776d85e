"""What one process does of `violet embed`: clips -> the rows of a Parquet part."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.clip_inputs import take_clip_inputs
from ..core.quiet import silence_transformers
from ..data.lasting import LastingLoader
from ..data.loading import ClipReader, FailedSample, explained_workers
from ..evaluation.galleries import made_by
from ..evaluation.provenance import settings_hash
from ..modeling_violet import Tokens
from ..pipelines.video_feature_extraction import vector_of
from ..training.collating import VideoTextCollator
from .prediction import PredictError, find_asked, load_pipeline

if TYPE_CHECKING:
    import pyarrow

SOURCE = "data"
"""What the list of failed samples calls the rows."""


@dataclass(frozen=True)
class Wanted:
    """
    What is made of each clip.

    Attributes:
        model: a folder, a Hub name, or weights that come with the package.
        captions: whether the model writes a caption.
        texts: whether the rows' texts are embedded.
        batch_size: clips in a pass.
        skip_bad: whether a clip that cannot be read is left out, instead of an error.
        workers: processes that decode.
    """

    model: str
    captions: bool = False
    texts: bool = False
    batch_size: int = 8
    skip_bad: bool = False
    workers: int = 1


@dataclass
class Part:
    """
    A part that was made.

    Attributes:
        table: a row for each clip: `id`, `video` (where it lies), `embedding`, a list of as many float32 as the model
            gives; `caption`, if it was asked for; `texts` and `text_embeds`, lists as long as a clip has texts.
        tried: how many clips were read for it.
        samples: those that could not be read; and what is to be told of others, see `doubts_of`.
    """

    table: "pyarrow.Table"
    tried: int
    samples: list[FailedSample] = field(default_factory=list)


class Embedder:
    """
    A model on this process's accelerator, or its processor.

    Raises:
        PredictError: for a checkpoint that cannot be asked for this.
        HubError: for one that cannot be had.
    """

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        silence_transformers()
        folder, name = find_asked(wanted.model, ["caption" if wanted.captions else "features"])
        self.pipe = load_pipeline(wanted.model, folder, name)
        self.model = getattr(self.pipe.model, "violet", self.pipe.model)
        self.processor = self.pipe.processor
        if wanted.texts and not self.model.has_embeddings:
            raise PredictError(
                f"{wanted.model} embeds no texts: its configuration has no `projection_dim`. Leave --text_column out."
            )
        try:
            reader = ClipReader(self.processor.video_processor)
        except ValueError as error:
            raise PredictError(f"{wanted.model}: {error}") from error
        self.collator = _ClipCollator(self.processor, reader, skip_bad=wanted.skip_bad)
        self.collator.raw_pixels = True

    def identity(self) -> dict[str, str]:
        """Hashes of what the embeddings are made with: weights, frames, and how captions are written."""
        made = made_by(self.pipe.model, self.processor)
        if self.wanted.captions:
            settings = self.pipe.model.generation_config.to_dict() | {"max_length": self.processor.max_length}
            made["writing"] = settings_hash(settings)
        return made

    def parts(self, clips: Sequence[Mapping[str, Any]], ranges: Iterable[range]) -> Iterator[Part]:
        """
        Makes parts one after another. What a clip gives depends on its batch by rounding, so a batch is a function
        of its part.

        Args:
            clips: each with `id`, `video`, `row` (its number) and `texts`.
            ranges: the numbers of each part's clips.

        Raises:
            VideoDecodeError, TableError: for a clip that cannot be read, unless those are left out.
            WorkerDiedError: if a decoding process dies again and again.
        """
        size, ranges = self.wanted.batch_size, list(ranges)
        batches: dict[range, list[Any]] = {
            part: [part[first : first + size] for first in range(0, len(part), size)] for part in ranges
        }
        plain: Any = torch.utils.data.DataLoader(
            clips,  # type: ignore[arg-type]
            batch_sampler=[batch for of_part in batches.values() for batch in of_part],
            collate_fn=self.collator,
            num_workers=self.wanted.workers,
        )
        reader = self.collator.reader
        with explained_workers(reader):
            loaded = iter(LastingLoader(plain, reader.held, reader.stall_limit))
            for part in ranges:
                made = [self._pass(batch) for batch in islice(loaded, len(batches[part]))]
                yield _part_of(made, self.wanted)

    @torch.no_grad()
    def _pass(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model gives of a batch, by column; `kept` says which clips could be read."""
        clips, samples, unread = batch.pop("clips"), batch.pop("failed", []), batch.pop("unread", None)
        batch = self.processor.to_device(batch, self.pipe.device)
        words = {name: batch.pop(name) for name in ("input_ids", "attention_mask") if name in batch}
        pixels = take_clip_inputs(batch)
        video: Tokens = self.model.encode_videos(**pixels)
        made: dict[str, Any] = {
            "kept": np.ones(len(clips), bool) if unread is None else ~unread.numpy(),
            "samples": [replace(sample, rows=SOURCE) for sample in samples],
            "clips": clips,
            "embedding": _vectors(vector_of(self.model, video)),
        }
        if self.wanted.captions:
            written = self.pipe._forward({"asked": [self.pipe.asked(pixels)] * len(clips), "video_tokens": video})
            said = [self.pipe.postprocess({"sequences": one[None]}) for one in written["sequences"]]
            made["caption"] = [best[0]["generated_text"] for best in said]
        if self.wanted.texts:
            none = made["embedding"][:0]
            made["text_embeds"] = _vectors(self.model.embed_texts(**words)) if words else none
        return made


def _vectors(states: torch.Tensor) -> np.ndarray:
    return states.float().cpu().numpy()


class _ClipCollator(VideoTextCollator):
    """Clips with their texts; a clip that cannot be read keeps its place, with black frames."""

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Adds the clips as they were given, and the token ids of all their texts."""
        texts = [text for row in rows for text in row["texts"]]
        clips = [{name: row[name] for name in ("id", "video", "texts")} for row in rows]
        return {**(self.processor(text=texts) if texts else {}), "clips": clips}


def _part_of(batches: Sequence[Mapping[str, Any]], wanted: Wanted) -> Part:
    """The batches of a part as one table, without the clips that could not be read."""
    import pyarrow

    kept = np.concatenate([batch["kept"] for batch in batches])
    clips = [clip for batch in batches for clip in batch["clips"]]
    read = [clip for clip, is_kept in zip(clips, kept, strict=True) if is_kept]
    columns: dict[str, Any] = {
        "id": pyarrow.array([clip["id"] for clip in read], pyarrow.string()),
        "video": pyarrow.array([clip["video"] for clip in read], pyarrow.string()),
        "embedding": _list_of_vectors(np.concatenate([batch["embedding"] for batch in batches])[kept]),
    }
    if wanted.captions:
        captions = [caption for batch in batches for caption in batch["caption"]]
        said = [caption for caption, is_kept in zip(captions, kept, strict=True) if is_kept]
        columns["caption"] = pyarrow.array(said, pyarrow.string())
    if wanted.texts:
        columns["texts"] = pyarrow.array([clip["texts"] for clip in read], pyarrow.list_(pyarrow.string()))
        of_texts = np.repeat(kept, [len(clip["texts"]) for clip in clips])
        vectors = np.concatenate([batch["text_embeds"] for batch in batches])[of_texts]
        places = np.cumsum([0, *(len(clip["texts"]) for clip in read)]).astype(np.int32)
        columns["text_embeds"] = pyarrow.ListArray.from_arrays(places, _list_of_vectors(vectors))
    samples = [sample for batch in batches for sample in batch["samples"]]
    return Part(pyarrow.table(columns), len(clips), samples)


def _list_of_vectors(vectors: np.ndarray) -> "pyarrow.Array":
    import pyarrow

    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
