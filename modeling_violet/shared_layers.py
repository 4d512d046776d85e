"""What systems have in common whose video, sound and words pass the same layers (VATT, IMP)."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..configuration.configuration_violet import _refuse, _require_positive
from .texts.text_side import TextSide
from .tokens import Grid, Tokens


class CubePatches:
    """Fields of a video encoder's configuration whose patches are blocks of frames, rows and columns of pixels."""

    num_channels: int
    patch_size: list[int] | tuple[int, ...]
    position_grid: list[int] | tuple[int, ...]

    @property
    def normalization(self) -> dict[str, list[float]]:
        """Settings of the video processor: pixels from -1 to 1."""
        return {"image_mean": [0.5] * self.num_channels, "image_std": [0.5] * self.num_channels}

    @property
    def cell(self) -> Grid:
        """(frames, rows, columns) of pixels that one state stands for."""
        frames, rows, columns = self.patch_size
        return frames, rows, columns

    def check_patches(self) -> None:
        """Refuses fields that are no three positive numbers, naming the field."""
        _require_positive(self, "num_channels")
        for name in ("patch_size", "position_grid"):
            value = getattr(self, name)
            if len(value) != 3 or min(value) < 1:
                _refuse(name, f"must be three positive numbers (frames, rows, columns), got {list(value)}.")


class SharedLayersModel(PreTrainedModel):
    """
    A modality's model, whose layers (`backbone`) are its own or another model's, see `share`.

    Attributes:
        backbone: None if it is another's.
        stream: what the modality has of its own, in front of the layers (`forward`) and behind them (`finish`).

    Class attributes:
        backbone_class: of the layers.
        backbone_fields: of the configuration, which must be equal where layers are shared.
    """

    backbone_class: ClassVar[type[nn.Module]]
    backbone_fields: ClassVar[tuple[str, ...]]
    backbone: Any
    stream: Any

    def share(self, other: PreTrainedModel) -> None:
        """
        Takes the layers of another model. They stay that model's: their weights are counted and saved there, once.

        Raises:
            ValueError: for a model without such layers, or with layers of other sizes.
        """
        backbone, key = getattr(other, "backbone", None), self.config.base_config_key
        if not isinstance(backbone, self.backbone_class):
            system = self.config.model_type.partition("_")[0]
            raise ValueError(
                f"`{key}.shared` takes the layers of the vision encoder, and `vision_config.model_type` "
                f"{other.config.model_type!r} has none such: use {system!r}, or set `shared` to false."
            )
        for name in self.backbone_fields:
            own, theirs = getattr(self.config, name), getattr(other.config, name)
            if own != theirs:
                raise ValueError(
                    f"`{key}.{name}` is {own}, and that of the shared layers, `vision_config.{name}`, {theirs}: they "
                    "must be equal."
                )
        self.backbone = None
        self.shared_backbone = (backbone,)  # in a tuple: no module of this one

    def compute(
        self,
        embedded: torch.Tensor,
        grid: tuple[int, ...],
        mask: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What the modality has of its own in front of the layers, the layers, and what it has behind them.

        Args:
            embedded: (B, N, D), N places of the grid, or the first N of a grid that is longer.
            mask: (B, N), 1 for a token and 0 for padding, which no token sees.
            kept: (B, K), the places that are computed (DropToken), each once; all of them if it is None.

        Returns:
            Features (B, N or K, hidden_size) of the tokens, in the order of `kept`, and one vector (B, hidden_size).
        """
        states, mask = self.stream(embedded, grid, mask, kept)
        return self.stream.finish(self.find_backbone()(states, mask), mask)

    def find_backbone(self) -> Any:
        """Its own layers, or the shared ones."""
        return self.shared_backbone[0] if self.backbone is None else self.backbone


class SharedLayersText(TextSide):
    """
    The words of such a system as VIOLET's text side; a linear layer to the fusion's width if that is another.

    Class attributes:
        model_class: a `SharedLayersModel` that gives, of ids and mask (batch, X), states (batch, X, hidden_size) and
            each text's vector (batch, hidden_size).
    """

    contextual = True
    model_class: ClassVar[Any]

    def __init__(self, config):
        super().__init__()
        text = config.text_config
        self.model = self.model_class._from_config(text, vocab_size=config.vocab_size)
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        self.width = config.hidden_size if config.has_fusion else text.hidden_size
        self.pooled_size = text.hidden_size
        same = text.hidden_size == self.width
        self.projection = nn.Identity() if same else nn.Linear(text.hidden_size, self.width)

    def share(self, vision_model: PreTrainedModel) -> None:
        if self.model.config.shared:
            self.model.share(vision_model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if position_ids is not None:
            raise ValueError(
                f"The text side {self.model.config.model_type!r} takes no `position_ids`: words stand in their order."
            )
        return self.encode(input_ids, attention_mask).tokens

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states, pooled = self.model(input_ids, mask)
        return Tokens(self.projection(states), mask, pooled=pooled)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.model.set_input_embeddings(table)
