"""A card says what its folder holds, its code runs, and what a person wrote into it stays."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoder_configs import model_config
from huggingface_hub import ModelCard

import violet
from violet import VideoTextProcessor, VioletVideoProcessor, named_configuration
from violet.cli import main
from violet.core.files import sha256
from violet.hub import CARDS, CardError, write_model_card
from violet.hub.cards import SECTIONS
from violet.hub.language_models import language_processor
from violet.processing import train_wordpiece_tokenizer, without_end

METRICS = {
    "steps": 7,
    "accuracy": 0.1234567890123456,
    "validation_accuracy": 1 / 3,
    "loss": 1e-05,
    "samples_failed": 0,
}
SETTINGS = {"task": "open-ended", "train_file": "/data/of/me/train.csv", "test_file": "/data/of/me/test.csv"}
SETTINGS |= {"seed": 3, "learning_rate": 2e-5, "fit": None, "model": "/data/of/me/base"}
SPLITS = {"train": {"rows": 24, "sha256": "a" * 64}, "test": {"rows": 8, "sha256": "b" * 64}}
PROVENANCE = {"splits": SPLITS, "software": {"torch": "2.9"}, "base_model": "people/base"}
EXAMPLES = {
    "VioletForMultipleChoice": {"question": "where does it go?", "options": ["left", 'the "right"']},
    "VioletForMaskedLM": {"text": "a red disc moves [MASK]", "answer": ["left"]},
    "VioletForRetrieval": {"caption": "a red disc moves left"},
}


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A model's folder after a training."""
    folder = shutil.copytree(model_folder, tmp_path / "trained")
    example = {"question": "what | moves <left>?", "answer": "disc"}
    facts = METRICS | {"settings": SETTINGS, "provenance": PROVENANCE | {"example": example}}
    (folder / "metrics.json").write_text(json.dumps(facts))
    return folder


def results_of(folder: Path) -> dict[str, float]:
    return {one.metric_name: one.metric_value for one in ModelCard.load(folder / "README.md").data.eval_results}


def test_the_metadata_reads_back_as_the_metrics(folder):
    write_model_card(folder, license_name="cc-by-4.0", name="people/mine")
    data = ModelCard.load(folder / "README.md").data
    assert results_of(folder) == {name: value for name, value in METRICS.items() if name != "steps"}
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "cc-by-4.0",
        "visual-question-answering",
        "transformers",
    )
    assert data.base_model == "people/base" and data.model_name == "people/mine"
    assert data.tags == ["violet", "video-question-answering"]
    places = {one.metric_name: (one.dataset_name, one.dataset_split, one.metric_type) for one in data.eval_results}
    assert places["accuracy"] == ("test.csv", "test", "accuracy")
    assert places["validation_accuracy"] == ("train.csv", "validation", "accuracy")


def test_the_text_tells_the_facts_and_no_place_on_this_machine(folder):
    card = write_model_card(folder, license_name="mit").read_text()
    model = violet.VioletForQuestionAnswering.from_pretrained(folder)
    for fact in (
        f"{model.num_parameters():,}",
        f"{model.config.num_labels} answers",
        sha256(folder / "model.safetensors"),
        sha256(folder / "metrics.json"),
        "a" * 64,
        "b" * 64,
        "| torch | 2.9 |",
        "| learning_rate | 2e-05 |",
        "| model | base |",
        "`train.csv`",
        "4 frames of 64 by 64 pixels",
        "| test.csv, test | accuracy | 0.1235 |",
    ):
        assert fact in card, fact
    assert "/data/of/me" not in card and "| fit |" not in card


def test_a_refreshed_card_keeps_what_a_person_wrote_and_a_second_time_changes_nothing(folder):
    file = write_model_card(folder, license_name="mit")
    written = file.read_text()
    assert write_model_card(folder).read_text() == written
    changed = written.replace("# trained\n", "# My model\n\nIt is *mine*, see [here](a.b).\n")
    changed = changed.replace(
        "<!-- /violet:usage -->\n", "<!-- /violet:usage -->\n\n```python\n# a comment\n```\nMine.\n"
    )
    changed = changed.replace("tags:\n", "extra_key:\n  nested: [1, two]\ntags:\n- cats\n").replace(
        "license: mit", "license: mit\nlanguage: en"
    )
    changed += "\nThe last word.\n"
    changed = changed.replace(f"{METRICS['accuracy']}", "0.9").replace("## Limits", "## No limits")
    file.write_text(changed)
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text().replace("1e-05", "0.25"))

    again = write_model_card(folder).read_text()
    for part in (
        "# My model\n\nIt is *mine*, see [here](a.b).\n",
        "\n```python\n# a comment\n```\nMine.\n",
        "The last word.\n",
    ):
        assert part in again, part
    data = ModelCard.load(file).data
    assert data.extra_key == {"nested": [1, "two"]} and data.language == "en" and data.license == "mit"
    assert data.tags == ["cats", "violet", "video-question-answering"] and data.model_name == "My model"
    assert "## Limits" in again and "## No limits" not in again and "| test.csv, test | loss | 0.25 |" in again
    assert results_of(folder)["accuracy"] == METRICS["accuracy"] and results_of(folder)["loss"] == 0.25
    assert write_model_card(folder).read_text() == again


def test_results_on_other_data_stay(folder):
    file = write_model_card(folder, license_name="mit")
    card = ModelCard.load(file)
    one = card.data.eval_results[0]
    card.data.eval_results.append(type(one)("video-qa", "others/set", "Others' set", "accuracy", 0.5))
    file.write_text(str(card))
    write_model_card(folder)
    kept = [one for one in ModelCard.load(file).data.eval_results if one.dataset_type == "others/set"]
    assert [one.metric_value for one in kept] == [0.5] and len(results_of(folder)) == 5


def test_results_of_another_run_do_not_stay(folder):
    """Its data had another name: the results of before are in the table, and so the folder's own."""
    write_model_card(folder, license_name="mit")
    facts = json.loads((folder / "metrics.json").read_text())
    facts["settings"]["test_file"] = "harder.csv"
    facts["settings"]["train_file"] = None
    (folder / "metrics.json").write_text(json.dumps(facts))
    write_model_card(folder)
    data = ModelCard.load(folder / "README.md").data
    assert {one.dataset_name for one in data.eval_results if one.dataset_split == "test"} == {"harder.csv"}
    assert len(data.eval_results) == 4


def test_converted_weights_say_what_they_were(folder):
    (folder / "metrics.json").unlink()
    report = {"kind": "VIOLETv2", "source": "/home/me/violet.pt", "sha256": "c" * 64, "used": {}}
    (folder / "conversion_report.json").write_text(json.dumps(report))
    card = write_model_card(folder, license_name="mit").read_text()
    assert "converted (VIOLETv2)" in card and "c" * 64 in card
    assert "| converted: source | violet.pt |" in card and "/home/me" not in card
    assert "model-index" not in card


def test_a_card_without_marks_gets_the_parts_behind_its_text(folder):
    (folder / "README.md").write_text("Some words.\n\n```\n# no heading\n```\n")
    text = write_model_card(folder, license_name="mit").read_text()
    assert text.index("# trained") < text.index("Some words.") < text.index("<!-- violet:about -->")
    assert [text.count(f"<!-- violet:{name} -->") for name in SECTIONS] == [1] * len(SECTIONS)
    gone = re.sub(r"<!-- violet:data -->.*<!-- /violet:data -->\n\n", "", text, flags=re.DOTALL)
    assert "## Data" not in gone
    (folder / "README.md").write_text(gone)
    assert write_model_card(folder).read_text() == text, "a part that is gone comes back at its place"


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda card: card.replace("<!-- /violet:data -->", ""), r"README.md: the marks <!-- violet:data --> and"),
        (lambda card: card.replace("license:", "license: ["), r"README.md: the metadata between"),
        (lambda card: card + card.split("---")[-1], r"must stand there once each"),
    ],
)
def test_a_card_that_cannot_be_refreshed_is_left_and_told(folder, spoil, complaint, capsys):
    file = write_model_card(folder, license_name="mit")
    file.write_text(spoil(file.read_text()))
    before = file.read_text()
    assert main(["card", str(folder)]) == 2
    assert re.search(complaint, capsys.readouterr().err) and file.read_text() == before


def test_what_is_no_models_folder_is_refused(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(CardError, match="BertModel"):
        write_model_card(tmp_path)


def test_the_command_refreshes(folder, capsys):
    assert main(["card", str(folder), "--license", "mit", "--name", "people/mine"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    card = (folder / "README.md").read_text()
    assert "# people/mine" in card and 'model="people/mine"' in card
    assert main(["card", str(folder), "--license", "My own"]) == 2
    assert "--license: 'My own'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def of_every_kind(tmp_path_factory) -> list[Path]:
    """A folder with a card for each kind of model."""
    words = ["a red disc moves left", "where does it go? the right", "something moves, what is shown?"]
    tokenizer = train_wordpiece_tokenizer(words * 8, vocab_size=256)
    processor = VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": 64, "width": 64}, num_frames=4))
    folders = []
    for name in CARDS:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("of") / name
        if name == "VioletVisionModel":
            violet.VioletVisionModel(named_configuration("violet-tiny").vision_config).save_pretrained(folder)
            processor.video_processor.save_pretrained(folder)
            write_model_card(folder)
            folders.append(folder)
            continue
        labels = {"id2label": {0: "left", 1: "right"}} if name == "VioletForQuestionAnswering" else {}
        config = named_configuration("violet-tiny", vocab_size=len(tokenizer), num_hidden_layers=1, **labels)
        reading = processor
        if name == "VioletForConditionalGeneration":
            config, words_only = named_configuration("language-model-tiny"), without_end(tokenizer)
            text = {**config.text_config.to_dict(), "vocab_size": len(words_only)}
            config = named_configuration("language-model-tiny", text_config=text)
            reading = language_processor(config, words_only, processor.video_processor)
        getattr(violet, name)(config).save_pretrained(folder)
        reading.save_pretrained(folder)
        facts = {"settings": {"seed": 1}, "provenance": {"example": EXAMPLES.get(name, {})}}
        (folder / "metrics.json").write_text(json.dumps(facts))
        write_model_card(folder)
        folders.append(folder)
    return folders


RUN = """
import pathlib, re, sys
for card in sys.argv[1:]:
    blocks = re.findall(r"```python\\n(.*?)```", pathlib.Path(card).read_text(), re.DOTALL)
    assert len(blocks) == 1, card
    print("CARD", card)
    exec(compile(blocks[0], card, "exec"), {"__name__": "__main__"})
"""


def test_the_code_of_every_kind_runs_as_it_stands(of_every_kind, shapes_folder, tmp_path):
    """In a process of its own, beside a video of that name."""
    shutil.copy(next(shapes_folder.rglob("*.mp4")), tmp_path / "clip.mp4")
    cards = [str(folder / "README.md") for folder in [*of_every_kind, Path(violet.pretrained("violet-tiny"))]]
    done = subprocess.run([sys.executable, "-c", RUN, *cards], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("CARD ")[1:]
    assert len(told) == len(cards) and all(len(one.splitlines()) > 1 for one in told), "each prints what it found"


def test_the_card_that_comes_with_the_package_is_that_of_its_folder(tmp_path, monkeypatch):
    """What `violet card` makes of it is what is there."""
    shipped = Path(violet.pretrained("violet-tiny"))
    folder = shutil.copytree(shipped, tmp_path / "violet-tiny")
    monkeypatch.setattr("violet.hub.cards.FOLDER", tmp_path)
    assert write_model_card(folder).read_text() == (shipped / "README.md").read_text()


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("clip_vision_model", "2 layers, width 32, 4 heads, patches of 16 pixels, each frame as a picture"),
        ("videomae", "2 layers, width 32, 4 heads, patches of 16 pixels, each of 2 frames, clips of 4 frames"),
        ("vjepa2", "2 layers, width 32, 4 heads, patches of 16 pixels, each of 2 frames, clips of 4 frames"),
    ],
)
def test_a_card_describes_another_encoder_and_not_video_swin(encoder, told, tmp_path):
    violet.VioletForQuestionAnswering(model_config(encoder)).save_pretrained(tmp_path)
    card = write_model_card(tmp_path).read_text()
    assert f"| video encoder | {encoder}: {told} |" in card and "Video Swin" not in card
    assert f"a `{encoder}` of transformers, BERT's text embeddings and a BERT fusion encoder" in card
