"""Generation groups: micro-batches that know their group, and a position that can be restored."""

import logging

import pytest

from lightning_sdft.data.groups import MicroBatch
from tests.data.test_base import examples, ids, module


def test_micro_batches_are_views_of_one_shared_group():
    batches = list(module(count=12, batch_size=6, micro_batch_size=2, accumulated=3).train_dataloader())
    assert len(batches) == 6
    first, second = batches[:3], batches[3:]
    for group in (first, second):
        assert all(batch.group is group[0].group for batch in group)
        assert [example.id for batch in group for example in batch] == [example.id for example in group[0].group]
        assert [batch.is_last for batch in group] == [False, False, True]
        assert [len(batch) for batch in group] == [2, 2, 2]
    assert first[0].group is not second[0].group


def test_without_micro_batch_size_a_batch_is_the_group():
    (batch,) = module(count=4, batch_size=4).train_dataloader()
    assert len(batch) == len(batch.group) == 4
    assert batch.is_last


def test_micro_batch_reads_like_a_list():
    group = examples(5)
    batch = MicroBatch(group, 1, 4)
    assert [example.id for example in batch] == ["1", "2", "3"]
    assert batch[-1] is group[3]
    assert batch[1:] == group[2:4]
    with pytest.raises(IndexError):
        batch[3]
    assert batch.to("cuda") is batch
    assert MicroBatch.of(batch) is batch
    assert MicroBatch.of(group).group == group


def test_sorted_group_has_the_longest_first_and_its_micro_batches_see_it():
    group = examples(6)
    batches = MicroBatch.cut(group, 2)
    belongings = batches[1].sort_group(list("abcdef"), [3, 5, 1, 5, 9, 3])
    assert belongings == list("ebdafc")
    assert [[example.id for example in batch] for batch in batches] == [["4", "1"], ["3", "0"], ["5", "2"]]
    assert [example.id for example in group] == list("012345")  # somebody else's list


def test_group_of_one_micro_batch_keeps_its_order():
    batch = MicroBatch.of(examples(3))
    assert batch.sort_group(list("abc"), [1, 2, 3]) == list("abc")
    assert [example.id for example in batch] == ["0", "1", "2"]


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


@pytest.mark.parametrize("workers", [0, 1])
def test_position_is_restored_between_groups(workers):
    def loader():
        return module(count=20, batch_size=4, micro_batch_size=2, accumulated=2, workers=workers).train_dataloader()

    interrupted = loader()
    batches = iter(interrupted)
    seen = [example.id for _ in range(4) for example in next(batches)]
    state = interrupted.state_dict()
    rest = [example.id for batch in batches for example in batch]
    resumed = loader()
    resumed.load_state_dict(state)
    assert ids(resumed) == rest
    assert seen + rest == ids(loader())
    assert len(rest) == 12


def test_replicas_share_the_examples():
    first, second = (ids(module(count=16, batch_size=8, processes=2, rank=rank).train_dataloader()) for rank in (0, 1))
    assert len(first) == len(second) == 8
    assert set(first) | set(second) == set(map(str, range(16)))
    assert not set(first) & set(second)
