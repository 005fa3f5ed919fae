import pytest


@pytest.mark.bdbench_plugin("bdbench-csv")
def test_conformance(bdbench_check):
    bdbench_check()
