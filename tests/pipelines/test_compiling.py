"""`torch.compile` of a model's parts: one graph each, whatever the batch; and `violet predict --compile`."""

import json

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from violet import VioletForCaptioning, VioletForRetrieval, named_configuration
from violet.cli import main
from violet.pipelines.compiling import CompileError, compile_parts

CONFIGURATIONS = {
    "violet-tiny": ["vision encoder", "fusion"],
    "clip-vip-tiny": ["vision encoder", "text side"],
    "coca-tiny": ["vision encoder", "text side"],
}


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def batch_of(model, size: int, words: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(size)
    vision = model.config.vision_config
    side = getattr(vision, "image_size", 64)
    ids = torch.randint(5, model.config.vocab_size, (size, words), generator=random)
    mask = torch.ones_like(ids)
    mask[-1, words - 2 :] = 0
    clips = torch.randn(size, 4, 3, side, side, generator=random)
    return {"pixel_values_videos": clips, "input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.proof
@torch.no_grad()
@pytest.mark.parametrize("sizes", [(3, 1, 2, 4, 1, 3), (1, 4, 2, 3, 1)], ids=["three first", "one first"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_part_is_a_graph_for_one_row_and_one_for_all_larger_batches(name, sizes):
    """Counted by dynamo: no break, and no more graphs, over batches and texts of unequal sizes."""
    config = named_configuration(name)
    model_class = VioletForCaptioning if name == "coca-tiny" else VioletForRetrieval
    torch.manual_seed(0)
    plain, compiled = (model_class(config).eval() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    counter, parts = CompileCounter(), len(CONFIGURATIONS[name])
    assert compile_parts(compiled, backend=counter) == CONFIGURATIONS[name]
    met: set[bool] = set()
    for size in sizes:
        batch = batch_of(plain, size, words=5 + size)
        pixels, texts = batch["pixel_values_videos"], (batch["input_ids"], batch["attention_mask"])
        embeds = []
        for one in (plain, compiled):
            tokens = one.violet.encode_videos(pixels)
            embeds.append([one.violet.embed_videos(tokens), one.violet.embed_texts(*texts)])
            if "fusion" in CONFIGURATIONS[name]:
                words = one.violet.encode_texts(*texts)
                embeds[-1].append(one.violet.fuse({"video": tokens, "text": words})["text"])
        for expected, got in zip(*embeds, strict=True):
            assert expected.std() > 1e-2
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        met.add(size == 1)
        assert counter.frame_count == parts * len(met), f"batch of {size}: graphs"
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] == 2 * parts


@pytest.mark.proof
@torch.no_grad()
def test_what_cannot_be_compiled_is_named():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    model = VioletForRetrieval(named_configuration("violet-tiny")).eval()
    compile_parts(model, backend=broken)
    with pytest.raises(CompileError, match="The vision encoder cannot be compiled here.*no compiler here"):
        model.violet.encode_videos(torch.zeros(1, 4, 3, 64, 64))


@pytest.mark.proof
def test_predict_compiles_and_answers_the_same(saved, clips, capsys):
    asked = ["predict", "--json", "--model", saved["VioletForQuestionAnswering"], "--video", *clips[:3]]
    asked += ["--question", "what moves left?", "--batch_size", "2", "--top_k", "6"]
    said = []
    for more in ([], ["--compile"]):
        assert main([*asked, *more]) == 0
        said.append([json.loads(line)["answers"] for line in capsys.readouterr().out.splitlines()])
    assert counters["stats"]["unique_graphs"] == 4, "encoder and fusion, for the batch of two and for that of one"
    assert len(said[0]) == 3
    for plain, compiled in zip(*said, strict=True):
        assert [one["answer"] for one in plain] == [one["answer"] for one in compiled]
        assert [one["score"] for one in plain] == pytest.approx([one["score"] for one in compiled], abs=1e-5)
