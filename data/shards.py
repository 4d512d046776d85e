"""Tar files in WebDataset's format, local or remote: what belongs to one sample stands side by side under one name.

    clip7.mp4  clip7.json            a video as its file, and its columns
    clip8.000.jpg  clip8.001.jpg  clip8.txt    a video as its frames, and its caption

The `webdataset` library reads and writes such files too; `violet prepare shards` (see `sharding`) writes them with a
manifest.
"""

import functools
import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.files import MANIFEST, MOST_JSON_BYTES, read_json
from ..processing.addresses import MOST_FETCHED_BYTES, open_url, read_within
from ..processing.decoding import IMAGE_SUFFIXES, natural_order
from .name_index import NameIndex
from .remote import RemoteFile, is_url
from .tables import TableError, parse_json

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
BLOCK = tarfile.BLOCKSIZE
MOST_SHARDS = 1_000_000
"""A pattern of numbers that names more files is refused: the names are held in memory."""

StoredClip = list[tuple[str, bytes]]
"""(suffix, bytes) of one video file, or of each of a clip's frames, in order."""


@dataclass
class Sample:
    """
    Attributes:
        shard: path or URL of its tar.
        key: its name there: what stands before the first dot of its files' names, with their folder.
        files: the content of its files by what follows that dot, such as `mp4` or `000.jpg`; None if it was not
            asked for.
    """

    shard: str
    key: str
    files: dict[str, bytes | None]

    @property
    def reference(self) -> str:
        """The text that `open_video` takes."""
        return f"{self.shard}#{self.key}"

    def clip(self) -> StoredClip:
        """Its video file, or its frames in natural order.

        Raises:
            TableError: if it has no video and no frames, or several videos.
        """
        videos = [name for name in self.files if suffix_of(name) in VIDEO_SUFFIXES]
        frames = sorted((name for name in self.files if suffix_of(name) in IMAGE_SUFFIXES), key=natural_order)
        if len(videos) > 1 or bool(videos) == bool(frames):
            has = f"it has {', '.join(self.files)}"
            raise TableError(f"{self.reference}: one video file, or frames, are needed in a sample; {has}.")
        return [(suffix_of(name), self.files[name] or b"") for name in videos or frames]

    def rows(self) -> list[dict[str, Any]]:
        """Its columns: of `json`, an object or a list with one for each row, and as `caption` the text of `txt`. `id`
        is the key if nothing else is said.

        Raises:
            TableError: for a text that is not UTF-8, not JSON, or JSON of another form.
        """
        texts = {}
        for name in {"json", "txt"} & set(self.files):
            try:
                texts[name] = (self.files[name] or b"").decode()
            except UnicodeDecodeError as error:
                raise TableError(f"{self.reference}: its .{name} is not UTF-8 text ({error.reason}).") from error
        found = parse_json(texts["json"], f"{self.reference}, .json") if "json" in texts else {}
        rows = found if isinstance(found, list) else [found]
        if not all(isinstance(row, dict) for row in rows):
            raise TableError(f"{self.reference}: its .json must be an object with columns, or a list of such.")
        caption = {"caption": texts["txt"].strip()} if "txt" in texts else {}
        return [{"id": self.key, **caption, **row, "video": self.reference} for row in rows]


def _everything(name: str) -> bool:
    return True


def _nothing(name: str) -> bool:
    return False


def suffix_of(name: str) -> str:
    """The last suffix of `mp4` or `000.jpg`, as `.mp4` or `.jpg`."""
    return "." + name.rsplit(".", 1)[-1].lower()


class TarShard:
    """
    One shard, opened for reading samples in order, or by key.

    Args:
        source: a path or URL.

    Raises (here and in reading):
        TableError: for a file that is absent, no tar, truncated or damaged; and for a name or member that does not
            belong into a shard: a link or device, a path that starts at the root or leads out by `..`.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = str(source) if is_url(str(source)) else str(Path(source).absolute())
        if not is_url(self.source) and not Path(self.source).is_file():
            raise TableError(f"{self.source}: there is no such file.")

    @functools.cached_property
    def _index(self) -> tuple[NameIndex, np.ndarray]:
        """The keys, and the byte at which each sample starts. The headers are read for it, not what is behind them."""
        starts: list[int] = []

        def keys() -> Iterator[str]:
            for start, sample in self._samples(wanted=_nothing):
                starts.append(start)
                yield sample.key

        names = NameIndex(keys())
        if names.repeated:
            raise TableError(f"{self.source}: {names.repeated} samples repeat the name of another that is not beside.")
        return names, np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._index[1])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key, _nothing) is not None

    def _find(self, key: str, wanted: Callable[[str], bool]) -> Sample | None:
        names, starts = self._index
        for place in names.candidates(key):
            _, sample = next(self._samples(int(starts[place]), wanted))
            if sample.key == key:
                return sample
        return None

    def read(self, key: str) -> Sample:
        """
        A sample with all its files.

        Raises:
            TableError: also if there is no such key.
        """
        sample = self._find(key, _everything)
        if sample is None:
            raise TableError(f"{self.source}: no sample has the key {key!r}; there are {len(self)}.")
        return sample

    def samples(self, first: int = 0) -> Iterator[Sample]:
        """The samples from number `first` on, with all their files."""
        start = int(self._index[1][first]) if first else 0
        for _, sample in self._samples(start):
            yield sample

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all samples; the clips are not read."""
        for _, sample in self._samples(wanted=lambda name: name in ("json", "txt")):
            yield from sample.rows()

    def _samples(self, start: int = 0, wanted: Callable[[str], bool] = _everything) -> Iterator[tuple[int, Sample]]:
        """(the byte where it starts, the sample with its wanted files) from byte `start` on, which starts a sample."""
        sample, begin = None, start
        with self._explaining(), self._open() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(start)
            with closing(tarfile.open(fileobj=file, mode="r:")) as tar:
                while (member := tar.next()) is not None:
                    vars(tar)["members"].clear()  # it would keep all of them
                    self._check_member(member)
                    parts = re.fullmatch(r"((?:.*/|)[^./]+)[.]([^/]+)", member.name, flags=re.DOTALL)
                    if not member.isfile() or parts is None:  # the library passes over these too
                        continue
                    key, name = parts.groups()
                    if sample is None or sample.key != key:
                        if sample is not None:
                            yield begin, sample
                        sample, begin = Sample(self.source, key, {}), member.offset
                    if name in sample.files:
                        raise TableError(f"{self.source}: {member.name!r} is there twice.")
                    sample.files[name] = None
                    if wanted(name):
                        if member.offset_data + member.size > size:
                            raise EOFError(f"{member.size} bytes of {member.name!r} are promised, and not there")
                        file.seek(member.offset_data)
                        sample.files[name] = _read_exactly(file, member.size)
                end = tar.offset
            file.seek(end)
            if _read_exactly(file, BLOCK).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {end}")
        if sample is not None:
            yield begin, sample

    def _check_member(self, member: tarfile.TarInfo) -> None:
        if member.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.name):
            raise TableError(f"{self.source}: refused, since its member {member.name!r} leads out of its folder.")
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")  # Python 3.11 would go round for ever
        if member.size > MOST_FETCHED_BYTES and is_url(self.source):
            raise TableError(
                f"{self.source}: refused: its member {member.name!r} has {member.size} bytes; at most "
                f"{MOST_FETCHED_BYTES} are fetched."
            )
        if not (member.isfile() or member.isdir()) or member.issparse():
            kind = "a link" if member.islnk() or member.issym() else "no plain file"
            raise TableError(f"{self.source}: refused, since its member {member.name!r} is {kind}.")

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        advice = "Check that it is a complete tar, and fetch or make it again."
        try:
            yield
        except (tarfile.TarError, EOFError, OverflowError, MemoryError, RecursionError) as error:
            raise TableError(f"{self.source}: truncated, damaged or no tar ({error}). {advice}") from error
        except ValueError as error:
            if isinstance(error, TableError):
                raise
            raise TableError(f"{self.source}: a damaged tar ({error}). {advice}") from error
        except OSError as error:
            raise TableError(f"{self.source}: cannot be read ({error}).") from error

    def _open(self) -> BinaryIO:
        if is_url(self.source):
            return io.BufferedReader(RemoteFile(self.source), 2**17)
        return open(self.source, "rb")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes are promised and {len(data)} are there")
    return data


@dataclass
class ShardSet:
    """
    Shards that belong together.

    Attributes:
        shards: paths or URLs, in order.
        counts: samples of each, if the manifest tells.
    """

    shards: list[str]
    counts: list[int] | None = None


def is_shards(source: str) -> bool:
    """Whether this text names shards: ends in .tar, or is or holds a manifest of some."""
    if source.endswith((".tar", f"/{MANIFEST}")):
        return True
    folder = Path(source)
    return (folder / MANIFEST).is_file() or (folder.is_dir() and any(folder.glob("*.tar")))


def find_shards(source: str | os.PathLike) -> ShardSet:
    """
    The shards behind `train-{000..003}.tar`, a pattern with `*`, a single tar, a folder with a manifest, or the
    manifest itself; paths or URLs.

    Raises:
        TableError: if there are none, the folder has no manifest, or a shard has not the manifest's size.
    """
    source = os.fspath(source)
    if source.endswith(".tar"):
        if is_url(source):
            return ShardSet(_expand(source))
        found = [path for text in _expand(source) for path in (sorted(glob.glob(text)) if "*" in text else [text])]
        if not found:
            raise TableError(f"{source}: no file has such a name.")
        for path in found:
            if not Path(path).is_file():
                raise TableError(f"{path}: there is no such file.")
        return ShardSet([str(Path(path).absolute()) for path in found])
    if not is_url(source) and not source.endswith(MANIFEST):
        source = str(Path(source).absolute() / MANIFEST)
    base = source.removesuffix(MANIFEST)
    shards = read_manifest(source)["shards"]
    for name, facts in shards.items():
        file = Path(base + name)
        if not is_url(base) and (not file.is_file() or file.stat().st_size != facts["bytes"]):
            raise TableError(
                f"{base}{name}: absent, or not of the {facts['bytes']} bytes that {MANIFEST} tells: fetch it again, "
                "or make it by the same call of violet prepare shards."
            )
    return ShardSet([base + name for name in shards], [facts["samples"] for facts in shards.values()])


def read_manifest(source: str) -> Mapping[str, Any]:
    """
    What `violet prepare shards` wrote last: `shards` with `samples`, `rows`, `bytes` and `sha256` by file name.

    Raises:
        TableError: if there is none, or one of something else.
    """
    try:
        if is_url(source):
            with open_url(source) as response:
                text = read_within(response, response.headers.get("Content-Length"), MOST_JSON_BYTES).decode()
            manifest = json.loads(text)
        else:
            manifest = read_json(Path(source))
        shards = manifest["shards"]
        if not all({"samples", "rows", "bytes", "sha256"} <= set(facts) for facts in shards.values()):
            raise ValueError("facts of a shard are missing")
        if any("/" in name or "\\" in name for name in shards):
            raise ValueError("a shard lies in another folder")
    except FileNotFoundError as error:
        raise TableError(
            f"{source}: absent, so the shards beside it are not complete. Go on with the same call of violet prepare "
            "shards; shards of another making are given by their names, as in 'train-{000..003}.tar' or '*.tar'."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{source}: no manifest of shards ({error!r}).") from error
    return manifest


def _expand(text: str) -> list[str]:
    """`a-{000..002}.tar` -> its three names; the library's notation."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", text)  # text, first, last, text, first, last, text
    ranges, files = list(zip(parts[1::3], parts[2::3], strict=True)), 1
    for first, last in ranges:
        if int(last) < int(first):
            raise TableError(f"{text}: {{{first}..{last}}} counts backwards.")
        files *= int(last) - int(first) + 1
    if files > MOST_SHARDS:
        raise TableError(f"{text} names {files} files; there may be {MOST_SHARDS}.")
    numbers = [[str(one).zfill(len(first)) for one in range(int(first), int(last) + 1)] for first, last in ranges]
    return [
        "".join(part + number for part, number in zip(parts[::3], (*chosen, ""), strict=True))
        for chosen in itertools.product(*numbers)
    ]
