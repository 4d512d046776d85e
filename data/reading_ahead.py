"""Videos made ready for a model by other processes, in order, while the model works on those before them."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..core.clip_inputs import take_clip_inputs
from ..processing.decoding import describe_source
from ..processing.video_processing_violet import RAW_PIXELS, VioletVideoProcessor
from .lasting import LastingLoader
from .loading import SAMPLE_ERRORS, ClipReader, doubts_of, logger
from .sources import open_video, video_name

GIVEN = ("video", "sound", "boxes")
"""What processes are told of an input."""
MOST_WORKERS = 8


def workers_for(videos: int, together: int) -> int:
    """How many processes make videos ready on this machine: none if all of them go through the model at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if videos <= together else min(cores, MOST_WORKERS)


def read_ahead(
    frames: VioletVideoProcessor, inputs: Iterable[Mapping[str, Any]], num_workers: int, cache_bytes: int = 0
) -> Iterator[tuple[Mapping[str, Any], dict[str, torch.Tensor] | ValueError]]:
    """
    Each input, in order, and what a model takes of its `video`. Files are decoded within a time limit
    (`ClipReader`); a process that dies or stands still is replaced (`LastingLoader`). Two videos a process are made
    ready ahead, so that the memory does not grow with their number.

    Args:
        frames: says which frames are taken, and what is made of them.
        inputs: each with a `video`, whatever `ClipReader` reads, and maybe a `sound`, for a model that hears, and
            `boxes`, see `VioletVideoProcessorKwargs`. They are asked for as they are needed. One without a video comes
            back with nothing.
        num_workers: how many processes; with 0 this one reads each video when it is asked for.
        cache_bytes: how much memory decoded frames may take in all, for inputs that have the same video.

    Yields:
        The input with its clip inputs (see `core.clip_inputs`), pixels in bytes, for
        `VideoTextProcessor.to_device`; or with the error of a video that cannot be read.

    Raises (in iterating):
        WorkerDiedError: if processes die three times over one video.
    """
    making, under_way = _Making(frames, cache_bytes // max(num_workers, 1)), deque[Mapping[str, Any]]()
    failed: list[Exception] = []

    def taken() -> Iterator[dict[str, Any]]:
        try:
            for one in inputs:
                under_way.append(one)
                yield {name: one[name] for name in GIVEN if name in one}
        except Exception as error:  # noqa: BLE001 - raised in its turn, behind the videos that came before
            failed.append(error)

    if num_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as pipelines do: its threads do not survive a fork
    plain: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        making,
        batch_size=None,
        sampler=taken(),
        num_workers=num_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the global one draws what the model writes
    )
    reader = making.reader
    held = (None, 0.0) if reader is None else (reader.held, reader.stall_limit)
    try:
        for made in LastingLoader(plain, *held):
            yield under_way.popleft(), made
    finally:
        making.close()
    for error in failed:
        raise error


def _as_it_is(made: Any) -> Any:
    return made


class _Making(torch.utils.data.Dataset):
    """Inputs, in the place of numbers -> what `read_ahead` gives of them."""

    def __init__(self, frames: VioletVideoProcessor, cache_bytes: int):
        self.frames = frames
        equal = frames.fps is None and frames.do_sample_frames  # as many frames of each video
        self.reader = ClipReader(frames, cache_bytes) if equal else None

    def __getitem__(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor] | ValueError:
        try:
            return take_clip_inputs(self._made_of(inputs))
        except SAMPLE_ERRORS as error:
            return error

    def _made_of(self, inputs: Mapping[str, Any]) -> Any:
        if "video" not in inputs:
            return {}
        video, settings = inputs["video"], {"return_tensors": "pt", **RAW_PIXELS}
        heard = self.frames.hears and "sound" in inputs
        if heard:
            settings["sound"] = [inputs["sound"]]
        if "boxes" in inputs:
            settings["boxes"] = [inputs["boxes"]]
        # Boxes belong to the frames of the whole video; what is in memory needs no time limit.
        if self.reader is None or "boxes" in inputs or video_name(video) is None:
            if self.reader is not None:
                self.reader.held.note(describe_source(video))
            return self.frames([open_video(video)], **settings)
        clip = self.reader.read(video, share=0 if heard else 1)
        if clip.sound is not None:
            settings["sound"] = [clip.sound]
        for doubt in doubts_of("", None, video_name(video) or describe_source(video), clip):
            logger.warning("%s", doubt.reason)
        return self.frames([clip.frames], do_sample_frames=False, **settings)

    def close(self) -> None:
        """Ends the decoder of this process; those of others end with them."""
        if self.reader is not None:
            self.reader.decoder.kill()
