"""Logging as the daemon, the agent and the plugins do it: one line a record on standard error."""

from __future__ import annotations

import logging
import os
import sys


def set_up(name: str) -> logging.Logger:
    """Log to standard error from ``TELEPRESENCE_LOG`` (debug, info, warning, error; default info) on; return the root of ``name``."""
    wanted = os.environ.get("TELEPRESENCE_LOG", "info").upper()
    known = wanted in logging.getLevelNamesMapping()
    logging.basicConfig(
        stream=sys.stderr,
        level=wanted if known else "INFO",
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logger = logging.getLogger(name)
    if not known:
        logger.warning("TELEPRESENCE_LOG=%s is no level; use debug, info, warning or error", wanted)
    return logger
