from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.fixed_decoding import FixedLayer, FixedState
from lightning_sdft.policy.lora import STUDENT, LoRA, add_adapter
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout import captured, generate, in_process
from lightning_sdft.rollout.captured import RecordedStep, try_out, unfit, worth_capturing
from tests.conftest import FAMILIES, move_adapter, needs_gpu
from tests.rollout.test_in_process import MAX_TOKENS, completions, ragged_prompts

SAMPLINGS = [GREEDY, Sampling(), Sampling(0.7, top_p=0.9, top_k=20, min_p=0.01)]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Rollout], list[Rollout]]]:
    """Rollouts of fixed buffers, which are made anew after 5 tokens or as half of the rows are done, and plain ones."""
    monkeypatch.setattr(captured, "ROOM", 5)
    monkeypatch.setattr(captured, "ROWS", 4)

    def rollouts(policy: Policy, sampling: Sampling, count: int = 12) -> tuple[list[Rollout], list[Rollout]]:
        found = []
        for answer in (True, False):
            monkeypatch.setattr(in_process, "worth_capturing", lambda *_, answer=answer: answer)
            found.append(generate(policy, ragged_prompts(count), MAX_TOKENS, sampling, seeds=range(count)))
        return found[0], found[1]

    return rollouts


def check_equal(ours: list[Rollout], expected: list[Rollout], tolerance: float = 1e-5) -> None:
    assert completions(ours) == completions(expected)
    for one, other in zip(ours, expected, strict=True):
        assert (one.prompt, one.finished) == (other.prompt, other.finished)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rollouts_in_fixed_buffers_are_the_plain_ones(
    policy: Policy, sampling: Sampling, both: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(state: FixedState, *args: Any) -> None:
        make(state, *args)
        sizes.append(len(state.padding))

    make = FixedState.__init__
    monkeypatch.setattr(FixedState, "__init__", noted)
    if policy.config.model_type != "gemma2":  # whose mask overflows in float64
        policy.double()
    ours, expected = both(policy, sampling)
    check_equal(ours, expected, 1e-9 if policy.model.dtype == torch.float64 else 1e-4)
    assert len(sizes) > 1  # buffers were made anew
    assert sizes == sorted(sizes, reverse=True)


def test_finished_rows_wait_for_half_of_the_batch(
    llama: Policy, both: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    call = RecordedStep.__call__

    def noted(step: RecordedStep) -> Tensor:
        sizes.append(len(step.tokens))
        return call(step)

    monkeypatch.setattr(RecordedStep, "__call__", noted)
    monkeypatch.setattr(captured, "ROOM", 256)
    ours, _ = both(llama, Sampling(), 24)
    lengths = [len(each.completion) for each in ours]
    assert len(sizes) == max(lengths) - 1
    assert sizes[0] == sum(length > 1 for length in lengths)
    assert len(set(sizes)) > 1
    assert all(size == before or 2 * size <= before for before, size in pairwise(sizes))


def test_a_response_may_end_at_once(llama: Policy, both: Callable[..., Any]) -> None:
    llama.tokenizer.stop_ids = set(range(64))
    ours, expected = both(llama, GREEDY)
    check_equal(ours, expected)


@pytest.fixture
def adapted(family_folder: Callable[[str], Path]) -> Policy:
    """A policy with an adapter that does something."""
    policy = Policy.load(str(family_folder("llama")))
    add_adapter(policy.model, LoRA(rank=2, target_modules=["q_proj", "down_proj", "lm_head"]))
    move_adapter(policy.model)
    return policy


@pytest.mark.parametrize("adapter", [STUDENT, None])
def test_adapters(adapter: str | None, adapted: Policy, both: Callable[..., Any]) -> None:
    view = AdapterView(adapted, adapter)
    ours, expected = both(view, Sampling())
    check_equal(ours, expected, 1e-4)
    assert completions(ours) != completions(both(AdapterView(adapted, None if adapter else STUDENT), Sampling())[0])


# What cannot be captured


@torch.no_grad()
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_family_computes_the_same_in_fixed_buffers(policy: Policy, sampling: Sampling) -> None:
    assert try_out(policy.eval(), sampling) == ""
    assert unfit(policy) == ""


@torch.no_grad()
def test_a_model_that_computes_something_else_is_found_out(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    # It sees keys that have not been written.
    monkeypatch.setattr(FixedLayer, "get_seq_length", lambda layer: layer.place[0] + 9)
    assert "computes something else" in try_out(llama.eval(), GREEDY)


@torch.no_grad()
def test_other_tokens_are_found_out(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = RecordedStep._launch

    def stale(step: RecordedStep) -> None:
        launch(step)
        step.tokens.add_(1)

    monkeypatch.setattr(RecordedStep, "_launch", stale)
    assert "sample something else" in try_out(llama.eval(), Sampling())


@torch.no_grad()
@pytest.mark.parametrize("error", [RuntimeError, TypeError])
def test_a_model_that_fails_is_found_out(
    error: type[Exception], llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(state: FixedState, tokens: Tensor) -> Tensor:
        raise error("called a synchronizing operation\nin C++")

    monkeypatch.setattr(FixedState, "read", fail)
    assert try_out(llama.eval(), GREEDY).endswith(f"({error.__name__}: called a synchronizing operation)")


def test_too_little_memory_is_no_reason(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(state: FixedState, tokens: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(FixedState, "read", fail)
    with pytest.raises(torch.OutOfMemoryError):
        try_out(llama.eval(), GREEDY)


def test_weights_on_several_devices_are_unfit(llama: Policy) -> None:
    llama.model.lm_head = nn.Linear(32, 64, device="meta")
    assert "several devices" in unfit(llama)


def test_nothing_is_captured_on_a_cpu(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "unfit", lambda _: pytest.fail("it was asked why"))
    assert not worth_capturing(llama, GREEDY, 1000)


# On a GPU


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each graph that is recorded; completions as short as in these tests are worth it."""
    monkeypatch.setattr(captured, "SHORTEST", 1)
    graphs: list[bool] = []
    record = RecordedStep._record

    def noted(step: RecordedStep) -> torch.cuda.CUDAGraph:
        graphs.append(True)
        return record(step)

    monkeypatch.setattr(RecordedStep, "_record", noted)
    return graphs


def generate_plainly(policy: Policy, *args: Any, **kwargs: Any) -> list[Rollout]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_process, "worth_capturing", lambda *_: False)
        return generate(policy, *args, **kwargs)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])  # not a number in float64
def test_captured_rollouts_are_the_plain_ones(
    family: str,
    sampling: Sampling,
    dtype: torch.dtype,
    family_folder: Callable[[str], Path],
    recorded: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captured, "ROOM", 5)
    policy = Policy.load(str(family_folder(family))).to("cuda", dtype)
    arguments = ragged_prompts(), MAX_TOKENS, sampling, range(12)
    ours = generate(policy, *arguments)
    assert len(recorded) >= 2  # one to try it out, and one after 5 tokens each
    check_equal(ours, generate_plainly(policy, *arguments), 1e-4)


@needs_gpu
@pytest.mark.gpu
def test_each_call_samples_with_the_weights_as_they_are(llama: Policy, recorded: list[bool]) -> None:
    policy = llama.cuda()
    optimizer = torch.optim.SGD(policy.parameters(), 1.0)
    found = []
    for _ in range(3):
        found.append(generate(policy, ragged_prompts(), MAX_TOKENS, Sampling(), range(12)))
        check_equal(found[-1], generate_plainly(policy, ragged_prompts(), MAX_TOKENS, Sampling(), range(12)), 1e-4)
        for parameter in policy.parameters():
            parameter.grad = 0.1 * torch.randn_like(parameter)
        optimizer.step()
    assert len(recorded) == 4
    assert completions(found[0]) != completions(found[1]) != completions(found[2])


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_under_autocast(precision: torch.dtype, llama: Policy, recorded: list[bool]) -> None:
    policy = llama.cuda()
    for _ in range(2):  # the casts of the first call are gone in the second
        with torch.autocast("cuda", precision, cache_enabled=False):
            ours = generate(policy, ragged_prompts(), MAX_TOKENS, Sampling(), range(12))
            plain = generate_plainly(policy, ragged_prompts(), MAX_TOKENS, Sampling(), range(12))
        same = [pair for pair in zip(ours, plain, strict=True) if pair[0].completion == pair[1].completion]
        assert len(same) >= 10  # rounding may tip a token
        for one, other in same:
            assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=0.2)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.5)
    assert len(recorded) == 3


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("adapter", [STUDENT, None])
def test_captured_adapters(adapter: str | None, adapted: Policy, recorded: list[bool]) -> None:
    view = AdapterView(adapted.cuda(), adapter)
    arguments = ragged_prompts(), MAX_TOKENS, Sampling(), range(12)
    check_equal(generate(view, *arguments), generate_plainly(view, *arguments), 1e-4)
    assert len(recorded) == 2


@needs_gpu
@pytest.mark.gpu
def test_graphs_leave_nothing_behind(llama: Policy, recorded: list[bool]) -> None:
    policy, sizes = llama.cuda(), []
    generator = torch.cuda.get_rng_state()
    for _ in range(12):
        generate(policy, ragged_prompts(), MAX_TOKENS, Sampling())
        sizes.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert len(recorded) == 13
    assert sizes[2] == sizes[-1]
    assert torch.equal(torch.cuda.get_rng_state(), generator)


@needs_gpu
@pytest.mark.gpu
def test_what_cannot_be_captured_runs_as_before(
    llama: Policy, recorded: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    policy, norms = llama.cuda(), list[float]()
    policy.model.model.norm.register_forward_hook(lambda *call: norms.append(call[-1].norm().item()))  # which waits
    arguments = ragged_prompts(), MAX_TOKENS, Sampling(), range(12)
    with caplog.at_level(logging.INFO, "lightning_sdft"):
        ours = generate(policy, *arguments)
        check_equal(generate(policy, *arguments), ours)
        generate(policy, ragged_prompts(), MAX_TOKENS, GREEDY)
    assert not recorded
    (reason,) = [record.getMessage() for record in caplog.records if record.name == captured.__name__]
    assert "LlamaForCausalLM cannot be captured" in reason
    torch.rand(3, device="cuda")  # the generator works
