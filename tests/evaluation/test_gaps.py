"""What student and teacher answer as in training, at several temperatures and with several templates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sdft.data.templates import teacher_messages
from lightning_sdft.evaluation import gaps as module
from lightning_sdft.evaluation.gaps import MARGIN, Asker, Gap, closeness, proposed
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.interval import Score
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example, Sampling
from lightning_sdft.rollout import generate
from tests.modules.conftest import WORDS_TEMPLATE, question

OTHER = "w9 {prompt} {demonstration}"


class Long(Grader):
    """An answer is right if it has more words than the reference says; one of no word is not graded."""

    def grade(self, response: str, reference: int) -> bool | None:
        words = len(response.split())
        return None if words == 0 else words > reference


EXAMPLES = [Example(each.id, each.prompt, each.demonstration, reference=2) for each in map(question, range(12))]


def asker(policy: Policy, batch_size: int = 5, **sampling: Any) -> Asker:
    return Asker(policy, EXAMPLES, Long(), teacher_messages, Sampling(**sampling), 6, batch_size, seed=3)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_accuracies_are_those_of_each_prompt_alone(temperature: float, llama: Policy) -> None:
    gap = asker(llama, top_k=20).gap(temperature, WORDS_TEMPLATE)
    verdicts = []
    for shown in (False, True):
        given = []
        for index, example in enumerate(EXAMPLES):
            messages = teacher_messages(example, WORDS_TEMPLATE) if shown else example.prompt
            sampling = Sampling(temperature=temperature, top_k=20)
            (rollout,) = generate(llama, [llama.tokenizer.encode(messages)], 6, sampling, [3 * 12 + index])
            given.append(Long().grade(llama.tokenizer.decode(rollout.completion), 2))
        verdicts.append(given)
    for score, given in zip((gap.student, gap.teacher), verdicts, strict=True):
        graded = [each for each in given if each is not None]
        assert score.value == pytest.approx(sum(graded) / len(graded))
    pairs = [(after, before) for before, after in zip(*verdicts, strict=True) if None not in (after, before)]
    assert gap.gain.value == pytest.approx(sum(int(after) - int(before) for after, before in pairs) / len(pairs))  # type: ignore[call-overload]


def test_a_survey_looks_for_the_best_template_and_then_for_the_best_temperature(llama: Policy) -> None:
    state = torch.get_rng_state()
    gaps = asker(llama).survey(0.9, WORDS_TEMPLATE, [WORDS_TEMPLATE, OTHER])
    assert (gaps[0].temperature, gaps[0].template) == (0.9, WORDS_TEMPLATE)
    greedy = [each for each in gaps if each.temperature == 0]
    assert {each.template for each in greedy} == {WORDS_TEMPLATE, OTHER}
    best = proposed(greedy)
    expected = [(0.9, WORDS_TEMPLATE)]
    for temperature in (1.0, 0.9, 0.7, 0.5, 0.3):
        expected.append((temperature, best.template))
        if asker(llama).gap(temperature, best.template).gain.value >= best.gain.value - MARGIN:
            break
    warmer = [(each.temperature, each.template) for each in gaps if each.temperature]
    assert warmer == list(dict.fromkeys(expected))
    assert len(warmer) < 5  # there was no need to go on
    assert torch.equal(torch.get_rng_state(), state)
    again = asker(llama, batch_size=12).survey(0.5, WORDS_TEMPLATE)
    assert again[0] == asker(llama).gap(0.5, WORDS_TEMPLATE)


def test_only_what_is_set_and_what_is_chosen_are_asked_all_questions(
    llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEW", 5)
    gaps = asker(llama).survey(0.9, WORDS_TEMPLATE, [OTHER])
    few = Asker(llama, EXAMPLES[:5], Long(), teacher_messages, Sampling(), 6, seed=3)
    chosen = proposed(few.survey(0.9, WORDS_TEMPLATE, [OTHER]))
    whole = [each for each in gaps if each.questions == 12]
    ways = [(each.temperature, each.template) for each in whole]
    assert ways == list(dict.fromkeys([(0.9, WORDS_TEMPLATE), (chosen.temperature, chosen.template)]))
    assert {each.questions for each in gaps if each not in whole} == {5}
    assert (gaps[0], gaps[-1]) == (whole[0], whole[-1])
    assert proposed(gaps) in whole


def test_without_a_grader_answers_are_compared_with_the_demonstrations(llama: Policy) -> None:
    found = Asker(llama, EXAMPLES, None, teacher_messages, Sampling(), 6).gap(0.0, WORDS_TEMPLATE)
    prompts = llama.tokenizer.encode_all([each.prompt for each in EXAMPLES])
    answers = [llama.tokenizer.decode(each.completion) for each in generate(llama, prompts, 6, Sampling(temperature=0))]
    close = [closeness(answer, each.demonstration or "") for answer, each in zip(answers, EXAMPLES, strict=True)]
    assert found.student.value == pytest.approx(sum(close) / 12)


@pytest.mark.parametrize(
    ("answer", "demonstration", "expected"),
    [("A b", "b a", 1), ("a b c d", "a b", 2 / 3), ("a a", "a", 2 / 3), ("x", "y", 0), ("", "", 1), ("", "y", 0)],
)
def test_closeness(answer: str, demonstration: str, expected: float) -> None:
    assert closeness(answer, demonstration) == pytest.approx(expected)


def gap(temperature: float, gain: float, template: str = "set", questions: int = 64) -> Gap:
    score = Score(gain, gain - 0.1, gain + 0.1)
    return Gap(temperature, template, Score(0, 0, 0), score, score, questions=questions)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([gap(1.0, 0.1), gap(0.5, 0.7), gap(0.3, 0.8), gap(0.0, 0.78)], 2),
        ([gap(1.0, 0.1), gap(0.5, 0.77), gap(0.3, 0.8)], 1),  # nearly as wide, and warmer
        ([gap(1.0, 0.8), gap(0.5, 0.82)], 0),
        ([gap(0.5, 0.6), gap(1.0, 0.6)], 1),
        ([gap(0.5, 0.6), gap(0.5, 0.62, "other")], 0),  # no reason to change what is set
        ([gap(0.5, 0.6), gap(0.5, 0.7, "other")], 1),
        ([gap(0.5, 0.6), gap(0.3, 1.0, questions=16), gap(0.5, 0.7, "other")], 2),  # of few questions, it may be chance
    ],
)
def test_the_highest_temperature_with_nearly_the_widest_gap_is_proposed(gaps: list[Gap], expected: int) -> None:
    assert proposed(gaps) is gaps[expected]


def test_answers_of_a_survey_are_counted_and_their_lengths_too(llama: Policy) -> None:
    counted: list[int] = []
    each = asker(llama)
    each.answered = counted.append
    gaps = each.survey(0.9, WORDS_TEMPLATE, [WORDS_TEMPLATE, OTHER])
    assert 12 * 5 < sum(counted) <= each.answers([WORDS_TEMPLATE, OTHER])
    rollouts = []
    for messages in ([each.prompt for each in EXAMPLES], [teacher_messages(each, WORDS_TEMPLATE) for each in EXAMPLES]):
        prompts = llama.tokenizer.encode_all(messages)
        rollouts += generate(llama, prompts, 6, Sampling(temperature=0.9), [3 * 12 + index for index in range(12)])
    assert gaps[0].truncated == sum(not each.finished for each in rollouts) / 24 > 0
    assert gaps[0].tokens == sorted(len(each.completion) for each in rollouts)[22]
    assert gaps[0].questions == 12
