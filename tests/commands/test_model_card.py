from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch

from lightning_sdft.commands.card_sources import metadata
from lightning_sdft.commands.export import export
from lightning_sdft.commands.fit import main
from lightning_sdft.commands.model_card import write_card
from lightning_sdft.modules import SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from tests.cli_runs import config, trusted
from tests.commands.test_export import train

__all__ = ["trusted"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of the laptop model by the command line, with a base, a validation, and rows of a private folder."""
    folder = tmp_path_factory.mktemp("run")
    settings = config(
        logger=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
        num_sanity_val_steps=-1,
        val_check_interval=2,
    )
    callbacks = settings["trainer"]["callbacks"]
    settings["trainer"]["callbacks"] = [*callbacks[:1], {"class_path": "BaseComparison"}]
    trainer = main(settings, run=False)
    trainer.trainer.fit(trainer.model, trainer.datamodule)
    trainer.trainer.save_checkpoint(folder / "trained.ckpt")
    return folder / "trained.ckpt"


def changed(checkpoint: Path, path: Path, **changes: Any) -> str:
    """A copy of a checkpoint with parts of it replaced."""
    content = torch.load(checkpoint)
    for name, change in changes.items():
        content[name] = {**content.get(name, {}), **change}
    torch.save(content, path)
    return str(path)


def written(folder: Path, checkpoint: Path | str, **arguments: Any) -> str:
    export(str(folder), str(checkpoint), overwrite=True, **arguments)
    return (folder / "README.md").read_text()


def test_card_says_what_was_trained_how_and_how_well(checkpoint: Path, tmp_path: Path) -> None:
    card = written(tmp_path / "out", checkpoint)
    assert metadata(card) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lightning-sdft", "sdft"],
    }
    for line in (
        "# zoo/laptop, fine-tuned with SDFT",
        "| weights | student, float32 |",
        "| optimizer steps | 3 |",
        "| examples per step | 8 |",
        "| learning_rate | 0.001 |",
        "| teacher: EMATeacher | updates 3, teacher_rate 0.1 |",
        "| seed | 3 |",
        "| lightning_sdft | 0.1.0 |",
        "After 2 of 3 steps, on validation sets, with 95% intervals.",
        "| accuracy | base | trained | 95% | change |",
    ):
        assert f"\n{line}\n" in card
    state = torch.load(checkpoint)["callbacks"]["BaseComparison"]
    base, trained = state["base"]["prior/average"], state["trained"]["prior/average"]
    assert f"| average of prior skills | {base:.3f} | {trained:.3f} | " in card
    assert "| data | StringSkillsDataModule, 32 examples (sha256 " in card


def test_no_path_of_the_machine_and_no_text_of_the_user_gets_into_the_card(
    checkpoint: Path, tmp_path: Path, family_folder: Callable[[str], Path]
) -> None:
    private = {"train": str(tmp_path / "customers" / "rows.jsonl")}
    nested = {"class_path": "JsonDataModule", "init_args": private}
    arguments = {"teacher": {"class_path": "CopiedTeacher", "init_args": {"model": "/secret/teacher"}}}
    path = changed(
        checkpoint,
        tmp_path / "private.ckpt",
        hyper_parameters={**arguments, "retention": {"data": nested, "prompts": 4}, "reduction": "/secret/reduction"},
        datamodule_hyper_parameters=private,
    )
    card = written(tmp_path / "out", path)
    assert "rows.jsonl" in card
    assert "| retention | prompts 4 |" in card
    assert "| teacher | CopiedTeacher |" in card
    for secret in (str(tmp_path), "customers", "secret", "example {demonstration}"):
        assert secret not in card

    _, other = train(SFTModule, family_folder("llama"), tmp_path)
    card = written(tmp_path / "local", other)
    assert "# llama, fine-tuned with SFT" in card
    assert "base_model" not in metadata(card)
    assert "Licence: **not stated.**" in card
    assert "Not measured, or not kept in the checkpoint." in card
    assert str(family_folder("llama").parent) not in card


def test_base_and_data_of_the_hub_are_linked(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "models"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "data")
    (tmp_path / "data" / "owner___rows").mkdir(parents=True)
    about = {"lightning_sdft": {"model": "owner/base"}, "datamodule_hyper_parameters": {"train": "owner/rows"}}
    path = changed(checkpoint, tmp_path / "hub.ckpt", **about)
    for adapter, relation in ((False, "finetune"), (True, "adapter")):
        assert write_card(str(tmp_path), path, None, "student", "float32", adapter, "me/model")
        card = (tmp_path / "README.md").read_text()
        fields = metadata(card)
        assert (fields["base_model"], fields["base_model_relation"]) == ("owner/base", relation)
        assert fields["datasets"] == ["owner/rows"]
        assert "[owner/base](https://huggingface.co/owner/base), fine-tuned by" in card
        assert f'AutoModelForCausalLM.from_pretrained("{"owner/base" if adapter else "me/model"}")' in card


def test_scores_of_prior_tasks_stand_in_the_table_of_their_step(checkpoint: Path, tmp_path: Path) -> None:
    scores = {"prior/hellaswag": 0.5, "prior_low/hellaswag": 0.4, "prior_high/hellaswag": 0.6}
    for step, there in ((0, False), (2, True), (3, True)):
        tasks = {"PriorTasks": {"step": step, "scores": scores}}
        path = changed(checkpoint, tmp_path / f"{step}.ckpt", callbacks=tasks)
        card = written(tmp_path / f"out{step}", path)
        assert ("| prior: hellaswag | - | 0.500 | 0.400 to 0.600 | - |" in card) == there
        assert ("After 3 of 3 steps" in card) == (step == 3)


def test_accuracies_are_not_those_of_the_teacher(checkpoint: Path, tmp_path: Path) -> None:
    sentence = "They are of the student, and the weights here are the teacher's."
    assert sentence in written(tmp_path / "teacher", checkpoint, weights="teacher")
    assert sentence not in written(tmp_path / "student", checkpoint)


def test_card_of_an_adapter(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    arguments = {"teacher_template": "w50 {prompt} w51 {demonstration}", "max_teacher_prompt_tokens": 32}
    lora = LoRA(rank=3, target_modules=["q_proj"])
    _, path = train(SDFTModule, family_folder("llama"), tmp_path, lora=lora, **arguments)
    card = written(tmp_path / "adapter", path, adapter=True)
    assert metadata(card)["library_name"] == "peft"
    assert "PeftModel.from_pretrained(model," in card
    assert "| lora | LoRA, rank 3, alpha 32, dropout 0.0, rank_stabilized False |" in card
    assert "PeftModel" not in written(tmp_path / "merged", path)


def test_own_card_stays_and_ours_is_renewed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written(tmp_path, checkpoint)
    assert "| weights | teacher, float16 |" in written(tmp_path, checkpoint, weights="teacher", dtype="float16")
    assert written(tmp_path, checkpoint) == first
    assert "your own" not in capsys.readouterr().out
    for own in ("# Mine\n", first.replace("student", "pupil"), first + "more\n"):
        (tmp_path / "README.md").write_text(own)
        assert written(tmp_path, checkpoint) == own
        assert "README.md is your own, and stays as it is" in capsys.readouterr().out


def test_snippet_of_the_card_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = written(tmp_path / "PATH" / "TO" / "THIS" / "FOLDER", checkpoint)
    monkeypatch.chdir(tmp_path)
    code = card.partition("```python\n")[2].partition("```")[0].replace('"..."', '"swap-ends a b c d"')
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["answer"].numel() > 0
    assert capsys.readouterr().out.endswith("\n")


def test_card_of_a_checkpoint_with_weights_alone(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint)
    del content["callbacks"]
    torch.save(content, tmp_path / "weights.ckpt")
    assert "Not measured" in written(tmp_path / "out", tmp_path / "weights.ckpt")
