"""Files behind http(s) addresses, read like local ones: in order over one connection, or in places by Range."""

import http.client
import io
import urllib.error
from typing import Any

from ..processing.addresses import RefusedAddressError, open_url
from .tables import TableError

TRIES = 3
"""Requests in a row that may bring nothing before reading fails."""
READ_THROUGH = 2**20
"""A gap of up to this many bytes is read and dropped: cheaper than another request."""


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


class RemoteFile(io.RawIOBase):
    """
    A remote file, opened for reading. A connection that breaks is taken up again where it broke; a server that does
    not serve parts of a file is asked for all of it, up to the place that is wanted.

    Raises:
        TableError: if the address cannot be read, says no length, or breaks off `TRIES` times in a row.
    """

    def __init__(self, url: str):
        self.url = url
        self.place = 0
        self._response: Any = None
        self._response_place = 0
        self.size = 0
        self._connect(0)

    def _connect(self, start: int) -> None:
        """Opens a connection whose next byte is `start`, or one before it."""
        if self._response is not None:
            self._response.close()
            self._response = None
        try:
            response = open_url(self.url, {"Range": f"bytes={start}-"})
        except urllib.error.HTTPError as error:
            raise TableError(f"{self.url}: cannot be fetched (HTTP {error.code} {error.reason}).") from error
        except RefusedAddressError as error:
            raise TableError(f"{self.url}: refused: {error}.") from error
        length, partial = response.headers.get("Content-Length"), response.status == 206
        if length is None:
            raise TableError(f"{self.url}: the server says no length: what it breaks off would pass for the end.")
        self._response_place = start if partial else 0
        size = self._response_place + int(length)
        if self.size and size != self.size:
            raise TableError(f"{self.url}: it had {self.size} bytes and now has {size}: it changed while it was read.")
        self._response, self.size = response, size

    def readinto(self, buffer: Any) -> int:
        """As of `io.RawIOBase`."""
        if self.place >= self.size or not len(buffer):
            return 0
        problem, start = "", self.place
        for _ in range(TRIES):
            try:
                if not 0 <= self.place - self._response_place <= READ_THROUGH or self._response is None:
                    self._connect(self.place)
                while self._response_place < self.place:
                    skipped = len(self._response.read(min(self.place - self._response_place, READ_THROUGH)))
                    if not skipped:
                        raise ConnectionError("the connection was cut")
                    self._response_place += skipped
                count = self._response.readinto(buffer[: self.size - self.place])
                if not count:
                    raise ConnectionError("the connection was cut")
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or repr(error)
                self._response, self._response_place = None, 0
                continue
            self._response_place += count
            self.place += count
            return count
        raise TableError(
            f"{self.url}: reading stopped at byte {start} of {self.size}, after {TRIES} tries ({problem})."
        )

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()
