"""What all data modules share: splits of examples, generation groups for training, and graded evaluation sets."""

from __future__ import annotations

import logging
import random
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Self

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, DistributedSampler

from lightning_sdft.checkpoint.builders import builder
from lightning_sdft.data.groups import GroupLoader, MicroBatch
from lightning_sdft.data.limits import whole_groups
from lightning_sdft.data.replay import Replay
from lightning_sdft.data.splits import EvaluationSet, Splits, SplitSource
from lightning_sdft.errors import DataError
from lightning_sdft.progress import count_text
from lightning_sdft.records import Example
from lightning_sdft.settings import Count, Natural, Seed, check_ranges
from lightning_sdft.trust import trusting

__all__ = ["DemonstrationDataModule"]

log = logging.getLogger(__name__)


class DemonstrationDataModule(SplitSource):
    """Base class of the data modules: a subclass loads the splits; this class checks them and makes the loaders.

    Args:
        batch_size: Prompts per optimizer step, summed over all processes.
        micro_batch_size: Prompts per forward and backward pass on one process; ``None`` uses all of the process's
            prompts at once, or with ``lightning-sdft fit`` as many as fit in memory and keep the device busy.
            ``trainer.accumulate_grad_batches`` is set to match.
        evaluation_batch_size: Prompts answered at once in evaluation.
        workers: Number of ``DataLoader`` workers per training process.
        shuffle_seed: Seed for shuffling the training examples.
        replay: Mix examples of what must not be forgotten into the training examples.
    """

    def __init__(
        self,
        batch_size: Count = 32,
        micro_batch_size: Count | None = None,
        evaluation_batch_size: Count = 64,
        workers: Natural = 0,
        shuffle_seed: Seed = 0,
        replay: Replay | None = None,
    ) -> None:
        check_ranges(DemonstrationDataModule, locals())
        super().__init__()
        with warnings.catch_warnings():
            # Graders are modules; they are deleted in the next lines.
            warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            del self.hparams[name]  # checkpoints are loaded with weights_only=True, which rejects other objects
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.workers = workers
        self.shuffle_seed = shuffle_seed
        self.replay = replay
        self._splits: Splits | None = None
        self._withheld: list[Example] = []
        self._told: dict[str, Any] = {}  # the settings of the trainer that we have set, as they were

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Load as Lightning does, but with ``weights_only=True`` and only classes of trusted packages."""
        with trusting():
            options = {**options, "weights_only": True, **builder(checkpoint_path)}
            return super().load_from_checkpoint(checkpoint_path, *args, **options)

    @abstractmethod
    def load(self) -> Splits:
        """Read the data; called once per process, when the splits are first needed."""

    @property
    def splits(self) -> Splits:
        """The splits, loaded and checked on first access."""
        if self._splits is None:
            splits = self.load()
            train = splits.train if self.replay is None else self.replay.mixed(splits.train)
            self._splits = replace(splits, train=train)
            self._splits.check()
        return self._splits

    def setup(self, stage: str) -> None:
        """Load and check the data and the batch sizes before anything expensive happens."""
        if stage == "fit":
            if not self.splits.train:
                raise DataError(f"{type(self).__name__}: the train split has no examples; give them by data.train")
            self._tell_trainer()

    def teardown(self, stage: str) -> None:
        """Reset the trainer's settings that we set, because the trainer may be reused with other data."""
        for name, value in self._told.items():
            setattr(self.trainer, name, value)
        self._told = {}

    def filter_train(self, keep: Callable[[Example], bool]) -> int:
        """Drop the training examples for which ``keep`` is false, and return how many were dropped."""
        splits = self.splits
        kept = [example for example in splits.train if keep(example)]
        self._splits = Splits(kept, splits.validation, splits.test)
        return len(splits.train) - len(kept)

    def withhold(self, count: int, usable: Callable[[Example], bool]) -> Sequence[Example]:
        """Take examples out of the training split, to ask about them during training.

        Args:
            count: Number of examples, but at most a tenth of the split.
            usable: Which examples can be asked about.

        Returns:
            The examples; later calls return the same ones. A split of fewer than ten steps keeps them, because it can
            spare none.
        """
        if not self._withheld:
            train = self.splits.train
            asked = filter(usable, random.Random(0).sample(train, len(train)))
            spares = len(train) >= 10 * self.batch_size
            self._withheld = list(islice(asked, min(count, len(train) // 10) if spares else count))
            if spares:
                names = {example.id for example in self._withheld}
                self.filter_train(lambda example: example.id not in names)
                log.info("%d of %d training examples are held out, to ask the teacher about", len(names), len(train))
        return self._withheld

    def filter_evaluated(self, keep: Callable[[Example], bool]) -> None:
        """Drop the examples of all evaluation sets for which ``keep`` is false.

        Raises:
            DataError: If none of a set remains.
        """
        splits = self.splits
        validation, test = ([_filtered(each, keep) for each in sets] for sets in (splits.validation, splits.test))
        self._splits = Splits(splits.train, validation, test)

    def evaluate_also(self, other: DemonstrationDataModule) -> None:
        """Also evaluate on another data module's sets, except those whose name this one already has."""
        own, others = self.splits, other.splits
        self._splits = Splits(own.train, _joined(own.validation, others.validation), _joined(own.test, others.test))

    def train_dataloader(self) -> GroupLoader:
        """This process's share of the shuffled generation groups, in micro-batches."""
        replicas = self._share()
        group_size = self.group_size(replicas["num_replicas"])
        examples = self.splits.train
        if len(examples) // replicas["num_replicas"] < group_size:
            raise DataError(
                f"{count_text(len(examples), 'training example')} cannot fill an optimizer step of "
                f"batch_size={self.batch_size}; lower data.batch_size or give more examples"
            )
        left_out = len(examples) % self.batch_size
        if left_out:
            log.info("each epoch leaves out %d of %d examples that do not fill a step", left_out, len(examples))
        sampler: DistributedSampler[Example] = DistributedSampler(
            examples,  # type: ignore[arg-type]  # the sampler only needs its length
            replicas["num_replicas"],
            replicas["rank"],
            seed=self.shuffle_seed,
            drop_last=True,
        )
        micro_batch_size = self.micro_batch_size or group_size
        limit = None if self.trainer is None else self.trainer.limit_train_batches
        steps = limit // (group_size // micro_batch_size) if isinstance(limit, int) else None
        return GroupLoader(examples, group_size, micro_batch_size, sampler, self.workers, steps)

    def _share(self) -> dict[str, int]:
        """The number of processes that share the data, and the rank of this one."""
        alone = {"num_replicas": 1, "rank": 0}
        return alone if self.trainer is None else self.trainer.distributed_sampler_kwargs or alone

    def group_size(self, processes: int) -> int:
        """Prompts per optimizer step on one process.

        Raises:
            DataError: If ``batch_size`` is not divisible by the number of processes, or a process's share is not
                divisible by ``micro_batch_size``.
        """
        if self.batch_size % processes:
            raise DataError(f"data.batch_size={self.batch_size} cannot be shared by {processes} processes evenly")
        group_size = self.batch_size // processes
        micro_batch_size = self.micro_batch_size or group_size
        if group_size % micro_batch_size:
            raise DataError(
                f"data.micro_batch_size={micro_batch_size} does not divide the {group_size} prompts per optimizer step "
                f"and process (data.batch_size={self.batch_size} on {count_text(processes, 'process')})"
            )
        return group_size

    def _tell_trainer(self) -> None:
        """Have the trainer step after each group: set ``accumulate_grad_batches``, and limit epochs to whole groups.

        Raises:
            DataError: If the trainer was told to step at other times.
        """
        processes = self._share()["num_replicas"]
        group_size = self.group_size(processes)
        micro_batch_size = self.micro_batch_size or group_size
        micro_batches = group_size // micro_batch_size
        if self.trainer is None:
            return
        if self.trainer.accumulate_grad_batches not in (1, micro_batches):
            raise DataError(
                f"trainer.accumulate_grad_batches={self.trainer.accumulate_grad_batches}, but an optimizer step has "
                f"{micro_batches} micro-batches: data.batch_size={self.batch_size} over "
                f"{count_text(processes, 'process')} in micro-batches of {micro_batch_size}. Leave "
                "trainer.accumulate_grad_batches out, or change data.micro_batch_size"
            )
        self._tell("accumulate_grad_batches", micro_batches)
        whole = len(self.splits.train) // self.batch_size * micro_batches
        self._tell("limit_train_batches", whole_groups(self.trainer, whole, micro_batches))

    def _tell(self, setting: str, value: Any) -> None:
        """Change a setting of the trainer until the run ends."""
        before = getattr(self.trainer, setting)
        if before != value:
            self._told[setting] = before
            setattr(self.trainer, setting, value)

    def val_dataloader(self) -> list[DataLoader[Example]]:
        """One loader per validation set, in the order of ``splits.validation``."""
        return self._evaluation_loaders(self.splits.validation)

    def test_dataloader(self) -> list[DataLoader[Example]]:
        """One loader per test set, in the order of ``splits.test``."""
        return self._evaluation_loaders(self.splits.test)

    def predict_dataloader(self) -> list[DataLoader[Example]]:
        """The test sets."""
        return self.test_dataloader()

    def _evaluation_loaders(self, sets: Sequence[EvaluationSet]) -> list[DataLoader[Example]]:
        return [
            DataLoader(
                evaluation_set.examples,  # type: ignore[arg-type]  # a sequence is all that a map-style loader asks for
                batch_size=self.evaluation_batch_size,
                sampler=self._evaluation_sampler(evaluation_set),
                num_workers=self.workers,
                collate_fn=MicroBatch.of,
                generator=torch.Generator(),  # as in GroupLoader: evaluation leaves the global generator unchanged
            )
            for evaluation_set in sets
        ]

    def _evaluation_sampler(self, evaluation_set: EvaluationSet) -> UnrepeatedDistributedSampler | None:
        """A sampler of this process's share; Lightning's own repeats examples to fill up, which would count twice."""
        share = self._share()
        if share["num_replicas"] == 1:
            return None
        if len(evaluation_set.examples) < share["num_replicas"]:
            raise DataError(
                f"{len(evaluation_set.examples)} examples of {evaluation_set.name} cannot be shared by "
                f"{share['num_replicas']} processes; evaluate in fewer processes, or on more examples"
            )
        return UnrepeatedDistributedSampler(evaluation_set.examples, shuffle=False, **share)


def _joined(sets: Sequence[EvaluationSet], others: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    names = {each.name for each in sets}
    return [*sets, *(each for each in others if each.name not in names)]


def _filtered(evaluation_set: EvaluationSet, keep: Callable[[Example], bool]) -> EvaluationSet:
    kept = [example for example in evaluation_set.examples if keep(example)]
    if not kept:
        raise DataError(f"all {len(evaluation_set.examples)} rows of {evaluation_set.name} are bad; evaluate others")
    return replace(evaluation_set, examples=kept)


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
