"""What all work on one data set shares."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bdbench.cells import environment
from bdbench.components import configs, sources
from bdbench.components.interfaces import Architecture
from bdbench.components.workshop import State
from bdbench.errors import BdbenchError
from bdbench.host import memory
from bdbench.host.machine import Precision
from bdbench.host.timeout import OutOfTime
from bdbench.networks.training import Trainer, Victim, seeded
from bdbench.progress import Progress
from bdbench.storage.record import DEFINITIONS
from bdbench.storage.store import Store, key_of

# How many images a network is tried with before it is trained.
_TRIED = 2

# Calls a function with 0, 1, ... on other workers, and yields in that order as calls end.
Spread = Callable[[Callable[[int], None], int], Iterator[None]]


@dataclass(frozen=True)
class Bench:
    """What all work on one data set shares: where results are kept, by what they are known, and who trains.

    made_from: what identifies the data, the seed and the machine, for the keys of stage results; architecture: of the
    victim; spread: how pieces are made side by side, if they are.
    """

    num_classes: int
    shape: tuple[int, int, int]
    architecture: Architecture
    trainer: Trainer
    store: Store
    made_from: Mapping[str, Any]
    progress: Progress
    spread: Spread | None = None

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        dataset: str,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        contents: str,
        seed: int,
        device: str,
        precision: Precision,
        store: Store,
        progress: Progress,
        spread: Spread | None = None,
    ) -> Bench:
        """The bench of images of ``shape`` (H, W, C), known by ``contents``, a hash; dataset: whose recipe to use.

        Raises BdbenchError for a network whose weights alone need more memory than there is, or which does not give
        what a model is to give.
        """
        recipe = architecture.recipe(dataset, shape)
        build = functools.partial(architecture.build, shape, num_classes)
        _check_network(architecture, build, shape, num_classes)
        trainer = Trainer(build, recipe, device, progress.track, precision)
        hangs_on = _made_from(contents, num_classes, seed, device, precision)
        return cls(num_classes, shape, architecture, trainer, store, hangs_on, progress, spread)

    def restore(self, arrays: State, whose: str) -> Victim:
        """A model of the victim's architecture. Raises BdbenchError, naming ``whose`` weights do not fit it."""
        try:
            return self.trainer.restore(arrays)
        except OutOfTime:
            raise
        except Exception as error:  # torch raises what it likes for arrays of another network
            reason = " ".join(str(error).split())
            raise BdbenchError(
                f"{whose} brings weights that do not fit model {self.architecture.name!r}: {reason}"
            ) from None


def laid_out(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A network without its weights, which take no memory. Raises anything: not every network can do without."""
    with seeded(0), torch.device("meta"):
        return build()


def _check_network(
    architecture: Architecture, build: Callable[[], torch.nn.Module], shape: tuple[int, int, int], num_classes: int
) -> None:
    what = f"model {configs.spec(architecture.config())!r}"
    try:
        network = laid_out(build)
    except (BdbenchError, OutOfTime):
        raise
    except Exception as error:
        # torch's own words for sizes that no integer holds; whatever else it is, it may do well with weights.
        if "overflow" in str(error).lower():
            raise BdbenchError(f"{what} has more weights than can be counted: expected a smaller model") from None
        return
    held = itertools.chain(network.parameters(), network.buffers())
    memory.check_memory(sum(tensor.numel() * tensor.element_size() for tensor in held), what, "a smaller model")
    _check_outputs(what, network, shape, num_classes)


def _check_outputs(what: str, network: torch.nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise BdbenchError if a network without weights has no features, or other logits than one for each class."""
    if not callable(getattr(network, "features", None)):
        raise BdbenchError(f"{what} has no method features: expected one that gives the penultimate representation")
    height, width, channels = shape
    images = torch.zeros(_TRIED, channels, height, width, device="meta")
    wanted = {"forward": (_TRIED, num_classes), "features": (_TRIED, None)}
    for name, (rows, columns) in wanted.items():
        try:
            with torch.inference_mode():
                found = tuple(getattr(network.eval(), name)(images).shape)
        except OutOfTime:
            raise
        except Exception:  # not every layer can do without weights; what is wrong with it shows when it is trained
            return
        if len(found) != 2 or found[0] != rows or columns not in (None, found[1]):
            asked = f"({rows}, {'d' if columns is None else columns})"
            raise BdbenchError(f"{what} gives {name} of {found} for {rows} images: expected {asked}")


def _made_from(contents: str, num_classes: int, seed: int, device: str, precision: str) -> dict[str, Any]:
    """What every result on one data set hangs on: its ``contents``, a hash; the seed; the machine; bdbench's code.

    It is hashed: a defense holds it, and from the run's own seed could draw the attack's choices again.
    """
    what = {
        "set": contents,
        "definitions": DEFINITIONS,
        "classes": num_classes,
        "seed": seed,
        "device": environment.device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "libraries": sources.code_of(),
    }
    return {"made_from": key_of(what)}
