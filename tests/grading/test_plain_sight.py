"""Every grader can be named on the command line, without its module."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from lightning_sdft import grading
from lightning_sdft.data import JsonDataModule
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import SettingError
from lightning_sdft.grading import Choice, ExactMatch, Grader, JsonFields, Number, Pattern


@pytest.mark.parametrize(
    ("arguments", "kind", "settings"),
    [
        (["ExactMatch"], ExactMatch, {}),
        (["Number", "--data.grader.tolerance=0.5"], Number, {"tolerance": 0.5}),
        (["Pattern", r"--data.grader.find=\#### (.+)"], Pattern, {"find": r"\#### (.+)"}),
        (["Choice", "--data.grader.letters=ABCD"], Choice, {"letters": "ABCD"}),
        (["JsonFields", "--data.grader.fields=[city]"], JsonFields, {"fields": ("city",)}),
    ],
)
def test_graders_by_name(arguments: list[str], kind: type[Grader], settings: dict[str, object], tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    own = ["--data=JsonDataModule", "--data.train=own.jsonl", "--data.reference_column=key"]
    data = parser.instantiate(parser.parse_args([*own, f"--data.grader={arguments[0]}", *arguments[1:]])).data
    assert isinstance(data, JsonDataModule)
    assert type(data.grader) is kind
    assert settings.items() <= vars(data.grader).items()


def test_a_pattern_that_is_taken_for_a_comment_is_refused() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--grader", type=Grader)
    with pytest.raises(SettingError, match=r"data\.grader\.find is empty: what follows # was taken for a comment"):
        parser.instantiate(parser.parse_args(["--grader=Pattern", "--grader.find=#### (.+)"]))


def test_all_graders_are_exported() -> None:
    def below(kind: type[Grader]) -> set[str]:
        own = {each for each in kind.__subclasses__() if each.__module__.startswith("lightning_sdft.")}
        return {each.__name__ for each in own if each.__name__[0] != "_"} | {
            name for each in own for name in below(each)
        }

    assert below(Grader) <= set(grading.__all__)  # type: ignore[type-abstract]
