"""Clips of any kind -> `pixel_values_videos`, and others that a model names: frames chosen, fitted, normalised.

Chance comes only from `draws`, one number per clip: all frames of a clip are cropped alike. Without them, frames and
crops are those of an evaluation, whatever the settings.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
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

from ..core.carried_code import without_code
from ..core.upstream import group_videos_by_shape, reorder_videos
from ..core.whole_folders import SavedWhole
from .boxes import boxes_of_frames, fit_boxes
from .decoded_video import MOST_KEPT_PIXELS, TIME_TOLERANCE, DecodedVideo, Sound, VideoDecodeError, clock_from_metadata
from .decoding import BACKENDS, decode_video, describe_source, encoded_file
from .fitting import covering_size, drawn_place, fit_of, padding
from .joined_clips import clips_of, decode_clips
from .sound import decode_with_sound, given_sound, may_have_sound, no_sound

logger = logging.getLogger(__name__)

FRAME_SAMPLINGS = ("even", "random_start", "jitter", "ends")
PIXEL_INPUTS = ("pixel_values_videos", "pixel_values_detail")
"""What can be made of a clip's frames."""
RAW_PIXELS: Mapping[str, Any] = {"do_rescale": False, "do_normalize": False}
"""Settings of a call under which pictures stay uint8, for `VioletVideoProcessor.normalize_pixels`."""


class VioletVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """The settings of `VioletVideoProcessor` beyond transformers' own.

    do_pad_to_square (`bool`):
        Pad with black to the shape of `size` (of a square, to a square), centred, then resize to `size` (the
        original's evaluation). Otherwise resize until `size` is covered and take its centre.
    do_stretch (`bool`):
        Resize to `size` at once, whatever the clip's shape is, without padding or cutting.
    do_random_crop (`bool`):
        Take a drawn place instead of the centre, if the clip has a draw (VIOLETv2's pre-training).
    frame_sampling (`str`):
        Which frames are taken: "even", "random_start", "jitter" or "ends", see `VioletVideoProcessor.sample_frames`.
    draws (`list[int]`):
        Of one call: a number for each clip, from which its frames and its crop are drawn.
    decode_backend (`str`):
        What reads video files: "auto", "decord", "pyav" or "torchcodec", see `violet.processing.decoding`.
    inputs (`list[str]`):
        What is made of the frames of a clip, names of `PIXEL_INPUTS`: `pixel_values_videos`, all of them in `size`,
        and `pixel_values_detail`, the middle one `detail_scale` times as high and wide.
    detail_scale (`int`):
        How many times.
    num_clips (`int`):
        Equal parts of the frames, one behind the other, that each have a middle frame.
    sampling_rate (`int`), num_samples (`int`):
        Of a model that hears: how many samples a second its sound has, and how many a clip has. Both, or neither.
    sound (`bool` or `list`):
        Of one call: True for the sound of the clips' own files, as without a word if there is a `sampling_rate`; or
        the sound of each clip, see `sound.SOUND_FORMS`; False for none.
    boxes (`list`):
        Of one call: the part of each clip that is meant, see `boxes.Boxes`; None for a whole clip.
    """

    do_pad_to_square: bool | None
    do_stretch: bool | None
    do_random_crop: bool | None
    frame_sampling: str | None
    draws: list[int] | None
    decode_backend: str | None
    inputs: list[str] | tuple[str, ...] | None
    detail_scale: int | None
    num_clips: int | None
    sampling_rate: int | None
    num_samples: int | None
    sound: bool | list | None
    boxes: list | None


def evenly_spaced_indices(total_frames: int, num_frames: int) -> np.ndarray:
    """The `num_frames` indices floor(total_frames / (num_frames + 1) * (i + 1)), repeating if frames are few."""
    return np.array([total_frames * (i + 1) // (num_frames + 1) for i in range(num_frames)], dtype=np.int64)


def strided_indices(total_frames: int, num_frames: int, phases: float | np.ndarray) -> np.ndarray:
    """
    The `num_frames` indices floor(total_frames / num_frames * (i + phase)): one in each of as many equal parts.

    Args:
        phases: from 0 up to 1, where in its part a frame lies: one number for all parts, or one for each.
    """
    places = total_frames * (np.arange(num_frames) + phases) / num_frames
    return np.minimum(places.astype(np.int64), total_frames - 1)


def indices_with_ends(total_frames: int, num_frames: int, draw: int | None = None) -> np.ndarray:
    """
    `num_frames` indices in equal steps from the first frame to the last, rounded down; repeating if frames are few.

    Args:
        draw: then from a frame drawn near the first to one drawn near the last: each at most
            total_frames // (num_frames - 1) away.
    """
    first, last = 0, total_frames - 1
    if draw is not None:
        reach = min(total_frames // max(num_frames - 1, 1), last)
        first, last = sorted(np.random.default_rng([draw, 0]).integers(0, reach + 1, 2) + [0, last - reach])
    return np.linspace(first, last, num_frames).astype(np.int64)


def times_at_rate(duration: float, fps: float) -> np.ndarray:
    """(frames,) seconds: 0, 1 / fps, 2 / fps … below the duration; 0 at least."""
    count = max(1, math.ceil((duration - TIME_TOLERANCE) * fps))
    return np.arange(count) / fps


def split_into_clips(videos: Any) -> list:
    """What a call's argument holds, as a list of clips for `decode_video`.

    - A list of PIL images, or of arrays (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, is one clip: its
      frames.
    - Any other list, and a column of a `datasets.Dataset`, holds one clip per item, of any mixture of kinds.
    - A 5-D array or tensor is a batch of clips.
    - Anything else is one clip.
    """
    if is_list(videos):
        if not len(videos):
            raise ValueError("The list of videos is empty.")
        videos = videos if isinstance(videos, list | tuple) else list(videos)
        return [videos] if all(_is_frame(item) for item in videos) else list(videos)
    return list(videos) if getattr(videos, "ndim", None) == 5 else [videos]


def is_list(videos: Any) -> bool:
    """Whether this is a sequence of objects, and not a text or bytes."""
    return isinstance(videos, Sequence) and not isinstance(videos, str | bytes | bytearray | memoryview)


def split_into_pictures(images: Any) -> list:
    """
    What a call's `images` holds, one picture per item: the items of a list, the slices of a 4-D array or tensor.
    Anything else is one picture.
    """
    if is_list(images) or getattr(images, "ndim", None) == 4:
        return list(images)
    return [images]


def as_one_frame(picture: Any, name: str) -> np.ndarray:
    """
    A picture as a clip of one frame.

    Args:
        picture: a PIL image, an array or tensor (H, W), (H, W, C) or (C, H, W), a path or URL, the bytes of a file,
            or `{"path": …, "bytes": …}` as `datasets.Image(decode=False)` gives it.
        name: what messages call it.

    Returns:
        (1, height, width, 3) uint8.

    Raises:
        VideoDecodeError: it cannot be read, or has several frames.
    """

    def only_one(total_frames: int, fps: float | None) -> list[int]:
        if total_frames != 1:
            raise VideoDecodeError(name, f"it has {total_frames} frames, and is no picture", "Pass it as `videos=`.")
        return [0]

    picture = encoded_file(picture, name)
    return decode_video([picture] if hasattr(picture, "dtype") else picture, only_one, name=name).frames


def name_of(clip: Any, number: int, count: int, kind: str = "clip") -> str:
    """What messages call a clip: in memory, clips of a list look alike, so that one's place is named as well."""
    alike = count > 1 and not isinstance(clip, str | os.PathLike)
    return f"{kind} {number} (of 0 to {count - 1}), {describe_source(clip)}" if alike else describe_source(clip)


def _is_frame(item: Any) -> bool:
    ndim = getattr(item, "ndim", None)
    has_channels = ndim == 3 and (item.shape[0] in (1, 3, 4) or item.shape[-1] in (1, 3, 4))
    return hasattr(item, "getbands") or ndim == 2 or has_channels


def metadata_of_clips(video_metadata: Any, count: int) -> list[Mapping[str, Any]]:
    """
    The argument `video_metadata` of a call with `count` clips: for each a mapping with keys of `VideoMetadata`.

    Args:
        video_metadata: a dictionary or `VideoMetadata`, or a list of one for each clip, None for one without; or
            nothing at all.

    Raises:
        ValueError: for another number of them, or other keys.
    """
    if video_metadata is None:
        return [{}] * count
    given = list(video_metadata) if isinstance(video_metadata, list | tuple) else [video_metadata]
    given = [each for one in given for each in (one if isinstance(one, list | tuple) else [one])]
    if len(given) != count:
        raise ValueError(f"`video_metadata`: {len(given)} for {count} clips; one for each is needed.")
    known = [field.name for field in fields(VideoMetadata)]
    for one in given:
        if one is not None and not (isinstance(one, Mapping) and set(one) <= set(known)):
            names = ", ".join(known)
            raise ValueError(
                f"`video_metadata` must be VideoMetadata or a dictionary with some of {names}; got {one!r}."
            )
    return [{} if one is None else one for one in given]


class VioletVideoProcessor(SavedWhole, BaseVideoProcessor):
    """Decode clips, sample frames, and turn them into normalised pictures of one size.

    `processor(videos)` takes one clip or a list of clips (see `split_into_clips`), each of any kind that
    `violet.processing.decoding.decode_video` reads, and returns `pixel_values_videos`, a float32 tensor
    (clips, frames, 3, height, width). Only the sampled frames are decoded. `size` is the one size there is: that of
    the output. With `do_rescale=False, do_normalize=False` the pictures stay uint8, a quarter of the memory;
    `normalize_pixels` does the rest later, on any device.

    Frames are sampled in one of two ways, by settings of the processor or of one call:

    - `num_frames` of them, evenly by number, see `sample_frames`. This is the default, and what models are trained
      with.
    - `fps` of them a second, evenly in time: at 0, 1 / fps, 2 / fps … seconds from the first frame on, what is on the
      screen then, the last frame whose time stamp is not later. So a recording of variable frame rate is seen as it
      was. A rate above the file's repeats frames.

    `fps` needs time stamps. Files have them; for arrays, lists of frames and folders `video_metadata` gives them:
    `fps` or `duration`, and `frames_indices` if the frames are already a choice of the video's; a dictionary or
    transformers' `VideoMetadata`, or a list of one (or None) for each clip. With `return_metadata=True` the result has
    `video_metadata` too, whose `frames_indices` say which frames were taken.

    With `do_sample_frames=False` every frame is kept. Clips of unequal length come back as a list.

    With `sound=True`, or if the processor has a `sampling_rate`, the result has `audio_values` (clips, num_samples)
    float32 in -1..1 and `audio_attention_mask` (clips, num_samples), 1 where a sample is sound of the clip's file:
    from the first frame on until `num_samples` are full, or the frames or the sound end. A model hears
    `num_samples / sampling_rate` seconds; both are settings of the processor or of one call. A clip without sound is 0
    in both, and so is what its sound lacks. Frames in memory have no sound: `sound=[…]`, one for each clip, gives it
    beside them.

    `inputs` says what is made of the frames. With "pixel_values_detail" among it the result has the middle frame of
    each clip, number T // 2 of its T frames, in a higher resolution: (clips, num_clips, 3, detail_scale * height,
    detail_scale * width), cut out of the same frame at the same place. Both are made smaller with antialiasing.

    With `boxes`, one for each clip in shares of *its* frames, the result has `boxes` (clips, frames, 4) float32 in
    shares of the pictures that are made of them, and `box_mask` (clips, frames), 1 for a frame that shows its box.

    The text of a video of several clips (`joined_clips.join_clips`) is read as one: equally many frames of each.

    Errors: `VideoDecodeError` (a `ValueError`) for a clip that cannot be read, naming it, or that has no time stamps
    if `fps` needs them.
    """

    valid_kwargs = VioletVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    num_frames = 4
    fps = None
    do_sample_frames = True
    do_convert_rgb = True  # decoding always gives RGB
    do_pad_to_square = True
    do_stretch = False
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
    inputs: Sequence[str] = ("pixel_values_videos",)
    detail_scale = 4
    num_clips = 1
    sampling_rate: int | None = None
    num_samples: int | None = None

    def __init__(self, **kwargs: Unpack[VioletVideoProcessorKwargs]):
        _check_sampling(kwargs.get("num_frames"), kwargs.get("fps"))
        if kwargs.get("fps") is not None:
            kwargs["num_frames"] = None
        super().__init__(**without_code(kwargs))
        if self.decode_backend not in BACKENDS:
            raise ValueError(f"`decode_backend` {self.decode_backend!r} is unknown; use {', '.join(BACKENDS)}.")
        if self.frame_sampling not in FRAME_SAMPLINGS:
            known = ", ".join(FRAME_SAMPLINGS)
            raise ValueError(f"`frame_sampling` {self.frame_sampling!r} is unknown; use {known}.")
        if self.do_stretch and (self.do_pad_to_square or self.do_random_crop):
            raise ValueError(
                "`do_stretch` needs `do_pad_to_square=False` and no `do_random_crop`: nothing is cut off."
            )
        self.inputs = list(self.inputs)  # as a file has it
        _check_inputs(self.inputs, self.detail_scale, self.num_clips)
        check_sound(self.sampling_rate, self.num_samples)
        if self.do_random_crop and self.do_pad_to_square:
            raise ValueError("`do_random_crop` needs `do_pad_to_square=False`: a padded clip has nothing to crop.")

    @property
    def is_random(self) -> bool:
        """Whether a draw changes anything."""
        return self.do_random_crop or self.frame_sampling != "even"

    @property
    def hears(self) -> bool:
        """Whether the model that it is for hears."""
        return self.heard is not None

    @property
    def heard(self) -> tuple[int, int] | None:
        """(sampling_rate, num_samples) of the sound of a clip; None if the model does not hear."""
        rate, count = self.sampling_rate, self.num_samples
        return None if rate is None or count is None else (rate, count)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        draw: int | None = None,
        test_clip: tuple[int, int] = (0, 1),
        frame_sampling: str | None = None,
        fps: float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """
        (num_frames,) indices of the frames to take: of those at a rate of `fps`, if it is given; else

        - "even", or without a draw: floor(N / (S + 1) * (i + 1)), as the original takes them.
        - "random_start": one frame in each of S equal parts, at the same drawn place in all.
        - "jitter": at a place drawn for each part (Wang et al., 2016, arXiv:1608.00859).
        - "ends", also without a draw: from the first frame to the last, see `indices_with_ends`.

        Args:
            draw: decides what is drawn.
            test_clip: (number, how many): of several clips of one video, which all have other frames.
            frame_sampling: the processor's own by default.
        """
        total, count = metadata.total_num_frames, num_frames or self.num_frames
        if fps is not None:
            _check_sampling(num_frames, fps)
            clock, _, _ = clock_from_metadata({"fps": metadata.fps, "duration": metadata.duration}, total, "the video")
            if not clock.is_known:
                raise ValueError("Sampling by `fps` needs metadata with the video's `fps` or `duration`.")
            return clock.shown_at(times_at_rate(clock.duration, fps))
        frame_sampling = frame_sampling or self.frame_sampling
        number, clips = test_clip
        if clips > 1:
            return strided_indices(total, count, (number + 0.5) / clips)
        if frame_sampling == "ends":
            return indices_with_ends(total, count, draw)
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

        decoded = decode_video(videos, choose, self.decode_backend, most_pixels=MOST_KEPT_PIXELS)
        return decoded.frames, _metadata_of(decoded)

    def preprocess(self, videos: Any, **kwargs: Unpack[VioletVideoProcessorKwargs]) -> BatchFeature:
        for name in ("crop_size", "do_center_crop", "input_data_format"):
            if kwargs.get(name) is not None:
                raise ValueError(f"VioletVideoProcessor takes no `{name}`: the clip and `size` say what it would say.")

        def setting(name: str):
            return getattr(self, name) if kwargs.get(name) is None else kwargs[name]

        clips, backend, draws = split_into_clips(videos), setting("decode_backend"), kwargs.get("draws")
        if draws is not None and len(draws) != len(clips):
            raise ValueError(f"`draws`: {len(draws)} numbers for {len(clips)} clips; one for each is needed.")
        num_frames, fps, samples = kwargs.get("num_frames"), kwargs.get("fps"), setting("do_sample_frames")
        _check_sampling(num_frames, fps)
        given = "num_frames" if fps is None else "fps"
        if kwargs.get(given) is not None and not samples:
            raise ValueError(f"`{given}` samples frames, and `do_sample_frames=False` keeps them all: leave one out.")
        if num_frames is None and fps is None:
            num_frames, fps = self.num_frames, self.fps
        metadata = metadata_of_clips(kwargs.get("video_metadata"), len(clips))

        def choose(
            number: int, count: int | None, total_frames: int, clip_fps: float | None
        ) -> Sequence[int] | np.ndarray:
            if not samples:
                return range(total_frames)
            length = VideoMetadata(total_num_frames=total_frames, fps=clip_fps)
            draw = None if draws is None else draws[number]
            return self.sample_frames(length, count, draw, frame_sampling=setting("frame_sampling"))

        boxes = kwargs.pop("boxes", None)
        if boxes is not None and len(boxes) != len(clips):
            raise ValueError(f"`boxes`: {len(boxes)} for {len(clips)} clips; one for each is needed, or None for it.")
        sound, rate, length = kwargs.pop("sound", None), setting("sampling_rate"), setting("num_samples")
        sound = rate is not None if sound is None else sound
        hear = _wanted_sounds(sound, clips, rate, length)

        def decode(number: int, clip: Any, count: int | None, name: str, hear: Callable) -> DecodedVideo:
            wanted: dict[str, Any] = {"backend": backend, "name": name, "video_metadata": metadata[number]}
            wanted["most_pixels"] = MOST_KEPT_PIXELS
            if samples and fps is not None:
                wanted["sample_times"] = partial(times_at_rate, fps=fps)
            else:
                wanted["sample_indices"] = partial(choose, number, count)
            return hear(number, clip, wanted)

        def decode_whole(number: int, clip: Any) -> DecodedVideo:
            name, parts, count = name_of(clip, number, len(clips)), clips_of(clip), num_frames if samples else None
            if parts is None:
                return decode(number, clip, count, name, hear)
            hear_part = hear if sound is False else _sounds_of_parts(sound, name, len(parts), rate, length)
            return decode_clips(
                parts, lambda part, of_part: decode(number, part, of_part, part, hear_part), count, name
            )

        decoded = [decode_whole(number, clip) for number, clip in enumerate(clips)]
        for number, clip in enumerate(decoded):
            if clip.doubt is not None:
                logger.warning("%s: %s.", name_of(clips[number], number, len(clips)), clip.doubt)
        # Decoded here, where each clip's kind is known, so the parent has frames to process and nothing to sample.
        kwargs |= {"do_sample_frames": False, "fps": None, "num_frames": None}
        kwargs["video_metadata"] = [_metadata_of(clip) for clip in decoded]
        kwargs["input_data_format"] = "channels_last"
        for name in ("sampling_rate", "num_samples"):
            kwargs.pop(name, None)
        batch = super().preprocess([clip.frames for clip in decoded], **kwargs)
        if boxes is not None:
            own = {name: setting(name) for name in ("do_pad_to_square", "do_stretch", "do_resize")}
            size = SizeDict(**kwargs["size"]) if kwargs.get("size") is not None else SizeDict(**dict(self.size))
            fitted = []
            for number, clip in enumerate(decoded):
                name = name_of(clips[number], number, len(clips))
                draw = draws[number] if draws is not None and setting("do_random_crop") else None
                fit = fit_of(clip.frames.shape[1:3], size, draw=draw, **own)
                fitted.append(fit_boxes(*boxes_of_frames(boxes[number], clip.indices.tolist(), name), fit, name))
            kind = kwargs.get("return_tensors")
            for key, values in zip(("boxes", "box_mask"), zip(*fitted, strict=True), strict=True):
                batch[key] = torch.stack(values) if kind == "pt" else [value.numpy() for value in values]
        heard = [clip.sound for clip in decoded if clip.sound is not None]
        return batch if not heard else BatchFeature({**batch, **stack_sounds(heard, kwargs.get("return_tensors"))})

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
        do_stretch: bool,
        do_random_crop: bool,
        size: SizeDict,
        resample: PILImageResampling,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        draws: Sequence[int] | None = None,
        inputs: Sequence[str] | None = None,
        detail_scale: int | None = None,
        num_clips: int | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        inputs = self.inputs if inputs is None else inputs
        scales = {"pixel_values_videos": 1, "pixel_values_detail": detail_scale or self.detail_scale}
        _check_inputs(inputs, scales["pixel_values_detail"], num_clips or self.num_clips)
        if "pixel_values_detail" in inputs and not do_resize:
            raise ValueError(
                "`inputs` names pixel_values_detail, whose size follows from `size`: it needs `do_resize`."
            )
        grouped, grouped_index = group_videos_by_shape(videos)
        made: dict[str, Any] = {}
        for name in inputs:
            fitted = {}
            for shape, stacked in grouped.items():  # stacked: (clips, frames, 3, height, width)
                own = None
                if do_random_crop and draws is not None:
                    own = [draws[number] for number, (at, _) in sorted(grouped_index.items()) if at == shape]
                if name == "pixel_values_detail":
                    stacked = _middle_frames(stacked, num_clips or self.num_clips)
                if do_pad_to_square:
                    stacked = _pad_to_shape(stacked, size)
                if do_resize and (do_pad_to_square or do_stretch):
                    stacked = self.resize(stacked, _times(size, scales[name]), resample)
                elif do_resize:
                    stacked = self._cover_and_crop(stacked, size, scales[name], resample, own)
                if do_rescale or do_normalize:
                    stacked = self.rescale_and_normalize(
                        stacked, do_rescale, rescale_factor, do_normalize, image_mean, image_std
                    ).to(torch.float32)
                fitted[shape] = stacked
            made[name] = _one_tensor(reorder_videos(fitted, grouped_index), return_tensors)
        return BatchFeature(made, tensor_type=return_tensors)

    def _cover_and_crop(
        self, videos: torch.Tensor, size: SizeDict, scale: int, resample: PILImageResampling, draws: list[int] | None
    ) -> torch.Tensor:
        """
        (clips, frames, 3, height, width) as large as covers `size`, and the `size` of it in the middle or, with draws,
        at a drawn place; with a `scale` the same cut, that many times as high and wide.
        """
        height, width = videos.shape[-2:]
        covering, spare = covering_size(height, width, size)
        videos = self.resize(videos, _times(covering, scale), resample)
        middle = (spare[0] // 2, spare[1] // 2)
        places = [middle] * len(videos) if draws is None else [drawn_place(spare, draw) for draw in draws]
        cut = [
            tvF.crop(clip, scale * top, scale * left, scale * size.height, scale * size.width)
            for clip, (top, left) in zip(videos, places, strict=True)
        ]
        return torch.stack(cut)


def check_sound(sampling_rate: int | None, num_samples: int | None) -> None:
    """
    Raises:
        ValueError: for one of them without the other, or below 1.
    """
    for name, value in (("sampling_rate", sampling_rate), ("num_samples", num_samples)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")
    if (sampling_rate is None) != (num_samples is None):
        raise ValueError("`sampling_rate` and `num_samples` belong together: give both, or neither.")


def match_sound(frames: VioletVideoProcessor, config: Any) -> None:
    """Lets a processor read the sound that a model hears, as its `audio_config` says: none without one."""
    audio = getattr(config, "audio_config", None)
    frames.sampling_rate = None if audio is None else audio.sampling_rate
    frames.num_samples = None if audio is None else audio.num_samples


def stack_sounds(sounds: Sequence[Sound], return_tensors: str | None = "pt") -> dict[str, Any]:
    """`audio_values` (clips, num_samples) float32 and `audio_attention_mask` (clips, num_samples) int64."""
    values = np.stack([sound.values for sound in sounds])
    mask = np.stack([sound.mask for sound in sounds]).astype(np.int64)
    made = {"audio_values": values, "audio_attention_mask": mask}
    return {name: torch.from_numpy(one) for name, one in made.items()} if return_tensors == "pt" else made


def _wanted_sounds(
    sound: Any, clips: Sequence[Any], sampling_rate: int | None, num_samples: int | None
) -> Callable[..., DecodedVideo]:
    """
    (number, clip, arguments of `decode_video`) -> the decoded clip, with its sound as a call's
    `sound` asks for it.

    Raises:
        ValueError: for sounds that are not as many as clips, or sound without its rate and length.
    """
    if sound is False:
        return lambda number, clip, wanted: decode_video(clip, **wanted)
    check_sound(sampling_rate, num_samples)
    if sampling_rate is None or num_samples is None:
        raise ValueError(
            "`sound` needs `sampling_rate` (Hz) and `num_samples` (of a clip): settings of the video processor, or of "
            "this call. A model that hears has them in its `audio_config`."
        )
    length: dict[str, Any] = {"sampling_rate": sampling_rate, "num_samples": num_samples}
    if sound is True:

        def read(number: int, clip: Any, wanted: dict[str, Any]) -> DecodedVideo:
            if not may_have_sound(clip):
                reason = "it is no file, and frames have no sound"
                advice = "Give each clip's sound beside it, `sound=[…]`, None if it has none; or the clips' files."
                raise VideoDecodeError(wanted["name"], reason, advice)
            decoded = decode_with_sound(clip, **wanted, **length)
            found = decoded.sound or no_sound(num_samples)
            if found.is_short:
                logger.warning(
                    "%s: its sound lacks %.2f s of the clip, which are masked.", wanted["name"], found.missing
                )
            return replace(decoded, sound=found)

        return read
    given = list(sound) if isinstance(sound, list | tuple) else [sound]
    if len(given) != len(clips):
        raise ValueError(
            f"`sound`: {len(given)} for {len(clips)} clips; one for each is needed, None for one without."
        )
    return lambda number, clip, wanted: replace(
        decode_video(clip, **wanted), sound=given_sound(given[number], wanted["name"], **length)
    )


def _sounds_of_parts(
    sound: Any, name: str, parts: int, sampling_rate: int | None, num_samples: int | None
) -> Callable[..., DecodedVideo]:
    """
    As `_wanted_sounds`, for the clips of one video: an equal share of its sound from each of their files.

    Raises:
        VideoDecodeError: for a sound that is given beside the video, or a length that the clips do not divide.
    """
    if sound is not True:
        raise VideoDecodeError(name, "a sound is given beside its several clips", "Their files bring their own.")
    if num_samples is not None and num_samples % parts:
        reason = f"it has {parts} clips, and `num_samples` {num_samples} is no multiple of that"
        raise VideoDecodeError(name, reason, "Give another `num_samples`.")
    return _wanted_sounds(sound, (), sampling_rate, None if num_samples is None else num_samples // parts)


def _check_inputs(inputs: Sequence[str], detail_scale: int, num_clips: int) -> None:
    if not inputs or isinstance(inputs, str) or not set(inputs) <= set(PIXEL_INPUTS):
        raise ValueError(f"`inputs`: {inputs!r} must be some of {', '.join(PIXEL_INPUTS)}.")
    for name, value in (("detail_scale", detail_scale), ("num_clips", num_clips)):
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")


def _middle_frames(videos: torch.Tensor, num_clips: int) -> torch.Tensor:
    """(videos, clips * T, ...) -> (videos, clips, ...), of each clip frame T // 2."""
    frames = videos.shape[1]
    if frames % num_clips:
        raise ValueError(f"`num_clips` {num_clips} does not divide the {frames} frames of a video.")
    by_clip = videos.unflatten(1, (num_clips, -1))
    return by_clip[:, :, by_clip.shape[2] // 2]


def _times(size: SizeDict, scale: int) -> SizeDict:
    return SizeDict(height=size.height * scale, width=size.width * scale)


def _one_tensor(clips: list[torch.Tensor], return_tensors: str | None) -> Any:
    """Clips of one shape as one tensor; others as they are, if no tensor is asked for."""
    if len({clip.shape for clip in clips}) == 1:
        return torch.stack(clips)
    if return_tensors is not None:
        shapes = [tuple(clip.shape) for clip in clips]
        raise ValueError(f"Clips of unequal shapes {shapes} make no one tensor: sample frames and resize them.")
    return clips


def _check_sampling(num_frames: int | None, fps: float | None) -> None:
    if num_frames is not None and fps is not None:
        raise ValueError("`num_frames` and `fps` exclude each other: give one of the two.")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"`num_frames` must be 1 or more, got {num_frames}.")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"`fps` must be above 0, got {fps}.")


def _pad_to_shape(videos: torch.Tensor, size: SizeDict) -> torch.Tensor:
    """
    (..., height, width), with black around them to the shape of `size`: a square for a square. An odd pixel goes to
    the right or bottom.
    """
    height, width = videos.shape[-2:]
    left, top, wide, tall = padding(height, width, size)
    return torch.nn.functional.pad(videos, [left, wide - width - left, top, tall - height - top])


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
