"""`VioletForMultipleChoice` and `VioletForRetrieval`: against one pair at a time, and against losses by hand."""

import copy
import math

import numpy as np
import pytest
import torch

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForMultipleChoice, VioletForRetrieval

VOCABULARY = 40
SMALL = {
    "vision_config": {
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": (2, 2, 2),
        "drop_path_rate": 0.0,
        "initializer_range": 0.3,
    },
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "num_task_tokens": 4,
    "initializer_range": 0.3,
    "classifier_dropout": 0.0,
    "projection_dim": None,
}


def build(model_class, seed=0, **overrides):
    torch.manual_seed(seed)
    return model_class(named_configuration("violet-tiny", **{**SMALL, **overrides})).eval()


def clips(videos, seed=1):
    return torch.randn(videos, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def words(*shape, seed=2):
    return torch.randint(5, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def padding(*lengths, width):
    """Masks of texts of those lengths, (texts, width)."""
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def assert_same(one, other, tolerance=1e-5):
    assert one.numel() > 1 and one.std() > 1e-2, "an empty or constant tensor would agree with anything"
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_same_gradients(one, other):
    compared = 0
    for name, parameter in one.named_parameters():
        gradient = other.get_parameter(name).grad
        assert (gradient is None) is (parameter.grad is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
            compared += bool(gradient.abs().max() > 1e-3)
    assert compared > 40


def count_rows(*modules):
    """How many rows each call of each module gets: one list per module."""
    rows = [[] for _ in modules]
    for module, found in zip(modules, rows, strict=True):
        module.register_forward_hook(lambda _, given, output, found=found: found.append(len(output)))
    return rows


# --- multiple choice ---


@pytest.fixture(scope="module")
def chooser():
    return build(VioletForMultipleChoice)


OPTIONS = words(2, 3, 6)
LENGTHS = padding(6, 4, 5, 3, 6, 6, width=6).view(2, 3, 6)


@torch.no_grad()
def test_each_option_is_scored_as_if_it_were_alone(chooser):
    together = chooser(clips(2), OPTIONS, LENGTHS).logits
    assert together.shape == (2, 3)
    alone = torch.stack(
        [
            chooser(clips(2)[i, None], OPTIONS[i, k, : LENGTHS[i, k].sum()][None, None]).logits[0, 0]
            for i in range(2)
            for k in range(3)
        ]
    )
    assert_same(together, alone.view(2, 3))


@torch.no_grad()
def test_an_option_that_is_all_padding_is_none(chooser):
    mask = LENGTHS.clone()
    mask[0, 1] = mask[1, 2] = 0
    scores = chooser(clips(2), OPTIONS, mask).logits
    absent = torch.tensor([[False, True, False], [False, False, True]])
    assert (scores[absent] == float("-inf")).all()
    assert_same(scores[~absent], chooser(clips(2), OPTIONS, LENGTHS).logits[~absent])


def test_an_absent_option_has_no_part_in_the_loss_nor_in_the_gradient():
    mask, labels = LENGTHS.clone(), torch.tensor([2, 0])
    mask[:, 1] = 0
    with_absent = build(VioletForMultipleChoice, label_smoothing=0.2)
    without = copy.deepcopy(with_absent)
    one = with_absent(clips(2), OPTIONS, mask, labels=labels).loss
    other = without(clips(2), OPTIONS[:, [0, 2]], LENGTHS[:, [0, 2]], labels=labels.clamp(max=1)).loss
    assert one > 0.1
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    assert_same_gradients(with_absent, without)


@torch.no_grad()
def test_questions_take_the_video_of_their_index(chooser):
    index = torch.tensor([1, 0, 1])
    questions = words(3, 2, 5)
    scores = chooser(clips(2), questions, video_index=index).logits
    assert_same(scores, chooser(clips(2)[index], questions).logits)
    assert (scores - chooser(clips(2)[1 - index], questions).logits).abs().max() > 1e-2


@torch.no_grad()
def test_options_of_a_video_meet_it_encoded_once():
    model = build(VioletForMultipleChoice)
    encoded, fused = count_rows(model.violet.video_encoder, model.match_head)
    model(clips(2), OPTIONS)
    assert encoded == [2] and fused == [6]
    tokens = model.violet.encode_videos(clips(2))
    assert_same(model(clips(2), OPTIONS).logits, model(video_tokens=tokens, input_ids=OPTIONS).logits)
    assert encoded == [2, 2, 2]


@torch.no_grad()
@pytest.mark.parametrize("name, rows", [("prompt_ids", words(2, 3, seed=5)), ("task_ids", torch.tensor([1, 3]))])
def test_a_questions_prompt_is_that_of_its_options(chooser, name, rows):
    together = chooser(clips(2), OPTIONS, **{name: rows}).logits
    alone = [chooser(clips(2)[i, None], OPTIONS[i, None], **{name: rows[i, None]}).logits for i in range(2)]
    assert_same(together, torch.cat(alone))
    for_all = chooser(clips(2), OPTIONS, **{name: rows[:1]}).logits
    assert_same(for_all[0], alone[0][0])
    assert (for_all[1] - alone[1][0]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_choices_is_the_cross_entropy_over_the_options(smoothing):
    model = build(VioletForMultipleChoice, label_smoothing=smoothing)
    questions, labels = words(3, 4, 5), [2, -100, 0]
    output = model(clips(3), questions, labels=torch.tensor(labels))
    losses = []
    for row, label in zip(output.logits.double().numpy(), labels, strict=True):
        surprise = np.log(np.exp(row).sum()) - row
        if label >= 0:
            losses.append((1 - smoothing) * surprise[label] + smoothing * surprise.mean())
    assert len(losses) == 2
    assert output.loss.item() == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert model(clips(3), questions, labels=torch.full((3,), -100)).loss == 0


@pytest.mark.parametrize("value", [3, 7, -1])
def test_an_option_that_is_not_there_is_no_label(chooser, value):
    with pytest.raises(ValueError, match=f"label {value} .*3 classes.*0 to 2"):
        chooser(clips(2), OPTIONS, labels=torch.tensor([0, value]))


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({}, "`input_ids` is missing.*options"),
        ({"input_ids": words(2, 6)}, r"shape \(2, 6\).*options"),
        ({"input_ids": words(2, 0, 6)}, r"shape \(2, 0, 6\).*options"),
        ({"input_ids": words(3, 2, 6)}, "3 questions and 2 videos.*video_index"),
        ({"input_ids": OPTIONS, "prompt_ids": words(3, 2)}, "prompt_ids.*3 rows for 2 questions"),
        ({"input_ids": OPTIONS, "task_ids": torch.tensor([0, 1, 2])}, "task_ids.*3 rows for 2 questions"),
        ({"input_ids": OPTIONS, "video_index": torch.tensor([0, 1, 1])}, r"video_index.*\(3,\) for 2 questions"),
        ({"input_ids": OPTIONS, "pixel_values_videos": None}, "pixel_values_videos.*video_tokens"),
    ],
)
def test_what_is_no_choice_is_refused(chooser, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        chooser(**{"pixel_values_videos": clips(2), **given})


# --- retrieval ---


@pytest.fixture(scope="module")
def searcher():
    return build(VioletForRetrieval)


TEXTS, SHOWN = words(4, 6, seed=3), padding(6, 3, 5, 4, width=6)


@torch.no_grad()
def test_all_pairs_at_once_are_the_pairs_one_by_one(searcher):
    together = searcher(clips(3), TEXTS, SHOWN).logits
    assert together.shape == (4, 3)
    alone = [
        searcher(clips(3)[j, None], TEXTS[i, : SHOWN[i].sum()][None]).logits[0, 0] for i in range(4) for j in range(3)
    ]
    assert_same(together, torch.stack(alone).view(4, 3), tolerance=1e-4)
    assert together.std(0).min() > 1e-2 and together.std(1).min() > 1e-2


@torch.no_grad()
def test_a_score_is_the_match_heads_over_the_temperature(searcher):
    base, index = searcher.violet, torch.tensor([0, 1, 2, 0])
    fused = base(clips(3), TEXTS, SHOWN, video_index=index)
    expected = searcher.match_head(fused.text_hidden_state[:, 0])[:, 0] / 0.05
    scores = searcher(clips(3), TEXTS, SHOWN).logits
    assert_same(scores[torch.arange(4), index], expected, tolerance=1e-4)


@pytest.mark.parametrize("pairs_per_pass", [1, 5, 12])
def test_the_number_of_pairs_in_a_pass_changes_neither_scores_nor_gradients(pairs_per_pass):
    whole = build(VioletForRetrieval, match_temperature=1.0)  # no gradient is magnified, nor its rounding
    parted = copy.deepcopy(whole)
    labels = torch.tensor([2, 0, 1, 1])
    (fused,) = count_rows(parted.match_head)
    one = whole(clips(3), TEXTS, SHOWN, labels=labels)
    other = parted(clips(3), TEXTS, SHOWN, labels=labels, pairs_per_pass=pairs_per_pass)
    assert sum(fused) == 12 and max(fused) == pairs_per_pass
    assert_same(one.logits, other.logits, tolerance=1e-4)
    torch.testing.assert_close(one.loss, other.loss)
    one.loss.backward()
    other.loss.backward()
    assert_same_gradients(whole, parted)


@torch.no_grad()
def test_what_is_recorded_has_a_row_a_pair_however_many_pass_at_once(searcher):
    given = {"output_hidden_states": True, "pairs_per_pass": 5}
    output = searcher(clips(3), TEXTS, SHOWN, **given)
    whole = searcher(clips(3), TEXTS, SHOWN, output_hidden_states=True)
    assert len(output.hidden_states) == len(whole.hidden_states) == 3
    for one, other in zip(output.hidden_states, whole.hidden_states, strict=True):
        assert one.shape == (12, 2 * 5 + 6, 32)
        assert_same(one, other)
    assert output.attentions is None


@pytest.mark.parametrize("pairs_per_pass", [2, 256])
def test_a_clip_is_encoded_once_and_a_text_embedded_once(pairs_per_pass):
    model = build(VioletForRetrieval)
    encoded, embedded = count_rows(model.violet.video_encoder, model.violet.text_embeddings)
    model(clips(3), TEXTS, SHOWN, labels=torch.tensor([0, 1, 2, 2]), pairs_per_pass=pairs_per_pass).loss.backward()
    assert encoded == [3] and embedded == [4]


@torch.no_grad()
def test_a_gallery_that_was_encoded_is_not_encoded_again():
    model = build(VioletForRetrieval)
    expected = model(clips(3), TEXTS, SHOWN).logits
    gallery = model.violet.encode_videos(clips(3))
    (encoded,) = count_rows(model.violet.video_encoder)
    assert_same(expected, model(video_tokens=gallery, input_ids=TEXTS, attention_mask=SHOWN).logits)
    assert encoded == []


@torch.no_grad()
@pytest.mark.parametrize("name, one", [("prompt_ids", words(1, 3, seed=5)), ("task_ids", torch.tensor([2]))])
def test_one_prompt_serves_all_pairs(searcher, name, one):
    scores = searcher(clips(3), TEXTS, SHOWN, **{name: one}).logits
    pair = searcher(clips(3)[1, None], TEXTS[2, None], SHOWN[2, None], **{name: one}).logits
    torch.testing.assert_close(scores[2, 1], pair[0, 0], atol=1e-4, rtol=1e-4)
    assert (scores - searcher(clips(3), TEXTS, SHOWN).logits).abs().max() > 1e-2


def retrieval_loss_by_hand(scores, video_of_text, directions, smoothing):
    """scores [text][video]; loops over videos and texts"""
    texts, videos = len(scores), len(scores[0])

    def surprise(choices, chosen):
        return math.log(sum(math.exp(score) for score in choices)) - choices[chosen]

    of_videos = []
    for video in range(videos):
        own = [text for text in range(texts) if video_of_text[text] == video]
        if own:
            column = [scores[text][video] for text in range(texts)]
            target = [(1 - smoothing) / len(own) * (text in own) + smoothing / texts for text in range(texts)]
            of_videos.append(sum(part * surprise(column, text) for text, part in enumerate(target)))
    loss = sum(of_videos) / len(of_videos)
    if directions == 2:
        of_texts = []
        for text in range(texts):
            target = [(1 - smoothing) * (video_of_text[text] == video) + smoothing / videos for video in range(videos)]
            of_texts.append(sum(part * surprise(scores[text], video) for video, part in enumerate(target)))
        loss += sum(of_texts) / texts
    return loss


@torch.no_grad()
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("temperature", [0.05, 1.5])
@pytest.mark.parametrize("labels", [[2, 0, 1, 3], [1, 0, 1, 1]], ids=["one text per video", "several, and none"])
def test_the_loss_of_retrieval_is_that_of_a_loop(directions, smoothing, temperature, labels):
    settings = {"retrieval_directions": directions, "label_smoothing": smoothing, "match_temperature": temperature}
    model = build(VioletForRetrieval, **settings)
    output = model(clips(4), TEXTS, SHOWN, labels=torch.tensor(labels))
    if temperature != 0.05:
        assert_same(output.logits * temperature, build(VioletForRetrieval)(clips(4), TEXTS, SHOWN).logits * 0.05)
    expected = retrieval_loss_by_hand(output.logits.double().tolist(), labels, directions, smoothing)
    assert expected > 0.05
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)


def test_training_makes_each_text_find_its_video():
    model = build(VioletForRetrieval, initializer_range=0.08, match_temperature=0.2).train()
    labels = torch.tensor([2, 0, 1, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = model(clips(3), TEXTS, SHOWN, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        assert torch.equal(model.eval()(clips(3), TEXTS, SHOWN).logits.argmax(1), labels)


@pytest.mark.parametrize("value", [3, -1, -100])
def test_a_video_that_is_not_there_is_no_label(searcher, value):
    with pytest.raises(ValueError, match=f"label {value} .*3 classes.*0 to 2"):
        searcher(clips(3), TEXTS, labels=torch.tensor([0, 1, 2, value]))


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({"input_ids": None}, "`input_ids` is missing"),
        ({"pixel_values_videos": None}, "pixel_values_videos.*video_tokens"),
        ({"prompt_ids": words(4, 2)}, "prompt_ids.*4 rows for 12 texts"),
        ({"task_ids": torch.tensor([0, 1, 2, 3])}, r"task_ids.*\(4,\) for 12 texts"),
    ],
)
def test_what_cannot_be_compared_is_refused(searcher, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        searcher(**{"pixel_values_videos": clips(3), "input_ids": TEXTS, **given})
