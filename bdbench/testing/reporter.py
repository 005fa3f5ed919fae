"""Checks of reporters: modules, or objects, that implement some of the hooks on runs."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import tempfile
from typing import Any

import pluggy

from bdbench.cells.stages import STAGES
from bdbench.registry import hookspecs
from bdbench.testing import records
from bdbench.testing.checks import check, expect


def _report(reporter: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Call its hooks as runs of all stages of defense do, attacked and controls, in a temporary working folder.

    Returns each record as it was and as it is afterwards.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(reporter)
    seen = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for stage, control in itertools.product(STAGES, (False, True)):
            record = records.record(stage, control).to_dict()
            before = copy.deepcopy(record)
            run = record["id"]
            manager.hook.bdbench_run_started(run_id=run, config=record["config"])
            for done, reused in (("victim", True), (records.own_stage(stage), False)):
                manager.hook.bdbench_stage_finished(run_id=run, stage=done, seconds=0.5, reused=reused)
            manager.hook.bdbench_run_finished(run_id=run, record=record)
            seen.append((before, record))
    return seen


@check("reporter")
def takes_every_run(reporter: Any) -> None:
    """Its hooks take runs of defenses of every stage, and controls; their records have null where nothing applies.

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
