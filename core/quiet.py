"""Without transformers' own reports and progress bars, where ours say more."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


def silence_transformers() -> None:
    """Of transformers, only errors are printed from here on."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextmanager
def quietly() -> Iterator[None]:
    """Of transformers, only errors are printed within."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    silence_transformers()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
