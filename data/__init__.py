"""Data sets: the built-in moving shapes, and rows and clips of your own in many forms."""

from .annotations import read_annotations, read_original
from .benchmarks import BENCHMARKS, check_benchmark
from .composite import read_composite
from .drawn_regions import regions
from .extracting import prepare_frames
from .lasting import LastingLoader
from .loading import ClipReader
from .moving_shapes import (
    captioned,
    classified,
    described,
    fill_in_the_blank,
    gallery,
    moving_shapes,
    multiple_choice,
    open_ended,
)
from .pickles import UnsafePickleError, read_pickle
from .rows import COLUMNS, read_rows, rows_digest
from .sharding import prepare_shards
from .shards import TarShard, find_shards
from .sources import open_video
from .streaming import ShardStream
from .tables import TableError
from .tsv_videos import TsvVideos

__all__ = [
    "BENCHMARKS",
    "COLUMNS",
    "ClipReader",
    "LastingLoader",
    "ShardStream",
    "TableError",
    "TarShard",
    "TsvVideos",
    "UnsafePickleError",
    "captioned",
    "check_benchmark",
    "classified",
    "described",
    "fill_in_the_blank",
    "find_shards",
    "gallery",
    "moving_shapes",
    "multiple_choice",
    "open_ended",
    "open_video",
    "prepare_frames",
    "prepare_shards",
    "read_annotations",
    "read_composite",
    "read_original",
    "read_pickle",
    "read_rows",
    "regions",
    "rows_digest",
]
