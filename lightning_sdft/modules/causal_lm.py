"""What all methods share: the policy, its optimizer, checks before training, and what is logged of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from lightning_sdft.checkpoint import use_checked_files
from lightning_sdft.checkpoint.exact_resume import ExactResume
from lightning_sdft.checkpoint.preemption import Preemption
from lightning_sdft.data.groups import MicroBatch, identity
from lightning_sdft.distributed.processes import process_count, sums_over_processes
from lightning_sdft.distributed.sharding import shard_
from lightning_sdft.distributed.strategy import FSDP2Strategy, check_strategy
from lightning_sdft.errors import PolicyError
from lightning_sdft.losses import HeadLoss, counted_tokens
from lightning_sdft.modules.checks import (
    NonFiniteLossError,
    OverBudget,
    check_budgets,
    check_complete,
    drop_or_refuse,
    warn_of_rounding,
)
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.modules.saved import SavedModule
from lightning_sdft.modules.step_means import StepMeans
from lightning_sdft.modules.timing import PhaseClock, peak_memory
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA, add_adapter, check_installed
from lightning_sdft.policy.tokenizer import load_tokenizer
from lightning_sdft.records import Example

__all__ = ["CausalLMModule"]


class CausalLMModule(SavedModule):
    """A policy that is trained and evaluated; a subclass says by which loss.

    Args:
        model: Where training starts: a Hugging Face folder or hub id, a ``.gguf`` file, or ``zoo/laptop``.
        pretrained: Whether to start from the model's weights; otherwise from random ones.
        lora: Train an adapter instead of the model (extra ``lora``); learning rates are then some ten times higher.
            Checkpoints hold the adapter alone.
        learning_rate: Peak learning rate of AdamW. Under ``bf16-true`` the weights are bfloat16, and a step below 1/512
            of a weight rounds to nothing: of the laptop model 6% of the weights move in 50 steps at 1e-5, under
            ``bf16-mixed``, which keeps them in float32, all.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Optimizer steps of linear warm-up, after which the rate falls to 0 along a cosine.
        max_prompt_tokens: Budget of a prompt. Prompts are never cut.
        max_completion_tokens: Budget of a demonstration, and length at which responses are truncated.
        over_budget: What to do about training examples over a budget: ``error`` stops before training and names them,
            ``drop`` leaves them out with a warning that counts them.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        attention: Implementation of attention, as transformers names it; by default the best the model has.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ValueError: If there is an adapter to train and random weights to train it on, which nobody could restore.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = True,
        lora: LoRA | None = None,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 10,
        max_prompt_tokens: int = 1024,
        max_completion_tokens: int = 1024,
        over_budget: OverBudget = "error",
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        if lora is not None:
            check_installed()
            if not pretrained:
                raise ValueError("lora needs pretrained=true: checkpoints hold the adapter, not the weights under it")
        self.model = model
        self.pretrained = pretrained
        self.lora = lora
        self.strict_loading = lora is None  # Lightning's, in checkpoints; load_state_dict is strict about adapters
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.over_budget = over_budget
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.trust_remote_code = trust_remote_code
        self.tokenizer = load_tokenizer(model, trust_remote_code)
        self.graded = GradedSets()
        self.clock = PhaseClock()
        self.means = StepMeans()
        self.group: Sequence[Example] = ()  # that the running optimizer step is on
        self.group_tokens = 0.0  # that count in it, per process on average

    # Before training

    def setup(self, stage: str) -> None:
        """Take the graders from the data module and check the examples, before anything expensive happens."""
        strategy = self.trainer.strategy
        check_strategy(strategy)
        use_checked_files(strategy)
        # To cast tensors, Lightning would take batches apart and rebuild them; ours hold text and know their group.
        strategy.precision_plugin.convert_input = identity  # type: ignore[assignment,method-assign]
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            return
        self.graded = GradedSets(
            datamodule.splits.validation if stage in ("fit", "validate") else datamodule.splits.test
        )
        for evaluation_set in self.graded.sets:
            check_budgets(evaluation_set.examples, self.prompt_problem)
        if stage == "fit":
            check_complete(datamodule.splits.train, self.missing, type(self).__name__)
            drop_or_refuse(datamodule, self.training_problem, self.over_budget)

    def configure_model(self) -> None:
        """Load the models in the precision that Lightning asks for."""
        if "policy" not in self._modules:
            self.load_models()
            strategy = self.trainer.strategy if self._trainer is not None else None
            if isinstance(strategy, FSDP2Strategy):
                self.shard_models(strategy.sharding_mesh)

    def load_models(self) -> None:
        """Load the policy."""
        self.policy = Policy.load(
            self.model, self.pretrained, self.attention, self.trust_remote_code, tokenizer=self.tokenizer
        )
        self.check_policy()
        if self.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if self.lora is not None:
            add_adapter(self.policy.model, self.lora, source=self.model)

    def shard_models(self, mesh: DeviceMesh) -> None:
        """Cut the weights, each process keeping a part."""
        shard_(self.policy, mesh)

    def check_policy(self) -> None:
        """Refuse a model that cannot read what the arguments ask for."""
        limit = self.policy.max_tokens
        if limit is not None and self.longest_sequence > limit:
            raise PolicyError(
                f"the budgets allow sequences of {self.longest_sequence} tokens, but {self.model!r} reads at most "
                f"{limit}; lower max_prompt_tokens or max_completion_tokens"
            )

    @property
    def longest_sequence(self) -> int:
        """The longest sequence in tokens that the budgets allow."""
        return self.max_prompt_tokens + self.max_completion_tokens

    def configure_callbacks(self) -> list[Callback]:
        """Those that make a run go on exactly where it was, however it ended."""
        return [ExactResume(), Preemption()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on what is trained, with linear warm-up and cosine decay."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        warn_of_rounding(trained, self.learning_rate)
        # In one kernel: several times faster on a CPU, and without temporary tensors of the size of the parameters.
        # Lightning's mixed precision refuses to clip the gradients of a fused optimizer.
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        if step <= self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        # Read here and not in configure_optimizers, where it would discard the restored position of the data.
        total = self.trainer.estimated_stepping_batches
        progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def prompt_problem(self, example: Example) -> str | None:
        """Why an example does not fit the prompt budget, or ``None``."""
        length = len(self.tokenizer.encode(example.prompt))
        if length > self.max_prompt_tokens:
            return f"its prompt has {length} tokens, max_prompt_tokens={self.max_prompt_tokens}"
        return None

    def completion_problem(self, example: Example) -> str | None:
        """Why an example's demonstration does not fit the completion budget, or ``None``."""
        length = len(self.tokenizer.encode_completion(example.demonstration or ""))
        if length > self.max_completion_tokens:
            return f"its demonstration has {length} tokens, max_completion_tokens={self.max_completion_tokens}"
        return None

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""
        return None if example.demonstration else "demonstration"

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit a budget of training, or ``None``."""
        return self.prompt_problem(example)

    def on_train_batch_start(self, batch: Sequence[Example], batch_idx: int) -> None:
        """Check the examples of a plain loader, which nobody could check before."""
        if getattr(self.trainer, "datamodule", None) is None:
            check_complete(batch, self.missing, type(self).__name__)
            check_budgets(batch, self.training_problem)

    # Training

    def start_group(self, group: Sequence[Example], lengths: Sequence[int], skip_tokens: int = 0) -> None:
        """Begin an optimizer step: keep its examples, and count its tokens over all processes.

        Args:
            group: The examples of this process.
            lengths: Completion tokens of each of them.
            skip_tokens: Leading completion tokens that do not count.
        """
        self.group = group
        (total,) = sums_over_processes([counted_tokens(lengths, skip_tokens)], self.device)
        self.group_tokens = total / process_count()

    def finish_step(self, batch: MicroBatch, result: HeadLoss, weights: Tensor, names: dict[str, str]) -> Tensor:
        """Check the loss, and log the means over the optimizer step when its last micro-batch has come.

        Args:
            batch: The examples.
            result: Their loss.
            weights: Token weights of the loss, `(N,)`.
            names: Diagnostic to the name under which its mean over weighted tokens is logged.
        """
        loss = result.loss.detach()
        if not torch.isfinite(loss):
            raise NonFiniteLossError("loss", loss.item(), self.trainer.global_step, batch)
        self.means.add("train/loss", loss)
        counted = weights > 0
        for diagnostic, name in names.items():
            values = result.diagnostics[diagnostic][counted] if counted.any() else weights.new_zeros(1)
            self.means.add(name, values.mean(), float(counted.sum()))
        if batch.is_last:
            for name, mean in self.means.read(self.device).items():
                self.log(name, mean, prog_bar=name == "train/loss", batch_size=1)
        return result.loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Time the backward pass."""
        self.clock.start("backward")

    def on_after_backward(self) -> None:
        """Time the backward pass."""
        self.clock.stop("backward")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient, and stop before a step that would destroy the weights."""
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self.log("train/gradient_norm", norm, batch_size=1)
        scaled = (
            getattr(self.trainer.precision_plugin, "scaler", None) is not None
        )  # which leaves out such steps itself
        if not torch.isfinite(norm) and not scaled:
            raise NonFiniteLossError("gradient", norm.item(), self.trainer.global_step, self.group)

    def on_train_batch_end(self, outputs: Any, batch: Sequence[Example], batch_idx: int) -> None:
        """Log time and memory of the optimizer steps that are written."""
        if not MicroBatch.of(batch).is_last:
            return
        phases = self.clock.read()
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set outside of __init__
            for phase, seconds in phases.items():
                self.log(f"time/{phase}", seconds, batch_size=1)
            self.log("memory/peak", peak_memory(), batch_size=1)
