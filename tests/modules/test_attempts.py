"""What the teacher of SDPO is shown outside of a step: attempts of the student, told of in its template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.modules import SDPOModule
from lightning_sdft.modules.attempts import Attempt, attempts
from lightning_sdft.records import GREEDY, Example
from tests.modules.conftest import question, ready
from tests.modules.dense import token_ids
from tests.modules.test_sdpo import Short

EXAMPLES = [replace(question(index), demonstration=None, reference=4) for index in range(8)]
TOLD = ["{prompt}", " w50 {sibling} w51", " w52 {attempt} w53"]


@pytest.fixture
def module(words_module: Any, words_data: Any) -> SDPOModule:
    made = ready(words_module(SDPOModule, teacher_template=TOLD, generations=2))
    assert isinstance(made, SDPOModule)
    made.informing.take_grader(words_data(EXAMPLES, [EvaluationSet(EXAMPLES[:2], {"short": Short()})]))
    return made


def completions(found: list[Attempt]) -> list[list[int]]:
    return [each.rollout.completion for each in found]


def test_the_teacher_is_told_of_the_first_attempt_in_its_template(module: SDPOModule) -> None:
    siblings = attempts(module, EXAMPLES)  # the second attempts of these are what the first are shown as siblings
    kinds = set()
    for example, each in zip(EXAMPLES, siblings, strict=True):
        text = module.tokenizer.decode(each.rollout.completion)
        own = str(example.prompt[0]["content"])
        shown = module.tokenizer.hugging_face.decode(each.shown)
        wrong = len(text.split()) > 4
        assert (f"w52 {text} w53" in shown) == wrong
        assert each.told == (each.shown != each.rollout.prompt)
        assert each.shown == module.tokenizer.encode(list(each.messages))
        if not each.told:
            assert not wrong
            assert each.shown == token_ids(f"<user> {own} <end> <assistant>")
        kinds.add((wrong, f"{own} w50 " in shown))
    assert {wrong for wrong, _ in kinds} == {True, False}
    assert {sibling for _, sibling in kinds} == {True, False}
    assert (True, True) in kinds  # a wrong one with a right sibling, which the same noise would not give


def test_attempts_depend_on_the_example_the_student_and_the_seed_alone(module: SDPOModule) -> None:
    state = torch.get_rng_state()
    whole, half = attempts(module, EXAMPLES, batch_size=8), attempts(module, EXAMPLES[1::2], batch_size=3)
    assert completions(whole[1::2]) == completions(half)
    assert [each.shown for each in whole[1::2]] == [each.shown for each in half]
    assert completions(attempts(module, EXAMPLES, seed=1)) != completions(whole)
    greedy = completions(attempts(module, EXAMPLES, GREEDY))
    assert greedy == completions(attempts(module, EXAMPLES, GREEDY, seed=1)) != completions(whole)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for weight in module.policy.parameters():
            weight.mul_(1.5)
    assert completions(attempts(module, EXAMPLES)) != completions(whole)
    assert attempts(module, []) == []


def test_without_a_grader_nothing_can_be_told(words_module: Any) -> None:
    bare = ready(words_module(SDPOModule, teacher_template=TOLD))
    with pytest.raises(DataError, match=r"pass datamodule=\.\.\. to fit, or call module\.informing\.take_grader"):
        attempts(bare, [Example("a", [{"role": "user", "content": "w1"}], reference=4)])
