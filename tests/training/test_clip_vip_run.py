"""A CLIP of transformers becomes a CLIP-ViP and is fine-tuned for search, by one command."""

import json
from pathlib import Path

import pytest
import torch
from public_models import save_clip, save_vision_model
from transformers import AutoProcessor, CLIPModel, pipeline
from transformers.image_utils import OPENAI_CLIP_MEAN

from violet.cli import main
from violet.data import moving_shapes
from violet.hub.starting_points import build_system, processor_of_system
from violet.modeling_violet import VioletForRetrieval
from violet.training import TASKS, ModelArguments, SettingsError
from violet.training.starting import check_system

CLIPS = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}


@pytest.fixture(scope="module")
def rows(shapes_folder):
    return moving_shapes(shapes_folder, **CLIPS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, rows) -> Path:
    return save_clip(rows["train"]["caption"], tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory, rows) -> list[str]:
    """The options that name tables of clips with captions."""
    folder = tmp_path_factory.mktemp("tables")
    for split in ("train", "test"):
        rows[split].select_columns(["video", "caption"]).to_csv(folder / f"{split}.csv")
    return [f"--{split}_file={folder / split}.csv" for split in ("train", "test")]


def test_one_command_makes_and_trains_a_clip_vip(clip, tables, rows, tmp_path, capsys):
    options = ["--task=retrieval", f"--model={clip}", "--as=clip-vip", f"--output_dir={tmp_path / 'run'}"]
    options += ["--max_steps=2", "--per_device_train_batch_size=4", "--dataloader_num_workers=0", "--report_to=none"]
    options += [*tables, "--learning_rate=0.001", "--save_strategy=no"]
    assert main(["finetune", *options]) == 0, capsys.readouterr().err
    run = tmp_path / "run"
    assert json.loads((run / "run.json").read_text())["system"] == "clip-vip"
    assert "text_to_video_r1" in json.loads((run / "metrics.json").read_text())
    search = pipeline("video-text-retrieval", model=str(run))
    model, theirs = search.model, CLIPModel.from_pretrained(clip)
    assert type(model) is VioletForRetrieval and model.config.vision_config.model_type == "clip_vip"
    ours, began = model.violet.vision_model, theirs.vision_model.state_dict()
    moved = {name: (value - began[name]).abs().max() for name, value in ours.state_dict().items() if name in began}
    assert len(moved) > 30 and 0 < max(moved.values()) < 0.01, "it began with the CLIP's weights, and learned"
    assert ours.embeddings.temporal_embedding.abs().max() > 0
    frames = search.processor.video_processor
    assert (frames.num_frames, frames.frame_sampling, frames.do_stretch) == (12, "ends", True)
    assert len(search("a red disc", videos=rows["test"]["video"][:3])) == 3
    card = (run / "README.md").read_text()
    assert "clip_vip: 2 layers" in card and "clip_vip` of transformers" not in card


def test_one_command_makes_and_trains_a_uniformerv2(clip, rows, tmp_path, capsys):
    table = tmp_path / "train.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in TASKS["classification"].rows(rows["train"])))
    options = ["--task=classification", f"--model={clip}", "--as=uniformerv2", f"--output_dir={tmp_path / 'run'}"]
    options += ["--max_steps=1", "--per_device_train_batch_size=4", "--dataloader_num_workers=0", "--report_to=none"]
    assert main(["finetune", *options, f"--train_file={table}", "--learning_rate=0", "--save_strategy=no"]) == 0, (
        capsys.readouterr().err
    )
    ask = pipeline("video-classification", model=str(tmp_path / "run"))
    vision, theirs = ask.model.violet.vision_model, CLIPModel.from_pretrained(clip).vision_model.state_dict()
    assert vision.config.model_type == "uniformerv2" and list(vision.config.global_layers) == [0, 1]
    assert not vision.config.frozen
    assert torch.equal(vision.embeddings.class_embedding, theirs["embeddings.class_embedding"])
    assert torch.equal(vision.layers[1].mlp.fc1.weight, theirs["encoder.layers.1.mlp.fc1.weight"])
    frames = AutoProcessor.from_pretrained(tmp_path / "run").video_processor
    assert frames.num_frames == 8 and list(frames.image_mean) == list(OPENAI_CLIP_MEAN), "a CLIP's own colours"
    assert len(ask(rows["test"]["video"][0])) > 1


def test_a_start_that_becomes_no_clip_vip_is_refused(tmp_path):
    vit = save_vision_model("vit", tmp_path / "vit")
    for model, system, told in (
        (str(vit), "clip-vip", "is a 'vit', which does not become one; a model of transformers of type clip"),
        ("violet-tiny", "clip-vip", "violet-tiny is a configuration"),
        (str(vit), "clip-vap", "no system is named 'clip-vap'; use clip-vip, uniformerv2"),
    ):
        options = ["--task=retrieval", f"--model={model}", f"--as={system}", f"--output_dir={tmp_path / 'run'}"]
        assert main(["finetune", *options]) == 2
        with pytest.raises(SettingsError, match=told):
            check_system(model, system)
    with pytest.raises(SettingsError, match="--as starts from the weights"):
        ModelArguments(system="clip-vip", from_scratch=True)
    assert not (tmp_path / "run").exists()


def test_a_task_that_needs_a_fusion_is_refused(clip, tables, tmp_path, capsys):
    options = ["--task=captioning", f"--model={clip}", "--as=clip-vip", f"--output_dir={tmp_path / 'run'}"]
    options += [*tables, "--report_to=none"]
    assert main(["finetune", *options]) == 2
    assert "has no fusion, and VioletForCaptioning reads the states of one" in capsys.readouterr().err


@torch.no_grad()
def test_frames_of_another_size_have_a_grid_of_their_own(clip):
    processor = processor_of_system(clip, "clip_vip", num_frames=3, image_size=64)
    assert (processor.video_processor.num_frames, processor.video_processor.size["height"]) == (3, 64)
    model = build_system(clip, "clip_vip", VioletForRetrieval, image_size=64)
    assert model.config.vision_config.image_size == 64
    assert "position_embedding" in next(iter(model.conversion_report.changed))
    with pytest.raises(ValueError, match="multiples of 16 pixels"):
        processor_of_system(clip, "clip_vip", image_size=40)
