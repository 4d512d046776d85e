"""Joint pre-training on images and videos in the original code's own files, with their visual tokens."""

import json
import math

import pytest

from violet.training.pretraining import Pretraining
from violet.training.recipe import read_recipe

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture
def recipe(shared_folder, tmp_path):
    original, clips = shared_folder / "data/original", shared_folder / "data/msrvtt"
    rows = [json.loads(line) for line in (clips / "annotations.jsonl").read_text().splitlines()]
    captions = {"train": {row["video"].removesuffix(".mp4"): [row["caption"]] for row in rows}}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    images = {"name": "cc3m", "source": "tsv", "path": str(original / "img_cc3m_val.tsv"), "num_frames": 1}
    images |= {"captions": str(original / "txt_cc3m.json"), "split": "val", "validation_split": "val"}
    videos = {"name": "msrvtt", "source": "tsv", "path": str(original / "msrvtt.tsv"), "num_frames": 4}
    videos |= {"captions": str(tmp_path / "captions.json")}
    return read_recipe(
        {
            "datasets": [
                images | {"targets": {"vq": str(original / "vq_cc3m.pkl")}, "weight": 1},
                videos | {"targets": {"vq": str(original / "msrvtt_vq.pkl")}, "weight": 1},
            ],
            "output_dir": str(tmp_path / "run"),
            "model": "violet-tiny",
            "objectives": {"vtc": 1, "vtm": 1, "mlm": 1, "mvm_vq": 1},
            "mvm_targets": {"vq": {"channels": 8192, "per_cell": 1}},
            "image_size": 224,
            "batch_size": 4,
            "max_steps": 8,
            "logging_steps": 1,
            "eval_batches": 2,
            "num_workers": 0,
            "trackers": [],
            "seed": 1,
        }
    )


def test_images_and_videos_of_the_original_are_trained_on_together(recipe, tmp_path):
    run = Pretraining(recipe)
    sizes = {run.training.schedule.plan(step).dataset: run.training[step] for step in range(recipe.max_steps)}
    assert sizes[0]["pixel_values_videos"].shape == (4, 1, 3, 224, 224)
    assert sizes[1]["pixel_values_videos"].shape == (4, 4, 3, 224, 224)
    assert sizes[0]["mvm_targets"]["vq"].shape == (4, 1, 7, 7) and sizes[1]["mvm_targets"]["vq"].shape == (4, 4, 7, 7)
    assert all(
        batch["mvm_targets"]["vq"].min() >= 0 and batch["mvm_targets"]["vq"].unique().numel() > 10
        for batch in sizes.values()
    )
    result = run.run(resume=False)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss_mvm_vq"] for line in lines if "loss_mvm_vq" in line]
    assert len(losses) == recipe.max_steps and all(math.isfinite(loss) for loss in losses)
    assert 0.7 * math.log(8192) < losses[0] < math.log(8192), "at first the tokens are as likely as they are frequent"
    assert math.isfinite(result.metrics["cc3m/loss_mvm_vq"])
