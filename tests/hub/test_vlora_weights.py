"""VLoRA's published checkpoints: every key explained, equal to the bit both ways, and large ones file by file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlora_golden import GENERATOR, LLAMA, SEED, VloraReference, whole_config

from violet.configuration import named_configuration
from violet.hub.conversion import convert, export_original, from_original
from violet.hub.layout_vlora import VLORA, VLORA_JOINT
from violet.hub.planning import ConversionError, plan_conversion
from violet.hub.shards import convert_by_shards, export_by_shards
from violet.hub.weight_files import WeightsError
from violet.modeling_violet import VioletForConditionalGeneration

BEHIND = re.compile(r"vision_model\.(encoder\.layers\.3|post_layernorm)\.")


@pytest.fixture(scope="module")
def reference(shared_folder) -> VloraReference:
    return VloraReference(shared_folder)


def settings() -> dict:
    """What a config.json beside the small instance would tell."""
    return {
        **{"model_type": "llava_llama", "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5},
        **{"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        **{"vlora_rank": 8, "vlora_alpha": 16, "vlora_type": "qkvom", "weights_sep": True, "skip_layers": 4},
    }


def write_shards(folder: Path, weights: dict[str, torch.Tensor], parts: int = 3) -> Path:
    folder.mkdir()
    names, places = sorted(weights), {}
    for number in range(parts):
        own = names[number::parts]
        file = f"model-{number + 1:05}-of-{parts:05}.safetensors"
        save_file({name: weights[name].contiguous() for name in own}, folder / file)
        places |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(settings()))
    return folder


def test_every_key_of_the_published_model_is_explained(reference):
    shapes = {name: tuple(shape) for name, shape in reference.read_keys("vlora_base_keys.json").items()}
    plan = plan_conversion(shapes)
    assert plan.kind.name == VLORA.name and plan.model_class is VioletForConditionalGeneration
    assert not plan.layout.new
    told = plan.config.to_dict()
    wanted = named_configuration("vlora-vicuna-7b").to_dict()
    assert {name for name in wanted if told[name] != wanted[name]} == set()
    behind = {name for name in shapes if re.search(r"vision_model\.(encoder\.layers\.23|post_layernorm)\.", name)}
    assert set(plan.skipped) == behind | {name for name in shapes if name.endswith("inv_freq")}
    with torch.device("meta"):
        model = VioletForConditionalGeneration(plan.config)
    ours = {
        plan.kind.their_name(name.removeprefix("violet.")): tuple(value.shape)
        for name, value in model.state_dict().items()
    }
    assert ours == {name: shape for name, shape in shapes.items() if name not in plan.skipped}
    generator = sum(value.numel() for value in model.violet.fusion.generator.parameters())
    assert generator == 2_027_531_264


def test_the_small_instance_goes_there_and_back_to_the_bit(reference):
    weights = {name: reference.weights[name].clone() for name in reference.weights}
    model, report = from_original(dict(weights), config=whole_config())
    assert not report.new and set(report.skipped) == {name for name in weights if BEHIND.search(name)}
    assert report.kept == {name: name for name in report.skipped}
    wanted = reference.whole().state_dict()
    assert model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    back = export_original(model)
    assert set(back) == set(weights) - set(report.kept)
    assert all(torch.equal(value, weights[name]) for name, value in back.items())


@pytest.mark.parametrize("separate", [True, False])
def test_one_generator_for_all_kinds_goes_there_and_back(reference, separate):
    fields = {**whole_config().fusion_model_config.to_dict(), "separate": separate}
    start = VioletForConditionalGeneration(whole_config(fusion_model_config=fields)).eval()
    kind = VLORA if separate else VLORA_JOINT
    weights = export_original(start, kind.name)
    assert ("model.mm_projector.gen.queries" in weights) is not separate
    missing = {name: value for name, value in reference.weights.items() if BEHIND.search(name)}
    again, report = from_original(
        {**{name: value.clone() for name, value in weights.items()}, **missing}, config=start.config
    )
    assert report.kind == kind.name
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in start.state_dict().items())


def test_a_folder_of_several_files_becomes_the_model_of_the_goldens(reference, tmp_path):
    source = write_shards(tmp_path / "published", reference.weights)
    report = convert_by_shards(source, tmp_path / "ours", whole_config(), with_tokenizer=False)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) == 3
    assert set(report.used) | set(report.kept) == set(reference.weights)
    model = VioletForConditionalGeneration.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    ids, mask = reference.archive["ids"], reference.archive["mask"]
    pictures = reference.pictures(SEED, 3).unsqueeze(1)[:2]
    with torch.no_grad():
        logits = model(pictures, input_ids=ids, attention_mask=mask.long()).logits
    assert (logits[mask][:, :64] - reference.archive["logits_first64"][mask]).abs().max() < 2e-5
    export_by_shards(tmp_path / "ours", tmp_path / "back")
    back = {k: v for file in (tmp_path / "back").glob("*.safetensors") for k, v in load_file(file).items()}
    assert back.keys() == reference.weights.keys()
    assert all(torch.equal(value, reference.weights[name]) for name, value in back.items())


def test_a_config_beside_the_weights_tells_what_shapes_do_not(reference):
    shapes = {name: tuple(value.shape) for name, value in reference.weights.items()}
    config = plan_conversion(shapes, settings=settings()).config
    assert {name: getattr(config.fusion_model_config, name) for name in GENERATOR} == GENERATOR
    assert {name: getattr(config.text_config, name) for name in LLAMA} == LLAMA
    assert plan_conversion(shapes).config.fusion_model_config.alpha == 8


def test_the_command_for_conversion_takes_such_a_folder(reference, tmp_path):
    half = {name: value.bfloat16() for name, value in reference.weights.items()}
    source = write_shards(tmp_path / "published", half)
    report = convert(source, tmp_path / "ours", with_tokenizer=False)
    assert report.kind == VLORA.name
    written = [load_file(file) for file in (tmp_path / "ours").glob("model-*.safetensors")]
    assert {value.dtype for tensors in written for value in tensors.values()} == {torch.bfloat16}
    assert VioletForConditionalGeneration.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


MEASURE = """
import re, sys
from pathlib import Path
from violet.hub.shards import convert_by_shards
from violet.configuration import VioletConfig

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

config = VioletConfig.from_pretrained(sys.argv[3])
convert_by_shards(sys.argv[1], sys.argv[2] + "-first", config=config, with_tokenizer=False)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
convert_by_shards(sys.argv[1], sys.argv[2], config=config, with_tokenizer=False)
print(peak() - before)
"""


@pytest.mark.proof
def test_the_peak_of_a_conversion_is_under_two_files(tmp_path):
    """Eight files of 60 MB each; measured by the process's peak, against what it holds after a first conversion."""
    text = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "vocab_size": 500}
    text |= {"num_hidden_layers": 8, "num_attention_heads": 4}
    fusion = {**whole_config().fusion_model_config.to_dict(), "generator_size": 512, "generator_blocks": 5}
    config = whole_config(text_config={**whole_config().text_config.to_dict(), **text}, fusion_model_config=fusion)
    torch.manual_seed(0)
    model = VioletForConditionalGeneration(config).eval()
    weights = export_original(model)
    source = write_shards(tmp_path / "published", weights, parts=8)
    largest = max(file.stat().st_size for file in source.glob("*.safetensors"))
    assert largest > 30e6
    config.save_pretrained(tmp_path / "config")
    del model, weights
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path / "ours", tmp_path / "config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 2 * largest, (int(found.stdout), largest)


def test_what_does_not_fit_is_named(reference):
    weights = {name: value.clone() for name, value in reference.weights.items()}
    fields = {**whole_config().fusion_model_config.to_dict(), "num_positions": 25}
    with pytest.raises(ConversionError, match=r"pos_embed.*\(1, 16, 128\).*\(1, 25, 128\)"):
        from_original(dict(weights), config=whole_config(fusion_model_config=fields))
    with pytest.raises(ConversionError, match=r"missing: 'model.mm_projector.gen.4.norm.weight'"):
        from_original({k: v for k, v in weights.items() if not k.endswith("gen.4.norm.weight")}, config=whole_config())
    with pytest.raises((ConversionError, WeightsError), match="model.embed_tokens.weight"):
        from_original({name: value for name, value in weights.items() if "mm_projector" in name})
