from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout import VLLMServer, generate
from tests.conftest import STOP_IDS, move_adapter
from tests.rollout.test_in_process import ragged_prompts
from tests.rollout.vllm.stand_in import StandIn, standing_in

SEEDS = [2**62 - 1 - index for index in range(12)]


@pytest.fixture
def server(family_folder: Callable[[str], Path]) -> Iterator[StandIn]:
    with standing_in(family_folder("llama")) as server:
        yield server


def started(server: StandIn, policy: Policy, **settings: str) -> VLLMServer:
    engine = VLLMServer(server.url, **settings)
    engine.start(policy, 40)
    return engine


def perturb(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)


def close(ours: list[Rollout], theirs: list[Rollout]) -> bool:
    return [(each.prompt, each.completion, each.finished) for each in ours] == [
        (each.prompt, each.completion, each.finished) for each in theirs
    ]


@pytest.mark.parametrize(
    "sampling", [Sampling(), GREEDY, Sampling(0.7, top_p=0.9), Sampling(top_k=3), Sampling(min_p=0.2)]
)
def test_rollouts_are_those_of_the_policy(sampling: Sampling, server: StandIn, llama: Policy) -> None:
    """The stand-in samples as the policy does in process: so all that is sent must mean the same there."""
    perturb(llama)
    engine = started(server, llama)
    ours = engine.generate(llama, ragged_prompts(), 9, sampling, SEEDS, 0)
    expected = generate(llama, ragged_prompts(), 9, sampling, SEEDS)
    assert close(ours, expected)
    assert {each.finished for each in ours} == {True, False}
    for one, other in zip(ours, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    assert not engine.exact


def test_an_adapter_is_in_the_weights_that_are_sent(server: StandIn, llama: Policy) -> None:
    before = generate(llama, ragged_prompts(), 9, GREEDY)
    add_adapter(llama.model, LoRA(rank=2, target_modules=["q_proj", "down_proj", "lm_head"]))
    move_adapter(llama.model)
    ours = started(server, llama).generate(llama, ragged_prompts(), 9, GREEDY, SEEDS, 0)
    assert close(ours, generate(llama, ragged_prompts(), 9, GREEDY))
    assert not close(ours, before)


def test_adapter_that_parts_tied_weights_is_refused(family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder("qwen2")))
    add_adapter(policy.model, LoRA(rank=2, target_modules=["embed_tokens"]))
    message = "treats head and embedding of Qwen2ForCausalLM as one tied weight"
    with standing_in(family_folder("qwen2")) as server, pytest.raises(RolloutError, match=message):
        started(server, policy)


def test_token_ids_go_in_and_come_out(server: StandIn, llama: Policy) -> None:
    started(server, llama).generate(llama, [[2, 11, 3]], 5, Sampling(), [7], 0)
    (request,) = server.requests
    assert request["prompt"] == [2, 11, 3]
    assert (request["max_tokens"], request["seed"], request["logprobs"]) == (5, 7, 0)
    assert request["stop_token_ids"] == sorted(STOP_IDS)
    assert request["return_token_ids"] is True


def test_weights_are_sent_once_per_optimizer_step(server: StandIn, llama: Policy) -> None:
    engine = started(server, llama)
    for step in (0, 0, 1, 1, 1, 2):
        engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], step)
    assert [method for method, _ in server.calls].count("reload_weights") == 3
    engine.start(llama, 40)  # another run, whose steps are counted anew
    engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 2)
    assert [method for method, _ in server.calls].count("reload_weights") == 4


def test_weights_that_did_not_arrive_are_an_error(server: StandIn, llama: Policy) -> None:
    engine = started(server, llama)
    engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 0)
    server.deaf = True
    engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 1)  # nothing has changed, so nothing is missing
    perturb(llama)
    with pytest.raises(RolloutError, match="does not have the weights of the policy though they were sent"):
        engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 2)


def test_prefixes_that_other_weights_have_computed_are_not_read(
    server: StandIn, llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, prompts = started(server, llama), ragged_prompts()
    before = engine.generate(llama, prompts, 9, Sampling(), SEEDS, 0)
    perturb(llama)
    after = engine.generate(llama, prompts, 9, Sampling(), SEEDS, 1)
    assert close(after, generate(llama, prompts, 9, Sampling(), SEEDS))
    assert not close(after, before)
    assert len({request["cache_salt"] for request in server.requests}) == 2
    assert len(server.prefixes) == 2 * len({tuple(prompt) for prompt in prompts})

    # Without the salt they would be read.
    monkeypatch.setattr(engine, "send_weights", lambda policy: VLLMServer.send_weights(engine, policy) and "salt")
    before = engine.generate(llama, prompts, 9, Sampling(), SEEDS, 2)
    perturb(llama)
    assert close(engine.generate(llama, prompts, 9, Sampling(), SEEDS, 3), before)


@pytest.mark.parametrize("place", [None, "given"])
def test_file_of_the_weights_is_gone_afterwards(
    place: str | None, server: StandIn, llama: Policy, tmp_path: Path
) -> None:
    folder = {} if place is None else {"folder": str(tmp_path)}
    started(server, llama, **folder).generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 0)
    (path,) = [Path(kwargs["weights_path"]) for method, kwargs in server.calls if method == "reload_weights"]
    assert not path.exists()
    assert place is None or path.parent == tmp_path


def test_weights_are_sent_in_the_servers_precision_with_a_head_of_their_own(
    server: StandIn, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, llama: Policy
) -> None:
    """vLLM keeps a repacked copy of a tied head on CPUs, which stays as it was unless a head is sent."""
    tied = Policy.load(str(family_folder("qwen2")))
    assert tied.config.tie_word_embeddings
    sent: dict[str, torch.Tensor] = {}
    monkeypatch.setattr("lightning_sdft.rollout.vllm.server.save_file", lambda tensors, path: sent.update(tensors))
    monkeypatch.setattr("lightning_sdft.rollout.vllm.server.check_weights", lambda *_: "same")
    monkeypatch.setattr(server, "call", lambda method, kwargs: {})
    engine = VLLMServer(server.url)
    monkeypatch.setattr(engine, "_call", lambda *_, **__: [])
    engine._dtype = "bfloat16"
    engine.send_weights(tied)
    assert {tensor.dtype for tensor in sent.values()} == {torch.bfloat16}
    assert torch.equal(sent["lm_head.weight"], sent["model.embed_tokens.weight"])
    assert len({tensor.data_ptr() for tensor in sent.values()}) == len(sent)


def test_server_that_cannot_read_the_file_says_where_it_is(
    server: StandIn, llama: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = started(server, llama, folder=str(tmp_path))
    server.answers["/collective_rpc"] = (500, b'{"error": {"message": "no such folder"}}')
    with pytest.raises(RolloutError, match=rf"no such folder. It must be able to read {tmp_path}.* set engine.folder"):
        engine.generate(llama, [[2, 11, 3]], 2, Sampling(), [7], 0)


# Servers that will not do


def test_no_server_says_how_to_start_one(llama: Policy) -> None:
    with pytest.raises(RolloutError) as error:
        VLLMServer("http://127.0.0.1:1").start(llama, 40)
    said = str(error.value)
    assert "the vLLM server at http://127.0.0.1:1 does not answer" in said
    assert "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs" in said
    assert "--worker-extension-cls lightning_sdft.rollout.vllm.worker.PolicyWorker --max-model-len 40" in said


def test_server_without_our_extension_is_refused(server: StandIn, llama: Policy) -> None:
    server.answers["/collective_rpc"] = (500, b'{"error": {"message": "no attribute policy_settings"}}')
    with pytest.raises(
        RolloutError, match=r"no attribute policy_settings; it must be started in this way: VLLM_SERVER"
    ):
        VLLMServer(server.url).start(llama, 40)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_tokens": 39}, "reads at most 39 tokens, but the token budgets allow 40; .*--max-model-len 40"),
        ({"log_probabilities": "raw_logprobs"}, "gives raw_logprobs, which are not the log-probabilities of"),
        ({"shape": {"model_type": "llama", "vocab_size": 65}}, "serves {.*65}, the policy is {.*'vocab_size': 64"),
    ],
)
def test_server_with_other_settings_is_refused(
    settings: dict[str, object], complaint: str, server: StandIn, llama: Policy
) -> None:
    server.settings = settings
    with pytest.raises(RolloutError, match=complaint):
        VLLMServer(server.url).start(llama, 40)


def test_server_of_another_model_is_refused(server: StandIn, family_folder: Callable[[str], Path]) -> None:
    with pytest.raises(RolloutError, match=r"serves {'model_type': 'llama', .* the policy is {'model_type': 'qwen2'"):
        VLLMServer(server.url).start(Policy.load(str(family_folder("qwen2"))), 40)


def test_completion_that_the_server_truncates_is_an_error(
    server: StandIn, llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, complete = started(server, llama), server.complete
    monkeypatch.setattr(server, "complete", lambda body: complete({**body, "max_tokens": 3}))
    with pytest.raises(RolloutError, match="truncated a completion at 3 tokens, where 9 were asked for"):
        engine.generate(llama, ragged_prompts(), 9, Sampling(), SEEDS, 0)


def test_completion_without_tokens_is_an_error(server: StandIn, llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}}]}
    monkeypatch.setattr(server, "complete", lambda body: empty)
    with pytest.raises(RolloutError, match="truncated a completion at 0 tokens"):
        started(server, llama).generate(llama, [[2, 11, 3]], 9, Sampling(), [1], 0)


def test_answer_without_token_ids_is_an_error(server: StandIn, llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "complete", lambda body: {"choices": [{"text": "w1 w2", "logprobs": None}]})
    with pytest.raises(RolloutError, match="answers without token ids or log-probabilities; it is of another version"):
        started(server, llama).generate(llama, [[2, 11, 3]], 9, Sampling(), [1], 0)
