"""VATT's published checkpoints: TensorFlow's files read without it, every key explained, and back to the bit."""

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from full_size import comes_back
from vatt_golden import EQUAL, VattGoldens, vatt_config
from write_bundle import write_bundle

from violet.hub.conversion import convert, export_original, from_original
from violet.hub.layout_vatt import VATT
from violet.hub.planning import ConversionError, plan_conversion
from violet.hub.tensor_bundle import BundleError, find_bundle, read_bundle
from violet.hub.weight_files import WeightsError, read_weights
from violet.modeling_violet import VioletForRetrieval

START, END = "model/layer_with_weights-0/", "/.ATTRIBUTES/VARIABLE_VALUE"
BESIDE = {
    "optimizer/learning_rate": np.float32(1e-4).reshape(()),
    "save_counter": np.int64(3).reshape(()),
    "model/layer_with_weights-0/_base_layer/x/kernel/.OPTIMIZER_SLOT/optimizer/m": np.zeros((2, 2), np.float32),
}


@pytest.fixture(scope="module")
def goldens(shared_folder) -> VattGoldens:
    return VattGoldens()


def in_file(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The names of a published file, with what training keeps beside weights."""
    named = {f"{START}{name}{END}": value.numpy() for name, value in weights.items()}
    return named | {f"{name}{END}": value for name, value in BESIDE.items()}


@pytest.fixture(scope="module")
def checkpoint(goldens, tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("vatt") / "ckpt-500000"
    write_bundle(prefix, in_file(goldens.weights), {"_CHECKPOINTABLE_OBJECT_GRAPH": b"a graph"})
    return prefix


def test_a_checkpoint_of_tensorflow_is_read_to_the_bit(goldens, checkpoint):
    for source in (checkpoint, f"{checkpoint}.index", f"{checkpoint}.data-00000-of-00001"):
        weights = read_weights(source)
        assert weights.skipped == {"_CHECKPOINTABLE_OBJECT_GRAPH": "text, and no weights"}
        assert len(weights.tensors) == len(goldens.weights) + len(BESIDE)
        for name, wanted in goldens.weights.items():
            assert torch.equal(weights.tensors[f"{START}{name}{END}"], wanted)


def test_it_becomes_the_model_of_the_goldens_and_goes_back_to_the_bit(goldens, checkpoint):
    model, report = from_original(checkpoint, config=vatt_config())
    assert isinstance(model, VioletForRetrieval) and not report.new
    assert len(report.used) == len(goldens.weights)
    inputs = goldens.inputs(EQUAL)
    with torch.no_grad():
        video = model.violet.encode_videos(inputs["pixel_values_videos"], audio_values=inputs["audio_values"])
    for got, name in ((video.pooled, "video"), (video.audio.pooled, "audio")):
        assert (got - goldens.get(f"equal/{name}/features_pooled")).abs().max() < 2e-5
    back = export_original(model)
    assert back.keys() == goldens.weights.keys()
    assert all(torch.equal(back[name], goldens.weights[name]) for name in back)


def test_a_joint_space_goes_there_and_back(goldens):
    start = VioletForRetrieval(vatt_config(projection_type="joint", projection_dim=32)).eval()
    weights = export_original(start)
    assert "_head_layer/_bridge_heads/0/aud_to_vat/dense/kernel" in weights
    again, _ = from_original(
        {f"{START}{name}{END}": value.clone() for name, value in weights.items()}, config=start.config
    )
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in start.state_dict().items())


def test_every_key_of_the_published_model_is_explained(shared_folder):
    keys = json.loads((shared_folder / "goldens" / "vatt_base_keys.json").read_text())
    shapes = {f"{START}{name}{END}": tuple(shape) for name, shape in keys.items()}
    beside = {f"{name}{END}": value.shape for name, value in BESIDE.items()}
    plan = plan_conversion(shapes | beside)
    assert plan.kind is VATT and plan.model_class is VioletForRetrieval and not plan.layout.new
    assert set(plan.skipped) == set(beside)
    config = plan.config
    assert (config.vision_config.num_attention_heads, config.vision_config.head_dim) == (16, 64)
    assert (config.audio_config.num_samples, config.audio_config.sampling_rate) == (153600, 48000)
    assert (config.text_config.max_words, config.projection_dim, config.audio_config.projection_dim) == (16, 256, 512)
    with torch.device("meta"):
        model = VioletForRetrieval(config)
    names = {
        VATT.their_name(name.removeprefix("violet.")): tuple(value.shape) for name, value in model.state_dict().items()
    }
    theirs = {name: VATT.form(name).theirs(shape, ()) for name, shape in names.items()}
    assert theirs == {name: tuple(shape) for name, shape in keys.items()}
    trained = sum(value.numel() for name, value in model.named_parameters() if "words" not in name)
    assert trained == 162_990_336


@pytest.mark.proof
def test_the_published_size_comes_back_equal_to_the_bit(shared_folder, tmp_path, free_memory):
    keys = json.loads((shared_folder / "goldens" / "vatt_base_keys.json").read_text())

    def write(weights: dict[str, torch.Tensor], folder: Path) -> Path:
        index = write_bundle(folder / "ckpt-500000", in_file(weights))
        weights.clear()
        return index

    comes_back(
        keys, tmp_path, free_memory, write=write, in_file=lambda key: f"{START}{key}{END}",
        beside=[f"{name}{END}" for name in BESIDE],
    )  # fmt: skip
    shutil.rmtree(tmp_path)  # some GB, which pytest would keep


def test_a_converted_folder_hears(goldens, checkpoint, tmp_path):
    folder = tmp_path / "small"
    vatt_config().save_pretrained(tmp_path / "config")
    convert(checkpoint, folder, config=str(tmp_path / "config"))
    model = VioletForRetrieval.from_pretrained(folder)
    assert model.config.audio_config.num_samples == 160
    assert json.loads((folder / "conversion_report.json").read_text())["kind"] == "VATT"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("_base_layer/unified_backbone/unified_transformer/aud_agg_embedding"),
            "aud_agg_embedding",
        ),
        (lambda weights: weights.update({"_head_layer/_bridge_heads/0/new/kernel": torch.zeros(2, 2)}), "new/kernel"),
        (
            lambda weights: weights.update({"_head_layer/_bridge_heads/0/txt_to_vat/bias": torch.zeros(3)}),
            "txt_to_vat/bias",
        ),
    ],
)
def test_a_missing_an_unknown_and_a_misshapen_key_are_named(goldens, change, message):
    weights = dict(goldens.weights)
    change(weights)
    with pytest.raises(ConversionError, match=re.escape(message)):
        from_original(weights, config=vatt_config())


# --- damaged files ---


def small(tmp_path: Path) -> Path:
    values = {f"layer/{i}/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(20)}
    return write_bundle(
        tmp_path / "ckpt", values | {"half": np.ones(4, np.float16), "empty": np.zeros((0, 3), np.float32)}
    )


def test_all_kinds_of_numbers_are_read_from_several_blocks(tmp_path):
    found = read_bundle(small(tmp_path)).tensors
    assert len(found) == 22 and found["half"].dtype == torch.float16 and found["empty"].shape == (0, 3)
    assert found["layer/19/kernel"].tolist() == [[19, 20, 21], [22, 23, 24]]
    assert find_bundle(tmp_path / "other") is None


@pytest.mark.parametrize("cut", [0, 10, 47, 300])
def test_a_cut_index_is_refused(tmp_path, cut):
    index = small(tmp_path)
    index.write_bytes(index.read_bytes()[:cut])
    with pytest.raises(BundleError, match="cut off"):
        read_bundle(index)


def test_any_single_changed_byte_gives_an_error_of_ours_or_tensors(tmp_path):
    index = small(tmp_path)
    content = index.read_bytes()
    for place in range(0, len(content), 3):
        index.write_bytes(content[:place] + bytes([content[place] ^ 0xA5]) + content[place + 1 :])
        try:
            read_bundle(index)
        except BundleError as error:
            assert "ckpt" in str(error)


def test_data_that_is_absent_or_short_is_refused(tmp_path):
    index = small(tmp_path)
    data = tmp_path / "ckpt.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:-8])
    with pytest.raises(BundleError, match="too short"):
        read_bundle(index)
    data.unlink()
    with pytest.raises(WeightsError, match="no such file, and ckpt.index names it"):
        read_weights(tmp_path / "ckpt")


def test_another_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "x.index").write_bytes(struct.pack("<Q", 1) * 10)
    with pytest.raises(WeightsError, match="no index of a checkpoint"):
        read_weights(tmp_path / "x.index")
