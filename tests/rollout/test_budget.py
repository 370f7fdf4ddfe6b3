"""Whoever has a model answer keeps to its thinking budget, as evaluation does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from lightning_sdft.callbacks import PassAtK
from lightning_sdft.callbacks.held_out import HeldOut
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.templates import teacher_messages
from lightning_sdft.evaluation.gaps import Asker
from lightning_sdft.evaluation.preflight import preflight
from lightning_sdft.grading import Grader
from lightning_sdft.inspection import inspect_rollouts
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import GREEDY, Example, Rollout, Sampling
from lightning_sdft.rollout import budgeted, generate, respond, respond_ways
from tests.modules.conftest import EXAMPLES, WORDS_TEMPLATE, make_trainer, question, ready, words_data, words_module
from tests.modules.test_thinking import BUDGET, CLOSING, Seen, make, thinking_folder

__all__ = ["make", "make_trainer", "thinking_folder", "words_data", "words_module"]

ASKED = [replace(question(index), reference="w1") for index in range(8)]


def test_what_follows_is_sampled_with_noise_of_its_own(make: Callable[..., SDFTModule]) -> None:
    module, seeded = ready(make()), []

    def sample(*, prompts: Any, max_tokens: int, seeds: Any) -> list[Rollout]:
        seeded.append((max_tokens, list(seeds)))
        return generate(module.policy, prompts, max_tokens, Sampling(), seeds)

    seeds = list(range(0, 8000, 1000))
    prompts = module.tokenizer.encode_all([example.prompt for example in EXAMPLES * 2])
    rollouts = budgeted(sample, prompts, 12, seeds, module.tokenizer.thoughts)
    (first, begun), (rest, going) = seeded
    assert (first, rest) == (BUDGET, 12 - BUDGET - 1)
    assert begun == seeds
    assert going == [seed + 1 for seed, each in zip(seeds, rollouts, strict=True) if len(each.completion) > BUDGET]


class Kept(Grader):
    """Keeps the answers that it is given, which are those behind the thinking."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def grade(self, response: str, reference: Any) -> bool:
        self.texts.append(response)
        return len(response.split()) % 2 == 0


def answers(module: SDFTModule, prompts: list[list[int]], sampling: Sampling, seeds: list[int]) -> list[str]:
    """Answers within the budget, worked out by hand: the thinking, its end, and what follows."""
    texts = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        (begun,) = generate(module.policy, [prompt], BUDGET, sampling, [seed])
        written = list(begun.completion)
        if not begun.finished:
            written += [] if CLOSING in written else [CLOSING]
            (rest,) = generate(module.policy, [prompt + written], 12 - BUDGET - 1, sampling, [seed + 1])
            written += rest.completion
        end = written.index(CLOSING) + 1 if CLOSING in written else len(written)
        texts.append(module.tokenizer.decode(written[end:]))
    return texts


def prompts(module: SDFTModule, shown: bool = False) -> list[list[int]]:
    asked = [module.teacher_messages(each) if shown else each.prompt for each in ASKED]
    return module.tokenizer.encode_all(asked)


def test_several_ways_are_each_within_the_budget(make: Callable[..., SDFTModule]) -> None:
    module = ready(make())
    seeds = list(range(len(ASKED)))
    ways = [(GREEDY, 8), (Sampling(), 3)]
    found = respond_ways(module.policy, prompts(module), 12, ways, seeds)
    for (sampling, count), rollouts in zip(ways, found, strict=True):
        expected = answers(module, prompts(module)[:count], sampling, seeds[:count])
        assert [module.tokenizer.answer(each.completion) for each in rollouts] == expected
        assert any(expected)
    plain = ready(make(max_tokens=None))
    (long,) = respond_ways(plain.policy, prompts(plain), 12, [(GREEDY, 8)], seeds)
    assert long == generate(plain.policy, prompts(plain), 12, GREEDY, seeds)
    assert respond(plain.policy, prompts(plain), 12, GREEDY, seeds) == long


def test_student_and_teacher_are_watched_within_the_budget(make: Callable[..., SDFTModule]) -> None:
    module, grader = ready(make()), Kept()
    HeldOut.of(module, ASKED, grader, batch_size=3).scores(module.policy, True, GREEDY)
    assert grader.texts == answers(module, prompts(module, shown=True), GREEDY, [0] * len(ASKED))


def test_preflight_asks_within_the_budget(make: Callable[..., SDFTModule]) -> None:
    module, grader, seeds = ready(make()), Kept(), list(range(len(ASKED)))
    asker = Asker(module.policy, ASKED, grader, teacher_messages, Sampling(), 12)
    asker.gap(0.7, WORDS_TEMPLATE)
    expected = [answers(module, prompts(module, shown), Sampling(temperature=0.7), seeds) for shown in (False, True)]
    assert grader.texts == [*expected[0], *expected[1]]
    grader.texts.clear()
    preflight(module.policy, ASKED, grader, module.teacher_messages, 12)
    alone, shown = (answers(module, prompts(module, each), GREEDY, seeds) for each in (False, True))
    assert grader.texts == [*alone, *shown]


def test_pass_at_k_samples_within_the_budget(
    make: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module = make()
    data = words_data(test=[EvaluationSet(ASKED, {"seen": Seen()})])
    make_trainer(callbacks=[PassAtK(samples=3)]).test(module, datamodule=data, verbose=False)
    seeds = [
        int.from_bytes(sha256(repr((0, each.id, number)).encode()).digest()[:7])
        for each in ASKED
        for number in range(3)
    ]
    repeated = [each for each in prompts(module) for _ in range(3)]
    expected = answers(module, repeated, Sampling(temperature=1.0, top_p=0.95), seeds)
    expected += answers(module, prompts(module), GREEDY, [0] * len(ASKED))  # of the evaluation itself
    assert sorted(module.graded.of(0)["seen"].texts) == sorted(expected)


def test_answers_are_given_and_shown_within_the_budget(make: Callable[..., SDFTModule]) -> None:
    module = ready(make())
    given = module.answer(["w1 w2", "w6 w7 w8", "w3"])
    shown = [look.answers["teacher, greedy"].text for look in inspect_rollouts(module, EXAMPLES[:3]).looks]
    for text in [*given, *shown]:
        words = text.split()
        assert (words.index("w58") if "w58" in words else len(words)) <= BUDGET
    assert any("w58" in text for text in given)


def test_what_is_not_within_a_budget_is_one_call(make: Callable[..., SDFTModule]) -> None:
    module = ready(make(max_tokens=None))
    asked: list[int] = []

    def sample(*, prompts: Any, max_tokens: int, seeds: Any) -> list[Rollout]:
        asked.append(max_tokens)
        return generate(module.policy, prompts, max_tokens, GREEDY, seeds)

    example = Example("a", [{"role": "user", "content": "w1"}])
    budgeted(sample, module.tokenizer.encode_all([example.prompt]), 12, [0], module.tokenizer.thoughts)
    assert asked == [12]
