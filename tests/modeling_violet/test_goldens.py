"""Agreement with outputs of the original VIOLET and VIOLETv2 code (../shared/goldens/README.md)."""

import importlib.util
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from violet.cli import main
from violet.hub import from_original
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)
from violet.modeling_violet.encoders.video_swin import relative_position_index

pytestmark = [pytest.mark.shared, pytest.mark.slow]

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Formula(Mapping):
    """
    The weights that the reference was run with: a formula of each original name and shape. Versions share most of
    them, and drawing takes longer than reading: each is drawn once, kept in a file, and read when it is asked for, so
    that nobody holds them all.
    """

    def __init__(self, folder: Path, keys: dict[str, list[int]]):
        self.folder, self.keys_and_shapes = folder, keys

    def __iter__(self):
        return iter(self.keys_and_shapes)

    def __len__(self) -> int:
        return len(self.keys_and_shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.keys_and_shapes[name]
        if name.endswith("relative_position_index"):
            return relative_position_index((8, 7, 7))
        file = self.folder / "-".join([name, *map(str, shape)])
        if not file.exists():
            drawn(name, shape).astype(np.float32).tofile(file)
        return torch.from_numpy(np.fromfile(file, np.float32).reshape(shape))


def drawn(name: str, shape: list[int]) -> np.ndarray:
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.02 * x
    return 0.03 * x


def thin(x: torch.Tensor) -> np.ndarray:
    """The part of a large array that the archives keep."""
    if x.dim() == 5:
        return x[:, ::16].numpy()
    if x.dim() == 3 and x.shape[-1] == 768:
        return x[:, ::7, ::16].numpy()
    if x.dim() == 3 and x.shape[1] > 150:
        return x[:, ::7].numpy()
    return x.numpy()


class Reference:
    """One version's archive and inputs, and models of its weights."""

    kept: ClassVar[dict[tuple, Any]] = {}
    """The model that was asked for last, of either version: each takes a GB."""
    encoded: ClassVar[dict[tuple, Any]] = {}
    """What Video Swin gave, by its weights, its kernel and what it was given, see `encode_once`."""

    def __init__(self, goldens: Path, version: str, seed: int, formula: Path, free_memory: Callable[[], None]):
        spec = importlib.util.spec_from_file_location("golden_inputs", goldens / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.goldens = goldens
        self.formula = formula
        self.free_memory = free_memory
        self.keys = self.read_keys(f"{version}_keys.json")
        self.archive = dict(np.load(goldens / f"{version}_public.npz"))
        b, t, h, w, x, _ = self.archive["case"].tolist()
        self.size = b, t, h, w, x
        self.seed = seed
        self.ids, self.mask = self.inputs.text(seed + 1, b, x)

    def read_keys(self, name: str) -> dict[str, list[int]]:
        return json.loads((self.goldens / name).read_text())

    def model(self, model_class, keys: dict[str, list[int]] | None = None):
        """All parameters of it come from the original's."""
        keys = keys or self.keys
        if (model_class, str(keys)) not in self.kept:
            self.forget()
            self.kept[model_class, str(keys)], report = from_original(Formula(self.formula, keys), model_class)
            assert not report.new
            self.encode_once(self.kept[model_class, str(keys)].violet.video_encoder.swin)
        return self.kept[model_class, str(keys)]

    def encode_once(self, swin: torch.nn.Module) -> None:
        """It takes most of the time: for the same weights, to the bit, and the same clip it is asked once."""
        forward, weights = swin.forward, 0
        for value in swin.state_dict().values():
            weights = zlib.crc32(value.numpy(), weights)

        def once(pixel_values_videos: torch.Tensor, **settings: Any) -> Any:
            clip = zlib.crc32(pixel_values_videos.contiguous().numpy())
            key = weights, clip, swin.config._attn_implementation, str(settings)
            if key not in self.encoded:
                self.encoded[key] = forward(pixel_values_videos, **settings)
            return self.encoded[key]

        swin.forward = once

    def forget(self) -> None:
        self.kept.clear()
        self.free_memory()

    def through_the_command_line(self, folder: Path, model_class, keys: dict[str, list[int]]):
        """The model that `violet convert` makes of a `.pt` file; `violet export-original` must give the same back."""
        self.forget()
        source, converted, back = folder / "original.pt", folder / "model", folder / "back.pt"
        weights = Formula(self.formula, keys)
        torch.save(dict(weights), source)
        self.free_memory()
        assert main(["convert", str(source), str(converted), "--no_tokenizer"]) == 0
        report = json.loads((converted / "conversion_report.json").read_text())
        assert set(report["used"]) | set(report["skipped"]) == set(keys) and not report["new"]
        self.free_memory()
        assert main(["export-original", str(converted), str(back)]) == 0
        self.free_memory()
        exported = torch.load(back, weights_only=True, mmap=True)
        assert set(exported) == set(keys)
        for name, value in weights.items():
            assert exported[name].dtype == value.dtype and torch.equal(exported[name], value), name
        del exported
        model = model_class.from_pretrained(converted)
        shutil.rmtree(folder)  # some GB, which pytest would keep
        return model

    def clip(self, seed=None):
        b, t, h, w, _ = self.size
        return (self.inputs.clip(self.seed if seed is None else seed, b, t, h, w) - MEAN) / STD

    def expect(self, name: str, got: torch.Tensor, tolerance: float = 1e-4):
        expected, got = self.archive[name], thin(got)
        assert expected.shape == got.shape
        assert expected.std() > 10 * tolerance, "a constant array would agree with anything"
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def formula(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formula")
    yield folder
    Reference.kept.clear()
    Reference.encoded.clear()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def v1(shared_folder, formula, free_memory):
    return Reference(shared_folder / "goldens", "v1", 100, formula, free_memory)


@pytest.fixture(scope="module")
def v2(shared_folder, formula, free_memory):
    return Reference(shared_folder / "goldens", "v2", 500, formula, free_memory)


@torch.no_grad()
def test_v1_features_hidden_states_and_masked_words(v1):
    model = v1.model(VioletForMaskedLM)
    output = model.violet(pixel_values_videos=v1.clip(), input_ids=v1.ids, attention_mask=v1.mask)
    v1.expect("video_features", output.video_tokens.tokens)
    v1.expect("text_features", model.violet.text_embeddings(v1.ids))
    v1.expect("last_hidden_state", output.last_hidden_state)
    v1.expect("mlm_logits_first64", model.mlm_head(output.text_hidden_state)[..., :64])
    scores = model(pixel_values_videos=v1.clip(), input_ids=v1.ids, attention_mask=v1.mask).logits
    v1.expect("mlm_logits_first64", scores[..., :64])


@torch.no_grad()
def test_v1_received_attention(v1):
    model = v1.model(VioletForMaskedLM)
    model.set_attn_implementation("eager")
    output = model.violet(
        pixel_values_videos=v1.clip(), input_ids=v1.ids, attention_mask=v1.mask, output_attentions=True
    )
    assert len(output.attentions) == 12
    received = sum(weights.mean(1).sum(1) for weights in output.attentions)
    v1.expect("received_attention", received, tolerance=1e-3)  # a sum over 12 layers and 232 rows
    model.set_attn_implementation("sdpa")


@torch.no_grad()
def test_v1_swin_alone(v1):
    b, t, h, w, _ = v1.size
    swin = v1.model(VioletForMaskedLM).violet.video_encoder.swin
    features = swin(v1.inputs.clip(v1.seed + 2, b, t, h, w)).last_hidden_state
    v1.expect("swin_features_unnormalised_input", features.permute(0, 4, 1, 2, 3))


@torch.no_grad()
def test_v1_scores_of_all_pairs(v1):
    model = v1.model(VioletForRetrieval)
    texts = {"input_ids": v1.ids, "attention_mask": v1.mask}
    scores = model(v1.clip(), **texts).logits * model.config.match_temperature
    v1.expect("pair_scores_text_by_video", scores)
    v1.expect("match_score", scores.diagonal())


@torch.no_grad()
def test_v1_scores_of_options(v1):
    model = v1.model(VioletForMultipleChoice)
    b, _, _, _, x = v1.size
    ids, masks = zip(*(v1.inputs.text(v1.seed + 10 + k, b, x) for k in range(5)), strict=True)
    v1.expect("qamc_logits", model(v1.clip(), torch.stack(ids, dim=1), torch.stack(masks, dim=1)).logits)


@torch.no_grad()
def test_v1_open_ended_answers(v1):
    answers = {"fc.3.weight": [1000, 1536], "fc.3.bias": [1000]}
    model = v1.model(VioletForQuestionAnswering, v1.keys | answers)
    logits = model(pixel_values_videos=v1.clip(), input_ids=v1.ids, attention_mask=v1.mask).logits
    v1.expect("qaoe_logits", logits)


@pytest.mark.proof
@torch.no_grad()
def test_v1_pre_training_heads_by_the_command_line(v1, tmp_path):
    model = v1.through_the_command_line(tmp_path, VioletForPreTraining, v1.keys)
    inputs = {"pixel_values_videos": v1.clip(), "input_ids": v1.ids, "attention_mask": v1.mask}
    fused = model.violet(**inputs)
    v1.expect("mvm_vq_logits_first64", model.mvm_heads["vq"](fused.video_hidden_state)[..., :64])
    v1.expect("match_score", model.match_head(fused.first_text_state())[:, 0])
    received = model(**inputs, only_received_attention=True).received_attention
    v1.expect("received_attention", received, tolerance=1e-3)  # a sum over 12 layers and 232 rows


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", pytest.param("eager", marks=pytest.mark.proof)])
def test_v2_both_attention_rules(v2, kernel):
    model = v2.model(VioletForMaskedLM)
    model.set_attn_implementation(kernel)
    videos = {"pixel_values_videos": v2.clip()}
    for rule, prefix in (("bidirectional", ""), ("sequence_to_sequence", "seq2seq_")):
        output = model.violet(**videos, input_ids=v2.ids, attention_mask=v2.mask, attention_rule=rule)
        v2.expect("video_features", output.video_tokens.tokens)
        v2.expect(prefix + "last_hidden_state", output.last_hidden_state)
        v2.expect(prefix + "mlm_logits_first64", model.mlm_head(output.text_hidden_state)[..., :64])
        videos = {"video_tokens": output.video_tokens}  # the rule is the fusion's
    model.set_attn_implementation("sdpa")


@torch.no_grad()
def test_v2_hidden_frame_order(v2):
    hidden = torch.from_numpy(v2.archive["frame_order_kept"]) < 0
    videos = v2.model(VioletForMaskedLM).violet.encode_videos(v2.clip(), hidden_frame_order=hidden)
    v2.expect("video_features_order_hidden", videos.tokens)


@torch.no_grad()
def test_v2_match_score(v2):
    model = v2.model(VioletForMultipleChoice)
    logits = model(v2.clip(), v2.ids.unsqueeze(1), v2.mask.unsqueeze(1)).logits  # one option
    v2.expect("match_score", logits[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("command_line", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_v2_task_token_and_prompt(v2, command_line, tmp_path):
    keys = v2.read_keys("v2_finetune_keys.json")
    if command_line:
        model = v2.through_the_command_line(tmp_path, VioletForMaskedLM, keys)
    else:
        model = v2.model(VioletForMaskedLM, keys)
    inputs = {"pixel_values_videos": v2.clip(), "input_ids": v2.ids, "attention_mask": v2.mask}

    def rows_behind_the_video(**prompt):
        output = model.violet(**inputs, **prompt)
        return model.mlm_head(torch.cat([output.prompt_hidden_state, output.text_hidden_state], dim=1))[..., :64]

    open_ended = torch.full((2,), 2)
    v2.expect("task_token_mlm_logits_first64", rows_behind_the_video(task_ids=open_ended))
    prompt = torch.tensor([[101, 2339, 2003, 1996, 102]])
    v2.expect("prompt_mlm_logits_first64", rows_behind_the_video(prompt_ids=prompt))


PROMPT = torch.tensor([[101, 4339, 1037, 6412, 102]])


@pytest.mark.parametrize(
    "use_cache",
    [pytest.param(True, id="cached"), pytest.param(False, id="recomputed", marks=pytest.mark.proof)],
)
@pytest.mark.parametrize("archive, seed, prompt", [("cap_public", 900, None), ("cap_prompt_public", 1100, PROMPT)])
def test_v2_captions(v2, archive, seed, prompt, use_cache):
    golden = np.load(v2.goldens / f"{archive}.npz")
    b, t, h, w, x, _ = golden["case"].tolist()
    model = v2.model(VioletForCaptioning, v2.read_keys("v2_finetune_keys.json"))
    written = model.generate(
        pixel_values_videos=(v2.inputs.clip(seed, b, t, h, w) - MEAN) / STD,
        prompt_ids=prompt,
        max_length=x,
        forced_eos_token_id=102,  # the published code ends a text that grew too long so
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    expected = golden["generated_ids"]
    assert len(set(expected.flatten().tolist())) > 3
    assert written.sequences.tolist() == expected.tolist()
    steps = torch.stack([logits.log_softmax(-1).amax(-1) for logits in written.logits], dim=1)
    np.testing.assert_allclose(steps.mean(1), golden["mean_log_prob"], atol=1e-4)
