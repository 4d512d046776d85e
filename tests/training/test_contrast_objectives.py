"""Pre-training with contrast of several texts, frames and sentences: whole runs, in parts or not, and bad input."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from equal_logs import lines
from safetensors.torch import load_file

from violet.cli import main
from violet.configuration import named_configuration
from violet.data import moving_shapes
from violet.data.loading import ClipReader
from violet.modeling_violet import VioletForPreTraining, VioletForRetrieval
from violet.processing import VideoDecodeError, VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training import building
from violet.training.arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from violet.training.building import build_accelerator
from violet.training.dataset_sources import load_dataset
from violet.training.finetuning import finetune
from violet.training.pretraining import Pretraining, pretrain
from violet.training.recipe import DatasetRecipe, read_recipe
from violet.training.trainer import VioletTrainer

pytestmark = pytest.mark.usefixtures("separate_runs")

SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
    },
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.1, "projection_dim": 16,
    "objectives": {"contrast": {}, "mil_nce": {"texts": 3}, "omnisource": {}},
}  # fmt: skip
WEIGHTS = {"vtc": 1.0, "contrast": 0.5, "mil_nce": 1.0, "omnisource": 0.25}
DROPS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


@pytest.fixture(scope="module")
def start(tmp_path_factory, drawn):
    """Saves a small model with that dropout, and its processor."""
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    captions = moving_shapes(drawn, pretrain=24, validation=8, **counts)["pretrain"]["caption"]
    tokenizer = train_wordpiece_tokenizer(captions, 150)
    processor = VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2))

    def save(dropout: float, **changes) -> Path:
        folder = tmp_path_factory.mktemp("start")
        torch.manual_seed(0)
        fields = SMALL | dict.fromkeys(DROPS, dropout) | changes
        VioletForPreTraining(named_configuration("violet-tiny", **fields, vocab_size=len(tokenizer))).save_pretrained(
            folder
        )
        processor.save_pretrained(folder)
        return folder

    return save


def settings(drawn, model, output, **changes):
    shapes = {"source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    return {
        "datasets": [{"name": "shapes", **shapes, "other_texts": True}],
        "output_dir": str(output),
        "model": str(model),
        "objectives": WEIGHTS,
        "max_steps": 3,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_workers": 0,
        "logging_steps": 1,
        "eval_batches": 1,
        "save_steps": 1,
        "trackers": [],
        **changes,
    }


def test_a_step_in_parts_is_the_step_of_the_whole_batch(drawn, start, tmp_path):
    model = start(dropout=0.0)
    run = Pretraining(read_recipe(settings(drawn, model, tmp_path / "run", grad_cache_chunk_size=3)))
    batch, found = next(run.batches(range(1), run.training)), []
    for size in (3, None):
        run.recipe.grad_cache_chunk_size = size
        run.model.zero_grad()
        _, values = run.forward(copy.deepcopy(batch), backward=True)
        gradients = {name: one.grad.clone() for name, one in run.model.named_parameters() if one.grad is not None}
        found.append((values, gradients))
    (in_parts, one), (whole, other) = found
    assert in_parts.keys() == whole.keys() >= {f"loss_{name}" for name in WEIGHTS}
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, rtol=1e-5, atol=0)
    assert one.keys() == other.keys() and len(one) > 30
    for name, gradient in other.items():
        assert (one[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-8, name


@pytest.mark.proof
def test_a_run_in_parts_goes_on_to_the_same_weights(drawn, start, tmp_path, monkeypatch):
    """With dropout: what is drawn twice must count once."""
    model = start(dropout=0.2)
    changes = {"grad_cache_chunk_size": 3, "gradient_accumulation_steps": 2}
    expected = tmp_path / "expected"
    result = pretrain(read_recipe(settings(drawn, model, expected, **changes)))
    assert {f"shapes/loss_{name}" for name in WEIGHTS} <= result.metrics.keys()
    losses = [value for line in lines(expected) for name, value in line.items() if "loss" in name]
    assert len(losses) > 15 and all(0 < value < 100 for value in losses)
    step = Pretraining.train_step

    def stop(self, number, *arguments):
        if number == 3:
            raise KeyboardInterrupt
        step(self, number, *arguments)

    output = tmp_path / "stopped"
    AcceleratorState._reset_state(True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pretraining, "train_step", stop)
        pretrain(read_recipe(settings(drawn, model, output, **changes)))
    AcceleratorState._reset_state(True)
    pretrain(read_recipe(settings(drawn, model, output, **changes)), resume=True)
    one, other = (load_file(folder / "model.safetensors") for folder in (expected, output))
    assert [name for name in one if not torch.equal(one[name], other[name])] == [] and one.keys() == other.keys()
    assert lines(output) == lines(expected)


def test_the_middle_frame_is_the_one_in_the_middle(drawn, start, tmp_path):
    run = Pretraining(read_recipe(settings(drawn, start(0.0), tmp_path / "run")))
    batch = next(run.batches(range(1), run.training))
    assert batch["pixel_values_middle_frames"].shape == (8, 1, 3, 32, 32)
    rows = {row["id"]: row for row in run.training.sources[0].rows}
    video = rows[batch["ids"][0]]["video"]
    assert run.reader.read_middle(video).indices == [4], "of eight frames"
    assert batch["several_ids"].shape[:2] == batch["several_mask"].shape == (8, 3)
    words = run.processor.tokenizer.batch_decode(batch["frame_caption_ids"], skip_special_tokens=True)
    assert words[0].startswith("a ") and not {"moves", "turns", "grows", "shrinks", "stays"} & set(words[0].split())
    one, other = (next(run.batches(range(1), run.training)) for _ in range(2))
    assert torch.equal(one["several_ids"], other["several_ids"]), "which texts are drawn is a function of the step"


def test_a_video_whose_middle_frame_cannot_be_read_is_left_out_and_counted(drawn, start, tmp_path, monkeypatch):
    def recipe(output, **changes):
        changes |= {"objectives": {"omnisource": 1.0, "vtc": 1.0}, "max_steps": 2, "eval_batches": 0}
        return read_recipe(settings(drawn, start(0.0), tmp_path / output, **changes))

    read_middle, damaged = ClipReader.read_middle, []

    def read(self, video, row=None):
        if video in damaged:
            raise VideoDecodeError(f"{video} (row {row}): its middle is damaged")
        return read_middle(self, video, row)

    run = Pretraining(recipe("whole"))
    rows = {row["id"]: row for row in run.training.sources[0].rows}
    whole = next(run.batches(range(1), run.training))
    damaged.append(rows[whole["ids"][2]]["video"])
    monkeypatch.setattr(ClipReader, "read_middle", read)
    with pytest.raises(VideoDecodeError, match="its middle is damaged"):
        next(run.batches(range(1), run.training))
    AcceleratorState._reset_state(True)
    run = Pretraining(recipe("skipped", bad_samples="skip", max_bad_share=0.2))
    batch = next(run.batches(range(1), run.training))
    kept = [0, 1, 3, 4, 5, 6, 7]
    assert batch["ids"] == [whole["ids"][number] for number in kept]
    for name in ("pixel_values_videos", "pixel_values_middle_frames"):
        assert torch.equal(batch[name], whole[name][kept]), name
    AcceleratorState._reset_state(True)
    result = pretrain(recipe("skipped", bad_samples="skip", max_bad_share=0.2))
    assert result.metrics["samples_failed"] == 1
    (line,) = (tmp_path / "skipped" / "failed_samples.jsonl").read_text().splitlines()
    assert "its middle is damaged" in line and json.loads(line)["video"] == damaged[0]


def test_drawn_videos_of_several_clips(drawn):
    recipe = DatasetRecipe("shapes", "moving_shapes", str(drawn), clips=24, validation_clips=8, clips_per_video=4)
    train, validation = load_dataset(recipe)
    assert len(train) == 6 and len(validation) == 2
    assert train["caption"][0].count("\n") == 3 and "video" in train.column_names
    with pytest.raises(SettingsError, match="clips_per_video must be 1 or more, and 1 with other_texts; got 4"):
        DatasetRecipe("shapes", "moving_shapes", str(drawn), clips_per_video=4, other_texts=True)


def test_sentences_and_clips_of_drawn_videos_train_an_lf_vila(drawn, tmp_path):
    shapes = {"source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    recipe = settings(
        drawn, "lf-vila-tiny", tmp_path / "run", objectives={"contrast": 1.0, "temporal_contrast": 0.25}, max_steps=1,
        batch_size=4, datasets=[{"name": "long", **shapes, "clips_per_video": 4}], grad_cache_chunk_size=2,
    )  # fmt: skip
    result = pretrain(read_recipe(recipe))
    assert result.metrics["long/loss_temporal_contrast"] > 0.1 and result.metrics["long/loss_contrast"] > 0.1
    assert result.model.config.projection_type == "paragraph_and_clips"
    assert result.processor.max_sentences == 4 and result.processor.max_length == 32
    reloaded = VioletForPreTraining.from_pretrained(tmp_path / "run")
    assert "temporal_contrast" in reloaded.objective_names()


# --- what is refused ---


def write_table(drawn, path: Path, **columns) -> Path:
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    rows = moving_shapes(drawn, pretrain=24, validation=8, **counts)["pretrain"].select(range(8))
    table = [{"video": row["video"], "caption": row["caption"], **columns} for row in rows]
    table[5] |= dict.fromkeys(columns)
    path.write_text("\n".join(map(json.dumps, table)))
    return path


@pytest.mark.parametrize(
    "name, columns, message",
    [
        ("mil_nce", {}, r"table.jsonl, row 0 .*column 'captions' is missing or has no text"),
        ("mil_nce", {"captions": ["a disc", "a cross"]}, r"table.jsonl, row 5 .*column 'captions' is missing"),
        (
            "omnisource",
            {"frame_caption": "a disc"},
            r"table.jsonl, row 5 .*column 'frame_caption' is missing or empty",
        ),
    ],
)
def test_a_row_without_what_an_objective_needs_is_named(drawn, start, tmp_path, name, columns, message):
    table = write_table(drawn, tmp_path / "table.jsonl", **columns)
    datasets = [{"name": "own", "source": "table", "path": str(table)}]
    recipe = settings(drawn, start(0.0), tmp_path / "run", datasets=datasets, objectives={name: 1.0})
    with pytest.raises(SettingsError, match=message):
        Pretraining(read_recipe(recipe))


def test_a_caption_of_one_sentence_is_no_paragraph(drawn, tmp_path):
    recipe = settings(drawn, "lf-vila-tiny", tmp_path / "run", objectives={"temporal_contrast": 1.0})
    with pytest.raises(SettingsError, match="column 'caption' has 1 sentence, and the objective 'temporal_contrast'"):
        Pretraining(read_recipe(recipe))


def test_what_cannot_be_computed_in_parts_is_refused(drawn, start, tmp_path, capsys):
    recipe = settings(
        drawn, start(0.0), tmp_path / "run", objectives={"vtc": 1.0, "mlm": 1.0}, grad_cache_chunk_size=4
    )
    with pytest.raises(SettingsError, match="mlm compares no embeddings, and cannot be computed in parts"):
        Pretraining(read_recipe(recipe))
    with pytest.raises(SettingsError, match="`grad_cache_chunk_size`: must be 1 or more, got 0"):
        read_recipe(recipe | {"grad_cache_chunk_size": 0})
    table = write_table(drawn, tmp_path / "table.jsonl")
    options = ["finetune", f"--model={start(0.0)}", f"--train_file={table}", f"--output_dir={tmp_path / 'tuned'}"]
    options += ["--grad_cache_chunk_size=2", "--allow_unknown_words=true"]
    assert main([*options, "--task=retrieval"]) == 2
    assert "this model's fusion scores each pair of a video and a text" in capsys.readouterr().err
    assert main([*options, "--task=captioning", f"--output_dir={tmp_path / 'other'}"]) == 2
    assert "serves --task retrieval, not captioning" in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json")), "the same folder takes the right settings"


@pytest.mark.parametrize("kind", ["FSDP", "DeepSpeed"])
def test_parts_of_sharded_weights_are_refused_by_name_before_a_run_begins(drawn, tmp_path, monkeypatch, kind):
    table = write_table(drawn, tmp_path / "table.jsonl")
    training = FinetuningArguments(
        output_dir=str(tmp_path / "run"), grad_cache_chunk_size=2, max_steps=1, eval_strategy="no", report_to="none"
    )
    if kind == "FSDP":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` says it
    else:
        training.deepspeed_plugin = object()
    arguments = ModelArguments(model="clip-vip-tiny", from_scratch=True)
    with pytest.raises(SettingsError, match=f"--grad_cache_chunk_size: weights that {kind} shards over processes"):
        finetune(arguments, DataArguments(task="retrieval", train_file=str(table)), training)
    assert not (tmp_path / "run" / "run.json").exists()


def test_pretraining_in_parts_of_sharded_weights_is_refused_by_name(drawn, start, tmp_path, monkeypatch):
    recipe = settings(drawn, start(0.0), tmp_path / "run", objectives={"vtc": 1.0}, grad_cache_chunk_size=4)
    accelerator = SimpleNamespace(num_processes=1, state=None, distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(building, "Accelerator", lambda **options: accelerator)
    with pytest.raises(SettingsError, match="`grad_cache_chunk_size`: weights that DeepSpeed shards over processes"):
        build_accelerator(read_recipe(recipe))


def test_a_trainer_refuses_parts_of_sharded_weights(tmp_path, monkeypatch):
    model = VioletForRetrieval(named_configuration("clip-vip-tiny"))
    arguments = FinetuningArguments(output_dir=str(tmp_path), report_to="none")
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.DEEPSPEED))
    with pytest.raises(SettingsError, match="`grad_cache_chunk_size`: weights that DeepSpeed shards"):
        VioletTrainer(model=model, args=arguments, grad_cache_chunk_size=2)


@pytest.mark.parametrize(
    "objectives, changes, message",
    [
        ({"contrast": {"form": "vsc"}}, {}, "'vsc' compares videos, texts, frame_captions, and 'contrast' has no"),
        ({"contrast": {"form": "hard_negatives"}}, {}, "needs `settings: {negatives: …}`"),
        ({"contrast": {"form": "mil_nce"}}, {}, "use the objective 'mil_nce'"),
        ({"contrast": {"settings": {"margin": 1}}}, {}, "the form 'symmetric' has no setting margin"),
        ({"contrast": {"form": "cosine"}}, {}, "No form of contrast is named 'cosine'"),
        ({"mil_nce": {"form": "symmetric"}}, {}, "is not of several texts a video"),
        ({"mil_nce": {"texts": 0}}, {}, "`texts` must be 1 or more, got 0"),
        ({"omnisource": {"form": "symmetric"}}, {}, "reads no captions of frames"),
        ({"contrast": {}}, {"projection_dim": None}, "`projection_dim` is None"),
        ({"temporal_contrast": {}}, {}, "`projection_type` 'in_order' .* has neither: use 'paragraph_and_clips'"),
    ],
)
def test_contradictions_are_refused_by_name(objectives, changes, message):
    with pytest.raises(ValueError, match=message):
        VioletForPreTraining(named_configuration("violet-tiny", **SMALL | {"objectives": objectives} | changes))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"candidates": 5}, "`candidates` 5 must be from 1 to `vision_config.num_clips` 4"),
        ({"keys": 0}, "`keys` 0 must be from 1 to `vision_config.num_clips` 4"),
        ({"candidates": 1, "negatives": 0}, "leave nothing to choose from"),
    ],
)
def test_options_of_temporal_contrast(options, message):
    changes = {"projection_type": "paragraph_and_clips", "objectives": {"temporal_contrast": options}}
    with pytest.raises(ValueError, match=message):
        VioletForPreTraining(named_configuration("lf-vila-tiny", **changes))


def test_a_model_without_a_fusion_has_the_objectives_that_compare_embeddings():
    config = named_configuration("clip-vip-tiny", objectives={"omnisource": {}}, mvm_targets={"pixel": {}})
    model = VioletForPreTraining(config)
    assert model.objective_names() == ["vtc", "omnisource"] and model.mlm_head is None
    with pytest.raises(ValueError, match="'mlm' needs a fusion"):
        model.find_objectives(["mlm"])


# --- fine-tuning ---


def test_fine_tuning_in_parts_equals_fine_tuning(drawn, tmp_path, capsys):
    table = write_table(drawn, tmp_path / "table.jsonl")
    options = ["finetune", "--task=retrieval", "--model=clip-vip-tiny", "--from_scratch=true", f"--train_file={table}"]
    options += ["--max_steps=2", "--per_device_train_batch_size=4", "--gradient_accumulation_steps=2", "--optim=sgd"]
    options += ["--learning_rate=0.01", "--save_strategy=no", "--dataloader_num_workers=0", "--report_to=none"]
    found = []
    for more in ([], ["--grad_cache_chunk_size=3"]):
        output = tmp_path / f"run{len(more)}"
        assert main([*options, f"--output_dir={output}", *more]) == 0, capsys.readouterr().err
        found.append(load_file(output / "model.safetensors"))
    one, other = found
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6)] == []
