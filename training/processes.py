"""Several training processes watch one another: if one dies or stands still, the others end and name it."""

import _thread
import json
import logging
import os
import secrets
import selectors
import socket
import threading
import time
import weakref
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

logger = logging.getLogger(__name__)

TIME_LIMIT_SECONDS = 1800.0
"""How long a process may stand still, as long as torch waits in one exchange."""

_BEAT_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_CONNECT_SECONDS = 60.0
_WORDS_OF_TORCH = ("gloo", "NCCL", "ProcessGroup", "Connection closed", "Connection reset", "Broken pipe")
_LOOPBACK = ("127.0.0.1", "localhost")
_STATUS = 75  # EX_TEMPFAIL: the run can go on from its checkpoint

_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """A data loader's worker would keep the connection open when its process is gone."""
    for one in list(_sockets):
        one.close()


os.register_at_fork(after_in_child=_close_in_child)


class ProcessGoneError(RuntimeError):
    """Another process of the run died or stands still; the message names its rank and step."""


class ProcessWatch:
    """
    A thread in each process of a run that tells the main process once a second that it lives, and in which step it
    is. If a process dies, its connection breaks and all others know at once; if an error ends its block, it says so.
    If one says nothing, or takes longer than `limit` seconds over one part of a step, the one that is furthest behind
    is named. The block in which the processes are watched then ends by `ProcessGoneError` in all others; one that
    cannot (it waits inside torch for a process that is no more) is ended five seconds later. With one process nothing
    is done. Blocks may stand in one another.

    Args:
        accelerator: knows the processes.
        limit: seconds.
    """

    def __init__(self, accelerator: Accelerator, limit: float):
        self.accelerator = accelerator
        self.limit = limit
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.fault: str | None = None
        self._depth = 0
        self._state: dict[str, Any] = {"step": 0, "doing": None, "beats": 0}
        self._since = time.monotonic()
        self._ended = threading.Event()
        self._told = threading.Event()
        self._thread: threading.Thread | None = None
        self._connections: dict[int, socket.socket] = {}
        self._sending = threading.Lock()
        self._last: dict[str, Any] = {"bye": True}

    def beat(self, step: int, doing: str) -> None:
        """Says what this process begins now, such as "waiting for a batch"; the time limit counts from here."""
        self._since = time.monotonic()
        is_new = step != self._state["step"]
        self._state = {"step": step, "doing": doing, "beats": self._state["beats"] + 1}
        if is_new:  # else the others know of it within a second
            self._send(self._state | {"age": 0.0})

    def rest(self) -> None:
        """What comes now is not limited: the end of a step, an evaluation, a checkpoint."""
        self._since = time.monotonic()
        self._state = self._state | {"doing": None}

    def __enter__(self) -> "ProcessWatch":
        self._depth += 1
        if self._depth == 1 and self.count > 1:
            self.fault, self._last = None, {"bye": True}
            self._ended.clear()
            self._told.clear()
            self._connections = self._connect()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth or self._thread is None:
            return
        by_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS_OF_TORCH)
        if by_torch:  # which may know before the connection breaks here
            self._told.wait(2 * _BEAT_SECONDS)
        elif error is not None:
            self._last = {"failed": f"{type(error).__name__}: {error}"}
        self._ended.set()
        if self.fault is None:
            self._thread.join(_GRACE_SECONDS)
        self._thread = None
        if self.fault is not None and (error is None or by_torch or isinstance(error, KeyboardInterrupt)):
            raise ProcessGoneError(self.fault) from error

    def _connect(self) -> dict[int, socket.socket]:
        """A connection to each other process in the main one, and to that in the others, by rank."""
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        told: list[Any] = [None]
        server = None
        if self.rank == 0:
            server = socket.create_server((host if host in _LOOPBACK else "", 0), backlog=self.count)
            told = [(server.getsockname()[1], secrets.token_hex(16))]
        broadcast_object_list(told)
        port, token = told[0]
        found: dict[int, socket.socket] = {}
        try:
            if server is None:
                found[0] = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
                found[0].sendall(json.dumps({"token": token, "rank": self.rank}).encode() + b"\n")
            else:
                with server:
                    _accept(server, token, found, self.count - 1)
        except OSError as error:
            logger.warning(
                "Process %d does not reach all others at %s, port %s (%s): who is not reached is not watched.",
                self.rank, host, port, error,
            )  # fmt: skip
        _sockets.update(found.values())
        return found

    def _watch(self) -> None:
        """The thread: sends and receives until the block ends, or a fault is known."""
        connections = self._connections
        begun: dict[str, Any] = {"step": 0, "doing": None, "beats": 0, "age": 0.0}
        heard = {rank: (time.monotonic(), begun) for rank in connections}
        left: dict[int, bytes] = dict.fromkeys(connections, b"")
        with selectors.DefaultSelector() as selector:
            for rank, connection in connections.items():
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, rank)
            sent = 0.0
            while connections and self.fault is None and not self._ended.is_set():
                if time.monotonic() - sent >= _BEAT_SECONDS:
                    sent = time.monotonic()
                    self._send(self._state | {"age": sent - self._since})
                for key, _ in selector.select(_BEAT_SECONDS / 4):
                    rank = key.data
                    messages, left[rank], is_open = _received(key.fileobj, left[rank])
                    for message in messages:
                        heard[rank] = time.monotonic(), heard[rank][1] | message
                    state = heard[rank][1]
                    if "bye" in state or "failed" in state or not is_open:
                        selector.unregister(key.fileobj)
                        with self._sending:
                            connections.pop(rank).close()
                    if "failed" in state:
                        self.fault = f"Process {rank} {_place(state)} was ended by an error. {state['failed']}"
                    elif not is_open and "bye" not in state:
                        self.fault = f"Process {rank} {_place(state)} is gone."
                    self.fault = state.get("fault", self.fault)
                self.fault = self.fault or self._standing_still(heard)
        if self.fault is None:
            self._send(self._last)
        else:
            self._end()
        with self._sending:
            while connections:
                connections.popitem()[1].close()

    def _standing_still(self, heard: dict[int, tuple[float, dict[str, Any]]]) -> str | None:
        now = time.monotonic()
        for rank in self._connections:
            silent = now - heard[rank][0]
            if silent > self.limit:
                return f"Process {rank} {_place(heard[rank][1])} has not answered for {silent:.0f} s."
        if self.rank != 0:
            return None  # the main process compares all
        states = {0: self._state | {"age": now - self._since, "silent": 0.0}}
        for rank in self._connections:
            at, state = heard[rank]
            states[rank] = state | {"age": state["age"] + now - at, "silent": now - at}
        if not any(state["doing"] and state["age"] > self.limit for state in states.values()):
            return None
        # one that is stopped; else the one that the others wait for
        order = {one: (state["silent"] < 3 * _BEAT_SECONDS, state["beats"]) for one, state in states.items()}
        rank = min(states, key=lambda one: (*order[one], -states[one]["age"]))
        return f"Process {rank} {_place(states[rank])} has stood still for {states[rank]['age']:.0f} s."

    def _end(self) -> None:
        """Tells the other processes, and ends this one: by an error if it can, else without one."""
        if self.rank == 0:
            self._send({"fault": self.fault})
        advice = "Start the run again: it goes on from its last checkpoint."
        self.fault = f"{self.fault} This process, {self.rank}, ends too. {advice}"
        logger.error(self.fault)
        self._told.set()
        if self._ended.wait(_GRACE_SECONDS / 2):
            return
        _thread.interrupt_main()
        if not self._ended.wait(_GRACE_SECONDS / 2):
            for handler in logging.getLogger().handlers:
                handler.flush()
            os.write(2, (self.fault + "\n").encode())
            os._exit(_STATUS)

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._sending:
            for connection in self._connections.values():
                try:
                    connection.sendall(line)
                except OSError:  # what became of the other process is told by what it sends, or does not
                    continue


def _accept(server: socket.socket, token: str, found: dict[int, socket.socket], count: int) -> None:
    """Adds to `found` the connections of that many processes, which know the token, by rank."""
    server.settimeout(_CONNECT_SECONDS)
    while len(found) < count:
        connection, _ = server.accept()
        connection.settimeout(_CONNECT_SECONDS)
        hello = _first_line(connection).rpartition(b"\n")[0]
        said = json.loads(hello) if hello.startswith(b"{") else {}
        if secrets.compare_digest(str(said.get("token")), token):
            found[said["rank"]] = connection
        else:
            connection.close()


def _place(state: dict[str, Any]) -> str:
    """Where a process was last heard of."""
    if not state["step"]:
        return "(before its first step)"
    return f"(step {state['step']}, {state['doing'] or 'between two steps'})"


def _first_line(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < 1000:
        byte = connection.recv(1)
        if not byte:
            break
        found += byte
    return found


def _received(connection: Any, left: bytes) -> tuple[list[dict[str, Any]], bytes, bool]:
    """The messages that have come whole, what is left of the next, and whether the connection is still open."""
    is_open = True
    try:
        while data := connection.recv(65536):
            left += data
        is_open = False
    except BlockingIOError:
        pass
    except OSError:
        is_open = False
    *lines, left = left.split(b"\n")
    return [message for message in map(_message, lines) if message is not None], left, is_open


def _message(line: bytes) -> dict[str, Any] | None:
    """A line's message; None for one of which a stopped process took in a part only."""
    try:
        return json.loads(line)
    except ValueError:
        return None
