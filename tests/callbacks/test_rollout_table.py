from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import RolloutTable
from lightning_sdft.data.groups import Item
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.records import Example, Rollout

TAG = "rollouts/text_summary"


def logged_tables(folder: str) -> list[tuple[int, str]]:
    """Step and text of each table in TensorBoard."""
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    if TAG not in events.Tags()["tensors"]:
        return []
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(TAG)]


def item(example: Example, completion: list[int], finished: bool = True) -> Item:
    """An example with its rollout."""
    rollout = Rollout([], completion, [0.0] * len(completion), finished)
    return Item(example, rollout, rollout=rollout)


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
    header, rule, *rows = tables[0][1].splitlines()
    assert header == "| example | prompt | demonstration | rollout | tokens | finished |"
    assert rule.count("|") == 7
    assert len(rows) == 2
    examples = {example.id: example for example in words_data().splits.train}
    for row in rows:
        name, prompt, demonstration, rollout, tokens, finished = (cell.strip() for cell in row.strip("|").split("|"))
        assert prompt == examples[name].prompt[-1]["content"]
        assert demonstration == examples[name].demonstration
        assert len(rollout.split()) in (int(tokens), int(tokens) - 1)  # the end token is not shown
        assert finished in ("yes", "no")


@pytest.mark.parametrize(("rows", "shown"), [(1, "a"), (3, "ace"), (4, "abde"), (9, "abcdef")])
def test_rows_are_spread_over_the_step(rows: int, shown: str) -> None:
    examples = [Example(name, [{"role": "user", "content": "x"}]) for name in "abcdef"]
    table = RolloutTable(rows=rows).table([item(example, [7]) for example in examples], ["1"] * 6)
    assert [line.split(" ")[1] for line in table.splitlines()[2:]] == list(shown)


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


def test_text_cannot_break_the_table() -> None:
    example = Example("a|b", [{"role": "user", "content": "x\ny"}], "<b> & c")
    table = RolloutTable(max_characters=20).table([item(example, [7], finished=False)], ["1\n\n2|" + 30 * "z"])
    _, _, row = table.splitlines()
    expected = "1<br><br>2&#124;zzzzz [...] zzzzzzzzzz"
    assert row == f"| a&#124;b | x<br>y | &lt;b&gt; &amp; c | {expected} | 1 | no |"


def test_example_without_demonstration_has_an_empty_cell() -> None:
    example = Example("a", [{"role": "user", "content": "x"}])
    table = RolloutTable().table([item(example, [7, 8])] * 3, ["1"] * 3)
    assert table.splitlines()[2:] == ["| a | x |  | 1 | 2 | yes |"] * 3
