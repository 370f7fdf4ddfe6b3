"""The command line: the commands, and the entry point."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from jsonargparse import auto_cli
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint import exit_code
from lightning_sdft.commands.complaints import did_you_mean
from lightning_sdft.commands.configs import configs
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.commands.export import export
from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.commands.judge import judge
from lightning_sdft.commands.noise import keep_quiet
from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.commands.prior import prior
from lightning_sdft.commands.questions import questions
from lightning_sdft.errors import Refusal, SettingError
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.continual import continual
from lightning_sdft.experiments.sweep import sweep
from lightning_sdft.storage.masking import masked_text
from lightning_sdft.trust import split_trust, trusting

__all__ = ["COMMANDS", "entry_point"]

COMMANDS: dict[str, Callable[..., object]] = {
    "compare": compare,
    "configs": configs,
    "continual": continual,
    "demonstrate": demonstrate,
    "export": export,
    "judge": judge,
    "prior": prior,
    "questions": questions,
    "sweep": sweep,
}
"""Subcommands that are plain functions, by name; the arguments of a function are the options of its command."""

DEBUG = "--debug"
"""Shows where an error comes from."""

SIGTERM_EXIT, SIGINT_EXIT = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""The exit codes that a shell and SLURM expect of a process that SIGTERM or Ctrl-C ended."""


class RefusedExit(SystemExit):
    """The end of a command that is refused: the text goes to stderr, and the exit code is 2, as argparse has it."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text
        print(text, file=sys.stderr)

    def __str__(self) -> str:
        return self.text


def run_command(command: Callable[..., object], arguments: list[str]) -> None:
    """Run a plain function with arguments from the command line."""
    auto_cli(command, args=arguments, as_positional=False, parser_class=CommandParser, description="")


def check_command(first: Sequence[str]) -> None:
    """Refuse a command that there is not.

    Args:
        first: The first argument, if there is one.

    Raises:
        SettingError: If it is neither an option nor a command.
    """
    names = [*SDFTCLI.subcommands(), *COMMANDS]
    for name in first:
        if not name.startswith("-") and name not in names:
            raise SettingError(f"there is no command {name}{did_you_mean(name, names)}; there are {', '.join(names)}")


def entry_point() -> None:
    """The console script."""
    keep_quiet()
    try:
        trust, arguments = split_trust([each for each in sys.argv[1:] if each != DEBUG])
        check_command(arguments[:1])
        if arguments and arguments[0] in COMMANDS:
            with trusting(*trust):
                run_command(COMMANDS[arguments[0]], arguments[1:])
        else:
            main(arguments, trust=trust, commands=COMMANDS)
    except Refusal as error:
        if DEBUG in sys.argv:
            raise
        raise RefusedExit(masked_text(f"error: {error}")) from error
    except SIGTERMException as error:
        _end(exit_code(error))
    except KeyboardInterrupt:
        _end(SIGINT_EXIT)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning has shut down, and exits with 1
            _end(SIGINT_EXIT)
        raise


def _end(code: int) -> NoReturn:
    """Exit; other processes than the first with 0, because a launcher would kill the first if they did not."""
    sys.exit(code if getattr(rank_zero_only, "rank", 0) == 0 else 0)


if __name__ == "__main__":
    entry_point()
