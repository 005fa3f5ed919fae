"""Checks of reporters: modules, or objects, that implement some of the hooks on runs."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from typing import Any

import pluggy

from bdbench import hookspecs
from bdbench.testing import samples
from bdbench.testing.checks import check, expect


def _report(reporter: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Call its hooks as two runs do, a detector's and a mitigation's control, in a temporary working folder.

    Returns each record as it was and as it is afterwards.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(reporter)
    seen = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for detection in (True, False):
            record = samples.record(detection).to_dict()
            before = copy.deepcopy(record)
            run = record["id"]
            manager.hook.bdbench_run_started(run_id=run, config=record["config"])
            for stage, reused in (("victim", True), ("score" if detection else "repair", False)):
                manager.hook.bdbench_stage_finished(run_id=run, stage=stage, seconds=0.5, reused=reused)
            manager.hook.bdbench_run_finished(run_id=run, record=record)
            seen.append((before, record))
    return seen


@check("reporter")
def takes_every_run(reporter: Any) -> None:
    """Its hooks take a detector's run, and a mitigation's on a clean set, whose record has null where nothing applies.

    A reporter that fails is named and left out: its log would have holes where others have runs.
    """
    _report(reporter)


@check("reporter")
def leaves_the_record_as_it_was(reporter: Any) -> None:
    """It changes nothing in the config and the record that it is given.

    The same objects go to the next reporter, and the record to whoever asked for the run.
    """
    for before, after in _report(reporter):
        changed = [name for name in before if before[name] != after.get(name)]
        expect(before == after, f"changed: {', '.join(changed) or 'something was added'}")


@check("reporter")
def keeps_standard_output_clean(reporter: Any) -> None:
    """It writes nothing on standard output.

    ``bdbench run --json`` prints the records there, for other programs to read.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        _report(reporter)
    expect(not output.getvalue(), f"it printed {output.getvalue()[:60]!r}")
