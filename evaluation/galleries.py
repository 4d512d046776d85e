"""Videos that are encoded once, into a folder, and searched often, see `searching`."""

import json
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.files import MANIFEST, seal, write_json, write_tensors
from ..data.reading_ahead import read_ahead
from ..modeling_violet import Tokens
from .provenance import settings_hash, weights_hash
from .searching import GalleryError
from .sharing import gather, on_first, own_share

SETTINGS_FILE = "gallery.json"
SHAPE = ("grid", "num_special_per_frame", "num_special_per_clip")
"""What `Tokens` say of their places."""
COLUMNS = ("tokens", "mask", "audio_tokens", "audio_mask")
"""What a part holds of them, one row per video; the last two if the videos were heard."""


class StoredGallery:
    """
    A `Gallery` on disk, as `encode_gallery` writes it. What is read of it is mapped into memory and not kept.

    Args:
        folder: where it is.
        model, processor: what it is to be searched with.

    Attributes:
        failed: the videos that were left out, with what was wrong with them.

    Raises:
        GalleryError: for a folder that holds no whole gallery, or one of other weights or frames.
    """

    def __init__(self, folder: str | os.PathLike, model: Any, processor: Any):
        self.folder = Path(folder)
        try:
            self.settings: dict[str, Any] = json.loads((self.folder / SETTINGS_FILE).read_text())
            listing = json.loads((self.folder / MANIFEST).read_text())
            listing.pop(MANIFEST, None)  # its own sum
        except (OSError, ValueError) as error:
            raise GalleryError(
                f"{folder} holds no whole gallery: {error}. Encode its videos (again) first."
            ) from error
        _compare(self.folder, self.settings, made_by(model, processor))
        for name, of_file in listing.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size != of_file["bytes"]:
                raise GalleryError(f"{file} is missing, or not of {of_file['bytes']} bytes: encode the videos again.")
        self._files = [self.folder / name for name in sorted(listing) if name.endswith(".safetensors")]
        kept: list[int] = []
        sizes: list[int] = []
        embeds: list[torch.Tensor] = []
        self.failed: dict[str, str] = {}
        for file in self._files:
            part = _open(file)
            facts = part.metadata()
            numbers = json.loads(facts["numbers"])
            self.failed |= json.loads(facts["failed"])
            kept, sizes = kept + numbers, [*sizes, len(numbers)]
            if numbers:
                self._shape = json.loads(facts.get("shape", "{}"))
                if "embeds" in part.keys():  # noqa: SIM118 - it is no dictionary
                    embeds.append(part.get_tensor("embeds"))
        if not kept:
            raise GalleryError(f"{folder} holds no video: none could be read.")
        self.names: tuple[str, ...] = tuple(self.settings["names"][number] for number in kept)
        self.embeds: torch.Tensor | None = torch.cat(embeds) if embeds else None
        self._starts = np.cumsum([0, *sizes])

    def _tokens(self, columns: dict[str, torch.Tensor]) -> Tokens:
        steps, rows, cells = self._shape["grid"]
        heard = "audio_tokens" in columns
        audio = Tokens(columns["audio_tokens"], columns["audio_mask"]) if heard else None
        shape = {**self._shape, "grid": (steps, rows, cells)}
        return Tokens(columns["tokens"], columns["mask"], **shape, audio=audio)

    def _part(self, number: int) -> Tokens:
        part = _open(self._files[number])
        return self._tokens({name: part.get_tensor(name) for name in _columns(part)})

    def parts(self) -> Sequence[Callable[[], Tokens]]:
        filled = [number for number in range(len(self._files)) if self._starts[number] < self._starts[number + 1]]
        return [lambda number=number: self._part(number) for number in filled]  # type: ignore[misc]

    def select(self, numbers: torch.Tensor) -> Tokens:
        chosen = numbers.cpu().numpy()
        part_of = np.searchsorted(self._starts, chosen, side="right") - 1
        rows: dict[int, dict[str, torch.Tensor]] = {}
        for part in np.unique(part_of):
            opened = _open(self._files[part])
            columns = {name: opened.get_slice(name) for name in _columns(opened)}
            for number in chosen[part_of == part]:
                place = int(number - self._starts[part])
                rows[int(number)] = {name: column[place : place + 1] for name, column in columns.items()}
        found = [rows[int(number)] for number in chosen]
        return self._tokens({name: torch.cat([row[name] for row in found]) for name in found[0]})


def _columns(part: Any) -> list[str]:
    """Those of `COLUMNS` that a part holds."""
    return [name for name in COLUMNS if name in part.keys()]  # noqa: SIM118 - it is no dictionary


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise GalleryError(f"{file} is damaged ({error}): delete it, and encode its videos again.") from error


@torch.no_grad()
def encode_gallery(
    model: Any,
    processor: Any,
    videos: Sequence[Any],
    folder: str | os.PathLike,
    names: Sequence[str] | None = None,
    videos_per_part: int = 256,
    batch_size: int = 8,
    num_workers: int = 0,
    skip_bad: bool = False,
) -> StoredGallery:
    """
    Encodes videos into a folder, a part at a time; what is there already is kept, so that the same call goes on after
    an interruption. A killed process leaves whole parts, and at most a hidden file that the next call replaces; the
    manifest comes last. Processes that run together share the parts out.

    Args:
        model: a `VioletForRetrieval`, in evaluation mode.
        processor: its `VideoTextProcessor`.
        videos: whatever the processor reads.
        names: what results call them; by default the videos themselves, which must be paths or URLs then.
        videos_per_part: how many are in a file.
        batch_size: how many are encoded together.
        num_workers: how many processes decode.
        skip_bad: whether to leave out a video that cannot be read (see `StoredGallery.failed`) instead of raising.

    Raises:
        GalleryError: if the folder holds other videos, or was made with other weights, frames or parts.
        VideoDecodeError, TableError: for a video that cannot be read.
    """
    folder = Path(folder)
    names = [str(video) for video in videos] if names is None else list(names)
    if not videos or len(names) != len(videos) or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} different names for {len(videos)} videos: each needs one of its own.")
    settings = {**made_by(model, processor), "videos_per_part": videos_per_part, "names": names}
    on_first(lambda: _begin(folder, settings))
    starts = range(0, len(videos), videos_per_part)
    for number in own_share(len(starts)):
        file = folder / f"part-{number:06d}.safetensors"
        if not file.exists():
            numbers = range(starts[number], min(starts[number] + videos_per_part, len(videos)))
            tensors, facts = _encode_part(model, processor, videos, names, numbers, batch_size, num_workers, skip_bad)
            write_tensors(file, tensors, facts)
    gather([])  # all parts are there
    if not (folder / MANIFEST).exists():
        on_first(lambda: seal(folder))
    return StoredGallery(folder, model, processor)


def made_by(model: Any, processor: Any) -> dict[str, Any]:
    """Hashes of what embeddings are made with: the model's weights, and how the processor takes frames."""
    return {"weights": weights_hash(model), "frames": settings_hash(processor.video_processor.to_dict())}


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / SETTINGS_FILE
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise GalleryError(f"{folder} exists and holds no gallery; give another folder.")
        write_json(file, settings)
        return
    _compare(folder, json.loads(file.read_text()), settings)


def _compare(folder: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    said = {"names": "other videos", "weights": "another checkpoint", "frames": "other frames"}
    other = [said.get(name, f"other {name}") for name, value in settings.items() if before.get(name) != value]
    if other:
        raise GalleryError(
            f"{folder} holds a gallery of {' and '.join(other)}: give another folder, or delete this one."
        )


def _encode_part(
    model: Any,
    processor: Any,
    videos: Sequence[Any],
    names: Sequence[str],
    numbers: Sequence[int],
    batch_size: int,
    num_workers: int,
    skip_bad: bool,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a part, and the facts that its file has beside them."""
    inputs = ({"video": videos[number], "number": number} for number in numbers)
    reading = read_ahead(processor.video_processor, inputs, num_workers)
    kept: list[int] = []
    failed: dict[str, str] = {}
    columns: dict[str, list[torch.Tensor]] = {}
    facts: dict[str, str] = {}
    while batch := list(islice(reading, batch_size)):
        bad = {names[one["number"]]: clip for one, clip in batch if isinstance(clip, ValueError)}
        for error in bad.values():
            if not skip_bad:
                raise error
        failed |= {name: str(error) for name, error in bad.items()}
        read = [(one["number"], clip) for one, clip in batch if not isinstance(clip, ValueError)]
        if not read:
            continue
        kept += [number for number, _ in read]
        pixels = {name: torch.cat([clip[name] for _, clip in read]) for name in read[0][1]}
        tokens = model.violet.encode_videos(**processor.to_device(pixels, model.device))
        made = {}
        if model.violet.matches_in_fusion:
            facts["shape"] = json.dumps({name: getattr(tokens, name) for name in SHAPE})
            made = {"tokens": tokens.tokens, "mask": tokens.mask}
            if tokens.audio is not None:
                made |= {"audio_tokens": tokens.audio.tokens, "audio_mask": tokens.audio.mask}
        if model.violet.has_embeddings:
            made["embeds"] = model.violet.embed_videos(tokens)
        for name, value in made.items():
            columns.setdefault(name, []).append(value.cpu())
    facts |= {"numbers": json.dumps(kept), "failed": json.dumps(failed)}
    return {name: torch.cat(values) for name, values in columns.items()}, facts
