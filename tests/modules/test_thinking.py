"""A tiny model whose chat template opens its thinking with w57, and which ends it with w58."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import SettingError
from lightning_sdft.grading import Grader
from lightning_sdft.losses import TokenFocus
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy import Thinking
from lightning_sdft.rollout import VLLMServer
from tests.conftest import STOP_IDS, TURNS_WITH_END, VOCABULARY, make_model, make_tokenizer
from tests.modules.conftest import EXAMPLES, question, ready
from tests.modules.dense import check, forward_kl, log_probabilities, step, token_ids, weigh
from tests.modules.test_resume import check_resume

CLOSING = VOCABULARY.index("w58")
BUDGET = 3
WORDS = {"opening": "w57", "closing": "w58"}


@pytest.fixture(scope="module")
def thinking_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("thinking")
    make_model("llama").save_pretrained(folder)
    make_tokenizer(TURNS_WITH_END.replace("<assistant>", "<assistant> w57 ")).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(words_module: Callable[..., CausalLMModule], thinking_folder: str) -> Callable[..., Any]:
    """A module of the model that thinks."""

    def made(method: type[CausalLMModule] = SDFTModule, **settings: Any) -> CausalLMModule:
        own = {name: settings.pop(name) for name in ("max_tokens", "loss_on") if name in settings}
        thinking = Thinking(**{"max_tokens": BUDGET, **own}, **WORDS)
        settings = {"thinking": thinking, "max_completion_tokens": 12, **settings}
        return words_module(method, model=thinking_folder, **settings)

    return made


def test_thinking_over_its_budget_is_ended_and_the_answer_goes_on(make: Callable[..., SDFTModule]) -> None:
    module = ready(make())
    torch.manual_seed(0)
    rollouts = module.respond(EXAMPLES * 8)
    plain = ready(make(max_tokens=None))
    torch.manual_seed(0)
    without = plain.respond(EXAMPLES * 8)
    forced = 0
    for rollout, other in zip(rollouts, without, strict=True):
        completion = rollout.completion
        assert completion[:BUDGET] == other.completion[:BUDGET]  # the same noise
        assert len(completion) == len(rollout.log_probabilities) <= 12
        assert rollout.finished == (completion[-1] in STOP_IDS)
        if len(other.completion) > BUDGET and CLOSING not in other.completion[:BUDGET]:
            forced += 1
            assert completion[BUDGET] == CLOSING
            assert rollout.log_probabilities[BUDGET] == 0
            scores = log_probabilities(module.policy.model, rollout.prompt, completion)
            given = scores[range(len(completion)), torch.tensor(completion)].tolist()
            given[BUDGET] = 0.0
            assert rollout.log_probabilities == pytest.approx(given, abs=1e-4)
        elif other.finished and len(other.completion) <= BUDGET:
            assert rollout == other
    assert forced > 4
    assert {len(each.completion) > BUDGET + 1 for each in rollouts} == {True, False}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("loss_on", ["both", "thinking", "answer"])
def test_loss_is_on_the_part_that_is_asked_for(loss_on: str, reduction: str, make: Callable[..., SDFTModule]) -> None:
    module = ready(make(loss_on=loss_on, reduction=reduction, skip_tokens=1))
    torch.manual_seed(1)
    loss, group = step(module, EXAMPLES, 2)
    parts, kinds = [], set()
    for item in group.items:
        completion = item.student.completion
        end = completion.index(CLOSING) + 1 if CLOSING in completion else len(completion)
        kept = {"both": slice(None), "thinking": slice(end), "answer": slice(end, None)}[loss_on]
        assert item.teacher is not None
        assert item.teacher.prompt[-1] == item.student.prompt[-1] == VOCABULARY.index("w57")
        student = log_probabilities(module.policy.model, item.student.prompt, completion)
        with torch.no_grad():
            teacher = log_probabilities(module.teacher.policy.model, item.teacher.prompt, completion)
        parts.append(forward_kl(student, teacher)[kept])
        kinds.add(end < len(completion))
    assert True in kinds
    check(module.policy, loss, weigh(parts, 1, reduction), 1e-6)


def test_demonstrations_are_learned_in_part_too(make: Callable[..., SFTModule]) -> None:
    module = make(SFTModule, loss_on="answer")
    module.configure_model()
    demonstrations = ["w1 w2 w58 w3 w4", "w58 w6"]
    examples = [replace(EXAMPLES[0], demonstration=demonstrations[0]), replace(EXAMPLES[1], demonstration="w6")]
    loss, _ = step(module, examples)
    parts = []
    prompts = ("<user> w1 w2 <end>", "<system> w4 <end> <user> w6 w7 w8 <end>")
    for demonstration, prompt in zip(demonstrations, prompts, strict=True):
        completion = token_ids(f"{demonstration} <end>")
        scores = log_probabilities(module.policy.model, token_ids(f"{prompt} <assistant> w57"), completion)
        start = completion.index(CLOSING) + 1
        parts.append(-scores[range(start, len(completion)), torch.tensor(completion[start:])])
    check(module.policy, loss, torch.cat(parts).mean())


class Seen(Grader):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def grade(self, response: str, reference: Any) -> bool:
        self.texts.append(response)
        return "w58" not in response


def test_graders_see_answers_within_the_budget(
    make: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module, seen = make(), Seen()
    data = words_data(test=[EvaluationSet([question(index) for index in range(8)], {"seen": seen})])
    trainer = make_trainer()
    predicted = [record for batch in trainer.predict(module, datamodule=data) for record in batch]
    grader = module.graded.of(0)["seen"]
    assert len(predicted) == 8
    for record, text in zip(predicted, grader.texts, strict=True):  # type: ignore[arg-type]
        words = record["response"].split()
        ended = words.index("w58") + 1 if "w58" in words else len(words)
        assert ended <= BUDGET + 1
        assert text.split() == words[ended:]
        assert record["correct"] == {"seen": True}
    assert any(grader.texts)  # type: ignore[arg-type]


def test_resumed_run_thinks_the_same(
    make: Callable[..., Any], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    check_resume(SDFTModule, 0, make, words_data, make_trainer, tmp_path, loss_on="answer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_completion_tokens": 4}, "max_tokens=3 leaves no token for the answer of max_completion_tokens=4"),
        ({"engine": VLLMServer("http://localhost:1")}, "and engine=VLLMServer needs the probability of each token"),
        ({"loss_on": "answer", "focus": TokenFocus()}, "thinking.loss_on=answer takes a part of them"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    arguments: dict[str, Any], message: str, make: Callable[..., Any]
) -> None:
    with pytest.raises(SettingError, match=message):
        make(**arguments)
