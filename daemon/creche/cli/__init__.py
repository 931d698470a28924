"""The command line: one module per group of commands, loaded when its command is called.

Results go to standard output, everything else to standard error. With --json every command prints one JSON value
per line, as the API gives it.

Exit codes:

  0    done; with wait and submit --wait: every task succeeded
  1    a task ended other than succeeded; serve: the daemon could not start
  2    the command line or an input file is wrong; nothing was done
  3    the daemon refused
  4    the daemon cannot be reached
  5    the time given with --timeout ran out
  6    a task is unknown: whether its job exists must be decided with `creche resolve`
  78   the configuration cannot be used
  130  interrupted
  141  nobody reads the output any more
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended. Of several tasks the worst counts: refused, then unknown, then not succeeded."""

    OK = 0
    NOT_SUCCEEDED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    UNKNOWN = 6
    CONFIG = 78
    INTERRUPTED = 130
    CLOSED = 141


_SEVERITY = (Exit.OK, Exit.NOT_SUCCEEDED, Exit.UNKNOWN, Exit.REFUSED)


def worse(one: Exit, other: Exit) -> Exit:
    """Of two ends of a command with several tasks, the one that counts."""
    return max(one, other, key=_SEVERITY.index)


def exit_of(status: str) -> Exit:
    """What a task at rest means for the exit code."""
    return {"succeeded": Exit.OK, "unknown": Exit.UNKNOWN}.get(status, Exit.NOT_SUCCEEDED)
