from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.program import TensorBoard
from transformers import AutoModelForCausalLM

from lightning_sdft.callbacks import LastCheckpoints
from lightning_sdft.cli import entry_point
from lightning_sdft.commands.next_steps import after_demonstrate, after_experiment, after_fit, after_preflight, say
from tests.cli_runs import config, config_file, trusted

__all__ = ["config_file", "trusted"]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line, and return what it prints."""
    monkeypatch.setattr("sys.argv", arguments)
    entry_point()
    return capsys.readouterr().out


def commands(printed: str) -> dict[str, list[str]]:
    """The words of the next commands, as a shell would split them, by what they are for."""
    lines = printed.split("next:\n")[1].splitlines()
    found = [re.split(r"  +", line.strip(), maxsplit=1) for line in lines if line.startswith("  ")]
    return {purpose: shlex.split(command, comments=True) for purpose, command in found}


def test_what_fit_says_comes_next_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "my runs", "name": "one"}}
    Path("run.yaml").write_text(yaml.safe_dump(config(logger=logger, max_steps=1)))
    fit = run(["lightning-sdft", "fit", "--config", "run.yaml", "--trust", "tests"], monkeypatch, capsys)
    (folder,) = Path("my runs/one").iterdir()
    (checkpoint,) = [each for each in (folder / "checkpoints").iterdir() if not each.is_symlink()]
    assert re.search(rf"written:\n  {checkpoint} \(\d+\.\d MB\)\n  {folder}/config.yaml \(\d\.\d kB\)\n", fit)

    steps = commands(fit)
    assert list(steps) == ["look", "test", "export", "serve", "chat"]
    board = TensorBoard()
    board.configure(steps["look"])
    assert list(Path(board.flags.logdir).glob("events*"))
    tested = run(steps["test"], monkeypatch, capsys)
    assert "test/accuracy" in tested
    assert {name: commands(tested)[name] for name in commands(tested)} == {
        name: words for name, words in steps.items() if name != "test"
    }
    exported = run(steps["export"], monkeypatch, capsys)
    assert commands(exported) == {name: steps[name] for name in ("serve", "chat")}
    assert steps["serve"][:2] == ["transformers", "serve"]
    AutoModelForCausalLM.from_pretrained(steps["chat"][-1])


def test_an_adapter_is_not_served(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = ["--model.init_args.lora.rank=2", "--model.init_args.pretrained=true", "--trainer.max_steps=1"]
    run(["lightning-sdft", "fit", "--config", str(config_file), *lora, "--trust", "tests"], monkeypatch, capsys)
    export = ["lightning-sdft", "export", "--checkpoint", "runs/run/checkpoints/last.ckpt", "--output", "out"]
    printed = run([*export, "--adapter=true"], monkeypatch, capsys)
    assert "written:\n  out (" in printed
    assert "next:" not in printed


@pytest.mark.parametrize("stop", [False, True])
def test_preflight_goes_on_with_the_same_settings_and_what_is_proposed(
    stop: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text("x")
    settings = ["--config", "a b.yaml", "--model.init_args.learning_rate=1e-4"]
    own = ["--questions", "8", "--seed=3", "--output", "o.json", "--proposal=p.yaml"]
    after_preflight(["preflight", own[0], own[1], *settings, *own[2:]], "o.json", "p.yaml", stop)
    printed = capsys.readouterr().out
    assert printed.startswith("written:\n  p.yaml (1 bytes)\nnext:\n")
    purposes = {"look inside": "inspect"} if stop else {"estimate": "memory", "train": "fit"}
    proposed = [] if stop else ["--config", "p.yaml"]
    assert commands(printed) == {
        purpose: ["lightning-sdft", name, *settings, *proposed, "--trust", "tests"]
        for purpose, name in purposes.items()
    }


def test_demonstrations_become_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {kind: tmp_path / f"{kind}.jsonl" for kind in ("train", "validation", "test", "journal")}
    row = '{"prompt": [{"role": "user", "content": "copy %s"}], "response": "a b", "reference": "a b"}\n'
    for kind in ("train", "validation"):
        files[kind].write_text("".join(row % f"{letter} {other}" for letter in "abcdefgh" for other in "abcde"))
    after_demonstrate(files)
    steps = commands(capsys.readouterr().out)["write a config"]
    assert "--test" not in steps
    monkeypatch.chdir(tmp_path)
    run([*steps, "--model", "zoo/laptop"], monkeypatch, capsys)
    assert yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["validation"] == str(files["validation"])


def test_experiments_are_looked_at_and_the_best_settings_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after_experiment(tmp_path, tmp_path / "best.yaml")
    assert commands(capsys.readouterr().out) == {
        "look": ["tensorboard", "--logdir", str(tmp_path)],
        "train": ["lightning-sdft", "fit", "--config", str(tmp_path / "best.yaml")],
    }


def test_sizes_are_those_of_all_files_but_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder: Any = Path("model")
    folder.mkdir()
    (folder / "a").write_bytes(bytes(1500))
    (folder / "b").symlink_to("a")
    say([folder, Path("not there")], {})
    assert capsys.readouterr().out == "written:\n  model (1.5 kB)\n"


def test_the_checkpoint_with_the_best_validation_is_tested_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("best.ckpt", "last.ckpt")]
    for path in paths:
        path.write_text("x")
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[LastCheckpoints(), ModelCheckpoint(monitor="val/x")])
    for callback, path in zip(trainer.checkpoint_callbacks, reversed(paths), strict=True):
        callback.best_model_path = str(path)  # type: ignore[attr-defined]
    after_fit(trainer)
    assert str(paths[0]) in commands(capsys.readouterr().out)["export"]


def test_a_run_that_a_signal_has_ended_goes_on(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"class_path": "LastCheckpoints"}
    content = yaml.safe_load(config_file.read_text())
    content["trainer"]["callbacks"] = [*content["trainer"]["callbacks"][:2], last]
    config_file.write_text(yaml.safe_dump(content))
    ends = ["--trainer.callbacks+=tests.checkpoint.test_preemption.Signal", "--trainer.callbacks.signum=15"]
    ends += ["--trainer.callbacks.hook=on_before_backward", "--trainer.callbacks.number=2"]
    with pytest.raises(SystemExit):
        run(["lightning-sdft", "fit", "--config", str(config_file), *ends, "--trust=tests"], monkeypatch, capsys)
    printed = capsys.readouterr().out
    assert "step000002.ckpt (" in printed
    words = commands(printed)["go on"]
    assert words[:2] + words[-2:] == ["lightning-sdft", "fit", "--ckpt_path", "last"]
    number = words.index("--trainer.callbacks.number=2")
    words[number] = "--trainer.callbacks.number=99"  # it would be ended again
    assert "step000003.ckpt (" in run(words, monkeypatch, capsys)
