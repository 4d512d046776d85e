"""Each objective that compares embeddings: two processes have the loss and the gradients of one, in parts or not."""

from functools import partial

import pytest
import torch
from in_processes import compare_with_one

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForPreTraining
from violet.training.gradient_caching import backward_in_parts, split_batch

pytestmark = pytest.mark.proof

PAIRS = {"vtc": 1.0, "contrast": 0.5, "mil_nce": 1.0, "omnisource": 0.25}
LONG = {"contrast": 1.0, "temporal_contrast": 0.25}
ROWS, OF_FIRST = 8, 5  # the processes have other numbers of rows, and of parts
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0)


def pairs_model(form: str) -> VioletForPreTraining:
    vision = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 2, 2), "patch_size": 4}
    vision["drop_path_rate"] = 0.0
    objectives = {"contrast": {"form": "triplet"}, "mil_nce": {"texts": 3}, "omnisource": {"form": form}}
    return VioletForPreTraining(
        named_configuration(
            "violet-tiny", vision_config=vision, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
            intermediate_size=64, vocab_size=60, initializer_range=0.1, projection_dim=16, objectives=objectives,
            **NO_DROPOUT,
        )
    )  # fmt: skip


def long_model(corrected: bool) -> VioletForPreTraining:
    objectives = {"contrast": {}, "temporal_contrast": {"corrected": corrected}}
    return VioletForPreTraining(
        named_configuration(
            "lf-vila-tiny", projection_type="paragraph_and_clips", objectives=objectives, vocab_size=60, **NO_DROPOUT
        )
    )


def pairs_batch(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    ids, ones = torch.randint(5, 60, (ROWS, 7), generator=g), torch.ones(ROWS, 7, dtype=torch.long)
    return {
        "pixel_values_videos": torch.randn(ROWS, 2, 3, 32, 32, generator=g, dtype=dtype),
        "pixel_values_middle_frames": torch.randn(ROWS, 1, 3, 32, 32, generator=g, dtype=dtype),
        "input_ids": ids,
        "attention_mask": ones,
        "several_ids": torch.randint(5, 60, (ROWS, 3, 7), generator=g),
        "several_attention_mask": ones[:, None].expand(-1, 3, -1),
        "several_mask": torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]] * 2),
        "frame_caption_ids": ids.flip(1),
        "frame_caption_attention_mask": ones,
        "wrong_ids": ids.flip(0),
        "wrong_attention_mask": ones,
    }


def long_batch(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(6)
    mask = torch.ones(ROWS, 4, 32, dtype=torch.long)
    mask[2, 3] = mask[6, 2:] = 0
    return {
        "pixel_values_videos": torch.randn(ROWS, 8, 3, 64, 64, generator=g, dtype=dtype),
        "input_ids": torch.randint(5, 60, (ROWS, 128), generator=g),
        "attention_mask": mask.flatten(1),
        "temporal_noise": torch.rand(ROWS, 3, 8, generator=g),
        "temporal_video_ids": torch.tensor([1, 2, 3, 4, 5, 5, 6, 7]),
    }


CASES = {
    "pairs": (lambda: pairs_model("vsc_fc"), pairs_batch, PAIRS),
    "pooled": (lambda: pairs_model("pooled"), pairs_batch, PAIRS),
    "long": (lambda: long_model(True), long_batch, LONG),
    "long_as_published": (lambda: long_model(False), long_batch, LONG),
}


def build(case: str, dtype: torch.dtype):
    make, batch, weights = CASES[case]
    torch.manual_seed(0)
    return make().to(dtype).train(), batch(dtype), partial(step, weights)


def step(weights, model, plain, batch, size: int | None) -> torch.Tensor:
    """The loss of one process's rows among all; the gradients are added, of all processes alike."""
    if size is None:
        loss = model(**batch, objectives=weights).loss
        loss.backward()
        return loss.detach()

    def compare(sets):
        loss = plain.compare_embeddings(sets, weights, **batch).loss
        return loss, loss.detach()

    def backward(part, given, last):
        if last or model is plain:
            model(**part, objectives=weights, embedding_gradients=given).loss.backward()
        else:
            with model.no_sync():
                plain(**part, objectives=weights, embedding_gradients=given).loss.backward()

    return backward_in_parts(
        split_batch(batch, len(batch["input_ids"]), size),
        lambda part: plain(**part, objectives=weights, only_embeddings=True).embeddings,
        compare,
        backward,
        plain.shared(plain.find_objectives(weights)),
    )


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    compare_with_one(tmp_path, build, CASES, OF_FIRST, sizes=(None, 2))
