"""Trains one model on several skills, one after another, to see what it keeps of the earlier ones.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.archive import check_archive, finish
from lightning_sdft.experiments.chains import BASE_STAGE, Chain, Stage
from lightning_sdft.experiments.evidence.endpoint import Endpoint, named_endpoint
from lightning_sdft.experiments.evidence.sequences import SEQUENCE
from lightning_sdft.experiments.plan import BASE, Method, Plan
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.runs.lines import RunsLines
from lightning_sdft.experiments.runs.pool import Failure, perform_all
from lightning_sdft.experiments.runs.run import Outcome, PriorBenchmarks, Run
from lightning_sdft.experiments.runs.starts import exported
from lightning_sdft.settings import Count, NonNegative, Seed, check_ranges

__all__ = ["continual"]


def continual(
    out: str,
    skills: list[str],
    methods: dict[str, Method],
    seeds: list[Seed],
    learning_rates: list[NonNegative] = [],  # noqa: B006  # jsonargparse shows it as it is
    seeded: list[str] = ["seed_everything", "data.init_args.shuffle_seed"],  # noqa: B006
    prior: PriorBenchmarks | None = None,
    jobs: Count = 1,
    threads: Count = 1,
    title: str = "",
    endpoint: Endpoint | None = None,
    ceilings: list[str] = [],  # noqa: B006
    archive: str | None = None,
) -> list[Stage]:
    """Learn skills one after another in one model, and see what is left of each (Fig. 3 of the paper).

    Each stage is an ordinary run of ``fit`` that starts from the weights at the end of the stage before. Optimizer and
    schedule start anew, and the teacher of SDFT starts from the student. All skills are evaluated during and after each
    stage, so data modules must log the accuracy of a skill under its name (``val/accuracy/<skill>``).

    Give the arguments in a file with ``--config``; see ``configs/continual``. ``--out`` then has ``results.json`` (a
    row for each stage of each sequence), ``matrix.md`` (accuracies after every stage, average accuracy, forgetting,
    backward and forward transfer), ``evidence.md`` and ``evidence.json`` (what may be said of the methods, by paired
    tests), ``curves.png`` and ``curves.svg`` (extra ``plot``), and a folder for each run. The same command continues
    where it stopped, as ``lightning-sdft compare`` does.

    Args:
        out: Folder of the results.
        skills: The skills in the order in which they are learned; they replace ``{domain}`` in the methods' parts.
        methods: Methods by name. A method with several learning rates is shown at the rate with the best mean accuracy
            over skills at the end, on the validation split.
        seeds: Seeds with which each sequence is trained.
        learning_rates: Learning rates to try.
        seeded: Settings that are set to the seed.
        prior: Public benchmarks on which the base model, and the model after each stage, are evaluated.
        jobs: Number of runs at once; with at least as many GPUs, each has one of its own.
        threads: CPU threads of each run.
        title: Title of the table and of the picture.
        endpoint: The comparison that all this is for, named before the results are there, so that its p-value stands as
            it is. By default the last method against the first one, on the mean over skills at the end.
        ceilings: Methods that are above what the others can be expected to reach, such as training on all skills at
            once.
        archive: File to pack the experiment into, ending in ``.zip``; see ``lightning-sdft compare --help``.

    Returns:
        A row for each stage.

    Raises:
        SettingError: If the arguments do not go together, or ``out`` has the results of other runs.
    """
    check_ranges(continual, locals())
    waiting = [name for name, method in methods.items() if method.after is not None]
    if waiting:
        raise SettingError(
            f"methods.{waiting[0]}.after: in a sequence each stage starts from the one before; leave it out"
        )
    plan = Plan(skills, methods, seeds, learning_rates, seeded, prior)
    plan.check()
    check_archive(archive)
    named = named_endpoint(endpoint, ceilings, replace(plan, domains=[SEQUENCE]), Path(out))
    sequences = _Sequences(plan, Path(out), jobs, threads)
    sequences.perform()
    rows = sorted(sequences.rows, key=lambda row: (plan.order(row.chain.method), row.chain, row.number))
    folders = [row.folder(Path(out) / "runs") for row in rows]
    experiment = Experiment.of("continual", plan, named, ceilings, title, folders)
    experiment.write(Path(out), [row.record() for row in rows])
    finish(Path(out), archive)
    return rows


@dataclass
class _Sequences:
    """The stages that have been performed so far."""

    plan: Plan
    out: Path
    jobs: int
    threads: int

    def __post_init__(self) -> None:
        self.rows: list[Stage] = []
        self.lines = RunsLines(len(self._chains(BASE_STAGE)) + len(self._chains(1)) * len(self.plan.domains))
        self._begun: dict[Path, tuple[Chain, int]] = {}

    def perform(self) -> None:
        """Perform the stages of all sequences, each as soon as the one before has ended; stage 0 is the base model."""
        first = [folder for number in (0, 1) for chain in self._chains(number) for folder in self._begin(chain, number)]
        perform_all(
            first, self.jobs, self.threads, lambda folder, what: self._ended(*self._begun[folder], what), self.lines
        )

    def _begin(self, chain: Chain, number: int) -> list[Path]:
        """Make the folder of a stage; where it cannot be started, neither can those that come after it."""
        start = self._start(chain, number)
        if isinstance(start, Failure):
            self.lines.leave_out()
            return self._ended(chain, number, start)
        folder = self._folder(chain, number)
        self._run(chain, number, start).write(folder)
        self._begun[folder] = (chain, number)
        return [folder]

    def _ended(self, chain: Chain, number: int, what: Outcome | Failure) -> list[Path]:
        """Keep the row of a stage, and begin the next."""
        skill = None if number == BASE_STAGE else self.plan.domains[number - 1]
        self.rows.append(Stage.of(chain, number, skill, self.plan.domains, what, self._folder(chain, number)))
        print(self.rows[-1], flush=True)
        return [] if number in (BASE_STAGE, len(self.plan.domains)) else self._begin(chain, number + 1)

    def _chains(self, number: int) -> list[Chain]:
        methods = [BASE] if number == BASE_STAGE else self.plan.methods
        return sorted({Chain.of(variant) for method in methods for variant in self.plan.variants(method)})

    def _folder(self, chain: Chain, number: int) -> Path:
        skill = None if number == BASE_STAGE else self.plan.domains[number - 1]
        return chain.stage_folder(self.out / "runs", number, skill)

    def _start(self, chain: Chain, number: int) -> Path | Failure | None:
        """The model at the end of the stage before; ``None`` for the one in the configs."""
        if number <= BASE_STAGE + 1:
            return None
        folder = self._folder(chain, number - 1)
        outcome = Outcome.read(folder)
        return Failure(f"stage {number - 1} has failed") if outcome is None else exported(folder, outcome)

    def _run(self, chain: Chain, number: int, start: Path | None) -> Run:
        """The run of a stage, which evaluates all skills."""
        skills = self.plan.domains
        first, *others = [skills[max(number - 1, 0)], *(each for each in skills if each != skills[max(number - 1, 0)])]
        run = self.plan.run(chain.variant(first), start)
        also = [self.plan.run(chain.variant(skill)).parts for skill in others]
        return replace(run, checkpoint="last", evaluate_also=also)
