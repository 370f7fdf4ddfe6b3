"""Everything that the results of an experiment allow to say of its methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from lightning_sdft.experiments.evidence.contrast import Contrast, contrast, corrected
from lightning_sdft.experiments.evidence.endpoint import FILE, Endpoint
from lightning_sdft.experiments.evidence.matched import Matched, matched
from lightning_sdft.experiments.evidence.result import KEPT, NEW, Result, benchmarks
from lightning_sdft.experiments.plan import BASE

__all__ = ["TEACHER", "Ceiling", "Evidence", "Questions"]

TEACHER = "its teacher"
"""The name of the ceiling that a method's own teacher is."""


@dataclass(frozen=True)
class Questions:
    """What an experiment compares.

    Args:
        methods: Methods in their order.
        domains: Domains in their order.
        endpoint: The comparison that it is made for.
        ceilings: Methods that are above what the others can be expected to reach, such as training on all data at once.
        continued: Methods that start from what another one has trained, and not from the base model.
    """

    methods: Sequence[str]
    domains: Sequence[str]
    endpoint: Endpoint
    ceilings: Sequence[str] = ()
    continued: Sequence[str] = ()


@dataclass(frozen=True)
class Ceiling:
    """How much of the gap between the base model and a ceiling a method has closed on the new task.

    Args:
        domain: What was learned.
        method: The method.
        ceiling: The method that is the ceiling, or ``its teacher``.
        base: Accuracy of the base model, mean over seeds.
        accuracy: Accuracy of the method.
        top: Accuracy of the ceiling.
    """

    domain: str
    method: str
    ceiling: str
    base: float
    accuracy: float
    top: float

    @property
    def share(self) -> float | None:
        """The share of the gap that is closed; ``None`` if the ceiling is not above the base model."""
        return (self.accuracy - self.base) / (self.top - self.base) if self.top > self.base else None

    def record(self) -> dict[str, Any]:
        """The ceiling as JSON."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Evidence:
    """The tests of an experiment.

    Args:
        questions: What was compared.
        results: The results, of each method at its best learning rate.
        endpoint: The test that the experiment is made for; ``None`` if no seed allows it.
        tests: All others, corrected for their number.
        matched: What methods keep at equal accuracy on the new task.
        ceilings: How much of the gap to ceilings is closed.
        named: What is known of when the endpoint was named.
    """

    questions: Questions
    results: Sequence[Result]
    endpoint: Contrast | None
    tests: Sequence[Contrast]
    matched: Sequence[Matched]
    ceilings: Sequence[Ceiling]
    named: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, results: Sequence[Result], questions: Questions, out: Path, ways: Sequence[Result] | None = None
    ) -> Evidence:
        """Test what the results allow.

        Args:
            results: The results, of each method at its best learning rate, and of the base model.
            questions: What was compared.
            out: Folder of the experiment, in which its endpoint is written down.
            ways: What is compared at equal accuracy on the new task; by default the results.
        """
        found = {(domain, method): _of(results, domain, method) for domain, method in _pairs(questions)}
        named = json.loads((out / FILE).read_text()) if (out / FILE).exists() else {}
        first = questions.endpoint
        chosen = questions.domains if first.domain is None else [first.domain]
        mine, theirs = ({domain: found[domain, name] for domain in chosen} for name in (first.method, first.against))
        ways = results if ways is None else ways
        rest = [each for domain in questions.domains for each in _rest(found, domain, questions)]
        rest = [each for each in rest if (each.domain, each.method, each.against, each.measure) != _key(first, chosen)]
        return cls(
            questions,
            results,
            contrast(mine, theirs, first.measure),
            corrected(rest),
            [each for domain in _domains(ways) for each in _matched(ways, domain, questions)],
            [each for domain in questions.domains for each in _ceilings(found, domain, questions)],
            named,
        )

    def record(self) -> dict[str, Any]:
        """The evidence as JSON."""
        return {
            "endpoint": {
                **asdict(self.questions.endpoint),
                "in_config": self.named.get("in_config"),
                "before_results": self.named.get("before_results"),
                "test": None if self.endpoint is None else self.endpoint.record(),
            },
            "tests": [each.record() for each in self.tests],
            "matched": [each.record() for each in self.matched],
            "ceilings": [each.record() for each in self.ceilings],
            "without_verdicts": self.without_verdicts,
        }

    @property
    def without_verdicts(self) -> list[str]:
        """The models of which no verdicts were kept."""
        return [f"{each.method} on {each.domain}, seed {each.seed}" for each in self.results if not each.verdicts]

    def found(self, domain: str, method: str, against: str, measure: str) -> Contrast | None:
        """One of the tests."""
        asked = (domain, method, against, measure)
        tests = [*self.tests, *([] if self.endpoint is None else [self.endpoint])]
        return next((each for each in tests if (each.domain, each.method, each.against, each.measure) == asked), None)


def _pairs(questions: Questions) -> list[tuple[str, str]]:
    return [(domain, method) for domain in questions.domains for method in (BASE, *questions.methods)]


def _domains(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(each.domain for each in results))


def _of(results: Sequence[Result], domain: str, method: str) -> list[Result]:
    return [each for each in results if (each.domain, each.method) == (domain, method)]


def _key(endpoint: Endpoint, domains: Sequence[str]) -> tuple[str, str, str, str]:
    return "+".join(domains), endpoint.method, endpoint.against, endpoint.measure


def _rest(found: Mapping[tuple[str, str], Sequence[Result]], domain: str, questions: Questions) -> list[Contrast]:
    """The endpoint's method against each other one, and each method against the base model."""
    first = questions.endpoint.method
    pairs = [(first, other) for other in questions.methods if other != first]
    pairs += [(method, BASE) for method in questions.methods]
    tests = []
    for method, against in pairs:
        mine, theirs = found[domain, method], found[domain, against]
        for measure in (NEW, *benchmarks([*mine, *theirs]), KEPT):
            tests.append(contrast({domain: mine}, {domain: theirs}, measure))
    return [each for each in tests if each is not None]


def _matched(ways: Sequence[Result], domain: str, questions: Questions) -> list[Matched]:
    first, base = questions.endpoint.method, {each.seed: each.way for each in _of(ways, domain, BASE)}

    def from_start(method: str) -> list[Result]:
        """The results with the base model as the beginning of their way."""
        results = _of(ways, domain, method)
        if method in questions.continued:
            return results
        return [replace(each, way=[*base.get(each.seed, ())[:1], *each.way] if each.way else ()) for each in results]

    mine = from_start(first)
    measures = list(dict.fromkeys(name for each in mine for point in each.way for name in point.kept))
    others = [from_start(other) for other in questions.methods if other != first]
    compared = [matched(mine, each, name) for each in others for name in measures]
    return [each for each in compared if each is not None]


def _ceilings(found: Mapping[tuple[str, str], Sequence[Result]], domain: str, questions: Questions) -> list[Ceiling]:
    def accuracy(results: Sequence[Result]) -> float | None:
        values = [each.accuracies[NEW] for each in results if NEW in each.accuracies]
        return mean(values) if values else None

    base = accuracy(found[domain, BASE])
    ceilings = []
    for method in questions.methods:
        reached = accuracy(found[domain, method])
        taught = [each.teacher for each in found[domain, method] if each.teacher is not None]
        tops = {name: accuracy(found[domain, name]) for name in questions.ceilings if name != method}
        tops[TEACHER] = mean(taught) if taught else None
        for name, top in tops.items():
            if base is not None and reached is not None and top is not None:
                ceilings.append(Ceiling(domain, method, name, base, reached, top))
    return ceilings
