"""The data module base: splits, checks, evaluation loaders."""

from types import SimpleNamespace

import pytest

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.errors import DataError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.records import Example


def examples(count, start=0):
    return [
        Example(str(index), [{"role": "user", "content": f"question {index}"}], "yes")
        for index in range(start, start + count)
    ]


class Fixed(DemonstrationDataModule):
    """Serves the splits that a test gives it."""

    def __init__(self, given, **kwargs):
        super().__init__(**kwargs)
        self.given = given
        self.loads = 0

    def load(self):
        self.loads += 1
        return self.given


def module(count=10, accumulated=1, processes=1, rank=0, **kwargs):
    datamodule = Fixed(Splits(examples(count)), **kwargs)
    replicas = {"num_replicas": processes, "rank": rank} if processes > 1 else None
    datamodule.trainer = SimpleNamespace(
        accumulate_grad_batches=accumulated,
        distributed_sampler_kwargs=replicas,
        callbacks=[],
        limit_train_batches=1.0,
        overfit_batches=0.0,
        fast_dev_run=False,
        val_check_interval=1.0,
    )
    return datamodule


def ids(loader):
    return [example.id for batch in loader for example in batch.examples]


# Splits


def test_loads_once():
    datamodule = Fixed(Splits(examples(3)))
    datamodule.setup("fit")
    assert len(datamodule.splits.train) == 3
    assert datamodule.loads == 1


def graded(given):
    return [EvaluationSet(given, {"letters": ExactMatch()})]


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [
        (Splits([*examples(3), *examples(2)]), "the train split has 2 ids more than once, among them '0' .2 times"),
        (Splits(validation=graded(examples(2) + examples(1))), r"the validation \(letters\) split has 1 id more"),
        (Splits(test=graded(examples(2) + examples(1))), r"the test \(letters\) split has 1 id more"),
        (Splits(validation=graded([])), r"the validation split \(letters\) has no examples"),
        (Splits(test=graded([])), r"the test split \(letters\) has no examples"),
    ],
)
def test_refuses_splits_that_cannot_be_used(splits, complaint):
    with pytest.raises(DataError, match=complaint):
        _ = Fixed(splits).splits


def test_the_same_id_may_occur_in_two_splits():
    assert Fixed(Splits(examples(2), graded(examples(2)))).splits.validation


def test_needs_training_examples_for_fit_only():
    datamodule = Fixed(Splits(test=graded(examples(2))))
    datamodule.setup("test")
    with pytest.raises(DataError, match="Fixed: the train split has no examples"):
        datamodule.setup("fit")


def test_filters_training_examples():
    datamodule = Fixed(Splits(examples(5), graded(examples(5))))
    assert datamodule.filter_train(lambda example: example.id != "3") == 1
    assert [example.id for example in datamodule.splits.train] == ["0", "1", "2", "4"]
    assert len(datamodule.splits.validation[0].examples) == 5


def test_hyperparameters_are_plain_values_also_of_subclasses():
    datamodule = Fixed("given", batch_size=4)
    assert datamodule.hparams["batch_size"] == 4
    assert datamodule.hparams["given"] == "given"


def test_evaluation_keeps_the_order_and_all_examples():
    datamodule = Fixed(
        Splits((), graded(examples(5)) + graded(examples(1)), graded(examples(3))), evaluation_batch_size=2
    )
    first, second = datamodule.val_dataloader()
    assert [len(batch) for batch in first] == [2, 2, 1]
    assert ids(first) == ["0", "1", "2", "3", "4"]
    assert ids(second) == ["0"]
    assert [ids(loader) for loader in datamodule.predict_dataloader()] == [["0", "1", "2"]]


def test_sets_of_other_data_are_evaluated_too_where_their_names_are_new():
    def sets(*names):
        return [EvaluationSet(examples(2, start), {name: ExactMatch()}) for start, name in enumerate(names)]

    datamodule = Fixed(Splits(examples(3), sets("a", "copy"), sets("a")))
    other = Fixed(Splits(examples(5), sets("copy", "b"), sets("b", "copy")))
    datamodule.evaluate_also(other)
    splits = datamodule.splits
    assert [each.name for each in splits.validation] == ["a", "copy", "b"]
    assert [each.name for each in splits.test] == ["a", "b", "copy"]
    assert ids(datamodule.val_dataloader()[1]) == ["1", "2"]  # its own
    assert ids(datamodule.val_dataloader()[2]) == ["1", "2"]
    assert len(splits.train) == 3
    datamodule.setup("validate")
    assert len(datamodule.splits.validation) == 3
    assert [each.name for each in other.splits.validation] == ["copy", "b"]


# Sizes that must agree


@pytest.mark.parametrize(("given", "processes", "expected"), [(1, 1, 4), (1, 2, 2), (4, 1, 4)])
def test_trainer_is_told_how_many_micro_batches_a_step_has(given, processes, expected):
    datamodule = module(count=16, batch_size=8, micro_batch_size=2, accumulated=given, processes=processes)
    datamodule.setup("validate")
    assert datamodule.trainer.accumulate_grad_batches == given
    datamodule.setup("fit")
    assert datamodule.trainer.accumulate_grad_batches == expected
    datamodule.teardown("fit")
    assert datamodule.trainer.accumulate_grad_batches == given  # for other data


@pytest.mark.parametrize(("given", "processes", "expected"), [(3, 1, 4), (4, 2, 2)])
def test_trainer_that_was_told_otherwise_is_refused_before_the_base_is_evaluated(given, processes, expected):
    datamodule = module(count=16, batch_size=8, micro_batch_size=2, accumulated=given, processes=processes)
    datamodule.setup("test")
    message = f"trainer.accumulate_grad_batches={given}, but an optimizer step has {expected} micro-batches: "
    with pytest.raises(DataError, match=message + r"data.batch_size=8 over \d process(es)? in micro-batches of 2"):
        datamodule.setup("fit")
    assert datamodule.trainer.accumulate_grad_batches == given


def test_processes_share_the_micro_batches():
    assert module(batch_size=8, micro_batch_size=2, processes=2).group_size(2) == 4


def test_micro_batch_must_divide_the_group():
    with pytest.raises(ValueError, match=r"data.micro_batch_size=3 does not divide the 8 prompts.*data.batch_size=8"):
        module(batch_size=8, micro_batch_size=3).train_dataloader()


def test_processes_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"data.batch_size=8 cannot be shared by 3 processes"):
        module(batch_size=8).group_size(3)


@pytest.mark.parametrize("processes", [1, 2])
def test_examples_must_fill_one_step(processes):
    assert len(module(count=8, batch_size=8, processes=processes).train_dataloader()) == 1
    with pytest.raises(DataError, match="7 training examples cannot fill an optimizer step of batch_size=8"):
        module(count=7, batch_size=8, processes=processes).train_dataloader()


# Groups


def test_objects_among_the_arguments_stay_out_of_checkpoints():
    class Given(Fixed):
        def __init__(self, rows, names, **kwargs):
            super().__init__(Splits(rows), **kwargs)

    given = Given(rows=examples(8), names=["a", "b"], batch_size=4)
    assert given.hparams["names"] == ["a", "b"]
    assert given.hparams["batch_size"] == 4
    assert "rows" not in given.hparams


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_what_is_evaluated_and_ask_nothing_twice(processes):
    asked = []
    for rank in range(processes):
        datamodule = module(processes=processes, rank=rank, evaluation_batch_size=2)
        datamodule.given = Splits(examples(3), graded(examples(7)), graded(examples(5)))
        (validation,), (test,) = datamodule.val_dataloader(), datamodule.test_dataloader()
        asked.append((ids(validation), ids(test)))
    for split, count in ((0, 7), (1, 5)):
        assert sorted(name for each in asked for name in each[split]) == [str(number) for number in range(count)]


def test_fewer_examples_than_processes_are_refused():
    datamodule = module(processes=3)
    datamodule.given = Splits(examples(3), graded(examples(2)))
    with pytest.raises(DataError, match="2 examples of letters cannot be shared by 3 processes"):
        datamodule.val_dataloader()
