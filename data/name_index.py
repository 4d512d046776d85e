"""The row number of each of very many names, in 16 bytes per name."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


class NameIndex:
    """
    Finds names by 8-byte digests, sorted: a data set's ids as Python strings would cost each of the data loader's
    workers a hundred bytes per row and more.

    Args:
        names: in the order of their places, 0, 1, …; they are read once and not kept.

    Attributes:
        repeated: how many names were there before.
    """

    def __init__(self, names: Iterable[str]):
        digests = np.fromiter((_digest(name) for name in names), np.uint64)
        self._places = digests.argsort(kind="stable")
        self._digests = digests[self._places]
        self.repeated = int((self._digests[1:] == self._digests[:-1]).sum())

    def __len__(self) -> int:
        return len(self._places)

    def candidates(self, name: str) -> list[int]:
        """The places that may have this name, in order. Whether one has it is to be checked: digests can meet."""
        digest = np.uint64(_digest(name))
        first, end = (int(self._digests.searchsorted(digest, side)) for side in ("left", "right"))
        return self._places[first:end].tolist()


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest())
