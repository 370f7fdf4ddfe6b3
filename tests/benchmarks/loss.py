"""The fused loss against TRL's two: forward KL, forward and backward pass, from hidden states.

TRL's SDFT trainer uses the dense loss. Its tiled kernel serves another trainer, and could serve this one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.measure import Row, in_turn, meter, report, run

VOCABULARY = 151_936


def problem(tokens: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and head of a student, of a teacher close to it, and weights."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator)
    head = torch.randn(VOCABULARY, width, generator=generator).mul_(2 / width**0.5)
    teacher_hidden = hidden + 0.3 * torch.randn(tokens, width, generator=generator)
    teacher_head = torch.randn(VOCABULARY, width, generator=generator).mul_(0.05 / width**0.5).add_(head)
    weights = torch.full((tokens,), 1 / tokens)
    return hidden.requires_grad_(), head.requires_grad_(), teacher_hidden, teacher_head, weights


def dense(hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor, weights: Tensor) -> Tensor:
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    student = torch.nn.functional.linear(hidden, head)
    with torch.no_grad():
        teacher = torch.nn.functional.linear(teacher_hidden, teacher_head)
    values: Tensor = compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=0.0)
    return (values * weights).sum()


def tiled(hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor, weights: Tensor) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    values, _ = ChunkedDivergenceFunction.apply(hidden, head, None, teacher_hidden, teacher_head, None, 0.0)
    return (values * weights).sum()


def ours(hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor, weights: Tensor) -> Tensor:
    from lightning_sdft.losses import ForwardKL, Head, distillation_loss

    return distillation_loss(hidden, Head(head), teacher_hidden, Head(teacher_head), weights, ForwardKL()).loss


SIDES = {"ours": ours, "dense": dense, "tiled": tiled}


def measure(side: str, tokens: int, width: int) -> dict[str, Any]:
    small = [torch.randn(2, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)]
    SIDES[side](*small, *(each.detach() for each in small), torch.ones(2)).backward()  # loads what is loaded lazily
    arguments = problem(tokens, width)
    with meter() as result:
        loss = SIDES[side](*arguments)
        loss.backward()
    gradients = [float(each.grad.norm()) for each in arguments[:2] if each.grad is not None]
    return {"seconds": result.seconds, "memory": result.memory, "loss": loss.item(), "gradients": gradients}


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark; the sides must agree before they are compared."""
    base = in_turn("loss", ["ours", "dense", "tiled"], repetitions, tokens=512, width=256)
    wide = in_turn("loss", ["ours", "dense"], repetitions, tokens=512, width=2048)
    long = {side: [run("loss", side=side, tokens=4096, width=256)] for side in ("ours", "tiled")}
    for results in (base, wide, long):
        check_equal(results)
    gradient = {width: VOCABULARY * width * 4 / 2**20 for width in (256, 2048)}
    beyond = [each["memory"] - gradient[256] for each in base["ours"]]
    setting = f"forward KL, forward and backward, float32, V={VOCABULARY:,}"
    result = []
    for peer, memory, seconds in (("dense", 0.20, 0.55), ("tiled", 0.45, 0.4)):
        for quantity, unit, must in (("memory", "MiB", memory), ("seconds", "s", seconds)):
            sides = [[each[quantity] for each in base[side]] for side in ("ours", peer)]
            name = f"loss, N=512, D=256: {'peak memory' if unit == 'MiB' else 'CPU time'}, peer TRL {peer}"
            result.append(Row(name, unit, *sides, must, setting))
    sides = [[each["memory"] for each in long[side]] for side in ("ours", "tiled")]
    result.append(Row("loss, N=4,096, D=256: peak memory, peer TRL tiled", "MiB", *sides, 0.45, setting))
    extra = "loss, {}: peak memory beyond the head's gradient, peer ours at N=512, D=256"
    for name, results, width in (("N=4,096, D=256", long, 256), ("N=512, D=2,048", wide, 2048)):
        own = [each["memory"] - gradient[width] for each in results["ours"]]
        result.append(Row(extra.format(name), "MiB", own, beyond, 1.15, setting))
    sides = [[each["seconds"] for each in wide[side]] for side in ("ours", "dense")]
    result.append(Row("loss, N=512, D=2,048: CPU time, peer TRL dense", "s", *sides, 1.1, setting))
    return result


def check_equal(results: dict[str, list[dict[str, Any]]]) -> None:
    """Loss and gradient norms agree to 1e-5."""
    first, *others = [each[0] for each in results.values()]
    for other in others:
        pairs = zip([first["loss"], *first["gradients"]], [other["loss"], *other["gradients"]], strict=True)
        if any(abs(ours - theirs) > 1e-5 * abs(theirs) for ours, theirs in pairs):
            raise SystemExit(f"the losses differ: {first} {other}")


if __name__ == "__main__":
    report(measure)
