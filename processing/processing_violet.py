"""Words and clips -> the tensors that a VIOLET model takes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin, TextKwargs

from ..core.clip_inputs import PIXELS
from ..core.whole_folders import SavedWhole
from .chats import PLAIN_CHAT, VIDEO_TOKEN, expand_places, is_chat, plain_chat
from .video_processing_violet import as_one_frame, name_of, split_into_pictures

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class VideoTextProcessor(SavedWhole, ProcessorMixin):
    """A tokenizer and a `VioletVideoProcessor` behind one call.

    Args:
        tokenizer: a BERT WordPiece tokenizer (`BertTokenizer`, or what `AutoTokenizer` gives for it).
        video_processor: a `VioletVideoProcessor`.
        max_length: texts are cut to this many tokens, [CLS] and [SEP] included. Saved with the processor.
        padding: True pads to the longest text of a call, "max_length" to `max_length`. Saved with the processor.
        max_sentences: for models that read paragraphs: a text is split at its line breaks into at most that many
            sentences, each cut and padded to `max_length`; `input_ids` are (texts, sentences * max_length). Of more,
            the shortest neighbours are joined; a text with fewer has sentences of padding. None for texts as they are.
        video_places: for models of videos among words, see `with_videos_among_words`: how many of a text's places a
            clip takes, `per_clip` + `per_step` for each `frames_per_step` frames. Each `<video>` of a text becomes as
            many tokens; no text is cut, and `max_length` is the longest that is taken.
    """

    def __init__(
        self,
        tokenizer,
        video_processor,
        max_length: int = 32,
        padding: bool | str = True,
        max_sentences: int | None = None,
        video_places: Mapping[str, int] | None = None,
        **kwargs,
    ):
        super().__init__(tokenizer, video_processor, **kwargs)
        self.video_places = None if video_places is None else dict(video_places)
        self.max_length = max_length
        self.padding = padding
        self.max_sentences = max_sentences

    def __call__(
        self, *positional, text=None, videos=None, images=None, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Tokenize texts and process clips; both by name, since other processors order them differently.

        Args:
            text: a string or a list of strings (or of word lists, with `is_split_into_words=True`). With
                `video_places`, `<video>` stands once for each of the videos, over all texts in reading order.
            videos: one clip or a list of clips, see `VioletVideoProcessor`.
            images: one picture or a list of pictures in place of videos, each a clip of one frame: PIL images, arrays,
                paths, or what else `as_one_frame` takes.
            return_tensors: "pt" (default), "np", or None for lists of token ids.
            kwargs: settings of the tokenizer call (`padding`, `truncation`, `max_length`, ...) or of the video
                processor (`num_frames`, `fps`, `video_metadata`, `return_metadata`, `size`, `sound`, ...); also as
                `text_kwargs={...}`, `videos_kwargs={...}`.

        Returns:
            `input_ids`, `attention_mask` (texts, tokens) int64 and `pixel_values_videos`
            (clips, frames, 3, height, width) float32, or what the video processor's `inputs` names, each if texts, or
            videos or images, were given; with `sound`, `audio_values` and `audio_attention_mask` (clips, samples).

        Raises:
            TypeError: a positional argument, or a setting that neither part knows.
            ValueError: neither texts nor videos nor images, or videos and images; a clip or picture that cannot be
                read (`VideoDecodeError`). With `video_places`: another number of `<video>` than of videos, a text
                that is too long.
        """
        if positional:
            raise TypeError("Pass arguments by name: processor(text=..., videos=...).")
        if text is None and videos is None and images is None:
            raise ValueError("Pass text=..., and videos=... or images=..., or one of them.")
        if videos is not None and images is not None:
            raise ValueError("Pass videos=... or images=..., not both: their clips have other numbers of frames.")
        if "audio" in kwargs and kwargs["audio"] is None:  # as transformers' pipeline `any-to-any` gives it
            del kwargs["audio"]
        text_settings = {"padding": self.padding, "truncation": True, "max_length": self.max_length}
        text_settings |= kwargs.pop("text_kwargs", {})
        video_settings = dict(kwargs.pop("videos_kwargs", {}))
        for name, value in kwargs.items():
            if name in TextKwargs.__annotations__:
                text_settings[name] = value
            elif name in self.video_processor.valid_kwargs.__annotations__:
                video_settings[name] = value
            else:
                raise TypeError(f"Neither the tokenizer nor the video processor takes `{name}`.")

        data: dict[str, Any] = {}
        if text is not None and self.video_places is None:
            settings = {"return_token_type_ids": False, "return_tensors": return_tensors} | text_settings
            if self.max_sentences is None:
                data |= self.tokenizer(text, **settings)
            else:
                data |= self._paragraphs(text, settings)
        if images is not None:
            pictures = split_into_pictures(images)
            if not pictures:
                raise ValueError("The list of images is empty.")
            names = [name_of(picture, number, len(pictures), "image") for number, picture in enumerate(pictures)]
            videos = [as_one_frame(picture, name) for picture, name in zip(pictures, names, strict=True)]
            video_settings = {"do_sample_frames": False} | video_settings
            if self.video_processor.hears:
                video_settings = {"sound": [None] * len(videos)} | video_settings
        if videos is not None:
            data |= self.video_processor(videos, **{"return_tensors": return_tensors} | video_settings)
        if text is not None and self.video_places is not None:
            settings = {"return_token_type_ids": False, "return_tensors": return_tensors, **text_settings}
            pixels = data.get(self.video_processor.inputs[0], ())
            frames = len(pixels[0]) if len(pixels) else 0
            data = self.texts_with_videos(text, len(pixels), frames, **settings) | data
        return BatchFeature(data)

    def places(self, num_frames: int) -> int:
        """
        How many tokens a clip of that many frames is in a text.

        Raises:
            ValueError: for a processor of a model that has no videos among its words.
        """
        if self.video_places is None:
            raise ValueError("This processor has no `video_places`: its model has no videos among its words.")
        per_clip, per_step, frames = (self.video_places[name] for name in ("per_clip", "per_step", "frames_per_step"))
        return per_clip + per_step * -(-num_frames // frames)

    def ask(self, question: str, answer: str | None = None) -> str:
        """
        The text of a user's turn about a video, as it is for the language model to answer: with `<video>` in front of
        the question, if it has none of its own. With an answer, the text of both turns.
        """
        asked = question if VIDEO_TOKEN in question else f"{VIDEO_TOKEN}\n{question}"
        chat = [{"role": "user", "content": asked}]
        if answer is not None:
            return self.apply_chat_template([*chat, {"role": "assistant", "content": answer}])
        return self.apply_chat_template(chat, add_generation_prompt=True)

    def texts_with_videos(self, text: str | list[str], clips: int, num_frames: int, **settings: Any) -> dict[str, Any]:
        """
        Texts as tokens, with as many places in each `<video>` as a clip has tokens.

        Args:
            clips: how many there are, over all texts.
            num_frames: of each.
            settings: of the tokenizer's call.

        Returns:
            `input_ids` and `attention_mask` (texts, tokens).

        Raises:
            ValueError: for another number of `<video>` than of clips, or a text longer than `max_length`.
        """
        standard = {"return_token_type_ids": False, "return_tensors": "pt", "padding": self.padding}
        settings = {**standard, "max_length": self.max_length, **settings}
        first = self.tokenizer.bos_token
        texts = [text] if isinstance(text, str) else list(text)
        if first is not None and texts[0].startswith(first):  # a chat template may have written it
            settings.setdefault("add_special_tokens", False)
        expanded = expand_places(texts, clips, self.places(num_frames) if clips else 0)
        most = settings["max_length"]
        data = self.tokenizer(expanded, **{**settings, "truncation": False, "max_length": None})
        lengths = [int(sum(mask)) for mask in data["attention_mask"]]
        longest = max(range(len(texts)), key=lambda number: lengths[number])
        if lengths[longest] > most:
            videos = texts[longest].count(VIDEO_TOKEN)
            raise ValueError(
                f"The text {texts[longest][:60]!r} makes {lengths[longest]} tokens, of which {videos} videos of "
                f"{num_frames} frames are {videos * self.places(num_frames)}, and {most} are taken at most "
                "(`max_length`): shorten it, or take fewer frames."
            )
        return dict(data)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        A chat, or a list of chats, as text; with `tokenize` as what the model takes.

        Args:
            conversation: messages, see `chats.plain_chat`: `[{"role": "user", "content": [{"type": "video", "path":
                "clip.mp4"}, {"type": "text", "text": "What happens?"}]}]`.
            chat_template: by default the processor's, or the tokenizer's, or `chats.PLAIN_CHAT`.
            return_dict: whether all that the model takes is given back, and not only `input_ids`.
            processor_kwargs: settings of a call of this processor.
            kwargs: of the tokenizer's `apply_chat_template` (`add_generation_prompt`, …), for the template; and
                settings of a call too.

        Raises:
            ValueError: for a processor of a model that has no videos among its words; for a chat that cannot be used.
        """
        if self.video_places is None:
            raise ValueError("This processor has no `video_places`: its model has no videos among its words.")
        batched = not is_chat(conversation)
        chats = [plain_chat(messages) for messages in (conversation if batched else [conversation])]
        known = {*TextKwargs.__annotations__, *self.video_processor.valid_kwargs.__annotations__}
        settings = {name: kwargs.pop(name) for name in list(kwargs) if name in known} | dict(processor_kwargs or {})
        template = chat_template or self.chat_template or self.tokenizer.chat_template or PLAIN_CHAT
        prompts = self.tokenizer.apply_chat_template(
            [chat.messages for chat in chats], chat_template=template, tokenize=False, **kwargs
        )
        if not tokenize:
            return prompts if batched else prompts[0]
        clips = [clip for chat in chats for clip in chat.clips]
        pictures = [picture for chat in chats for picture in chat.pictures]
        given: dict[str, Any] = {"videos": clips or None, "images": pictures or None}
        output = self(text=prompts, **given, **{"return_tensors": return_tensors} | settings)
        return output if return_dict else output["input_ids"]

    def _paragraphs(self, text: str | list[str], settings: dict[str, Any]) -> dict[str, Any]:
        """Texts of one sentence per line -> `input_ids` and `attention_mask` (texts, sentences * max_length)."""
        texts = [text] if isinstance(text, str) else text
        assert self.max_sentences is not None
        split = [join_sentences(one.split("\n"), self.max_sentences) for one in texts]
        most = max(map(len, split), default=1)
        flat = [sentence for sentences in split for sentence in [*sentences, *[""] * (most - len(sentences))]]
        kind = settings.get("return_tensors")
        settings = {**settings, "padding": "max_length", "truncation": True, "return_tensors": "np"}
        found = self.tokenizer(flat, **settings)
        real = np.array([bool(sentence) for sentence in flat])[:, None]
        mask = found["attention_mask"] * real
        padding = self.tokenizer.pad_token_id or 0
        values = {"input_ids": np.where(real, found["input_ids"], padding), "attention_mask": mask}
        # (texts * sentences, max_length) -> (texts, sentences * max_length)
        rows = {name: value.reshape(len(texts), -1) for name, value in values.items()}
        if kind == "pt":
            return {name: torch.from_numpy(value).long() for name, value in rows.items()}
        return rows if kind == "np" else {name: value.tolist() for name, value in rows.items()}

    def to_device(self, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
        """
        A batch on the device that computes. Pictures that a data loader's workers left as uint8, a quarter of the
        bytes, are normalised there.

        Args:
            batch: tensors, mappings of them, and what else goes with them, which stays as it is.

        Returns:
            The same, with what its `inputs` names, such as `pixel_values_videos` (clips, frames, 3, height, width),
            in float32.
        """
        moved = {name: _on_device(value, device) for name, value in batch.items()}
        for name in moved:
            if name.startswith(PIXELS):
                moved[name] = self.video_processor.normalize_pixels(moved[name])
        return moved

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.video_processor.inputs]


def _on_device(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Mapping):
        return {name: _on_device(part, device) for name, part in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, non_blocking=value.is_pinned())  # of pinned memory the copy need not be waited for


def join_sentences(sentences: Sequence[str], most: int) -> list[str]:
    """At most that many sentences, empty ones left out: the two neighbours that are shortest together become one."""
    kept = [sentence.strip() for sentence in sentences if sentence.strip()]
    while len(kept) > most:
        i = min(range(len(kept) - 1), key=lambda i: len(kept[i]) + len(kept[i + 1]))
        kept[i : i + 2] = [f"{kept[i]} {kept[i + 1]}"]
    return kept


def with_videos_among_words(
    tokenizer: PreTrainedTokenizerBase, video_processor: Any, places: Mapping[str, int], max_length: int
) -> VideoTextProcessor:
    """
    The processor of a language model that sees videos among its words. The tokenizer learns `<video>` if it lacks it,
    which the language model's vocabulary need not have, and pads with the end of a text if it has no padding.

    Args:
        places: see `VideoTextProcessor`.
        max_length: the longest text in tokens, videos included.
    """
    if VIDEO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([VIDEO_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return VideoTextProcessor(tokenizer, video_processor, max_length=max_length, video_places=places)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """
    A configuration's fields that say which tokens of this vocabulary texts are written with: BERT's roles, or those
    that others have in their place (CLIP's). What a vocabulary has no token for is left out.
    """
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    found = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if first is None else first,
        "eos_token_id": tokenizer.eos_token_id if last is None else last,
        "mask_token_id": tokenizer.mask_token_id,
    }
    return {field: token for field, token in found.items() if token is not None}


def train_wordpiece_tokenizer(texts: Iterable[str], vocab_size: int = 2000) -> BertTokenizer:
    """Train a lower-casing WordPiece vocabulary; the result saves, reloads and behaves as BERT's tokenizer.

    Args:
        texts: any number of texts. The same texts in the same order give the same vocabulary.
        vocab_size: upper bound on the number of tokens, [PAD]=0, [UNK], [CLS], [SEP], [MASK] and all characters
            included.
    """
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    normal = [normalizer.normalize_str(text) for text in texts]
    words = {word for text in normal for word, _ in pre_tokenizer.pre_tokenize_str(text)}
    # The trainer numbers continuation characters in the order of a hash table, which changes from run to run and
    # breaks ties differently. Named before training they have fixed numbers.
    continuations = [f"##{character}" for character in sorted({c for word in words for c in word[1:]})]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *continuations], show_progress=False
    )
    trained.train_from_iterator(normal, trainer)
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True)


def without_end(tokenizer: BertTokenizer) -> PreTrainedTokenizerFast:
    """The same vocabulary for a language model: a text begins with [CLS], and [SEP] ends it only if it is written."""
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    first = (tokenizer.cls_token, tokenizer.cls_token_id)
    words.post_processor = processors.TemplateProcessing(
        single=f"{first[0]} $A", pair=f"{first[0]} $A $B", special_tokens=[first]
    )
    roles = {"bos": "cls", "eos": "sep", "pad": "pad", "unk": "unk"}
    named = {f"{role}_token": getattr(tokenizer, f"{own}_token") for role, own in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=words, **named)
