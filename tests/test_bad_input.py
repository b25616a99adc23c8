"""What a user may get wrong. Each row: the mistake, the typed error, and what its message must say."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import (
    ConfigError,
    MLIPError,
    ModelFileError,
    ModelNotFoundError,
    OptionError,
    StructureError,
    UnknownElementError,
)
from mlip.graph import Structure
from mlip.neighbors import neighbor_list

Says = tuple[str, ...]
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def water(**info: Any) -> Atoms:
    return Atoms(molecule("H2O"), info=info)


def moved(value: float, atom: int = 1) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[atom, 2] = value
    return atoms


def crystal(cell: Any = None, pbc: Any = True) -> Atoms:
    return Atoms("CuO", [[0, 0, 0], [1.8, 1.8, 1.8]], cell=cell, pbc=pbc)


ATOMS: dict[str, tuple[Callable[[], Any], type[MLIPError], Says]] = {
    "NaN position": (lambda: moved(math.nan), StructureError, ("NaN", "[1]")),
    "infinite position": (lambda: moved(-math.inf, 2), StructureError, ("infinite", "[2]")),
    "flown apart": (lambda: moved(3e9), StructureError, ("[1]", "beyond", "exploded")),
    "no cell": (lambda: crystal(), StructureError, ("[0, 1, 2]", "cell vector is zero", "pbc=False")),
    "one cell vector missing": (lambda: crystal([3, 3, 0]), StructureError, ("[2]", "cell vector is zero")),
    "flat cell": (lambda: crystal([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), StructureError,
                  ("linearly dependent", "3.0")),
    "flat slab": (lambda: crystal([[3, 1, 0], [6, 2, 0], [0, 0, 9]], [1, 1, 0]), StructureError,
                  ("linearly dependent", "6.0")),
    "cell in nanometres": (lambda: bulk("Cu", a=0.361, cubic=True), StructureError, ("4 atom(s)", "Angstrom")),
    "tiny wire": (lambda: crystal([0.1, 9, 9], [1, 0, 0]), StructureError, ("1.0e-01 A^1", "Angstrom")),
    "NaN cell": (lambda: crystal([math.nan, 3, 3]), StructureError, ("NaN", "cell vectors", "[0]")),
    "coincident atoms": (lambda: Atoms("COO", [[0, 0, 2], [0, 0, 0], [0, 0, 0]]), StructureError,
                         ("atoms 1 and 2", "apart")),
    "coincident images": (lambda: Atoms("CuO", [[0, 0, 0], [3, 3, 0]], cell=[3] * 3, pbc=True),
                          StructureError, ("atoms 0 and 1", "apart")),
    "unknown element": (lambda: bulk("NaCl", "rocksalt", a=5.6), UnknownElementError,
                        ("Na, Cl", "[0, 1]", "H, C, O, Cu")),
    "dummy atom X": (lambda: Atoms("HX", [[0, 0, 0], [0, 0, 1]]), StructureError,
                     ("from 1 to 118", "atom 1")),
    "element 119": (lambda: Atoms(numbers=[119]), StructureError, ("119", "from 1 to 118")),
    "half a charge": (lambda: water(charge=0.5), StructureError, ("charge", "0.5", "whole number")),
    "charge in words": (lambda: water(charge="plus"), StructureError, ("charge", "plus")),
    "charge of each atom": (lambda: water(charge=[1, 0, 0]), StructureError, ("charge", "whole number")),
    "infinite charge": (lambda: water(charge=math.inf), StructureError, ("charge", "inf")),
    "enormous charge": (lambda: water(charge=10**30), StructureError, ("charge", "1000000")),
    "unreadable charge": (lambda: water(charge=10**400), StructureError, ("charge", "whole number")),
    "no charge": (lambda: water(charge=None), StructureError, ("charge", "None")),
    "spin minus one": (lambda: water(spin=-1), StructureError, ("spin (2S+1)", "from 1", "-1")),
    "two spins": (lambda: water(spin=3, spin_multiplicity=1), StructureError, ("contradict", "[1, 3]")),
    "a charge nobody reads": (lambda: water(charge=1), StructureError, ("charge 1", "reads neither")),
    "a spin nobody reads": (lambda: water(spin=2), StructureError, ("spin (2S+1) 2", "reads neither")),
    "spin one half": (lambda: water(spin_multiplicity=1.5), StructureError, ("spin", "1.5")),
    "unknown head": (lambda: water(head="pbe"), OptionError, ("'pbe'", "default")),
    "a number as head": (lambda: water(head=3), OptionError, ("'3'", "default")),
    "a string": (lambda: "H2O", StructureError, ("ase.Atoms", "str")),
    "a dictionary": (lambda: {"numbers": [1]}, StructureError, ("ase.Atoms",)),
    "nothing": (lambda: None, StructureError, ("ase.Atoms", "NoneType")),
    "a list with a hole": (lambda: [molecule("H2O"), None], StructureError, ("ase.Atoms", "NoneType")),
}


@pytest.mark.parametrize("name", ATOMS)
def test_atoms(mace: mlip.Potential, name: str) -> None:
    make, error, says = ATOMS[name]
    given = make()
    with pytest.raises(error) as caught:
        mace.predict(given)
    assert all(part in str(caught.value) for part in says), str(caught.value)
    if isinstance(given, Atoms):
        with pytest.raises(error) as again:
            MLIPCalculator(mace).get_potential_energy(given)
        assert str(again.value) == str(caught.value)


def create(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: Structure.create(*args, **options)


ONE, ORIGIN = [1], [[0.0, 0.0, 0.0]]
ARRAYS: dict[str, tuple[Callable[[], Any], type[MLIPError], Says]] = {
    "too few positions": (create([1, 1], ORIGIN), StructureError, ("(1, 3)", "(2, 3)")),
    "flat positions": (create(ONE, [0.0, 0.0, 0.0]), StructureError, ("(3,)", "(1, 3)")),
    "two-dimensional": (create(ONE, [[0.0, 0.0]]), StructureError, ("(1, 2)", "(1, 3)")),
    "words as positions": (create(ONE, [["a", "b", "c"]]), StructureError, ("positions", "numbers")),
    "ragged positions": (create([1, 1], [[0, 0, 0], [0, 0]]), StructureError, ("positions",)),
    "symbols for numbers": (create(["H"], ORIGIN), StructureError, ("atomic numbers",)),
    "Z = 0": (create([0], ORIGIN), StructureError, ("from 1 to 118", "0")),
    "negative Z": (create([-6], ORIGIN), StructureError, ("from 1 to 118", "-6")),
    "half a proton": (create([1.5], ORIGIN), StructureError, ("whole", "1.5")),
    "NaN as Z": (create([math.nan], ORIGIN), StructureError, ("whole", "nan")),
    "cell of four": (create(ONE, ORIGIN, [1, 2, 3, 4]), StructureError, ("cell", "(4,)")),
    "cell in words": (create(ONE, ORIGIN, "cubic"), StructureError, ("cell",)),
    "two flags": (create(ONE, ORIGIN, [3, 3, 3], [True, False]), StructureError, ("pbc", "(2,)")),
    "pbc in words": (create(ONE, ORIGIN, [3, 3, 3], "xyz"), StructureError, ("pbc", "xyz")),
    "negative cutoff": (lambda: neighbor_list(ORIGIN, -1.0), OptionError, ("cutoff", "-1.0")),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str) -> None:
    call, error, says = ARRAYS[name]
    with pytest.raises(error) as caught:
        call()
    assert all(part in str(caught.value) for part in says), str(caught.value)


CREATE = {"family": "mace", "elements": ["H", "O"], "channels": 4, "edge_lmax": 1, "hidden_lmax": 0,
          "correlation": 1, "radial_mlp": (4,)}
CONFIGS: dict[str, tuple[dict[str, Any], type[MLIPError], Says]] = {
    "unknown family": ({"family": "schnet"}, OptionError, ("'schnet'", "mace")),
    "no family": ({"family": None}, OptionError, ("None", "mace")),
    "unknown field": ({"chanels": 4}, ConfigError, ("chanels", "channels")),
    "no elements": ({"elements": []}, ConfigError, ("atomic_numbers", "()")),
    "elements in one string": ({"elements": "HO"}, ConfigError, ("'HO'", "['H', 'O']")),
    "no such element": ({"elements": ["H", "Xx"]}, StructureError, ("'Xx'", "118")),
    "element zero": ({"elements": [0]}, StructureError, ("0", "118")),
    "cutoff zero": ({"cutoff": 0.0}, ConfigError, ("cutoff", "0.0", "positive")),
    "negative cutoff": ({"cutoff": -5}, ConfigError, ("cutoff", "-5", "positive")),
    "infinite cutoff": ({"cutoff": math.inf}, ConfigError, ("cutoff", "inf")),
    "NaN cutoff": ({"cutoff": math.nan}, ConfigError, ("cutoff", "nan")),
    "cutoff in words": ({"cutoff": "5 A"}, ConfigError, ("cutoff", "5 A")),
    "no channels": ({"channels": 0}, ConfigError, ("channels", "0")),
    "half a channel": ({"channels": 4.5}, ConfigError, ("channels", "4.5")),
    "degree too high": ({"edge_lmax": 99}, ConfigError, ("edge_lmax", "99")),
    "unknown block": ({"interaction": "fancy"}, ConfigError, ("interaction", "fancy", "residual")),
    "no heads": ({"heads": []}, ConfigError, ("heads",)),
    "half precision": ({"dtype": "half"}, OptionError, ("'half'", "float32", "float64")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str) -> None:
    changes, error, says = CONFIGS[name]
    with pytest.raises(error) as caught:
        mlip.create(**{**CREATE, **changes})
    assert all(part in str(caught.value) for part in says), str(caught.value)


OPTIONS: dict[str, tuple[dict[str, Any], Says]] = {
    "negative skin": ({"skin": -1}, ("skin", "-1")),
    "NaN skin": ({"skin": math.nan}, ("skin", "nan")),
    "infinite skin": ({"skin": math.inf}, ("skin", "inf")),
    "skin in words": ({"skin": "wide"}, ("skin", "wide")),
    "no skin": ({"skin": None}, ("skin", "None")),
    "half precision": ({"dtype": "half"}, ("'half'", "float32", "float64")),
    "half precision of torch": ({"dtype": torch.float16}, ("float16", "float32")),
    "numpy's precision": ({"dtype": np.float64}, ("float64", "float32")),
    "unknown device": ({"device": "quantum"}, ("'quantum'", "'cpu'", "'cuda'")),
    "Apple's device": ({"device": "mps"}, ("'mps'", "'cpu'")),
    "a number as device": ({"device": 1.5}, ("1.5", "'cpu'")),
    "no model": ({"model": None}, ("no model", "name", "path")),
    "a list of models": ({"model": ["a.model"]}, ("list", "path", "mlip.Potential")),
    "a model without its papers": ({"model": torch.nn.Linear(1, 1)}, ("Linear", "mlip.Potential")),
    "mace's model_paths": ({"model_paths": "a.model"}, ("model_paths", "did you mean model?")),
    "mace's default_dtype": ({"default_dtype": "float64"}, ("default_dtype", "did you mean dtype?")),
    "something else": ({"xyzzy": 1}, ("xyzzy", "MLIPCalculator(model, device=None, dtype=None, skin=1.0, ")),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_the_calculator(mace: mlip.Potential, name: str) -> None:
    changes, says = OPTIONS[name]
    with pytest.raises(OptionError) as caught:
        MLIPCalculator(**{"model": mace, **changes})
    assert all(part in str(caught.value) for part in says), str(caught.value)


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_where_there_is_none(mace: mlip.Potential, device: str) -> None:
    with pytest.raises(OptionError, match=f"'{device}'.*no CUDA device.*'cpu'"):
        MLIPCalculator(mace, device=device)


def cut(data: bytes, length: int) -> bytes:
    return data[:length]


def flipped(data: bytes, index: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[index] ^= bit
    return bytes(changed)


def with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a model file whose JSON document was changed, everything else being in order."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    document = json.loads(header["__metadata__"]["mlip-md"])
    change(document)
    header["__metadata__"]["mlip-md"] = json.dumps(document)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


FILES: dict[str, tuple[Callable[[bytes], bytes], Says]] = {
    "empty": (lambda d: b"", ("model.mlip", "truncated")),
    "text": (lambda d: b"energy = 0\n" * 100, ("model.mlip", "another kind")),
    "web page": (lambda d: b"<!DOCTYPE html><html><body>404</body></html>", ("model.mlip", "another kind")),
    "first bytes only": (lambda d: cut(d, 100), ("model.mlip", "truncated")),
    "half": (lambda d: cut(d, len(d) // 2), ("model.mlip", "truncated")),
    "one byte short": (lambda d: cut(d, len(d) - 1), ("model.mlip", "truncated")),
    "one byte more": (lambda d: d + b"\0", ("model.mlip",)),
    "last bit flipped": (lambda d: flipped(d, -1), ("model.mlip", "altered")),
    "a weight flipped": (lambda d: flipped(d, -len(d) // 3, 64), ("model.mlip", "altered")),
    "length flipped": (lambda d: flipped(d, 5), ("model.mlip",)),
    "zeros": (lambda d: bytes(len(d)), ("model.mlip",)),
    "pickle": (lambda d: b"\x80\x04\x95" + bytes(64), ("model.mlip",)),
    "empty zip": (lambda d: b"PK\x05\x06" + bytes(18), ("model.mlip",)),
    "cutoff edited": (lambda d: with_header(d, lambda h: h["config"].update(cutoff=9.0)), ("altered",)),
    "licence edited": (lambda d: with_header(d, lambda h: h["info"].update(licence="MIT")), ("altered",)),
    "no configuration": (lambda d: with_header(d, lambda h: h.pop("config")),
                         ("model.mlip", "header is damaged")),
    "from the future": (lambda d: with_header(d, lambda h: h.update(version=99)), ("99", "upgrade")),
}


@pytest.fixture(scope="module")
def model_bytes(mace: mlip.Potential, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mace.save(tmp_path_factory.mktemp("models") / "good.mlip").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_model_files(model_bytes: bytes, tmp_path: Path, name: str) -> None:
    damage, says = FILES[name]
    path = tmp_path / "model.mlip"
    path.write_bytes(damage(model_bytes))
    for open_it in (mlip.load, MLIPCalculator):
        with pytest.raises(ModelFileError) as caught:
            open_it(path)
        assert all(part in str(caught.value) for part in says), str(caught.value)


def test_bits_flipped_anywhere_are_noticed(model_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.mlip"
    rng = np.random.default_rng(0)
    for index in [*range(16), *rng.integers(0, len(model_bytes), 40).tolist()]:
        path.write_bytes(flipped(model_bytes, index, 1 << int(rng.integers(8))))
        with pytest.raises(ModelFileError):
            mlip.load(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    cases = [(tmp_path, ModelFileError, "folder"), (tmp_path / "none.mlip", ModelNotFoundError, "none.mlip"),
             ("no-such-model", ModelNotFoundError, "bundled models"), ("", MLIPError, "."),
             ("~/no-such-folder/x.mlip", ModelNotFoundError, "x.mlip"), ("nul\0byte", MLIPError, "nul")]
    for given, error, says in cases:
        for open_it in (mlip.load, MLIPCalculator):
            with pytest.raises(error, match=says):
                open_it(given)


def test_an_unreadable_file(model_bytes: bytes, tmp_path: Path) -> None:
    link = tmp_path / "loop.mlip"
    link.symlink_to(link)
    with pytest.raises(MLIPError):
        mlip.load(link)


def test_saving_to_a_folder_that_is_not_there(mace: mlip.Potential, tmp_path: Path) -> None:
    with pytest.raises(MLIPError, match="does not exist"):
        mace.save(tmp_path / "nowhere" / "x.mlip")


def test_all_errors_are_ours_and_built_in_ones() -> None:
    assert issubclass(StructureError, MLIPError)
    assert issubclass(StructureError, ValueError)
    assert issubclass(ModelNotFoundError, FileNotFoundError)
