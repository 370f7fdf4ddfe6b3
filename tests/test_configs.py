"""Every config file runs: a fast run of each on a stand-in where the real model or data are not at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, science_question
from lightning_sdft.losses import TruncatedImportance
from lightning_sdft.modules import CPTModule, ReinvokeModule, SDFTModule
from lightning_sdft.rollout import VLLMEngine, VLLMServer
from tests.chat.server import says, serving
from tests.conftest import make_model, make_tokenizer
from tests.rollout.vllm.stand_in import standing_in

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("experiment/*.yaml"))
DOMAINS = ("science", "tool_use", "medical", "knowledge")
DOMAIN_EXPERIMENTS = [path for path in EXPERIMENTS if path.name.startswith(DOMAINS)]
QUIET = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_model_summary=false"]


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


def stand_in_arguments(config: Path, stand_in: Path, rows: dict[str, Path], judge_url: str) -> list[str]:
    """Where the real model and data are not at hand."""
    if config.name.startswith("laptop"):
        return ["--model.init_args.model=zoo/laptop"]
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=8"]
    domain, method = config.stem.rsplit("_", 1)
    if method == "reinvoke":
        model.append(f"--model.init_args.teacher.model={stand_in}")
        data = [f"--data.init_args.source={rows['general']}"]
        return [*model, *data, *domain_arguments(domain, "--data.init_args.evaluation.init_args.", rows, judge_url)]
    return [*model, *domain_arguments(domain, "--data.init_args.", rows, judge_url)]


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_runs_fast(
    config: Path, stand_in: Path, rows: dict[str, Path], judge_url: str, in_folder: Path
) -> None:
    arguments = stand_in_arguments(config, stand_in, rows, judge_url)
    cli = main(["fit", "--config", str(config), *QUIET, "--trainer.fast_dev_run=true", *arguments])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("method", ["sft", "dft", "sdft"])
@pytest.mark.parametrize("data", ["science", "tool_use", "medical", "knowledge", "json"])
def test_parts_compose_and_run_fast(
    method: str, data: str, stand_in: Path, rows: dict[str, Path], judge_url: str, in_folder: Path
) -> None:
    sources = domain_arguments(data, "--data.init_args.", rows, judge_url)
    if data == "knowledge":  # whose part is about the invented events
        sources = []
    if data == "json":
        sources += ["--data.init_args.prompt_column=Question", "--data.init_args.demonstration_column=Response"]
    cli = run_composed(["method/" + method, "data/" + data], sources, stand_in)
    assert type(cli.model).__name__ == f"{method.upper()}Module"


def test_continued_pretraining_and_reinvocation_compose(stand_in: Path, rows: dict[str, Path], in_folder: Path) -> None:
    options = ["--data.init_args.train_on=articles", "--data.init_args.passage_length=80"]
    assert isinstance(run_composed(["method/cpt", "data/knowledge"], options, stand_in).model, CPTModule)
    sources = [f"--data.init_args.source={rows['general']}", f"--model.init_args.teacher.model={stand_in}"]
    assert isinstance(run_composed(["method/reinvoke", "data/general"], sources, stand_in).model, ReinvokeModule)


def test_rollouts_from_vllm_compose(stand_in: Path, rows: dict[str, Path], in_folder: Path) -> None:
    columns = ["--data.init_args.prompt_column=Question", "--data.init_args.demonstration_column=Response"]
    sources = [f"--data.init_args.train={rows['json']}", *columns]
    engine = "--model.init_args.engine.init_args"
    with standing_in(stand_in) as server:
        server.settings = {"max_tokens": 4096}
        options = [f"{engine}.url={server.url}", "--model.init_args.importance.per=token"]
        parts = ["method/sdft", "rollout/vllm_server", "data/json"]
        module = run_composed(parts, [*sources, *options], stand_in).model
        assert isinstance(module, SDFTModule)
        assert module.engine == VLLMServer(server.url)
        assert module.importance == TruncatedImportance(per="token")
        assert server.requests
    parts = [f"--config={CONFIGS / part}.yaml" for part in ("method/sdft", "rollout/vllm", "data/json")]
    model = [f"--model.init_args.model={stand_in}", f"{engine}.options={{seed: 1}}"]
    module = main([*parts, *model, *sources], run=False).model
    assert isinstance(module, SDFTModule)
    assert module.engine == VLLMEngine(gpu_memory_utilization=0.3, options={"seed": 1})


def run_composed(parts: list[str], sources: list[str], stand_in: Path) -> SDFTCLI:
    """One step of base, the parts, and the CPU trainer."""
    every = ["base", *parts, "trainer/cpu"]
    composed = [argument for part in every for argument in ("--config", str(CONFIGS / f"{part}.yaml"))]
    model = [f"--model.init_args.model={stand_in}", "--model.init_args.max_completion_tokens=64"]
    options = ["--trainer.fast_dev_run=true", "--trainer.accumulate_grad_batches=8", *QUIET]
    cli = main(["fit", *composed, *model, *sources, *options])
    assert cli.trainer.global_step == 1
    return cli


@pytest.mark.parametrize("model", ["laptop_model", "laptop_small"])
def test_zoo_configs_run_fast(model: str, in_folder: Path) -> None:
    zoo = ["fit", "--config", str(CONFIGS / "zoo" / f"{model}.yaml"), *QUIET, "--trainer.fast_dev_run=true"]
    main([*zoo, "--data.init_args.size=64", "--data.init_args.evaluation_size=2"])


def test_laptop_data_config_runs_fast(in_folder: Path) -> None:
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
    assert ("EMATeacher" in classes) == config.stem.removesuffix("_lora").endswith("sdft")


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_says_what_it_is_for(config: Path) -> None:
    assert config.read_text().startswith("# ")


@pytest.mark.parametrize("config", DOMAIN_EXPERIMENTS, ids=lambda path: path.stem)
def test_the_papers_settings_are_in_the_configs_of_its_domains(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    model, data, trainer = content["model"]["init_args"], content["data"]["init_args"], content["trainer"]
    method = config.stem.rsplit("_", 1)[1]
    base = model["teacher"] if method == "reinvoke" else model
    assert base["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert model["warmup_steps"] == 10
    rates = (1e-6, 5e-6, 1e-5) if method == "cpt" else (5e-6, 1e-5, 2e-5, 5e-5)
    assert model["learning_rate"] in rates
    assert method == "cpt" or data["batch_size"] in (16, 32, 64)
    assert trainer["accumulate_grad_batches"] * data["micro_batch_size"] == data["batch_size"]
    assert trainer["gradient_clip_val"] == 1.0
    assert "weight_decay" not in model
    if method == "sdft":
        assert model["skip_tokens"] == 3
        assert model.get("privileged_context") == ("both" if config.name.startswith("knowledge") else None)


def test_every_domain_has_every_method() -> None:
    names = {path.stem for path in DOMAIN_EXPERIMENTS}
    expected = {f"{domain}_{method}" for domain in DOMAINS for method in ("sft", "dft", "sdft", "reinvoke")}
    assert names == {*expected, "knowledge_cpt"}


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: runs are written to ``runs``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    return tmp_path
