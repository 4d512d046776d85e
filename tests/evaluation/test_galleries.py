"""Galleries on disk, and searches in two stages."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from violet import VideoDecodeError, VioletForRetrieval
from violet.core.weights import pretrained
from violet.data import captioned, moving_shapes
from violet.evaluation import searching
from violet.evaluation.galleries import StoredGallery, encode_gallery
from violet.evaluation.retrieval import retrieval_metrics
from violet.evaluation.searching import (
    GalleryError,
    nearest,
    rank_in_two_stages,
    score_all,
    score_pairs,
    shortlist_by_embeds,
)

CLIPS = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The shipped weights with a match head drawn once."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    VioletForRetrieval.from_pretrained(pretrained("violet-tiny")).save_pretrained(folder)
    AutoProcessor.from_pretrained(pretrained("violet-tiny")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved):
    return VioletForRetrieval.from_pretrained(saved).eval()


@pytest.fixture(scope="module")
def processor(saved):
    return AutoProcessor.from_pretrained(saved)


@pytest.fixture(scope="module")
def rows(shapes_folder):
    return captioned(moving_shapes(shapes_folder, **CLIPS)["train"]).to_list()


@pytest.fixture(scope="module")
def videos(rows):
    return [row["video"] for row in rows[:11]]


@pytest.fixture(scope="module")
def texts(rows, processor):
    return processor(text=[row["caption"] for row in rows[:7]])


@pytest.fixture(scope="module")
def stored(model, processor, videos, tmp_path_factory):
    """Eleven videos in parts of four."""
    folder = tmp_path_factory.mktemp("galleries") / "one"
    return encode_gallery(model, processor, videos, folder, videos_per_part=4, batch_size=3)


@pytest.fixture(scope="module")
def expected(model, processor, videos, texts):
    """Scores (texts, videos) of the model's own pass."""
    with torch.no_grad():
        return model(**texts, pixel_values_videos=processor(videos=videos)["pixel_values_videos"]).logits


def contents(folder):
    return {
        file.name: file.read_bytes()
        for file in Path(folder).iterdir()
        if file.name.endswith((".safetensors", ".json"))
    }


def test_a_gallery_on_disk_gives_the_models_scores(stored, model, texts, videos, expected):
    assert stored.names == tuple(videos) and len(stored.parts()) == 3 and stored.failed == {}
    assert expected.std() > 1e-3
    for pairs_per_pass in (5, 256):
        scores = score_all(model, stored, **texts, pairs_per_pass=pairs_per_pass)
        torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)


def test_videos_are_chosen_from_disk_in_any_order(stored, model, processor, videos):
    chosen = torch.tensor([9, 0, 4, 4, 10, 3])
    with torch.no_grad():
        pixels = processor(videos=[videos[number] for number in chosen])["pixel_values_videos"]
        tokens = model.violet.encode_videos(pixels)
    found = stored.select(chosen)
    torch.testing.assert_close(found.tokens, tokens.tokens, atol=1e-4, rtol=1e-4)
    assert found.grid == tokens.grid and torch.equal(found.mask, tokens.mask)


def test_pairs_are_scored_as_the_whole_gallery_is(stored, model, texts, expected):
    candidates = torch.stack([torch.randperm(11, generator=torch.Generator().manual_seed(i))[:5] for i in range(7)])
    for pairs_per_pass in (1, 4, 256):
        found = score_pairs(model, stored, **texts, candidates=candidates, pairs_per_pass=pairs_per_pass)
        torch.testing.assert_close(found, expected.gather(1, candidates), atol=1e-3, rtol=1e-4)


def test_a_shortlist_of_all_ranks_as_the_exhaustive_search_does(stored, model, texts, expected):
    candidates = shortlist_by_embeds(model, stored, **texts, count=100)
    assert candidates.sort(1).values.tolist() == [list(range(11))] * 7
    scores = rank_in_two_stages(11, candidates, score_pairs(model, stored, **texts, candidates=candidates))
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        similar = model.violet.get_text_features(**texts).pooler_output @ stored.embeds.t()
    assert candidates[:, 0].tolist() == similar.argmax(1).tolist()


def test_what_is_not_on_the_shortlist_is_not_found():
    candidates, scores = torch.tensor([[2, 0], [1, 3]]), torch.tensor([[0.5, -3.0], [1.0, 2.0]])
    ranked = rank_in_two_stages(12, candidates, scores)
    assert ranked[0, 2] == 0.5 and ranked[0, 0] == -3 and (ranked[0, [1, *range(3, 12)]] < -3).all()
    found = retrieval_metrics(ranked, [0, 7])
    assert found["text_to_video_r1"] == 0 and found["text_to_video_mean_rank"] == (2 + (3 + 12) / 2) / 2


@pytest.mark.parametrize("at_once", [1, 7 * 300, searching.SCORES_AT_ONCE])
def test_the_nearest_are_those_of_faiss_exact_index(at_once, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(searching, "SCORES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    videos, asked = torch.randn(300, 16, generator=generator), torch.randn(40, 16, generator=generator)
    index = faiss.IndexFlatIP(16)
    index.add(videos.numpy())
    assert torch.equal(nearest(videos, asked, 12), torch.from_numpy(index.search(asked.numpy(), 12)[1]))


def test_a_part_is_encoded_once(stored, model, processor, videos, monkeypatch):
    before = {file: os.stat(stored.folder / file).st_mtime_ns for file in os.listdir(stored.folder)}
    monkeypatch.setattr(model.violet, "encode_videos", None)
    again = encode_gallery(model, processor, videos, stored.folder, videos_per_part=4)
    assert again.names == stored.names
    assert {file: os.stat(stored.folder / file).st_mtime_ns for file in os.listdir(stored.folder)} == before


def test_another_checkpoint_other_frames_or_other_videos_are_refused(stored, model, processor, videos, saved):
    other = VioletForRetrieval.from_pretrained(saved).eval()
    other.match_head[-1].bias.data += 1
    few = AutoProcessor.from_pretrained(saved)
    few.video_processor.num_frames = 2
    for changed, complaint in (
        ({"model": other}, "another checkpoint"),
        ({"processor": few}, "other frames"),
        ({"videos": videos[:-1]}, "other videos"),
        ({"videos_per_part": 5}, "other videos_per_part"),
    ):
        asked = {"model": model, "processor": processor, "videos": videos, "videos_per_part": 4, **changed}
        with pytest.raises(GalleryError, match=f"one holds a gallery of {complaint}: give another folder"):
            encode_gallery(**asked, folder=stored.folder)
    with pytest.raises(GalleryError, match="another checkpoint and other frames"):
        StoredGallery(stored.folder, other, few)


def test_what_is_no_whole_gallery_is_refused(stored, model, processor, videos, tmp_path):
    with pytest.raises(GalleryError, match=r"none holds no whole gallery.*Encode its videos"):
        StoredGallery(tmp_path / "none", model, processor)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(GalleryError, match="exists and holds no gallery"):
        encode_gallery(model, processor, videos, tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["file"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, content in contents(stored.folder).items():
        (broken / name).write_bytes(content)
    (broken / "part-000001.safetensors").write_bytes(b"short")
    with pytest.raises(GalleryError, match=r"part-000001.safetensors is missing, or not of \d+ bytes"):
        StoredGallery(broken, model, processor)
    size = len(contents(stored.folder)["part-000001.safetensors"])
    (broken / "part-000001.safetensors").write_bytes(b"\xff" * size)
    with pytest.raises(GalleryError, match=r"part-000001.safetensors is damaged"):
        StoredGallery(broken, model, processor)


def test_a_video_that_cannot_be_read_is_raised_or_left_out_and_named(
    model, processor, videos, texts, expected, tmp_path
):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(Path(videos[0]).read_bytes()[:500])
    with_bad = [*videos[:5], str(bad), *videos[5:]]
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4"):
        encode_gallery(model, processor, with_bad, tmp_path / "raised", videos_per_part=4)
    gallery = encode_gallery(model, processor, with_bad, tmp_path / "left_out", videos_per_part=3, skip_bad=True)
    assert gallery.names == tuple(videos) and list(gallery.failed) == [str(bad)]
    torch.testing.assert_close(score_all(model, gallery, **texts), expected, atol=1e-3, rtol=1e-4)
    chosen = torch.tensor([4, 5, 10])
    torch.testing.assert_close(
        score_pairs(model, gallery, **texts, candidates=chosen.expand(7, 3)), expected[:, chosen], atol=1e-3, rtol=1e-4
    )
    alone = encode_gallery(
        model, processor, [str(bad), videos[0]], tmp_path / "alone", videos_per_part=1, skip_bad=True
    )
    assert alone.names == (videos[0],) and len(alone.parts()) == 1
    with pytest.raises(GalleryError, match="no video: none could be read"):
        encode_gallery(model, processor, [str(bad)], tmp_path / "nothing", skip_bad=True)


def test_a_model_without_a_projection_makes_no_shortlist(stored, saved, texts):
    model = VioletForRetrieval.from_pretrained(saved, projection_dim=None).eval()
    with pytest.raises(GalleryError, match="no embeddings before the fusion"):
        shortlist_by_embeds(model, stored, **texts, count=3)


@pytest.mark.slow
def test_a_killed_process_leaves_whole_parts_and_the_next_goes_on(stored, model, processor, videos, tmp_path):
    """SIGKILL after the first part; and a half-written part as such a process leaves it."""
    folder = tmp_path / "gallery"
    settings = {"videos_per_part": 4, "batch_size": 1}
    process = FORK.Process(target=encode_gallery, args=(model, processor, videos, folder), kwargs=settings)
    process.start()
    try:
        deadline = time.monotonic() + 240
        while not (folder / "part-000000.safetensors").exists():
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "it was killed before it ended"
    assert not (folder / "manifest.json").exists()
    with pytest.raises(GalleryError, match="no whole gallery"):
        StoredGallery(folder, model, processor)
    first = os.stat(folder / "part-000000.safetensors").st_mtime_ns
    (folder / ".part-000002.safetensors.partial").write_bytes(b"half")
    encode_gallery(model, processor, videos, folder, videos_per_part=4, batch_size=3)
    assert os.stat(folder / "part-000000.safetensors").st_mtime_ns == first
    listing = json.loads((folder / "manifest.json").read_text())
    assert sorted(listing) == [
        "gallery.json",
        "manifest.json",
        *(f"part-{number:06d}.safetensors" for number in range(3)),
    ]
    every = torch.arange(11)
    found = StoredGallery(folder, model, processor).select(every).tokens
    torch.testing.assert_close(found, stored.select(every).tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("per_part", [4, 11])
def test_two_processes_share_the_parts_out(per_part, stored, model, processor, videos, tmp_path):
    """Three parts, or one, which leaves a process with nothing to do."""
    folder, ended = tmp_path / "gallery", FORK.Barrier(2)

    def encode(rank):
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=rank, world_size=2)
        encode_gallery(model, processor, videos, folder, videos_per_part=per_part, batch_size=1)
        ended.wait(timeout=240)  # gloo loses what it has sent when its process ends

    processes = [FORK.Process(target=encode, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    every = torch.arange(11)
    found = StoredGallery(folder, model, processor).select(every).tokens
    torch.testing.assert_close(found, stored.select(every).tokens, atol=1e-4, rtol=1e-4)
