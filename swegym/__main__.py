"""`swegym` and `python -m swegym`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line. The user's mistakes end with one line and status 2, Ctrl-C with 130."""
    from swegym.cli import app
    from swegym.core.errors import SwegymError

    try:
        app()
    except SwegymError as error:
        if os.environ.get("SWEGYM_DEBUG"):
            raise
        sys.stderr.write(f"swegym: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `swegym ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.stderr.write("swegym: interrupted; what was finished is kept\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
