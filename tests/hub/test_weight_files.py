"""Files that hold weights, and files that hold something else."""

import json
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from pathlib import PurePosixPath

import pytest
import torch
from safetensors.torch import save_file

from violet.cli import main
from violet.hub import WeightsError, from_original
from violet.hub.weight_files import read_weights

WEIGHTS = {"enc_img.norm.weight": torch.arange(4.0), "enc_img.norm.bias": torch.zeros(4)}


class Payload:
    """What a hostile file may hold: unpickling it makes a folder."""

    def __init__(self, path):
        self.path = os.fspath(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_not_run(legacy, tmp_path, capsys):
    mark, file = tmp_path / "it_ran", tmp_path / "weights.pt"
    torch.save(WEIGHTS | {"enc_img.extra": Payload(mark)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"weights\.pt: refused.*mkdir"):
        from_original(file)
    assert main(["convert", str(file), str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert "weights.pt" in said and "mkdir" in said and "Traceback" not in said
    assert not mark.exists() and not (tmp_path / "model").exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the payload must be able to run, or its refusal shows nothing"


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path):
    mark, file = tmp_path / "it_ran", tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"enc_img.extra": Payload(mark)}))
    with pytest.raises(WeightsError, match=r"weights\.pth: refused.*mkdir"):
        read_weights(file)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "thing, name",
    [(PurePosixPath("a"), r"pathlib\.PurePosixPath"), (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear")],
)
def test_objects_beside_the_weights_are_named(thing, name, legacy, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": WEIGHTS, "args": thing}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=f"asks for .*{name}") as refused:
        read_weights(file)
    assert "_rebuild" not in str(refused.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_arguments_of_a_command_line_beside_the_weights_are_plain_values(legacy, tmp_path):
    file = tmp_path / "weights.pth"
    saved = {"model": WEIGHTS, "args": Namespace(lr=1, name="b16")}
    torch.save(saved, file, _use_new_zipfile_serialization=not legacy)
    read = read_weights(file)
    assert set(read.tensors) == set(WEIGHTS) and "args" in read.skipped


def damaged(folder):
    torch.save(WEIGHTS, folder / "good.pt")
    whole = (folder / "good.pt").read_bytes()
    (folder / "empty.pt").touch()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "text.pt").write_text("these are not the weights\n")
    (folder / "noise.pt").write_bytes(bytes(range(256)) * 8)
    with zipfile.ZipFile(folder / "photos.pt", "w") as archive:
        archive.writestr("photo.jpg", b"no tensor")
    with tarfile.open(folder / "old.tar.pt", "w") as archive:
        archive.add(folder / "good.pt", "good.pt")
    save_file(WEIGHTS, folder / "good.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:40])
    (folder / "pickle.safetensors").write_bytes(whole)
    torch.save([1, 2], folder / "list.pt")
    torch.save({"state_dict": {"a": "text"}}, folder / "text_inside.pt")
    torch.save({"state_dict": {}}, folder / "nothing_inside.pt")


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("empty.pt", "is empty"),
        ("cut.pt", "damaged"),
        ("text.pt", "damaged"),
        ("noise.pt", "damaged"),
        ("photos.pt", "damaged"),
        ("old.tar.pt", "damaged"),
        ("cut.safetensors", "damaged"),
        ("pickle.safetensors", "damaged"),
        ("list.pt", "not list"),
        ("text_inside.pt", "'a' is no tensor, but str"),
        ("nothing_inside.pt", "no weights"),
        ("missing.pt", "no such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(name, complaint, tmp_path):
    damaged(tmp_path)
    with pytest.raises(WeightsError, match=complaint) as refused:
        read_weights(tmp_path / name)
    assert name in str(refused.value)


def test_every_cut_of_a_checkpoint_is_refused(tmp_path):
    torch.save(WEIGHTS, tmp_path / "good.pt")
    whole, cut = (tmp_path / "good.pt").read_bytes(), tmp_path / "cut.pt"
    for length in range(0, len(whole), 37):
        cut.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            read_weights(cut)
    assert torch.equal(read_weights(tmp_path / "good.pt").tensors["enc_img.norm.weight"], torch.arange(4.0))


def test_a_folder_of_shards_is_read_as_one(tmp_path):
    names = {}
    for number, (name, value) in enumerate(WEIGHTS.items()):
        save_file({name: value}, tmp_path / f"model-{number}.safetensors")
        names[name] = f"model-{number}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    tensors = read_weights(tmp_path).tensors
    assert set(tensors) == set(WEIGHTS)
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in tensors.items())


def test_a_folder_without_weights_and_a_name_that_is_not_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(WeightsError, match="nobody/no-such-model.*Hub"):
        read_weights("nobody/no-such-model")


def test_a_name_on_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, file in (("new", "model.safetensors"), ("old", "pytorch_model.bin")):
        folder, commit = tmp_path / f"models--someone--{name}", "0123456789" * 4
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text('{"model_type": "bert"}')
        if name == "new":
            save_file(WEIGHTS, snapshot / file)
        else:
            torch.save(WEIGHTS, snapshot / file)
        weights = read_weights(f"someone/{name}")
        assert set(weights.tensors) == set(WEIGHTS) and weights.settings == {"model_type": "bert"}
        assert weights.origin == f"someone/{name}"
