"""The log: loguru to stderr, synchronously, with everything of the standard library's loggers routed in.

`diagnose` stays off: it would print the values of variables, secrets among them. Libraries that log whole URLs, query
strings included, are heard from WARNING on only.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

import msgspec
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

_TALKATIVE = ("httpx2", "httpcore2", "h2", "hpack", "trio_websocket", "redis")
_CONTROLS = dict.fromkeys([*range(32), 127], "\N{REPLACEMENT CHARACTER}")
_PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "SUCCESS": 5, "INFO": 6}


def configure(*, level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002 - the config's word
    """Log to `stream` (stderr). `format`: `text`, `json`, or `auto`: for journald where it listens, else text."""
    stream = stream or sys.stderr
    logger.remove()
    logger.configure(patcher=_defuse)
    if format == "json":
        logger.add(lambda message: _write_json(message, stream), level=level, format="{message}", backtrace=False)
    elif format == "auto" and _journald_listens(stream):
        logger.add(lambda message: _write_journald(message, stream), level=level, format="{message}", backtrace=False)
    else:
        layout = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}"
        logger.add(stream, level=level, format=layout, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.NOTSET, force=True)
    logging.captureWarnings(capture=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _defuse(record: Record) -> None:
    """Control characters in what providers and clients say must not forge lines or steer terminals."""
    record["message"] = record["message"].translate(_CONTROLS)


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _PRIORITIES else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, record.getMessage())


def _write_json(message: Message, stream: TextIO) -> None:
    record: Record = message.record
    line = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name.lower(),
        "message": record["message"],
        **{name: value for name, value in record["extra"].items() if value is not None},
    }
    if record["exception"] is not None:
        line["traceback"] = str(message).partition("\n")[2]
    stream.write(msgspec.json.encode(line, enc_hook=str).decode() + "\n")
    stream.flush()


def _write_journald(message: Message, stream: TextIO) -> None:
    """Priorities as `<N>`; the time is journald's own, and each line of a traceback is a line of its own."""
    priority = _PRIORITIES.get(message.record["level"].name, 7)
    lines = str(message).rstrip("\n").split("\n")
    stream.write("".join(f"<{priority}>{line}\n" for line in lines))
    stream.flush()


def _journald_listens(stream: TextIO) -> bool:
    """Whether the stream goes to journald, by device and inode (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
