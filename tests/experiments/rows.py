"""Rows of a comparison, written by hand."""

from __future__ import annotations

from lightning_sdft.experiments.plan import Variant
from lightning_sdft.experiments.report.results import Row
from lightning_sdft.experiments.runs.pool import Failure
from lightning_sdft.experiments.runs.run import Outcome


def row(
    method: str,
    rate: float | None,
    seed: int,
    validation: float | None = 0.5,
    new: float = 0.5,
    prior: dict[str, float] | None = None,
    domain: str = "double",
) -> Row:
    """A run that has ended well."""
    prior = {"copy": 1.0, "average": 1.0} if prior is None else prior
    metrics = {"test/accuracy": new, **{f"test/prior/{name}": value for name, value in prior.items()}}
    metrics |= {"test/accuracy/double": new, "test/prior_low/copy": 0.0}
    return Row.of(Variant(domain, method, rate, seed), Outcome(validation, metrics, 4, None, 1.5, 300.0))


def failed(method: str, rate: float | None, seed: int, domain: str = "double") -> Row:
    """A run that has failed."""
    return Row.of(Variant(domain, method, rate, seed), Failure("killed by SIGKILL"))
