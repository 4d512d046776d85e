"""Clips of any kind -> `pixel_values_videos`: frames chosen, fitted to one size, normalised.

Chance comes in with `draws`, a number a clip, and from it alone: all frames of a clip are cropped alike. Without them,
frames and crops are those of an evaluation, whatever the settings.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvF
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from ..saving import SavedWhole
from ..shipped_code import without_code
from ..upstream import group_videos_by_shape, reorder_videos
from .decoding import BACKENDS, DecodedVideo, decode_video, describe_source

FRAME_SAMPLINGS = ("even", "random_start", "jitter")


class VioletVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """The settings of `VioletVideoProcessor` beyond transformers' own.

    do_pad_to_square (`bool`):
        Pad with black to a centred square, then resize to `size` (the original's evaluation). Otherwise resize until
        `size` is covered and take its centre.
    do_random_crop (`bool`):
        Take a drawn place instead of the centre, where the clip has a draw (VIOLETv2's pre-training).
    frame_sampling (`str`):
        Which frames are taken of a clip that has a draw: "even" as without, "random_start" or "jitter", see
        `VioletVideoProcessor.sample_frames`.
    draws (`list[int]`):
        Of one call: a number for each clip, from which its frames and its crop are drawn.
    decode_backend (`str`):
        What reads video files: "auto", "decord", "pyav" or "torchcodec", see `violet.processing.decoding`.
    """

    do_pad_to_square: bool | None
    do_random_crop: bool | None
    frame_sampling: str | None
    draws: list[int] | None
    decode_backend: str | None


def evenly_spaced_indices(total_frames: int, num_frames: int) -> np.ndarray:
    """The `num_frames` indices floor(total_frames / (num_frames + 1) * (i + 1)), repeating where frames are few."""
    return np.array([total_frames * (i + 1) // (num_frames + 1) for i in range(num_frames)], dtype=np.int64)


def strided_indices(total_frames: int, num_frames: int, phases: float | np.ndarray) -> np.ndarray:
    """
    The `num_frames` indices floor(total_frames / num_frames * (i + phase)): one in each of as many equal parts.

    Args:
        phases: from 0 up to 1, where in its part a frame lies: one number for all parts, or one for each.
    """
    places = total_frames * (np.arange(num_frames) + phases) / num_frames
    return np.minimum(places.astype(np.int64), total_frames - 1)


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


class VioletVideoProcessor(SavedWhole, BaseVideoProcessor):
    """Decode clips, sample frames, and turn them into normalised pictures of one size.

    `processor(videos)` takes one clip or a list of clips (see `split_into_clips`), each of any kind that
    `violet.processing.decoding.decode_video` reads, and returns `pixel_values_videos`, a float32 tensor
    (clips, frames, 3, height, width). Only the sampled frames are decoded. `size` is the one size there is: that of
    the output. With `do_sample_frames=False` every frame is kept; clips of unequal length then come back as a list.
    With `do_rescale=False, do_normalize=False` the pictures stay uint8, a quarter of the memory; `normalize_pixels`
    does the rest later, on any device.

    Errors: `VideoDecodeError` (a `ValueError`) for a clip that cannot be read, naming it.
    """

    valid_kwargs = VioletVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    num_frames = 4
    do_sample_frames = True
    do_convert_rgb = True  # decoding always gives RGB
    do_pad_to_square = True
    do_random_crop = False
    frame_sampling = "even"
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
        super().__init__(**without_code(kwargs))
        if self.num_frames < 1:
            raise ValueError(f"`num_frames` must be 1 or more, got {self.num_frames}.")
        if self.decode_backend not in BACKENDS:
            raise ValueError(f"`decode_backend` {self.decode_backend!r} is unknown; use {', '.join(BACKENDS)}.")
        if self.frame_sampling not in FRAME_SAMPLINGS:
            known = ", ".join(FRAME_SAMPLINGS)
            raise ValueError(f"`frame_sampling` {self.frame_sampling!r} is unknown; use {known}.")
        if self.do_random_crop and self.do_pad_to_square:
            raise ValueError("`do_random_crop` needs `do_pad_to_square=False`: a padded clip has nothing to crop.")

    @property
    def is_random(self) -> bool:
        """Whether a draw changes anything."""
        return self.do_random_crop or self.frame_sampling != "even"

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        draw: int | None = None,
        test_clip: tuple[int, int] = (0, 1),
        frame_sampling: str | None = None,
        **kwargs,
    ) -> np.ndarray:
        """
        (num_frames,) indices of the frames to take.

        - "even", or without a draw: floor(N / (S + 1) * (i + 1)), as the original takes them.
        - "random_start": one frame in each of S equal parts, at the same drawn place in all.
        - "jitter": at a place drawn for each part (Wang et al., 2016, arXiv:1608.00859).

        Args:
            draw: decides what is drawn.
            test_clip: (number, how many): of several clips of one video, which all have other frames.
            frame_sampling: the processor's own by default.
        """
        total, count = metadata.total_num_frames, num_frames or self.num_frames
        frame_sampling = frame_sampling or self.frame_sampling
        number, clips = test_clip
        if clips > 1:
            return strided_indices(total, count, (number + 0.5) / clips)
        if draw is None or frame_sampling == "even":
            return evenly_spaced_indices(total, count)
        phases = np.random.default_rng([draw, 0]).random(count)
        return strided_indices(total, count, phases if frame_sampling == "jitter" else phases[0])

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

        clips, backend, draws = split_into_clips(videos), setting("decode_backend"), kwargs.get("draws")
        if draws is not None and len(draws) != len(clips):
            raise ValueError(f"`draws`: {len(draws)} numbers for {len(clips)} clips; one for each is needed.")

        def choose(number: int, total_frames: int, fps: float | None) -> Sequence[int] | np.ndarray:
            if not setting("do_sample_frames"):
                return range(total_frames)
            metadata = VideoMetadata(total_num_frames=total_frames, fps=fps)
            draw = None if draws is None else draws[number]
            return self.sample_frames(metadata, setting("num_frames"), draw, frame_sampling=setting("frame_sampling"))

        decoded = [
            decode_video(clip, partial(choose, number), backend, _name_of(clip, number, len(clips)))
            for number, clip in enumerate(clips)
        ]
        # Decoded here, where each clip's kind is known, so the parent has frames to process and nothing to sample.
        kwargs |= {"do_sample_frames": False, "video_metadata": [_metadata_of(clip) for clip in decoded]}
        kwargs["input_data_format"] = "channels_last"
        return super().preprocess([clip.frames for clip in decoded], **kwargs)

    def normalize_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """
        What was left out with `do_rescale=False, do_normalize=False`: (..., 3, height, width) uint8 -> the same in
        float32, on the same device. What is not uint8 has been normalised, and comes back as it is.
        """
        if pixels.dtype != torch.uint8:
            return pixels
        settings = self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std
        return self.rescale_and_normalize(pixels, *settings).to(torch.float32)

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        do_pad_to_square: bool,
        do_random_crop: bool,
        size: SizeDict,
        resample: PILImageResampling,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        draws: Sequence[int] | None = None,
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
                stacked = self.resize(stacked, covering, resample)
                if do_random_crop and draws is not None:
                    own = [draws[number] for number, (at, _) in sorted(grouped_index.items()) if at == shape]
                    crops = [_drawn_crop(clip, size, draw) for clip, draw in zip(stacked, own, strict=True)]
                    stacked = torch.stack(crops)
                else:
                    stacked = self.center_crop(stacked, size)
            if do_rescale or do_normalize:
                stacked = self.rescale_and_normalize(
                    stacked, do_rescale, rescale_factor, do_normalize, image_mean, image_std
                ).to(torch.float32)
            grouped[shape] = stacked
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


def _drawn_crop(clip: torch.Tensor, size: SizeDict, draw: int) -> torch.Tensor:
    """(frames, 3, height, width) -> the `size` of it at a place that `draw` decides, the same in all frames."""
    spare = [clip.shape[-2] - size.height, clip.shape[-1] - size.width]
    top, left = np.random.default_rng([draw, 1]).integers(0, spare, endpoint=True).tolist()
    return tvF.crop(clip, top, left, size.height, size.width)


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
