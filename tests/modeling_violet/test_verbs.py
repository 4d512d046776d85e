"""How others ask a model: by verbs, not by its parts; and by the arguments that its signature names."""

import ast
import configparser
import inspect
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from encoder_configs import FRAMES, SIDE, model_config
from transformers import Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from violet.core.registry import ROOT
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletModel,
)

WORDS = torch.tensor([[2, 9, 8, 7, 3, 0], [2, 5, 6, 7, 8, 3]])
MASK = (WORDS > 0).long()
PASSED_ON = {"task_ids", "prompt_ids", "prompt_attention_mask", "video_tokens"}
PARTS = {"projection", "text_embeddings", "fusion", "video_encoder"}
MAY_REACH = ("modeling_violet", "hub", "training/optimization.py", "benchmarks", "pipelines/compiling.py")
"""
Who may know of a model's parts: the models, conversion, what gives each layer its learning rate, and what times or
compiles them.
"""


def build(model_class, **changes):
    torch.manual_seed(0)
    return model_class(model_config("vit", initializer_range=0.2, **changes)).eval()


def pixels() -> torch.Tensor:
    return torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_embeddings_are_of_length_1_and_those_of_the_feature_functions():
    model = build(VioletModel)
    videos, texts = model.embed_videos(model.encode_videos(pixels())), model.embed_texts(WORDS, MASK)
    for embedded, features in (
        (videos, model.get_video_features(pixels())),
        (texts, model.get_text_features(WORDS, MASK)),
    ):
        assert embedded.shape == (2, model.config.projection_dim)
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2))
        assert torch.equal(embedded, features.pooler_output)
    assert torch.equal(model.encode_texts(WORDS, MASK).tokens, model.get_text_features(WORDS, MASK).last_hidden_state)


def test_a_model_without_a_projection_says_that_it_has_no_embeddings():
    model = build(VioletModel, projection_dim=None)
    assert not model.has_embeddings and build(VioletModel).has_embeddings
    for embed in (lambda: model.embed_videos(model.encode_videos(pixels())), lambda: model.embed_texts(WORDS)):
        with pytest.raises(ValueError, match="no embeddings before the fusion: .* no projection_dim"):
            embed()


@torch.no_grad()
def test_the_score_of_a_pair_is_that_of_the_whole_table():
    model = build(VioletForRetrieval)
    table = model(pixel_values_videos=pixels(), input_ids=WORDS, attention_mask=MASK).logits
    videos, texts = model.violet.encode_videos(pixels()), model.violet.encode_texts(WORDS, MASK)
    pairs = model.score_pairs(videos, texts.select(torch.tensor([1, 0, 1])), torch.tensor([0, 1, 1])).logits
    assert table.unique().numel() == 4
    torch.testing.assert_close(pairs, table[[1, 0, 1], [0, 1, 1]])


def test_nobody_else_reaches_into_a_models_parts():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = [Path(*name.split(".")[1:]) for name in setup["options"]["packages"].split()]
    files = [file for folder in folders for file in (ROOT / folder).glob("*.py")]
    assert len(files) > 100
    found = {
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for file in files
        for name in [file.relative_to(ROOT).as_posix()]
        if not name.startswith(MAY_REACH)
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in PARTS)
        or (isinstance(node, ast.Constant) and node.value in PARTS)
    }
    assert not found, sorted(found)


def test_the_signature_names_what_is_passed_on():
    """By it transformers' Trainer keeps columns, and `generate` knows arguments."""
    for model_class in (VioletForMaskedLM, VioletForQuestionAnswering, VioletForCaptioning, VioletForMultipleChoice):
        names = set(inspect.signature(model_class.forward).parameters)
        assert PASSED_ON | {"video_index"} <= names, model_class
        assert find_labels(model_class) == ["labels"]
    names = set(inspect.signature(VioletForRetrieval.forward).parameters)
    assert names >= PASSED_ON and "video_index" not in names, "every text meets every video"


def test_transformers_trainer_keeps_the_columns_that_are_passed_on(tmp_path):
    model = build(VioletForMaskedLM)
    rows = {"pixel_values_videos": pixels(), "input_ids": WORDS, "labels": WORDS, "prompt_ids": WORDS, "path": WORDS}
    data = Dataset.from_dict({name: value.tolist() for name, value in rows.items()}).with_format("torch")
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, per_device_eval_batch_size=2)
    assert arguments.remove_unused_columns
    trainer = Trainer(model=model, args=arguments, eval_dataset=data)
    batch = next(iter(trainer.get_eval_dataloader()))
    assert set(batch) == set(rows) - {"path"}
    with torch.no_grad():
        expected = model(**{name: value for name, value in rows.items() if name != "path"}).loss
        without = model(pixel_values_videos=pixels(), input_ids=WORDS, labels=WORDS).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert abs(expected - without) > 1e-4


def test_generate_takes_what_is_passed_on_and_refuses_what_is_not():
    model = build(VioletForCaptioning)
    written = [
        model.generate(pixel_values_videos=pixels(), prompt_ids=prompt, max_new_tokens=4)
        for prompt in (WORDS[:1], WORDS[1:])
    ]
    assert written[0].shape == (2, 5)
    with pytest.raises(ValueError, match="not used by the model.*promptids"):
        model.generate(pixel_values_videos=pixels(), promptids=WORDS[:1], max_new_tokens=4)


def test_transformers_own_arguments_and_return_dict_still_work():
    model = build(VioletForMaskedLM)
    given = {"pixel_values_videos": pixels(), "input_ids": WORDS, "prompt_ids": WORDS}
    output = model(**given, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + model.config.num_hidden_layers
    as_tuple = model(**given, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], output.logits)
