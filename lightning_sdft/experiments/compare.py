"""Compares methods: what each of them learns of a new task, and what it forgets.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.archive import check_archive, finish
from lightning_sdft.experiments.evidence.endpoint import Endpoint, named_endpoint
from lightning_sdft.experiments.plan import BASE, Method, Plan, Variant
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.report.results import Row, best_rate, records, write_hyperparameters
from lightning_sdft.experiments.runs.finished import Finished
from lightning_sdft.experiments.runs.lines import RunsLines
from lightning_sdft.experiments.runs.pool import Failure, perform_all
from lightning_sdft.experiments.runs.run import Outcome, PriorBenchmarks
from lightning_sdft.experiments.runs.starts import exported
from lightning_sdft.settings import Count, NonNegative, Seed, check_ranges

__all__ = ["compare"]


def compare(
    out: str,
    domains: list[str],
    methods: dict[str, Method],
    seeds: list[Seed],
    learning_rates: list[NonNegative] = [],  # noqa: B006  # jsonargparse shows it as it is
    seeded: list[str] = ["seed_everything", "data.init_args.shuffle_seed"],  # noqa: B006
    rate_seeds: Count | None = None,
    prior: PriorBenchmarks | None = None,
    reuse: list[str] = [],  # noqa: B006
    jobs: Count = 1,
    threads: Count = 1,
    title: str = "",
    endpoint: Endpoint | None = None,
    ceilings: list[str] = [],  # noqa: B006
    archive: str | None = None,
) -> list[Row]:
    """Compare methods on new tasks and on what they forget: tables and pictures as in the paper.

    Every method is trained on every domain with every seed and learning rate, each in an ordinary run of ``fit``. The
    checkpoint with the best validation accuracy is evaluated on the test split (``ModelCheckpoint`` with
    ``monitor: val/accuracy`` keeps it). The table shows each method at its best learning rate for the domain: the one
    with the best mean validation accuracy over the seeds with which all rates were tried, or the lower of two equal
    ones. The base model is evaluated, too.

    Give the arguments in a file with ``--config``; see ``configs/compare``. ``--out`` then has ``results.json`` (a
    row for each run), ``table5.md``, ``evidence.md`` and ``evidence.json`` (what may be said of the methods, by paired
    tests), ``pareto.png`` and ``pareto.svg`` (extra ``plot``), ``tensorboard`` with the tab HParams, and a folder for
    each run with its configs, log and checkpoints. The same command continues where it stopped: finished runs are never
    repeated, interrupted ones resume from their last checkpoint, and those that failed are tried again. Several
    commands may work on the same folder.

    Args:
        out: Folder of the results.
        domains: Names of the domains; they replace ``{domain}`` in the methods' parts.
        methods: Methods by name.
        seeds: Seeds with which each method is trained.
        learning_rates: Learning rates to try.
        seeded: Settings that are set to the seed.
        rate_seeds: Tune the learning rate on the first ``rate_seeds`` seeds; run the rest at the best rate. By default
            all rates are tried with all seeds.
        prior: Public benchmarks on which every trained model and the base model are evaluated.
        reuse: Folders of other comparisons, whose finished runs are used instead of repeated if all settings are the
            same. Make sure yourself that data and package are the same, too.
        jobs: Number of runs at once; with at least as many GPUs, each has one of its own.
        threads: CPU threads of each run.
        title: Title of the table and of the picture.
        endpoint: The comparison that all this is for, named before the results are there, so that its p-value stands as
            it is. By default the last method against the first one, on the new task.
        ceilings: Methods that are above what the others can be expected to reach, such as training on the data of all
            domains at once.
        archive: File to pack the experiment into, ending in ``.zip``: settings, versions, hardware, results and
            verdicts, from which ``lightning-sdft remake`` makes the tables again.

    Returns:
        A row for each run.

    Raises:
        SettingError: If the arguments do not go together, or ``out`` has the results of other runs.
    """
    check_ranges(compare, locals())
    plan = Plan(domains, methods, seeds, learning_rates, seeded, prior, rate_seeds)
    plan.check()
    check_archive(archive)
    named = named_endpoint(endpoint, ceilings, plan, Path(out))
    comparison = _Comparison(plan, Path(out), Finished(reuse), jobs, threads)
    comparison.perform()
    rows = sorted(comparison.rows, key=lambda row: (plan.order(row.method), row.variant))
    write_hyperparameters(rows, Path(out) / "tensorboard")
    folders = [row.variant.folder(Path(out) / "runs") for row in rows]
    experiment = Experiment.of("compare", plan, named, ceilings, title, folders)
    experiment.write(Path(out), records(rows))
    finish(Path(out), archive)
    return rows


class _Comparison:
    """The runs of a plan that have been performed so far."""

    def __init__(self, plan: Plan, out: Path, finished: Finished, jobs: int, threads: int) -> None:
        self.plan = plan
        self.out = out
        self.finished = finished
        self.jobs = jobs
        self.threads = threads
        self.rows: list[Row] = []
        self.lines = RunsLines(plan.size())
        self._begun: dict[Path, Variant] = {}

    def perform(self) -> None:
        """Perform every run as soon as those that it waits for have ended."""
        first = [BASE, *(name for name, method in self.plan.methods.items() if method.after is None)]
        folders = self._begin([variant for method in first for variant in self.plan.variants(method)])
        perform_all(
            folders, self.jobs, self.threads, lambda folder, what: self._ended(self._begun[folder], what), self.lines
        )

    def _begin(self, variants: Sequence[Variant]) -> list[Path]:
        """Make the folders of runs; if a run cannot start, begin the runs that waited for it as well."""
        folders: list[Path] = []
        for variant in variants:
            folder = self._make(variant)
            if isinstance(folder, Failure):
                self.lines.leave_out()
                folders += self._ended(variant, folder)
            else:
                self._begun[folder] = variant
                folders.append(folder)
        return folders

    def _make(self, variant: Variant) -> Path | Failure:
        """Make the folder of a run, or say why it cannot start."""
        folder = variant.folder(self.out / "runs")
        start = self._start(variant)
        if isinstance(start, Failure):
            return start
        try:
            run = self.plan.run(variant, start)
            run.write(folder)
        except SettingError as error:
            if start is None:
                raise
            # Now that runs that failed before have ended well, another learning rate may be the best to start from.
            return Failure(str(error))
        self.finished.copy(run, folder)
        return folder

    def _ended(self, variant: Variant, what: Outcome | Failure) -> list[Path]:
        """Keep the row of a run, and begin the runs that waited for it."""
        self.rows.append(Row.of(variant, what))
        print(f"[{len(self.rows)}/{self.plan.size()}] {self.rows[-1]}", flush=True)
        return self._begin(self._next(variant.domain, variant.method))

    def _next(self, domain: str, method: str) -> list[Variant]:
        """The runs that can begin now that a run of a method on a domain has ended."""
        ended = sum((row.variant.domain, row.variant.method) == (domain, method) for row in self.rows)
        tried = self._on(domain, method)
        if ended < len(tried):
            return []
        others = self.plan.others(method, {domain: best_rate(self.rows, domain, method)})
        if others and ended == len(tried):
            return others
        if ended < len(tried) + len(others):
            return []
        after = [name for name, each in self.plan.methods.items() if each.after == method]
        return [variant for name in after for variant in self._on(domain, name)]

    def _on(self, domain: str, method: str) -> list[Variant]:
        return [variant for variant in self.plan.variants(method) if variant.domain == domain]

    def _start(self, variant: Variant) -> Path | Failure | None:
        """The trained model that a run starts from; ``None`` for the one in its configs."""
        before = None if variant.method == BASE else self.plan.methods[variant.method].after
        if before is None:
            return None
        rate = best_rate(self.rows, variant.domain, before)
        if rate is None:
            return Failure(f"no run of {before} on {variant.domain} to start from")
        folder = Variant(variant.domain, before, rate, variant.seed).folder(self.out / "runs")
        outcome = Outcome.read(folder)
        if outcome is None:
            return Failure(f"{before} has failed on {variant.domain} at {rate:g} with seed {variant.seed}")
        return exported(folder, outcome)
