"""Commands read the config of a vision-language model, and what cannot be is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.commands.fit import main
from lightning_sdft.errors import PolicyError, RolloutError, SettingError
from lightning_sdft.memory import TrainerPlan, fitting
from lightning_sdft.memory.fitting import Room
from lightning_sdft.modules import SFTModule
from lightning_sdft.modules.checks import check_one_process
from lightning_sdft.policy import Policy, Thinking
from lightning_sdft.rollout.captured import unfit
from lightning_sdft.rollout.vllm.server import VLLMServer
from tests.config_runs import QUICK, files, in_folder

__all__ = ["in_folder"]


@pytest.mark.parametrize("command", ["fit", "inspect", "preflight"])
def test_commands_read_the_config_and_its_rows(
    vision_folder: Path, rows: Path, command: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"--model.init_args.model={vision_folder}", "--model.init_args.max_completion_tokens=8"]
    own += [f"--data.init_args.train={rows}", "--data.init_args.batch_size=4", "--trainer.precision=32-true"]
    graded = [f"--data.init_args.test={rows}", "--data.init_args.reference_column=answer"]
    further = {
        "fit": ["--trainer.fast_dev_run=true"],
        "inspect": ["--rows=2"],
        "preflight": ["--questions=2", *graded],
    }
    main([command, *files("experiment/vision_sdft"), *QUICK, *own, *further[command]])
    assert command != "inspect" or f"[image {rows.parent}" in capsys.readouterr().out.replace("\n", "")


def test_micro_batch_is_chosen_by_an_estimate_that_knows_images(
    make_module: Callable[..., Any], make_data: Callable[..., Any]
) -> None:
    found = fitting(
        make_module(), make_data(), TrainerPlan.of({"accelerator": "cpu", "devices": 1}), Room(2**40, 2**40)
    )
    assert found.peak > 0


# What is refused


def test_vllm_is_refused(make_module: Callable[..., Any]) -> None:
    module = make_module()
    module.configure_model()
    with pytest.raises(RolloutError, match=r"not tested with Qwen2_5_VL.*leave engine out"):
        VLLMServer("http://localhost:1").start(module.policy, 10)


def test_captured_steps_are_not_tried(seeing: Policy) -> None:
    assert unfit(seeing) == "the model counts positions in three dimensions"


def test_a_thinking_budget_is_refused_before_weights_are_read(make_module: Callable[..., Any]) -> None:
    words = {"opening": "look", "closing": "!"}
    with pytest.raises(SettingError, match=r"thinking\.max_tokens=4 .* reads images; leave thinking\.max_tokens out"):
        make_module(thinking=Thinking(max_tokens=4, **words))
    make_module(thinking=Thinking(**words))


def test_packing_is_refused(make_module: Callable[..., Any]) -> None:
    with pytest.raises(PolicyError, match="set packing=false"):
        make_module(SFTModule, packing=True).configure_model()


def test_several_processes_are_refused(make_module: Callable[..., Any]) -> None:
    tokenizer = make_module(SFTModule).tokenizer
    check_one_process(tokenizer, 1)
    with pytest.raises(SettingError, match=r"trainer.devices=1"):
        check_one_process(tokenizer, 2)
