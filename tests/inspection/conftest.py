from lightning_sdft.inspection import Answer, Candidate, RolloutLook, TokenLook
from tests.modules.conftest import words_data, words_module

__all__ = ["candidate", "rollout_look", "token_look", "words_data", "words_module"]


def candidate(text: str, probability: float = 0.5) -> Candidate:
    return Candidate(text, probability)


def token_look(text: str = "w1", kl: float = 0.0, trained: bool = True) -> TokenLook:
    return TokenLook(
        text, kl, 0.25, 0.75, [candidate("ours"), candidate("rare", 0.001)], [candidate("theirs")], trained
    )


def rollout_look(text: str = "hello", tokens: list[TokenLook] | None = None) -> RolloutLook:
    """An example all of whose texts are the same."""
    messages = [{"role": "user", "content": text}]
    answers = {"student, sampled": Answer(text, finished=False), "demonstration": Answer(text, finished=True)}
    return RolloutLook(text, messages, messages, answers, "student, sampled", tokens or [token_look(text)])  # type: ignore[arg-type]
