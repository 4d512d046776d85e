"""
What lies behind an address, within limits of size and time, and not on this machine or its network.

`open_url` opens everything that the package reads over http(s); the Hub is reached by huggingface_hub. No torch at
module level, as in all that the decoder's process loads.
"""

import http.client
import ipaddress
import os
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from .decoded_video import VideoDecodeError

URL_TIMEOUT_SECONDS = 30.0
"""How long a server may be silent."""
FETCH_SECONDS = 600.0
"""How long a file that is held in memory may take to come."""
MOST_FETCHED_BYTES = 2**30
"""A file behind an address is held in memory, and a larger one is refused."""
LOCAL_ADDRESSES = "VIOLET_LOCAL_ADDRESSES"
"""The environment variable that allows addresses of this machine and its network, if it is 1."""
_ADVICE = "Check the address and network."
_PARTS_OF_FSSPEC = frozenset({"hf", "zip"})


class RefusedAddressError(OSError):
    """An address that is not opened, whatever lies behind it."""


def is_address(source: Any) -> bool:
    """Whether this is a text such as `https://…` or `hf://…`."""
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE) is not None


def fetch_address(url: str) -> bytes:
    """
    The bytes behind an address (http, https, hf, or a zip in one of these or in a local file), held in memory.

    Raises:
        VideoDecodeError: they cannot be fetched, are more than `MOST_FETCHED_BYTES`, take longer than `FETCH_SECONDS`,
            or the address is refused, see `open_url`.
    """
    try:
        if not url.lower().startswith(("http://", "https://")):
            return _fetch_with_fsspec(url)
        with open_url(url) as response:
            return read_within(response, response.headers.get("Content-Length"))
    except RefusedAddressError as error:
        raise VideoDecodeError(url, f"it cannot be fetched ({error})", _ADVICE) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise VideoDecodeError(url, f"it cannot be fetched ({error!r})", _ADVICE) from error


def open_url(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """
    The response of an http(s) server, as of `urllib.request.urlopen`.

    Raises:
        RefusedAddressError: the address, or one that it leads to, is not http(s), or one of this machine or of its
            network while `VIOLET_LOCAL_ADDRESSES` is not 1.
        OSError: it cannot be reached, or answers with an error.
        ValueError, HTTPException: it is no address, or the answer is none.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "violet-video", **(headers or {})})
    try:
        return _OPENER.open(request, timeout=URL_TIMEOUT_SECONDS)
    except urllib.error.URLError as error:
        if isinstance(error.reason, RefusedAddressError):
            raise error.reason from error
        raise


def read_within(response: Any, told: str | int | None, most: int = MOST_FETCHED_BYTES) -> bytes:
    """
    All bytes of a response or file.

    Args:
        told: how many there are, if somebody says.

    Raises:
        RefusedAddressError: there are more than `most`, or they take longer than `FETCH_SECONDS`.
    """
    end, parts, size = time.monotonic() + FETCH_SECONDS, [], 0
    take = getattr(response, "read1", response.read)  # what is there: a slow server would hold `read` past the end
    if told is not None and int(told) > most:
        raise RefusedAddressError(f"it has {int(told)} bytes; at most {most} are read")
    while part := take(2**20):
        size += len(part)
        if size > most:
            raise RefusedAddressError(f"it has more than the {most} bytes that are read")
        if time.monotonic() > end:
            raise RefusedAddressError(f"it was not there after {FETCH_SECONDS:.0f} s")
        parts.append(part)
    if told is not None and size < int(told):
        raise http.client.IncompleteRead(b"", int(told) - size)
    return b"".join(parts)


def _fetch_with_fsspec(address: str) -> bytes:
    protocols = {part.split("://")[0].lower() for part in address.split("::") if "://" in part}
    if not protocols <= _PARTS_OF_FSSPEC:
        raise RefusedAddressError("addresses are http, https, hf, or a zip in a local file or behind hf")
    try:
        import fsspec
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise ImportError(
            f"Reading {address} needs fsspec and huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        with fsspec.open(address, "rb") as file:
            return read_within(file, getattr(file, "size", None))
    except RefusedAddressError:
        raise
    except (OSError, HTTPError, KeyError, ValueError, ImportError) as error:  # no file, network, member, protocol
        raise VideoDecodeError(address, f"it cannot be fetched ({error!r})", _ADVICE) from error


# ---------------------------------------------------------------------------------------------------------------------
# Which machines are reached
# ---------------------------------------------------------------------------------------------------------------------


def _allows_local() -> bool:
    return os.environ.get(LOCAL_ADDRESSES) == "1"


def _check_machine(host: str, port: int) -> list[tuple[Any, ...]]:
    """
    Where a host's name leads, as `socket.getaddrinfo` says.

    Raises:
        RefusedAddressError: to this machine or its network.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).split("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_global or address.is_multicast:
            raise RefusedAddressError(
                f"{host} is {address}, an address of this machine or its network, which are refused unless "
                f"{LOCAL_ADDRESSES}=1 is set"
            )
    return found


def _connect(address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
    """As `socket.create_connection`, to the very addresses that were checked: a name may lead elsewhere next time."""
    if _allows_local():
        return socket.create_connection(address, timeout, source_address)
    problem: OSError | None = None
    for family, kind, protocol, _, place in _check_machine(*address):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem or OSError(f"{address[0]} leads nowhere")


def _prepared(kind: type[http.client.HTTPConnection], request: urllib.request.Request) -> Any:
    """
    What makes connections for a request. Behind a proxy, which may be local, the connection is to the proxy, and the
    name in the address is what is checked.
    """
    if request.has_proxy() or getattr(request, "_tunnel_host", None):
        parts = urllib.parse.urlsplit(request.full_url)
        if not _allows_local():
            _check_named(parts.hostname or "")
        return kind

    def make(host: str, **settings: Any) -> http.client.HTTPConnection:
        connection = kind(host, **settings)
        connection._create_connection = _connect  # type: ignore[attr-defined]
        return connection

    return make


def _check_named(host: str) -> None:
    """Refuses a name that is an address of a local machine; other names are the proxy's to look up."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host:
            raise RefusedAddressError(f"{host} is refused unless {LOCAL_ADDRESSES}=1 is set") from None
        return
    _check_machine(host.strip("[]"), 0)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_prepared(http.client.HTTPConnection, req), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_prepared(http.client.HTTPSConnection, req), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(("http://", "https://")):
            raise RefusedAddressError(f"it leads to {newurl}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of urllib for files, FTP and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        _Http(),
        _Https(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()
