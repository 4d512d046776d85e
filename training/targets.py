"""Targets computed in advance: written once by `violet prepare targets`, read by every later run."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from ..configuration import VioletConfig
from ..core.files import write_json, write_tensors
from ..data import read_pickle
from ..hub.vision_models import model_type
from ..modeling_violet.encoders import Encoder
from ..modeling_violet.objectives.masked_vision import MVM_TARGETS
from ..modeling_violet.objectives.objective import OBJECTIVES
from ..modeling_violet.objectives.teachers import Teacher
from ..processing import VioletVideoProcessor
from .arguments import SettingsError
from .recipe import DatasetRecipe, PretrainingRecipe

SETTINGS_FILE = "targets.json"
ROWS_PER_SHARD = 256
BYTES_PER_SHARD = 2**26


class StoredTargets(Protocol):
    """One MVM target of many videos, by the name of their row."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str, frame_indices: Sequence[int]) -> torch.Tensor:
        """The target of a row's video, (frames, ...), for the frames of these numbers."""
        ...


class PickledTokens:
    """The original's `{id: [a (rows, columns) array of visual tokens per frame]}`; nothing in the file is run."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.tokens = read_pickle(self.path)
        if not isinstance(self.tokens, dict):
            raise SettingsError(
                f"{path}: a dictionary of visual tokens by id is needed, not {type(self.tokens).__name__}."
            )

    def __contains__(self, name: str) -> bool:
        return name in self.tokens

    def read(self, name: str, frame_indices: Sequence[int]) -> torch.Tensor:
        frames = self.tokens[name]
        if max(frame_indices) >= len(frames):
            raise SettingsError(
                f"{self.path}: {name!r} has tokens of {len(frames)} frames; frame {max(frame_indices)} was taken."
            )
        return torch.stack([torch.from_numpy(frames[i].astype("int64")) for i in frame_indices])


class ShardedTargets:
    """
    What `write_targets` wrote: a folder of safetensors files with each row's target under its name.

    Raises:
        SettingsError: if the folder holds no targets, was not made with `settings`, or holds a damaged file.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any]):
        self.folder = Path(folder)
        compare_settings(self.folder, _read_settings(self.folder), settings)
        self.shards = {name: shard for shard in _shards(self.folder) for name in _names_in(shard)}

    def __contains__(self, name: str) -> bool:
        return name in self.shards

    def read(self, name: str, frame_indices: Sequence[int]) -> torch.Tensor:
        """As it was stored: the settings say for how many frames, evenly spaced as `frame_indices` are."""
        with safe_open(self.shards[name], framework="pt") as shard:
            return shard.get_tensor(name)


def target_settings(
    recipe: PretrainingRecipe, dataset: DatasetRecipe, target: str, frames: VioletVideoProcessor, encoder: Encoder
) -> dict[str, Any]:
    """
    What decides the values of a stored target, in JSON's types.

    Args:
        frames: the run's video processor.
        encoder: the model's vision encoder.

    Raises:
        SettingsError: if frames or crops are drawn in each epoch: no target can be stored for those; or for a target
            without a teacher.
    """
    teacher = find_teacher(target)
    if frames.is_random:
        raise SettingsError(
            f"data set {dataset.name!r}: stored `targets` are those of one choice of frames and pixels. With them, "
            "`frame_sampling` must be even and `fit` not random_crop."
        )
    options, teacher = target_options(recipe, target), find_teacher(target)
    source, (height, width) = options.get("teacher"), recipe.frame_size(frames, dataset)
    return {
        "target": target,
        "teacher": teacher.default_source if source is None else str(source),
        "per_cell": options.get("per_cell"),
        **{name: options.get(name) for name in teacher.options if name != "per_cell"},
        "num_frames": dataset.num_frames or frames.num_frames,
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.cell[1],
        "image_mean": list(frames.image_mean),
        "image_std": list(frames.image_std),
        "do_pad_to_square": frames.do_pad_to_square,
        **({"do_stretch": True} if frames.do_stretch else {}),  # targets stored before there was a choice stay valid
        # Drawn videos have the same names whatever they show.
        "drawn_with_seed": dataset.seed if dataset.source == "moving_shapes" else None,
    }


def has_teacher(target: str) -> bool:
    """Whether an MVM target is made by a frozen network beside the model, and not by the model itself."""
    return MVM_TARGETS.find(target).teacher is not None


def find_teacher(target: str) -> type[Teacher]:
    """
    The class of the teacher of an MVM target, or of an objective that names one.

    Raises:
        ValueError: for a name that is neither.
        SettingsError: for a target that the model makes itself.
    """
    own = OBJECTIVES[target].teacher if target in OBJECTIVES else None
    teacher = own or MVM_TARGETS.find(target).teacher
    if teacher is None:
        raise SettingsError(f"{target!r} has no teacher, the model makes this target itself: nothing can be stored.")
    return teacher


def target_options(recipe: PretrainingRecipe, target: str) -> dict[str, Any]:
    """
    What the recipe says of a target: `teacher`, a Hub name or folder, and the options of its head; of an objective's
    own all its options. A model that exists has its own, and the recipe names the teacher only.

    Raises:
        SettingsError: for options that the objective has not, or that contradict one another.
    """
    if target not in OBJECTIVES or OBJECTIVES[target].teacher is None:
        return dict(recipe.mvm_targets.get(target, {}))
    given = dict(recipe.objective_options.get(target, {}))
    source = given.pop("teacher", None)
    if not recipe.from_scratch and model_type(recipe.model) == VioletConfig.model_type:
        given = (getattr(AutoConfig.from_pretrained(recipe.model), "objectives", None) or {}).get(target, {})
    try:
        options = OBJECTIVES[target].Options(**given)  # type: ignore[misc]  # one with a teacher has options
    except (TypeError, ValueError) as error:
        raise SettingsError(f"`objective_options`: {error}") from error
    return {**asdict(options), **({} if source is None else {"teacher": source})}


def load_teacher(target: str, options: Mapping[str, Any], frames: VioletVideoProcessor) -> Teacher:
    """
    The frozen network of an MVM target, or of an objective that has one.

    Args:
        options: see `target_options`.
        frames: the run's video processor.

    Raises:
        SettingsError: if the target is unknown, or its teacher cannot be loaded.
    """
    try:
        teacher = find_teacher(target)
        more = {name: options[name] for name in teacher.options if name in options}
        return teacher.load(
            options.get("teacher"), student_mean=frames.image_mean, student_std=frames.image_std, **more
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"The teacher of {target!r} cannot be loaded: {error}") from error


def open_targets(path: str | os.PathLike, settings: Mapping[str, Any], names: Iterable[str]) -> StoredTargets:
    """
    A folder of `violet prepare targets`, or the original's `.pkl` of visual tokens.

    Args:
        settings: see `target_settings`; a `.pkl` says nothing of them.
        names: the rows that the targets are needed for, see `row_id`.

    Raises:
        SettingsError: if there is nothing, it was made with other settings, or a row has no target in it.
    """
    path = Path(path)
    if not path.exists():
        raise SettingsError(f"There are no stored targets at {path}; `violet prepare targets` makes them.")
    stored: StoredTargets = ShardedTargets(path, settings) if path.is_dir() else PickledTokens(path)
    needed = list(dict.fromkeys(names))
    missing = [name for name in needed if name not in stored]
    if missing:
        raise SettingsError(
            f"{path} lacks the targets of {len(missing)} of {len(needed)} rows, the first of them {missing[0]!r}. "
            "The same call of `violet prepare targets` adds them."
        )
    return stored


def write_targets(
    folder: str | os.PathLike,
    settings: Mapping[str, Any],
    names: Sequence[str],
    compute: Callable[[Sequence[str]], Iterable[torch.Tensor]],
) -> int:
    """
    Computes and stores the target of each row, a shard at a time. Rows that are in a shard are kept: the same call
    goes on after an interruption, or after the table has grown. A killed process leaves whole shards, and at most a
    hidden file beside them, which the next call replaces.

    Args:
        settings: what decides the values, see `target_settings`; other values need another folder.
        names: of the rows, each once.
        compute: gives the targets (frames, ...) of the named rows, one after another.

    Returns:
        How many rows were computed; the others were there.

    Raises:
        SettingsError: if the folder was made with other settings, or holds a damaged file.
    """
    folder = Path(folder)
    if (folder / SETTINGS_FILE).exists():
        compare_settings(folder, _read_settings(folder), settings)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} exists and holds no stored targets; give another folder.")
    else:
        write_json(folder / SETTINGS_FILE, dict(settings))
    shards = _shards(folder)
    there = {name for shard in shards for name in _names_in(shard)}
    missing = [name for name in names if name not in there]
    number = 1 + max((_number_of(shard) for shard in shards), default=-1)
    shard: dict[str, torch.Tensor] = {}
    taken = 0
    if not missing:
        return 0
    for name, target in zip(missing, compute(missing), strict=True):
        shard[name] = target.cpu().clone(memory_format=torch.contiguous_format)  # not a view of its whole batch
        taken += target.nbytes
        if len(shard) == ROWS_PER_SHARD or taken >= BYTES_PER_SHARD or name == missing[-1]:
            write_tensors(folder / f"targets-{number:06d}.safetensors", shard)
            number, shard, taken = number + 1, {}, 0
    return len(missing)


def compare_settings(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses targets that were made with other settings, naming them; a setting that is not asked for may be any."""
    other = [
        f"{name} {found.get(name)!r} instead of {value!r}" for name, value in asked.items() if found.get(name) != value
    ]
    if other:
        raise SettingsError(
            f"{folder} holds targets made with {', '.join(other)}. Prepare new ones in another folder."
        )


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} holds no stored targets: {error}.") from error
    if not isinstance(settings, dict):
        raise SettingsError(f"{folder} holds no stored targets: its {SETTINGS_FILE} is a {type(settings).__name__}.")
    return settings


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("targets-*.safetensors"))


def _number_of(shard: Path) -> int:
    return int(shard.stem.removeprefix("targets-"))


def _names_in(shard: Path) -> list[str]:
    try:
        with safe_open(shard, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise SettingsError(f"{shard} is damaged ({error}): delete it, and prepare its rows again.") from error
