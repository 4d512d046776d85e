"""`violet export`: graphs that give what the model gives, and otherwise no folder."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from own_process import run_python

import violet
from violet import VideoTextProcessor, VioletForRetrieval, VioletVideoProcessor, named_configuration
from violet.cli import main
from violet.hub import exporting
from violet.hub.exporting import DESCRIPTION, FORMATS, ExportError, export_graphs
from violet.processing import train_wordpiece_tokenizer

WORDS = ["a red disc moves left", "a green cross moves right", "a blue square grows", "the yellow ring turns"]
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None,
    reason='needs pip install "violet-video[onnx]"',
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function: the name of a configuration -> the folder of a random model of it, with its processor."""
    tokenizer = train_wordpiece_tokenizer(WORDS * 8, vocab_size=128)

    def save(name: str, frames: dict | None = None, **changes):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        config = named_configuration(name, **changes)
        side = getattr(config.vision_config, "image_size", 64)
        VioletForRetrieval(config).eval().save_pretrained(folder)
        sizes = {"size": {"height": side, "width": side}, "num_frames": 4, **(frames or {})}
        VideoTextProcessor(tokenizer, VioletVideoProcessor(**sizes)).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def tiny(saved):
    return saved("violet-tiny")


def assert_file_gives_what_the_model_gives(folder, described, model, form):
    """On other batches than those that the export checked, with padding."""
    text = next(part for part in described["parts"] if part["name"] == "text_embedding")
    run = exporting.OPENERS[form](folder / text["files"][form], "text_embeds")
    for batch, length in ((1, 4), (5, 9)):
        ids = torch.randint(5, model.config.vocab_size, (batch, length))
        mask = torch.ones_like(ids)
        mask[0, length - 1 :] = 0
        with torch.no_grad():
            expected, got = model.violet.embed_texts(ids, mask), run({"input_ids": ids, "attention_mask": mask})
        assert expected.std() > 1e-2
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_program_of_words_runs_at_any_batch_and_length(tiny, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", str(tiny), str(folder), "--parts", "text_embedding", "--format", "pt2"]) == 0
    assert "text_embedding.pt2" in capsys.readouterr().out
    described = json.loads((folder / DESCRIPTION).read_text())
    assert described["parts"][0]["inputs"]["input_ids"] == {"shape": ["batch", "words"], "dtype": "int64"}
    assert described["scale"] == pytest.approx(1 / 0.07, rel=1e-3)
    model = VioletForRetrieval.from_pretrained(tiny)
    assert_file_gives_what_the_model_gives(folder, described, model, "pt2")
    assert violet.VideoTextProcessor.from_pretrained(folder).video_processor.num_frames == 4


@pytest.mark.proof
@needs_onnx
def test_an_onnx_file_of_words_runs_at_any_batch_and_length(tiny, tmp_path):
    folder = tmp_path / "out"
    described = export_graphs(tiny, folder, ["text_embedding"])
    assert_file_gives_what_the_model_gives(folder, described, VioletForRetrieval.from_pretrained(tiny), "onnx")


def test_a_graph_that_differs_leaves_nothing(tiny, tmp_path, monkeypatch):
    def wrong(file, output):
        run = open_program(file, output)
        return lambda given: run(given) + 2e-5

    open_program = exporting.open_program
    monkeypatch.setattr(exporting, "OPENERS", {"pt2": wrong})
    with pytest.raises(ExportError, match=r"text_embedding: the pt2 file differs from the model by 2\.0e-05"):
        export_graphs(tiny, tmp_path / "out", ["text_embedding"], ["pt2"])
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_becomes_no_graph_is_named_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    class Deciding(exporting.TextGraph):
        def forward(self, input_ids, attention_mask):
            if input_ids.sum() > 3:
                return super().forward(input_ids, attention_mask)
            return attention_mask

    part = exporting.PARTS["text_embedding"]
    broken = exporting.Part(Deciding, part.output, part.reads, part.says)
    monkeypatch.setattr(exporting, "PARTS", {**exporting.PARTS, "text_embedding": broken})
    with pytest.raises(ExportError, match="text_embedding does not become a graph"):
        export_graphs(tiny, tmp_path / "out", ["text_embedding"], ["pt2"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given, said",
    [
        ({"parts": ["fusion"]}, "no part 'fusion'; there are vision_encoder"),
        ({"formats": ["tflite"]}, "no format 'tflite'; there are onnx and pt2"),
    ],
)
def test_what_there_is_not_is_refused(tiny, tmp_path, given, said):
    with pytest.raises(ExportError, match=said):
        export_graphs(tiny, tmp_path / "out", **{"formats": ["pt2"], **given})


def test_models_and_processors_that_do_not_serve_are_refused(saved, tiny, tmp_path, capsys, monkeypatch):
    with pytest.raises(ExportError, match="has no video_embedding.*projection_dim"):
        export_graphs(saved("violet-tiny", projection_dim=None), tmp_path / "out", ["video_embedding"], ["pt2"])
    by_time = saved("violet-tiny", {"fps": 2, "num_frames": None})
    with pytest.raises(ExportError, match="set `num_frames` in place of `fps`"):
        export_graphs(by_time, tmp_path / "out", formats=["pt2"])
    (by_time / "processor_config.json").unlink()
    with pytest.raises(ExportError, match="no processor"):
        export_graphs(by_time, tmp_path / "out", formats=["pt2"])
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(tiny), str(tmp_path / "out")]) == 2
    assert 'pip install "violet-video[onnx]"' in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main(["export", str(tiny), str(tmp_path / "out"), "--format", "pt2"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.proof
@needs_onnx
@torch.no_grad()
@pytest.mark.parametrize("name", ["violet-tiny", "clip-vip-tiny", "coca-tiny"])
def test_every_part_in_every_format(saved, name, tmp_path):
    source = saved(name)
    described = export_graphs(source, tmp_path / "out", formats=FORMATS)
    assert [part["name"] for part in described["parts"]] == list(exporting.PARTS)
    violet_model = VioletForRetrieval.from_pretrained(source).violet
    side = described["frames"]["size"]["height"]
    for batch in (1, 4):
        pixels = torch.randn(batch, 4, 3, side, side)
        expected = {
            "vision_encoder": violet_model.vision_encoder.states(violet_model.vision_model, pixels).last_hidden_state,
            "video_embedding": violet_model.embed_videos(violet_model.encode_videos(pixels)),
        }
        for part in described["parts"][:2]:
            for form in FORMATS:
                run = exporting.OPENERS[form](tmp_path / "out" / part["files"][form], part["output"]["name"])
                got, wanted = run({"pixel_values_videos": pixels}), expected[part["name"]]
                assert wanted.std() > 1e-2
                torch.testing.assert_close(got, wanted, atol=1e-5 * max(1, wanted.abs().max().item()), rtol=0)
    for form in FORMATS:
        model = VioletForRetrieval.from_pretrained(source)
        assert_file_gives_what_the_model_gives(tmp_path / "out", described, model, form)


REFUSING = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "violet":
            raise ImportError("no violet here")

sys.meta_path.insert(0, Refuses())
"""


@pytest.mark.proof
@needs_onnx
def test_the_page_says_how_to_run_it_without_this_package(tiny, shapes_folder, tmp_path):
    """Its lines are run in a process that cannot import violet, about a real file."""
    folder = tmp_path / "out"
    export_graphs(tiny, folder, formats=FORMATS)
    clip = sorted(shapes_folder.rglob("*.mp4"))[0]
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    lines = "\n".join(re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S))
    save = "\nimport numpy\nnumpy.savez('found.npz', pixels=clips['pixel_values_videos'], ids=texts['input_ids'],"
    save += " texts=text_embeds.detach().numpy())\n"
    done = run_python("-c", REFUSING + lines + save, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        processor = violet.VideoTextProcessor.from_pretrained(tiny)
        expected = processor(videos=[str(clip)], text=["a red disc moves left"], return_tensors="pt")
        assert np.array_equal(found["pixels"], expected["pixel_values_videos"].numpy())
        model = VioletForRetrieval.from_pretrained(tiny)
        with torch.no_grad():
            embeds = model.violet.embed_texts(expected["input_ids"], expected["attention_mask"])
        np.testing.assert_allclose(found["texts"], embeds.numpy(), atol=1e-5)
