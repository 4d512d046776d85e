"""Fine-tuning and pre-training that start from models of pictures and videos of transformers, one command each."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import DatasetDict
from encoder_configs import ENCODER_CONFIGS, FRAMES, PICTURES, SIDE, frame_settings, model_config
from public_models import OUR_ENCODERS, PUBLIC_ENCODERS, save_bert, save_vision_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, pipeline

from violet import VideoTextProcessor, VioletForPreTraining, VioletVideoProcessor
from violet.cli import main
from violet.data import moving_shapes
from violet.hub import WeightsError, build_processor
from violet.hub.starting_points import configuration_for
from violet.training import TASKS, DataArguments, FinetuningArguments, ModelArguments, SettingsError, finetune
from violet.training.starting import starts_from_parts

CLIPS = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}
QUESTION = "what moves left?"
ASKED: dict[str, tuple[str, Callable[[Any, list[str]], Any]]] = {
    "open-ended": ("video-question-answering", lambda pipe, clips: pipe(clips[0], QUESTION)),
    "masked-answer": ("video-question-answering", lambda pipe, clips: pipe(clips[0], QUESTION)),
    "multiple-choice": ("video-question-answering", lambda pipe, clips: pipe(clips[0], QUESTION, options=["a", "b"])),
    "fill-in-the-blank": ("video-fill-mask", lambda pipe, clips: pipe(clips[0], "it moves [MASK]")),
    "retrieval": ("video-text-retrieval", lambda pipe, clips: pipe("a red disc", videos=clips)),
    "captioning": ("video-captioning", lambda pipe, clips: pipe(clips[0], max_new_tokens=3)),
    "classification": ("video-classification", lambda pipe, clips: pipe(clips[0])),
}
"""By task: the pipeline that asks its models, and something to ask."""


@pytest.fixture(scope="module", autouse=True)
def collected_once() -> Iterator[None]:
    """Each run of a Trainer collects garbage: here not all that the libraries hold, which takes half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def clips(shapes_folder):
    return moving_shapes(shapes_folder, **CLIPS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, clips) -> Path:
    """A folder with a folder for each encoder and `bert`; that of one of ours is a VIOLET's, as it has no other."""
    folder = tmp_path_factory.mktemp("parts")
    texts = [*clips["train"]["caption"], "option : 0 1 2 3", "write a description about the video."]
    texts += [f"{one['question']} {one['answer']}" for questions in clips["train"]["questions"] for one in questions]
    save_bert(texts * 2, folder / "bert")
    for encoder in PUBLIC_ENCODERS:
        save_vision_model(encoder, folder / encoder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    for encoder in OUR_ENCODERS:
        frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, **frame_settings(encoder))
        VideoTextProcessor(tokenizer, frames).save_pretrained(folder / encoder)
        VioletForPreTraining(model_config(encoder, vocab_size=len(tokenizer))).save_pretrained(folder / encoder)
    return folder


def arguments_of(parts: Path, encoder: str, **changes: Any) -> ModelArguments:
    frames = {"num_frames": FRAMES} if encoder in PICTURES else {}
    return ModelArguments(**{"model": str(parts / encoder), "text": str(parts / "bert"), **frames, **changes})


def few_steps(output_dir: Path, **changes: Any) -> FinetuningArguments:
    few = {"max_steps": 1, "per_device_train_batch_size": 4, "dataloader_num_workers": 0, "save_strategy": "no"}
    return FinetuningArguments(**{"output_dir": str(output_dir), "report_to": "none", **few, **changes})


FEW = 3
PAIRS = [(encoder, task) for encoder in ENCODER_CONFIGS for task in TASKS]
OF_THIS_RUN = [
    (encoder, task)
    for number, encoder in enumerate(ENCODER_CONFIGS)
    for task in [list(TASKS)[(number + 2 * step) % len(TASKS)] for step in range(FEW)]
]
"""Three tasks of each encoder, and each task with several; `make proofs` and `make combinations` walk all of them."""


@pytest.mark.parametrize(
    ("encoder", "task"),
    [pair if pair in OF_THIS_RUN else pytest.param(*pair, marks=pytest.mark.proof) for pair in PAIRS],
)
def test_each_task_is_learned_saved_and_asked_with_each_encoder(encoder, task, parts, clips, tmp_path):
    rows = TASKS[task].rows(clips["train"])
    tables = DatasetDict({"train": rows.select(range(4)), "test": rows.select(range(2))})
    result = finetune(arguments_of(parts, encoder), DataArguments(task=task), few_steps(tmp_path), tables)
    assert result.metrics["steps"] == 1 and len(result.metrics) > 1
    assert result.model.config.vision_config.model_type == encoder
    name, ask = ASKED[task]
    pipe = pipeline(name, model=str(tmp_path))
    trained, loaded = result.model.state_dict(), pipe.model.state_dict()
    assert type(pipe.model) is type(result.model) and trained.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[key]) for key, value in trained.items())
    assert ask(pipe, clips["test"]["video"][:2])
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["model_type"] == encoder
    card = (tmp_path / "README.md").read_text()
    layered = "num_hidden_layers" in ENCODER_CONFIGS[encoder]
    assert ("Video Swin" in card) is (encoder == "violet_vision") and (f"{encoder}: 2 layers" in card) is layered
    assert f"{encoder}: " in card or encoder == "violet_vision"


def test_the_weights_are_those_of_the_parts_and_the_frames_are_taken_as_the_encoder_takes_them(parts, clips, tmp_path):
    rows = TASKS["open-ended"].rows(clips["train"]).select(range(4))
    training = few_steps(tmp_path, learning_rate=0.0)
    tables = DatasetDict({"train": rows})
    result = finetune(arguments_of(parts, "clip_vision_model"), DataArguments(), training, tables)
    clip, bert = (load_file(parts / name / "model.safetensors") for name in ("clip_vision_model", "bert"))
    ours = result.model.state_dict()
    patches = "embeddings.patch_embedding.weight"
    name = next(name for name in ours if name.endswith(patches))
    assert torch.equal(ours[name], clip[f"vision_model.{patches}"]), "fine-tuning began with CLIP's patches"
    words = result.model.get_input_embeddings().weight
    assert torch.equal(words, bert["bert.embeddings.word_embeddings.weight"]) and words.std() > 0
    frames = result.processor.video_processor
    assert list(frames.image_mean) == [0.48145466, 0.4578275, 0.40821073] and frames.size.height == SIDE
    assert result.model.violet.video_encoder.frame_embeddings.shape[0] == FRAMES
    assert result.model.violet.video_encoder.position_embeddings.shape[0] == 1 + (SIDE // 16) ** 2
    assert result.settings["text"] == str(parts / "bert")


def test_places_are_learned_for_the_frames_and_size_that_are_asked_for(parts, clips, tmp_path):
    tables = DatasetDict({"train": TASKS["open-ended"].rows(clips["train"]).select(range(4))})
    arguments = arguments_of(parts, "vit", num_frames=3, image_size=48)
    model = finetune(arguments, DataArguments(), few_steps(tmp_path), tables).model
    assert model.violet.video_encoder.frame_embeddings.shape[0] == 3
    assert model.violet.video_encoder.position_embeddings.shape[0] == 1 + 3 * 3
    again = ModelArguments(model=str(tmp_path), num_frames=2, image_size=64)
    finetune(again, DataArguments(), few_steps(tmp_path / "again"), tables)


def test_a_vocabulary_may_replace_the_berts(parts, clips, tmp_path):
    other = save_bert(["a red disc moves left", "what colour is it? blue green what moves"] * 4, tmp_path / "other")
    tables = DatasetDict({"train": TASKS["open-ended"].rows(clips["train"]).select(range(4))})
    arguments = arguments_of(parts, "vit", tokenizer=str(other))
    data, training = DataArguments(allow_unknown_words=True), few_steps(tmp_path / "out", learning_rate=0.0)
    result = finetune(arguments, data, training, tables)
    theirs, ours = (AutoTokenizer.from_pretrained(folder) for folder in (parts / "bert", tmp_path / "out"))
    assert len(ours) != len(theirs)
    words = load_file(parts / "bert" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    table = result.model.get_input_embeddings().weight
    assert torch.equal(table[ours.vocab["moves"]], words[theirs.vocab["moves"]])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model={parts}/nowhere"], "nowhere: no model"),
        (["--model={parts}/bert"], "The vision encoder 'bert' cannot be used: its configuration has no `patch_size`"),
        (["--model={parts}/vit", "--text={parts}/nowhere"], "nowhere): no model"),
        (
            ["--model={parts}/vit", "--text={parts}/clip_vision_model"],
            "a model of type 'clip', and a BERT or a language model is needed",
        ),
        (["--model={parts}/videomae", "--num_frames=5"], "'videomae' takes clips of 4 frames, got 5"),
        (["--model={parts}/videomae", "--image_size=48"], "'videomae' takes frames of 32 x 32 pixels, got 48 x 48"),
        (["--model={parts}/vjepa2", "--num_frames=5"], "number of frames is a multiple of 2, got 5"),
        (["--model={parts}/vit", "--image_size=8"], "'vit' needs frames of at least 16 x 16 pixels, got 8 x 8"),
        (["--model={bare}"], "no settings of its pictures"),
        (["--model={swin}"], "is a 'swin', whose weights become those of a Video Swin"),
        (["--model={empty}"], "no model"),
        (["--model={weightless}"], "`vision`"),
    ],
)
def test_what_cannot_be_a_start_is_refused_in_a_sentence_before_anything_is_written(
    options, complaint, parts, clips, tmp_path, capsys
):
    folders = {name: tmp_path / name for name in ("bare", "swin", "empty", "weightless")}
    for folder in folders.values():
        folder.mkdir()
    vit = parts / "vit"
    (folders["bare"] / "config.json").write_bytes((vit / "config.json").read_bytes())
    (folders["swin"] / "config.json").write_text(json.dumps({"model_type": "swin"}))
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (vit / name).exists():
            (folders["weightless"] / name).write_bytes((vit / name).read_bytes())
    table = tmp_path / "train.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in TASKS["open-ended"].rows(clips["train"])))
    given = [option.format(parts=parts, **folders) for option in options]
    text = [] if any(option.startswith("--text") for option in given) else [f"--text={parts / 'bert'}"]
    output = tmp_path / "out"
    assert main(["finetune", *given, *text, f"--train_file={table}", f"--output_dir={output}"]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.startswith("violet finetune: ") and said.count("\n") == 1
    assert not output.exists()


def test_frames_of_a_finished_violet_are_checked_against_its_encoder(parts, clips, tmp_path):
    tables = DatasetDict({"train": TASKS["open-ended"].rows(clips["train"]).select(range(4))})
    finetune(arguments_of(parts, "timesformer"), DataArguments(), few_steps(tmp_path / "first"), tables)
    again = ModelArguments(model=str(tmp_path / "first"), num_frames=8)
    with pytest.raises(WeightsError, match="'timesformer' takes clips of 4 frames, got 8"):
        finetune(again, DataArguments(), few_steps(tmp_path / "second"), tables)
    assert not (tmp_path / "second").exists()


def test_a_run_goes_on_with_the_same_parts_only(parts, clips, tmp_path):
    tables = DatasetDict({"train": TASKS["open-ended"].rows(clips["train"]).select(range(4))})
    finetune(arguments_of(parts, "vit"), DataArguments(), few_steps(tmp_path / "out"), tables)
    words = ["a red disc moves left", "what is it? blue green"] + clips["train"]["caption"][:]
    other = save_bert(words * 2, tmp_path / "other")
    with pytest.raises(SettingsError, match="text was .*bert' and is .*other'"):
        finetune(
            arguments_of(parts, "vit", text=str(other)),
            DataArguments(allow_unknown_words=True),
            few_steps(tmp_path / "out"),
            tables,
        )


def test_the_configuration_has_the_berts_sizes(tmp_path):
    BertModel(BertConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=1, vocab_size=77)).save_pretrained(
        tmp_path
    )
    config = configuration_for(tmp_path, projection_dim=8)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (24, 3, 1)
    assert (config.vocab_size, config.projection_dim, config.fusion_norm) == (77, 8, "post")


def test_a_picture_model_is_asked_at_its_processors_size(parts, tmp_path):
    """DINOv2's positions are those of 518 pixels, and its processor crops 224."""
    save_vision_model("dinov2", tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings["crop_size"] = {"height": 48, "width": 48}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    frames = build_processor(tmp_path, parts / "bert").video_processor
    assert frames.size.height == 48 and frames.num_frames == 8


def test_a_violet_and_a_named_configuration_start_from_no_parts(parts):
    assert not starts_from_parts("violet-tiny") and not starts_from_parts(str(parts / "violet_vision"))
    assert starts_from_parts(str(parts / "timesformer"))


# --- pre-training ---


def recipe_of(parts: Path, encoder: str, drawn: Path, tmp_path: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "model": str(parts / encoder),
        "text": str(parts / "bert"),
        "output_dir": str(tmp_path / "run"),
        "datasets": [
            {"name": "shapes", "source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
            | ({"num_frames": FRAMES} if encoder in PICTURES else {})
        ],
        "objectives": {"vtc": 1.0, "vtm": 1.0, "mlm": 1.0, "mvm_pixel": 1.0},
        "mvm_targets": {"pixel": {}},
        "max_steps": 1,
        "batch_size": 4,
        "eval_batches": 1,
        "num_workers": 0,
        "trackers": [],
        **changes,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # YAML holds JSON
    return path


@pytest.mark.parametrize("encoder", ["clip_vision_model", "videomae", "timesformer"])
def test_pretraining_starts_from_the_same_parts(encoder, parts, drawn, tmp_path, capsys):
    recipe = recipe_of(parts, encoder, drawn, tmp_path)
    assert main(["pretrain", str(recipe)]) == 0, capsys.readouterr().err
    model, report = VioletForPreTraining.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(report.values()) and model.config.projection_dim == 256
    assert model.config.vision_config.model_type == encoder and list(model.mvm_heads) == ["pixel"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["shapes/loss_vtc"] > 0 and metrics["shapes/loss_mvm_pixel"] > 0
    assert metrics["settings"]["text"] == str(parts / "bert")


def test_targets_are_prepared_for_the_cells_of_the_parts(parts, drawn, tmp_path, capsys):
    recipe = recipe_of(parts, "videomae", drawn, tmp_path)
    assert main(["prepare", "targets", str(recipe), "--target=pixel", f"--output={tmp_path / 'pixels'}"]) == 0
    assert "of 32 videos" in capsys.readouterr().out
    data = [{**json.loads(recipe.read_text())["datasets"][0], "targets": {"pixel": str(tmp_path / "pixels")}}]
    stored = recipe_of(parts, "videomae", drawn, tmp_path, datasets=data, output_dir=str(tmp_path / "stored"))
    assert main(["pretrain", str(stored)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "changes", "complaint"),
    [
        ("videomae", {"image_size": 64}, "'videomae' takes frames of 32 x 32 pixels, got 64 x 64"),
        ("clip_vision_model", {"text": "/no/where"}, "`text` (/no/where): no model"),
        ("bert", {}, "'bert' cannot be used"),
        ("clip_vision_model", {"image_size": 8}, "at least 16 x 16 pixels, got 8 x 8"),
    ],
)
def test_pretraining_refuses_such_parts_before_anything_is_written(
    encoder, changes, complaint, parts, drawn, tmp_path, capsys
):
    recipe = recipe_of(parts, encoder, drawn, tmp_path, **changes)
    assert main(["pretrain", str(recipe)]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_data_set_of_pictures_is_refused_for_an_encoder_of_whole_clips(parts, drawn, tmp_path, capsys):
    one = [{"name": "pictures", "source": "moving_shapes", "path": str(drawn), "num_frames": 1}]
    one[0] |= {"clips": 24, "validation_clips": 8}
    assert main(["pretrain", str(recipe_of(parts, "videomae", drawn, tmp_path, datasets=one))]) == 2
    said = capsys.readouterr().err
    assert "data set 'pictures'" in said and "takes clips of 4 frames, got 1" in said
