"""Sound on its way to a model: readers, collators, runs, pipelines and `violet predict`, with real files."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback, pipeline

import violet
from tests.helpers.sounding_files import tone, write_video
from violet import QuestionCollator, VideoTextProcessor, VioletVideoProcessor, named_configuration
from violet.commands.prediction import Clips, PredictArguments, predict
from violet.core.clip_inputs import take_clip_inputs
from violet.data import TableError, moving_shapes
from violet.data.loading import ClipReader, FailedSample, FailedSamples, LackingSound, lacking_sound
from violet.evaluation.galleries import StoredGallery, encode_gallery
from violet.evaluation.searching import score_all, score_pairs
from violet.modeling_violet.encoders import find_encoder
from violet.processing import VideoDecodeError, train_wordpiece_tokenizer
from violet.processing.joined_clips import join_clips
from violet.processing.sound import decode_with_sound, no_sound
from violet.training.arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from violet.training.dataset_sources import load_dataset
from violet.training.finetuning import finetune
from violet.training.hearing import prepare_hearing
from violet.training.masking import Masking
from violet.training.mixture import MixtureSchedule
from violet.training.pretraining import run_settings
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator
from violet.training.recipe import read_recipe

RATE, COUNT = 8000, 6000
HEARD = {"sampling_rate": RATE, "num_samples": COUNT}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    made = {
        "low": write_video(folder / "low.mp4", 1, tone(300, 1, RATE), RATE),
        "high": write_video(folder / "high.mp4", 1, tone(1500, 1, RATE), RATE),
        "short": write_video(folder / "short.mp4", 1, tone(700, 0.4, RATE), RATE),
        "none": write_video(folder / "none.mp4", 1),
    }
    (folder / "bad.mp4").write_bytes(made["low"].read_bytes()[:900])
    return {**{name: str(path) for name, path in made.items()}, "bad": str(folder / "bad.mp4")}


@pytest.fixture
def processor() -> VideoTextProcessor:
    words = train_wordpiece_tokenizer(["what makes the low tone disc"] * 4, 60)
    frames = VioletVideoProcessor(num_frames=4, size={"height": 64, "width": 64}, **HEARD)
    return VideoTextProcessor(words, frames)


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    """Folders of random models that hear, by class name."""
    words = train_wordpiece_tokenizer(["what makes the low tone disc"] * 4, 60)
    frames = VioletVideoProcessor(num_frames=4, size={"height": 64, "width": 64})
    audio = named_configuration("vatt-tiny").audio_config.to_dict() | {**HEARD, "shared": False}
    labels = dict(enumerate(["disc", "cross"]))
    folders = {}
    for name in ("VioletForQuestionAnswering", "VioletForRetrieval"):
        torch.manual_seed(0)
        config = named_configuration("violet-tiny", vocab_size=60, audio_config=audio, id2label=labels)
        folders[name] = tmp_path_factory.mktemp(name)
        getattr(violet, name)(config).eval().save_pretrained(folders[name])
        VideoTextProcessor(words, frames).save_pretrained(folders[name])
    return folders


def sound_of(path: str) -> np.ndarray:
    return decode_with_sound(path, lambda total, fps: [0], **HEARD).sound.values


def rows_of(files, *names, **more):
    return [
        {"video": files[name], "question": "what makes the tone", "row": number, **more}
        for number, name in enumerate(names)
    ]


def spy_on_sound(model, monkeypatch) -> list[dict[str, torch.Tensor]]:
    heard: list = []
    encode = model.violet.encode_sounds
    monkeypatch.setattr(
        model.violet,
        "encode_sounds",
        lambda audio_values, audio_attention_mask=None: (
            heard.append({"values": audio_values, "mask": audio_attention_mask})
            or encode(audio_values, audio_attention_mask)
        ),
    )
    return heard


def test_a_batch_of_questions_has_the_sound_of_each_video_once(files, processor):
    collator = QuestionCollator(processor, reader=ClipReader(processor.video_processor, 2**24))
    rows = rows_of(files, "low", "high", "low", "none", "short")
    batch = collator(rows)
    assert batch["audio_values"].shape == batch["audio_attention_mask"].shape == (4, COUNT)
    for number, name in enumerate(("low", "high", "none", "short")):
        np.testing.assert_array_equal(batch["audio_values"][number], sound_of(files[name]))
    assert batch["audio_attention_mask"].sum(1)[:3].tolist() == [COUNT, COUNT, 0]
    told = batch.pop("failed")
    assert [(one.row, one.seconds is None) for one in told] == [(3, True), (4, False)]
    assert told[0].reason == f"{files['none']} has no sound: it is masked."
    assert told[1].seconds == pytest.approx(0.24, abs=0.02), "0.75 s less four of AAC's frames of 0.128 s"
    assert files["short"] in told[1].reason
    kept = collator.reader.clips
    assert len(kept) == 4 and all(clip.sound is not None for clip in kept.values())
    again = collator(rows)
    assert torch.equal(again["audio_values"], batch["audio_values"])
    plain = VideoTextProcessor(
        processor.tokenizer, VioletVideoProcessor(num_frames=4, size={"height": 64, "width": 64})
    )
    silent = QuestionCollator(plain)(rows)
    assert not {"audio_values", "failed"} & set(silent)
    assert torch.equal(silent["pixel_values_videos"], batch["pixel_values_videos"])


def test_what_cannot_be_read_is_masked_too_and_keeps_its_place(files, processor):
    batch = QuestionCollator(processor, skip_bad=True)(rows_of(files, "low", "bad", "high"))
    assert batch["unread"].tolist() == [False, True, False]
    assert batch["audio_attention_mask"].sum(1).tolist() == [COUNT, 0, COUNT]
    assert [type(one) for one in batch["failed"]] == [FailedSample]
    drawn = rows_of(files, "bad", "low", draw=1)
    batch = QuestionCollator(processor, skip_bad=True)(drawn)
    assert batch["audio_values"].shape == (1, COUNT) and batch["audio_attention_mask"].all()


def test_a_video_of_several_clips_has_their_sounds_one_behind_the_other(files, processor):
    reader = ClipReader(processor.video_processor)
    read = reader.read(join_clips([files["low"], files["none"]]))
    half = COUNT // 2
    np.testing.assert_array_equal(read.sound.values[:half], sound_of(files["low"])[:half])
    assert read.sound.mask.tolist() == [True] * half + [False] * half
    processor.video_processor.num_samples = 7
    with pytest.raises(TableError, match="Row 2: the video has 2 clips, and `num_samples` 7 is no multiple"):
        reader.read(join_clips([files["low"], files["none"]]), row=2)


def test_frames_in_memory_and_in_tables_are_masked(processor):
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    clip = ClipReader(processor.video_processor).read(frames)
    assert not clip.sound.found and clip.sound.mask.shape == (COUNT,)


def test_a_batch_of_pretraining_has_sound_and_tells_what_lacks(files, processor):
    names = ["low", "high", "none", "short"]
    rows = Dataset.from_list([{"video": files[name], "caption": "the low tone", "id": name} for name in names])
    encoder = find_encoder(named_configuration("violet-tiny").vision_config)
    collator = PretrainingCollator(processor, Masking({"random": 1.0}, 0.4, 0.3), encoder, group_size=4)
    schedule = MixtureSchedule([1.0], [(4, 64, 64)], [(1.0, 0, {"vtm": 1.0, "mlm": 1.0})], 0)
    batch = PretrainingBatches([CaptionedVideos("x", rows, 4, 1.0)], schedule, collator, 4, seed=2)[0]
    for name, values in zip(batch["ids"], batch["audio_values"], strict=True):
        np.testing.assert_array_equal(values, sound_of(files[name]))
    assert {one.video for one in batch["failed"]} == {files["none"], files["short"]}
    assert all(isinstance(one, LackingSound) and one.rows == "x" for one in batch["failed"])


def test_lacking_sound_has_a_file_of_its_own_and_counts(tmp_path, caplog):
    samples = FailedSamples(tmp_path)
    lacks = [LackingSound("train", row, f"{row}.mp4", f"{row}.mp4 has no sound", None) for row in range(8)]
    with caplog.at_level(logging.WARNING):
        samples.add(
            [*lacks, LackingSound("train", 9, "9.mp4", "9.mp4 lacks", 1.5), FailedSample("train", 4, "x", "y")]
        )
        samples.add(lacks)
    assert caplog.text.count("has no sound") == 5 and "Further ones" in caplog.text, "no flood"
    again = FailedSamples(tmp_path)
    expected = {"samples_failed": 1, "samples_without_sound": 8, "samples_with_short_sound": 1}
    assert samples.metrics() == again.metrics() == expected
    lines = [json.loads(line) for line in (tmp_path / "sound_report.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and lines[-1] == {
        "rows": "train", "row": 9, "video": "9.mp4", "reason": "9.mp4 lacks", "seconds": 1.5
    }  # fmt: skip
    samples.forget()
    assert samples.metrics() == {"samples_failed": 0} and not (tmp_path / "sound_report.jsonl").exists()
    assert lacking_sound("train", 0, "x", None) == [] and len(lacking_sound("train", 0, "x", no_sound(3))) == 1


def test_a_run_hears_what_its_model_hears_and_needs_sound(files, processor):
    rows = Dataset.from_list(rows_of(files, "bad", "none", "low"))
    audio = SimpleNamespace(sampling_rate=16000, num_samples=32000)
    model = SimpleNamespace(config=SimpleNamespace(audio_config=audio))
    prepare_hearing(processor, model, [rows])
    assert (processor.video_processor.sampling_rate, processor.video_processor.num_samples) == (16000, 32000)
    with pytest.raises(
        SettingsError, match=rf"none of 2 videos.* first is {files['bad']} \(row 0\)\. Give files with"
    ):
        prepare_hearing(processor, model, [rows.select([0, 1])])
    prepare_hearing(processor, model, [rows.select([1]), rows.select([2])])
    prepare_hearing(processor, SimpleNamespace(config=named_configuration("violet-tiny")), [rows.select([1])])
    assert not processor.video_processor.hears


def test_a_recipe_draws_shapes_that_sound(tmp_path):
    dataset = {"name": "s", "source": "moving_shapes", "path": str(tmp_path / "s"), "clips": 3, "validation_clips": 2}
    silent, heard = read_recipe({"datasets": [dataset]}), read_recipe({"datasets": [{**dataset, "sound": True}]})
    assert "sound" not in run_settings(silent)["datasets"][0], "runs from before may go on"
    assert run_settings(heard)["datasets"][0]["sound"] is True
    train, validation = load_dataset(heard.datasets[0])
    assert len(train) == 3 and len(validation) == 2 and "tone" in train[0]["shapes"][0]
    assert decode_with_sound(train[0]["video"], None, **HEARD).sound.mask.all()
    with pytest.raises(FileExistsError, match="other settings"):
        moving_shapes(tmp_path / "s", train=0, validation=2, test=0, test_unseen=0, test_together=0, pretrain=3)


def test_a_pipeline_hears_the_file_or_what_is_given_beside_frames(hearing, files, monkeypatch):
    answer = pipeline("video-question-answering", model=str(hearing["VioletForQuestionAnswering"]))
    assert answer.processor.video_processor.hears
    heard = spy_on_sound(answer.model, monkeypatch)
    question = "what makes the low tone"
    answer([files["low"], files["none"]], question, batch_size=2)
    np.testing.assert_array_equal(heard[0]["values"][0], sound_of(files["low"]))
    assert heard[0]["mask"].sum(1).tolist() == [COUNT, 0]
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    with pytest.raises(VideoDecodeError, match="it is no file, and frames have no sound"):
        answer(frames, question)
    answer({"video": frames, "sound": files["high"], "question": question})
    np.testing.assert_array_equal(heard[1]["values"][0], sound_of(files["high"]))
    answer({"video": frames, "sound": None, "question": question})
    assert not heard[2]["mask"].any()


def test_a_model_that_does_not_hear_refuses_a_sound(model_folder, files):
    answer = pipeline("video-question-answering", model=str(model_folder))
    with pytest.raises(ValueError, match=r"this model does not hear: it has no `audio_config`"):
        answer({"video": files["low"], "sound": files["low"], "question": "what makes the low tone"})
    assert answer(files["low"], "what?")


def test_galleries_hear(hearing, files, monkeypatch, tmp_path):
    search = pipeline("video-text-retrieval", model=str(hearing["VioletForRetrieval"]))
    heard = spy_on_sound(search.model, monkeypatch)
    search.add([files["low"], files["high"]], batch_size=2)
    np.testing.assert_array_equal(heard[0]["values"][1], sound_of(files["high"]))
    search.add([{"video": np.zeros((4, 64, 64, 3), np.uint8), "sound": files["high"]}], names=["own"])
    np.testing.assert_array_equal(heard[1]["values"][0], sound_of(files["high"]))
    encode_gallery(search.model, search.processor, [files["low"], files["none"]], tmp_path / "gallery")
    assert heard[2]["mask"].sum(1).tolist() == [COUNT, 0]


def test_a_stored_gallery_that_was_heard_gives_the_models_scores(hearing, files, tmp_path):
    videos = [files[name] for name in ("low", "none", "high", "short")]
    search = pipeline("video-text-retrieval", model=str(hearing["VioletForRetrieval"]))
    model, processor = search.model, search.processor
    encode_gallery(model, processor, videos, tmp_path / "gallery", videos_per_part=3)
    stored = StoredGallery(tmp_path / "gallery", model, processor)
    texts = dict(processor(text=["the low tone", "what makes the disc"]))
    inputs = take_clip_inputs(dict(processor(videos=videos)))
    with torch.no_grad():
        tokens = model.violet.encode_videos(**inputs)
        expected = model(**texts, **inputs).logits
        unheard = model(**texts, pixel_values_videos=inputs["pixel_values_videos"]).logits
    assert (expected - unheard)[:, [0, 2, 3]].abs().min() > 1e-3
    torch.testing.assert_close(score_all(model, stored, **texts), expected, atol=1e-4, rtol=1e-4)
    chosen = torch.tensor([3, 0, 1, 0])
    found = stored.select(chosen)
    torch.testing.assert_close(found.audio.tokens, tokens.audio.tokens[chosen], atol=1e-5, rtol=1e-4)
    assert torch.equal(found.audio.mask, tokens.audio.mask[chosen]) and not found.audio.mask[2].any()
    candidates = torch.tensor([[2, 1], [3, 0]])
    scores = score_pairs(model, stored, **texts, candidates=candidates)
    torch.testing.assert_close(scores, expected.gather(1, candidates), atol=1e-4, rtol=1e-4)


@pytest.mark.proof
def test_a_run_that_hears_goes_on_to_the_same_weights(hearing, files, tmp_path):
    """Stopped behind its checkpoint; with dropout, and a bad and a silent video among the rows."""
    names = ["low", "high", "none", "short", "bad", "low", "high", "short"]
    answers = ["disc", "cross"] * 4
    rows = [
        {"video": files[name], "question": "what makes the tone", "answer": answer}
        for name, answer in zip(names, answers, strict=True)
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    start = ModelArguments(model=str(hearing["VioletForQuestionAnswering"]))

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    def run(output, callbacks=()):
        training = FinetuningArguments(
            output_dir=str(tmp_path / output), max_steps=5, per_device_train_batch_size=3, save_strategy="steps",
            save_steps=2, learning_rate=1e-3, dataloader_num_workers=0, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        data = DataArguments(task="open-ended", train_file=str(table), bad_samples="skip", allow_unknown_words=True)
        return finetune(start, data, training, callbacks=callbacks)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", [Stop()])
    assert [folder.name for folder in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = run("stopped")
    assert resumed.metrics == whole.metrics and whole.metrics["samples_without_sound"] == 1
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    before = load_file(hearing["VioletForQuestionAnswering"] / "model.safetensors")
    heard = [name for name in one if ".audio_encoder." in name]
    assert len(heard) > 10 and any(not torch.equal(one[name], before[name]) for name in heard)


def test_violet_predict_hears(hearing, files, monkeypatch, capsys):
    model = violet.VioletForQuestionAnswering
    heard: list = []
    encode = violet.VioletModel.encode_sounds

    def spy(self, audio_values, audio_attention_mask=None):
        heard.append(audio_values)
        return encode(self, audio_values, audio_attention_mask)

    monkeypatch.setattr(violet.VioletModel, "encode_sounds", spy)
    asked = PredictArguments(
        model=str(hearing[model.__name__]), video=[files["low"], files["bad"]], question=["what makes the low tone"]
    )
    assert predict(asked) == 1, "the bad one is named and passed over"
    np.testing.assert_array_equal(heard[-1][0], sound_of(files["low"]))
    assert files["low"] in capsys.readouterr().out
    clips = Clips(SimpleNamespace(video_processor=VioletVideoProcessor(num_frames=4)), [files["low"]], 8)
    assert [list(clip) for _, clip in clips.read()] == [["pixel_values_videos"]]
