"""Checkpoints that carry their code, in a process that cannot import the package."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from own_process import run_python
from sounding_files import tone, write_video
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

import violet
from violet import VioletVisionModel, named_configuration
from violet.core.carried_code import NAMING_CODE, add_code
from violet.core.flat_modules import flatten
from violet.core.registry import ROOT
from violet.modeling_violet.objectives.objective import BUILT_IN, OBJECTIVES

ASKING = Path(__file__).with_name("asking.py")
THERE = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "torchvision", "transformers"}
"""What the code may import if the package is not installed; a decoder beside it, in a `try`."""
ELSEWHERE = f"""
import json, runpy, sys
from pathlib import Path

runpy.run_path({str(ASKING)!r}, run_name="__main__")
folder, truncated, found = Path(sys.argv[1]), sys.argv[5], json.loads(Path(sys.argv[3]).read_text())

from transformers import AutoModel, AutoModelForPreTraining, pipeline

trusting = {{"trust_remote_code": True}}
pipe = pipeline(model=str(folder / "VioletForQuestionAnswering"), **trusting)
found["task without a name"] = pipe.task
found["one copy of the classes"] = type(pipe.model).config_class is type(pipe.model.config)
found["classes"] = [
    type(auto.from_pretrained(folder / name, **trusting)).__name__
    for auto, name in (
        (AutoModel, "VioletModel"), (AutoModelForPreTraining, "VioletForPreTraining"), (AutoModel, "backbone")
    )
]
pipe.save_pretrained(folder / "again")
again = pipeline(model=str(folder / "again"), **trusting)
clips = sorted(map(str, Path(sys.argv[2]).rglob("*.mp4")))[:3]
found["saved again"] = again(clips, "what moves left?", batch_size=2)
found["errors"] = []
search = pipeline("video-text-retrieval", model=str(folder / "VioletForRetrieval"), **trusting)
for wrong in (
    lambda: pipe(truncated, "what is it?"),
    lambda: search.open(folder / "gallery", [truncated]),
):
    try:
        wrong()
    except Exception as error:
        found["errors"].append(f"{{type(error).__name__}}: {{error}}")
Path(sys.argv[3]).write_text(json.dumps(found))
"""


FIVE = ("Model", "ForPreTraining", "ForQuestionAnswering", "ForMaskedLM", "ForRetrieval")
"""What `make test` asks elsewhere; `make proofs` asks each class, and `make combinations` each class and encoder."""


@pytest.fixture(scope="module", params=[FIVE, pytest.param(None, marks=pytest.mark.proof)], ids=["five", "all"])
def carrying(saved, tmp_path_factory, request) -> Path:
    """Saved models of these kinds, and a backbone, with their code."""
    folder = tmp_path_factory.mktemp("carrying")
    for name in saved if request.param is None else [f"Violet{kind}" for kind in request.param]:
        shutil.copytree(saved[name], folder / name)
        add_code(folder / name)
    backbone = named_configuration("violet-tiny").vision_config
    VioletVisionModel(backbone).save_pretrained(folder / "backbone", with_code=True)
    return folder


@pytest.fixture(scope="module")
def three(clips) -> list[str]:
    return sorted(map(str, Path(clips[0]).parent.rglob("*.mp4")))[:3]


@pytest.fixture(scope="module")
def elsewhere(carrying, three, tmp_path_factory) -> dict:
    """What a process finds that cannot import the package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    truncated = folder / "truncated.mp4"
    truncated.write_bytes(Path(three[0]).read_bytes()[:2000])
    more = carrying, Path(three[0]).parent, folder / "found", "--refuse", truncated
    done = run_python("-c", ELSEWHERE, *more, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found").read_text())


@pytest.fixture(scope="module")
def here(carrying, three) -> dict:
    """The answers with the package, after JSON."""
    return json.loads(json.dumps(runpy.run_path(str(ASKING))["ask"](carrying, three)))


def test_every_pipeline_answers_the_same_where_the_package_is_not_installed(elsewhere, here):
    assert elsewhere["answers"] == here
    assert len(here) >= len(FIVE) and all(answers for tasks in here.values() for answers in tasks.values())


@pytest.mark.proof
def test_a_model_that_hears_answers_the_same_where_the_package_is_not_installed(save_model, tmp_path):
    """The three clips show the same: their answers differ by what is heard."""
    audio = named_configuration("vatt-tiny").audio_config.to_dict() | {"shared": False}
    source = save_model("VioletForQuestionAnswering", audio_config=audio)
    folder, clips = tmp_path / "models" / "VioletForQuestionAnswering", tmp_path / "clips"
    violet.VioletForQuestionAnswering.from_pretrained(source).save_pretrained(folder, with_code=True)
    AutoProcessor.from_pretrained(source).save_pretrained(folder, with_code=True)
    clips.mkdir()
    rate = audio["sampling_rate"]
    for name, sound in (("low", tone(300, 1, rate)), ("high", tone(1500, 1, rate)), ("none", None)):
        write_video(clips / f"{name}.mp4", 1, sound, rate)
    done = run_python(ASKING, folder.parent, clips, tmp_path / "found", "--refuse", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    here = runpy.run_path(str(ASKING))["ask"](folder.parent, sorted(map(str, clips.glob("*.mp4"))))
    found = json.loads((tmp_path / "found").read_text())
    assert found["answers"] == json.loads(json.dumps(here)) and not found["modules"]
    (answers,) = here[folder.name].values()
    said = [{one["answer"]: one["score"] for one in answer} for answer in answers]
    assert len(said) == 3
    for number, one in enumerate(said):
        for other in said[:number]:
            assert max(abs(one[word] - other[word]) for word in one if word in other) > 1e-5


def test_the_auto_classes_and_a_pipeline_without_a_task_find_what_the_folder_holds(elsewhere):
    assert elsewhere["task without a name"] == "video-question-answering"
    assert elsewhere["classes"] == ["VioletModel", "VioletForPreTraining", "VioletVisionModel"]
    assert elsewhere["one copy of the classes"], "errors and tokens pass between model, processor and pipeline"


def test_what_a_process_without_the_package_saves_carries_the_code_on(elsewhere, here, carrying, three):
    answers = here["VioletForQuestionAnswering"]["video-question-answering"]
    assert elsewhere["saved again"] == answers
    first, again = carrying / "VioletForQuestionAnswering", carrying / "again"
    assert code_of(again) == code_of(first)
    pipe = pipeline("video-question-answering", model=str(again))
    assert json.loads(json.dumps(pipe(three, "what moves left?", batch_size=2))) == answers


def test_errors_name_the_video_and_what_needs_the_package(elsewhere):
    unreadable, gallery = elsewhere["errors"]
    assert unreadable.startswith("VideoDecodeError: ") and "truncated.mp4" in unreadable
    assert gallery == "ImportError: This needs the whole package: pip install violet-video"


@pytest.mark.parametrize(
    "name, settings", [("VioletForQuestionAnswering", {}), ("again", {"trust_remote_code": True})]
)
def test_the_installed_package_takes_its_own_classes_and_saves_no_trace_of_the_code(
    name, settings, carrying, elsewhere, tmp_path
):
    folder = carrying / name
    model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, **settings)
    processor = AutoProcessor.from_pretrained(folder, **settings)
    assert type(model) is violet.VioletForQuestionAnswering and type(processor) is violet.VideoTextProcessor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    processor.video_processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    texts = {file.name: file.read_text() for file in tmp_path.glob("*.json")}
    assert {"config.json", "processor_config.json", "video_preprocessor_config.json"} <= set(texts)
    assert not [name for name, text in texts.items() if "auto_map" in text or "custom_pipelines" in text]


@pytest.mark.parametrize("saved_first", ["model", "processor", "pipeline"])
def test_model_processor_and_pipeline_save_their_code_in_any_order(saved_first, carrying, tmp_path):
    whole = carrying / "VioletForMaskedLM"
    pipe = pipeline("video-fill-mask", model=str(whole))
    parts = [pipe] if saved_first == "pipeline" else [pipe.model, pipe.processor]
    for part in reversed(parts) if saved_first == "processor" else parts:
        part.save_pretrained(tmp_path, with_code=True)
    assert code_of(tmp_path) == code_of(whole)
    for file, keys in (("config.json", NAMING_CODE), ("processor_config.json", ("auto_map", "video_processor"))):
        here, there = (json.loads((folder / file).read_text()) for folder in (tmp_path, whole))
        assert [here[key] for key in keys] == [there[key] for key in keys]


def test_the_code_imports_only_itself_and_what_a_machine_without_the_package_has(carrying):
    for folder in (carrying / name for name in ("VioletForMaskedLM", "VioletForPreTraining", "backbone")):
        files = set(folder.glob("*.py"))
        # transformers finds imports by regular expressions, docstrings included
        assert {Path(file) for file in get_relative_import_files(folder / "violet_code.py")} == files - {
            folder / "violet_code.py"
        }
        imported = {name for file in files for name in get_imports(file)} - sys.stdlib_module_names
        assert imported <= THERE and {"torch", "transformers"} <= imported


def test_only_what_is_needed_travels(carrying):
    sizes = {folder.name: sum(map(len, code_of(folder).values())) for folder in carrying.iterdir()}
    assert sizes["backbone"] < 107_000 and max(sizes.values()) < 680_000
    objectives = {file.name for file in (ROOT / "modeling_violet" / "objectives").glob("*.py")} - {"__init__.py"}
    built_in = {f"{OBJECTIVES[name].__module__.rpartition('.')[2]}.py" for name in BUILT_IN}
    assert built_in | {"modeling_pretraining.py"} <= set(code_of(carrying / "VioletForPreTraining"))
    assert not {"modeling_pretraining.py", *objectives} & set(code_of(carrying / "VioletForMaskedLM"))
    left = {file.name for part in ("data", "training", "hub") for file in (ROOT / part).glob("*.py")} - {"__init__.py"}
    assert not left & {name for folder in carrying.iterdir() for name in code_of(folder)}


def test_an_import_is_flattened_through_the_folders_that_pass_names_on():
    source = """\
from ..modeling_violet import Tokens, VioletForRetrieval as Search  # two files
from ..processing.questions import (
    TokenIds,
    pad_texts,
)

def later():
    from ..evaluation.galleries import encode_gallery

    return encode_gallery
"""
    flat, needed = flatten(source, ROOT / "pipelines")
    assert (
        flat
        == """\
from .tokens import Tokens
from .modeling_matching import VioletForRetrieval as Search  # two files
from .questions import TokenIds, pad_texts

def later():
    raise ImportError("This needs the whole package: pip install violet-video")

    return encode_gallery
"""
    )
    assert {file.name for file in needed} == {"tokens.py", "modeling_matching.py", "questions.py"}


@pytest.mark.parametrize(
    "source, says",
    [
        ("from ..data.rows import read_rows", "no checkpoint carries"),
        ("from ..evaluation.galleries import encode_gallery", "no checkpoint carries"),
        ("from ..modeling_violet import losses", "does not import losses"),
        ("from ..processing.absent import x", "no checkpoint carries"),
    ],
)
def test_an_import_that_cannot_travel_is_refused_with_its_statement(source, says):
    with pytest.raises(ValueError, match=says) as refused:
        flatten(source, ROOT / "pipelines")
    assert source in str(refused.value)


def test_folders_of_others_are_refused_and_stay_as_they_are(tmp_path):
    with pytest.raises(ValueError, match="neither a model"):
        add_code(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json: `model_type` is 'bert'"):
        add_code(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def code_of(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("*.py")}
