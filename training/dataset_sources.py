"""Where the rows of a recipe's data set come from: one function for each entry of `recipe.SOURCES`."""

from datasets import Dataset

from ..data import moving_shapes, read_original, read_rows
from ..data.moving_shapes import SPLITS as SHAPES_SPLITS
from .recipe import SOURCES, DatasetRecipe

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
    return splits[split], splits.get(validation)


def tables_of_rows(recipe: DatasetRecipe) -> Splits:
    """`table`: whatever `data.read_rows` takes."""
    files = [file for file in (recipe.path, recipe.validation_path) if file is not None]
    tables = [read_rows(file, ("video", "caption"), video_folder=recipe.video_folder) for file in files]
    return tables[0], tables[1] if len(tables) > 1 else None


def original_files(recipe: DatasetRecipe) -> Splits:
    """`tsv`: the original code's videos in a TSV file, and their captions in a JSON file."""
    captions = recipe.captions or ""  # a recipe without is refused
    train = read_original(captions, recipe.path, recipe.split or "train")
    if recipe.validation_split is None:
        return train, None
    return train, read_original(captions, recipe.validation_path or recipe.path, recipe.validation_split)
