"""Grades answers by a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Feedback, Grader
from lightning_sdft.trust import trusted_function

__all__ = ["PythonFunction"]


class PythonFunction(Grader):
    """Asks a function whether a response is right: ``is_right(response, reference) -> bool | None``.

    ``None`` means that it could not be graded. It may return a verdict with a message, such as ``(False, "2 of 3 tests
    fail")``, which is what :class:`SDPOModule` tells the teacher. The reference is whatever the reference column holds,
    and ``None`` without one. The function's package must be trusted, because importing it runs its code: ``--trust
    mylab``, in Python ``with lightning_sdft.trust.trusting("mylab")``.

    Args:
        function: Dotted path of the function, such as ``mylab.grading.is_right``.

    Raises:
        SettingError: If its package is not trusted, or there is no such function in it.
    """

    needs_reference = False

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self._function: Callable[..., Any] = trusted_function(function, "data.grader.function")

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the function says that a response is right.

        Raises:
            DataError: If it fails, or returns something else.
        """
        return self._ask(response, reference).correct

    def feedback(self, response: str, reference: Any) -> str:
        """What the function says about a wrong response."""
        return self._ask(response, reference).message

    def feedback_all(self, responses: Sequence[str], references: Sequence[Any]) -> list[Feedback]:
        """Ask the function once about each response."""
        return [self._ask(response, reference) for response, reference in zip(responses, references, strict=True)]

    def _ask(self, response: str, reference: Any) -> Feedback:
        try:
            verdict = self._function(response, reference)
        except Exception as error:
            raise DataError(
                f"the grader {self.function} failed with {type(error).__name__}: {error}, on the response "
                f"{response[:60]!r} to the reference {reference!r}; correct it, or return None for what it cannot grade"
            ) from error
        correct, message = verdict if isinstance(verdict, tuple) and len(verdict) == 2 else (verdict, "")
        known = correct is None or type(correct).__name__ in ("bool", "bool_")  # of NumPy
        if not known or not isinstance(message, str):
            raise DataError(
                f"the grader {self.function} returned {verdict!r}; return True, False or None, or one of these with a "
                'message, such as (False, "2 of 3 tests fail")'
            )
        if correct is None or correct:
            return Feedback(None if correct is None else True)
        return Feedback(False, message or super().feedback(response, reference))
