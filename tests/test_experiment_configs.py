"""Every config of an experiment is read, and a step of each of its methods runs on a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import auto_parser

from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.continual import continual
from lightning_sdft.experiments.plan import Plan
from lightning_sdft.experiments.runs.build import build
from lightning_sdft.experiments.runs.run import nested, read_parts
from lightning_sdft.experiments.sweep import sweep
from lightning_sdft.teacher import EMATeacher
from tests.test_configs import CONFIGS, ROOT, domain_arguments, judge_url, rows, stand_in

__all__ = ["judge_url", "rows", "stand_in"]

COMMANDS: dict[str, Callable[..., Any]] = {"compare": compare, "continual": continual, "sweep": sweep}
EXPERIMENTS = [(folder, path) for folder in COMMANDS for path in sorted((CONFIGS / folder).glob("*.yaml"))]
METHODS = [
    pytest.param(folder, path, method, id=f"{folder}-{path.stem}-{method}")
    for folder, path in EXPERIMENTS
    for method in yaml.safe_load(path.read_text()).get("methods", [""])
]
QUICK = {"accelerator": "cpu", "precision": "32-true", "fast_dev_run": True}


def read(folder: str, path: Path, out: Path) -> Any:
    """The arguments of the command, as it would get them."""
    parser = auto_parser(COMMANDS[folder], as_positional=False)
    return parser.instantiate(parser.parse_args(["--config", str(path), "--out", str(out)]))


def plan_of(folder: str, arguments: Any) -> Plan:
    domains = arguments.domains if folder == "compare" else arguments.skills
    seeds, rates = arguments.seeds, arguments.learning_rates
    return Plan(domains, arguments.methods, seeds, rates, arguments.seeded, arguments.prior)


def instead(parts: list[dict[str, Any]], stand_in: Path, rows: dict[str, Path], judge_url: str) -> list[dict[str, Any]]:
    """Models and data that are at hand, where those of the parts are not."""
    content = next(part for part in parts if "class_path" in part.get("data", {}))
    method, data = content["model"], content["data"]
    if data["class_path"] == "StringSkillsDataModule":
        return [nested("model.init_args.model", "zoo/laptop")]
    models = [nested("model.init_args.model", str(stand_in)), nested("model.init_args.max_completion_tokens", 8)]
    prefix = "data.init_args."
    if method["class_path"] == "ReinvokeModule":
        models += [nested("model.init_args.teacher.model", str(stand_in))]
        models += [nested("data.init_args.source", str(rows["general"]))]
        data, prefix = data["init_args"]["evaluation"], "data.init_args.evaluation.init_args."
    domains = {"Science": "science", "ToolUse": "tool_use", "Medical": "medical", "Knowledge": "knowledge"}
    domain = domains[data["class_path"].removesuffix("DataModule")]
    given = (argument.partition("=") for argument in domain_arguments(domain, prefix, rows, judge_url))
    return [*models, *(nested(name, yaml.safe_load(value)) for name, _, value in given)]


@pytest.mark.parametrize(("folder", "path", "method"), METHODS)
def test_a_step_of_each_method_runs(
    folder: str,
    path: Path,
    method: str,
    stand_in: Path,
    rows: dict[str, Path],
    judge_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = read(folder, path, tmp_path)
    if folder == "sweep":
        chosen = [
            value[-1] if isinstance(value[-1], dict) else {name: value[-1]} for name, value in arguments.grid.items()
        ]
        settings = [nested(name, value) for each in chosen for name, value in each.items()]
        parts = [*read_parts(arguments.parts), *settings, *(nested(name, 0) for name in arguments.seeded)]
    else:
        plan = plan_of(folder, arguments)
        assert method in plan.methods
        parts = list(plan.run(plan.variants(method)[-1]).parts)
    monkeypatch.chdir(tmp_path)
    cli = build([*parts, *instead(parts, stand_in, rows, judge_url), {"trainer": QUICK}], tmp_path / "configs")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert cli.trainer.global_step == 1
    averages = [callback for callback in cli.trainer.callbacks if isinstance(callback, EMATeacher)]
    assert len(averages) <= 1
    if "SDFT" in (method, path.stem[-4:].upper()):
        assert averages


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
    if "batch" in grid:
        micro = yaml.safe_load((ROOT / read_first(name)).read_text())["data"]["init_args"]["micro_batch_size"]
        for each in grid["batch"]:
            assert each["data.init_args.batch_size"] == micro * each["trainer.accumulate_grad_batches"]
        assert [each["data.init_args.batch_size"] for each in grid["batch"]] == [16, 32, 64]


def read_first(name: str) -> str:
    return str(yaml.safe_load((CONFIGS / "sweep" / f"{name}.yaml").read_text())["parts"][0])
