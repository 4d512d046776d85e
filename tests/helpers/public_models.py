"""Folders as the Hub has them, of small random models under their real classes: eight vision models and a BERT."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from encoder_configs import ENCODER_CONFIGS, SIDE
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, CLIPConfig, CLIPModel

from violet.processing import train_wordpiece_tokenizer

SQUARE = {"height": SIDE, "width": SIDE}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_vision_model": ("CLIPImageProcessor", CROPPED),
    "siglip_vision_model": ("SiglipImageProcessor", {"size": SQUARE}),
    "dinov2": ("BitImageProcessor", CROPPED),
    "vit": ("ViTImageProcessor", {"size": SQUARE}),
    "videomae": ("VideoMAEImageProcessor", CROPPED),
    "vjepa2": ("VJEPA2VideoProcessor", {"size": SIDE, "crop_size": SIDE}),
    "timesformer": ("VideoMAEImageProcessor", CROPPED),
}
"""The class and the settings of each model's own processor."""
PUBLIC_ENCODERS = tuple(PROCESSORS)


def save_vision_model(encoder: str, folder: Path, seed: int = 0) -> Path:
    """Saves a model and its processor; of CLIP the whole of it, with its texts."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(encoder, **ENCODER_CONFIGS[encoder])
    model: Any
    if encoder == "clip_vision_model":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
        model = CLIPModel(CLIPConfig(vision_config=config.to_dict(), text_config=sizes, projection_dim=16))
    else:
        model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    name, settings = PROCESSORS[encoder]
    getattr(transformers, name)(**settings).save_pretrained(folder)
    return folder


def save_bert(texts: Iterable[str], folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Saves a BERT with a vocabulary of the texts' words."""
    tokenizer = train_wordpiece_tokenizer(texts, 300)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(**{"vocab_size": len(tokenizer), "max_position_embeddings": 64, **sizes, **changes})
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
