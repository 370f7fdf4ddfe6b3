"""Every config file runs: a fast run of each on a stand-in where the real model or data are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_sdft.cli import main
from tests.conftest import make_model, make_tokenizer

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("experiment/*.yaml"))
QUIET = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads as much as a large one."""
    folder = tmp_path_factory.mktemp("stand-in")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows in the shapes of the real files, written for this test."""
    folder = tmp_path_factory.mktemp("rows")
    call = [{"Action": "getWeather", "Action_Input": '{"city": "Oslo"}'}]
    tool_use = [
        {
            "prompt": f"Question: what is the weather in Oslo on day {day}?",
            "golden_response": ["Action: getWeather", 'Action Input: {"city": "Oslo"}'],
            "golden_answer": call,
        }
        for day in range(80)
    ]
    medical = [{"Question": f"What helps against cold number {n}?", "Response": "Rest and tea."} for n in range(64)]
    files = {"tool_use": folder / "tool_use.json", "json": folder / "medical.json"}
    files["tool_use"].write_text(json.dumps(tool_use))
    files["json"].write_text(json.dumps(medical))
    return files


def stand_in_arguments(config: Path, stand_in: Path, rows: dict[str, Path]) -> list[str]:
    if config.name.startswith("laptop"):
        return []
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=8"]
    data = "--data.init_args."
    if config.name.startswith("tool_use"):
        return [*model, f"{data}train={rows['tool_use']}", f"{data}test={rows['tool_use']}"]
    return [*model, f"{data}train_file={rows['json']}"]


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_runs_fast(config: Path, stand_in: Path, rows: dict[str, Path], in_folder: Path) -> None:
    arguments = stand_in_arguments(config, stand_in, rows)
    cli = main(["fit", "--config", str(config), *QUIET, "--trainer.fast_dev_run=true", *arguments])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("method", ["sft", "dft", "sdft"])
@pytest.mark.parametrize("data", ["tool_use", "json"])
def test_parts_compose_and_run_fast(
    method: str, data: str, stand_in: Path, rows: dict[str, Path], in_folder: Path
) -> None:
    parts = ["base", f"method/{method}", f"data/{data}", "trainer/cpu"]
    composed = [argument for part in parts for argument in ("--config", str(CONFIGS / f"{part}.yaml"))]
    sources = [f"--data.init_args.{'train' if data == 'tool_use' else 'train_file'}={rows[data]}"]
    if data == "tool_use":
        sources += [f"--data.init_args.test={rows[data]}"]
    else:
        sources += ["--data.init_args.prompt_column=Question", "--data.init_args.demonstration_column=Response"]
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=8"]
    options = ["--trainer.fast_dev_run=true", "--trainer.accumulate_grad_batches=8", *QUIET]
    cli = main(["fit", *composed, *model, *sources, *options])
    assert cli.trainer.global_step == 1
    assert type(cli.model).__name__ == f"{method.upper()}Module"


def test_laptop_data_and_zoo_configs_run_fast(in_folder: Path) -> None:
    zoo = ["fit", "--config", str(CONFIGS / "zoo" / "laptop_model.yaml"), *QUIET, "--trainer.fast_dev_run=true"]
    main([*zoo, "--data.init_args.size=64", "--data.init_args.evaluation_size=2"])
    parts = [
        "--config",
        str(CONFIGS / "experiment" / "laptop_sft.yaml"),
        "--config",
        str(CONFIGS / "data" / "laptop.yaml"),
    ]
    main(["fit", *parts, *QUIET, "--trainer.fast_dev_run=true"])


def test_gpu_trainer_config_runs_fast_in_its_precision(in_folder: Path) -> None:
    parts = ["experiment/laptop_sdft", "trainer/gpu"]
    composed = [argument for part in parts for argument in ("--config", str(CONFIGS / f"{part}.yaml"))]
    cli = main(["fit", *composed, "--trainer.accelerator=cpu", "--trainer.fast_dev_run=true"])
    assert cli.trainer.precision == "bf16-mixed"
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("method", ["sft", "dft"])
def test_packing_runs_fast(method: str, in_folder: Path) -> None:
    config = ["fit", "--config", str(CONFIGS / "experiment" / f"laptop_{method}.yaml"), *QUIET]
    cli = main([*config, "--trainer.fast_dev_run=true", "--model.init_args.packing", "true"])
    assert cli.model.packing is True
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_keeps_to_the_base(config: Path) -> None:
    """One --config is enough, so each experiment repeats the base; it must not drift from it."""
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]
    trainer = yaml.safe_load(config.read_text())["trainer"]
    classes = [callback["class_path"] for callback in trainer["callbacks"]]
    expected = [callback["class_path"] for callback in base["callbacks"]]
    if not config.name.startswith("smollm2"):  # which has nothing to evaluate on
        assert [name for name in classes if name in expected] == expected
    assert trainer["gradient_clip_val"] == base["gradient_clip_val"]
    assert [logger["class_path"] for logger in trainer["logger"]] == ["TensorBoardLogger"]
    assert ("EMATeacher" in classes) == config.stem.endswith("sdft")


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_says_what_it_is_for(config: Path) -> None:
    assert config.read_text().startswith("# ")


def test_the_papers_settings_are_in_the_tool_use_configs() -> None:
    for method in ("sft", "dft", "sdft"):
        config = yaml.safe_load((CONFIGS / "experiment" / f"tool_use_{method}.yaml").read_text())
        model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
        assert model["model"] == "Qwen/Qwen2.5-7B-Instruct"
        assert model["warmup_steps"] == 10
        assert data["batch_size"] in (16, 32, 64)
        assert trainer["accumulate_grad_batches"] * data["micro_batch_size"] == data["batch_size"]
        assert trainer["gradient_clip_val"] == 1.0


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: runs are written to ``runs``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    return tmp_path
