"""`video-question-answering` with each kind of head, from saved folders, against model and processor by hand."""

import math

import pytest
import torch
from transformers import AutoProcessor, pipeline

import violet
from violet.processing.questions import MASK_PLACES, masked_question, options_in_one_text

QUESTION = "what moves left?"


@pytest.fixture(scope="module")
def pipes(saved):
    names = ("VioletForQuestionAnswering", "VioletForMaskedLM", "VioletForMultipleChoice", "VioletForCaptioning")
    return {name: pipeline("video-question-answering", model=saved[name]) for name in names}


def load(folder, name):
    return getattr(violet, name).from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def scores_of(answers):
    return {entry["answer"]: entry["score"] for entry in answers}


def is_sorted(answers):
    scores = [entry["score"] for entry in answers]
    return scores == sorted(scores, reverse=True)


def test_the_pipeline_takes_the_class_that_was_saved(pipes, saved):
    for name, pipe in pipes.items():
        assert type(pipe.model).__name__ == name
        of_file, of_pipe = load(saved[name], name)[0].state_dict(), pipe.model.state_dict()
        assert all(torch.equal(of_pipe[key].cpu(), value) for key, value in of_file.items())


def test_a_pretrained_model_answers_by_its_masked_language_head(saved):
    pipe = pipeline("video-question-answering", model=saved["VioletForPreTraining"])
    assert type(pipe.model).__name__ == "VioletForMaskedLM"


@pytest.mark.parametrize(
    "task, name",
    [
        ("video-question-answering", "VioletModel"),
        ("video-question-answering", "VioletForRetrieval"),
        ("video-captioning", "VioletForQuestionAnswering"),
        ("video-fill-mask", "VioletForMultipleChoice"),
        ("video-text-retrieval", "VioletForMaskedLM"),
    ],
)
def test_a_checkpoint_without_the_head_is_refused_instead_of_starting_a_new_one(saved, task, name):
    with pytest.raises(ValueError, match=rf"holds {name}, which has no weights for"):
        pipeline(task, model=saved[name])


def test_a_masked_language_model_answers_with_the_words_at_the_appended_mask(pipes, saved, clips):
    model, processor = load(saved["VioletForMaskedLM"], "VioletForMaskedLM")
    inputs = processor(text=f"{QUESTION} answer: [MASK]", videos=clips[0])
    place = inputs["input_ids"][0].tolist().index(processor.tokenizer.mask_token_id)
    with torch.no_grad():
        expected = model(**inputs).logits[0, place].softmax(-1)
    answers = pipes["VioletForMaskedLM"](clips[0], QUESTION, top_k=4)
    assert len(answers) == 4 and is_sorted(answers)
    for entry in answers:
        token = processor.tokenizer.convert_tokens_to_ids(entry["answer"])
        assert entry["score"] == pytest.approx(expected[token].item(), abs=1e-5)
        assert token not in processor.tokenizer.all_special_ids


def test_answers_of_several_words_are_ranked_by_their_mean_log_probability(pipes, saved, clips):
    model, processor = load(saved["VioletForMaskedLM"], "VioletForMaskedLM")
    answers = ["disc", "red disc", "yes", "a blue square", "green cross"]
    expected = {}
    for answer in answers:
        tokens = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        inputs = processor(text=f"{QUESTION} answer: {'[MASK] ' * len(tokens)}", videos=clips[0])
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        places = (inputs["input_ids"][0] == processor.tokenizer.mask_token_id).nonzero().flatten().tolist()
        each = [logits[place].log_softmax(-1)[token].item() for place, token in zip(places, tokens, strict=True)]
        expected[answer] = math.exp(sum(each) / len(each))
    pipe = pipes["VioletForMaskedLM"]
    found = pipe(clips[0], QUESTION, answers=answers, top_k=10)
    assert is_sorted(found) and scores_of(found) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected.values())) == len(answers)
    both = pipe(clips[:2], [QUESTION, "it is a [MASK] shape"], answers=answers, top_k=10, batch_size=2)
    assert scores_of(both[0]) == pytest.approx(expected, abs=1e-5)
    assert scores_of(both[1]) == pytest.approx(
        scores_of(pipe(clips[1], "it is a [MASK] shape", answers=answers, top_k=10)), abs=1e-5
    )


def test_each_number_of_tokens_takes_one_pass(pipes, clips, monkeypatch):
    pipe, passes = pipes["VioletForMaskedLM"], []
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda **inputs: passes.append(1) or forward(**inputs))
    pipe(clips[0], QUESTION, answers=["disc", "cross", "red disc", "blue square", "a blue square"])
    assert len(passes) == 3


def test_a_question_may_have_its_own_mask(pipes, clips):
    pipe = pipes["VioletForMaskedLM"]
    own = pipe(clips[0], "a red [MASK] moves left")
    assert own == pipe(clips[0], "a red [MASK] moves left", mask_place="prepend")
    fill = pipeline("video-fill-mask", model=pipe.model, processor=pipe.processor)
    scores = {word["token_str"]: word["score"] for word in fill(clips[0], "a red [MASK] moves left", top_k=50)}
    assert all(scores[entry["answer"]] == pytest.approx(entry["score"], abs=1e-5) for entry in own)


def test_the_mask_stands_where_it_is_asked_to(pipes, saved, clips):
    model, processor = load(saved["VioletForMaskedLM"], "VioletForMaskedLM")
    pixels = processor(videos=clips[0])["pixel_values_videos"]
    seen = set()
    for place in MASK_PLACES:
        ids = torch.tensor([masked_question(processor.tokenizer, QUESTION, place)])
        mask = (ids != processor.tokenizer.pad_token_id).long()
        with torch.no_grad():
            logits = model(pixel_values_videos=pixels, input_ids=ids, attention_mask=mask).logits
        expected = logits[ids == processor.tokenizer.mask_token_id][0].softmax(-1)
        best = pipes["VioletForMaskedLM"](clips[0], QUESTION, mask_place=place, top_k=1)[0]
        token = processor.tokenizer.convert_tokens_to_ids(best["answer"])
        assert best["score"] == pytest.approx(expected[token].item(), abs=1e-5)
        seen.add(round(best["score"], 6))
    assert len(seen) == len(MASK_PLACES)


def test_options_beside_the_video_are_scored_by_the_match_head(pipes, saved, clips):
    model, processor = load(saved["VioletForMultipleChoice"], "VioletForMultipleChoice")
    options = ["a red disc", "cross", "the yellow ring"]
    inputs = processor(text=[f"{QUESTION} {option}" for option in options], videos=clips[0])
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name][None]
    with torch.no_grad():
        scores = model(**inputs).logits[0].softmax(-1).tolist()
    pipe = pipes["VioletForMultipleChoice"]
    found = pipe(clips[0], QUESTION, options=options)
    assert is_sorted(found) and scores_of(found) == pytest.approx(dict(zip(options, scores, strict=True)), abs=1e-5)
    # Questions of one batch may have unequal numbers of options.
    lists = [options, ["yes", "no"]]
    both = pipe(clips[:2], [QUESTION] * 2, options=lists, batch_size=2)
    assert scores_of(both[0]) == pytest.approx(scores_of(found), abs=1e-5)
    assert set(scores_of(both[1])) == {"yes", "no"}
    assert sum(scores_of(both[1]).values()) == pytest.approx(1)
    items = ({"video": clip, "question": QUESTION, "options": of} for clip, of in zip(clips[:2], lists, strict=True))
    assert [scores_of(one) for one in pipe(items)] == [pytest.approx(scores_of(one), abs=1e-5) for one in both]


def test_options_in_one_text_are_chosen_by_their_number(pipes, saved, clips):
    model, processor = load(saved["VioletForMaskedLM"], "VioletForMaskedLM")
    tokenizer, options = processor.tokenizer, ["red disc", "green cross", "blue square"]
    ids = options_in_one_text(tokenizer, QUESTION, options)
    pixels = processor(videos=clips[0])["pixel_values_videos"]
    with torch.no_grad():
        logits = model(pixel_values_videos=pixels, input_ids=torch.tensor([ids])).logits[0]
    digits = tokenizer.convert_tokens_to_ids(["0", "1", "2"])
    scores = logits[ids.index(tokenizer.mask_token_id)][digits].softmax(-1).tolist()
    pipe = pipes["VioletForMaskedLM"]
    found = pipe(clips[0], QUESTION, options=options)
    assert is_sorted(found) and scores_of(found) == pytest.approx(dict(zip(options, scores, strict=True)), abs=1e-5)
    both = pipe(clips[:2], QUESTION, options=[options, options[:2]], batch_size=2)
    assert [len(one) for one in both] == [3, 2]
    assert scores_of(both[0]) == pytest.approx(scores_of(found), abs=1e-5)


def test_a_captioning_model_writes_its_answer_after_the_question(pipes, saved, clips):
    model, processor = load(saved["VioletForCaptioning"], "VioletForCaptioning")
    prompt = processor(text=QUESTION, videos=clips[0])
    pixels = prompt["pixel_values_videos"]
    ids = model.generate(pixel_values_videos=pixels, prompt_ids=prompt["input_ids"], max_new_tokens=6)
    logs = []
    for step in range(1, ids.shape[1]):  # without cache: read at a [MASK] behind what is said
        said = torch.cat([ids[:, :step], torch.tensor([[processor.tokenizer.mask_token_id]])], dim=1)
        with torch.no_grad():
            logits = model(pixel_values_videos=pixels, input_ids=said, prompt_ids=prompt["input_ids"]).logits
        logs.append(logits[0, -1].log_softmax(-1)[ids[0, step]].item())
    pipe = pipes["VioletForCaptioning"]
    (answer,) = pipe(clips[0], QUESTION, max_new_tokens=6)
    assert answer["answer"] == processor.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert answer["score"] == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-4)
    questions = [QUESTION, "which colour comes first?"]
    together = pipe(clips[:2], questions, max_new_tokens=6, batch_size=2)
    for got, clip, question in zip(together, clips, questions, strict=False):
        (alone,) = pipe(clip, question, max_new_tokens=6)
        assert got[0]["answer"] == alone["answer"] and got[0]["score"] == pytest.approx(alone["score"], rel=1e-4)
    beams = pipe(clips[0], QUESTION, max_new_tokens=6, top_k=3)
    assert len({entry["answer"] for entry in beams}) == 3 and is_sorted(beams)


def test_what_a_model_cannot_do_is_said(pipes, clips):
    classifier, masked, choice, writer = pipes.values()
    video = clips[0]
    with pytest.raises(ValueError, match=r"there are none: pipe\(video, question, options="):
        choice(video, QUESTION)
    for pipe in (classifier, writer):
        with pytest.raises(ValueError, match="takes no `options`"):
            pipe(video, QUESTION, options=["a", "b"])
        with pytest.raises(ValueError, match="takes no `answers`"):
            pipe(video, QUESTION, answers=["a", "b"])
    with pytest.raises(ValueError, match="not both"):
        masked(video, QUESTION, options=["disc", "cross"], answers=["disc"])
    with pytest.raises(ValueError, match="list of options is empty"):
        choice(video, QUESTION, options=[])
    with pytest.raises(ValueError, match="list of answers is empty"):
        masked(video, QUESTION, answers=[])
    with pytest.raises(ValueError, match="must be a list of texts, got 'disc'"):
        choice(video, QUESTION, options="disc")
    with pytest.raises(ValueError, match="3 lists of options for questions: 2"):
        choice(clips[:2], QUESTION, options=[["a", "b"]] * 3)
    with pytest.raises(ValueError, match="cannot be written with the model's vocabulary"):
        masked(video, QUESTION, answers=["disc", "日本"])
    with pytest.raises(ValueError, match="not at 'middle'"):
        masked(video, QUESTION, mask_place="middle")
    with pytest.raises(ValueError, match=r"2 \[MASK\]s"):
        masked(video, "a [MASK] disc moves [MASK]")
    with pytest.raises(ValueError, match="vocabulary has no token '4'"):
        masked(video, QUESTION, options=["disc", "cross", "ring", "square", "yes"])
    with pytest.raises(TypeError, match="max_new_tokens"):
        classifier(video, QUESTION, max_new_tokens=3)
    base = violet.VioletModel(classifier.model.config)
    with pytest.raises(ValueError, match="VioletModel answers no questions"):
        pipeline("video-question-answering", model=base, processor=classifier.processor)(video, QUESTION)
