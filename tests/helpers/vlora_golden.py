"""The instance of VLoRA that the reference was run with, and what it gave (../shared/goldens/vlora.md)."""

import importlib.util
import json
import re
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from violet.configuration import VioletConfig
from violet.modeling_violet import VioletForConditionalGeneration
from violet.modeling_violet.low_rank import DECODER_PLACES, LowRankLayers, LowRankWeights
from violet.modeling_violet.weight_generator import VloraConfig, VloraGenerator

SEED, ROWS, WIDTH, RANK, LAYERS, PICTURE = 4100, 3, 128, 8, 8, -200
LLAMA = {
    **{"hidden_size": WIDTH, "intermediate_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
    **{"vocab_size": 500, "max_position_embeddings": 64, "rms_norm_eps": 1e-5},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
VISION = {
    **{"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"image_size": 56, "patch_size": 14},
}
GENERATOR = {
    **{"generator_size": 128, "generator_blocks": 2, "rank": RANK, "alpha": 16, "types": "qkvom"},
    **{"skip_layers": 4, "separate": True, "num_positions": 16},
}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
PREFIX = "model.mm_projector."


def drawn(name: str, shape) -> torch.Tensor:
    """A weight by its original name, see ../shared/goldens/README.md."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * x if name.endswith("weight") else 0.02 * x)
    return torch.from_numpy(0.03 * x)


RENAMED = (
    (r"^projection\.", "visual_proj."),
    (r"^positions$", "pos_embed"),
    (r"^b$", "Bs"),
    (r"^generators\.(\d+)\.blocks\.(\d+)\.", r"gen.\1.decoders.\2."),
    (r"^generators\.(\d+)\.head\.", r"gen.\1.weights_head."),
    (r"^generators\.", "gen."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.intermediate\.", ".linear1."),
    (r"\.output\.", ".linear2."),
    (r"\.self_norm\.", ".norm1."),
    (r"\.cross_norm\.", ".norm2."),
    (r"(decoders\.\d+)\.norm\.", r"\1.norm3."),
)


def original_name(name: str, separate: bool = True) -> str:
    """Our name within the generator -> the original's; written apart from the package's own table."""
    for pattern, theirs in RENAMED:
        name = re.sub(pattern, theirs, name)
    return PREFIX + (name if separate else name.replace("gen.0.", "gen."))


class VloraReference:
    """What the original gave, and the instance of transformers' CLIP and Llama with our generator."""

    def __init__(self, shared: Path):
        self.goldens = shared / "goldens"
        spec = importlib.util.spec_from_file_location("golden_inputs", self.goldens / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.archive = {
            name: torch.from_numpy(value) for name, value in np.load(self.goldens / "vlora_public.npz").items()
        }
        self.shapes = self.read_keys("vlora_keys.json")

    def read_keys(self, file: str) -> dict[str, list[int]]:
        return json.loads((self.goldens / file).read_text())

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """By the original's names; what it computes is not among them."""
        return {name: drawn(name, shape) for name, shape in self.shapes.items() if not name.endswith("inv_freq")}

    def generator(self, **changes) -> VloraGenerator:
        """Filled by its names and its own shapes."""
        config = VloraConfig(**{**GENERATOR, **changes})
        generator = VloraGenerator(config, VISION["hidden_size"], WIDTH, LAYERS)
        generator.load_state_dict(
            {
                name: drawn(original_name(name, config.separate), value.shape)
                for name, value in generator.state_dict().items()
            }
        )
        return generator.eval()

    @cached_property
    def vision(self) -> CLIPVisionModel:
        model = CLIPVisionModel(CLIPVisionConfig(**VISION))
        start = "model.vision_tower.vision_tower."
        own = {name.removeprefix(start): value for name, value in self.weights.items() if name.startswith(start)}
        own = (
            own
            if "vision_model.post_layernorm.bias" in model.state_dict()
            else {k.removeprefix("vision_model."): v for k, v in own.items()}
        )
        model.load_state_dict(own)
        return model.eval()

    def whole(self, **changes) -> VioletForConditionalGeneration:
        """Our model class, filled."""
        model = VioletForConditionalGeneration(whole_config(attn_implementation="eager", **changes))
        model.load_state_dict({name: self.weights[whole_name(name)] for name in model.state_dict()})
        return model.eval()

    def llama(self) -> LlamaForCausalLM:
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="eager"))
        model.load_state_dict({name: self.weights[name] for name in model.state_dict()})
        return model.eval()

    def pictures(self, seed: int, rows: int) -> torch.Tensor:
        return (self.inputs.clip(seed, rows, 1, 56, 56)[:, 0] - MEAN) / STD

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(rows, P, 96), patches of the last hidden state but one."""
        return self.vision(pictures, output_hidden_states=True).hidden_states[-2][:, 1:]

    def given_features(self) -> torch.Tensor:
        """(3, 16, 96), drawn behind what `applied` draws."""
        g = self.drawer()
        for shape in ((2, 5, 12), (2, 12, 3), (1, 12, 3)):
            g.standard_normal(shape)
        return torch.from_numpy(g.standard_normal((ROWS, 16, 96)).astype(np.float32))

    @staticmethod
    def drawer() -> np.random.Generator:
        return np.random.default_rng(SEED + 20)


def whole_config(**changes) -> VioletConfig:
    """The instance as a whole model of ours: CLIP's last block is not there, since nothing reads it."""
    fields = {
        "vision_config": {"model_type": "clip_vision_model", **VISION, "num_hidden_layers": 3},
        "text_config": {"model_type": "llama", **LLAMA},
        "fusion_model_config": {"model_type": "low_rank_language_model", **GENERATOR, "video_token_id": PICTURE},
        **{"vision_positions": "none", "hidden_size": 96, "num_attention_heads": 4, "hidden_frame_order": False},
    }
    return VioletConfig(**{**fields, **changes})


def whole_name(name: str) -> str | None:
    """Our name in `VioletForConditionalGeneration` -> the original's."""
    language = name.removeprefix("violet.text_embeddings.language_model.")
    if language != name:
        return language
    own = name.removeprefix("violet.fusion.generator.")
    if own != name:
        return original_name(own)
    vision = name.removeprefix("violet.video_encoder.backbone.").removeprefix("vision_model.")
    return "model.vision_tower.vision_tower.vision_model." + vision


class VloraLlama:
    """Llama with low-rank weights of pictures; a picture's place is a key that nobody sees."""

    def __init__(self, reference: VloraReference, types: str = "qkvom"):
        self.llama = reference.llama()
        self.layers = LowRankLayers(list(self.llama.model.layers), 4, types, WIDTH, DECODER_PLACES)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, weights: LowRankWeights | None, **kwargs):
        places = ids == PICTURE
        if weights is not None:
            kwargs["low_rank"] = replace_absent(weights, places.any(1))
        positions = kwargs.pop("position_ids", torch.arange(ids.shape[1])[None].expand(len(ids), -1))
        return self.llama(
            input_ids=ids.masked_fill(places, 0),
            attention_mask=(mask.bool() & ~places).long(),
            position_ids=positions,
            **kwargs,
        )


def replace_absent(weights: LowRankWeights, present: torch.Tensor) -> LowRankWeights:
    return LowRankWeights(weights.types, weights.a * present.view(-1, 1, 1, 1, 1), weights.b)
