"""`python -m creche`, and the `creche` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from creche.cli.app import main as run  # noqa: PLC0415 - Ctrl-C during the imports is quiet too
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
