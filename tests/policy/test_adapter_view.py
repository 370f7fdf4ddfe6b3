from __future__ import annotations

import pytest
import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import STUDENT, LoRA, add_adapter
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import generate
from tests.conftest import move_adapter
from tests.policy.test_policy import SEQUENCES


@pytest.fixture
def adapted(llama: Policy) -> Policy:
    add_adapter(llama.model, LoRA(rank=2, target_modules=["q_proj", "lm_head"]))
    move_adapter(llama.model)
    return llama


def test_view_with_the_adapter_in_use_is_the_policy_without_gradient(adapted: Policy) -> None:
    view = AdapterView(adapted, STUDENT)
    hidden = adapted.hidden(SEQUENCES)
    assert hidden.requires_grad
    assert torch.equal(view.hidden(SEQUENCES), hidden)
    assert not view.hidden(SEQUENCES).requires_grad
    assert torch.equal(view.head(hidden), adapted.head(hidden))
    ours, theirs = (generate(each, [[2, 11, 3]], 8, Sampling(), seeds=[1]) for each in (view, adapted))
    assert ours == theirs


def test_view_without_an_adapter_has_the_head_of_the_base(adapted: Policy) -> None:
    view = AdapterView(adapted, None)
    assert view.head.low_rank is None
    assert view.head.weight is adapted.head.weight
    assert adapted.head.low_rank is not None


def test_view_shares_model_tokenizer_and_device(adapted: Policy) -> None:
    view = AdapterView(adapted, None)
    assert view.model is adapted.model
    assert (view.tokenizer, view.device, view.max_tokens) == (adapted.tokenizer, adapted.device, adapted.max_tokens)
