"""Settings of a pre-training run: one YAML file, read into dataclasses that refuse contradictions."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..configuration import NAMED_CONFIGURATIONS
from ..core.registry import Registry
from ..data.loading import MAX_BAD_SHARE, TIME_LIMIT_SECONDS
from ..hub.vision_models import sides
from ..processing import VioletVideoProcessor
from .arguments import BAD_SAMPLES, SettingsError, check_frames, read_settings
from .guards import MAX_BAD_STEPS
from .learning_rates import LEARNING_RATES
from .processes import TIME_LIMIT_SECONDS as PROCESS_TIME_LIMIT
from .schedule import SCHEDULES

SOURCES: Registry[Callable[["DatasetRecipe"], Any]] = Registry(
    "source of a data set",
    __package__,
    {
        "moving_shapes": "dataset_sources:drawn_videos",
        "table": "dataset_sources:tables_of_rows",
        "tsv": "dataset_sources:original_files",
    },
)
"""Each is a function: `DatasetRecipe` -> (training rows, validation rows or None), with the columns video, caption."""
SET_KEYS = ("share", "start")
UNUSED = ("skip", "zero")
PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass
class DatasetRecipe:
    """
    One data set of the mixture.

    Attributes:
        name: stands in logs and metrics.
        source: `moving_shapes` (drawn, see `data.moving_shapes`), `table` (whatever `data.read_rows` takes, with the
            columns video and caption) or `tsv` (the original's, see `data.annotations`).
        path: the folder for the drawn videos, the table, or the `.tsv`.
        validation_path: as `path`, for validation; a `tsv` may use `validation_split` of the same file instead.
        captions: of a `tsv`: the JSON file with its captions.
        split, validation_split: of drawn videos (`pretrain` and `validation` if not given) or of `captions`.
        clips, validation_clips: how many videos are drawn.
        seed: what the drawn videos show.
        clips_per_video: of drawn videos: a row is that many of them, one behind the other, with a sentence for each.
        other_texts: of drawn videos: rows also have `frame_caption`, what the middle frame shows, and `captions`, the
            row's own and the next three rows', of which one is true.
        sound: whether drawn shapes make tones.
        regions: a row's caption is one of a part of its video, its column `boxes` (see `processing.boxes.Boxes`; in a
            table as JSON), and not of the whole. Of drawn videos there is a row for each shape.
        video_folder: where a table's relative paths start; by default the table's own folder.
        num_frames: frames taken of each video; 1 for images; by default as many as the processor says.
        image_size: side of its frames in pixels, or [height, width]; by default the run's.
        weight: its share of the steps; by default its number of rows.
        interval: under the schedule `alternating`: in every how many sweeps over the data sets it takes a step.
        objectives: under the schedule `alternating`: its own weights by objective, in place of the run's.
        targets: targets computed in advance, of MVM or of an objective with a teacher: folders of `violet prepare
            targets`, or the original's `.pkl` of tokens.
    """

    name: str
    source: str
    path: str
    validation_path: str | None = None
    captions: str | None = None
    split: str | None = None
    validation_split: str | None = None
    clips: int = 8000
    validation_clips: int = 256
    seed: int = 0
    clips_per_video: int = 1
    other_texts: bool = False
    sound: bool = False
    regions: bool = False
    video_folder: str | None = None
    num_frames: int | None = None
    image_size: int | list[int] | None = None
    weight: float | None = None
    interval: int = 1
    objectives: dict[str, float] | None = None
    targets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.source not in SOURCES:
            raise SettingsError(
                f"data set {self.name!r}: source {self.source!r} is unknown; use {', '.join(SOURCES)}."
            )
        if self.source == "tsv" and self.captions is None:
            raise SettingsError(f"data set {self.name!r}: a tsv needs `captions`, the JSON file with its texts.")
        if self.clips_per_video < 1 or (self.clips_per_video > 1 and self.other_texts):
            raise SettingsError(
                f"data set {self.name!r}: clips_per_video must be 1 or more, and 1 with other_texts; got "
                f"{self.clips_per_video}."
            )
        if self.regions and (self.source == "tsv" or self.clips_per_video > 1 or self.other_texts):
            raise SettingsError(
                f"data set {self.name!r}: regions are of drawn videos or a table, with one video and one text per "
                "row: leave `clips_per_video` and `other_texts` out, or `regions`."
            )
        if self.weight is not None and self.weight <= 0:
            raise SettingsError(f"data set {self.name!r}: weight must be above 0, got {self.weight}.")
        if self.interval < 1:
            raise SettingsError(f"data set {self.name!r}: interval must be 1 or more, got {self.interval}.")
        check_sides(f"data set {self.name!r}: image_size", self.image_size)


@dataclass
class PretrainingRecipe:
    """
    A run of pre-training. The defaults are VIOLETv2's, except those that depend on the data.

    Attributes:
        datasets: the mixture, see `DatasetRecipe`.
        output_dir: for checkpoints, logs, curves, the model.
        model: a folder or Hub name of a VIOLET; or of a model of pictures or videos of transformers, such as
            openai/clip-vit-base-patch16, which becomes the vision encoder of a new VIOLET; or a named configuration to
            start from scratch.
        text: a folder or Hub name of a BERT, whose weights are a new VIOLET's words and fusion, where `model` is a
            model of pictures or videos.
        tokenizer: from scratch: a folder or Hub name; by default a small vocabulary is trained on the data's texts.
        objectives: weights by objective (see `VioletForPreTraining`); or a list of such sets, of which one is drawn
            for each step in proportion to its `share`, out of those whose `start` (a share of `max_steps`) has come.
        objective_options: of a new model: options of objectives that are not built in, by objective; and, of any
            model, under `teacher` the Hub name or folder of the network that an objective such as `align` learns from.
        mvm_targets: options of each target's head, by target, and under `teacher` the teacher's Hub name or folder.
        masks: probability of each kind of mask, see `masking.Masking`; `correlated` needs the objective `mvm_mfr` in
            each set of objectives that reads masked patches.
        patch_ratio, word_ratio: shares that are hidden.
        num_negatives: other texts that a video is told apart from, within groups of `group_size` rows.
        hard_negatives: take those that are nearest before the fusion instead of random ones.
        image_size: side of a frame in pixels, or [height, width]; by default the model's processor's.
        max_text_length: tokens that a text is cut to.
        max_steps: optimiser steps.
        batch_size: videos of a step, over all processes, before gradient accumulation.
        gradient_accumulation_steps: batches of an optimiser step.
        grad_cache_chunk_size: compute a batch in parts of that many rows of each process, with the loss and gradients
            of the whole: a contrastive batch of any size then takes the memory of a part, and about one more forward
            pass (see `gradient_caching`). Only objectives that compare embeddings can be computed so.
        schedule: what each step does: a name of `training.schedule.SCHEDULES`. `mixture` draws each step's data set by
            its weight; `alternating` takes them in turn, each in its own interval and with its own objectives.
        unused: what a step does with parameters that its objectives do not use: `skip` leaves them and their moments
            as they are; `zero` gives them the gradient zero, so that their moments fall, and they move on and decay
            (as JAX's optimisers, and IMP).
        learning_rate, learning_rate_schedule, warmup: the peak, what follows it, and the share of the steps before it.
        weight_decay: not on biases, norms, and tables of positions and words.
        max_grad_norm: gradients are clipped to this norm.
        mixed_precision: `auto` is bf16 if the machine computes it fast.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        frozen: parts of the model that keep their weights, by name: `violet.video_encoder`,
            `violet.text_embeddings.language_model`, …
        ema_decay: keep a moving average of the weights, evaluate it and save it as the model.
        seed: decides weights, order, masks and negatives.
        num_workers: processes that decode videos, for each training process.
        frame_cache_mb: MiB of decoded frames that each of them keeps.
        fit: how a frame becomes a square: `pad` with black, `center_crop`, `random_crop` or `stretch`; by default the
            processor's own.
        frame_sampling: which frames are taken: `even`, `random_start`, `jitter` or `ends`, see
            `VioletVideoProcessor.sample_frames`; by default the processor's own.
        bad_samples: a video that cannot be read stops the run (`raise`), or its row is left out, counted and written
            to `failed_samples.jsonl` (`skip`).
        max_bad_share: with `skip`, the share of bad samples, of all that were tried, above which the run stops.
        max_bad_steps: steps in a row whose loss or gradient is NaN or infinite after which the run stops; none of them
            is applied, and each is listed in `bad_steps.jsonl`.
        process_time_limit: seconds that one of several processes may take over one part of a step; then all end, and
            say which it was.
        decode_time_limit: seconds for decoding one video; what takes longer is killed, and is bad.
        log_flow: write into each line of the log, of its last batch, the flow between video and text in the fusion and
            the losses with another row's text and video in place of its own (`evaluation.modality_flow`); no weight
            changes by it.
        logging_steps, eval_steps, save_steps: steps between two log lines, evaluations, checkpoints.
        eval_batches: batches of each data set in an evaluation.
        checkpoints_kept: older ones are deleted.
        trackers: what `accelerate` logs to as well.
    """

    datasets: list[DatasetRecipe]
    output_dir: str = "outputs/pretrained"
    model: str = "violet-tiny"
    text: str = "bert-base-uncased"
    tokenizer: str | None = None
    objectives: dict[str, float] | list[dict[str, float]] = field(default_factory=lambda: {"vtm": 1.0, "mlm": 1.0})
    objective_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    mvm_targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, float] = field(default_factory=lambda: {"random": 0.5, "block": 0.5})
    patch_ratio: float = 0.3
    word_ratio: float = 0.15
    num_negatives: int = 3
    group_size: int = 4
    hard_negatives: bool = False
    image_size: int | list[int] | None = None
    max_text_length: int = 32
    max_steps: int = 1000
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    grad_cache_chunk_size: int | None = None
    learning_rate: float = 5e-5
    schedule: str = "mixture"
    unused: str = "skip"
    learning_rate_schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 1e-3
    max_grad_norm: float = 1.0
    mixed_precision: str = "auto"
    gradient_checkpointing: bool = False
    frozen: list[str] = field(default_factory=list)
    ema_decay: float | None = None
    seed: int = 0
    num_workers: int = 1
    frame_cache_mb: int = 1024
    fit: str | None = None
    frame_sampling: str | None = None
    bad_samples: str = "raise"
    max_bad_share: float = MAX_BAD_SHARE
    max_bad_steps: int = MAX_BAD_STEPS
    process_time_limit: float = PROCESS_TIME_LIMIT
    decode_time_limit: float = TIME_LIMIT_SECONDS
    log_flow: bool = False
    logging_steps: int = 50
    eval_steps: int = 500
    eval_batches: int = 8
    save_steps: int = 500
    checkpoints_kept: int = 2
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self):
        if not self.datasets:
            raise SettingsError("`datasets`: at least one is needed.")
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) != len(names):
            raise SettingsError(f"`datasets`: the names {names} must differ.")
        for name in (
            "max_steps",
            "max_bad_steps",
            "batch_size",
            "gradient_accumulation_steps",
            "group_size",
            "num_negatives",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"`{name}`: must be 1 or more, got {getattr(self, name)}.")
        if self.grad_cache_chunk_size is not None and self.grad_cache_chunk_size < 1:
            raise SettingsError(f"`grad_cache_chunk_size`: must be 1 or more, got {self.grad_cache_chunk_size}.")
        check_frames(self.fit, self.frame_sampling)
        check_sides("`image_size`", self.image_size)
        if self.unused not in UNUSED:
            raise SettingsError(f"`unused`: {self.unused!r} is unknown; use {', '.join(UNUSED)}.")
        if self.bad_samples not in BAD_SAMPLES:
            raise SettingsError(f"`bad_samples`: {self.bad_samples!r} is unknown; use {', '.join(BAD_SAMPLES)}.")
        if not 0 <= self.max_bad_share <= 1:
            raise SettingsError(f"`max_bad_share`: must lie from 0 to 1, got {self.max_bad_share}.")
        for name in ("decode_time_limit", "process_time_limit"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"`{name}`: must be above 0 seconds, got {getattr(self, name)}.")
        for name, table in (("schedule", SCHEDULES), ("learning_rate_schedule", LEARNING_RATES)):
            if getattr(self, name) not in table:
                known = ", ".join(table)
                raise SettingsError(f"`{name}`: {getattr(self, name)!r} is unknown; use {known}.")
        if self.warmup and LEARNING_RATES.find(self.learning_rate_schedule)(0.0) < 1:
            raise SettingsError(
                f"`warmup` {self.warmup}: `learning_rate_schedule` {self.learning_rate_schedule!r} rises by itself; "
                "set `warmup` to 0."
            )
        if self.mixed_precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise SettingsError(f"`mixed_precision`: {self.mixed_precision!r} is unknown; use {known}.")
        if self.num_negatives >= self.group_size:
            raise SettingsError(
                f"`num_negatives` {self.num_negatives} must be below `group_size` {self.group_size}, out of which "
                "they are drawn."
            )
        self._check_schedule()
        if not all(objectives for _, _, objectives in self.objective_sets()):
            raise SettingsError("`objectives`: a set names no objective with a weight.")
        if min(start for _, start, _ in self.objective_sets()) > 0:
            raise SettingsError("`objectives`: one of the sets must start at 0.")
        unused = sorted(set(self.objective_options) - set(self.all_objectives()))
        if unused:
            raise SettingsError(f"`objective_options`: {', '.join(unused)} is not among `objectives`.")
        if self.save_steps % self.logging_steps:
            raise SettingsError(
                f"`save_steps` {self.save_steps} must be a multiple of `logging_steps` {self.logging_steps}: a line "
                "of the log is a mean since the line before, which a run that goes on from a checkpoint must have."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise SettingsError(f"`ema_decay`: must lie between 0 and 1, got {self.ema_decay}.")

    def _check_schedule(self) -> None:
        schedule = SCHEDULES.find(self.schedule)
        if "intervals" in inspect.signature(schedule).parameters:
            intervals, own = self.dataset_settings()
            try:
                schedule([1.0] * len(own), [(1, 1, 1)] * len(own), self.objective_sets(), self.seed, intervals, own)
            except ValueError as error:
                raise SettingsError(str(error)) from error
            return
        for dataset in self.datasets:
            if dataset.interval != 1 or dataset.objectives is not None:
                raise SettingsError(
                    f"data set {dataset.name!r}: `interval` and `objectives` of a data set are read by the schedule "
                    f"'alternating', and `schedule` is {self.schedule!r}."
                )

    def dataset_settings(self) -> tuple[list[int], list[dict[str, float] | None]]:
        """Each data set's interval, and its own weights by objective, or None; a weight of 0 leaves one out."""
        own = [dataset.objectives for dataset in self.datasets]
        kept = [one and {name: float(weight) for name, weight in one.items() if weight} for one in own]
        return [dataset.interval for dataset in self.datasets], kept

    def frame_size(self, frames: VioletVideoProcessor, dataset: DatasetRecipe | None = None) -> tuple[int, int]:
        """(height, width) of a data set's frames, or of the run's; by default what the processor makes."""
        size = self.image_size if dataset is None or dataset.image_size is None else dataset.image_size
        if size is None:
            return frames.size["height"], frames.size["width"]
        return sides(size)

    @property
    def from_scratch(self) -> bool:
        return self.model in NAMED_CONFIGURATIONS

    def objective_sets(self) -> list[tuple[float, int, dict[str, float]]]:
        """(share, first step, weights by objective), one or several; a weight of 0 leaves an objective out."""
        sets = self.objectives if isinstance(self.objectives, list) else [self.objectives]
        return [
            (
                float(objectives.get("share", 1.0)),
                round(objectives.get("start", 0.0) * self.max_steps) * self.gradient_accumulation_steps,
                {name: float(weight) for name, weight in objectives.items() if name not in SET_KEYS and weight},
            )
            for objectives in sets
        ]

    def all_objectives(self) -> dict[str, float]:
        """Every objective that any set or data set names."""
        sets = [objectives for _, _, objectives in self.objective_sets()]
        sets += [own for own in self.dataset_settings()[1] if own]
        return {name: weight for objectives in sets for name, weight in objectives.items()}


def check_sides(name: str, size: Any) -> None:
    """
    Raises:
        SettingsError: for anything but pixels, [height, width] or None.
    """
    given = size if isinstance(size, list) else [1 if size is None else size] * 2
    if len(given) != 2 or not all(isinstance(side, int) and side > 0 for side in given):
        raise SettingsError(f"{name}: must be pixels, or [height, width], got {size}.")


def read_recipe(settings: Mapping[str, Any]) -> PretrainingRecipe:
    """
    A recipe from what a YAML file holds.

    Raises:
        SettingsError: for a name that no recipe or data set has.
    """
    settings = dict(settings)
    datasets = settings.pop("datasets", [])
    _refuse_unknown(settings, PretrainingRecipe, "the recipe")
    for dataset in datasets:
        _refuse_unknown(dataset, DatasetRecipe, f"data set {dataset.get('name', '?')!r}")
        missing = [name for name in ("name", "source", "path") if name not in dataset]
        if missing:
            raise SettingsError(f"data set {dataset.get('name', '?')!r}: {', '.join(missing)} is missing.")
    return PretrainingRecipe(datasets=[DatasetRecipe(**dataset) for dataset in datasets], **settings)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> PretrainingRecipe:
    """The recipe in a YAML file, with `overrides` in place of its settings."""
    return read_recipe({**read_settings(path), **(overrides or {})})


def _refuse_unknown(settings: Mapping[str, Any], recipe: type, where: str) -> None:
    known = [entry.name for entry in fields(recipe)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise SettingsError(f"{where}: no setting is named {', '.join(unknown)}; there are {', '.join(known)}.")
