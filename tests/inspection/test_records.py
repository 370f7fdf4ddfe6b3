from __future__ import annotations

import math

from tests.inspection.conftest import rollout_look, token_look


def test_mean_is_over_the_tokens_in_the_loss() -> None:
    tokens = [token_look(kl=9.0, trained=False), token_look(kl=1.0), token_look(kl=2.0)]
    assert rollout_look(tokens=tokens).mean_kl == 1.5
    assert rollout_look(tokens=tokens).about.endswith(", 3 tokens, KL 1.500 nats a token")
    assert rollout_look(tokens=tokens[:1]).about.startswith("trained on: no token of ")
    assert math.isnan(rollout_look(tokens=tokens[:1]).mean_kl)
