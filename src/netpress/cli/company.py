"""A command that several processes were started for, as by `torchrun -m netpress run ...`: the first does it.

The others are its helpers: they read no options, write nothing and print nothing, and end as it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from netpress.errors import UserError
from netpress.process.launch import rank_and_size

if TYPE_CHECKING:
    from netpress.process.team import Team

SHARED = ("run", "apply")
"""Commands that several processes work on together."""


@contextmanager
def in_company() -> Iterator[None]:
    """Within, this process does what the command says; a helper does its part instead, and exits."""
    rank, size = rank_and_size()
    if size == 1:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told in a sentence, or not at all
    from netpress.process.team import dismiss, follow

    if rank:
        from netpress.process.interruption import listening
        from netpress.training.together.helping import serve

        with listening():
            code = follow(serve)
        os._exit(code)  # threads of a broken connection would abort an orderly exit; a helper has nothing open
    code = 1
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        dismiss(code)


def refuse_company(command: str | None) -> None:
    """Raise UserError for a command that is for one process, and was given to several."""
    size = rank_and_size()[1]
    if size > 1 and command not in SHARED:
        raise UserError(
            f"netpress {command}: is for one process, and torchrun started {size}; several train together in "
            "`netpress run` and `netpress apply`"
        )


def refuse_company_for(what: str) -> None:
    """Raise UserError where several processes were started for what is several runs."""
    size = rank_and_size()[1]
    if size > 1:
        raise UserError(
            f"{what}: is several runs, and torchrun starts {size} processes for one; run it without torchrun, with "
            f"--workers {size} or --cluster"
        )


def lead(device: str) -> "Team | None":
    """The team that trains together, led by this process; None where it was started alone."""
    if rank_and_size()[1] == 1:
        return None
    from netpress.process import team
    from netpress.process.devices import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda":
        team.use_own_gpu()
    return team.lead(chosen)
