from __future__ import annotations

import inspect

from lightning.pytorch import Trainer

import lightning_sdft
from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands.signatures import classes, commands, described, trainer_settings
from lightning_sdft.data import DemonstrationDataModule
from lightning_sdft.modules import CausalLMModule


def test_the_source_has_the_commands_that_there_are() -> None:
    assert sorted(commands()) == sorted(COMMANDS)
    for name, module in commands().items():
        assert COMMANDS[name].__module__ == module


def test_the_arguments_of_a_command_are_those_that_it_takes() -> None:
    for name, module in commands().items():
        taken = inspect.signature(COMMANDS[name]).parameters
        read = described(module, name).options
        assert [each.name for each in read] == list(taken)
        assert [each.default is None for each in read] == [each.default is each.empty for each in taken.values()]
        assert all(each.text for each in read), name


def test_a_class_takes_what_its_bases_take() -> None:
    found = [each.name for each in described("lightning_sdft.modules.sdft", "SDFTModule").options]
    own = list(inspect.signature(lightning_sdft.SDFTModule.__init__).parameters)
    assert found[: len(own) - 2] == [name for name in own if name not in ("self", "kwargs")]
    assert {"learning_rate", "divergence", "teacher_template"} <= set(found)
    assert len(found) == len(set(found))


def test_only_classes_that_can_be_used_are_listed() -> None:
    modules, data = classes("modules", "Module"), classes("data", "DataModule")
    assert "SDFTModule" in modules
    assert "JsonDataModule" in data
    for base, found in ((CausalLMModule, modules), (DemonstrationDataModule, data)):
        assert all(issubclass(getattr(lightning_sdft, name, base), base) for name in found)
        assert base.__name__ not in found
    assert "RowDataModule" not in data


def test_choices_are_read_where_they_are_named() -> None:
    kinds = {each.name: each.kind for each in described("lightning_sdft.commands.init", "init").options}
    assert kinds["device"] == "Literal['auto', 'cpu', 'gpu']"
    assert kinds["method"].startswith("Literal['sdft'")


def test_the_trainer_takes_what_lightning_says() -> None:
    expected = inspect.signature(inspect.unwrap(Trainer.__init__)).parameters
    assert trainer_settings() == [name for name in expected if name != "self"]
