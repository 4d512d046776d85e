import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from violet import NAMED_CONFIGURATIONS, VioletConfig, VioletVisionConfig, named_configuration

CONTRADICTIONS = [
    ({"num_attention_heads": 5}, "num_attention_heads"),
    ({"hidden_size": "wide"}, "hidden_size"),
    ({"hidden_act": "no-such-function"}, "hidden_act"),
    ({"fusion_norm": "sideways"}, "fusion_norm"),
    ({"num_video_frames": 0}, "num_video_frames"),
    ({"projection_dim": 0}, "projection_dim"),
    ({"retrieval_directions": 3}, "retrieval_directions"),
    ({"label_smoothing": 1.0}, "label_smoothing"),
    ({"num_task_tokens": -1}, "num_task_tokens"),
    ({"masked_patch_value": [0.0]}, "masked_patch_value"),
    ({"vision_config": {"num_heads": [3, 3, 3, 3]}}, "num_heads"),
    ({"vision_config": {"num_heads": [1, 2]}}, "num_heads"),
    ({"vision_config": {"depths": [2, 0, 1, 1]}}, "depths"),
    ({"vision_config": {"window_size": [7, 7]}}, "window_size"),
    ({"vision_config": {"temporal_stride": 3}}, "temporal_stride"),
    ({"vision_config": {"drop_path_rate": 1.0}}, "drop_path_rate"),
]


@pytest.mark.parametrize("settings, field", CONTRADICTIONS)
def test_a_contradiction_is_refused_by_the_name_of_its_field(settings, field):
    with pytest.raises(StrictDataclassError, match=f"['`]{field}['`]"):
        named_configuration("violet-tiny", **settings)


@pytest.mark.parametrize("name", NAMED_CONFIGURATIONS)
def test_a_named_configuration_survives_saving(name, tmp_path):
    config = named_configuration(name, id2label={0: "no", 1: "yes", 2: "perhaps"})
    config.save_pretrained(tmp_path)
    loaded = VioletConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    own = type(config.vision_config)
    assert type(loaded.vision_config) is own
    assert own.from_pretrained(tmp_path).to_dict() == config.vision_config.to_dict()
    assert loaded.num_labels == 3


def test_named_configurations_have_the_published_shapes():
    first, second = named_configuration("violet-v1-base"), named_configuration("violet-v2-base")
    assert (first.vision_config.hidden_size, second.vision_config.hidden_size) == (768, 1024)
    assert (first.hidden_frame_order, second.hidden_frame_order) == (False, True)
    assert first.masked_patch_value == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)
    assert second.masked_patch_value == (0, 0, 0)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="violet-huge.*violet-tiny"):
        named_configuration("violet-huge")
    with pytest.raises(ValueError, match="no field hiden_size"):
        named_configuration("violet-tiny", hiden_size=64)


def test_code_named_by_a_checkpoint_is_not_named_again():
    """The installed package loads a self-contained checkpoint; saved again, its code files would not be beside it."""
    config = VioletConfig(auto_map={"AutoModel": "modeling_violet.VioletModel"}, custom_pipelines={"x": {}})
    assert not {"auto_map", "custom_pipelines"} & set(config.to_dict())


@pytest.mark.parametrize("config_class", [VioletConfig, VioletVisionConfig])
def test_unknown_keys_are_refused_by_name(config_class):
    with pytest.raises(ValueError, match=f"{config_class.__name__} has no field hiden_size, widht"):
        config_class(widht=3, hiden_size=64)


def test_an_unknown_key_of_the_vision_part_is_refused_by_name():
    with pytest.raises(ValueError, match="VioletVisionConfig has no field depth"):
        VioletConfig(vision_config={"depth": [1, 1]})


@pytest.mark.parametrize("where", ["model", "vision_config"])
@pytest.mark.parametrize("read", [VioletConfig.from_pretrained, AutoConfig.from_pretrained])
def test_a_file_with_an_unknown_key_is_refused_by_name(tmp_path, where, read):
    named_configuration("violet-tiny").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    (settings if where == "model" else settings[where])["fusion_nrom"] = "pre"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no field fusion_nrom"):
        read(tmp_path)


def test_what_the_library_itself_writes_into_a_file_is_read(tmp_path):
    """Of a model that was fine-tuned or quantised, or saved by an earlier version with settings for its writing."""
    config = VioletConfig(num_labels=3, attn_implementation="eager", output_attentions=True, dtype="bfloat16")
    config.architectures, config.quantization_config = ["VioletModel"], {"quant_method": "fp8"}
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    assert {"transformers_version", "model_type", "architectures", "dtype", "id2label"} <= set(settings)
    path.write_text(json.dumps(settings | {"torch_dtype": "bfloat16", "max_length": 20, "use_cache": True}))
    loaded = VioletConfig.from_pretrained(tmp_path)
    assert loaded.num_labels == 3 and loaded.architectures == ["VioletModel"]
    assert loaded.quantization_config == {"quant_method": "fp8"}


@pytest.mark.parametrize("config_class", [VioletConfig, VioletVisionConfig])
def test_every_field_survives_the_round_trip(config_class, tmp_path):
    changed = {
        name: value / 2 if isinstance(value, float) else value * 2
        for name, value in config_class().to_dict().items()
        if type(value) in (int, float) and name not in ("retrieval_directions", "temporal_stride")
    }
    assert len(changed) > 8
    config = config_class(**changed)
    config.save_pretrained(tmp_path)
    loaded = config_class.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert {name: getattr(loaded, name) for name in changed} == changed
