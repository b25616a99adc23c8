"""The rooms of the package and who may enter them; ceilings for files and functions; a light import."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mlip", "calculators", "potentials")
MAX_LINES, MAX_FUNCTION = 500, 60
PROCESSES = ROOT / "mlip" / "bench" / "processes"  # scripts, run in environments without mlip but for ours.py

# From the bottom up. A room may import itself, everything in its set, and what those may import.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "_installation": {"errors"},
    "_lazy": set(),
    "elements": {"errors"},
    "so3": {"units", "errors"},
    "neighbors": {"units", "errors"},
    "ops": {"so3"},
    "graph": {"neighbors", "ops", "elements"},
    "io": {"graph"},
    "nn": {"ops", "graph"},
    "models": {"nn"},
    "checkpoints": {"models", "io"},
    "training": {"checkpoints", "_lazy"},
    "calculators": {"checkpoints", "_installation", "_lazy"},
    "potentials": {"checkpoints", "_installation", "_lazy"},
    "simulation": {"calculators", "potentials"},
    "analysis": {"io"},
    "screening": {"simulation"},
    "verify": {"screening", "training"},
    "bench": {"verify"},
    "cli": {"bench", "analysis"},
}
OUTSIDE: dict[str, set[str]] = {  # packages that only these rooms may import
    "ase": {"io", "calculators", "analysis", "screening", "simulation", "verify", "bench", "cli"},
    "openmm": {"potentials", "simulation", "verify", "bench", "cli"},
    "openmmml": {"potentials", "simulation", "verify", "bench", "cli"},
    "mdtraj": {"potentials", "analysis", "simulation", "verify", "bench", "cli"},
    "torch_sim": {"calculators"},
    "ipi": {"calculators"},
    "dftd3": {"checkpoints"},
    "openmmtorch": {"potentials"},
    "numba": {"neighbors"},
    "safetensors": {"checkpoints"},
    "physical_validation": {"verify"},
    "matscipy": {"bench", "verify"},
    "vesin": {"bench", "verify"},
    "matplotlib": {"analysis", "screening", "simulation", "bench", "verify", "cli"},
    "parsl": {"screening"},
    "tqdm": {"training", "checkpoints", "screening", "simulation", "verify", "bench", "cli"},
    "e3nn": {"bench"},  # the processes of other environments only, see below
    "mace": {"bench"},
    "scipy": {"screening", "verify", "bench"},
    "phonopy": {"screening"},
    "spglib": {"screening"},
}
LIGHT = {"errors", "units", "elements", "so3", "neighbors", "_installation", "_lazy"}  # work without torch


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, its room, the module it names."""

    where: str
    room: str
    module: str


def sources() -> list[Path]:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parents = [ROOT / p for p in path.relative_to(ROOT).parents]
            if not any(p.is_symlink() for p in parents):  # mlip/calculators and mlip/potentials are links
                found.append(path)
    return found


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "mlip" else parts[1]


def is_type_checking(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield all imports, also those inside functions, but not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield from statements(other)
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        else:
            yield from statements(child)


def imports_of(path: Path) -> Iterator[Import]:
    package = path.relative_to(ROOT).parent.parts
    package = package if package[:1] == ("mlip",) else ("mlip", *package)
    for node in statements(ast.parse(path.read_text(), str(path))):
        where, room = f"{path.relative_to(ROOT)}:{node.lineno}", room_of(path)
        if isinstance(node, ast.Import):
            yield from (Import(where, room, alias.name) for alias in node.names)
            continue
        base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        module = ".".join(filter(None, (base, node.module or "")))
        yield from (Import(where, room, f"{module}.{alias.name}") for alias in node.names)


def all_imports() -> list[Import]:
    return [found for path in sources() for found in imports_of(path)]


def reachable(room: str) -> set[str]:
    found = {room}
    for other in ROOMS[room]:
        found |= reachable(other)
    return found


def target(module: str) -> str | None:
    """Return the room an import of ours leads to; None for the outside world."""
    parts = module.split(".")
    if parts[0] != "mlip":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "mlip"


def test_there_is_something_to_check() -> None:
    assert len(sources()) > 40
    assert len(all_imports()) > 200
    assert any("potential.py" in i.where and i.module == "mlip.io.ase.structure_of" for i in all_imports())  # lazy


def test_every_room_is_known() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__", "__main__"}
    assert rooms <= set(ROOMS), f"new rooms need a line in ROOMS: {sorted(rooms - set(ROOMS))}"


def test_rooms_import_only_what_lies_below() -> None:
    wrong = []
    for found in all_imports():
        goal = target(found.module)
        if goal is None or found.room in ("__init__", "__main__"):
            continue
        if goal == "mlip":  # the front door leads everywhere
            if not {"cli", "bench", "verify", "simulation"} & {found.room}:
                wrong.append(f"{found.where} imports from the package itself ({found.module})")
        elif goal not in reachable(found.room):
            wrong.append(f"{found.where}: {found.room} may not import {found.module}")
    assert not wrong, "\n".join(wrong)


def test_the_front_door_imports_next_to_nothing() -> None:
    found = {i.module for i in imports_of(ROOT / "mlip" / "__init__.py") if i.module.startswith("mlip")}
    assert found <= {"mlip._installation.check_single_distribution", "mlip._lazy.lazy"}


def test_packages_are_imported_only_where_they_belong() -> None:
    wrong = [f"{i.where}: {i.room} may not import {i.module}" for i in all_imports()
             if (allowed := OUTSIDE.get(i.module.split(".")[0])) is not None and i.room not in allowed]
    wrong += [f"{i.where}: {i.room} must work without torch" for i in all_imports()
              if i.room in LIGHT and i.module.split(".")[0] == "torch"]
    assert not wrong, "\n".join(wrong)


def test_scripts_of_other_environments_are_by_themselves() -> None:
    scripts = {path.name: {i.module.split(".")[0] for i in imports_of(path)} for path in sources()
               if path.parent == PROCESSES}
    assert "mlip" in scripts.pop("ours.py")
    assert not [name for name, modules in scripts.items() if "mlip" in modules]
    assert scripts["serving.py"] <= set(sys.stdlib_module_names)
    peers = {i.where for i in all_imports() if i.module.split(".")[0] in ("mace", "e3nn")}
    assert {where.split(":")[0] for where in peers} == {str((PROCESSES / "peer_mace.py").relative_to(ROOT))}
    assert not [i.where for i in all_imports() if i.module.startswith("mlip.bench.processes")]


def test_files_are_short() -> None:
    files = [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}
    long = {str(path): count for path, count in lines.items() if count > MAX_LINES}
    assert not long, f"the ceiling is {MAX_LINES} lines: {long}"


def native_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "mlip").rglob("*") if p.suffix in (".cpp", ".hpp", ".h", ".cu", ".cuh"))


def test_native_files_are_short() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in native_sources()}
    assert len(lines) > 10
    long = {str(path): count for path, count in lines.items() if count > MAX_LINES}
    assert not long, f"the ceiling is {MAX_LINES} lines: {long}"


def test_native_code_is_built_without_torch() -> None:
    """Every header is ours or of the standard library, so that a compiler is all that a build needs."""
    here = {path.name for path in native_sources()}
    wrong = []
    for path in native_sources():
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.MULTILINE):
            if (kind == '"' and name not in here) or (kind == "<" and not re.fullmatch(r"[a-z_0-9]+(\.h)?", name)):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short() -> None:
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, f"the ceiling is {MAX_FUNCTION} lines: {long}"


STATE = {"set_default_dtype", "set_default_device", "set_default_tensor_type", "set_num_threads", "manual_seed",
         "set_num_interop_threads", "set_float32_matmul_precision", "use_deterministic_algorithms", "putenv",
         "set_grad_enabled", "filterwarnings", "simplefilter", "basicConfig", "umask", "setrecursionlimit"}
GUARDS = {"catch_warnings", "fork_rng", "set_grad_enabled"}  # a `with` of these puts things back


def changes_of_state(node: ast.AST, guarded: bool = False) -> Iterator[ast.expr]:
    """Yield calls and assignments that change the process for everybody and do not undo it."""
    if isinstance(node, (ast.With, ast.AsyncWith)):
        calls = [item.context_expr for item in node.items]
        guarded = guarded or any(isinstance(c, ast.Call) and name_of(c.func) in GUARDS for c in calls)
    if isinstance(node, ast.Call) and name_of(node.func) in STATE and not guarded:
        yield node
    for goal in getattr(node, "targets", []) if isinstance(node, ast.Assign) else []:
        if name_of(goal) == "allow_tf32" or (isinstance(goal, ast.Subscript) and name_of(goal.value) == "environ"):
            yield goal
    for child in ast.iter_child_nodes(node):
        yield from changes_of_state(child, guarded)


def name_of(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def test_no_state_of_the_process_is_set() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}" for path in sources()
             if room_of(path) != "cli" and path.parent != PROCESSES  # a command and a worker own their process
             for node in changes_of_state(ast.parse(path.read_text()))]
    assert not wrong, "\n".join(wrong)


def test_the_check_of_state_sees_what_it_should() -> None:
    bad = "torch.set_num_threads(1)\nos.environ['A'] = 'b'\ntorch.backends.cuda.matmul.allow_tf32 = True"
    good = "with warnings.catch_warnings():\n    warnings.simplefilter('ignore')\nx = os.environ['A']"
    assert len(list(changes_of_state(ast.parse(bad)))) == 3
    assert not list(changes_of_state(ast.parse(good)))


def test_nothing_prints_but_the_commands() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and room_of(path) != "cli":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def in_a_fresh_process(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})


class TestImport:
    def test_silent_light_and_without_traces(self) -> None:
        done = in_a_fresh_process(
            "import os, sys, threading\n"
            "before = dict(os.environ), threading.active_count()\n"
            "import mlip\n"
            "assert mlip.__version__ and 'load' in dir(mlip)\n"
            "assert (dict(os.environ), threading.active_count()) == before\n"
            "heavy = {'torch', 'ase', 'numba', 'openmm', 'scipy', 'matplotlib', 'e3nn', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_everything_imported_changes_nothing_in_torch(self) -> None:
        done = in_a_fresh_process(
            "import os, random, torch\n"
            "def state():\n"
            "    return (dict(os.environ), torch.get_default_dtype(), torch.get_num_threads(),\n"
            "            torch.get_num_interop_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),\n"
            "            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,\n"
            "            torch.get_float32_matmul_precision(), random.getstate())\n"
            "before = state()\n"
            "import mlip, mlip.training, mlip.calculators, mlip.potentials, mlip.models.mace\n"
            "for name in mlip.__all__: getattr(mlip, name)\n"
            "assert state() == before\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_the_openmm_side_does_without_ase(self) -> None:
        done = in_a_fresh_process(
            "import sys\n"
            "import mlip.checkpoints, mlip.potentials.computation, mlip.potentials.openmmml_plugin\n"
            "assert not {'ase', 'openmm', 'matplotlib'} & set(sys.modules)\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_unknown_names(self) -> None:
        import mlip

        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            mlip.nonsense  # noqa: B018
