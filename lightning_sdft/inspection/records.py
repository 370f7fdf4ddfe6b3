"""What is found out about a rollout, as text and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Message

__all__ = ["Answer", "Candidate", "RolloutLook", "TokenLook"]


@dataclass(frozen=True)
class Answer:
    """An answer as text, and whether it ended by itself."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Candidate:
    """A token that might come next, as text, and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class TokenLook:
    """What student and teacher say at a token of a rollout.

    Args:
        text: The token.
        kl: `KL(p_T || p_S)` there, in nats.
        student_entropy: Entropy of the student's distribution, in nats.
        teacher_entropy: Entropy of the teacher's.
        student: The student's likeliest tokens there, the likeliest first.
        teacher: The teacher's.
        trained: Whether the token is in the loss; ``skip_tokens`` leaves out the first.
    """

    text: str
    kl: float
    student_entropy: float
    teacher_entropy: float
    student: Sequence[Candidate]
    teacher: Sequence[Candidate]
    trained: bool = True


@dataclass(frozen=True)
class RolloutLook:
    """An example, how student and teacher answer it, and the tokens of the rollout that is trained on.

    Args:
        id: The example's name.
        prompt: The conversation that the student sees.
        shown: The conversation that the teacher sees.
        answers: Answers by who gave them and how.
        trained_on: Which of them the rollout is, or ``demonstration``.
        tokens: The tokens of the rollout.
    """

    id: str
    prompt: Sequence[Message]
    shown: Sequence[Message]
    answers: dict[str, Answer]
    trained_on: str
    tokens: Sequence[TokenLook]

    @property
    def about(self) -> str:
        """What the tokens are, and how far teacher and student are apart on them."""
        number = count_text(len(self.tokens), "token")
        if not any(token.trained for token in self.tokens):
            return f"trained on: no token of {self.trained_on}"
        return f"trained on: {self.trained_on}, {number}, KL {self.mean_kl:.3f} nats a token"

    @property
    def mean_kl(self) -> float:
        """KL per token that is in the loss, in nats; NaN if there is none."""
        values = [token.kl for token in self.tokens if token.trained]
        return sum(values) / len(values) if values else float("nan")
