"""The compiled kernels under unusual conditions: errors, transforms, several threads, other copies, dynamic sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.nn.convolution import Layer, blocks_of, radial_convolution
from mlip.nn.linear import PathLinear
from mlip.nn.radial import RadialMLP
from mlip.nn.radial_table import RadialTables, TableNetwork
from mlip.ops import Edges, edge_convolution, radial_table, spherical_harmonics
from mlip.ops._library import LIBRARY
from mlip.ops.tables import contraction_tables, path_tables
from mlip.so3.degrees import Paths

ROOT = Path(__file__).resolve().parents[2]
PATHS = Paths.all(1, 2, 2)
compiled = pytest.mark.skipif(LIBRARY.path is None, reason=LIBRARY.problem)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def graph(atoms: int, edges: int, seed: int = 0) -> Edges:
    sender, receiver = torch.from_numpy(np.random.default_rng(seed).integers(0, atoms, (2, edges)))
    return Edges.of(sender, torch.sort(receiver).values, atoms)


def inputs(atoms: int, edges: int, channels: int = 3) -> list[Tensor]:
    return [numbers(0, atoms, 4, channels), numbers(1, edges, 9), numbers(2, edges, PATHS.weights, channels)]


def messages(h: Tensor, y: Tensor, w: Tensor, edges: Edges, backend: Any = "auto") -> Tensor:
    return torch.cat([out.flatten() for out in edge_convolution(h, y, w, edges, PATHS, backend)])


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, text=True,
                          capture_output=True, check=False, timeout=120)


@compiled
class TestLibrary:
    def test_nothing_else_is_visible(self) -> None:
        """Functions of another library cannot take the place of ours, nor ours that of others."""
        if sys.platform != "linux" or not (nm := shutil.which("nm")):
            pytest.skip("needs nm")
        found = subprocess.run([nm, "-D", "--defined-only", str(LIBRARY.path)], capture_output=True, text=True,
                               check=True)
        assert sorted(line.split()[-1] for line in found.stdout.splitlines()) == ["mlip_ops_interface", "mlip_ops_isa"]

    def test_shared_functions_are_plain_code(self) -> None:
        """What kernels of all instruction sets share must not need instructions that only some processors have."""
        if sys.platform != "linux" or not (objdump := shutil.which("objdump")):
            pytest.skip("needs objdump")
        found = subprocess.run([objdump, "-d", "-C", "--no-show-raw-insn", str(LIBRARY.path)], capture_output=True,
                               text=True, check=True).stdout
        if "%ymm" not in found:
            pytest.skip("not built for AVX")
        for function in found.split("\n\n"):
            name = function.lstrip().split("\n")[0]
            if "%ymm" in function or "%zmm" in function:
                assert "mlip::avx2::" in name or "mlip::avx512::" in name, name

    def test_second_copy(self, tmp_path: Path) -> None:
        """Another copy of the library in a process is refused, and does not end the process."""
        copy = tmp_path / "copy.so"
        shutil.copy(str(LIBRARY.path), copy)
        done = python(f"import ctypes, mlip.ops; print(ctypes.CDLL({str(copy)!r}).mlip_ops_interface())")
        assert done.stdout.strip() == "-1", done.stderr

    def test_processes_forked_after_use(self) -> None:
        if not hasattr(os, "fork"):
            pytest.skip("needs fork")
        done = python("import os, torch\nfrom mlip.ops import spherical_harmonics\ntorch.set_num_threads(1)\n"
                      "v = torch.randn(5000, 3); a = spherical_harmonics(v, 3)\npid = os.fork()\n"
                      "if not pid: os._exit(0 if torch.equal(a, spherical_harmonics(v, 3)) else 1)\n"
                      "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))")
        assert done.stdout.strip() == "0", done.stderr

    @pytest.mark.parametrize("name", ["contraction", "contraction_jvp", "contraction_backward", "table"])
    def test_refused_arguments_are_given_back(self, name: str) -> None:
        """An error does not keep the tensors of the call alive for ever."""
        calls: dict[str, Callable[[Tensor], Any]] = {
            "contraction": lambda t: torch.ops.mlip.symmetric_contraction(x, w, z, 1, t, *tables[1:]),
            "contraction_jvp": lambda t: torch.ops.mlip.symmetric_contraction_jvp(x, w, z, t, t, 1, *tables),
            "contraction_backward": lambda t: torch.ops.mlip.symmetric_contraction_backward(x, w, z, t, 1, *tables),
            "table": lambda t: torch.ops.mlip.radial_table(t, z, numbers(0, 2, 6, 3)),
        }
        x, w, z, tables = numbers(0, 4, 4, 2), numbers(1, 3, 5, 9), torch.zeros(4).long(), contraction_tables(1, (3,))
        tensor = numbers(3, 7)
        storage = tensor.untyped_storage()
        with pytest.raises(RuntimeError, match="mlip: "):
            calls[name](tensor)
        before = torch._C._storage_Use_Count(storage._cdata)
        del tensor
        assert torch._C._storage_Use_Count(storage._cdata) == before - 1

    def test_sizes_beyond_int(self) -> None:
        """Sizes are not cut to 32 bits."""
        for channels in (2**32, 2**40):
            with pytest.raises(RuntimeError, match="mlip: "):
                torch.ops.mlip.edge_convolution(torch.empty(0, 4, channels), torch.empty(0, 9),
                                                torch.empty(0, PATHS.weights, channels), 0, torch.zeros(0).long(),
                                                torch.zeros(1).long(), torch.zeros(0).long(), *path_tables(PATHS))
        with pytest.raises(RuntimeError, match="mlip: "):
            torch.ops.mlip.spherical_harmonics_backward(torch.empty(0, 3), torch.empty(0, 2**60))

    def test_not_enough_memory(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(RuntimeError, match="memory"):
            torch.ops.mlip.spherical_harmonics(torch.ones(1, 3).expand(10**9, 3)[: 2**28], 999)
        capfd.readouterr()  # torch's own text

    def test_several_threads(self) -> None:
        """Forward and backward passes from several threads of Python at once."""
        edges, tensors = graph(30, 900), inputs(30, 900, 8)

        def derivatives(_: int = 0) -> tuple[Tensor, ...]:
            x = [t.clone().requires_grad_() for t in tensors]
            return torch.autograd.grad(messages(*x, edges).sin().sum(), x)

        expected = derivatives()
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(derivatives, range(40)):
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class TestTransforms:
    """What operators would drop without a word, or not understand, is left to plain torch."""

    def test_forward_mode(self) -> None:
        edges, (h, y, w) = graph(5, 20), inputs(5, 20)
        v = numbers(0, 4, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            _, tangent = torch.func.jvp(lambda x: messages(x, y, w, edges), (h,), (h,))
        torch.testing.assert_close(tangent, messages(h, y, w, edges))  # linear in h
        with torch.autograd.forward_ad.dual_level():
            out = spherical_harmonics(torch.autograd.forward_ad.make_dual(v, v), 2)
            tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
            torch.testing.assert_close(tangent, torch.zeros_like(tangent))  # the length does not matter

    def test_vmap_and_grad(self) -> None:
        edges, (h, y, w) = graph(5, 20), inputs(5, 20)
        both = torch.stack([h, 2 * h])
        found = torch.vmap(lambda x: messages(x, y, w, edges))(both)[1]
        torch.testing.assert_close(found, messages(2 * h, y, w, edges))
        found = torch.func.grad(lambda x: messages(x, y, w, edges).square().sum())(h)
        x = h.clone().requires_grad_()
        (expected,) = torch.autograd.grad(messages(x, y, w, edges).square().sum(), x)
        torch.testing.assert_close(found, expected)

    def test_negative_and_zero_tensors(self) -> None:
        edges, (h, y, w) = graph(5, 20), inputs(5, 20)
        negative = torch.complex(torch.zeros_like(h), -h).conj().imag
        assert negative.is_neg()
        torch.testing.assert_close(messages(negative, y, w, edges), messages(h, y, w, edges))
        assert not messages(torch._efficientzerotensor(h.shape, dtype=h.dtype), y, w, edges).any()

    def test_coefficients_of_a_table_that_are_trained(self) -> None:
        coefficients, t = numbers(0, 2, 6, 3).requires_grad_(), torch.tensor([0.5, 0.25], dtype=torch.float64)
        (found,) = torch.autograd.grad(radial_table(t, torch.tensor([1, 1]), coefficients).sum(), coefficients)
        torch.testing.assert_close(found[1, :, 0], (t[:, None] ** torch.arange(6)).sum(0))
        assert not found[0].any()

    def test_not_a_number_stays_where_it_is(self) -> None:
        edges, (h, y, w) = graph(5, 20), inputs(5, 20)
        h[0], y[3] = torch.nan, torch.inf
        found, expected = messages(h, y, w, edges), messages(h, y, w, edges, "reference")
        assert torch.equal(found.isfinite(), expected.isfinite())
        assert found.isfinite().any()


class TestConstants:
    """Tables are kept from call to call, whatever the circumstances of the first."""

    def test_default_device(self) -> None:
        paths = Paths(((0, 0, 0), (0, 1, 1)))
        with torch.device("meta"):
            path_tables(paths)
        assert all(t.device.type == "cpu" for t in path_tables(paths))

    def test_tracer(self) -> None:
        paths = Paths(((0, 1, 1), (0, 2, 2)))
        with torch._subclasses.FakeTensorMode():
            path_tables(paths)
        assert all(type(t) is Tensor for t in path_tables(paths))


@compiled
class TestDynamicSizes:
    @staticmethod
    def arguments(atoms: int, edges: int) -> tuple[Tensor, ...]:
        e = graph(atoms, edges)
        return *inputs(atoms, edges), numbers(3, edges, 3), e.sender, e.receiver, e.offsets, e.row

    @staticmethod
    def call(h: Tensor, y: Tensor, w: Tensor, v: Tensor, sender: Tensor, receiver: Tensor, offsets: Tensor,
             row: Tensor) -> Tensor:
        out = messages(h, y, w, Edges(sender, receiver, offsets, row))
        return out.sin().sum() + spherical_harmonics(v, 3).sin().sum()

    def test_one_graph_for_all_sizes(self) -> None:
        graphs = []

        def backend(module: Any, arguments: Any) -> Any:
            graphs.append(module)
            return module

        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            captured = torch.compile(self.call, fullgraph=True, dynamic=True, backend=backend)
            for atoms, edges in ((5, 21), (7, 40), (6, 35)):
                arguments = self.arguments(atoms, edges)
                torch.testing.assert_close(captured(*arguments), self.call(*arguments))
        assert len(graphs) == 1

    def test_export(self) -> None:
        class Module(torch.nn.Module):
            def forward(self, *arguments: Tensor) -> Tensor:
                return TestDynamicSizes.call(*arguments)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            auto = ({0: torch.export.Dim.AUTO},) * 8
            program = torch.export.export(Module(), self.arguments(5, 21), dynamic_shapes=(auto,)).module()
            arguments = self.arguments(7, 40)
            torch.testing.assert_close(program(*arguments), self.call(*arguments))


class TestBlocks:
    @pytest.mark.parametrize("block", [32 << 20, 4000])
    def test_backward_twice(self, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
        """A graph that is retained can be used again, and holds no weights after its first use."""
        monkeypatch.setattr("mlip.nn.convolution.BLOCK", block)
        counts = [sum(l3 == l for _, _, l3 in PATHS.triples) for l in range(3)]
        network = RadialMLP([4, 8, PATHS.weights * 3]).double().requires_grad_(False)
        linear, edges = PathLinear(counts, 3, 0.5).double().requires_grad_(False), graph(6, 60)
        layer = Layer(network, linear, PATHS, edges, blocks_of(edges, 60, PATHS.weights * 3 * 8))
        assert (len(layer.blocks) > 1) == (block == 4000)
        x = [t.requires_grad_() for t in (numbers(0, 6, 4, 3), numbers(1, 60, 9), numbers(2, 60, 4))]
        out = radial_convolution(*x, layer, "auto")
        first = torch.autograd.grad(out.sum(), x, retain_graph=True)
        assert not any(getattr(out.grad_fn, "kept", []))
        for a, b in zip(first, torch.autograd.grad(out.sum(), x), strict=True):
            assert torch.equal(a, b)


class TestTables:
    @staticmethod
    def tables(networks: int = 2, wrong: int = -1) -> RadialTables:
        """Columns tell the kind: (kind + 1) (1 + r)."""
        def jets(kind: int, r: Tensor) -> list[Tensor]:
            values = torch.stack([(kind + 1) * (1 + r), torch.full_like(r, kind + 1), torch.zeros_like(r)])[..., None]
            return [values if i != wrong else values + 0.1 * (len(r) % 2) for i in range(networks)]

        kinds = torch.arange(9).view(3, 3)
        return RadialTables(jets, kinds, 4.0, [TableNetwork(1, 4.0).double() for _ in range(networks)])

    def test_first_calls_from_several_threads(self) -> None:
        for _ in range(5):
            tables = self.tables()

            def values(kind: int, tables: RadialTables = tables) -> list[float]:
                ends = torch.tensor([[kind // 3], [kind % 3]])
                x = tables(torch.full((1, 1), 1.5, dtype=torch.float64), ends)
                return [float(network(x)) for network in tables.networks]

            kinds = list(range(9)) * 3
            with ThreadPoolExecutor(6) as pool:
                for kind, found in zip(kinds, pool.map(values, kinds), strict=True):
                    assert found == pytest.approx([2.5 * (kind + 1)] * 2, abs=1e-12)
            assert len(tables.networks[0].coefficients) == 9 * 256

    def test_failure_leaves_no_part_behind(self) -> None:
        tables = self.tables(wrong=1)
        with pytest.raises(Exception, match="tabulated"):
            tables(torch.ones(1, 1).double(), torch.zeros(2, 1).long())
        assert [len(network.coefficients) for network in tables.networks] == [0, 0]
