"""Every config of an experiment is read, and a step of each kind of its runs runs on a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace, auto_parser

from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.data import EvaluationSet
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.continual import continual
from lightning_sdft.experiments.plan import Plan
from lightning_sdft.experiments.runs.build import build
from lightning_sdft.experiments.runs.run import nested, plain, read_parts
from lightning_sdft.experiments.sweep import sweep
from tests.config_runs import CONFIGS, ROOT, domain_arguments, judge_url, rows, stand_in

__all__ = ["judge_url", "rows", "stand_in"]

COMMANDS: dict[str, Callable[..., Any]] = {"compare": compare, "continual": continual, "sweep": sweep}
EMA_FILES = ("knowledge_sdft", "laptop_emphasis", "skills_sdft")
"""Experiments all of whose methods have the teacher of the paper."""

EXPERIMENTS = [(folder, path) for folder in COMMANDS for path in sorted((CONFIGS / folder).glob("*.yaml"))]
METHODS = [
    pytest.param(folder, path, method, id=f"{folder}-{path.stem}-{method}")
    for folder, path in EXPERIMENTS
    for method in yaml.safe_load(path.read_text()).get("methods", [""])
]
AVERAGED = ("SDFT", "EMA teacher", "forward KL", "reverse KL", "Jensen-Shannon", "answer", "article", "both")
AVERAGED += ("skip none", "skip 1", "skip 3", "rate 0.003", "rate 0.01", "rate 0.02", "rate 0.05")
TRACE = {
    "C-STANCE": ("判断以下文本对指定对象的态度。", "支持"),
    "FOMC": ("What is the monetary policy stance? Choose A, B or C.", "A"),
    "MeetingBank": ("Write a summary of the following meeting transcripts.", "Recommendation to adopt the motion."),
    "Py150": ("<s> import logging <EOL> x = <NUM_LIT:2> <EOL>", "logger = logging . getLogger ( '<STR_LIT>' )"),
    "ScienceQA": ("Which is longer? A. a mile B. a foot", "Answer: A\nBecause a mile is longer than B, a foot."),
    "NumGLUE-cm": ("Solve the following math problem. A dog has 4 legs.", "4"),
    "NumGLUE-ds": ("Solve the following math problem. 2 - 0.5", "1.5"),
    "20Minuten": ("Provide a simplified version of the following paragraph in German.", "Es geht."),
}
"""A prompt and an answer of the kind of each set of TRACE."""

TRACE_FILE = CONFIGS / "continual" / "trace.yaml"

QUICK = {"accelerator": "cpu", "precision": "32-true", "fast_dev_run": True}


@cache
def read(folder: str, path: Path) -> Any:
    """The arguments of the command, as it would get them."""
    parser = auto_parser(COMMANDS[folder], as_positional=False, parser_class=CommandParser)
    return parser.instantiate(parser.parse_args(["--config", str(path), "--out", "runs"]))


def plan_of(folder: str, arguments: Any) -> Plan:
    domains = arguments.domains if folder == "compare" else arguments.skills
    seeds, rates = arguments.seeds, arguments.learning_rates
    return Plan(domains, arguments.methods, seeds, rates, arguments.seeded, arguments.prior)


def in_words_of(opening: str, closing: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words in place of the tags around thinking, for a tokenizer that knows whole words only."""
    thinks = any("thinking" in part.get("model", {}).get("init_args", {}) for part in parts)
    return [nested("model.init_args.thinking", {"opening": opening, "closing": closing})] if thinks else []


def instead(parts: list[dict[str, Any]], stand_in: Path, rows: dict[str, Path], judge_url: str) -> list[dict[str, Any]]:
    """Models and data that are at hand, where those of the parts are not."""
    method = next(part["model"] for part in reversed(parts) if "class_path" in part.get("model", {}))
    data = next(part["data"] for part in reversed(parts) if "class_path" in part.get("data", {}))
    if data["class_path"] == "StringSkillsDataModule":
        return [nested("model.init_args.model", "zoo/laptop")]
    models = [nested("model.init_args.model", str(stand_in)), nested("model.init_args.max_completion_tokens", 8)]
    models += in_words_of("<assistant>", "w58", parts)  # the chat template opens the thinking
    prefix = "data.init_args."
    if method["class_path"] == "ReinvokeModule":
        models += [nested("model.init_args.teacher.model", str(stand_in))]
        models += [nested("data.init_args.source", str(rows["general"]))]
        data = next(part["data"]["init_args"]["evaluation"] for part in parts if "evaluation" in str(part.get("data")))
        prefix = "data.init_args.evaluation.init_args."
    domains = {"Science": "science", "ToolUse": "tool_use", "Medical": "medical", "Knowledge": "knowledge"}
    domain = domains[data["class_path"].removesuffix("DataModule")]
    given = (argument.partition("=") for argument in domain_arguments(domain, prefix, rows, judge_url))
    return [*models, *(nested(name, yaml.safe_load(value)) for name, _, value in given)]


def parts_of(folder: str, path: Path, method: str) -> list[dict[str, Any]]:
    """The configs of the last run of a method, or of the last combination of a sweep."""
    arguments = read(folder, path)
    if folder != "sweep":
        plan = plan_of(folder, arguments)
        return list(plan.run(plan.variants(method)[-1]).parts)
    last = {name: values[-1] for name, values in arguments.grid.items()}
    chosen = [plain(value) if isinstance(value, Namespace | dict) else {name: value} for name, value in last.items()]
    settings = [nested(name, value) for each in chosen for name, value in each.items()]
    return [*read_parts(arguments.parts), *settings, *(nested(name, 0) for name in arguments.seeded)]


@pytest.mark.parametrize(("folder", "path", "method"), METHODS)
def test_runs_of_each_method_are_read(
    folder: str, path: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parts = parts_of(folder, path, method)
    monkeypatch.chdir(tmp_path)
    laptop = [nested("model.init_args.model", "zoo/laptop"), *in_words_of("begin", "done", parts)]
    cli = build([*parts, *laptop, {"trainer": QUICK}], tmp_path / "configs")
    names = [type(each).__name__ for each in cli.trainer.callbacks]
    averaged = method in AVERAGED or method.partition(",")[0] == "EMA" or path.stem in EMA_FILES
    assert names.count("EMATeacher") == averaged
    assert "EarlyStopping" not in names or method in ("SDFT", "EMA teacher")
    assert cli.trainer.gradient_clip_val == 1.0
    kept = next(
        each for each in cli.config.trainer.callbacks if each.class_path.endswith(("ModelCheckpoint", "BestCheckpoint"))
    )
    assert kept.init_args.get("save_weights_only") or (folder, path.stem) == ("sweep", "laptop_sdft")


@pytest.mark.parametrize(
    ("file", "method"),
    [
        ("compare/laptop", "SFT + re-invoke"),
        ("compare/laptop_rollouts", "offline distillation"),
        ("compare/laptop_rollouts", "SFT on the teacher's answers"),
        ("compare/laptop_teacher", "live teacher"),
        ("compare/knowledge_context", "article"),
        ("compare/medical_reasoning", "SFT"),
        ("compare/medical_reasoning", "SDFT"),
        ("continual/skills", "SDFT"),
        ("sweep/skills_sdft", ""),
    ],
)
def test_a_step_of_each_kind_of_run(
    file: str,
    method: str,
    stand_in: Path,
    rows: dict[str, Path],
    judge_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    folder, name = file.split("/")
    parts = parts_of(folder, CONFIGS / folder / f"{name}.yaml", method)
    monkeypatch.chdir(tmp_path)
    cli = build([*parts, *instead(parts, stand_in, rows, judge_url), {"trainer": QUICK}], tmp_path / "configs")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert cli.trainer.global_step == 1


def trace_stage(method: str, skill: str) -> list[dict[str, Any]]:
    """The configs of a stage of TRACE."""
    plan = plan_of("continual", read("continual", TRACE_FILE))
    return list(plan.run(next(each for each in plan.variants(method) if each.domain == skill)).parts)


@pytest.fixture
def trace_files(tmp_path: Path) -> Path:
    """A folder with stand-ins of the benchmark's files, as they are."""
    for skill, (prompt, answer) in TRACE.items():
        folder = tmp_path / "data" / "trace" / skill
        folder.mkdir(parents=True)
        for split in ("train", "eval", "test"):
            rows = [{"prompt": f"{prompt} {split} {number}", "answer": answer} for number in range(3)]
            (folder / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize("skill", TRACE)
def test_a_step_of_each_stage_of_trace(
    skill: str, trace_files: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set is evaluated under its name; as in a real stage, the last one evaluates all eight."""
    monkeypatch.chdir(ROOT)
    method = "SFT" if skill == "FOMC" else "SDFT"
    stages = {each: trace_stage(method, each) for each in TRACE}
    assert set(stages) == set(read("continual", TRACE_FILE).skills)
    monkeypatch.chdir(trace_files)
    small = [nested("model.init_args.model", str(stand_in)), nested("model.init_args.max_completion_tokens", 8)]
    small += [nested("data.init_args.batch_size", 2), nested("data.init_args.micro_batch_size", 2)]
    cli = build([*stages[skill], *small, {"trainer": QUICK}], trace_files / "configs")
    others = [each for each in TRACE if each != skill] if skill == "20Minuten" else []
    for each in others:
        cli.datamodule.evaluate_also(build([*stages[each], *small, {"trainer": QUICK}], trace_files / each).datamodule)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert cli.trainer.global_step == 1
    for each in (skill, *others):
        assert 0 <= float(cli.trainer.callback_metrics[f"val/accuracy/{each}"]) <= 1
    check_grader(cli.datamodule.splits.test[0], TRACE[skill][1])


def check_grader(tested: EvaluationSet, answer: str) -> None:
    """Right answers have the whole score, and empty ones none."""
    references = [example.reference for example in tested.examples]
    for response, expected in ((answer, 1.0), ("", 0.0)):
        grader = tested.graders[tested.name]
        grader.reset()
        grader.update([response] * len(references), references)
        # SARI is not 0 for an empty text, which leaves out what is to be left out
        assert float(grader.compute()) == pytest.approx(expected, abs=0.7 if tested.name == "20Minuten" else 1e-6)


@pytest.mark.parametrize(("folder", "path"), EXPERIMENTS, ids=lambda value: getattr(value, "stem", value))
def test_says_how_to_run_it(folder: str, path: Path) -> None:
    header = path.read_text().partition("\n")[0]
    assert header.startswith("# ")
    assert f"lightning-sdft {folder} --config configs/{folder}/{path.name} --out runs/" in path.read_text()


@pytest.mark.parametrize("name", ["skills_sft", "skills_sdft", "knowledge_sft", "knowledge_sdft", "knowledge_cpt"])
def test_the_papers_grids(name: str) -> None:
    """Tables 3 and 4; the numbers of combinations are counted from them by hand."""
    grid = yaml.safe_load((CONFIGS / "sweep" / f"{name}.yaml").read_text())["grid"]
    count = 1
    for values in grid.values():
        count *= len(values)
    expected = {"skills_sft": 18, "skills_sdft": 54, "knowledge_sft": 18, "knowledge_sdft": 81, "knowledge_cpt": 12}
    assert count == expected[name]
    rates = [1e-6, 5e-6, 1e-5] if name == "knowledge_cpt" else [5e-6, 1e-5, 5e-5]
    assert grid["model.init_args.learning_rate"] == rates
    if name != "knowledge_cpt":
        assert grid["data.init_args.batch_size"] == [16, 32, 64]
    if name.endswith("sdft"):
        rates = [each["trainer.callbacks+"][0]["init_args"]["teacher_rate"] for each in grid["EMA rate"]]
        assert rates == [0.01, 0.02, 0.05]
