from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.callbacks import PredictionWriter
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SFTModule
from lightning_sdft.records import Example
from lightning_sdft.storage.lock import claim_file
from tests.distributed.strategy_runs import Run
from tests.launch import in_processes
from tests.modules.conftest import question
from tests.storage.test_lock import another_process

REFERENCE = ["ü", Decimal("4.5"), date(2024, 5, 1)]
SETS = [
    EvaluationSet([question(index) for index in range(5)], {"new": ExactMatch()}),
    EvaluationSet(
        [
            Example(
                "umlaut", [{"role": "user", "content": "w1 ü\n|"}], reference=["ü", Decimal("4.5"), date(2024, 5, 1)]
            )
        ],
        {"old": ExactMatch()},
        prior=True,
    ),
]


def test_writes_a_line_of_json_per_example(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "deep" / "er" / "answers.jsonl"
    trainer = make_trainer(callbacks=[PredictionWriter(str(path))])
    batches = trainer.predict(words_module(SFTModule), datamodule=words_data(test=SETS, evaluation_batch_size=2))
    expected = [record for loader in batches for batch in loader for record in batch]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert records[-1].pop("reference") == ["ü", 4.5, "2024-05-01"]
    assert expected[-1].pop("reference") == SETS[1].examples[0].reference
    assert records == expected
    assert [record["id"] for record in records] == ["0", "1", "2", "3", "4", "umlaut"]
    assert records[0].keys() == {"id", "prompt", "response", "finished", "reference", "correct"}
    assert "ü" in path.read_text(encoding="utf-8")
    assert f"predictions written to {path}" in capsys.readouterr().out

    trainer.predict(words_module(SFTModule), datamodule=words_data(test=SETS[1:]))
    assert len(path.read_text().splitlines()) == 1  # the file is replaced


@pytest.mark.parametrize("logged", [True, False])
def test_default_file_is_in_the_folder_of_the_run(
    logged: bool, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="") if logged else False
    trainer = make_trainer(callbacks=[PredictionWriter()], logger=logger)
    trainer.predict(words_module(SFTModule), datamodule=words_data(test=SETS), return_predictions=False)
    folder = tmp_path / "run" if logged else tmp_path
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 6


def test_a_file_that_another_process_writes_is_left_to_it(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("theirs")
    writer = PredictionWriter(str(path))
    with another_process(lambda: claim_file(path)) as child, pytest.raises(DataError, match=f"by process {child} on"):
        make_trainer(callbacks=[writer]).predict(words_module(SFTModule), datamodule=words_data(test=SETS))
    assert path.read_text() == "theirs"
    make_trainer(callbacks=[writer]).predict(words_module(SFTModule), datamodule=words_data(test=SETS))
    assert len(path.read_text().splitlines()) == 6
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


def predict(run: Run, path: str) -> None:
    trainer = run.trainer(Path(path).parent, 2, [PredictionWriter(path)])
    trainer.predict(run.module(), datamodule=run.data(2), return_predictions=False)


def test_each_process_writes_a_file_of_its_own(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    in_processes(2, predict, Run(str(family_folder("llama")), SFTModule, "ddp"), str(tmp_path / "answers.jsonl"))
    files = sorted(tmp_path.glob("answers*"))
    assert [file.name for file in files] == ["answers.rank0.jsonl", "answers.rank1.jsonl"]
    ids = [json.loads(line)["id"] for file in files for line in file.read_text().splitlines()]
    assert sorted(ids) == ["0", "1", "2"]
