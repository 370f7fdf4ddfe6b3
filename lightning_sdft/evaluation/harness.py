"""Lets the lm-evaluation-harness evaluate a policy that is in memory.

Texts are tokenized as by the harness's own Hugging Face backend, without a chat template, so that scores can be
compared with published ones. This module needs lm-eval, so it is imported only when it is used.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    DEFAULT_MAX_LENGTH,
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.progress import Work
from lightning_sdft.records import Sampling, TokenSequence
from lightning_sdft.rollout import generate

__all__ = ["PolicyLM"]

CHUNK_ELEMENTS = 2**24
"""Maximum number of logits in memory at once."""

ROUND_TOKENS = 128
"""Number of tokens that are generated before the texts are searched for stop strings."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class PolicyLM(TemplateLM):  # type: ignore[misc] # lm-eval has no types
    """A policy as a model of the harness.

    Log-probabilities are computed from float32 logits, whatever the precision of the weights. In a distributed run the
    processes share the requests, so all of them must make the same ones.

    Args:
        policy: The policy, on the device where it computes.
        batch_tokens: Maximum number of tokens in a batch, including padding and, in generation, the tokens that may
            still be generated.
        progress: Whether to show how many requests are done.
    """

    def __init__(self, policy: Policy, batch_tokens: int = 16384, progress: bool = False) -> None:
        super().__init__()
        self.policy = policy
        self.tokenizer = policy.tokenizer.hugging_face
        self.batch_tokens = batch_tokens
        self.progress = progress
        self.limit: int = policy.max_tokens or DEFAULT_MAX_LENGTH

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """The token that is the context of a text without one."""
        token: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else token

    @property
    def max_length(self) -> int:
        """Maximum number of context tokens for the last token of a scored text.

        It is one less than the model's limit, because ``Policy.hidden`` reads the last token too.
        """
        return self.limit - 1

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize a text; special tokens are added unless it begins with the prefix token or the caller forbids it."""
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            options = {"add_special_tokens": False}
        tokens: list[int] = self.tokenizer.encode(string, **options)
        return tokens

    # Scoring

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation given its context, and whether greedy decoding generates it."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of each text; texts longer than the model's limit are scored in windows."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            pairs = get_rolling_token_windows(self.tok_encode(*request.args), self.prefix_token_id, self.max_length, 1)
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append((None, context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any) -> list[Any]:
        # Requests that differ only in their last token (such as the letters of the options) share one forward pass.
        readings: dict[tuple[int, ...], list[int]] = {}
        for index, (texts, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise PolicyError(
                    f"a continuation has {len(continuation)} tokens, and the model can score from 1 to "
                    f"{self.max_length}; leave the task out: {texts!r:.200}"
                )
            tokens = (context + continuation)[-(self.max_length + 1) :]
            readings.setdefault(tuple(tokens[:-1]), []).append(index)
        order = sorted(readings, key=lambda reading: (-len(reading), reading))

        def answer(mine: Sequence[tuple[int, ...]]) -> list[list[tuple[float, bool]]]:
            scores = []
            for batch in self._batches(mine, [len(reading) + 1 for reading in mine], "scored"):
                targets = [[requests[index][2] for index in readings[reading]] for reading in batch]
                scores += self._score(batch, targets)
            return scores

        results: list[Any] = [None] * len(requests)
        for reading, scores in zip(order, _shared(order, answer), strict=True):
            for index, score in zip(readings[reading], scores, strict=True):
                results[index] = score
        return results

    @torch.no_grad()
    def _score(
        self, readings: Sequence[tuple[int, ...]], targets: Sequence[Sequence[list[int]]]
    ) -> list[list[tuple[float, bool]]]:
        """Score the continuations of each reading (the tokens of a request without the last one)."""
        sequences: list[TokenSequence] = []
        rows: list[int] = []  # for each target token, the row of its hidden state
        start = 0
        for reading, each in zip(readings, targets, strict=True):
            longest = max(map(len, each))
            split = len(reading) - longest + 1
            sequences.append(TokenSequence(list(reading[:split]), [*reading[split:], each[0][-1]]))
            start += longest
            rows += [row for target in each for row in range(start - len(target), start)]
        flat = [target for each in targets for target in each]
        with evaluating(self.policy):
            hidden = self.policy.hidden(sequences)
            where = torch.tensor(rows, device=hidden.device)
            tokens = torch.tensor([token for target in flat for token in target], device=hidden.device)
            log_probabilities, greedy = self._likelihoods(hidden, where, tokens)
        parts = [each.split([len(target) for target in flat]) for each in (log_probabilities, greedy)]
        scores = ((part.sum().item(), bool(best.all())) for part, best in zip(*parts, strict=True))
        return [[next(scores) for _ in each] for each in targets]

    def _likelihoods(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of tokens `(N,)` given the hidden states in rows `(N,)`, and whether each is the argmax."""
        head = self.policy.head
        chunk = max(CHUNK_ELEMENTS // len(head.weight), 1)
        log_probabilities, greedy = [], []
        for some, targets in zip(rows.split(chunk), tokens.split(chunk), strict=True):
            logits = head(hidden[some])
            scores = logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
            log_probabilities.append(scores.double())
            greedy.append(logits.argmax(-1) == targets)
        return torch.cat(log_probabilities).cpu(), torch.cat(greedy).cpu()

    # Generation

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Continue each context up to a stop string, the end of the text or the maximum number of tokens."""
        results = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(index)
        for indices in groups.values():
            texts = self._write([requests[index].args[0] for index in indices], requests[indices[0]].args[1])
            for index, text in zip(indices, texts, strict=True):
                results[index] = text
        return results

    def _write(self, contexts: Sequence[str], arguments: dict[str, Any]) -> list[str]:
        options: dict[str, Any] = {**normalize_gen_kwargs(arguments)}
        max_tokens = options.pop("max_gen_toks")
        stop = handle_stop_sequences(options.pop("until", None), self.tokenizer.decode(self.eot_token_id))
        sampling = _sampling(options)
        room = self.limit - max_tokens
        if room <= 0:
            raise PolicyError(
                f"the task asks for up to {max_tokens} tokens, and the model reads at most {self.limit}, prompt "
                "included; leave the task out"
            )
        penalty = getattr(self.policy.model.generation_config, "repetition_penalty", None)
        if penalty not in (None, 1.0):
            warnings.warn(
                f"we generate without the repetition penalty of {penalty} in the model's generation config, which the "
                "harness's own backend applies even to greedy decoding; scores may differ from published ones",
                stacklevel=2,
            )
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))

        def answer(mine: Sequence[int]) -> list[str]:
            texts = []
            for batch in self._batches(mine, [len(prompts[index]) + max_tokens for index in mine], "written"):
                # A request's seed is its index, so repeated requests differ, and batching does not change the results.
                texts += self._complete([prompts[index] for index in batch], batch, max_tokens, sampling, stop)
            return texts

        results = [""] * len(prompts)
        for index, text in zip(order, _shared(order, answer), strict=True):
            results[index] = postprocess_generated_text(text, stop, think_end_token=None)
        return results

    def _complete(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], max_tokens: int, sampling: Sampling, stop: list[str]
    ) -> list[str]:
        """Generate in rounds: the engine stops only at tokens, so texts are searched for stop strings in between."""
        decode = self.policy.tokenizer.decode
        ends = {token for token in self.tokenizer.all_special_ids if self.tokenizer.decode(token) in stop}
        written: list[list[int]] = [[] for _ in prompts]
        going = list(range(len(prompts)))
        for start in range(0, max_tokens, ROUND_TOKENS):
            begun = [prompts[index] + written[index] for index in going]
            own = [seeds[index] * max_tokens + start for index in going]
            rollouts = generate(self.policy, begun, min(ROUND_TOKENS, max_tokens - start), sampling, own)
            unfinished = []
            for index, rollout in zip(going, rollouts, strict=True):
                tokens = list(takewhile(lambda token: token not in ends, rollout.completion))
                written[index] += tokens
                stopped = rollout.finished or len(tokens) < len(rollout.completion)
                if not stopped and not any(each in decode(written[index]) for each in stop):
                    unfinished.append(index)
            going = unfinished
            if not going:
                break
        return [decode(tokens) for tokens in written]

    def _batches(self, items: Sequence[Item], lengths: Sequence[int], verb: str) -> Iterator[Sequence[Item]]:
        """Batches of items sorted longest first: as many as fit into ``batch_tokens`` when padded to the first."""
        with Work(f"prior tasks: {verb}", len(items), "requests", shown=self.progress) as work:
            while work.done < len(items):
                batch = items[work.done : work.done + max(self.batch_tokens // lengths[work.done], 1)]
                yield batch
                work.advance(len(batch))


def _sampling(options: dict[str, Any]) -> Sampling:
    """The sampling settings in a task's generation arguments."""
    known = {"do_sample", "temperature", "top_p", "top_k", "min_p"}
    if unknown := sorted(options.keys() - known):
        raise PolicyError(
            f"the task asks for generation arguments that our engine does not have: {unknown}; leave the task out"
        )
    if not options["do_sample"]:
        return Sampling(temperature=0.0)
    return Sampling(**{name: value for name, value in options.items() if name != "do_sample"})


def _shared(items: Sequence[Item], answer: Callable[[Sequence[Item]], list[Answer]]) -> list[Answer]:
    """Answer all items; in a distributed run each process answers its share, and the answers are gathered."""
    if not torch.distributed.is_initialized():
        return answer(items)
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    shares: list[list[Answer]] = [[] for _ in range(size)]
    torch.distributed.all_gather_object(shares, answer(items[rank::size]))
    return [shares[index % size][index // size] for index in range(len(items))]
