"""
`VioletForCaptioning`: what is written with a key-value cache is what is written by recomputing everything, in every
mode; a text by itself is the text in a batch; and what its training may see.
"""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig
from transformers.generation import BaseStreamer

from violet.configuration import named_configuration
from violet.core.upstream import CACHE_NAME
from violet.modeling_violet import VioletForCaptioning, VioletForMaskedLM

VOCABULARY, PLACES, TASKS = 40, 32, 4
PADDING, START, END, MASK = 0, 2, 3, 4
WORDS = 8
"""How many are written."""
VIDEO = 2 * (1 + 2 * 2)
"""Tokens of a clip of two frames of 2 x 2 patches."""
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
    "max_position_embeddings": PLACES,
    "num_task_tokens": TASKS,
    "initializer_range": 0.3,
    "fusion_norm": "post",
}


def build(model_class=VioletForCaptioning, seed=0, **overrides):
    torch.manual_seed(seed)
    return model_class(named_configuration("violet-tiny", **{**SMALL, **overrides})).eval()


@pytest.fixture(scope="module")
def model():
    return build()


def clips(videos=2, seed=1):
    return torch.randn(videos, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


# What may be given beside the videos: (texts, X) padded on the left, (texts, P) padded on the right.
PREFIXES = {
    "input_ids": torch.tensor([[PADDING, PADDING, START, 9], [START, 5, 6, 7]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
}
PROMPTS = {
    "prompt_ids": torch.tensor([[START, 11, 12, END], [START, END, 13, 13]]),
    "prompt_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}
TWO_OF_ONE = {
    "video_index": torch.tensor([1, 0, 1]),
    "input_ids": torch.tensor([[START, 8], [START, 8], [START, 9]]),
}
GIVEN = {
    "videos without texts": {},
    "unequal prefixes": PREFIXES,
    "unequal prompts": PROMPTS,
    "one prompt": {"prompt_ids": torch.tensor([[START, 11, 12]])},
    "tasks": {"task_ids": torch.tensor([1, 3])},
    "one task": {"task_ids": torch.tensor([2])},
    "two texts of one video": TWO_OF_ONE,
    "prefixes and prompts, crossed": {**PREFIXES, **PROMPTS, "video_index": torch.tensor([1, 0])},
}
MODES = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "several beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True},
    "several samples": {"do_sample": True, "num_return_sequences": 3, "top_k": 10},
    "sampled beams": {"do_sample": True, "num_beams": 3},
}
KINDS = {
    f"{'next word' if next_word else '[MASK]'}, {norm} norm": {"next_word_prediction": next_word, "fusion_norm": norm}
    for next_word in (False, True)
    for norm in ("post", "pre")
}


def write(model, seed=0, pixels=None, **options):
    torch.manual_seed(seed)
    options = {"max_new_tokens": WORDS, "min_new_tokens": WORDS - 2, **options}
    return model.generate(
        pixel_values_videos=clips() if pixels is None else pixels,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **options,
    )


def assert_same_writing(one, other, tolerance=1e-4):
    assert torch.equal(one.sequences, other.sequences)
    assert one.sequences[:, -(WORDS - 2) :].unique().numel() > 2, "the same word again and again would hide mistakes"
    assert len(one.logits) == len(other.logits) >= WORDS - 2
    for mine, theirs in ((one.logits, other.logits), (one.scores, other.scores)):
        mine, theirs = torch.stack(mine), torch.stack(theirs)
        shown = mine.isfinite()
        assert torch.equal(shown, theirs.isfinite()) and mine[shown].std() > 0.1
        torch.testing.assert_close(mine[shown], theirs[shown], atol=tolerance, rtol=0)


# --- with the cache and without ---


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("mode", MODES)
def test_the_cache_changes_nothing(model, mode, given):
    cached, recomputed = (write(model, **MODES[mode], **GIVEN[given], use_cache=use) for use in (True, False))
    assert_same_writing(cached, recomputed)


@pytest.mark.parametrize("mode", ["greedy", "sampled beams"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing_in_any_kind_of_model(kind, mode):
    model = build(**KINDS[kind])
    given = GIVEN["prefixes and prompts, crossed"]
    cached, recomputed = (write(model, **MODES[mode], **given, use_cache=use) for use in (True, False))
    assert_same_writing(cached, recomputed)


def test_both_kernels_write_the_same():
    model = build()
    fused = write(model, **PREFIXES, **PROMPTS)
    model.set_attn_implementation("eager")
    assert_same_writing(fused, write(model, **PREFIXES, **PROMPTS))


def test_a_seed_decides_what_is_sampled(model):
    one, same, other = (write(model, do_sample=True, seed=seed).sequences for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_videos_are_encoded_once(mode, use_cache):
    model, calls = build(), []
    model.violet.video_encoder.register_forward_hook(lambda module, given, output: calls.append(len(output.tokens)))
    write(model, **MODES[mode], use_cache=use_cache)
    assert calls == [2]
    write(model, **MODES[mode], **TWO_OF_ONE, use_cache=use_cache)
    assert calls == [2, 2], "a video of two texts is encoded once"


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_holds_video_prompt_and_words_and_never_the_mask(kind):
    model = build(**KINDS[kind])
    lengths, computed = [], []

    def look(module, arguments, given, output):
        lengths.append(output.cache.get_seq_length())
        computed.append(given["input_ids"].shape[1])

    model.register_forward_hook(look, with_kwargs=True)
    cache = write(model, **PREFIXES, **PROMPTS)[CACHE_NAME]
    held = VIDEO + 4 + 4  # video, prompt, and what was said before
    steps = len(lengths)
    assert steps >= WORDS - 2
    assert lengths == list(range(held, held + steps))
    assert cache.get_seq_length() == held + steps - 1  # the last word was only written
    ahead = 0 if model.config.next_word_prediction else 1
    assert computed == [4 + ahead] + [1 + ahead] * (steps - 1)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_writing_goes_on_from_a_cache_under_either_name(model, name):
    whole = write(model, **PROMPTS, max_new_tokens=6, min_new_tokens=6)
    first = write(model, **PROMPTS, max_new_tokens=3, min_new_tokens=3)
    rest = write(
        model,
        **PROMPTS,
        input_ids=first.sequences,
        attention_mask=torch.ones_like(first.sequences),
        **{name: first[CACHE_NAME]},
        max_new_tokens=3,
        min_new_tokens=3,
    )
    assert torch.equal(rest.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(rest.logits), torch.stack(whole.logits[3:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_forward_pass_fills_and_gives_back_a_cache_under_either_name(model, name):
    cache = DynamicCache(config=model.config)
    outputs = model(clips(), torch.full((2, 3), START), **{name: cache})
    assert outputs.cache is cache and outputs[CACHE_NAME] is cache
    assert cache.get_seq_length() == VIDEO + 3
    with pytest.raises(ValueError, match="not both"):
        model(clips(), torch.full((2, 3), START), cache=cache, past_key_values=cache)


# --- against loops over plain forward passes ---


@torch.no_grad()
@pytest.mark.parametrize("next_word", [False, True])
def test_a_word_is_read_where_it_will_stand_or_behind_the_word_before_it(next_word):
    model = build(next_word_prediction=next_word)
    written = write(model, **PROMPTS, do_sample=False, eos_token_id=None, min_new_tokens=WORDS)
    ids = torch.full((2, 1), START)
    for logits in written.logits:
        shown = ids if next_word else nn.functional.pad(ids, (0, 1), value=MASK)
        expected = model(pixel_values_videos=clips(), input_ids=shown, **PROMPTS).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        ids = torch.cat([ids, expected.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written.sequences, ids)


@torch.no_grad()
def test_the_scores_that_are_returned_are_those_of_the_words(model):
    written = write(model, do_sample=False)
    scores = model.compute_transition_scores(written.sequences, written.logits, normalize_logits=True)
    said = written.sequences[:, 1:]
    for row in range(2):
        for step in range(said.shape[1]):
            logits = written.logits[step][row].double()
            probability = logits[said[row, step]].exp() / logits.exp().sum()
            assert scores[row, step].item() == pytest.approx(math.log(probability), abs=1e-4)
    assert scores.std() > 0.01


@torch.no_grad()
def test_a_beam_is_as_probable_as_it_says_and_the_best_comes_first(model):
    beams = write(model, **MODES["several beams"], eos_token_id=None, min_new_tokens=WORDS, length_penalty=0.0)
    assert beams.sequences.shape == (4, 1 + WORDS)
    for row, score in enumerate(beams.sequences_scores.tolist()):
        words = beams.sequences[row : row + 1]
        total = 0.0
        for step in range(1, 1 + WORDS):
            shown = nn.functional.pad(words[:, :step], (0, 1), value=MASK)
            logits = model(pixel_values_videos=clips()[row // 2, None], input_ids=shown).logits[0, -1]
            total += logits.log_softmax(-1)[words[0, step]].item()
        assert score == pytest.approx(total, abs=1e-3)
    assert (beams.sequences_scores[::2] > beams.sequences_scores[1::2]).all()


# --- batches and padding ---


@pytest.mark.parametrize("next_word", [False, True])
@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_a_text_alone_without_padding_is_the_text_in_a_batch(next_word, mode):
    model = build(next_word_prediction=next_word)
    together = write(model, **PREFIXES, **PROMPTS, **MODES[mode]).sequences
    for row in range(2):
        prefix = PREFIXES["input_ids"][row][PREFIXES["attention_mask"][row].bool()]
        prompt = PROMPTS["prompt_ids"][row][PROMPTS["prompt_attention_mask"][row].bool()]
        alone = write(
            model, pixels=clips()[row, None], input_ids=prefix[None], prompt_ids=prompt[None], **MODES[mode]
        ).sequences[0]
        alone = alone[len(prefix) :]
        assert alone.unique().numel() > 1
        assert torch.equal(together[row, 4 : 4 + len(alone)], alone)
        assert (together[row, 4 + len(alone) :] == PADDING).all()


@torch.no_grad()
def test_what_stands_under_the_padding_of_a_prompt_does_not_matter(model):
    other = {**PROMPTS, "prompt_ids": PROMPTS["prompt_ids"].masked_fill(PROMPTS["prompt_attention_mask"] == 0, 17)}
    assert_same_writing(write(model, **PROMPTS), write(model, **other), tolerance=1e-6)
    seen = write(model, prompt_ids=other["prompt_ids"])
    assert not torch.equal(torch.stack(seen.logits)[0], torch.stack(write(model, **other).logits)[0])


def test_an_index_is_the_same_as_repeating_the_videos(model):
    repeated = write(model, pixels=clips()[TWO_OF_ONE["video_index"]], input_ids=TWO_OF_ONE["input_ids"])
    assert_same_writing(write(model, **TWO_OF_ONE), repeated)


def test_encoded_videos_serve_in_place_of_pixels(model):
    with torch.no_grad():
        encoded = model.violet.encode_videos(clips())
    calls = []
    hook = model.violet.video_encoder.register_forward_hook(lambda *_: calls.append(1))
    again = model.generate(video_tokens=encoded, max_new_tokens=WORDS, min_new_tokens=WORDS - 2)
    hook.remove()
    assert not calls
    assert torch.equal(again, write(model).sequences)


# --- where it ends, and how it comes out ---


@pytest.mark.parametrize("most", [1, 5])
def test_no_more_words_than_allowed(model, most):
    assert write(model, max_new_tokens=most, min_new_tokens=most).sequences.shape == (2, 1 + most)
    ids = write(model, **PREFIXES, max_new_tokens=None, max_length=4 + most, min_new_tokens=most).sequences
    assert ids.shape == (2, 4 + most)


def test_a_text_ends_at_its_end_and_is_padded_while_others_go_on(model):
    free = write(model, eos_token_id=None, min_new_tokens=WORDS, do_sample=False).sequences
    end = next(word for word in free[0, 2:6].tolist() if word not in free[1].tolist())
    place = free[0].tolist().index(end)
    ended = write(model, eos_token_id=end, min_new_tokens=0, do_sample=False).sequences
    assert torch.equal(ended[1], free[1])
    assert torch.equal(ended[0, : place + 1], free[0, : place + 1])
    assert (ended[0, place + 1 :] == PADDING).all() and place < WORDS


def test_the_configurations_end_ends_a_text():
    model = build()
    with torch.no_grad():
        model.mlm_head.decoder.bias[END] = 1e4
    assert write(model, min_new_tokens=0).sequences.tolist() == [[START, END]] * 2


class Listener(BaseStreamer):
    def __init__(self):
        self.heard, self.ended = [], False

    def put(self, value):
        assert not self.ended
        self.heard.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_words_are_streamed_one_by_one(model):
    listener = Listener()
    ids = write(model, pixels=clips(1), streamer=listener).sequences[0].tolist()
    assert listener.ended and len(ids) > WORDS - 2
    assert listener.heard == [[word] for word in ids]


def test_what_is_returned_is_a_tensor_unless_more_is_asked_for(model):
    ids = model.generate(pixel_values_videos=clips(), max_new_tokens=WORDS, min_new_tokens=WORDS - 2)
    assert torch.is_tensor(ids) and torch.equal(ids, write(model).sequences)


# --- what is refused ---


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"max_new_tokens": PLACES + 9, "min_new_tokens": PLACES + 9}, f"max_position_embeddings` {PLACES}"),
        ({"input_ids": torch.full((3, 1), START)}, "3 texts and 2 videos.*video_index"),
        ({"prompt_ids": torch.full((3, 2), START)}, "prompt_ids.*3 rows for 2 texts"),
        ({"task_ids": torch.tensor([0, 1, 2])}, r"task_ids.*\(3,\) for 2 texts"),
        ({"video_index": torch.tensor([0, 1, 1]), "input_ids": torch.full((2, 1), START)}, "video_index.*2 texts"),
        ({"prompt_lookup_num_tokens": 2}, "Assisted decoding"),
        ({"assistant_model": "the model"}, "Assisted decoding"),
        ({"cache_implementation": "static"}, "cache"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_written_is_refused(model, options, complaint):
    if "assistant_model" in options:
        options = {"assistant_model": model}
    with pytest.raises(ValueError, match=complaint):
        write(model, **options)


def test_a_generation_configuration_cannot_ask_for_assisted_decoding_either(model):
    with pytest.raises(ValueError, match="Assisted decoding"):
        model.generate(pixel_values_videos=clips(), generation_config=GenerationConfig(prompt_lookup_num_tokens=2))


@pytest.mark.parametrize("both", [False, True])
def test_videos_are_given_once(model, both):
    tokens = model.violet.encode_videos(clips())
    given = {"pixel_values_videos": clips(), "video_tokens": tokens} if both else {}
    with pytest.raises(ValueError, match="pixel_values_videos.*video_tokens"):
        model.generate(**given)


def test_a_cache_needs_the_sequence_to_sequence_rule(model):
    with pytest.raises(ValueError, match="sequence_to_sequence"):
        model.violet(clips(), torch.full((2, 3), START), cache=DynamicCache(config=model.config))


# --- training ---

IDS = torch.tensor([[START, MASK, 9, MASK, 11, END, PADDING], [START, 12, MASK, 14, 15, 16, END]])
SHOWN = (IDS != PADDING).long()


def cross_entropy_by_hand(logits, wanted):
    """Mean over (row, place, word) of the negative logarithm of the word's probability there."""
    losses = []
    for row, place, word in wanted:
        powers = logits[row, place].double().exp()
        losses.append(-math.log(powers[word] / powers.sum()))
    assert len(losses) > 2 and max(losses) - min(losses) > 1e-2
    return sum(losses) / len(losses)


@torch.no_grad()
def test_the_loss_is_that_of_the_masked_words_under_the_sequence_to_sequence_rule(model):
    labels = torch.full_like(IDS, -100)
    labels[0, 1], labels[0, 3], labels[1, 2] = 8, 10, 13
    other = build(VioletForMaskedLM)
    other.load_state_dict(model.state_dict())
    given = {"pixel_values_videos": clips(), "input_ids": IDS, "attention_mask": SHOWN}
    logits = other(**given, attention_rule="sequence_to_sequence").logits
    expected = cross_entropy_by_hand(logits, [(0, 1, 8), (0, 3, 10), (1, 2, 13)])
    assert model(**given, labels=labels).loss.item() == pytest.approx(expected, abs=1e-5)
    bidirectional = cross_entropy_by_hand(other(**given).logits, [(0, 1, 8), (0, 3, 10), (1, 2, 13)])
    assert abs(bidirectional - expected) > 1e-2


@torch.no_grad()
def test_the_loss_of_next_words_is_that_of_each_word_behind_the_one_before_it():
    model = build(next_word_prediction=True)
    ids = torch.where(IDS == MASK, 13, IDS)
    labels = ids.masked_fill(SHOWN == 0, -100)
    labels[1, 3] = -100  # one that is not to be predicted
    output = model(pixel_values_videos=clips(), input_ids=ids, attention_mask=SHOWN, labels=labels)
    wanted = [
        (row, place, ids[row, place + 1]) for row in range(2) for place in range(6) if labels[row, place + 1] >= 0
    ]
    assert len(wanted) == 5 + 5
    assert output.loss.item() == pytest.approx(cross_entropy_by_hand(output.logits, wanted), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [1, 3, 6])
def test_no_place_sees_a_word_behind_it(kind, place):
    model = build(**KINDS[kind])
    changed = IDS.clone()
    changed[:, place] = 20
    one, other = (model(pixel_values_videos=clips(), input_ids=ids, **PROMPTS).logits for ids in (IDS, changed))
    moved = (one - other).abs().amax((0, 2)) > 1e-5
    assert moved.tolist() == [i >= place for i in range(7)]


def test_training_lowers_the_loss_of_what_is_then_written():
    model = build(next_word_prediction=False, initializer_range=0.08)
    captions = torch.tensor([[START, 20, 21, 22, END], [START, 30, 21, 32, END]])
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        masked = torch.arange(5) == 1 + step % 4
        ids = captions.masked_fill(masked, MASK)
        loss = model(pixel_values_videos=clips(), input_ids=ids, labels=captions.masked_fill(~masked, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert torch.equal(copy.deepcopy(model).eval().generate(pixel_values_videos=clips(), max_new_tokens=4), captions)
