"""`violet embed --engine ray`: the parts made by processes of a Ray cluster, however they end."""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data.lasting import TRIES
from ..data.loading import WorkerDiedError
from .embedder import Embedder, Part, Wanted
from .prediction import PredictError

logger = logging.getLogger(__name__)


class RayEmbedder:
    """
    An `Embedder` as a Ray actor.

    Args:
        made_by: `Embedder.identity` of the process that asks: here the checkpoint may be another one of that name.
    """

    def __init__(self, wanted: Wanted, made_by: Mapping[str, str]):
        from .. import register

        register()
        self.embedder = Embedder(wanted)
        self.is_same = self.embedder.identity() == made_by

    def make(self, clips: Sequence[Mapping[str, Any]]) -> Part:
        """The part of these clips, see `Embedder.parts`."""
        if not self.is_same:
            raise PredictError(
                f"{self.embedder.wanted.model} is another checkpoint on this machine than where it began."
            )
        (part,) = self.embedder.parts(clips, [range(len(clips))])
        return part


def parts_on_ray(
    wanted: Wanted, made_by: Mapping[str, str], clips: Any, ranges: Mapping[int, range]
) -> Iterator[tuple[int, Part]]:
    """
    (number, part), in the order in which they are done. One process for each GPU of the cluster, or, without any, for
    as many CPUs as it needs (`wanted.workers` and one); the cluster is that of RAY_ADDRESS, the one that runs on this
    machine, or one that is started on it. A process that dies is replaced, and its part is made again.

    Args:
        clips: of `Embedder.parts`; a part's own are sent to the process that makes it.
        ranges: the numbers of each part's clips, by its number.

    Raises:
        WorkerDiedError: if processes die over one part three times; it names the clips.
        VideoDecodeError, TableError, PredictError: as `Embedder` raises them.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False)
    try:
        yield from _made(ray, wanted, made_by, clips, ranges)
    finally:
        if started:
            ray.shutdown()


def _made(
    ray: Any, wanted: Wanted, made_by: Mapping[str, str], clips: Any, ranges: Mapping[int, range]
) -> Iterator[tuple[int, Part]]:
    resources = ray.cluster_resources()
    cpus, gpus = 1 + wanted.workers, int(resources.get("GPU", 0))
    count = min(len(ranges), gpus or max(1, int(resources.get("CPU", 1)) // cpus))
    actor = ray.remote(num_cpus=cpus, num_gpus=1 if gpus else 0)(RayEmbedder)
    logger.info("%d processes of a Ray cluster, with %d CPUs each.", count, cpus)
    idle = [actor.remote(wanted, made_by) for _ in range(count)]
    waiting, deaths = deque(ranges), Counter[int]()
    busy: dict[Any, tuple[Any, int]] = {}
    while waiting or busy:
        while idle and waiting:
            one, number = idle.pop(), waiting.popleft()
            busy[one.make.remote([clips[clip] for clip in ranges[number]])] = one, number
        if not waiting:
            idle.clear()  # their place may be what the successor of a lost one waits for
        (done,), _ = ray.wait(list(busy), num_returns=1)
        one, number = busy.pop(done)
        try:
            part = ray.get(done)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            deaths[number] += 1
            first, last = clips[ranges[number][0]], clips[ranges[number][-1]]
            said = f"A process of the Ray cluster is gone, which made clips {first['video']} to {last['video']}"
            if deaths[number] >= TRIES:
                raise WorkerDiedError(f"{said}, attempt {TRIES}: {error}") from error
            logger.warning("%s. Another one makes them again.", said)
            waiting.appendleft(number)
            idle.append(actor.remote(wanted, made_by))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        else:
            idle.append(one)
            yield number, part
