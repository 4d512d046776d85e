"""The files of the original code: read as a plain reading reads them, errors are for people, and nothing is run."""

import base64
import io
import json
import multiprocessing
import os
import pickle
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from violet.data import (
    TableError,
    TsvVideos,
    UnsafePickleError,
    original_captions,
    read_captions,
    read_pickle,
    read_video,
)
from violet.processing.decoding import decode_video


def picture(tone: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (tone, 2 * tone, 0)).save(file, "JPEG")
    return file.getvalue()


def write_tsv(path: Path, rows: list[list[bytes | str]], index: bool = True) -> Path:
    """Rows of an id and frames: bytes are written as base64, text as it is."""
    lines = [
        b"\t".join(base64.b64encode(cell) if isinstance(cell, bytes) else cell.encode() for cell in row) + b"\n"
        for row in rows
    ]
    path.write_bytes(b"".join(lines))
    if index:
        starts = np.cumsum([0, *map(len, lines)])[:-1]
        path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))
    return path


@pytest.fixture
def tsv(tmp_path) -> Path:
    rows = [["a", picture(10), picture(20)], ["b", picture(30)], ["c#1", picture(40)]]
    return write_tsv(tmp_path / "clips.tsv", rows)


@pytest.fixture
def original(shared_folder) -> Path:
    return shared_folder / "data" / "original"


def plain_lines(path: Path) -> list[list[str]]:
    return [line.rstrip("\n").split("\t") for line in path.read_text().splitlines(keepends=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------


def test_a_row_is_read_by_number_and_by_id(tsv):
    videos = TsvVideos(tsv)
    assert len(videos) == 3 and videos.ids == ["a", "b", "c#1"]
    assert videos.read("a") == videos.read(0) == videos[-3] == [picture(10), picture(20)]
    assert list(videos) == [videos.read(name) for name in videos.ids]
    assert videos[1:] == [[picture(30)], [picture(40)]]
    assert "b" in videos and "d" not in videos
    with pytest.raises(IndexError, match=r"clips.tsv: there is no row 3; the rows are 0 to 2"):
        videos.read(3)
    with pytest.raises(TableError, match=r"clips.tsv: no line has the id 'd'; the first of 3 is 'a'"):
        videos.read("d")


def test_without_a_lineidx_the_file_is_scanned_with_a_warning(tsv, caplog):
    indexed = TsvVideos(tsv)
    assert not caplog.messages
    tsv.with_suffix(".lineidx").unlink()
    scanned = TsvVideos(tsv)
    assert "clips.lineidx is absent" in caplog.text
    assert scanned.ids == indexed.ids and list(scanned) == list(indexed)


def test_a_last_line_without_an_end_and_lines_of_windows_are_read(tmp_path):
    frame = base64.b64encode(picture(10))
    (tmp_path / "clips.tsv").write_bytes(b"a\t" + frame + b"\r\nb\t" + frame)
    assert list(TsvVideos(tmp_path / "clips.tsv")) == [[picture(10)]] * 2


def test_long_ids_are_whole_and_the_first_of_equal_ids_counts(tmp_path, caplog):
    name = "x" * 1000
    videos = TsvVideos(write_tsv(tmp_path / "clips.tsv", [[name, picture(1)], ["b", picture(2)], ["b", picture(3)]]))
    assert videos.ids == [name, "b", "b"]
    assert videos.read("b") == [picture(2)]
    assert "1 lines repeat an id" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["b", "no base64!"], r"clips.tsv, line 2 \(id 'b'\), frame 1: bad base64 .*'no base64!'"),
        (["b", picture(1), "abc"], r"clips.tsv, line 2 \(id 'b'\), frame 2: bad base64"),
        (["b", picture(1), "", picture(1)], r"clips.tsv, line 2 \(id 'b'\), frame 2: the column is empty"),
        (["b"], r"clips.tsv, line 2 \(id 'b'\): no frame columns"),
        (["b", ""], r"clips.tsv, line 2 \(id 'b'\): no frame columns"),
    ],
)
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path, row, message):
    videos = TsvVideos(write_tsv(tmp_path / "clips.tsv", [["a", picture(1)], row, ["c", picture(2)]]))
    with pytest.raises(TableError, match=message):
        videos.read("b")
    assert videos.read("c") == [picture(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda starts: starts[:-1], r"clips.lineidx, line 2: an entry is missing after it: of clips.tsv a line"),
        (lambda starts: [starts[0], "x"], r"clips.lineidx, line 2: 'x' is no place after 0 in clips.tsv"),
        (lambda starts: [*starts, "9999999"], r"clips.lineidx, line 4: '9999999' is no place after"),
        (lambda starts: [starts[0], starts[2], starts[1]], r"clips.lineidx, line 3: '\d+' is no place after"),
        (lambda starts: starts[1:], r"clips.lineidx, line 1: the first line of clips.tsv starts at byte 0"),
        (lambda starts: [*starts[:2], str(int(starts[2]) + 1)], r"clips.lineidx, line 3: no line of clips.tsv starts"),
    ],
)
def test_a_lineidx_of_another_file_is_refused(tsv, change, message):
    index = tsv.with_suffix(".lineidx")
    index.write_text("\n".join(change(index.read_text().split())) + "\n")
    with pytest.raises(TableError, match=message):
        TsvVideos(tsv)


def test_an_entry_missing_inside_of_a_lineidx_is_found_when_its_line_is_read(tsv):
    index = tsv.with_suffix(".lineidx")
    starts = index.read_text().split()
    index.write_text(f"{starts[0]}\n{starts[2]}\n")
    videos = TsvVideos(tsv)
    assert videos.read(1) == [picture(40)]
    with pytest.raises(TableError, match=r"clips.lineidx, line 1: an entry is missing after it"):
        videos.read(0)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty.tsv").touch()
    for name, message in (("none.tsv", "no such file"), ("empty.tsv", "no lines"), ("clips.csv", "a .tsv file")):
        with pytest.raises(TableError, match=message):
            TsvVideos(tmp_path / name)


def test_a_reader_in_use_can_be_sent_to_a_new_process(tsv):
    videos = TsvVideos(tsv)
    videos.read(0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(TsvVideos.read, (videos, "b")) == [picture(30)]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_fork_reads_with_a_file_of_its_own(tsv):
    videos = TsvVideos(tsv)
    videos.read(0)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    before = videos._opened[1]
    child = context.Process(target=lambda: queue.put((videos.read("b"), videos._opened[1] is before)))
    child.start()
    assert queue.get() == ([picture(30)], False)
    child.join()
    assert videos.read(0) == [picture(10), picture(20)] and videos._opened[1] is before


def test_a_reference_is_read_as_pictures_that_decode_video_takes(tsv):
    video = decode_video(read_video(f"{tsv}#a"))
    assert video.frames.shape == (2, 12, 16, 3)
    np.testing.assert_array_equal(video.frames[1], np.asarray(Image.open(io.BytesIO(picture(20)))))
    assert len(read_video(f"{tsv}#c#1")) == 1
    with pytest.raises(TableError, match="is no reference"):
        read_video(str(tsv))


def test_a_damaged_picture_is_named(tmp_path):
    tsv = write_tsv(tmp_path / "clips.tsv", [["a", picture(1), b"no picture"], ["b", picture(2)[:300]]])
    with pytest.raises(TableError, match=r"clips.tsv#a, frame 2: no picture"):
        read_video(f"{tsv}#a")
    with pytest.raises(TableError, match=r"clips.tsv#b, frame 1: no picture, or a damaged one"):
        read_video(f"{tsv}#b")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["img_cc3m_val.tsv", "msrvtt.tsv"])
def test_real_lines_are_read_as_a_plain_reading_reads_them(original, name):
    lines, videos = plain_lines(original / name), TsvVideos(original / name)
    assert len(videos) == len(lines) and videos.ids == [line[0] for line in lines]
    for row in reversed(range(len(lines))):
        assert videos.read(row) == [base64.b64decode(column) for column in lines[row][1:]]
    identifier, *columns = lines[len(lines) // 2]
    frames = decode_video(read_video(f"{original / name}#{identifier}")).frames
    assert len(frames) == len(columns)
    for frame, column in zip(frames, columns, strict=True):
        expected = Image.open(io.BytesIO(base64.b64decode(column))).convert("RGB")
        np.testing.assert_array_equal(frame, np.asarray(expected))


# ---------------------------------------------------------------------------------------------------------------------
# Pickles
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vq_cc3m.pkl", "msrvtt_vq.pkl", "msrvtt.pkl"])
def test_real_pickles_are_read_as_pickle_reads_them(original, name):
    expected, found = pickle.loads((original / name).read_bytes()), read_pickle(original / name)
    assert list(found) == list(expected) and len(found) >= 10
    for key in expected:
        assert type(found[key]) is type(expected[key])
        np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(expected[key]), strict=True)


VALUES = {
    "tokens": [np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros((0, 7), np.float32)],
    "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big": np.arange(3, dtype=">i4"),
    "words": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "true": np.array([True, False]),
    "scalars": (np.float32(1.5), np.int64(3), np.bool_(True)),
    "dtype": np.dtype("f4"),
    "plain": [1, 2.5, "é", b"", b"\xff", None, True, 10**30, (), {}, {"a": [(1, 2)]}],
    (1, "key"): "tuple as a key",
}


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
        assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous
    else:
        assert found == expected


def spelled(pickled: bytes, core: str) -> bytes:
    """A small pickle with numpy's modules named as numpy 1 ("numpy.core.") or 2 ("numpy._core.") names them."""
    if pickled[2:3] == pickle.FRAME:
        pickled = pickled[:2] + pickled[11:]  # without the frame and its length, which are not obligatory
    for module in ("multiarray", "numeric"):
        new = (core + module).encode()
        for old in (b"numpy.core." + module.encode(), b"numpy._core." + module.encode()):
            pickled = pickled.replace(b"c" + old + b"\n", b"c" + new + b"\n")
            pickled = pickled.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    return pickled


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core.", "numpy._core."])
def test_arrays_and_plain_containers_come_back_whatever_the_protocol_and_numpy(tmp_path, protocol, core):
    pickled = spelled(pickle.dumps(VALUES, protocol), core)
    assert f"{core}multiarray".encode() in pickled
    (tmp_path / "values.pkl").write_bytes(pickled)
    same(read_pickle(tmp_path / "values.pkl"), VALUES)


def test_what_is_in_two_places_stays_one_object(tmp_path):
    tokens = [np.arange(3)]
    (tmp_path / "values.pkl").write_bytes(pickle.dumps({"a": tokens, "b": tokens}))
    found = read_pickle(tmp_path / "values.pkl")
    assert found["a"] is found["b"]


class Asks:
    """Pickles as a call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def loop():
    values = []
    values.append(values)
    return values


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda mark: Asks(os.system, (f"touch {mark}",)), r"asks for \w+\.system; only arrays and plain containers"),
        (lambda mark: Asks(eval, (f"open({str(mark)!r}, 'w')",)), r"asks for (builtins|__builtin__)\.eval"),
        (lambda mark: Asks(subprocess.run, (["touch", str(mark)],)), r"asks for (subprocess|commands)\.run"),
        (lambda mark: Asks(np.fromfile, (str(mark),)), r"asks for numpy\.\S*fromfile"),
        (lambda mark: Fraction(1, 2), r"asks for fractions\.Fraction"),
        (lambda mark: Path(mark), r"asks for pathlib"),
        (lambda mark: np.array([1, "a"], object), r"dtype 'O8'"),
        (lambda mark: np.zeros(2, [("a", "i4")]), r"dtype 'V4'"),
        (lambda mark: [np.ndarray], r"holds an object of type type"),
        (lambda mark: loop(), r"a container that is inside itself"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_by_name_and_not_run(tmp_path, make, message, protocol):
    pickled, mark = tmp_path / "values.pkl", tmp_path / "mark"
    pickled.write_bytes(pickle.dumps({"a": [1, make(mark)]}, protocol))
    with pytest.raises(UnsafePickleError, match=rf"values.pkl .*{message}"):
        read_pickle(pickled)
    assert not mark.exists()


def test_a_hand_written_pickle_cannot_hold_a_set_or_lie_about_a_dtype(tmp_path):
    file = tmp_path / "values.pkl"
    file.write_bytes(pickle.dumps({1, 2}, 4))
    with pytest.raises(UnsafePickleError, match="holds an object of type set"):
        read_pickle(file)
    honest = pickle.dumps(np.arange(3, dtype="i8"), 2)
    file.write_bytes(honest.replace(b"i8", b"O8"))
    with pytest.raises(UnsafePickleError, match="dtype 'O8'"):
        read_pickle(file)
    file.write_bytes(honest.replace(b"K\x03\x85", b"K\x63\x85"))  # a shape of 99 with the data of 3
    with pytest.raises(TableError, match="damaged"):
        read_pickle(file)


def test_a_damaged_or_absent_pickle_is_named(tmp_path):
    file = tmp_path / "values.pkl"
    with pytest.raises(TableError, match="values.pkl: there is no such file"):
        read_pickle(file)
    whole = pickle.dumps(VALUES)
    for content in (b"", b"no pickle", whole[: len(whole) // 2], b"\x80\x63."):
        file.write_bytes(content)
        with pytest.raises(TableError, match="values.pkl: damaged, or no pickle"):
            read_pickle(file)


# ---------------------------------------------------------------------------------------------------------------------
# Captions
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("name", ["txt_cc3m", "txt_webvid2.5m", "txt_msrvtt-retrieval"])
def test_real_captions_are_read_from_both_layouts(original, name):
    path = original / f"{name}.json"
    for split, content in json.loads(path.read_text()).items():
        pairs = read_captions(path, split)
        if isinstance(content, dict):
            assert len(pairs) == sum(map(len, content.values())) >= 50
            assert all(caption in content[identifier] for identifier, caption in pairs)
        else:
            assert pairs == [(row["video"], row["caption"]) for row in content]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions.json: not JSON"),
        ("[]", r"captions.json: an object with splits is needed, not list"),
        ('{"val": []}', r"captions.json: there is no split 'train'; it has val"),
        ('{"train": "a"}', r"split 'train': a list or an object is needed, not str"),
        ('{"train": {"a": ["x"], "b": 3}}', r"split 'train', id 'b': a list of captions is needed, not 3"),
        ('{"train": [{"video": "a", "question": "x"}]}', r"item 0: 'caption' is missing .*it has video, question"),
        ('{"train": [{"video": "a", "caption": "x"}, 5]}', r"item 1: an object with 'video' and 'caption' is needed"),
    ],
)
def test_captions_of_another_layout_are_refused_with_what_was_found(tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(TableError, match=message):
        read_captions(tmp_path / "captions.json", "train")


def test_captions_and_pictures_are_joined_and_what_is_left_over_is_counted(tsv, tmp_path, caplog, monkeypatch):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"train": {"z": ["lost", "lost too"], "a": ["one", "two"], "c#1": "three"}}))
    monkeypatch.chdir(tmp_path)
    rows = original_captions("clips.tsv", captions, "train")
    assert rows.column_names == ["id", "video", "caption"]
    assert list(zip(rows["id"], rows["caption"], strict=True)) == [("a", "one"), ("a", "two"), ("c#1", "three")]
    assert [len(read_video(reference)) for reference in rows["video"]] == [2, 2, 1]
    assert all(Path(reference).is_absolute() for reference in rows["video"])
    no_pictures, no_caption = caplog.messages
    assert "2 of 5 captions have no pictures" in no_pictures and "first id is 'z'" in no_pictures
    assert "1 of 3 have no caption" in no_caption and "first id is 'b'" in no_caption

    captions.write_text(json.dumps({"train": {"z": ["lost"]}, "val": {}}))
    with pytest.raises(TableError, match=r"none of its 1 captions has pictures in .*: ids are like 'z' here and 'a'"):
        original_captions(tsv, captions, "train")
    with pytest.raises(TableError, match=r"the split 'val' has no captions"):
        original_captions(tsv, captions, "val")


@pytest.mark.shared
def test_real_captions_are_joined_with_their_images(original, caplog):
    rows = original_captions(original / "img_cc3m_val.tsv", original / "txt_cc3m.json", "val")
    expected = json.loads((original / "txt_cc3m.json").read_text())["val"]
    assert len(rows) == sum(map(len, expected.values())) and set(rows["id"]) == set(expected)
    assert not caplog.messages
    assert decode_video(read_video(rows[7]["video"])).frames.shape[0] == 1
