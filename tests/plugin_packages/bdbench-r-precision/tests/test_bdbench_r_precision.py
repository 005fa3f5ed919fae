import pytest


@pytest.mark.bdbench_plugin("bdbench-r-precision")
def test_conformance(bdbench_check):
    bdbench_check()
