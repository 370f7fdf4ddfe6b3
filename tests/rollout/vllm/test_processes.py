"""Two training processes and one server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed import get_rank, init_device_mesh, init_process_group
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import VLLMEngine, VLLMServer, generate
from tests.launch import in_processes
from tests.rollout.test_in_process import ragged_prompts
from tests.rollout.vllm.stand_in import standing_in


def check(model: str, url: str, deaf_url: str) -> None:
    init_process_group("gloo")
    rank = get_rank()
    policy = Policy.load(model)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    engine, prompts, seeds = VLLMServer(url), ragged_prompts()[rank::2], [10 * rank + index for index in range(6)]
    engine.start(policy, 40)
    for step in range(2):
        rollouts = engine.generate(policy, prompts, 6, Sampling(), seeds, step)
        expected = generate(policy, prompts, 6, Sampling(), seeds)
        assert [each.completion for each in rollouts] == [each.completion for each in expected]

    deaf = VLLMServer(deaf_url)
    deaf.start(policy, 40)
    with pytest.raises(RolloutError, match="though they were sent"):  # in both processes, of which one has sent
        deaf.generate(policy, prompts, 6, Sampling(), seeds, 0)
    with pytest.raises(RolloutError, match=r"VLLMEngine runs in one process, not in 2; set trainer.devices=1, or"):
        VLLMEngine().start(policy, 40)

    mesh = init_device_mesh("cpu", (2,))
    norm = policy.model.model.norm
    norm.weight = torch.nn.Parameter(distribute_tensor(norm.weight.detach(), mesh, [Shard(0)]))
    with pytest.raises(RolloutError, match=r"sharded over processes \(fsdp2\); train with strategy auto or ddp"):
        engine.start(policy, 40)


def test_each_process_asks_for_its_own_rollouts_and_the_first_sends_the_weights(
    family_folder: Callable[[str], Path],
) -> None:
    model = family_folder("llama")
    with standing_in(model) as server, standing_in(model) as deaf:
        deaf.deaf = True
        in_processes(2, check, str(model), server.url, deaf.url)
        methods = [method for method, _ in server.calls]
        assert methods.count("policy_settings") == 2
        assert methods.count("reload_weights") == methods.count("policy_sums") == 2  # one of each per step
        assert len(server.requests) == 2 * 12
        assert not deaf.requests
