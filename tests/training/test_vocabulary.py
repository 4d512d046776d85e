"""Words that a model does not know: counted, warned of, refused; and another vocabulary in the place of its own."""

import json
import logging
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoProcessor, BertTokenizer, PreTrainedTokenizerFast

from violet.cli import main
from violet.core.weights import pretrained
from violet.data import moving_shapes
from violet.modeling_violet import VioletForCaptioning, VioletForMaskedLM
from violet.processing import train_wordpiece_tokenizer
from violet.training import TASKS, SettingsError
from violet.training.vocabulary import check_answers, check_words, exchange_vocabulary, table_words

UNKNOWN = "jacket"
"""No word, and in no pieces, of violet-tiny's."""
KNOWN = ["a", "small", "red", "disc", "moves", "left", "right", "then", "stays"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = AutoProcessor.from_pretrained(pretrained("violet-tiny")).tokenizer
    assert tokenizer.unk_token_id in tokenizer(UNKNOWN)["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(KNOWN))["input_ids"]
    return tokenizer


@pytest.fixture
def table(shapes_folder, tmp_path):
    """A function: captions -> a table of them, each beside a real clip."""
    clip = sorted(str(path) for path in shapes_folder.rglob("*.mp4"))[0]

    def write(*captions: str) -> Path:
        file = tmp_path / "train.jsonl"
        file.write_text("\n".join(json.dumps({"video": clip, "caption": caption}) for caption in captions))
        return file

    return write


def finetune(table: Path, output: Path, *options: str) -> int:
    small = ["--max_steps=1", "--per_device_train_batch_size=2", "--dataloader_num_workers=0", "--save_strategy=no"]
    return main(["finetune", "--task=captioning", f"--train_file={table}", f"--output_dir={output}", *small, *options])


# --- counting ---


def test_words_are_counted_with_their_repetitions_and_asked_about_once(tokenizer):
    asked: list[str] = []

    class Asked:
        all_special_tokens, unk_token_id = tokenizer.all_special_tokens, tokenizer.unk_token_id
        convert_ids_to_tokens = staticmethod(tokenizer.convert_ids_to_tokens)

        def __call__(self, words, **settings):
            asked.extend(words)
            return tokenizer(words, **settings)

    texts = [f"a red {UNKNOWN}, a [MASK] disc's {UNKNOWN}!", "left_right (left)?"] * 1000
    words = table_words(texts, Asked())
    assert words.counts == {
        **{"a": 2000, "red": 1000, UNKNOWN: 2000, "disc": 1000, "s": 1000},
        **{"left": 2000, "right": 1000},
    }
    assert words.unknown == {UNKNOWN: 2000} and words.share == 0.2
    assert sorted(asked) == sorted(words.counts), "once a word, however often it stands there"
    assert "1 of the 7 different words" in str(words) and "20.0% of all words" in str(words)
    assert f"'{UNKNOWN}' (2000 times)" in str(words)


def test_a_word_that_is_spelled_letter_by_letter_is_not_known(tokenizer):
    assert tokenizer.tokenize("and lefts") == ["a", "##n", "##d", "left", "##s"], "no [UNK], and a piece of a word"
    assert table_words(["a and lefts"], tokenizer).unknown == {"and": 1}


def test_the_commonest_five_are_named(tokenizer):
    unknown = [f"j{'ck' * number}" for number in range(1, 8)]
    texts = [word for number, word in enumerate(unknown, start=1) for _ in range(number)] + KNOWN * 20
    told = str(table_words(texts, tokenizer))
    assert [f"'{word}'" in told for word in unknown] == [False, False, True, True, True, True, True]
    assert told.index(f"'{unknown[6]}'") < told.index(f"'{unknown[2]}'")


# --- what a run says ---


def test_a_table_with_two_fifths_of_unknown_words_is_refused_before_anything_is_written(table, tmp_path, capsys):
    text = f"a red {UNKNOWN} moves {UNKNOWN}"
    assert finetune(table(text, text), tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "40.0% of all words" in said and f"'{UNKNOWN}' (4 times)" in said
    assert "--tokenizer NAME_OR_FOLDER" in said and "--allow_unknown_words true" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_it_is_trained_on_where_that_is_allowed_and_the_run_goes_on_without_asking_twice(table, tmp_path, caplog):
    file = table(f"a red {UNKNOWN} moves {UNKNOWN}")
    assert finetune(file, tmp_path / "run", "--allow_unknown_words=true") == 0
    assert "40.0% of all words" in caplog.text
    assert "allow_unknown_words" not in json.loads((tmp_path / "run" / "run.json").read_text())


@pytest.mark.slow
def test_a_table_with_a_tenth_of_unknown_words_is_warned_of(table, tmp_path, caplog):
    assert finetune(table(f"{' '.join(KNOWN)} {UNKNOWN}"), tmp_path / "run") == 0
    (told,) = (one for one in caplog.records if "does not know" in one.message)
    assert told.levelno == logging.WARNING and "10.0% of all words" in told.message


def test_the_share_of_all_words_decides_and_a_third_is_still_taken(tokenizer, caplog):
    with pytest.raises(SettingsError, match=r"1 of the 2 different words .* 34\.0% of all"):
        check_words([f"{'a ' * 66} {(UNKNOWN + ' ') * 34}"], tokenizer, allow_unknown=False)
    assert check_words([f"a a {UNKNOWN}"], tokenizer, allow_unknown=False).share == pytest.approx(1 / 3)
    rare = " ".join(f"j{number}ck" for number in range(50))
    words = check_words([" ".join(KNOWN * 20), rare], tokenizer, allow_unknown=False)
    assert len(words.unknown) == 50 > len(words.counts) / 2, "most of the different ones, and few of all"
    caplog.clear()
    assert not check_words(KNOWN, tokenizer, allow_unknown=False).unknown and not caplog.records


def test_only_what_the_model_reads_or_writes_counts():
    row = dict.fromkeys(("question", "answer", "options", "text", "caption"), UNKNOWN)
    reads = {name: [column for column in row if column in task.reads] for name, task in TASKS.items()}
    assert reads["open-ended"] == ["question", "caption"], "its answers are classes"
    assert reads["masked-answer"] == ["question", "answer", "options"]
    assert reads["captioning"] == reads["retrieval"] == ["caption"]
    assert reads["multiple-choice"] == ["question", "options"] and reads["fill-in-the-blank"] == ["answer", "text"]


@pytest.mark.parametrize(
    "task, good, bad",
    [
        ("masked-answer", ["left", "red"], [UNKNOWN, "red disc", "left and right"]),
        ("fill-in-the-blank", [["left", "a red disc"], ["stays"]], [["left", UNKNOWN], [f"red {UNKNOWN}"]]),
    ],
)
def test_answers_that_no_mask_can_say_are_counted_and_refused_where_there_are_no_others(
    task, good, bad, tokenizer, caplog
):
    check_answers(TASKS[task], Dataset.from_dict({"answer": good}), tokenizer)
    assert not caplog.records
    check_answers(TASKS[task], Dataset.from_dict({"answer": good + bad}), tokenizer)
    assert f"{len(bad)} of the {len(good + bad)} training rows" in caplog.text and UNKNOWN in caplog.text
    with pytest.raises(SettingsError, match=f"{len(bad)} of the {len(bad)} training rows"):
        check_answers(TASKS[task], Dataset.from_dict({"answer": bad}), tokenizer)


# --- another vocabulary ---


@pytest.fixture
def other(tokenizer):
    """A tokenizer that shares some words with violet-tiny's, under other numbers."""
    words = " ".join([*KNOWN, "zebra", "jackets", UNKNOWN])
    other = train_wordpiece_tokenizer([words] * 20, vocab_size=300)
    shared = [token for token in other.get_vocab() if token in tokenizer.get_vocab()]
    assert any(other.get_vocab()[token] != tokenizer.get_vocab()[token] for token in shared)
    assert other.unk_token_id not in other(UNKNOWN)["input_ids"]
    return other


@torch.no_grad()
@pytest.mark.parametrize("renamed", [False, True])
def test_shared_words_are_read_and_predicted_as_before(tokenizer, other, renamed, tmp_path):
    if renamed:  # special tokens of other names, in other places
        names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
        words = sorted(set(other.get_vocab()) - set(other.all_special_tokens)) + list(names.values())
        vocabulary = {word: number for number, word in enumerate(words)}
        special = {f"{role}_token": name for role, name in names.items()}
        other = BertTokenizer(vocab=vocabulary, do_lower_case=True, **special)
    torch.manual_seed(0)
    model = VioletForMaskedLM.from_pretrained(pretrained("violet-tiny")).eval()
    pixels = torch.randn(1, 4, 3, 64, 64)
    shared = [word for word in KNOWN if len(tokenizer.tokenize(word)) == len(other.tokenize(word)) == 1]
    assert len(shared) > 3
    sentence = " ".join(shared)
    before = model(pixel_values_videos=pixels, **tokenizer(f"{sentence} {tokenizer.mask_token}", return_tensors="pt"))
    columns = tokenizer.convert_tokens_to_ids(shared)

    assert len(shared) + 5 <= exchange_vocabulary(model, tokenizer, other) < len(other)
    after = model(pixel_values_videos=pixels, **other(f"{sentence} {other.mask_token}", return_tensors="pt"))
    assert after.logits.shape[-1] == len(other) == model.config.vocab_size
    now = other.convert_tokens_to_ids(shared)
    torch.testing.assert_close(after.logits[..., now], before.logits[..., columns], rtol=0, atol=1e-5)
    assert before.logits.std() > 0.1
    new = model.get_input_embeddings().weight[other.convert_tokens_to_ids("zebra")]
    assert 0.02 < new.std() < 0.2, "as random as the model's configuration has it"
    config = model.config
    special = config.pad_token_id, config.bos_token_id, config.eos_token_id, config.mask_token_id
    assert special == (other.pad_token_id, other.cls_token_id, other.sep_token_id, other.mask_token_id)
    assert model.get_input_embeddings().padding_idx == other.pad_token_id
    model.save_pretrained(tmp_path)
    again, report = VioletForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    inputs = other(sentence, return_tensors="pt")
    torch.testing.assert_close(
        again.eval()(pixel_values_videos=pixels, **inputs).logits, model(pixel_values_videos=pixels, **inputs).logits
    )


def test_every_row_of_the_new_vocabulary_is_trained(tokenizer, other):
    model = VioletForMaskedLM.from_pretrained(pretrained("violet-tiny"))
    exchange_vocabulary(model, tokenizer, other)
    ids = torch.arange(len(other))[None, :60]
    model(pixel_values_videos=torch.randn(1, 4, 3, 64, 64), input_ids=ids, labels=ids).loss.backward()
    words = model.get_input_embeddings().weight.grad.abs().sum(1)
    assert (words[1:60] > 0).all() and words[other.pad_token_id] == 0
    assert (model.get_output_embeddings().weight.grad.abs().sum(1) > 0).all()


@pytest.mark.slow
def test_a_run_with_another_tokenizer_learns_writes_and_is_loaded_with_its_words(
    table, other, tmp_path, capfd, caplog
):
    """`violet-tiny` cannot say "jacket": with another vocabulary it is trained to, and does."""
    other.save_pretrained(tmp_path / "words")
    captions = [f"a {UNKNOWN} moves"] * 2
    options = [f"--tokenizer={tmp_path / 'words'}", "--learning_rate=3e-3", "--warmup_steps=0", "--max_steps=60"]
    options += ["--freeze_backbone=true"]
    assert finetune(table(*captions), tmp_path / "run", *options) == 0
    assert "keep what it learned of them" in caplog.text and "does not know" not in caplog.text
    model = VioletForCaptioning.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == len(other) and model.generation_config.eos_token_id == other.sep_token_id
    row = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    capfd.readouterr()
    assert main(["predict", "--model", str(tmp_path / "run"), "--video", row["video"]]) == 0
    assert capfd.readouterr().out.strip().endswith(captions[0])


def test_a_tokenizer_that_cannot_be_had_or_used_is_refused(table, tokenizer, tmp_path, capsys):
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]")
    plain.save_pretrained(tmp_path / "plain")
    for name, complaint in (
        (tmp_path / "plain", "has no pad_token, cls_token, sep_token, mask_token"),
        (tmp_path / "nothing" / "here", "the tokenizer cannot be had"),
    ):
        assert finetune(table("a red disc"), tmp_path / "run", f"--tokenizer={name}") == 2
        said = capsys.readouterr().err
        assert complaint in said and str(name) in said
        assert not (tmp_path / "run").exists()


def test_the_built_in_clips_have_no_word_that_violet_tiny_lacks(tokenizer, shapes_folder):
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    for name, task in TASKS.items():
        rows = task.rows(clips["train"])
        texts = [str(text) for column in task.reads if column in rows.column_names for text in rows[column]]
        words = table_words(texts, tokenizer)
        assert bool(words.counts) == bool(task.reads) and not words.unknown, name
