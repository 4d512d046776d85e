"""
Files that try to run something, or to reach something outside of their folder: nothing is executed, nothing is written
or read there, and what cannot be harmless is refused.
"""

import base64
import http.server
import io
import json
import os
import pickle
import random
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import media
from bombs import errors
from campaign import BrokenPromise, Promise, inputs
from small_runs import separate_run, trainer

SECRET = "a text that lies outside"


class Call:
    """What a pickle calls when it is read."""

    def __init__(self, function: Callable, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def calls(mark: Path, chance: random.Random) -> bytes:
    """A pickle that leaves a mark if it is run, by one of many ways and in one of many places."""
    script = f"open({str(mark)!r}, 'w').close()"
    call = chance.choice(
        [
            Call(os.system, f"touch '{mark}'"),
            Call(exec, script),
            Call(eval, script),
            Call(os.mkdir, str(mark)),
            Call(open, str(mark), "w"),
            Call(shutil.copy, "/etc/hostname", str(mark)),
            Call(getattr, Call(__import__, "os"), "getcwd"),
            Call(__import__("subprocess").check_call, ["touch", str(mark)]),
            Call(__import__("runpy")._run_code, compile("0", "x", "eval").co_name, {}),
            Call(Path(mark).__class__, str(mark)),
            Call(__import__("operator").methodcaller, "touch"),
            Call(__import__("functools").partial, exec, script),
        ]
    )
    value = chance.choice([lambda: call, lambda: [call], lambda: {"a": [1, (2, call)]}, lambda: {"clip": [b"", call]}])
    return pickle.dumps(value(), chance.choice(range(6)))


def array_of_objects(mark: Path, chance: random.Random) -> bytes:
    """An array whose items are objects, one of which calls."""
    import numpy as np

    array = np.empty(2, object)
    array[:] = [1, Call(exec, f"open({str(mark)!r}, 'w').close()")]
    return pickle.dumps({"clip": array}, chance.choice((2, 4)))


def read_a_pickle(folder: Path, mark: Path, chance: random.Random) -> None:
    from violet.data import open_video, read_pickle

    file = folder / "clips.pkl"
    file.write_bytes(chance.choice((calls, calls, array_of_objects))(mark, chance))
    chance.choice((read_pickle, lambda path: open_video(f"{path}#clip")))(file)


def read_weights(folder: Path, mark: Path, chance: random.Random) -> None:
    import torch

    from violet.hub.weight_files import read_weights

    file = folder / f"weights{chance.choice(('.pt', '.bin', '.ckpt', '.pth'))}"
    if chance.random() < 0.5:
        call = Call(exec, f"open({str(mark)!r}, 'w').close()")
        torch.save({"state_dict": {"a": torch.zeros(2), "b": call}}, file, _use_new_zipfile_serialization=False)
        content = file.read_bytes()
    else:
        content = calls(mark, chance)
        archive = io.BytesIO()
        import zipfile

        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("archive/data.pkl", content)
            made.writestr("archive/version", "3")
        content = archive.getvalue()
    file.write_bytes(content)
    read_weights(file)


def read_a_shard(folder: Path, mark: Path, chance: random.Random) -> None:
    from violet.data import TarShard

    file, outside = folder / "clips.tar", mark.parent / "secret.mp4"
    with tarfile.open(file, "w", format=chance.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))) as tar:
        member = tarfile.TarInfo("clip.mp4")
        way = chance.choice(("up", "root", "link", "hard", "device", "pipe", "deep"))
        if way in ("up", "root", "deep"):
            member.name = {"up": "../mark.mp4", "root": f"{mark}.mp4", "deep": "a/b/../../../mark.mp4"}[way]
            member.size = len(SECRET)
        else:
            kinds = {
                "link": tarfile.SYMTYPE,
                "hard": tarfile.LNKTYPE,
                "device": tarfile.CHRTYPE,
                "pipe": tarfile.FIFOTYPE,
            }
            member.type, member.linkname = kinds[way], str(outside)
        tar.addfile(member, io.BytesIO(SECRET.encode()) if member.size else None)
        text = tarfile.TarInfo("other.json")
        text.size = 2
        tar.addfile(text, io.BytesIO(b"{}"))
    for sample in TarShard(file).samples():
        _refuse_secrets(sample.files)


def read_an_index(folder: Path, mark: Path, chance: random.Random) -> None:
    from violet.data import find_shards
    from violet.hub.weight_files import weight_files

    up = chance.choice(("../secret.mp4", str(mark.parent / "secret.mp4"), "a/../../secret.mp4"))
    if chance.random() < 0.5:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": up}}))
        weight_files(folder)
    else:
        facts = {"samples": 1, "rows": 1, "bytes": len(SECRET), "sha256": ""}
        (folder / "manifest.json").write_text(json.dumps({"shards": {up: facts}}))
        find_shards(folder)


def cut_clips(folder: Path, mark: Path, chance: random.Random) -> None:
    from violet.data.cutting import cut_clips as cut

    videos = folder / "videos"
    videos.mkdir()
    shutil.copy(media.clips()["mp4"], videos / "clip.mp4")
    name = chance.choice(("../mark/clip", "../../mark/clip", f"{mark}/clip", "a/../../mark/clip"))
    (folder / "source.json").write_text(json.dumps({name: {"timestamps": [[0, 1]], "sentences": ["it moves"]}}))
    cut(folder / "source.json", folder / "clips", 1, videos)


def open_a_playlist(folder: Path, mark: Path, chance: random.Random) -> None:
    """Playlists that lead FFmpeg to another file."""
    from violet.processing import decode_video

    clip = media.clips()["ts"]
    other = folder / "inner.ts"
    shutil.copy(clip, other)
    text = chance.choice(
        [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{other}'\nduration 2\n",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            f'<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1">'
            f"<BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        ]
    )
    file = folder / f"list{chance.choice(('.mp4', '.m3u8', '.ffconcat', '.sdp', '.mpd', '.txt'))}"
    file.write_text(text)
    decode_video(chance.choice((str(file), text.encode())), lambda total, fps: [0])


def open_an_address(folder: Path, mark: Path, chance: random.Random) -> None:
    """Addresses of files, of this machine, and such as lead there."""
    from violet.data import TarShard
    from violet.processing import decode_video

    secret = mark.parent / "secret.mp4"
    with _server(secret) as (port, asked):
        address = chance.choice(
            [
                f"file://{secret}", f"FILE://{secret}", "ftp://127.0.0.1/a.mp4", f"http://127.0.0.1:{port}/a.mp4",
                f"http://localhost:{port}/a.mp4", f"http://[::1]:{port}/a.mp4", f"http://0.0.0.0:{port}/a.mp4",
                f"http://2130706433:{port}/a.mp4", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a.mp4",
                f"https://127.0.0.1:{port}/a.mp4", f"zip://a.mp4::http://127.0.0.1:{port}/a.zip", "memory://a.mp4",
                f"http://[::ffff:127.0.0.1]:{port}/a.mp4",
            ]
        )  # fmt: skip
        allowed = os.environ.pop("VIOLET_LOCAL_ADDRESSES", None)
        try:
            if address.startswith("http") and chance.random() < 0.5:
                list(TarShard(address).rows())
            else:
                decode_video(address, lambda total, fps: [0])
        finally:
            if allowed is not None:
                os.environ["VIOLET_LOCAL_ADDRESSES"] = allowed
            if asked:
                raise BrokenPromise(f"{address} was asked for {asked}")


def follow_a_redirect(folder: Path, mark: Path, chance: random.Random) -> None:
    """A server that leads to a file; it is a local one that is allowed, since no other can be reached from a test."""
    from violet.processing.addresses import fetch_address

    secret = mark.parent / "secret.mp4"
    target = chance.choice((f"file://{secret}", "ftp://127.0.0.1/a", "data:video/mp4;base64,QUJD"))
    with _server(secret, target) as (port, _), patch.dict(os.environ, {"VIOLET_LOCAL_ADDRESSES": "1"}):
        _refuse_secrets(fetch_address(f"http://127.0.0.1:{port}/a.mp4"))


def load_a_config(folder: Path, mark: Path, chance: random.Random) -> None:
    """A model whose files name code beside them."""
    from violet import VioletModel
    from violet.core.weights import pretrained
    from violet.processing import VideoTextProcessor

    model = folder / "model"
    shutil.copytree(pretrained("violet-tiny"), model)
    (model / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nclass Evil:\n    pass\nEvilProcessor = EvilConfig = Evil\n"
    )
    names = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil", "AutoProcessor": "evil.EvilProcessor"}
    names |= {"AutoVideoProcessor": "evil.EvilProcessor", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for file in model.glob("*.json"):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and file.name != "tokenizer.json":
            content["auto_map"] = names
            content["custom_pipelines"] = {"video-text-retrieval": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
            if file.name == "config.json" and chance.random() < 0.5:
                part = chance.choice(("vision_config", "fusion_model_config"))
                kind = chance.choice(("evil", "evil:Evil", f"{model}/evil.py:Evil", "os:system", "../evil:Evil"))
                content.setdefault(part, {})["model_type"] = kind
            file.write_text(json.dumps(content))
    here = os.getcwd()
    try:
        os.chdir(model)
        with suppress(ValueError, KeyError, OSError, TypeError, AttributeError, ImportError):
            VioletModel.from_pretrained(str(model))
        with suppress(ValueError, KeyError, OSError, TypeError, AttributeError, ImportError):
            VideoTextProcessor.from_pretrained(str(model))
    finally:
        os.chdir(here)


PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
"""What the Trainer loads of a checkpoint by torch."""


def resume_a_checkpoint(folder: Path, mark: Path, which: int) -> None:
    """A checkpoint of the Trainer whose manifest fits, one of whose pickles calls."""
    import torch

    from violet.core.files import seal
    from violet.training.checkpoints import CheckpointError

    def save(made: Path) -> None:
        with separate_run():
            trainer(made, max_steps=2, save_strategy="steps", save_steps=1).train()

    shutil.copytree(inputs("trained-twice", save) / "run", folder / "run")
    checkpoint, name = folder / "run" / "checkpoint-1", PICKLES[which % len(PICKLES)]
    call = Call(exec, f"open({str(mark)!r}, 'w').close()")
    there = (checkpoint / name).exists()  # a scaler's is only there where a GPU trains in fp16
    held = torch.load(checkpoint / name, weights_only=False) if there else {}  # it is ours still
    torch.save({**held, "more": call}, checkpoint / name)
    seal(checkpoint)
    try:
        with separate_run():
            run = trainer(folder, max_steps=2, save_strategy="no")
            if name == "scaler.pt":
                run.accelerator.scaler = torch.amp.GradScaler("cpu")
            run.train(resume_from_checkpoint=str(checkpoint))
    except CheckpointError as error:
        if name not in str(error) or "exec" not in str(error):
            raise BrokenPromise(f"{name}: the error does not say what was asked for: {error}") from error
    else:
        raise BrokenPromise(f"{name} was taken, though it calls")


def read_pickled_frames(folder: Path, mark: Path, chance: random.Random) -> None:
    """Frames that are no pictures but programs or documents which some libraries run."""
    from violet.data import open_video
    from violet.processing import decode_video

    script = f"%!PS\n({mark}) (w) file closefile\nshowpage\n".encode()
    frame = chance.choice(
        [
            script,
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/hostname'/></svg>",
            b"push graphic-context\n",
        ]
    )
    file = folder / "clips.pkl"
    file.write_bytes(pickle.dumps({"clip": [base64.b64encode(frame)]}))
    chance.choice((lambda: open_video(f"{file}#clip"), lambda: decode_video(frame)))()


REFUSED = (
    read_a_pickle, read_a_pickle, read_weights, read_a_shard, read_a_shard, read_an_index, cut_clips, open_a_playlist,
    open_an_address, open_an_address, follow_a_redirect, read_pickled_frames,
)  # fmt: skip


def trial(seed: int, folder: Path) -> dict[str, int]:
    """One hostile file, read by what the package reads such files with."""
    chance = random.Random(seed)
    inside, outside = folder / "work" / "inside", folder / "work"
    inside.mkdir(parents=True)
    (outside / "secret.mp4").write_text(SECRET)
    if seed % 40 == 39:
        load_a_config(inside, outside / "mark", chance)
        _look(outside, "load_a_config")
        return {"loaded without code": 1}
    if seed % 40 == 29:
        resume_a_checkpoint(inside, outside / "mark", seed // 40)
        _look(outside, "resume_a_checkpoint")
        return {"refused": 1}
    way = REFUSED[seed % len(REFUSED)]
    try:
        way(inside, outside / "mark", chance)
    except errors() as error:
        _refuse_secrets(str(error))
        _look(outside, f"{way.__name__}, seed {seed}")
        return {"refused": 1}
    _look(outside, f"{way.__name__}, seed {seed}")
    raise BrokenPromise(f"seed {seed}: {way.__name__} took its file")


def _look(outside: Path, name: str) -> None:
    found = sorted(path.name for path in outside.parent.rglob("*") if not path.is_relative_to(outside / "inside"))
    if found != ["secret.mp4", "work"] or (outside / "secret.mp4").read_text() != SECRET:
        raise BrokenPromise(f"{name}: outside of its folder there is {found}")


def _refuse_secrets(found: object) -> None:
    if SECRET in str(found):
        raise BrokenPromise(f"what lies outside was read: {str(found)[:200]}")


@contextmanager
def _server(secret: Path, leads_to: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """(port, what it was asked for) of a server on this machine that hands out the secret, or leads elsewhere."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if leads_to is None else 302)
            if leads_to is not None:
                self.send_header("Location", leads_to)
            self.send_header("Content-Length", str(len(SECRET)))
            self.end_headers()
            self.wfile.write(secret.read_bytes())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()


@contextmanager
def pickles_find_everything():
    from violet.data import pickles

    with (
        patch.object(pickles._Unpickler, "find_class", pickle.Unpickler.find_class, create=True),
        patch.object(pickles, "_Unpickler", pickle.Unpickler),
    ):
        yield


@contextmanager
def members_are_not_checked():
    with patch("violet.data.shards.TarShard._check_member", lambda self, member: None):
        yield


@contextmanager
def local_addresses_are_reached():
    with patch("violet.processing.addresses._allows_local", lambda: True):
        yield


@contextmanager
def an_index_may_name_anything():
    with patch("violet.hub.weight_files._is_plain", lambda name: True):
        yield


@contextmanager
def pickles_of_checkpoints_are_run():
    import torch

    load = torch.load
    with patch.object(torch, "load", lambda *given, **named: load(*given, **{**named, "weights_only": False})):
        yield


MUTANTS = {
    "pickles find everything": pickles_find_everything,
    "members of archives are not checked": members_are_not_checked,
    "local addresses are reached": local_addresses_are_reached,
    "an index may name anything": an_index_may_name_anything,
    "pickles of checkpoints are run": pickles_of_checkpoints_are_run,
}
PROMISE = Promise(
    "hostile_files",
    "hostile pickles, weights, archives, indices, playlists, addresses, configs: nothing executed, nothing outside "
    "the folder",
    200,
    trial,
    limit=60.0,
    short_seeds=60,
    code=("core", "data", "processing", "hub", "modeling_violet", "configuration", "training"),
)
