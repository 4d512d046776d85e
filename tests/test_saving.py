"""`save_pretrained` against a process that is killed, and what it makes of older checkpoints."""

import json
import os
import stat

import pytest
import torch
from own_process import run_python
from transformers import AutoProcessor

from violet import VideoTextProcessor, VioletForQuestionAnswering, VioletVideoProcessor, named_configuration
from violet.core import files
from violet.processing import train_wordpiece_tokenizer

SMALL = {
    "vision_config": {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "window_size": (2, 2, 2)},
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "projection_dim": 32,
    "vocab_size": 40,
    "num_attention_heads": 2,
}
VERSIONS = [(24, "1GB"), (48, "20KB"), (96, "40KB")]
"""Checkpoints of other shapes, values and numbers of files: their `intermediate_size`, the most bytes of a shard."""
KILLING = """
import json, os, runpy, signal, sys

folder = sys.argv[1]
module = runpy.run_path(sys.argv[2])
EVENTS = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}


def save_until(number, model, most_bytes):
    # In a process of its own, killed as it is about to touch the disk for the `number`-th time.
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event, arguments):
            global seen
            if event in EVENTS:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        globals()["seen"] = 0
        sys.addaudithook(count)
        model.save_pretrained(folder, max_shard_size=most_bytes)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


models = [module["model_of"](version) for version in range(3)]
found = {}
for older, newer in json.loads(sys.argv[3]):
    killed, number, states = True, 1 + older, []
    while killed:
        models[older].save_pretrained(folder, max_shard_size=module["VERSIONS"][older][1])  # over what was left
        killed = save_until(number, models[newer], module["VERSIONS"][newer][1])
        states.append(module["version_in"](folder))
        number += 6
    found[f"{older} {newer}"] = states
print(json.dumps(found))
"""


def model_of(version: int) -> VioletForQuestionAnswering:
    size = VERSIONS[version][0]
    config = named_configuration("violet-tiny", id2label={0: "a", 1: "b"}, intermediate_size=size, **SMALL)
    model = VioletForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(version)
    return model


def version_in(folder) -> int:
    """The version of the checkpoint in a folder, which must be only of that one."""
    model, report = VioletForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    values = {value for parameter in model.parameters() for value in parameter.unique().tolist()}
    assert len(values) == 1, values
    version = int(values.pop())
    assert model.config.intermediate_size == VERSIONS[version][0]
    return version


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def processor() -> VideoTextProcessor:
    return VideoTextProcessor(train_wordpiece_tokenizer(["a red disc"]), VioletVideoProcessor())


@pytest.mark.parametrize("versions", [[(1, 2)], pytest.param([(0, 1), (2, 0)], marks=pytest.mark.proof)])
def test_a_process_killed_at_any_step_of_a_save_leaves_one_whole_checkpoint(versions, tmp_path):
    """Shards over other shards; a proof: shards over one file, and one file over shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("kept")
    done = run_python("-c", KILLING, folder, __file__, json.dumps(versions))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == len(versions)
    for pair, states in found.items():
        older, newer = map(int, pair.split())
        assert len(states) > 6 and states == sorted(states, reverse=older > newer), "older ones, then newer ones"
        assert set(states[:-1]) == {older, newer}, "killed before the files took their place, and after"
    assert (folder / "notes.txt").read_text() == "kept"
    assert names_in(tmp_path) == ["model"]


def test_nothing_of_older_weights_stays_beside_newer_ones(tmp_path):
    for version in (0, 1, 2, 0):
        model_of(version).save_pretrained(tmp_path, max_shard_size=VERSIONS[version][1])
        assert version_in(tmp_path) == version
    assert names_in(tmp_path) == ["config.json", "model.safetensors"]
    model_of(1).save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    assert {"model.safetensors", "model.safetensors.index.fp16.json"} <= set(names_in(tmp_path)), "another variant"


def test_where_folders_cannot_be_exchanged_files_are_moved(tmp_path, monkeypatch, processor):
    def refuse(one, other):
        raise OSError("no exchange here")

    monkeypatch.setattr(files, "_exchange", refuse)
    for version in (1, 2, 0):
        model_of(version).save_pretrained(tmp_path / "model", max_shard_size=VERSIONS[version][1])
        processor.save_pretrained(tmp_path / "model")
        assert version_in(tmp_path / "model") == version
    assert {"config.json", "model.safetensors", "processor_config.json"} < set(names_in(tmp_path / "model"))
    assert names_in(tmp_path) == ["model"]


def test_the_working_directory_stays_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in (1, 0):
        model_of(version).save_pretrained(".", max_shard_size=VERSIONS[version][1])
    assert os.path.samefile(tmp_path, os.curdir) and names_in(tmp_path) == ["config.json", "model.safetensors"]


def test_a_file_that_another_process_writes_meanwhile_is_kept(tmp_path, monkeypatch):
    exchange = files._exchange

    def exchange_late(one, other):
        (one / "runs").mkdir()
        (one / "runs" / "events").write_text("of another process")
        exchange(one, other)

    folder = tmp_path / "model"
    model_of(1).save_pretrained(folder, max_shard_size="20KB")
    monkeypatch.setattr(files, "_exchange", exchange_late)
    model_of(0).save_pretrained(folder)
    assert (folder / "runs" / "events").read_text() == "of another process"
    assert names_in(folder) == ["config.json", "model.safetensors", "runs"]


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "here").symlink_to(tmp_path / "there")
    for version in (0, 1):
        model_of(version).save_pretrained(tmp_path / "here")
    assert (tmp_path / "here").is_symlink() and version_in(tmp_path / "there") == 1


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_may_be_read_by_whom_the_umask_lets(mask, tmp_path, processor):
    before = os.umask(mask)
    try:
        model_of(0).save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        files.write_tensors(tmp_path / "model" / "tensors.safetensors", {"a": torch.zeros(1)})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes


def test_a_pickle_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        model_of(0).save_pretrained(tmp_path / "model", safe_serialization=False)
    assert not (tmp_path / "model").exists()


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    model_of(0).save_pretrained(tmp_path / "model")
    model_of(1).save_pretrained(tmp_path / "model", is_main_process=False)
    assert version_in(tmp_path / "model") == 0


def test_a_processor_is_saved_as_before(tmp_path, processor):
    written = processor.save_pretrained(str(tmp_path / "both"))
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "both").iterdir())
    model_of(0).save_pretrained(tmp_path / "both")
    loaded = AutoProcessor.from_pretrained(tmp_path / "both")
    assert loaded.to_dict() == processor.to_dict()
    assert loaded(text="a red disc")["input_ids"].equal(processor(text="a red disc")["input_ids"])
