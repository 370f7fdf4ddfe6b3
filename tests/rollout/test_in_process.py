from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import generate
from tests.conftest import END, STOP_IDS, VOCABULARY, make_model, needs_gpu

MAX_TOKENS = 12


def ragged_prompts(count: int = 12) -> list[list[int]]:
    """Prompts of 1 to 14 tokens, most of them longer than the sliding window of the Gemmas (4)."""
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 14, *torch.randint(2, 15, (count - 2,), generator=generator).tolist()]
    return [[2, *torch.randint(11, 60, (length - 1,), generator=generator).tolist()] for length in lengths]


def model_logits(policy: Policy, prompt: list[int], completion: list[int]) -> Tensor:
    """The model's own logits of each token of a completion, without cache or padding."""
    tokens = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits: Tensor = policy.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits


# Greedy


def test_greedy_rollouts_are_those_of_transformers(policy: Policy) -> None:
    prompts = ragged_prompts()
    rollouts = generate(policy, prompts, MAX_TOKENS, GREEDY)
    policy.eval()
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        tokens = torch.tensor([prompt])
        expected = policy.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            eos_token_id=STOP_IDS,
            pad_token_id=0,
        )
        assert rollout.prompt == prompt
        assert rollout.completion == expected[0, len(prompt) :].tolist()
        logits = model_logits(policy, prompt, rollout.completion)
        assert rollout.completion == logits.argmax(-1).tolist()
        scores = logits.log_softmax(-1).max(-1).values
        torch.testing.assert_close(torch.tensor(rollout.log_probabilities), scores, rtol=1e-4, atol=1e-4)
    # The batch shrank more than once, and some went on to the end.
    assert len({len(rollout.completion) for rollout in rollouts if rollout.finished}) >= 2
    assert any(not rollout.finished and len(rollout.completion) == MAX_TOKENS for rollout in rollouts)
    assert len({tuple(rollout.completion) for rollout in rollouts}) > 6


def test_finished_rollouts_end_in_a_stop_token_and_truncated_ones_do_not(policy: Policy) -> None:
    for rollout in generate(policy, ragged_prompts(), MAX_TOKENS, Sampling(), seeds=range(12)):
        assert len(rollout.completion) == len(rollout.log_probabilities)
        assert rollout.finished == (rollout.completion[-1] in STOP_IDS)
        assert not set(rollout.completion[:-1]) & set(STOP_IDS)
        assert rollout.finished or len(rollout.completion) == MAX_TOKENS


def test_a_response_that_ends_on_its_last_token_is_finished(llama: Policy) -> None:
    rollouts = generate(llama, ragged_prompts(), MAX_TOKENS, GREEDY)
    shortest = min((rollout for rollout in rollouts if rollout.finished), key=lambda rollout: len(rollout.completion))
    length = len(shortest.completion)
    (again,) = generate(llama, [shortest.prompt], length, GREEDY)
    assert again.finished
    if length > 1:
        (cut,) = generate(llama, [shortest.prompt], length - 1, GREEDY)
        assert not cut.finished
        assert cut.completion == shortest.completion[:-1]


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(0.7, top_p=0.9, top_k=20, min_p=0.01)])
def test_rollouts_of_a_gpu_are_those_of_a_cpu(policy: Policy, sampling: Sampling) -> None:
    prompts = ragged_prompts()
    if policy.model.config.model_type != "gemma2":  # whose mask overflows in float64
        policy.double()  # but for the frequencies of its positions, which stay in float32
    here = generate(policy, prompts, MAX_TOKENS, sampling, seeds=range(12))
    there = generate(policy.cuda(), prompts, MAX_TOKENS, sampling, seeds=range(12))
    for ours, theirs in zip(there, here, strict=True):
        assert ours.completion == theirs.completion
        assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, rel=1e-4, abs=1e-4)


class Casts(TorchDispatchMode):
    """Counts how often each weight is cast."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.names = {weight.data_ptr(): name for name, weight in policy.named_parameters()}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.names:
            self.counts[self.names[args[0].data_ptr()]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cache_enabled", [False, True])  # Lightning's autocast keeps nothing
def test_under_autocast_weights_are_cast_once(cache_enabled: bool, llama: Policy) -> None:
    prompts, sequence = ragged_prompts(), TokenSequence([2, 11, 3], [12, 13])
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled):
        with Casts(llama) as casts:
            rollouts = generate(llama, prompts, MAX_TOKENS, GREEDY)
        # Before torch 2.11, what is left of that would be taken for the weights.
        llama.head(llama.hidden([sequence])).sum().backward()  # type: ignore[no-untyped-call]
    assert max(len(rollout.completion) for rollout in rollouts) == MAX_TOKENS
    assert len(casts.counts) >= 7 * 2  # of two blocks
    assert set(casts.counts.values()) == {1}
    assert [name for name, weight in llama.named_parameters() if weight.grad is None] == []


# Sampled


def chi_square(counts: Counter[tuple[int, ...]], probabilities: dict[tuple[int, ...], float]) -> tuple[float, float]:
    """The statistic, rare outcomes counted together, and what it exceeds once in a thousand times (Wilson-Hilferty)."""
    draws = counts.total()
    common = [outcome for outcome, probability in probabilities.items() if draws * probability >= 5]
    observed = [counts[outcome] for outcome in common]
    expected = [draws * probabilities[outcome] for outcome in common]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    statistic = sum((seen - due) ** 2 / due for seen, due in zip(observed, expected, strict=True) if due > 0.5)
    freedom = len(common)
    spread = 2 / (9 * freedom)
    return statistic, freedom * (1 - spread + 3.09 * math.sqrt(spread)) ** 3


def pair_probabilities(policy: Policy, prompt: list[int], temperature: float) -> dict[tuple[int, ...], float]:
    """Probability of each first two tokens, or of a first one that ends the response."""
    first = (model_logits(policy, prompt, [0])[0] / temperature).softmax(-1).tolist()
    table: dict[tuple[int, ...], float] = {}
    for token, probability in enumerate(first):
        if token in STOP_IDS:
            table[(token,)] = probability
            continue
        second = (model_logits(policy, prompt, [token, 0])[1] / temperature).softmax(-1).tolist()
        table |= {(token, other): probability * share for other, share in enumerate(second)}
    return table


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_samples_follow_the_probabilities_of_the_model(llama: Policy, temperature: float) -> None:
    prompt = [2, 11, 12, 13, 3]
    rollouts = generate(llama, [prompt] * 4000, 2, Sampling(temperature), seeds=range(4000))
    llama.eval()
    counts = Counter(tuple(rollout.completion) for rollout in rollouts)
    statistic, critical = chi_square(counts, pair_probabilities(llama, prompt, temperature))
    assert statistic < critical
    for other in {1.0, 0.6, 1.5} - {temperature}:  # the test has the power to tell
        statistic, critical = chi_square(counts, pair_probabilities(llama, prompt, other))
        assert statistic > critical
    firsts = Counter((first,) for first, *_ in counts.elements())
    first = (model_logits(llama, prompt, [0])[0] / temperature).softmax(-1).tolist()
    statistic, critical = chi_square(firsts, {(token,): probability for token, probability in enumerate(first)})
    assert statistic < critical


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_log_probabilities_are_those_of_what_was_drawn_from(policy: Policy, temperature: float) -> None:
    rollouts = generate(policy, ragged_prompts(), MAX_TOKENS, Sampling(temperature), seeds=range(12))
    policy.eval()
    assert any(rollout.finished for rollout in rollouts)
    for rollout in rollouts:
        scores = (model_logits(policy, rollout.prompt, rollout.completion) / temperature).log_softmax(-1)
        expected = scores[torch.arange(len(rollout.completion)), rollout.completion]
        torch.testing.assert_close(torch.tensor(rollout.log_probabilities), expected, rtol=1e-4, atol=2e-4)


def test_a_rollout_does_not_depend_on_who_else_is_in_the_batch(policy: Policy) -> None:
    prompts, seeds = ragged_prompts(), [100 + 7 * index for index in range(12)]
    together = generate(policy, prompts, MAX_TOKENS, Sampling(), seeds)
    backwards = generate(policy, prompts[::-1], MAX_TOKENS, Sampling(), seeds[::-1])[::-1]
    for index in range(len(prompts)):
        (alone,) = generate(policy, prompts[index : index + 1], MAX_TOKENS, Sampling(), seeds[index : index + 1])
        assert alone.completion == together[index].completion == backwards[index].completion
    assert any(rollout.finished for rollout in together)


def test_equal_prompts_are_read_together_and_go_their_own_ways(policy: Policy) -> None:
    prompts = [prompt for prompt in ragged_prompts(4) for _ in range(3)]
    together = generate(policy, prompts, MAX_TOKENS, Sampling(), seeds=range(12))
    assert [rollout.prompt for rollout in together] == prompts
    for seed, (prompt, rollout) in enumerate(zip(prompts, together, strict=True)):
        (alone,) = generate(policy, [prompt], MAX_TOKENS, Sampling(), seeds=[seed])
        assert alone.completion == rollout.completion
    assert len({tuple(rollout.completion) for rollout in together}) > 8


def test_a_longer_budget_goes_on_from_the_same_tokens(llama: Policy) -> None:
    short = generate(llama, ragged_prompts(), 3, Sampling(), seeds=range(12))
    for brief, full in zip(short, generate(llama, ragged_prompts(), 9, Sampling(), seeds=range(12)), strict=True):
        assert full.completion[:3] == brief.completion


def completions(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion for rollout in rollouts]


def test_seeds_come_from_the_global_generator(llama: Policy) -> None:
    def draw(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return completions(generate(llama, ragged_prompts(), 4, Sampling()))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    again = completions(generate(llama, ragged_prompts(), 4, Sampling()))
    assert again != draw(2)  # and not the same at every call


def test_equal_prompts_get_different_responses(llama: Policy) -> None:
    torch.manual_seed(0)
    assert len({tuple(each) for each in completions(generate(llama, [[2, 11, 3]] * 8, 4, Sampling()))}) > 4


def test_greedy_does_not_touch_the_global_generator(llama: Policy) -> None:
    state = torch.get_rng_state()
    generate(llama, ragged_prompts(), 2, GREEDY)
    assert torch.equal(torch.get_rng_state(), state)


# Where drawing is restricted to


def test_restricted_rollouts_stay_in_their_support(llama: Policy) -> None:
    rollouts = generate(llama, ragged_prompts(), 6, Sampling(top_k=2), seeds=range(12))
    llama.eval()
    for rollout in rollouts:
        best = model_logits(llama, rollout.prompt, rollout.completion).topk(2).indices
        assert all(token in two for token, two in zip(rollout.completion, best.tolist(), strict=True))


# The policy afterwards


def test_modes_and_gradients_are_as_before(llama: Policy) -> None:
    llama.train()
    llama.model.model.layers[0].eval()
    modes = [part.training for part in llama.modules()]
    generate(llama, ragged_prompts(), 2, Sampling())
    assert [part.training for part in llama.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in llama.parameters())


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()])
def test_no_dropout(family_folder: Callable[[str], Path], sampling: Sampling) -> None:
    policy = Policy.load(str(family_folder("gpt2")))  # which has dropout of 0.1 by default
    assert policy.model.config.resid_pdrop == 0.1
    policy.train()
    training = generate(policy, ragged_prompts(), MAX_TOKENS, sampling, seeds=range(12))
    policy.eval()
    assert training == generate(policy, ragged_prompts(), MAX_TOKENS, sampling, seeds=range(12))
    policy.train()
    tokens = torch.tensor([[2, 11, 12, 3]])
    assert not torch.equal(policy.model(tokens).logits, policy.model(tokens).logits)


def test_every_stop_token_of_the_tokenizer_ends_a_response(llama: Policy) -> None:
    assert llama.tokenizer.stop_ids == set(STOP_IDS)
    llama.tokenizer.stop_ids = set(range(len(VOCABULARY)))
    for rollout in generate(llama, ragged_prompts(), MAX_TOKENS, GREEDY):
        assert rollout.finished
        assert len(rollout.completion) == 1
    llama.tokenizer.stop_ids = {END}
    assert any(set(rollout.completion) & set(STOP_IDS[1:]) for rollout in generate(llama, ragged_prompts(), 12, GREEDY))


def test_gradient_checkpointing_leaves_rollouts_as_they_are(llama: Policy) -> None:
    plain = generate(llama, ragged_prompts(), MAX_TOKENS, Sampling(), seeds=range(12))
    llama.enable_gradient_checkpointing()  # which would switch the cache off in train mode
    assert generate(llama, ragged_prompts(), MAX_TOKENS, Sampling(), seeds=range(12)) == plain


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_sliding_window_matters_to_these_rollouts(family: str, family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder(family)))
    assert policy.model.config.sliding_window < min(len(prompt) for prompt in ragged_prompts()[1:2])
    rollouts = generate(policy, ragged_prompts(), MAX_TOKENS, GREEDY)
    full = make_model(family, sliding_window=64)
    full.load_state_dict(policy.model.state_dict())
    assert completions(generate(Policy(full, policy.tokenizer), ragged_prompts(), MAX_TOKENS, GREEDY)) != completions(
        rollouts
    )
