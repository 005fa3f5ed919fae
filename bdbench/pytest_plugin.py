"""A pytest plugin: one test for each conformance check of everything that installed plugins register.

It is loaded in every pytest session, so it imports nothing until a test asks for ``bdbench_check``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bdbench.testing.cases import Case


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "bdbench_plugin(*names, using=()): make a test that takes bdbench_check of every conformance check of these "
        "plugins; using: components with parameters, such as 'blend:rate=0.1', in place of the defaults",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the fixture ``bdbench_check`` runs once for each check."""
    if "bdbench_check" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("bdbench_plugin")
    if marker is None or not marker.args:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: expected @pytest.mark.bdbench_plugin(NAME)")
    import os
    from pathlib import Path

    from bdbench.components.interfaces import Source
    from bdbench.errors import BdbenchError
    from bdbench.testing.cases import installed_cases

    root = os.environ.get("BDBENCH_DATA")
    source = Source(Path(root) if root else None)
    try:
        cases = installed_cases(marker.args, source=source, **marker.kwargs)
    except BdbenchError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    ids = [f"{case.title.replace(' ', '-')}-{case.check.name}".replace("'", "") for case in cases]
    metafunc.parametrize("bdbench_check", [_as_test(case) for case in cases], ids=ids)


def _as_test(case: Case) -> Callable[[], None]:
    from bdbench.testing.checks import Fault, NotChecked

    def run() -> None:
        __tracebackhide__ = True
        try:
            case.run()
        except NotChecked as reason:
            pytest.skip(str(reason))
        except Fault as fault:
            # What the component raised itself is shown with its traceback; what a check found needs none.
            if fault.__cause__ is not None:
                raise
            pytest.fail(str(fault), pytrace=False)

    return run
