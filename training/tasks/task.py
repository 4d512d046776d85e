"""The contract of a fine-tuning task, and the table of all tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedConfig, TrainingArguments

from ...core.registry import Registry
from ...data.loading import ClipReader, explained_workers
from ...evaluation.answers import AnswerAccuracy, choose_answers
from ...evaluation.measures import Evaluation
from ...modeling_violet import VioletPreTrainedModel
from ...processing import VideoTextProcessor
from ...processing.video_processing_violet import match_sound
from ..collating import VideoTextCollator

if TYPE_CHECKING:
    from ..arguments import DataArguments, ModelArguments

Row = dict[str, Any]


def configure_nothing(
    model: "ModelArguments", data: "DataArguments", rows: Dataset, labels_before: list[str] | None
) -> dict[str, Any]:
    """`Task.configure` of a task that leaves the configuration as it is."""
    return {}


def metrics_of_answers(rows: Dataset) -> dict[str, Any]:
    """`Task.metrics` of a task that chooses an answer: the accuracy, and that of each type of question."""
    types = list(rows["question_type"]) if "question_type" in rows.column_names else None
    return {"compute_metrics": AnswerAccuracy(types), "preprocess_logits_for_metrics": choose_answers}


def ask_in_words(row: Mapping[str, Any]) -> list[str]:
    """`Task.ask` of a task whose rows have a question or a sentence."""
    texts = [[f"--{name}", str(row[name])] for name in ("question", "text") if row.get(name)]
    return ["--video", str(row["video"]), *(word for text in texts for word in text)]


def ask_with_options(row: Mapping[str, Any]) -> list[str]:
    """The same, with the row's options, if it has some."""
    return ask_in_words(row) + (["--options", *map(str, row["options"])] if row.get("options") else [])


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        model_class: the model that is fine-tuned.
        columns: what every row of a table must have.
        texts: the columns whose words a vocabulary from scratch is trained on, if the rows have them.
        reads: the columns whose words the model reads or learns to write, if the rows have them.
        rows: the clips of the built-in data set -> the rows of a split.
        test_rows: the same for the splits that are measured.
        collate: (processor, model, data arguments, whether for training, settings of `VideoTextCollator`) -> collator.
        measure: (model, collator, rows, data arguments, training arguments) -> what the model is worth on the rows.
        check: a row of a table -> the row as the collator takes it; a `ValueError` says what is wrong with it.
        configure: (model arguments, data arguments, training rows, the labels of the weights to start from or None) ->
            what the task sets in the model's configuration.
        label_head: the model's attribute that has one output per label of the configuration; "" if none does. It
            starts at random if the labels are not those of the weights to start from.
        metrics: the rows to evaluate during training -> what a Trainer needs to measure them, beside their loss; None
            if it can measure the loss only, as there are no scores of answers.
        ask: a row -> the options of `violet predict` that ask what it is about.
        masked_columns: how columns are renamed so that `masked-answer` can ask these rows; None if it cannot.
        sayable: (tokenizer, answer) -> whether it can be learned at a [MASK], if answers are said there.
        unsayable: why one cannot.
        apart: whether a batch should hold many videos, rather than all rows of a few: what is learned is to tell the
            videos of a batch apart.
        words: what else the texts have that the model reads, for a vocabulary from scratch.
        written: the same task for a language model that sees videos among its words; None if there is none.
    """

    model_class: type[VioletPreTrainedModel]
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    reads: tuple[str, ...]
    rows: Callable[[Dataset], Dataset]
    test_rows: Callable[[Dataset], Dataset]
    collate: Callable[..., VideoTextCollator]
    measure: Callable[[Any, VideoTextCollator, Dataset, "DataArguments", TrainingArguments], Evaluation]
    check: Callable[[Row], Row] | None = None
    configure: Callable[["ModelArguments", "DataArguments", Dataset, list[str] | None], dict[str, Any]] = (
        configure_nothing
    )
    label_head: str = ""
    metrics: Callable[[Dataset], dict[str, Any]] | None = metrics_of_answers
    ask: Callable[[Mapping[str, Any]], list[str]] = ask_in_words
    masked_columns: Mapping[str, str] | None = None
    sayable: Callable[[Any, str], bool] | None = None
    unsayable: str = ""
    apart: bool = False
    words: str = ""
    written: "Task | None" = None

    def of(self, config: PreTrainedConfig) -> "Task":
        """The task as a model of that configuration does it."""
        return self.written if self.written is not None and config.get_text_config() is not config else self

    @property
    def chooses(self) -> bool:
        """Whether it has scores of answers, which a Trainer can measure and which several clips can average."""
        return self.metrics is not None

    def metrics_of(self, rows: Dataset | None) -> dict[str, Any]:
        """What a Trainer needs to measure these rows, beside their loss."""
        return {} if self.metrics is None or rows is None else self.metrics(rows)

    def examine(
        self,
        model: VioletPreTrainedModel,
        processor: VideoTextProcessor,
        rows: Dataset,
        data: "DataArguments",
        training: TrainingArguments,
        shuffle_frames: bool = False,
    ) -> Evaluation:
        """
        Evaluates a model on rows of the task: numbers with intervals, and its answer to each row. Processes that run
        together share the rows, and each of them gets the whole result.

        Args:
            shuffle_frames: whether to put each video's frames into another order.
        """
        model = model.eval().to(training.device)
        match_sound(processor.video_processor, model.config)
        collator = self.collate(
            processor,
            model,
            data,
            training=False,
            reader=ClipReader(processor.video_processor, time_limit=data.decode_time_limit),
            shuffle_frames=shuffle_frames,
            skip_bad=data.bad_samples == "skip",
            test_clips=data.test_clips,
        )
        with explained_workers(collator.reader):
            return self.measure(model, collator, rows, data, training)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The numbers of `examine`."""
        return self.examine(*args, **kwargs).metrics


TASKS: Registry[Task] = Registry(
    "task",
    __package__,
    {
        "open-ended": "task_open_ended:TASK",
        "masked-answer": "task_masked_answer:TASK",
        "multiple-choice": "task_multiple_choice:TASK",
        "fill-in-the-blank": "task_fill_in_the_blank:TASK",
        "retrieval": "task_retrieval:TASK",
        "captioning": "task_captioning:TASK",
        "classification": "task_classification:TASK",
    },
)
