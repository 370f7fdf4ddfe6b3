"""The subcommand ``inspect``: shows what student and teacher answer, and where the two disagree."""

from __future__ import annotations

import random
from pathlib import Path

from lightning.pytorch import Trainer
from rich.console import Console

from lightning_sdft.checkpoint.files import load_checkpoint
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.inspection import Inspection, inspect_rollouts, taught
from lightning_sdft.inspection.html import page
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.checks import naming
from lightning_sdft.modules.examples import leave_out_bad_rows
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.settings import Count, Natural, check_ranges
from lightning_sdft.storage.atomic import write_text

__all__ = ["InspectTrainer"]


class InspectTrainer(Trainer):
    """A trainer that can also show what student and teacher say."""

    def inspect(
        self,
        model: CausalLMModule,
        datamodule: DemonstrationDataModule,
        ckpt_path: str | None = None,
        rows: Count = 3,
        seed: Natural = 0,
        html: str | None = None,
    ) -> Inspection:
        """Show answers of student and teacher, and where they disagree token by token: same config as ``fit``.

        Training examples are answered by the student, sampled as in training and greedily, and by the teacher, which is
        shown the demonstration; that of SDPO is told of the student's sampled answer. Of the rollout that training
        would learn from, each token is shown with the KL of the teacher from the student, the entropy of both and the
        likeliest next tokens of both: in colours in a terminal, and as plain text in a pipe.

        Args:
            model: An SDFT module, or another distillation.
            datamodule: Its data.
            ckpt_path: The checkpoint whose student and teacher to look at; ``last`` is the newest. By default they are
                looked at as they are before training.
            rows: Number of training examples, drawn at random.
            seed: Seed for the choice of examples and for sampled answers.
            html: HTML file to write the same to.

        Raises:
            CheckpointError: If the checkpoint cannot be read, or is of another method.
            DataError: If no training example is within the budgets.
            SettingError: If the module has no teacher, or a number is out of range.
        """
        check_ranges(InspectTrainer.inspect, locals())
        model = taught(model)
        if self.world_size > 1:
            raise DataError(f"inspect runs in one process, not {self.world_size}; set trainer.devices=1")
        if isinstance(model, SDPOModule):
            model.informing.take_grader(datamodule)
        leave_out_bad_rows(datamodule, model)
        problem = naming(model.training_problem)
        examples = datamodule.splits.train
        usable = [each for each in examples if model.missing(each) is None and problem(each) is None]
        if not usable:
            raise DataError(
                f"none of {len(examples)} training examples has what {type(model).__name__} learns from and is within "
                "the token budgets; raise the budgets, or give demonstrations"
            )
        chosen = random.Random(seed).sample(usable, min(rows, len(usable)))
        if isinstance(model, SDPOModule):
            model.informing.check_references(chosen)
        with self.precision_plugin.module_init_context():
            model.configure_model()
        if ckpt_path is not None:
            content = load_checkpoint(ckpt_path)
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
        model.to(self.strategy.root_device)
        with self.precision_plugin.forward_context():
            found = inspect_rollouts(model, chosen, seed)
        console = Console()
        print(found, end="") if not console.is_terminal else console.print(found)
        if html is not None:
            write_text(Path(html), page(found.looks, found.temperature))
        return found
