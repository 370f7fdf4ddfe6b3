"""What an experiment compares and where it was performed, in a file that its tables can be made from again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.evidence.endpoint import Endpoint
from lightning_sdft.experiments.evidence.evidence import Questions
from lightning_sdft.experiments.plan import Plan
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.run import plain
from lightning_sdft.storage.atomic import write_text
from lightning_sdft.storage.masking import masked

__all__ = ["Experiment"]

FILE, RESULTS = "experiment.json", "results.json"


@dataclass(frozen=True)
class Experiment:
    """An experiment, apart from its results.

    Args:
        command: The command that has performed it.
        arguments: Its arguments, but for those that say where and how many runs at once.
        endpoint: The comparison that it is made for.
        provenance: Versions, commit and hardware: each that its runs had, and how many of them.
    """

    command: Literal["compare", "continual"]
    arguments: Mapping[str, Any]
    endpoint: Endpoint
    provenance: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(
        cls,
        command: Literal["compare", "continual"],
        plan: Plan,
        endpoint: Endpoint,
        ceilings: Sequence[str],
        title: str,
        folders: Sequence[Path],
    ) -> Experiment:
        """The experiment of a plan.

        Args:
            command: See :class:`Experiment`.
            plan: What was run.
            endpoint: See :class:`Experiment`.
            ceilings: Methods that are ceilings.
            title: Title of tables and pictures.
            folders: The folders of its runs.
        """
        names = "domains" if command == "compare" else "skills"
        arguments = {"title": title, names: list(plan.domains), **asdict(plan), "endpoint": asdict(endpoint)}
        arguments |= {"ceilings": list(ceilings)}
        left_out = {"domains"} if command == "continual" else set()
        left_out |= {"rate_seeds"} if command == "continual" or plan.rate_seeds is None else set()
        kept = {name: plain(value) for name, value in arguments.items() if name not in left_out}
        return cls(command, masked(kept), endpoint, _provenance(folders))

    def write(self, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the experiment and its results.

        Args:
            out: Folder of the results.
            rows: The results, as JSON.
        """
        write_text(out / RESULTS, json.dumps(rows, indent=1) + "\n")
        write_text(out / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, out: Path) -> tuple[Experiment, list[Mapping[str, Any]]]:
        """The experiment of a folder and its results.

        Raises:
            SettingError: If there is none.
        """
        for name in (FILE, RESULTS):
            if not (out / name).is_file():
                raise SettingError(f"{out} has no {name}, which compare and continual write when all runs have ended")
        content = json.loads((out / FILE).read_text(encoding="utf-8"))
        endpoint = Endpoint(**content.pop("endpoint"))
        return cls(**content, endpoint=endpoint), json.loads((out / RESULTS).read_text(encoding="utf-8"))

    @property
    def title(self) -> str:
        """Title of tables and pictures."""
        return str(self.arguments["title"])

    @property
    def methods(self) -> list[str]:
        """Methods in their order."""
        return list(self.arguments["methods"])

    @property
    def domains(self) -> list[str]:
        """Domains or skills in their order."""
        return list(self.arguments["domains" if self.command == "compare" else "skills"])

    def questions(self, domains: Sequence[str]) -> Questions:
        """What is tested.

        Args:
            domains: The domains of the results.
        """
        continued = [name for name, method in self.arguments["methods"].items() if method["after"] is not None]
        return Questions(self.methods, domains, self.endpoint, self.arguments["ceilings"], continued)


def _provenance(folders: Sequence[Path]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for folder in folders:
        if found := Details.read(folder).provenance:
            text = json.dumps(found, sort_keys=True)
            counts[text] = counts.get(text, 0) + 1
    return [{**json.loads(text), "runs": count} for text, count in sorted(counts.items())]
