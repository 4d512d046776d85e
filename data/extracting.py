"""`violet prepare frames`: sampled frames of clips from anywhere -> folders of pictures."""

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from ..core.files import new_folder, write_json, write_text
from ..processing.decoder_process import DecoderProcess
from ..processing.video_processing_violet import RAW_PIXELS, VioletVideoProcessor, evenly_spaced_indices
from .folders import METADATA, PROGRESS
from .loading import SAMPLE_ERRORS, TIME_LIMIT_SECONDS, decode_reference
from .parallel import in_parallel
from .rows import read_rows, rows_digest
from .sharding import BAD_SAMPLES, Clip, Clips, begin_folder, report_skipped
from .tables import TableError

FORMATS = ("jpg", "png")


@dataclass
class _Job:
    folder: Path
    clip: Clip
    num_frames: int
    format: str
    skips: bool
    processor: VioletVideoProcessor | None


@dataclass(frozen=True)
class PreparedFrames:
    """What `prepare_frames` did: clips, rows, how many clips were extracted now, and how many could not be read."""

    clips: int
    rows: int
    extracted: int
    skipped: int


def prepare_frames(
    source: str | os.PathLike,
    output: str | os.PathLike,
    num_frames: int | None = None,
    format: str = "jpg",
    workers: int = 1,
    bad_samples: str = "raise",
    video_folder: str | os.PathLike | None = None,
    processor: VioletVideoProcessor | None = None,
) -> PreparedFrames:
    """
    Writes a folder of frames for each clip (evenly spaced, or as `processor` takes them without a draw), and, last,
    `metadata.jsonl` with the rows: the whole is a source for `read_rows`. The same call goes on after an interruption.

    Args:
        source: what `read_rows` takes.
        output: the folder.
        num_frames: of each clip; a shorter one gives some twice. By default as many as `processor` takes.
        format: `jpg` (quality 95) or `png`.
        workers: processes.
        bad_samples: `raise` or `skip` a clip that cannot be read; `skipped.json` names those.
        video_folder: as of `read_rows`.
        processor: makes of each frame the picture that its model sees, such as 224 x 224 pixels. As `png` the model
            then gets the same pixels as from the clip itself, and nothing is left to decode or to resize in training.

    Raises:
        TableError: if the source, or a clip, cannot be read; for a `processor` that makes several inputs of a clip.
        VideoDecodeError: if a clip cannot be decoded.
        FileExistsError: if the folder holds something else.
    """
    output = Path(output)
    num_frames = processor.num_frames if num_frames is None and processor is not None else num_frames
    if num_frames is None or num_frames < 1 or format not in FORMATS or bad_samples not in BAD_SAMPLES or workers < 0:
        raise TableError(
            f"--num_frames must be 1 or more (without it --model says it), --format one of {', '.join(FORMATS)}, "
            f"--bad_samples one of {', '.join(BAD_SAMPLES)}, --workers not below 0; got {num_frames}, {format}, "
            f"{bad_samples}, {workers}."
        )
    if processor is not None and list(processor.inputs) != ["pixel_values_videos"]:
        raise TableError(
            f"--model: this model takes {', '.join(processor.inputs)} of each clip, which frames of one size do not "
            "give. Give --num_frames without --model."
        )
    rows = read_rows(source, ("video",), video_folder)
    clips = Clips(rows)
    settings: list[Any] = [rows_digest(rows), num_frames, format, bad_samples]
    if processor is not None:
        settings.append(processor.to_json_string())
    begin_folder(output, hashlib.sha256(json.dumps(settings).encode()).hexdigest())
    jobs = (
        _Job(output / clip.key, clip, num_frames, format, bad_samples == "skip", processor)
        for clip in (clips[number] for number in range(len(clips)))
    )
    skipped, lines, extracted = [], [], 0
    try:
        for number, (reason, is_new) in enumerate(in_parallel(_extract, jobs, workers)):
            clip = clips[number]
            extracted += is_new
            if reason:
                skipped.append({"key": clip.key, "video": clip.reference, "reason": reason})
                continue
            for row in clip.rows:
                columns = {name: value for name, value in row.items() if name != "video"}
                lines.append(json.dumps({"file_name": clip.key, **columns}, ensure_ascii=False, default=str))
    finally:
        _decoder().kill()  # this process's; those of the workers end with them
    report_skipped(skipped, len(clips) - len(skipped), os.fspath(source))
    if skipped:
        write_json(output / "skipped.json", skipped)
    write_text(output / METADATA[1], "\n".join(lines) + "\n")
    shutil.rmtree(output / PROGRESS)
    return PreparedFrames(len(clips), len(lines), extracted, len(skipped))


@functools.cache
def _decoder() -> DecoderProcess:
    """This process's own."""
    return DecoderProcess(TIME_LIMIT_SECONDS)


def _extract(job: _Job) -> tuple[str, bool]:
    """(why the clip cannot be read or "", whether it was extracted now)"""
    from PIL import Image

    if job.folder.is_dir():
        return "", False
    try:
        decoded = decode_reference(_decoder(), job.clip.reference, partial(_chosen, job))
    except SAMPLE_ERRORS as error:
        if not job.skips:
            raise
        return str(error), False
    frames = decoded.frames if job.processor is None else _as_seen(decoded.frames, job.processor)
    with new_folder(job.folder) as folder:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number:03}.{job.format}", quality=95)
    return "", True


def _chosen(job: _Job, total_frames: int, fps: float | None) -> np.ndarray:
    """The numbers of the frames that are taken."""
    if job.processor is None:
        return evenly_spaced_indices(total_frames, job.num_frames)
    return job.processor.sample_frames(VideoMetadata(total_num_frames=total_frames, fps=fps), job.num_frames)


def _as_seen(frames: np.ndarray, processor: VioletVideoProcessor) -> np.ndarray:
    """Frames (frames, height, width, 3) uint8 -> the same, cut and resized as a model sees them."""
    given = {"do_sample_frames": False, "do_random_crop": False, "sound": False, "inputs": ["pixel_values_videos"]}
    seen = processor([frames], return_tensors="np", **given, **RAW_PIXELS)["pixel_values_videos"]
    return seen[0].transpose(0, 2, 3, 1)
