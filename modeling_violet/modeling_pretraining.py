"""`VioletForPreTraining`: matching, masked words, masked visual modelling and contrast in one pass."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import take_clip_inputs
from ..core.upstream import can_return_tuple
from .embedding_gradients import EmbeddingGradients
from .experts import with_measures
from .fusions import fuses_pairs, record_received_attention, writes_by_head
from .fusions.fusion import require_states_of
from .heads import build_match_head, build_word_head
from .losses import combine
from .modeling_violet import VioletModel, VioletPreTrainedModel
from .objectives.masked_vision import build_mvm_heads
from .objectives.objective import EmbeddingObjective, Objective, Outcome, objectives_of, why_absent
from .objectives.passes import Passes


@dataclass
class VioletPreTrainingOutput(ModelOutput):
    """
    Attributes:
        loss: (), the weighted sum of `losses`.
        losses: each objective's loss (), by name, before its weight.
        accuracies: (), by name: of matching (`vtm`), masked words (`mlm`, `smtm`) and contrast (`vtc`, video to text).
        measures: (), other numbers that objectives tell of the batch, by name; and those of experts
            (`experts.measures_of`), whose losses are in `loss`.
        bool_masked_pos: (batch, steps, rows, columns), which patches were hidden, if an objective of this pass hid
            them in its own way.
        mlm_logits: (batch, X, vocabulary).
        match_logits: (batch, 1 + negatives), the video's own text first, before the temperature.
        mvm_predictions: what each target's head predicts, by target, in the target's layout (see
            `vision_targets`).
        predictions: what the heads of other objectives predict, by objective.
        received_attention: (batch, L_v + X), if only this was asked for.
        embeddings: the sets that the objectives compare, (batch, …) each, by `OBJECTIVE.SET`, if only they were asked
            for.
        hidden_states, attentions: if asked for, of the fusion under the bidirectional rule, one row per pair:
            each video with its own text, then with its negatives.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    accuracies: dict[str, torch.Tensor] | None = None
    measures: dict[str, torch.Tensor] | None = None
    bool_masked_pos: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None
    match_logits: torch.Tensor | None = None
    mvm_predictions: dict[str, torch.Tensor] | None = None
    predictions: dict[str, Any] | None = None
    received_attention: torch.Tensor | None = None
    embeddings: dict[str, torch.Tensor] | None = None
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
    - any other of `objectives.objective.OBJECTIVES` that the configuration's `objectives` names.

    A model without a fusion has those only that compare embeddings (`EmbeddingObjective`).
    The pass of a video with its own text serves matching, masked words and masked visual modelling alike.
    """

    needs_fusion = False

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.match_head = build_match_head(config) if fuses_pairs(config) else None
        self.mlm_head = build_word_head(config) if writes_by_head(config) else None
        if config.mvm_targets and not self.violet.video_encoder.on_grid:
            raise ValueError(
                "`mvm_targets` predicts what the cells of a grid show, and the tokens of the `vision_positions` "
                f"{config.vision_positions!r} stand on none: leave `mvm_targets` out."
            )
        self.mvm_heads = build_mvm_heads(config) if fuses_pairs(config) else nn.ModuleDict()
        self.objectives = objectives_of(config)
        heads = {name: objective.build_head(config) for name, objective in self.objectives.items()}
        self.objective_heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear | None:
        return None if self.mlm_head is None else self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        if self.mlm_head is not None:
            self.mlm_head.decoder = new_embeddings

    def objective_names(self) -> list[str]:
        """All objectives that this model can be trained with."""
        return list(self.objectives)

    def find_objectives(self, names: Collection[str]) -> list[Objective]:
        """
        The objectives of these names, in the order in which they are computed.

        Raises:
            ValueError: for one that this model does not have, with those that it has and with what it lacks; for one
                whose rule of attention its parts cannot serve.
        """
        unknown = [name for name in names if name not in self.objectives]
        if unknown:
            raise ValueError(
                f"This model has no objective {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self.objectives)} ({'; '.join(map(why_absent, unknown))})."
            )
        found = [objective for name, objective in self.objectives.items() if name in names]
        for objective in found:
            if objective.rule is not None:
                self.violet.check_rule(objective.rule, f"The objective {objective.name!r}")
        return found

    def unread_parameters(self) -> list[nn.Parameter]:
        """Task tokens, and what stands for a hidden order of frames, see `VioletPreTrainedModel`."""
        optional = (self.violet.task_tokens, self.violet.video_encoder.hidden_order_embedding)
        return [parameter for parameter in optional if parameter is not None]

    def freeze_unused(self, objectives: Collection[str]) -> None:
        """
        Parameters that none of these objectives trains keep their value and get no gradient. Some ways to train over
        several processes (FSDP) cannot save an optimiser with parameters that never had one.
        """
        used = {parameter for one in self.find_objectives(objectives) for parameter in one.trained(self)}
        own = {parameter for one in self.objectives.values() for parameter in one.trained(self)}
        for parameter in own.union(self.unread_parameters()) - used:
            parameter.requires_grad_(False)

    @can_return_tuple
    @with_measures
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
        only_embeddings: bool = False,
        embedding_gradients: EmbeddingGradients | None = None,
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
            num_hard_negatives: take only this many of the K, those nearest to the video before the fusion.
            mvm_targets: what the masked patches show, by target, as its teacher gives it (see `teachers`); and what
                the teachers of other objectives give, by objective.
            objectives: weights by objective; those that are not named are not computed. By default 1 for each whose
                inputs are given.
            kwargs: what other objectives need, and transformers' own arguments.
            only_received_attention: return nothing but `received_attention`: for each place of the video and of the
                text the attention that it receives, mean over heads, summed over layers and queries.
            only_embeddings: return nothing but `embeddings`, for `compare_embeddings`.
            embedding_gradients: the gradients of a loss of these rows' `embeddings`; `loss` is then a number whose
                gradient is that loss's, see `training.gradient_caching`.

        Raises:
            ValueError: for an objective that this model does not have, or whose input is missing; for one that
                compares no embeddings, if only they are asked for.
        """
        if pixel_values_videos is None or input_ids is None:
            raise ValueError("Pre-training needs `pixel_values_videos` and `input_ids`.")
        if only_received_attention:
            require_states_of("video", self.config, "Masking by received attention (`masks`: 'attended')")
            with record_received_attention(self.violet.fusion) as received:
                fused = self.violet(pixel_values_videos, input_ids, attention_mask, **kwargs)
            total, video, text = received.total, fused.video_hidden_state, fused.text_hidden_state
            assert total is not None  # the fusion was passed
            parts = [total[:, : video.shape[1]], total[:, -text.shape[1] :]]  # sound between them is never masked
            return VioletPreTrainingOutput(received_attention=torch.cat(parts, dim=1))
        inputs: dict[str, Any] = {
            "pixel_values_videos": pixel_values_videos,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "bool_masked_pos": bool_masked_pos,
            "negative_index": negative_index,
            "num_hard_negatives": num_hard_negatives,
            "wrong_ids": wrong_ids,
            "wrong_attention_mask": wrong_attention_mask,
            "mvm_targets": mvm_targets or {},
        }
        own = {name for one in self.objectives.values() for name in (*one.needs, *one.takes)}
        inputs |= take_clip_inputs(kwargs)
        inputs |= {name: kwargs.pop(name) for name in own.intersection(kwargs)}
        if objectives is None:
            objectives = {name: 1.0 for name, one in self.objectives.items() if one.is_asked_for(inputs)}
        named = self.find_objectives(objectives)
        for objective in named:
            objective.require(inputs)
        passes = Passes(self, inputs, named, kwargs)
        if only_embeddings:
            return VioletPreTrainingOutput(embeddings=self._embed(named, passes))
        if embedding_gradients is not None:
            return VioletPreTrainingOutput(loss=embedding_gradients.of(self._embed(named, passes), self.shared(named)))
        outcomes = {objective.name: objective.loss(passes) for objective in named}
        return VioletPreTrainingOutput(**_summed(outcomes, objectives), **passes.recorded())

    def _embed(self, named: Iterable[Objective], passes: Passes) -> dict[str, torch.Tensor]:
        sets: dict[str, torch.Tensor] = {}
        for objective in named:
            if not isinstance(objective, EmbeddingObjective):
                raise ValueError(f"The objective {objective.name!r} compares no embeddings: name only those that do.")
            sets |= {f"{objective.name}.{name}": rows for name, rows in objective.embed(passes).items()}
        return sets

    def shared(self, named: Iterable[Objective]) -> list[nn.Parameter]:
        """The parameters that these objectives' `compare` itself reads."""
        compared = (objective for objective in named if isinstance(objective, EmbeddingObjective))
        return list({id(one): one for objective in compared for one in objective.shared(self)}.values())

    def compare_embeddings(
        self, embeddings: Mapping[str, torch.Tensor], objectives: Mapping[str, float], **inputs: torch.Tensor
    ) -> VioletPreTrainingOutput:
        """
        The losses of these objectives on `embeddings` of a whole batch.

        Args:
            embeddings: as `forward` gives them of the batch, or of its parts one behind the other.
            objectives: weights by objective.
            inputs: the batch's, as of `forward`.
        """
        named = self.find_objectives(objectives)
        absent = {name: None for one in named for name in (*one.needs, *one.takes)}
        given = {**dict.fromkeys(("labels", "attention_mask", "bool_masked_pos")), **absent, **inputs}
        passes = Passes(self, given, named, {})
        outcomes = {}
        for one in named:
            assert isinstance(one, EmbeddingObjective)  # it gave the embeddings
            of_it = {
                name.partition(".")[2]: rows for name, rows in embeddings.items() if name.startswith(f"{one.name}.")
            }
            outcomes[one.name] = one.compare(of_it, passes)
        return VioletPreTrainingOutput(**_summed(outcomes, objectives))


def _summed(outcomes: Mapping[str, Outcome], weights: Mapping[str, float]) -> dict[str, Any]:
    """The fields of `VioletPreTrainingOutput` that the objectives' outcomes give."""
    losses = {name: outcome.loss for name, outcome in outcomes.items()}
    return {
        "loss": combine(losses, weights),
        "losses": losses,
        "accuracies": {name: one.accuracy for name, one in outcomes.items() if one.accuracy is not None},
        "measures": {key: value for one in outcomes.values() for key, value in one.measures.items()},
        **merged(outcome.outputs for outcome in outcomes.values()),
    }


def merged(outputs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of all objectives; a dictionary that several of them give is one of all their entries."""
    fields: dict[str, Any] = {}
    for output in outputs:
        for name, value in output.items():
            fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
    return fields
