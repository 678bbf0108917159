"""`swegym` and `python -m swegym`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType


def _as_interrupt(signal_number: int, frame: FrameType | None) -> None:
    """A polite kill ends like Ctrl-C, so that sandboxes and actors are closed as well."""
    signal.raise_signal(signal.SIGINT)


def _first_cause(error: BaseException) -> BaseException:
    """The error inside (nested) exception groups, as task groups raise them."""
    return _first_cause(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _say(line: object) -> None:
    sys.stderr.write(f"swegym: {line}\n")


def main() -> None:
    """Run the command line. The user's mistakes end with one line and status 2, Ctrl-C with 130."""
    from swegym.cli import app
    from swegym.core.errors import SwegymError

    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        app()
    except SystemExit as ended:
        if ended.code == 130:
            _say("interrupted; what was finished is kept")
        raise
    except (Exception, BaseExceptionGroup) as error:
        cause = _first_cause(error)
        if isinstance(cause, KeyboardInterrupt):
            _say("interrupted; what was finished is kept")
            sys.exit(130)
        if os.environ.get("SWEGYM_DEBUG") or not isinstance(cause, SwegymError | OSError):
            raise
        if isinstance(cause, SwegymError):
            _say(cause)
            sys.exit(cause.exit_code)
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        _say(f"{cause.strerror}: {cause.filename or 'the run folder or a temporary folder'}; what was finished is kept")
        sys.exit(2)


if __name__ == "__main__":
    main()
