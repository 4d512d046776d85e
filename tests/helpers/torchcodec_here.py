"""Whether torchcodec can decode on this machine."""

from functools import cache

import pytest


@cache
def torchcodec_works() -> bool:
    """It is installed, and finds FFmpeg's libraries: some releases load them with the first decoder only."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"")
    except (ImportError, OSError):
        return False
    except RuntimeError as error:
        return "libtorchcodec" not in str(error)
    except ValueError:  # no video: it looked for one
        pass
    return True


def need_torchcodec() -> None:
    """Skips a test where it does not."""
    if not torchcodec_works():
        pytest.skip("torchcodec is not installed, or does not find FFmpeg's libraries")
