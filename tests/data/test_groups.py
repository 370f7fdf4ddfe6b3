"""Generation groups: micro-batches that know their group, and a position that can be restored."""

import logging

import pytest
import torch
from lightning_utilities.core.apply_func import apply_to_collection

from lightning_sdft.data.groups import Item, MicroBatch
from lightning_sdft.errors import DataError
from lightning_sdft.records import TokenSequence
from tests.data.test_base import examples, ids, module


def items(group):
    return [Item(each, TokenSequence([1], [2] * int(each.id))) for each in group.examples]


def test_micro_batches_are_shares_of_one_group():
    batches = list(module(count=12, batch_size=6, micro_batch_size=2, accumulated=3).train_dataloader())
    assert len(batches) == 6
    first, second = batches[:3], batches[3:]
    for group in (first, second):
        assert all(batch.group is group[0].group for batch in group)
        assert tuple(example for batch in group for example in batch.examples) == group[0].group.examples
        assert [batch.is_last for batch in group] == [False, False, True]
        assert [len(batch) for batch in group] == [2, 2, 2]
    assert first[0].group is not second[0].group


def test_without_micro_batch_size_a_batch_is_the_group():
    (batch,) = module(count=4, batch_size=4).train_dataloader()
    assert len(batch) == len(batch.group.examples) == 4
    assert batch.is_last


def test_batch_of_a_plain_loader_is_a_group_of_its_own():
    batch = MicroBatch.of(examples(5))
    assert [example.id for example in batch.examples] == list("01234")
    assert batch.is_last
    assert MicroBatch.of(batch) is batch
    assert batch.to("cuda") is batch


def test_lightning_does_not_take_a_batch_apart():
    batch = MicroBatch.of(examples(2))
    assert apply_to_collection(batch, torch.Tensor, lambda tensor: tensor.half()) is batch


def test_filled_group_has_the_longest_first_and_leaves_the_examples_in_their_order():
    batches = MicroBatch.cut([examples(10)[length] for length in (3, 5, 1, 4, 9, 2)], 2)
    seen = [batch.examples for batch in batches]
    batches[1].group.fill(items(batches[1].group), tokens=24.0)
    assert [[item.example.id for item in batch.items] for batch in batches] == [["9", "5"], ["4", "3"], ["2", "1"]]
    assert [batch.examples for batch in batches] == seen
    assert batches[0].completion_lengths == [9, 5]
    assert batches[0].targets().tolist() == [2] * 14
    assert batches[2].group.tokens == 24.0


def test_items_of_the_same_length_and_of_a_single_micro_batch_keep_their_order():
    alike = MicroBatch.cut(examples(4), 2)
    alike[0].group.fill([Item(each, TokenSequence([1], [2])) for each in alike[0].group.examples], tokens=4)
    assert [item.example.id for batch in alike for item in batch.items] == list("0123")
    single = MicroBatch.of(examples(3))
    single.group.fill(items(single.group), tokens=3)
    assert [item.example.id for item in single.items] == list("012")


def test_an_item_is_as_long_as_the_longest_that_is_read_of_it():
    student, teacher = TokenSequence([1], [2]), TokenSequence([1, 2, 3], [2])
    (example,) = examples(1)
    assert (Item(example, student).length, Item(example, student, teacher).length) == (2, 4)
    assert Item(example, teacher, student).length == 4


def test_epoch_leaves_out_what_does_not_fill_a_group(caplog):
    with caplog.at_level(logging.INFO, logger="lightning_sdft.data.base"):
        loader = module(count=10, batch_size=4, micro_batch_size=2, accumulated=2).train_dataloader()
    assert "leaves out 2 of 10 examples" in caplog.text
    epochs = []
    for epoch in range(6):
        loader.sampler.set_epoch(epoch)
        seen = ids(loader)
        assert len(loader) == 4
        assert len(seen) == len(set(seen)) == 8
        epochs.append(seen)
    assert len(set(map(tuple, epochs))) == 6
    assert set().union(*epochs) == set(map(str, range(10)))


def test_order_depends_on_the_seed_alone():
    orders = [ids(module(count=32, batch_size=8, shuffle_seed=seed).train_dataloader()) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0], key=int)


def positioned(count=20, batch_size=4, micro_batch_size=2, workers=0, processes=1, rank=0):
    accumulated = batch_size // processes // micro_batch_size
    sizes = {"count": count, "batch_size": batch_size, "micro_batch_size": micro_batch_size}
    data = module(accumulated=accumulated, processes=processes, rank=rank, workers=workers, **sizes)
    return data.train_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("taken", [0, 2, 3, 4, 8])
def test_position_is_restored_between_groups(taken, workers):
    """The position is that of the last group handed out to its end; what was begun is begun again."""
    interrupted = positioned(workers=workers)
    batches = iter(interrupted)
    for _ in range(taken):
        next(batches)
    resumed = positioned(workers=workers)
    resumed.load_state_dict(interrupted.state_dict())
    assert ids(resumed) == ids(positioned())[taken // 2 * 4 :]
    assert ids(resumed) == ids(positioned())  # the next epoch is a whole one


def test_position_behind_the_last_group_is_the_start_of_the_next_epoch():
    finished = positioned()
    assert len(ids(finished)) == 20
    assert finished.state_dict()["groups"] == 5
    resumed = positioned()
    resumed.load_state_dict(finished.state_dict())
    resumed.sampler.set_epoch(1)
    assert len(ids(resumed)) == 20


def test_epoch_is_set_behind_the_iterator():
    """As Lightning does it when it goes on from a checkpoint."""
    expected = positioned()
    expected.sampler.set_epoch(3)
    loader = positioned()
    batches = iter(loader)
    loader.sampler.set_epoch(3)
    assert [example.id for batch in batches for example in batch.examples] == ids(expected)


def test_position_of_a_restored_loader_is_the_one_that_it_was_given():
    state = {**positioned().state_dict(), "groups": 3}
    loader = positioned()
    loader.load_state_dict(state)
    iter(loader)
    assert loader.state_dict() == state


@pytest.mark.parametrize("count", [48, 50, 61])
def test_groups_are_the_same_whatever_the_number_of_processes(count):
    """So that a position means the same for any number of processes."""

    def groups(processes, micro_batch_size):
        loaders = [positioned(count, 12, micro_batch_size, 0, processes, rank) for rank in range(processes)]
        for loader in loaders:
            loader.load_state_dict({"groups": 1, "examples": count, "batch_size": 12})
        every = [[batch.group.examples for batch in loader if batch.is_last] for loader in loaders]
        return [{example.id for group in groups for example in group} for groups in zip(*every, strict=True)]

    assert groups(1, 4) == groups(2, 3) == groups(3, 4) == groups(4, 1)
    assert len(groups(1, 4)) == count // 12 - 1
    assert all(len(group) == 12 for group in groups(4, 1))


@pytest.mark.parametrize(
    ("change", "shape"), [({"count": 24}, "24 .* in 6 steps of 4"), ({"batch_size": 2}, "20 .* in 10 steps")]
)
def test_position_in_the_middle_of_another_epoch_is_refused(change, shape):
    state = {**positioned().state_dict(), "groups": 2}
    with pytest.raises(DataError, match=f"epoch of 20 training examples in 5 steps of 4 .*, and this run has {shape}"):
        positioned(**change).load_state_dict(state)
    loader = positioned(**change)
    loader.load_state_dict({**state, "groups": 5})  # at its end, nothing is lost
    assert ids(loader) == ids(positioned(**change))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_generator_that_training_draws_from(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ids(positioned(workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_replicas_share_the_examples():
    first, second = (ids(module(count=16, batch_size=8, processes=2, rank=rank).train_dataloader()) for rank in (0, 1))
    assert len(first) == len(second) == 8
    assert set(first) | set(second) == set(map(str, range(16)))
    assert not set(first) & set(second)
