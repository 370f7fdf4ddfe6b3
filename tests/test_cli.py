"""The command line, and each trap of LightningCLI that it avoids."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_sdft
from lightning_sdft import EMATeacher, LoRA, SDFTModule, StringSkillsDataModule
from lightning_sdft.checkpoint import CheckpointError
from lightning_sdft.cli import entry_point, main
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.trust import trusting

MODEL = {
    "model": "zoo/laptop",
    "pretrained": False,
    "max_prompt_tokens": 16,
    "max_completion_tokens": 8,
    "max_teacher_prompt_tokens": 64,
    "teacher_template": LAPTOP_TEMPLATE,
    "skip_tokens": 0,
    "learning_rate": 1e-3,
}
SFT = {"model": "zoo/laptop", "max_prompt_tokens": 16, "max_completion_tokens": 24}
DATA = {"train_size": 32, "validation_size": 4, "test_size": 4, "prior_size": 4, "batch_size": 8}
TRAINER = {
    "accelerator": "cpu",
    "max_steps": 3,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Losses(Callback):
    """Collects the losses of a run."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def config(**trainer: Any) -> dict[str, Any]:
    callbacks = [
        {"class_path": "EMATeacher", "init_args": {"teacher_rate": 0.1}},
        {"class_path": "tests.test_cli.Losses"},
        {"class_path": "ModelCheckpoint", "init_args": {"save_last": "link"}},
        {"class_path": "PredictionWriter"},
    ]
    return {
        "seed_everything": 3,
        "model": {"class_path": "SDFTModule", "init_args": MODEL},
        "data": {"class_path": "StringSkillsDataModule", "init_args": DATA},
        "trainer": {**TRAINER, "callbacks": callbacks, **trainer},
    }


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Configs may name the classes of this file."""
    with trusting("tests"):
        yield


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "run", "version": ""}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(logger=logger)))
    return path


def losses(trainer: Trainer) -> list[float]:
    return next(callback.values for callback in trainer.callbacks if isinstance(callback, Losses))  # type: ignore[attr-defined]


def test_command_line_and_python_give_the_same_losses(config_file: Path, tmp_path: Path) -> None:
    from_cli = main(["fit", "--config", str(config_file)])

    seed_everything(3, workers=True)
    module, data = SDFTModule(**MODEL), StringSkillsDataModule(**DATA)
    callbacks = [EMATeacher(teacher_rate=0.1), Losses(), ModelCheckpoint(tmp_path / "python")]
    trainer = Trainer(**TRAINER, callbacks=callbacks, logger=False)
    trainer.fit(module, datamodule=data)

    assert len(losses(trainer)) == 3
    assert losses(from_cli.trainer) == losses(trainer)


def test_without_run_the_objects_are_built_for_a_notebook(config_file: Path) -> None:
    cli = main(config(logger=False), run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert len(losses(cli.trainer)) == 3


def test_short_class_names_and_overrides_on_the_command_line(config_file: Path) -> None:
    arguments = ["--model.init_args.divergence=JensenShannon", "--model.init_args.divergence.init_args.beta=0.3"]
    arguments += ["--model.init_args.sampling.temperature=0.7", "--trainer.max_steps=1"]
    module = main(["fit", "--config", str(config_file), *arguments]).model
    assert isinstance(module, SDFTModule)
    assert module.divergence == lightning_sdft.JensenShannon(0.3)
    assert module.sampling.temperature == 0.7


def test_divergence_of_the_most_probable_tokens_and_its_checkpoint(config_file: Path, tmp_path: Path) -> None:
    divergence = "--model.init_args.divergence"
    arguments = [f"{divergence}=TopK", f"{divergence}.k=5", f"{divergence}.support=union", f"{divergence}.tail=false"]
    arguments += [f"{divergence}.divergence=ReverseKL", "--trainer.max_steps=1"]
    cli = main(["fit", "--config", str(config_file), *arguments])
    expected = lightning_sdft.TopK(5, lightning_sdft.ReverseKL(), "union", tail=False)
    assert cli.model.divergence == expected
    cli.trainer.save_checkpoint(tmp_path / "top_k.ckpt")
    assert SDFTModule.load_from_checkpoint(tmp_path / "top_k.ckpt").divergence == expected


def test_adapter_and_its_checkpoint(config_file: Path, tmp_path: Path) -> None:
    arguments = ["--model.init_args.pretrained=true", "--model.init_args.lora.rank=2", "--trainer.max_steps=1"]
    arguments.append("--model.init_args.lora.target_modules=[q_proj, lm_head]")
    cli = main(["fit", "--config", str(config_file), *arguments])
    expected = LoRA(rank=2, target_modules=["q_proj", "lm_head"])
    assert cli.model.lora == expected
    cli.trainer.save_checkpoint(tmp_path / "adapter.ckpt")
    restored = SDFTModule.load_from_checkpoint(tmp_path / "adapter.ckpt")
    assert restored.lora == expected
    state = cli.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in restored.state_dict().items())
    tested = main(["test", "--config", str(config_file), *arguments, "--ckpt_path", str(tmp_path / "adapter.ckpt")])
    assert "test/accuracy" in tested.trainer.callback_metrics


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--model.init_args.divergence=Nonsense", "Nonsense"),
        ("--model.init_args.lora.rank=0", "rank and alpha must be positive"),
        ("--trainer.callbacks.teacher_rate=0", "teacher_rate=0.0 is not within (0, 1]"),
        ("--model.init_args.learning_rte=1", "learning_rte"),
    ],
)
def test_bad_settings_are_refused_by_name(
    argument: str, complaint: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "--config", str(config_file), argument]
    if "teacher_rate" in argument:
        arguments = ["fit", "--config", str(config_file), "--trainer.callbacks+=EMATeacher", argument]
    with pytest.raises((SystemExit, ValueError)) as error:
        main(arguments)
    assert complaint in str(error.value) + capsys.readouterr().err


def test_checkpoint_does_not_override_what_was_typed(config_file: Path) -> None:
    """Trap 2: LightningCLI would put the checkpoint's hyper-parameters over the command line."""
    main(["fit", "--config", str(config_file)])
    checkpoint = "runs/run/checkpoints/last.ckpt"
    arguments = ["--ckpt_path", checkpoint, "--model.init_args.warmup_steps=1", "--trainer.max_steps=4"]
    resumed = main(["fit", "--config", str(config_file), *arguments])
    assert resumed.model.warmup_steps == 1
    assert resumed.trainer.global_step == 4


def test_last_starts_a_run_goes_on_with_it_and_evaluates_it(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning would look for it in the folder of a new run, and evaluate the base model without it."""
    logger = ["--trainer.logger.init_args.version=null", "--trainer.callbacks+=LastCheckpoints"]
    logger.append("--trainer.callbacks.every_n_train_steps=2")
    arguments = ["fit", "--config", str(config_file), *logger, "--ckpt_path", "last"]
    assert main(arguments).trainer.ckpt_path is None
    resumed = main([*arguments, "--trainer.max_steps=5"])
    assert str(resumed.trainer.ckpt_path).endswith("version_0/checkpoints/epoch=0-step=3.ckpt")
    assert resumed.trainer.global_step == 5
    assert [path.name for path in Path("runs/run").iterdir()] == ["version_0"]
    capsys.readouterr()
    tested = main(["test", "--config", str(config_file), *logger, "--ckpt_path", "last"])
    assert Path(str(tested.trainer.ckpt_path)).parent == Path("runs/run/version_0/checkpoints")
    assert f"Accuracy of {tested.trainer.ckpt_path}" in " ".join(capsys.readouterr().out.split())
    monkeypatch.chdir(config_file.parent.parent)
    with pytest.raises(CheckpointError, match="left no whole checkpoint"):
        main(["test", "--config", str(config_file), *logger, "--ckpt_path", "last"])


def test_what_a_run_goes_on_from_knows_of_the_best_of_the_same_validation(config_file: Path) -> None:
    """Weights alone of the best are none to go on from, and its accuracy would be forgotten."""
    best = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/accuracy", "mode": "max"}}
    callbacks = [{"class_path": "LastCheckpoints"}, best]
    cli = main({**config(callbacks=callbacks), "model": {"class_path": "SFTModule", "init_args": SFT}}, run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    (last,) = Path(cli.trainer.log_dir or "").glob("checkpoints/step*.ckpt")
    states = torch.load(last, weights_only=True)["callbacks"]
    (found,) = [state for name, state in states.items() if "val/accuracy" in name]
    assert found["best_model_path"].endswith("step=3.ckpt")


@pytest.mark.parametrize(("rank", "code"), [(0, 143), (1, 0)])
def test_sigterm_is_an_exit_code_of_the_first_process(
    rank: int, code: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = ["--trainer.callbacks+=tests.callbacks.test_preemption.Signal"]
    callbacks += ["--trainer.callbacks.signum=15", "--trainer.callbacks.hook=on_before_backward"]
    callbacks += ["--trainer.callbacks.number=2"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *callbacks])
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    with pytest.raises(SystemExit) as end:
        entry_point()
    assert end.value.code == code


def test_checkpoint_of_a_command_line_run_loads_in_python_as_data(config_file: Path) -> None:
    """Traps 3 to 5: no pickled objects, arguments as attributes, the class that was trained."""
    main(["fit", "--config", str(config_file), "--model.init_args.divergence=ReverseKL"])
    path = Path("runs/run/checkpoints/last.ckpt")
    torch.load(path, weights_only=True)
    module = SDFTModule.load_from_checkpoint(path)
    assert type(module) is SDFTModule
    assert module.divergence == lightning_sdft.ReverseKL()
    assert module.max_completion_tokens == MODEL["max_completion_tokens"]


def test_a_second_run_may_use_the_same_folder(config_file: Path) -> None:
    """Trap 6: SaveConfigCallback refuses an existing file."""
    for _ in range(2):
        main(["fit", "--config", str(config_file)])
    assert yaml.safe_load(Path("runs/run/config.yaml").read_text())["model"]["class_path"].endswith("SDFTModule")


def test_optimizer_is_built_behind_the_model(config_file: Path) -> None:
    """Trap 1: LightningCLI's --optimizer would see a module without parameters; plain arguments do not."""
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config_file), "--optimizer=AdamW"])
    cli = main(["fit", "--config", str(config_file), "--model.init_args.weight_decay=0.1"])
    assert cli.trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.1


def test_printed_config_parses_to_itself(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    path = config_file
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(path), "--print_config"])
        printed.append(capsys.readouterr().out)
        path = config_file.with_name("printed.yaml")
        path.write_text(printed[-1])
    assert printed[0] == printed[1]
    assert "teacher_rate: 0.1" in printed[0]


def test_callbacks_plus_appends(config_file: Path) -> None:
    cli = main(["fit", "--config", str(config_file), "--trainer.callbacks+=RolloutTable"])
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]  # type: ignore[attr-defined]
    assert {"RolloutTable", "EMATeacher"} <= set(names)


def test_config_is_shown_in_tensorboard(config_file: Path) -> None:
    main(["fit", "--config", str(config_file)])
    events = EventAccumulator("runs/run").Reload()
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "SDFTModule" in text
    assert "teacher_rate: 0.1" in text


def test_predict_writes_lines_of_json(config_file: Path) -> None:
    main(["fit", "--config", str(config_file)])
    main(["predict", "--config", str(config_file), "--ckpt_path", "runs/run/checkpoints/last.ckpt"])
    records = [json.loads(line) for line in Path("runs/run/predictions.jsonl").read_text().splitlines()]
    assert len(records) == 8 * DATA["test_size"]
    assert {"id", "prompt", "response", "reference", "correct", "finished"} <= records[0].keys()


def test_help_explains_arguments_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "SDFTModule"])
    text = capsys.readouterr().out
    for argument in ("skip_tokens", "teacher_template", "max_prompt_tokens", "over_budget"):
        assert argument in text
    assert "What is minimised" in text


@pytest.mark.parametrize(("subcommand", "metric"), [("validate", "val/accuracy"), ("test", "test/accuracy")])
def test_evaluation_prints_a_table_that_can_be_read(
    subcommand: str, metric: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([subcommand, "--config", str(config_file)])
    printed = capsys.readouterr().out
    assert "Accuracy of zoo/laptop" in printed
    assert "DataLoader" not in printed
    lines = [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]
    assert f"{metric}/swap-ends 0.000 0.000 to 0.000" in lines
    assert f"{metric} 0.000 0.000 to 0.000" in lines
    main([subcommand, "--config", str(config_file), "--verbose=false"])
    assert "Accuracy" not in capsys.readouterr().out


def test_export_is_a_subcommand(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["fit", "--config", str(config_file)])
    arguments = ["export", "--checkpoint", "runs/run/checkpoints/last.ckpt", "--output", "exported"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
    entry_point()
    assert Path("exported/model.safetensors").is_file()


def test_our_errors_are_one_line(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["fit", "--config", str(config_file), "--model.init_args.max_prompt_tokens=2"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
    with pytest.raises(SystemExit, match=r"error: .*max_prompt_tokens=2"):
        entry_point()


def test_server_that_is_not_there_is_one_line(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ["--model.init_args.engine=VLLMServer", "--model.init_args.engine.url=http://127.0.0.1:1"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *engine])
    with pytest.raises(SystemExit, match=r"error: the vLLM server at http://127.0.0.1:1 does not answer .* vllm serve"):
        entry_point()


def test_module_runs_as_a_script() -> None:
    command = [sys.executable, "-m", "lightning_sdft", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert lightning_sdft.__version__ in output.stdout


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--trainer.callbacks.teacher_rate=0", r"(?s)error: .*teacher_rate=0.0 is not within \(0, 1\]"),
        (
            "--trainer.accumulate_grad_batches=3",
            r"error: trainer.accumulate_grad_batches=3, but .* 1 micro-batches",
        ),
    ],
)
def test_refused_settings_are_said_without_a_traceback(
    argument: str, complaint: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = ["--trainer.callbacks+=EMATeacher"] if "teacher_rate" in argument else []
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *appended, argument])
    with pytest.raises(SystemExit, match=complaint):
        entry_point()


def test_switching_logger_and_progress_bar_off_takes_their_callbacks_along(config_file: Path) -> None:
    """Trap 7: Lightning refuses a monitor without a logger, and a progress bar that is switched off."""
    callbacks = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks+=PhaseProgressBar"]
    off = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    cli = main(["fit", "--config", str(config_file), *callbacks, *off])
    assert cli.trainer.global_step == 3


def test_the_teachers_rate_in_a_config_can_be_overridden(config_file: Path) -> None:
    """Trap 8: callbacks forced by the command line could not be configured."""
    text = config_file.read_text()
    config_file.write_text(text.replace("teacher_rate: 0.1", "teacher_rate: 0.3"))
    cli = main(["fit", "--config", str(config_file)])
    rates = [each.teacher_rate for each in cli.trainer.callbacks if isinstance(each, EMATeacher)]  # type: ignore[attr-defined]
    assert rates == [0.3]
