"""`violet prepare captions`: a caption of each video's middle frame, written by a captioning model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from ..core.clip_inputs import take_clip_inputs
from ..data import read_rows
from ..data.loading import ClipReader
from ..data.tables import TableError
from ..modeling_violet import VioletForCaptioning


@dataclass(frozen=True)
class WrittenCaptions:
    """What `prepare_captions` did: rows, and how many captions were written now."""

    rows: int
    written: int


@torch.no_grad()
def prepare_captions(
    source: str | os.PathLike,
    output: str | os.PathLike,
    model: str,
    column: str = "frame_caption",
    batch_size: int = 16,
    video_folder: str | os.PathLike | None = None,
) -> WrittenCaptions:
    """
    Writes the rows of a source as a `.jsonl`, with a caption of each video's middle frame, for the objective
    `omnisource`. Until it is whole the file is `.NAME.partial`; the same call goes on there.

    Args:
        source: what `read_rows` takes.
        output: the file.
        model: a folder or Hub name of a captioning model, which sees each frame as a clip of one frame.
        column: of the caption.
        batch_size: frames that the model sees at a time.
        video_folder: as of `read_rows`.

    Raises:
        TableError, VideoDecodeError: for a source or video that cannot be used, naming its row; for what an earlier
            call began of other rows.
        FileExistsError: if the file is there already.
    """
    output = Path(output)
    if output.suffix != ".jsonl" or batch_size < 1:
        raise TableError(f"--output must be a .jsonl file, --batch_size 1 or more; got {output} and {batch_size}.")
    if output.exists():
        raise FileExistsError(f"{output} is there already.")
    rows = read_rows(source, ("video",), video_folder)
    if column in rows.column_names:
        raise TableError(f"{source}: its rows have a column {column!r} already; --column names another.")
    partial = output.with_name(f".{output.name}.partial")
    done = _lines_of(partial, rows)
    processor: Any = AutoProcessor.from_pretrained(model)
    network = VioletForCaptioning.from_pretrained(model).eval()
    if torch.accelerator.is_available():
        network.to(torch.accelerator.current_accelerator())
    reader = ClipReader(processor.video_processor)
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "a", encoding="utf-8") as file:
        for first in range(done, len(rows), batch_size):
            numbers = range(first, min(first + batch_size, len(rows)))
            frames = [reader.read_middle(rows[number]["video"], number).frames for number in numbers]
            for number, caption in zip(numbers, write_captions(network, processor, frames), strict=True):
                file.write(json.dumps({**rows[number], column: caption}, ensure_ascii=False) + "\n")
            file.flush()
        os.fsync(file.fileno())
    partial.replace(output)
    return WrittenCaptions(len(rows), len(rows) - done)


def write_captions(model: VioletForCaptioning, processor: Any, frames: list[Any]) -> list[str]:
    """Pictures, clips of one frame (1, height, width, 3) each -> the caption that the model is most sure of."""
    pixels: Mapping[str, Any] = processor(videos=frames, do_sample_frames=False).to(model.device)
    tokens = model.violet.encode_videos(**take_clip_inputs(dict(pixels)))
    ids = model.generate(video_tokens=tokens, max_length=processor.max_length, do_sample=False)
    return processor.tokenizer.batch_decode(ids, skip_special_tokens=True)


def _lines_of(partial: Path, rows: Any) -> int:
    """How many whole lines an earlier call wrote; a last one that it began is cut off."""
    if not partial.is_file():
        return 0
    whole = partial.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    lines = whole.decode("utf-8").splitlines()
    for number, line in enumerate(lines):
        if number >= len(rows) or json.loads(line)["video"] != rows[number]["video"]:
            raise TableError(f"{partial}: what an earlier call began was of other rows: delete it to begin again.")
    with open(partial, "r+b") as file:
        file.truncate(len(whole))
    return len(lines)
