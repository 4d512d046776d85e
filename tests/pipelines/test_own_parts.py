"""Parts and pipelines that a user wrote, outside of the package: carried by a checkpoint, known where it is loaded."""

import importlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from own_process import run_python
from transformers import pipeline

from violet.core.carried_code import add_code
from violet.core.catalogue import MODELS_OF_ADDED, PIPELINES, tasks_of
from violet.core.flat_modules import flatten
from violet.core.registry import ROOT, Registry
from violet.modeling_violet import losses, modeling_pretraining
from violet.pipelines.auto_classes import add_pipeline

SHOP = {
    "shop/__init__.py": "from .wording import SENTENCE\n",
    "shop/colours.py": """\
'''A pipeline that asks for a colour.'''
from typing import Any

from shop import SENTENCE as SAID
from violet import VideoFillMaskPipeline
from violet.core.registry import Registry
from violet.pipelines.auto_classes import add_pipeline

from .palettes.table import PALETTES

class ColourPipeline(VideoFillMaskPipeline):
    def __call__(self, videos: Any, **settings):
        return super().__call__(videos, SAID, **settings)

    def postprocess(self, outputs, **settings):
    \tfrom violet.processing.questions import MASK_PLACES; assert MASK_PLACES
    \tconfig = self.model.config
    \tnames = [PALETTES.find(name).name for name in (config.fusion_norm, config.hidden_act)]
    \treturn [{**answer, "palettes": names} for answer in super().postprocess(outputs, **settings)]

assert isinstance(PALETTES, Registry)
add_pipeline("video-colour", ColourPipeline, ["VioletForMaskedLM", "VioletForPreTraining"])
""",
    "shop/wording.py": 'SENTENCE = "a red [MASK] moves left"\n',
    "shop/palettes/__init__.py": "",
    "shop/palettes/table.py": """\
from violet.core.registry import Registry

PALETTES = Registry(
    "palette", __package__, {"pre": "warm:Warm", "post": "cold:COLD"}, config_keys=("fusion_norm", "hidden_act")
)
""",
    "shop/palettes/palette.py": """\
class Palette:
    def __init__(self, name):
        self.name = name
""",
    "shop/palettes/warm.py": 'class Warm:\n    name = "warm"\n',
    "shop/palettes/cold.py": 'from .palette import Palette\n\nCOLD = Palette("cold")\n',
    "mine.py": """\
from shop.palettes.palette import Palette
from shop.palettes.table import PALETTES

PALETTES.add("gelu", Palette("mine"))
""",
}
ELSEWHERE = """
import json, sys
from pathlib import Path

class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("violet", "shop", "mine"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusing)
from transformers import pipeline

folder, clip = Path(sys.argv[1]), sys.argv[2]
found = []
for name in ("first", "again"):
    pipe = pipeline("video-colour", model=str(folder / name), trust_remote_code=True)
    found.append(pipe(clip))
    if name == "first":
        pipe.save_pretrained(folder / "again")
(folder / "found").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A user's package and a module of theirs, imported."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, source in SHOP.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    sys.path.insert(0, str(folder))
    importlib.import_module("shop.colours")
    yield importlib.import_module("mine")
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "mine")]:
        del sys.modules[name]
    forget("video-colour")


def forget(task: str) -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    for table in (PIPELINES._entries, PIPELINES._sources, MODELS_OF_ADDED, PIPELINE_REGISTRY.supported_tasks):
        table.pop(task, None)


@pytest.fixture(scope="module")
def carrying(shop, saved, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("carrying")
    shutil.copytree(saved["VioletForMaskedLM"], folder / "first")
    add_code(folder / "first")
    return folder


def test_a_checkpoint_carries_the_parts_that_its_configuration_names_and_no_other(carrying, shop, saved, tmp_path):
    config = json.loads((carrying / "first" / "config.json").read_text())
    assert (config["fusion_norm"], config["hidden_act"]) == ("pre", "gelu")
    files = {file.name for file in (carrying / "first").glob("*.py")}
    assert {"colours.py", "wording.py", "table.py", "warm.py", "mine.py", "palette.py"} <= files
    assert "cold.py" not in files
    entry = (carrying / "first" / "violet_code.py").read_text()
    assert entry.index("from .mine import") < entry.index("from .configuration_violet import")
    assert config["custom_pipelines"]["video-colour"] == {
        "impl": "violet_code.ColourPipeline",
        "pt": ["AutoModelForMaskedLM"],
        "type": "multimodal",
    }
    shutil.copytree(saved["VioletForRetrieval"], tmp_path / "retrieval")
    add_code(tmp_path / "retrieval")
    assert not {"colours.py", "mine.py"} & {file.name for file in (tmp_path / "retrieval").glob("*.py")}


def test_a_table_of_the_package_is_asked_only_if_its_module_is_carried(saved, tmp_path, monkeypatch):
    part = "modeling_pretraining:VioletForPreTraining"
    known, unknown = (
        Registry("toy", "violet.modeling_violet", {name: part}, config_keys=("fusion_norm",))
        for name in ("pre", "post")
    )
    for number, (module, table, travels) in enumerate(
        ((modeling_pretraining, known, False), (modeling_pretraining, unknown, False), (losses, known, True))
    ):
        folder = tmp_path / str(number)
        shutil.copytree(saved["VioletForMaskedLM"], folder)
        with monkeypatch.context() as patch:
            patch.setattr(module, "TOYS", table, raising=False)
            add_code(folder)
        assert (folder / "modeling_pretraining.py").exists() == travels
        before = (folder / "violet_code.py").read_text().partition("from .video_captioning import")[0]
        assert ("from .modeling_pretraining import" in before) == travels
    monkeypatch.setattr(losses, "TOYS", unknown, raising=False)
    with pytest.raises(ValueError, match="No toy is named 'pre'; there are post."):
        add_code(folder)


def test_their_pipeline_answers_the_same_where_neither_package_is_installed_and_when_saved_again(carrying, clips):
    here = pipeline("video-colour", model=str(carrying / "first"))(clips[0])
    assert here[0]["palettes"] == ["warm", "mine"]
    done = run_python("-c", ELSEWHERE, carrying, clips[0], cwd=carrying)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((carrying / "found").read_text()) == [here, here]


def test_of_a_model_that_holds_another_with_the_pipeline_its_own_class_is_asked(shop):
    assert tasks_of("VioletForPreTraining")["video-colour"] == "VioletForPreTraining"
    assert tasks_of("VioletForPreTraining")["video-fill-mask"] == "VioletForMaskedLM"


def test_their_pipeline_refuses_a_checkpoint_without_the_head(shop, saved):
    with pytest.raises(
        ValueError, match="AutoModelForVideoColour takes checkpoints of VioletForMaskedLM, VioletForPreTraining"
    ):
        pipeline("video-colour", model=saved["VioletForRetrieval"])
    with pytest.raises(ValueError, match="No model class is named 'VioletForSmells'; there are VioletModel, "):
        add_pipeline("video-smell", PIPELINES["video-colour"], ["VioletForSmells"])
    assert "video-smell" not in PIPELINES


@pytest.mark.parametrize(
    "name, source, says",
    [
        ("own.py", "import violet", "`import violet` cannot be carried: write `from violet import …`."),
        ("own.py", "from violet.data.rows import read_rows", "`from violet.data.rows import read_rows` leads to"),
        ("own.py", "from violet import build_model", "`from violet import build_model` leads to"),
        ("own.py", "from .absent import x", "`from .absent import x` leads to"),
        ("own.py", "import other", "`import other` cannot be carried: write `from other import …`."),
        ("own.py", "x = 1; from other import y", "`from other import y` must stand on a line of its own."),
        ("pairs.py", "", "cannot lie in one folder: rename one of them."),
    ],
)
def test_a_part_that_cannot_travel_is_refused_by_its_file_and_statement(
    name, source, says, tmp_path, monkeypatch, saved
):
    (tmp_path / "other.py").write_text("y = 1")
    end = "from violet.pipelines.auto_classes import add_pipeline\nfrom violet import VideoFillMaskPipeline\n"
    own = "class Own(VideoFillMaskPipeline): pass\nadd_pipeline('video-own', Own, ['VioletForMaskedLM'])"
    # Only what the checkpoint's folder holds is read: the statement need not run.
    (tmp_path / name).write_text(f"if False:\n    pass\n{end}{own}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    importlib.import_module(name.removesuffix(".py"))
    (tmp_path / name).write_text(f"{source}\n{end}{own}\n")
    shutil.copytree(saved["VioletForMaskedLM"], tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    try:
        with pytest.raises(ValueError) as refused:
            add_code(tmp_path / "model")
    finally:
        forget("video-own")
        sys.modules.pop(name.removesuffix(".py"))
    assert says in str(refused.value) and str(tmp_path / name) in str(refused.value)
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before


def test_a_part_of_the_script_that_runs_is_refused(saved, tmp_path):
    shutil.copytree(saved["VioletForMaskedLM"], tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(f"""
import violet
from violet.core.carried_code import add_code
from violet.pipelines.auto_classes import add_pipeline
class Own(violet.VideoFillMaskPipeline): pass
add_pipeline('video-own', Own, ['VioletForMaskedLM'])
add_code({str(tmp_path / "model")!r})
""")
    try:
        with pytest.raises(ValueError, match="The pipeline 'video-own' was added in .*script.py, which no checkpoint"):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        forget("video-own")


def test_imports_are_flattened_at_any_depth_and_others_stay(tmp_path):
    source = "from ...processing.questions import pad_texts\nfrom ..heads import X\nfrom torch import nn\n"
    flat, needed = flatten(source, ROOT / "modeling_violet" / "encoders")
    assert flat == "from .questions import pad_texts\nfrom .heads import X\nfrom torch import nn\n"
    assert needed == {ROOT / "processing" / "questions.py", ROOT / "modeling_violet" / "heads.py"}
    deeper = ROOT / "modeling_violet" / "encoders" / "pictures"
    assert flatten("from ...losses import IGNORE_INDEX", deeper)[0] == "from .losses import IGNORE_INDEX"
    with pytest.raises(ValueError, match="no checkpoint carries"):
        flatten("from ...helper import x", tmp_path / "a", home=tmp_path)


def test_no_two_files_that_a_checkpoint_may_carry_share_a_name():
    names = [
        file.name
        for folder in ("core", "configuration", "modeling_violet", "processing", "evaluation", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        if file.name != "__init__.py"
    ]
    assert len(names) > 40 and sorted({name for name in names if names.count(name) > 1}) == []
