"""Checkpoints of fairchem with an EquiformerV3: what is read, what is refused. `fake_fairchem.py` makes the files."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlip
from mlip.checkpoints import torch_file
from mlip.checkpoints.fairchem import is_fairchem, read_fairchem
from mlip.checkpoints.fairchem.config import MAX_VALUES
from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError, OptionError, UnsupportedModelError
from mlip.models.equiformer_v3.reference import is_constant

_spec = importlib.util.spec_from_file_location("fake_fairchem", Path(__file__).with_name("fake_fairchem.py"))
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

GOLDEN = {"water_l2m2": 68_977, "cu4_l3m2": 112_161, "nacl8_triclinic_l4m2": 257_833}  # parameters


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a checkpoint after a change."""
    content = fake.checkpoint()
    change(content)
    torch.save(content, path)
    return path


# ---- what is read

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.",
                                    "module.module._orig_mod."])
def test_weights_and_configuration(prefix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = fake.state_dict(dtype=dtype)
    path = fake.save(tmp_path / "best_checkpoint.pt", state, prefix=prefix)
    tensors, config = read_fairchem(path)
    assert list(tensors) == list(state)
    for name, value in state.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name
    expected = {**fake.CONFIG, "model_class": fake.CONFIG["name"], "ffn_grid_resolution_list": [8, 8],
                "normalizers": {k: {"mean": m, "rmsd": s} for k, (m, s) in fake.NORMALIZERS.items()},
                "element_references": fake.REFERENCES}
    del expected["name"]
    assert config == expected
    assert json.loads(json.dumps(config, allow_nan=False)) == config


@pytest.mark.parametrize("direct", [False, True])
def test_averaged_weights(direct: bool, tmp_path: Path) -> None:
    config = {**fake.CONFIG, "name": "equiformer_v3_dens"} if direct else None
    state = fake.state_dict(direct=direct)
    path = fake.save(tmp_path / "a.pt", state, prefix="module.", config=config)
    tensors, found = read_fairchem(path, weights="ema")
    assert found == read_fairchem(path)[1]
    assert found["model_class"] == ("equiformer_v3_dens" if direct else "equiformer_v3")
    assert list(tensors) == list(state)
    trained = set(fake.parameters(state))
    assert 0 < len(trained) < len(state)
    for name, value in state.items():
        assert torch.equal(tensors[name], value + 1 if name in trained else value), name


def test_buffers_by_name() -> None:
    for name in fake.names(7, direct=True):
        assert is_constant(name.rstrip("*")) == name.endswith("*"), name


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_weights(name: str, shared_dir: Path, tmp_path: Path) -> None:
    with np.load(shared_dir / "golden" / "equiformer_v3" / f"{name}.npz") as z:
        state: dict[str, Tensor] = OrderedDict((k[3:], torch.from_numpy(z[k])) for k in z.files if k.startswith("sd/"))
        settings = json.loads(str(z["config_json"]))
    made = iter(state)
    assert all(key.rstrip("*") in made for key in fake.names()), "the names made here are not those of the reference"
    trained = [key for key in state if not is_constant(key)]
    assert sum(state[key].numel() for key in trained) == GOLDEN[name]
    path = fake.save(tmp_path / "golden.pt", state, prefix="_orig_mod.module.", shadow=[2 * state[k] for k in trained],
                     config={**settings, "name": "equiformer_v3"})
    last, config = read_fairchem(path)
    average, _ = read_fairchem(path, "ema")
    assert list(last) == list(average) == list(state)
    for key, value in state.items():
        assert torch.equal(last[key], value)
        assert torch.equal(average[key], value * 2 if key in trained else value)
    assert {k: config[k] for k in settings} == settings


def test_legacy_scale_and_plain_numbers(tmp_path: Path) -> None:
    expected = read_fairchem(fake.save(tmp_path / "a.pt"))[1]["normalizers"]
    assert read_fairchem(fake.save(tmp_path / "b.pt", rmsd="std"))[1]["normalizers"] == expected
    plain = {k: {"mean": m, "rmsd": torch.tensor([s])} for k, (m, s) in fake.NORMALIZERS.items()}
    path = changed(tmp_path / "c.pt", lambda c: c.update(normalizers=plain))
    assert read_fairchem(path)[1]["normalizers"] == expected
    both = {"energy": {"mean": torch.tensor(0.0), "rmsd": torch.tensor(2.0), "std": torch.tensor(3.0)}}
    path = changed(tmp_path / "d.pt", lambda c: c.update(normalizers=both))
    assert read_fairchem(path)[1]["normalizers"] == {"energy": {"mean": 0.0, "rmsd": 2.0}}


@pytest.mark.parametrize("change", [lambda c: c.update(elementrefs={}), lambda c: c.pop("elementrefs"),
                                    lambda c: c.update(elementrefs=None)])
def test_without_element_references(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    assert "element_references" not in read_fairchem(changed(tmp_path / "a.pt", change))[1]


def test_all_targets_and_none(tmp_path: Path) -> None:
    one = {"mean": torch.tensor(0.0), "rmsd": torch.tensor(1.0)}
    targets = ("energy", "forces", "stress", "denoising_pos_target")
    path = changed(tmp_path / "a.pt", lambda c: c.update(normalizers=dict.fromkeys(targets, one)))
    assert list(read_fairchem(path)[1]["normalizers"]) == list(targets)
    assert read_fairchem(changed(path, lambda c: c.update(normalizers={})))[1]["normalizers"] == {}


def test_without_training_state(tmp_path: Path) -> None:
    def strip(content: dict[str, Any]) -> None:
        for key in ("epoch", "step", "optimizer", "scheduler", "ema", "best_val_metric", "primary_metric"):
            del content[key]

    path = changed(tmp_path / "a.pt", strip)
    assert is_fairchem(path)
    assert read_fairchem(path)[0]
    with pytest.raises(ModelFileError, match=r"a\.pt: .*no averaged weights.*use weights='state_dict'"):
        read_fairchem(path, "ema")


@pytest.mark.parametrize("weights", ["state_dict", "ema"])
def test_only_what_is_needed_is_read(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = fake.save(tmp_path / "a.pt"), []
    record = torch_file._Archive.record

    def noted(archive: Any, name: str) -> bytes:
        read.append(name)
        return record(archive, name)

    monkeypatch.setattr(torch_file._Archive, "record", noted)
    tensors, _ = read_fairchem(path, weights)
    found = [name for name in read if name.startswith("data/")]
    assert len(found) == len(set(found)) == len(tensors) + 2 * len(fake.NORMALIZERS) + 1


def test_reading_needs_no_fairchem(tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.pt")
    code = ("import sys; from mlip.checkpoints.fairchem import read_fairchem; read_fairchem(sys.argv[1]); "
            "print([m for m in sys.modules if m.split('.')[0] in ('fairchem', 'e3nn', 'torch_geometric', 'ase')])")
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).resolve().parents[2])
    assert out.stdout.strip() == "[]"


# ---- what is refused

def _model(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["config"]["model"].update(options)


def _first(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict"].update({"sphere_embedding.weight": value})


def _norm(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["normalizers"]["energy"].update(options)


def _refs(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["elementrefs"]["energy"].update(element_references=value)


def _nested(depth: int) -> list[Any]:
    out: list[Any] = []
    for _ in range(depth):
        out = [out]
    return out


def _shared(depth: int) -> list[Any]:
    out: list[Any] = [1]
    for _ in range(depth):
        out = [out, out]
    return out


HYDRA = {"name": "hydra", "backbone": {"model": "esen_backbone"}, "heads": {}}
BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], type[MLIPError], str]] = {
    "EquiformerV2": (_model(name="equiformer_v2"), UnsupportedModelError, r"EquiformerV2.*only EquiformerV3"),
    "eSCN": (_model(name="escn"), UnsupportedModelError, r"'escn' \(eSCN\); only EquiformerV3"),
    "unknown": (_model(name="new_model"), UnsupportedModelError, r"the model is 'new_model'; only"),
    "no name": (lambda c: c["config"]["model"].pop("name"), ModelFileError, "does not say what its model is"),
    "name is no text": (_model(name=3), ModelFileError, r"\['name'\] is 3"),
    "hydra": (lambda c: c["config"].update(model=HYDRA), UnsupportedModelError, r"backbone 'esen_backbone' \(eSEN\)"),
    "only another name": (lambda c: c["config"].update(model="painn"), UnsupportedModelError, "PaiNN"),
    "only the name": (lambda c: c["config"].update(model="equiformer_v3"), UnsupportedModelError, "only the name"),
    "no model": (lambda c: c["config"].pop("model"), ModelFileError, "does not say what its model is"),
    "no config": (lambda c: c.pop("config"), ModelFileError, "no 'config'"),
    "config is no dictionary": (lambda c: c.update(config=[]), ModelFileError, "no 'config'"),
    "no state_dict": (lambda c: c.update(state_dict=None), ModelFileError, "no 'state_dict'"),
    "empty state_dict": (lambda c: c.update(state_dict={}), ModelFileError, "has no weights"),
    "no normalizers": (lambda c: c.pop("normalizers"), ModelFileError, "no 'normalizers'"),
    "normalizers are no dictionary": (lambda c: c.update(normalizers=[1]), ModelFileError, "normalizers is a list"),
    "another target": (lambda c: c["normalizers"].update(magmom={}), UnsupportedModelError, "normalises 'magmom'"),
    "no mean": (lambda c: c["normalizers"]["energy"].pop("mean"), ModelFileError, r"\['mean'\] is None"),
    "no scale": (lambda c: c["normalizers"]["energy"].pop("rmsd"), ModelFileError, r"\['std'\] is None"),
    "two means": (_norm(mean=torch.zeros(2)), ModelFileError, r"shape \(2,\); expected one number"),
    "mean NaN": (_norm(mean=torch.tensor(torch.nan)), ModelFileError, r"\['mean'\] holds NaN"),
    "mean infinite": (_norm(mean=float("inf")), ModelFileError, r"\['mean'\] is inf"),
    "mean is true": (_norm(mean=True), ModelFileError, r"\['mean'\] is True"),
    "mean whole": (_norm(mean=torch.tensor(1)), ModelFileError, "no real numbers"),
    "scale zero": (_norm(rmsd=torch.tensor(0.0)), ModelFileError, "a scale is positive"),
    "references of forces": (lambda c: c["elementrefs"].update(forces={}), UnsupportedModelError, "supported: energy"),
    "no references": (lambda c: c["elementrefs"]["energy"].clear(), ModelFileError, "is None, where a tensor"),
    "references NaN": (_refs(torch.tensor([0.0, torch.nan])), ModelFileError, "holds NaN"),
    "references square": (_refs(torch.zeros(3, 3)), ModelFileError, "one energy for each atomic number"),
    "too many references": (_refs(torch.zeros(1000)), ModelFileError, r"shape \(1000,\)"),
    "half precision": (_first(torch.zeros(2, dtype=torch.float16)), UnsupportedModelError,
                       "sphere_embedding.weight: torch.float16"),
    "bfloat16": (_first(torch.zeros(2, dtype=torch.bfloat16)), UnsupportedModelError, "float32 and float64"),
    "complex": (_first(torch.zeros(2, dtype=torch.complex64)), UnsupportedModelError, "ComplexFloatStorage"),
    "NaN": (_first(torch.tensor([1.0, torch.nan])), ModelFileError, "sphere_embedding.weight holds NaN"),
    "infinity": (_first(torch.tensor([1.0, torch.inf])), ModelFileError, "sphere_embedding.weight holds NaN"),
    "no tensor": (_first([1.0]), ModelFileError, "is a list, where a tensor"),
    "meta tensor": (_first(torch.zeros(2, device="meta")), ModelFileError, "meta_tensor_no_storage"),
    "key is no text": (lambda c: c["state_dict"].update({3: torch.zeros(1)}), ModelFileError, r"state_dict\[3\]"),
    "mixed prefixes": (lambda c: c["state_dict"].update({"module.x": torch.zeros(1)}), ModelFileError,
                       "different prefixes.*'module.x'"),
    "tensor in the configuration": (_model(lmax=torch.tensor(4)), ModelFileError, r"\['lmax'\] holds a StoredTensor"),
    "object in the configuration": (_model(path=Path("x")), ModelFileError, r"\['path'\] holds an object of pathlib"),
    "NaN in the configuration": (_model(max_radius=float("nan")), ModelFileError, r"\['max_radius'\] holds nan"),
    "infinity in a list": (_model(lmax=[1, float("inf")]), ModelFileError, r"\['lmax'\] holds inf"),
    "huge integer": (_model(lmax=1 << 70), ModelFileError, r"\['lmax'\] holds a huge integer"),
    "number as a name": (_model(lmax={1: 2}), ModelFileError, r"\['lmax'\] holds a dict"),
    "number as a key": (lambda c: c["config"]["model"].update({1: 2}), ModelFileError, "key 1, which is no text"),
    "deep configuration": (_model(lmax=_nested(100)), ModelFileError, "far more than any"),
    "configuration shared by itself": (_model(lmax=_shared(15)), ModelFileError, "far more than any"),
    "long configuration": (_model(lmax=[0] * MAX_VALUES), ModelFileError, "far more than any"),
    "key of ours": (_model(normalizers={}), ModelFileError, "the item 'normalizers'"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_checkpoints(name: str, tmp_path: Path) -> None:
    change, error, message = BAD[name]
    with pytest.raises(error, match=rf"(?s)bad\.pt: .*{message}") as caught:
        read_fairchem(changed(tmp_path / "bad.pt", change))
    assert type(caught.value) is error


def test_configuration_that_refers_to_itself(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ModelFileError, match="far more than any"):
        read_fairchem(changed(tmp_path / "a.pt", _model(lmax=loop)))


BAD_EMA: dict[str, tuple[Callable[[list[Tensor]], Any], str]] = {
    "one missing": (lambda shadow: shadow.pop(), r"\d+ averaged tensors \(ema\) for \d+ parameters"),
    "one more": (lambda shadow: shadow.append(shadow[0]), r"\d+ averaged tensors \(ema\) for \d+ parameters"),
    "none": (lambda shadow: shadow.clear(), "holds no averaged weights"),
    "exchanged": (lambda shadow: shadow.reverse(), r"of shape \(3, 4\), the parameter is .* of shape \(1, 4\)"),
    "another precision": (lambda shadow: shadow.append(shadow.pop().double()), "torch.float64 of shape"),
    "no tensor": (lambda shadow: shadow.append(shadow.pop().tolist()), "are a list, not a tensor"),
}


@pytest.mark.parametrize("name", list(BAD_EMA))
def test_averages_that_do_not_fit(name: str, tmp_path: Path) -> None:
    change, message = BAD_EMA[name]
    path = changed(tmp_path / "a.pt", lambda c: change(c["ema"]["shadow_params"]))
    assert read_fairchem(path)[0], "the weights of the last step do not need them"
    with pytest.raises(ModelFileError, match=rf"a\.pt: .*{message}.*use weights='state_dict'"):
        read_fairchem(path, "ema")


def test_nan_in_the_averages_only(tmp_path: Path) -> None:
    path = changed(tmp_path / "a.pt", lambda c: c["ema"]["shadow_params"][0].fill_(torch.nan))
    assert read_fairchem(path)[0]
    with pytest.raises(ModelFileError, match=r"sphere_embedding\.weight holds NaN"):
        read_fairchem(path, "ema")


@pytest.mark.parametrize("weights", ["raw", "", None, 3, ["ema"]])
def test_unknown_weights(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="state_dict, ema"):
        read_fairchem(fake.save(tmp_path / "a.pt"), weights)


def _fairchem2(path: Path) -> None:
    """Write a pickle of one object, by hand: its class cannot be imported here."""
    data = b"\x80\x02cfairchem.core.units.mlip_unit.api.inference\nMLIPInferenceCheckpoint\n)\x81."
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", data)


FILES: dict[str, tuple[Callable[[Path], Any], type[MLIPError], str]] = {
    "missing": (lambda p: None, ModelNotFoundError, "no model file"),
    "empty": (lambda p: p.write_bytes(b""), ModelFileError, r"a\.pt is empty"),
    "text": (lambda p: p.write_text("<html>"), ModelFileError, r"a\.pt is no file written by torch.save"),
    "legacy": (lambda p: torch.save(fake.checkpoint(), p, _use_new_zipfile_serialization=False), UnsupportedModelError,
               "before 1.6"),
    "plain state_dict": (lambda p: torch.save(fake.state_dict(), p), UnsupportedModelError,
                         r"weights only.*from_reference\('equiformer_v3'"),
    "list": (lambda p: torch.save([1], p), UnsupportedModelError, "a list, not a checkpoint"),
    "empty dictionary": (lambda p: torch.save({}, p), ModelFileError, "no 'state_dict'"),
    "fairchem 2": (_fairchem2, UnsupportedModelError, "MLIPInferenceCheckpoint.*fairchem 2.*only EquiformerV3"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_files_that_are_no_checkpoints(name: str, tmp_path: Path) -> None:
    make, error, message = FILES[name]
    make(tmp_path / "a.pt")
    with pytest.raises(error, match=rf"(?s){message}") as caught:
        read_fairchem(tmp_path / "a.pt")
    assert "a.pt" in str(caught.value)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
def test_truncated(part: float, tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
    assert not is_fairchem(path)
    with pytest.raises(ModelFileError, match=r"a\.pt is damaged or truncated.*fetch it again"):
        read_fairchem(path)


def test_flipped_bits(tmp_path: Path) -> None:
    state = fake.state_dict()
    data = fake.save(tmp_path / "a.pt", state).read_bytes()
    raw = state["sphere_embedding.weight"].numpy().tobytes()
    assert data.count(raw) == 1
    (tmp_path / "a.pt").write_bytes(data.replace(raw, bytes(b ^ 1 for b in raw)))
    with pytest.raises(ModelFileError, match=r"a\.pt is damaged or truncated"):
        read_fairchem(tmp_path / "a.pt")


# ---- hostile files

class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("place", ["optimizer", "scheduler", "ema", "config", "state_dict", "normalizers", "extra"])
@pytest.mark.parametrize("function", ["system", "eval", "popen"])
def test_nothing_is_run(function: str, place: str, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    call = {"system": Call(os.system, f"touch {mark}"), "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
            "popen": Call(subprocess.Popen, ["touch", str(mark)])}[function]
    path = changed(tmp_path / "evil.pt", lambda c: c.update({place: {"x": call}}))
    with pytest.raises(ModelFileError, match=r"evil\.pt: the file refers to .*Nothing in it was run"):
        read_fairchem(path)
    assert is_fairchem(path)
    with pytest.raises(ModelFileError, match="Nothing in it was run"):
        mlip.load(path)
    assert not mark.exists()


def test_long_names_do_not_stall_the_search(tmp_path: Path) -> None:
    """Of the functions a file refers to, each may be as long as the file."""
    path = tmp_path / "a.pt"
    for module in ("os" + ".a" * 200_000 + "!", "torch" + ".a" * 200_000):
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("archive/data.pkl", b"\x80\x02c" + f"{module}\nsystem\n".encode() + b".")
        with pytest.raises(ModelFileError, match=r"a\.pt") as caught:
            read_fairchem(path)
        assert len(str(caught.value)) < 400


def test_the_attack_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps({"optimizer": Call(os.system, f"touch {tmp_path / 'owned'}")}))
    assert (tmp_path / "owned").exists()


class Stretched:
    """Pickles as a tensor of another shape over the storage of one number."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.layout = offset, size, stride

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.zeros(1)._typed_storage()  # type: ignore[no-untyped-call]
        return torch._utils._rebuild_tensor_v2, (storage, *self.layout, False, OrderedDict())


SIZES = {"expanded": Stretched((1 << 40,), (0,)), "overlapping": Stretched((1 << 20, 1 << 20), (0, 0)),
         "past its storage": Stretched((2,), (1,)), "offset": Stretched((1,), (1,), 7)}


@pytest.mark.parametrize("name", list(SIZES))
def test_impossible_sizes(name: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "huge.pt", _first(SIZES[name]))
    with pytest.raises(ModelFileError, match=r"huge\.pt: .*larger than its storage"):
        read_fairchem(path)
    for change in (_norm(mean=SIZES[name]), _refs(SIZES[name])):
        with pytest.raises(ModelFileError, match=r"huge\.pt: .*larger than its storage"):
            read_fairchem(changed(path, change))


def test_many_views_of_one_storage_have_a_budget(tmp_path: Path) -> None:
    shared = torch.zeros(100_000)
    path = changed(tmp_path / "a.pt", lambda c: c["state_dict"].update({f"x.{i}": shared[:] for i in range(100)}))
    with pytest.raises(ModelFileError, match=r"a\.pt: .*larger than"):
        read_fairchem(path)


def test_random_damage(tmp_path: Path) -> None:
    """A changed pickle gives a model, with other numbers maybe, or a typed error that names the file."""
    buffer = io.BytesIO()
    torch.save(fake.checkpoint(fake.state_dict(layers=0)), buffer)
    with zipfile.ZipFile(buffer) as z:
        records = {i.filename: z.read(i) for i in z.infolist()}
    name = next(n for n in records if n.endswith("/data.pkl"))
    data, rng, path = records[name], np.random.default_rng(0), tmp_path / "a.pt"
    refused = passed = 0
    for _ in range(150):
        altered = bytearray(data)
        altered[rng.integers(len(altered))] = rng.integers(256)
        with zipfile.ZipFile(path, "w") as z:
            for key, value in {**records, name: bytes(altered)}.items():
                z.writestr(key, value)
        try:
            read_fairchem(path)
        except ModelFileError as error:
            refused += "a.pt" in str(error)
        else:
            passed += 1
    assert refused > 30
    assert refused + passed == 150
