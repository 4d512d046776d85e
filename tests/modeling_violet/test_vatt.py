"""VATT: the goldens' outputs, sound in the fusion, DropToken, and what is refused."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn
from vatt_golden import EQUAL, OTHER, SIZES, VattGoldens, vatt_config

from violet.configuration import VioletConfig, named_configuration
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import (
    Tokens,
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
)
from violet.modeling_violet.encoders.vatt_video import VattVisionConfig, VattVisionModel
from violet.modeling_violet.natural_spline import natural_spline, spline_weights
from violet.modeling_violet.objectives.vatt import VattOptions, kept_places, pair_losses
from violet.modeling_violet.sounds.waveform import VattAudioConfig, VattAudioModel
from violet.training.learning_rates import LEARNING_RATES

SHAPES = {"equal": EQUAL, "other": OTHER}
BACKBONE, HEADS = 2e-5, 1e-4


@pytest.fixture(scope="module")
def goldens(shared_folder) -> VattGoldens:
    return VattGoldens()


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert wanted.float().std() > 0 or wanted.numel() == 1
    assert float((got.detach().double() - wanted.double()).abs().max()) <= tolerance


def words_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"input_ids": inputs["input_ids"], "attention_mask": (inputs["input_ids"] != 0).long()}


# --- the goldens ---


@torch.no_grad()
def pass_through(goldens: VattGoldens, size: str, modality: str) -> dict[str, torch.Tensor]:
    """Every stage of a modality on its way through the instance."""
    model, inputs = goldens.model, goldens.inputs(SHAPES[size])
    part = {
        "video": model.vision_model,
        "audio": model.audio_encoder.model,
        "text": model.text_embeddings.model,
    }[modality]
    layers = model.vision_model.backbone.layers
    found: dict[str, torch.Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: found.update({name: output})

    hooks = [layer.register_forward_hook(keep(f"hidden_{i + 1}")) for i, layer in enumerate(layers)]
    hooks.append(model.vision_model.backbone.register_forward_hook(keep("last_hidden")))
    hooks.append(part.stream.positions.register_forward_hook(keep("positions")))
    hooks.append(part.stream.pre_projection.register_forward_hook(keep("embeddings")))
    try:
        if modality == "video":
            output = part(inputs["pixel_values_videos"])
            found["features"], found["features_pooled"] = output.last_hidden_state.flatten(1, 3), output.pooler_output
        elif modality == "audio":
            output = part(inputs["audio_values"])
            found["features"], found["features_pooled"] = output.last_hidden_state, output.pooler_output
        else:
            found["features"], found["features_pooled"] = part(**words_of(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    found["embeddings"] = nn.functional.gelu(found["embeddings"])
    return found


@pytest.mark.parametrize("modality", ["video", "audio", "text"])
@pytest.mark.parametrize("size", ["equal", "other"])
def test_every_stage_of_a_modality_is_the_goldens(goldens, size, modality):
    found = pass_through(goldens, size, modality)
    assert len(found) == 7
    for name, got in found.items():
        wanted = goldens.get(f"{size}/{modality}/{name}")
        assert_near(got, wanted.flatten(1, -2) if name == "embeddings" else wanted, BACKBONE)


@torch.no_grad()
def pooled_vectors(goldens: VattGoldens, size: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model, inputs = goldens.model.eval(), goldens.inputs(SHAPES[size])
    video = model.encode_videos(inputs["pixel_values_videos"], audio_values=inputs["audio_values"])
    assert video.audio is not None
    return video.pooled, video.audio.pooled, model.encode_texts(**words_of(inputs)).pooled


def spaces(projection, video, audio, text) -> dict[str, torch.Tensor]:
    fine, coarse = projection.video_vectors(video)
    names = ("video_toaud", "video_totxt", "audio_tovid", "text_tovid")
    vectors = (fine, coarse, projection.sound_vectors(audio), projection.text_vectors(text))
    return dict(zip(names, vectors, strict=True))


@pytest.mark.parametrize("size", ["equal", "other"])
def test_the_nested_spaces_and_their_statistics_are_the_goldens(goldens, size):
    vectors = pooled_vectors(goldens, size)
    projection = goldens.build().projection
    for name, got in spaces(projection.eval(), *vectors).items():
        assert_near(got, goldens.get(f"{size}/head_eval/{name}"), HEADS)
    for name, got in spaces(projection.train(), *vectors).items():
        assert_near(got, goldens.get(f"{size}/head_training/{name}"), HEADS)
    for ours, theirs in (
        ("hidden_norm", "hid_to_va/pre_bn"),
        ("fine_norm", "hid_to_va/bn"),
        ("coarse_norm", "va_to_vat/bn"),
    ):
        norm = getattr(projection, ours)
        assert_near(norm.running_mean, goldens.get(f"{size}/after_one_step/{theirs}/moving_mean"), HEADS)
        assert_near(norm.running_var, goldens.get(f"{size}/after_one_step/{theirs}/moving_variance"), HEADS)


def test_the_joint_space_is_the_goldens(goldens):
    vectors = pooled_vectors(goldens, "equal")
    projection = goldens.build(projection_type="joint", projection_dim=32).projection
    for mode in ("eval", "training"):
        projection.train(mode == "training")
        video, audio, text = vectors
        got = {
            "video": projection.video_vectors(video)[1],
            "audio": projection.sound_vectors(audio),
            "text": projection.text_vectors(text),
        }
        for name, value in got.items():
            assert_near(value, goldens.get(f"joint_head_{mode}/{name}"), HEADS)


@pytest.mark.parametrize("draw", ["shared", "own"])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_dropped_tokens_are_the_goldens(goldens, modality, draw):
    inputs, model = goldens.inputs(EQUAL), goldens.model
    kept = goldens.get(f"drop_{draw}/{modality}/kept")
    with torch.no_grad():
        if modality == "video":
            output = model.vision_model(inputs["pixel_values_videos"], kept=kept)
            features = output.kept_states
        else:
            output = model.audio_encoder.model(inputs["audio_values"], kept=kept)
            features = output.last_hidden_state
    assert_near(features, goldens.get(f"drop_{draw}/{modality}/features"), BACKBONE)
    assert_near(output.pooler_output, goldens.get(f"drop_{draw}/{modality}/features_pooled"), BACKBONE)


def losses_of(vectors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of the vectors in the nested spaces, in training."""
    found = {
        "beside_sounds": vectors["video_toaud"],
        "beside_texts": vectors["video_totxt"],
        "sounds": vectors["audio_tovid"].unsqueeze(1),
        "texts": vectors["text_tovid"].unflatten(0, (3, 2)),
        "heard": torch.ones(3, dtype=torch.long),
        "real_texts": torch.tensor([1, 1, 0]),
    }
    losses = {name: float(loss) for name, (_, loss) in pair_losses(found, VattOptions(), 0.07).items()}
    return {"vidtxt": losses["video_text"], "vidaud": losses["video_audio"], "total": sum(losses.values()) / 2}


def test_the_losses_of_the_goldens_vectors_are_the_goldens(goldens):
    names = ("video_toaud", "video_totxt", "audio_tovid", "text_tovid")
    vectors = {name: goldens.get(f"equal/head_training/{name}") for name in names}
    for name, loss in losses_of(vectors).items():
        assert loss == pytest.approx(float(goldens.get(f"model_loss/{name}")), rel=1e-6), name


@torch.no_grad()
def test_the_losses_of_the_whole_instance_are_the_goldens(goldens):
    """
    Its batch norms of three rows and the temperature enlarge the rounding of weights to float32: in float64 too the
    losses move by 0.4 to 2.6e-6 of their size with the way in which the formula's weights are rounded.
    """
    vectors = spaces(goldens.build().projection.train(), *pooled_vectors(goldens, "equal"))
    for name, loss in losses_of(vectors).items():
        assert loss == pytest.approx(float(goldens.get(f"model_loss/{name}")), rel=2e-6), name


def test_splines_are_the_goldens(goldens):
    names = [name for name in goldens.arrays.files if name.startswith("spline/")]
    assert len(names) == 12
    for name in names:
        rows, places = map(int, name.removeprefix("spline/").split("_to_"))
        table = formula_table(rows)
        got = natural_spline(table.double(), places)
        wanted = goldens.get(name)
        assert_near(got[::13] if places > 200 else got, wanted, 1e-6)


def formula_table(rows: int) -> torch.Tensor:
    drawn = np.random.default_rng(zlib.crc32(f"table_{rows}".encode())).standard_normal((rows, 6))
    return torch.from_numpy(drawn.astype(np.float32))


def test_the_learning_rate_of_pre_training_is_the_goldens(goldens):
    fall = LEARNING_RATES["half_cosine"]
    for step, rate in zip(goldens.arrays["schedule/steps"], goldens.arrays["schedule/rates"], strict=True):
        if step >= 5000:
            assert 1e-4 * fall((step - 5000) / 495000) == pytest.approx(float(rate), rel=1e-9)
    assert fall(1.0) == fall(1.3) == pytest.approx(0.5)


# --- splines ---


def test_a_straight_line_stays_straight_beyond_its_end_too():
    line = torch.arange(8.0, dtype=torch.float64)[:, None] * 3 - 5
    for places in (3, 12, 29):
        wanted = torch.arange(places, dtype=torch.float64)[:, None] * (8 / places) * 3 - 5
        assert torch.allclose(natural_spline(line, places), wanted, atol=1e-12)


def test_knots_are_kept_and_an_equal_number_changes_nothing():
    table = torch.randn(16, 3, dtype=torch.float64)
    assert natural_spline(table, 16) is table
    assert torch.allclose(natural_spline(table, 32)[::2], table, atol=1e-12)


def test_long_tables_in_float32_are_no_noise():
    table = torch.randn(1200, 2)
    found = natural_spline(table, 800)
    assert found.dtype == torch.float32 and found.abs().max() < 1.5 * table.abs().max()
    assert spline_weights(1, 4).tolist() == [[1.0]] * 4


# --- one backbone ---


def test_the_backbone_is_counted_and_saved_once(tmp_path):
    model = VioletModel(vatt_config())
    shared = sum(p.numel() for p in model.vision_model.backbone.parameters())
    apart = VioletModel(vatt_config(**own_backbones()))
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in model.parameters()) == 2 * shared
    assert sum(".backbone.layers.0.fc1.weight" in name for name in model.state_dict()) == 1
    model.eval().save_pretrained(tmp_path)
    again = VioletModel.from_pretrained(tmp_path).eval()
    assert again.audio_encoder.model.find_backbone() is again.vision_model.backbone
    for ours, theirs in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])
    sound = torch.rand(2, 160) * 2 - 1
    assert torch.equal(model.encode_sounds(sound).pooled, again.encode_sounds(sound).pooled)


def own_backbones() -> dict:
    config = vatt_config().to_dict()
    return {name: {**config[name], "shared": False} for name in ("audio_config", "text_config")}


def test_each_modality_trains_the_same_backbone():
    model = VioletModel(vatt_config())
    ids = torch.randint(1, 64, (2, 6))
    passes = {
        "video": lambda: model.encode_videos(torch.randn(2, 6, 3, 32, 32)).pooled,
        "audio": lambda: model.encode_sounds(torch.rand(2, 160)).pooled,
        "text": lambda: model.encode_texts(ids).pooled,
    }
    reached = {}
    for name, encode in passes.items():
        model.zero_grad(set_to_none=True)
        encode().square().sum().backward()
        reached[name] = {n for n, p in model.vision_model.backbone.named_parameters() if p.grad is not None}
    everything = {name for name, _ in model.vision_model.backbone.named_parameters()}
    assert reached["video"] == reached["audio"] == reached["text"] == everything


def test_a_shared_backbone_of_other_sizes_is_refused():
    wrong = vatt_config().to_dict()["audio_config"] | {"num_attention_heads": 2}
    with pytest.raises(
        ValueError, match=r"audio_config.num_attention_heads.* is 2.*vision_config.num_attention_heads.*3"
    ):
        VioletModel(vatt_config(audio_config=wrong))
    with pytest.raises(ValueError, match=r"audio_config.shared.*clip_vip"):
        VioletModel(
            vatt_config(
                vision_config={
                    "model_type": "clip_vip",
                    "hidden_size": 48,
                    "num_attention_heads": 4,
                    "num_hidden_layers": 1,
                }
            )
        )


def test_encoders_work_alone(tmp_path):
    from transformers import AutoModel

    video = VattVisionModel(VattVisionConfig(**SIZES, patch_size=[2, 8, 8], position_grid=[3, 4, 4])).eval()
    sound = VattAudioModel(VattAudioConfig(**SIZES, patch_size=16, num_samples=160, shared=False)).eval()
    for model, values in ((video, torch.randn(1, 6, 3, 32, 32)), (sound, torch.rand(1, 160))):
        model.save_pretrained(tmp_path / model.base_model_prefix)
        again = AutoModel.from_pretrained(tmp_path / model.base_model_prefix).eval()
        assert torch.equal(model(values).pooler_output, again(values).pooler_output)


# --- DropToken ---


def test_kept_places_differ_by_row_and_not_by_batch():
    draws = torch.tensor([5, 6, 5])
    video, sound = kept_places(draws, (48, 10), 0.5)
    assert video.shape == (3, 24) and sound.shape == (3, 5)
    assert torch.equal(video[0], video[2]) and not torch.equal(video[0], video[1])
    assert torch.equal(kept_places(draws[1:], (48, 10), 0.5)[0], video[1:])
    assert [len(set(row.tolist())) for row in video] == [24] * 3
    assert kept_places(draws, (1,), 0.5)[0].shape == (3, 1)


def test_the_order_of_kept_tokens_changes_nothing():
    model = VioletModel(vatt_config()).eval()
    sound, kept = torch.rand(2, 96), kept_places(torch.tensor([1, 2]), (6,), 0.5)[0]
    with torch.no_grad():
        one = model.audio_encoder.model(sound, kept=kept)
        other = model.audio_encoder.model(sound, kept=kept.flip(1))
    assert torch.allclose(one.pooler_output, other.pooler_output, atol=1e-6)
    assert torch.allclose(one.last_hidden_state, other.last_hidden_state.flip(1), atol=1e-6)


# --- masks ---


def test_padding_behind_words_and_sounds_changes_nothing():
    model = VioletModel(vatt_config()).eval()
    ids = torch.randint(1, 64, (2, 4))
    with torch.no_grad():
        short = model.encode_texts(ids)
        long = model.encode_texts(nn.functional.pad(ids, (0, 2)), nn.functional.pad(torch.ones_like(ids), (0, 2)))
        nothing = model.encode_texts(torch.zeros(1, 6, dtype=torch.long), torch.zeros(1, 6, dtype=torch.long))
        sound, heard = torch.rand(1, 160), torch.ones(1, 160, dtype=torch.long)
        heard[:, 70:] = 0
        one = model.encode_sounds(sound * heard, heard)
        other = model.encode_sounds(
            sound * heard + (1 - heard) * torch.rand(1, 160), torch.cat([heard[:, :80], heard[:, 80:]], 1)
        )
    assert torch.allclose(short.pooled, long.pooled, atol=1e-6)
    assert nothing.pooled.isfinite().all()
    assert one.mask.tolist() == [[1] * 5 + [0] * 5] == other.mask.tolist()


# --- sound in the fusion ---


def tiny_config(**changes) -> VioletConfig:
    """A small VIOLET that hears, with a fusion."""
    return named_configuration(
        "vatt-tiny",
        **{
            "hidden_size": 48,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "num_hidden_layers": 1,
            "vocab_size": 64,
        }
        | {
            "vision_config": {"model_type": "vatt", **SIZES, "patch_size": [2, 16, 16], "position_grid": [2, 2, 2]},
            "audio_config": {
                **{"model_type": "vatt_audio", **SIZES, "patch_size": 16, "num_samples": 160, "sampling_rate": 800},
                "projection_dim": 32,
            },
            "text_config": {"model_type": "vatt_text", **SIZES, "word_size": 20, "max_words": 8, "train_words": True},
            "projection_dim": 24,
        }
        | changes,
    )


def heard_batch(videos: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(videos, 160, dtype=torch.long)
    mask[0] = 0  # the first clip has no sound
    return {
        "pixel_values_videos": torch.randn(videos, 4, 3, 32, 32, generator=generator),
        "audio_values": (torch.rand(videos, 160, generator=generator) * 2 - 1) * mask,
        "audio_attention_mask": mask,
        "input_ids": torch.randint(5, 64, (videos, 6), generator=generator),
        "attention_mask": torch.ones(videos, 6, dtype=torch.long),
    }


MODELS = (
    VioletForQuestionAnswering,
    VioletForMaskedLM,
    VioletForCaptioning,
    VioletForVideoClassification,
    VioletForRetrieval,
    VioletForMultipleChoice,
)


def ask(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    given = dict(batch)
    if isinstance(model, VioletForMultipleChoice):
        for name in ("input_ids", "attention_mask"):
            given[name] = given[name].unsqueeze(1).expand(-1, 2, -1)
    if isinstance(model, VioletForVideoClassification):
        del given["input_ids"], given["attention_mask"]
    return model(**given).logits


@pytest.mark.parametrize("model_class", MODELS)
def test_every_head_hears_and_a_clip_without_sound_does_not(model_class):
    torch.manual_seed(0)
    captions = {"text_config": None, "projection_dim": None} if model_class is VioletForCaptioning else {}
    model, batch = model_class(tiny_config(**captions)).eval(), heard_batch()
    quiet = {name: value for name, value in batch.items() if not name.startswith("audio")}
    other = {**batch, "audio_values": batch["audio_values"].flip(1)}
    with torch.no_grad():
        heard, unheard, changed = ask(model, batch), ask(model, quiet), ask(model, other)
    own = (slice(None),) if model_class is VioletForRetrieval else ()
    assert torch.allclose(heard[(*own, 0)], unheard[(*own, 0)], atol=1e-5)
    assert (heard[(*own, 1)] - unheard[(*own, 1)]).abs().max() > 1e-3
    assert (heard[(*own, 1)] - changed[(*own, 1)]).abs().max() > 1e-4


def test_the_answers_of_a_clip_do_not_depend_on_its_batch():
    model, batch = VioletForQuestionAnswering(tiny_config()).eval(), heard_batch()
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = model(**{name: value[row : row + 1] for name, value in batch.items()}).logits
            assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


def test_captions_are_written_with_the_sound_in_the_cache():
    torch.manual_seed(0)
    config = tiny_config(text_config=None, projection_dim=None)
    model, batch = VioletForCaptioning(config).eval(), heard_batch()
    inputs = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    cached = model.generate(**inputs, max_length=6, num_beams=2, use_cache=True)
    plain = model.generate(**inputs, max_length=6, num_beams=2, use_cache=False)
    assert torch.equal(cached, plain)


def test_received_attention_is_that_of_video_and_words_without_the_sounds_columns():
    torch.manual_seed(0)
    config = tiny_config(num_hidden_layers=2, text_config=None, projection_dim=None, projection_type="in_order")
    model, batch = VioletForPreTraining(config).eval(), heard_batch()
    received = model(**batch, only_received_attention=True).received_attention
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        video = model.violet.encode_videos(
            **{name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
        )
        model.set_attn_implementation("eager")
        attentions = model.violet(**batch, output_attentions=True).attentions
    tokens, sounds, words = video.tokens.shape[1], 10, 6
    assert len(attentions) == 2 and attentions[0].shape[2:] == (tokens + sounds + words,) * 2
    assert video.audio.tokens.shape[1] == sounds and received.shape == (3, tokens + words)
    for row in range(3):
        for place in range(tokens + words):
            column = place if place < tokens else place + sounds
            by_hand = sum(
                float(layer[row, head, :, column].double().sum()) for layer in attentions for head in range(4)
            )
            assert float(received[row, place]) == pytest.approx(by_hand / 4, rel=1e-5), (row, place)
    given_away = 2 * (tokens + sounds + words)
    left = given_away - received.sum(1)
    assert left[0] == pytest.approx(0, abs=1e-3), "a clip without sound: nothing is given to it"
    assert (left[1:] > 1).all(), "what sounds receive is cut out"


def test_tokens_take_their_sound_with_them():
    model, batch = VioletModel(tiny_config()).eval(), heard_batch()
    names = ("pixel_values_videos", "audio_values", "audio_attention_mask")
    video = model.encode_videos(**{name: batch[name] for name in names})
    chosen = video.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.audio.tokens, video.audio.tokens[[2, 0]]) and chosen.audio.mask.tolist()[1] == [0] * 10
    joined = Tokens.join([chosen, video])
    assert len(joined.audio) == 5
    silent = model.encode_videos(batch["pixel_values_videos"])
    with pytest.raises(ValueError, match="hear all, or none"):
        Tokens.join([silent, video])


def test_gradients_reach_everything_that_hears_also_with_checkpointing():
    torch.manual_seed(0)
    model, batch = VioletForQuestionAnswering(tiny_config()).train(), heard_batch()
    labels = torch.tensor([0, 1, 0])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)  # of the head's dropout
        model(**batch, labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = gradients
    assert {"violet.audio_encoder.position_embeddings", "violet.audio_encoder.model.patches.weight"} <= set(plain)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


def test_a_model_that_hears_is_saved_and_loaded(tmp_path):
    model, batch = VioletForQuestionAnswering(tiny_config()).eval(), heard_batch()
    model.save_pretrained(tmp_path)
    again = VioletForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert again.config.audio_config.num_samples == 160
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_without_an_audio_config_nothing_of_it_is_saved():
    plain = named_configuration("violet-tiny")
    assert "audio_config" not in plain.to_dict() and plain.audio_config is None


# --- the objective ---


def pretraining_model(**options) -> VioletForPreTraining:
    torch.manual_seed(0)
    return VioletForPreTraining(tiny_config(objectives={"vatt": options}))


def test_the_objective_learns_from_sounds_and_words_and_drops_tokens_in_training_only():
    model, batch = pretraining_model().train(), heard_batch()
    draws = torch.tensor([1, 2, 3])

    def loss(**more) -> torch.Tensor:
        return model(**batch, objectives={"vatt": 1.0}, **more).loss

    dropped, whole = loss(vatt_draws=draws), loss()
    assert dropped.isfinite() and not torch.isclose(dropped, whole)
    assert float(whole) >= math.log(2)
    dropped.backward()
    for name in (
        "audio_encoder.model.patches.weight",
        "projection.sound_fine.weight",
        "projection.text_coarse.weight",
    ):
        assert model.violet.get_parameter(name).grad.abs().max() > 0
    model.eval()
    with torch.no_grad():
        assert torch.equal(loss(vatt_draws=draws), loss())


def test_what_is_dropped_is_never_computed():
    model, lengths = pretraining_model().train(), []
    layer = model.violet.vision_model.backbone
    layer.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(
            next(one for one in (*args, *kwargs.values()) if torch.is_tensor(one)).shape[1]
        ),
        with_kwargs=True,
    )
    model(**heard_batch(), objectives={"vatt": 1.0}, vatt_draws=torch.tensor([1, 2, 3]))
    whole = torch.Size(model.violet.vision_encoder.grid(4, 32, 32)).numel() + 1
    assert lengths and max(lengths) < whole


def test_the_text_of_a_row_without_words_has_no_gradient_and_its_video_has():
    sets = {name: torch.randn(4, 8, requires_grad=True) for name in ("beside_sounds", "beside_texts")}
    sets |= {name: torch.randn(4, 1, 8, requires_grad=True) for name in ("sounds", "texts")}
    found = {**sets, "heard": torch.tensor([1, 0, 1, 1]), "real_texts": torch.tensor([1, 1, 0, 1])}
    total = sum(loss for _, loss in pair_losses(found, VattOptions(), 0.07).values())
    total.backward()
    assert sets["texts"].grad[2].eq(0).all() and sets["sounds"].grad[1].eq(0).all()
    assert sets["beside_texts"].grad[2].abs().max() > 0 and sets["beside_sounds"].grad[1].abs().max() > 0


def test_several_texts_of_a_video():
    model, batch = pretraining_model(texts=2, keep=1).train(), heard_batch()
    ids = torch.randint(5, 64, (3, 2, 6))
    more = {"vatt_ids": ids, "vatt_attention_mask": torch.ones_like(ids), "vatt_text_mask": torch.tensor([1, 1, 0])}
    output = model(**batch, objectives={"vatt": 1.0}, **more)
    parts = output.predictions["vatt"]
    assert set(parts) == {"video_text", "video_audio"}
    assert torch.isclose(output.loss, (parts["video_text"] + parts["video_audio"]) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_text_weight": 1.0}, "'fine_and_coarse'.*does not have"),
        ({"keep": 0.0}, "`keep` must lie above 0"),
        ({"keep": 1.5}, "`keep` must lie above 0"),
        ({"texts": 0}, "`texts` must be 1 or more"),
        ({"form": "none"}, "asymmetric, symmetric"),
        ({"text_weight": 0.0, "audio_weight": 0.0}, "one above 0"),
        ({"silence": 1}, "has no option silence"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pretraining_model(**options)


def test_a_joint_space_takes_sounds_and_texts_too():
    config = tiny_config(objectives={"vatt": {"audio_text_weight": 1.0}}, projection_type="joint")
    output = VioletForPreTraining(config).train()(**heard_batch(), objectives={"vatt": 1.0})
    assert set(output.predictions["vatt"]) == {"video_text", "video_audio", "audio_text"} and output.loss.isfinite()


def test_what_the_objective_needs_of_a_model_is_told():
    with pytest.raises(ValueError, match="`audio_config` is None"):
        VioletForPreTraining(tiny_config(objectives={"vatt": {}}, audio_config=None, projection_type="in_order"))
    heard = named_configuration("imp-tiny").to_dict()["audio_config"] | {"shared": False}
    with pytest.raises(ValueError, match=r"`audio_config.projection_dim`.*'imp_audio' does not have: use 'joint'"):
        VioletForPreTraining(tiny_config(objectives={"vatt": {}}, audio_config=heard))
    with pytest.raises(ValueError, match="'fine_and_coarse' or 'joint'; it is 'in_order'"):
        VioletForPreTraining(tiny_config(objectives={"vatt": {}}, projection_type="in_order"))
    audio = tiny_config().to_dict()["audio_config"] | {"shared": False}
    text = tiny_config().to_dict()["text_config"] | {"shared": False}
    tower = {"model_type": "clip_vip", "hidden_size": 40, "num_attention_heads": 4, "num_hidden_layers": 1}
    plain = tiny_config(objectives={"vatt": {}}, audio_config=audio, text_config=text, vision_config=tower)
    with pytest.raises(ValueError, match=r"DropToken.*vision_config.model_type.*clip_vip"):
        VioletForPreTraining(plain)
    model, batch = pretraining_model(), heard_batch()
    del batch["audio_values"]
    with pytest.raises(ValueError, match="needs `audio_values`"):
        model(**batch, objectives={"vatt": 1.0})


# --- refusals ---


def test_one_row_has_no_statistics():
    model, batch = pretraining_model().train(), heard_batch(2)
    one = {name: value[1:] for name, value in batch.items()}
    before = model.violet.projection.fine_norm.running_mean.clone()
    with pytest.raises(ValueError, match="this batch has one"):
        model(**one, objectives={"vatt": 1.0})
    assert torch.equal(model.violet.projection.fine_norm.running_mean, before)
    trained = model.violet.projection.video_vectors(torch.ones(1, 40))
    assert torch.equal(trained[0], model.violet.projection.eval().video_vectors(torch.ones(1, 40))[0])


def test_clips_and_sounds_smaller_than_a_patch_are_refused():
    model = VioletModel(vatt_config()).eval()
    with pytest.raises(ValueError, match="2 frames of 8 x 8 pixels or more, got 1 frames"):
        model.encode_videos(torch.randn(1, 1, 3, 32, 32))
    with pytest.raises(ValueError, match="16 samples or more, got 15"):
        model.encode_sounds(torch.rand(1, 15))
    with pytest.raises(ValueError, match=r"\(batch, samples\) is needed"):
        model.encode_sounds(torch.rand(1, 2, 160))
    with pytest.raises(ValueError, match="they must be equal"):
        model.encode_sounds(torch.rand(1, 160), torch.ones(1, 150))
    with pytest.raises(ValueError, match="1 sounds for 2 videos"):
        model.encode_videos(torch.randn(2, 6, 3, 32, 32), audio_values=torch.rand(1, 160))


def test_words_beyond_the_table_are_refused_if_nothing_says_how():
    text = vatt_config().to_dict()["text_config"] | {"interpolate": False}
    model = VioletModel(vatt_config(text_config=text)).eval()
    with pytest.raises(ValueError, match=r"7 words are longer than 6.*max_length.*interpolate"):
        model.encode_texts(torch.ones(1, 7, dtype=torch.long))


def test_sound_for_a_model_that_hears_nothing_is_refused():
    model = VioletModel(named_configuration("violet-tiny")).eval()
    with pytest.raises(ValueError, match="no `audio_config`"):
        model.encode_videos(torch.randn(1, 2, 3, 32, 32), audio_values=torch.rand(1, 160))
    with pytest.raises(ValueError, match="no `audio_config`|`audio_config` is None"):
        VioletModel(vatt_config(audio_config=None))


@pytest.mark.parametrize("field", ["num_attention_heads", "head_dim", "hidden_size"])
def test_sizes_of_nothing_are_refused(field):
    with pytest.raises(Exception, match=f"`{field}`.*must be 1 or more"):
        VattVisionConfig(**{field: 0})
