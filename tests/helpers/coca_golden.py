"""The instance of CoCa whose outputs are in the goldens, with our names for its weights."""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.initialization import no_init_weights

from violet.configuration import VioletConfig
from violet.hub.layout_coca import COCA
from violet.modeling_violet import VioletForCaptioning

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"
CONTEXT, WORDS = 20, 600
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def coca_config(kind: str = "single", width: int = 384, **changes: Any) -> VioletConfig:
    """The goldens' instance; `changes` of `cls_mask` are of its text side."""
    fields: dict[str, Any] = {
        "vision_config": {
            "model_type": "coca_vit",
            **{"hidden_size": width, "num_hidden_layers": 3, "num_attention_heads": width // 64},
            **{"intermediate_size": 4 * width, "patch_size": 16, "image_size": 64},
        },
        "text_config": {
            "model_type": "coca_text",
            "num_hidden_layers": 3,
            "cls_mask": changes.pop("cls_mask", "corrected"),
        },
        "fusion_model_config": {"model_type": "coca"},
        "vision_positions": "attentional_pooler",
        "pooler": {"kind": kind, "num_queries": 9, "num_heads": 4},
        "projection_type": "coca",
        "projection_dim": 256,
        "word_head_type": "linear",
        "next_word_prediction": True,
        **{"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-5},
        **{"vocab_size": WORDS, "max_position_embeddings": CONTEXT, "num_video_frames": 4},
        **{"bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "pad_token_id": 0, "hidden_frame_order": False},
    }
    return VioletConfig(**{**fields, **changes})


@cache
def coca_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The goldens' weight of that name in the original."""
    if name == "logit_scale":
        return torch.tensor(np.log(1 / 0.07), dtype=torch.float32).reshape(shape)
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * x if name.endswith("weight") else 0.02 * x)
    return torch.from_numpy(0.03 * x)


def original_weights(keys: str = "coca_keys.json") -> dict[str, torch.Tensor]:
    """The state dict of the original."""
    names = json.loads((GOLDENS / keys).read_text())
    return {name: coca_weight(name, tuple(shape)) for name, shape in names.items()}


@cache
def coca_model(
    kind: str = "single", cls_mask: str = "corrected", sharper: float = 1.0, width: int = 384
) -> VioletForCaptioning:
    """The instance with the goldens' weights; `sharper`: what the matrix of words is multiplied by."""
    with no_init_weights():
        model = VioletForCaptioning(coca_config(kind, width, cls_mask=cls_mask))
    state = {}
    for name, value in model.state_dict().items():
        theirs = COCA.their_name(name.removeprefix("violet."))
        if theirs is None:  # rows of frames, which the original has not
            state[name] = torch.zeros_like(value)
            continue
        form = COCA.form(theirs)
        weight = coca_weight(theirs, tuple(form.theirs(tuple(value.shape), ())))
        state[name] = form.ours(weight, tuple(value.shape))
    state["mlm_head.decoder.weight"] = sharper * state["mlm_head.decoder.weight"]
    model.load_state_dict(state)
    return model.eval()


def clip(seed: int, videos: int, frames: int) -> torch.Tensor:
    """(videos, frames, 3, 64, 64), normalised"""
    pixels = np.random.default_rng(seed).random((videos, frames, 3, 64, 64), dtype=np.float32)
    return (torch.from_numpy(pixels) - MEAN) / STD


def caption(seed: int, texts: int, length: int, words: int = WORDS) -> torch.Tensor:
    """(texts, length), padded with 0"""
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, words - 2, (texts, length))
    ids[:, 0] = words - 2
    for row in range(texts):
        n = {0: length, 1: 2}.get(row)
        n = int(draw.integers(4, length)) if n is None else n
        ids[row, n - 1], ids[row, n:] = words - 1, 0
    return torch.from_numpy(ids)


class CocaGoldens:
    """The archive and its inputs."""

    def __init__(self):
        self.arrays = np.load(GOLDENS / "coca_public.npz")
        self.picture = clip(3100, 3, 1)
        self.ids = caption(3101, 3, CONTEXT)
        self.mask = (self.ids != 0).long()
        self.video = clip(3102, 3, 4)

    def get(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))


def thinned(values: torch.Tensor) -> torch.Tensor:
    """As the archive thins them."""
    if values.dim() == 3 and values.shape[1] > 30:
        return values[:, ::7, ::16]
    return values[:, :, ::8] if values.dim() == 3 else values
