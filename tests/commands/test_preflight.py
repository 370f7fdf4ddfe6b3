from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_sdft.commands import asking
from lightning_sdft.commands.fit import main
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.errors import DataError
from lightning_sdft.evaluation import gaps
from lightning_sdft.records import Sampling

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiment"
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    return tmp_path


def ask(config: str, *arguments: str) -> None:
    main(
        [
            "preflight",
            "--config",
            str(EXPERIMENTS / f"{config}.yaml"),
            *QUIET,
            "--data.init_args.prior_size=2",
            *arguments,
        ]
    )


@pytest.mark.parametrize(
    ("style", "verdict", "reason"),
    [
        ("sentence", "go", None),
        (
            "unseen",
            "stop",
            "does not make the model better",
        ),  # the method collapses on them: the teacher cannot read them
        ("plain", "doubtful", "copy the demonstration"),  # the model's own style
    ],
)
def test_laptop_model_can_use_the_styles_it_has_seen(
    style: str, verdict: str, reason: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("laptop_sdft", f"--data.init_args.style={style}", "--questions=48", "--output=out/preflight.json")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"verdict: {verdict}" in printed
    assert "0 of 512" in printed
    record = json.loads(Path("out/preflight.json").read_text())
    assert (record["verdict"], record["questions"], record["grader"]) == (verdict, 48, "swap-ends")
    assert record["teacher"]["value"] == (0 if style == "unseen" else 1)
    assert [(each["temperature"], each["questions"]) for each in record["gaps"][:2]] == [(1.0, 48), (0.0, 16)]
    assert (record["gaps"][0]["teacher"]["value"] > 0.9) == (style != "unseen")
    assert "Answers to 16 questions as training samples them; set and proposed: to 48" in printed
    marked = [mark in printed.partition("proposed: to")[2] for mark in (" set ", " keep ", " proposed ")]
    assert ("…" in printed, marked) == (False, [style == "unseen", style != "unseen", False])
    if reason is not None:
        assert reason in printed


def test_feedback_is_judged_by_the_sampled_gap_of_a_teacher_that_is_told_of_attempts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask("laptop_sdpo", "--questions=64", "--output=out.json", "--proposal=proposal.yaml")
    printed = " ".join(capsys.readouterr().out.split())
    record = json.loads(Path("out.json").read_text())
    assert (record["verdict"], record["shown"], record["forecast"]) == ("go", "feedback", None)
    as_set = record["gaps"][0]
    assert as_set["temperature"] == 1.0
    assert as_set["teacher"]["value"] > as_set["student"]["value"] + 0.1
    assert "verdict: go" in printed
    assert "accuracy told of an attempt (teacher)" in printed
    assert "with the demonstration" not in printed
    assert "SDFT may gain" not in printed
    proposed = yaml.safe_load(Path("proposal.yaml").read_text())["model"]["init_args"]
    assert list(proposed) == ["sampling"]  # templates in parts are not tried


def test_feedback_that_is_of_no_use_is_nothing_to_distil(capsys: pytest.CaptureFixture[str]) -> None:
    """The laptop model does not know what to do with a remark."""
    template = json.dumps(["{prompt}", " example {attempt} now"])
    arguments = [f"--model.init_args.teacher_template={template}", "--model.init_args.generations=1"]
    ask("laptop_sdpo", "--questions=16", "--output=out.json", *arguments)
    printed = " ".join(capsys.readouterr().out.split())
    assert "verdict: stop" in printed
    assert "what the teacher is told of the student's attempts does not make the model better" in printed
    assert json.loads(Path("out.json").read_text())["verdict"] == "stop"


@pytest.mark.parametrize(
    ("tried", "loss_temperature", "file"), [(0.7, 0.7, "out/proposal.yaml"), (0.0, 1.0, "proposal.yaml")]
)
def test_what_it_proposes_is_a_config_to_train_with(
    tried: float,
    loss_temperature: float,
    file: str,
    in_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gaps, "TEMPERATURES", (tried,))
    # In words that the laptop model knows, unlike those that are tried for other models.
    monkeypatch.setattr(asking, "TEMPLATES_TO_TRY", (LAPTOP_TEMPLATE,))
    noisy = {
        "sampling": {"temperature": 5.0, "top_p": 0.9},
        "teacher_template": "{prompt} example {demonstration} now now",
    }
    run = {
        "config": [str(EXPERIMENTS / "laptop_sdft.yaml")],
        "model": {"init_args": noisy},
        "data": {"init_args": {"prior_size": 2}},
        "trainer": {"callbacks": [], "num_sanity_val_steps": 0, "limit_val_batches": 0, "max_steps": 2},
    }
    (in_folder / "run.yaml").write_text(yaml.safe_dump(run))
    asked_for = ["--proposal", file] if "/" in file else []
    main(["preflight", "--config", "run.yaml", *QUIET, "--questions=32", *asked_for])
    printed = capsys.readouterr().out
    assert "verdict: go with the proposed settings" in printed
    assert f"train     lightning-sdft fit --config run.yaml {' '.join(QUIET)} --config {file}\n" in printed

    cli = main(["fit", "--config=run.yaml", f"--config={file}", *QUIET])
    assert cli.model.sampling == Sampling(temperature=tried, top_p=0.9)
    assert cli.model.teacher_template == LAPTOP_TEMPLATE
    assert cli.model.temperatures["temperature"] == loss_temperature
    assert cli.trainer.global_step == 2
    assert 0 < cli.trainer.callback_metrics["train/loss"] < float("inf")


def test_without_references_answers_are_compared_with_the_demonstrations(capsys: pytest.CaptureFixture[str]) -> None:
    rows = StringSkillsDataModule(train_size=24, prior_size=1).splits.train
    turns = ([*row.prompt, {"role": "assistant", "content": row.demonstration}] for row in rows)
    Path("rows.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    data = ["--data=JsonDataModule", "--data.train=rows.jsonl", "--data.batch_size=8"]
    main(["preflight", "--config", str(EXPERIMENTS / "laptop_sdft.yaml"), *QUIET, *data, "--questions=12"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "words shared with the demonstrations, 12 questions" in printed
    assert "words shared by itself" in printed
    assert "nan" not in printed
    assert "verdict: stop" not in printed
    assert "may gain" not in printed  # the forecast is of accuracies
    assert not Path("proposal.yaml").exists()


def test_prompts_over_budget_are_counted_and_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    ask("laptop_sdft", "--model.init_args.max_teacher_prompt_tokens=17", "--questions=64")
    printed = " ".join(capsys.readouterr().out.split())
    assert "of 512 training prompts are over budget: its teacher prompt has" in printed
    assert "verdict: doubtful" in printed


def test_nothing_within_budget_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 512 training examples is within the token budgets"):
        ask("laptop_sdft", "--model.init_args.max_teacher_prompt_tokens=2")
