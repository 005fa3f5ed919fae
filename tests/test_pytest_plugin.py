from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TEST = """
import pytest

@pytest.mark.bdbench_plugin({arguments})
def test_conformance(bdbench_check):
    bdbench_check()
"""
# Broken before the tests are collected: one by what it gives, one by what it raises.
BREAK = """
import numpy as np
from bdbench_baselines.low_loss import LowLoss
from bdbench_baselines.random import Random

Random.score = lambda self, view, tools: np.zeros(3)
LowLoss.score = lambda self, view, tools: 1 / 0
"""


# In a process of its own: a session inside this one forgets what it imported, which torch does not survive.
def run(pytester: pytest.Pytester, arguments: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(TEST.format(arguments=arguments))
    return pytester.runpytest_subprocess("--strict-markers", *options)


def test_one_test_for_each_check(pytester: pytest.Pytester) -> None:
    result = run(pytester, '"triggers", using=["sig:rate=0.1"]', "-v", "-k", "sig-labels or plugin-triggers-loads")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_conformance[[]plugin-triggers-loads-and-registers] PASSED*"])
    result.stdout.fnmatch_lines(["*test_conformance[[]attack-sig-labels-are-in-range] PASSED*"])


def test_a_fault_is_shown_without_a_traceback_and_an_error_with_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(BREAK)
    result = run(pytester, '"baselines"', "-k", "random-scores-are or low-loss-scores-are")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    error, fault = text.split("defense-random-scores-are-finite-float64] _")
    assert "ZeroDivisionError: division by zero" in error and "1 / 0" in error
    result.stdout.fnmatch_lines(["*expected: ``score`` returns*", "*found:*float64 (3,) for n = 60", "*why:*"])
    assert "checks.py" not in fault


def test_what_is_not_there_is_skipped_with_the_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDBENCH_DATA", str(pytester.path))
    result = run(pytester, '"datasets"', "-rs", "-k", "imagefolder-every-class")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*{pytester.path}/train is not there*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("", "expected @pytest.mark.bdbench_plugin(NAME)"), ('"triggrs"', "unknown plugin 'triggrs': did you mean")],
)
def test_a_marker_that_names_no_plugin_is_said(pytester: pytest.Pytester, arguments: str, message: str) -> None:
    result = run(pytester, arguments)
    assert result.ret != 0
    text = result.stdout.str() + result.stderr.str()
    assert message in text and "test_conformance" in text
