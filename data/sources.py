"""`open_video`: the text that names a clip, in any container -> what `decode_video` takes.

clip.mp4   https://host/clip.mp4   frames/clip7/       as decode_video takes them
clips.tsv#clip7                    frames in a TSV, see `TsvVideos`
clips.pkl#clip7                    frames in a pickle, {id: [base64 of a JPEG]}
shard.tar#clip7                    a sample of a shard, local or remote, see `TarShard`
hub:name:config@split#7            row 7 of a data set of the Hub that holds its videos itself
clips:["1.mp4", "2.mp4"]           several clips as one video, see `join_clips`; the processor reads it, if they are
                                   files or URLs, and `ClipReader` in any container

A row may hold the clip itself as well, in any form that `decode_video` takes.
"""

import base64
import functools
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..processing.addresses import RefusedAddressError, read_within
from ..processing.decoded_video import VideoDecodeError
from ..processing.decoding import IMAGE_SUFFIXES, frame_files, is_encoded_file, refuse_huge
from ..processing.joined_clips import clips_of
from .hub_rows import HUB, hub_clip
from .pickles import read_pickle
from .remote import RemoteFile, is_url
from .shards import VIDEO_SUFFIXES, StoredClip, TarShard
from .tables import TableError
from .tsv_videos import TsvVideos

if TYPE_CHECKING:
    from PIL.Image import Image

CONTAINERS = (".tsv#", ".pkl#", ".tar#")


def open_video(reference: Any) -> Any:
    """
    What `decode_video` takes of a clip: for one in a container its file's bytes, or its frames as RGB pictures; what
    is no such text comes back as it is. Containers are opened once in each process.

    Raises:
        TableError: if the container, or what it holds under that name, is absent or damaged.
    """
    if not isinstance(reference, str):
        return reference
    clips = clips_of(reference)
    if clips is not None:
        held = next((clip for clip in clips if _is_held(clip)), None)
        if held is not None:
            raise TableError(
                f"{reference}: of a video of several clips, {held} lies in a container, which is read in batches of "
                "rows and not by itself: give files or URLs."
            )
        return reference
    if not _is_held(reference):
        return reference
    return open_clip(stored_clip(reference), reference)


def _is_held(reference: str) -> bool:
    """Whether it names a clip in a container."""
    return reference.startswith(HUB) or split_reference(reference)[1] is not None


def video_name(video: Any) -> str | None:
    """
    The text by which rows with the same video know it: a text or path itself; of a file in memory, as
    `datasets.Video` hands it over, a hash of its bytes. None for other objects.
    """
    path, content = None, getattr(video, "_hf_encoded", video)  # datasets leaves on a decoder what it was made of
    if is_encoded_file(content):
        path, content = content.get("path"), content.get("bytes")
    if isinstance(content, bytes | bytearray | memoryview):
        return f"{path or 'bytes'} ({hashlib.blake2b(content, digest_size=16).hexdigest()})"
    path = content if path is None else path
    return os.fspath(path) if isinstance(path, str | os.PathLike) else None


def open_clip(clip: StoredClip, reference: str) -> "bytes | list[Image]":
    """
    The bytes of a video file, or RGB pictures of frames; `reference` is their name in messages.

    Raises:
        TableError: for a frame that is no picture, or damaged.
        VideoDecodeError: for a frame of too many pixels.
    """
    from PIL import Image

    if clip[0][0] not in IMAGE_SUFFIXES:
        return clip[0][1]
    pictures = []
    for number, (_, data) in enumerate(clip, start=1):
        try:
            picture = Image.open(io.BytesIO(data))
            refuse_huge(*picture.size, f"{reference}, frame {number}")
            pictures.append(picture.convert("RGB"))
        except VideoDecodeError:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise TableError(f"{reference}, frame {number}: no picture, or a damaged one ({error}).") from error
    return pictures


def stored_clip(reference: str) -> StoredClip:
    """
    The file or the frames of a clip as they are stored, wherever it lies; nothing is decoded.

    Raises:
        TableError: if it is absent, damaged as a whole, or has no suffix of a video or picture.
    """
    if reference.startswith(HUB):
        return hub_clip(reference)
    container, key = split_reference(reference)
    if key is None:
        return _clip_of_files(container)
    if container.endswith(".tar"):
        return open_tar(container).read(key).clip()
    frames = open_tsv(container).read(key) if container.endswith(".tsv") else _pickled_frames(container, key)
    return [(picture_suffix(data, f"{reference}, frame {number}"), data) for number, data in enumerate(frames, 1)]


def stored_size(reference: str) -> int:
    """The bytes of a clip, or nearly: of base64, its length; 1 MiB of what only its reading would tell."""
    container, key = split_reference(reference)
    if reference.startswith(HUB) or is_url(reference) or (key is not None and container.endswith(".tar")):
        return 2**20
    if key is None:
        files = frame_files(Path(container)) if Path(container).is_dir() else [Path(container)]
        return sum(file.stat().st_size for file in files)
    if container.endswith(".tsv"):
        tsv = open_tsv(container)
        row = tsv.find(key)
        return 0 if row is None else tsv.size(row)
    return sum(map(len, open_pickle(container)[key]))


def _clip_of_files(path: str) -> StoredClip:
    try:
        if is_url(path):
            with RemoteFile(path) as file:
                return [(_known_suffix(urlsplit(path).path, path), read_within(file, file.size))]
        files = frame_files(Path(path)) if Path(path).is_dir() else [Path(path)]
        if not files:
            raise TableError(f"{path}: the folder holds no frames.")
        return [(_known_suffix(file.name, path), file.read_bytes()) for file in files]
    except RefusedAddressError as error:
        raise TableError(f"{path}: refused: {error}.") from error
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error}).") from error


def _known_suffix(name: str, place: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        known = ", ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise TableError(f"{place}: {suffix or 'no suffix'} is none of a video or picture ({known}).")
    return suffix


def picture_suffix(data: bytes, place: str) -> str:
    """The suffix that belongs to a picture's first bytes."""
    signatures = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}
    for signature, suffix in signatures.items():
        if data.startswith(signature):
            return suffix
    raise TableError(f"{place}: no picture; it starts with {data[:12]!r}.")


def _pickled_frames(path: str, name: str) -> list[bytes]:
    clips = open_pickle(path)
    place = f"{path} (id {name!r})"
    if name not in clips:
        raise TableError(f"{path}: no clip has the id {name!r}; the first of {len(clips)} is {next(iter(clips))!r}.")
    frames = clips[name]
    if not isinstance(frames, list | tuple) or not frames:
        raise TableError(f"{place}: a list of frames is needed, not {type(frames).__name__}.")
    decoded = []
    for number, frame in enumerate(frames, start=1):
        if not isinstance(frame, str | bytes):
            raise TableError(f"{place}, frame {number}: base64 of a picture is needed, not {type(frame).__name__}.")
        try:
            decoded.append(base64.b64decode(frame, validate=True))
        except ValueError as error:
            raise TableError(f"{place}, frame {number}: bad base64 ({error}): {frame[:20]!r}…") from error
    return decoded


@functools.lru_cache(maxsize=64)
def open_tsv(path: str) -> TsvVideos:
    return TsvVideos(path)


@functools.lru_cache(maxsize=64)
def open_tar(source: str) -> TarShard:
    return TarShard(source)


@functools.lru_cache(maxsize=2)  # a pickle is held as a whole
def open_pickle(path: str) -> dict[str, Any]:
    """The clips of a pickle by their ids, which are texts."""
    clips = read_pickle(path)
    if not isinstance(clips, dict) or not clips or not all(isinstance(name, str) for name in clips):
        raise TableError(f"{path}: a pickle of clips by their ids is needed, {{id: [base64 of a JPEG, …]}}.")
    return clips


def split_reference(reference: str) -> tuple[str, str | None]:
    """(container, key) of a clip in a container; (the text, None) of any other."""
    places = [reference.find(mark) + len(mark) - 1 for mark in CONTAINERS if mark in reference]
    if not places or (not is_url(reference) and os.path.exists(reference)):
        return reference, None
    place = min(places)
    return reference[:place], reference[place + 1 :]


def absolute_reference(video: str, folder: Path) -> tuple[str, bool]:
    """
    A table's text for a clip, its path relative to `folder` made absolute, and whether the clip is there. Whatever is
    behind a URL, or in the data sets of the Hub, is found out when it is read.

    Raises:
        TableError: if a container is there and cannot be read.
    """
    if is_url(video) or video.startswith(HUB):
        return video, True
    container, key = split_reference(str((folder / video).absolute()))
    if key is None:
        return container, os.path.exists(container)
    return f"{container}#{key}", os.path.exists(container) and holds(container, key)


def holds(container: str, key: str) -> bool:
    """Whether a container has a clip of this name."""
    if container.endswith(".tsv"):
        return key in open_tsv(container)
    return key in (open_tar(container) if container.endswith(".tar") else open_pickle(container))
