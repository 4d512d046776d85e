"""The passes through a model that several objectives share, each computed once, if one of them asks for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...core.clip_inputs import BOXES, PIXELS, SOUND, take_named
from ...core.upstream import checkpoints_activations
from ..losses import IGNORE_INDEX
from ..tokens import Tokens


def once(compute: Callable[[Any], Any]) -> property:
    """A property that is computed when it is first read. `functools.cached_property` has a lock: no graph holds it."""
    name = compute.__name__

    def read(self: Any) -> Any:
        if name not in self.computed:
            self.computed[name] = compute(self)
        return self.computed[name]

    return property(read, doc=compute.__doc__)


class Passes:
    """
    One batch on its way through a model.

    Args:
        model: a `VioletForPreTraining`.
        inputs: the arguments of its `forward` by name, `None` if not given.
        objectives: those of this batch. Negatives are fused if one of them needs them.
        options: transformers' own arguments, for each pass through the fusion.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], objectives: Sequence[Any], options: Mapping[str, Any]):
        self.model = model
        self.violet = model.violet
        self.inputs = inputs
        self.computed: dict[str, Any] = {}
        self.objectives = objectives
        self._options = options

    @property
    def batch_size(self) -> int:
        return len(self.inputs["input_ids"])

    @once
    def attention_mask(self) -> torch.Tensor:
        """(batch, X), 1 for a token and 0 for padding."""
        given = self.inputs["attention_mask"]
        return torch.ones_like(self.inputs["input_ids"]) if given is None else given

    @once
    def words(self) -> torch.Tensor:
        """(batch, X), the captions as they were before masking."""
        ids, labels = self.inputs["input_ids"], self.inputs["labels"]
        return ids if labels is None else torch.where(labels == IGNORE_INDEX, ids, labels)

    @property
    def pixels(self) -> dict[str, torch.Tensor]:
        """The unmasked videos by name; not an objective's own pixels, such as middle frames."""
        own, needs = self.violet.vision_encoder.inputs, {name for one in self.objectives for name in one.needs}
        given = take_named(dict(self.inputs), PIXELS)
        return {
            name: value for name, value in given.items() if value is not None and (name in own or name not in needs)
        }

    @property
    def sound(self) -> dict[str, torch.Tensor]:
        """The videos' sound by name, if they have any."""
        return self._given(SOUND)

    @property
    def boxes(self) -> dict[str, torch.Tensor]:
        """Which parts of the videos are meant, by name, if not the whole."""
        return self._given(BOXES)

    def _given(self, start: str) -> dict[str, torch.Tensor]:
        return {name: value for name, value in take_named(dict(self.inputs), start).items() if value is not None}

    @once
    def masked_video(self) -> tuple[Tokens, torch.Tensor | None]:
        """
        The masked videos, encoded, and which of their patches are hidden, (batch, steps, rows, columns): as the first
        objective says that hides them in its own way (`Objective.masked_video`), else by their pixels.
        """
        for objective in self.objectives:
            made = objective.masked_video(self)
            if made is not None:
                return made
        masked = self.inputs["bool_masked_pos"]
        return self.violet.encode_videos(**self.pixels, **self.sound, **self.boxes, bool_masked_pos=masked), masked

    @property
    def video(self) -> Tokens:
        """The masked videos, encoded."""
        return self.masked_video[0]

    @property
    def masked(self) -> torch.Tensor:
        """(batch, steps, rows, columns), True where a patch of the videos is hidden."""
        masked = self.masked_video[1]
        assert masked is not None  # asked for by objectives that need `bool_masked_pos`
        return masked

    @once
    def text(self) -> Tokens:
        """The unmasked captions, encoded before they meet their videos."""
        num_videos = len(next(iter(self.pixels.values())))  # not `video`: an objective may never need it encoded
        if len(self.words) != num_videos:
            raise ValueError(f"There are {len(self.words)} texts for {num_videos} videos: one each is needed.")
        return self.violet.encode_texts(self.words, self.attention_mask)

    @once
    def embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Videos and unmasked captions before the fusion, (batch, projection_dim) each, of length 1."""
        videos = self.violet.embed_videos(self.video)
        return videos, self.violet.projection.text(self.text)

    @once
    def negatives(self) -> torch.Tensor | None:
        """(batch, K), for each video the rows of the texts that it is fused with beside its own; −1 for none."""
        needed = any("negative_index" in objective.needs for objective in self.objectives)
        candidates = self.inputs["negative_index"] if needed else None
        most = self.inputs["num_hard_negatives"]
        if candidates is None or most is None:
            return candidates
        videos, texts = self.embeddings
        return hardest(candidates, videos, texts, most)

    @once
    def fused(self) -> Any:
        """
        The fusion of each video with its own masked text, a row each; and behind them with its negatives, K rows each,
        if those have no pass of their own (`_negatives_apart`).
        """
        own = torch.arange(self.batch_size, device=self.inputs["input_ids"].device)
        if self.negatives is None or self._negatives_apart:
            return self._fuse(self.video, own, own)
        texts, videos = self._negative_rows
        return self._fuse(self.video, torch.cat([own, texts]), torch.cat([own, videos]))

    def match_scores(self) -> torch.Tensor:
        """(batch + batch * K,), the match head's of each video with its own masked text, then with its negatives"""
        passed = [self.fused]
        if self._negatives_apart:
            video = self.fused.video_tokens  # with what the fusion has prepared of each
            passed.append(self._fuse(video, *self._negative_rows, only_first_state=True))
        return torch.cat([one.read_by(self.model.match_head)[:, 0] for one in passed])

    @property
    def _negatives_apart(self) -> bool:
        """
        Whether negatives have a pass of their own, whose last layer computes one state. The backward pass then holds
        the gradients of all layers until it reaches them again: too much where activations are not even kept.
        """
        return self.violet.fusion.narrows and not checkpoints_activations(self.violet.fusion)

    @property
    def _negative_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch * K,) twice, the text and the video of each negative; any text for an absent one."""
        negatives = self.negatives
        assert negatives is not None
        videos = torch.arange(self.batch_size, device=negatives.device).repeat_interleave(negatives.shape[1])
        return negatives.clamp(min=0).flatten(), videos

    def _fuse(self, video: Tokens, texts: torch.Tensor, videos: torch.Tensor, **options: Any) -> Any:
        return self.violet(
            video_tokens=video,
            input_ids=self.inputs["input_ids"][texts],
            attention_mask=self.attention_mask[texts],
            video_index=videos,
            **options,
            **self._options,
        )

    @once
    def rolled(self) -> Any:
        """The fusion of each masked text with the video that `rolled_video_index` names."""
        return self.violet(
            video_tokens=self.video,
            input_ids=self.inputs["input_ids"],
            attention_mask=self.attention_mask,
            video_index=self.inputs["rolled_video_index"],
            **self._options,
        )

    def words_of(self, output: Any) -> torch.Tensor:
        """(texts, X, width), the states of the words of a pass: a text side may put tokens in front of them."""
        return output.text_hidden_state[:, -self.inputs["input_ids"][0].numel() :]

    @property
    def text_states(self) -> torch.Tensor:
        """(batch, X, width), the states of each video's own masked text."""
        return self.words_of(self.fused)[: self.batch_size]

    @once
    def patches(self) -> torch.Tensor:
        """(batch, frames, rows, columns, width), the states of each video beside its own text, on its grid."""
        states = self.fused.video_hidden_state
        if states is None:
            own = self.model.config.fusion_model_config
            raise ValueError(
                f"The fusion `fusion_model_config.model_type` {own.model_type if own else 'bert'!r} gives no states "
                "of the video, which objectives of masked patches read."
            )
        return self.video.with_tokens(states[: self.batch_size]).patches()

    @once
    def written(self) -> Any:
        """The fusion of each video with its own masked text under the sequence-to-sequence rule."""
        return self.violet(
            video_tokens=self.video,
            input_ids=self.inputs["input_ids"],
            attention_mask=self.attention_mask,
            attention_rule="sequence_to_sequence",
            **self._options,
        )

    def recorded(self) -> dict[str, Any]:
        """`hidden_states` and `attentions` of `fused`, if that pass was needed and they were asked for."""
        if "fused" not in self.computed:
            return {}
        return {"hidden_states": self.fused.hidden_states, "attentions": self.fused.attentions}


def hardest(candidates: torch.Tensor, videos: torch.Tensor, texts: torch.Tensor, most: int) -> torch.Tensor:
    """
    Of each video's candidate texts, those whose embedding is nearest to its own.

    Args:
        candidates: (batch, K), rows of `texts`, −1 for none.
        videos, texts: (batch, width), of length 1.

    Returns:
        (batch, at most `most`), the nearest first, −1 behind them if there are fewer.
    """
    scores = (videos @ texts.t()).detach().gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -2.0)
    best = scores.topk(min(most, candidates.shape[1]), dim=1).indices
    return candidates.gather(1, best)
