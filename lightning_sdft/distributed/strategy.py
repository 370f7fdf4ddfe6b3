"""The strategy ``fsdp2``: fully sharded data parallelism over all processes, on Lightning's ModelParallelStrategy."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lightning_sdft.distributed.readable import check_checkpoint_file, check_lightnings, only_data
from lightning_sdft.distributed.sharded_checkpoint import is_sharded, load_sharded, save_sharded
from lightning_sdft.errors import PolicyError, SettingError, did_you_mean
from lightning_sdft.settings import Count, check_ranges

__all__ = ["FSDP2Strategy", "check_strategy", "check_strategy_name"]


class FSDP2Strategy(ModelParallelStrategy):
    """Each process holds a shard of the weights, gradients, optimizer states and teacher (FSDP2).

    Args:
        replicas: Number of groups of processes, each of which holds all weights between its processes. With 1, shards
            are as small as possible. With as many as there are nodes, weights are gathered within a node, and only
            gradients travel between nodes (hybrid sharding).
        save_distributed_checkpoint: Whether a checkpoint is a folder to which each process writes its part; otherwise
            the first process gathers everything and writes one file.
        process_group_backend: How processes communicate; by default ``nccl`` between GPUs and ``gloo`` between CPUs.
        timeout: How long a process waits for the others before it gives up.
    """

    def __init__(
        self,
        replicas: Count = 1,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta = default_pg_timeout,
    ) -> None:
        check_ranges(FSDP2Strategy, locals())
        super().__init__(
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Split data and weights over all processes; by default, Lightning does not split data within a node."""
        count = self.num_nodes * self.num_processes
        if count % self.replicas:
            raise PolicyError(
                f"fsdp2: {count} processes cannot form replicas={self.replicas} groups of the same size; set replicas "
                "to a divisor of the number of processes"
            )
        self._data_parallel_size, self._tensor_parallel_size = count, 1
        super().setup_environment()

    @property
    def sharding_mesh(self) -> DeviceMesh:
        """The mesh over which weights are sharded; with several replicas, its first dimension is the replicas."""
        if self.replicas == 1:
            return self.device_mesh["data_parallel"]
        shape = (self.replicas, self.world_size // self.replicas)
        return init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))

    def setup(self, trainer: Trainer) -> None:
        """Set up, and turn off torch's inference mode in evaluation: its tensors cannot be gathered in place."""
        super().setup(trainer)
        validation = trainer.fit_loop.epoch_loop.val_loop
        for loop in (validation, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a sharded checkpoint, which appears only when it is complete, or a single file."""
        if not self._save_distributed_checkpoint or storage_options is not None:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        save_sharded(checkpoint, Path(self.broadcast(filepath)))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a sharded checkpoint, written by any number of processes, or a single file."""
        path = Path(self.broadcast(checkpoint_path))
        if is_sharded(path):
            assert self.model is not None
            checkpoint = load_sharded(path, self.model, self.optimizers)
        else:
            check_checkpoint_file(path)
            with only_data(path):
                checkpoint = super().load_checkpoint(path, weights_only=True)
        check_lightnings(checkpoint, path)
        return checkpoint


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="Fully sharded data parallelism (FSDP2)", override=True)


def check_strategy(strategy: Strategy) -> None:
    """Check that the methods of this package work under a strategy.

    Raises:
        PolicyError: If they do not; the message says which strategy to use.
    """
    if not _supported(type(strategy)):
        raise PolicyError(_unsupported(type(strategy).__name__))


def check_strategy_name(name: str) -> None:
    """Check that there is a strategy, before Lightning asks for what a strategy needs that is not supported anyway.

    Raises:
        SettingError: If there is none of that name.
        PolicyError: If the methods of this package do not work under it.
    """
    names = StrategyRegistry.available_strategies()
    if name in names and not _supported(StrategyRegistry[name]["strategy"]):
        raise PolicyError(_unsupported(name))
    if name not in ("auto", *names):
        if re.match(r"fsdp(?!\d)|deepspeed", name, re.IGNORECASE):
            raise PolicyError(_unsupported(name))
        supported = [each for each in names if _supported(StrategyRegistry[each]["strategy"])]
        raise SettingError(
            f"there is no strategy {name}{did_you_mean(name, supported)}; set trainer.strategy=auto, ddp to replicate "
            "weights, or fsdp2 to shard them"
        )


def _supported(strategy: type) -> bool:
    known = issubclass(strategy, SingleDeviceStrategy | DDPStrategy | FSDP2Strategy)
    return known and not issubclass(strategy, DeepSpeedStrategy)


def _unsupported(name: str) -> str:
    return (
        f"strategy {name} is not supported: a training step generates with the student, and calls student, teacher and "
        "their heads separately, which strategies that wrap the whole module (FSDP1 as `fsdp`, DeepSpeed) do not "
        "allow. Use trainer.strategy=fsdp2 to shard weights over devices, or ddp to replicate them"
    )
