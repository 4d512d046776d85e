"""IMP's names: every key of its code explained, by name and shape, and back."""

import pytest
import torch
from imp_golden import EXPERTS, ImpGoldens, imp_config

from violet.configuration import named_configuration
from violet.hub.conversion import export_original, from_original
from violet.hub.layout_imp import IMP
from violet.hub.planning import plan_conversion
from violet.hub.weight_files import WeightsError
from violet.modeling_violet import VioletForRetrieval


@pytest.fixture(scope="module")
def goldens(shared_folder) -> ImpGoldens:
    return ImpGoldens()


def test_every_key_of_the_instance_is_explained(goldens):
    plan = plan_conversion(goldens.shapes)
    assert plan.kind is IMP and plan.model_class is VioletForRetrieval and not plan.layout.new and not plan.skipped
    config = plan.config
    wanted = imp_config({"number": 4, "layers": 2, "groups": "batch"})
    for part, names in {
        "vision_config": ("backbone_size", "num_attention_heads", "qk_norm", "experts", "patch_size", "position_grid"),
        "audio_config": ("hidden_size", "patch_size", "position_grid", "intermediate_size"),
        "text_config": ("max_words", "num_hidden_layers"),
    }.items():
        for name in names:
            assert getattr(getattr(config, part), name) == getattr(getattr(wanted, part), name), (part, name)
    assert (config.vocab_size, config.projection_dim) == (50, 24)


def test_the_instance_becomes_the_model_of_the_goldens(goldens):
    weights = {f"params/{name}": value for name, value in goldens.weights.items()}
    model, report = from_original(weights, config=imp_config(EXPERTS))
    assert len(report.used) == len(weights) and not report.new
    with torch.no_grad():
        pooled = model.eval().violet.encode_videos(goldens.inputs["pixels"]).pooled
    assert (pooled - goldens.get("vision/pooled")).abs().max() < 1e-5


def test_heads_of_the_papers_width_go_there_and_back_to_the_bit():
    sizes = {"backbone_size": 128, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"hidden_size": 24, "qk_norm": True, "experts": {"number": 2, "layers": 1, "groups": "batch"}}
    start = named_configuration("imp-tiny")
    parts = {
        name: {**getattr(start, name).to_dict(), **sizes} for name in ("vision_config", "audio_config", "text_config")
    }
    model = VioletForRetrieval(named_configuration("imp-tiny", **parts)).eval()
    theirs = export_original(model)
    assert theirs["moe_transformer_encoder/layer_1/self_attention/q/kernel"].shape == (128, 2, 64)
    assert theirs["temperature/temperature_text_vision"].shape == ()
    again, report = from_original({name: value.clone() for name, value in theirs.items()}, config=model.config)
    assert not report.new
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    back = export_original(again)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in back)


def test_what_sizes_are_read_from_must_be_there(goldens):
    shapes = dict(goldens.shapes)
    del shapes["text_token_id_to_embed/txt_pos_encoding/temporal_postition_embeddings/embedding"]
    with pytest.raises(WeightsError, match="An IMP checkpoint has 'text_token_id_to_embed/txt_pos_encoding"):
        plan_conversion(shapes)
