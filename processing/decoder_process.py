"""`decode_video` in a process that can be killed: nothing else can interrupt a hung native decoder.

The process is this file, run by its path, so that it loads neither the package nor torch. The two talk over a pair of
sockets; a message is the lengths of its parts, a JSON object, and bytes: those of a file or of frames, as they are.
"""

import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import types
import weakref
from typing import Any

import numpy as np

if __name__ == "__main__":
    # This folder as a package of its own, so that its files find each other and no `__init__` runs.
    sys.modules["alone"] = types.ModuleType("alone")
    sys.modules["alone"].__path__ = [os.path.dirname(os.path.abspath(__file__))]
    from alone.addresses import is_address
    from alone.decoded_video import DecodedVideo, SampleIndices, Sound, VideoDecodeError
    from alone.decoding import decode_video, describe_source
    from alone.sound import decode_with_sound
else:
    from .addresses import is_address
    from .decoded_video import DecodedVideo, SampleIndices, Sound, VideoDecodeError
    from .decoding import decode_video, describe_source
    from .sound import decode_with_sound

START_SECONDS = 120.0
"""How long the process may take to start, on a machine however busy."""
MOST_VIDEOS = 500
"""After this number the process is replaced: what libraries lose, about 1 KB a video, does not add up."""
MOST_BYTES = 2**33
"""Memory that the process may have for one video, and for the libraries that it then loads (Linux)."""

_LENGTHS = struct.Struct("<QQ")
_LIMIT_ADVICE = "Look at the file, or allow more time."
_CRASH_ADVICE = "What it said stands above; look at the file, and at the memory that is free."


class DecoderProcess:
    """
    Decodes in another process, which is started when the first video comes, used again for the next `MOST_VIDEOS`, and
    dies with the process that it serves. After a fork each process starts its own.

    Args:
        time_limit: seconds that one video may take. A process that needs more is killed, and not waited for.
    """

    def __init__(self, time_limit: float):
        self.time_limit = time_limit
        self._running: tuple[int, subprocess.Popen, socket.socket] | None = None
        self._end: weakref.finalize | None = None
        self._served = 0

    def decode(
        self,
        source: Any,
        sample_indices: SampleIndices,
        backend: str = "auto",
        name: str | None = None,
        sound: tuple[int, int] | None = None,
        most_pixels: int | None = None,
    ) -> DecodedVideo:
        """
        As `decode_video`, for a path, a URL or the bytes of a file. `sample_indices` is asked in this process.

        Args:
            sound: (sampling_rate, num_samples), if the clip's sound is wanted too; see `decode_with_sound`.

        Raises:
            VideoDecodeError: also if the time limit is over, or the process dies.
        """
        name = describe_source(source) if name is None else name
        request: dict[str, Any] = {"backend": backend, "name": name, "sound": sound, "most_pixels": most_pixels}
        sent: Any = b""
        if isinstance(source, bytes | bytearray | memoryview):
            sent = source
        elif is_address(source):
            request["path"] = source
        else:
            request["path"] = os.path.abspath(source)
        process, connection = self._start()
        deadline = time.monotonic() + self.time_limit
        answered = False
        try:
            _send(connection, request, sent, deadline)
            while True:
                answer, content = _receive(connection, deadline)
                if "choose" not in answer:
                    break
                indices = sample_indices(*answer["choose"])
                _send(connection, {"indices": np.asarray(indices).tolist()}, b"", deadline)
            answered = True
        except TimeoutError as error:
            reason = f"it took longer than {self.time_limit:g} s, and the process that decoded it was killed"
            raise VideoDecodeError(name, reason, _LIMIT_ADVICE) from error
        except (EOFError, ConnectionError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            raise VideoDecodeError(name, f"the decoder died ({_how_it_ended(process)})", _CRASH_ADVICE) from error
        finally:
            self._served += 1
            if not answered or self._served >= MOST_VIDEOS:
                self.kill()
        if "error" in answer:
            refused = _ERRORS[answer["error"]](*answer["arguments"])
            refused.__dict__.update(answer.get("counts", {}))
            raise refused
        return _unpacked(answer, content)

    def kill(self) -> None:
        """Kills the process, if there is one; the next video starts another."""
        if self._end is not None:
            self._end()
        self._running = self._end = None

    @property
    def pid(self) -> int | None:
        """The number of the process that runs, None before the first video."""
        return None if self._running is None or self._running[0] != os.getpid() else self._running[1].pid

    def _start(self) -> tuple[subprocess.Popen, socket.socket]:
        if self._running is not None:
            owner, process, connection = self._running
            if owner == os.getpid() and process.poll() is None:
                return process, connection
            self.kill()
        connection, other_end = socket.socketpair()
        with other_end:
            process = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=other_end.fileno())
        self._running, self._served = (os.getpid(), process, connection), 0
        self._end = weakref.finalize(self, _end, *self._running)
        try:
            _receive(connection, time.monotonic() + START_SECONDS)
        except (TimeoutError, EOFError, ConnectionError) as error:
            self.kill()
            ended = _how_it_ended(process)
            raise RuntimeError(f"The process that decodes videos does not start ({ended}).") from error
        return process, connection

    def __getstate__(self) -> dict[str, Any]:
        return {"time_limit": self.time_limit, "_running": None, "_end": None, "_served": 0}


_ERRORS: dict[str, type[Exception]] = {error.__name__: error for error in (VideoDecodeError, ImportError, ValueError)}


def _end(owner: int, process: subprocess.Popen, connection: socket.socket) -> None:
    connection.close()
    if owner == os.getpid():  # not in a process forked from its owner
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the kernel holds is not waited for
            process.wait(timeout=1)


def _how_it_ended(process: subprocess.Popen) -> str:
    status = process.poll()
    if status is None:
        return "it is still there"
    return f"exit status {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"


def _send(connection: socket.socket, message: dict[str, Any], content: Any, deadline: float | None = None) -> None:
    text = json.dumps(message).encode()
    content = memoryview(content).cast("B")
    connection.settimeout(_left(deadline))
    connection.sendall(_LENGTHS.pack(len(text), len(content)) + text)
    if len(content):
        connection.settimeout(_left(deadline))
        connection.sendall(content)


def _receive(connection: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], np.ndarray]:
    """The JSON object of a message, and its bytes, (bytes,) uint8."""
    lengths = _LENGTHS.unpack(_receive_bytes(connection, _LENGTHS.size, deadline).tobytes())
    text, content = (_receive_bytes(connection, length, deadline) for length in lengths)
    return json.loads(text.tobytes()), content


def _receive_bytes(connection: socket.socket, length: int, deadline: float | None) -> np.ndarray:
    buffer = np.empty(length, np.uint8)
    place = 0
    while place < length:
        connection.settimeout(_left(deadline))
        received = connection.recv_into(buffer.data[place:])
        if not received:
            raise EOFError("The other end is closed.")
        place += received
    return buffer


def _left(deadline: float | None) -> float | None:
    """Seconds until then; None, which is for ever, without a deadline."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _packed(decoded: DecodedVideo) -> tuple[dict[str, Any], np.ndarray]:
    """The JSON object of an answer, and its bytes: the frames, then the values and the mask of the sound."""
    answer: dict[str, Any] = {
        "shape": decoded.frames.shape,
        "times": decoded.times.tolist(),
        "indices": decoded.indices.tolist(),
        "total_frames": decoded.total_frames,
        "fps": decoded.fps,
        "backend": decoded.backend,
        "span": decoded.span,
        "promised_frames": decoded.promised_frames,
    }
    content = np.ascontiguousarray(decoded.frames).reshape(-1)
    sound = decoded.sound
    if sound is not None:
        answer["sound"] = {"found": sound.found, "missing": sound.missing}
        content = np.concatenate([content, sound.values.view(np.uint8), sound.mask.view(np.uint8)])
    return answer, content


def _unpacked(answer: dict[str, Any], content: np.ndarray) -> DecodedVideo:
    """What `_packed` made an answer of."""
    size = math.prod(answer["shape"])
    sound = None
    if "sound" in answer:
        of_sound = content[size:].copy()  # whose first byte may lie anywhere
        samples = len(of_sound) // 5  # of 4 bytes, and one of the mask
        values, mask = of_sound[: 4 * samples].view(np.float32), of_sound[4 * samples :].view(bool)
        sound = Sound(values, mask, **answer["sound"])
    return DecodedVideo(
        frames=content[:size].reshape(answer["shape"]),
        times=np.array(answer["times"], np.float64),
        indices=np.array(answer["indices"], np.int64),
        total_frames=answer["total_frames"],
        fps=answer["fps"],
        backend=answer["backend"],
        span=None if answer["span"] is None else tuple(answer["span"]),
        sound=sound,
        promised_frames=answer["promised_frames"],
    )


# ---------------------------------------------------------------------------------------------------------------------
# In the process
# ---------------------------------------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    """Decodes what it is asked to until the other end is closed."""

    def choose(total_frames: int, fps: float | None) -> list:
        _send(connection, {"choose": [total_frames, fps]}, b"")
        return _receive(connection)[0]["indices"]

    _send(connection, {}, b"")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request, content = _receive(connection)
            source = request.get("path") or content.tobytes()
            try:
                decoded = _decode(source, choose, request)
            except VideoDecodeError as error:
                arguments = [error.source, error.reason, error.advice]
                counts = {"promised_frames": error.promised_frames, "held_frames": error.held_frames}
                _send(connection, {"error": "VideoDecodeError", "arguments": arguments, "counts": counts}, b"")
            except MemoryError:
                arguments = [request["name"], f"it needs more memory than the {MOST_BYTES} bytes that are allowed"]
                _send(connection, {"error": "VideoDecodeError", "arguments": [*arguments, _CRASH_ADVICE]}, b"")
            except (ImportError, ValueError) as error:
                kind = "ImportError" if isinstance(error, ImportError) else "ValueError"
                _send(connection, {"error": kind, "arguments": [str(error)]}, b"")
            else:
                _send(connection, *_packed(decoded))


def _decode(source: Any, choose: SampleIndices, request: dict[str, Any]) -> DecodedVideo:
    backend, name, most_pixels = request["backend"], request["name"], request["most_pixels"]
    if request["sound"] is None:
        return decode_video(source, choose, backend, name, most_pixels=most_pixels)
    rate, count = request["sound"]
    length = {"sampling_rate": rate, "num_samples": count}
    return decode_with_sound(source, choose, backend, name=name, **length, most_pixels=most_pixels)


def _bound_memory() -> None:
    """Lets the process have `MOST_BYTES` more than it has now; what asks for more gets an error."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = held + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    except (ImportError, OSError, ValueError):  # another system than Linux
        return


def _die_with_parent() -> None:
    """Linux kills this process when the one that started it is gone; elsewhere it ends at its next message."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    for asked in (signal.SIGINT, signal.SIGTERM):  # they are for the process that it serves
        signal.signal(asked, signal.SIG_IGN)
    with contextlib.suppress(ImportError):
        import av  # noqa: F401  (what takes long is loaded before the first clock runs)
        import PIL.Image  # noqa: F401
    _bound_memory()
    _serve(socket.socket(fileno=0))
