"""Memory of the loader and of its decoder's process while clips go through it, one in seven of them damaged."""

import gc
import random
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import media
import psutil
from campaign import BrokenPromise, Promise

MOST_BYTES = 2**20
WARM_UP, CLIPS, FEW = 300, 1000, 60


def trial(seed: int, folder: Path) -> dict[str, int]:
    """A thousand clips after a warm-up; 60 after 60 if the seed is 0, which is the short form's."""
    from violet.data.loading import ClipReader
    from violet.processing import VideoDecodeError, VioletVideoProcessor

    chance, files = random.Random(seed), []
    for number in range(42):
        kind = list(media.CONTAINERS)[number % len(media.CONTAINERS)]
        content = media.clips()[kind].read_bytes()
        files.append(folder / f"{number}.{kind}")
        files[-1].write_bytes(media.spoil(content, chance)[1] if number % 7 == 6 else content)
    reader = ClipReader(VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=4))

    def read(count: int) -> None:
        for number in range(count):
            with suppress(VideoDecodeError):
                reader.read(str(files[number % len(files)]), draw=number)

    count = CLIPS if seed else FEW
    read(WARM_UP if seed else FEW)
    before = _held(reader)
    read(count)
    more = _held(reader) - before
    reader.decoder.kill()
    if more > MOST_BYTES:
        raise BrokenPromise(f"{count} clips took {more / 2**20:.2f} MB more")
    return {"clips": count}


def _held(reader) -> int:
    """Resident bytes that are no file's, of this process and its decoder's."""
    gc.collect()
    _give_back()
    mine, decoder = psutil.Process().memory_full_info().uss, reader.decoder.pid  # it has none while it is replaced
    return mine + (psutil.Process(decoder).memory_full_info().uss if decoder else 0)


def _give_back() -> None:
    """What the C library keeps of freed memory is no leak."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def frames_are_kept():
    """A loader that forgets to let its frames go."""
    from violet.data.loading import ClipReader

    whole, kept = ClipReader.read, []

    def read(self, *given, **more):
        clip = whole(self, *given, **more)
        kept.append(clip)
        return clip

    with patch.object(ClipReader, "read", read):
        yield


MUTANTS = {"frames are kept": frames_are_kept}
PROMISE = Promise(
    "memory_of_loading",
    "memory: at most 1 MB more in a thousand clips after warm-up, of the loader and its decoder together",
    20,
    trial,
    processes=2,
    limit=300.0,
    short_seeds=0,
    code=("core", "data", "processing"),
)
