"""The pipeline `video-text-retrieval`."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..evaluation.searching import (
    Gallery,
    MemoryGallery,
    score_all,
    score_pairs,
    shortlist_by_embeds,
)
from ..modeling_violet import Tokens
from ..processing.decoding import describe_source, encoded_file
from ..processing.questions import pad_texts
from .pairs import NUMBER, Asked, VideoTextPipeline, as_input, check_top_k, in_batch, is_many, with_boxes


class VideoTextRetrievalPipeline(VideoTextPipeline):
    """
    Finds videos by texts: scores every text against every video of a gallery. A video is encoded once, when it is
    added; a text then meets all of them.

        >>> search = pipeline("video-text-retrieval", model="folder-or-hub-name")
        >>> search.add(["a.mp4", "b.mp4", "c.mp4"])
        >>> search("a red disc moves left", top_k=2)
        [{"video": "b.mp4", "index": 1, "score": 0.93}, {"video": "a.mp4", "index": 0, "score": 0.05}]
        >>> search(["a red disc moves left", "a blue square grows"], videos=["d.mp4", "e.mp4"])  # only in these

    A score is the probability that the video is the one that the text tells of, among those searched: they sum to 1
    over the gallery, and depend on what else is in it.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it. Encoded videos stay on the model's device; 1,000 clips of 5 frames of 224 x 224 pixels take 768 MB
    at the published models' width. Many videos are better kept on disk, and searched in two stages:

        >>> search.open("gallery", videos=paths)  # encodes what the folder does not have yet
        >>> search("a red disc moves left", shortlist=100)  # the fusion sees only the nearest 100
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._gallery: Gallery = MemoryGallery()

    @property
    def gallery(self) -> tuple[str, ...]:
        """The names of the videos that were added, in order."""
        return tuple(self._gallery.names)

    def open(
        self,
        folder: str | os.PathLike,
        videos: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        """
        Searches the gallery in this folder from now on.

        Args:
            videos: what it is to hold: those that are not there yet are encoded, also after an interruption.
            names, batch_size, num_workers: as of `evaluation.galleries.encode_gallery`.

        Raises:
            GalleryError: for a folder without a whole gallery, or with one of other videos, weights or frames.
        """
        from ..evaluation.galleries import StoredGallery, encode_gallery  # no checkpoint carries it, see carried_code

        if videos is None:
            self._gallery = StoredGallery(folder, self.model, self.processor)
            return
        size = self.check_batch_size(batch_size)
        with self.device_placement():
            self._gallery = encode_gallery(
                self.model, self.processor, videos, folder, names, batch_size=size, num_workers=num_workers
            )

    def add(
        self,
        videos: Any,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
        boxes: Sequence[Any] | None = None,
        num_workers: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        """
        Encodes videos and puts them behind those of the gallery: all of them, or, if one cannot be read, none. A
        gallery on disk stays as it is, and takes none.

        Args:
            videos: a video, a list of them, or a generator, of which a batch and what processes read ahead are in
                memory; {"video": …, "sound": …} gives a sound beside it.
            names: what results call them, if that is not their path or URL. A name that the gallery has already is
                passed over: it is not encoded again.
            batch_size: how many are encoded together, by default the pipeline's own, or 1.
            boxes: for a model that reads them: of each video the part that is searched, see `processing.boxes.Boxes`.
                A video may be given several times, each with another box.
            num_workers: how many processes read the next videos while these are encoded (see `run`), 0 by default.
            skip_bad: whether to leave out a video that cannot be read (see `failed`) instead of raising.
        """
        if not isinstance(self._gallery, MemoryGallery):
            raise ValueError("The gallery on disk cannot grow: `clear` it first, or `open` one with all videos.")
        settings: dict[str, Any] = {"boxes": boxes, "num_workers": num_workers, "skip_bad": skip_bad}
        self._gallery = self._grown(self._gallery, videos, names, batch_size, **settings)

    @property
    def failed(self) -> Mapping[str, str]:
        """The videos that were left out of the gallery, by name, with what was wrong with them."""
        return self._gallery.failed

    def clear(self) -> None:
        """Empties the gallery."""
        self._gallery = MemoryGallery()

    def __call__(
        self,
        texts: str | Iterable[str],
        videos: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            texts: a text, a list of them, or a generator.
            videos: a video or several to search in place of the gallery, which they do not enter.
            top_k: how many videos to give, 5 if it is not given; all if there are fewer.
            shortlist: how many videos meet the text in the fusion: those nearest to it before, by the model's
                projection; all if it is not given. Scores then sum to 1 over the shortlist.
            pairs_per_pass: how many pairs of a text and a video meet in the fusion at a time, 256 if it is not
                given: less takes less memory.
            batch_size: how many texts, and of `videos` how many, go through the model together.
            num_workers: how many processes read `videos`, see `add`.

        Returns:
            `[{"video": str, "index": int, "score": float}, ...]`, best first, `index` being the place in the gallery;
            a list of such lists for several texts; an iterator for a generator.
        """
        if isinstance(texts, str):
            inputs: Any = {"text": texts}
        elif isinstance(texts, Sequence):
            inputs = [{"text": text} for text in texts]
        else:
            inputs = ({"text": text} for text in texts)
        gallery = self._gallery
        if videos is not None:
            gallery = self._grown(MemoryGallery(), videos, None, batch_size, num_workers=num_workers)
        if not gallery.names:
            raise ValueError("There is nothing to search: `add` videos first, or give some as `videos`.")
        return self.run(inputs, num_workers=0, batch_size=batch_size, gallery=gallery, **kwargs)

    def _grown(
        self,
        gallery: MemoryGallery,
        videos: Any,
        names: Sequence[str] | None,
        batch_size: int | None,
        boxes: Sequence[Any] | None = None,
        num_workers: int | None = None,
        skip_bad: bool = False,
    ) -> MemoryGallery:
        """The gallery with these videos behind it."""
        size, workers = self.check_batch_size(batch_size), self.check_workers(num_workers)
        new, failed = dict.fromkeys(gallery.names), dict(gallery.failed)
        encoded = [] if gallery.video_tokens is None else [gallery.video_tokens]
        embeds = [] if gallery.embeds is None else [gallery.embeds]
        model = self.model.violet

        def readable() -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
            for one, read in self.read_videos(_inputs_of(videos, names, boxes, tuple(gallery.names)), workers):
                if not isinstance(read, ValueError):
                    yield one[NAME], read
                elif skip_bad:
                    failed[one[NAME]] = str(read)
                else:
                    raise read

        reading = readable()
        while batch := dict(islice(reading, size)):
            new |= dict.fromkeys(batch)
            pixels = {name: torch.cat([clip[name] for clip in batch.values()]) for name in next(iter(batch.values()))}
            with self.device_placement(), torch.no_grad():
                tokens = model.encode_videos(**self.clip_inputs(pixels))
                if model.has_embeddings:
                    embeds.append(model.embed_videos(tokens))
            if model.matches_in_fusion:
                encoded.append(tokens)
        return MemoryGallery(
            tuple(new),
            Tokens.join(encoded) if encoded else None,
            torch.cat(embeds) if embeds else None,
            failed,
        )

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        pairs_per_pass: int | None = None,
        shortlist: int | None = None,
        gallery: Gallery | None = None,
    ):
        if shortlist is not None and shortlist < 1:
            raise ValueError(f"`shortlist` must be 1 or more, got {shortlist}.")
        scoring = {"gallery": gallery, "pairs_per_pass": pairs_per_pass, "shortlist": shortlist}
        naming = {"gallery": gallery} if gallery is not None else {}
        return {}, {name: value for name, value in scoring.items() if value is not None}, naming | check_top_k(top_k)

    def preprocess(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(inputs["text"], str):
            raise ValueError(f"A text to search for is needed, got {inputs['text']!r}.")
        return {"asked": Asked([self.tokenize(inputs["text"])])}

    def _forward(
        self,
        model_inputs: dict[str, Any],
        gallery: Gallery,
        pairs_per_pass: int = 256,
        shortlist: int | None = None,
    ) -> dict[str, Any]:
        texts = [one.texts[0] for one in in_batch(model_inputs["asked"])]
        input_ids, attention_mask = pad_texts(texts, self.processor.tokenizer.pad_token_id, self.device)
        if shortlist is None:
            scores = score_all(self.model, gallery, input_ids, attention_mask, pairs_per_pass)
            numbers = torch.arange(scores.shape[1]).expand_as(scores)
        else:
            numbers = shortlist_by_embeds(self.model, gallery, input_ids, attention_mask, shortlist)
            scores = score_pairs(self.model, gallery, input_ids, attention_mask, numbers, pairs_per_pass)
        return {"scores": scores.softmax(-1), "numbers": numbers}

    def postprocess(self, model_outputs: dict[str, Any], gallery: Gallery, top_k: int = 5) -> list[dict[str, Any]]:
        scores, numbers = model_outputs["scores"][0], model_outputs["numbers"][0]
        best = scores.topk(min(top_k, len(scores)))
        return [
            {"video": gallery.names[number], "index": number, "score": score}
            for score, number in zip(best.values.tolist(), numbers[best.indices].tolist(), strict=True)
        ]


NAME = "gallery_name"
"""The key under which an input knows what results call it."""


def _inputs_of(
    videos: Any, names: Sequence[str] | None, boxes: Sequence[Any] | None, known: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """
    An input for each video whose name is new.

    Args:
        known: the names that the gallery has.

    Raises:
        ValueError: for no videos, or another number of names or boxes than of videos.
    """
    if isinstance(videos, Iterator) and names is None and boxes is None:
        clips: Iterable[Any] = videos
    else:
        clips = list(videos) if is_many(videos) else [videos]
        if names is not None and len(names) != len(clips):
            raise ValueError(f"{len(names)} names for {len(clips)} videos.")
        clips = with_boxes([as_input(clip) for clip in clips], boxes)
    seen, number = set(known), -1
    for number, clip in enumerate(clips):
        one = as_input(clip)
        name = _name(one, len(known) + number) if names is None else names[number]
        if name not in seen:
            seen.add(name)
            yield {**one, NUMBER: number, NAME: name}
    if number < 0:
        raise ValueError("The list of videos is empty.")


def _name(one: Mapping[str, Any], place: int) -> str:
    """A path or URL as it is, with its box if it has one; what has no name by its place in the gallery."""
    video, boxes = one["video"], one.get("boxes")
    has_name = isinstance(encoded_file(video), str | os.PathLike)
    name = describe_source(video) if has_name else f"{place}: {describe_source(video)}"
    return name if boxes is None else f"{name} {json.dumps(np.array(boxes, dtype=object).tolist(), default=float)}"
