"""A clock that only tests move, in the place of the one by which runs tell how long they wait for data."""

from collections.abc import Callable
from typing import Any

LOADING, COMPUTING, BETWEEN = 3.0, 1.0, 100.0
"""How long a batch, its computing and what lies between two steps are to take."""


class SlowClock:
    def __init__(self, patch: Any):
        from violet.training import waiting

        self.now = 0.0
        patch.setattr(waiting, "time", self)

    def perf_counter(self) -> float:
        return self.now

    def before(self, seconds: float, work: Callable) -> Callable:
        """The work, which takes that long."""

        def slow(*given: Any, **more: Any) -> Any:
            self.now += seconds
            return work(*given, **more)

        return slow
