from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from lightning_sdft.memory import Lengths, TrainerPlan, estimate, lengths_by_data
from lightning_sdft.memory.rehearsal import rehearse
from lightning_sdft.modules import CausalLMModule, CPTModule, DFTModule, ReinvokeModule, SDFTModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import Example
from lightning_sdft.teacher import FORMS, CopiedTeacher, EMATeacher, LiveTeacher, TrustRegionTeacher
from tests.conftest import VOCABULARY, make_model, make_tokenizer, needs_gpu
from tests.memory.conftest import allocated
from tests.modules.conftest import WORDS_TEMPLATE
from tests.pairs import pairwise

PROMPT, COMPLETION, SHOWN = 24, 40, 60
"""Lengths of all prompts, responses and teacher prompts, in tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose activations weigh more than its weights."""
    path: Path = tmp_path_factory.mktemp("model")
    make_model("llama", hidden_size=64, intermediate_size=160, max_position_embeddings=1024).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


def example(index: int) -> Example:
    """An example of the lengths above, in words of one token each, like no other."""
    prompt = " ".join([f"w{6 + index % 3}", f"w{index % 50}", *["w7"] * (PROMPT - 5)])
    demonstration = " ".join(["w27"] * (COMPLETION - 1))
    return Example(str(index), [{"role": "user", "content": prompt}], demonstration, "w3", "w3")


def make(method: type[CausalLMModule], folder: str, **arguments: Any) -> CausalLMModule:
    """A module whose responses are as long as they may be."""
    budgets = {"max_prompt_tokens": PROMPT, "max_completion_tokens": COMPLETION}
    if issubclass(method, SDFTModule):
        arguments = {"teacher_template": WORDS_TEMPLATE, "max_teacher_prompt_tokens": 2 * SHOWN, **arguments}
    module = method(folder, **{**budgets, "warmup_steps": 0, **arguments})
    module.tokenizer.stop_ids = set()
    return module


def fit(module: CausalLMModule, data: Any, make_trainer: Any, **arguments: Any) -> int:
    """The most that there is in three steps, by the word of the allocator."""
    follows = isinstance(module, SDFTModule) and isinstance(module.teacher_choice, CopiedTeacher)
    callbacks = [EMATeacher(0.5)] if follows else []
    trainer = make_trainer(max_steps=3, gradient_clip_val=1.0, callbacks=callbacks, **arguments)
    with trainer.precision_plugin.module_init_context():  # which threads do that the profiler does not see
        module.configure_model()
    with allocated() as usage:
        trainer.fit(module, datamodule=data)
    return usage.peak + sum(each.nbytes for each in module.parameters())


OPTIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 2),
    ({}, 8),
    ({"gradient_checkpointing": True}, 4),
    ({"attention": "eager"}, 4),
]


@pytest.mark.parametrize(
    ("options", "precision", "method"),
    pairwise(OPTIONS, ["32-true", "bf16-mixed", "bf16-true"], [SFTModule, SDFTModule]),
)
def test_training_takes_what_was_estimated(
    options: tuple[dict[str, Any], int],
    precision: str,
    method: type[CausalLMModule],
    folder: str,
    words_data: Any,
    make_trainer: Any,
) -> None:
    arguments, micro = options
    data = words_data([example(index) for index in range(24)], batch_size=8, micro_batch_size=micro)
    module = make(method, folder, **arguments)
    plan = TrainerPlan(precision=precision, teacher_follows=method is SDFTModule)
    estimated = estimate(module, plan, lengths_by_data(module, data, 1))
    assert "policy" not in module._modules
    real = fit(module, data, make_trainer, precision=precision, accumulate_grad_batches=8 // micro)
    assert estimated.peak == pytest.approx(real, rel=0.06)


@pytest.mark.parametrize(("precision", "probing"), [("32-true", True), ("bf16-mixed", True), ("32-true", False)])
def test_generations_take_what_was_estimated(
    precision: str, probing: bool, folder: str, words_data: Any, make_trainer: Any
) -> None:
    """As a tree, and as rows of a model that is not asked."""
    data = words_data([example(index) for index in range(12)], batch_size=4, micro_batch_size=2)
    module = make(SDFTModule, folder, generations=4, probing=probing)
    plan = TrainerPlan(precision=precision, teacher_follows=True)
    estimated = estimate(module, plan, lengths_by_data(module, data, 1))
    real = fit(module, data, make_trainer, precision=precision, accumulate_grad_batches=2)
    assert module.policy.reads_trees == probing
    assert estimated.peak == pytest.approx(real, rel=0.06)


def test_a_tree_takes_less_than_rows(folder: str) -> None:
    lengths = Lengths([(2 * SHOWN, 8)] * 2, [(2 * SHOWN, 8)] * 2, [2 * SHOWN] * 4, [], 8, 2, generations=8)
    peaks = []
    for probing in (True, False):
        module = make(SDFTModule, folder, probing=probing)
        phases = {each.name: each for each in rehearse(module, TrainerPlan(), lengths).phases}
        peaks.append({name: phases[name].peak for name in ("rollouts", "teacher", "backward")})
    assert peaks[0]["rollouts"] == peaks[1]["rollouts"]
    assert peaks[0]["teacher"] < 0.4 * peaks[1]["teacher"]
    assert peaks[0]["backward"] < 0.5 * peaks[1]["backward"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The architecture of a model large enough for a GPU, whose allocator rounds up, and no weights."""
    path: Path = tmp_path_factory.mktemp("large")
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16}
    Qwen2Config(vocab_size=32000, num_key_value_heads=4, architectures=["Qwen2ForCausalLM"], **shape).save_pretrained(
        path
    )
    make_tokenizer().save_pretrained(path)
    return str(path)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
@pytest.mark.parametrize("method", [SFTModule, SDFTModule])
def test_training_on_a_gpu_takes_what_was_estimated(
    method: type[CausalLMModule], precision: str, large: str, words_data: Any, make_trainer: Any
) -> None:
    teachers = FORMS if method is SDFTModule else [None]
    for memory in teachers:
        arguments = {} if memory is None else {"teacher": CopiedTeacher(memory)}
        data = words_data([example(index) for index in range(24)], batch_size=8, micro_batch_size=4)
        module = make(method, large, pretrained=False, **arguments)
        plan = TrainerPlan(accelerator=True, precision=precision, teacher_follows=method is SDFTModule)
        estimated = estimate(module, plan, lengths_by_data(module, data, 1), process=0)
        callbacks = [EMATeacher(0.5)] if method is SDFTModule else []
        trainer = make_trainer(
            accelerator="gpu", precision=precision, max_steps=3, gradient_clip_val=1.0, callbacks=callbacks
        )
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.fit(module, datamodule=data)
        assert estimated.peak == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)
        del module, trainer
        gc.collect()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (DFTModule, {}),
        (CPTModule, {}),
        (SFTModule, {"packing": True}),
        (SDFTModule, {"teacher": LiveTeacher()}),
        (SDFTModule, {"teacher": TrustRegionTeacher()}),
        (SDFTModule, {"teacher": TrustRegionTeacher(), "lora": LoRA(rank=2, target_modules=["q_proj", "lm_head"])}),
        (SDFTModule, {"rollout_source": "demonstration"}),
        (SDFTModule, {"rollout_source": "teacher"}),
        (ReinvokeModule, {"max_teacher_prompt_tokens": SHOWN}),
    ],
)
def test_every_method_takes_what_was_estimated(
    method: type[CausalLMModule], arguments: dict[str, Any], folder: str, words_data: Any, make_trainer: Any
) -> None:
    if method is ReinvokeModule:
        arguments = {**arguments, "teacher": CopiedTeacher(model=folder)}
    data = words_data([example(index) for index in range(24)], batch_size=8, micro_batch_size=4)
    module = make(method, folder, **arguments)
    choice = getattr(module, "teacher_choice", None)
    estimated = estimate(module, TrainerPlan(teacher_follows=False), lengths_by_data(module, data, 1))
    real = fit(module, data, make_trainer)
    assert estimated.peak == pytest.approx(real, rel=0.06)
    assert (getattr(module, "teacher_choice", None), module.pretrained) == (choice, True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_head_of_a_mixture_is_there_while_the_loss_is_computed(precision: str, folder: str) -> None:
    lengths = Lengths([(PROMPT, COMPLETION)], [(SHOWN, COMPLETION)], [], [], COMPLETION)
    plan = TrainerPlan(precision=precision, teacher_follows=False)
    peaks = [
        {each.name: each.peak for each in rehearse(make(SDFTModule, folder, teacher=choice), plan, lengths).phases}
        for choice in (CopiedTeacher(), TrustRegionTeacher())
    ]
    head, hidden = (64 * rows * 4 for rows in (len(VOCABULARY), COMPLETION))
    rounded = 0 if precision == "32-true" else head  # of the half that a copied teacher does not have
    assert peaks[1]["loss"] - peaks[0]["loss"] == 2 * head + hidden + rounded
    assert peaks[1]["backward"] == peaks[0]["backward"]


def test_keys_and_values_are_those_of_a_real_rollout(family: str, family_folder: Any) -> None:
    policy = Policy.load(str(family_folder(family)), pretrained=False)
    prompts = [[3] * 12, [4] * 10, [5] * 8]
    state = policy.prefill(prompts)
    for _ in range(COMPLETION - 1):
        policy.advance(state, torch.zeros(3, dtype=torch.long))
    real = sum(each.key_buffer.nbytes + each.value_buffer.nbytes for each in state.layers)
    module = SDFTModule(
        str(family_folder(family)),
        max_prompt_tokens=12,
        max_completion_tokens=COMPLETION,
        max_teacher_prompt_tokens=12,
        teacher_template=WORDS_TEMPLATE,
    )
    lengths = Lengths([(12, COMPLETION)], [(12, COMPLETION)], [12, 10, 8], [12, 10, 8], COMPLETION)
    phases = {each.name: each for each in rehearse(module, TrainerPlan(evaluates=True), lengths).phases}
    for name in ("rollouts", "evaluation"):
        assert phases[name].parts["keys and values"] == pytest.approx(real, rel=0.07)
