"""What foreign code sets for the whole program is afterwards as it was."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bdbench.components import guard
from bdbench.components.guard import Quit


class Functions(TorchFunctionMode):
    """Sees every function of torch, and lets it be."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """The same one floor below."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "numpy": (lambda: np.seterr(all="raise"), np.geterr),
    "warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "umask": (lambda: os.umask(0o777), lambda: (os.umask(0o022), os.umask(0o022))[0]),
    "environment": (lambda: os.environ.update(HOME="/nowhere", BDBENCH_NEW="1"), lambda: dict(os.environ)),
    "missing": (lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    "signals": (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGINT)),
    "recursion": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "streams": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout),
    "autocast": (
        lambda: torch.set_autocast_enabled("cpu", True),
        lambda: (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    ),
    "half": (lambda: torch.set_autocast_dtype("cpu", torch.float16), lambda: torch.get_autocast_dtype("cpu")),
    "module hooks": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda: list(torch.nn.modules.module._global_forward_hooks.values()),
    ),
    "optimizer hooks": (
        lambda: optimizer.register_optimizer_step_post_hook(lambda *_: None),
        lambda: list(optimizer._global_optimizer_post_hooks.values()),
    ),
    "modes of functions": (
        lambda: Functions().__enter__(),
        lambda: torch._C._len_torch_function_stack(),
    ),
    "modes of dispatch": (
        lambda: Operations().__enter__(),
        lambda: torch._C._len_torch_dispatch_stack(),
    ),
    "device and a mode": (
        lambda: (torch.set_default_device("meta"), Functions().__enter__()),
        lambda: (torch.get_default_device(), torch._C._len_torch_function_stack(), torch.zeros(1).device),
    ),
    "path": (lambda: sys.path.insert(0, "/nowhere"), lambda: list(sys.path)),
    "no path": (lambda: sys.path.clear(), lambda: list(sys.path)),
    "garbage": (gc.disable, gc.isenabled),
    "logging": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "alarm": (lambda: signal.alarm(1000), lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("error", [None, ZeroDivisionError, SystemExit])
def test_what_foreign_code_sets_is_put_back(what: str, error: type[BaseException] | None) -> None:
    change, read = CHANGES[what]
    before = read()
    with pytest.raises((ZeroDivisionError, Quit)) if error else guard.call(), guard.call():
        change()
        assert read() != before
        if error:
            raise error
    assert read() == before


def test_a_default_device_that_torch_cannot_tell_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 2.6 does it, once it was set to none."""
    own: list[Any] = [None]

    def told() -> torch.device:
        if own[0] is None:
            raise AttributeError("'NoneType' object has no attribute 'device'")
        return torch.device(own[0])

    monkeypatch.setattr(torch, "get_default_device", told)
    monkeypatch.setattr(torch, "set_default_device", lambda device: own.__setitem__(0, device))
    with guard.call():
        torch.set_default_device("meta")
    assert torch.get_default_device() == torch.device("cpu")
    torch.set_default_device(None)
    with guard.call():
        torch.set_default_device("meta")
    assert torch.get_default_device() == torch.device("cpu")
