"""Shards: exactly what was put in, by our reader and the library's; what is wrong with one is said, not skipped."""

import io
import json
import random
import re
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from violet.data import TableError, TarShard, find_shards, open_video, prepare_shards, read_rows
from violet.processing.decoding import decode_video

CAPTIONS = ("video", "caption")


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def shard(tmp_path, picture) -> Path:
    """Three clips of pictures, of one, two and three frames."""
    members = []
    for number, name in enumerate("abc"):
        members += [(f"{name}.{i:03}.jpg", picture(20 * number + i + 1)) for i in range(number + 1)]
        members.append((f"{name}.json", json.dumps({"caption": f"it is {name}", "number": number}).encode()))
    return write_tar(tmp_path / "clips.tar", members)


def read_everything(path) -> list[tuple[str, int]]:
    """(caption, frames) of each row"""
    return [(row["caption"], len(decode_video(open_video(row["video"])).frames)) for row in TarShard(path).rows()]


# ---------------------------------------------------------------------------------------------------------------------
# What was put in comes out
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_ten_clips_come_out_of_shards_exactly(shared_folder, tmp_path):
    source = shared_folder / "data/msrvtt/annotations.jsonl"
    manifest = prepare_shards(source, tmp_path / "shards", shard_size=2, workers=2)
    assert manifest["samples"] == 10 and len(manifest["shards"]) == 3
    before, after = read_rows(source), read_rows(tmp_path / "shards")
    for column in ("caption", "question", "answer"):
        assert list(before[column]) == list(after[column])
    for path, reference in zip(before["video"], after["video"], strict=True):
        assert open_video(reference) == Path(path).read_bytes()
    for path, reference in zip(before["video"], after["video"], strict=True):
        np.testing.assert_array_equal(
            *(decode_video(clip, lambda total, fps: [0, total // 2]).frames for clip in (open_video(reference), path))
        )
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["mp4"] for sample in samples] == [Path(path).read_bytes() for path in before["video"]]
    assert [json.loads(sample["json"])["answer"] for sample in samples] == list(before["answer"])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["msrvtt.tsv", "msrvtt.pkl", "img_cc3m_val.tsv"])
def test_pictures_of_the_original_files_come_out_of_shards_exactly(original, tmp_path, name):
    prepare_shards(original / name, tmp_path / "shards", shard_size=1)
    before, after = (read_rows(source, ("video",)) for source in (original / name, tmp_path / "shards"))
    assert len(before) >= 10 and list(before["id"]) == list(after["id"])
    for one, other in zip(before["video"], after["video"], strict=True):
        first, second = (decode_video(open_video(video)).frames for video in (one, other))
        assert len(first) == (1 if "cc3m" in name else 5)
        np.testing.assert_array_equal(first, second)


def test_shards_of_the_library_are_read(tmp_path, picture):
    """Its own writer, with a folder in the key, texts, a second picture, and what we do not know."""
    pattern = str(tmp_path / "library-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for number in range(3):
            writer.write(
                {
                    "__key__": f"part/{number}",
                    "jpg": picture(number + 1),
                    "txt": f"caption {number}",
                    "json": {"id": number, "caption": "of the json"} if number == 2 else {"id": number},
                    "cls": number,
                }
            )
    rows = read_rows(tmp_path / "library-{000..001}.tar", CAPTIONS)
    assert list(rows["caption"]) == ["caption 0", "caption 1", "of the json"] and list(rows["id"]) == [0, 1, 2]
    assert rows[2]["video"] == f"{tmp_path}/library-001.tar#part/2"
    frames = decode_video(open_video(rows[1]["video"])).frames
    np.testing.assert_array_equal(frames[0], np.asarray(Image.open(io.BytesIO(picture(2)))))


def test_frames_are_in_natural_order(tmp_path, picture):
    numbers = (10, 2, 1, 100)
    path = write_tar(tmp_path / "clips.tar", [(f"a.{number}.jpg", picture(number)) for number in numbers])
    tones = decode_video(open_video(f"{path}#a")).frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(tones, sorted(numbers), atol=2)


def test_one_that_is_not_there_is_named(shard):
    assert "b" in TarShard(shard) and "d" not in TarShard(shard) and len(TarShard(shard)) == 3
    with pytest.raises(TableError, match=r"clips.tar: no sample has the key 'd'; there are 3"):
        open_video(f"{shard}#d")
    with pytest.raises(TableError, match=r"none.tar: there is no such file"):
        open_video(f"{shard.parent}/none.tar#a")


def test_shards_are_named_by_numbers_patterns_folders_and_manifests(shard, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    prepare_shards(shard, folder, shard_size=0.001)
    names = sorted(str(path) for path in folder.glob("*.tar"))
    assert len(names) == 3
    for source in (folder, folder / "manifest.json", folder / "shard-{000000..000002}.tar", folder / "shard-*.tar"):
        assert find_shards(source).shards == names, source
    assert find_shards(folder).counts == [1, 1, 1]
    monkeypatch.chdir(folder)
    assert find_shards("shard-000001.tar").shards == [names[1]]
    for source, message in (
        ("shard-{000000..000003}.tar", r"shard-000003.tar: there is no such file"),
        ("shard-{2..1}.tar", r"\{2..1\} counts backwards"),
        ("{0..9999}/shard-{000000..000999}.tar", r"names 10000000 files; there may be 1000000"),
        ("shard-{00..00}000{0..3}.tar", r"shard-000003.tar: there is no such file"),
        ("none-*.tar", r"no file has such a name"),
    ):
        with pytest.raises(TableError, match=message):
            find_shards(source)
    with open(names[1], "ab") as file:
        file.write(b"\0")
    with pytest.raises(TableError, match=r"shard-000001.tar: absent, or not of the \d+ bytes that manifest.json"):
        find_shards(folder)
    (folder / "manifest.json").write_text(
        '{"shards": {"../up.tar": {"samples": 1, "rows": 1, "bytes": 1, "sha256": ""}}}'
    )
    with pytest.raises(TableError, match=r"manifest.json: no manifest of shards .*another folder"):
        find_shards(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(TableError, match=r"manifest.json: absent, so the shards beside it are not complete"):
        read_rows(folder, CAPTIONS)


# ---------------------------------------------------------------------------------------------------------------------
# Hostile and broken ones
# ---------------------------------------------------------------------------------------------------------------------

JPEG = b"\xff\xd8\xff\xe0"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../up.jpg", JPEG)], r"refused, since its member '../up.jpg' leads out"),
        ([("a/../../up.jpg", JPEG)], r"refused, since its member 'a/../../up.jpg' leads out"),
        ([("/etc/up.jpg", JPEG)], r"refused, since its member '/etc/up.jpg' leads out"),
        ([("..\\up.jpg", JPEG)], r"refused, since its member .* leads out"),
        ([("a.txt", b"fine"), (special("a.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], r"'a.jpg' is a link"),
        ([(special("a.jpg", tarfile.LNKTYPE, "../x"), b"")], r"'a.jpg' is a link"),
        ([(special("a.jpg", tarfile.CHRTYPE), b"")], r"'a.jpg' is no plain file"),
        ([(special("a.jpg", tarfile.FIFOTYPE), b"")], r"'a.jpg' is no plain file"),
        ([("a.jpg", JPEG), ("a.jpg", JPEG)], r"'a.jpg' is there twice"),
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"x")], r"1 samples repeat the name of another"),
        ([("a.mp4", b"x"), ("a.avi", b"x")], r"clips.tar#a: one video file, or frames, .*it has mp4, avi"),
        ([("a.mp4", b"x"), ("a.jpg", JPEG)], r"clips.tar#a: one video file, or frames"),
        ([("a.txt", b"x")], r"clips.tar#a: one video file, or frames"),
        ([("a.000.jpg", b"no picture"), ("a.txt", b"x")], r"clips.tar#a, frame 1: no picture"),
        ([("a.jpg", JPEG), ("a.txt", b"caf\xe9")], r"clips.tar#a: its .txt is not UTF-8"),
        ([("a.jpg", JPEG), ("a.json", b"{")], r"clips.tar#a, .json: not JSON"),
        ([("a.jpg", JPEG), ("a.json", b"[1]")], r"clips.tar#a: its .json must be an object"),
        ([("a.jpg", JPEG), ("a.json", b"[" * 100_000)], r"clips.tar#a, .json: not JSON"),
    ],
)
def test_a_shard_that_cannot_be_trusted_is_refused_and_nothing_is_written(tmp_path, members, message):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = write_tar(folder / "clips.tar", members)
    with pytest.raises(TableError, match=message):
        for row in TarShard(path).rows():
            open_video(row["video"])
    assert [file.name for file in tmp_path.rglob("*")] == ["inside", "clips.tar"]


def test_what_is_no_tar_is_refused(tmp_path):
    for content in (b"", b"a,b\n1,2\n" * 500, JPEG * 500, b"\0" * 100):
        (tmp_path / "clips.tar").write_bytes(content)
        with pytest.raises(TableError, match=r"clips.tar: truncated, damaged or no tar"):
            read_everything(tmp_path / "clips.tar")
    (tmp_path / "clips.tar").write_bytes(b"\0" * 10240)
    with pytest.raises(TableError, match=r"clips.tar: there are no rows"):
        read_rows(tmp_path / "clips.tar", CAPTIONS)


def test_no_truncation_passes_for_a_shorter_shard(shard):
    whole, expected = shard.read_bytes(), [("it is a", 1), ("it is b", 2), ("it is c", 3)]
    assert read_everything(shard) == expected
    end = len(whole.rstrip(b"\0"))
    places = set(range(0, end, tarfile.BLOCKSIZE)) | set(random.Random(0).sample(range(end), 150))
    for place in sorted(places):
        shard.write_bytes(whole[:place])
        with pytest.raises(TableError, match=r"clips.tar: (truncated, damaged or no tar|a damaged tar)"):
            list(TarShard(shard).rows())
        with pytest.raises(TableError):
            list(TarShard(shard).samples())


def test_flipped_bytes_of_headers_are_found(shard):
    whole, generator = shard.read_bytes(), random.Random(0)
    with tarfile.open(shard) as tar:
        headers = [member.offset for member in tar]
    for _ in range(200):
        damaged = bytearray(whole)
        place = generator.choice(headers) + generator.randrange(500)
        damaged[place] ^= 1 << generator.randrange(8)
        shard.write_bytes(damaged)
        with pytest.raises(TableError):
            list(TarShard(shard).rows())


def test_a_member_of_negative_size_does_not_go_round_for_ever(tmp_path):
    member = tarfile.TarInfo("a.jpg")
    member.size = -1024
    header = member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "clips.tar").write_bytes(header + b"\0" * 10240)
    with pytest.raises(TableError, match=r"'a.jpg' has -1024 bytes"):
        list(TarShard(tmp_path / "clips.tar").samples())


def test_no_truncation_of_a_tsv_or_pickle_gives_other_pictures(tmp_path, picture, write_tsv):
    """What is read is what was there, but for the last line of a TSV, which may lose whole frames at its end."""
    import pickle
    from base64 import b64encode

    generator = random.Random(0)
    rows = {name: [picture(10 * number + i) for i in range(3)] for number, name in enumerate("abc")}
    whole = write_tsv(tmp_path / "whole.tsv", [[name, *frames] for name, frames in rows.items()]).read_bytes()
    index = (tmp_path / "whole.lineidx").read_text()
    outcomes = set()
    for number in range(100):
        path = tmp_path / f"{number}.tsv"
        path.write_bytes(whole[: generator.randrange(len(whole))])
        if number % 2:
            path.with_suffix(".lineidx").write_text(index)
        for name, frames in rows.items():
            try:
                found = [image.tobytes() for image in open_video(f"{path}#{name}")]
            except TableError as error:
                assert str(tmp_path) in str(error)
                outcomes.add("refused")
            else:
                expected = [Image.open(io.BytesIO(frame)).convert("RGB").tobytes() for frame in frames]
                assert found == expected[: len(found)]
                assert len(found) == 3 or not path.read_bytes().endswith(b"\n")
                outcomes.add("read")
    assert outcomes == {"read", "refused"}

    whole = pickle.dumps({name: [b64encode(frame) for frame in frames] for name, frames in rows.items()})
    for number in range(100):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(whole[: generator.randrange(len(whole))])
        with pytest.raises(TableError, match=rf"{number}.pkl: damaged, or no pickle"):
            open_video(f"{path}#a")


# ---------------------------------------------------------------------------------------------------------------------
# Over HTTP
# ---------------------------------------------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Serves parts of files where `parts` says so; cuts each answer after `most` bytes of it."""

    parts, most = True, None
    requests: list[str]

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404, "Not there")
        self.requests.append(self.path)
        data, start = path.read_bytes(), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if self.parts and asked:
            start = int(asked[1])
        self.send_response(206 if self.parts and asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.most])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(shard):
    """Settings of `Handler` -> the address of the shard's folder, and the requests that were made."""
    servers = []

    def start(**settings):
        handler = type("Served", (Handler,), {"requests": [], **settings})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(shard.parent)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler.requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("parts", [True, False])
def test_a_remote_shard_is_read_as_a_local_one(serve, shard, parts):
    address, _ = serve(parts=parts)
    rows = read_rows(f"{address}/clips.tar", CAPTIONS)
    local = read_rows(shard, CAPTIONS)
    assert list(rows["caption"]) == list(local["caption"])
    for remote, there in zip(rows["video"], local["video"], strict=True):
        assert remote.startswith(address)
        np.testing.assert_array_equal(*(decode_video(open_video(video)).frames for video in (remote, there)))
    samples = list(webdataset.WebDataset(f"{address}/clips.tar", shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "b", "c"]


def test_a_member_that_is_too_large_to_be_fetched_is_refused(serve, monkeypatch):
    monkeypatch.setattr("violet.data.shards.MOST_FETCHED_BYTES", 100)
    with pytest.raises(TableError, match=r"refused: its member '.*' has \d+ bytes; at most 100 are fetched"):
        open_video(f"{serve()[0]}/clips.tar#a")


def test_a_remote_folder_is_named_by_its_manifest(serve, shard):
    prepare_shards(shard, shard.parent / "set", shard_size=0.001)
    address, _ = serve()
    rows = read_rows(f"{address}/set/manifest.json", CAPTIONS)
    assert list(rows["caption"]) == ["it is a", "it is b", "it is c"]
    assert rows[2]["video"] == f"{address}/set/shard-000002.tar#c"


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(serve, shard):
    write_tar(shard, [(f"{name}.mp4", bytes([number]) * 300_000) for number, name in enumerate("abc")])
    address, requests = serve(most=100_000)
    samples = list(TarShard(f"{address}/clips.tar").samples())
    assert [sample.clip() for sample in samples] == [[(".mp4", bytes([number]) * 300_000)] for number in range(3)]
    assert len(requests) > 5


def test_a_connection_that_stays_cut_is_named_and_nothing_is_lost_in_silence(serve, shard):
    write_tar(shard, [(f"{name}.mp4", bytes(300_000)) for name in "abc"])
    address, requests = serve(parts=False, most=310_000)
    read = []
    with pytest.raises(TableError, match=rf"{address}/clips.tar: reading stopped at byte \d+ of \d+, after 3 tries"):
        for sample in TarShard(f"{address}/clips.tar").samples():
            read.append(sample.key)
    assert read == ["a"] and len(requests) < 10
    with pytest.raises(TableError, match=r"none.tar: cannot be fetched \(HTTP 404 Not there\)"):
        list(TarShard(f"{address}/none.tar").rows())
    with pytest.raises(TableError, match=r"http://127.0.0.1:1/clips.tar: cannot be read"):
        list(TarShard("http://127.0.0.1:1/clips.tar").rows())
