from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bdbench import BdbenchError
from bdbench.registry.plugins import installed
from bdbench.testing import Fault, check_plugin
from bdbench.testing.cases import cases_of, installed_cases
from tests.testing.broken import expect_complete

_HOOK = "from bdbench import hookimpl\n\n@hookimpl\ndef "
MODULES = {
    "sad": "raise ImportError('libsad is not there')\n",
    "newer": "BDBENCH_HOOKS = 99\n",
    "empty": "def bdbench_register_attacks():\n    return []\n",
    "twin": f"{_HOOK}bdbench_register_attacks():\n    from bdbench_triggers.blend import Blend\n    return [Blend]\n",
    "heavy": f"import pandas\n{_HOOK}bdbench_run_finished():\n    pass\n",
    "late": f"{_HOOK}bdbench_register_attacks():\n    import pandas\n    return []\n",
    "slow": f"{_HOOK}bdbench_add_commands(cli):\n    import pandas\n",
    "bossy": f"{_HOOK}bdbench_add_commands(cli):\n    @cli.command()\n    def run():\n        pass\n",
    "sound": f"{_HOOK}bdbench_add_commands(cli):\n    @cli.command()\n    def sound():\n        pass\n",
}
# (the check that finds it, the plugin, what the check says it found)
BROKEN = [
    ("loads-and-registers", "sad", "ImportError: libsad is not there"),
    ("loads-and-registers", "newer", "it needs version 99 of bdbench's hooks"),
    ("implements-a-hook", "empty", "no hook at all"),
    ("names-are-its-own", "twin", "attack 'blend' is registered twice, by bdbench (triggers) and bdbench-twin (twin)"),
    ("imports-nothing-heavy", "heavy", "it imports pandas"),
    ("imports-nothing-heavy", "late", "it imports pandas"),
    ("imports-nothing-heavy", "slow", "it imports pandas"),
    ("commands-replace-none-of-bdbenchs", "bossy", "it replaces run"),
]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of MODULES as installed distributions, here and in other processes."""
    for name, text in MODULES.items():
        (tmp_path / f"bdbench_{name}.py").write_text(text)
        info = tmp_path / f"bdbench_{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bdbench-{name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[bdbench]\n{name} = bdbench_{name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(("check", "name", "found"), BROKEN)
def test_a_broken_plugin_is_found(check: str, name: str, found: str) -> None:
    (case,) = (c for c in installed_cases([name]) if c.check.name == check)
    with pytest.raises(Fault) as caught:
        case.run()
    assert found in str(caught.value)


@pytest.mark.usefixtures("made")
def test_a_sound_plugin_passes_by_either_name() -> None:
    check_plugin("sound")
    check_plugin("bdbench-sound")
    with pytest.raises(BdbenchError, match="unknown plugin 'sund': did you mean 'sound'"):
        check_plugin("sund")


@pytest.mark.usefixtures("made")
def test_every_check_finds_something() -> None:
    (sound,) = (p for p in installed().found if p.name == "sound")
    expect_complete("plugin", sound, BROKEN)
    assert cases_of("plugin", sound)
