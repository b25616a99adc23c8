"""The wheel and what else may lie beside it."""

from __future__ import annotations

import configparser
import email
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mlip._installation import check_single_distribution, owners
from mlip.errors import InstallationError

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", ".mypy_cache", ".ruff_cache")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources, so that the build leaves nothing behind here."""
    if importlib.util.find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed, so the wheel cannot be built without network")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("mlip", "calculators", "potentials", "data", "tests", "examples"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=IGNORED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", out,
                           "--disable-pip-version-check"], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
class TestWheel:
    def test_only_the_package(self, wheel: zipfile.ZipFile) -> None:
        names = wheel.namelist()
        info = {n.split("/")[0] for n in names if ".dist-info/" in n}
        assert len(info) == 1
        assert next(iter(info)).startswith("mlip_md-")
        outside = [n for n in names if not n.startswith(("mlip/", *info))]
        assert not outside
        assert len(names) == len(set(names))

    def test_all_of_the_package(self, wheel: zipfile.ZipFile) -> None:
        names = set(wheel.namelist())
        for folder in ("mlip", "calculators", "potentials"):
            inside = folder if folder == "mlip" else f"mlip/{folder}"
            for path in (ROOT / folder).rglob("*.py"):
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
        assert {"mlip/py.typed", "mlip/calculators/__init__.py", "mlip/potentials/__init__.py"} <= names

    def test_models_and_data_of_the_package(self, wheel: zipfile.ZipFile) -> None:
        names = set(wheel.namelist())
        for path in (ROOT / "data" / "models").glob("*.mlip"):
            assert f"mlip/checkpoints/models/{path.name}" in names
        for path in (ROOT / "mlip").rglob("*.json"):
            assert f"mlip/{path.relative_to(ROOT / 'mlip').as_posix()}" in names

    def test_nothing_that_does_not_belong(self, wheel: zipfile.ZipFile) -> None:
        wrong = [n for n in wheel.namelist() if n.endswith((".pyc", ".nbi", ".nbc", ".part", ".gitignore"))
                 or "/tests/" in n or "__pycache__" in n]
        assert not wrong
        assert sum(i.file_size for i in wheel.infolist()) < 20_000_000

    def test_files_can_be_read_by_everybody(self, wheel: zipfile.ZipFile) -> None:
        """A model written by `tempfile` had the mode 0600, and the wheel keeps modes."""
        modes = {i.filename: (i.external_attr >> 16) & 0o777 for i in wheel.infolist()}
        assert not {name: oct(mode) for name, mode in modes.items() if mode and not mode & 0o004}

    def test_metadata(self, wheel: zipfile.ZipFile) -> None:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        import mlip

        found = email.message_from_bytes(wheel.read(name))
        assert (found["Name"], found["Version"]) == ("mlip-md", mlip.__version__)
        needed = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
        assert any(line.startswith("torch") for line in needed)
        assert not any(line.startswith(("e3nn", "openmm", "pytest", "mace")) for line in needed)
        assert any(n.endswith("LICENSE") for n in wheel.namelist())

    def test_entry_points_lead_somewhere(self, wheel: zipfile.ZipFile) -> None:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
        found = configparser.ConfigParser()
        found.read_string(wheel.read(name).decode())
        assert found["console_scripts"]["mlip"] == "mlip.cli.main:main"
        assert found["openmmml.potentials"]["mlip"] == "mlip.potentials.openmmml_plugin:MLIPPotentialImplFactory"
        assert found["ase.plugins"]["mlip"] == "mlip.calculators.ase_plugin"
        for section in found.sections():
            for value in found[section].values():
                module, _, attribute = value.partition(":")
                assert hasattr(importlib.import_module(module), attribute or "__name__")

    def test_works_from_the_archive_alone(self, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
        wheel.extractall(tmp_path / "site")
        code = ("import mlip, sys; p = mlip.create('mace', ['H'], channels=2); p.predict\n"
                "import mlip.calculators, mlip.potentials\n"
                "from mlip.checkpoints import bundled, load\n"
                "[load(name) for name in bundled()]\n"
                "print(mlip.__file__, len(bundled()))")
        others = [p for p in sys.path if p and not Path(p).resolve().is_relative_to(ROOT)]
        path = os.pathsep.join([str(tmp_path / "site"), *others])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        file, count = done.stdout.split()
        assert file == str(tmp_path / "site" / "mlip" / "__init__.py")
        assert int(count) == len(list((ROOT / "data" / "models").glob("*.mlip")))


class TestTwoDistributions:
    """PyPI has another package whose import name is `mlip`; together the two overwrite each other's files."""

    def test_names(self) -> None:
        check_single_distribution([])
        check_single_distribution(["mlip-md"])
        check_single_distribution(["MLIP-MD"])
        for names in (["mlip-md", "mlip"], ["mlip"]):
            with pytest.raises(InstallationError, match="pip uninstall mlip mlip-md && pip install mlip-md"):
                check_single_distribution(names)

    def test_here(self) -> None:
        assert {name.lower() for name in owners()} <= {"mlip-md"}

    @pytest.mark.parametrize("metadata", [
        "Metadata-Version: 2.1\nName: mlip\nVersion: 0.2.5\n",
        None,
    ])
    def test_import_beside_the_other(self, tmp_path: Path, metadata: str | None) -> None:
        """Also where the other was removed by halves and left a folder without metadata."""
        folder = tmp_path / "mlip-0.2.5.dist-info"
        folder.mkdir()
        if metadata:
            (folder / "METADATA").write_text(metadata)
        path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, sys.path)])
        done = subprocess.run([sys.executable, "-c", "import mlip; print('imported')"], capture_output=True, text=True,
                              check=False, env={**os.environ, "PYTHONPATH": path})
        if metadata:
            assert done.returncode != 0
            assert "InstallationError: the distribution mlip installs the same import name 'mlip'" in done.stderr
            assert "pip uninstall mlip mlip-md" in done.stderr
        else:
            assert (done.returncode, done.stdout.strip()) == (0, "imported"), done.stderr
