"""Folders as the Hub has them, of small random models under their real classes: eight vision models and a BERT."""

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from encoder_configs import ENCODER_CONFIGS, SIDE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
)

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
OUR_ENCODERS = tuple(name for name in ENCODER_CONFIGS if name not in PROCESSORS)


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


def clip_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of the texts' words; the end of a text is its last token."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator([text.lower() for text in texts], trainer)
    model = json.loads(trained.to_str())["model"]
    words: dict[str, int] = dict(model["vocab"])
    for character in string.ascii_lowercase + string.digits + string.punctuation:
        for piece in (character, character + "</w>"):
            words.setdefault(piece, len(words))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        words[token] = len(words)
    return CLIPTokenizer(vocab=words, merges=[tuple(pair) for pair in model["merges"]])


def save_clip(texts: Iterable[str], folder: Path, seed: int = 0, **vision: Any) -> Path:
    """Saves a CLIP with its pictures' processor and a tokenizer of the texts' words."""
    tokenizer = clip_tokenizer(texts)
    end = tokenizer.eos_token_id
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {**sizes, "num_attention_heads": 2, "vocab_size": end + 1, "max_position_embeddings": 48}
    text |= {"projection_dim": 16, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(seed)
    pictures = {**sizes, "image_size": SIDE, "patch_size": 16, "projection_dim": 16, **vision}
    CLIPModel(CLIPConfig(vision_config=pictures, text_config=text, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(**CROPPED).save_pretrained(folder)
    return folder
