"""`mlip quickstart`: the main job from end to end on a bundled model, without network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ase import Atoms
from ase.io import write

from mlip.checkpoints import Potential, load
from mlip.errors import EngineMismatchError
from mlip.simulation.ase_engine import run_ase, with_velocities
from mlip.simulation.openmm_engine import run_openmm
from mlip.simulation.plan import Plan
from mlip.simulation.record import Record
from mlip.simulation.relax import Relaxation, relax

MODEL = "mace-acac"
START_TEMPERATURE = 600.0  # K; about half of it remains once the relaxed molecule vibrates

# Acetylacetone (enol form), relaxed with an earlier model of it.
SYMBOLS = "C5O2H8"
POSITIONS = (
    (1.207, 0.133, 0.0), (-0.003, 0.826, 0.008), (-1.23, 0.076, 0.007),
    (-2.556, 0.801, -0.005), (2.55, 0.798, -0.003), (-1.222, -1.191, 0.003),
    (1.232, -1.182, -0.004), (-0.014, 1.923, 0.014), (-2.728, 1.254, -1.005),
    (-2.57, 1.628, 0.732), (-3.374, 0.088, 0.206), (0.199, -1.449, -0.001),
    (3.132, 0.469, 0.883), (2.469, 1.9, 0.002), (3.124, 0.475, -0.895),
)


def acetylacetone() -> Atoms:
    """Return the acetylacetone molecule, C5H8O2 in its enol form, near its minimum."""
    return Atoms(SYMBOLS, positions=POSITIONS)


@dataclass(frozen=True)
class Report:
    """What the quickstart found.

    Attributes:
        potential: the model.
        relaxation: of the molecule.
        ase: NVE run in ASE.
        openmm: NVE run in OpenMM from the same positions and velocities.
        files: everything written.
    """

    potential: Potential
    relaxation: Relaxation
    ase: Record
    openmm: Record
    files: list[Path]

    def table(self) -> str:
        """Return the comparison of the two engines as text."""
        a, o = self.ase, self.openmm
        rows = [
            ("energy at the start (eV)", a.potential[0], o.potential[0], "{:.6f}"),
            ("total-energy drift (meV/atom/ps)", a.drift(), o.drift(), "{:+.4f}"),
            ("total-energy fluctuation (meV/atom)", a.fluctuation(), o.fluctuation(), "{:.4f}"),
            ("mean temperature (K)", float(a.temperature.mean()), float(o.temperature.mean()), "{:.1f}"),
            ("steps per second", a.steps_per_second, o.steps_per_second, "{:.0f}"),
        ]
        lines = [f"{'':38}{'ASE':>16}{'OpenMM':>16}{'difference':>14}"]
        for name, first, second, form in rows:
            lines.append(f"{name:38}{form.format(first):>16}{form.format(second):>16}{second - first:>14.2e}")
        return "\n".join(lines)


def quickstart(folder: str | Path = "mlip-quickstart", steps: int = 2000, progress: bool = True) -> Report:
    """Relax acetylacetone with `mace-acac`, run NVE dynamics in ASE and OpenMM, and write the results.

    Args:
        folder: gets `relaxed.xyz`, `ase.xyz`, `openmm.xyz` (with the files that `outputs_of` names) and
            `quickstart.png`.
        steps: of 0.5 fs, in each engine.
        progress: whether to show bars.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        EngineMismatchError: the two engines disagree on the energy.
        NonFiniteError: the dynamics failed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    potential = load(MODEL)
    start = acetylacetone()
    start.rattle(0.05, seed=0)
    relaxation = relax(start, potential)
    write(target / "relaxed.xyz", relaxation.atoms, format="extxyz")
    moving = with_velocities(relaxation.atoms, START_TEMPERATURE, seed=0)
    plan = Plan(steps=steps, every=max(1, steps // 200))
    files = [target / name for name in ("relaxed.xyz", "ase.xyz", "openmm.xyz")]
    ase = run_ase(moving, potential, plan, trajectory=files[1], progress=progress)
    openmm = run_openmm(moving, potential, plan, trajectory=files[2], progress=progress, platform="CPU")
    if abs(ase.potential[0] - openmm.potential[0]) > 1e-5:
        raise EngineMismatchError(f"ASE and OpenMM disagree on the energy of the same structure: {ase.potential[0]} "
                                  f"and {openmm.potential[0]} eV; please report this")
    return Report(potential, relaxation, ase, openmm, [*files, plot(ase, openmm, target / "quickstart.png")])


def plot(ase: Record, openmm: Record, path: Path) -> Path:
    """Draw energy and temperature against time for both engines and return the path of the PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, middle, lower = figure.subplots(3, 1, sharex=True)
    for name, record, colour in (("ASE", ase, "#1f77b4"), ("OpenMM", openmm, "#d62728")):
        ps, atoms = record.time / 1000, max(len(record.final), 1)
        upper.plot(ps, (record.potential - ase.potential[0]) * 1e3 / atoms, color=colour, lw=1, label=name)
        middle.plot(ps, (record.total - record.total[0]) * 1e3 / atoms, color=colour, lw=1, label=name)
        lower.plot(ps, record.temperature, color=colour, lw=1, label=name)
    upper.set_ylabel("potential energy\n(meV/atom above start)")
    middle.set_ylabel("change of total energy\n(meV/atom)")
    lower.set_ylabel("temperature (K)")
    lower.set_xlabel("time (ps)")
    upper.set_title("Acetylacetone, NVE, bundled model: the same dynamics in two engines")
    for axes in (upper, middle, lower):
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
    upper.legend(loc="upper right")
    figure.savefig(path, dpi=120)
    return path
