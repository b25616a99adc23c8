"""The wheel and what else may lie beside it."""

from __future__ import annotations

import configparser
import email
import importlib.util
import os
import re
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
    return build(tmp_path_factory)


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a machine whose compiler does not work, built beside a library that was left in the sources."""
    return build(tmp_path_factory, left_behind=True, CXX="/bin/false")


def build(tmp_path_factory: pytest.TempPathFactory, *, left_behind: bool = False,
          **environment: str) -> zipfile.ZipFile:
    """Build a wheel from a copy of the sources."""
    if importlib.util.find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed, so the wheel cannot be built without network")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for program in ("cmake", "ninja"):
        if shutil.which(program, path=programs) is None:
            pytest.skip(f"{program} is not installed, so the extension cannot be built without network")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("mlip", "calculators", "potentials", "data", "tests", "examples"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=IGNORED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    if left_behind:
        (source / "mlip/ops/_lib").mkdir(exist_ok=True)
        (source / "mlip/ops/_lib/libmlip_ops.so").write_bytes(b"of an earlier build")
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", out,
                           "--disable-pip-version-check"], cwd=source, capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": programs, **environment})
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
                "print(mlip.__file__, len(bundled()), mlip.backends()['compiled'], sep='\\n')")
        file, count, compiled = run_in(tmp_path, code).splitlines()
        assert file == str(tmp_path / "site" / "mlip" / "__init__.py")
        assert int(count) == len(list((ROOT / "data" / "models").glob("*.mlip")))
        assert compiled.startswith("kernels for ")
        assert compiled.endswith(f" from {tmp_path / 'site'}/{library_in(wheel)}")


def run_in(folder: Path, code: str, **environment: str) -> str:
    """Return what a process prints that sees the package in `folder/site` and none of the sources."""
    others = [p for p in sys.path if p and not Path(p).resolve().is_relative_to(ROOT)]
    path = os.pathsep.join([str(folder / "site"), *others])
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False,
                          cwd=folder, env={**os.environ, "PYTHONPATH": path, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def library_in(wheel: zipfile.ZipFile) -> str:
    """Return the name of the only shared library."""
    (name,) = (n for n in wheel.namelist() if re.search(r"\.(so|dylib|dll|pyd|a|o)(\.|$)", n))
    return name


@pytest.mark.slow
class TestExtension:
    def test_one_library_and_nothing_of_its_making(self, wheel: zipfile.ZipFile) -> None:
        assert re.fullmatch(r"mlip/ops/_lib/libmlip_ops\.(so|dylib)", library_in(wheel))
        wrong = [n for n in wheel.namelist() if "csrc" in n or "CMake" in n or n.endswith((".cpp", ".hpp", ".cmake"))]
        assert not wrong

    def test_one_wheel_for_every_python(self, wheel: zipfile.ZipFile) -> None:
        """The library depends on the platform, but not on Python and not on the version of torch."""
        python, abi, platform = Path(str(wheel.filename)).stem.split("-")[-3:]
        assert (python, abi) == ("py3", "none")
        assert platform != "any"
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/WHEEL"))
        assert email.message_from_bytes(wheel.read(name))["Root-Is-Purelib"] == "false"

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into an ELF file")
    def test_needs_only_the_system_and_torch(self, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
        found = elf(wheel, tmp_path, "readelf", "-d")
        needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", found)
        allowed = r"(libtorch_cpu|libstdc\+\+|libm|libgcc_s|libc|ld-linux[\w-]*)\.so(\.\d+)?"
        assert "libtorch_cpu.so" in needed
        assert not [name for name in needed if not re.fullmatch(allowed, name)]
        assert not re.search(r"\((RPATH|RUNPATH|TEXTREL)\)", found)

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into an ELF file")
    def test_needs_only_the_stable_interface_of_torch(self, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
        lines = elf(wheel, tmp_path, "nm", "-D").splitlines()
        undefined = [line.split()[-1] for line in lines if line.split()[-2] in ("U", "w")]
        of_torch = [name for name in undefined if name.startswith(("aoti_torch_", "torch_"))]
        assert len(of_torch) > 10
        assert not [line for line in lines if re.search(r"_ZN\w*(2at|3c10|5torch)\d", line)]
        versioned = r".+@+(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+"  # of the C and C++ libraries
        ours = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
        assert not [n for n in undefined if n not in of_torch and n not in ours and not re.fullmatch(versioned, n)]
        header = (ROOT / "mlip/ops/csrc/torch_shim.hpp").read_text()
        assert not [name for name in of_torch if f" {name}(" not in header]


def elf(wheel: zipfile.ZipFile, folder: Path, program: str, option: str) -> str:
    """Return what a program of the binutils says of the library."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    path = wheel.extract(library_in(wheel), folder)
    return subprocess.run([program, option, path], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
class TestWithoutCompiler:
    def test_same_files_but_the_library(self, wheel: zipfile.ZipFile, pure_wheel: zipfile.ZipFile) -> None:
        assert Path(str(pure_wheel.filename)).stem.endswith("py3-none-any")
        assert set(wheel.namelist()) - set(pure_wheel.namelist()) == {library_in(wheel)}
        assert set(pure_wheel.namelist()) <= set(wheel.namelist())

    def test_works_and_says_what_is_missing(self, pure_wheel: zipfile.ZipFile, tmp_path: Path) -> None:
        pure_wheel.extractall(tmp_path / "site")
        code = ("import importlib.metadata as metadata\n"
                "def absent(name): raise metadata.PackageNotFoundError(name)\n"
                "metadata.distribution = absent  # no other installation helps out\n"
                "import mlip\n"
                "from mlip.simulation.quickstart import acetylacetone\n"
                "print(mlip.load('mace-acac', dtype='float64').predict(acetylacetone()).energy)\n"
                "print(mlip.backends()['auto'])\n"
                "print(mlip.backends()['compiled'])\n")
        energy, auto, compiled = run_in(tmp_path, code, NUMBA_DISABLE_JIT="1").splitlines()  # compiling is slow
        import mlip
        from mlip.simulation.quickstart import acetylacetone

        expected = mlip.load("mace-acac", dtype="float64").predict(acetylacetone()).energy
        assert float(energy) == pytest.approx(expected, rel=0, abs=1e-9)
        assert auto == "reference"
        assert compiled.startswith("MISSING, everything runs in plain torch, many times slower: the compiled kernels "
                                   "are not installed; install a C++ compiler")


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
