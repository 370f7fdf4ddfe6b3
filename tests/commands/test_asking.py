from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.commands.asking import prepare
from lightning_sdft.commands.fit import main
from lightning_sdft.data.templates import TEMPLATES_TO_TRY
from lightning_sdft.errors import DataError
from lightning_sdft.modules.attempts import attempts
from lightning_sdft.records import Sampling

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiment"


def run(config: str, *arguments: str) -> Any:
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--data.init_args.prior_size=2"]
    return main(["--config", str(EXPERIMENTS / f"{config}.yaml"), *quiet, *arguments], run=False)


def asked(config: str, *arguments: str, questions: int = 4, seed: int = 0) -> Any:
    cli = run(config, *arguments)
    return prepare(cli.trainer, cli.model, cli.datamodule, questions, seed)


def test_questions_are_drawn_from_those_that_fit() -> None:
    found = asked("laptop_sdft", "--model.init_args.max_teacher_prompt_tokens=17", questions=10_000)
    assert found.examples == 512
    assert len(found.asker.examples) + len(found.over_budget) == 512
    assert all("its teacher prompt has" in each for each in found.over_budget)
    assert 0 < len(found.over_budget) < 512


def test_the_seed_draws_the_questions() -> None:
    first, again, other = (asked("laptop_sdft", seed=seed).asker for seed in (0, 0, 1))
    assert len(first.examples) == 4
    assert first.examples == again.examples != other.examples


def test_a_teacher_that_sees_a_demonstration_is_asked_with_several_templates() -> None:
    found = asked("laptop_sdft", questions=2)
    assert found.name == "swap-ends"
    assert found.answers == found.asker.answers(TEMPLATES_TO_TRY)
    gaps = found.survey()
    assert {each.template for each in gaps} == {found.module.teacher_template, *TEMPLATES_TO_TRY}
    assert (gaps[0].temperature, gaps[0].template) == (1, found.module.teacher_template)


def test_a_module_without_a_teacher_that_sees_more_is_refused() -> None:
    with pytest.raises(DataError, match="SFTModule here has none that sees more"):
        asked("laptop_sft")


def test_a_teacher_of_feedback_is_told_of_attempts_at_the_temperature_at_which_both_are_asked() -> None:
    found = asked("laptop_sdpo", questions=12)
    assert found.tells
    assert found.template == "{prompt} example {sibling} now"
    assert found.answers == found.asker.answers()
    for temperature in (1.0, 0.5):
        made = attempts(found.module, found.asker.examples, Sampling(temperature=temperature))
        assert found.asker.shown(temperature, found.template) == [each.messages for each in made]
    told = [each.told for each in attempts(found.module, found.asker.examples)]
    assert 0 < sum(told) <= len(told)
