"""`violet predict`: every kind of checkpoint, asked everything, about real files good and bad."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from own_process import OwnProcess
from PIL import Image
from transformers import BertConfig, BertForMaskedLM, pipeline

import violet
from violet.cli import main
from violet.commands.prediction import REQUESTS, PredictError, find_clips
from violet.processing import decode_video

QUESTION, SENTENCE = "what moves left?", "a red [MASK] moves"
ABLE = {
    "VioletModel": {"features"},
    "VioletForPreTraining": {"question", "choice", "blanks", "search", "features"},
    "VioletForQuestionAnswering": {"question", "features"},
    "VioletForMultipleChoice": {"choice", "features"},
    "VioletForMaskedLM": {"question", "choice", "blanks", "features"},
    "VioletForCaptioning": {"question", "caption", "features"},
    "VioletForRetrieval": {"search", "features"},
    "VioletForVideoClassification": {"classes", "features"},
}
"""What each kind of checkpoint can be asked."""


@pytest.fixture
def predict(capfd):
    """Runs the command: its status, the objects that it printed, and what it said on stderr."""

    def run(*options) -> tuple[int, list[dict], str]:
        capfd.readouterr()
        try:
            status = main(["predict", "--json", *map(str, options)])
        except SystemExit as ended:  # argparse's way
            status = ended.code
        said = capfd.readouterr()
        return status, [json.loads(line) for line in said.out.splitlines()], said.err

    return run


def options_of(request: str, clips: list[str], folder: Path) -> list:
    return {
        "question": ["--video", *clips, "--question", QUESTION],
        "choice": ["--video", *clips, "--question", QUESTION, "--options", "disc", "a red disc"],
        "blanks": ["--video", *clips, "--text", SENTENCE],
        "caption": ["--video", *clips],
        "classes": ["--video", *clips],
        "search": ["--gallery", *clips, "--text", "a red disc"],
        "features": ["--video", *clips, "--features", folder / "features.npz"],
    }[request]


def close(one, other):
    """Equal but for the last digits of scores: batches differ."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(value, other[key]) for key, value in one.items())
    return other == pytest.approx(one, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize("holds", ABLE)
def test_a_checkpoint_is_asked_what_it_can_and_says_so_of_the_rest(holds, saved, clips, predict, tmp_path):
    for request in REQUESTS:
        status, printed, said = predict("--model", saved[holds], *options_of(request, clips[:2], tmp_path))
        alike = {"caption", "classes"} if request in ("caption", "classes") else {request}  # the checkpoint decides
        if alike & ABLE[holds]:
            assert status == 0 and len(printed) == (1 if request in ("search", "features") else 2), (request, said)
        else:
            assert status == 2 and not printed, request
            (line,) = said.splitlines()
            assert holds in line and REQUESTS[request].cannot in line
            told = {name for name, other in REQUESTS.items() if other.how in line}
            assert told == ABLE[holds], request


def test_classes_are_the_pipelines(saved, clips, predict):
    classify = pipeline("video-classification", model=saved["VioletForVideoClassification"])
    status, printed, _ = predict("--model", saved["VioletForVideoClassification"], "--video", *clips, "--top_k", 2)
    expected = [{"video": clip, "classes": said} for clip, said in zip(clips, classify(clips, top_k=2), strict=True)]
    assert status == 0 and close(printed, expected)


def test_the_answers_are_the_pipelines(saved, clips, predict, tmp_path):
    ask = pipeline("video-question-answering", model=saved["VioletForQuestionAnswering"])
    options = ["--video", *clips, "--question", QUESTION, "--top_k", 2, "--batch_size", 3]
    _, printed, _ = predict("--model", saved["VioletForQuestionAnswering"], *options)
    expected = [
        {"video": clip, "question": QUESTION, "answers": said}
        for clip, said in zip(clips, ask(clips, QUESTION, top_k=2), strict=True)
    ]
    assert close(printed, expected)

    choose = pipeline("video-question-answering", model=saved["VioletForMultipleChoice"])
    names = ["disc", "a red disc", "no"]
    _, printed, _ = predict(
        "--model", saved["VioletForMultipleChoice"], "--video", clips[0], "--options", *names, "--top_k", 3
    )
    assert close(printed[0]["answers"], choose(clips[0], "", options=names))

    fill = pipeline("video-fill-mask", model=saved["VioletForMaskedLM"])
    texts = [SENTENCE, "[MASK] [MASK]"]
    _, printed, _ = predict("--model", saved["VioletForMaskedLM"], "--video", clips[0], "--text", *texts)
    single, double = fill(clips[0], texts, top_k=1)
    assert [one["text"] for one in printed] == texts
    assert close([one["blanks"] for one in printed], [[single], double])

    write = pipeline("video-captioning", model=saved["VioletForCaptioning"])
    told = write(clips[:2], prompt="write a description about the video.")
    _, printed, _ = predict(
        *("--model", saved["VioletForCaptioning"], "--video", *clips[:2]),
        *("--prompt", "write a description about the video."),
    )
    assert [one["captions"] for one in printed] == [[one["generated_text"]] for (one,) in told]
    assert (
        len(predict("--model", saved["VioletForCaptioning"], "--video", clips[0], "--top_k", 3)[1][0]["captions"]) == 3
    )

    search = pipeline("video-text-retrieval", model=saved["VioletForRetrieval"])
    texts = ["a red disc", "the yellow ring turns"]
    found = search(texts, videos=clips, top_k=5)
    _, printed, _ = predict("--model", saved["VioletForRetrieval"], "--gallery", *clips, "--text", *texts)
    assert [one["text"] for one in printed] == texts
    expected = [[{"video": one["video"], "score": one["score"]} for one in of_text] for of_text in found]
    assert close([one["videos"] for one in printed], expected)

    search.open(tmp_path / "gallery", videos=clips)
    _, again, _ = predict("--model", saved["VioletForRetrieval"], "--gallery", tmp_path / "gallery", "--text", *texts)
    assert close(again, printed)
    status, _, said = predict(
        "--model", saved["VioletForPreTraining"], "--gallery", tmp_path / "gallery", "--text", *texts
    )
    assert status == 2 and "another checkpoint" in said


def test_features_are_a_file_for_numpy_whole_or_not_there(saved, clips, truncated, predict, tmp_path):
    file = tmp_path / "new" / "features.npz"
    status, (told,), _ = predict("--model", saved["VioletForMaskedLM"], "--video", *clips, "--features", file)
    describe = pipeline("video-feature-extraction", model=saved["VioletForMaskedLM"])
    with np.load(file) as found:
        assert found["videos"].tolist() == clips and set(found) == {"features", "videos"}
        np.testing.assert_allclose(found["features"], torch.stack(describe(clips)).numpy(), rtol=0, atol=1e-5)
        assert told == {"file": str(file), "rows": len(clips), "width": found["features"].shape[1]}
    before = file.read_bytes()
    assert predict("--model", saved["VioletForMaskedLM"], "--video", truncated, "--features", file)[:2] == (1, [])
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]
    options = ["--video", clips[0], truncated, clips[1], "--text", "a red disc", "--features", file]
    assert predict("--model", saved["VioletForMaskedLM"], *options)[0] == 1
    with np.load(file) as found:
        assert found["videos"].tolist() == clips[:2] and found["texts"].tolist() == ["a red disc"] * 2
        fused = torch.stack(describe(clips[:2], "a red disc")).numpy()
        np.testing.assert_allclose(found["features"], fused, rtol=0, atol=1e-5)
    assert predict("--model", saved["VioletForMaskedLM"], "--video", clips[0], "--features", "a.pt")[0] == 2


@pytest.mark.parametrize("request_", ["question", "search"])
def test_clips_that_cannot_be_read_are_named_passed_over_and_counted(request_, saved, clips, truncated, predict):
    holds = {"question": "VioletForQuestionAnswering", "search": "VioletForRetrieval"}[request_]
    mixed = [clips[0], truncated, "missing.mp4", clips[1]]
    status, printed, said = predict("--model", saved[holds], *options_of(request_, mixed, Path()))
    assert status == 1
    named = [one["video"] for one in (printed[0]["videos"] if request_ == "search" else printed)]
    assert sorted(named) == sorted(clips[:2])
    assert [line.startswith("violet predict: Cannot decode") for line in said.splitlines()] == [True, True, False]
    assert truncated in said and "missing.mp4" in said and "2 of 4 clips could not be read" in said
    status, printed, said = predict("--model", saved[holds], *options_of(request_, [truncated], Path()))
    assert status == 1 and not printed and "1 of 1 clips" in said


@pytest.mark.parametrize("request_", ["question", "search", "classes", "features"])
def test_clips_read_ahead_by_processes_give_what_this_one_gives(
    request_, saved, shapes_folder, truncated, predict, tmp_path
):
    """More clips than go through the model at once; and of the processes that read for questions one is killed."""
    holds = {
        "question": "VioletForQuestionAnswering",
        "search": "VioletForRetrieval",
        "classes": "VioletForVideoClassification",
        "features": "VioletForMaskedLM",
    }[request_]
    many = [str(path) for path in sorted(shapes_folder.rglob("*.mp4"))[:7]]
    options = ["--model", saved[holds], *options_of(request_, [*many[:4], truncated, *many[4:]], tmp_path)]
    status, alone, _ = predict(*options, "--batch_size", 8)
    alone = read_features(tmp_path) if request_ == "features" else alone
    assert status == 1 and alone
    seen, running, before = [], [True], set(psutil.Process().children())

    def watch():
        while running and not seen:
            seen.extend(multiprocessing.active_children()[:1])
            if seen and request_ == "question":
                os.kill(seen[0].pid, signal.SIGKILL)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    status, printed, said = predict(*options, "--batch_size", 2)
    running.clear()
    thread.join()
    assert seen and status == 1 and truncated in said and "1 of 8 clips could not be read" in said
    assert close(read_features(tmp_path) if request_ == "features" else printed, alone)
    assert set(psutil.Process().children()) <= before


def read_features(folder: Path) -> list:
    with np.load(folder / "features.npz") as found:
        return [{"videos": found["videos"].tolist(), "features": found["features"].tolist()}]


def test_several_questions_about_one_clip_read_it_once_and_name_it_once(saved, clips, truncated, predict):
    options = ["--model", saved["VioletForQuestionAnswering"], "--question", QUESTION, "what is it?"]
    _, printed, _ = predict(*options, "--video", clips[0])
    assert [one["question"] for one in printed] == [QUESTION, "what is it?"]
    _, printed, said = predict(*options, "--video", truncated)
    assert not printed and said.count("Cannot decode") == 1


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--question", "word " * 100], "this model takes 64 at most"),
        (["--question", QUESTION, "--gallery", "x"], "--gallery, --question, --video together make no request"),
        (["--question", "a", "b", "c"], "2 videos and 3 questions"),
        (["--question", QUESTION, "--top_k", "0"], "--top_k: must be a number from 1 on, not '0'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_video_is_read(options, complaint, saved, truncated, predict):
    videos = ["--video", truncated, truncated]
    status, printed, said = predict("--model", saved["VioletForQuestionAnswering"], *videos, *options)
    assert status == 2 and not printed and complaint in said and "Cannot decode" not in said


def test_what_holds_no_model_is_said_in_one_line(saved, clips, predict, tmp_path):
    settings = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(**settings, intermediate_size=8)).save_pretrained(tmp_path / "bert")
    violet.VioletVisionModel(violet.named_configuration("violet-tiny").vision_config).save_pretrained(
        tmp_path / "vision"
    )
    for name in ("processor_config.json", "model.safetensors"):
        shutil.copytree(saved["VioletForQuestionAnswering"], tmp_path / name)
        (tmp_path / name / name).unlink()
    (tmp_path / "empty").mkdir()
    shutil.copytree(saved["VioletForQuestionAnswering"], tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text('{"model_type": ')
    for name, complaint in (
        ("bert", "'bert', not of VIOLET"),
        ("vision", "holds VioletVisionModel"),
        ("processor_config.json", "no processor_config.json"),
        ("model.safetensors", "no file named model.safetensors"),
        ("empty", "no config.json"),
        ("damaged", "no configuration"),
        ("absent/model", "There is no folder"),
    ):
        status, _, said = predict("--model", tmp_path / name, *options_of("question", clips[:1], tmp_path))
        assert status == 2 and complaint in said, name
        assert len(said.splitlines()) == 1 and str(tmp_path / name) in said, said


def test_folders_and_patterns_become_their_clips(clips, tmp_path):
    frames = decode_video(clips[0], lambda total, fps: [0, 1, 2]).frames
    for folder in ("mixed/of frames", "frames"):
        (tmp_path / folder).mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / folder / f"{number}.png")
    for name in ("b.mp4", "a.mp4", "a.webm", ".hidden.mp4", "c[1].mp4"):
        shutil.copy(clips[0], tmp_path / "mixed" / name)
    Image.fromarray(frames[0]).save(tmp_path / "mixed" / "poster.jpg")
    (tmp_path / "mixed" / "notes.txt").touch()
    mixed = tmp_path / "mixed"
    inside = [str(mixed / name) for name in ("a.mp4", "a.webm", "b.mp4", "c[1].mp4", "of frames")]
    assert find_clips([str(mixed)]) == inside, "a poster beside clips is none"
    assert find_clips([str(tmp_path / "frames")]) == [str(tmp_path / "frames")], "the frames of one clip"
    assert find_clips([str(mixed / "*.mp4")]) == [inside[0], *inside[2:4]]
    for one in (str(mixed / "c[1].mp4"), "https://host/a?b=*", "clips.tar#7", "missing.mp4"):
        assert find_clips([one]) == [one]
    (tmp_path / "none").mkdir()
    for wrong, complaint in ((str(tmp_path / "none"), "holds no clips"), (str(mixed / "*.avi"), "Nothing matches")):
        with pytest.raises(PredictError, match=complaint):
            find_clips([wrong])


def test_an_adapter_is_asked_what_the_model_around_it_was_trained_for(saved, clips, predict, tmp_path):
    peft = pytest.importorskip("peft")
    model = violet.VioletForMaskedLM.from_pretrained(saved["VioletForPreTraining"])
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"])).save_pretrained(tmp_path)
    for request, status in (("blanks", 0), ("search", 2)):
        assert predict("--model", tmp_path, *options_of(request, clips[:1], tmp_path))[0] == status


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error(saved, shapes_folder, tmp_path):
    """Lines come as soon as they are known, and `head` may leave after the first one."""
    command = ["-m", "violet.cli", "predict", "--model", saved["VioletForQuestionAnswering"]]
    command += ["--video", str(shapes_folder / "train"), "--question", QUESTION, "--batch_size", "1"]
    os.mkfifo(tmp_path / "out")
    running = OwnProcess(*command, stdout=tmp_path / "out", stderr=tmp_path / "err")
    with open(tmp_path / "out") as lines:
        assert QUESTION in lines.readline()
    assert running.wait(120) == 1 and (tmp_path / "err").read_text() == ""
