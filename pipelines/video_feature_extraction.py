"""The pipeline `video-feature-extraction`."""

from collections.abc import Mapping
from typing import Any

import torch

from ..modeling_violet import Tokens
from ..processing.questions import pad_texts
from .pairs import Asked, VideoTextPipeline, alone, in_batch, need, pair_up, with_boxes


class VideoFeatureExtractionPipeline(VideoTextPipeline):
    """
    Features of videos, or of videos and texts together.

        >>> features = pipeline("video-feature-extraction", model="folder-or-hub-name")
        >>> features("clip.mp4").shape
        torch.Size([128])

    - Of a video one vector: its embedding before the fusion, of length 1, if the model has a projection; else the
      mean of its tokens. With `pool=False` its tokens before the fusion.
    - Of a video and a text one vector: the fused state that the match and answer heads read, at the text's [CLS]. With
      `pool=False` the fused states of the video's tokens and then the text's.

    Embeddings before the fusion compare with each other by dot product, and with `model.get_text_features`'s.

    Several at once: a list or a generator of videos; with `batch_size`. Each gives a tensor.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    def __call__(self, videos: Any, text: str | list[str] | None = None, boxes: Any = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them; or inputs of a `video` and maybe a `text`, if `text` is not given.
            text: a text or a list of them, paired with the videos.
            boxes: for a model that reads them: the part of the video that is meant, see `processing.boxes.Boxes`. Of a
                list of videos a list of these.
            pool: whether to give one vector, (width,), or all tokens, (tokens, width).
            batch_size: how many inputs go through the model together.
            num_workers: how many processes read the next videos while the model works (see `run`), 0 by default.

        Returns:
            A float tensor on the CPU; a list of them for several videos; an iterator for a generator.
        """
        return self.run(with_boxes(alone(videos) if text is None else pair_up(videos, text, "text"), boxes), **kwargs)

    def _sanitize_parameters(self, pool: bool | None = None):
        return {}, {} if pool is None else {"pool": pool}, {}

    def preprocess(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        inputs = need(inputs)
        texts = [self.tokenize(inputs["text"])] if inputs.get("text") is not None else []
        return {**self.read_video(inputs), "asked": Asked(texts)}

    def _forward(self, model_inputs: dict[str, Any], pool: bool = True) -> dict[str, torch.Tensor]:
        asked, pixels = in_batch(model_inputs["asked"]), self.clip_inputs(model_inputs)
        if len({bool(one.texts) for one in asked}) > 1:
            raise ValueError("Videos with a text and videos without cannot be in one batch.")
        if not asked[0].texts:
            video = self.model.encode_videos(**pixels)
            if not pool:
                return {"features": video.tokens, "mask": video.mask}
            return {"features": vector_of(self.model, video)}
        padding = self.processor.tokenizer.pad_token_id
        input_ids, attention_mask = pad_texts([one.texts[0] for one in asked], padding, self.device)
        outputs = self.model(**pixels, input_ids=input_ids, attention_mask=attention_mask)
        if pool:
            return {"features": outputs.first_text_state()}
        video = [] if outputs.video_hidden_state is None else [outputs.video_tokens.mask]
        mask = torch.cat([*video, attention_mask], dim=1)
        return {"features": outputs.last_hidden_state, "mask": mask}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        features = model_outputs["features"][0]
        return features if "mask" not in model_outputs else features[model_outputs["mask"][0].bool()]


def vector_of(model: Any, video: Tokens) -> torch.Tensor:
    """Encoded videos -> a vector each, (videos, width): their embeddings, or the mean of their tokens without such."""
    if model.has_embeddings:
        return model.embed_videos(video)
    mask = video.mask.unsqueeze(-1).to(video.tokens.dtype)
    return (video.tokens * mask).sum(1) / mask.sum(1)
