"""The compiled library where it is absent, damaged or foreign, and the instruction sets it chooses from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mlip
from mlip.errors import BackendError
from mlip.ops import _library, backend, check_backend, compiled_is_available, use_compiled
from mlip.ops._library import INTERFACE, LIBRARY, Library

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")

MISSING = """
import pickle, warnings
warnings.simplefilter("error")
import torch
import mlip
from mlip.errors import BackendError
from mlip.ops import compiled_is_available
assert not compiled_is_available()
said = mlip.backends()
assert said["compiled"].startswith("MISSING, everything runs in plain torch, many times slower: "), said
assert "install a C++ compiler" in said["compiled"] and "pip install --force-reinstall" in said["compiled"], said
assert said["auto"] == "reference", said
from ase import Atoms
atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
p = mlip.create("mace", ["H", "O"], seed=0, channels=4, edge_lmax=2, hidden_lmax=1, radial_mlp=(8,), dtype="float64")
found = {}
for radial in ("exact", "tabulated"):
    for name in ("auto", "reference"):
        q = p.to(backend=name, radial=radial).predict(atoms)
        found[radial, name] = q.energy, q.forces
for make in (lambda: p.to(backend="compiled"), lambda: mlip.load("mace-acac", backend="compiled")):
    try:
        make()
    except BackendError as error:
        assert "backend='compiled' cannot be used: the compiled kernels are not installed" in str(error), error
        assert "backend='auto' uses plain torch" in str(error), error
    else:
        raise AssertionError("no error")
from mlip.calculators import MLIPCalculator
atoms.calc = MLIPCalculator(p)
assert atoms.get_potential_energy() == found["exact", "auto"][0]
from mlip.potentials.registry import ModelReference, resolve
for asked, given in (("compiled", "auto"), ("auto", "auto"), ("reference", "reference")):
    sha = mlip.load("mace-acac").info.sha256
    assert resolve(ModelReference("mace-acac", sha, "float32", "cpu", asked)).backend == given
print(pickle.dumps(found).hex())
"""

FILES = """
import shutil, sys
from pathlib import Path
from mlip.ops import _library
from mlip.ops._library import Library
assert _library.LIBRARY.path is None
whole, place = Path(sys.argv[1]), Path(sys.argv[2])
data, damaged = whole.read_bytes(), []
for size in (0, 3, 10, 63, 64, 100, 1000, 4096, 65536, len(data) // 2, len(data) * 4 // 5):
    damaged.append(place / f"cut{size}.so")
    damaged[-1].write_bytes(data[:size])
for name, content in (("text", b"not a library, " * 1000), ("header", data[:64] + b"?" * 5000),
                      ("class", data[:4] + b"\\x01" + data[5:])):
    damaged.append(place / f"{name}.so")
    damaged[-1].write_bytes(content)
for path in damaged:
    _library.candidates = lambda path=path: iter([path])
    found = _library.load()
    assert found == Library(None, "", found.problem)
    assert found.problem.startswith(f"{path} cannot be loaded: "), found
import numpy  # a library that is not ours
foreign = next(Path(numpy.__file__).parent.rglob("_multiarray_umath*.so"))
_library.candidates = lambda: iter([foreign])
assert "mlip_ops_interface" in _library.load().problem
_library.candidates = lambda: iter([*damaged, whole])
if len(sys.argv) > 3:
    _library.INTERFACE += 1
    found = _library.load()
    assert found.path is None
    assert found.problem == (f"{whole} belongs to another version of mlip (interface {_library.INTERFACE - 1}, needed "
                             f"{_library.INTERFACE}); reinstall mlip-md"), found
else:
    found = _library.load()
    assert (found.path, found.problem) == (whole, "") and found.isa, found
print("done")
"""


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, but without the library."""
    folder = tmp_path_factory.mktemp("stripped")
    source, ignored = Path(mlip.__file__).parent, shutil.ignore_patterns("_lib", "csrc")
    shutil.copytree(source, folder / "mlip", ignore=ignored)  # links become folders; what numba compiled goes along
    assert not list(folder.rglob("*.so"))
    return folder


def python(code: str, *arguments: object, path: Path = ROOT, **environment: str) -> str:
    """Return what a fresh process prints; it imports the package of a folder."""
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}",
                           *map(str, arguments)], capture_output=True, text=True, check=False, cwd=path,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout.strip()


def without_metadata(code: str) -> str:
    """Return code that does not find an installed package beside the folder it runs in."""
    return ("import importlib.metadata as metadata\ndef absent(name): raise metadata.PackageNotFoundError(name)\n"
            "metadata.distribution = absent\n" + code)


class TestAbsent:
    @pytest.mark.slow
    def test_everything_works_in_plain_torch(self, stripped: Path) -> None:
        import pickle

        found = pickle.loads(bytes.fromhex(python(without_metadata(MISSING), path=stripped)))
        assert len(found) == 4
        for (radial, _), (energy, forces) in found.items():
            tolerance = 1e-11 if radial == "exact" else 1e-7
            assert energy == pytest.approx(found["exact", "reference"][0], abs=tolerance)
            np.testing.assert_allclose(forces, found["exact", "reference"][1], rtol=0, atol=tolerance)

    def test_in_this_process(self, monkeypatch: pytest.MonkeyPatch, mace: mlip.Potential) -> None:
        monkeypatch.setattr(backend, "LIBRARY", Library(None, problem="it was lost; buy another"))
        assert mlip.backends()["compiled"] == ("MISSING, everything runs in plain torch, many times slower: it was "
                                               "lost; buy another")
        assert mlip.backends()["auto"] == "reference"
        assert not compiled_is_available()
        assert not use_compiled("compiled", torch.ones(1))
        with pytest.raises(BackendError, match="backend='compiled' cannot be used: it was lost; buy another; "
                                               "backend='auto' uses plain torch"):
            check_backend("compiled")
        with pytest.raises(BackendError):
            mace.to(backend="compiled")
        assert mace.to(backend="reference").backend == "reference"

    def test_every_module_has_the_same_state(self) -> None:
        for module in [m for name, m in sys.modules.items() if name.startswith("mlip.ops")]:
            assert getattr(module, "LIBRARY", LIBRARY) is LIBRARY


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("version", [(), ("other",)], ids=["this", "another"])
def test_damaged_and_foreign_files(stripped: Path, tmp_path: Path, version: tuple[str, ...]) -> None:
    """None ends the process; a good file after bad ones is loaded, one of another version of mlip is not."""
    assert python(without_metadata(FILES), LIBRARY.path, tmp_path, *version, path=stripped) == "done"


def test_interface_is_that_of_the_sources() -> None:
    found = re.search(r"^set\(INTERFACE (\d+)\)", (ROOT / "mlip/ops/csrc/CMakeLists.txt").read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) == INTERFACE


def test_backends_say_which_and_where() -> None:
    said = mlip.backends()
    assert list(said) == ["auto", "compiled", "reference"]
    if LIBRARY.path is not None:
        assert said["compiled"] == f"kernels for {LIBRARY.isa} from {LIBRARY.path}"
        assert LIBRARY.path in list(_library.candidates())


NUMBERS = """
import warnings
warnings.simplefilter("error")
import numpy as np
import torch
import mlip
from ase import Atoms
from mlip.io.ase import structure_of
from mlip.nn.derivatives import evaluate
from mlip.ops._library import LIBRARY
torch.set_num_threads(int(sys.argv[2]))
cell = [[4.9, 0, 0], [0.3, 5.2, 0], [0, 0.4, 4.7]]
atoms = Atoms("H4C3O2Cu", np.random.default_rng(3).uniform(0, 5, (10, 3)), cell=cell, pbc=True)
found = {"isa": LIBRARY.isa}
common = dict(elements=["H", "C", "O", "Cu"], seed=0, radial_mlp=(16,), cutoff=4.0, correlation=3)
models = {"plain": dict(channels=16, hidden_lmax=1, edge_lmax=3),
          "density": dict(channels=5, hidden_lmax=2, edge_lmax=2, interaction_first="density_residual",
                          interaction="density_residual", distance_transform="agnesi", pair_repulsion=True)}
for name, options in models.items():
    for dtype in ("float64", "float32"):
        for radial in ("exact", "tabulated"):
            p = mlip.create("mace", **common, **options, dtype="float64").to(
                dtype=dtype, radial=radial, backend="compiled")
            q, key = p.predict(atoms), f"{name}/{dtype}/{radial}"
            again = p.predict(atoms)
            assert q.energy == again.energy and (q.forces == again.forces).all(), key
            found.update({f"{key}/energy": q.energy, f"{key}/forces": q.forces, f"{key}/stress": q.stress})
    model = mlip.create("mace", **common, **options, dtype="float64").to(backend="compiled").model.requires_grad_(True)
    graph = p.graph([structure_of(atoms)])
    q = evaluate(model, graph, training=True)
    (q.energy.sum() + q.forces.square().sum()).backward()
    found[f"{name}/float64/training"] = torch.cat([w.grad.flatten() for w in model.parameters()]).numpy()
np.savez(sys.argv[1], **found)
"""


def numbers(file: Path, isa: str = "", threads: int = 1) -> dict[str, np.ndarray]:
    python(NUMBERS, file, threads, MLIP_ISA=isa)
    with np.load(file) as found:
        return dict(found)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the best instruction set of this processor gives."""
    return numbers(tmp_path_factory.mktemp("isa") / "best.npz")


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], double: float, single: float) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 27
    for key in found.keys() - {"isa"}:
        scale = max(1.0, float(np.abs(expected[key]).max()))
        tolerance = (single if "float32" in key else double) * scale
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=tolerance, err_msg=key)


@needs_kernels
@pytest.mark.slow
class TestInstructionSets:
    @pytest.mark.parametrize("isa", ["generic", "avx2"])
    def test_give_the_same(self, best: dict[str, np.ndarray], tmp_path: Path, isa: str) -> None:
        ladder = ["generic", "avx2", "avx512"]
        if str(best["isa"]) not in ladder[ladder.index(isa) + 1:]:
            pytest.skip(f"this processor has nothing better than {best['isa']}")
        found = numbers(tmp_path / "found.npz", isa)
        assert str(found["isa"]) == isa
        compare(found, best, 1e-12, 1e-5)

    def test_unknown_wishes_change_nothing(self, best: dict[str, np.ndarray]) -> None:
        assert python("from mlip.ops._library import LIBRARY; print(LIBRARY.isa)", MLIP_ISA="sse9") == str(best["isa"])

    def test_threads_do_not_matter(self, best: dict[str, np.ndarray], tmp_path: Path) -> None:
        compare(numbers(tmp_path / "found.npz", threads=3), best, 1e-12, 1e-5)
