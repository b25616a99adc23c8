"""The model file: whatever is changed in it is noticed, and nothing but `ModelFileError` comes out."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mlip import Potential, create, load
from mlip.checkpoints import format as file_format
from mlip.errors import ModelFileError, ModelNotFoundError

TINY: dict[str, Any] = {"channels": 2, "edge_lmax": 1, "hidden_lmax": 1, "correlation": 2, "radial_mlp": (4,),
                        "num_bessel": 3, "readout_width": 2}


@pytest.fixture(scope="module")
def tiny() -> Potential:
    return create("mace", ["H", "O"], seed=3, **TINY)


@pytest.fixture(scope="module")
def content(tiny: Potential, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a whole model file."""
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny.mlip").read_bytes()


def header_end(content: bytes) -> int:
    return 8 + int(struct.unpack("<Q", content[:8])[0])


def refused(path: Path, content: bytes) -> str:
    """Write the bytes, require `ModelFileError` from both readers and return its text."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        file_format.read(path)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert str(path.name) in str(caught.value)
    return str(caught.value)


class TestDamage:
    def flipped(self, content: bytes, position: int, bit: int) -> bytes:
        return content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]

    def test_every_flip_of_a_bit_is_noticed(self, content: bytes, tiny: Potential, tmp_path: Path) -> None:
        """Places all over the header and the numbers; only blanks that pad the header may change."""
        rng = np.random.default_rng(0)
        end = header_end(content)
        padding = len(content[8:end]) - len(content[8:end].rstrip(b" "))
        places = [*range(20), *rng.choice(np.arange(20, end), 600, replace=False).tolist(),
                  *range(end - 20, end), *rng.integers(end, len(content), 200).tolist()]
        harmless = []
        for place in places:
            path = tmp_path / "flipped.mlip"
            path.write_bytes(self.flipped(content, place, int(rng.integers(8))))
            try:
                found = load(path)
            except ModelFileError:
                continue
            harmless.append(place)
            assert found.info == tiny.info
            for key, tensor in found.model.state_dict().items():
                assert torch.equal(tensor, tiny.model.state_dict()[key])
        assert set(harmless) <= set(range(end - padding, end))

    def test_every_number_counts(self, content: bytes, tmp_path: Path) -> None:
        """Also the lowest bit of a weight, which no check of plausibility could see."""
        for place in (header_end(content), len(content) - 4, (header_end(content) + len(content)) // 2):
            assert "altered or damaged" in refused(tmp_path / "low.mlip", self.flipped(content, place, 0))

    def test_truncated(self, content: bytes, tmp_path: Path) -> None:
        end = header_end(content)
        for size in (0, 1, 7, 8, 9, end // 2, end - 1, end, end + 1, len(content) // 2, len(content) - 1):
            refused(tmp_path / "cut.mlip", content[:size])

    def test_extended_and_shifted(self, content: bytes, tmp_path: Path) -> None:
        refused(tmp_path / "more.mlip", content + b"\0")
        refused(tmp_path / "more.mlip", content + content)
        refused(tmp_path / "shifted.mlip", b"\0" + content)

    @pytest.mark.parametrize("junk", [b"", b"hello", b"{}", b"\x80\x04}.", b"\xff" * 1000, b"PK\x03\x04" + b"\0" * 40,
                                      b"\x89HDF\r\n\x1a\n", struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2**63)])
    def test_foreign_bytes(self, junk: bytes, tmp_path: Path) -> None:
        refused(tmp_path / "junk.mlip", junk)


class TestHeader:
    """Files of our making whose JSON document was changed, with tensors that fit it."""

    def changed(self, tiny: Potential, path: Path, document: Any = None, **fields: Any) -> str:
        header, tensors = tiny._content()
        whole = {"format": "mlip-md", "version": 1, **header, "sha256": file_format.content_hash(header, tensors)}
        if document is None:
            document = {k: v for k, v in {**whole, **fields}.items() if v != "absent"}
        save_file(tensors, path, {"mlip-md": document if isinstance(document, str) else json.dumps(document)})
        return refused(path, path.read_bytes())

    def test_future_version(self, tiny: Potential, tmp_path: Path) -> None:
        for fields in ({}, {"config": "absent"}, {"info": 5, "sha256": "absent", "more": [1]}):
            text = self.changed(tiny, tmp_path / "new.mlip", version=2, **fields)
            assert "newer" in text
            assert "pip install -U mlip-md" in text

    @pytest.mark.parametrize("version", [0, -1, 1.5, True, "1", None, [1], float("inf"), float("nan"), "absent"])
    def test_impossible_version(self, tiny: Potential, tmp_path: Path, version: Any) -> None:
        assert "damaged" in self.changed(tiny, tmp_path / "v.mlip", version=version)

    @pytest.mark.parametrize("fields", [
        {"format": "other"}, {"format": "absent"}, {"sha256": "0" * 64}, {"sha256": None}, {"sha256": "absent"},
        {"config": "absent"}, {"info": "absent"}, {"config": []}, {"config": None}, {"info": "x"}, {"info": {}},
        {"config": {}},
    ], ids=str)
    def test_fields(self, tiny: Potential, tmp_path: Path, fields: dict[str, Any]) -> None:
        self.changed(tiny, tmp_path / "fields.mlip", **fields)

    @pytest.mark.parametrize("field", ["cutoff", "avg_num_neighbors", "cutoff_power", "atomic_numbers", "scale_shift"])
    def test_configuration_with_other_numbers(self, tiny: Potential, tmp_path: Path, field: str) -> None:
        """These change energies and not the shape of any tensor: only the hash can notice."""
        config = tiny.model.config.to_dict()
        other = {"cutoff": 5.5, "avg_num_neighbors": 2.0, "cutoff_power": 6, "atomic_numbers": [1, 9],
                 "scale_shift": False}[field]
        assert config[field] != other
        assert "altered" in self.changed(tiny, tmp_path / "c.mlip", config={**config, field: other})

    @pytest.mark.parametrize("field", ["licence", "citation", "training_data"])
    def test_other_papers(self, tiny: Potential, tmp_path: Path, field: str) -> None:
        info = {k: v for k, v in tiny.info.to_dict().items() if k != "sha256"}
        assert "altered" in self.changed(tiny, tmp_path / "i.mlip", info={**info, field: "mine"})

    @pytest.mark.parametrize("document", ["", "{", "[]", "null", "5", "[" * 100_000, '{"a":' * 50_000, "{}", '"x"'])
    def test_no_document(self, tiny: Potential, tmp_path: Path, document: str) -> None:
        self.changed(tiny, tmp_path / "d.mlip", document=document)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64, torch.int8])
    def test_tensors_of_other_types(self, tiny: Potential, tmp_path: Path, dtype: torch.dtype) -> None:
        header, tensors = tiny._content()
        path = tmp_path / "t.mlip"
        for tensor in (torch.zeros(3).to(dtype), torch.zeros(()).to(dtype), torch.zeros(0, 2).to(dtype)):
            more = {**tensors, "more": tensor}
            document = {"format": "mlip-md", "version": 1, **header, "sha256": file_format.content_hash(header, more)}
            save_file(more, path, {"mlip-md": json.dumps(document)})
            file_format.read(path)  # the file is sound, but it is no model
            with pytest.raises(ModelFileError):
                load(path)

    def test_foreign_safetensors(self, tmp_path: Path) -> None:
        save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
        save_file({"weight": torch.zeros(3)}, tmp_path / "b.safetensors", {"format": "pt"})
        for name in ("a", "b"):
            path = tmp_path / f"{name}.safetensors"
            assert "not written by mlip-md" in refused(path, path.read_bytes())


class TestHash:
    def test_says_what_the_potential_says(self, tiny: Potential, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "m.mlip"
        path.write_bytes(content)
        document, _ = file_format.read(path)
        assert document["sha256"] == tiny.info.sha256 == load(path).info.sha256
        assert len(tiny.info.sha256) == 64

    def test_is_the_same_in_every_process(self, tiny: Potential) -> None:
        code = (f"import mlip; print(mlip.create('mace', ['O', 'H'], seed=3, **{TINY!r}).info.sha256)")
        environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert out.stdout.strip() == tiny.info.sha256

    def test_depends_on_everything(self) -> None:
        header, tensors = {"config": {"a": 1}, "info": {}}, {"x": torch.arange(6.0), "y": torch.zeros(())}
        first = file_format.content_hash(header, tensors)
        others = [
            ({**header, "info": {"b": 0}}, tensors), ({"config": {"a": 2}, "info": {}}, tensors),
            (header, {**tensors, "x": torch.arange(6.0).reshape(2, 3)}), (header, {**tensors, "x": -torch.arange(6.0)}),
            (header, {**tensors, "x": torch.arange(6.0).double()}), (header, {"x": tensors["x"]}),
            (header, {"x": tensors["x"], "z": tensors["y"]}), (header, {**tensors, "y": torch.tensor(-0.0)}),
        ]
        hashes = {first, *(file_format.content_hash(*other) for other in others)}
        assert len(hashes) == len(others) + 1

    def test_does_not_depend_on_order_or_memory(self) -> None:
        header, x = {"config": {"a": 1, "b": 2}, "info": {}}, torch.arange(6.0).reshape(2, 3)
        first = file_format.content_hash(header, {"x": x, "y": x})
        strided = x.T.contiguous().T
        assert file_format.content_hash({"info": {}, "config": {"b": 2, "a": 1}}, {"y": x, "x": strided}) == first


class TestWriting:
    def test_round_trip(self, tmp_path: Path) -> None:
        tensors = {"f": torch.randn(2, 3), "d": torch.randn(3).double(), "i": torch.arange(4), "s": torch.tensor(2.5),
                   "e": torch.zeros(0, 2), "b": torch.tensor([True, False])}
        header = {"config": {"x": [1, 2.5, "ä", None]}, "info": {"y": 1}, "summary": {"z": [2]}}
        file_format.write(tmp_path / "f.mlip", header, tensors)
        document, found = file_format.read(tmp_path / "f.mlip")
        assert {k: document[k] for k in header} == header
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)

    def test_the_same_content_gives_the_same_bytes(self, tiny: Potential, content: bytes, tmp_path: Path) -> None:
        assert tiny.save(tmp_path / "again.mlip").read_bytes() == content

    def test_a_failure_leaves_the_old_file(self, tiny: Potential, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "m.mlip"
        path.write_bytes(b"old")

        def full(source: Any, target: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(ModelFileError, match="No space"):
                tiny.save(path)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["m.mlip"]
        tiny.save(path)
        assert os.listdir(tmp_path) == ["m.mlip"]
        assert load(path).info == tiny.info

    @pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
    def test_others_can_read_what_the_umask_allows(self, tiny: Potential, tmp_path: Path) -> None:
        old = os.umask(0o027)
        try:
            assert tiny.save(tmp_path / "m.mlip").stat().st_mode & 0o777 == 0o640
        finally:
            os.umask(old)

    def test_no_folder_or_a_folder(self, tiny: Potential, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="does not exist"):
            tiny.save(tmp_path / "nowhere" / "m.mlip")
        (tmp_path / "folder.mlip").mkdir()
        with pytest.raises(ModelFileError, match="is a folder"):
            tiny.save(tmp_path / "folder.mlip")
        assert os.listdir(tmp_path) == ["folder.mlip"]
