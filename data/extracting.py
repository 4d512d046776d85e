"""`violet prepare frames`: sampled frames of clips from anywhere -> folders of pictures."""

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.files import new_folder, write_json, write_text
from ..processing.decoder_process import DecoderProcess
from ..processing.video_processing_violet import evenly_spaced_indices
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
    num_frames: int,
    format: str = "jpg",
    workers: int = 1,
    bad_samples: str = "raise",
    video_folder: str | os.PathLike | None = None,
) -> PreparedFrames:
    """
    Writes a folder of evenly spaced frames (as the processor samples them) for each clip, and, last, `metadata.jsonl`
    with the rows: the whole is a source for `read_rows`. The same call goes on after an interruption.

    Args:
        source: what `read_rows` takes.
        output: the folder.
        num_frames: of each clip; a shorter one gives some twice.
        format: `jpg` (quality 95) or `png`.
        workers: processes.
        bad_samples: `raise` or `skip` a clip that cannot be read; `skipped.json` names those.
        video_folder: as of `read_rows`.

    Raises:
        TableError: if the source, or a clip, cannot be read.
        VideoDecodeError: if a clip cannot be decoded.
        FileExistsError: if the folder holds something else.
    """
    output = Path(output)
    if num_frames < 1 or format not in FORMATS or bad_samples not in BAD_SAMPLES or workers < 0:
        raise TableError(
            f"--num_frames must be 1 or more, --format one of {', '.join(FORMATS)}, --bad_samples one of "
            f"{', '.join(BAD_SAMPLES)}, --workers not below 0; got {num_frames}, {format}, {bad_samples}, {workers}."
        )
    rows = read_rows(source, ("video",), video_folder)
    clips = Clips(rows)
    settings = [rows_digest(rows), num_frames, format, bad_samples]
    begin_folder(output, hashlib.sha256(json.dumps(settings).encode()).hexdigest())
    jobs = (
        _Job(output / clip.key, clip, num_frames, format, bad_samples == "skip")
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
        decoded = decode_reference(
            _decoder(), job.clip.reference, lambda total, fps: evenly_spaced_indices(total, job.num_frames)
        )
    except SAMPLE_ERRORS as error:
        if not job.skips:
            raise
        return str(error), False
    with new_folder(job.folder) as folder:
        for number, frame in enumerate(decoded.frames):
            Image.fromarray(frame).save(folder / f"{number:03}.{job.format}", quality=95)
    return "", True
