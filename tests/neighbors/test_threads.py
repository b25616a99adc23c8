from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlip.errors import OptionError
from mlip.neighbors import NeighborList, VerletSkin, jit, neighbor_list, workers
from mlip.neighbors.brute import brute_force
from mlip.verify.neighbors import differ


def gas(atoms, seed=0, edge=30.0):
    return np.random.default_rng(seed).random((atoms, 3)) * edge


def equal(a: NeighborList, b: NeighborList) -> bool:
    return all(np.array_equal(x, y) for x, y in zip((*a, a.offsets), (*b, b.offsets), strict=True))


@pytest.mark.parametrize("pbc", [False, True, [True, False, True]])
def test_the_number_of_threads_changes_nothing(pbc):
    r, cell = gas(5000), np.array([[30.0, 0, 0], [5, 30, 0], [0, -7, 30]])
    one = neighbor_list(r, 3.0, cell, pbc, threads=1)
    for threads in (2, 3, 7, None):
        assert equal(one, neighbor_list(r, 3.0, cell, pbc, threads=threads))


def test_large_structure_against_the_oracle():
    r = gas(2200, edge=25.0)
    assert differ(neighbor_list(r, 3.0, threads=2), brute_force(r, 3.0), len(r)) is None
    cell = np.diag([25.0, 1.0, 1.0])
    pbc = [True, False, False]
    assert differ(neighbor_list(r, 3.0, cell, pbc, threads=2), brute_force(r, 3.0, cell, pbc), len(r)) is None


def test_few_atoms_in_many_parts(monkeypatch):
    monkeypatch.setattr(workers, "ATOMS_PER_THREAD", 1)
    for atoms in (1, 2, 5, 40):
        r = gas(atoms, edge=6.0)
        assert differ(neighbor_list(r, 4.0, np.eye(3) * 6, True, threads=3),
                      brute_force(r, 4.0, np.eye(3) * 6, True), atoms) is None


def test_eight_threads_at_once():
    sizes = [10, 300, 2500, 5000]
    expected = [neighbor_list(gas(n), 3.0, np.eye(3) * 30, True) for n in sizes]

    def call(k):
        return equal(neighbor_list(gas(sizes[k % 4]), 3.0, np.eye(3) * 30, True, threads=2), expected[k % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(48)))


def test_eight_skins_at_once():
    def call(seed):
        skin, r, rng = VerletSkin(3.0, 1.0, threads=2), gas(2500, seed), np.random.default_rng(seed)
        for _ in range(4):
            found = skin.update(r, np.eye(3) * 30, True)
            if differ(found, neighbor_list(r, 3.0, np.eye(3) * 30, True), len(r)):
                return False
            r = r + rng.normal(scale=0.02, size=r.shape)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def in_child(queue):
    queue.put(len(neighbor_list(gas(5000), 3.0, np.eye(3) * 30, True, threads=2).senders))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    edges = len(neighbor_list(gas(5000), 3.0, np.eye(3) * 30, True, threads=2).senders)
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == edges
    child.join()


def test_errors_in_threads_come_out():
    def fail(first, last):
        raise OptionError(f"{first}")

    with pytest.raises(OptionError):
        workers.work_through(fail, [0, 1, 2, 3], 3)


def test_without_new_threads_the_calling_one_does_all(monkeypatch):
    def refuse(threads):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(workers, "_pool", refuse)
    done = []
    workers.work_through(lambda first, last: done.append((first, last)), [0, 1, 5, 7], 3)
    assert done == [(0, 1), (1, 5), (5, 7)]


def test_available_threads(monkeypatch):
    import numba

    def not_started():
        raise ValueError

    monkeypatch.setattr(numba, "threading_layer", not_started)
    assert workers.available_threads() == numba.config.NUMBA_NUM_THREADS
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    assert workers.available_threads() == 3


def test_compilation_without_a_place_for_a_cache(monkeypatch):
    import numba.core.dispatcher as dispatcher

    def nowhere(self):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(dispatcher.Dispatcher, "enable_caching", nowhere)
    assert jit.compiled(double)(2) == 4
    monkeypatch.setattr(jit, "FINGERPRINT", None)
    assert jit.kernel(double)(3) == 6


def double(x):
    return 2 * x
