import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from violet import QuestionCollator
from violet.data.loading import Clip, ClipReader
from violet.processing.decoder_process import DecoderProcess
from violet.training.collating import shuffled
from violet.training.sampling import GroupedSampler

GROUPS = ["a", "b", "a", "c", "b", "a", "d"]


def order(sampler, epoch):
    sampler.set_epoch(epoch)
    assert {seen for seen, _ in sampler} == {epoch}
    return [row for _, row in sampler]


def test_every_row_comes_once_and_the_rows_of_a_group_side_by_side():
    rows = order(GroupedSampler(GROUPS, seed=0), epoch=0)
    assert sorted(rows) == list(range(7))
    names = [GROUPS[row] for row in rows]
    assert len(names) - 1 - sum(a == b for a, b in zip(names, names[1:], strict=False)) == len(set(names)) - 1


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(GroupedSampler(GROUPS, seed=3), epoch=5)
    torch.manual_seed(2)
    sampler = GroupedSampler(GROUPS, seed=3)
    order(sampler, epoch=4)
    assert order(sampler, epoch=5) == first
    orders = {tuple(order(GroupedSampler(GROUPS, seed=s), e)) for s in range(3) for e in range(3)}
    assert len(orders) > 5


def test_at_most_so_many_rows_of_a_group_drawn_anew_in_each_epoch():
    sampler = GroupedSampler(["a"] * 10 + ["b"], seed=0, rows_per_group=3)
    orders = [order(sampler, epoch) for epoch in range(30)]
    assert {len(rows) for rows in orders} == {len(sampler)} == {4}
    assert all(10 in rows for rows in orders)
    assert {row for rows in orders for row in rows} == set(range(11))


def test_rows_that_stand_apart_are_the_same_rows_with_many_groups_in_each_batch():
    groups = [str(number // 20) for number in range(400)]
    together, apart = (order(GroupedSampler(groups, seed=1, apart=apart), 2) for apart in (False, True))
    assert sorted(together) == sorted(apart) == list(range(400))

    def videos(rows):
        return min(len({groups[row] for row in rows[start : start + 20]}) for start in range(0, 400, 20))

    assert videos(together) == 1 and videos(apart) > 6


@pytest.fixture(scope="module")
def processor(model_folder):
    return AutoProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def rows(questions):
    return questions["train"].to_list()[:9]


def test_a_video_is_decoded_once_for_all_its_rows(processor, rows, monkeypatch):
    decoded = []
    decode = DecoderProcess.decode
    monkeypatch.setattr(
        DecoderProcess, "decode", lambda self, video, *rest: decoded.append(video) or decode(self, video, *rest)
    )
    batch = QuestionCollator(processor)([rows[8], *rows])
    videos = list(dict.fromkeys(row["video"] for row in [rows[8], *rows]))
    assert decoded == videos and 1 < len(videos) < 9
    assert batch["pixel_values_videos"].shape == (len(videos), 4, 3, 64, 64)
    assert batch["video_index"].tolist() == [videos.index(row["video"]) for row in [rows[8], *rows]]
    assert "labels" not in batch and "caption_ids" not in batch


def test_cached_frames_are_decoded_once_and_change_nothing(processor, rows, monkeypatch):
    expected = QuestionCollator(processor)(rows)["pixel_values_videos"]
    assert torch.equal(processor(videos=[row["video"] for row in rows])["pixel_values_videos"].unique(dim=0),
                       expected.unique(dim=0))  # fmt: skip
    two_clips = 2 * (4 * 64 * 64 * 3 + 1024)
    collator = QuestionCollator(processor, reader=ClipReader(processor.video_processor, two_clips))
    assert torch.equal(collator(rows)["pixel_values_videos"], expected)
    kept = set(collator.reader.clips)
    assert len(kept) == 2 < len(expected), "no more than the memory that it was given"
    for clip in kept:
        monkeypatch.setitem(collator.reader.clips, clip, Clip(np.zeros((4, 64, 64, 3), np.uint8), [0, 1, 2, 3]))
    changed = (collator(rows)["pixel_values_videos"] != expected).flatten(1).any(1)
    assert changed.sum() == 2, "the kept frames are used, not the files"


def test_labels_captions_and_texts_stand_in_the_rows_order(processor, rows):
    answers = sorted({row["answer"] for row in rows})[1:]
    label2id = {answer: number for number, answer in enumerate(answers)}
    batch = QuestionCollator(processor, label2id, captions=True)(rows)
    assert batch["labels"].tolist() == [label2id.get(row["answer"], -100) for row in rows]
    assert -100 in batch["labels"].tolist()
    said = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert [text.replace(" ?", "?") for text in said] == [row["question"] for row in rows]
    captions = processor.tokenizer.batch_decode(batch["caption_ids"], skip_special_tokens=True)
    assert captions == list(dict.fromkeys(row["caption"] for row in rows))


def test_answers_are_compared_without_case_and_spaces(processor, rows):
    batch = QuestionCollator(processor, {"two words": 0})([rows[0] | {"answer": "  Two  Words "}])
    assert batch["labels"].tolist() == [0]


def test_shuffling_always_changes_the_order_and_only_the_order(processor, rows):
    plain = QuestionCollator(processor)(rows)["pixel_values_videos"]
    mixed = QuestionCollator(processor, shuffle_frames=True)(rows)["pixel_values_videos"]
    again = QuestionCollator(processor, shuffle_frames=True)(rows[::-1])["pixel_values_videos"].flip(0)
    assert torch.equal(mixed, again), "the order is the clip's own, whatever the batch"
    for before, after in zip(plain, mixed, strict=True):
        places = [next(i for i in range(4) if torch.equal(before[i], frame)) for frame in after]
        assert sorted(places) == [0, 1, 2, 3] and places != [0, 1, 2, 3]
    one = torch.rand(1, 3)
    assert torch.equal(shuffled(one, "clip"), one)
