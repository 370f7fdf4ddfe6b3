"""Defects that were found in TRL 1.16.0 by these procedures, and that are not to be found here.

Two more have their tests elsewhere: a teacher that a resumed run starts anew (``modules/test_resume.py``), and an
average of LoRA factors in the place of the average of their product.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.errors import DataError
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import Example, TokenSequence
from lightning_sdft.teacher import EMATeacher
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]


class Watch(Callback):
    """Keeps what the teacher reads, and the weights from which it and the student start."""

    def __init__(self) -> None:
        self.read: list[TokenSequence] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.student, self.teacher = (
            [parameter.detach().clone() for parameter in part.parameters()]
            for part in (pl_module.policy, pl_module.teacher)
        )
        hidden = pl_module.teacher.hidden

        def reading(sequences: Sequence[TokenSequence], prefix: Any) -> Any:
            self.read += sequences
            return hidden(sequences, prefix)

        pl_module.teacher.hidden = reading


# A long demonstration pushes the question out of the teacher's prompt


def long_example(length: int) -> Example:
    """An example with a demonstration of so many words."""
    return Example(str(length), [{"role": "user", "content": f"w41 w42 w{length}"}], " ".join(["w31"] * length))


def test_teacher_reads_question_and_demonstration_whole(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    examples = [long_example(length) for length in range(11, 31)]
    longest = 22  # of the demonstrations that fit
    overhead = len(["<user>", "w50", "w41", "w42", "w1", "w51", "w52", "<end>", "<assistant>"])
    module = words_module(SDFTModule, max_teacher_prompt_tokens=overhead + longest, over_budget="drop")
    watch = Watch()
    make_trainer(callbacks=[watch], max_steps=9).fit(module, datamodule=words_data(examples))
    decode = module.tokenizer.hugging_face.decode
    read = {decode(sequence.prompt) for sequence in watch.read}
    whole = {
        f"<user> w50 w41 w42 w{length} w51 {' '.join(['w31'] * length)} w52 <end> <assistant>"
        for length in range(11, longest + 1)
    }
    assert read == whole
    refusing = words_module(SDFTModule, max_teacher_prompt_tokens=overhead + longest)
    with pytest.raises(DataError, match=rf"8 of 20 examples are over a token budget, the first is '{longest + 1}'"):
        make_trainer(max_steps=1).fit(refusing, datamodule=words_data(examples))


# A teacher that is loaded from a path anew is not the student


def differences(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> list[float]:
    return [(mine - yours).abs().max().item() for mine, yours in zip(ours, theirs, strict=True)]


def test_teacher_of_a_module_from_a_checkpoint_starts_as_its_student(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(callbacks=[EMATeacher(0.1)], max_steps=3)
    trainer.fit(words_module(SDFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "stage.ckpt")
    module, watch = SDFTModule.load_from_checkpoint(tmp_path / "stage.ckpt"), Watch()
    averaged = [parameter.clone() for parameter in module.teacher.parameters()]
    make_trainer(callbacks=[watch], max_steps=1).fit(module, datamodule=words_data())
    assert not any(differences(watch.student, watch.teacher))
    assert any(differences(watch.teacher, averaged))  # nor is it the teacher of the stage before


def test_teacher_of_a_student_that_is_on_no_disk(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module, watch = words_module(SDFTModule, pretrained=False), Watch()
    torch.manual_seed(1)
    make_trainer(callbacks=[watch], max_steps=1).fit(module, datamodule=words_data())
    assert not any(differences(watch.student, watch.teacher))


# In bfloat16 an update at a rate of 0.01 rounds to nothing


def test_teacher_moves_wherever_a_bfloat16_student_does(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module, watch = words_module(SDFTModule, learning_rate=1e-3), Watch()
    trainer = make_trainer(callbacks=[watch, EMATeacher(0.01)], max_steps=50, precision="bf16-true")
    trainer.fit(module, datamodule=words_data())
    student, teacher = (
        torch.cat([(now != before).flatten() for now, before in zip(part.parameters(), start, strict=True)])
        for part, start in ((module.policy, watch.student), (module.teacher, watch.teacher))
    )
    assert student.float().mean() > 0.5
    assert not (student & ~teacher).any()


# A loss that holds every logit several times

MEMORY = """
import torch
from lightning_sdft.losses import ForwardKL, Head, distillation_loss
from tests.benchmarks.measure import meter

def ours(hidden, head, teacher_hidden, teacher_head, weights):
    return distillation_loss(hidden, Head(head), teacher_hidden, Head(teacher_head), weights, ForwardKL()).loss

def dense(hidden, head, teacher_hidden, teacher_head, weights):
    student = (hidden @ head.T).log_softmax(-1)
    teacher = (teacher_hidden @ teacher_head.T).log_softmax(-1)
    return ((teacher.exp() * (teacher - student)).sum(-1) * weights).sum()

def logits_held(loss, tokens, vocabulary, width):
    arguments = [torch.randn(rows, width).mul_(0.1) for rows in (tokens, vocabulary, tokens, vocabulary)]
    arguments[:2] = [each.requires_grad_() for each in arguments[:2]]
    with meter() as result:
        loss(*arguments, torch.full((tokens,), 1 / tokens)).backward()
    return (result.memory * 2**20 - 4 * vocabulary * width) / (4 * tokens * vocabulary)

torch.set_num_threads(1)
for loss in (ours, dense):
    logits_held(loss, 4, 16, 4)  # loads what is loaded lazily
print(logits_held(ours, 8192, 16384, 32), logits_held(dense, 512, 16384, 32))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell the peak")
def test_loss_holds_less_than_the_logits_once() -> None:
    """Peak memory beyond the head's gradient, in `4 N V` bytes; TRL's is 6.5, and 13.5 with Jensen-Shannon."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    ours, dense = map(float, run.stdout.split())
    assert dense > 4  # what the measurement is for
    assert ours < 0.6
