"""LF-VILA's checkpoints there and back: every key explained, every bit the same, and their licence with them."""

import json
import re
import shutil

import pytest
import torch
from full_size import comes_back, numbered
from lf_vila import LfVila
from lf_vila_models import INSTANCES, model_config

from violet.configuration import named_configuration
from violet.hub import HubError, WeightsError, from_original, push, write_model_card
from violet.hub.conversion import KEPT_FILE, convert, export_original
from violet.hub.planning import ConversionError, plan_conversion
from violet.hub.starting_points import with_places
from violet.modeling_violet.encoders.temporal_windows import WINDOWS
from violet.modeling_violet.encoders.video_swin import relative_position_index

pytestmark = [pytest.mark.shared]
LISTS = ("odd", *(pytest.param(one, marks=pytest.mark.proof) for one in ("long", "qa_classification")))
LISTS += ("qa_multichoice", pytest.param("video_classification", marks=pytest.mark.proof))
CLASSES = {
    "pretrain_stage1": "VioletForRetrieval",
    "pretrain_stage2": "VioletForPreTraining",
    "retrieval": "VioletForRetrieval",
}


@pytest.fixture(scope="module")
def goldens(shared_folder) -> LfVila:
    return LfVila(shared_folder)


def weights(goldens: LfVila, keys: str) -> dict[str, torch.Tensor]:
    windows = goldens.configs[INSTANCES.get(keys, "tasks")]["windows"]
    return goldens.weights(goldens.keys["keys"][keys], windows)


@pytest.mark.parametrize("keys", LISTS)
def test_a_checkpoint_comes_back_to_the_bit(goldens, keys, tmp_path):
    source, folder, settings = tmp_path / "theirs.pt", tmp_path / "ours", tmp_path / "settings"
    original = weights(goldens, keys)
    torch.save(original, source)
    model_config(goldens, keys).save_pretrained(settings)
    report = convert(source, folder, config=str(settings), with_tokenizer=False)
    assert set(report.used) | set(report.skipped) == set(original) and not report.new
    assert (folder / KEPT_FILE).is_file()
    exported = export_original(folder)
    assert set(exported) == set(original)
    for name, value in original.items():
        assert exported[name].dtype == value.dtype and torch.equal(exported[name], value), name


@pytest.mark.parametrize("name", CLASSES)
def test_published_key_lists_are_explained_and_their_sizes_told(goldens, name):
    shapes = json.loads((goldens.folder / "lf_vila_base_keys.json").read_text())[name]
    plan = plan_conversion({key: tuple(shape) for key, shape in shapes.items()})
    assert plan.model_class.__name__ == CLASSES[name] and not plan.layout.new
    assert set(plan.names) == set(shapes)
    config = plan.config
    assert config.vision_config.window_sizes[5] == [32, 3, 5] and config.text_config.sentence_length == 50
    assert config.has_fusion == (name == "pretrain_stage2")


@pytest.mark.proof
@pytest.mark.parametrize("name", CLASSES)
def test_the_published_sizes_come_back_to_the_bit(goldens, name, tmp_path, free_memory):
    shapes = json.loads((goldens.folder / "lf_vila_base_keys.json").read_text())[name]

    def counted(key):
        if key.endswith("relative_position_index"):
            return relative_position_index(WINDOWS[int(key.split(".")[-5])])
        if key.endswith("position_ids"):
            return torch.arange(shapes[key][1])[None]
        if key.endswith("cls.predictions.bias"):  # one tensor with two names
            return numbered(key.replace("predictions.bias", "predictions.decoder.bias"), shapes[key])
        return None

    comes_back(shapes, tmp_path, free_memory, counted)
    shutil.rmtree(tmp_path)  # some GB, which pytest would keep


def test_a_missing_layer_and_another_size_are_told_by_their_key(goldens):
    keys = goldens.keys["keys"]["odd"]
    shapes = {name: tuple(shape) for name, shape in keys.items()}
    config = model_config(goldens, "odd")
    lost = "video_encoder.layers.2.blocks.1.attn.qkv.weight"
    with pytest.raises(ConversionError, match=f"missing: '{lost}'"):
        plan_conversion({name: shape for name, shape in shapes.items() if name != lost}, config=config)
    with pytest.raises(ConversionError, match="video_token_pos.t_pos_embed.*has shape.*needs"):
        plan_conversion(shapes | {"video_token_pos.t_pos_embed": (1, 9, 1, 128)}, config=config)
    with pytest.raises(ConversionError, match="how many read sentences and paragraphs.*--config"):
        plan_conversion(shapes)


def test_its_licence_stays_with_it_and_a_push_is_refused(goldens, tmp_path):
    model, _ = from_original(weights(goldens, "long"), config=model_config(goldens, "long"))
    model.save_pretrained(tmp_path)
    assert "non-commercial" in model.config.weights_license
    card = write_model_card(tmp_path).read_text()
    assert "may not be passed on" in card and "license: other" in card
    with pytest.raises(HubError, match="may not be passed on.*--despite-license"):
        push(tmp_path, "org/name", dry_run=True)


@pytest.mark.parametrize(
    ("frames", "size", "grid", "steps"),
    [
        (64, None, (2, 3), 64),
        (None, (192, 384), (2, 4), 32),
        (None, (256, 320), (3, 3), 32),
        (8, (128, 192), (1, 1), 8),
    ],
)
def test_clips_of_another_size_have_places_in_a_grid_that_is_not_square(frames, size, grid, steps):
    config = with_places(named_configuration("lf-vila-base"), None, None, frames, size)
    places = config.video_grid_size
    assert ((places, places) if isinstance(places, int) else tuple(places)) == grid
    assert config.num_video_frames == steps
    with pytest.raises(WeightsError, match="'lf_vila' does not take such clips: .*multiple of `num_clips` 4, got 6"):
        with_places(config, None, None, 6, size)


def test_a_bert_fills_the_layers_of_sentences_paragraphs_and_fusion(goldens):
    """In their order, with its pooler and its words' places for the places in a paragraph."""
    start = "text_encoder."
    names = {name: name.removeprefix(start) for name in goldens.keys["keys"]["odd"] if name.startswith(start)}
    names = {
        name: re.sub("^seq_", "cls.seq_", theirs) for name, theirs in names.items()
    }  # as BERT's own files have it
    bert = {names[name]: value for name, value in weights(goldens, "odd").items() if name in names}
    config = model_config(goldens, "odd")
    theirs, _ = from_original(weights(goldens, "odd"), config=config)
    ours, report = from_original(bert, type(theirs), config)
    mine, full = ours.violet.text_embeddings, theirs.violet.text_embeddings
    for part in ("embeddings", "sentence_layers", "paragraph_layers"):
        for one, other in zip(getattr(mine, part).parameters(), getattr(full, part).parameters(), strict=True):
            assert torch.equal(one, other)
    words = mine.embeddings.position_embeddings.weight
    assert torch.equal(mine.places.position_embeddings.weight, words)
    assert torch.equal(ours.match_head[0].weight, theirs.match_head[0].weight)
    assert report.new["violet.text_embeddings.places.norm.weight"]
