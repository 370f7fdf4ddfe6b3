"""What a user reads who has mistyped something: one line, with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.cli import entry_point
from lightning_sdft.commands.complaints import complaint, did_you_mean

LAPTOP = ["fit", "--config", "laptop_sdft"]
OWN = ["--data", "JsonDataModule", "--data.train", "rows.jsonl"]

FILES = {
    "key.yaml": "model: {init_args: {learning_rat: 3}}",
    "top.yaml": "trainr: {max_steps: 3}",
    "callback.yaml": "trainer: {callbacks+: [{class_path: EMATeacher, init_args: {teacher_rate: 0}}]}",
    "broken.yaml": "model: {class_path: [\n",
}

MISTAKES = [
    (["train"], "there is no command train; there are fit, validate,"),
    (["fti"], "there is no command fti; did you mean fit?; there are"),
    (["export", "--modl", "x"], "there is no option --modl; did you mean --model?"),
    (["compare", "--config", "compare/laptop", "--outt", "x"], "there is no option --outt; did you mean --out?"),
    (["fit", "--model", "SDFTModul"], "model: SDFTModul is no class that fits here; did you mean SDFTModule?"),
    (["fit", "--model", "SFTModule"], "SFTModule needs model: give --model.init_args.model"),
    (["fit", *OWN], "--model is missing; give it on the command line, or in a file with --config"),
    ([*LAPTOP, *OWN, "--data.grader", "ExactMach"], "data.grader: ExactMach is no class .*; did you mean ExactMatch?"),
    ([*LAPTOP, "--model.init_args.learning_rat=1"], "model: SDFTModule has no setting learning_rat; did you mean lea"),
    ([*LAPTOP, "--config", "key.yaml"], "model: SDFTModule has no setting learning_rat; did you mean learning_rate?"),
    ([*LAPTOP, "--config", "top.yaml"], "a run has no setting trainr.max_steps; did you mean trainer?"),
    ([*LAPTOP, "--config", "callback.yaml"], "EMATeacher: teacher_rate=0.0 must be a number within"),
    ([*LAPTOP, "--config", "broken.yaml"], "broken.yaml, line 2, column 1: .*; this is no YAML"),
    ([*LAPTOP, "--config", "laptop_sftt"], "laptop_sftt does not exist.*did you mean laptop_sft?"),
    ([*LAPTOP, "--trainer.max_stps=3"], "the trainer has no setting max_stps; did you mean max_steps?"),
    ([*LAPTOP, "--trainer.precision=fp16"], "trainer.precision=fp16 must be one of transformer-engine, .*mean bf16?"),
    ([*LAPTOP, "--trainer.callbacks+=TeacherWach"], "trainer.callbacks: TeacherWach is no class .* TeacherWatch?"),
    ([*LAPTOP, "--model.init_args.learning_rate=fast"], "model.learning_rate=fast must be a number"),
    ([*LAPTOP, "--model.init_args.reduction=tok"], "model.reduction=tok must be one of sequence, token; did you mean"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(each[-2:]) for each, _ in MISTAKES])
def test_a_mistake_is_said_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
    with pytest.raises(SystemExit) as end:
        entry_point()
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert end.value.code == 2
    assert len(printed) == 1
    assert printed[0].startswith("error: ")
    assert "Namespace" not in printed[0]
    parts = said.split(".*")
    assert all(part in printed[0] for part in parts), printed[0]


def test_what_is_not_known_stays_as_it_is() -> None:
    assert complaint("something else\nof two lines") == "something else\nof two lines"
    assert did_you_mean("zzz", ["abc"]) == ""
