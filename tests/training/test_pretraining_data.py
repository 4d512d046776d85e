"""Batches as a pure function of the step, from real mp4 and png files."""

import pytest
import torch
from datasets import Dataset

from violet.configuration import VioletVisionConfig
from violet.data import moving_shapes
from violet.data.loading import ClipReader
from violet.modeling_violet.encoders import find_encoder
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training.masking import Masking
from violet.training.mixture import BLOCK, MixtureSchedule
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator

SIDE, GROUP, BATCH = 32, 4, 8
ENCODER = find_encoder(VioletVisionConfig(depths=(1, 1), num_heads=(4, 8)))  # cells of 8 pixels
KINDS = {"random": 1.0, "block": 1.0, "attended": 1.0}
OBJECTIVES = [(1.0, 0, {"vtm": 1.0, "mlm": 1.0}), (2.0, 0, {"vtc": 1.0})]


@pytest.fixture(scope="module")
def rows(shapes_folder):
    return moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)["train"]


@pytest.fixture(scope="module")
def processor(rows):
    tokenizer = train_wordpiece_tokenizer(rows["caption"], 200)
    return VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=3))


@pytest.fixture(scope="module")
def images(rows, tmp_path_factory):
    """Stills of the clips, as png files without an id."""
    from PIL import Image

    from violet.processing import decode_video

    folder = tmp_path_factory.mktemp("images")
    table = {"video": [], "caption": []}
    for row in rows.select(range(10)):
        path = folder / f"{row['id']}.png"
        Image.fromarray(decode_video(row["video"]).frames[0]).save(path)
        table["video"].append(str(path))
        table["caption"].append(row["caption"])
    return Dataset.from_dict(table)


@pytest.fixture(scope="module")
def batches(processor, rows, images):
    """Builds a mixture of the videos and the images, or only of the videos."""

    def build(mixture=True, batch_size=BATCH, seed=3, rank=0, world_size=1, table=rows, kinds=KINDS, **collating):
        sources = [CaptionedVideos("videos", table, num_frames=3, weight=1.0)]
        if mixture:
            sources.append(CaptionedVideos("images", images, num_frames=1, weight=1.0))
        sizes = [(source.num_frames, SIDE, SIDE) for source in sources]
        schedule = MixtureSchedule([source.weight for source in sources], sizes, OBJECTIVES, seed)
        settings = {"num_negatives": 2, "group_size": GROUP, "seed": seed, **collating}
        collator = PretrainingCollator(processor, Masking(kinds, 0.4, 0.3), ENCODER, **settings)
        return PretrainingBatches(sources, schedule, collator, batch_size, seed, rank, world_size)

    return build


def assert_equal_batches(one, other):
    assert one.keys() == other.keys() and one["pixel_values_videos"].float().std() > 20
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def test_wrong_captions_are_passed_on_where_every_row_has_one(batches, rows, processor):
    batch = batches(mixture=False)[0]
    said = processor.tokenizer.batch_decode(batch["wrong_ids"], skip_special_tokens=True)
    wrong = {row["id"]: row["wrong_caption"].replace(",", " ,") for row in rows}
    assert [text.replace(",", " ,").replace("  ", " ") for text in said] == [wrong[name] for name in batch["ids"]]
    assert batch["wrong_attention_mask"].shape == batch["wrong_ids"].shape
    table = rows.remove_columns("wrong_caption")
    assert "wrong_ids" not in batches(mixture=False, table=table)[0]


STEPS = [0, 1, 5, 2, BLOCK - 1, BLOCK, 3]


@pytest.fixture(scope="module")
def expected(batches):
    data = batches()
    return {step: data[step] for step in STEPS}


def test_a_step_is_the_same_in_any_order_and_in_a_fresh_process(batches, expected, processor):
    assert {batch["pixel_values_videos"].shape[1] for batch in expected.values()} == {1, 3}, "images and videos"
    assert {tuple(batch["objectives"]) for batch in expected.values()} == {("vtm", "mlm"), ("vtc",)}
    assert len({tuple(batch["ids"]) for batch in expected.values()}) == len(STEPS)
    backwards = batches(reader=ClipReader(processor.video_processor, 10**7))
    for step in STEPS[::-1]:
        torch.manual_seed(step)
        assert_equal_batches(expected[step], backwards[step])
        assert_equal_batches(expected[step], batches()[step])
        assert_equal_batches(expected[step], backwards[step])  # now from memory
    assert backwards.collator.reader.clips


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_step_is_the_same_from_any_number_of_workers(batches, expected, workers):
    loader = torch.utils.data.DataLoader(batches(), batch_size=None, sampler=STEPS, num_workers=workers)
    for step, batch in zip(STEPS, loader, strict=True):
        assert_equal_batches(expected[step], batch)


def test_another_seed_gives_other_rows_masks_and_negatives(batches, expected):
    other = batches(seed=4)
    assert any(other[step]["ids"] != expected[step]["ids"] for step in STEPS)
    same = [(batches(mixture=False, seed=seed)[0]) for seed in (3, 4)]
    assert not torch.equal(same[0]["bool_masked_pos"], same[1]["bool_masked_pos"])


def padded(batches_of_ranks, name):
    """The ranks' texts one behind the other, the shorter ones padded as the tokenizer pads."""
    fill = {"labels": IGNORE_INDEX}.get(name, 0)
    longest = max(batch[name].shape[1] for batch in batches_of_ranks)
    parts = [
        torch.nn.functional.pad(batch[name], (0, longest - batch[name].shape[1]), value=fill)
        for batch in batches_of_ranks
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("hard", [False, True])
def test_two_processes_share_the_batch_of_one(batches, rows, hard):
    """Their texts are padded to other lengths, which must change neither masks nor noise."""
    captions = [" ".join(row["caption"].split()[: 3 + i % 3 if i % 6 else None]) for i, row in enumerate(rows)]
    table = rows.remove_columns("caption").add_column("caption", captions)
    whole = batches(hard_negatives=hard, table=table)
    ranks = [batches(rank=rank, world_size=2, hard_negatives=hard, table=table) for rank in (0, 1)]
    attended = 0  # of those in a batch whose texts are shorter than the whole batch's
    for step in range(8):
        one, two = whole[step], [data[step] for data in ranks]
        assert [len(batch["ids"]) for batch in two] == [BATCH // 2] * 2
        assert one["ids"] == two[0]["ids"] + two[1]["ids"]
        assert one["objectives"] == two[0]["objectives"] == two[1]["objectives"]
        for name in ("pixel_values_videos", "bool_masked_pos"):
            assert torch.equal(one[name], torch.cat([batch[name] for batch in two])), name
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(one[name], padded(two, name)), name
        shifted = torch.where(two[1]["negative_index"] < 0, -1, two[1]["negative_index"] + BATCH // 2)
        assert torch.equal(one["negative_index"], torch.cat([two[0]["negative_index"], shifted]))
        patches = one["bool_masked_pos"][0].numel()
        for rank, batch in enumerate(two):
            mine = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
            if "attended" not in batch:
                assert not one.get("attended", torch.zeros(BATCH) > 0)[mine].any()
                continue
            chosen = batch["attended"]
            attended += int(chosen.sum()) * (batch["input_ids"].shape[1] < one["input_ids"].shape[1])
            assert torch.equal(chosen, one["attended"][mine])
            places = patches + batch["input_ids"].shape[1]
            assert torch.equal(batch["mask_noise"][chosen], one["mask_noise"][mine, :places][chosen])
    assert attended >= 2, "the case is there"


@pytest.mark.parametrize("batch_size", [BATCH, 16])
def test_in_an_epoch_each_row_is_seen_once(batches, rows, batch_size):
    """16 does not divide the 24 rows: a batch lies in two epochs."""
    data = batches(mixture=False, batch_size=batch_size)
    seen = [name for step in range(3 * 24 // batch_size) for name in data[step]["ids"]][:48]
    epochs = [seen[:24], seen[24:48]] if batch_size == 16 or len(seen) >= 48 else [seen[:24]]
    for epoch in epochs:
        assert sorted(epoch) == sorted(rows["id"])
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_a_row_is_masked_anew_in_each_epoch(batches):
    data = batches(mixture=False, kinds={"random": 1.0})
    epochs = []
    for start in (0, 3):
        steps = [data[step] for step in range(start, start + 3)]
        masks = torch.cat([batch["bool_masked_pos"] for batch in steps])
        epochs.append(dict(zip([name for batch in steps for name in batch["ids"]], masks, strict=True)))
    assert all(not torch.equal(mask, epochs[1][name]) for name, mask in epochs[0].items())


@pytest.mark.parametrize("hard, most", [(False, 2), (True, GROUP - 1)])
def test_negatives_are_of_the_group_and_of_other_words(batches, rows, hard, most):
    captions = ["the same words" if i % 3 else row["caption"] for i, row in enumerate(rows)]
    table = rows.remove_columns("caption").add_column("caption", captions)
    data = batches(mixture=False, table=table, hard_negatives=hard)
    caption_of = dict(zip(table["id"], captions, strict=True))
    found, short, orders = 0, 0, set()
    for step in range(12):
        batch = data[step]
        said = [caption_of[name] for name in batch["ids"]]
        assert batch["negative_index"].shape == (BATCH, most)
        for row, negatives in enumerate(batch["negative_index"].tolist()):
            others = [other for other in negatives if other != -1]
            assert negatives == others + [-1] * (most - len(others)), "−1 stands behind"
            assert len(set(others)) == len(others) and row not in others
            assert all(other // GROUP == row // GROUP and said[other] != said[row] for other in others)
            group = range(row // GROUP * GROUP, (row // GROUP + 1) * GROUP)
            assert len(others) == min(most, sum(said[other] != said[row] for other in group))
            found, short = found + len(others), short + (len(others) < most)
            orders.add(tuple(other % GROUP for other in others))
    assert found > 50 and short > 10 and len(orders) > 6, "drawn, and both cases are there"


def test_all_texts_alike_leave_no_negative(batches, rows):
    table = rows.remove_columns("caption").add_column("caption", ["one text"] * len(rows))
    assert (batches(mixture=False, table=table)[0]["negative_index"] == -1).all()


def test_masked_words_are_words_and_labels_say_which(batches, processor, rows):
    tokenizer = processor.tokenizer
    caption_of = dict(zip(rows["id"], rows["caption"], strict=True))
    data = batches(mixture=False, kinds={"block": 1.0})
    hidden = 0
    for step in range(3):
        batch = data[step]
        masked = batch["labels"] >= 0
        assert torch.equal(masked, batch["input_ids"] == tokenizer.mask_token_id)
        restored = torch.where(masked, batch["labels"], batch["input_ids"])
        said = tokenizer.batch_decode(restored, skip_special_tokens=True)
        assert [text.replace(" ,", ",") for text in said] == [caption_of[name] for name in batch["ids"]]
        assert not set(batch["labels"][masked].tolist()) & set(tokenizer.all_special_ids)
        assert torch.equal(batch["attention_mask"] == 0, restored == tokenizer.pad_token_id)
        assert batch["bool_masked_pos"].shape == (BATCH, 3, SIDE // 8, SIDE // 8)
        hidden += int(masked.sum())
    assert hidden > 20


@pytest.mark.parametrize("batch_size, world_size", [(6, 1), (12, 2), (4, 2)])
def test_a_batch_that_cannot_be_shared_in_whole_groups_is_refused(batches, batch_size, world_size):
    with pytest.raises(ValueError, match=f"`batch_size` {batch_size}.*{world_size} processes.*`group_size` {GROUP}"):
        batches(batch_size=batch_size, world_size=world_size)
