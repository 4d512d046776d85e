"""Models to the Hub and back, whole or not at all."""

import fnmatch
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import HFValidationError

from ..core.files import sha256
from ..core.upstream import convert_file_size_to_int
from ..evaluation.provenance import METRICS_FILE
from .cards import (
    CARD_FILE,
    CONVERSION_FILE,
    CURVES_FILE,
    REPO_NAME,
    REPORT_FILE,
    card_title,
    read_card,
    read_facts,
    write_model_card,
)
from .weight_files import INDEX, WeightsError, first_line, reshard, weight_files

logger = logging.getLogger(__name__)

SENT = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.txt", "chat_template.jinja", INDEX),
    *(CARD_FILE, METRICS_FILE, REPORT_FILE, "report.html", CURVES_FILE, CONVERSION_FILE, "LICENSE*"),
)
"""What belongs to a published model, beside its weights, and the code of a folder whose configuration names some."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
TEMPORARY = (".*", "*.partial", "*.tmp", "*.lock", "__pycache__")
ATTEMPTS = 4
PAUSE_SECONDS = 2.0
"""Before the second attempt; twice as long before each further one."""
PASSING = (408, 429, 500, 502, 503, 504)
"""Answers that may be another the next time."""

Result = TypeVar("Result")


class HubError(ValueError):
    """A model that cannot be published or fetched; the message says why, and what to do."""


@dataclass(frozen=True)
class SentFile:
    """A file of a push: its path in the repository, its size in bytes, its sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Push:
    """
    The result of a push.

    Attributes:
        files: what went, or would go.
        left_out: what did not, by path, and why.
        commit: the commit that holds it; None if nothing was sent.
        url: the page of the model; None if nothing was sent.
    """

    files: list[SentFile]
    left_out: dict[str, str]
    commit: str | None = None
    url: str | None = None


@dataclass
class Staged:
    """A folder that holds what a push sends, and nothing else."""

    folder: Path
    left_out: dict[str, str] = field(default_factory=dict)

    def files(self) -> list[SentFile]:
        return [
            SentFile(str(file.relative_to(self.folder)), file.stat().st_size, sha256(file))
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        ]


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    with_code: bool = False,
    dry_run: bool = False,
    max_shard_size: int | str = "5GB",
    license_name: str | None = None,
    despite_license: bool = False,
    message: str = "Upload model",
    token: str | None = None,
) -> Push:
    """
    Sends a model's folder to the Hub in one commit, so that whoever loads it gets all of it or the one before. The
    folder stays as it is. Of what it holds go configuration, weights, processor, card, metrics and report; pickles,
    checkpoints of the training and temporary files never do.

    A new card is made for the repository (`write_model_card`), so that its code loads the model from there.

    Args:
        repo_id: "ORG/NAME"; made if it is not there.
        private: whether others can see a repository that is made; by default as its owner's settings say.
        revision: the branch, made from `main` if it is not there; by default `main`.
        with_code: whether the package's code goes along, for those who have not installed it.
        dry_run: only tell what would go.
        max_shard_size: of a file of weights, in bytes or as in "5GB"; larger ones are split.
        license_name: of the weights, in the Hub's spelling; by default the card's.
        despite_license: your word that you may pass on a model whose configuration has a `weights_license`, that is,
            terms of others that forbid it.
        message: of the commit.
        token: by default that of `hf auth login`, or HF_TOKEN.

    Raises:
        HubError: if the folder is no whole model, its card names no licence, or its weights may not be passed on, or
            if the Hub refuses, or fails more than `ATTEMPTS` times.
        CardError: if the card cannot be made.
    """
    with staged(Path(folder), repo_id, with_code, max_shard_size, license_name, despite_license) as stage:
        if dry_run:
            return Push(stage.files(), stage.left_out)
        return send(stage, repo_id, private=private, revision=revision, message=message, token=token)


def pull(repo_id: str, revision: str | None = None, *, token: str | None = None) -> Path:
    """
    The folder of a model on the Hub, whole: for `from_pretrained` and `pipeline`. A download
    that breaks off is resumed; files that are there are not fetched again, also not by the next call.

    Args:
        revision: a branch, tag or commit; by default `main`.
        token: as in `push`.

    Raises:
        HubError: if there is no such model or no right to read it, or the Hub fails more than `ATTEMPTS` times.
    """

    def fetch() -> str:
        # by the commit, since `snapshot_download` gives what it has of a branch if the Hub does not answer
        try:
            commit = HfApi(token=token).model_info(repo_id, revision=revision).sha
        except OfflineModeIsEnabled:
            commit = revision
        return snapshot_download(repo_id, revision=commit, token=token)

    with explained(repo_id, revision):
        return Path(patiently(f"Reading {repo_id}", fetch))


# --- what goes ---


@contextmanager
def staged(
    folder: Path,
    repo_id: str,
    with_code: bool = False,
    max_shard_size: int | str = "5GB",
    license_name: str | None = None,
    despite_license: bool = False,
) -> Iterator[Staged]:
    """What `push` sends, in a folder beside the model's that is deleted at the end. Weights are linked, not copied."""
    if not REPO_NAME.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no name on the Hub: give ORG/NAME, or your own name and the model's.")
    if not folder.is_dir():
        raise HubError(f"{folder} is no folder.")
    try:
        most_bytes = convert_file_size_to_int(max_shard_size)
    except ValueError as error:
        raise HubError(f"--max_shard_size: {max_shard_size!r} is no size; write 5GB or 200MB.") from error
    beside = folder.resolve().parent
    place = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f".{folder.resolve().name}.push-", dir=place) as temporary:
        stage = Staged(Path(temporary))
        config = read_facts(folder).config
        terms = config.get("weights_license")
        if terms is not None and not despite_license:
            raise HubError(
                f"{folder} was made of weights that may not be passed on (`weights_license` in its config.json): "
                f"{terms} If you have the right to, say so: `violet push --despite-license` (`despite_license=True`)."
            )
        weights = _weights(folder, stage, most_bytes)
        belong = (*SENT, "*.py") if "auto_map" in config else SENT
        for file in sorted(folder.iterdir()):
            if file.name in weights:
                continue
            why = _why_left_out(file, belong)
            if why is None:
                shutil.copyfile(file, stage.folder / file.name)
            else:
                stage.left_out[file.name + "/" * file.is_dir()] = why
        if with_code:
            from ..core.carried_code import add_code

            add_code(stage.folder)
        if read_card(stage.folder / CARD_FILE)[0].license is None and license_name is None:
            raise HubError(
                f"{folder / CARD_FILE} names no licence. Say which the weights have: `violet card {folder} --license "
                "apache-2.0` (or mit, cc-by-nc-4.0, other …), or --license here."
            )
        own_title = card_title(folder) not in (None, folder.resolve().name)
        write_model_card(stage.folder, name=None if own_title else repo_id, license_name=license_name, model=repo_id)
        yield stage


def _weights(folder: Path, stage: Staged, most_bytes: int) -> set[str]:
    """Puts the weights into the staged folder; the names of the files that are dealt with."""
    try:
        files = weight_files(folder)
    except WeightsError as error:
        pickled = [file.name for file in sorted(folder.iterdir()) if _matches(file.name, PICKLES)]
        hint = f" {', '.join(pickled)}: pickles are not published; `violet convert` makes safetensors." * bool(pickled)
        raise HubError(f"{error}{hint}") from error
    names = {file.name for file in files} | {INDEX}
    if max(file.stat().st_size for file in files) > most_bytes:
        reshard(folder, stage.folder, most_bytes)
        return names
    for file in files:
        _link(file, stage.folder / file.name)
    if len(files) > 1:
        shutil.copyfile(folder / INDEX, stage.folder / INDEX)
    return names


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)


def _why_left_out(file: Path, belong: tuple[str, ...]) -> str | None:
    if _matches(file.name, TEMPORARY):
        return "temporary"
    if file.is_dir():
        return "a checkpoint of the training" if file.name.startswith("checkpoint-") else "a folder"
    if _matches(file.name, PICKLES):
        return "a pickle, which can run code when it is loaded"
    return None if _matches(file.name, belong) else "no part of a published model"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# --- sending ---


def send(
    stage: Staged, repo_id: str, *, private: bool | None, revision: str | None, message: str, token: str | None
) -> Push:
    """Makes repository and branch if they are not there, and one commit of the staged folder."""
    api = HfApi(token=token)
    files = stage.files()
    with explained(repo_id, revision):

        def create() -> str:
            return api.create_repo(repo_id, private=private, exist_ok=True)

        def commit() -> str:
            there = api.list_repo_files(repo_id, revision=revision)
            return api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(file.path, stage.folder / file.path) for file in files),
                    *(CommitOperationDelete(path) for path in _stale(there, files)),
                ],
                commit_message=message,
                revision=revision,
            ).oid

        url = patiently(f"Making {repo_id}", create)
        if revision is not None and revision != "main":
            branch = revision
            patiently(f"Making the branch {branch}", lambda: api.create_branch(repo_id, branch=branch, exist_ok=True))
        # huggingface_hub repeats single requests for files, but not the ones around them; what has arrived of an
        # attempt is not sent again by the next one.
        oid = patiently(f"Sending to {repo_id}", commit)
    return Push(files, stage.left_out, oid, str(url))


def _stale(there: list[str], files: list[SentFile]) -> list[str]:
    """Weights and index of the model before, which would be loaded instead of the new ones."""
    now = {file.path for file in files}
    return [path for path in there if fnmatch.fnmatchcase(path, "model*.safetensors*") and path not in now]


def patiently(what: str, act: Callable[[], Result]) -> Result:
    """Acts again, up to `ATTEMPTS` times in all, if the Hub or the connection failed in a way that may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except Exception as error:
            if not _may_pass(error):
                raise
            if attempt == ATTEMPTS:
                raise HubError(
                    f"{what} failed {ATTEMPTS} times; the last time: {first_line(error)}. Try again later: what has "
                    "arrived is not sent again."
                ) from error
            pause = PAUSE_SECONDS * 2 ** (attempt - 1)
            logger.warning("%s: %s. Trying again in %g s.", what, first_line(error), pause)
            time.sleep(pause)
    raise AssertionError("no attempt")


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may help; for a wrapped error the innermost cause decides."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in PASSING
    if isinstance(error, HTTPError | json.JSONDecodeError):  # no answer, or a page of some machine between
        return True
    return error.__cause__ is not None and _may_pass(error.__cause__)


@contextmanager
def explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turns what the Hub refuses into errors that say what was wrong and what to do."""
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name on the Hub: {error}") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo_id} has no revision {revision or 'main'!r}.") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repo_id} is not on the Hub, or private and your token may not read it. Log in (`hf auth login`, or set "
            "HF_TOKEN) as somebody who may."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise HubError(
                f"{repo_id}: the Hub does not know this token, or got none (401). Log in by `hf auth login`, or set "
                "HF_TOKEN to a token that may write."
            ) from error
        if status == 403:
            raise HubError(f"{repo_id}: your token may not do this (403): {first_line(error)}") from error
        raise HubError(f"{repo_id}: the Hub refused: {first_line(error)}") from error
    except RuntimeError as error:  # of a file that did not go
        raise HubError(f"{repo_id}: {first_line(error)} {first_line(error.__cause__ or error)}") from error
