"""The one comparison that an experiment is made for, which is named before its results are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_sdft.errors import SettingError, did_you_mean
from lightning_sdft.experiments.evidence.result import NEW
from lightning_sdft.experiments.plan import BASE, Plan
from lightning_sdft.storage.atomic import write_text

__all__ = ["Endpoint", "named_endpoint"]

FILE = "endpoint.json"


@dataclass(frozen=True)
class Endpoint:
    """The comparison whose p-value is not corrected for others.

    Args:
        method: The method.
        against: The method, or ``base``, that it is compared with.
        measure: What is measured: ``new_task``, ``prior`` (the mean over all prior tasks), or the name of one set of
            questions.
        domain: The domain; by default the mean over all.
    """

    method: str
    against: str
    measure: str = NEW
    domain: str | None = None

    @classmethod
    def default(cls, methods: Sequence[str]) -> Endpoint:
        """The last method against the first one, or against the base model if there is only one, on the new task."""
        return cls(methods[-1], methods[0] if len(methods) > 1 else BASE)

    def check(self, methods: Sequence[str], domains: Sequence[str]) -> None:
        """Check the names.

        Raises:
            SettingError: If a method or domain is none of those that are compared, or both methods are the same.
        """
        known = {"method": methods, "against": [BASE, *methods], "domain": [*domains, None]}
        for name, values in known.items():
            value = getattr(self, name)
            if value not in values:
                names = [each for each in values if each is not None]
                raise SettingError(f"endpoint.{name}={value!r} is none of {names}{did_you_mean(value, names)}")
        if self.method == self.against:
            raise SettingError(f"endpoint compares {self.method!r} with itself; give another method as against")

    def __str__(self) -> str:
        where = "all domains" if self.domain is None else self.domain
        return f"{self.method} against {self.against}, {self.measure}, {where}"


def named_endpoint(given: Endpoint | None, ceilings: Sequence[str], plan: Plan, out: Path) -> Endpoint:
    """The endpoint of an experiment, which is written down, with whether a run had ended before it was named.

    Args:
        given: The one in the config; by default it is :meth:`Endpoint.default`.
        ceilings: Methods that are ceilings.
        plan: What is run.
        out: Folder of the results.

    Raises:
        SettingError: If a method or domain is none of those that are compared.
    """
    methods = list(plan.methods)
    for name in ceilings:
        if name not in methods:
            raise SettingError(f"ceilings: {name!r} is none of {methods}{did_you_mean(name, methods)}")
    endpoint = given or Endpoint.default(methods)
    endpoint.check(methods, plan.domains)
    file = out / FILE
    if not file.exists() or json.loads(file.read_text())["endpoint"] != asdict(endpoint):
        early = not any(out.glob("runs/**/outcome.json"))
        content = {"endpoint": asdict(endpoint), "in_config": given is not None, "before_results": early}
        write_text(file, json.dumps(content, indent=1) + "\n")
    return endpoint
