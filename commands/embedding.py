"""`violet embed`: embeddings, and captions, of a whole data set, in Parquet parts."""

import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..core.files import MANIFEST, new_file, sha256, write_json
from ..data.folders import PROGRESS
from ..data.loading import MAX_BAD_SHARE, FailedSample, FailedSamples
from ..data.rows import read_rows, rows_digest
from ..data.sharding import BAD_SAMPLES, Clips, begin_folder
from ..data.tables import TableError
from ..evaluation.provenance import settings_hash, software_versions
from ..training.guards import TooManyBadSamplesError
from ..training.runs import only_run_in
from .embedder import SOURCE, Embedder, Part, Wanted

logger = logging.getLogger(__name__)

ENGINES = ("local", "ray")
CLIPS_PER_PART = 1024


@dataclass(frozen=True)
class EmbedArguments:
    """
    What `violet embed` is asked for.

    Attributes:
        source: what `read_rows` takes; rows of one video are one clip.
        output: the folder.
        model: a folder, a Hub name, or weights that come with the package.
        captions: whether the model also writes a caption of each clip.
        text_column: a column of texts that are embedded too.
        video_folder: as of `read_rows`.
        clips_per_part: clips of a file; a killed process loses at most the part that it was making.
        batch_size: clips in a pass.
        workers: processes that decode, beside each that computes.
        bad_samples: `raise` or `skip` a clip that cannot be read.
        max_bad_share: with `skip`, the share of such clips that is borne.
        engine: "local", this process; "ray", a process for each GPU of a Ray cluster.
    """

    source: str
    output: str
    model: str
    captions: bool = False
    text_column: str | None = None
    video_folder: str | None = None
    clips_per_part: int = CLIPS_PER_PART
    batch_size: int = 8
    workers: int = 1
    bad_samples: str = "raise"
    max_bad_share: float = MAX_BAD_SHARE
    engine: str = "local"

    @property
    def wanted(self) -> Wanted:
        """What is made of each clip."""
        texts, skip = self.text_column is not None, self.bad_samples == "skip"
        return Wanted(self.model, self.captions, texts, self.batch_size, skip, self.workers)


class ClipRows(Sequence):
    """
    The clips of a data set as `Embedder.parts` takes them: `id`, `video`, `row`, the number of its first row, and
    `texts`, those of all its rows.

    Raises:
        TableError: if there is no such column of texts.
    """

    def __init__(self, clips: Clips, text_column: str | None):
        if text_column is not None and text_column not in clips.rows.column_names:
            raise TableError(
                f"--text_column: the rows have no column {text_column!r}; they have "
                f"{', '.join(clips.rows.column_names)}."
            )
        self.clips, self.text_column = clips, text_column

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: Any) -> Any:
        clip, texts = self.clips[number], []
        if self.text_column is not None:
            texts = [str(row[self.text_column]) for row in clip.rows if row[self.text_column]]
        row = self.clips.rows_of(number)[0]
        return {"id": unquote(clip.key), "video": clip.reference, "row": row, "texts": texts}


def embed(arguments: EmbedArguments) -> dict[str, Any]:
    """
    Writes `part-000000.parquet`, … (see `embedder.Part`) and, last, `manifest.json`. The same call goes on after an
    interruption: a part is there whole or not at all, and one that is not what was written is made again. Clips that
    cannot be read are in `failed_samples.jsonl`. A part is a function of rows, model and sizes: whoever makes it, and
    in whatever order, it holds the same bytes on machines of one kind.

    Returns:
        The manifest: `parts` ({file name: facts}), `clips`, `failed`, `bytes`, what they were made of, and `digest`.

    Raises:
        TableError, VideoDecodeError: for a source, or a clip, that cannot be read.
        TooManyBadSamplesError: if more clips than `max_bad_share` cannot be read; the part that tells is not kept.
        PredictError, HubError: for a checkpoint that cannot be asked for this.
        FileExistsError: if the folder holds something else.
        SettingsError: if another process is filling it.
    """
    _check(arguments)
    rows = read_rows(arguments.source, ("video",), arguments.video_folder)
    clips = Clips(rows)
    given = ClipRows(clips, arguments.text_column)
    embedder = Embedder(arguments.wanted)
    made_by = embedder.identity()
    settings = {**made_by, "rows": rows_digest(rows), "clips_per_part": arguments.clips_per_part}
    digest = settings_hash(settings | {"captions": arguments.captions, "text_column": arguments.text_column})
    output = Path(arguments.output)
    with only_run_in(output, is_main=True):
        known = begin_folder(output, digest)
        folder = _Folder(output, clips, arguments, known.get("parts", {}))
        ranges = folder.missing()
        made: Iterator[tuple[int, Part]]
        if arguments.engine == "ray" and ranges:
            from .on_ray import parts_on_ray

            del embedder  # the memory is for the processes that compute
            made = parts_on_ray(arguments.wanted, made_by, given, ranges)
        else:
            made = zip(ranges, embedder.parts(given, ranges.values()), strict=True)
        folder.fill(made, len(ranges))
        return folder.finish({"source": arguments.source, "model": arguments.model, **made_by, "digest": digest})


def _check(arguments: EmbedArguments) -> None:
    sizes = arguments.clips_per_part >= 1 and arguments.batch_size >= 1 and arguments.workers >= 0
    if arguments.bad_samples not in BAD_SAMPLES or arguments.engine not in ENGINES or not sizes:
        raise TableError(
            f"--bad_samples must be one of {', '.join(BAD_SAMPLES)}, --engine one of {', '.join(ENGINES)}, "
            f"--clips_per_part and --batch_size 1 or more, --workers not below 0; got {arguments.bad_samples}, "
            f"{arguments.engine}, {arguments.clips_per_part}, {arguments.batch_size}, {arguments.workers}."
        )
    if not 0 <= arguments.max_bad_share <= 1:
        raise TableError(f"--max_bad_share must be from 0 to 1, got {arguments.max_bad_share:g}.")
    if arguments.engine == "ray" and find_spec("ray") is None:
        raise TableError('--engine ray: Ray is not installed: pip install "violet-video[ray]".')


class _Folder:
    """
    The output folder while it is filled. Of a part three things are written, in this order: its file, its lines in the
    lists of samples, its facts. Only with the last one it is there; a part that is made again replaces the first two.

    Args:
        known: the facts of a finished folder's parts, by file name.
    """

    def __init__(self, output: Path, clips: Clips, arguments: EmbedArguments, known: Mapping[str, Any]):
        self.output, self.clips = output, clips
        self.size = arguments.clips_per_part
        self.most = arguments.max_bad_share if arguments.bad_samples == "skip" else 0.0
        self.facts: dict[int, dict[str, Any]] = {}
        for number in range(-(-len(clips) // self.size)):
            facts = known.get(_name(number)) or self._facts_of(number)
            if facts and self._is_whole(number, facts):
                self.facts[number] = facts
        self.failed = FailedSamples(output)
        self.failed.keep(lambda sample: self._part_of(sample) in self.facts)

    def _facts_of(self, number: int) -> dict[str, Any] | None:
        file = self._facts_file(number)
        return json.loads(file.read_text()) if file.is_file() else None

    def _facts_file(self, number: int) -> Path:
        return self.output / PROGRESS / f"{_name(number)}.json"

    def _is_whole(self, number: int, facts: Mapping[str, Any]) -> bool:
        file = self.output / _name(number)
        return file.is_file() and file.stat().st_size == facts["bytes"] and sha256(file) == facts["sha256"]

    def _part_of(self, sample: FailedSample) -> int:
        return int(self.clips.numbers[sample.row]) // self.size

    def missing(self) -> dict[int, range]:
        """The clips of each part that is not there, by the part's number."""
        count = len(self.clips)
        ranges = (range(first, min(first + self.size, count)) for first in range(0, count, self.size))
        return {number: part for number, part in enumerate(ranges) if number not in self.facts}

    def fill(self, made: Iterable[tuple[int, Part]], count: int) -> None:
        """
        Writes parts, in whatever order they come.

        Raises:
            TooManyBadSamplesError: if too many clips cannot be read.
        """
        begun, clips = time.monotonic(), 0
        for done, (number, part) in enumerate(made, start=1):
            self._write(number, part)
            clips += part.tried
            rate = clips / (time.monotonic() - begun)
            logger.info("%s, %d of %d: %d clips, %.3g clips a second.", _name(number), done, count, clips, rate)

    def _write(self, number: int, part: Part) -> None:
        from pyarrow import parquet

        self.failed.add(part.samples)
        tried = part.tried + sum(facts["clips"] + facts["failed"] for facts in self.facts.values())
        reason = self.failed.excess({SOURCE}, tried, len(self.clips), self.most)
        if reason:
            raise TooManyBadSamplesError(reason)
        path = self.output / _name(number)
        with new_file(path) as file:
            parquet.write_table(part.table, file, compression="zstd", use_dictionary=False)
        kept = part.table.num_rows
        facts = {"clips": kept, "failed": part.tried - kept, "bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(self._facts_file(number), facts)
        self.facts[number] = facts

    def finish(self, made_of: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the manifest, which says that all is there, and returns it."""
        self.failed.keep(lambda sample: True)
        facts = [self.facts[number] for number in range(len(self.facts))]
        manifest = {**made_of, **{name: sum(one[name] for one in facts) for name in ("clips", "failed", "bytes")}}
        manifest |= {"software": software_versions(), "parts": {_name(n): one for n, one in enumerate(facts)}}
        write_json(self.output / MANIFEST, manifest)
        shutil.rmtree(self.output / PROGRESS)
        return manifest


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"
