"""Low-rank adapters (PEFT's LoRA) on the fusion and on the video encoder: attached, trained, saved, loaded."""

import copy

import pytest
import torch

from violet.configuration import named_configuration
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)

peft = pytest.importorskip("peft")

FUSION, BACKBONE = ["query", "value"], ["qkv"]
"""The attention's projections: of the fusion's layers, and of the video encoder's blocks."""
SMALL = {
    "vision_config": {
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": (2, 2, 2),
        "drop_path_rate": 0.0,
        "initializer_range": 0.2,
    },
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "projection_dim": None,
    "num_labels": 3,
    "match_temperature": 1.0,
}
LABELS = {
    VioletForMaskedLM: torch.tensor([[-100, 7, -100, 9], [8, -100, 3, -100]]),
    VioletForCaptioning: torch.tensor([[-100, 7, -100, 9], [-100, 8, 3, -100]]),
    VioletForQuestionAnswering: torch.tensor([2, 0]),
    VioletForRetrieval: torch.tensor([1, 0]),
}


def build(model_class):
    torch.manual_seed(0)
    return model_class(named_configuration("violet-tiny", **SMALL)).eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 2, 3, 16, 16, generator=generator)
    return {"pixel_values_videos": pixels, "input_ids": torch.randint(5, 40, (2, 4), generator=generator)}


def adapt(model, **settings):
    torch.manual_seed(1)
    return peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=16, target_modules=FUSION + BACKBONE, **settings)
    )


def train(model, labels, steps=12):
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("model_class", LABELS)
def test_adapters_alone_learn_and_are_the_same_when_loaded(tmp_path, model_class):
    bare = build(model_class)
    model = adapt(copy.deepcopy(bare))
    attached = {name.rsplit(".", 1)[0] for name, module in model.named_modules() if name.endswith(".lora_A")}
    assert sum("video_encoder" in name for name in attached) == 2  # blocks
    assert sum("fusion" in name for name in attached) == 4  # query and value of two layers
    assert len(attached) == 6
    with torch.no_grad():
        untrained = model(**inputs()).logits
        assert untrained.std() > 1e-2
        torch.testing.assert_close(untrained, bare(**inputs()).logits)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train(model, LABELS[model_class])
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".lora_" in name}

    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "adapter_model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path)
    with torch.no_grad():
        expected = model(**inputs()).logits
        assert (expected - untrained).abs().max() > 1e-2
        assert torch.equal(loaded(**inputs()).logits, expected)
        merged = loaded.merge_and_unload()
        assert type(merged) is model_class
        torch.testing.assert_close(merged(**inputs()).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_captioner_writes_through_its_adapters(tmp_path, task_type):
    bare = build(VioletForCaptioning)
    model = adapt(copy.deepcopy(bare), task_type=task_type)
    settings = {"pixel_values_videos": inputs()["pixel_values_videos"], "max_new_tokens": 6, "min_new_tokens": 6}
    plain = bare.generate(**settings)
    assert torch.equal(model.generate(**settings), plain)
    train(model, LABELS[VioletForCaptioning])
    model.eval()
    written = model.generate(**settings)
    assert not torch.equal(written, plain)
    assert torch.equal(model.generate(**settings, use_cache=False), written)
    with model.disable_adapter():
        assert torch.equal(model.generate(**settings), plain)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path)
    assert torch.equal(loaded.generate(**settings), written)
