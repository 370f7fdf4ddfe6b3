"""Rows that the model could answer before training, and what a run shows of them."""

import json
import logging

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import CSVLogger

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.string_skills import NEW_SKILLS, StringSkillsDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.modules import SFTModule
from tests.modules.conftest import make_trainer

__all__ = ["make_trainer"]

NEW = [{"prompt": f"Name river {n}.", "response": f"River {n}.", "key": n} for n in range(8)]
CITIES = [{"prompt": f"Name city {n}.", "key": n} for n in range(3)]
SUMS = [{"prompt": f"What is {n} + {n}?", "key": 2 * n} for n in range(2)]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="new.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


def described(sets):
    return [(each.name, each.prior, len(each.examples)) for each in sets]


def test_a_file_is_named_after_itself_and_evaluated_in_validation_and_test(write):
    data = JsonDataModule(
        write(NEW), prior=write(CITIES, "cities.jsonl"), reference_column="key", validation_share=0.25
    )
    assert described(data.splits.validation) == [("json", False, 2), ("cities", True, 3)]
    assert described(data.splits.test) == [("cities", True, 3)]
    assert [example.id for example in data.splits.test[0].examples] == ["cities-1", "cities-2", "cities-3"]
    assert [example.reference for example in data.splits.test[0].examples] == [0, 1, 2]
    assert len(data.splits.train) == 6


def test_several_sources_have_the_names_they_are_given(write):
    prior = {"towns": write(CITIES, "old/rows.jsonl"), "sums": write(SUMS, "rows.jsonl")}
    data = JsonDataModule(write(NEW), prior=prior, reference_column="key", grader=StringAnswer())
    assert described(data.splits.validation) == [("towns", True, 3), ("sums", True, 2)]
    assert described(data.splits.test) == described(data.splits.validation)
    graders = [each.graders[each.name] for each in (*data.splits.validation, *data.splits.test)]
    assert all(isinstance(grader, StringAnswer) for grader in graders)
    assert len(set(map(id, graders))) == 4


def test_one_that_is_trained_on_is_counted_in_a_warning(write, caplog):
    prior = {"cities": write(CITIES, "cities.jsonl"), "sums": write([*SUMS, NEW[0], NEW[5]], "sums.jsonl")}
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = JsonDataModule(write(NEW), prior=prior, reference_column="key").splits
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "2 of 4 prior/sums questions, the first being sums-3, are also trained on" in record.getMessage()
    assert "nor what was kept" in record.getMessage()
    caplog.clear()
    _ = JsonDataModule(write(NEW), prior=prior, reference_column="key", limit=5).splits
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "1 of 4 prior/sums questions, the first being sums-3, are also trained on" in record.getMessage()


def test_refuses_the_name_of_the_mean(write):
    average = write(CITIES, "average.jsonl")
    with pytest.raises(DataError, match=r"prior/average is the mean .* as data.prior={capitals: \S*average.jsonl}"):
        JsonDataModule("new.jsonl", prior=average, reference_column="key")
    assert JsonDataModule(write(NEW), prior={"capitals": average}, reference_column="key").splits.test


def test_a_missing_file_is_named_with_the_argument(write):
    with pytest.raises(DataError, match=r"gone.jsonl: no such file or folder.*given by data.prior$"):
        _ = JsonDataModule(write(NEW), prior={"gone": "gone.jsonl"}, reference_column="key").splits


def test_the_command_line_takes_a_file_or_names(write):
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    cities = write(CITIES, "cities.jsonl")
    for given, names in (
        ([f"--data.prior={cities}"], ["cities"]),
        ([f"--data.prior={{towns: {cities}, sums: {write(SUMS, 'sums.jsonl')}}}"], ["towns", "sums"]),
        ([f"--data.prior.towns={cities}"], ["towns"]),
    ):
        arguments = ["--data=JsonDataModule", f"--data.train={write(NEW)}", "--data.reference_column=key", *given]
        datamodule = parser.instantiate(parser.parse_args(arguments)).data
        assert [each.name for each in datamodule.splits.validation] == names
        assert datamodule.hparams["prior"]


def prior(metrics, prefix):
    return {name.removeprefix(prefix): value.item() for name, value in metrics.items() if name.startswith(prefix)}


def test_a_run_shows_what_it_forgets_of_a_users_files(write, make_trainer, tmp_path):
    """Strings of skills that the laptop model has, in files of rows; a rate that is far too high takes them away."""
    skills = StringSkillsDataModule(train_size=32, validation_size=4, test_size=16, prior_size=16).splits
    rows = {
        each.name: [{"prompt": example.prompt, "key": example.reference} for example in each.examples]
        for each in skills.test
        if each.name in ("copy", "reverse")
    }
    train = [{"prompt": example.prompt, "response": example.demonstration} for example in skills.train]
    assert set(rows).isdisjoint(NEW_SKILLS)
    data = JsonDataModule(
        write(train),
        prior={name: write(each, f"{name}.jsonl") for name, each in rows.items()},
        reference_column="key",
        grader=StringAnswer(),
        batch_size=16,
    )
    module = SFTModule("zoo/laptop", learning_rate=1e-2, warmup_steps=1, max_prompt_tokens=16, max_completion_tokens=14)
    trainer = make_trainer(max_steps=6, limit_val_batches=1.0, accumulate_grad_batches=1, logger=CSVLogger(tmp_path))
    trainer.validate(module, datamodule=data, verbose=False)
    before = prior(trainer.callback_metrics, "prior/")
    trainer.fit(module, datamodule=data)
    after = prior(trainer.callback_metrics, "prior/")
    for accuracy in (before, after):
        assert set(accuracy) == {"copy", "reverse", "average"}
        assert accuracy["average"] == pytest.approx((accuracy["copy"] + accuracy["reverse"]) / 2)
    assert before["average"] > 0.9
    assert after["average"] < before["average"] - 0.2
    trainer.test(module, datamodule=data, verbose=False)
    assert prior(trainer.callback_metrics, "test/prior/") == after
    assert not any(name.startswith("test/accuracy") for name in trainer.callback_metrics)
    events = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "prior/copy" in events.splitlines()[0]
