"""Configs in tests: models and data that are at hand in place of those that configs name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, science_question
from tests.chat.server import says, serving
from tests.conftest import make_model, make_tokenizer

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads as much as a large one."""
    folder = tmp_path_factory.mktemp("stand-in")
    make_model("llama", max_position_embeddings=32768).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows in the shapes of the real files, written for this test."""
    folder = tmp_path_factory.mktemp("rows")
    call = [{"Action": "getWeather", "Action_Input": '{"city": "Oslo"}'}]
    content: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("tool_use", "science", "json", "problems", "general")
    }
    content["articles"] = [{"article": "a", "text": "Oslo is rainy this week.\n\n" * 20}]
    content["questions"] = []
    for day in range(80):
        content["tool_use"].append(
            {
                "prompt": f"Question: what is the weather in Oslo on day {day}?",
                "golden_response": ["Action: getWeather", 'Action Input: {"city": "Oslo"}'],
                "golden_answer": call,
            }
        )
        question = science_question(f"What is {day} plus one?", ["a", "b", "c", "d"])
        messages = [{"role": "system", "content": SCIENCE_SYSTEM_PROMPT}, {"role": "user", "content": question}]
        response = "<reasoning>\nb\n</reasoning>\n<answer>\nB\n</answer>"
        science = {"id": str(day), "prompt": messages, "reference": "B", "response": response}
        content["science"].append(science)
        content["json"].append({"Question": f"What helps against cold number {day}?", "Response": "Rest and tea."})
        problem = {"Open-ended Verifiable Question": f"What causes rash {day}?", "Ground-True Answer": "A virus"}
        content["problems"].append(problem)
        content["general"].append({"messages": [{"role": "user", "content": f"Tell me about {day}."}]})
        content["questions"].append({"article": "a", "question": f"Is Oslo rainy on day {day}?", "answer": "Yes"})
    files = {name: folder / f"{name}.json" for name in content}
    for name, file in files.items():
        file.write_text(json.dumps(content[name]))
    return files


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    """A judge that is content with everything."""
    with serving(lambda prompt, count: says("CORRECT")) as server:
        yield server.url


def domain_arguments(domain: str, data: str, rows: dict[str, Path], judge_url: str) -> list[str]:
    """Where the rows of a domain are, and who judges them."""
    judge = [f"{data}judge.init_args.chat.init_args.base_url={judge_url}", f"{data}judge.init_args.folder=judge"]
    if domain == "science":
        return [f"{data}{split}={rows['science']}" for split in ("train", "validation", "test")]
    if domain == "tool_use":
        return [f"{data}train={rows['tool_use']}", f"{data}test={rows['tool_use']}"]
    if domain == "medical":
        sizes = [f"{data}test_questions=4", f"{data}validation_questions=4"]
        return [f"{data}train={rows['json']}", f"{data}test={rows['problems']}", *sizes, *judge]
    if domain == "knowledge":
        questions = [f"{data}{split}={rows['questions']}" for split in ("train", "test")]
        return [f"{data}articles={rows['articles']}", f"{data}passage_length=30", *questions, *judge]
    return [f"{data}train={rows['json']}"]


def stand_in_arguments(config: str, stand_in: Path, rows: dict[str, Path], judge_url: str) -> list[str]:
    """Where the real model and data are not at hand."""
    if config.startswith("laptop"):
        return ["--model.init_args.model=zoo/laptop"]
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=8"]
    domain, method = config.rsplit("_", 1)
    if method == "reinvoke":
        model.append(f"--model.init_args.teacher.model={stand_in}")
        data = [f"--data.init_args.source={rows['general']}"]
        return [*model, *data, *domain_arguments(domain, "--data.init_args.evaluation.init_args.", rows, judge_url)]
    return [*model, *domain_arguments(domain, "--data.init_args.", rows, judge_url)]


def files(*names: str) -> list[str]:
    """Arguments that name files of the folder of configs."""
    return [argument for name in names for argument in ("--config", str(CONFIGS / f"{name}.yaml"))]


def resolved(*names: str) -> Any:
    """The config that such files come to, as the command line prints it."""
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        main([*files(*names), "--print_config"], run=False)
    return yaml.safe_load(printed.getvalue())


def built(*names: str, options: Sequence[str] = ()) -> SDFTCLI:
    """Trainer, module and data module of such files for the laptop model, with no weights and no data yet."""
    teacher = ["--model.init_args.teacher.model=zoo/laptop"] if any("reinvoke" in name for name in names) else []
    return main([*files(*names), *QUICK, "--model.init_args.model=zoo/laptop", *teacher, *options], run=False)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: runs are written to ``runs``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    return tmp_path
