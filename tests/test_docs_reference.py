"""The pages of the reference that the build writes from the code."""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType

import pytest

import lightning_sdft
from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands.config_files import config_names
from lightning_sdft.commands.fit import SDFTCLI
from tests.config_runs import ROOT

pytest.importorskip("sphinx", reason="needs the extra docs")


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What Sphinx adds to the pages."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import extension

    return extension


def test_every_public_name_is_on_one_page(extension: ModuleType) -> None:
    entries = [name for text in extension.api.pages().values() for name in re.findall(r":: (\w+)$", text, re.MULTILINE)]
    assert sorted(set(entries) - {"lightning_sdft"}) == sorted(set(lightning_sdft.__all__) - {"DataError"})
    assert "DataError" in extension.errors.pages()["errors.md"]


def test_every_command_and_option_is_there_with_its_text(extension: ModuleType) -> None:
    page = extension.commands.pages()["commands.md"]
    for name, command in COMMANDS.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for option in inspect.signature(command).parameters:
            assert re.search(rf"^\| `--{option}` \| .* \| \S.* \|$", section, re.MULTILINE), (name, option)
    assert all(re.search(rf"^\| `{name}` \| \S", page, re.MULTILINE) for name in SDFTCLI.subcommands())


def test_every_config_is_there_but_parts(extension: ModuleType) -> None:
    page = extension.configs.pages()["configs.md"]
    listed = set(re.findall(r"^\| `([\w/-]+)` \| \S", page, re.MULTILINE))
    assert listed == {name for name in config_names() if "parts/" not in name}


def test_a_folder_of_configs_without_a_place_is_named(extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(extension.configs.FOLDERS, "preset")
    with pytest.raises(ValueError, match="preset"):
        extension.configs.pages()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("'no such file'", "no such file"),
        ("f'{path}, row {row}: ' f'no [{name}]'", "..., row ...: no \\[...]"),
        ("f'{a} is *' + 'b_c'", "... is \\*b\\_c"),
        ("texts[0]", ""),
    ],
)
def test_what_an_error_says(extension: ModuleType, code: str, text: str) -> None:
    assert extension.errors.message(ast.parse(code, mode="eval").body) == text


def test_errors_stand_by_kind_and_room(extension: ModuleType) -> None:
    page = extension.errors.pages()["errors.md"]
    section = page.split("## SettingError\n")[1].split("\n## ")[0]
    assert "there is no command ..." in section.split("From `commands`:")[1].split("From ")[0]


def test_errors_that_functions_word_stand_there_too(extension: ModuleType) -> None:
    for file, (kind, names) in extension.errors.SAYING.items():
        tree = ast.parse((extension.errors.PACKAGE / file).read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name in names:
            said = [
                (one, extension.errors.message(text)) for one, text in extension.errors.sayings(functions[name], file)
            ]
            assert {one for one, _ in said} == {kind}
            assert any(text.strip(". ") for _, text in said), (file, name)
    section = extension.errors.pages()["errors.md"].split("## SettingError\n")[1].split("\n## ")[0]
    assert "no command is given, such as fit" in section
