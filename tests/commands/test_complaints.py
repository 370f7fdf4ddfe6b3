"""What a user reads who has mistyped an argument: one line, with what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_sdft.cli import entry_point
from lightning_sdft.commands.complaints import complaint
from lightning_sdft.errors import SettingError

LAPTOP = ["fit", "--config", "laptop_sdft"]
OWN = ["--data", "JsonDataModule", "--data.train", "rows.jsonl"]

FILES = {
    "key.yaml": "model: {init_args: {learning_rat: 3}}",
    "inner.yaml": "model: {init_args: {teacher: {class_path: CopiedTeacher, init_args: {memory: float}}}}",
    "level.yaml": "model: {class_path: SFTModule, init_arg: {model: zoo/laptop}}",
    "top.yaml": "trainr: {max_steps: 3}",
    "callback.yaml": "trainer: {callbacks+: [{class_path: EMATeacher, init_args: {teacher_rate: 0}}]}",
    "no_class.yaml": "trainer: {callbacks: [{init_args: {teacher_rate: 0}}]}",
    "number.yaml": "model: {class_path: SFTModule, init_args: 5}",
    "broken.yaml": "model: {class_path: [\n",
    "list.yaml": "- model",
    "empty.yaml": "# nothing yet",
    "trainer.yaml": "trainer: 5",
}

MISTAKES = [
    ([], "no command is given, such as fit; `lightning-sdft --help` lists them"),
    (["train"], "there is no command train; did you mean fit?; there are fit, validate, .*export, .*compare"),
    (["fti"], "there is no command fti; did you mean fit?; there are"),
    (["--config", "laptop_sdft"], "no command is given, such as fit; write it first"),
    (["export", "--modl", "x"], "there is no option --modl; did you mean --model?"),
    (["compare", "--config", "compare/laptop", "--outt", "x"], "there is no option --outt; did you mean --out?"),
    (["configs", "laptop"], "laptop stands alone; write it behind an option, such as --about laptop"),
    (["configs", "--about", "laptp"], "no config has 'laptp' in its name or its first sentence; did you mean laptop?"),
    (["configs", "--about", "zzz"], "no config has 'zzz' in .*; `lightning-sdft configs` lists them all"),
    (["export"], "--output is missing; give it on the command line"),
    (["fit", "--model", "SDFTModul"], "model: SDFTModul is no class that fits here; did you mean SDFTModule?"),
    (["fit", "--model", "SFTModule"], "SFTModule needs model: give --model.init_args.model"),
    (["fit", *OWN], "--model is missing; give it on the command line, or in a file with --config"),
    ([*LAPTOP, "laptop"], "laptop stands alone; write it behind an option, such as --config laptop"),
    ([*LAPTOP, *OWN, "--data.grader", "ExactMach"], "data.grader: ExactMach is no class .*; did you mean ExactMatch?"),
    ([*LAPTOP, "--model.init_args.learning_rat=1"], "model: SDFTModule has no setting learning_rat; did you mean lea"),
    (
        [*LAPTOP, "--data.train_siz=1"],
        "data: StringSkillsDataModule has no setting train_siz; did you mean train_size?",
    ),
    ([*LAPTOP, "--config", "key.yaml"], "model: SDFTModule has no setting learning_rat; did you mean learning_rate?"),
    ([*LAPTOP, "--config", "inner.yaml"], "model.teacher.memory=float must be one of float32, .*mean float32?"),
    ([*LAPTOP, "--config", "level.yaml"], "model: SDFTModule has no setting init_arg.model; did you mean init_args?"),
    ([*LAPTOP, "--config", "top.yaml"], "a run has no setting trainr.max_steps; did you mean trainer?"),
    ([*LAPTOP, "--config", "callback.yaml"], "EMATeacher: teacher_rate=0.0 must be a number within"),
    (
        [*LAPTOP, "--config", "no_class.yaml"],
        "trainer.callbacks=[{'init_args': .* must be a Callback (class_path: NAME)",
    ),
    ([*LAPTOP, "--config", "number.yaml"], "model: 'int' object has no attribute 'keys' (--debug shows all of it)"),
    ([*LAPTOP, "--config", "broken.yaml"], "broken.yaml, line 2, column 1: .*; this is no YAML"),
    ([*LAPTOP, "--config", "list.yaml"], "list.yaml is empty or holds something other than settings; write them as"),
    ([*LAPTOP, "--config", "empty.yaml"], "empty.yaml is empty or holds something other than settings; write them as"),
    ([*LAPTOP, "--config", "trainer.yaml"], "trainer.yaml: trainer=5 must be settings, such as {max_steps: 3}"),
    ([*LAPTOP, "--config", "laptop_sftt"], "laptop_sftt does not exist.*did you mean laptop_sft?"),
    ([*LAPTOP, "--config", "brokn.yaml"], "brokn.yaml does not exist.*did you mean broken.yaml?"),
    ([*LAPTOP, "--config", "."], ". is a folder; name a config file in it"),
    ([*LAPTOP, "--trainer.max_stps=3"], "the trainer has no setting max_stps; did you mean max_steps?"),
    ([*LAPTOP, "--trainer.max_step=3"], "the trainer has no setting max_step; did you mean max_steps?"),
    ([*LAPTOP, "--trainer.max_steps"], "--trainer.max_steps needs a value: --trainer.max_steps=VALUE"),
    ([*LAPTOP, "--trainer.precision=fp16"], "trainer.precision=fp16 must be one of transformer-engine, .*mean bf16?"),
    ([*LAPTOP, "--trainer.callbacks+=TeacherWach"], "trainer.callbacks: TeacherWach is no class .* TeacherWatch?"),
    ([*LAPTOP, "--trainer.logger=TensorBordLogger"], "trainer.logger: TensorBordLogger .*mean TensorBoardLogger?"),
    ([*LAPTOP, "--trainer.logger=3"], "trainer.logger: 3 is no class that fits here"),
    ([*LAPTOP, "--model.init_args.learning_rate=fast"], "model.learning_rate=fast must be a number"),
    ([*LAPTOP, "--model.init_args.pretrained=maybe"], "model.pretrained=maybe must be true or false"),
    ([*LAPTOP, "--model.init_args.reduction=tok"], "model.reduction=tok must be one of sequence, token; did you mean"),
    (
        [*LAPTOP, "--model.init_args.divergence=KL"],
        "model.divergence: KL is no class .*; there are .*ForwardKL, .*Toward",
    ),
    ([*LAPTOP, "--model.init_args.template_arguments=no"], "model.template_arguments=no must be settings, such as {"),
    ([*LAPTOP, "--seed_everything=abc"], "seed_everything=abc must be true or false or a whole number"),
    ([*LAPTOP, "--optimizer=AdamW"], "there is no option --optimizer"),
]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(each[-2:]) for each, _ in MISTAKES])
def test_a_mistake_is_said_in_one_line(arguments: list[str], said: str, refused: Callable[..., str]) -> None:
    line = refused(*arguments)
    assert all(part in line for part in said.split(".*")), line


def test_debug_shows_all_that_jsonargparse_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *LAPTOP, "--config", "number.yaml", "--debug"])
    with pytest.raises(SettingError) as error:
        entry_point()
    assert "Given value: {'class_path': 'SFTModule', 'init_args': 5}" in str(error.value.__cause__)


def test_a_message_of_another_kind_comes_as_its_last_line() -> None:
    assert complaint("something else\nof two lines") == "of two lines (--debug shows all of it)"
    assert complaint("something else") == "something else"
    unions = "Parser key \"a\":\n  Does not validate\n  Errors:\n    - who knows\n    - Expected a <class 'NoneType'>\n"
    assert complaint(unions) == "a: who knows (--debug shows all of it)"
