from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.checkpoint import CheckpointError, load_checkpoint
from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.losses import ForwardKL, JensenShannon
from lightning_sdft.modules import CausalLMModule, DFTModule, NonFiniteLossError, SDFTModule, SFTModule
from lightning_sdft.rollout import Sampling
from lightning_sdft.tokenizer import PolicyError
from tests.conftest import STOP_IDS, VOCABULARY
from tests.modules.conftest import question
from tests.modules.dense import token_ids

METHODS = [SFTModule, DFTModule, SDFTModule]


class Watch(Callback):
    """Keeps the learning rate and the logged loss of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self.losses) < trainer.global_step:
            self.losses.append(trainer.callback_metrics["train/loss"].item())


# Optimizer and schedule


@pytest.mark.parametrize("length", [{"max_steps": 12}, {"max_steps": -1, "max_epochs": 3}])
def test_learning_rate_warms_up_linearly_and_falls_along_a_cosine(
    length: dict[str, int], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    watch = Watch()
    trainer = make_trainer(callbacks=[watch], **length)
    trainer.fit(words_module(SFTModule, learning_rate=0.5, warmup_steps=3), datamodule=words_data())
    expected = [0.125, 0.25, 0.375, *(0.25 * (1 + math.cos(math.pi * step / 9)) for step in range(9))]
    assert watch.rates == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_without_warm_up_the_first_step_is_at_the_peak(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    watch = Watch()
    trainer = make_trainer(callbacks=[watch], max_steps=4)
    trainer.fit(words_module(SFTModule, learning_rate=0.5, warmup_steps=0), datamodule=words_data())
    assert watch.rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])


@pytest.mark.parametrize("method", METHODS)
def test_optimizer_holds_the_policy_and_nothing_else(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(method, weight_decay=0.25)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=words_data())
    (group,) = trainer.optimizers[0].param_groups
    assert group["weight_decay"] == 0.25
    assert {id(p) for p in group["params"]} == {id(p) for p in module.policy.parameters()}


def test_frozen_parameters_are_left_out_of_the_optimizer(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    module.configure_model()
    frozen = module.policy.model.get_input_embeddings().weight.requires_grad_(False)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=words_data())
    assert id(frozen) not in {id(p) for p in trainer.optimizers[0].param_groups[0]["params"]}


# Evaluation


def own_answer(module: CausalLMModule, example: Example) -> str:
    """The model's greedy response according to transformers."""
    prompt = torch.tensor([token_ids(f"<user> {example.prompt[-1]['content']} <end> <assistant>")])
    output = module.policy.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=module.max_completion_tokens,
        eos_token_id=STOP_IDS,
    )
    words = [VOCABULARY[token] for token in output[0, prompt.shape[1] :]]
    return " ".join(word for word in words if not word.startswith("<"))


def evaluation_sets(module: CausalLMModule, rights: dict[str, int]) -> list[EvaluationSet]:
    """Sets of four questions, of which as many as asked for have the model's own answer as the reference."""
    module.configure_model()
    module.policy.eval()
    sets = []
    for number, (name, right) in enumerate(rights.items()):
        examples = []
        for index in range(4):
            asked = question(4 * number + index)
            reference = own_answer(module, asked) if index < right else "something else"
            examples.append(Example(asked.id, asked.prompt, reference=reference))
        sets.append(EvaluationSet(examples, {name: ExactMatch()}, prior=name.startswith("old")))
    module.policy.train()
    return sets


RIGHTS = {"new": 3, "newer": 1, "old": 4, "older": 2, "oldest": 0}


def test_validation_logs_accuracy_of_each_set_and_the_means_of_new_and_prior_ones(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    data = words_data(validation=evaluation_sets(module, RIGHTS), evaluation_batch_size=3)
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, datamodule=data, verbose=False)
    expected = {
        "val/accuracy/new": 0.75,
        "val/accuracy/newer": 0.25,
        "val/accuracy": 0.5,
        "prior/old": 1.0,
        "prior/older": 0.5,
        "prior/oldest": 0.0,
        "prior/average": 0.5,
    }
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx(expected)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.zero_()
    trainer.validate(module, datamodule=data, verbose=False)  # graders start anew
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == dict.fromkeys(expected, 0.0)


def test_test_logs_accuracies_of_the_test_sets(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SDFTModule)
    trainer = make_trainer()
    trainer.test(module, datamodule=words_data(test=evaluation_sets(module, {"new": 3, "old": 2})), verbose=False)
    expected = {"test/accuracy/new": 0.75, "test/accuracy": 0.75, "test/prior/old": 0.5, "test/prior/average": 0.5}
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx(expected)


def test_the_first_grader_of_a_set_leads_and_further_ones_are_logged_beside_it(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    class Lenient(ExactMatch):
        def grade(self, response: str, reference: Any) -> bool:
            return True

    module = words_module(SFTModule)
    (strict,) = evaluation_sets(module, {"strict": 1})
    both = EvaluationSet(strict.examples, {"strict": ExactMatch(), "lenient": Lenient()})
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, datamodule=words_data(validation=[both]), verbose=False)
    expected = {"val/accuracy/strict": 0.25, "val/accuracy/lenient": 1.0, "val/accuracy": 0.25}
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx(expected)


def test_predict_returns_a_record_per_example(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    (graded,) = evaluation_sets(module, {"new": 2})
    batches = make_trainer().predict(module, datamodule=words_data(test=[graded], evaluation_batch_size=3))
    records = [record for batch in batches for record in batch]
    assert [len(batch) for batch in batches] == [3, 1]
    for index, (record, example) in enumerate(zip(records, graded.examples, strict=True)):
        assert record["id"] == example.id
        assert record["prompt"] == example.prompt
        assert record["reference"] == example.reference
        assert record["response"] == own_answer(module, example)
        assert record["correct"] == {"new": index < 2}
        assert isinstance(record["finished"], bool)


def test_evaluation_does_not_change_the_mode_of_the_model(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    data = words_data(validation=evaluation_sets(module, {"new": 1}))
    make_trainer(limit_val_batches=1.0, max_steps=1, val_check_interval=2).fit(module, datamodule=data)
    assert all(part.training for part in module.policy.modules())


# A plain loader


@pytest.mark.parametrize("method", METHODS)
def test_trains_from_a_plain_loader_of_examples(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    module = words_module(method)
    module.configure_model()
    before = [p.detach().clone() for p in module.policy.parameters()]
    loader = DataLoader([question(index) for index in range(8)], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    trainer = make_trainer(max_steps=3, accumulate_grad_batches=1)
    trainer.fit(module, loader)
    assert trainer.global_step == 3
    assert not any(torch.equal(p, start) for p, start in zip(module.policy.parameters(), before, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("example", "complaint"),
    [
        (Example("bare", [{"role": "user", "content": "w1"}]), "example 'bare' has no demonstration"),
        (Example("big", [{"role": "user", "content": "w1 " * 20}], "w2"), "'big': its prompt has 23 tokens"),
    ],
)
def test_examples_of_a_plain_loader_are_checked_too(
    example: Example,
    complaint: str,
    method: type[CausalLMModule],
    words_module: Callable[..., CausalLMModule],
    make_trainer: Any,
) -> None:
    loader = DataLoader([question(0), example], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    extra = {"max_teacher_prompt_tokens": 40} if method is SDFTModule else {}
    with pytest.raises(DataError, match=complaint):
        make_trainer(accumulate_grad_batches=1).fit(words_module(method, **extra), loader)


def test_evaluation_without_a_data_module_says_what_it_lacks(
    words_module: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    loader = DataLoader([question(0)], batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"evaluation needs a data module .*pass datamodule=\.\.\."):
        make_trainer().test(words_module(SFTModule), loader)


# Budgets


LONG_PROMPT = Example("long", [{"role": "user", "content": "w1 w2 w3 w4 w6 w7 w8"}], "w9")  # 10 tokens
LONG_ANSWER = Example("wordy", [{"role": "user", "content": "w1"}], "w2 w3 w4 w6 w7 w8 w9 w11")  # 9 tokens


@pytest.mark.parametrize("method", METHODS)
def test_prompt_over_budget_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), question(2), LONG_PROMPT])
    module = words_module(method, max_prompt_tokens=9)
    with pytest.raises(DataError, match=r"1 of 4 examples .*'long': its prompt has 10 tokens, max_prompt_tokens=9"):
        make_trainer().fit(module, datamodule=data)
    assert "policy" not in module._modules  # nothing was loaded yet


def test_prompt_of_exactly_the_budget_fits(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), LONG_PROMPT, LONG_ANSWER])
    module = words_module(SFTModule, max_prompt_tokens=10, max_completion_tokens=9)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1


@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_demonstration_over_budget_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([question(0), question(1), LONG_ANSWER, question(2)])
    with pytest.raises(DataError, match="'wordy': its demonstration has 9 tokens, max_completion_tokens=8"):
        make_trainer().fit(words_module(method), datamodule=data)


def test_evaluation_prompts_have_the_same_budget(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    sets = [EvaluationSet([question(0), LONG_PROMPT], {"new": ExactMatch()})]
    arguments = {"max_prompt_tokens": 9, "over_budget": "drop"}  # a smaller test set would be another test
    for stage, split in (("fit", "validation"), ("validate", "validation"), ("test", "test"), ("predict", "test")):
        run = getattr(make_trainer(), stage)
        with pytest.raises(DataError, match=r"1 of 2 examples .*'long': its prompt has 10 tokens, max_prompt_tokens=9"):
            run(words_module(SFTModule, **arguments), datamodule=words_data(**{split: sets}))


def test_drop_leaves_out_and_counts_what_is_over_budget(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    data = words_data([*(question(index) for index in range(4)), LONG_PROMPT, LONG_ANSWER])
    trainer = make_trainer(max_steps=1)
    with pytest.warns(UserWarning, match="dropped 2 of 6 training examples over their token budgets"):
        trainer.fit(words_module(SFTModule, max_prompt_tokens=9, over_budget="drop"), datamodule=data)
    assert [example.id for example in data.splits.train] == ["0", "1", "2", "3"]
    assert trainer.global_step == 1


def test_budgets_beyond_what_the_model_reads_are_refused(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule, max_prompt_tokens=50, max_completion_tokens=15)
    with pytest.raises(PolicyError, match=r"sequences of 65 tokens, but .* reads at most 64; lower max_prompt_tokens"):
        make_trainer().fit(module, datamodule=words_data())
    fitting = words_module(SFTModule, max_prompt_tokens=50, max_completion_tokens=14)
    fitting.configure_model()
    teacher = words_module(SDFTModule, max_teacher_prompt_tokens=60, max_completion_tokens=5)
    with pytest.raises(PolicyError, match="sequences of 65 tokens"):
        teacher.configure_model()


@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_example_without_demonstration_is_named_before_training(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    for demonstration in (None, ""):
        bare = Example("bare", question(0).prompt, demonstration)
        with pytest.raises(DataError, match=f"'bare' has no demonstration, which {method.__name__} learns from"):
            make_trainer().fit(words_module(method), datamodule=words_data([question(0), bare]))


# Micro-batches


def test_accumulation_that_does_not_fit_the_group_names_both_numbers(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    message = "trainer.accumulate_grad_batches=3, but an optimizer step has 2 micro-batches"
    with pytest.raises(ValueError, match=message):
        make_trainer(accumulate_grad_batches=3).fit(words_module(SFTModule), datamodule=words_data())


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_micro_batch_size_does_not_change_the_run(
    reduction: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    runs = []
    for size in (1, 2, 4):
        watch, module = Watch(), words_module(SFTModule, reduction=reduction, learning_rate=1e-3)
        trainer = make_trainer(callbacks=[watch], accumulate_grad_batches=4 // size, max_steps=6)
        trainer.fit(module, datamodule=words_data(micro_batch_size=size))
        runs.append((watch.losses, torch.cat([p.detach().flatten() for p in module.policy.parameters()])))
    assert len(runs[0][0]) == 6
    assert runs[0][0][-1] < runs[0][0][0]
    for losses, weights in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-4)
        torch.testing.assert_close(weights, runs[0][1], rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(words_module: Callable[..., CausalLMModule]) -> None:
    gradients = []
    for enabled in (False, True):
        module = words_module(SFTModule, gradient_checkpointing=enabled)
        module.configure_model()
        assert module.policy.model.is_gradient_checkpointing == enabled
        module.training_step([question(index) for index in range(3)], 0).backward()
        gradients.append([p.grad for p in module.policy.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_trains_in_bfloat16(
    method: type[CausalLMModule],
    precision: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    watch, module = Watch(), words_module(method)
    trainer = make_trainer(precision=precision, callbacks=[watch], max_steps=2)
    trainer.fit(module, datamodule=words_data())
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in module.policy.parameters()} == {expected}
    assert all(math.isfinite(loss) for loss in watch.losses)


# A loss that is not finite


class Poison(Callback):
    """Spoils a weight in mid-run, behind the checkpoint of step 3."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.digest = ""
        self.good: dict[str, torch.Tensor] = {}
        self.examples: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and not self.digest:
            self.digest = hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
            self.good = {name: value.clone() for name, value in pl_module.state_dict().items()}
            self.examples = [example.id for example in batch]
            next(pl_module.policy.parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize("method", METHODS)
def test_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    method: type[CausalLMModule],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    poison = Poison(checkpoint)
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    callbacks = [poison, save, *([EMATeacher(0.5)] if method is SDFTModule else [])]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 3 on the examples") as caught:
        trainer.fit(words_module(method), datamodule=words_data())
    assert len(poison.examples) == 2
    assert str(poison.examples) in str(caught.value)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == poison.digest

    content = load_checkpoint(checkpoint)
    assert content["global_step"] == 3
    assert content["state_dict"].keys() == poison.good.keys()
    assert all(torch.equal(content["state_dict"][name], value) for name, value in poison.good.items())
    resumed = make_trainer(max_steps=4)
    resumed.fit(words_module(method), datamodule=words_data(), ckpt_path=checkpoint)
    assert resumed.global_step == 4


def test_non_finite_gradient_of_a_finite_loss_stops_before_the_step(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step == 1:
                next(each.grad for each in pl_module.parameters() if each.grad is not None).fill_(torch.inf)

    module = words_module(SFTModule)
    with pytest.raises(NonFiniteLossError, match="the gradient is inf at step 1 on the examples"):
        make_trainer(callbacks=[Overflow()]).fit(module, datamodule=words_data())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


# Checkpoints


@pytest.fixture
def sft_checkpoint(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> Path:
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "sft.ckpt")
    return tmp_path / "sft.ckpt"


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("method", [DFTModule, SDFTModule])
def test_checkpoint_of_another_method_is_refused(
    method: type[CausalLMModule],
    stage: str,
    sft_checkpoint: Path,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    sets = [EvaluationSet([question(0)], {"new": ExactMatch()})]
    run = getattr(make_trainer(), stage)
    with pytest.raises(CheckpointError, match=f"written by SFTModule, not by {method.__name__}"):
        run(words_module(method), datamodule=words_data(test=sets), ckpt_path=sft_checkpoint)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_checkpoint_is_refused_by_name(
    share: float,
    sft_checkpoint: Path,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    content = sft_checkpoint.read_bytes()
    sft_checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"sft.ckpt' \(\d+ bytes\) is truncated or not a checkpoint"):
        make_trainer().fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=sft_checkpoint)


def test_absent_checkpoint_is_refused_by_name(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*none.ckpt"):
        make_trainer().fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=tmp_path / "none.ckpt")


def test_checkpoint_restores_class_arguments_and_weights_without_pickle(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    arguments = {
        "divergence": JensenShannon(0.3),
        "sampling": Sampling(temperature=0.7),
        "skip_tokens": 1,
        "learning_rate": 0.004,
        "warmup_steps": 2,
    }
    module = words_module(SDFTModule, **arguments)
    trainer = make_trainer(max_steps=2, callbacks=[EMATeacher(0.5)])
    trainer.fit(module, datamodule=words_data())
    path = tmp_path / "sdft.ckpt"
    trainer.save_checkpoint(path)

    content = torch.load(path, weights_only=True)
    assert {name: content["hyper_parameters"][name] for name in arguments} == arguments
    restored = SDFTModule.load_from_checkpoint(path)
    assert type(restored) is SDFTModule
    assert {name: getattr(restored, name) for name in arguments} == arguments
    assert (restored.model, restored.max_prompt_tokens) == (module.model, module.max_prompt_tokens)
    assert restored.teacher_template == module.teacher_template
    expected = module.state_dict()
    assert restored.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in restored.state_dict().items())
    assert SDFTModule.load_from_checkpoint(path, divergence=ForwardKL()).divergence == ForwardKL()


def test_random_weights_are_an_argument(family_folder: Callable[[str], Path]) -> None:
    def embedding(pretrained: bool) -> torch.Tensor:
        budgets = {"max_prompt_tokens": 16, "max_completion_tokens": 8}
        module = SFTModule(str(family_folder("llama")), pretrained=pretrained, **budgets)
        module.configure_model()
        weight = module.policy.model.get_input_embeddings().weight
        module.configure_model()  # once more, as Lightning may
        assert module.policy.model.get_input_embeddings().weight is weight
        return weight.detach()

    torch.manual_seed(0)
    assert torch.equal(embedding(True), embedding(True))
    assert not torch.equal(embedding(True), embedding(False))
