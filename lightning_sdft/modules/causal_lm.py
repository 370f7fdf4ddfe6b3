"""What all methods share: the policy, its optimizer, checks before training, and the logging of each step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft import checkpoint as checkpoints
from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.distributed.sharding import shard_
from lightning_sdft.distributed.strategy import FSDP2Strategy, check_strategy
from lightning_sdft.losses import HeadLoss
from lightning_sdft.modules import checks
from lightning_sdft.modules.answering import Answering
from lightning_sdft.modules.asking import answer
from lightning_sdft.modules.base_model import base_model
from lightning_sdft.modules.checkpointed import CheckpointedModule
from lightning_sdft.modules.examples import check_examples
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.modules.optimizer import adamw
from lightning_sdft.modules.retention import Retention, RetentionLoss
from lightning_sdft.modules.shared_prefixes import PrefixGradients, SharedPrefixes
from lightning_sdft.modules.step_log import StepLog
from lightning_sdft.modules.step_means import StepMeans
from lightning_sdft.modules.surprise import demonstrated
from lightning_sdft.modules.thinking import check_budget, in_loss
from lightning_sdft.modules.timing import PhaseClock
from lightning_sdft.policy import LoRA, Policy, load_tokenizer
from lightning_sdft.policy.lora import add_adapter
from lightning_sdft.policy.skeleton import check_adapter_fits
from lightning_sdft.policy.thinking import Thinking, Thoughts
from lightning_sdft.records import Example, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import own_seeds, respond
from lightning_sdft.settings import Count, Natural, NonNegative, check_ranges
from lightning_sdft.teacher import Teacher

__all__ = ["CausalLMModule"]


class CausalLMModule(CheckpointedModule):
    """Trains and evaluates a policy; a subclass defines the loss.

    Args:
        model: Where training starts: a Hugging Face folder or hub id, a ``.gguf`` file, or ``zoo/laptop``.
        pretrained: Whether to start from the model's weights; otherwise from random ones.
        lora: Train an adapter instead of the model (extra ``lora``), at about ten times the learning rate. Checkpoints
            hold only the adapter. The model under it may be in 4 or 8 bits a weight.
        learning_rate: Peak learning rate of AdamW. Under ``bf16-true`` an update below 1/512 of a weight rounds to
            nothing: 50 steps at 1e-5 change 6% of the laptop model's weights; under ``bf16-mixed`` they change all.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Optimizer steps of linear warm-up, after which the rate falls to 0 along a cosine.
        max_prompt_tokens: Token budget of a prompt. Prompts are never truncated.
        max_completion_tokens: Token budget of a demonstration, and the length at which answers are truncated.
        over_budget: What to do about training examples over a budget: ``error`` stops before training and names the
            first, ``drop`` leaves them out, evaluated demonstrations too, and warns how many there were.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        attention: Attention implementation, as transformers names it; by default the best one that the model supports.
        trust_remote_code: Whether code that comes with the model may be run.
        probing: Whether to compare, once the model is loaded, what is computed for a few tokens with the model's own
            logits, alone and beside other sequences; a model for which they differ is refused.
        template_arguments: Values of variables that the chat template reads, such as ``{enable_thinking: false}``.
            They are its defaults wherever a conversation is rendered, and exported tokenizers keep them.
        retention: On general prompts, hold the model near the one that training started from: what it can do, it keeps.

        thinking: How a model is treated that thinks before it answers: a thinking budget, and what is in the loss.

    Raises:
        PolicyError: If the tokenizer cannot write what ends the thinking.
        SettingError: If the thinking budget leaves no token for answers, or if ``lora`` is given without
            ``pretrained``: checkpoints would lack the random weights under it.
    """

    conversational = True  # whether training reads conversations as the chat template writes them
    answer = answer

    def __init__(
        self,
        model: str,
        pretrained: bool = True,
        lora: LoRA | None = None,
        learning_rate: NonNegative = 1e-5,
        weight_decay: NonNegative = 0.0,
        warmup_steps: Natural = 10,
        max_prompt_tokens: Count = 1024,
        max_completion_tokens: Count = 1024,
        over_budget: checks.OverBudget = "error",
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        trust_remote_code: bool = False,
        probing: bool = True,
        template_arguments: dict[str, Any] | None = None,
        retention: Retention | None = None,
        thinking: Thinking | None = None,
    ) -> None:
        check_ranges(CausalLMModule, locals(), type(self).__name__)
        super().__init__()
        self.save_hyperparameters(logger=False)
        if lora is not None:
            checks.check_adapter(lora, pretrained)
        self.model = model
        self.pretrained = pretrained
        self.lora = lora
        self.strict_loading = lora is None  # for Lightning; load_state_dict below checks the adapter
        self.learning_rate = learning_rate
        self.learning_rate_scale = 1.0  # a callback may lower it under way
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.over_budget = over_budget
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.trust_remote_code = trust_remote_code
        self.probing = probing
        self.retention = retention
        self.tokenizer = load_tokenizer(model, trust_remote_code, template_arguments)
        if thinking is not None:
            self.tokenizer.thoughts = Thoughts(thinking, self.tokenizer.hugging_face, self.tokenizer.template)
            check_budget(self.tokenizer.thoughts, max_completion_tokens, self.tokenizer.images is not None)
        self.answering = Answering(self.tokenizer, max_completion_tokens)
        self.graded = GradedSets()
        self.clock = PhaseClock()
        self.means = StepMeans()
        self.prefixes = SharedPrefixes(self.clock)
        self._base: list[Policy] = []  # a list, because a policy would become a part of this module and its checkpoints

    def setup(self, stage: str) -> None:
        """Take the graders from the data module and check the examples, before anything expensive happens."""
        check_strategy(self.trainer.strategy)
        checks.check_one_process(self.tokenizer, self.trainer.world_size)
        checkpoints.use_checked_files(self.trainer.strategy)
        if (datamodule := getattr(self.trainer, "datamodule", None)) is not None:
            self.graded = GradedSets(check_examples(self, datamodule, stage))
        if stage == "fit" and self.retention is not None:
            self.retain = RetentionLoss(self.retention, self.prompt_problem)

    def configure_model(self) -> None:
        """Load the models in the precision that Lightning asks for."""
        if not hasattr(self, "policy"):
            self.load_models()
            if self._trainer is not None and isinstance(self.trainer.strategy, FSDP2Strategy):
                self.shard_models(self.trainer.strategy.sharding_mesh)

    def load_models(self) -> None:
        """Load the policy, or refuse what does not go with it, without reading weights where that is possible.

        One that is to be quantized is read on the CPU: the device need not have room for all of it.
        """
        if self.lora is not None and self.pretrained:
            check_adapter_fits(self.model, self.lora, self.trust_remote_code)
        quantized = self.lora is not None and self.lora.base != "full"
        with torch.device("cpu") if quantized else nullcontext():
            self.policy = Policy.load(
                self.model, self.pretrained, self.attention, self.trust_remote_code, self.tokenizer, self.probing
            )
        self.check_policy()
        if self.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if self.lora is not None:
            add_adapter(self.policy.model, self.lora, source=self.model)

    def shard_models(self, mesh: DeviceMesh) -> None:
        """Shard the weights: each process keeps a part of them."""
        shard_(self.policy, mesh)

    def base_policy(self) -> Policy:
        """The model that training started from; see :func:`base_model`. It is loaded once."""
        if not self._base:
            self._base.append(base_model(self))
        return self._base[0]

    def teardown(self, stage: str) -> None:
        """Release the base model."""
        self._base.clear()

    def check_policy(self) -> None:
        """Refuse a model that cannot do what the arguments ask for."""
        checks.check_length(self.model, self.policy.max_tokens, self.longest_sequence)

    @property
    def longest_sequence(self) -> int:
        """Number of tokens in the longest sequence that the budgets allow."""
        return self.max_prompt_tokens + self.max_completion_tokens

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks that hold a run to its settings, make it resume exactly, and log its steps."""
        return [*checkpoints.safeguards(), PrefixGradients(), StepLog()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the trainable parameters, with linear warm-up and cosine decay."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        checks.warn_of_rounding(trained, self.learning_rate)
        settings = (self.learning_rate, self.weight_decay, self.warmup_steps, self.trainer)
        return adamw(trained, *settings, scale=lambda: self.learning_rate_scale)

    def prompt_problem(self, example: Example) -> str | None:
        """Why an example does not fit the prompt budget, or ``None``."""
        length, budget = len(self.tokenizer.encode(example.prompt)), self.max_prompt_tokens
        return f"its prompt has {length} tokens, max_prompt_tokens={budget}" if length > budget else None

    def completion_problem(self, example: Example) -> str | None:
        """Why an example's demonstration does not fit the completion budget, or ``None``."""
        length, budget = len(self.tokenizer.encode_completion(example.demonstration or "")), self.max_completion_tokens
        return f"its demonstration has {length} tokens, max_completion_tokens={budget}" if length > budget else None

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""
        return None if example.demonstration else "demonstration"

    def demonstrations(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """Prompts with their demonstrations as completions."""
        return demonstrated(self.tokenizer, examples)

    def in_loss(self, sequences: Sequence[TokenSequence]) -> list[range]:
        """The places of the completion tokens of each sequence that are in the loss, before any are skipped."""
        return in_loss(self.tokenizer.thoughts, sequences)

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit the token budgets of training, or ``None``."""
        return self.prompt_problem(example)

    def finish_step(
        self, batch: MicroBatch, total: Tensor, result: HeadLoss, weights: Tensor, names: dict[str, str]
    ) -> Tensor:
        """Check the whole loss and return it; at the last micro-batch, log the means over the optimizer step.

        Args:
            batch: The micro-batch.
            total: Its whole loss, that of retention included.
            result: The method's own loss and diagnostics.
            weights: Token weights of the loss, `(N,)`.
            names: Maps a diagnostic to the name under which its mean over the tokens in the loss is logged.
        """
        checks.check_finite("loss", total.detach(), self.global_step, [item.example for item in batch.items])
        self.means.add_loss(result, weights, names)
        if batch.is_last:
            for name, mean in self.means.read(self.device).items():
                self.log(name, mean, prog_bar=name == "train/loss", batch_size=1)
        return total

    def share_prefixes(self, group: Group, teacher: Teacher | None = None) -> None:
        """Read once what all sequences of a filled group begin with, if :class:`PrefixGradients` will finish it."""
        finished = self._trainer is not None and self.trainer.training and PrefixGradients.taken(self.trainer)
        self.prefixes.begin(group, self.policy if finished else None, teacher if finished else None)

    def retained_loss(self, batch: MicroBatch) -> Tensor | float:
        """The loss of :class:`Retention` on a micro-batch; 0 without retention."""
        if self.retention is None:
            return 0.0
        with self.clock.phase("retention"):
            loss = self.retain(batch, self.global_step, self.policy, self.base_policy(), self.respond)
        self.means.add("retention/loss", loss.detach())
        return loss

    def respond(self, examples: Sequence[Example]) -> list[Rollout]:
        """The student's own answers to examples, sampled as in training."""
        prompts = self.tokenizer.encode_all([example.prompt for example in examples])
        return respond(self.policy, prompts, self.max_completion_tokens, Sampling(), own_seeds(len(prompts)))

    def on_validation_start(self) -> None:
        """Gather the weights if they are sharded."""
        self.answering.begin(self.policy)

    on_test_start = on_predict_start = on_validation_start

    def validation_step(self, batch: MicroBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Answer greedily and grade, or take the loss of the demonstrations where there is nothing to grade by."""
        examples = checks.batch_examples(batch)
        return self.answering.evaluate(self.policy, examples, self.graded, dataloader_idx, self.demonstrations)

    test_step = validation_step

    def predict_step(self, batch: MicroBatch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Answer greedily, and return one record per example with the verdicts on its answer."""
        return self.answering.predict(self.policy, checks.batch_examples(batch), self.graded, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log accuracies, answer lengths and losses, and their averages; see :meth:`GradedSets.log`."""
        self.answering.end()
        self.graded.log(self.log, "val", "prior")

    def on_test_epoch_end(self) -> None:
        """Log the same as ``test/accuracy``, ``test/prior``, ``test/length``, ``test/loss``, ``test/prior_loss``."""
        self.answering.end()
        self.graded.log(self.log, "test", "test/prior")

    def on_predict_epoch_end(self) -> None:
        """Shard the weights again."""
        self.answering.end()
