"""Configs of strangers import nothing of the stranger's, and ask for no code to be run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace
from jsonargparse._common import parsing_settings
from lightning.pytorch import Callback

from lightning_sdft.commands.fit import main
from lightning_sdft.errors import SettingError
from lightning_sdft.trust import check_typed, split_trust, trusting
from tests import strangers
from tests.test_safety import command, config, mark, write

__all__ = ["command", "config", "mark"]


@pytest.fixture
def stranger(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that leaves its mark when it is imported."""
    strangers.module("stranger", tmp_path, mark)
    monkeypatch.syspath_prepend(tmp_path)
    yield "stranger"
    sys.modules.pop("stranger", None)


# What is imported


NAMED = {
    "callback": ("trainer.callbacks", {"trainer": {"callbacks": [{"class_path": "stranger.Guest"}]}}),
    "short callback": ("trainer.callbacks", {"trainer": {"callbacks": "stranger.Guest"}}),
    "module": ("model", {"model": {"class_path": "stranger.Guest"}}),
    "data": ("data", {"data": {"class_path": "stranger.Guest"}}),
    "argument": ("model.divergence", {"model": {"init_args": {"divergence": {"class_path": "stranger.Guest"}}}}),
    "function": (
        "trainer.callbacks.on_fit_start",
        {"trainer": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "stranger.Guest"}}]}},
    ),
}


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("place", NAMED)
def test_class_of_a_stranger_is_not_imported(
    place: str, config: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    key, content = NAMED[place]
    asks = write(tmp_path / "asks.yaml", **content)
    said = command("fit", "--config", config, "--config", asks)
    assert said.startswith(f"error: {asks}: {key} names stranger.Guest, and importing it would run its code; ")
    assert "add --trust stranger to the command line (in Python: " in said
    assert "with lightning_sdft.trust.trusting('stranger'))" in said


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config=config.yaml", "--trainer.callbacks+=stranger.Guest"],
        ["fit", "--config=config.yaml", "--trainer.callbacks", '[{"class_path": "stranger.Guest"}]'],
        ["demonstrate", "--data", "stranger.Guest", "--chat=Endpoint", "--chat.model=m", "--output=a.jsonl"],
        ["questions", "--chat", "stranger.Guest", "--articles=.", "--output=a.jsonl"],
        ["judge", "--chat=stranger.Guest", "--responses=a.jsonl", "--prompt=medical"],
    ],
)
@pytest.mark.usefixtures("config")
def test_class_of_a_stranger_is_not_imported_from_the_command_line(
    arguments: list[str], command: Callable[..., str]
) -> None:
    assert command(*arguments).startswith("error: the command line: ")


@pytest.mark.usefixtures("stranger")
def test_files_of_files_are_no_way_around(config: Path, command: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path / "inner.txt", class_path="stranger.Guest")
    asks = write(tmp_path / "asks.yaml", model="inner.txt")
    for arguments in (["--config", asks], ["--model", tmp_path / "inner.txt"]):
        assert "model names stranger.Guest" in command("fit", "--config", config, *arguments)


@pytest.mark.usefixtures("stranger", "config")
def test_environment_is_no_way_around(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__TRAINER__CALLBACKS", "stranger.Guest")
    assert "trainer.callbacks names stranger.Guest" in command("fit", "--config=config.yaml")


@pytest.mark.parametrize(
    ("path", "defined"),
    [
        ("lightning_sdft.cli.sys.exit", "sys.exit"),
        ("lightning_sdft.checkpoint.files.os.remove", "posix.remove"),
        ("lightning.pytorch.cli.yaml.YAMLObject", "yaml.YAMLObject"),
        ("torch.nn.modules.module.torch.load", "torch.serialization.load"),
        ("torch.hub.load", "torch.hub.load"),
        ("jsonargparse.set_parsing_settings", "jsonargparse.set_parsing_settings"),
    ],
)
def test_what_trusted_packages_import_is_not_theirs(
    path: str, defined: str, config: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    hooks = [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": path}}]
    asks = write(tmp_path / "asks.yaml", trainer={"callbacks": hooks})
    assert f"trainer.callbacks.on_fit_start names {defined}, " in command("fit", "--config", config, "--config", asks)


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir [ran]", "name:os.mkdir", "object/new:os.mkdir [ran]"])
def test_yaml_makes_no_objects(
    tag: str, config: Path, command: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asks.yaml").write_text(f"model: !!python/{tag}\n")
    command("fit", "--config", config, "--config", tmp_path / "asks.yaml")
    assert "could not determine a constructor for the tag" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("stranger")
def test_a_file_cannot_trust_itself(
    config: Path, command: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = write(tmp_path / "asks.yaml", trust="stranger", trainer={"callbacks": [{"class_path": "stranger.Guest"}]})
    said = command("fit", "--config", config, "--config", asks)
    assert "trust" in said + capsys.readouterr().err


class Seen(Callback):
    """A user's own."""


def test_trusted_packages_are_imported(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = write(tmp_path / "asks.yaml", trainer={"callbacks": [{"class_path": "tests.test_trust.Seen"}]})
    arguments = ["--config", str(config), "--config", str(asks)]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments, "--trust", "tests"])
    by_typing = main(run=False)
    by_argument = main(arguments, run=False, trust=["tests"])
    for cli in (by_typing, by_argument):
        assert any(isinstance(each, Seen) for each in cli.trainer.callbacks)  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match=r"names tests\.test_trust\.Seen"):  # trust ends with the call
        main(arguments, run=False)


def test_trust_on_the_command_line_is_that_of_its_command(
    config: Path, command: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = write(tmp_path / "asks.yaml", trainer={"callbacks": [{"class_path": "tests.test_trust.Seen"}]})
    assert command("fit", "--config", config, "--config", asks, "--trust", "tests", "--print_config") == "0"
    assert "class_path: tests.test_trust.Seen" in capsys.readouterr().out


@pytest.mark.usefixtures("stranger")
def test_configs_in_python_are_checked_too() -> None:
    with pytest.raises(SettingError, match=r"the config: trainer.callbacks names stranger\.Guest"):
        main({"trainer": {"callbacks": [{"class_path": "stranger.Guest"}]}}, run=False)


def test_other_errors_are_said_as_ever(
    config: Path, command: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("fit", "--config", config, "--model.no_such=1").endswith(
        "has no setting no_such; `lightning-sdft fit --model.help SDFTModule` lists them"
    )
    assert "no_such" in capsys.readouterr().err


# Settings that run code


@pytest.mark.parametrize(
    ("key", "value", "content"),
    [
        ("model.init_args.trust_remote_code", True, {"model": {"init_args": {"trust_remote_code": True}}}),
        (
            "trainer.callbacks.init_args.allow_code_execution",
            ["humaneval"],
            {"class_path": "PriorTasks", "init_args": {"allow_code_execution": ["humaneval"]}},
        ),
        (
            "trainer.callbacks.init_args.include_path",
            "tasks",
            {"class_path": "PriorTasks", "init_args": {"include_path": "tasks"}},
        ),
    ],
)
def test_a_file_cannot_ask_for_code_to_be_run(
    key: str, value: Any, content: dict[str, Any], config: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    content = {"trainer": {"callbacks": [content]}} if "class_path" in content else content
    asks = write(tmp_path / "asks.yaml", **content)
    name = key.rpartition(".")[2]
    said = command("fit", "--config", config, "--config", asks)
    assert said.startswith(f"error: {asks}: {key}={value} ")
    assert said.endswith(
        f"and a file may not turn that on; if you want it, add --{key}=... or --trust {name} to the command line"
    )


@pytest.mark.parametrize(
    "typed",
    [
        ["--model.init_args.trust_remote_code=true"],
        ["--model.trust_remote_code", "true"],
        ["--trust", "trust_remote_code"],
    ],
)
def test_what_is_typed_is_done(typed: list[str], config: Path, tmp_path: Path) -> None:
    asks = write(tmp_path / "asks.yaml", model={"init_args": {"trust_remote_code": True}})
    assert main(["--config", str(config), "--config", str(asks), *typed], run=False).model.trust_remote_code


def test_typing_it_for_one_does_not_allow_it_for_another(config: Path, command: Callable[..., str]) -> None:
    asks = {"class_path": "PriorTasks", "init_args": {"include_path": "tasks"}}
    write(config.parent / "asks.yaml", trainer={"callbacks": [asks]})
    arguments = ["fit", "--config", config, "--config", "asks.yaml", "--model.trust_remote_code=true"]
    assert "include_path=tasks" in command(*arguments)


def test_typing_it_for_one_key_does_not_allow_it_for_another_of_the_same_name() -> None:
    config = Namespace(model=Namespace(trust_remote_code=True), judge=Namespace(trust_remote_code=True))
    with pytest.raises(SettingError, match=r"judge\.trust_remote_code=True"):
        check_typed(config, ["--model.trust_remote_code=true"])
    check_typed(config, ["--model.trust_remote_code=true", "--judge.trust_remote_code", "true"])


def test_the_last_file_that_has_the_setting_is_named(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("off.yaml", "on.yaml", "other.yaml")]
    for path, content in zip(files, ({"trust_remote_code": False}, {"trust_remote_code": True}, {}), strict=True):
        write(path, **content)
    with pytest.raises(SettingError, match=rf"^{files[1]}: trust_remote_code=True"):
        check_typed(Namespace(trust_remote_code=True), [f"--config={path}" for path in files])


def test_off_is_not_refused(config: Path, tmp_path: Path) -> None:
    off = write(tmp_path / "off.yaml", model={"init_args": {"trust_remote_code": False}})
    assert not main(["--config", str(config), "--config", str(off)], run=False).model.trust_remote_code


# The parts


@pytest.mark.parametrize("arguments", [["fit", "--trust"], ["--trust", "--config=a"], ["--trust="]])
def test_trust_needs_a_name(arguments: list[str]) -> None:
    with pytest.raises(SettingError, match="--trust needs the name of a package"):
        split_trust(arguments)


@pytest.mark.parametrize("name", ["my-lab", "*", "", "jsonargparse", "lab;os"])
def test_trust_in_what_is_no_package(name: str) -> None:
    before = dict(parsing_settings)
    with pytest.raises(SettingError, match="cannot trust"), trusting(name):
        pass
    assert parsing_settings == before


def test_trust_ends_with_its_block_and_adds_to_that_of_the_one_around_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    arguments = ["--callback=tests.test_trust.Seen"]
    before = dict(parsing_settings)
    with pytest.raises(SettingError, match=r"the config: callback names tests\.test_trust\.Seen"), trusting("other"):
        parser.parse_args(arguments)
    with trusting("tests", "trust_remote_code"), trusting("other"):
        parser.parse_args(arguments)
        check_typed(Namespace(trust_remote_code=True), [])
    with pytest.raises(SettingError, match="trust_remote_code=True"):
        check_typed(Namespace(trust_remote_code=True), [])
    assert parsing_settings == before
    parser.parse_args(arguments)  # other parsers of the process are left alone
