"""Log lines of the supervisor's process tree: plain text or JSON, one write each, on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        where = record.name.removeprefix("shmq.")
        text = f"{stamp}.{int(record.msecs):03d} {record.levelname.lower():7} {where}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 6), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), "pid": record.process,
        }  # fmt: skip
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class _OneWrite(logging.Handler):
    """Whole records in one write, so that lines of several processes never mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except OSError:
            self.handleError(record)


def configure(log_format: str) -> None:
    """Send shmq's own log lines to stderr; users' loggers stay as their modules set them up."""
    handler = _OneWrite()
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    root = logging.getLogger("shmq")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    sys.stderr.flush()
