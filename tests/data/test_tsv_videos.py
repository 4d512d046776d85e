"""The original code's TSV files: read as a plain reading reads them, and errors are for people."""

import base64
import io
import multiprocessing
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from own_process import of_server
from PIL import Image

from violet.data import TableError, TsvVideos, open_video
from violet.processing import VideoDecodeError
from violet.processing.decoding import decode_video


def plain_lines(path: Path) -> list[list[str]]:
    return [line.rstrip("\n").split("\t") for line in path.read_text().splitlines(keepends=True)]


def test_a_row_is_read_by_number_and_by_id(tsv, picture):
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


def test_a_last_line_without_an_end_and_lines_of_windows_are_read(tmp_path, picture):
    frame = base64.b64encode(picture(10))
    (tmp_path / "clips.tsv").write_bytes(b"a\t" + frame + b"\r\nb\t" + frame)
    assert list(TsvVideos(tmp_path / "clips.tsv")) == [[picture(10)]] * 2


def test_a_file_cut_off_between_two_frames_is_found(tmp_path, picture, write_tsv):
    path = write_tsv(tmp_path / "clips.tsv", [["a", picture(1), picture(2)], ["b", picture(3), picture(4)]])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\t")])
    videos = TsvVideos(path)
    assert videos.read("a") == [picture(1), picture(2)]
    with pytest.raises(
        TableError, match=r"clips.tsv, line 2 \(id 'b'\): the file ends in this line, after 1 frames of 2"
    ):
        videos.read("b")
    path.write_bytes(whole[: whole.rindex(b"\t")] + b"\n")
    assert TsvVideos(path).read("b") == [picture(3)]


def test_long_ids_are_whole_and_the_first_of_equal_ids_counts(tmp_path, caplog, picture, write_tsv):
    name = "x" * 1000
    videos = TsvVideos(write_tsv(tmp_path / "clips.tsv", [[name, picture(1)], ["b", picture(2)], ["b", picture(3)]]))
    assert videos.ids == [name, "b", "b"]
    assert videos.read("b") == [picture(2)]
    assert "1 lines repeat an id" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["b", "no base64!"], r"clips.tsv, line 2 \(id 'b'\), frame 1: bad base64 .*'no base64!'"),
        (["b", b"\xff\xd8\xff", "abc"], r"clips.tsv, line 2 \(id 'b'\), frame 2: bad base64"),
        (["b", b"\xff\xd8\xff", "", b"\xff\xd8\xff"], r"clips.tsv, line 2 \(id 'b'\), frame 2: the column is empty"),
        (["b"], r"clips.tsv, line 2 \(id 'b'\): no frame columns"),
        (["b", ""], r"clips.tsv, line 2 \(id 'b'\): no frame columns"),
    ],
)
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path, row, message, picture, write_tsv):
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


def test_an_entry_missing_inside_of_a_lineidx_is_found_when_its_line_is_read(tsv, picture):
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


def test_a_reader_in_use_can_be_sent_to_a_new_process(tsv, picture):
    videos = TsvVideos(tsv)
    videos.read(0)
    with of_server().Pool(1) as pool:
        assert pool.apply(TsvVideos.read, (videos, "b")) == [picture(30)]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_fork_reads_with_a_file_of_its_own(tsv, picture):
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


def test_a_reference_is_read_as_pictures_that_decode_video_takes(tsv, picture):
    video = decode_video(open_video(f"{tsv}#a"))
    assert video.frames.shape == (2, 12, 16, 3)
    np.testing.assert_array_equal(video.frames[1], np.asarray(Image.open(io.BytesIO(picture(20)))))
    assert len(open_video(f"{tsv}#c#1")) == 1
    assert open_video(str(tsv)) == str(tsv), "no container and key: as it is"


def test_a_damaged_picture_is_named(tmp_path, picture, write_tsv):
    tsv = write_tsv(tmp_path / "clips.tsv", [["a", picture(1), b"no picture"], ["b", picture(2)[:300]]])
    with pytest.raises(TableError, match=r"clips.tsv#a, frame 2: no picture"):
        open_video(f"{tsv}#a")
    with pytest.raises(TableError, match=r"clips.tsv#b, frame 1: no picture, or a damaged one"):
        open_video(f"{tsv}#b")
    huge = io.BytesIO()
    Image.new("1", (8193, 8192)).save(huge, "png")
    with pytest.raises(VideoDecodeError, match=r"frame 1: it has 8193 x 8192 pixels; more than 67108864 are refused"):
        open_video(f"{write_tsv(tmp_path / 'huge.tsv', [['a', huge.getvalue()]])}#a")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["img_cc3m_val.tsv", "msrvtt.tsv"])
def test_real_lines_are_read_as_a_plain_reading_reads_them(original, name):
    lines, videos = plain_lines(original / name), TsvVideos(original / name)
    assert len(videos) == len(lines) and videos.ids == [line[0] for line in lines]
    for row in reversed(range(len(lines))):
        assert videos.read(row) == [base64.b64decode(column) for column in lines[row][1:]]
    identifier, *columns = lines[len(lines) // 2]
    frames = decode_video(open_video(f"{original / name}#{identifier}")).frames
    assert len(frames) == len(columns)
    for frame, column in zip(frames, columns, strict=True):
        expected = Image.open(io.BytesIO(base64.b64decode(column))).convert("RGB")
        np.testing.assert_array_equal(frame, np.asarray(expected))


def test_in_files_of_v2_the_frames_start_behind_a_label(tmp_path, picture, write_tsv):
    rows = [["a", "0", picture(10), picture(20)], ["b", '[{"class": "dog"}]', picture(30)]]
    videos = TsvVideos(write_tsv(tmp_path / "v2.tsv", rows))
    assert list(videos) == [[picture(10), picture(20)], [picture(30)]]
    # One damaged frame at an end of a file of v1 does not shift all the others by one.
    rows = [["a", picture(10), picture(20)], ["b", b"damaged", picture(30)]]
    assert list(TsvVideos(write_tsv(tmp_path / "v1.tsv", rows))) == [row[1:] for row in rows]


def test_ids_cost_little_memory_by_the_row(tmp_path, write_tsv):
    sizes = {}
    for count in (1_000, 11_000):
        path = write_tsv(tmp_path / f"{count}.tsv", [[f"a-rather-long-name-{number}", "x"] for number in range(count)])
        tracemalloc.start()
        videos = TsvVideos(path)
        assert "a-rather-long-name-7" in videos and "a" not in videos
        sizes[count] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert (sizes[11_000] - sizes[1_000]) / 10_000 < 30, "a Python string by itself takes 60 bytes"
