"""Config files: what each of them asks for, by reading it, and a step of each kind of run, on a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.commands.fit import main
from lightning_sdft.losses import ForwardKL, JensenShannon, TopK, TruncatedImportance
from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.rollout import ContinuousEngine, VLLMEngine, VLLMServer
from lightning_sdft.teacher import BaseTeacher, CopiedTeacher
from tests.config_runs import (
    CONFIGS,
    QUICK,
    built,
    domain_arguments,
    files,
    in_folder,
    judge_url,
    resolved,
    rows,
    stand_in,
    stand_in_arguments,
)
from tests.rollout.vllm.stand_in import standing_in

__all__ = ["in_folder", "judge_url", "rows", "stand_in"]

EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("experiment/*.yaml"))
DOMAINS = ("science", "tool_use", "medical", "knowledge")
BASE = [each["class_path"] for each in yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]["callbacks"]]
STEPS = ["medical_sft", "science_dft", "tool_use_sdft", "knowledge_sdft", "knowledge_cpt", "science_reinvoke"]
STEPS += ["smollm2_sdft", "laptop_sdft_lora", "laptop_sdpo"]
STEP = ["--trainer.precision=32-true", "--trainer.fast_dev_run=true"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_stands_on_the_base_and_is_its_methods(name: str, in_folder: Path) -> None:
    cli = built(f"experiment/{name}")
    method = "sdft" if name.endswith("_qlora") else name.removesuffix("_lora").rsplit("_", 1)[1]
    assert type(cli.model).__name__.lower() == f"{method}module"
    assert cli.model.weight_decay == 0
    assert cli.datamodule.group_size(1) == cli.datamodule.batch_size  # and whole micro-batches
    assert cli.trainer.gradient_clip_val == 1.0
    assert isinstance(cli.trainer.logger, TensorBoardLogger)
    assert cli.trainer.logger.name == name  # in no folder of another experiment
    steps = {"smollm2_routing": 100, "smollm2_generations": 12, "smollm2": 12}.get(name.rsplit("_", 1)[0])
    assert cli.trainer.max_steps == steps if steps else cli.trainer.max_epochs in (1, 2, 4, 12)
    names = [each.class_path.rpartition(".")[2] for each in cli.config.trainer.callbacks]
    update = "EMATeacher" if name.startswith(DOMAINS) else "GatedTeacher"
    own = {"sdft": {update, "TeacherWatch"}, "sdpo": {"EMATeacher"}}.get(method, set())
    own |= {"KLToBase"} if name.startswith(("laptop", "smollm2_routing")) and method != "reinvoke" else set()
    assert names[: len(BASE)] == BASE
    assert set(names[len(BASE) :]) == own
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith(DOMAINS)])
def test_the_papers_settings_are_in_the_configs_of_its_domains(name: str) -> None:
    domain, method = name.rsplit("_", 1)
    config = resolved(f"experiment/{name}")
    model, data, trainer = config["model"]["init_args"], config["data"], config["trainer"]
    base = model["teacher"]["init_args"] if method == "reinvoke" else model
    assert base["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert method != "reinvoke" or model["model"] == f"runs/{domain}_sft/export"
    assert model["warmup_steps"] == 10
    assert model["learning_rate"] in ((1e-6, 5e-6, 1e-5) if method == "cpt" else (5e-6, 1e-5, 2e-5, 5e-5))
    assert model["gradient_checkpointing"] is True
    assert method == "cpt" or data["init_args"]["batch_size"] in (16, 32, 64)
    evaluated = data["init_args"].get("evaluation", data)
    assert evaluated["class_path"].endswith(f".{domain.title().replace('_', '')}DataModule")
    if domain in ("medical", "knowledge"):
        assert evaluated["init_args"]["judge"]["init_args"]["folder"] == f"runs/{name}/judge"
    assert trainer["precision"] == ("bf16-true" if method in ("sdft", "reinvoke") else "bf16-mixed")
    assert trainer["accelerator"] == "gpu"
    if method == "sdft":
        assert model["skip_tokens"] == 3
        assert model["privileged_context"] == ("both" if domain == "knowledge" else "demonstration")
        assert trainer["callbacks"][-2]["init_args"]["teacher_rate"] == 0.01


def test_every_domain_has_every_method() -> None:
    names = {name for name in EXPERIMENTS if name.startswith(DOMAINS)}
    expected = {f"{domain}_{method}" for domain in DOMAINS for method in ("sft", "dft", "sdft", "reinvoke")}
    assert names == {*expected, "knowledge_cpt"}


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_says_what_it_is_for(config: Path) -> None:
    assert config.read_text().startswith("# ")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_each_method_and_domain(
    name: str, stand_in: Path, rows: dict[str, Path], judge_url: str, in_folder: Path
) -> None:
    arguments = stand_in_arguments(name, stand_in, rows, judge_url)
    cli = main(["fit", *files(f"experiment/{name}"), *QUICK, *STEP, *arguments])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("method", ["sft", "dft", "sdft", "sdpo", "cpt", "reinvoke"])
def test_every_method_composes_with_every_domain(method: str) -> None:
    for data in ("science", "tool_use", "medical", "knowledge", "json", "general", "laptop"):
        config = resolved(f"method/{method}", f"data/{data}", "trainer/cpu")
        assert config["model"]["class_path"].lower() == f"lightning_sdft.{method}module"
        name = {"laptop": "stringskills"}.get(data, data.replace("_", ""))
        assert config["data"]["class_path"].lower() == f"lightning_sdft.{name}datamodule"
        assert config["trainer"]["accelerator"] == "cpu"


def test_a_step_on_the_invented_events_by_parts(stand_in: Path, in_folder: Path) -> None:
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=64"]
    cli = main(["fit", *files("method/sft", "data/knowledge", "trainer/cpu"), *QUICK, *STEP, *model])
    assert cli.trainer.global_step == 1


def test_a_step_on_a_gpus_precision_with_packing(in_folder: Path) -> None:
    parts = files("experiment/laptop_dft", "data/laptop", "trainer/gpu")
    options = ["--trainer.fast_dev_run=true", "--model.init_args.packing=true"]
    options.append("--data.init_args.evaluation_batch_size=4")
    cli = main(["fit", *parts, *QUICK, *options])
    assert cli.trainer.precision == "bf16-mixed"
    assert cli.model.packing is True
    assert cli.trainer.global_step == 1


PRESETS = {
    "paper": (ForwardKL(), CopiedTeacher(), 3, 1e-5),
    "authors_code": (ForwardKL(), CopiedTeacher(), 3, 2e-5),
    "trl": (TopK(100, JensenShannon(0.5), "student", tail=False), CopiedTeacher(), 0, 5e-5),
    "tinker": (TopK(20), BaseTeacher(), 3, 5e-4),
    "ms_swift": (JensenShannon(0.5), BaseTeacher(), 0, 2e-5),
    "verl": (TopK(32), CopiedTeacher(), 0, 1e-6),
    "sdpo": (TopK(100, JensenShannon(0.5), "student", tail=True), CopiedTeacher(), 0, 1e-5),
}


def test_every_preset_is_known() -> None:
    assert {path.stem for path in CONFIGS.glob("preset/*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_composes_with_rows_of_ones_own(name: str, in_folder: Path) -> None:
    module = built(f"preset/{name}", "data/json", "trainer/cpu").model
    assert isinstance(module, DistillationModule)
    settings = (module.divergence, module.teacher_choice, module.skip_tokens, module.learning_rate)
    assert settings == PRESETS[name]


@pytest.mark.parametrize("trainer", ["ddp", "fsdp2", "fsdp2_multinode"])
def test_trainers_of_other_machines_are_read(trainer: str) -> None:
    config = resolved("experiment/laptop_sft", f"trainer/{trainer}")["trainer"]
    assert config["precision"] == "bf16-mixed"
    assert trainer.partition("_")[0] in str(config["strategy"]).lower()


def test_rollouts_of_other_engines_compose(stand_in: Path, rows: dict[str, Path], in_folder: Path) -> None:
    model, engine = f"--model.init_args.model={stand_in}", "--model.init_args.engine.init_args"
    columns = ["--data.init_args.prompt_column=Question", "--data.init_args.demonstration_column=Response"]
    sources = [*domain_arguments("json", "--data.init_args.", rows, ""), *columns]
    with standing_in(stand_in) as server:
        server.settings = {"max_tokens": 4096}
        options = [f"{engine}.url={server.url}", "--model.init_args.importance.per=token"]
        parts = files("method/sdft", "rollout/vllm_server", "data/json", "trainer/cpu")
        short = "--model.init_args.max_completion_tokens=64"
        module = main(["fit", *parts, *QUICK, *STEP, model, short, *sources, *options]).model
        assert isinstance(module, SDFTModule)
        assert module.engine == VLLMServer(server.url)
        assert module.importance == TruncatedImportance(per="token")
        assert server.requests
    module = built("method/sdft", "rollout/vllm", "data/json", options=[f"{engine}.options={{seed: 1}}"]).model
    assert isinstance(module, SDFTModule)
    assert module.engine == VLLMEngine(gpu_memory_utilization=0.3, options={"seed": 1})
    assert built("method/sdft", "rollout/continuous", "data/json").model.engine == ContinuousEngine()


def test_zoo_models_are_pretrained_by_one_recipe(in_folder: Path) -> None:
    small = ["--data.init_args.size=64", "--data.init_args.evaluation_size=2"]
    cli = main(["fit", *files("zoo/laptop_small"), *QUICK, "--trainer.fast_dev_run=true", *small])
    assert cli.trainer.global_step == 1
    other = built("zoo/laptop_model")
    assert (cli.model.model, other.model.model) == ("zoo/laptop-small", "zoo/laptop")
    assert cli.config.fit.trainer.logger.init_args.name == "laptop_small"
    assert [each.class_path for each in other.config.trainer.callbacks] == ["lightning_sdft.LastCheckpoints"]
