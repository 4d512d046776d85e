"""Writing captions word by word behind a video's tokens (`generation`), by the language model that is the fusion."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..encoders.encoder import accepts
from ..fusions import writes_by_head
from ..losses import IGNORE_INDEX, masked_accuracy, masked_cross_entropy
from ..tokens import Tokens
from .objective import Objective, Outcome
from .passes import Passes


class Generation(Objective):
    """
    The next word of each caption from the video, or its box, and the words before it: [beginning; video; words; end].
    Nothing is predicted at the beginning, the video and padding. The mean is over all words of the batch.
    """

    rule = "causal"
    requirement = "its name among the configuration's `objectives`, and a language model as the fusion"

    def check(self, config: VioletConfig) -> None:
        if not config.has_fusion or writes_by_head(config):
            own: Any = config.fusion_model_config
            raise ValueError(
                f"`objectives`: {self.name!r} writes, and `fusion_model_config.model_type` "
                f"{own.model_type if own else None!r} is no language model: make it 'language_model'."
            )

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        fusion = model.violet.fusion
        yield from fusion.connector.parameters()
        words, head = fusion.language_model.get_input_embeddings(), fusion.language_model.get_output_embeddings()
        shared = {id(parameter) for parameter in words.parameters()}
        yield from (parameter for parameter in head.parameters() if id(parameter) not in shared)

    def loss(self, passes: Passes) -> Outcome:
        violet, config = passes.violet, passes.model.config
        ids, mask = with_end(passes.words, passes.attention_mask, config.eos_token_id)
        video = violet.fusion.connector(passes.video)
        embeds, mask, labels = video_first(violet.text_embeddings(ids), ids, mask, video, config.bos_token_id)
        model = violet.fusion.language_model
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and embeds.shape[1] > most:
            raise ValueError(
                f"A caption of {ids.shape[1]} tokens behind a video of {video.tokens.shape[1]} is longer than the "
                f"language model's `max_position_embeddings` {most}: shorten it (`max_text_length`), or take fewer "
                "frames or a smaller `pooled_grid`."
            )
        given = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
        given = {name: value for name, value in given.items() if accepts(model, name)}
        logits = model(inputs_embeds=embeds, attention_mask=mask, **given).logits[:, :-1]
        loss = masked_cross_entropy(logits, labels[:, 1:], config.label_smoothing)
        return Outcome(loss, masked_accuracy(logits, labels[:, 1:]))


def with_end(ids: torch.Tensor, mask: torch.Tensor, end: int | list[int] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Texts padded on the right, with the end token behind each that its tokenizer did not give one.

    Args:
        ids, mask: (batch, X), padded on either side; what is padding the mask says, never the id.
        end: its id; of several the first. None: nothing is added.

    Returns:
        (batch, X + 1) each.
    """
    order = (mask == 0).long().argsort(dim=1, stable=True)  # words first, in their order
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    ids, mask = nn.functional.pad(ids, (0, 1)), nn.functional.pad(mask, (0, 1))
    if end is None:
        return ids, mask
    ends = torch.tensor([end] if isinstance(end, int) else end, device=ids.device)
    length = mask.sum(1, keepdim=True)
    last = ids.gather(1, (length - 1).clamp(min=0))
    ended = torch.isin(last, ends) & (length > 0)
    place = length - ended.long()
    return ids.scatter(1, place, torch.where(ended, last, ends[0])), mask.scatter(1, place, 1)


def video_first(
    words: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, video: Tokens, begin: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Videos in front of their texts, but behind the token that begins a text, if a text has one.

    Args:
        words: (batch, X, width), the embedded texts, padded on the right.
        ids, mask: (batch, X).
        video: (batch, N, width), in the language model's input space.
        begin: the id of the token that begins a text; None if there is none.

    Returns:
        What enters the language model (batch, N + X, width), its mask and its labels (batch, N + X): the words' ids,
        −100 for the first token, videos and padding.
    """
    labels = ids.masked_fill(mask == 0, IGNORE_INDEX)
    seen = video.mask.to(mask.dtype)
    nothing = labels.new_full(seen.shape, IGNORE_INDEX)
    begins = torch.zeros_like(mask[:, :1]).bool() if begin is None else ids[:, :1] == begin
    labels = torch.where(begins & (torch.arange(ids.shape[1], device=ids.device) == 0), IGNORE_INDEX, labels)

    def join(of_video: torch.Tensor, of_text: torch.Tensor) -> torch.Tensor:
        behind = torch.cat([of_text[:, :1], of_video, of_text[:, 1:]], dim=1)
        front = torch.cat([of_video, of_text], dim=1)
        return torch.where(begins if of_text.dim() == 2 else begins.unsqueeze(-1), behind, front)

    return join(video.tokens.to(words.dtype), words), join(seen, mask), join(nothing, labels)
