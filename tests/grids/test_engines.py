"""The Ray engine on a real cluster of this machine: a head, and workers of which one is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bdbench import BdbenchError
from bdbench.grids import engines, grid
from bdbench.grids.board import Board
from bdbench.progress import Silent
from tests.conftest import TINY_DATAMODEL
from tests.grids.test_grid import TOML, made, run
from tests.test_experiment import numbers

SLOWER = TOML.replace('"low-loss"', f'"{TINY_DATAMODEL.replace("models=12", "models=40")}"')


CARRY_OUT, CALL = engines.carry_out, engines._call


def place(folder: Path) -> engines.Workplace:
    return engines.Workplace(folder / "board", folder / "runs", device="cpu", threads=1)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = Board.read(folder / "board").records
    return {name: numbers(data) for name, data in found.items()}


def test_without_ray_the_engine_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    result = run(made(tmp_path / "board"), "--engine", "ray")
    assert result.exit_code == 2
    assert "engine 'ray' is not installed: expected pip install 'bdbench[ray]'" in result.stderr


def test_threads_are_those_asked_for(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert run(made(tmp_path / "board"), "--only", "attack=none", "--seeds", "0", "--threads", "1").exit_code == 0
    finally:
        torch.set_num_threads(before)
    threads = {r["environment"]["threads"] for r in Board.read(tmp_path / "board").records.values()}
    assert threads == {1}


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The records of the local engine."""
    import torch

    folder = tmp_path_factory.mktemp("local")
    before = torch.get_num_threads()
    done = list(engines.local(grid.read(made(folder / "board", SLOWER)).jobs(), place(folder), Silent()))
    torch.set_num_threads(before)
    assert not any(d.errors for d in done)
    return records(folder)


@pytest.fixture
def cluster() -> Any:
    """A head without CPUs and two nodes of one CPU each."""
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize("killed", ["nothing", "worker", "node"])
def test_ray_gives_the_records_of_the_local_engine(
    cluster: Any, locally: dict[str, Any], tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = grid.read(made(tmp_path / "board", SLOWER)).jobs()
    if killed == "worker":
        monkeypatch.setattr(engines, "carry_out", _die_once)
    outcomes = engines.on_ray(cluster.address)(jobs, place(tmp_path), Silent())
    done = [next(outcomes)]
    if killed == "node":
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    done += outcomes
    assert not any(d.errors for d in done)
    assert len(done) == len(jobs)
    assert records(tmp_path) == locally
    assert (tmp_path / "board" / "died").exists() == (killed == "worker")


def _die_once(job: grid.Job, place: engines.Workplace, *_: Any) -> engines.Done:
    """The first worker to come here dies when it has written its first record."""
    try:
        (place.board / "died").touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        add = Board.add

        def last(self: Board, data: Any) -> None:
            add(self, data)
            os.kill(os.getpid(), signal.SIGKILL)

        Board.add = last  # type: ignore[method-assign]
    return CARRY_OUT(job, place)


@pytest.mark.ray
def test_a_task_that_kills_every_worker_is_a_failure_of_its_cells_alone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = grid.read(made(tmp_path / "board")).only(["attack=none", "defense=random"]).jobs()
    monkeypatch.setattr(engines, "_RETRIES", 0)
    monkeypatch.setattr(engines, "carry_out", _die_on_seed_0)
    done = list(engines.on_ray(cluster.address)(jobs, place(tmp_path), Silent()))
    assert sorted(d.records for d in done) == [0, 1]
    assert len(Board.read(tmp_path / "board").failed) == 1


def _die_on_seed_0(job: grid.Job, place: engines.Workplace, *_: Any) -> engines.Done:
    if job.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return engines.Done(job, 1, ())


@pytest.mark.ray
def test_an_address_without_a_cluster_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(BdbenchError, match=r"no Ray cluster at '127.0.0.1:1'"):
        list(engines.on_ray("127.0.0.1:1")([], place(Path()), Silent()))


@pytest.mark.ray
@pytest.mark.parametrize(("device", "gpus"), [("auto", 1), ("cpu", 0)])
def test_a_job_is_given_a_gpu_where_there_are_any(cluster: Any, tmp_path: Path, device: str, gpus: int) -> None:
    cluster.add_node(num_cpus=1, num_gpus=2)
    jobs = grid.read(made(tmp_path / "board")).only(["attack=none"]).jobs()
    where = engines.Workplace(tmp_path / "board", tmp_path / "runs", device=device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "carry_out", _count_gpus)
        assert [d.records for d in engines.on_ray(cluster.address)(jobs, where, Silent())] == [gpus] * len(jobs)


def _count_gpus(job: grid.Job, place: engines.Workplace, *_: Any) -> engines.Done:
    import ray

    return engines.Done(job, len(ray.get_gpu_ids()), ())


@pytest.mark.ray
def test_a_job_alone_has_its_ensemble_made_by_all_workers(
    cluster: Any, locally: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them dies at its first piece; the records are those of the local engine all the same."""
    (tmp_path / "pieces").mkdir()
    monkeypatch.setattr(engines, "carry_out", _with_noted_pieces)
    jobs = grid.read(made(tmp_path / "board", SLOWER)).jobs()[-1:]
    done = list(engines.on_ray(cluster.address)(jobs, place(tmp_path), Silent()))
    assert [d.errors for d in done] == [()]
    found = records(tmp_path)
    assert found == {name: locally[name] for name in found} and len(found) == len(jobs[0].defenses)
    assert (tmp_path / "pieces" / "died").exists()
    notes = [file.name.split("-") for file in (tmp_path / "pieces").glob("*-*")]
    assert len({piece for piece, _ in notes}) == 10
    assert len({worker for _, worker in notes}) >= 2


def _with_noted_pieces(job: grid.Job, place: engines.Workplace, *rest: Any) -> engines.Done:
    folder = place.board.parent / "pieces"
    engines._call = lambda *call: _noted(folder, *call)
    return CARRY_OUT(job, place, *rest)


def _noted(folder: Path, piece: Any, index: int, threads: int | None) -> None:
    try:
        (folder / "died").touch(exist_ok=False)
    except FileExistsError:
        (folder / f"{index}-{os.getpid()}").touch()
        CALL(piece, index, threads)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
def test_as_many_jobs_as_workers_keep_their_ensembles_to_themselves(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all jobs would be under way at once, each waiting for pieces behind the others."""
    monkeypatch.setattr(engines, "carry_out", _is_spread)
    jobs = grid.read(made(tmp_path / "board")).jobs()
    assert len(jobs) > 2
    for some, spread in ((jobs, 0), (jobs[:2], 0), (jobs[:1], 1)):
        done = engines.on_ray(cluster.address)(some, place(tmp_path), Silent())
        assert {d.records for d in done} == {spread}


def _is_spread(job: grid.Job, place: engines.Workplace, progress: Any, spread: Any) -> engines.Done:
    return engines.Done(job, int(spread is not None), ())
