"""The policy as the harness sees it, against transformers directly and against the harness's own backend."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from torch.distributed import init_process_group

from lightning_sdft.errors import PolicyError
from lightning_sdft.evaluation import harness
from lightning_sdft.evaluation.harness import PolicyLM
from lightning_sdft.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer
from tests.conftest import STOP_IDS, make_model, make_tokenizer
from tests.launch import in_processes

ORDINARY = [index for index in range(59) if index % 10 != 5]  # the others end a response


@pytest.fixture
def policy(policy: Policy) -> Policy:
    """Each family with the words' own tokenizer, which transformers does not read back for every one."""
    policy.tokenizer = Tokenizer(make_tokenizer(), STOP_IDS)
    return policy


def words(generator: random.Random, count: int) -> str:
    return " ".join(f"w{generator.choice(ORDINARY)}" for _ in range(count))


def pairs(count: int = 24, longest: int = 20, seed: int = 0) -> list[tuple[str, str]]:
    """Contexts and continuations: without context, with trailing spaces, and with one context for several."""
    generator = random.Random(seed)
    made = [("", "w1 w2 w3"), ("w1 w2  ", "w3"), ("w1", " w1"), ("w1", " w2"), ("w1", " w2 w3")]
    while len(made) < count:
        context = words(generator, generator.randint(1, longest))
        made += [(context, " " + words(generator, generator.randint(1, 4))) for _ in range(2)]
    return made


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, each if isinstance(each, tuple) else (each,), 0) for each in arguments]  # type: ignore[arg-type]


def their_lm(policy: Policy, **options: Any) -> HFLM:
    # Their cache confuses positions where one text is split into context and continuation in two ways.
    return HFLM(policy.model, tokenizer=policy.tokenizer.hugging_face, batch_size=3, logits_cache=False, **options)


def dense_score(policy: Policy, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """From the logits of all positions, in one row, in float64."""
    tokens = torch.tensor([context + continuation])
    with torch.no_grad():
        logits = policy.model.eval()(input_ids=tokens, use_cache=False).logits[0].double()
    predicted = logits.log_softmax(-1)[len(context) - 1 : -1]
    target = torch.tensor(continuation)
    return predicted.gather(1, target[:, None]).sum().item(), bool((predicted.argmax(-1) == target).all())


def agree(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> None:
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_scores_equal_the_whole_logits(policy: Policy) -> None:
    encode = policy.tokenizer.hugging_face.encode
    end = [policy.tokenizer.hugging_face.eos_token_id]
    expected = [dense_score(policy, encode(context) or end, encode(continuation)) for context, continuation in pairs()]
    agree(PolicyLM(policy, batch_tokens=64).loglikelihood(requests("loglikelihood", pairs())), expected)


def test_scores_equal_those_of_the_harness_itself(policy: Policy) -> None:
    asked = requests("loglikelihood", pairs(longest=90))  # longer than the 64 tokens that the model reads
    # Their limit is of what is fed, which leaves out the last token; ours feeds it too.
    agree(PolicyLM(policy).loglikelihood(asked), their_lm(policy, max_length=63).loglikelihood(asked))


def test_greedy_continuations_are_told_from_others(llama: Policy) -> None:
    tokenizer, asked = llama.tokenizer.hugging_face, []
    for context, _ in pairs(seed=1):
        context = context or "w1"
        tokens = tokenizer.encode(context)
        for _ in range(3):
            with torch.no_grad():
                tokens.append(int(llama.model.eval()(torch.tensor([tokens])).logits[0, -1].argmax()))
        best = tokens[-3:]
        first, last = [(best[0] + 1) % 64, *best[1:]], [*best[:-1], (best[-1] + 1) % 64]
        asked += [(context, f" {tokenizer.decode(each)}") for each in (best, first, last)]
    flags = [greedy for _, greedy in PolicyLM(llama).loglikelihood(requests("loglikelihood", asked))]
    assert flags == [True, False, False] * len(pairs(seed=1))


def test_requests_that_differ_in_the_last_token_are_read_once(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    hidden = Policy.hidden
    monkeypatch.setattr(
        Policy, "hidden", lambda self, sequences: read.append(len(sequences)) or hidden(self, sequences)
    )
    asked = requests("loglikelihood", [("w1 w2 w3", f" w{letter}") for letter in (6, 7, 8, 9)] + [("w1 w2", " w3 w6")])
    scores = PolicyLM(llama).loglikelihood(asked)
    assert read == [1]
    encode = llama.tokenizer.hugging_face.encode
    agree(
        scores, [dense_score(llama, encode(context), encode(continuation)) for context, continuation in pairs_of(asked)]
    )


def pairs_of(asked: list[Instance]) -> list[tuple[str, str]]:
    return [request.args for request in asked]  # type: ignore[misc]


@pytest.mark.parametrize("budget", [1, 50, 10**6])
def test_batches_and_chunks_do_not_matter(budget: int, llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests("loglikelihood", pairs())
    expected = PolicyLM(llama).loglikelihood(asked)
    monkeypatch.setattr(harness, "CHUNK_ELEMENTS", 3 * 64)
    agree(PolicyLM(llama, batch_tokens=budget).loglikelihood(asked), expected)


@pytest.mark.parametrize("length", [1, 63, 64, 200])
def test_rolling_score_equals_that_of_the_harness_itself(length: int, policy: Policy) -> None:
    texts = requests("loglikelihood_rolling", [words(random.Random(length), length), "w1 w2 w3", ""])
    theirs = their_lm(policy, max_length=63).loglikelihood_rolling(texts)
    assert PolicyLM(policy).loglikelihood_rolling(texts) == pytest.approx(theirs, abs=1e-3)
    assert theirs[1] == pytest.approx(dense_score(policy, [4], [6, 7, 8])[0], abs=1e-4)
    assert theirs[2] == 0.0


def check_texts(policy: Policy, until: Any) -> set[int]:
    """Compare texts; returns their lengths."""
    policy.model.generation_config.eos_token_id = [4]
    policy.tokenizer.stop_ids = {4}
    contexts = [context or "w9" for context, _ in pairs(10, longest=80)]
    arguments = {"until": until, "max_gen_toks": 24, "do_sample": False}
    asked = requests("generate_until", [(context, dict(arguments)) for context in contexts])
    theirs = HFLM(policy.model, tokenizer=policy.tokenizer.hugging_face, batch_size=1).generate_until(asked)
    assert PolicyLM(policy, batch_tokens=200).generate_until(asked) == theirs
    return {len(text.split()) for text in theirs}


@pytest.mark.parametrize("until", [[], "w33 w", ["<user>", "w17", "w28"]])
def test_text_equals_that_of_the_harness_itself(until: Any, llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ROUND_TOKENS", 7)
    lengths = check_texts(llama, until)
    assert max(lengths) == 24 if until == [] else len(lengths) > 1


def test_text_of_each_family_equals_that_of_the_harness_itself(policy: Policy) -> None:
    assert max(check_texts(policy, [f"w{number}" for number in range(10, 18)])) > 1


def test_rows_that_have_stopped_write_no_further(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ROUND_TOKENS", 4)
    llama.tokenizer.stop_ids = {4}
    rows: list[int] = []
    generate = harness.generate
    monkeypatch.setattr(harness, "generate", lambda *args: rows.append(len(args[1])) or generate(*args))
    text = PolicyLM(llama).generate_until(requests("generate_until", [("w1", {"until": [], "max_gen_toks": 12})]))[0]
    assert rows == [1, 1, 1]
    rows.clear()
    stop = text.split()[1]
    asked = requests("generate_until", [("w1", {"until": [stop], "max_gen_toks": 12})])
    assert PolicyLM(llama).generate_until(asked) == [text.split(stop)[0]]
    assert rows == [1]


def test_special_token_as_stop_string_ends_the_text(llama: Policy) -> None:
    arguments = {"until": [], "max_gen_toks": 12}
    llama.tokenizer.stop_ids = {4}
    (text,) = PolicyLM(llama).generate_until(requests("generate_until", [("w1", arguments)]))
    stop = text.split()[1]
    llama.tokenizer.hugging_face.add_special_tokens({"additional_special_tokens": [stop]})  # decoding leaves them out
    asked = requests("generate_until", [("w1", {**arguments, "until": [stop]})])
    assert PolicyLM(llama).generate_until(asked) == [text.split()[0]]


def test_requests_with_different_arguments_keep_their_places(llama: Policy) -> None:
    lengths = [1, 6, 2, 6, 1]
    llama.tokenizer.stop_ids = {4}
    asked = [(f"w{index + 1}", {"until": [], "max_gen_toks": count}) for index, count in enumerate(lengths)]
    texts = PolicyLM(llama).generate_until(requests("generate_until", asked))
    assert [len(text.split()) for text in texts] == lengths
    assert texts == [PolicyLM(llama).generate_until(requests("generate_until", [each]))[0] for each in asked]


def test_sampled_texts_differ_and_can_be_repeated(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    llama.tokenizer.stop_ids = {4}
    monkeypatch.setattr(harness, "ROUND_TOKENS", 5)
    arguments = {"until": [], "max_gen_toks": 20, "do_sample": True, "temperature": 100.0}
    asked = requests("generate_until", [("w1", dict(arguments))] * 4)
    texts = PolicyLM(llama).generate_until(asked)
    assert len(set(texts)) == 4
    assert PolicyLM(llama, batch_tokens=1).generate_until(asked) == texts
    assert all(len(set(text.split())) > 12 for text in texts)  # no round draws what the one before it drew


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_gen_toks": 64}, r"up to 64 tokens, and the model reads at most 64, prompt included"),
        ({"max_gen_toks": 4, "num_beams": 3}, r"arguments that our engine does not have: \['num_beams'\]"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: dict[str, Any], message: str, llama: Policy) -> None:
    with pytest.raises(PolicyError, match=message):
        PolicyLM(llama).generate_until(requests("generate_until", [("w1", arguments)]))


def test_continuation_that_cannot_be_scored_is_refused(llama: Policy) -> None:
    with pytest.raises(PolicyError, match="a continuation has 64 tokens, and the model can score from 1 to 63"):
        PolicyLM(llama).loglikelihood(requests("loglikelihood", [("w1", " w2" * 64)]))


def test_repetition_penalty_of_the_model_is_not_applied_and_said_so(llama: Policy) -> None:
    asked = requests("generate_until", [("w1", {"until": [], "max_gen_toks": 8})])
    expected = PolicyLM(llama).generate_until(asked)
    llama.model.generation_config.repetition_penalty = 1.05
    with pytest.warns(UserWarning, match=r"without the repetition penalty of 1.05"):
        assert PolicyLM(llama).generate_until(asked) == expected


def test_beginning_of_sequence_is_added_as_the_tokenizer_does(llama: Policy) -> None:
    tokenizer = make_tokenizer(eos_token="<end>", pad_token="<pad>", bos_token="<user>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<user> $A", pair="<user> $A $B", special_tokens=[("<user>", 2)]
    )
    llama.tokenizer.hugging_face = tokenizer
    lm = PolicyLM(llama)
    assert lm.tok_encode("w1") == lm.tok_encode("<user> w1") == [2, 6]
    assert lm.tok_encode("w1", add_special_tokens=False) == [6]
    asked = requests("loglikelihood", pairs())
    agree(lm.loglikelihood(asked), their_lm(llama).loglikelihood(asked))


def test_policy_is_left_as_it_was(llama: Policy) -> None:
    llama.train()
    llama.model.base_model.layers[0].eval()
    modes = [part.training for part in llama.modules()]
    lm = PolicyLM(llama)
    lm.loglikelihood(requests("loglikelihood", pairs()))
    lm.generate_until(requests("generate_until", [("w1", {"max_gen_toks": 4})]))
    assert [part.training for part in llama.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llama.parameters())


def share() -> None:
    policy = Policy(make_model("llama"), Tokenizer(make_tokenizer(), STOP_IDS))
    alone = [PolicyLM(policy).loglikelihood(requests("loglikelihood", pairs(count))) for count in (1, 24)]
    written = requests("generate_until", [(f"w{index}", {"max_gen_toks": 5}) for index in range(5)])
    texts = PolicyLM(policy).generate_until(written)
    init_process_group("gloo")
    read: list[int] = []
    hidden = policy.hidden
    policy.hidden = lambda sequences: read.append(len(sequences)) or hidden(sequences)  # type: ignore[method-assign,func-returns-value]
    for expected, count in zip(alone, (1, 24), strict=True):
        agree(PolicyLM(policy).loglikelihood(requests("loglikelihood", pairs(count))), expected)
    assert 0 < sum(read) < 20
    assert PolicyLM(policy).generate_until(written) == texts


def test_processes_share_the_requests() -> None:
    in_processes(2, share)
