"""
Masked feature regression (`mvm_mfr`; Xue et al., 2021, "Probing Inter-modality: Visual Parsing with Self-Attention for
Vision-and-Language Pre-training", arXiv:2106.13488): patches that belong together are hidden behind the vision
encoder, and their features are predicted from what is left and from the words. The model makes the target: no teacher.

How the paper chooses the patches is published in words only; the choice here is our own. Letters: B clips, N places
T * h * w, D the model's width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..encoders import find_encoder
from ..losses import masked_squares
from ..tokens import Tokens, VisionStates
from .masked_vision import MaskedVision, MVMTarget
from .objective import Outcome
from .passes import Passes

LEAST_SPREAD = 0.1
"""Below it the features of a clip's places are all but equal: a constant answers all."""


def feature_similarity(features: torch.Tensor) -> torch.Tensor:
    """
    Cosines of features (B, N, D) less their mean over the places, without which all cosines are near 1: (B, N, N),
    float32, no gradient. A norm counts as 1e-6 at least.
    """
    f = features.detach().float()
    f = f - f.mean(1, keepdim=True)
    f = f / f.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return f @ f.transpose(1, 2)


def masked_count(ratio: float, places: int) -> int:
    """
    How many of a clip's places are hidden: that share, rounded, and one at least.

    Raises:
        ValueError: for a share outside of (0, 1), or one that leaves no place.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"`ratio` (`patch_ratio`): must lie between 0 and 1, got {ratio}; 1 leaves nothing to see.")
    count = max(1, round(ratio * places))
    if count >= places:
        raise ValueError(
            f"`ratio` (`patch_ratio`) {ratio} hides all {places} places of a clip: nothing is left to see."
        )
    return count


def check_group(group: int, count: int) -> None:
    """
    Raises:
        ValueError: for a group of less than 1 or more than `count` places.
    """
    if not 1 <= group <= count:
        raise ValueError(
            f"`group` {group} must lie from 1 to the {count} places of a clip that are hidden: take a smaller group "
            "or a larger share (`patch_ratio`)."
        )


def correlated_mask(similarity: torch.Tensor, noise: torch.Tensor, count: int, group: int) -> torch.Tensor:
    """
    Hides `count` places of each clip in groups of similar ones. The first open place in the order of the noise is
    hidden with the `group` - 1 open places most similar to it (of equals the lower place), until `count` are hidden;
    the last group is cut. Groups of 1 are plain random masking.

    Args:
        similarity: (B, N, N).
        noise: (B, N), from the samples' own generators.

    Returns:
        (B, N), True where a place is hidden: exactly `count` in each row.

    Raises:
        ValueError: for a group of less than 1 or more than `count` places.
    """
    check_group(group, count)
    places = noise.shape[1]
    rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
    hidden = torch.zeros_like(noise, dtype=torch.bool)
    for start in range(0, count, group):
        seed = rank.masked_fill(hidden, places).argmin(dim=1, keepdim=True)  # (B, 1)
        # (B, N, N) -> (B, 1, N) -> (B, N)
        near = similarity.gather(1, seed.unsqueeze(-1).expand(-1, -1, places)).squeeze(1)
        near = near.masked_fill(hidden, float("-inf")).scatter(1, seed, float("inf"))
        chosen = near.argsort(dim=1, descending=True, stable=True)[:, : min(group, count - start)]
        hidden = hidden.scatter(1, chosen, True)
    return hidden


def normalised(features: torch.Tensor) -> torch.Tensor:
    """LayerNorm without weights over the last dimension (eps 1e-6), float32, no gradient."""
    features = features.detach().float()
    return nn.functional.layer_norm(features, features.shape[-1:], eps=1e-6)


def feature_spread(features: torch.Tensor) -> torch.Tensor:
    """
    (), the standard deviation of normalised features (B, N, D) over a clip's places, the root mean square over D; the
    mean over clips, which several processes have of their own.
    """
    return features.var(dim=1, correction=0).mean(-1).sqrt().mean()


def feature_regression_loss(
    prediction: torch.Tensor, target: torch.Tensor, bool_masked_pos: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """
    The mean over hidden places of the mean over D of the squared difference; 0 if none is hidden.

    Args:
        prediction, target: (..., D), the target normalised.
        bool_masked_pos: (...).

    Raises:
        ValueError: for another reduction than the mean.
    """
    if reduction != "mean":
        raise ValueError(f"`reduction` {reduction!r} is not one of 'mfr', which has 'mean' only.")
    if target.shape != prediction.shape or bool_masked_pos.shape != target.shape[:-1]:
        raise ValueError(
            f"The target has shape {tuple(target.shape)}, the prediction {tuple(prediction.shape)} and the mask "
            f"{tuple(bool_masked_pos.shape)}: the first two must be equal, and the mask the same without the width."
        )
    return masked_squares(prediction, target, bool_masked_pos)


class VioletMaskedFeaturesHead(nn.Linear):
    """The fusion's state of a patch -> its feature; with the vector that stands for a hidden feature."""

    def __init__(self, width: int, hides: bool):
        super().__init__(width, width)
        # a table of one row: initialised, and spared by weight decay, as tables are
        self.hidden = nn.Embedding(1, width) if hides else None


class MaskedFeatures(MaskedVision):
    """Predicts the features of hidden patches. All objectives of the batch read the pass in which they are hidden."""

    takes = ("correlated", "correlated_noise", "correlated_count")

    def __init__(self, name: str, config: VioletConfig, target: str):
        super().__init__(name, config, target)
        given = (config.mvm_targets or {})[target]
        self.choice: Mapping[str, Any] = {**MFR.options, **given}

    def masked_video(self, passes: Passes) -> tuple[Tokens, torch.Tensor]:
        clean, encoder = self.clean(passes), passes.violet.video_encoder
        grid = clean.last_hidden_state
        assert grid is not None  # every encoder has one
        masked = self.mask(passes, grid)
        if self.choice["hide"] == "pixels":
            return passes.violet.encode_videos(**passes.pixels, **passes.sound, bool_masked_pos=masked), masked
        vector = passes.model.mvm_heads[self.target].hidden.weight[0].to(grid.dtype)
        hidden = torch.where(masked.unsqueeze(-1), vector, grid)
        shown = VisionStates(hidden, clean.frame_states, clean.clip_states, clean.pooler_output)
        return passes.violet.with_sound(encoder.arrange(shown), passes.sound), masked

    def clean(self, passes: Passes) -> VisionStates:
        """The states of the unmasked videos; a pass of its own, without gradient, if pixels are hidden."""
        name = f"{self.name}_clean"
        if name not in passes.computed:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.choice["hide"] == "features"):
                passes.computed[name] = passes.violet.video_encoder.encode(passes.pixels)
        return passes.computed[name]

    def mask(self, passes: Passes, features: torch.Tensor) -> torch.Tensor:
        """(B, T, h, w): the samples' masks as they were given, and correlated ones where these are asked for."""
        inputs = passes.inputs
        masked, chosen = inputs["bool_masked_pos"].bool(), inputs.get("correlated")
        if masked.shape != features.shape[:-1]:
            raise ValueError(
                f"`bool_masked_pos` has shape {tuple(masked.shape)}; these videos need {tuple(features.shape[:-1])}."
            )
        if chosen is None:
            return masked
        noise, count = inputs.get("correlated_noise"), inputs.get("correlated_count")
        if noise is None or count is None:
            raise ValueError("`correlated` needs `correlated_noise` and `correlated_count`.")
        # (B, T, h, w, D) -> (B, N, D)
        similarity = (
            feature_similarity(features.flatten(1, 3))
            if self.choice["similarity"] == "cosine"
            else passes.violet.vision_encoder.patch_attention(passes.violet.vision_model, *passes.pixels.values())
        )
        drawn = correlated_mask(similarity, noise, count, self.choice["group"])
        return torch.where(chosen[:, None, None, None], drawn.view(masked.shape), masked)

    def loss(self, passes: Passes) -> Outcome:
        prediction = passes.model.mvm_heads[self.target](passes.patches)
        features = self.clean(passes).last_hidden_state
        assert features is not None
        target = normalised(features)
        return Outcome(
            feature_regression_loss(prediction, target, passes.masked),
            measures={f"spread_{self.target}": feature_spread(target.flatten(1, 3))},
            outputs={"mvm_predictions": {self.target: prediction}, "bool_masked_pos": passes.masked},
        )

    def warning(self, measures: Mapping[str, float]) -> str | None:
        spread = measures.get(f"spread_{self.target}")
        if spread is None or spread >= LEAST_SPREAD:
            return None
        return (
            f"The features of a clip's patches differ by {spread:.3g} only (`spread_{self.target}`, below "
            f"{LEAST_SPREAD}): {self.name!r} can be answered by a constant. Give the other objectives more weight."
        )


def build_features_head(config: VioletConfig, options: Mapping[str, Any]) -> VioletMaskedFeaturesHead:
    """
    Raises:
        ValueError: for the similarity of attention with an encoder that has none between all patches of a frame.
    """
    vision: Any = config.vision_config
    encoder = find_encoder(vision)
    if options["similarity"] == "attention" and (not encoder.attends_in_frames or len(encoder.inputs) > 1):
        raise ValueError(
            f"`mvm_targets`: 'mfr' has the `similarity` 'attention', and the vision encoder "
            f"`vision_config.model_type` {vision.model_type!r} has no attention between all patches of "
            "a frame (a ViT has): use 'cosine'."
        )
    return VioletMaskedFeaturesHead(config.hidden_size, options["hide"] == "features")


MFR = MVMTarget(
    build_features_head,
    feature_regression_loss,
    teacher=None,
    options={"group": 4, "similarity": "cosine", "hide": "features"},
    choices={"similarity": ("cosine", "attention"), "hide": ("features", "pixels")},
    objective=MaskedFeatures,
)
