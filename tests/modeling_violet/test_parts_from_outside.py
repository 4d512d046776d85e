"""
Parts of models that a user wrote, in files outside of the package: each is trained for a step, saved with its code,
and gives the same where neither it nor the package is installed.
"""

import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_configs import FRAMES, SIDE, model_config
from own_process import run_python

from violet.modeling_violet import ENCODERS, VioletForMaskedLM, VioletForPreTraining, VioletPreTrainedModel
from violet.modeling_violet.attention import RULES
from violet.modeling_violet.fusions import FUSIONS
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS
from violet.modeling_violet.objectives.objective import OBJECTIVES
from violet.modeling_violet.texts import TEXTS

OWN = {
    "own_text.py": """\
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from violet.modeling_violet.texts import TEXTS, TextSide

class NeighboursConfig(PreTrainedConfig):
    model_type = "own_neighbours"
    reach: int = 1

class Neighbours(TextSide):
    contextual = True

    def __init__(self, config):
        super().__init__()
        width, reach = config.hidden_size, config.text_config.reach
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.near = nn.Conv1d(width, width, 1 + 2 * reach, padding=reach)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        states = self.word_embeddings(input_ids)
        if attention_mask is not None:
            states = states * attention_mask.unsqueeze(-1)
        return states + self.near(states.transpose(1, 2)).transpose(1, 2)

AutoConfig.register("own_neighbours", NeighboursConfig, exist_ok=True)
TEXTS.add("own_neighbours", Neighbours)
""",
    "own_fusion.py": """\
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from violet.modeling_violet.fusions import FUSIONS, Fusion

class MixerConfig(PreTrainedConfig):
    model_type = "own_mixer"
    num_layers: int = 2

class MixerLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.own, self.mean = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states, mask):
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return states + (self.own(states) + self.mean(mean)).tanh()

class Mixer(Fusion):
    '''Each layer adds to a token what it says itself and what the mean of all tokens says.'''

    def __init__(self, config):
        super().__init__()
        depth = config.fusion_model_config.num_layers
        self.layers = nn.ModuleList(MixerLayer(config.hidden_size) for _ in range(depth))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, groups, rule="bidirectional", cache=None, past_mask=None, **kwargs):
        states = torch.cat([group.tokens for group in groups.values()], 1)
        mask = torch.cat([group.mask for group in groups.values()], 1)
        for layer in self.layers:
            states = layer(states, mask)
        lengths = [group.tokens.shape[1] for group in groups.values()]
        return dict(zip(groups, self.norm(states).split(lengths, 1)))

AutoConfig.register("own_mixer", MixerConfig, exist_ok=True)
FUSIONS.add("own_mixer", Mixer)
""",
    "own_rule.py": """\
from transformers import AutoConfig, PreTrainedConfig

from violet.modeling_violet.attention import RULES, AttentionRule
from violet.modeling_violet.fusions import FUSIONS
from violet.modeling_violet.fusions.bert_fusion import VioletBertFusion

def video_by_itself(query, key, layout):
    text = layout.start("text")
    return (query >= text) | (key < text)

class RuledConfig(PreTrainedConfig):
    model_type = "own_ruled"

class RuledFusion(VioletBertFusion):
    rules = (*VioletBertFusion.rules, "own_video_by_itself")

RULES.add("own_video_by_itself", AttentionRule(video_by_itself))
AutoConfig.register("own_ruled", RuledConfig, exist_ok=True)
FUSIONS.add("own_ruled", RuledFusion)
""",
    "own_encoder.py": """\
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from violet.modeling_violet import ENCODERS

class ConvNetConfig(PreTrainedConfig):
    model_type = "own_convnet"
    hidden_size: int = 24

    @property
    def cell(self):
        return 1, 8, 8

    def grid(self, frames, height, width):
        return frames, height // 8, width // 8

class ConvNet(PreTrainedModel):
    config_class = ConvNetConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config):
        super().__init__(config)
        self.near = nn.Conv3d(3, 12, (3, 4, 4), (1, 4, 4), (1, 0, 0))
        self.far = nn.Conv3d(12, config.hidden_size, (1, 2, 2), (1, 2, 2))
        self.post_init()

    def forward(self, pixel_values_videos, **kwargs):
        states = self.far(self.near(pixel_values_videos.transpose(1, 2)).relu())
        return BaseModelOutput(last_hidden_state=states.permute(0, 2, 3, 4, 1))

AutoConfig.register("own_convnet", ConvNetConfig, exist_ok=True)
ENCODERS.add("own_convnet", ConvNet)
""",
    "own_target.py": """\
from torch import nn

from violet.modeling_violet.losses import masked_l1
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS, MVMTarget
from violet.modeling_violet.objectives.teachers import Teacher

class Brightness(Teacher):
    def target(self, pixel_values_videos, grid):
        return pixel_values_videos.mean((2, 3, 4))[:, :, None, None, None].expand(-1, -1, *grid[1:], -1)

def build_head(config, options):
    return nn.Sequential(nn.Linear(config.hidden_size, options["hidden"]), nn.Linear(options["hidden"], 1))

def loss(prediction, target, bool_masked_pos, reduction):
    return masked_l1(prediction, target, bool_masked_pos.unsqueeze(-1).expand_as(target))

BRIGHTNESS = MVM_TARGETS.add("own_brightness", MVMTarget(build_head, loss, Brightness, {"hidden": 6}))
""",
    "own_objective.py": """\
from dataclasses import dataclass

import torch
from torch import nn

from violet.modeling_violet.losses import masked_accuracy, masked_cross_entropy
from violet.modeling_violet.objectives.objective import OBJECTIVES, Objective, Outcome

@dataclass
class ReversalOptions:
    hidden: int = 8

class Reversal(Objective):
    Options = ReversalOptions
    needs = ("is_reversed",)

    def build_head(self, config):
        return nn.Sequential(nn.Linear(config.hidden_size, self.options.hidden), nn.Linear(self.options.hidden, 2))

    def loss(self, passes):
        pixels, is_reversed = passes.inputs["pixel_values_videos"], passes.inputs["is_reversed"]
        shown = torch.where(is_reversed[:, None, None, None, None], pixels.flip(1), pixels)
        states = passes.violet.encode_videos(shown).tokens.mean(1)
        logits, labels = passes.model.objective_heads[self.name](states), is_reversed.long()
        found = {"predictions": {self.name: logits}}
        return Outcome(masked_cross_entropy(logits, labels), masked_accuracy(logits, labels), found)

OBJECTIVES.add("own_reversal", Reversal)
""",
}
ADDED = (
    (TEXTS, ("own_neighbours",)),
    (
        FUSIONS,
        (
            "own_mixer",
            "own_ruled",
        ),
    ),
    (RULES, ("own_video_by_itself",)),
    (ENCODERS, ("own_convnet",)),
    (MVM_TARGETS, ("own_brightness",)),
    (OBJECTIVES, ("own_reversal",)),
)
BERT = {"model_type": "bert", "vocab_size": 128, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass
class Case:
    """
    Attributes:
        own: the files of the user that the checkpoint must carry, without `.py`.
        trains: how the names of the part's parameters begin.
        changes: to the configuration.
        inputs: of the pass, beside video and words.
    """

    trains: str
    own: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    encoder: str = "vit"
    model: type[VioletPreTrainedModel] = VioletForPreTraining


MASK = torch.arange(2 * FRAMES * 4).view(2, FRAMES, 2, 2) % 3 == 0
CASES = {
    "clip": Case("violet.video_encoder.backbone.", encoder="clip_vision_model", model=VioletForMaskedLM),
    "bert": Case(
        "violet.text_embeddings.model.encoder.",
        changes={"text_config": {**BERT, "intermediate_size": 48}},
        model=VioletForMaskedLM,
    ),
    "sound": Case(
        "violet.audio_encoder.",
        changes={
            "audio_config": {
                **{"model_type": "vatt_audio", "shared": False, "backbone_size": 24, "num_hidden_layers": 1},
                **{"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 48, "hidden_size": 24},
                **{"patch_size": 16, "num_samples": 160, "sampling_rate": 800, "dropout": 0.0},
            }
        },
        inputs={
            "audio_values": torch.linspace(-1, 1, 320).view(2, 160).sin(),
            "audio_attention_mask": (torch.arange(160) < torch.tensor([[160], [70]])).long(),
        },
        model=VioletForMaskedLM,
    ),
    "text": Case(
        "violet.text_embeddings.near",
        ("own_text",),
        {"text_config": {"model_type": "own_neighbours", "reach": 2}},
    ),
    "fusion": Case("violet.fusion.layers.", ("own_fusion",), {"fusion_model_config": {"model_type": "own_mixer"}}),
    "rule": Case(
        "violet.fusion.layers.",
        ("own_rule",),
        {"fusion_model_config": {"model_type": "own_ruled"}},
        {"attention_rule": "own_video_by_itself"},
        model=VioletForMaskedLM,
    ),
    "encoder": Case("violet.video_encoder.backbone.", ("own_encoder",), encoder="own_convnet"),
    "target": Case(
        "mvm_heads.own_brightness.",
        ("own_target",),
        {"mvm_targets": {"own_brightness": {"hidden": 5}}},
        {
            "bool_masked_pos": MASK,
            "mvm_targets": {"own_brightness": torch.linspace(-1, 1, 2 * FRAMES * 4).view(2, FRAMES, 2, 2, 1)},
        },
    ),
    "objective": Case(
        "objective_heads.own_reversal.",
        ("own_objective",),
        {"objectives": {"own_reversal": {"hidden": 5}}},
        {"is_reversed": torch.tensor([True, False])},
    ),
}
CASES["all"] = Case(
    "violet.",
    tuple(name.removesuffix(".py") for name in OWN if name != "own_rule.py"),
    {key: value for name in ("text", "fusion", "target", "objective") for key, value in CASES[name].changes.items()},
    {
        "bool_masked_pos": torch.arange(2 * FRAMES * 16).view(2, FRAMES, 4, 4) % 3 == 0,
        "mvm_targets": {"own_brightness": torch.linspace(-1, 1, 2 * FRAMES * 16).view(2, FRAMES, 4, 4, 1)},
        "is_reversed": torch.tensor([True, False]),
    },
    "own_convnet",
)
ELSEWHERE = """
import json, sys
from pathlib import Path

class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "violet" or name.startswith("own_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusing)
import torch
import transformers

folder = Path(sys.argv[1])
for checkpoint in sorted(path for path in folder.iterdir() if (path / "inputs").exists()):
    inputs = torch.load(checkpoint / "inputs")
    paths = [checkpoint, folder / "again" / "all"][: 1 + (checkpoint.name == "all")]
    for path in paths:
        auto_class = getattr(transformers, inputs["auto_class"])
        model = auto_class.from_pretrained(path, trust_remote_code=True).eval()
        if path == checkpoint and len(paths) > 1:
            model.save_pretrained(folder / "again" / "all")
        with torch.no_grad():
            output = model(**inputs["pass"])
        torch.save(output.to_tuple(), path / "found")
"""


def given(case: Case) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[2, 9, 4, 7, 3, 0], [2, 5, 6, 4, 8, 3]])
    return {
        "pixel_values_videos": torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=generator),
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.where(ids == 4, 11, -100),
        **case.inputs,
    }


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The user's files, imported."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, source in OWN.items():
        (folder / name).write_text(source)
    sys.path.insert(0, str(folder))
    for name in OWN:
        importlib.import_module(name.removesuffix(".py"))
    yield
    sys.path.remove(str(folder))
    for table, names in ADDED:
        for name in names:
            table._entries.pop(name), table._sources.pop(name)
    for name in OWN:
        del sys.modules[name.removesuffix(".py")]


@pytest.fixture(scope="module")
def saved(own, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder of a checkpoint for each case, trained for a step; and what each model gives then."""
    folder, outputs = tmp_path_factory.mktemp("checkpoints"), {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        model = case.model(model_config(case.encoder, hidden_dropout_prob=0.0, **case.changes)).train()
        before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(case.trains)}
        assert before, name
        inputs = given(case)
        model(**inputs).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        moved = [key for key, value in before.items() if not torch.equal(model.state_dict()[key], value)]
        assert len(moved) > 0.8 * len(before), (name, sorted(set(before) - set(moved)))
        model.eval().save_pretrained(folder / name, with_code=True)
        auto_class = "AutoModelForMaskedLM" if case.model is VioletForMaskedLM else "AutoModelForPreTraining"
        torch.save({"auto_class": auto_class, "pass": inputs}, folder / name / "inputs")
        with torch.no_grad():
            outputs[name] = model(**inputs).to_tuple()
    return folder, outputs


@pytest.fixture(scope="module")
def elsewhere(saved) -> Path:
    """The same folder, with what a process gets from each checkpoint that has neither the package nor the files."""
    done = run_python("-c", ELSEWHERE, saved[0], cwd=saved[0])
    assert done.returncode == 0, done.stderr[-4000:]
    return saved[0]


def tensors(output: Any) -> list[torch.Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("name", CASES)
def test_a_trained_part_gives_the_same_without_the_package_and_when_saved_again(name, saved, elsewhere):
    here = tensors(saved[1][name])
    assert len(here) >= 2
    for folder in (elsewhere, elsewhere / "again") if name == "all" else (elsewhere,):
        there = tensors(torch.load(folder / name / "found"))
        assert len(there) == len(here)
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_carries_its_own_parts_and_no_other(name, saved):
    carried = {file.stem for file in (saved[0] / name).glob("*.py")}
    assert {stem for stem in carried if stem.startswith("own_")} == set(CASES[name].own)
    assert ("text_encoder" in carried) == (name == "bert")
    assert ("waveform" in carried) == (name == "sound")
    if name in ("clip", "bert"):
        assert "frame_by_frame" in carried and not {"whole_clip", "video_swin"} & carried


def test_the_entries_are_read_again_by_their_types(saved):
    config = json.loads((saved[0] / "all" / "config.json").read_text())
    types = {key: config[key]["model_type"] for key in ("text_config", "fusion_model_config", "vision_config")}
    assert types == {
        "text_config": "own_neighbours",
        "fusion_model_config": "own_mixer",
        "vision_config": "own_convnet",
    }


def test_a_file_may_be_imported_again_and_no_other_may_take_its_names(own):
    before = MVM_TARGETS["own_brightness"]
    for name in OWN:
        importlib.reload(sys.modules[name.removesuffix(".py")])
    assert MVM_TARGETS["own_brightness"] is not before, "the newer one"
    with pytest.raises(ValueError, match="named 'own_brightness' already"):
        MVM_TARGETS.add("own_brightness", before)
    with pytest.raises(ValueError, match="named 'own_video_by_itself' already"):
        RULES.add("own_video_by_itself", RULES["bidirectional"])


def test_a_rule_of_ones_own_hides_what_it_says(own):
    """Under it the video's states do not depend on the words, and the words' depend on the video."""
    torch.manual_seed(0)
    config = model_config("vit", fusion_model_config={"model_type": "own_ruled"}, initializer_range=0.2)
    model = VioletForMaskedLM(config).eval().violet
    inputs = {key: value for key, value in given(Case("")).items() if key != "labels"}
    other = {**inputs, "input_ids": inputs["input_ids"].flip(0)}
    for rule, same in (("own_video_by_itself", True), ("bidirectional", False)):
        one, two = (model(**some, attention_rule=rule).video_hidden_state for some in (inputs, other))
        assert torch.allclose(one, two, atol=1e-6) == same, rule
    shown = [
        model(**{**inputs, "pixel_values_videos": pixels}, attention_rule="own_video_by_itself").text_hidden_state
        for pixels in (inputs["pixel_values_videos"], inputs["pixel_values_videos"].flip(1))
    ]
    assert not torch.allclose(shown[0], shown[1], atol=1e-4)


def test_a_rule_that_a_fusion_does_not_list_is_refused_with_both_settings(own):
    model = VioletForMaskedLM(model_config("vit"))
    with pytest.raises(
        ValueError, match="'own_video_by_itself' .`attention_rule`.*`fusion_model_config.model_type` 'bert'"
    ):
        model(**given(CASES["rule"]))
