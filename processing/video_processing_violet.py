"""Clips of any kind -> `pixel_values_videos`, as the original's evaluation does it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, group_videos_by_shape, reorder_videos

from .decoding import BACKENDS, DecodedVideo, decode_video, describe_source


class VioletVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """The settings of `VioletVideoProcessor` beyond transformers' own.

    do_pad_to_square (`bool`):
        Pad with black to a centred square, then resize to `size`. Otherwise resize until `size` is covered and take
        its centre.
    decode_backend (`str`):
        What reads video files: "auto", "decord", "pyav" or "torchcodec", see `violet.processing.decoding`.
    """

    do_pad_to_square: bool | None
    decode_backend: str | None


def evenly_spaced_indices(total_frames: int, num_frames: int) -> np.ndarray:
    """The `num_frames` indices floor(total_frames / (num_frames + 1) * (i + 1)), repeating where frames are few."""
    return np.array([total_frames * (i + 1) // (num_frames + 1) for i in range(num_frames)], dtype=np.int64)


def split_into_clips(videos: Any) -> list:
    """What a call's argument holds, as a list of clips for `decode_video`.

    - A list of PIL images, or of 2-D or 3-D arrays, is one clip: its frames.
    - Any other list holds one clip an item, of any mixture of kinds: paths, URLs, bytes, 4-D arrays, lists of frames.
    - A 5-D array or tensor is a batch of clips.
    - Anything else is one clip.
    """
    if isinstance(videos, list | tuple):
        if not videos:
            raise ValueError("The list of videos is empty.")
        return [videos] if all(_is_frame(item) for item in videos) else list(videos)
    return list(videos) if getattr(videos, "ndim", None) == 5 else [videos]


def _name_of(clip: Any, number: int, count: int) -> str:
    """What messages call a clip: in memory, clips of a list look alike, so that one's place is named as well."""
    alike = count > 1 and not isinstance(clip, str | os.PathLike)
    return f"clip {number} (of 0 to {count - 1}), {describe_source(clip)}" if alike else describe_source(clip)


def _is_frame(item: Any) -> bool:
    return hasattr(item, "getbands") or getattr(item, "ndim", None) in (2, 3)


class VioletVideoProcessor(BaseVideoProcessor):
    """Decode clips, sample frames, and turn them into normalised pictures of one size.

    `processor(videos)` takes one clip or a list of clips (see `split_into_clips`), each of any kind that
    `violet.processing.decoding.decode_video` reads, and returns `pixel_values_videos`, a float32 tensor
    (clips, frames, 3, height, width). Only the sampled frames are decoded. `size` is the one size there is: that of
    the output. With `do_sample_frames=False` every frame is kept; clips of unequal length then come back as a list.

    Errors: `VideoDecodeError` (a `ValueError`) for a clip that cannot be read, naming it.
    """

    valid_kwargs = VioletVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    num_frames = 4
    do_sample_frames = True
    do_convert_rgb = True  # decoding always gives RGB
    do_pad_to_square = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    decode_backend = "auto"

    def __init__(self, **kwargs: Unpack[VioletVideoProcessorKwargs]):
        super().__init__(**kwargs)
        if self.num_frames < 1:
            raise ValueError(f"`num_frames` must be 1 or more, got {self.num_frames}.")
        if self.decode_backend not in BACKENDS:
            raise ValueError(f"`decode_backend` {self.decode_backend!r} is unknown; use {', '.join(BACKENDS)}.")

    def sample_frames(self, metadata: VideoMetadata, num_frames: int | None = None, **kwargs) -> np.ndarray:
        """(num_frames,) indices of the frames to take, evenly spaced as the original takes them."""
        return evenly_spaced_indices(metadata.total_num_frames, num_frames or self.num_frames)

    def fetch_videos(self, videos: Any, sample_indices_fn=None):
        """Decode one clip, or a list of clips: (frames (T, H, W, 3) uint8, metadata), or a list of each."""
        if isinstance(videos, list | tuple) and not all(_is_frame(item) for item in videos):
            fetched = [self.fetch_videos(clip, sample_indices_fn) for clip in split_into_clips(videos)]
            return [frames for frames, _ in fetched], [metadata for _, metadata in fetched]

        def choose(total_frames: int, fps: float | None) -> Sequence[int]:
            if sample_indices_fn is None:
                return range(total_frames)
            return sample_indices_fn(metadata=VideoMetadata(total_num_frames=total_frames, fps=fps))

        decoded = decode_video(videos, choose, self.decode_backend)
        return decoded.frames, _metadata_of(decoded)

    def preprocess(self, videos: Any, **kwargs: Unpack[VioletVideoProcessorKwargs]) -> BatchFeature:
        for name in ("fps", "video_metadata", "crop_size", "do_center_crop", "input_data_format"):
            if kwargs.get(name) is not None:
                raise ValueError(f"VioletVideoProcessor takes no `{name}`: the clip and `size` say what it would say.")

        def setting(name: str):
            return getattr(self, name) if kwargs.get(name) is None else kwargs[name]

        def choose(total_frames: int, fps: float | None) -> Sequence[int] | np.ndarray:
            if not setting("do_sample_frames"):
                return range(total_frames)
            metadata = VideoMetadata(total_num_frames=total_frames, fps=fps)
            return self.sample_frames(metadata, num_frames=setting("num_frames"))

        clips, backend = split_into_clips(videos), setting("decode_backend")
        decoded = [
            decode_video(clip, choose, backend, _name_of(clip, number, len(clips)))
            for number, clip in enumerate(clips)
        ]
        # Decoded here, where each clip's kind is known, so the parent has frames to process and nothing to sample.
        kwargs |= {"do_sample_frames": False, "video_metadata": [_metadata_of(clip) for clip in decoded]}
        kwargs["input_data_format"] = "channels_last"
        return super().preprocess([clip.frames for clip in decoded], **kwargs)

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        do_pad_to_square: bool,
        size: SizeDict,
        resample: PILImageResampling,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        grouped, grouped_index = group_videos_by_shape(videos)
        for shape, stacked in grouped.items():  # stacked: (clips, frames, 3, height, width)
            if do_pad_to_square:
                stacked = _pad_to_square(stacked)
            if do_resize and do_pad_to_square:
                stacked = self.resize(stacked, size, resample)
            elif do_resize:
                height, width = stacked.shape[-2:]
                scale = max(size.height / height, size.width / width)
                covering = SizeDict(height=round(height * scale), width=round(width * scale))
                stacked = self.center_crop(self.resize(stacked, covering, resample), size)
            stacked = self.rescale_and_normalize(
                stacked, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
            grouped[shape] = stacked.to(torch.float32)
        processed = reorder_videos(grouped, grouped_index)
        if len({clip.shape for clip in processed}) == 1:
            processed = torch.stack(processed)
        elif return_tensors is not None:
            shapes = [tuple(clip.shape) for clip in processed]
            raise ValueError(f"Clips of unequal shapes {shapes} make no one tensor: sample frames and resize them.")
        return BatchFeature({"pixel_values_videos": processed}, tensor_type=return_tensors)


def _pad_to_square(videos: torch.Tensor) -> torch.Tensor:
    """(..., height, width) -> (..., side, side) with black around; an odd pixel goes to the right or bottom."""
    height, width = videos.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return torch.nn.functional.pad(videos, [left, side - width - left, top, side - height - top])


def _metadata_of(decoded: DecodedVideo) -> VideoMetadata:
    height, width = decoded.frames.shape[1:3]
    return VideoMetadata(
        total_num_frames=decoded.total_frames,
        fps=decoded.fps,
        width=width,
        height=height,
        duration=decoded.total_frames / decoded.fps if decoded.fps else None,
        video_backend=decoded.backend,
        frames_indices=decoded.indices.tolist(),
    )
