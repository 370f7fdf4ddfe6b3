from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from tests.modules.conftest import METHODS, question

LONG_PROMPT = Example("long", [{"role": "user", "content": "w1 w2 w3 w4 w6 w7 w8"}], "w9")  # 10 tokens
LONG_ANSWER = Example("wordy", [{"role": "user", "content": "w1"}], "w2 w3 w4 w6 w7 w8 w9 w11")  # 9 tokens


@pytest.mark.parametrize("method", METHODS)
def test_prompt_over_budget_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), question(2), LONG_PROMPT])
    module = words_module(method, max_prompt_tokens=9)
    with pytest.raises(DataError, match=r"1 of 4 examples .*'long': its prompt has 10 tokens, max_prompt_tokens=9"):
        make_trainer().fit(module, datamodule=data)
    assert "policy" not in module._modules  # nothing was loaded yet


def test_prompt_of_exactly_the_budget_fits(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), LONG_PROMPT, LONG_ANSWER])
    module = words_module(SFTModule, max_prompt_tokens=10, max_completion_tokens=9)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1


@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_demonstration_over_budget_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), LONG_ANSWER, question(2)])
    with pytest.raises(DataError, match="'wordy': its demonstration has 9 tokens, max_completion_tokens=8"):
        make_trainer().fit(words_module(method), datamodule=data)


def test_evaluation_prompts_have_the_same_budget(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    sets = [EvaluationSet([question(0), LONG_PROMPT], {"new": ExactMatch()})]
    arguments = {"max_prompt_tokens": 9, "over_budget": "drop"}  # a smaller test set would be another test
    for stage, split in (("fit", "validation"), ("validate", "validation"), ("test", "test"), ("predict", "test")):
        run = getattr(make_trainer(), stage)
        with pytest.raises(DataError, match=r"1 of 2 examples .*'long': its prompt has 10 tokens, max_prompt_tokens=9"):
            run(words_module(SFTModule, **arguments), datamodule=words_data(**{split: sets}))


def test_drop_leaves_out_and_counts_what_is_over_budget(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([*(question(index) for index in range(4)), LONG_PROMPT, LONG_ANSWER])
    trainer = make_trainer(max_steps=1)
    with pytest.warns(UserWarning, match="dropped 2 of 6 training examples over their token budgets"):
        trainer.fit(words_module(SFTModule, max_prompt_tokens=9, over_budget="drop"), datamodule=data)
    assert [example.id for example in data.splits.train] == ["0", "1", "2", "3"]
    assert trainer.global_step == 1


def test_budgets_beyond_what_the_model_reads_are_refused(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule, max_prompt_tokens=50, max_completion_tokens=15)
    with pytest.raises(PolicyError, match=r"sequences of 65 tokens, but .* reads at most 64; lower max_prompt_tokens"):
        make_trainer().fit(module, datamodule=words_data())
    fitting = words_module(SFTModule, max_prompt_tokens=50, max_completion_tokens=14)
    fitting.configure_model()
    teacher = words_module(SDFTModule, max_teacher_prompt_tokens=60, max_completion_tokens=5)
    with pytest.raises(PolicyError, match="sequences of 65 tokens"):
        teacher.configure_model()


@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_example_without_demonstration_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    for demonstration in (None, ""):
        bare = Example("bare", question(0).prompt, demonstration)
        with pytest.raises(DataError, match=f"'bare' has no demonstration, which {method.__name__} learns from"):
            make_trainer().fit(words_module(method), datamodule=words_data([question(0), bare]))
