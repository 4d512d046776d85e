"""
VIOLET video-language models for the Hugging Face ecosystem.

Importing this package registers its models, processors and pipelines with transformers' Auto classes and `pipeline`.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from ._version import __version__
from .core.catalogue import CONFIGURATIONS, MODELS, PROCESSORS, PUBLIC, classes_by_auto_class

__all__ = ["__version__", "register", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})


def register() -> None:
    """Registers configurations, models, processors and pipelines with transformers; doing it twice is harmless."""
    import transformers

    from .core.upstream import warn_if_untested
    from .modeling_violet.encoders import ENCODERS
    from .modeling_violet.fusions import FUSIONS
    from .modeling_violet.sounds import AUDIO_ENCODERS
    from .modeling_violet.texts import TEXTS
    from .pipelines.auto_classes import register_pipelines

    warn_if_untested()
    for table in (ENCODERS, AUDIO_ENCODERS, TEXTS, FUSIONS):
        list(table.values())  # the file of a part of our own registers its configuration

    for model_type, configuration in CONFIGURATIONS.items():
        transformers.AutoConfig.register(model_type, configuration, exist_ok=True)
    for model_type, configuration in CONFIGURATIONS.items():
        for auto_class, names in classes_by_auto_class(model_type).items():
            classes = tuple(
                MODELS[name] for name in names
            )  # of several, the one that a checkpoint's config.json names
            known = classes if len(classes) > 1 else classes[0]
            getattr(transformers, auto_class).register(configuration, known, exist_ok=True)
    for auto_class_name, processor in PROCESSORS.items():
        getattr(transformers, auto_class_name).register(CONFIGURATIONS["violet"], processor, exist_ok=True)
    register_pipelines()


# The `violet` command registers when a sub-command needs it: `violet --help` answers without loading torch.
if Path(sys.argv[0]).stem != "violet":
    register()
