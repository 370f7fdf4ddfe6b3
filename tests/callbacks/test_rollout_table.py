from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import RolloutTable
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.inspection import token_looks
from lightning_sdft.modules import CausalLMModule, DistillationModule, SDFTModule, SequenceDistillationModule, SFTModule
from lightning_sdft.records import GREEDY
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import CopiedTeacher
from tests.modules.conftest import EXAMPLES, SHOWN, ready

TAG = "rollouts/text_summary"


def logged_tables(folder: str) -> list[tuple[int, str]]:
    """Step and text of each table in TensorBoard."""
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    if TAG not in events.Tags()["tensors"]:
        return []
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(TAG)]


@pytest.fixture
def tensorboard(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="run", version="")


def test_tables_are_logged_after_the_first_and_every_nth_step(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tensorboard: TensorBoardLogger
) -> None:
    module = words_module(SDFTModule)
    trainer = make_trainer(callbacks=[RolloutTable(every_n_steps=3, rows=2)], logger=tensorboard, max_steps=7)
    trainer.fit(module, datamodule=words_data())
    tables = logged_tables(tensorboard.log_dir)
    assert [step for step, _ in tables] == [1, 3, 6]
    *_, header, rule, first, second = tables[0][1].splitlines()
    assert header.count("|") == rule.count("|") == 9
    examples = {example.id: example for example in words_data().splits.train}
    for row in (first, second):
        cells = [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row.strip("|").split("|")]
        prompt, rollout, _, demonstration, kl, _, tokens, name = cells
        assert prompt == examples[name].prompt[-1]["content"]
        assert demonstration == examples[name].demonstration
        assert len(rollout.split()) == int(tokens.removesuffix(", cut"))
        assert float(kl) >= 0


_, STUDENT, TEACHER, _, KL, WHERE, TOKENS, EXAMPLE = range(8)
"""The columns."""


def rows(module: Any, **arguments: Any) -> tuple[Any, list[Any]]:
    """The items of a step, and their rows."""
    (batch,) = MicroBatch.cut(EXAMPLES, len(EXAMPLES))
    torch.manual_seed(0)
    module.training_step(batch, 0)
    items = batch.group.items
    return items, RolloutTable(**arguments).table(module, items)


@pytest.mark.parametrize("memory", ["float32", "offload"])
def test_rollout_stands_beside_what_the_teacher_says(memory: Any, words_module: Callable[..., Any]) -> None:
    module = ready(words_module(SDFTModule, teacher=CopiedTeacher(memory=memory), skip_tokens=1))
    items, found = rows(module)
    looks = token_looks(module, [item.student for item in items], [item.teacher for item in items], 1)
    assert len({row[EXAMPLE].text for row in found}) == len(EXAMPLES)
    for item, row, tokens in zip(items, found, looks, strict=True):
        assert row[STUDENT].text == "".join(token.text for token in tokens)
        assert float(row[KL].text) == pytest.approx(
            sum(token.kl for token in tokens[1:]) / len(tokens[1:]) if tokens[1:] else float("nan"), 1e-2, nan_ok=True
        )
        worst = max(tokens, key=lambda token: token.kl)
        assert row[WHERE].text.splitlines()[0].endswith(f"KL {worst.kl:.2f}")
        assert f"teacher '{worst.teacher[0].text}'" in row[WHERE].text.splitlines()[0]
        (answer,) = generate(module.teacher.policy, [item.teacher.prompt], module.max_completion_tokens, GREEDY)
        assert row[TEACHER].text == ("" if memory == "offload" else module.tokenizer.decode(answer.completion))
        assert row[TOKENS].text.endswith("cut") is not item.rollout.finished


@pytest.mark.parametrize(
    ("method", "arguments"),
    [(DistillationModule, {**SHOWN, "rollout_source": "teacher"}), (SequenceDistillationModule, SHOWN)],
)
def test_other_distillations_have_tables_too(
    method: Any,
    arguments: Any,
    words_module: Callable[..., Any],
    words_data: Any,
    make_trainer: Any,
    tensorboard: TensorBoardLogger,
) -> None:
    trainer = make_trainer(callbacks=[RolloutTable()], logger=tensorboard, max_steps=1)
    trainer.fit(words_module(method, **arguments), datamodule=words_data())
    assert len(logged_tables(tensorboard.log_dir)) == 1


def test_training_is_the_same_with_tables(
    words_module: Callable[..., Any], words_data: Any, make_trainer: Any, tensorboard: TensorBoardLogger
) -> None:
    weights = []
    for callbacks in ([], [RolloutTable(every_n_steps=1)]):
        torch.manual_seed(3)
        module = words_module(SDFTModule)
        make_trainer(callbacks=callbacks, logger=tensorboard, max_steps=3).fit(module, datamodule=words_data())
        weights.append([weight.clone() for weight in module.policy.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_rows_are_spread_over_the_step(
    count: int,
    shown: list[int],
    words_module: Callable[..., Any],
    words_data: Any,
    make_trainer: Any,
    tensorboard: TensorBoardLogger,
) -> None:
    data = words_data(train=EXAMPLES, micro_batch_size=4)
    trainer = make_trainer(
        callbacks=[RolloutTable(rows=count)], logger=tensorboard, max_steps=1, accumulate_grad_batches=1
    )
    group: list[str] = []
    module = words_module(SDFTModule)
    step = module.training_step

    def noted(batch: Any, batch_idx: int) -> Any:
        loss = step(batch, batch_idx)
        group.extend(item.example.id for item in batch.group.items)
        return loss

    module.training_step = noted
    trainer.fit(module, datamodule=data)
    ((_, text),) = logged_tables(tensorboard.log_dir)
    assert [line.split(" ")[-2] for line in text.splitlines()[4:]] == [group[index] for index in shown]


def test_resumed_run_goes_on_with_the_tables(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tensorboard: TensorBoardLogger,
    tmp_path: Path,
) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.fit(words_module(SDFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    resumed = make_trainer(callbacks=[RolloutTable(every_n_steps=4)], logger=tensorboard, max_steps=8, max_epochs=4)
    resumed.fit(words_module(SDFTModule), datamodule=words_data(), ckpt_path=tmp_path / "four.ckpt")
    assert [step for step, _ in logged_tables(tensorboard.log_dir)] == [8]


def test_method_without_rollouts_and_other_loggers_are_left_alone(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tensorboard: TensorBoardLogger,
    tmp_path: Path,
) -> None:
    for method, logger in ((SFTModule, tensorboard), (SDFTModule, CSVLogger(tmp_path))):
        trainer = make_trainer(callbacks=[RolloutTable()], logger=logger, max_steps=1)
        trainer.fit(words_module(method), datamodule=words_data())
    assert logged_tables(tensorboard.log_dir) == []
