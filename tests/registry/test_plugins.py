from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import click
import pluggy
import pytest

import bdbench
from bdbench import BdbenchError, hookimpl
from bdbench.components import guard
from bdbench.display import tables
from bdbench.registry import hookspecs
from bdbench.registry.catalogue import catalogue
from bdbench.registry.plugins import KINDS, Plugins, installed
from tests.registry.conftest import Flat, Load, bdbench_register_defenses


def test_a_component_knows_where_it_came_from(plugins: Plugins, load: Load) -> None:
    load("one", bdbench_register_defenses=bdbench_register_defenses)
    found = plugins.get("defense", "flat")
    assert found.component is Flat
    assert (found.plugin.distribution, found.plugin.version) == ("one", "1.0")
    assert plugins.errors() == []


def test_an_import_that_fails_is_named_and_the_rest_works(plugins: Plugins, load: Load) -> None:
    broken = importlib.metadata.EntryPoint("broken", "no_such_module_anywhere", hookspecs.GROUP)
    plugins.load(broken)
    load("one", bdbench_register_defenses=bdbench_register_defenses)
    assert plugins.get("defense", "flat").component is Flat
    assert len(plugins.errors()) == 1
    assert "no_such_module_anywhere" in plugins.errors()[0]


def test_a_misspelt_hook_is_named(plugins: Plugins, load: Load) -> None:
    load("typo", bdbench_register_defences=bdbench_register_defenses)
    assert "bdbench_register_defences, which is no hook" in plugins.errors()[0]


def test_an_argument_that_a_hook_does_not_give_is_named(plugins: Plugins, load: Load) -> None:
    load("asks", bdbench_run_finished=hookimpl(specname="bdbench_run_finished")(lambda record, weather: None))
    assert plugins.errors() == [
        "plugin 'asks' of asks is not usable: its bdbench_run_finished takes 'weather', which the hook does not give: "
        "known: run_id, record"
    ]


def test_a_plugin_for_newer_hooks_is_refused_with_a_sentence(plugins: Plugins, load: Load) -> None:
    newer = hookspecs.VERSION + 1
    # What it needs does not exist here: neither this hook nor this argument may be what it is refused for.
    later = hookimpl(specname="bdbench_run_finished")(lambda record, weather: None)
    load("new", BDBENCH_HOOKS=newer, bdbench_register_oracles=hookimpl(lambda: []), bdbench_run_finished=later)
    load("one", BDBENCH_HOOKS=hookspecs.VERSION, bdbench_register_defenses=bdbench_register_defenses)
    assert plugins.errors() == [
        f"plugin 'new' of new is not usable: it needs version {newer} of bdbench's hooks, and bdbench "
        f"{bdbench.__version__} has version {hookspecs.VERSION}: expected a newer bdbench "
        "(pip install --upgrade bdbench)"
    ]
    assert [p.hooks_version for p in plugins.found] == [1, hookspecs.VERSION]
    assert plugins.get("defense", "flat").component is Flat


@pytest.mark.parametrize("asked", ["1", 0, 1.0, True, None])
def test_a_version_that_is_none_is_named(plugins: Plugins, load: Load, asked: Any) -> None:
    load("odd", BDBENCH_HOOKS=asked, bdbench_register_defenses=bdbench_register_defenses)
    assert f"its BDBENCH_HOOKS is {asked!r}: expected an integer from 1 to" in plugins.errors()[0]


def test_an_argument_that_is_added_to_a_hook_breaks_no_plugin() -> None:
    """Every hook gets one more argument; all plugins, which know nothing of it, work as before."""
    later = types.ModuleType("later_hookspecs")
    for name, spec in inspect.getmembers(
        hookspecs, lambda f: inspect.isfunction(f) and f.__name__.startswith("bdbench_")
    ):
        names = [*inspect.signature(spec).parameters, "added"]
        exec(f"def {name}({', '.join(names)}): ...", vars(later))
        setattr(later, name, hookspecs.hookspec(vars(later)[name]))
    example = Path(__file__).parents[1] / "plugin_packages" / "bdbench-example"
    own = importlib.metadata.distribution("bdbench").entry_points.select(group=hookspecs.GROUP)
    modules = [point.load() for point in own]
    sys.path.insert(0, str(example))
    try:
        modules.append(importlib.import_module("bdbench_example"))
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(later)
        for module in modules:
            manager.register(module)
        attacks = {a.name for found in manager.hook.bdbench_register_attacks(added=1) for a in found}
        assert {"badnets", "blend", "invert"} <= attacks
        assert manager.hook.bdbench_register_defenses(added=1)
        assert manager.hook.bdbench_run_finished(run_id="r", record={"id": "r"}, added=1) == []
        group = click.Group()
        manager.hook.bdbench_add_commands(cli=group, added=1)
        assert "hello" in group.commands
    finally:
        sys.path.remove(str(example))
        for name in [n for n in sys.modules if n.startswith("bdbench_example")]:
            del sys.modules[name]


def test_a_hook_that_registers_and_returns_nothing_is_named(plugins: Plugins, load: Load) -> None:
    """A forgotten return."""

    @hookimpl
    def bdbench_register_attacks() -> None:
        pass

    load("forgets", bdbench_register_attacks=bdbench_register_attacks)
    (said,) = plugins.errors()
    assert "forgets" in said and "it returned None: expected a list of what it registers" in said


def test_what_a_plugin_prints_at_import_is_no_output(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``bdbench list --json`` is read by programs."""
    (tmp_path / "made_talks.py").write_text("print('it talks')\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load(importlib.metadata.EntryPoint("talks", "made_talks", hookspecs.GROUP))
    said = capsys.readouterr()
    assert said.out == "" and "it talks" in said.err
    del sys.modules["made_talks"]


def test_two_components_of_one_name_are_an_error_that_names_both(plugins: Plugins, load: Load) -> None:
    load("one", bdbench_register_defenses=bdbench_register_defenses)
    load("two", bdbench_register_defenses=bdbench_register_defenses)
    with pytest.raises(BdbenchError, match="defense 'flat' is registered twice, by one .* and two"):
        plugins.get("defense", "flat")
    assert "one" in plugins.errors()[0] and "two" in plugins.errors()[0]
    # Each of the two is told of where plugins are listed, and a third is not.
    load("three")
    told = {plugin.distribution: plugins.errors_of(plugin) for plugin in plugins.found}
    assert told == {"one": plugins.errors(), "two": plugins.errors(), "three": []}


def test_a_plugin_without_a_hook_is_not_called_ok(
    plugins: Plugins, load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load("idle")
    load("busy", bdbench_register_defenses=bdbench_register_defenses)
    monkeypatch.setattr("bdbench.registry.catalogue.installed", lambda: plugins)
    tables.show_catalogue(catalogue(["plugins"]))
    states = [line.split("1.0  ")[1] for line in capsys.readouterr().out.splitlines() if "1.0  " in line]
    assert states == ["has no hook: it adds nothing", "ok"]


def test_a_reporter_that_fails_stops_nobody(plugins: Plugins, load: Load) -> None:
    seen = []

    @hookimpl
    def bdbench_run_finished(run_id: str) -> None:
        seen.append(run_id)

    @hookimpl(specname="bdbench_run_finished")
    def bad(run_id: str) -> None:
        raise RuntimeError("reporter")

    load("bad", bdbench_run_finished=bad)
    load("good", bdbench_run_finished=bdbench_run_finished)
    plugins.call("bdbench_run_finished", run_id="r", record={})
    assert seen == ["r"]
    assert "reporter" in plugins.errors()[0]


def test_all_that_fail_are_named(plugins: Plugins, load: Load) -> None:
    @hookimpl(specname="bdbench_run_started")
    def started(run_id: str) -> None:
        raise RuntimeError(f"at {run_id}")

    @hookimpl(specname="bdbench_run_finished")
    def finished(run_id: str) -> None:
        raise ValueError("after it")

    @hookimpl
    def bdbench_register_metrics() -> list[bdbench.Metric]:
        return [bdbench.Metric(name, lambda measured: 1 / 0) for name in ("one", "two")]

    load("bad", started=started, finished=finished, bdbench_register_metrics=bdbench_register_metrics)
    load("other", finished=finished)
    for run in ("r", "s"):
        plugins.call("bdbench_run_started", run_id=run, config={})
        for metric in plugins.registered("metric"):
            assert plugins.compute(metric, None) is None
        plugins.call("bdbench_run_finished", run_id=run, record={})
    told = [line.partition("is not usable: ")[2] for line in plugins.errors()]
    assert told == [
        # Of each the last.
        "bdbench_run_started: RuntimeError: at s", "metric one: ZeroDivisionError: division by zero",
        "metric two: ZeroDivisionError: division by zero", "bdbench_run_finished: ValueError: after it",
        "bdbench_run_finished: ValueError: after it",
    ]  # fmt: skip


def test_our_own_plugins_come_through_the_entry_points() -> None:
    found = {p.name: p for p in installed().found if p.distribution == "bdbench"}
    defenses = {"baselines", "mitigations", "inspection", "datamodel", "art"}
    assert set(found) == {"datasets", "models", "triggers", "backdoorbench", *defenses}
    for kind in KINDS:  # what fails in a hook is known once it was called
        installed().registered(kind)
    assert installed().errors() == []
    assert {"badnets", "blend", "none", "sig"} <= {r.name for r in installed().registered("attack")}


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(BdbenchError, match="unknown attack 'blnd': did you mean 'blend'"):
        installed().get("attack", "blnd")


def test_the_catalogue_says_what_an_attack_and_a_defense_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = catalogue(["attacks", "defenses", "models"])
    # There is a defense none as well.
    entries = {e["name"]: e for kind in ("models", "defenses", "attacks") for e in found[kind]}
    assert (entries["none"]["control"], entries["badnets"]["control"], entries["badnets"]["trains"]) == (
        True,
        False,
        False,
    )
    spectral = entries["spectral"]
    assert (spectral["stage"], spectral["access"]) == ("training set", ["training_set"])
    assert "assumption" in spectral and "stage" not in entries["badnets"] and "stage" not in entries["convnet"]
    made = {**spectral, "stage": "inputs", "access": ["clean_set"], "assumption": "a trigger outweighs all [else]"}
    bare = {**spectral, "stage": "model", "access": [], "assumption": ""}
    tables.show_catalogue(
        {"attacks": [entries["none"], {**entries["badnets"], "trains": True}], "defenses": [made, bare]}
    )
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "a control: nothing is attacked" in lines and "the attacker trains the model" in lines
    assert "stage: inputs; is given: clean set" in lines and "assumes: a trigger outweighs all [else]" in lines
    assert "stage: model; is given: nothing but the model" in lines


def test_every_defense_of_ours_says_what_it_assumes_and_where_it_is_from() -> None:
    entries = {e["name"]: e for e in catalogue(["defenses"])["defenses"]}
    assert len(entries) > 50
    for name, entry in entries.items():
        assert entry["assumption"].endswith(".") and len(entry["assumption"]) > 12, name
        # The floors and the ceiling are nobody's.
        assert bool(entry["paper"]) != (name in {"none", "random", "perfect-filter"}), name


def test_our_own_sentences_stand_as_they_are_and_others_name_their_component() -> None:
    ours, theirs = installed().component("defense", "random"), Flat()
    for component, said in ((ours, "no"), (theirs, "defense 'flat' of no distribution: no")):
        with pytest.raises(BdbenchError) as caught, guard.call(component):
            raise BdbenchError("no")
        assert installed().told(caught.value) == said
