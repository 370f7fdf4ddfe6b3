"""What README and pages say: commands parse, links lead somewhere, and what is named is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from fnmatch import filter as matching
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from jsonargparse import auto_parser

from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands import fit
from lightning_sdft.commands.config_files import config_names
from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.errors import Refusal, SettingError
from tests.config_runs import CONFIGS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MISSING = ("own.yaml", "run.yaml", "proposal.yaml", "runs/sweep/best.yaml", "FILE", "...")
"""Configs that a reader has and the repository has not: they stand for a run of a small model on rows of one's own."""

CONFIG_OF_RUN = re.compile(r"runs/.*/config\.yaml")

LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"\s*(?:\w+ {2,})?lightning-sdft (.+)")  # behind a word, as in what a command prints as next
METRIC = re.compile(r'"((?:train|teacher|student|rollout|retention|memory|speed|val|test)/[a-z_0-9]+)"')


class Parser(Exception):
    """Carries the parser of `fit` and its kin out of the class that would run what it has parsed."""


class Stopped(fit.SDFTCLI):
    def parse_arguments(self, parser: Any, args: Any) -> NoReturn:
        raise Parser(parser)


@pytest.fixture(scope="module")
def runs() -> Any:
    """The parser of `fit` and its kin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "SDFTCLI", Stopped)
        with pytest.raises(Parser) as found:
            fit.main([], commands=COMMANDS)
    return found.value.args[0]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command line of ours, in blocks and in sentences, without comments."""
    blocks = [content for language, content in BLOCK.findall(text) if language in ("bash", "text")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in CODE.findall(BLOCK.sub("", text)) if len(code.split()) > 2]
    for line in lines:
        found = OURS.match(line)
        if found is not None:
            yield shlex.split(found[1], comments=True)


def parse(runs: Any, words: Sequence[str], stand_in: Path) -> None:
    """Parse a command line as the entry point does, without running it."""
    words = [str(stand_in) if word in MISSING or CONFIG_OF_RUN.fullmatch(word) else word for word in words]
    command, *rest = words
    if command in COMMANDS:
        auto_parser(COMMANDS[command], as_positional=False, parser_class=CommandParser).parse_args(rest)
    elif command in fit.SDFTCLI.subcommands():
        runs.parse_args(words)
    else:
        raise SettingError(f"there is no command {command}")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in place of one that only the reader has, in a folder without any."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "stand_in.yaml"
    file.write_text("config: [experiment/smollm2_sdft]\n")
    return file


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_parse(page: Path, runs: Any, stand_in: Path) -> None:
    for words in commands(page.read_text()):
        try:
            parse(runs, words, stand_in)
        except Refusal as error:
            pytest.fail(f"{page.name}: lightning-sdft {shlex.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "lightning-sdft fit --config laptop_sdft --model.init_args.learning_rat 1",
        "lightning-sdft compare --config compare/laptop --outt runs",
        "lightning-sdft fit --config no_such_config",
        "lightning-sdft train --config laptop_sdft",
    ],
)
def test_a_wrong_command_does_not(line: str, runs: Any, stand_in: Path) -> None:
    (words,) = commands(f"```bash\n{line}  # a comment\n```\n")
    with pytest.raises(Refusal):
        parse(runs, words, stand_in)


def test_commands_are_found() -> None:
    text = (
        "Run `lightning-sdft memory --config FILE`.\n\n```bash\nlightning-sdft fit \\\n    --config a  # go\nls\n```\n"
    )
    assert list(commands(text)) == [["fit", "--config", "a"], ["memory", "--config", "FILE"]]
    assert sum(len(list(commands(page.read_text()))) for page in PAGES) > 30


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a code host and MyST make them."""
    titles = HEADING.findall(BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path, text: str) -> list[str]:
    """The relative links of a text on a page that lead nowhere."""
    dead = []
    for link in LINK.findall(BLOCK.sub("", text)):
        path, _, anchor = link.partition("#")
        if link.startswith(("https://", "mailto:")) or path.startswith("generated/"):  # `make docs` checks the latter
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_is_found() -> None:
    text = "[a](docs/nowhere.md) ![b](docs/pictures/none.png) [c](docs/metrics.md#none) [d](docs/metrics.md#each-step)"
    assert dead_links(ROOT / "README.md", text) == ["docs/nowhere.md", "docs/pictures/none.png", "docs/metrics.md#none"]


def missing_configs(text: str) -> list[str]:
    """The configs that a text names, by paths or names, with `{a,b}` and `*`, and that there are not."""
    folders = {name.split("/")[0] for name in config_names() if "/" in name}
    name = r"[\w/*{},-]+"
    # Metrics and models are named like configs, and files of data lie in a folder that is named like one.
    bare = "|".join(sorted(folders - {"data", "rollout", "zoo"}))
    named = rf"(?:configs/)?((?:{'|'.join(sorted(folders))})/{name})\.yaml|((?:{bare})/{name})"
    codes = {code for part in CODE.findall(BLOCK.sub("", text)) for code in part.split()}
    codes |= {word for _, block in BLOCK.findall(text) for word in block.split()}
    found = [match[1] or match[2] for code in codes if (match := re.fullmatch(named, code))]
    return sorted(each for name in found for each in alternatives(name) if not matching(config_names(), each))


def alternatives(name: str) -> list[str]:
    """The names that one with braces stands for, as in a shell."""
    braces = re.search(r"\{([^}]*)\}", name)
    if braces is None:
        return [name.rstrip("/*") + "/*" if name.endswith("/") else name]
    parts = [name[: braces.start()] + part + name[braces.end() :] for part in braces[1].split(",")]
    return [each for part in parts for each in alternatives(part)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_configs_exist(page: Path) -> None:
    assert missing_configs(page.read_text()) == []


def test_a_missing_config_is_found() -> None:
    text = "`experiment/{laptop,moon}_sdft.yaml`, `preset/paper`, `method/`, `compare/moon_*.yaml`\n"
    assert missing_configs(text) == ["compare/moon_*", "experiment/moon_sdft"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    codes = [
        *CODE.findall(BLOCK.sub("", text)),
        *(line for _, block in BLOCK.findall(text) for line in block.splitlines()),
    ]
    assert {code.split()[1] for code in codes if code.startswith("make ")} <= targets


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    logged = {name for file in (ROOT / "lightning_sdft").rglob("*.py") for name in METRIC.findall(file.read_text())}
    assert len(logged) > 30
    assert sorted(name for name in logged if f"`{name}" not in page) == []


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text().splitlines()
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(pages - set(index)) == []


def test_presets_are_explained() -> None:
    page = (ROOT / "docs" / "coming_from.md").read_text()
    assert all(f"`preset/{file.stem}`" in page for file in CONFIGS.glob("preset/*.yaml"))


def test_the_readme_is_short_and_its_pages_are_linked() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    linked = {link.partition("#")[0] for link in LINK.findall(readme)}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - {"docs/index.md"}
    assert sorted(pages - linked) == []
