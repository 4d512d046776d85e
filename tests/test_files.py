import errno
import multiprocessing
import os
import signal

import pytest

from violet.core.files import is_whole, new_folder, save_into, seal, write_json, write_text


def test_a_sealed_folder_is_whole_until_anything_in_it_changes(tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "a").write_text("a")
    assert not is_whole(folder)
    seal(folder)
    assert is_whole(folder)
    (folder / "part" / "a").write_text("b")
    assert not is_whole(folder)
    seal(folder)
    (folder / "more").write_text("")
    assert not is_whole(folder)


def test_a_new_folder_appears_at_the_end_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "data") as partial:
        (partial / "a").write_text("a")
        raise RuntimeError
    assert not (tmp_path / "data").exists()
    with new_folder(tmp_path / "data") as partial:
        assert not list(partial.iterdir()), "what the failed one left is gone"
        (partial / "b").write_text("b")
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["b"]


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 0.5})
    with pytest.raises(ValueError):
        write_json(path, {"accuracy": float("nan")})
    assert '"accuracy": 0.5' in path.read_text()
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_killed_writer_leaves_the_old_files_whole(tmp_path):
    save_into(tmp_path, lambda folder: [write_text(folder / name, "old" * 1000) for name in "abc"])

    def write(folder):
        (folder / "a").write_text("new" * 1000)
        (folder / "b").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=save_into, args=(tmp_path, write))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {(tmp_path / name).read_text() for name in "abc"} == {"old" * 1000}
    save_into(tmp_path, lambda folder: write_text(folder / "a", "newer"))
    assert (tmp_path / "a").read_text() == "newer" and (tmp_path / "b").read_text() == "old" * 1000
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_library_in_rust_that_cannot_write_is_a_full_disk_to_the_caller(tmp_path):
    def write(folder):
        (folder / "half").write_text("a")
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left on device") as caught:
        save_into(tmp_path / "model", write)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_an_older_folder_that_cannot_be_deleted_is_told_and_the_new_one_stays(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "model"
    save_into(folder, lambda partial: (partial / "a").write_text("old"))
    unlink = os.unlink

    def refuses(path, *given, **more):
        if str(path) == "a":  # within the older folder; rmtree names files by their folder's descriptor
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, *given, **more)

    monkeypatch.setattr(os, "unlink", refuses)
    save_into(folder, lambda partial: (partial / "a").write_text("new"))
    assert (folder / "a").read_text() == "new"
    assert "could not be deleted" in caplog.text
