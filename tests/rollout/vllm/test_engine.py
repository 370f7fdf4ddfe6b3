"""What can be known of vLLM in this process where there is no vLLM; `make test-vllm` runs the rest."""

from __future__ import annotations

import pytest
import torch

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.rollout import VLLMEngine


def test_policy_on_another_device_than_the_first_is_refused(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "device", torch.device("cuda:1"))
    with pytest.raises(RolloutError, match=r"samples on the first device, but the policy is on cuda:1; .*CUDA_VISIBLE"):
        VLLMEngine().start(llama, 40)


def test_engine_that_never_started_can_be_stopped(llama: Policy) -> None:
    VLLMEngine().stop()
