"""Chats and texts with videos in them -> one text with `<video>` where each clip stands, and the clips in order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

VIDEO_TOKEN = "<video>"
VIDEO_KEYS, PICTURE_KEYS = ("video", "path", "url"), ("image", "path", "url", "base64")
"""Under which of its keys a content holds its clip or picture."""
PLAIN_CHAT = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ message['role'] | capitalize }}: "
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n' }}Assistant:{% endif %}"
)
"""The chat template of a language model that has none: `User: …`, and behind it `Assistant: …`."""

Message = Mapping[str, Any]


class PlainChat(NamedTuple):
    """
    Attributes:
        messages: whose `content` is one text, with `<video>` for each clip or picture.
        clips, pictures: what these are, in order; either is empty.
    """

    messages: list[dict[str, Any]]
    clips: list[Any]
    pictures: list[Any]


def is_chat(value: Any) -> bool:
    """Whether this is one chat: messages with a role each."""
    return isinstance(value, list | tuple) and bool(value) and all(_is_message(one) for one in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def plain_chat(messages: Sequence[Message], token: str = VIDEO_TOKEN) -> PlainChat:
    """
    A chat as chat templates of language models take it.

    Args:
        messages: `{"role": …, "content": …}` each; the content is a text, or a list of `{"type": "text", "text": …}`,
            `{"type": "video", "path" | "url" | "video": …}` and `{"type": "image", …}`.

    Raises:
        ValueError: for a chat without a user's turn, a content of another form, or clips and pictures together.
    """
    roles = [str(message.get("role")) for message in messages]
    if "user" not in roles:
        told = ", ".join(roles) or "none at all"
        raise ValueError(
            f"The chat has {len(roles)} turns ({told}) and none of the user: a turn with the role 'user' asks."
        )
    chat = PlainChat([], [], [])
    for number, message in enumerate(messages):
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(_text_of(part, number, chat, token) for part in content)
        chat.messages.append({**message, "content": content})
    if chat.clips and chat.pictures:
        raise ValueError(
            f"The chat has {len(chat.clips)} videos and {len(chat.pictures)} pictures: give one kind, as their clips "
            "have other numbers of frames."
        )
    return chat


def _text_of(part: Mapping[str, Any], turn: int, chat: PlainChat, token: str) -> str:
    kind = part.get("type")
    if kind == "text":
        return str(part["text"])
    if kind not in ("video", "image"):
        raise ValueError(f"Turn {turn} of the chat has a content of type {kind!r}; known are text, video and image.")
    keys, found = (VIDEO_KEYS, chat.clips) if kind == "video" else (PICTURE_KEYS, chat.pictures)
    given = [part[key] for key in keys if part.get(key) is not None]
    if len(given) != 1:
        raise ValueError(
            f"A {kind} in turn {turn} of the chat is given {len(given)} times: it needs one of the keys "
            f"{', '.join(map(repr, keys))}."
        )
    found.append(given[0])
    return token


def expand_places(texts: Iterable[str], clips: int, places: int, token: str = VIDEO_TOKEN) -> list[str]:
    """
    Texts with `<video>` once for each clip -> as many times as the clip has tokens.

    Args:
        clips: how many there are, over all texts.
        places: tokens of each.

    Raises:
        ValueError: for a `<video>` too few or too many.
    """
    texts = list(texts)
    found = [text.count(token) for text in texts]
    if sum(found) != clips:
        each = f" ({', '.join(map(str, found))} in each)" if 1 < len(texts) <= 16 else ""
        raise ValueError(
            f"There are {clips} clips, and {sum(found)} times {token} in {len(texts)} texts{each}: write it once "
            "where each clip stands."
        )
    return [text.replace(token, token * places) for text in texts]
