"""The process that runs one task: `python -m netpress.runs.workers.working`, with the task as a line of standard input.

It says on standard error what a run says, and how it ended as a line of JSON on standard output: {"error": null}, or a
message and whether the user wrote what is wrong.
"""

import json
import os
import signal
import sys
import threading

from netpress.errors import Failure, NetpressError, UserError
from netpress.process.console import Console
from netpress.process.interruption import Interrupted, listening
from netpress.process.memory import keep_freed_memory
from netpress.process.waiting import wait_briefly


def main() -> int:
    """Run the task of standard input; the exit code."""
    line = sys.stdin.readline()
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    error: NetpressError | None = None
    code = 0
    with listening():
        try:
            _work(line)
        except NetpressError as raised:
            error, code = raised, raised.exit_code
        except Interrupted as request:
            error, code = Failure(str(request)), request.exit_code
        except MemoryError:
            error, code = Failure("out of memory; try a smaller batch_size or fewer images"), 1
        except OSError as raised:
            error, code = Failure(f"{raised.filename or 'a file'}: {raised.strerror or raised}"), 1
    message = None if error is None else str(error)
    print(json.dumps({"error": message, "wrong": isinstance(error, UserError)}), flush=True)
    return code


def _work(line: str) -> None:
    wait_briefly()
    keep_freed_memory()
    from netpress.runs.workers.tasks import read_task  # which imports torch

    read_task(line, Console(stream=sys.stderr, interval=60.0)).run()


def _end_with_the_asker() -> None:
    """Ask this process to end when nobody holds the other end of standard input any more."""
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
