"""Videos among the words of a language model: the processor, our pipeline and those of transformers, on real clips."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoder_configs import ENCODER_CONFIGS, frame_settings, shown
from language_models import WORDS, language_tokenizer, save_language_model, violet_config
from public_models import save_vision_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from violet import VideoDecodeError, VideoTextToTextPipeline, build_model, build_processor, named_configuration
from violet.hub import WeightsError
from violet.hub.language_models import language_processor
from violet.modeling_violet import VioletForConditionalGeneration
from violet.processing import VioletVideoProcessor
from violet.processing.chats import VIDEO_TOKEN

ASKING = Path(__file__).with_name("asking.py")
CLIP = Path(__file__).parents[2] / "docs" / "clip.mp4"
QUESTION = "what moves left?"
FRAMES, SIDE, PLACES = 4, 32, 4 * (1 + 4)
SHORT = {"max_new_tokens": 5, "min_new_tokens": 5}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A picture model and a language model as the Hub has them."""
    folder = tmp_path_factory.mktemp("parts")
    return save_vision_model("clip_vision_model", folder / "clip"), save_language_model("llama", folder / "llama")


@pytest.fixture(scope="module")
def made(parts):
    vision, text = parts
    torch.manual_seed(0)
    changes = {"hidden_size": 24, "num_attention_heads": 4, "initializer_range": 0.5}
    model = build_model(named_configuration("violet-v2-base", **changes), vision, text, num_frames=FRAMES)
    return model, build_processor(vision, text, num_frames=FRAMES, config=model.config)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    target = tmp_path_factory.mktemp("violet")
    for one in made:
        one.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def chat(folder):
    return pipeline("video-text-to-text", model=str(folder))


def turn(text: str = QUESTION, key: str = "path", clip: object = str(CLIP)) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", key: clip}, {"type": "text", "text": text}]}]


# --- starting weights ---


def test_a_model_is_made_of_a_picture_model_and_a_language_model(parts, made):
    model, processor = made
    assert type(model) is VioletForConditionalGeneration
    own = AutoModelForCausalLM.from_pretrained(parts[1]).state_dict()
    found = model.language_model.state_dict()
    assert own.keys() == found.keys() and all(torch.equal(own[name], found[name]) for name in own)
    report = model.conversion_report["text"]
    assert set(report.used) == set(own) and not report.skipped
    assert model.generation_config.eos_token_id == [2], "how the source writes"
    assert processor.places(FRAMES) == PLACES and processor.places(2 * FRAMES) == 2 * PLACES
    assert processor.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN) == WORDS == model.violet.fusion.video_token_id


@pytest.mark.parametrize(
    "name", ["smollm2", *(pytest.param(name, marks=pytest.mark.proof) for name in ("qwen2", "smollm3"))]
)
def test_other_language_models_are_read_and_give_back_their_files(name, parts, tmp_path):
    text = save_language_model(name, tmp_path / name)
    told = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(
        json.dumps({**told, "dtype": "bfloat16"})
    )  # as most say: ours is trained in float32
    model = build_model("violet-tiny", text=text)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "violet")
    again = VioletForConditionalGeneration.from_pretrained(tmp_path / "violet")
    again.language_model.save_pretrained(tmp_path / "back")
    published, back = ((tmp_path / one / "model.safetensors").read_bytes() for one in (name, "back"))
    assert published == back


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(parts, made):
    model, processor = made
    config, frames = model.config, processor.video_processor
    with pytest.raises(WeightsError, match="is a language model: give `config`"):
        build_processor(*parts, num_frames=FRAMES)
    other = AutoProcessor.from_pretrained(parts[1])
    other.add_tokens(["<one>", "<two>"])
    with pytest.raises(WeightsError, match=f"words up to the number 161, and the language model {WORDS} words"):
        language_processor(config, other, frames)
    known = AutoProcessor.from_pretrained(parts[1])
    config = type(config)(**config.to_dict())
    config.fusion_model_config.video_token_id = 7
    with pytest.raises(WeightsError, match=r"is the token 160 of the tokenizer, and the model takes 7 for it"):
        language_processor(config, known, frames)


@pytest.mark.parametrize(
    "encoder",
    [
        *("violet_vision", "videomae", "uniformerv2"),
        *(
            pytest.param(name, marks=pytest.mark.proof)
            for name in sorted({*ENCODER_CONFIGS} - {"violet_vision", "videomae", "uniformerv2"})
        ),
    ],
)
def test_places_are_counted_for_other_encoders(encoder):
    config = violet_config("llama", encoder)
    size = {"height": SIDE, "width": SIDE}
    frames = VioletVideoProcessor(num_frames=FRAMES, size=size, **frame_settings(encoder))
    processor = language_processor(config, language_tokenizer(), frames)
    torch.manual_seed(0)
    model = VioletForConditionalGeneration(config).eval()
    tokens = model.violet.encode_videos(**shown(encoder, torch.zeros(1, FRAMES, 3, SIDE, SIDE)))
    assert processor.places(FRAMES) == tokens.tokens.shape[1]
    found = processor(text=f"{VIDEO_TOKEN}what?", videos=CLIP)
    assert model(**found, labels=found["input_ids"]).loss > 0


# --- the processor ---


def test_video_becomes_as_many_tokens_as_the_clip_has(made):
    model, processor = made
    found = processor(text=f"{VIDEO_TOKEN}what?", videos=CLIP)
    ids = found["input_ids"][0].tolist()
    assert ids[1 : 1 + PLACES] == [WORDS] * PLACES and ids.count(WORDS) == PLACES
    assert found["pixel_values_videos"].shape == (1, FRAMES, 3, SIDE, SIDE)
    twice = processor(text=f"{VIDEO_TOKEN}what?", videos=CLIP, num_frames=2 * FRAMES)
    assert (twice["input_ids"] == WORDS).sum() == 2 * PLACES
    assert model(**twice).logits.shape[1] == twice["input_ids"].shape[1]
    plain = processor(text="what?")["input_ids"]
    assert torch.equal(plain[0], processor.tokenizer("what?", return_tensors="pt")["input_ids"][0])
    words = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert words == "what?"


def test_a_chat_is_the_template_with_the_video_in_it(made):
    _, processor = made
    text = processor.apply_chat_template(turn(), add_generation_prompt=True)
    assert text == f"<|im_start|>user\n{VIDEO_TOKEN}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    found = processor.apply_chat_template(turn(), add_generation_prompt=True, tokenize=True, return_dict=True)
    assert (found["input_ids"] == WORDS).sum() == PLACES and len(found["pixel_values_videos"]) == 1
    for key, clip in (("video", str(CLIP)), ("url", str(CLIP)), ("video", torch.zeros(5, 3, 40, 40))):
        again = processor.apply_chat_template(turn(key=key, clip=clip), tokenize=True, return_dict=True)
        assert (again["input_ids"] == WORDS).sum() == PLACES
    both = processor.apply_chat_template([turn(), turn("why?")], tokenize=True, return_dict=True, padding=True)
    assert both["input_ids"].shape[0] == len(both["pixel_values_videos"]) == 2
    assert processor.ask("why?") == processor.apply_chat_template(
        [{"role": "user", "content": f"{VIDEO_TOKEN}\nwhy?"}], add_generation_prompt=True
    )


def test_a_language_model_without_a_chat_template_has_a_plain_one(made):
    _, processor = made
    before, processor.tokenizer.chat_template = processor.tokenizer.chat_template, None
    try:
        chat = [*turn(), {"role": "assistant", "content": "it"}]
        assert processor.ask("why?") == f"User: {VIDEO_TOKEN}\nwhy?\nAssistant:"
        assert processor.apply_chat_template(chat) == f"User: {VIDEO_TOKEN}{QUESTION}\nAssistant: it<|im_end|>"
    finally:
        processor.tokenizer.chat_template = before


BAD = [
    (lambda p: p(text="what?", videos=CLIP), r"There are 1 clips, and 0 times <video> in 1 texts"),
    (lambda p: p(text=VIDEO_TOKEN * 2, videos=CLIP), r"There are 1 clips, and 2 times <video> in 1 texts"),
    (lambda p: p(text=[VIDEO_TOKEN, "a", VIDEO_TOKEN], videos=[CLIP]), r"1 clips, and 2 times .* \(1, 0, 1 in each\)"),
    (lambda p: p(text=VIDEO_TOKEN), r"There are 0 clips, and 1 times <video>"),
    (
        lambda p: p.apply_chat_template([{"role": "system", "content": "be kind"}]),
        r"has 1 turns \(system\) and none of",
    ),
    (lambda p: p.apply_chat_template(turn(key="file")), "A video in turn 0 of the chat is given 0 times"),
    (lambda p: p.apply_chat_template([{"role": "user", "content": [{"type": "smell"}]}]), "a content of type 'smell'"),
    (
        lambda p: p(text=VIDEO_TOKEN + "red " * 120, videos=CLIP),
        rf"makes \d+ tokens, of which 1 videos of 4 frames are {PLACES}, and 128 are taken at most",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_with_the_numbers(made, call, message):
    with pytest.raises(ValueError, match=message):
        call(made[1])


# --- pipelines ---


def test_it_writes_what_generate_writes(chat, made, folder):
    assert isinstance(chat, VideoTextToTextPipeline)
    model = VioletForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=processor.ask(QUESTION), videos=CLIP)
    ids = model.generate(**inputs, **SHORT)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert chat(str(CLIP), QUESTION, **SHORT) == [{"generated_text": expected}] and expected
    assert chat({"video": str(CLIP), "text": QUESTION}, **SHORT) == [{"generated_text": expected}]
    beams = chat(str(CLIP), QUESTION, num_beams=3, num_return_sequences=2, **SHORT)
    assert len(beams) == 2


def test_chats_and_texts_in_a_batch_are_answered_as_alone(chat):
    plain = [{"role": "user", "content": "describe nothing"}]
    two = [
        {
            "role": "user",
            "content": [
                {"type": "video", "path": str(CLIP)},
                {"type": "text", "text": "or"},
                {"type": "video", "path": str(CLIP)},
            ],
        }
    ]
    asked = [turn(), plain, two]
    alone = [chat(one, **SHORT) for one in asked]
    assert chat(asked, batch_size=3, **SHORT) == alone and chat(text=asked, **SHORT) == alone
    started = [*turn(), {"role": "assistant", "content": "the red"}]
    assert chat(started, **SHORT) != alone[0]
    with pytest.raises(ValueError, match="A video needs a text"):
        chat(str(CLIP))
    with pytest.raises(ValueError, match="A chat has its videos in it"):
        chat(str(CLIP), turn())
    with pytest.raises(VideoDecodeError, match="nowhere.mp4"):
        chat("nowhere.mp4", QUESTION)


def test_pipelines_of_transformers_answer_a_chat_with_a_video(folder, chat, caplog):
    expected = chat(turn(), **SHORT)[0]["generated_text"]
    for task in ("image-text-to-text", "any-to-any"):
        pipe = pipeline(task, model=str(folder))
        found = pipe(text=turn(), return_full_text=False, generate_kwargs=dict(SHORT))
        assert found[0]["generated_text"].strip() == expected
        assert "not supported" not in caplog.text
        whole = pipe(text=turn(), generate_kwargs=dict(SHORT))[0]["generated_text"]
        assert whole[-1]["role"] == "assistant" and whole[-1]["content"].strip() == expected
    direct = pipe(text=f"{VIDEO_TOKEN} what?", videos=str(CLIP), generate_kwargs=dict(SHORT))
    assert direct[0]["generated_text"].startswith(f"{VIDEO_TOKEN} what?")


def test_questions_are_answered_with_a_score(folder, chat):
    ask = pipeline("video-question-answering", model=str(folder))
    found = ask(str(CLIP), QUESTION, top_k=2, **SHORT)
    assert len(found) == 2 and 0 < found[1]["score"] <= found[0]["score"] < 1
    greedy = ask(str(CLIP), QUESTION, top_k=1, num_beams=1, **SHORT)[0]
    assert greedy["answer"] == chat(str(CLIP), QUESTION, **SHORT)[0]["generated_text"]


@pytest.mark.shared
def test_real_clips_are_answered_each_by_itself(folder, chat, shared_folder):
    clips = sorted(map(str, (shared_folder / "data" / "msrvtt").glob("*.mp4")))[:3]
    found = chat(clips, QUESTION, batch_size=3, max_new_tokens=12)
    assert found == [chat(clip, QUESTION, max_new_tokens=12) for clip in clips]
    assert len({one[0]["generated_text"] for one in found}) > 1, "it depends on the clip"


@pytest.mark.proof
def test_they_answer_the_same_where_the_package_is_not_installed(parts, clips, tmp_path):
    for name in ("llama", "qwen2", "smollm3"):
        text = save_language_model(name, tmp_path / "parts" / name)
        torch.manual_seed(0)
        changes = {"hidden_size": 24, "num_attention_heads": 4, "initializer_range": 0.5}
        model = build_model(named_configuration("violet-v2-base", **changes), parts[0], text, num_frames=FRAMES)
        processor = build_processor(parts[0], text, num_frames=FRAMES, config=model.config)
        for one in (model, processor):
            one.save_pretrained(tmp_path / "models" / f"VioletForConditionalGeneration-{name}", with_code=True)
    done = subprocess.run(
        [sys.executable, ASKING, tmp_path / "models", Path(clips[0]).parent, tmp_path / "found", "--refuse"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found").read_text())
    three = sorted(map(str, Path(clips[0]).parent.rglob("*.mp4")))[:3]
    here = json.loads(json.dumps(runpy.run_path(str(ASKING))["ask"](tmp_path / "models", three)))
    assert found["answers"] == here and len(here) == 3 and not found["modules"]
