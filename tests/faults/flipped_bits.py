"""A checkpoint of which any file has a flipped bit, is cut, lengthened or gone is refused by that file's name."""

import logging
import random
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from savers import NEWER, OLDER, saver

KINDS = ("finetune", "pretrain")


def trial(seed: int, folder: Path) -> dict[str, int]:
    """One file of the newest checkpoint is damaged: it is named, and the checkpoint before is used."""
    from violet.training import CheckpointError, last_whole_checkpoint
    from violet.training.checkpoints import check_whole

    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    of = saver(kind)
    output = folder / "run"
    shutil.copytree(of.folder / "after", output)
    shutil.copytree(of.before / f"checkpoint-{OLDER}", output / f"checkpoint-{OLDER}")
    newest = output / f"checkpoint-{NEWER}"
    files = sorted(path for path in newest.iterdir() if path.stat().st_size)
    file = files[seed // len(KINDS) % len(files)]
    way = damage(file, chance)
    found, said = None, []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("violet.training.checkpoints")
    logger.addHandler(handler)
    try:
        found = last_whole_checkpoint(output)
    finally:
        logger.removeHandler(handler)
    where = f"{kind}: {file.name}, {way}"
    if found != str(output / f"checkpoint-{OLDER}"):
        raise BrokenPromise(f"{where}: {found} was chosen", file)
    if not any(str(newest) in line and f"{file.name} " in line for line in said):
        raise BrokenPromise(f"{where}: not named in {said}", file)
    try:
        check_whole(newest)
    except CheckpointError as error:
        if f"{file.name} " not in str(error):
            raise BrokenPromise(f"{where}: not named in {error}", file) from error
    else:
        raise BrokenPromise(f"{where}: it may be loaded when it is asked for by its name", file)
    return {"flipped": way.startswith("bit"), "cut or gone": not way.startswith("bit")}


def damage(file: Path, chance: random.Random) -> str:
    """Flips a bit of it in most cases; what was done."""
    content, way = bytearray(file.read_bytes()), chance.random()
    if way < 0.05:
        file.unlink()
        return "gone"
    if way < 0.2:
        length = chance.choice([0, len(content) - 1, chance.randrange(len(content))])
        file.write_bytes(content[:length])
        return f"cut to {length} bytes"
    if way < 0.25:
        file.write_bytes(content + b"\0")
        return "a byte longer"
    place, bit = chance.randrange(len(content)), chance.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


@contextmanager
def sizes_only():
    """Files are known by their sizes."""
    from violet.core import files

    with patch.object(files, "sha256", lambda path: "the same"):
        yield


MUTANTS = {"only sizes are compared": sizes_only}
PROMISE = Promise(
    "flipped_bits",
    "a flipped bit, a cut or a missing file in a checkpoint: refused by the file's name, the one before is used",
    2000,
    trial,
    short_seeds=20,
)
