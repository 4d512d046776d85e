"""A language model of transformers as the fusion: a video's tokens stand among the words."""

from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, Cache, PreTrainedConfig, PreTrainedModel

from ...configuration.configuration_violet import _refuse, _refuse_unknown
from ...core.carried_code import without_code
from ...core.upstream import CACHE_NAME
from ..area_pooling import pool_boxes
from ..tokens import Grid, Tokens
from .fusion import Fusion


@strict
class VioletLanguageModelConfig(PreTrainedConfig):
    r"""
    Configuration of the fusion by a language model. That model itself is the whole model's `text_config`: any
    configuration that AutoModelForCausalLM knows.

    Args:
        pooled_grid (`int`, *optional*): each step in time of a video becomes that many by that many tokens, means
            over equal parts of its grid, or of its box; special tokens of frames and clip are left out. `None` for all
            tokens as they are.
        embedding_grid (`int`): of the `projection_type` `"language_model"`: a video's embedding tells that many by
            that many equal parts of each frame, or of its box, apart. With 1, the mean, it does not know which of two
            things is on the left.
        video_token_id (`int`, *optional*): the id of `<video>` among a text's tokens. It need not be in the language
            model's vocabulary: nothing is looked up for it. `None` for the first number behind the vocabulary.
        text_side (`str`): the name of the text side in `TEXTS`, whatever the language model's type is.
    """

    model_type = "language_model"
    base_config_key = "fusion_model_config"
    written_by = "text_config"  # of which part of the whole model words and caches are, see `get_text_config`

    pooled_grid: int | None = None
    embedding_grid: int = 2
    video_token_id: int | None = None
    text_side: str = "language_model"

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    def validate_architecture(self):
        """Refuses what cannot be, naming the field."""
        super().validate_architecture()
        if self.pooled_grid is not None and self.pooled_grid < 1:
            _refuse("pooled_grid", f"must be 1 or more, or None for all tokens, got {self.pooled_grid}.")
        if self.embedding_grid < 1:
            _refuse("embedding_grid", f"must be 1 or more, got {self.embedding_grid}.")


class VioletVideoConnector(nn.Module):
    """A video's tokens in the language model's input space: pooled, if asked for, then Linear, GELU, Linear."""

    def __init__(self, config):
        super().__init__()
        self.pooled_grid = config.fusion_model_config.pooled_grid
        width = config.text_config.hidden_size
        self.first = nn.Linear(config.hidden_size, width)
        self.second = nn.Linear(width, width)

    def forward(self, video: Tokens) -> Tokens:
        """Video tokens (videos, L, hidden_size) -> (videos, places, the language model's width)."""
        if self.pooled_grid is not None:
            video = self.pool(video)
        elif video.boxes is not None:
            raise ValueError("`boxes` are pooled, and `fusion_model_config.pooled_grid` is None: set it.")
        tokens = video.tokens.to(self.first.weight.dtype)
        return video.with_tokens(self.second(nn.functional.gelu(self.first(tokens))))

    def pool(self, video: Tokens) -> Tokens:
        """
        Means over `pooled_grid` x `pooled_grid` equal parts of each step, or of its box, step by step and row by row;
        the parts of a step that does not show its box are padding.
        """
        side = self.pooled_grid
        assert side is not None and video.grid is not None
        steps, rows, columns = video.grid
        if side > min(rows, columns) and video.boxes is None:
            raise ValueError(
                f"`fusion_model_config.pooled_grid` {side} is more than the {rows} x {columns} cells of a frame: "
                "there is no more to tell. Take a smaller one, larger frames, or None for all cells."
            )
        pooled = pool_boxes(video.patches(), video.boxes, side)
        # (videos, steps, side, side, width) -> (videos, steps * side * side, width)
        tokens = pooled.flatten(1, 3)
        # a step is padding in all of its tokens or in none
        of_step = video.mask[:, video.num_special_per_clip :].unflatten(1, (steps, -1))[:, :, -1]
        if video.box_mask is not None:
            of_step = of_step * video.box_mask
        mask = of_step.repeat_interleave(side * side, dim=1)
        return replace(
            video, tokens=tokens, mask=mask, grid=(steps, side, side), num_special_per_frame=0, num_special_per_clip=0
        )

    def count(self, grid: Grid, per_frame: int, per_clip: int) -> int:
        """The places of a video with that grid and special tokens."""
        steps, rows, columns = grid
        if self.pooled_grid is not None:
            return steps * self.pooled_grid**2
        return per_clip + steps * (per_frame + rows * columns)


class VioletLanguageModelFusion(Fusion):
    """
    The layers of a language model, which the text side holds: there is one copy of its weights, `language_model`. Own
    parameters are the `connector`'s only.
    """

    rules = ("causal",)
    reads_boxes = True

    def __init__(self, config):
        super().__init__()
        self.config = config
        own = config.fusion_model_config
        if own.video_token_id is None:  # said once: the vocabulary may grow afterwards
            own.video_token_id = config.text_config.vocab_size
        self._text_side: tuple[Any, ...] = ()  # no submodule: it is the text side's
        self.connector = VioletVideoConnector(config)
        self.norm = None

    def share(self, text_side) -> None:
        self._text_side = (text_side,)

    @property
    def language_model(self) -> PreTrainedModel:
        """The language model, with its head."""
        return self._text_side[0].language_model

    @property
    def layers(self) -> list[nn.Module]:  # type: ignore[override]
        """The language model's layers."""
        depth = self.language_model.config.num_hidden_layers
        lists = (module for module in self.language_model.modules() if isinstance(module, nn.ModuleList))
        return list(next(module for module in lists if len(module) == depth))

    @property
    def video_token_id(self) -> int:
        """The id of `<video>`."""
        return self.config.fusion_model_config.video_token_id

    def place_videos(
        self,
        words: torch.Tensor,
        places: torch.Tensor,
        video: Tokens,
        video_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Puts videos into their places among embedded words.

        Args:
            words: (texts, X, width), embeddings.
            places: (texts, X), True where a token of a video stands.
            video: encoded videos, as they come from `encode_videos`.
            video_index: (n,), which video each run of places is, over all texts in reading order; each one once and
                in order if it is not given.

        Returns:
            The embeddings with the videos in them, and (texts, X), False where a place is padding of a video.

        Raises:
            ValueError: for another number of places than the videos have tokens.
        """
        projected = self.connector(video)
        if video_index is not None:
            projected = projected.select(video_index)
        tokens = projected.tokens
        if not torch.compiler.is_compiling() and (found := int(places.sum())) != tokens.shape[0] * tokens.shape[1]:
            raise ValueError(
                f"The texts have {found} places of `<video>` (id {self.video_token_id}), and {tokens.shape[0]} videos "
                f"of {tokens.shape[1]} tokens each need {tokens.shape[0] * tokens.shape[1]}: process texts and videos "
                "together, with `<video>` once for each clip."
            )
        # (videos, tokens, width) -> (videos * tokens * width), in reading order of the places
        merged = words.masked_scatter(places.unsqueeze(-1), tokens.to(words.dtype))
        seen = torch.ones_like(places).masked_scatter(places, projected.mask.bool())
        return merged, seen

    def beside(
        self, places: torch.Tensor, video: Tokens | None, video_index: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        What the videos of texts do beyond standing in their places, see `place_videos`: tensors of a row for each
        text, which `arguments` takes by name. Nothing here.
        """
        return {}

    def arguments(self, attention_mask: torch.Tensor | None, length: int, **beside: torch.Tensor) -> dict[str, Any]:
        """
        The language model's arguments for texts with what is `beside` them: of the mask (texts, length), over what is
        in a cache too; without one nothing is padding.
        """
        return {"attention_mask": attention_mask}

    def passed(self, arguments: dict[str, Any]) -> None:
        """Is told after a pass of the language model with these `arguments`. Nothing here."""

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "causal",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """The video's tokens in front of prompt and text; see `Fusion.forward`. States are behind the last norm."""
        groups = {name: self.connector(group) if name == "video" else group for name, group in groups.items()}
        states = torch.cat([group.tokens for group in groups.values()], dim=1)
        mask = torch.cat([group.mask for group in groups.values()], dim=1)
        if past_mask is not None:
            mask = torch.cat([past_mask, mask], dim=1)
        model = self.language_model.base_model
        output = model(inputs_embeds=states, attention_mask=mask, **{CACHE_NAME: cache}, **kwargs)
        lengths = [group.tokens.shape[1] for group in groups.values()]
        return dict(zip(groups, output.last_hidden_state.split(lengths, dim=1), strict=True))


AutoConfig.register(VioletLanguageModelConfig.model_type, VioletLanguageModelConfig, exist_ok=True)
