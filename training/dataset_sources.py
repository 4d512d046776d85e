"""Where the rows of a recipe's data set come from: one function for each entry of `recipe.SOURCES`."""

import json
from typing import Any

from datasets import Dataset

from ..data import moving_shapes, read_original, read_rows, regions
from ..data.moving_shapes import SPLITS as SHAPES_SPLITS
from ..processing.joined_clips import join_clips
from .recipe import SOURCES, DatasetRecipe

TEXTS = 4
"""Texts of a drawn video, of which one is true."""
Splits = tuple[Dataset, Dataset | None]
"""Training rows, and validation rows if the data set has any; both with the columns video and caption."""


def load_dataset(recipe: DatasetRecipe) -> Splits:
    """(training rows, validation rows or None), with the columns video and caption."""
    return SOURCES.find(recipe.source)(recipe)


def drawn_videos(recipe: DatasetRecipe) -> Splits:
    """`moving_shapes`: videos that are drawn into the folder `path`, once."""
    split, validation = recipe.split or "pretrain", recipe.validation_split or "validation"
    counts = dict.fromkeys(SHAPES_SPLITS, 0)
    counts |= {split: recipe.clips, validation: recipe.validation_clips}
    splits = moving_shapes(recipe.path, seed=recipe.seed, sound=recipe.sound, **counts)

    def rows_of(name: str) -> Dataset | None:
        rows = splits.get(name)
        if rows is None:
            return None
        if recipe.clips_per_video > 1:
            return joined_clips(rows, recipe.clips_per_video)
        if recipe.regions:
            return regions(rows)
        return with_other_texts(rows) if recipe.other_texts else rows

    train = rows_of(split)
    assert train is not None  # it was drawn
    return train, rows_of(validation)


def joined_clips(rows: Dataset, clips: int) -> Dataset:
    """Each `clips` rows as one: `video` all of them, `caption` a sentence for each, `id`; a rest is left out."""
    groups = [range(first, first + clips) for first in range(0, len(rows) - clips + 1, clips)]
    videos, captions, ids = rows["video"], rows["caption"], rows["id"]
    return Dataset.from_list(
        [
            {
                "id": ids[group[0]],
                "video": join_clips([videos[i] for i in group]),
                "caption": "\n".join(captions[i] for i in group),
            }
            for group in groups
        ]
    )


def with_other_texts(rows: Dataset) -> Dataset:
    """The rows with `frame_caption` and `captions`, see `DatasetRecipe.other_texts`."""
    captions = list(rows["caption"])
    around = [[captions[(i + step) % len(captions)] for step in range(TEXTS)] for i in range(len(captions))]
    shown = [_shown(kind, shapes) for kind, shapes in zip(rows["kind"], rows["shapes"], strict=True)]
    return rows.add_column("captions", around).add_column("frame_caption", shown)


def _shown(kind: str, shapes: list[dict[str, str]]) -> str:
    """What the middle frame of a drawn video shows: of two that follow one another, the second."""
    in_sight = shapes[-1:] if kind == "sequence" else shapes
    names = [" ".join(filter(None, ("a", one["size"], one["colour"], one["shape"] or "shape"))) for one in in_sight]
    return " and ".join(names)


def tables_of_rows(recipe: DatasetRecipe) -> Splits:
    """`table`: whatever `data.read_rows` takes."""
    files = [file for file in (recipe.path, recipe.validation_path) if file is not None]
    columns = ("video", "caption", "boxes") if recipe.regions else ("video", "caption")
    read = json_boxes if recipe.regions else None
    tables = [read_rows(file, columns, video_folder=recipe.video_folder, check=read) for file in files]
    return tables[0], tables[1] if len(tables) > 1 else None


def json_boxes(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its `boxes` as numbers, if a table has them as text."""
    if isinstance(row["boxes"], str):
        try:
            row["boxes"] = json.loads(row["boxes"])
        except ValueError as error:
            raise ValueError(
                f"column 'boxes' is {row['boxes']!r}, and no JSON: [x1, y1, x2, y2] is needed."
            ) from error
    return row


def original_files(recipe: DatasetRecipe) -> Splits:
    """`tsv`: the original code's videos in a TSV file, and their captions in a JSON file."""
    captions = recipe.captions or ""  # a recipe without is refused
    train = read_original(captions, recipe.path, recipe.split or "train")
    if recipe.validation_split is None:
        return train, None
    return train, read_original(captions, recipe.validation_path or recipe.path, recipe.validation_split)
