"""`violet prepare shards`: rows and clips from anywhere -> WebDataset's tar files, with a manifest."""

import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from ..core.files import MANIFEST, new_file, sha256, write_json
from .folders import PROGRESS
from .hub_rows import HUB
from .parallel import in_parallel
from .rows import read_rows, rows_digest
from .sources import split_reference, stored_clip, stored_size
from .tables import Row, TableError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

BAD_SAMPLES = ("raise", "skip")


@dataclass
class Clip:
    """A clip and its rows: `key` names it, in letters that tar files and folders can have in their names."""

    key: str
    reference: str
    rows: list[Row]


class Clips:
    """
    The clips of a data set, each with all its rows, in the order of their first ones.

    Attributes:
        numbers: (rows,), the clip of each row.

    Raises:
        TableError: if one id stands for two clips.
    """

    def __init__(self, rows: "Dataset"):
        self.rows = rows
        encoded = rows.data.column("video").combine_chunks().dictionary_encode()
        self.references: list[str] = encoded.dictionary.to_pylist()
        self.numbers: np.ndarray = encoded.indices.to_numpy()
        self._order = self.numbers.argsort(kind="stable")
        self._starts = np.searchsorted(self.numbers[self._order], np.arange(len(self.references) + 1))
        self.keys = self._name_all()

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, number: int) -> Clip:
        if not 0 <= number < len(self):
            raise IndexError(number)
        rows = [self.rows[row] for row in self.rows_of(number)]
        return Clip(self.keys[number], self.references[number], rows)

    def rows_of(self, number: int) -> list[int]:
        """The numbers of a clip's rows."""
        return self._order[self._starts[number] : self._starts[number + 1]].tolist()

    def _name_all(self) -> list[str]:
        given = "id" in self.rows.column_names
        keys: dict[str, str] = {}
        firsts = self.rows.select(self._order[self._starts[:-1]])
        names = firsts["id"] if given else [None] * len(firsts)
        for name, reference in zip(names, self.references, strict=True):
            key = tar_name(name_of(reference) if name is None else str(name))
            if key in keys and name is not None:
                raise TableError(f"The id {name!r} stands for two clips, {keys[key]} and {reference}.")
            number = 2
            while key in keys:
                key, number = f"{tar_name(name_of(reference))}~{number}", number + 1
            keys[key] = reference
        return list(keys)


def tar_name(name: str) -> str:
    """A name without dots and slashes, which WebDataset cuts names at: they are written as URLs write them."""
    return quote(name, safe="").replace(".", "%2E")


def name_of(reference: str) -> str:
    """What a clip without an id is called: its key in its container, or its file's name."""
    if reference.startswith(HUB):
        return reference.rpartition("#")[2]
    container, key = split_reference(reference)
    return key if key is not None else Path(urlsplit(container).path).stem


@dataclass
class ShardFacts:
    """What the manifest says of a shard."""

    samples: int
    rows: int
    bytes: int
    sha256: str
    skipped: list[dict[str, str]] = field(default_factory=list)
    """`key`, `video` and `reason` of each clip that could not be read."""


@dataclass
class _Job:
    path: Path
    clips: list[Clip]
    facts_file: Path
    known: ShardFacts | None
    skips: bool


def prepare_shards(
    source: str | os.PathLike,
    output: str | os.PathLike,
    shard_size: float = 256,
    workers: int = 1,
    bad_samples: str = "raise",
    video_folder: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """
    Writes `shard-000000.tar`, … and, last, `manifest.json`. A sample is a clip: its file or frames as they are, to the
    bit, and a `.json` with its columns, a list of objects if it has several rows. The same call goes on after an
    interruption, and checks the shards that are there against their sums; the same rows give the same bytes.

    Args:
        source: what `read_rows` takes.
        output: the folder.
        shard_size: MB of a shard, about; a clip is never cut in two.
        workers: processes.
        bad_samples: `raise` or `skip` a clip that cannot be read; the manifest names those that are left out.
        video_folder: as of `read_rows`.

    Returns:
        The manifest: `shards` ({file name: facts}), `samples`, `rows`, `bytes`, `skipped` (a number), `source`,
        `digest`.

    Raises:
        TableError: if the source cannot be read, or no clip of it.
        FileExistsError: if the folder holds shards of another source or size.
    """
    output = Path(output)
    if bad_samples not in BAD_SAMPLES or shard_size <= 0 or workers < 0:
        raise TableError(
            f"--bad_samples must be one of {', '.join(BAD_SAMPLES)}, --shard_size above 0, --workers not below; got "
            f"{bad_samples}, {shard_size}, {workers}."
        )
    rows = read_rows(source, ("video",), video_folder)
    clips = Clips(rows)
    sizes = np.fromiter(map(stored_size, clips.references), np.int64)
    ends = np.cumsum(sizes)
    # A shard takes the clips that end within its share of all bytes: so none is far too small.
    shards = max(1, round(float(ends[-1]) / (shard_size * 1e6)))
    limits = np.searchsorted(ends, ends[-1] * np.arange(1, shards + 1) / shards, side="left") + 1
    bounds = sorted({0, *limits.tolist()[:-1], len(clips)})
    settings = [rows_digest(rows), sizes.tolist(), bounds, bad_samples]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    names = [f"shard-{number:06}.tar" for number in range(len(bounds) - 1)]
    known = begin_folder(output, digest)
    progress = output / PROGRESS

    def jobs() -> Iterator[_Job]:
        for name, first, end in zip(names, bounds[:-1], bounds[1:], strict=True):
            facts_file = progress / f"{name}.json"
            facts = known.get("shards", {}).get(name)
            if facts is None and facts_file.is_file():
                facts = json.loads(facts_file.read_text())
            own = [clips[number] for number in range(first, end)]
            yield _Job(output / name, own, facts_file, facts and ShardFacts(**facts), bad_samples == "skip")

    found = dict(zip(names, in_parallel(_make_shard, jobs(), workers), strict=True))
    manifest: dict[str, Any] = {"source": os.fspath(source), "digest": digest}
    manifest |= {name: sum(getattr(facts, name) for facts in found.values()) for name in ("samples", "rows", "bytes")}
    skipped = [clip for facts in found.values() for clip in facts.skipped]
    report_skipped(skipped, manifest["samples"], os.fspath(source))
    manifest |= {"skipped": len(skipped), "shards": {name: asdict(facts) for name, facts in found.items()}}
    write_json(output / MANIFEST, manifest)
    shutil.rmtree(progress)
    return manifest


def begin_folder(output: Path, digest: str) -> dict[str, Any]:
    """
    Makes a folder to fill, or takes one up that the same call left; returns the manifest of a finished one, or {}.

    Raises:
        FileExistsError: if another call filled it.
    """
    plan, manifest = output / PROGRESS / "plan.json", output / MANIFEST
    for file in (manifest, plan):  # a finished folder may still have the plan
        if file.is_file():
            content = json.loads(file.read_text())
            if content.get("digest") != digest:
                raise FileExistsError(
                    f"{output} holds what another source, or other settings, gave: choose another folder, or empty it."
                )
            (output / PROGRESS).mkdir(exist_ok=True)
            return content if file == manifest else {}
    if output.is_dir() and any(path.name[0] != "." for path in output.iterdir()):
        raise FileExistsError(f"{output} holds something else: choose another folder, or empty it.")
    write_json(plan, {"digest": digest})
    return {}


def report_skipped(skipped: list[dict[str, str]], samples: int, source: str) -> None:
    """
    Says which clips were left out.

    Raises:
        TableError: if none is left.
    """
    if skipped:
        first = skipped[0]
        logger.warning(
            "%s: %d of %d clips could not be read and are left out; the first: %s",
            source, len(skipped), len(skipped) + samples, first["reason"],
        )  # fmt: skip
    if not samples:
        raise TableError(f"{source}: none of its clips can be read; the first: {skipped[0]['reason']}")


def _make_shard(job: _Job) -> ShardFacts:
    known = job.known
    if known and job.path.is_file() and job.path.stat().st_size == known.bytes and sha256(job.path) == known.sha256:
        return known
    samples = rows = 0
    skipped = []
    with new_file(job.path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for clip in job.clips:
            try:
                stored = stored_clip(clip.reference)
                if not all(data for _, data in stored):
                    raise TableError(f"{clip.reference}: empty.")
            except TableError as error:
                if not job.skips:
                    raise
                skipped.append({"key": clip.key, "video": clip.reference, "reason": str(error)})
                continue
            columns = [{name: value for name, value in row.items() if name != "video"} for row in clip.rows]
            for number, (suffix, data) in enumerate(stored):
                _add(tar, f"{clip.key}{f'.{number:03}' if len(stored) > 1 else ''}{suffix}", data)
            text = json.dumps(columns[0] if len(columns) == 1 else columns, ensure_ascii=False, default=str)
            _add(tar, f"{clip.key}.json", text.encode())
            samples, rows = samples + 1, rows + len(columns)
    facts = ShardFacts(samples, rows, job.path.stat().st_size, sha256(job.path), skipped)
    write_json(job.facts_file, asdict(facts))
    return facts


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without owner and time: the same content gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
