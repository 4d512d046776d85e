"""Every benchmark in miniature, in its own file layout: checked, trained, measured, reported."""

import base64
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from violet.cli import main
from violet.data import BENCHMARKS, COLUMNS, check_benchmark, moving_shapes
from violet.data.loading import ClipReader
from violet.processing import VioletVideoProcessor
from violet.processing.decoding import decode_video
from violet.training import TASKS, SettingsError
from violet.training.benchmarking import load_benchmark, recipe_options

KINDS = ("tsv", "pkl", "clips")
"""How the pictures lie: each benchmark's miniature has another of these."""


@pytest.fixture(scope="module")
def clips(shapes_folder):
    return moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)


def jpegs(video: str) -> list[bytes]:
    frames = decode_video(video, lambda total_frames, fps: range(0, total_frames, 2)).frames
    written = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=95)
        written.append(base64.b64encode(file.getvalue()))
    return written


def write_pictures(dataset: str, videos: dict[str, str], folder: Path, kind: str) -> Path:
    if kind == "clips":
        (folder / dataset).mkdir()
        for name, video in videos.items():
            (folder / dataset / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, folder / dataset / f"{name}.mp4")
        return folder / dataset
    frames = {name: jpegs(video) for name, video in videos.items()}
    if kind == "pkl":
        path = folder / f"{dataset}.pkl"
        path.write_bytes(pickle.dumps(frames))
        return path
    path = folder / f"{dataset}.tsv"
    lines = [b"\t".join([name.encode(), *of_clip]) + b"\n" for name, of_clip in frames.items()]
    path.write_bytes(b"".join(lines))
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))
    return path


CSV_HEAD = "label,youtube_id,time_start,time_end,split"


def write_classes(benchmark, clips, folder: Path, kind: str) -> Path:
    """The same for a data set of classes, as its authors publish it."""
    videos, database = {}, {}
    for split in ("train", "test"):
        lines = []
        for row in TASKS["classification"].rows(clips[split]):
            (label,), name = row["label"], row["id"]
            if benchmark.name.startswith("kinetics"):
                lines.append(f"{label},{name},12,22,{split}")
                videos[f"{name}_000012_000022"] = row["video"]
            elif benchmark.name == "moments-in-time":
                lines.append(f"{label}/{name}.mp4,{label},3,1")
                videos[f"{label}/{name}"] = row["video"]
            elif benchmark.name.startswith("something"):
                first, *rest = label.split()
                template = " ".join([first, "[something]", *rest])
                plain = template.replace("[", "").replace("]", "")
                entry = {"id": name, "label": "", "template": template, "placeholders": ["it"]}
                lines.append(f"{name};{plain}" if benchmark.name.endswith("1") else json.dumps(entry))
                videos[name] = row["video"]
            else:
                subset = {"train": "training", "test": "validation"}[split]
                database[name] = {"subset": subset, "annotations": [{"segment": [0.0, 1.0], "label": label}]}
                videos[f"v_{name}"] = row["video"]
        path = folder / benchmark.files[split][0]
        if database:
            path.write_text(json.dumps({"database": database}))
        elif path.suffix == ".json":
            path.write_text(f"[{','.join(lines)}]")
        else:
            head = [CSV_HEAD] if benchmark.name.startswith("kinetics") else []
            path.write_text("\n".join([*head, *lines]))
    write_pictures(benchmark.dataset, videos, folder, kind)
    return folder / benchmark.files["train"][0]


def write_long(benchmark, clips, folder: Path, kind: str) -> Path:
    """The same for a data set of long videos, as its authors publish it."""
    videos, captions = {}, {}
    name = benchmark.name
    for split in benchmark.splits:
        path, content = folder / benchmark.files[split][0], []
        for number, row in enumerate(TASKS[benchmark.task].rows(clips[split.replace("val", "validation")])):
            video = {"activitynet": "v_", "queryd": "video-"}.get(benchmark.dataset, "") + row["id"]
            videos[video] = row["video"]
            sentences = row["caption"].split(", then ")
            if name == "activitynet-qa":
                question = {"video_name": row["id"], "question_id": f"{video}_{number}", "question": row["question"]}
                content.append((question, {**question, "answer": row["answer"], "type": 3}))
            elif name == "how2qa":
                right = row["options"][row["answer"]]
                options = {f"a{place}": text for place, text in enumerate([right, "a cat", "a dog", "a bird"])}
                content.append({"vid_name": video, "q": row["question"], **options, "answer_idx": 0, "ts": "0.1-0.9"})
            elif name == "queryd-retrieval":
                captions[video] = [sentence.split() for sentence in sentences]
                content.append(video)
            elif name == "condensed-movies-retrieval":
                content.append(f'{video},"{". ".join(text.capitalize() for text in sentences)}",{split}')
            else:
                content.append((video, {"duration": 1.0, "timestamps": [], "sentences": sentences}))
        if name == "activitynet-qa":
            path.write_text(json.dumps([question for question, _ in content]))
            (folder / f"{split}_a.json").write_text(json.dumps([answer for _, answer in content]))
        elif path.suffix == ".json":
            path.write_text(json.dumps(dict(content)))
        elif path.suffix == ".csv":
            already = path.read_text().splitlines() if path.exists() else ["videoid,caption,split"]
            path.write_text("\n".join([*already, *content]))
        else:
            path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in content))
    if captions:
        (folder / "raw_captions_combined_filtered.pkl").write_bytes(pickle.dumps(captions))
    if name == "how2qa":
        spoken = [{"vid_name": video, "sub": [{"text": "it moves", "start": 0.0, "end": 0.5}]} for video in videos]
        (folder / "how2_subtitles.jsonl").write_text("\n".join(map(json.dumps, spoken)))
    write_pictures(benchmark.dataset, videos, folder, kind)
    return folder / benchmark.files["train"][0]


def write_miniature(benchmark, clips, folder: Path, kind: str) -> Path:
    """The built-in clips as that benchmark's files; the annotations' path."""
    if benchmark.task == "classification":
        return write_classes(benchmark, clips, folder, kind)
    if benchmark.files and benchmark.files["train"][0] != benchmark.original:
        return write_long(benchmark, clips, folder, kind)
    splits = {"train": "train", "val": "validation", "test": "test"}
    words = sorted({str(row["answer"]) for row in TASKS["open-ended"].rows(clips["train"])})
    content: dict = {}
    videos: dict[str, str] = {}
    for split, built_in in splits.items():
        rows = []
        for row in TASKS[benchmark.task].rows(clips[built_in]):
            videos[row["id"]] = row["video"]
            entry = {"video": row["id"]}
            if benchmark.task in ("retrieval", "captioning"):
                rows += [entry | {"caption": part} for part in row["caption"].split(", then ")]
            elif benchmark.task == "multiple-choice":
                options = {f"option_{number}": text for number, text in enumerate(row["options"])}
                rows.append(entry | {"question": row["question"]} | options | {"answer": row["answer"]})
            else:
                asked = row["text"] if "text" in row else row["question"]
                if row["answer"] in words:
                    rows.append(entry | {"question": asked, "answer": words.index(row["answer"])})
        content[split] = rows
    if benchmark.num_answers is not None:
        content["vocab"] = words
    annotations = folder / f"txt_{benchmark.name}.json"
    annotations.write_text(json.dumps(content))
    write_pictures(benchmark.dataset, videos, folder, kind)
    return annotations


def kind_of(name: str) -> str:
    return KINDS[list(BENCHMARKS).index(name) % len(KINDS)]


def test_there_are_the_thirteen_two_more_eight_of_classes_and_four_of_long_videos():
    assert len(BENCHMARKS) == 27
    tasks = [benchmark.task for benchmark in BENCHMARKS.values()]
    counts = {"retrieval": 7, "open-ended": 4, "multiple-choice": 5, "fill-in-the-blank": 1, "captioning": 2}
    counts["classification"] = 8
    assert {task: tasks.count(task) for task in tasks} == counts and {*counts, "masked-answer"} == set(TASKS)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_recipe_is_that_of_the_originals_settings(name, shared_folder):
    """v1's and v2's files of settings, if there are some."""
    seen = 0
    for model, folder in (("v1", ""), ("v2", "args_v2")):
        file = shared_folder / "data" / "original" / folder / f"args_{name}.json"
        recipe = BENCHMARKS[name].recipes.get(model)
        assert file.exists() == (recipe is not None), file
        if recipe is None:
            continue
        seen += 1
        given = json.loads(file.read_text())
        assert (recipe.epochs, recipe.batch_size) == (given["size_epoch"], given["size_batch"])
        assert (recipe.learning_rate, recipe.weight_decay) == (given["lr"], given["decay"])
        assert (recipe.side, recipe.text_length) == (given["size_img"], given["size_txt"])
        assert recipe.frames == given.get("size_frame", recipe.frames)
        assert BENCHMARKS[name].num_answers == given.get("size_vocab")
        assert BENCHMARKS[name].num_options == given.get("size_option")
        assert given.get("size_test") in (None, BENCHMARKS[name].splits["test"])
    assert seen or "default" in BENCHMARKS[name].recipes


def way_of(name: str) -> tuple:
    """What a benchmark's run depends on, but for where its rows come from."""
    benchmark = BENCHMARKS[name]
    return benchmark.task, benchmark.texts, any(recipe.by_mask for recipe in benchmark.recipes.values())


WHOLE = [name for name in BENCHMARKS if name == next(one for one in BENCHMARKS if way_of(one) == way_of(name))]
"""The first benchmark of each way to be asked: `make test` runs these, `make proofs` the others."""


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_rows_of_a_miniature_are_those_of_its_task_and_its_videos_can_be_read(name, clips, tmp_path):
    benchmark = BENCHMARKS[name]
    write_miniature(benchmark, clips, tmp_path, kind_of(name))
    tables = load_benchmark(benchmark, tmp_path)
    assert {"train", "test"} <= set(tables) and all(len(rows) for rows in tables.values())
    reader = ClipReader(VioletVideoProcessor(num_frames=2))
    for rows in tables.values():
        assert set(COLUMNS[benchmark.task]) <= set(rows.column_names)
        assert len(reader.read(rows[0]["video"]).frames) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in WHOLE else pytest.param(name, marks=pytest.mark.proof) for name in BENCHMARKS]
)
def test_a_miniature_goes_through_training_evaluation_and_report(name, clips, tmp_path, capsys):
    benchmark = BENCHMARKS[name]
    write_miniature(benchmark, clips, tmp_path, kind_of(name))
    assert main(["benchmark", "check", name, "--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert ("published" in said) == any(benchmark.splits.values()), "a miniature has fewer rows than the real one"
    output = tmp_path / "run"
    options = ["--model=violet-tiny", "--max_steps=2", "--per_device_train_batch_size=8", "--dataloader_num_workers=0"]
    if name.startswith("tgif-") and benchmark.task == "multiple-choice":
        options.append("--from_scratch=true")  # the shipped vocabulary has no numbers
    status = main(["benchmark", "run", name, "--data", str(tmp_path), "--output_dir", str(output), *options])
    assert status == 0, capsys.readouterr()
    report = json.loads((output / "report.json").read_text())
    first = report["metrics"][benchmark.metrics[0]]
    low, high = first["interval"]
    assert low <= first["value"] <= high
    assert report["origin"]["benchmark"] == name and report["samples_failed"] == 0
    by_mask = benchmark.recipes.get("v2") is not None and benchmark.recipes["v2"].by_mask
    assert report["task"] == ("masked-answer" if by_mask else benchmark.task)
    assert report["origin"].get("asked by", "") == (benchmark.prompt if by_mask else "")
    results = ModelCard.load(output / "README.md").data.eval_results
    metrics = json.loads((output / "metrics.json").read_text())
    assert {result.dataset_type for result in results} == {name} and {result.dataset_split for result in results} == {
        "test"
    }
    assert {result.metric_name: result.metric_value for result in results} == {
        key: value for key, value in metrics.items() if key not in ("settings", "provenance")
    }
    text = (output / "report.html").read_text()
    assert benchmark.name in text
    dual = {key for key in report["metrics"] if key.startswith("dual_softmax_")}
    assert bool(dual) == (benchmark.task == "retrieval") == ("<h2>By dual softmax" in text)
    if dual:
        assert text.index("<h2>Every number") < text.index("<h2>By dual softmax") < text.index("dual softmax text to")
        assert not any(report["metrics"][key]["published"] for key in dual)
        said = capsys.readouterr().out
        assert (
            said.index("\ntext_to_video_r1") < said.index("\nBy dual softmax") < said.index("\ndual_softmax_text_to")
        )
    for values in benchmark.published.values():
        assert all(f"{value:g} %" in text for value in values.values())


@pytest.mark.parametrize("name", list(BENCHMARKS))
@pytest.mark.parametrize("missing", ["annotations", "pictures"])
def test_a_missing_file_is_named_with_what_it_should_look_like(name, missing, clips, tmp_path, capsys):
    benchmark = BENCHMARKS[name]
    annotations = write_miniature(benchmark, clips, tmp_path, "clips")
    if missing == "annotations":
        annotations.unlink()
        wanted = annotations
    else:
        shutil.rmtree(tmp_path / benchmark.dataset)
        wanted = tmp_path / f"{benchmark.dataset}.tsv"
    assert main(["benchmark", "check", name, "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"{wanted}: missing" in said
    example = re.search(r"a row: (\{.*\})", said) if missing == "annotations" else re.search(r"\S+\\t/9j", said)
    if missing == "annotations" and benchmark.layout:
        assert benchmark.layout in said
        return
    assert example, said
    if missing == "annotations":
        assert json.loads(example[1]).keys() >= {"video"}
    assert check_benchmark(benchmark, tmp_path).problems


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [(name, split, file) for name, one in BENCHMARKS.items() for split in one.files for file in one.files[split]],
)
def test_annotations_are_found_under_each_name_in_use(name, split, file, tmp_path):
    benchmark = BENCHMARKS[name]
    assert benchmark.find_annotations(tmp_path, split) == tmp_path / benchmark.files[split][0]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert benchmark.find_annotations(tmp_path, split) == tmp_path / file


def test_the_labels_of_something_something_as_qualcomm_packs_them_are_read(clips, tmp_path):
    benchmark = BENCHMARKS["something-something-v2"]
    write_miniature(benchmark, clips, tmp_path, "clips")
    expected = benchmark.rows(tmp_path, "test").to_list()
    (tmp_path / "labels").mkdir()
    for split, name in (("train", "train.json"), ("test", "validation.json")):
        (tmp_path / benchmark.files[split][0]).rename(tmp_path / "labels" / name)
    assert benchmark.rows(tmp_path, "test").to_list() == expected
    assert not check_benchmark(benchmark, tmp_path).problems


def test_a_split_that_is_missing_is_named(clips, tmp_path, capsys):
    benchmark = BENCHMARKS["msvd-qa"]
    annotations = write_miniature(benchmark, clips, tmp_path, "clips")
    content = json.loads(annotations.read_text())
    del content["test"]
    annotations.write_text(json.dumps(content))
    assert main(["benchmark", "check", "msvd-qa", "--data", str(tmp_path)]) == 1
    assert "'test'" in capsys.readouterr().out


PARAGRAPHS = [name for name, benchmark in BENCHMARKS.items() if benchmark.texts == "paragraph"]


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_all_sentences_of_a_video_are_its_paragraph(name, clips, tmp_path):
    benchmark = BENCHMARKS[name]
    write_miniature(benchmark, clips, tmp_path, "clips")
    rows = benchmark.rows(tmp_path, "test")
    expected = {row["id"]: row["caption"].split(", then ") for row in TASKS["retrieval"].rows(clips["test"])}
    found = {row["id"].removeprefix("v_").removeprefix("video-"): row for row in rows}
    assert len(found) == len(rows) and max(map(len, expected.values())) > 1
    plain = {key: [text.lower().rstrip(".") for text in row["caption"].split("\n")] for key, row in found.items()}
    assert plain == {key: [text.lower().rstrip(".") for text in texts] for key, texts in expected.items()}


def test_the_paragraphs_of_didemo_are_the_same_in_the_originals_file_and_its_own(clips, tmp_path):
    benchmark = BENCHMARKS["didemo-retrieval"]
    original = write_miniature(benchmark, clips, tmp_path, "clips")
    expected = benchmark.rows(tmp_path, "test").to_list()
    for split, rows in json.loads(original.read_text()).items():
        own = [{"video": f"{row['video']}.mp4", "description": row["caption"], "times": [[0, 0]]} for row in rows]
        (tmp_path / f"{split}_data.json").write_text(json.dumps(own))
    original.unlink()
    assert benchmark.rows(tmp_path, "test").to_list() == expected
    assert not check_benchmark(benchmark, tmp_path).problems


def test_questions_about_long_videos_keep_span_subtitles_and_type(clips, tmp_path):
    for name in ("how2qa", "activitynet-qa"):
        (tmp_path / name).mkdir()
        write_miniature(BENCHMARKS[name], clips, tmp_path / name, "clips")
    asked = load_benchmark(BENCHMARKS["how2qa"], tmp_path / "how2qa")["test"]
    assert all(row["span"] == [0.1, 0.9] and row["subtitles"] == ["it moves"] for row in asked)
    assert all(len(row["options"]) == 4 and row["answer"] == 0 for row in asked)
    assert {row["question_type"] for row in BENCHMARKS["activitynet-qa"].rows(tmp_path / "activitynet-qa", "val")} == {
        "3"
    }


@pytest.mark.parametrize(
    ("name", "recipe", "frames", "scale"),
    [
        ("didemo-retrieval", "clip-vip", 12, 1e-5),
        ("activitynet-paragraph-retrieval", "clip-vip", 32, None),
        ("didemo-retrieval", "v2", None, None),
        ("activitynet-paragraph-retrieval", None, None, None),
    ],
)
def test_a_recipe_of_another_system_brings_its_frames_and_its_rate_of_the_temperature(name, recipe, frames, scale):
    options = recipe_options(BENCHMARKS[name], recipe)
    assert options.get("num_frames") == frames and options.get("logit_scale_learning_rate") == pytest.approx(scale)


def test_an_unknown_recipe_is_refused_with_those_there_are(clips, tmp_path, capsys):
    write_miniature(BENCHMARKS["lsmdc-mc"], clips, tmp_path, "clips")
    options = [
        "--data",
        str(tmp_path),
        "--recipe",
        "v1",
        "--model",
        "violet-tiny",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert main(["benchmark", "run", "lsmdc-mc", *options]) == 2
    assert "v2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_questions_may_be_asked_in_both_ways_and_no_others(clips, tmp_path):
    for name in ("msvd-qa", "lsmdc-fib", "msrvtt-retrieval"):
        (tmp_path / name).mkdir()
        write_miniature(BENCHMARKS[name], clips, tmp_path / name, "clips")
    both = [load_benchmark(BENCHMARKS["msvd-qa"], tmp_path / "msvd-qa", task) for task in ("open-ended", None)]
    assert both[0]["test"].to_list() == both[1]["test"].to_list()
    blanks = load_benchmark(BENCHMARKS["lsmdc-fib"], tmp_path / "lsmdc-fib", "masked-answer")["test"]
    assert all("[MASK]" in row["question"] and isinstance(row["answer"], str) for row in blanks)
    annotations = tmp_path / "lsmdc-fib" / BENCHMARKS["lsmdc-fib"].annotations
    annotations.write_text(annotations.read_text().replace("[MASK]", "[MASK] [MASK]", 1))
    with pytest.raises(SettingsError, match=r"txt_lsmdc-fib.json, split 'train': column 'question' has 2 \[MASK\]s"):
        load_benchmark(BENCHMARKS["lsmdc-fib"], tmp_path / "lsmdc-fib", "masked-answer")
    for name, task in (("msrvtt-retrieval", "masked-answer"), ("msvd-qa", "captioning")):
        with pytest.raises(SettingsError, match=f"{name} is no benchmark of '{task}'"):
            load_benchmark(BENCHMARKS[name], tmp_path / name, task)
