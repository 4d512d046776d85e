"""Push, pull, use: through the real client and a Hub in a box, which fails on purpose."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from violet import VioletForQuestionAnswering
from violet.cli import main
from violet.core.files import sha256
from violet.hub import HubError, push, write_model_card
from violet.hub.weight_files import weight_files

from .local_hub import ClientFailure, HubClient, LocalHub, Repository


@pytest.fixture(scope="module")
def hub():
    hub = LocalHub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = HubClient(hub, tmp_path_factory.mktemp("client"))
    client.run("import violet.hub.publishing as publishing; publishing.PAUSE_SECONDS = 0.01")
    client.run(
        "import time; wait = time.sleep; time.sleep = lambda seconds: wait(min(seconds, 0.01))"
    )  # the Hub's own
    yield client
    client.close()


@pytest.fixture(autouse=True)
def sound(request):
    """No test finds what another one let fail."""
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").forget()


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A model's folder as a training leaves it, with its card."""
    folder = shutil.copytree(model_folder, tmp_path / "trained")
    for name in ("training_args.bin", "optimizer.pt", ".half.partial", "notes.txt", "my_training.py"):
        (folder / name).write_bytes(b"not for others")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"older")
    (folder / "metrics.json").write_text(json.dumps({"accuracy": 0.1, "steps": 3}))
    write_model_card(folder, license_name="mit")
    return folder


TERMS = "For research only; neither the weights nor anything derived from them may be passed on."


@pytest.fixture
def restricted(folder) -> Path:
    """A model that was made of weights which may not be passed on."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weights_license": TERMS}))
    return folder


def test_a_model_of_weights_that_may_not_be_passed_on_is_pushed_only_by_an_explicit_word(restricted, capsys):
    with pytest.raises(HubError, match=r"may not be passed on \(`weights_license`.*research only.*--despite-license"):
        push(restricted, "org/name", dry_run=True)
    assert main(["push", str(restricted), "org/name", "--dry-run"]) != 0
    assert "--despite-license" in capsys.readouterr().err
    assert main(["push", str(restricted), "org/name", "--dry-run", "--despite-license"]) == 0
    model = VioletForQuestionAnswering.from_pretrained(restricted)
    with pytest.raises(ValueError, match="may not be passed on.*--despite-license"):
        model._upload_modified_files(restricted, "org/name", {})


def test_the_terms_stay_with_the_model_and_its_card_says_them(restricted, tmp_path):
    card = write_model_card(restricted).read_text()
    assert "may not be passed on" in card and TERMS in card
    (restricted / "README.md").unlink()
    assert "license: other" in write_model_card(restricted).read_text()
    VioletForQuestionAnswering.from_pretrained(restricted).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["weights_license"] == TERMS


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def other_weights(folder: Path) -> None:
    """Weights that the Hub has not seen yet."""
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(os.urandom(64))


PUSH = """
from pathlib import Path
from violet.hub import push
sent = push(Path(folder), repo, **options)
result = [sent.commit, {file.path: file.sha256 for file in sent.files}]
"""
PULL = """
from pathlib import Path
from violet.hub import pull
folder = pull(repo, **options)
import hashlib
result = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".gitattributes"}
"""


def stored(hub: LocalHub, repo: str, revision: str = "main") -> dict[str, str]:
    files = hub.files(repo, revision)
    return {path: hashlib.sha256(files[path]).hexdigest() for path in files if path != ".gitattributes"}


# --- what would go ---


def test_a_dry_run_lists_what_would_go_and_what_would_not(folder, capsys):
    before = contents(folder)
    assert main(["push", str(folder), "people/model", "--dry-run"]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[-1]: line.split() for line in told.splitlines() if re.search(r"[0-9a-f]{64}", line)}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} < lines.keys()
    weights = folder / "model.safetensors"
    assert lines["model.safetensors"][:3] == [f"{weights.stat().st_size:,}", "bytes", sha256(weights)]
    for name, why in {
        "training_args.bin": "a pickle",
        "optimizer.pt": "a pickle",
        "checkpoint-3/": "a checkpoint",
        ".half.partial": "temporary",
        "notes.txt": "no part of",
        "my_training.py": "no part of",
    }.items():
        assert re.search(rf"left out {re.escape(name)}: {why}", told) and name not in lines
    assert "Nothing was sent" in told
    assert contents(folder) == before and [path.name for path in folder.parent.iterdir()] == ["trained"]


def test_large_weights_are_split_and_hold_the_same_tensors(folder, tmp_path):
    from safetensors.torch import load_file

    from violet.hub.publishing import staged

    with staged(folder, "people/model", max_shard_size="2MB") as stage:
        shards = weight_files(stage.folder)
        sizes = [file.stat().st_size for file in shards]
        whole = load_file(folder / "model.safetensors")
        parts = {name: value for file in shards for name, value in load_file(file).items()}
    assert len(shards) > 3 and max(sizes) < 2_100_000 and whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) and whole[name].dtype == parts[name].dtype for name in whole)


def test_without_a_licence_nothing_goes(folder):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: mit\n", ""))
    with pytest.raises(HubError, match=r"names no licence.*violet card .*trained --license apache-2.0"):
        push(folder, "people/model", dry_run=True)
    assert "README.md" in [file.path for file in push(folder, "people/model", dry_run=True, license_name="mit").files]


@pytest.mark.parametrize(
    "break_it, complaint",
    [
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"holds no weights.*training_args.bin.*violet convert",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"),
            "model.safetensors is dam",
        ),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "metrics.json cannot be read"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(folder, break_it, complaint, capsys):
    break_it(folder)
    assert main(["push", str(folder), "people/model", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert re.search(complaint, told) and told.startswith("violet push: ") and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["model"], "ORG/NAME"),
        (["people/model", "--max_shard_size=much"], "--max_shard_size"),
        (["people/model", "--license=Apache 2.0"], "--license: 'Apache 2.0'"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(folder, options, complaint, capsys):
    assert main(["push", str(folder), *options, "--dry-run"]) == 2
    assert complaint in capsys.readouterr().err


# --- there and back ---


def test_pushed_pulled_and_used(folder, hub, client, shapes_folder):
    """The command, one commit, files as they were, and the same answers by the name on the Hub."""
    before = contents(folder)
    command = "from violet.cli import main; result = main(['push', folder, 'people/model', '--max_shard_size=2MB'])"
    assert client.run(command, folder=folder) == 0, client.told
    assert contents(folder) == before
    commits = hub.repositories["people/model"].commits
    assert len(commits) == 2, "the one that makes the repository, and ours"
    kept = stored(hub, "people/model")
    assert not [path for path in kept if path.endswith((".bin", ".pt", ".partial", ".txt", ".py")) or "/" in path]
    assert len([path for path in kept if path.endswith(".safetensors")]) > 3
    assert client.run(PULL, repo="people/model", options={}) == kept
    assert kept["config.json"] == before["config.json"]
    video = str(next(shapes_folder.rglob("*.mp4")))
    ask = """
from transformers import pipeline
result = [pipeline("video-question-answering", model=model)(video, "what moves left?") for model in models]
"""
    here, there = client.run(ask, models=[str(folder), "people/model"], video=video)
    assert [one["answer"] for one in here] == [one["answer"] for one in there] and len(here) == 5
    # to the rounding that another place in a file, and so in memory, makes
    assert [one["score"] for one in here] == pytest.approx([one["score"] for one in there], abs=1e-6)
    code = re.search(r"```python\n(.*?)```", hub.files("people/model")["README.md"].decode(), re.DOTALL)
    assert code and 'model="people/model"' in code[1]


def test_a_second_push_replaces_the_weights_and_the_first_can_be_pinned(folder, hub, client):
    """The first is in several files, the second in one: what is left of the first would be loaded in its place."""
    first, sent = client.run(PUSH, folder=folder, repo="people/twice", options={"max_shard_size": "2MB"})
    second, then = client.run(PUSH, folder=folder, repo="people/twice", options={})
    assert stored(hub, "people/twice") == then and "model.safetensors.index.json" not in then
    tag = "from huggingface_hub import HfApi; HfApi().create_tag('people/twice', tag='v1', revision=revision)"
    client.run(tag, revision=first)
    for revision in (first, "v1"):
        assert client.run(PULL, repo="people/twice", options={"revision": revision}) == sent
    assert client.run(PULL, repo="people/twice", options={}) == then and first != second
    third, _ = client.run(PUSH, folder=folder, repo="people/twice", options={})
    assert third == second, "nothing has changed: no commit"


def test_a_branch_is_made_and_main_stays(folder, hub, client):
    client.run(PUSH, folder=folder, repo="people/branches", options={"revision": "smaller", "max_shard_size": "2MB"})
    assert stored(hub, "people/branches") == {}
    assert client.run(PULL, repo="people/branches", options={"revision": "smaller"})["config.json"]
    with pytest.raises(ClientFailure, match="HubError: people/branches has no revision 'larger'"):
        client.run(PULL, repo="people/branches", options={"revision": "larger"})


# --- what goes wrong ---


REQUESTS = {
    "create": "POST /api/repos/create",
    "branch": "POST .*/branch/",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "weights": "PUT /_lfs/",
    "verify": "POST /_verify",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("how", [{"status": 500}, {"cut": 10}, {"lose_answer": True}], ids=lambda how: next(iter(how)))
def test_a_push_survives_that_every_request_fails_once(how, folder, hub, client):
    repo = f"people/push-{next(iter(how))}"
    other_weights(folder)
    for pattern in REQUESTS.values():
        hub.fail(pattern, **how)
    _, sent = client.run(PUSH, folder=folder, repo=repo, options={"revision": "tried"})
    assert not any(fault.times for fault in hub.faults), "every one of them was hit"
    assert stored(hub, repo, "tried") == sent
    assert client.run(PULL, repo=repo, options={"revision": "tried"}) == sent
    assert len(hub.repositories[repo].commits) == 2, "an answer that was lost is no second commit"


def test_a_push_that_fails_for_good_leaves_the_model_before_and_is_gone_on_with(folder, hub, client):
    _, before = client.run(PUSH, folder=folder, repo="people/failing", options={})
    (folder / "metrics.json").write_text(json.dumps({"accuracy": 0.9}))
    other_weights(folder)
    hub.fail("POST .*/commit/", status=500, times=100)
    with pytest.raises(
        ClientFailure, match="HubError: Sending to people/failing failed 4 times.*500.*Try again later"
    ):
        client.run(PUSH, folder=folder, repo="people/failing", options={})
    assert stored(hub, "people/failing") == before
    hub.forget()
    _, after = client.run(PUSH, folder=folder, repo="people/failing", options={})
    assert stored(hub, "people/failing") == after != before
    assert not [request for request in hub.requests if request.startswith("PUT")], "the weights were there already"


@pytest.fixture
def large(hub, client, tmp_path) -> str:
    """A repository whose weights are large enough to be gone on with: the client keeps them by ten million bytes, as
    long as it asks for them."""
    name = f"people/{tmp_path.name}".replace("_", "-")
    repository = hub.repositories[name] = Repository(private=False)
    files = {"config.json": b"{}", "model.safetensors": os.urandom(25_000_000)}
    repository.commit("main", {path: hub.keep(content) for path, content in files.items()})
    return name


def downloads(hub: LocalHub) -> list[str]:
    """The answers to requests for the weights, in their order."""
    return [line.split(" -> ")[1] for line in hub.requests if re.search("^GET .*/resolve/.*/model.safetensors", line)]


@pytest.mark.parametrize(
    "request_, how, answers",
    [
        ("GET .*/resolve/.*/model.safetensors", {"cut": 21_000_000}, ["cut", "206"]),
        ("GET .*/resolve/.*/model.safetensors", {"cut": 21_000_000, "reset": True}, ["cut", "200"]),
        ("GET .*/resolve/.*/model.safetensors", {"status": 500}, ["500", "200"]),
        ("GET .*/resolve/.*/model.safetensors", {"delay": 0.2}, ["200"]),
        ("GET .*/resolve/.*/config.json", {"cut": 1}, ["200"]),
        ("HEAD .*/resolve/.*/model.safetensors", {"status": 500}, ["200"]),
        ("GET /api/models/[^/]+/[^/]+$", {"status": 500}, ["200"]),
        ("GET /api/models/.*/tree", {"status": 500}, ["200"]),
    ],
    ids=["cut", "reset", "500", "slow", "small cut", "head", "info", "tree"],
)
def test_a_pull_survives_and_ends_bit_equal(request_, how, answers, large, hub, client):
    hub.fail(request_, **how)
    assert client.run(PULL, repo=large, options={}) == stored(hub, large)
    assert downloads(hub) == answers and not hub.faults[0].times


def test_what_a_broken_pull_got_is_not_fetched_again(large, hub, client):
    hub.fail("GET .*/model.safetensors", cut=21_000_000, reset=True)
    hub.fail("GET .*/model.safetensors", status=500, times=100)
    with pytest.raises(ClientFailure, match=f"HubError: Reading {large} failed 4 times.*500"):
        client.run(PULL, repo=large, options={})
    assert downloads(hub) == ["cut", "500", "500", "500"]
    hub.forget()
    assert client.run(PULL, repo=large, options={}) == stored(hub, large)
    assert [line for line in hub.requests if line.startswith("GET") and "config.json" in line] == []
    assert downloads(hub) == ["200"]


def test_a_private_model_needs_a_token_that_may(folder, hub, client):
    client.run(PUSH, folder=folder, repo="people/private", options={"private": True})
    assert hub.repositories["people/private"].private
    nobody = {"HF_TOKEN": ""}
    with pytest.raises(ClientFailure, match=r"HubError: people/private is not on the Hub, or private.*hf auth login"):
        client.run(PULL, environment=nobody, repo="people/private", options={})
    predict = "from violet.cli import main; result = main(['predict', '--model', 'people/private', *more])"
    more = ["--video", "clip.mp4", "--question", "what?"]
    assert client.run(predict, environment=nobody, more=more) == 2
    assert (
        client.told.startswith("violet predict: people/private is not on the Hub") and "Traceback" not in client.told
    )
    for token in (nobody, {"HF_TOKEN": "hf_wrong"}):
        with pytest.raises(ClientFailure, match=r"HubError: people/other: the Hub does not know this token.*HF_TOKEN"):
            client.run(PUSH, environment=token, folder=folder, repo="people/other", options={})
    assert "people/other" not in hub.repositories


# --- the other ways to push ---


def test_model_and_processor_push_themselves(folder, hub, client, shapes_folder):
    code = """
from transformers import AutoProcessor
from violet import VioletForQuestionAnswering, pretrained
VioletForQuestionAnswering.from_pretrained(folder).push_to_hub("people/own")
AutoProcessor.from_pretrained(folder).push_to_hub("people/own")
from transformers import pipeline
ask = lambda model: pipeline("video-question-answering", model=model)(video, "what moves left?")
result = [ask(folder), ask("people/own")]
"""
    here, there = client.run(code, folder=folder, video=str(next(shapes_folder.rglob("*.mp4"))))
    assert here == there
    kept = hub.files("people/own")
    assert kept["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not [path for path in kept if path.endswith((".bin", ".pt"))]


@pytest.mark.slow
def test_the_trainer_publishes_its_model_with_our_card_and_no_pickles(hub, client, model_folder, questions, tmp_path):
    table = tmp_path / "train.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in questions["train"]))
    finetune = "from violet.cli import main; result = main(['finetune', *options])"
    output = tmp_path / "run"
    options = [f"--model={model_folder}", f"--train_file={table}", f"--test_file={table}", f"--output_dir={output}"]
    options += ["--max_steps=2", "--save_steps=1", "--per_device_train_batch_size=4", "--dataloader_num_workers=0"]
    options += ["--push_to_hub=true", "--hub_model_id=people/trained", "--report_to=none"]
    assert client.run(finetune, options=options) == 2
    assert "--license: missing" in client.told and "people/trained" not in hub.repositories
    assert client.run(finetune, options=[*options, "--license=mit", "--hub_strategy=checkpoint"]) == 2
    assert "--hub_strategy: checkpoint" in client.told
    wrong = client.run(finetune, environment={"HF_TOKEN": "hf_wrong"}, options=[*options, "--license=mit"])
    assert wrong == 2 and "people/trained: the Hub does not know this token" in client.told
    assert client.run(finetune, options=[*options, "--license=mit", "--hub_always_push=true"]) == 0, client.told

    repository = hub.repositories["people/trained"]
    assert len(repository.commits) == 4, "made; two checkpoints; the end"
    assert (output / "training_args.bin").exists() and list(output.glob("checkpoint-*/optimizer.pt"))
    for commit in repository.commits:
        assert not [path for path in hub.files("people/trained", commit) if path.endswith((".bin", ".pt", ".pth"))]
    last = hub.files("people/trained")
    assert last["model.safetensors"] == (output / "model.safetensors").read_bytes()
    assert json.loads(last["metrics.json"]) == json.loads((output / "metrics.json").read_text())
    card = last["README.md"].decode()
    assert "license: mit" in card and "<!-- violet:results -->" in card and 'model="people/trained"' in card
    assert client.run(PULL, repo="people/trained", options={}) == stored(hub, "people/trained")


WITHOUT_PACKAGE = """
import importlib.abc, sys

class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "violet":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refusing())
"""


@pytest.mark.proof
def test_code_goes_along_and_the_cards_code_runs_without_the_package(folder, hub, client, shapes_folder, tmp_path):
    pytest.importorskip("violet.core.carried_code")
    before = contents(folder)
    client.run(PUSH, folder=folder, repo="people/code", options={"with_code": True})
    assert contents(folder) == before
    kept = hub.files("people/code")
    assert [path for path in kept if path.endswith(".py")]
    assert "custom_pipelines" in json.loads(kept["config.json"])
    code = re.search(r"```python\n(.*?)```", kept["README.md"].decode(), re.DOTALL)
    assert code and "trust_remote_code=True" in code[1] and "import violet" not in code[1]

    video = tmp_path / "clip.mp4"
    shutil.copy(next(shapes_folder.rglob("*.mp4")), video)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE + code[1]],
        cwd=tmp_path,
        env=client.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ask = """
from transformers import pipeline
result = pipeline("video-question-answering", model=folder)(video, "what is shown?")
"""
    here = client.run(ask, folder=folder, video=str(video))
    assert ast.literal_eval(done.stdout) == here


READ_VIDEO = """
import huggingface_hub
from violet import VideoDecodeError, decode_video
huggingface_hub.HfApi().create_repo("people/clips")
huggingface_hub.HfApi().upload_file(path_or_fileobj=video, path_in_repo="a.mp4", repo_id="people/clips")
read = decode_video({"path": "hf://people/clips/a.mp4", "bytes": None})
try:
    decode_video("hf://people/clips/b.mp4")
except VideoDecodeError as error:
    result = [bool((read.frames == decode_video(video).frames).all()), str(error)]
"""


def test_a_video_on_the_hub_is_read_by_its_address(hub, client, shapes_folder):
    same, complaint = client.run(READ_VIDEO, video=str(next(shapes_folder.rglob("*.mp4"))))
    assert same and "hf://people/clips/b.mp4: it cannot be fetched" in complaint
