"""open_clip's CoCa files: every key explained, to the model of the goldens, and back to the bit."""

import json
import re

import pytest
import torch
from coca_golden import CocaGoldens, coca_config, original_weights
from full_size import comes_back

from violet.configuration import named_configuration
from violet.hub.conversion import convert, export_original, from_original
from violet.hub.layout_coca import COCA
from violet.hub.planning import ConversionError, plan_conversion
from violet.modeling_violet import VioletForCaptioning, VioletForRetrieval
from violet.modeling_violet.encoders.coca_vit import CocaVisionModel

ROWS = "violet.video_encoder.frame_rows.rows"


@pytest.fixture(scope="module")
def goldens(shared_folder) -> CocaGoldens:
    return CocaGoldens()


def published_keys(shared_folder) -> dict[str, list[int]]:
    return json.loads((shared_folder / "goldens" / "coca_base_keys.json").read_text())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_becomes_the_model_of_the_goldens_and_goes_back_to_the_bit(goldens, tmp_path, wrapped):
    weights = original_weights()
    if wrapped:  # as a training of open_clip leaves it
        beside = {"text.attn_mask": torch.zeros(21, 21)}
        named = {f"module.{name}": value for name, value in (weights | beside).items()}
        torch.save({"epoch": 3, "state_dict": named}, tmp_path / "epoch_3.pt")
        source = tmp_path / "epoch_3.pt"
    else:
        source = dict(weights)
    model, report = from_original(source, config=coca_config(cls_mask="legacy"))
    assert isinstance(model, VioletForCaptioning)
    assert set(report.new) == {ROWS} and len(report.used) == len(weights)
    with torch.no_grad():
        pictures = model.violet.embed_videos(model.violet.encode_videos(goldens.picture))
        texts = model.violet.embed_texts(goldens.ids, goldens.mask)
    assert (pictures - goldens.get("image_features")).abs().max() < 2e-5
    assert (texts - goldens.get("text_features_legacy")).abs().max() < 2e-5
    back = export_original(model)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in back)


def test_two_poolers_go_there_and_back(shared_folder):
    weights = original_weights("coca_cascade_keys.json")
    model, _ = from_original(dict(weights), config=coca_config("cascade", 256))
    assert model.config.pooler["kind"] == "cascade"
    back = export_original(model)
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in back)


def test_learned_rows_of_frames_have_no_place_in_the_original(shared_folder):
    model, _ = from_original(original_weights(), config=coca_config())
    with torch.no_grad():
        model.violet.video_encoder.frame_rows.rows[1] = 0.5
    with pytest.raises(ConversionError, match=re.escape(ROWS)):
        export_original(model)


def test_every_key_of_the_published_model_is_explained(shared_folder):
    keys = published_keys(shared_folder)
    plan = plan_conversion({name: tuple(shape) for name, shape in keys.items()})
    assert plan.kind is COCA and plan.model_class is VioletForCaptioning
    assert set(plan.layout.new) == {ROWS} and not plan.skipped
    config, named = plan.config, named_configuration("coca-vit-base-32")
    assert config.text_config.cls_mask == "legacy"
    changed = {name for name, value in config.to_dict().items() if value != named.to_dict().get(name)}
    assert changed == {"text_config", "pooler"} and config.pooler == named.pooler | {"kind": "single"}
    with torch.device("meta"):
        model = VioletForCaptioning(config)
    theirs = {}
    for name, value in model.state_dict().items():
        if name != ROWS:
            their = COCA.their_name(name.removeprefix("violet."))
            theirs[their] = list(COCA.form(their).theirs(tuple(value.shape), ()))
    assert theirs == keys


@pytest.mark.proof
def test_the_published_size_comes_back_equal_to_the_bit(shared_folder, tmp_path, free_memory):
    comes_back(published_keys(shared_folder), tmp_path, free_memory, new=[ROWS])


def test_the_same_file_for_search_and_for_pictures_only(goldens):
    search, report = from_original(original_weights(), VioletForRetrieval, coca_config(cls_mask="legacy"))
    with torch.no_grad():
        texts = search.violet.embed_texts(goldens.ids, goldens.mask)
    assert (texts - goldens.get("text_features_legacy")).abs().max() < 2e-5
    assert report.skipped == {"text_decoder.text_projection": "VioletForRetrieval has no such head"}
    trunk, report = from_original(original_weights(), CocaVisionModel, coca_config().vision_config)
    assert all(name.startswith("visual.") for name in report.used)
    with torch.no_grad():
        states = trunk(goldens.picture).last_hidden_state
    assert states.shape == (3, 1, 4, 4, 384)


def test_a_converted_folder_writes(goldens, tmp_path):
    torch.save(original_weights(), tmp_path / "small.pt")
    coca_config(cls_mask="legacy").save_pretrained(tmp_path / "config")
    convert(tmp_path / "small.pt", tmp_path / "model", config=str(tmp_path / "config"), with_tokenizer=False)
    model = VioletForCaptioning.from_pretrained(tmp_path / "model").eval()
    model.mlm_head.decoder.weight.data *= 20
    found = model.generate(pixel_values_videos=goldens.picture, max_length=14, do_sample=False)
    assert torch.equal(found, goldens.get("generated_greedy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("text.cls_emb"), "text.cls_emb"),
        (lambda weights: weights.update({"text.new": torch.zeros(2)}), "text.new"),
        (lambda weights: weights.update({"visual.proj": torch.zeros(256, 3)}), "visual.proj"),
        (lambda weights: weights.update({"visual.attn_pool.query": torch.zeros(9, 128)}), "128 wide, and 'text.token"),
        (lambda weights: weights.pop("visual.attn_pool.query"), "'visual.attn_pool.query' of 2 axes"),
    ],
)
def test_what_does_not_fit_is_named(shared_folder, change, message):
    weights = original_weights()
    change(weights)
    config = None if "wide" in message or "axes" in message else coca_config()
    with pytest.raises(ConversionError, match=re.escape(message)):
        from_original(weights, config=config)
