"""VioletForVideoClassification: scores of videos without a text, one label or several."""

import pytest
import torch
from torch import nn

from violet import VioletForVideoClassification, named_configuration
from violet.modeling_violet.modeling_classification import ONE_LABEL, SEVERAL_LABELS

CLASSES = 5


def model_of(**settings) -> VioletForVideoClassification:
    torch.manual_seed(0)
    settings = {"id2label": {number: f"class {number}" for number in range(CLASSES)}, **settings}
    return VioletForVideoClassification(named_configuration("violet-tiny", **settings)).eval()


@pytest.fixture(scope="module")
def videos() -> torch.Tensor:
    return torch.randn(3, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_each_video_is_scored_by_itself_and_its_frames_have_an_order(videos):
    model = model_of()
    with torch.no_grad():
        logits = model(videos).logits
        alone = torch.cat([model(video[None]).logits for video in videos])
        backwards = model(videos.flip(1)).logits
        longer = model(torch.cat([videos, videos], dim=1)[:, :6, :, :48]).logits
    assert logits.shape == (3, CLASSES) and logits.std() > 1e-3
    assert torch.allclose(logits, alone, atol=1e-5)
    assert not torch.allclose(logits, backwards, atol=1e-3)
    assert longer.shape == (3, CLASSES), "other lengths and sizes"


def test_one_label_is_learned_by_cross_entropy_without_rows_that_have_none(videos):
    model = model_of()
    output = model(videos, labels=torch.tensor([1, -100, 4]))
    expected = nn.functional.cross_entropy(output.logits[[0, 2]], torch.tensor([1, 4]))
    assert output.loss.item() == pytest.approx(expected.item())
    assert model.config.problem_type == ONE_LABEL, "found by the labels' shape"
    with pytest.raises(ValueError, match=r"`labels` has shape \(3, 5\); single_label_classification needs \(3,\)"):
        model(videos, labels=torch.zeros(3, CLASSES))


def test_several_labels_are_learned_each_by_itself(videos):
    model, smooth = model_of(), model_of(label_smoothing=0.2)
    labels = torch.tensor([[1, 0, 0, 1, 0], [0] * 5, [-100] * 5])
    output = model(videos, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits[:2], labels[:2].float())
    assert output.loss.item() == pytest.approx(expected.item())
    assert model.config.problem_type == SEVERAL_LABELS
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits[:2], labels[:2] * 0.8 + 0.1)
    assert smooth(videos, labels=labels).loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"`labels` has shape \(3,\); multi_label_classification needs \(3, 5\)"):
        model(videos, labels=torch.tensor([0, 1, 2]))


def test_what_it_says_that_no_pass_reads_gets_no_gradient_and_all_else_does(videos):
    model = model_of(num_task_tokens=2).train()
    model(videos, labels=torch.tensor([1, 0, 4])).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    unread = {id(parameter) for parameter in model.unread_parameters()}
    assert without == {name for name, parameter in model.named_parameters() if id(parameter) in unread}
    assert {name.split(".")[1] for name in without} == {"text_embeddings", "projection", "task_tokens"}


def test_rows_of_one_video_share_its_scores(videos):
    model = model_of()
    index = torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        rows = model(videos, video_index=index, labels=torch.tensor([0, 1, 2, 3]))
        again = model(video_tokens=model.violet.encode_videos(videos)).logits
        expected = model(videos).logits
    assert torch.equal(rows.logits, expected[index]) and torch.equal(again, expected) and rows.loss > 0
    with pytest.raises(ValueError, match="exactly one of `pixel_values_videos` and `video_tokens`"):
        model(labels=torch.tensor([0]))


def test_everything_that_a_video_passes_learns_and_the_text_side_does_not(videos):
    model = model_of(num_task_tokens=2).train()
    model(videos, labels=torch.tensor([0, 1, 2])).loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    text_side = ("violet.text_embeddings.", "violet.projection.", "violet.task_tokens")
    assert {name for name, _ in model.named_parameters() if not name.startswith(text_side)} == learned


def test_states_and_attentions_are_recorded(videos):
    model = model_of()
    model.set_attn_implementation("eager")
    output = model(videos, output_hidden_states=True, output_attentions=True)
    tokens = 4 * (1 + 2 * 2)  # four frames, a special token each, a grid of two by two
    assert [tuple(states.shape) for states in output.hidden_states] == [(3, tokens, 128)] * 4
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, 4, tokens, tokens)] * 3


def test_a_regression_is_refused():
    with pytest.raises(ValueError, match="`problem_type`: 'regression' is no classification"):
        model_of(problem_type="regression")
