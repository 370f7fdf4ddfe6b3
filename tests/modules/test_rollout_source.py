from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.modules import DistillationModule, TeacherShare
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import VLLMEngine, generate, own_seeds
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, ready
from tests.modules.dense import check, forward_kl, step, token_divergences, token_ids, weigh


def test_the_share_falls_in_a_straight_line() -> None:
    share = TeacherShare(start=1.0, end=0.25, steps=3)
    assert [share.count(8, step) for step in range(6)] == [8, 6, 4, 2, 2, 2]
    assert [TeacherShare().count(8, step) for step in (0, 50, 99, 100)] == [4, 2, 0, 0]


def test_the_teacher_answers_its_share_and_the_student_the_rest(
    words_module: Callable[..., DistillationModule],
) -> None:
    share = TeacherShare(0.5, 0.5)
    module = ready(words_module(DistillationModule, **SHOWN, sampling=Sampling(), teacher_share=share))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    torch.manual_seed(0)
    half, limit = len(EXAMPLES) // 2, module.max_completion_tokens
    written = []
    for policy, prompts in ((module.teacher.policy, TEACHER_PROMPTS[:half]), (module.policy, STUDENT_PROMPTS[half:])):
        ids = list(map(token_ids, prompts))
        written += [each.completion for each in generate(policy, ids, limit, Sampling(), own_seeds(len(ids)))]
    found = {item.example.id: item.student for item in group.items}
    assert [found[each.id].completion for each in EXAMPLES] == written
    assert [found[each.id].prompt for each in EXAMPLES] == list(map(token_ids, STUDENT_PROMPTS))
    check(module.policy, loss, weigh(token_divergences(module, group, forward_kl, TEACHER_PROMPTS), 0, "sequence"))


def test_the_share_is_that_of_the_optimizer_step(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = DistillationModule.teacher_responds

    def counted(module: DistillationModule, examples: Any) -> Any:
        asked.append(len(examples))
        return answer(module, examples)

    monkeypatch.setattr(DistillationModule, "teacher_responds", counted)
    module = words_module(DistillationModule, **SHOWN, teacher_share=TeacherShare(1.0, 0.0, steps=2))
    make_trainer(max_steps=3).fit(module, datamodule=words_data(batch_size=4, micro_batch_size=2))
    assert asked == [4, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rollout_source": "teacher", "teacher_share": TeacherShare()}, "but rollout_source=teacher; leave one out"),
        ({"engine": VLLMEngine(), "teacher_share": TeacherShare()}, "leave out teacher_share or engine=VLLMEngine"),
        ({"rollout_source": "demonstration", "engine": VLLMEngine()}, "samples from the student"),
    ],
)
def test_sources_that_do_not_go_together(
    arguments: dict[str, Any], message: str, words_module: Callable[..., DistillationModule], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        words_module(DistillationModule, **SHOWN, **arguments)
