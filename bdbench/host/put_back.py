"""What all code of a process shares, put back as it was: settings of the process, of numpy and of torch."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def put_back() -> Iterator[None]:
    """All that is listed here is afterwards as it was before."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # We make them so, and look whether somebody wrote to them: users need not be told.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        stack.enter_context(_streams())
        for read, restore in (*_PROCESS, *(_torch() if "torch" in sys.modules else ())):
            stack.callback(_restored, read, restore, read())
        was_there = "torch" in sys.modules
        yield
        if not was_there and "torch" in sys.modules:
            _as_delivered()


def _restored(read: Callable[[], Any], restore: Callable[[Any], Any], before: Any) -> None:
    """Put a setting back if it differs. What cannot be put back must not hide the error that is on its way."""
    with contextlib.suppress(Exception):
        if read() != before:
            restore(before)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _umask() -> int:
    # It can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _handlers() -> tuple[Any, ...]:
    return tuple(map(signal.getsignal, _SIGNALS))


def _handle(before: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _collect(before: bool) -> None:
    (gc.enable if before else gc.disable)()


def _paths(before: list[str]) -> None:
    # The same list: whoever holds it sees what is put back.
    sys.path[:] = before


def _no_alarm(before: float) -> None:
    # A timer that was set in there would end the program later, when nobody knows whose it was.
    if not before:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _numpy_errors() -> dict[str, Any] | None:
    return sys.modules["numpy"].geterr() if "numpy" in sys.modules else None


def _set_numpy_errors(before: dict[str, Any] | None) -> None:
    if before is not None:
        sys.modules["numpy"].seterr(**before)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Each setting of the process: how it is read, and how it is set.
_PROCESS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (_folder, os.chdir),
    (_umask, os.umask),
    (lambda: dict(os.environ), _environment),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (lambda: list(sys.path), _paths),
    (gc.isenabled, _collect),
    (lambda: logging.root.manager.disable, logging.disable),
    (lambda: signal.getitimer(signal.ITIMER_REAL)[0], _no_alarm),
    (_handlers, _handle),
    (_numpy_errors, _set_numpy_errors),
)


def _default_device() -> Any:
    import torch

    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, once it was set to none
        return torch.device("cpu")


def _set_default_device(before: Any) -> None:
    import torch

    torch.set_default_device(None if before.type == "cpu" else before)
    try:
        torch.get_default_device()
    except AttributeError:  # torch 2.6; others are to be able to ask
        torch.set_default_device(before)


def _torch() -> tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...]:
    """The same for torch, which is not loaded for this."""
    import torch

    def deterministic(before: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    def cudnn(before: tuple[bool, bool]) -> None:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before

    return (
        # Put back last: a default device is one of these modes, and comes and goes by itself.
        (_modes, _leave_modes),
        (torch.get_default_dtype, torch.set_default_dtype),
        (_default_device, _set_default_device),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            deterministic,
        ),
        (lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic), cudnn),
        (_autocasts, _autocast_again),
        (lambda: list(map(dict, _held())), _hook_again),
    )


def _autocasts() -> tuple[tuple[str, bool, Any], ...]:
    import torch

    return tuple((d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda"))


def _autocast_again(before: tuple[tuple[str, bool, Any], ...]) -> None:
    import torch

    for device, enabled, dtype in before:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.clear_autocast_cache()  # type: ignore[no-untyped-call]


# What torch calls at every step of every network and optimizer, whoever's it is: it has no functions that read them.
_HOOKS = {
    "torch.nn.modules.module": (
        *("_global_forward_hooks", "_global_forward_pre_hooks"),
        *("_global_backward_hooks", "_global_backward_pre_hooks"),
    ),
    "torch.optim.optimizer": ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),
}


def _held() -> list[dict[int, Any]]:
    """The dictionaries of hooks that this torch has."""
    modules = [(importlib.import_module(module), names) for module, names in _HOOKS.items()]
    return [getattr(module, name) for module, names in modules for name in names if hasattr(module, name)]


def _hook_again(before: list[dict[int, Any]]) -> None:
    for hooks, were in zip(_held(), before, strict=True):
        hooks.clear()
        hooks.update(were)


def _modes() -> tuple[list[Any], int]:
    """The modes that are entered and see every function of torch, but for a default device, and how many see every
    operation.
    """
    from torch import _C

    entered = [_C._get_function_stack_at(i) for i in range(_C._len_torch_function_stack())]
    return [mode for mode in entered if not _is_device(mode)], _C._len_torch_dispatch_stack()


def _leave_modes(before: tuple[list[Any], int]) -> None:
    from torch import _C

    entered = [_C._pop_torch_function_stack() for _ in range(_C._len_torch_function_stack())]
    for mode in [*filter(_is_device, reversed(entered)), *before[0]]:
        _C._push_on_torch_function_stack(mode)
    while (left := _C._len_torch_dispatch_stack()) > before[1]:
        # torch 2.6 crashes where nobody holds the mode that is taken away.
        held = _C._get_dispatch_stack_at(left - 1)
        _C._pop_torch_dispatch_stack(None)
        del held


def _is_device(mode: Any) -> bool:
    from torch.utils._device import DeviceContext

    return isinstance(mode, DeviceContext)


def _as_delivered() -> None:
    """torch's settings as they are when it is loaded, for what loaded it itself."""
    import torch

    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)


@contextmanager
def _streams() -> Iterator[None]:
    """Standard input, output and error: the same objects, open, and on the same files."""
    before = sys.stdin, sys.stdout, sys.stderr
    copies = {number: _copied(number) for number in range(3)}
    try:
        yield
    finally:
        for number, copy in copies.items():
            if copy is not None:
                _same_again(number, copy)
        sys.stdin, sys.stdout, sys.stderr = before
        for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), before, strict=True)):
            if getattr(stream, "closed", False) and copies[number] is not None:
                reopened = _opened(number)
                setattr(sys, name, reopened)
                if getattr(sys, f"__{name}__") is stream:
                    setattr(sys, f"__{name}__", reopened)


def _copied(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # it was closed from the start
        return None


def _same_again(number: int, copy: int) -> None:
    try:
        same = os.path.samestat(os.fstat(number), os.fstat(copy))
    except OSError:
        same = False
    if not same:
        os.dup2(copy, number)
    os.close(copy)


def _opened(number: int) -> io.TextIOWrapper:
    return open(number, "r" if number == 0 else "w", buffering=1, errors="backslashreplace", closefd=False)
