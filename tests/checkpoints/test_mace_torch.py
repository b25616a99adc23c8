"""Whole mace-torch models: what is read, what is refused. The files are made by `fake_mace.py`."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

import mlip
from mlip.checkpoints.mace_torch import read_mace_torch
from mlip.errors import ModelFileError, UnsupportedModelError
from mlip.so3.wigner3j import wigner_3j

_spec = importlib.util.spec_from_file_location("fake_mace", Path(__file__).with_name("fake_mace.py"))
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain MACE": {"model_class": "MACE", "pair_repulsion": False},
    "Agnesi": {"distance_transform": "Agnesi"},
    "heads": {"heads": ["a", "b"], "atomic_energies": [[-1.0, -2.0], [-3.0, -4.0]],
              "atomic_inter_scale": [1.0, 2.0], "atomic_inter_shift": [0.5, 0.25]},
    "degree 2": {"hidden_irreps": "2x0e+2x1o+2x2e", "max_ell": 3},
    "invariant": {"hidden_irreps": "2x0e", "correlation": 3},
    "three layers": {"num_interactions": 3, "interaction_cls": "RealAgnosticInteractionBlock"},
    "first correlation": {"correlation": 1, "radial_MLP": [4, 5]},
}


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_tensors_and_configuration(name: str, double: bool, tmp_path: Path) -> None:
    kept: list[nn.Module] = []
    path = fake.save(tmp_path / "a.model", kept.append, double=double, **VARIANTS[name])
    tensors, config = read_mace_torch(path)
    expected = kept[0].state_dict()
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype
        assert torch.equal(tensors[key], value), key
        assert not tensors[key].requires_grad
    wanted = {**fake.CONFIG, **VARIANTS[name]}
    if wanted["model_class"] == "MACE":
        del wanted["atomic_inter_scale"], wanted["atomic_inter_shift"]
    assert config == wanted
    assert json.loads(json.dumps(config)) == config


def test_repulsion_block_of_2024_files(tmp_path: Path) -> None:
    """It holds a cutoff module that was never evaluated."""
    def add_cutoff(model: nn.Module) -> None:
        old = fake.part("mace.modules.radial", "PolynomialCutoff", {"p": torch.tensor(6.0), "r_max": torch.tensor(3.0)})
        model.get_submodule("pair_repulsion_fn").add_module("cutoff", old)

    assert fake.CONFIG["pair_repulsion"]
    old, old_config = read_mace_torch(fake.save(tmp_path / "old.model", add_cutoff))
    new, new_config = read_mace_torch(fake.save(tmp_path / "new.model"))
    assert old_config == new_config
    assert set(old) - set(new) == {"pair_repulsion_fn.cutoff.p", "pair_repulsion_fn.cutoff.r_max"}


def test_reading_needs_neither_mace_nor_e3nn(tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.model")
    before = set(sys.modules)
    read_mace_torch(path)
    assert not [m for m in set(sys.modules) - before if m.split(".")[0] in ("mace", "e3nn", "__torch__")]
    assert "mace" not in sys.modules


def _rewrite(path: Path, old: bytes, new: bytes) -> Path:
    with zipfile.ZipFile(path) as z:
        records = {i.filename: z.read(i) for i in z.infolist()}
    name = next(n for n in records if n.endswith("/data.pkl"))
    assert old in records[name]
    records[name] = records[name].replace(old, new)
    with zipfile.ZipFile(path, "w") as z:
        for key, value in records.items():
            z.writestr(key, value)
    return path


def test_file_from_a_cuda_machine(tmp_path: Path) -> None:
    expected, _ = read_mace_torch(fake.save(tmp_path / "a.model"))
    tensors, _ = read_mace_torch(_rewrite(tmp_path / "a.model", b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0"))
    assert all(v.device.type == "cpu" and torch.equal(v, expected[k]) for k, v in tensors.items())


def test_file_without_the_attributes_of_later_versions(tmp_path: Path) -> None:
    def age(model: nn.Module) -> None:
        for module in model.modules():
            for name in {"heads", "apply_cutoff", "use_reduced_cg", "cueq_config", "num_heads"} & set(vars(module)):
                delattr(module, name)
        cutoff: Any = model.get_submodule("radial_embedding.cutoff_fn")
        cutoff.p = cutoff.p.double()

    _, config = read_mace_torch(fake.save(tmp_path / "a.model", age))
    assert config == {**fake.CONFIG, "heads": None}


def test_neighbors_saved_by_numpy_or_torch(tmp_path: Path) -> None:
    for value in (np.float64(6.5), np.float32(6.5), torch.tensor(6.5)):
        def change(model: Any, value: Any = value) -> None:
            for block in model.interactions:
                block.avg_num_neighbors = value

        _, config = read_mace_torch(fake.save(tmp_path / "a.model", change))
        assert config["avg_num_neighbors"] == 6.5
        assert type(config["avg_num_neighbors"]) is float


def _couplings(sign: float) -> bytes:
    holder = fake.kind("__torch__.torch.fx.graph_module", "GraphModule", object)()
    holder._w3j_1_1_2 = sign * torch.from_numpy(wigner_3j(1, 1, 2).copy())
    buffer = io.BytesIO()
    fake.write(holder, buffer)
    return buffer.getvalue()


def test_couplings_in_compiled_parts(tmp_path: Path) -> None:
    def change(sign: float) -> Callable[[Any], None]:
        def apply(model: Any) -> None:
            vars(model.interactions[1].conv_tp)["__codegen__"] = {"_main": _couplings(sign), "_other": b"no archive"}
        return apply

    tensors, _ = read_mace_torch(fake.save(tmp_path / "a.model", change(1.0)))
    assert tensors["interactions.1.conv_tp._main._w3j_1_1_2"].shape == (3, 3, 5)
    fake.save(tmp_path / "a.model", change(-1.0))
    with pytest.raises(UnsupportedModelError, match=r"interactions\.1\.conv_tp\._w3j_1_1_2.*e3nn 0\.4\.4"):
        read_mace_torch(tmp_path / "a.model")


def layout(enabled: bool, name: str) -> Any:
    made = fake.kind("mace.modules.wrapper_ops", "CuEquivarianceConfig", object)()
    vars(made).update(enabled=enabled, layout_str=name, conv_fusion=False)
    return made


def test_accelerated_layout_that_is_switched_off(tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.model", put(FIRST, "cueq_config", lambda: layout(False, "mul_ir")))
    assert read_mace_torch(path)[1] == fake.CONFIG


def put(path: str, name: str, value: Any) -> Callable[[nn.Module], None]:
    """Return a change that sets an attribute or tensor of a module."""
    def change(model: nn.Module) -> None:
        setattr(model.get_submodule(path), name, value() if callable(value) else value)
    return change


def hide(path: str, name: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        delattr(model.get_submodule(path), name)
    return change


def swap(path: str, module: str, name: str, **tensors: Any) -> Callable[[nn.Module], None]:
    """Return a change that puts a module of another class in the place of one."""
    parent, _, child = path.rpartition(".")

    def change(model: nn.Module) -> None:
        setattr(model.get_submodule(parent), child, fake.part(module, name, tensors))
    return change


def step(path: str, index: int, value: Any) -> Callable[[nn.Module], None]:
    """Return a change of one value of the first instruction of a module."""
    def change(model: nn.Module) -> None:
        steps: Any = model.get_submodule(path).instructions
        first = list(steps[0])
        first[index] = value
        steps[0] = type(steps[0])(first)
    return change


FIRST, SILU = "interactions.0", "interactions.0.conv_tp_weights.layer0.act"
EVEN = fake.irreps([(2, 0, 1), (2, 1, 1)])
REFUSED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "another class": (lambda m: fake.part("mace.modules.models", "PolarMACE"), "PolarMACE.*supported: MACE, Scale"),
    "LES": (lambda m: fake.part("mace.modules.extensions", "MACELES"), "MACELES.*supported: MACE, ScaleShiftMACE"),
    "compiled": (lambda m: fake.part("eval_frame", "OptimizedModule"), "torch.compile; save the orig"),
    "cuequivariance": (swap(f"{FIRST}.linear", "cuequivariance_torch.operations.linear", "Linear"),
                       "accelerated layout.*mace_cueq_to_e3nn"),
    "LoRA": (swap(f"{FIRST}.linear", "mace.modules.lora", "LoRAO3Linear"), "interactions.0.linear is a .*LoRAO3Linear"),
    "Gaussian basis": (swap("radial_embedding.bessel_fn", "mace.modules.radial", "GaussianBasis"),
                       "GaussianBasis.*supported there: BesselBasis"),
    "soft transform": (lambda m: m.radial_embedding.add_module(
        "distance_transform", fake.part("mace.modules.radial", "SoftTransform")), "SoftTransform.*AgnesiTransform"),
    "nonlinear block": (swap("interactions.1", fake.BLOCKS, "RealAgnosticResidualNonLinearInteractionBlock"),
                        "NonLinearInteractionBlock.*supported there: RealAgnosticInteractionBlock"),
    "embedding": (lambda m: m.add_module("joint_embedding", fake.part("mace.modules.embeddings",
                                                                      "GenericJointEmbedding")), "joint_embedding is"),
    "dipole readout": (swap("readouts.0", fake.BLOCKS, "LinearDipoleReadoutBlock"), "LinearDipoleReadoutBlock"),
    "radial MLP with norms": (swap(f"{FIRST}.conv_tp_weights", "mace.modules.radial", "RadialMLP"), "RadialMLP"),
    "own class": (swap("scale_shift", "my_models", "ScaleShiftBlock"), "refers to my_models.ScaleShiftBlock"),
    "apply_cutoff": (put("", "apply_cutoff", False), "apply_cutoff: False.*supported: True"),
    "apply_cutoff below": (put("radial_embedding", "apply_cutoff", False), "apply_cutoff: False.*supported: True"),
    "use_so3": (put("", "use_so3", True), "use_so3: True"),
    "agnostic product": (put("", "use_agnostic_product", True), "use_agnostic_product: True.*supported: False"),
    "agnostic product below": (put("products.0", "use_agnostic_product", True), "use_agnostic_product: True"),
    "last readout only": (put("", "use_last_readout_only", True), "use_last_readout_only: True"),
    "unknown option": (put("", "long_range", {"sigma": 1.0}), "option long_range = a dict"),
    "unknown option below": (put(FIRST, "beta", 0.5), r"option beta = 0\.5, which mlip does not support"),
    "unknown tensor": (lambda m: m.scale_shift.register_buffer("extra", torch.ones(2)), "tensor 'extra'"),
    "unknown module": (lambda m: m.add_module("charges", nn.Identity()), "charges is a torch.nn.*Identity"),
    "forward hook": (lambda m: m.scale_shift.register_forward_hook(nn.functional.silu), "hooks"),
    "forward pre-hook": (lambda m: m.register_forward_pre_hook(nn.functional.silu), "carries hooks"),
    "code in an attribute": (put("", "heads", lambda: os.getcwd),
                             r"refers to (posix|nt)\.getcwd.*Nothing in it was run"),
    "torch function in an attribute": (put("", "edge_irreps", lambda: torch.hub.load),
                                       r"the model uses torch\.hub\.load"),
    "tanh": (put("readouts.1.non_linearity.acts.0", "f", lambda: torch.tanh), "gate: tanh .*supported: silu"),
    "gate of the radial MLP": (put(SILU, "f", lambda: torch.nn.functional.gelu), "gate"),
    "constant of silu": (put(SILU, "cst", 1.6788), r"1\.6788 is not supported; supported: 1\.67917"),
    "no constant of silu": (hide(SILU, "cst"), "factor of silu: None"),
    "even parity": (put(FIRST, "hidden_irreps", EVEN), r"hidden_irreps: 2x0e\+2x1e .*natural parity"),
    "missing degree": (put(FIRST, "hidden_irreps", "2x0e+2x2e"), r"2x0e\+2x2e.*consecutive degrees"),
    "unequal channels": (put(FIRST, "hidden_irreps", "4x0e+2x1o"), r"4x0e\+2x1o.*equal channels"),
    "kept irreps": (put("interactions.1", "hidden_irreps", "2x0e+2x1o"), r"interactions\.1\.hidden_irreps"),
    "edge irreps": (put(FIRST, "edge_irreps", "1x0e"), r"interactions\.0\.edge_irreps: 1x0e"),
    "no irreps": (put(FIRST, "hidden_irreps", 5), "5 where irreps were expected"),
    "normalisation of the harmonics": (put("spherical_harmonics", "normalization", "norm"),
                                       "norm is not supported; supported: component"),
    "correlation 5": (put("products.0.symmetric_contractions.contractions.0", "correlation", 5), "1 to 4"),
    "unequal neighbors": (put(FIRST, "avg_num_neighbors", 7.0), r"avg_num_neighbors: \[7.0, 6.5\]"),
    "neighbors as text": (put(FIRST, "avg_num_neighbors", "7"), "'7' where a number was expected"),
    "no neighbors": (hide(FIRST, "avg_num_neighbors"), "no attribute 'avg_num_neighbors'"),
    "variance": (put(f"{FIRST}.conv_tp_weights.layer0", "var_in", 2), "var_in: 2"),
    "fan-in": (put(f"{FIRST}.conv_tp_weights.layer0", "h_in", 2), "h_in: 2 is not supported; supported: 3"),
    "order of paths": (step(f"{FIRST}.conv_tp", 1, 2), "other paths"),
    "factor of a path": (step(f"{FIRST}.conv_tp", 5, 0.5), "factor of a path: 0.5"),
    "factor of a linear map": (step(f"{FIRST}.linear_up", 3, 1.0), "factor of a path: 1.0"),
    "factor of the skip": (step(f"{FIRST}.skip_tp", 5, 1.0), "factor of a path: 1.0"),
    "bias": (put(f"{FIRST}.linear", "bias", lambda: torch.ones(2)), "a bias is not supported; supported: none"),
    "no skip connection": (put("products.1", "use_sc", False), "use_sc: False is not supported; supported: True"),
    "repulsion never used": (hide("", "pair_repulsion"), "pair_repulsion: None.*pair_repulsion_fn"),
    "radius of the basis": (put("radial_embedding.bessel_fn", "r_max", lambda: torch.tensor(5.0)), "bessel_fn.r_max"),
    "factor of the basis": (put("radial_embedding.bessel_fn", "prefactor", lambda: torch.tensor(1.0)), "prefactor"),
    "number of layers": (put("", "num_interactions", lambda: torch.tensor(3)), "num_interactions: 3"),
    "fewer readouts": (lambda m: m.readouts.__delitem__(0), "readouts: 1 blocks"),
    "names of heads": (put("", "heads", ["a", "b"]), "heads: 2 names .*supported: 1 names"),
    "heads without names": (put("", "heads", [None]), "heads.*a list of names"),
    "heads of the readout": (put("readouts.1", "num_heads", 2), "num_heads: 2"),
    "layout": (put("products.0", "cueq_config", lambda: layout(True, "ir_mul")), "cueq_config: an accelerated layout"),
    "layout of the messages": (put(f"{FIRST}.reshape", "cueq_config", lambda: layout(False, "ir_mul")),
                               "cueq_config: an accelerated layout"),
    "half precision": (lambda m: m.half(), "torch.float16 is not supported; supported: float32"),
    "NaN": (put("scale_shift", "scale", lambda: torch.tensor(np.nan)), "scale_shift.scale holds NaN"),
    "attribute of another type": (put(FIRST, "target_irreps", torch.ones(3)), "damaged"),
    "no cutoff": (hide("radial_embedding", "cutoff_fn"), "no module 'radial_embedding.cutoff_fn'"),
    "no number of layers": (hide("", "num_interactions"), "no tensor 'num_interactions'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    path = fake.save(tmp_path / "a.model", change)
    with pytest.raises(ModelFileError, match=rf"a\.model: .*{message}"):
        read_mace_torch(path)


def test_reduced_couplings_are_told_by_their_number(tmp_path: Path) -> None:
    """The attribute `use_reduced_cg` may be set without effect, where cuequivariance was not installed."""
    _, config = read_mace_torch(fake.save(tmp_path / "a.model", put("", "use_reduced_cg", True)))
    assert config["use_reduced_cg"] is False

    def reduce(model: nn.Module) -> None:
        part: Any = model.get_submodule("products.0.symmetric_contractions.contractions.0")
        part.U_matrix_2 = part.U_matrix_2[..., :2]

    _, config = read_mace_torch(fake.save(tmp_path / "a.model", reduce))
    assert config["use_reduced_cg"] is True


def test_random_damage_of_a_model(tmp_path: Path) -> None:
    """A changed pickle gives a model, with other numbers maybe, or a typed error."""
    path = fake.save(tmp_path / "a.model", num_interactions=1, pair_repulsion=False, correlation=1)
    with zipfile.ZipFile(path) as z:
        records = {i.filename: z.read(i) for i in z.infolist()}
    name = next(n for n in records if n.endswith("/data.pkl"))
    data, rng, refused = records[name], np.random.default_rng(0), 0
    for _ in range(100):
        changed = bytearray(data)
        changed[rng.integers(len(changed))] = rng.integers(256)
        with zipfile.ZipFile(path, "w") as z:
            for key, value in {**records, name: bytes(changed)}.items():
                z.writestr(key, value)
        try:
            read_mace_torch(path)
        except ModelFileError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["mace_l3_c3_n2_inv_heads2", "mace_l3_c3_n2_mp0b_like", "mace_plain_l2_c3_n2"])
def test_golden_energies_through_a_file(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[2] / "data" / "reference"
    if not (folder / f"{name}.npz").exists():
        folder = request.getfixturevalue("shared_dir") / "golden" / "gaunt_mace"
    with np.load(folder / f"{name}.npz") as z:
        config = json.loads(str(z["config"]))
        weights = {k[3:]: torch.from_numpy(z[k]) for k in z if k.startswith("sd/") and "_w3j_" not in k}

        def fill(model: nn.Module) -> None:
            left = model.state_dict()
            masks = {k for k in weights if k.endswith(("output_mask", "_zeroed"))}
            assert set(weights) - masks == set(left) - {k for k in left if k.endswith("output_mask")}
            for key in set(weights) - masks:
                left[key].copy_(weights[key])

        options = {k: config[k] for k in fake.CONFIG if k in config}
        potential = mlip.load(fake.save(tmp_path / "golden.model", fill, **options))
        for i in range(config["num_structures"]):
            atoms = Atoms(z[f"s{i}/atomic_numbers"], z[f"s{i}/positions"], cell=z[f"s{i}/cell"], pbc=z[f"s{i}/pbc"])
            if config["heads"]:
                atoms.info["head"] = str(z[f"s{i}/head"])
            result = potential.predict(atoms)
            assert abs(result.energy - float(z[f"s{i}/energy"][0])) < 1e-10
            np.testing.assert_allclose(result.forces, z[f"s{i}/forces"], rtol=0, atol=1e-11)
