from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.commands.fit import main
from lightning_sdft.commands.memory import MMAP_THRESHOLD
from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.memory import Estimate, TrainerPlan, estimate, lengths_by_budgets
from lightning_sdft.modules.timing import resident_memory

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiment"
OFFLOAD = ["--model.teacher=CopiedTeacher", "--model.teacher.memory=offload"]
GPUS = ["--trainer.accelerator=gpu", "--trainer.devices=8", "--trainer.strategy=fsdp2"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look for remedies, each of which is an estimate of its own."""
    monkeypatch.setattr("lightning_sdft.commands.memory.remedies", lambda *_: [])


def ask(config: str, *arguments: str) -> tuple[Any, dict[str, Any]]:
    """The command line's objects, and what it wrote."""
    cli = main(["memory", "--config", str(EXPERIMENTS / f"{config}.yaml"), *arguments, "--json=out/memory.json"])
    return cli, json.loads(Path("out/memory.json").read_text())


def test_json_has_what_was_estimated_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    cli, record = ask("laptop_sdft")
    plan = TrainerPlan(teacher_follows=True, evaluates=True, compares_with_base=True)
    assert record["plan"] == {**record["plan"], "processes": 1, "sharing": "alone", "precision": "32-true"}
    assert TrainerPlan(**record["plan"]) == plan
    budgets = record["by_budgets"]
    process = budgets["held"]["process"]
    assert process > 2**27  # of Python and torch
    assert process == pytest.approx(resident_memory() * 2**20, rel=0.5)  # and of whatever else is in this process
    evaluated = len(max((each.examples for each in cli.datamodule.splits.validation), key=len)[:128])
    expected = estimate(cli.model, plan, lengths_by_budgets(cli.model, cli.datamodule, 1, evaluated), process)
    assert (
        budgets["peak"]
        == expected.peak
        == sum(budgets["held"].values()) + max(sum(parts.values()) for parts in budgets["phases"].values())
    )
    assert budgets["held"]["base model's weights"] == budgets["held"]["student's weights"]
    assert budgets["phases"]["retention"]["activations"] > 0
    assert budgets["peak_phase"] == expected.largest.name
    assert sum(budgets["phases"][expected.largest.name].values()) == expected.largest.peak
    assert record["by_data"]["peak"] <= budgets["peak"]
    assert all(each["peak"] < budgets["peak"] for each in record["remedies"])
    printed = capsys.readouterr().out
    assert "SDFTModule of zoo/laptop, 32-true, GiB per CPU" in printed
    assert f"{expected.peak / 2**30:.2f}" in next(line for line in printed.splitlines() if "peak" in line)


@pytest.mark.usefixtures("quickly")
def test_nothing_is_left_of_models_or_runs(in_folder: Path) -> None:
    cli, _ = ask("laptop_sft")
    assert "policy" not in cli.model._modules
    assert [each.name for each in in_folder.iterdir()] == ["out"]


@pytest.mark.usefixtures("quickly")
def test_devices_need_not_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    _, alone = ask("laptop_sdft")
    _, shared = ask("laptop_sdft", *GPUS)
    held, cut = alone["by_budgets"]["held"], shared["by_budgets"]["held"]
    assert cut["process"] == 2**29
    for name in ("student's weights", "gradients", "optimizer", "teacher's weights"):
        assert cut[name] == held[name] // 8
    assert "GiB per accelerator of 8 (fsdp2)" in capsys.readouterr().out


@pytest.mark.usefixtures("quickly")
def test_teacher_elsewhere_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, record = ask("laptop_sdft", *GPUS[:1], "--trainer.devices=1", *OFFLOAD)
    assert "teacher's weights" not in record["by_budgets"]["held"]
    assert "in the memory of the CPU: 0.00 teacher's weights" in capsys.readouterr().out


@pytest.mark.usefixtures("quickly")
def test_what_glibc_keeps_is_told_where_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    ask("laptop_sft")
    assert f"MALLOC_MMAP_THRESHOLD_={MMAP_THRESHOLD}" in capsys.readouterr().out
    ask("laptop_sft", *GPUS)
    assert "MALLOC_MMAP_THRESHOLD_" not in capsys.readouterr().out


@pytest.mark.usefixtures("quickly")
def test_what_is_not_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ask("laptop_sft")
    assert "- not counted: KLToBase\n" in capsys.readouterr().out
    ask("laptop_sft", "--trainer.callbacks=[]")
    assert "not counted" not in capsys.readouterr().out


@pytest.mark.usefixtures("quickly")
def test_without_data_there_are_the_budgets(capsys: pytest.CaptureFixture[str], family_folder: Any) -> None:
    model = f"--model.init_args.model={family_folder('llama')}"
    budgets = ["--model.init_args.max_prompt_tokens=20", "--model.init_args.max_completion_tokens=20"]
    _, record = ask("smollm2_sft", model, *budgets, "--data.init_args.train=none.json")
    assert "by_data" not in record
    printed = " ".join(capsys.readouterr().out.split())
    assert "the data cannot be read, so evaluation is assumed to have full batches: " in printed
    assert "none.json" in printed


def test_refusals_name_the_setting() -> None:
    with pytest.raises(DataError, match="batch_size=32 cannot be shared by 3 processes"):
        ask("laptop_sft", "--processes=3")
    with pytest.raises(PolicyError, match="memory knows no precision 'transformer-engine'"):
        ask("laptop_sft", "--trainer.precision=transformer-engine")
    if not torch.accelerator.is_available():
        with pytest.raises(PolicyError, match="here are none; give --processes"):
            ask("laptop_sft", "--trainer.accelerator=gpu")
    assert not Path("out").exists()


@pytest.mark.usefixtures("quickly")
def test_python_gets_the_estimate_by_the_budgets() -> None:
    cli, record = ask("laptop_sft")
    cli.trainer.asked = {"accelerator": "gpu", "devices": 1}
    found = cli.trainer.memory(cli.model, cli.datamodule)
    assert isinstance(found, Estimate)
    assert found.held["student's weights"] == record["by_budgets"]["held"]["student's weights"]
    assert found.held["process"] == 2**29
