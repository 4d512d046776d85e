"""Folders as the Hub has them, of small random language models under their real classes; and a VIOLET of each."""

from pathlib import Path
from typing import Any

import torch
from encoder_configs import ENCODER_CONFIGS, FRAMES, SIDE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from violet import VioletConfig

WORDS, START, END, PADDING = 160, 1, 2, 0
VIDEO = WORDS
"""The id of `<video>`: the first behind the vocabulary."""
_SMALL: dict[str, Any] = {
    **{"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"bos_token_id": START, "eos_token_id": END, "pad_token_id": PADDING, "initializer_range": 0.3},
}
LANGUAGE_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "smollm2": {"model_type": "llama", **_SMALL, "tie_word_embeddings": True},
    "qwen2": {**_SMALL, "tie_word_embeddings": True},
    "qwen3": {**_SMALL, "head_dim": 8},
    "smollm3": {**_SMALL, "no_rope_layers": [1, 0]},
    "gemma2": {**_SMALL, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
}
"""By name: the `model_type` unless the fields say another. SmolLM2 is a Llama whose two tables of words are one."""
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = (
    "User: what moves left? Assistant: the red disc moves left and up, the blue square moves right and down.",
    "describe the video. which colour has the shape? a green cross, a yellow ring, nothing at all.",
)


def language_tokenizer(chat: bool = True, texts: Any = TEXTS) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `WORDS` tokens, as SmolLM's and Qwen's are; it begins a text like Llama's."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"]  # the last is Qwen's class's own
    letters = sorted({letter for text in texts for letter in text.replace(" ", "Ġ")} | {"Ċ"})
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    words.add_tokens([f"<word {number}>" for number in range(words.get_vocab_size(), WORDS)])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        **{"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>"},
        chat_template=CHAT if chat else None,
    )


def language_config(name: str, **changes: Any) -> Any:
    fields = {**LANGUAGE_CONFIGS[name], **changes}
    return AutoConfig.for_model(fields.pop("model_type", name), **fields)


def save_language_model(name: str, folder: Path, seed: int = 0, chat: bool = True, **changes: Any) -> Path:
    """Saves a model, how it writes, and its tokenizer."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(language_config(name, **changes)).save_pretrained(folder)
    GenerationConfig(bos_token_id=START, eos_token_id=[END], pad_token_id=PADDING).save_pretrained(folder)
    language_tokenizer(chat).save_pretrained(folder)
    return folder


def violet_config(name: str, encoder: str = "clip_vision_model", pooled: int | None = None, **changes: Any) -> Any:
    """A small VIOLET of that language model."""
    return VioletConfig(
        vision_config={"model_type": encoder, **ENCODER_CONFIGS[encoder]},
        text_config=language_config(name).to_dict(),
        **{
            "fusion_model_config": {"model_type": "language_model", "pooled_grid": pooled},
            **{"hidden_size": 24, "num_attention_heads": 4, "num_video_frames": FRAMES, "video_grid_size": 2},
            **{"hidden_frame_order": False, "initializer_range": 0.3, **changes},
        },
    )


PLACES = FRAMES * (1 + 4)
"""Tokens of a clip of `FRAMES` frames of `SIDE` pixels: with VIOLET's positions one of each frame, and its cells."""


def clips(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
