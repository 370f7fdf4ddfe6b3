"""Which examples are held out for student and teacher, and what they are asked on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lightning_sdft.callbacks.held_out import HeldOut, held_out
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import DistillationModule, SDFTModule, SDPOModule, SFTModule
from lightning_sdft.modules.attempts import attempts
from lightning_sdft.records import GREEDY, Example, Sampling
from tests.modules.conftest import WORDS_TEMPLATE, question
from tests.modules.dense import log_probabilities


class Long(Grader):
    """An answer is right if it has more than as many words as the reference says; one of no word is not graded."""

    def grade(self, response: str, reference: int) -> bool | None:
        words = len(response.split())
        return None if words == 0 else words > reference


@pytest.fixture
def module(words_module: Any) -> SDFTModule:
    """A module whose student has moved away from its teacher."""
    made = words_module(SDFTModule, sampling=Sampling(temperature=0.8), max_completion_tokens=6)
    made.configure_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    assert isinstance(made, SDFTModule)
    return made


EXAMPLES = [Example(each.id, each.prompt, each.demonstration, reference=2) for each in map(question, range(12))]


# What is asked


def test_a_part_of_the_questions_is_the_first_of_them_with_their_prompts(module: SDFTModule) -> None:
    whole = HeldOut.of(module, EXAMPLES, Long(), batch_size=5)
    part = whole.part(5)
    assert [each.id for each in part.examples] == ["0", "1", "2"]  # 12 / 5, rounded up
    assert (part.shown, part.alone) == (whole.shown[:3], whole.alone[:3])
    assert part.shown != part.alone


def test_an_answer_that_cannot_be_graded_has_no_score(module: SDFTModule) -> None:
    class Some(Long):
        def grade(self, response: str, reference: int) -> bool | None:
            return None if reference == 0 else reference == 1

    asked = [Example(str(index), question(index).prompt, "w26", reference=index) for index in range(3)]
    scores, rollouts = HeldOut.of(module, asked, Some(), batch_size=2).scores(module.policy, True, GREEDY)
    assert scores == pytest.approx([float("nan"), 1.0, 0.0], nan_ok=True)
    assert len(rollouts) == 3


def test_the_effect_of_the_demonstration_is_the_divergence_of_the_whole_logits(module: SDFTModule) -> None:
    held_out = HeldOut.of(module, EXAMPLES[:3], None, batch_size=2)
    teacher = module.teacher.policy
    answers = held_out.answers(teacher, True, GREEDY)
    expected: list[float] = []
    for example, answer in zip(EXAMPLES, answers, strict=False):
        with torch.no_grad():
            shown, alone = (
                log_probabilities(teacher.model, module.tokenizer.encode(messages), answer.completion)
                for messages in (module.teacher_messages(example), example.prompt)
            )
        expected += (shown.exp() * (shown - alone)).sum(-1).tolist()
    assert held_out.effect(teacher, answers) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert max(expected) > 0.01


def test_without_grader_the_score_is_the_geometric_mean_probability_of_the_demonstration(module: SDFTModule) -> None:
    scores, _ = HeldOut.of(module, EXAMPLES[:3], None, batch_size=2).scores(module.policy, True, GREEDY)
    for example, score in zip(EXAMPLES, scores, strict=False):
        completion = module.tokenizer.encode_completion(example.demonstration or "")
        prompt = module.tokenizer.encode(module.teacher_messages(example))
        with torch.no_grad():
            logs = log_probabilities(module.policy.model.eval(), prompt, completion)
        own = logs[torch.arange(len(completion)), torch.tensor(completion)]
        assert score == pytest.approx(own.mean().exp().item(), rel=1e-4)


def test_sampled_answers_depend_on_their_example_only_and_leave_the_generator_alone(module: SDFTModule) -> None:
    state = torch.get_rng_state()
    whole = HeldOut.of(module, EXAMPLES, Long(), 12).answers(module.policy, False, module.sampling)
    half = HeldOut.of(module, EXAMPLES[1::2], Long(), 2).answers(module.policy, False, module.sampling)
    assert [each.completion for each in half] == [each.completion for each in whole[1::2]]
    assert torch.equal(torch.get_rng_state(), state)


# Which examples are chosen


@pytest.fixture
def choose(words_module: Any, make_trainer: Any) -> Any:
    """Chooses examples of a data module for a module that is not loaded, which choosing does not need."""

    def choose(data: Any, count: int = 64, method: Any = SDFTModule, **arguments: Any) -> HeldOut:
        trainer = make_trainer()
        trainer.datamodule = data
        return held_out(trainer, words_module(method, **arguments), count, "TeacherWatch")

    return choose


def asked(*indices: int, demonstrated: bool = True) -> list[Example]:
    """Examples with references."""
    found = map(question, indices)
    return [
        Example(each.id, each.prompt, each.demonstration if demonstrated else None, reference="w1") for each in found
    ]


def prior(*indices: int) -> EvaluationSet:
    return EvaluationSet(asked(*indices), {"old": ExactMatch()}, prior=True)


def ids(chosen: Sequence[Example]) -> set[str]:
    return {each.id for each in chosen}


def test_validation_examples_that_are_not_graded_are_taken_for_their_demonstrations(
    choose: Any, words_data: Any
) -> None:
    data = words_data(validation=[EvaluationSet([question(20), question(21)], {}, title="free")])
    chosen = choose(data)
    assert (ids(chosen.examples), chosen.grader) == ({"20", "21"}, None)


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (64, 5)])
def test_validation_examples_of_the_new_task_are_taken_if_they_have_demonstrations(
    count: int, expected: int, choose: Any, words_data: Any
) -> None:
    grader = ExactMatch()
    bare = asked(30, 31, demonstrated=False)
    sets = [prior(90, 91), EvaluationSet([*asked(*range(20, 25)), *bare], {"new": grader})]
    data = words_data(train=asked(*range(40)), validation=sets)
    chosen = choose(data, count)
    assert len(chosen.examples) == expected
    assert ids(chosen.examples) <= ids(asked(*range(20, 25)))
    assert chosen.grader is grader
    assert chosen.batch_size == data.evaluation_batch_size
    assert len(data.splits.train) == 40
    assert choose(data, count).examples == chosen.examples  # the same for another callback


def test_the_prompts_are_as_the_teacher_and_as_the_student_reads_them(choose: Any, words_data: Any) -> None:
    data = words_data(validation=[EvaluationSet(asked(20), {"new": ExactMatch()})])
    chosen = choose(data)
    (example,), encode = chosen.examples, chosen.module.tokenizer.encode
    (shown,), (alone,) = chosen.shown, chosen.alone
    text = WORDS_TEMPLATE.format(prompt=example.prompt[0]["content"], demonstration=example.demonstration)
    assert shown == encode([{"role": "user", "content": text}])
    assert alone == encode(example.prompt)


def test_training_rows_with_references_are_held_out_if_those_of_validation_lack_demonstrations(
    choose: Any, words_data: Any
) -> None:
    grader = ExactMatch()
    validation = [EvaluationSet(asked(*range(50, 54), demonstrated=False), {"new": grader})]
    data = words_data(train=asked(*range(40)), validation=validation)
    chosen = choose(data)
    assert chosen.grader is grader
    assert len(chosen.examples) == 4  # a tenth
    assert ids(chosen.examples) | ids(data.splits.train) == ids(asked(*range(40)))
    assert len(data.splits.train) == 36
    assert data.withhold(99, lambda _: True) == chosen.examples


def test_training_rows_without_references_are_held_out_and_not_graded(choose: Any, words_data: Any) -> None:
    validation = [EvaluationSet(asked(*range(50, 54), demonstrated=False), {"new": ExactMatch()})]
    data = words_data(train=[question(index) for index in range(40)], validation=validation)
    chosen = choose(data)
    assert chosen.grader is None
    assert len(chosen.examples) == 4
    assert len(data.splits.train) == 36


@pytest.mark.parametrize("validation", [[], [prior(90, 91)]])
def test_without_validation_of_the_new_task_nothing_is_graded(
    validation: list[EvaluationSet], choose: Any, words_data: Any
) -> None:
    data = words_data(train=asked(*range(40)), validation=validation)
    chosen = choose(data)
    assert chosen.grader is None
    assert ids(chosen.examples) | ids(data.splits.train) == ids(asked(*range(40)))


def test_no_other_model_is_asked_for_verdicts(choose: Any, words_data: Any) -> None:
    judge = ExactMatch()
    judge.asks_a_model = True
    chosen = choose(words_data(validation=[EvaluationSet(asked(*range(20, 24)), {"new": judge})]))
    assert chosen.grader is None
    assert ids(chosen.examples) == ids(asked(*range(20, 24)))


def test_examples_over_a_token_budget_are_not_asked(choose: Any, words_data: Any) -> None:
    long = Example("long", [{"role": "user", "content": "w1 " * 30}], "w26", reference="w1")
    chosen = choose(words_data(validation=[EvaluationSet([long, *asked(20, 21)], {"new": ExactMatch()})]))
    assert ids(chosen.examples) == {"20", "21"}


def test_there_must_be_something_to_ask_about(choose: Any, words_data: Any) -> None:
    with pytest.raises(SettingError, match=r"^TeacherWatch asks questions of a data module; pass datamodule="):
        choose(None)
    with pytest.raises(SettingError, match=r"^TeacherWatch is for a teacher that sees more .* with SFTModule$"):
        choose(words_data(), method=SFTModule)
    with pytest.raises(
        SettingError, match=r"^TeacherWatch is for a teacher that sees more .* with DistillationModule$"
    ):
        choose(words_data(), method=DistillationModule)
    with pytest.raises(DataError, match=r"^TeacherWatch: no example has demonstration within the token budgets"):
        choose(words_data(), max_teacher_prompt_tokens=1)


@pytest.mark.parametrize(("rows", "batch_size", "kept"), [(39, 4, 39), (40, 4, 36), (44, 44, 44), (50, 45, 50)])
def test_a_split_that_cannot_spare_examples_keeps_those_that_are_asked_about(
    rows: int, batch_size: int, kept: int, words_data: Any
) -> None:
    data = words_data(train=[question(index) for index in range(rows)], batch_size=batch_size)
    assert len(data.withhold(64, lambda _: True)) == (rows - kept or rows)
    assert len(data.splits.train) == kept


# The teacher of SDPO


def told_of(*indices: int) -> list[Example]:
    return [Example(each.id, each.prompt, reference=2) for each in map(question, indices)]


def test_for_feedback_it_takes_references_and_the_grader_of_training(choose: Any, words_data: Any) -> None:
    class Judged(Long):
        asks_a_model = True  # which training pays for, too

    bare = [Example(each.id, each.prompt) for each in map(question, (30, 31))]
    grader = Judged()
    data = words_data(train=told_of(*range(8)), validation=[EvaluationSet([*told_of(20, 21), *bare], {"long": grader})])
    chosen = choose(data, method=SDPOModule)
    assert ids(chosen.examples) == {"20", "21"}
    assert chosen.grader is grader
    none = words_data(train=bare, validation=[EvaluationSet(bare, {"long": Long()})])
    with pytest.raises(DataError, match=r"no example has reference within .*; give references, or leave TeacherWatch"):
        choose(none, method=SDPOModule)


def test_what_the_teacher_of_feedback_is_shown_is_made_of_attempts_of_the_student_as_it_is_now(
    choose: Any, words_data: Any
) -> None:
    data = words_data(train=told_of(*range(8)), validation=[EvaluationSet(told_of(*range(20, 32)), {"long": Long()})])
    chosen = choose(data, method=SDPOModule, teacher_template=["{prompt}", " w50 {attempt} w51"])
    module = chosen.module
    module.configure_model()
    assert chosen.shown == chosen.alone
    first, again = chosen.attempted(), chosen.attempted()
    expected = attempts(module, chosen.examples)
    assert first.shown == again.shown == [each.shown for each in expected]
    assert 0 < sum(each.told for each in expected) < len(expected)
    assert first.alone == chosen.alone
    with torch.no_grad():
        for weight in module.policy.parameters():
            weight.mul_(1.5)
    assert chosen.attempted().shown != first.shown


def test_demonstrations_are_shown_without_attempts(module: SDFTModule) -> None:
    whole = HeldOut.of(module, EXAMPLES, Long(), batch_size=5)
    assert whole.attempted() is whole
