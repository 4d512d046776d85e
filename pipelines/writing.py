"""What pipelines share that write texts: with `VioletForCaptioning`, or with a language model behind a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..processing.processing_violet import special_tokens
from ..processing.questions import TokenIds, pad_texts

MOST_WRITTEN = 64
"""Tokens that a language model writes at most, if nothing else is asked for."""
SCORED = {"return_dict_in_generate": True, "output_scores": True}
"""Settings of `generate` under which `_rows` knows the probabilities."""


def check_special_tokens(model: Any, tokenizer: Any) -> None:
    """
    A model that writes begins, predicts and ends with tokens of its configuration, which must be the tokenizer's.

    Raises:
        ValueError: names one that is not.
    """
    tokens = special_tokens(tokenizer)
    needed = ("bos_token_id", "eos_token_id", *(() if model.config.next_word_prediction else ("mask_token_id",)))
    for setting in needed:
        own, expected = getattr(model.config, setting), tokens.get(setting)
        if own != expected and not (isinstance(own, list) and expected in own):
            raise ValueError(
                f"This model cannot write: its configuration's `{setting}` is {own}, its tokenizer's {expected}. "
                "Set it as the tokenizer has it, and fine-tune the model for captioning."
            )


def default_length(model: Any, processor: Any) -> int:
    """How many tokens are written at most: the processor's `max_length` or the model's positions, the smaller one."""
    look_ahead = 0 if model.config.next_word_prediction else 1
    return min(processor.max_length, model.config.max_position_embeddings - look_ahead) - 1  # [CLS] is there already


def write(
    model: Any, tokenizer: Any, pixels: Mapping[str, Any], prompts: Sequence[TokenIds], **generate_kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Texts about videos, each from [CLS] on, or behind the prompt if the text begins with it.

    Args:
        pixels: (videos, frames, 3, height, width), by name; or `video_tokens`, the videos encoded.
        prompts: for each video the token ids that stand between it and the text; or none at all.
        generate_kwargs: of `generate`; `num_return_sequences` asks for several texts per video.

    Returns:
        The token ids (videos, texts, tokens), and (videos, texts), the geometric mean of the probabilities of the
        tokens written, [SEP] included.
    """
    prompt, begun, videos = dict[str, torch.Tensor](), 1, len(next(iter(pixels.values())))
    if prompts:
        prompt["prompt_ids"], prompt["prompt_attention_mask"] = pad_texts(
            prompts, tokenizer.pad_token_id, model.device
        )
        if model.begins_with_prompt:
            prompt["input_ids"] = model.begin(None, videos, prompt)
            begun = prompt["input_ids"].shape[1]
            if "max_new_tokens" in generate_kwargs:
                left = model.config.max_position_embeddings - begun
                generate_kwargs["max_new_tokens"] = min(generate_kwargs["max_new_tokens"], left)
    written = model.generate(**pixels, **prompt, **{**generate_kwargs, **SCORED})
    end = special_tokens(tokenizer)["eos_token_id"]
    given = written.sequences if begun == 1 else written.sequences[:, begun:]  # from [CLS] on, or behind the prompt
    return _rows(model, written, begun, [end], given, videos)


def join_prompts(prompts: Sequence[torch.Tensor], padding: int | None) -> dict[str, torch.Tensor]:
    """Prompts (X,) each -> `input_ids` and `attention_mask` (prompts, X of the longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), padding or 0)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def write_behind(model: Any, inputs: Mapping[str, Any], **generate_kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What `VioletForConditionalGeneration` writes behind prompts.

    Args:
        inputs: `input_ids` and `attention_mask` (prompts, X), the videos, and what else `generate` takes.
        generate_kwargs: of `generate`; `num_return_sequences` asks for several texts per prompt.

    Returns:
        The token ids (prompts, texts, new tokens), and (prompts, texts), the geometric mean of their probabilities,
        the end included.
    """
    written = model.generate(**inputs, **{**generate_kwargs, **SCORED})
    length = inputs["input_ids"].shape[1]
    config = generate_kwargs.get("generation_config") or model.generation_config
    ends = generate_kwargs.get("eos_token_id", config.eos_token_id)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return _rows(model, written, length, ends, written.sequences[:, length:], len(inputs["input_ids"]))


def _rows(
    model: Any, written: Any, start: int, ends: Sequence[int], given: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens `given` by row, and the mean probability of those from `start` on, up to an end."""
    ids = written.sequences[:, start:]
    steps = model.compute_transition_scores(
        written.sequences, written.scores, written.get("beam_indices"), normalize_logits=True
    )
    ended = torch.isin(ids, torch.tensor(ends, dtype=ids.dtype, device=ids.device)).long()
    before_end = (ended.cumsum(1) - ended == 0)[:, : steps.shape[1]]
    means = steps.masked_fill(~before_end, 0).sum(1) / before_end.sum(1).clamp(min=1)
    # (rows * texts, ...) -> (rows, texts, ...)
    return given.unflatten(0, (rows, -1)), means.exp().unflatten(0, (rows, -1))
