"""The models: `VioletModel` and one class for each task."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import BOXES, SOUND, take_clip_inputs, take_named
from ..core.upstream import can_return_tuple, capture_outputs, one_cache
from ..core.whole_folders import SavedWhole
from .area_pooling import boxes_of_steps, check_boxes
from .attention import RULES
from .embeddings import VISION_POSITIONS, VioletVideoEncoder, VioletVideoStates
from .encoders import Encoder
from .experts import with_measures
from .fusions import build_fusion, find_fusion, fuses_pairs
from .fusions.bert_fusion import VioletFusionAttention, VioletFusionLayer
from .fusions.fusion import CLIP_STATES
from .heads import build_head, build_word_head
from .losses import contrastive_loss, first_of_each, gather_rows, masked_cross_entropy
from .projection import VioletProjection, build_projection
from .scaled_linear import VioletScaledLinear
from .sounds import build_sound_side
from .texts import build_text_side
from .tokens import Tokens

RECORDED = ("output_hidden_states", "output_attentions")
"""Arguments, or fields of a configuration, that ask for what every layer computes."""


@dataclass
class VioletModelOutput(ModelOutput):
    """
    Attributes:
        last_hidden_state: (texts, L_v + L_a + P + X, width), the fusion's states of `[video; sound; prompt; text]`, or
            only of the text if a filled cache was given.
        video_hidden_state: (texts, L_v, width); None if the fusion's sequence has no video tokens.
        audio_hidden_state: (texts, L_a, width), if the videos were heard.
        prompt_hidden_state: (texts, P, width), if there is a task token or a prompt.
        text_hidden_state: (texts, X, width); None if only the prompt's first state was computed.
        clip_states: (texts, clips, width), the first state behind the video beside each clip, if the fusion joins
            several clips.
        video_tokens: the videos as they entered the fusion, one row per *video*; give it back as `video_tokens` to ask
            about the same videos again.
        hidden_states, attentions: one per fusion layer, if asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    video_hidden_state: torch.Tensor | None = None
    audio_hidden_state: torch.Tensor | None = None
    prompt_hidden_state: torch.Tensor | None = None
    text_hidden_state: torch.Tensor | None = None
    clip_states: torch.Tensor | None = None
    video_tokens: Tokens | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def first_text_state(self) -> torch.Tensor:
        """(texts, width): the state behind the video, which the match and answer heads read ([CLS], or the prompt)."""
        behind = self.text_hidden_state if self.prompt_hidden_state is None else self.prompt_hidden_state
        assert behind is not None  # every forward pass sets the one or the other
        return behind[:, 0]

    def read_by(self, head: nn.Module) -> torch.Tensor:
        """What a head gives of `first_text_state`, or of that beside each clip if it reads clips one by one."""
        read_clips = getattr(head, "read_clips", None)
        if self.clip_states is None or read_clips is None:
            return head(self.first_text_state())
        return read_clips(self.clip_states)


@dataclass
class VioletTaskOutput(ModelOutput):
    """
    Attributes:
        loss: (), if labels or captions were given.
        logits: the head's scores; their shape stands with each model's `forward`.
        hidden_states, attentions: one per fusion layer, if asked for.
        measures: numbers () for a log, by name: of experts, if the model has some (`experts.measures_of`).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    measures: dict[str, torch.Tensor] | None = None


class PromptInputs(TransformersKwargs, total=False):  # type: ignore[call-arg]
    """Arguments of `VioletModel.forward` that every model of texts beside videos passes on."""

    task_ids: torch.Tensor | None
    prompt_ids: torch.Tensor | None
    prompt_attention_mask: torch.Tensor | None


class VioletInputs(PromptInputs, total=False):  # type: ignore[call-arg]
    """Arguments of `VioletModel.forward` that those pass on whose texts each have one video."""

    video_index: torch.Tensor | None
    video_tokens: Tokens | None


def names_inputs(forward: Callable) -> Callable:
    """
    Decorates a `forward` that passes arguments on by `**kwargs: Unpack[…]`: its signature has them by name. By the
    signature transformers' Trainer tells which columns a model needs, and `generate` which arguments it knows.
    """
    signature = inspect.signature(forward)
    *named, catch_all = signature.parameters.values()
    passed_on = get_args(catch_all.annotation)[0].__annotations__
    own = {name: kind for name, kind in passed_on.items() if name not in TransformersKwargs.__annotations__}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=own[name]) for name in own
    ]
    forward.__signature__ = signature.replace(parameters=[*named, *keywords, catch_all])  # type: ignore[attr-defined]
    return forward


class VioletPreTrainedModel(SavedWhole, PreTrainedModel):
    """Loading, saving and initialisation of every VIOLET model."""

    config_class = VioletConfig
    base_model_prefix = "violet"
    main_input_name = "pixel_values_videos"
    input_modalities: tuple[str, ...] = ("video", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the losses are means of their own: let the Trainer divide by the accumulated steps
    _supports_sdpa = True
    needs_fusion = True
    """Whether the class reads the fusion's states, so that a configuration without one is refused."""
    reads_under: str = "bidirectional"
    """The rule of attention under which it does, so that a fusion that does not serve it is refused."""
    _no_split_modules = ["VioletFusionLayer", "VioletTextEmbeddings"]  # and the encoder's own
    _can_record_outputs = {"hidden_states": VioletFusionLayer, "attentions": VioletFusionAttention}

    def __init__(self, config: VioletConfig, *inputs: Any, **kwargs: Any):
        if self.needs_fusion and not config.has_fusion:
            raise ValueError(
                f"{type(self).__name__} reads the states of a fusion, and `fusion_model_config.model_type` is 'none': "
                "leave `fusion_model_config` out."
            )
        if not self.is_served(config):
            raise _unserved(type(self).__name__, self.reads_under, config, find_fusion(config).rules)
        super().__init__(config, *inputs, **kwargs)

    @classmethod
    def is_served(cls, config: VioletConfig) -> bool:
        """Whether the configuration's fusion serves the rule under which this class reads it."""
        return not cls.needs_fusion or (config.has_fusion and cls.reads_under in find_fusion(config).rules)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if isinstance(module, VioletScaledLinear):
            module.start_weights()
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.trunc_normal_(module.weight, std=std)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VioletVideoStates):
            init.copy_(module.masked_patch_value, torch.tensor(self.config.masked_patch_value))
            if not isinstance(module, VioletVideoEncoder):
                return
            for parameter in (module.frame_token, module.position_embeddings, module.frame_embeddings):
                init.trunc_normal_(parameter, std=std)
            if module.hidden_order_embedding is not None:
                init.trunc_normal_(module.hidden_order_embedding, std=std)
        elif isinstance(module, VioletModel) and module.task_tokens is not None:
            init.trunc_normal_(module.task_tokens, std=std)
        elif hasattr(module, "start_weights"):  # a part whose own parameters begin in its own way
            module.start_weights()  # type: ignore[operator]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.base_model.text_embeddings.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding):
        self.base_model.text_embeddings.set_input_embeddings(value)

    def unread_parameters(self) -> list[nn.Parameter]:
        """
        Parameters that no pass of this class reads. Freeze them before training: processes that train together would
        wait for gradients that never come.
        """
        return []

    def enable_input_require_grads(self):
        """As transformers', which needs embeddings that give one tensor: TimeSformer's give more beside it."""

        def require(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            (output[0] if isinstance(output, tuple) else output).requires_grad_(True)

        models = [module for module in self.modules() if isinstance(module, PreTrainedModel)]
        embeddings = {model.get_input_embeddings() for model in models if _has_input_embeddings(model)}
        self._require_grads_hooks = [module.register_forward_hook(require) for module in embeddings]
        self._require_grads_hook = self._require_grads_hooks[0]  # what older releases remove


def _unserved(reader: str, rule: str, config: VioletConfig, rules: Iterable[str]) -> ValueError:
    own: Any = config.fusion_model_config
    return ValueError(
        f"{reader} needs the rule of attention {rule!r} (`attention_rule`), and the fusion "
        f"`fusion_model_config.model_type` {own.model_type if own else 'bert'!r} serves {', '.join(map(repr, rules))}."
    )


def _has_input_embeddings(model: PreTrainedModel) -> bool:
    """Whether a model says what its inputs are embedded by; an encoder of one's own may not."""
    try:
        return isinstance(model.get_input_embeddings(), nn.Module)
    except NotImplementedError:
        return False


class VioletModel(VioletPreTrainedModel):
    """
    A vision encoder, a text side and a fusion (VIOLET's: Video Swin, BERT's text embeddings, BERT's encoder): fused
    features of a video and a text.
    """

    needs_fusion = False

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.video_encoder = VISION_POSITIONS.find(config.vision_positions)(config)
        self.audio_encoder = build_sound_side(config, self.vision_model)
        self.text_embeddings = build_text_side(config)
        self.text_embeddings.share(self.vision_model)
        self.task_tokens = (
            nn.Parameter(torch.empty(config.num_task_tokens, config.hidden_size)) if config.num_task_tokens else None
        )
        self.projection = build_projection(config, self.video_encoder, self.text_embeddings)
        self.fusion = build_fusion(config)
        self.fusion.share(self.text_embeddings)
        if self.audio_encoder is not None and config.has_fusion and not self.fusion.hears:
            own: Any = config
            fusion, audio = own.fusion_model_config.model_type, own.audio_config.model_type
            raise ValueError(
                f"The fusion `fusion_model_config.model_type` {fusion!r} takes no sound, and there is an "
                f"`audio_config` of the `model_type` {audio!r}: leave one of them out."
            )
        self.post_init()

    @property
    def vision_model(self) -> PreTrainedModel:
        """The vision encoder's model, without what VIOLET adds to its states."""
        return self.video_encoder.vision_model

    @property
    def vision_encoder(self) -> Encoder:
        """How that model is asked: its cells, and the grid of a clip."""
        return self.video_encoder.encoder

    def sides(self) -> dict[str, nn.Module]:
        """What encodes each group of the fusion, by its name there: video, and audio and text if there are any."""
        sides = {"video": self.video_encoder, "audio": self.audio_encoder, "text": self.text_embeddings}
        return {name: side for name, side in sides.items() if side is not None}

    @property
    def has_fusion(self) -> bool:
        """Whether `fuse` works; without a fusion videos and texts are compared by their embeddings."""
        return self.config.has_fusion

    @property
    def matches_in_fusion(self) -> bool:
        """Whether the fusion tells if a text is true of a video; else the two are compared by their embeddings."""
        return fuses_pairs(self.config)

    @property
    def has_embeddings(self) -> bool:
        """Whether `embed_videos` and `embed_texts` work: the configuration has a `projection_dim`."""
        return self.projection is not None

    def encode_videos(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        hidden_frame_order: torch.Tensor | None = None,
        **others: torch.Tensor | None,
    ) -> Tokens:
        """
        Videos (batch, frames, channels, height, width) as the tokens that enter the fusion; `others` are those of the
        same videos that the encoder's `inputs` names; their sound, see `encode_sounds`, which becomes the tokens'
        `audio`; and `boxes` and `box_mask`, see `with_boxes`.
        """
        inputs = take_clip_inputs(others, pixel_values_videos)
        sound, boxes = take_named(inputs, SOUND), take_named(inputs, BOXES)
        video = self.with_sound(self.video_encoder(inputs, bool_masked_pos, hidden_frame_order), sound)
        return self.fusion.prepare(self.with_boxes(video, **boxes) if boxes else video)

    def with_boxes(self, video: Tokens, boxes: torch.Tensor, box_mask: torch.Tensor | None = None) -> Tokens:
        """
        Tokens of videos of which a part is meant: their embeddings, and what is written about them, are those of the
        part. Boxes that are moved cost no new pass of the vision encoder.

        Args:
            boxes: (batch, frames, 4), or (batch, 4) for all frames: (x1, y1, x2, y2) in shares of the frame.
            box_mask: (batch, frames), 1 for a frame that shows its box; all 1 if it is not given.

        Raises:
            ValueError: for a model that reads no boxes; for boxes of other videos, or such as `check_boxes` refuses.
        """
        if not (self.fusion.reads_boxes or (self.projection is not None and self.projection.reads_boxes)):
            raise ValueError(
                "This model reads no boxes: a language model as the fusion (`fusion_model_config.model_type` "
                "'language_model', with a `pooled_grid`) or the `projection_type` 'language_model' does."
            )
        assert video.grid is not None  # tokens of videos
        if boxes.dim() == 2:
            boxes = boxes[:, None].expand(-1, video.grid[0] if box_mask is None else box_mask.shape[1], -1)
        if boxes.dim() != 3 or len(boxes) != len(video):
            raise ValueError(
                f"`boxes` have the shape {tuple(boxes.shape)} for {len(video)} videos: (videos, frames, 4) is needed."
            )
        if not torch.compiler.is_compiling() and boxes.is_cpu:  # no synchronisation; the processor has checked them
            boxes = check_boxes(boxes, box_mask)
        shown = boxes.new_ones(boxes.shape[:2]) if box_mask is None else box_mask
        boxes, shown = boxes_of_steps(boxes, shown, video.grid[0])
        return replace(video, boxes=boxes, box_mask=shown)

    def with_sound(self, video: Tokens, sound: Mapping[str, torch.Tensor]) -> Tokens:
        """Tokens of videos with those of their sounds (the arguments of `encode_sounds`, if any) as `audio`."""
        if not sound:
            return video
        audio = self.encode_sounds(**sound)
        if len(audio) != len(video):
            raise ValueError(f"There are {len(audio)} sounds for {len(video)} videos: one each is needed.")
        return replace(video, audio=audio)

    def encode_sounds(self, audio_values: torch.Tensor, audio_attention_mask: torch.Tensor | None = None) -> Tokens:
        """
        Sounds of clips (batch, samples), from -1 to 1, with their mask (batch, samples), 1 for a sample of sound, as
        the tokens that enter the fusion. A row whose mask is 0 is a clip without sound.

        Raises:
            ValueError: for a model whose configuration has no `audio_config`.
        """
        if self.audio_encoder is None:
            raise ValueError(
                "This model takes no sound: its configuration has no `audio_config`. Leave `audio_values` out, or "
                "process the videos without `sound`."
            )
        return self.audio_encoder(audio_values, audio_attention_mask)

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        """Texts (batch, X), with their mask, as the tokens that enter the fusion."""
        return self.text_embeddings.encode(input_ids, attention_mask)

    def embed_videos(self, tokens: Tokens) -> torch.Tensor:
        """
        Encoded videos -> their embeddings before the fusion, (batch, projection_dim), of length 1. Their inner product
        with `embed_texts` says how near a video and a text are.

        Raises:
            ValueError: for a model without embeddings, see `has_embeddings`; for boxes that its projection does not
                read.
        """
        projection = self._need_projection()
        if tokens.boxes is not None and not projection.reads_boxes:
            raise ValueError(
                f"The `projection_type` {self.config.projection_type!r} reads no boxes: leave them out, or use "
                "'language_model'."
            )
        return projection.video(tokens)

    def embed_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Texts (batch, X) -> their embeddings before the fusion, (batch, projection_dim), of length 1.

        Raises:
            ValueError: for a model without embeddings, see `has_embeddings`.
        """
        return self._need_projection().text(self.encode_texts(input_ids, attention_mask))

    def embed_sounds(self, sounds: Tokens) -> torch.Tensor:
        """
        Encoded sounds (`encode_sounds`) -> their embeddings, (batch, width), of length 1. Their inner product with
        `embed_videos_beside_sounds` says how near a video and a sound are; of a clip without sound they mean nothing.

        Raises:
            ValueError: for a model whose `projection_type` has no space of sounds.
        """
        return self._need_sound_space().sound(sounds)

    def embed_videos_beside_sounds(self, tokens: Tokens) -> torch.Tensor:
        """
        Encoded videos -> their embeddings in the space of `embed_sounds`, (batch, width), of length 1.

        Raises:
            ValueError: for a model whose `projection_type` has no space of sounds.
        """
        return self._need_sound_space().video_beside_sound(tokens)

    def compare(self, video_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """
        Every text against every video by their embeddings before the fusion.

        Args:
            video_embeds: (videos, projection_dim), see `embed_videos`.
            text_embeds: (texts, projection_dim), see `embed_texts`.

        Returns:
            (texts, videos), inner products divided by the projection's temperature.
        """
        return self._need_projection().scale() * (text_embeds @ video_embeds.t())

    def fuse(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """
        Named groups of tokens through the fusion: each group's states (batch, tokens, width). See `Fusion.forward`.

        Raises:
            ValueError: for a rule that is unknown, or that the model's parts cannot serve.
        """
        self.check_rule(rule, "This pass")
        return self.fusion(groups, rule, cache, past_mask, **kwargs)

    def check_rule(self, rule: str, reader: str) -> None:
        """
        Refuses a model whose parts cannot serve a rule of attention.

        Args:
            reader: what needs it, for the message.

        Raises:
            ValueError: for a rule that is unknown, or that a setting stands against, with its name.
        """
        if rule not in self.fusion.rules:
            if rule not in RULES:
                raise ValueError(f"`attention_rule` {rule!r} is unknown; use {' or '.join(map(repr, RULES))}.")
            if rule in self.fusion.refused:
                raise ValueError(
                    f"{reader} needs the rule of attention {rule!r} (`attention_rule`), {self.fusion.refused[rule]}."
                )
            raise _unserved(reader, rule, self.config, self.fusion.rules)
        if RULES[rule].causal and self.text_embeddings.contextual and not self.text_embeddings.causal:
            text = self.config.text_config.model_type
            raise ValueError(
                f"{reader} needs the rule of attention {rule!r} (`attention_rule`), under which no word knows those "
                f"behind it, and `text_config.model_type` {text!r} lets each see all: leave `text_config` out."
            )

    def past_words(self, filled: int, context: Mapping[str, Tokens]) -> int:
        """How many words a cache of that length holds, behind the `context`: the groups in front of the text."""
        counted = sum(group.mask.shape[1] for group in context.values()) if self.fusion.joint_sequence else 0
        return filled - counted

    def _need_projection(self) -> VioletProjection:
        if self.projection is None:
            raise ValueError(
                "This model has no embeddings before the fusion: its configuration has no projection_dim."
            )
        return self.projection

    def _need_sound_space(self) -> Any:
        projection: Any = self._need_projection()
        if self.audio_encoder is None or not hasattr(projection, "sound"):
            raise ValueError(
                "This model has no space of videos and sounds: it needs an `audio_config`, and the `projection_type` "
                f"'fine_and_coarse' or 'joint', not {self.config.projection_type!r}."
            )
        return projection

    def get_video_features(
        self, pixel_values_videos: torch.Tensor | None = None, **pixels: torch.Tensor | None
    ) -> BaseModelOutputWithPooling:
        """
        Videos before they meet a text: `last_hidden_state` (batch, L_v, width), the video tokens, and `pooler_output`
        (batch, projection_dim), of length 1 and comparable with `get_text_features`, if the configuration has a
        projection (`None` elsewhere). Good for search over many clips; a fused score tells near clips apart better.
        """
        video = self.encode_videos(pixel_values_videos, **pixels)
        pooled = self.embed_videos(video) if self.has_embeddings else None
        return BaseModelOutputWithPooling(last_hidden_state=video.tokens, pooler_output=pooled)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """
        Texts before they meet a video: `last_hidden_state` (batch, X, width), the text side's states (of BERT's
        embeddings: no context between the words), and `pooler_output` (batch, projection_dim), of length 1, if the
        configuration has a projection.
        """
        texts = self.encode_texts(input_ids, attention_mask)
        pooled = None if self.projection is None else self.projection.text(texts)
        return BaseModelOutputWithPooling(last_hidden_state=texts.tokens, pooler_output=pooled)

    def video_and_text_embeddings(
        self, video: Tokens, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded videos and one text for each -> their embeddings before the fusion, (batch, projection_dim) each."""
        if len(input_ids) != len(video.tokens):
            raise ValueError(f"There are {len(input_ids)} texts for {len(video.tokens)} videos: one each is needed.")
        return self.embed_videos(video), self.embed_texts(input_ids, attention_mask)

    def contrast(
        self,
        videos: torch.Tensor,
        texts: torch.Tensor,
        input_ids: torch.Tensor,
        gather: bool = False,
        others: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Contrastive loss between videos and their texts before the fusion, see `losses.contrastive_loss`, and the share
        of videos whose nearest text is theirs. Texts of the same words count as each other's positives.

        Args:
            videos, texts: (batch, projection_dim), see `video_and_text_embeddings`.
            input_ids: (batch, X), the texts' words.
            gather: whether to tell apart the rows of all processes.
            others: (others, projection_dim), texts that are true of no video.
            video_ids: (batch,), a number of its own for each video of the data set: one that several processes have
                counts once.
        """
        # One number stands for a text's words, whatever it is padded to (padding, 0, adds nothing).
        places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        words = (input_ids * (places * 0x9E3779B1 + 0x7F4A7C15)).sum(1)
        if gather:
            videos, texts, words = gather_rows(videos), gather_rows(texts), gather_rows(words)
            others = None if others is None else gather_rows(others)
            if video_ids is not None:
                once = first_of_each(gather_rows(video_ids))[1]
                videos, texts, words = videos[once], texts[once], words[once]
        same = words[:, None] == words[None, :]
        candidates = texts if others is None else torch.cat([texts, others])
        nearest = (videos @ candidates.t()).argmax(1, keepdim=True)
        right = nn.functional.pad(same, (0, len(candidates) - len(texts)))
        accuracy = right.gather(1, nearest).float().mean()
        return contrastive_loss(videos, texts, self._need_projection().logarithm(), same, others), accuracy

    def caption_loss(
        self,
        video: Tokens,
        caption_ids: torch.Tensor,
        caption_attention_mask: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The contrastive loss of `contrast` between videos and their captions; in training, of all processes."""
        videos, texts = self.video_and_text_embeddings(video, caption_ids, caption_attention_mask)
        return self.contrast(videos, texts, caption_ids, gather=self.training, video_ids=video_ids)[0]

    def _prompt(self, task_ids, prompt_ids, prompt_attention_mask, batch: int) -> Tokens | None:
        if task_ids is not None and prompt_ids is not None:
            raise ValueError("Give `task_ids` or `prompt_ids`, not both: each takes the place between video and text.")
        if task_ids is not None:
            if self.task_tokens is None:
                raise ValueError("`task_ids` needs a model whose configuration has `num_task_tokens` above 0.")
            if task_ids.shape not in ((1,), (batch,)):
                raise ValueError(f"`task_ids` has shape {tuple(task_ids.shape)} for {batch} texts: one each, or one.")
            states = self.task_tokens[task_ids].unsqueeze(1).expand(batch, -1, -1)  # (batch, 1, width)
            return Tokens(states, task_ids.new_ones(states.shape[:2]))
        if prompt_ids is not None:
            prompt = self.encode_texts(prompt_ids, prompt_attention_mask)
            if len(prompt_ids) not in (1, batch):
                raise ValueError(f"`prompt_ids` has {len(prompt_ids)} rows for {batch} texts: give one each, or one.")
            return Tokens(prompt.tokens.expand(batch, -1, -1), prompt.mask.expand(batch, -1))
        return None

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_index: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None,
        prompt_ids: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        hidden_frame_order: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        attention_rule: str = "bidirectional",
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        only_first_state: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VioletModelOutput:
        r"""
        Args:
            pixel_values_videos: (videos, frames, channels, height, width), normalised by the processor. Others that
                the vision encoder's `inputs` names are given by their names, and so is sound, see `encode_sounds`.
            input_ids: (texts, X), as `[CLS] … [SEP]`.
            attention_mask: (texts, X), 1 for a token and 0 for padding; all 1 if it is not given.
            video_index: (texts,), the video that each text belongs to; the text's own number if it is not given.
                A video is encoded once, however many texts meet it.
            task_ids: (texts,) or (1,), rows of the learned task tokens (`configuration.TASK_TOKENS`).
            prompt_ids: (texts, P) or (1, P), an instruction in words between video and text.
            prompt_attention_mask: (texts, P) or (1, P), 1 for a token and 0 for padding.
            bool_masked_pos: (videos, frames, rows, columns), True where a patch's pixels are hidden.
            hidden_frame_order: (videos, frames), True where a frame's place in time is hidden (VIOLETv2).
            video_tokens: videos encoded earlier, in place of `pixel_values_videos`.
            attention_rule: who sees whom, a name of `attention.RULES` that the fusion serves.
            inputs_embeds: (texts, X, width), texts encoded earlier (`encode_texts`), in place of `input_ids`.
            position_ids: (texts, X), each token's place in its text; 0, 1, 2, … if it is not given.
            cache: under the sequence-to-sequence rule, a cache of keys and values. An empty one is filled
                with those of video, prompt and text. With a filled one, `input_ids` are the words that come next:
                only they are computed, while `attention_mask` covers the whole text.
            past_key_values: the older name of `cache`.
            only_first_state: whether only `first_text_state` of the output will be read. The last layer may then
                compute no other, and the output has no other: `last_hidden_state` is (texts, 1, width).
        """
        cache = one_cache(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "Give exactly one of `input_ids` and `inputs_embeds`; without a text there is `get_video_features`."
            )
        pixels = take_clip_inputs(kwargs, pixel_values_videos)
        if video_tokens is None and pixels:
            video_tokens = self.encode_videos(
                bool_masked_pos=bool_masked_pos, hidden_frame_order=hidden_frame_order, **pixels
            )
        elif video_tokens is None or pixels:
            raise ValueError("Give exactly one of `pixel_values_videos` and `video_tokens`.")
        elif bool_masked_pos is not None or hidden_frame_order is not None:
            raise ValueError("Encoded `video_tokens` cannot be masked: give `pixel_values_videos`.")
        words: Any = inputs_embeds
        filled = 0 if cache is None else cache.get_seq_length()  # before this pass adds to it
        if input_ids is not None and position_ids is None and cache is None:
            encoded = self.encode_texts(input_ids, attention_mask)  # it may put tokens in front of the words
            words, attention_mask = encoded.tokens, encoded.mask
        elif input_ids is not None:
            of_cache: dict[str, Any] = {}
            if self.text_embeddings.causal and cache is not None:
                of_cache = {"cache": cache, "first_layer": self.fusion.cached_layers}
            words = self.text_embeddings(input_ids, attention_mask, position_ids, **of_cache)
        texts = words.shape[0]
        if video_tokens.prepared is None:
            video_tokens = self.fusion.prepare(video_tokens)
        groups = _videos_of_texts(video_tokens, texts, video_index).groups()
        prompt = self._prompt(task_ids, prompt_ids, prompt_attention_mask, batch=texts)
        if prompt is not None:
            groups["prompt"] = prompt
        past_mask = None
        if filled:  # video, prompt and the first words are in the cache
            outside = {name: group for name, group in groups.items() if name in self.fusion.outside}
            inside = {name: group for name, group in groups.items() if name not in outside}
            past_words = self.past_words(filled, inside)
            past_mask, attention_mask = _past_masks(inside, words, attention_mask, past_words)
            groups = outside
        groups["text"] = Tokens(words, _all_ones(words) if attention_mask is None else attention_mask)
        recorded = any(kwargs.get(name, getattr(self.config, name, False)) for name in RECORDED)
        if only_first_state and self.fusion.narrows and not recorded:
            kwargs["first_of"] = "text" if prompt is None else "prompt"  # type: ignore[typeddict-unknown-key]
        states = self.fuse(groups, attention_rule, cache, past_mask, **kwargs)
        clip_states = states.pop(CLIP_STATES, None)
        return VioletModelOutput(
            last_hidden_state=torch.cat(list(states.values()), dim=1),
            video_hidden_state=states.get("video"),
            audio_hidden_state=states.get("audio"),
            prompt_hidden_state=states.get("prompt"),
            text_hidden_state=states.get("text"),
            clip_states=clip_states,
            video_tokens=video_tokens,
        )


def _past_masks(
    groups: Mapping[str, Tokens], words: torch.Tensor, attention_mask: torch.Tensor | None, past_words: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask of what is in the cache, of `groups` and the first words, and that of `words`, which come next."""
    if attention_mask is None:
        attention_mask = words.new_ones((len(words), past_words + words.shape[1]), dtype=torch.long)
    past_mask = torch.cat([group.mask for group in groups.values()] + [attention_mask[:, :past_words]], dim=1)
    return past_mask, attention_mask[:, past_words:]


def _all_ones(words: torch.Tensor) -> torch.Tensor:
    """The mask (texts, X) of texts (texts, X, width) without padding."""
    return words.new_ones(words.shape[:2], dtype=torch.long)


def _videos_of_texts(video: Tokens, texts: int, video_index: torch.Tensor | None) -> Tokens:
    """The video of each text, a row each; see `VioletModel.forward`."""
    if video_index is None:
        if len(video) != texts:
            raise ValueError(f"{texts} texts and {len(video)} videos: say by `video_index` which belong together.")
        return video
    if video_index.shape != (texts,):
        raise ValueError(f"`video_index` has shape {tuple(video_index.shape)} for {texts} texts.")
    return video.select(video_index)


class VioletForMaskedLM(VioletPreTrainedModel):
    """Predicts masked words of a text beside a video: fill in the blank, question answering by [MASK]."""

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.mlm_head = build_word_head(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self.mlm_head.decoder = new_embeddings

    @names_inputs
    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        hidden_frame_order: torch.Tensor | None = None,
        attention_rule: str = "bidirectional",
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[VioletInputs],
    ) -> VioletTaskOutput:
        r"""
        Args:
            labels: (texts, X), the word at each place that counts, −100 elsewhere.

        The other arguments are `VioletModel.forward`'s. `logits` are (texts, X, vocabulary), at `input_ids`' places.
        """
        outputs = self.violet(
            pixel_values_videos=pixel_values_videos,
            input_ids=input_ids,
            attention_mask=attention_mask,
            bool_masked_pos=bool_masked_pos,
            hidden_frame_order=hidden_frame_order,
            attention_rule=attention_rule,
            **kwargs,
        )
        states = outputs.text_hidden_state
        if input_ids is not None:  # a text side may have tokens of its own in front of the words
            states = states[:, -input_ids[0].numel() :]
        logits = self.mlm_head(states)
        loss = None if labels is None else masked_cross_entropy(logits, labels, self.config.label_smoothing)
        return VioletTaskOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class VioletForQuestionAnswering(VioletPreTrainedModel):
    """Answers a question about a video by one of the configuration's `id2label`."""

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.answer_head = self.new_label_head()
        self.post_init()

    def new_label_head(self) -> nn.Module:
        """A head with an output for each of the configuration's labels."""
        return build_head(self.config, self.config.num_labels)

    @names_inputs
    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        caption_attention_mask: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
        **kwargs: Unpack[VioletInputs],
    ) -> VioletTaskOutput:
        r"""
        Args:
            labels: (texts,), the answers' numbers, −100 for "none of them".
            caption_ids: (videos, X), a caption of each video. If given, a contrastive loss on the embeddings before
                the fusion is added, with the configuration's `contrastive_weight`: a small model trained from scratch
                does not learn motion without it.
            caption_attention_mask: (videos, X).
            video_ids: (videos,), a number of its own for each video of the data set, by which processes that train
                together know a video again that several of them have. Not needed elsewhere.

        The other arguments are `VioletModel.forward`'s. `logits` are (texts, answers).
        """
        outputs = self.violet(
            pixel_values_videos=pixel_values_videos,
            input_ids=input_ids,
            attention_mask=attention_mask,
            only_first_state=True,
            **kwargs,
        )
        logits = outputs.read_by(self.answer_head)
        loss = None if labels is None else masked_cross_entropy(logits, labels, self.config.label_smoothing)
        if caption_ids is not None:
            contrast = self.violet.caption_loss(outputs.video_tokens, caption_ids, caption_attention_mask, video_ids)
            contrast = self.config.contrastive_weight * contrast
            loss = contrast if loss is None else loss + contrast
        return VioletTaskOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
