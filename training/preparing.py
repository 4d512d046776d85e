"""`violet prepare targets`: the MVM targets of a recipe's data set, computed as its pre-training run would."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoProcessor

from ..configuration import named_configuration
from ..data.loading import ClipReader, explained_workers
from ..hub.vision_models import vision_configuration
from ..modeling_violet.encoders import Encoder, find_encoder
from ..processing import VioletVideoProcessor
from ..processing.video_processing_violet import RAW_PIXELS
from .arguments import SettingsError, set_frames
from .dataset_sources import load_dataset
from .machine import leave_cores_to_workers
from .pretraining_data import row_id
from .recipe import DatasetRecipe, PretrainingRecipe
from .scratch import frames_from_scratch
from .starting import processor_from_parts, starts_from_parts
from .targets import load_teacher, target_options, target_settings, write_targets


@dataclass(frozen=True)
class PreparedTargets:
    """
    What `prepare_targets` did.

    Attributes:
        rows: of the data set, for training and validation together.
        videos: names among them; several captions of one video share its target.
        computed: videos whose target was not there yet.
    """

    rows: int
    videos: int
    computed: int


def prepare_targets(
    recipe: PretrainingRecipe, target: str, output: str | os.PathLike, dataset: str | None = None
) -> PreparedTargets:
    """
    Stores one MVM target of every row of a data set in a folder, for `targets` in the recipe. The same call goes on
    after an interruption.

    Args:
        target: a name of `MVM_TARGETS`, or of an objective with a teacher; its teacher is the recipe's, or the
            default one.
        output: the folder.
        dataset: its name in the recipe, which may be left out if there is one.

    Raises:
        SettingsError: if the target, its teacher or the data set is not there, the folder was made with other
            settings, or one name stands for two videos.
    """
    source = _find_dataset(recipe, dataset)
    frames, encoder = frames_of_run(recipe)
    teacher = load_teacher(target, target_options(recipe, target), frames)
    settings = target_settings(recipe, source, target, frames, encoder)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = accelerator or torch.device("cpu")
    leave_cores_to_workers(recipe.num_workers)
    teacher.to(device)

    tables = [rows for rows in load_dataset(source) if rows is not None]
    videos = videos_by_name(tables)
    num_frames, size = settings["num_frames"], recipe.frame_size(frames, source)
    grid = (num_frames, *encoder.grid(num_frames, *size)[1:])

    reader = ClipReader(frames, time_limit=recipe.decode_time_limit)

    def compute(names: Sequence[str]) -> Iterator[torch.Tensor]:
        clips = ClipPixels([videos[name] for name in names], reader, num_frames, size)
        batches = torch.utils.data.DataLoader(clips, batch_size=recipe.batch_size, num_workers=recipe.num_workers)
        with tqdm(total=len(videos), initial=len(videos) - len(names), desc=target, unit="video") as bar:
            for pixels in batches:
                pixels = frames.normalize_pixels(pixels.to(device))
                for clip in teacher(pixels, grid):
                    yield clip
                    bar.update()

    with explained_workers(reader):
        computed = write_targets(output, settings, list(videos), compute)
    return PreparedTargets(sum(map(len, tables)), len(videos), computed)


class ClipPixels(torch.utils.data.Dataset):
    """Each video's sampled frames as a pre-training batch has them: (frames, 3, height, width) uint8, unmasked."""

    def __init__(self, videos: Sequence[str], reader: ClipReader, num_frames: int, size: tuple[int, int]):
        self.videos = videos
        self.frames = reader.video_processor
        self.num_frames = num_frames
        self.size = dict(zip(("height", "width"), size, strict=True))
        self.reader = reader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, number: int) -> torch.Tensor:
        clip = self.reader.read(self.videos[number], self.num_frames)
        settings = {"do_sample_frames": False, "size": self.size, "return_tensors": "pt", "sound": False, **RAW_PIXELS}
        pixels = self.frames([clip.frames], **settings)
        return pixels["pixel_values_videos"][0]


def frames_of_run(recipe: PretrainingRecipe) -> tuple[VioletVideoProcessor, Encoder]:
    """The video processor of a recipe's run, and its model's vision encoder."""
    vision: Any
    if recipe.from_scratch:
        processor = frames_from_scratch(recipe.model, recipe.image_size)
        vision = named_configuration(recipe.model).vision_config
    elif starts_from_parts(recipe.model):
        processor = processor_from_parts(recipe.model, recipe.text, image_size=recipe.image_size).video_processor
        vision = vision_configuration(recipe.model)
    else:
        processor = AutoProcessor.from_pretrained(recipe.model).video_processor
        vision = AutoConfig.from_pretrained(recipe.model).vision_config
    set_frames(processor, recipe.fit, recipe.frame_sampling)
    return processor, find_encoder(vision)


def videos_by_name(tables: Iterable[Dataset]) -> dict[str, str]:
    """
    The video of each name in these rows, in their order.

    Raises:
        SettingsError: if one name stands for two videos.
    """
    videos: dict[str, str] = {}
    for rows in tables:
        columns = [name for name in ("id", "video") if name in rows.column_names]
        for row in rows.select_columns(columns):
            name = row_id(row)
            if videos.setdefault(name, row["video"]) != row["video"]:
                raise SettingsError(
                    f"The id {name!r} stands for two videos, {videos[name]} and {row['video']}: targets go by id."
                )
    return videos


def _find_dataset(recipe: PretrainingRecipe, name: str | None) -> DatasetRecipe:
    datasets = {dataset.name: dataset for dataset in recipe.datasets}
    if name is None and len(datasets) == 1:
        return recipe.datasets[0]
    if name not in datasets:
        said = "which data set? Give --dataset" if name is None else f"the recipe has no data set {name!r}"
        raise SettingsError(f"{said}; there are {', '.join(datasets)}.")
    return datasets[name]
