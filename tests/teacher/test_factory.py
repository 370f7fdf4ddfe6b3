"""The teacher as a setting: in Python, in files, on the command line and in checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sdft import BaseTeacher, CopiedTeacher, LiveTeacher, ReinvokeModule, SDFTModule, TrustRegionTeacher
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.teacher import (
    AdapterTeacher,
    CompensatedTeacher,
    FullTeacher,
    MixedTeacher,
    OffloadedTeacher,
    SharedTeacher,
)
from lightning_sdft.teacher.factory import TeacherChoice
from tests.cli_runs import MODEL, config_file, trusted

__all__ = ["config_file", "trusted"]

LORA = LoRA(rank=2)


@pytest.mark.parametrize(
    ("choice", "lora", "expected"),
    [
        (CopiedTeacher(), None, FullTeacher),
        (CopiedTeacher("compensated"), None, CompensatedTeacher),
        (CopiedTeacher("offload"), None, OffloadedTeacher),
        (CopiedTeacher(), LORA, AdapterTeacher),
        (CopiedTeacher("offload", "zoo/laptop"), LORA, OffloadedTeacher),
        (LiveTeacher(), None, SharedTeacher),
        (LiveTeacher(), LORA, SharedTeacher),
        (BaseTeacher(), LORA, SharedTeacher),
        (TrustRegionTeacher(), None, MixedTeacher),
        (TrustRegionTeacher(), LORA, MixedTeacher),
    ],
)
def test_each_choice_builds_its_teacher(
    choice: TeacherChoice, lora: LoRA | None, expected: type, llama: Policy
) -> None:
    if lora is not None:
        add_adapter(llama.model, lora)
    assert choice.problem(lora, False) is None
    teacher = choice.build(llama, lora, None, False)
    assert type(teacher) is expected
    assert (teacher.policy is llama) == (choice == LiveTeacher())


def live(config: Path) -> list[str]:
    """Without the callback that would move it."""
    save = [{"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}]
    return ["--model.teacher=LiveTeacher", f"--trainer.callbacks={json.dumps(save)}"]


def compensated(config: Path) -> list[str]:
    return ["--model.teacher=CopiedTeacher", "--model.init_args.teacher.memory=compensated"]


def trust_region(config: Path) -> list[str]:
    save = [{"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}]
    settings = ["--model.teacher=TrustRegionTeacher", "--model.teacher.student_share=0.2"]
    return [*settings, f"--trainer.callbacks={json.dumps(save)}"]


def in_a_file(config: Path) -> list[str]:
    content = yaml.safe_load(config.read_text())
    settings = {"memory": "offload", "model": "zoo/laptop"}
    content["model"]["init_args"]["teacher"] = {"class_path": "CopiedTeacher", "init_args": settings}
    config.write_text(yaml.safe_dump(content))
    return []


@pytest.mark.parametrize(
    ("give", "expected"),
    [
        (live, LiveTeacher()),
        (compensated, CopiedTeacher("compensated")),
        (trust_region, TrustRegionTeacher(0.2)),
        (in_a_file, CopiedTeacher("offload", "zoo/laptop")),
    ],
)
def test_a_run_keeps_its_teacher_in_config_and_checkpoint(
    give: Callable[[Path], list[str]], expected: TeacherChoice, config_file: Path
) -> None:
    arguments = give(config_file)
    cli = main(["fit", "--config", str(config_file), *arguments])
    assert cli.model.teacher_choice == expected
    again = main(["fit", "--config", "runs/run/config.yaml", "--trainer.max_steps=1", "--trainer.logger=false"])
    assert again.model.teacher_choice == expected
    restored = SDFTModule.load_from_checkpoint("runs/run/checkpoints/last.ckpt")
    assert restored.teacher_choice == expected
    assert not restored.state_dict().keys() ^ cli.model.state_dict().keys()


def test_the_base_of_reinvocation_needs_no_class(config_file: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    budgets = {name: MODEL[name] for name in ("max_prompt_tokens", "max_completion_tokens")}
    settings = {"model": "zoo/laptop", "teacher": {"model": "elsewhere"}, "max_teacher_prompt_tokens": 16, **budgets}
    content["model"] = {"class_path": "ReinvokeModule", "init_args": settings}
    content["trainer"]["callbacks"] = [{"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}]
    config_file.write_text(yaml.safe_dump(content))
    typed = ["--model.init_args.teacher.model=zoo/laptop", "--model.teacher.memory=compensated"]
    cli = main(["fit", "--config", str(config_file), *typed])
    assert cli.model.teacher_choice == CopiedTeacher("compensated", "zoo/laptop")
    restored = ReinvokeModule.load_from_checkpoint("runs/run/checkpoints/last.ckpt")
    assert restored.teacher_choice == cli.model.teacher_choice


def test_a_model_that_is_missing_is_refused_before_the_student_is_loaded() -> None:
    with pytest.raises(PolicyError, match=r"there is no model in '\./nowhere'"):
        SDFTModule(**{**MODEL, "teacher": CopiedTeacher(model="./nowhere")})
