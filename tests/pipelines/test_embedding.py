"""`violet embed`: embeddings and captions of a data set in Parquet parts, on this machine and on a Ray cluster."""

import csv
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from pyarrow import parquet
from transformers import AutoModel, AutoProcessor, pipeline

from violet.cli import main
from violet.commands.embedder import Embedder, Wanted

SCALE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.fixture(scope="module")
def finder(save_model) -> str:
    return str(save_model("VioletForRetrieval"))


@pytest.fixture(scope="module")
def loaded():
    """`Embedder`, which loads a checkpoint once for the calls that ask it for the same."""
    made: list[Embedder] = []

    @functools.cache
    def load(wanted: Wanted) -> Embedder:
        made.append(Embedder(wanted))
        return made[-1]

    yield load
    for one in made:
        one.collator.reader.decoder.kill()


@pytest.fixture
def embed(loaded, capfd, monkeypatch):
    """Runs the command: its status, and what it said."""
    monkeypatch.setattr("violet.commands.embedding.Embedder", loaded)

    def run(*options) -> tuple[int, str]:
        capfd.readouterr()
        try:
            status = main(["embed", *map(str, options), "--workers=0"])
        except SystemExit as ended:  # argparse's way
            status = ended.code
        said = capfd.readouterr()
        return status, said.out + said.err

    return run


def write_table(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_in(folder: Path) -> dict[str, list]:
    """The columns of all parts, in order; the manifest must tell the truth of each."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(path.name for path in folder.glob("part-*")) == list(manifest["parts"])
    columns: dict[str, list] = {}
    for name, facts in manifest["parts"].items():
        content = (folder / name).read_bytes()
        assert facts["bytes"] == len(content) and facts["sha256"] == hashlib.sha256(content).hexdigest()
        table = parquet.read_table(folder / name)
        assert len(table) == facts["clips"]
        for column, values in table.to_pydict().items():
            columns.setdefault(column, []).extend(values)
    assert len(columns["id"]) == manifest["clips"]
    assert not [path.name for path in folder.iterdir() if path.name[0] == "."], "nothing else is left"
    return columns


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_vectors_are_those_of_the_model_and_a_clip_has_one_row(finder, clips, embed, tmp_path):
    texts = ["a red disc moves left", "a blue square grows", "the yellow ring turns"]
    rows = [{"id": f"clip.{n}", "video": clips[n], "caption": texts[n % 3]} for n in range(5)]
    rows.append(rows[0] | {"caption": texts[2]})
    table = write_table(tmp_path / "rows.csv", rows)
    output = tmp_path / "new" / "embeddings"
    options = [table, f"--model={finder}", f"--output={output}", "--clips_per_part=2", "--text_column=caption"]
    status, said = embed(*options)
    assert status == 0 and "holds 5 clips in 3 parts; 0 clips could not be read." in said
    found = rows_in(output)
    assert found["id"] == [f"clip.{n}" for n in range(5)] and found["video"] == clips
    assert found["texts"] == [[texts[0], texts[2]], [texts[1]], [texts[2]], [texts[0]], [texts[1]]]
    expected = pipeline("video-feature-extraction", model=finder)(clips)
    np.testing.assert_allclose(found["embedding"], torch.stack(expected).numpy(), atol=1e-5)
    model, processor = AutoModel.from_pretrained(finder), AutoProcessor.from_pretrained(finder)
    with torch.no_grad():
        of_texts = model.get_text_features(**processor(text=texts)).pooler_output
    for said_of, vectors in zip(found["texts"], found["text_embeds"], strict=True):
        np.testing.assert_allclose(vectors, of_texts[[texts.index(text) for text in said_of]].numpy(), atol=1e-5)
    assert np.abs(np.diff(found["embedding"], axis=0)).max() > 1e-3, "clips differ"

    before = files_of(output)
    (output / "part-000001.parquet").write_bytes(b"damaged")
    assert embed(*options)[0] == 0 and files_of(output) == before, "what was damaged is made again"
    status, said = embed(*options[:3], "--clips_per_part=3")
    assert status == 2 and "another source, or other settings" in said and files_of(output) == before


def test_a_captioner_writes_what_it_writes_when_it_is_asked(finder, save_model, clips, embed, tmp_path):
    captioner = str(save_model("VioletForCaptioning"))
    folder = tmp_path / "clips"
    folder.mkdir()
    for clip in clips[:3]:
        shutil.copy(clip, folder)
    status, said = embed(folder, f"--model={captioner}", f"--output={tmp_path / 'both'}", "--captions")
    assert status == 0, said
    found = rows_in(tmp_path / "both")
    expected = pipeline("video-captioning", model=captioner)(found["video"])
    assert found["caption"] == [best[0]["generated_text"] for best in expected] and len(found["id"]) == 3
    features = pipeline("video-feature-extraction", model=captioner)(found["video"])
    np.testing.assert_allclose(found["embedding"], torch.stack(features).numpy(), atol=1e-5)
    status, said = embed(folder, f"--model={finder}", f"--output={tmp_path / 'none'}", "--captions")
    assert status == 2 and "VioletForRetrieval, which writes no captions" in said and not (tmp_path / "none").exists()


def test_bad_clips_are_left_out_and_listed_or_stop_it(finder, clips, truncated, embed, tmp_path):
    table = write_table(tmp_path / "rows.csv", [{"video": video} for video in [*clips[:2], truncated, clips[2]]])
    options = [table, f"--model={finder}", f"--output={tmp_path / 'out'}", "--clips_per_part=2"]
    status, said = embed(*options)
    assert status == 2 and "truncated.mp4 (row 2)" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "manifest.json").exists()
    status, said = embed(*options, "--bad_samples=skip", "--max_bad_share=0")
    assert status == 2 and "1 of the 4 samples that were tried could not be read" in said
    assert not (tmp_path / "out" / "part-000001.parquet").exists(), "the part that tells is not kept"
    status, said = embed(*options, "--bad_samples=skip", "--max_bad_share=0.5")
    assert status == 0 and "holds 3 clips in 2 parts; 1 clips could not be read, see failed_samples.jsonl" in said
    assert rows_in(tmp_path / "out")["video"] == clips[:3]
    (line,) = (tmp_path / "out" / "failed_samples.jsonl").read_text().splitlines()
    failed = json.loads(line)
    assert (failed["rows"], failed["row"], failed["video"]) == ("data", 2, truncated) and truncated in failed["reason"]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--text_column=words", "no column 'words'; they have"),
        ("--engine=ray", 'pip install "violet-video[ray]"'),
        ("--batch_size=0", "must be a number from 1 on"),
        ("--max_bad_share=2", "--max_bad_share must be from 0 to 1, got 2"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    option, complaint, clips, embed, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("violet.commands.embedding.find_spec", lambda name: None)
    status, said = embed(Path(clips[0]).parent, "--model=violet-tiny", f"--output={tmp_path / 'out'}", option)
    assert status == 2 and complaint in said and not (tmp_path / "out").exists()


def test_the_parts_become_an_index_of_faiss_as_the_page_says(finder, clips, embed, tmp_path, monkeypatch):
    """The code of docs/scale.md, as it stands there."""
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    options = [f"--model={finder}", "--output=outputs/embeddings", "--clips_per_part=2"]
    assert embed(write_table(tmp_path / "rows.csv", [{"video": clip} for clip in clips]), *options)[0] == 0
    code = re.search(r"```python\n(.*?)```", SCALE.read_text(), re.DOTALL)[1]
    for placeholder, own in {"MODEL": finder, "IVF4096,PQ32": "IVF2,Flat", "nprobe = 32": "nprobe = 2"}.items():
        assert placeholder in code
        code = code.replace(placeholder, own)
    here: dict = {}
    exec(compile(code, str(SCALE), "exec"), here)
    found = rows_in(tmp_path / "outputs" / "embeddings")
    scores = np.array(found["embedding"]) @ here["query"][0]
    assert [here["videos"][number] for number in here["numbers"][0][: len(clips)]] == [
        found["video"][number] for number in np.argsort(-scores)
    ]
    assert here["index"].ntotal == len(clips)


# --- processes that are killed ---

OF_RAY = {
    "RAY_ADDRESS": "local", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}', "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
}  # fmt: skip


def start(tmp_path: Path, *options) -> subprocess.Popen:
    said = open(tmp_path / "said.txt", "a")  # noqa: SIM115  the process writes to it
    command = [sys.executable, "-m", "violet.cli", "embed", *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | OF_RAY
    return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def wait_for(process: subprocess.Popen, tmp_path: Path, seen) -> None:
    deadline = time.monotonic() + 240
    while not seen():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "said.txt").read_text()[-5000:]
        time.sleep(0.01)


@pytest.fixture
def many(clips, truncated, tmp_path) -> Path:
    """A table of forty clips; one of them cannot be read."""
    videos = []
    for number in range(40):
        videos.append(tmp_path / f"clip-{number:02}.mp4")
        videos[-1].write_bytes(Path(truncated if number == 17 else clips[number % len(clips)]).read_bytes())
    return write_table(tmp_path / "rows.csv", [{"video": str(video)} for video in videos])


OPTIONS = ["--clips_per_part=3", "--batch_size=2", "--bad_samples=skip", "--max_bad_share=0.5"]


@pytest.mark.proof
def test_a_killed_command_goes_on_to_the_same_files(finder, many, tmp_path):
    given = [many, f"--model={finder}", *OPTIONS, "--workers=1"]
    assert start(tmp_path, *given, f"--output={tmp_path / 'whole'}").wait(240) == 0
    expected = files_of(tmp_path / "whole")
    output = tmp_path / "killed"
    for least in (1, 5):
        process = start(tmp_path, *given, f"--output={output}")
        wait_for(process, tmp_path, lambda: len(list(output.glob("part-*"))) >= least)  # noqa: B023
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not psutil.wait_procs(started, timeout=60)[1], "its workers end with it"
        assert not (output / "manifest.json").exists(), "it was killed before it ended"
    assert start(tmp_path, *given, f"--output={output}").wait(240) == 0
    assert files_of(output) == expected and len(rows_in(output)["id"]) == 39


@pytest.mark.proof
def test_a_ray_cluster_that_loses_a_process_makes_the_same_files(finder, many, tmp_path):
    """Two processes on a cluster of this machine; one of them is killed while it makes a part."""
    pytest.importorskip("ray")
    given = [many, f"--model={finder}", *OPTIONS, "--workers=0"]
    assert start(tmp_path, *given, f"--output={tmp_path / 'whole'}").wait(240) == 0
    expected = files_of(tmp_path / "whole")

    output = tmp_path / "ray"
    process = start(tmp_path, *given, f"--output={output}", "--engine=ray")
    working: list[psutil.Process] = []

    def both_work() -> bool:
        titles = {one: title_of(one) for one in psutil.Process(process.pid).children(recursive=True)}
        working[:] = [one for one, title in titles.items() if title == "ray::RayEmbedder.make"]
        return len(working) == 2 and any(output.glob("part-*"))

    try:
        wait_for(process, tmp_path, both_work)
        working[0].kill()
        assert process.wait(240) == 0, (tmp_path / "said.txt").read_text()[-5000:]
    finally:
        end_all(process)
    said = (tmp_path / "said.txt").read_text()
    assert "A process of the Ray cluster is gone" in said and "2 processes of a Ray cluster" in said
    assert files_of(output) == expected and len(rows_in(output)["id"]) == 39


def end_all(process: subprocess.Popen) -> None:
    """SIGKILL to it and to what it started."""
    if process.poll() is None:
        started = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *started):
            one.kill()
        process.wait()


def title_of(process: psutil.Process) -> str:
    """What it calls itself; nothing if it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
