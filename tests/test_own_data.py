"""The commands of docs/own_data.md run, on files as the page describes them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sdft.commands.fit import main
from tests.cli_runs import MODEL, TRAINER

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()

GRADER = "def is_right(response, reference):\n    return len(response) > 0\n"


def rows(first: int, count: int) -> list[tuple[str, str]]:
    texts = [" ".join("abcdefgh"[(number * step) % 8] for step in (1, 2, 3)) for number in range(first, first + count)]
    return [(f"copy {number % 7} {text}", text) for number, text in enumerate(texts, start=first)]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's config, with the laptop model, and files of several layouts."""
    folder = tmp_path_factory.mktemp("own")
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = yaml.safe_load(text)
    config["model"]["init_args"] |= {**MODEL, "pretrained": True}
    config["trainer"] = {**TRAINER, "max_steps": 2, "num_sanity_val_steps": -1}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    asked: dict[str, list[dict[str, Any]]] = {
        "train.jsonl": [{"instruction": a, "input": "", "output": b} for a, b in rows(0, 16)],
        "validation.jsonl": [{"question": a, "answer": b} for a, b in rows(16, 4)],
        "general.jsonl": [
            {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in rows(20, 8)
        ],
    }
    for name, each in asked.items():
        (folder / name).write_text("\n".join(json.dumps(row) for row in each))
    (folder / "questions.csv").write_text("\n".join(["prompt", *(a for a, _ in rows(30, 3))]))
    (folder / "test.csv").write_text("\n".join(["prompt,key", *(f"{a},{b}" for a, b in rows(40, 3))]))
    (folder / "mylab.py").write_text(GRADER)
    yield folder
    sys.modules.pop("mylab", None)


COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: "-".join(command[:2] + command[4:5]).replace("/", ".")
)
def test_commands_run(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    if command[0] == "PYTHONPATH=.":
        monkeypatch.syspath_prepend(folder)
        command = command[1:]
    assert command[0] == "lightning-sdft"
    main(command[1:])
    printed = capfd.readouterr().out
    if "KLToBase" in " ".join(command):
        assert "loss on the new task" in printed
        assert "val/kl_to_base" in tags(folder)
        assert list(folder.rglob("best-step*.ckpt"))
    elif command[1] == "predict":
        (path,) = folder.rglob("predictions.jsonl")
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [record["correct"] for record in records] == [{}, {}, {}]
        assert all(record["response"] for record in records)
    elif command[1] == "test":
        assert "test/accuracy" in printed
    elif "general.jsonl" in command:
        assert "average loss on prior skills" in printed
        assert "retention/loss" in tags(folder)


def tags(folder: Path) -> set[str]:
    """The names of what the newest run has logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max(folder.rglob("events.out*"), key=lambda path: path.stat().st_mtime_ns)
    events = EventAccumulator(str(newest))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_the_table_of_graders_names_all_that_are_for_ones_own_rows() -> None:
    from lightning_sdft import grading

    table = PAGE[PAGE.index("| grader |") :]
    own = {
        "AnswerContained",
        "Choice",
        "ExactMatch",
        "JsonFields",
        "JudgedAnswer",
        "Number",
        "Pattern",
        "PythonFunction",
        "Sari",
        "Similarity",
    }
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == own <= set(grading.__all__)
