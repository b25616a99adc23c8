"""Linear maps of equivariant features against loops."""

from __future__ import annotations

import math

import pytest
import torch

from mlip.nn.linear import DegreeLinear, ElementLinear, PathLinear
from mlip.ops._library import LIBRARY
from mlip.so3.degrees import block, size

needs_kernels = pytest.mark.skipif(LIBRARY.path is None, reason=f"no compiled kernels: {LIBRARY.problem}")


def test_one_matrix_for_each_degree() -> None:
    layer = DegreeLinear(2, 3).double()
    x = torch.randn(5, 9, 3, dtype=torch.float64)
    out = layer(x)
    for l in range(3):
        for m in range(*block(l).indices(9)):
            torch.testing.assert_close(out[:, m], x[:, m] @ layer.weight[l] / math.sqrt(3))
    assert layer(x[:0]).shape == (0, 9, 3)


def test_paths_and_channels_are_mixed_together() -> None:
    counts = [2, 3]
    layer = PathLinear(counts, 4).double()
    messages = [torch.randn(5, 2 * l + 1, n, 4, dtype=torch.float64) for l, n in enumerate(counts)]
    out = layer(messages)
    assert out.shape == (5, 4, 4)
    for l, n in enumerate(counts):
        weight = layer.weights[l].view(n, 4, 4) / math.sqrt(4 * n)
        torch.testing.assert_close(out[:, block(l)], torch.einsum("nmpc,pcd->nmd", messages[l], weight))
    with pytest.raises(ValueError, match="zip"):
        layer(messages[:1])


@needs_kernels
def test_transposed_map_of_paths_and_channels() -> None:
    layer = PathLinear([2, 3], 4, 0.3).double().requires_grad_(False)
    messages = [torch.randn(5, 2 * l + 1, n, 4, dtype=torch.float64) for l, n in enumerate([2, 3])]
    g = torch.randn(5, 4, 4, dtype=torch.float64)
    flat = torch.cat([m.flatten() for m in messages])
    torch.testing.assert_close(layer.joined(flat), layer(messages))
    expected = torch.vdot(g.flatten(), layer(messages).flatten())
    torch.testing.assert_close(torch.vdot(layer.transposed(g), flat), expected)


@pytest.mark.parametrize("elements", [[0, 2, 1, 2, 0], [1, 1, 1, 1, 1]])
def test_one_matrix_for_each_element_and_degree(elements: list[int]) -> None:
    layer = ElementLinear(3, 1, 2).double()
    x = torch.randn(5, size(2), 2, dtype=torch.float64)
    out = layer(x, torch.tensor(elements))
    assert out.shape == (5, 4, 2)  # degrees above the layer's are left out
    for n, z in enumerate(elements):
        for l in range(2):
            torch.testing.assert_close(out[n, block(l)], x[n, block(l)] @ layer.weight[z, l] / math.sqrt(3 * 2))
    assert layer(x[:0], torch.tensor([], dtype=torch.int64)).shape == (0, 4, 2)


def test_element_linear_derivatives() -> None:
    layer = ElementLinear(2, 1, 2).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    elements = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda y: layer(y, elements), (x,))
    assert torch.autograd.gradgradcheck(lambda y: layer(y, elements), (x,))


@needs_kernels
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_constant_weights_go_to_the_kernels(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(channels)
    x, elements = torch.randn(23, 9, channels, dtype=dtype), torch.randint(0, 4, (23,))
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5}[dtype] * channels**0.5
    for layer, rest in ((DegreeLinear(2, channels), ()), (ElementLinear(4, 1, channels), (elements,))):
        layer.to(dtype).requires_grad_(False)
        found, expected = layer(x, *rest, "compiled"), layer(x, *rest, "reference")
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        for rows in (slice(0, 1), slice(3, 10), slice(5, 22)):  # company does not change a bit
            assert torch.equal(layer(x[rows], *(r[rows] for r in rest), "compiled"), found[rows])
        layer.weight.mul_(2)  # what was made of the weights is made again
        torch.testing.assert_close(layer(x, *rest, "compiled"), 2 * found)


@needs_kernels
def test_threads_do_not_change_a_bit() -> None:
    layer, x = DegreeLinear(3, 48).requires_grad_(False), torch.randn(4000, 16, 48)
    before, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(layer(x))
    torch.set_num_threads(before)
    assert torch.equal(*found)
