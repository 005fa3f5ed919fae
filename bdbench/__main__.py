"""The ``bdbench`` program: it can be stopped from the first moment on, before what it needs is loaded."""

from __future__ import annotations

from bdbench.host import stopping


def main() -> None:
    """Run the command line; a signal ends it with one line, see ``stopping``."""
    try:
        stopping.listen()
        from bdbench.cli import main as run

        try:
            run()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
            stopping.leave(code)
            raise
    except stopping.Stopped:
        stopping.goodbye()


if __name__ == "__main__":
    main()
