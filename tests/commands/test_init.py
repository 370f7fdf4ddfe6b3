from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_sdft.commands import asking, first_fit
from lightning_sdft.commands.fit import main
from lightning_sdft.commands.init import init
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.errors import DataError, PolicyError, SettingError
from lightning_sdft.memory import Room
from tests.conftest import make_byte_tokenizer

TEAMS = ("parcels", "returns", "press")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model that reads any text."""
    folder, tokenizer = tmp_path_factory.mktemp("bytes"), make_byte_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    return tmp_path


@pytest.fixture
def write() -> Callable[..., str]:
    def rows(make: Callable[[int], dict[str, Any]], count: int = 60) -> str:
        Path("rows.jsonl").write_text("".join(json.dumps(make(n)) + "\n" for n in range(count)))
        return "rows.jsonl"

    return rows


def routed(n: int) -> dict[str, Any]:
    team = TEAMS[n % 3]
    return {"prompt": f"Who gets message {n}?", "response": f"It goes to {team}, as they know it.", "team": team}


def talk(n: int) -> dict[str, Any]:
    turns = [("user", f"Hello, {n}."), ("assistant", f"Good day, and welcome to you, number {n}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def built(path: Path, *arguments: str) -> Any:
    return main(["--config", str(path), "--trainer.logger=false", *arguments], run=False)


def test_it_says_what_it_found_and_writes_a_config_that_trains_and_is_graded(
    model: str, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = init(write(routed), model, device="cpu", questions=0)
    said = capsys.readouterr().out
    assert "rows.jsonl: 60 rows; prompts are 'prompt', demonstrations are 'response'; not used: 'team'" in said
    assert "answers are right if they contain 'team'" in said
    assert "next:\n  check  lightning-sdft preflight --config run.yaml\n" in said
    assert "  train  lightning-sdft fit --config run.yaml\n" in said
    cli = built(
        path, "--trainer.max_steps=1", "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert cli.trainer.global_step == 1
    (validation,) = cli.datamodule.splits.validation
    assert len(validation.examples) == 12
    (grader,) = validation.graders.values()
    assert grader.grade("They say PARCELS know.", "parcels")


def test_the_prompts_of_the_command_line_are_those_that_run(
    model: str, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = init(write(routed), model, method="sft", device="cpu", output="mine.yaml")
    commands = re.findall("^  train  (lightning-sdft .*)", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["lightning-sdft fit --config mine.yaml"]
    assert f"#   {commands[0]}" in path.read_text()
    assert type(built(path).model).__name__ == "SFTModule"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_device_decides_the_precision(model: str, write: Callable[..., str], device: Any) -> None:
    text = init(write(routed), model, device=device, questions=0).read_text()
    expected = "bf16-mixed" if device == "gpu" else "32-true"
    assert f"accelerator: {device}\n" in text
    assert f"precision: {expected}\n" in text


def test_what_is_to_be_kept_becomes_retention(model: str, write: Callable[..., str]) -> None:
    Path("general.jsonl").write_text(json.dumps({"prompt": "What is water?"}) + "\n")
    assert (
        built(init(write(routed), model, device="cpu", keep="general.jsonl", questions=0)).model.retention is not None
    )


def test_a_run_that_fits_in_no_way_is_refused_and_nothing_written(
    model: str, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_fit, "room", lambda *_: Room(1, 1))
    with pytest.raises(PolicyError, match="is all that there is for a process"):
        init(write(routed), model, device="cpu")
    assert not Path("run.yaml").exists()


def test_nothing_is_overwritten_unless_it_is_said(model: str, write: Callable[..., str]) -> None:
    Path("run.yaml").write_text("mine")
    with pytest.raises(SettingError, match="there already; give --output another name, or --overwrite=true"):
        init(write(routed), model)
    assert Path("run.yaml").read_text() == "mine"
    init("rows.jsonl", model, device="cpu", overwrite=True, questions=0)
    assert "JsonDataModule" in Path("run.yaml").read_text()


def test_rows_without_demonstrations_are_refused(model: str, write: Callable[..., str]) -> None:
    with pytest.raises(DataError, match="demonstration"):
        init(write(lambda n: {"prompt": f"question {n}"}), model)


def test_columns_that_are_not_found_can_be_named(model: str, write: Callable[..., str]) -> None:
    rows = write(lambda n: {"ask": f"Who gets message {n}?", "say": f"It goes to the team of number {n}, of course."})
    with pytest.raises(
        DataError, match=r"rows\.jsonl: .*'ask', 'say'.* Set --prompt_column and --demonstration_column"
    ):
        init(rows, model)
    named = {"prompt_column": "ask", "demonstration_column": "say"}
    data = built(init(rows, model, device="cpu", questions=0, **named)).datamodule  # type: ignore[arg-type]
    assert data.splits.train[0].demonstration.startswith("It goes")


def test_a_set_without_a_file_of_its_own_is_held_out(model: str, write: Callable[..., str]) -> None:
    rows = write(routed)
    Path("validation.jsonl").write_text(json.dumps(routed(100)) + "\n")
    splits = built(init(rows, model, device="cpu", validation="validation.jsonl", questions=0)).datamodule.splits
    assert [len(each.examples) for each in (*splits.validation, *splits.test)] == [1, 12]
    assert len(splits.train) == 48


def test_in_a_terminal_it_asks_and_elsewhere_it_says_what_is_missing(
    model: str, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError, match="--data is not given"):
        init(model=model)
    typed = iter(["", write(routed), model])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert "train: rows.jsonl" in init(device="cpu", questions=0).read_text()


def test_the_model_itself_says_how_it_is_to_be_asked(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "TEMPLATES_TO_TRY", (LAPTOP_TEMPLATE,))
    skill = StringSkillsDataModule(train_size=64, prior_size=1).splits.train
    rows = write(lambda n: {"prompt": skill[n].prompt, "response": skill[n].demonstration, "key": skill[n].reference})
    path = init(rows, "zoo/laptop", device="cpu", questions=8)
    said = capsys.readouterr().out
    assert re.search(r"8 questions, shown the demonstration: 1\.00 are right, 0\.\d\d without; temperature 1\n", said)
    built_module = built(path).model
    assert built_module.teacher_template == LAPTOP_TEMPLATE
    assert built_module.sampling.temperature == 1
    assert "teacher_template: '{prompt} example {demonstration} now' # what the teacher sees" in path.read_text()
    assert built_module.max_completion_tokens == 16


def test_conversations_without_references_are_asked_too(
    model: str, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = init(write(talk), model, device="cpu", questions=3).read_text()
    said = capsys.readouterr().out
    assert "of the words are those of the demonstration" in said
    assert "  check  lightning-sdft preflight --config run.yaml\n" in said
    assert re.search(r"max_completion_tokens: \d+ # .*(first answers|does not end its answers)", text)


def test_where_there_is_no_such_device_it_is_not_asked(model: str, write: Callable[..., str]) -> None:
    text = init(write(routed), model, device="gpu").read_text()
    assert "half as much again" in text
