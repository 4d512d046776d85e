"""An objective from outside the package: its head, its option, what it needs of a batch, its training."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from violet.configuration import VioletConfig, VioletVisionConfig, named_configuration
from violet.data import moving_shapes
from violet.modeling_violet import VioletForPreTraining
from violet.modeling_violet.encoders import find_encoder
from violet.modeling_violet.losses import masked_accuracy, masked_cross_entropy
from violet.modeling_violet.objectives.objective import OBJECTIVES, Objective, Outcome
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training.masking import Masking
from violet.training.mixture import MixtureSchedule
from violet.training.preparations.preparation import PREPARATIONS
from violet.training.pretraining import pretrain
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator
from violet.training.recipe import read_recipe

FRAMES, SIDE = 4, 32
SETS = [(1.0, 0, {"mlm": 1.0, "reversal": 0.5}), (1.0, 0, {"mlm": 1.0})]
ENCODER = find_encoder(VioletVisionConfig(depths=(1, 1), num_heads=(4, 8)))  # cells of 8 pixels


@dataclass
class ReversalOptions:
    hidden: int = 8
    share: float = 0.5


class Reversal(Objective):
    """Tells whether a video plays backwards."""

    Options = ReversalOptions
    needs = ("is_reversed",)

    def check(self, config):
        if config.num_video_frames < 2:
            raise ValueError("`objectives`: 'reversal' needs a `num_video_frames` of 2 or more.")

    def build_head(self, config):
        return nn.Sequential(nn.Linear(config.hidden_size, self.options.hidden), nn.Linear(self.options.hidden, 2))

    def loss(self, passes):
        pixels, is_reversed = passes.inputs["pixel_values_videos"], passes.inputs["is_reversed"]
        shown = torch.where(is_reversed[:, None, None, None, None], pixels.flip(1), pixels)
        states = passes.violet.encode_videos(shown).tokens.mean(1)
        logits, labels = passes.model.objective_heads[self.name](states), is_reversed.long()
        found = {"predictions": {self.name: logits}}
        return Outcome(masked_cross_entropy(logits, labels), masked_accuracy(logits, labels), found)


def prepare_reversal(samples, options):
    draws = [torch.rand((), generator=generator) for generator in samples.generators("reversal")]
    return {"is_reversed": torch.stack(draws) < options.share}


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    for table in (OBJECTIVES, PREPARATIONS):
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    OBJECTIVES.add("reversal", Reversal)
    PREPARATIONS.add("reversal", prepare_reversal)


def build(**options) -> VioletForPreTraining:
    torch.manual_seed(0)
    return VioletForPreTraining(named_configuration("violet-tiny", objectives={"reversal": options})).eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values_videos": torch.randn(4, FRAMES, 3, SIDE, SIDE, generator=generator),
        "input_ids": torch.randint(5, 500, (4, 6), generator=generator),
        "is_reversed": torch.tensor([True, False, True, False]),
    }


def test_its_loss_trains_its_head_and_what_the_pass_goes_through(tmp_path):
    model, given = build(hidden=5), inputs()
    assert model.objective_names()[-1] == "reversal", "the built-in ones come first"
    model.freeze_unused({"reversal"})
    output = model(**given, objectives={"reversal": 2.0})
    logits = output.predictions["reversal"]
    expected = nn.functional.cross_entropy(logits, given["is_reversed"].long())
    assert output.loss.item() == pytest.approx(2 * expected.item(), rel=1e-6)
    assert output.accuracies["reversal"] == (logits.argmax(1) == given["is_reversed"]).float().mean()
    output.loss.backward()
    for module in (model.objective_heads["reversal"], model.violet.video_encoder.swin):
        assert all(
            parameter.grad.abs().sum() > 0 for name, parameter in module.named_parameters() if "bias" not in name
        )
    frozen = {name.split(".")[0] for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen == {"match_head", "mlm_head", "violet"}, "of `violet`, the projection"
    assert model.get_parameter("objective_heads.reversal.0.weight").shape == (5, 128)

    model.save_pretrained(tmp_path)
    loaded, report = VioletForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    again = loaded(**given, objectives={"reversal": 2.0})
    assert torch.equal(again.predictions["reversal"], logits) and again.loss == output.loss


def test_it_is_asked_for_by_its_input_where_no_objectives_are_named():
    model, given = build(), inputs()
    assert set(model(**given).losses) == {"vtc", "reversal"}
    del given["is_reversed"]
    assert set(model(**given).losses) == {"vtc"}
    with pytest.raises(ValueError, match="'reversal' needs `is_reversed`"):
        model(**given, objectives={"reversal": 1.0})


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    plain = VioletForPreTraining(named_configuration("violet-tiny"))
    with pytest.raises(ValueError, match="no objective 'reversal'; it has vtc.*'reversal' needs .*`objectives`"):
        plain(**inputs(), objectives={"reversal": 1.0})
    with pytest.raises(ValueError, match="no objective 'revers'.*'revers' is unknown, there are .*mvm_.*reversal"):
        plain.freeze_unused({"revers"})
    with pytest.raises(ValueError, match="'reversal' has no option depth; it has: hidden, share"):
        build(depth=3)
    with pytest.raises(ValueError, match="'vtm' has no option hidden; it has: none"):
        VioletForPreTraining(named_configuration("violet-tiny", objectives={"vtm": {"hidden": 3}}))
    with pytest.raises(ValueError, match="`objectives`: 'vtc' needs .*`projection_dim`"):
        VioletForPreTraining(named_configuration("violet-tiny", objectives={"vtc": {}}, projection_dim=None))
    with pytest.raises(ValueError, match="`objectives`.*`num_video_frames`"):
        VioletForPreTraining(named_configuration("violet-tiny", objectives={"reversal": {}}, num_video_frames=1))
    build().save_pretrained(tmp_path)
    monkeypatch.delitem(OBJECTIVES._entries, "reversal")
    with pytest.raises(ValueError, match="No objective is named 'reversal'; there are vtc"):
        VioletForPreTraining.from_pretrained(tmp_path)


def test_a_configuration_without_objectives_is_written_as_before_there_were_any():
    assert "objectives" not in named_configuration("violet-tiny").to_dict()
    config = named_configuration("violet-tiny", objectives={"reversal": {"share": 0.25}})
    assert VioletConfig.from_dict(config.to_dict()).objectives == {"reversal": {"share": 0.25}}


@pytest.fixture(scope="module")
def data(shapes_folder):
    """Builds the batches of a step, by rank."""
    rows = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)["train"]
    frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    processor = VideoTextProcessor(train_wordpiece_tokenizer(rows["caption"], 200), frames)

    def build(share=0.5, sets=SETS, rank=0, world_size=1) -> PretrainingBatches:
        options = {"reversal": ReversalOptions(share=share)}
        collator = PretrainingCollator(processor, Masking(), ENCODER, options=options)
        schedule = MixtureSchedule([1.0], [(FRAMES, SIDE, SIDE)], sets, 0)
        return PretrainingBatches(
            [CaptionedVideos("shapes", rows, FRAMES, 1.0)], schedule, collator, 8, 0, rank, world_size
        )

    return build


def test_the_worker_prepares_it_in_the_steps_that_name_it_and_changes_no_other_draw(data):
    whole, plain, halves = (
        data(),
        data(sets=[(1.0, 0, {"mlm": 1.0})]),
        [data(rank=rank, world_size=2) for rank in (0, 1)],
    )
    drawn, named = [], []
    for step in range(8):
        batch, without = whole[step], plain[step]
        assert ("is_reversed" in batch) == ("reversal" in batch["objectives"])
        for name in ("input_ids", "labels", "bool_masked_pos", "negative_index", "pixel_values_videos"):
            assert torch.equal(batch[name], without[name]), name
        if "is_reversed" in batch:
            parts = [half[step]["is_reversed"] for half in halves]
            assert torch.equal(batch["is_reversed"], torch.cat(parts)), "the same over any number of processes"
            drawn.append(batch["is_reversed"])
            named.append(step)
    assert 1 < len(drawn) < 8 and 0.2 < torch.cat(drawn).float().mean() < 0.8
    options = data(share=1.0)
    reversed_all = [batch["is_reversed"].all() for batch in map(options.__getitem__, named[:2])]
    assert len(reversed_all) == 2 and all(reversed_all), "its option is heard"


def test_an_entry_that_the_batch_has_already_is_refused(data, monkeypatch):
    monkeypatch.setitem(PREPARATIONS._entries, "reversal", lambda samples, options: {"labels": samples.input_ids})
    with pytest.raises(ValueError, match="'reversal' gives labels, which the batch has already"):
        data(sets=SETS[:1])[0]


def test_a_run_from_scratch_trains_and_saves_it(tmp_path):
    AcceleratorState._reset_state(True)
    shapes = {"source": "moving_shapes", "path": str(tmp_path / "shapes"), "clips": 8, "validation_clips": 4}
    settings = {
        "datasets": [{"name": "shapes", **shapes}],
        "output_dir": str(tmp_path / "run"),
        "image_size": SIDE,
        "objectives": {"mlm": 1.0, "reversal": 1.0},
        "objective_options": {"reversal": {"hidden": 6}},
        "max_steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "logging_steps": 1,
        "save_steps": 2,
        "eval_batches": 1,
        "num_workers": 0,
        "trackers": [],
    }
    result = pretrain(read_recipe(settings))
    assert {"shapes/loss_reversal", "shapes/accuracy_reversal", "shapes/loss_mlm"} <= set(result.metrics)
    log = [json.loads(line) for line in (Path(settings["output_dir"]) / "log.jsonl").read_text().splitlines()]
    assert log[0]["loss_reversal"] > 0 and log[0]["gradient_norm"] > 0
    loaded = VioletForPreTraining.from_pretrained(settings["output_dir"])
    assert loaded.config.objectives == {"reversal": {"hidden": 6}}
    head, trained = loaded.objective_heads["reversal"], result.model.objective_heads["reversal"]
    assert head[0].out_features == 6
    assert all(torch.equal(head.state_dict()[name], value) for name, value in trained.state_dict().items())


def test_options_of_an_objective_that_no_set_names_are_refused(tmp_path):
    shapes = {"name": "shapes", "source": "moving_shapes", "path": str(tmp_path)}
    with pytest.raises(ValueError, match="`objective_options`: reversal is not among `objectives`"):
        read_recipe({"datasets": [shapes], "objective_options": {"reversal": {}}})
