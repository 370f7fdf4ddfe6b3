"""What a user reads whose run Lightning, transformers or the system would refuse: one line that says what to do."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_sdft import zoo
from lightning_sdft.cli import COMMANDS, entry_point
from lightning_sdft.commands.fit import main
from lightning_sdft.commands.refusals import one_line, refusal
from lightning_sdft.errors import DataError, SettingError

SMALL = "zoo/laptop-small"
MODEL = "--model.init_args."
SIZES = [f"--data.{name}={size}" for name, size in {"train_size": 8, "batch_size": 4, "prior_size": 2}.items()]
QUIET = [
    *SIZES,
    "--data.validation_size=2",
    "--data.test_size=2",
    "--trainer.max_steps=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
ALONE = [*QUIET, "--trainer.logger=false", "--trainer.enable_checkpointing=false", f"{MODEL}model={SMALL}"]
SDFT = ["fit", "--config", "laptop_sdft", *ALONE]
SFT = ["fit", "--config", "laptop_sft", *ALONE]

BAD_FILES: dict[str, dict[str, str | None]] = {
    "no_config": {"config.json": None},
    "no_weights": {"model.safetensors": None},
    "no_tokenizer": {"tokenizer.json": None, "tokenizer_config.json": None},
    "no_template": {"chat_template.jinja": None},
    "cut_config": {"config.json": '{"model_type": "llam'},
    "other_kind": {"config.json": '{"model_type": "llamma"}'},
    "cut_tokenizer": {"tokenizer.json": '{"version": "1.0",\n"model": {'},
    "cut_template": {"chat_template.jinja": "{% for message in messages %}\n{{ message"},
}
"""Folders of a model with a file that is missing (None) or has another content."""

TRAINERS = [
    (
        "accelerator=gpu",
        "Trainer: accelerator=gpu, but torch .* finds no such device; here there are cpu.*accelerator=auto",
    ),
    ("accelerator=cpuu", "Trainer: there is no accelerator=cpuu; did you mean cpu?"),
    (
        "devices=two",
        "Trainer: devices=two must be a whole number >= 1, indices such as 0,1 or auto; set trainer.devices",
    ),
    ("devices=-2", "Trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
    ("strategy=fsdp", "strategy fsdp is not supported: .*Use trainer.strategy=fsdp2"),
    ("strategy=deepspeed_stage_2", "strategy deepspeed_stage_2 is not supported: .*Use trainer.strategy=fsdp2"),
    ("strategy=FSDPStrategy", "strategy FSDPStrategy is not supported: .*Use trainer.strategy=fsdp2"),
    ("strategy=dpp", "there is no strategy dpp; did you mean ddp?"),
    ("precision=transformer-engine", "Trainer: Requirement 'transformer_engine"),
    ("max_time=abc", "Trainer: `Timer(duration='abc')` is not a valid duration. Expected .*DD:HH:MM:SS"),
    ("gradient_clip_algorithm=abc", "Trainer: `gradient_clip_algorithm` abc is invalid. Allowed algorithms: "),
    ("gradient_clip_val=-1", "Trainer: gradient_clip_val=-1 must be a number >= 0"),
    (
        "val_check_interval=99",
        "Trainer: val_check_interval=99, but an epoch has 2 batches; .*check_val_every_n_epoch=null",
    ),
]

SETTINGS = [
    ("model=/no/such", "there is no model in '/no/such', for there is no such folder; name a Hugging Face folder"),
    ("model=./no_weight", "there is no model in './no_weight', .*; did you mean no_weights?"),
    ("model=zoo/laptp", "there is no model 'zoo/laptp' in the zoo; did you mean zoo/laptop?"),
    ("model=rows.jsonl", "'rows.jsonl' is a file; name the folder of a Hugging Face model"),
    ("model=empty", "'empty' has no config.json, no tokenizer (tokenizer.json), no weights; name a folder"),
    ("model=no_config", "'no_config' has no config.json; name a folder with all files"),
    ("model=no_weights", "'no_weights' has no weights; name a folder with all files"),
    ("model=no_tokenizer", "'no_tokenizer' has no tokenizer (tokenizer.json); name a folder with all files"),
    ("model=no_template", "the tokenizer of 'no_template' has no chat template, .*set tokenizer.chat_template"),
    ("model=cut_config", "cut_config/config.json, line 1, column 16: Unterminated string.*copy or download it again"),
    ("model=other_kind", "other_kind/config.json: transformers .* knows no model_type 'llamma'; did you mean llama?"),
    ("model=cut_tokenizer", "cut_tokenizer/tokenizer.json, line 2, column .*copy or download it again"),
    (
        "model=cut_template",
        "the chat template of 'cut_template', line 2: unexpected end of template.*; mend it in chat",
    ),
    ("model=cut_weights", "cut_weights/model.safetensors: .*; the file is not whole: copy or download it again"),
    ("model=x.gguf", "'x.gguf' is no whole GGUF file (.*); copy or download it again"),
    ("model=y.gguf", "there is no GGUF file 'y.gguf'; did you mean x.gguf?"),
    ("attention=flash", "attention=flash: .* is not supported.*; leave it out for the best one"),
    ("learning_rate=-1", "SFTModule: learning_rate=-1.0 must be a number >= 0"),
    ("weight_decay=.nan", "weight_decay=nan must be a number >= 0"),
    ("teacher_template={prompt}", "teacher_template='{prompt}' has .*calls for {demonstration}, {prompt}; write each"),
    (
        "teacher_template={prompt",
        "teacher_template='{prompt': expected '}' before end of string; close the braces of {d",
    ),
    ("lora.target_modules=((", "LoRA: target_modules='((' is no regular expression (missing ).*; correct it"),
    (
        "lora.target_modules=nolayer",
        "target_modules='nolayer': Target modules nolayer not found .*; name some of .*q_proj",
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models that lack a file or have a broken one, and with checkpoints of two methods."""
    root = tmp_path_factory.mktemp("models")
    (root / "empty").mkdir()
    for name, files in {**BAD_FILES, "cut_weights": {}}.items():
        shutil.copytree(zoo.folder(SMALL), root / name)
        for file, content in files.items():
            if content is None:
                (root / name / file).unlink()
            else:
                (root / name / file).write_text(content)
    weights = root / "cut_weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (root / "x.gguf").write_text("GGUF")
    (root / "rows.jsonl").write_text(json.dumps({"prompt": "reverse a b", "response": "b a"}))
    for method in ("sdft", "sft"):
        folder = [f"--trainer.default_root_dir={root / method}", "--trainer.logger=false"]
        more = ["--trainer.limit_val_batches=0", f"{MODEL}model={SMALL}"]
        main(["fit", "--config", f"laptop_{method}", *QUIET, *folder, *more])
        (checkpoint,) = (root / method).rglob("last.ckpt")
        shutil.copy(checkpoint, root / f"{method}.ckpt")
    (root / "cut.ckpt").write_bytes((root / "sft.ckpt").read_bytes()[:9000])
    return root


@pytest.fixture(autouse=True)
def in_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def said(line: str, parts: str) -> bool:
    """Whether a line has all parts, which are separated by ``.*``."""
    assert all(part in line for part in parts.split(".*")), line
    return True


@pytest.mark.parametrize(("setting", "parts"), TRAINERS, ids=[setting for setting, _ in TRAINERS])
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_there_cannot_be(setting: str, parts: str, refused: Callable[..., str]) -> None:
    if "gpu" in setting and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    accelerator = [] if "accelerator" in setting else ["--trainer.accelerator=cpu"]
    assert said(refused(*SFT, *accelerator, f"--trainer.{setting}"), parts)


@pytest.mark.parametrize(("setting", "parts"), SETTINGS, ids=[setting for setting, _ in SETTINGS])
def test_a_model_or_setting_that_there_cannot_be(setting: str, parts: str, refused: Callable[..., str]) -> None:
    assert said(refused(*(SDFT if "teacher" in setting else SFT), f"{MODEL}{setting}"), parts)


@pytest.mark.parametrize("model", ["mylab/no-such-model", "mylab-model"])
def test_a_model_of_the_hub_without_a_network_is_not_waited_for(
    model: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    line = refused(*SFT, f"{MODEL}model={model}")
    assert said(line, f"{model!r} is no folder here and not in the cache of the hub, and http://127.0.0.1:1 does not")
    assert said(line, f"(hf download {model} --local-dir FOLDER), and give the folder")


def test_a_teacher_that_is_missing(refused: Callable[..., str]) -> None:
    line = refused(*SDFT, f"{MODEL}teacher=CopiedTeacher", f"{MODEL}teacher.model=./nowhere")
    assert said(line, "there is no model in './nowhere', for there is no such folder; name")


@pytest.mark.parametrize("option", ["callbacks+", "callbacks"])  # the second gives one instead of a list
def test_a_teacher_for_a_method_without_one(option: str, refused: Callable[..., str]) -> None:
    line = refused(*SFT, f"--trainer.{option}=EMATeacher")
    assert said(line, "EMATeacher updates a teacher .*SFTModule has none; use SDFTModule")


@pytest.mark.parametrize(
    ("size", "parts"), [("-8", "micro_batch_size=-8 must be a whole number >= 1"), ("3", "does not")]
)
def test_a_micro_batch_that_there_cannot_be(size: str, parts: str, refused: Callable[..., str]) -> None:
    assert said(refused(*SFT, f"--data.micro_batch_size={size}"), parts)


@pytest.mark.parametrize(("package", "extra"), [("peft", "lora"), ("gguf", "gguf")])
def test_a_package_that_is_not_installed_is_named_by_its_extra(
    package: str, extra: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    setting = "lora.rank=2" if extra == "lora" else "model=x.gguf"
    assert said(refused(*SFT, f"{MODEL}{setting}"), f"pip install 'lightning-sdft[{extra}]'")


@pytest.mark.parametrize("folder", ["rows.jsonl", "rows.jsonl/runs"])
def test_a_folder_that_cannot_be_written(folder: str, refused: Callable[..., str]) -> None:
    logger = ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={folder}"]
    line = refused("fit", "--config", "laptop_sft", *QUIET, f"{MODEL}model={SMALL}", *logger)
    assert said(line, "rows.jsonl.* cannot be used: .*; name another file or folder")
    assert said(refused("export", "--model", SMALL, "--output", folder), "rows.jsonl.* cannot be used: ")


CHECKPOINTS = [
    (
        ["test", "sft.ckpt", "model=zoo/laptop"],
        "weights in the checkpoint 'sft.ckpt' are not .*have another shape.*set model",
    ),
    (["fit", "sft.ckpt", "model=zoo/laptop"], "'sft.ckpt' was trained with model='zoo/laptop-small', and this run has"),
    (
        ["fit", "sdft.ckpt", "teacher=LiveTeacher"],
        "in the checkpoint 'sdft.ckpt' are not .*have no place.*set model and teac",
    ),
    (
        ["test", "sdft.ckpt", "teacher=TrustRegionTeacher"],
        "are missing (the first is 'teacher.*have no place.*set model and",
    ),
    (
        ["fit", "cut.ckpt", "seed_everything"],
        "'cut.ckpt' (9000 bytes) is truncated or not a checkpoint; use an earlier",
    ),
    (["test", "sfft.ckpt", "seed_everything"], "there is no checkpoint 'sfft.ckpt'; did you mean sft.ckpt?"),
    (["test", "best", "seed_everything"], "ckpt_path=best, but there is none of that kind here; give the path"),
]


@pytest.mark.parametrize(("arguments", "parts"), CHECKPOINTS, ids=[" ".join(each) for each, _ in CHECKPOINTS])
def test_a_checkpoint_of_something_else(arguments: list[str], parts: str, refused: Callable[..., str]) -> None:
    command, file, setting = arguments
    method = "sdft" if file == "sdft.ckpt" else "sft"
    changed = "--seed_everything=1" if setting == "seed_everything" else f"{MODEL}{setting}"
    more = ["--trainer.callbacks=null"] if "LiveTeacher" in setting else []  # GatedTeacher is refused with it sooner
    run = [*ALONE, "--trainer.max_steps=2", "--ckpt_path", file, changed, *more]
    line = refused(command, "--config", f"laptop_{method}", *run)
    assert said(line, parts)


def test_a_checkpoint_exported_with_another_model(refused: Callable[..., str]) -> None:
    line = refused("export", "--checkpoint", "sft.ckpt", "--model", "zoo/laptop", "--output", "exported")
    assert said(line, "the weights in the checkpoint 'sft.ckpt' are not those of the models .*have another shape")


def test_what_lightning_torch_and_the_system_refuse() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/last.ckpt")
    assert said(str(refusal(full)), "runs/last.ckpt cannot be used: No space left on device; .*make room")
    denied = PermissionError(errno.EACCES, "Permission denied", "/data")
    assert said(str(refusal(denied)), "/data cannot be used: Permission denied; .*right to write there")
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert said(str(refusal(memory)), "memory is full (CUDA out of memory); take a smaller data.micro_batch_size")
    assert str(refusal(MisconfigurationException("one\n  two"))) == "one two"
    assert one_line(" a \n\n b\n") == "a b"
    refused = DataError("a row")
    assert refusal(refused) is refused


@pytest.mark.parametrize("fault", [KeyError("rows"), FileNotFoundError(errno.ENOENT, "no", "x"), ValueError("odd")])
def test_a_fault_of_the_program_shows_where_it_is(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty() -> None:
        raise fault

    monkeypatch.setitem(COMMANDS, "judge", faulty)
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "judge"])
    with pytest.raises(type(fault)):
        entry_point()


def test_debug_shows_where_a_refusal_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing() -> Any:
        raise SettingError("no")

    monkeypatch.setitem(COMMANDS, "judge", refusing)
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "judge", "--debug"])
    with pytest.raises(SettingError):
        entry_point()
