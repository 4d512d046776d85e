"""`save_pretrained` of models and processors: whole, and with their code if that is asked for."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from .carried_code import JSON_FILES, TRAVELLING, add_code
from .files import save_into


class SavedWhole:
    """For classes of transformers that have `save_pretrained`: what it writes is there together, or not at all."""

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, with_code: bool = False, push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """
        As transformers' `save_pretrained`, with differences:

        - The files take the place of older ones all at once, see `files.save_into`; shards of older weights go.
        - Weights are safetensors, and nothing else.
        - `with_code` puts the code beside them that is needed if this package is not installed, see
          `carried_code.add_code`. A model that was loaded from such a folder, without the package, always does so.

        Raises:
            ValueError: for `safe_serialization=False`.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("Weights are saved as safetensors; `safe_serialization=False` asks for a pickle.")
        save = super().save_pretrained  # type: ignore[misc]
        on_this_rank = getattr(self, "should_save_on_this_rank", bool)
        if kwargs.get("distributed_checkpoint") or not on_this_rank(kwargs.get("is_main_process", True)):
            return save(save_directory, push_to_hub=push_to_hub, **kwargs)
        folder = Path(save_directory)
        names = ("commit_message", "create_pr", "private", "repo_id", "revision")
        hub = {name: kwargs.pop(name) for name in names if name in kwargs}
        written: list[str] = []

        def write(partial: Path) -> None:
            save(partial, **kwargs)
            if with_code or (TRAVELLING and any((partial / name).exists() for name in JSON_FILES)):
                for name in JSON_FILES:  # what was saved there before needs code too
                    if (folder / name).is_file() and not (partial / name).exists():
                        shutil.copyfile(folder / name, partial / name)
                add_code(partial)
            written.extend(path.name for path in partial.iterdir())

        save_into(folder, write)
        if push_to_hub:
            self._push(folder, written, token=kwargs.get("token"), **hub)
        return [str(folder / name) for name in written]

    def _upload_modified_files(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', through which every upload of a model goes, but for what may not be passed on."""
        terms = getattr(getattr(self, "config", None), "weights_license", None)
        if terms is not None:
            raise ValueError(
                f"The weights may not be passed on (`weights_license` of the configuration): {terms} If you have the "
                "right to, `violet push --despite-license` publishes a saved model."
            )
        return super()._upload_modified_files(*args, **kwargs)  # type: ignore[misc]

    def _push(
        self,
        folder: Path,
        written: list[str],
        token: str | bool | None,
        repo_id: str | None = None,
        private: bool | None = None,
        **commit: Any,
    ) -> None:
        """Uploads what was written, and the folder's card if it has one, in one commit."""
        from huggingface_hub import create_repo

        repo_id = create_repo(repo_id or folder.resolve().name, private=private, token=token, exist_ok=True).repo_id
        others = {name: math.inf for name in os.listdir(folder) if name not in written and name != "README.md"}
        self._upload_modified_files(folder, repo_id, others, token=token, **commit)
