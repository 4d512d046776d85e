"""`VioletForPreTraining`: matching, masked words, masked visual modelling and contrast in one pass."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.upstream import can_return_tuple
from .fusions import record_received_attention
from .heads import VioletClassificationHead, VioletMaskedLMHead
from .losses import IGNORE_INDEX, combine, masked_accuracy, masked_cross_entropy
from .modeling_violet import VioletModel, VioletPreTrainedModel
from .mvm import build_mvm_heads, mvm_loss, predict_mvm

MVM_PREFIX = "mvm_"


@dataclass
class VioletPreTrainingOutput(ModelOutput):
    """
    Attributes:
        loss: (), the weighted sum of `losses`.
        losses: each objective's loss (), by name, before its weight.
        accuracies: (), by name: of matching (`vtm`), masked words (`mlm`, `smtm`), contrast (`vtc`, video to text),
            and of the masked ids of `mvm_vq`.
        mlm_logits: (batch, X, vocabulary).
        match_logits: (batch, 1 + negatives), the video's own text first, before the temperature.
        mvm_predictions: what each target's head predicts, by target, in the target's layout (see `mvm`).
        received_attention: (batch, L_v + X), in a pass that asks for it alone.
        hidden_states, attentions: where asked for, of the fusion under the bidirectional rule, a row a pair: each
            video with its own text, then with its negatives.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    accuracies: dict[str, torch.Tensor] | None = None
    mlm_logits: torch.Tensor | None = None
    match_logits: torch.Tensor | None = None
    mvm_predictions: dict[str, torch.Tensor] | None = None
    received_attention: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class VioletForPreTraining(VioletPreTrainedModel):
    """
    The pre-training objectives, any subset of them, each with a weight:

    - `vtm`, video-text matching: a video's own text against other texts, by the match head's score divided by the
      configuration's `match_temperature`.
    - `mlm`, masked words; `smtm`, the same words under the sequence-to-sequence mask.
    - `mvm_TARGET`, masked visual modelling, for each of the configuration's `mvm_targets`.
    - `vtc`, video-text contrast before the fusion, over the videos and texts of all processes.

    The pass of a video with its own text serves matching, masked words and masked visual modelling alike.
    """

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.match_head = VioletClassificationHead(config, 1)
        self.mlm_head = VioletMaskedLMHead(config)
        self.mvm_heads = build_mvm_heads(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self.mlm_head.decoder = new_embeddings

    def objective_names(self) -> list[str]:
        """All objectives that this model can be trained with."""
        contrast = [] if self.violet.projection is None else ["vtc"]
        return ["vtm", "mlm", "smtm", *contrast, *(MVM_PREFIX + name for name in self.mvm_heads)]

    def freeze_unused(self, objectives: Iterable[str]) -> None:
        """
        Parameters that none of these objectives trains keep their value and get no gradient. Some ways to train over
        several processes (FSDP) cannot save an optimiser with parameters that never had one.
        """
        objectives = set(objectives)
        used: dict[nn.Module | None, bool] = {
            self.match_head: "vtm" in objectives,
            self.mlm_head: bool(objectives & {"mlm", "smtm"}),
            self.violet.projection: "vtc" in objectives,
            **{head: MVM_PREFIX + name in objectives for name, head in self.mvm_heads.items()},
        }
        for module, is_used in used.items():
            if module is not None and not is_used:
                module.requires_grad_(False)
        for parameter in (self.violet.task_tokens, self.violet.video_encoder.hidden_order_embedding):
            if parameter is not None:
                parameter.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        negative_index: torch.Tensor | None = None,
        num_hard_negatives: int | None = None,
        wrong_ids: torch.Tensor | None = None,
        wrong_attention_mask: torch.Tensor | None = None,
        mvm_targets: Mapping[str, torch.Tensor] | None = None,
        objectives: Mapping[str, float] | None = None,
        only_received_attention: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VioletPreTrainingOutput:
        r"""
        Args:
            pixel_values_videos: (batch, frames, channels, height, width), normalised, unmasked.
            input_ids: (batch, X), a caption of each video, its masked words replaced by [MASK].
            attention_mask: (batch, X), 1 for a token and 0 for padding.
            labels: (batch, X), the words that were masked, −100 elsewhere.
            bool_masked_pos: (batch, frames, rows, columns), True where a patch's pixels are hidden.
            negative_index: (batch, K), for each video the rows of other texts that it is told apart from; −1 for none.
            wrong_ids: (others, X'), texts that are true of no video, best such that are nearly so: contrast tells each
                video apart from them too.
            wrong_attention_mask: (others, X').
            num_hard_negatives: take only so many of the K, those nearest to the video before the fusion.
            mvm_targets: what the masked patches show, by target, as its teacher gives it (see `teachers`).
            objectives: weights by objective; those that are not named are not computed. By default 1 for `vtm`, `mlm`,
                `vtc` and every MVM target, as far as their inputs are given.
            only_received_attention: return nothing but `received_attention`: for each place of the video and of the
                text the attention that it receives, mean over heads, summed over layers and queries.

        Raises:
            ValueError: for an objective that this model does not have, or whose input is missing.
        """
        if pixel_values_videos is None or input_ids is None:
            raise ValueError("Pre-training needs `pixel_values_videos` and `input_ids`.")
        if only_received_attention:
            with record_received_attention(self.violet.fusion) as received:
                self.violet(pixel_values_videos, input_ids, attention_mask, **kwargs)
            return VioletPreTrainingOutput(received_attention=received.total)
        mvm_targets = mvm_targets or {}
        weights = self._default_objectives(labels, negative_index, mvm_targets) if objectives is None else objectives
        self._check_objectives(weights, labels, bool_masked_pos, negative_index, mvm_targets)

        batch = len(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        words = input_ids if labels is None else torch.where(labels == IGNORE_INDEX, input_ids, labels)
        video = self.violet.encode_videos(pixel_values_videos, bool_masked_pos)
        losses: dict[str, torch.Tensor] = {}
        accuracies: dict[str, torch.Tensor] = {}
        output = VioletPreTrainingOutput(losses=losses, accuracies=accuracies)

        negatives = negative_index if "vtm" in weights else None
        if "vtc" in weights or num_hard_negatives is not None:
            videos, texts = self.violet.video_and_text_embeddings(video, words, mask)
            if "vtc" in weights:
                others = None
                if wrong_ids is not None:
                    others = self.violet.get_text_features(wrong_ids, wrong_attention_mask).pooler_output
                losses["vtc"], accuracies["vtc"] = self.violet.contrast(videos, texts, words, True, others)
            if negatives is not None and num_hard_negatives is not None:
                negatives = hardest(negatives, videos, texts, num_hard_negatives)

        text_index = video_index = torch.arange(batch, device=input_ids.device)  # the own pairs, then the others
        if negatives is not None:
            text_index = torch.cat([text_index, negatives.clamp(min=0).flatten()])
            video_index = torch.cat([video_index, video_index.repeat_interleave(negatives.shape[1])])
        needs_fusion = any(name not in ("vtc", "smtm") for name in weights)
        if needs_fusion:
            fused = self.violet(
                video_tokens=video,
                input_ids=input_ids[text_index],
                attention_mask=mask[text_index],
                video_index=video_index,
                **kwargs,
            )
            output.hidden_states, output.attentions = fused.hidden_states, fused.attentions
            if negatives is not None:
                output.match_logits = self._match(fused.first_text_state(), negatives, losses, accuracies)
            if "mlm" in weights:
                output.mlm_logits = self._masked_words("mlm", fused.text_hidden_state[:batch], labels, output)
            patches = video.with_tokens(fused.video_hidden_state[:batch]).patches()
            output.mvm_predictions = {
                name: predict_mvm(self.config, name, head, patches)
                for name, head in self.mvm_heads.items()
                if MVM_PREFIX + name in weights
            }
            for name, prediction in output.mvm_predictions.items():
                assert bool_masked_pos is not None  # `_check_objectives` saw to it
                losses[MVM_PREFIX + name] = mvm_loss(name, prediction, mvm_targets[name], bool_masked_pos)
        if "smtm" in weights:
            written = self.violet(
                video_tokens=video,
                input_ids=input_ids,
                attention_mask=mask,
                attention_rule="sequence_to_sequence",
                **kwargs,
            )
            self._masked_words("smtm", written.text_hidden_state, labels, output)
        output.loss = combine(losses, weights)
        return output

    def _default_objectives(self, labels, negative_index, mvm_targets) -> dict[str, float]:
        there = {"vtm": negative_index is not None, "mlm": labels is not None, "vtc": True, "smtm": False}
        there |= {MVM_PREFIX + name: name in mvm_targets for name in self.mvm_heads}
        return {name: 1.0 for name in self.objective_names() if there[name]}

    def _check_objectives(self, weights, labels, bool_masked_pos, negative_index, mvm_targets):
        unknown = [name for name in weights if name not in self.objective_names()]
        if unknown:
            raise ValueError(
                f"This model has no objective {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self.objective_names())} (`vtc` needs the configuration's `projection_dim`, an MVM "
                "target its `mvm_targets`)."
            )
        needs = {"vtm": ("negative_index", negative_index), "mlm": ("labels", labels), "smtm": ("labels", labels)}
        for name in weights:
            argument, value = needs.get(name, ("", True))
            if name.startswith(MVM_PREFIX):
                target = name.removeprefix(MVM_PREFIX)
                argument, value = f"mvm_targets[{target!r}]", mvm_targets.get(target)
                if bool_masked_pos is None:
                    argument, value = "bool_masked_pos", None
            if value is None:
                raise ValueError(f"The objective {name!r} needs `{argument}`.")

    def _match(self, states, negatives, losses, accuracies) -> torch.Tensor:
        """states (batch * (1 + K), width), the own pairs first -> logits (batch, 1 + K); fills the loss in"""
        scores = self.match_head(states)[:, 0]
        own, other = scores[: len(negatives)], scores[len(negatives) :].view(negatives.shape)
        logits = torch.cat([own[:, None], other], dim=1)
        absent = torch.cat([torch.zeros_like(negatives[:, :1]), negatives], dim=1) < 0
        scaled = (logits.float() / self.config.match_temperature).masked_fill(absent, float("-inf"))
        alone = absent[:, 1:].all(dim=1)  # nothing to tell the text from: no loss, no accuracy
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device).masked_fill(alone, IGNORE_INDEX)
        losses["vtm"] = masked_cross_entropy(scaled, target)
        accuracies["vtm"] = masked_accuracy(scaled, target)
        return logits

    def _masked_words(self, name, states, labels, output) -> torch.Tensor:
        logits = self.mlm_head(states)
        output.losses[name] = masked_cross_entropy(logits, labels)
        output.accuracies[name] = masked_accuracy(logits, labels)
        return logits


def hardest(candidates: torch.Tensor, videos: torch.Tensor, texts: torch.Tensor, most: int) -> torch.Tensor:
    """
    Of each video's candidate texts, those whose embedding is nearest to its own.

    Args:
        candidates: (batch, K), rows of `texts`, −1 for none.
        videos, texts: (batch, width), of length 1.

    Returns:
        (batch, at most `most`), the nearest first, −1 behind them where there are fewer.
    """
    scores = (videos @ texts.t()).detach().gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -2.0)
    best = scores.topk(min(most, candidates.shape[1]), dim=1).indices
    return candidates.gather(1, best)
