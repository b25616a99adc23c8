"""Flat indices of degrees and the paths of the edge convolution."""

from __future__ import annotations

from mlip.so3.degrees import block, convolution_paths, degree_of_component, size


def test_blocks_tile_the_components() -> None:
    for lmax in range(5):
        covered = [i for l in range(lmax + 1) for i in range(*block(l).indices(size(lmax)))]
        assert covered == list(range(size(lmax)))
        assert [block(l).stop - block(l).start for l in range(lmax + 1)] == [2 * l + 1 for l in range(lmax + 1)]
        degrees = degree_of_component(lmax)
        assert len(degrees) == size(lmax)
        assert all(degrees[block(l)] == [l] * (2 * l + 1) for l in range(lmax + 1))


def test_paths_of_the_first_layer_are_the_harmonics() -> None:
    assert convolution_paths(0, 3, 3) == [(0, l, l) for l in range(4)]


def test_paths_by_hand() -> None:
    assert convolution_paths(1, 1, 1) == [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)]
    assert len(convolution_paths(1, 3, 3)) == 10


def test_paths_are_complete_and_sorted() -> None:
    paths = convolution_paths(2, 3, 3)
    assert paths == sorted(paths, key=lambda p: (p[2], p[0], p[1]))
    expected = {(a, b, c) for a in range(3) for b in range(4) for c in range(4)
                if c in range(abs(a - b), a + b + 1) and (-1) ** (a + b) == (-1) ** c}
    assert set(paths) == expected
    assert len(paths) == len(expected)
