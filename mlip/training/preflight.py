"""`preflight`: what will be trained on what, and whether the labels can be what they are said to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.elements import SYMBOLS
from mlip.errors import DataError
from mlip.training.report import Part, Report
from mlip.training.sources import Data
from mlip.training.statistics import CORRELATION, facts, fitted, follows_volume, outliers, pairs, work
from mlip.training.store import FrameStore
from mlip.units import GPA_PER_EV_A3

MAX_ENERGY = 100.0  # eV/atom, above the energies of reference
MAX_BINDING = 20.0  # eV/atom; no substance is bound so strongly
MAX_FORCE = 500.0  # eV/A
MIN_DISTANCE = 0.3  # A; half of the shortest bond
BONDS = (0.5, 1.6)  # shortest distances of a structure, median, in sums of covalent radii
RATIO = (0.6, 1.6)  # of differences of energy to the work of the forces, where the two correlate
PAIRS = 10  # of close structures, at least, for a verdict on the ratio
MAX_STRESS = 5.0  # eV/A^3, 800 GPa, of the median structure
HIGH_STRESS = 0.6  # eV/A^3, 100 GPa
NET_FORCE = 0.05  # eV/A
SIGMAS, LISTED, GROUP = 8.0, 5, 20


def preflight(data: Data, *, cutoff: float, stress: bool) -> Report:
    """Look at all data of a run before its first step.

    Structures and labels are read once; what concerns pairs of atoms comes from at most 2 000 structures.

    Args:
        data: see `load_data`.
        cutoff: of the model, A.
        stress: whether stress is trained.

    Returns:
        A report; what is odd but possible is among its warnings.

    Raises:
        DataError: labels that are NaN or cannot be in the units they are said to be in; elements that occur outside
            of the training structures only; an isolated atom without energy; structures that occur in two parts; no
            stress where it is trained. Each names a structure and what to do.
    """
    parts = {name: part for name, part in data.parts.items() if len(part)}
    return Inspection(parts, cutoff, stress, data.isolated, data.left_out).report()


def replayed(report: Report, replay: FrameStore, held_out: FrameStore, *, cutoff: float,
             stress: bool) -> tuple[Report, FrameStore]:
    """Look at what is replayed in the same way, and add it to the report.

    Args:
        report: of the data.
        replay: see `mlip.training.replay.load_replay`.
        held_out: structures to validate or test with, which are not replayed.
        cutoff: of the model, A.
        stress: whether stress is trained.

    Returns:
        The report, and what is left to replay.

    Raises:
        DataError: as `preflight`; nothing is left.
    """
    there = replay.occur_in(held_out)
    left = replay.subset(np.flatnonzero(~there))
    if not len(left):
        raise DataError(f"all structures to replay, such as {replay.origin(0)}, are held out for validation or test; "
                        "replay others")
    found = Inspection({"replay": left}, cutoff, False).report()
    bare = stress & left.column("pbc").all(axis=1) & ~left.column("has_stress")
    said = [f"{some.sum():,} structure(s) to replay {what}, first {store.origin(int(some.argmax()))}"
            for store, some, what in ((replay, there, "are held out for validation or test and not replayed"),
                                      (left, bare, "have no stress, which is trained")) if some.any()]
    return dataclasses.replace(report, parts=report.parts | found.parts,
                               warnings=(*report.warnings, *said, *found.warnings)), left


class Inspection:
    """The structures of all parts in turn, their numbers, and what is said about them."""

    def __init__(self, parts: Mapping[str, FrameStore], cutoff: float, stress: bool,
                 isolated: Mapping[str, float] | None = None, left_out: int = 0) -> None:
        """Take parts of one folder, the first of which is trained on, and the energies of isolated atoms, eV."""
        self.parts, self.cutoff, self.stress, self.isolated, self.left_out = parts, cutoff, stress, isolated, left_out
        first, *others = parts.values()
        self.learned, self.all = len(first), first.joined(*others)
        self.owner = np.repeat(list(self.parts), [len(part) for part in self.parts.values()])
        self.facts = facts(self.all)
        self.atoms, self.energies = self.all.column("atoms"), self.all.column("energy")
        self.stresses = self.all.column("stress")
        self.has_stress, self.has_forces = self.all.column("has_stress"), self.all.column("has_forces")
        self.warnings: list[str] = []

    def report(self) -> Report:
        """Check everything, what spoils most first."""
        self.check_numbers()
        self.check_elements()
        self.check_energies()
        neighbours = self.check_distances()
        done = self.check_work()
        self.check_stress()
        self.check_copies()
        self.look_at_forces()
        self.look_for_outliers()
        rank = int(np.linalg.matrix_rank(np.unique(self.trained(self.facts.counts), axis=0)))
        references = self.isolated or {SYMBOLS[z]: float(e) for z, e in zip(self.facts.numbers, self.fit,
                                                                                  strict=True) if z in self.known}
        return Report({name: self.part(name) for name in self.parts}, dict(references), self.isolated is None,
                      rank == len(self.known), float(np.sqrt(np.mean(self.trained(self.above) ** 2))),
                      {"cutoff": self.cutoff, **neighbours}, done, tuple(self.warnings), self.left_out)

    def trained(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of the training structures."""
        return values[: self.learned]

    def name(self, place: int) -> str:
        """Return a structure in words."""
        return f"{self.all.origin(place)} ({self.owner[place]})"

    def check_numbers(self) -> None:
        """Raise for labels that are NaN, infinite, or forces that no calculation gives."""
        for label, values in (("energy", self.energies), ("forces", self.facts.largest),
                              ("stress", self.stresses.sum(axis=(1, 2)))):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise DataError(f"{self.name(bad[0])} has NaN or infinite {label}, and so have {len(bad) - 1} others; "
                                "leave them out (leave_out)")
        largest = int(self.facts.largest.argmax())
        if self.facts.largest[largest] > MAX_FORCE:
            raise DataError(f"{self.name(largest)} has a force of {self.facts.largest[largest]:.0f} eV/A; beyond "
                            f"{MAX_FORCE:.0f} eV/A a label is wrong, or in another unit: set energy_unit and "
                            "length_unit, or leave the structure out (leave_out)")

    def check_elements(self) -> None:
        """Raise for elements that only validation or test structures have, or that have no energy of reference."""
        occur = self.facts.counts > 0
        known = self.trained(occur).any(axis=0)
        self.known = self.facts.numbers[known]
        strange = np.flatnonzero(occur[:, ~known].any(axis=1))
        if len(strange):
            symbols = [SYMBOLS[z] for z in self.facts.numbers[occur[strange[0]] & ~known]]
            raise DataError(f"{self.name(strange[0])} holds {', '.join(symbols)}, which no training structure has, and "
                            f"{len(strange) - 1} other(s) hold such elements; train on structures with these elements, "
                            "or leave these out (leave_out)")
        missing = [SYMBOLS[z] for z in self.known if SYMBOLS[z] not in (self.isolated or {SYMBOLS[z]: 0.0})]
        if missing:
            raise DataError(f"the isolated atom(s) {', '.join(missing)} have no energy, others have: "
                            f"{', '.join(self.isolated or {})}; give all, by isolated_energies, or none")

    def check_energies(self) -> None:
        """Raise for energies far from those of the elements."""
        counts = self.facts.counts
        self.fit = fitted(self.trained(counts), self.trained(self.energies))
        self.above = (self.energies - counts @ self.fit) / self.atoms
        worst = int(np.abs(self.above).argmax())
        if abs(self.above[worst]) > MAX_ENERGY:
            raise DataError(f"{self.name(worst)} has an energy {self.above[worst]:.0f} eV/atom from what its elements "
                            f"have on average; beyond {MAX_ENERGY:.0f} eV/atom a label is wrong, or in another unit: "
                            "set energy_unit, or leave the structure out (leave_out)")
        if self.isolated is None:
            return
        isolated = np.array([self.isolated.get(SYMBOLS[z], 0.0) for z in self.facts.numbers])
        binding = float(np.median((self.energies - counts @ isolated) / self.atoms))
        text = (f"the median energy above isolated atoms is {binding:.1f} eV/atom; energies of isolated atoms must "
                "come from the method and be in the unit of the other energies")
        if abs(binding) > MAX_ENERGY:
            raise DataError(f"{text}: give those of this method, or none")
        if abs(binding) > MAX_BINDING:
            self.warnings.append(text)

    def check_distances(self) -> dict[str, Any]:
        """Raise for positions that cannot be in Angstrom; return the numbers of `pairs`."""
        found = self.all.remember(f"pairs {self.cutoff!r}", lambda: pairs(self.all, self.cutoff))
        if not found["structures"]:
            return found
        if not found["reached"]:
            raise DataError(f"no atom has a neighbour within the cutoff of {self.cutoff:g} A, such as in "
                            f"{self.name(found['lonely_where'])}; set length_unit, or a longer cutoff")
        if found["closest"] < MIN_DISTANCE:
            raise DataError(f"{self.name(found['where'])} has two atoms {found['closest']:.3f} A apart; no structure "
                            f"has pairs below {MIN_DISTANCE} A: set length_unit, or "
                            "leave the structure out (leave_out)")
        if found["bond"] is not None and not BONDS[0] <= found["bond"] <= BONDS[1]:
            raise DataError(f"the closest atoms of the median structure, like those of {self.name(found['where'])}, "
                            f"are {found['bond']:.2f} sums of covalent radii apart; {BONDS[0]} to {BONDS[1]} is what "
                            "bonds have: set length_unit (1 Bohr is 0.53 A, 1 nm 10 A)")
        if found["lonely"]:
            self.warnings.append(f"{found['lonely']} atom(s) have no neighbour within {self.cutoff:g} A, first in "
                                 f"{self.name(found['lonely_where'])}")
        return found

    def check_work(self) -> dict[str, Any]:
        """Raise where energies follow the forces by a factor that is not 1; return the numbers of `work`."""
        if not self.has_forces.any():
            return {"count": 0, "ratio": None, "correlation": None, "where": -1}
        done = self.all.remember("work", lambda: work(self.all))
        ratio = done["ratio"]
        if ratio is None or done["count"] < PAIRS or abs(done["correlation"]) < CORRELATION:
            return done
        where = f"between {done['count']} pairs of close structures, such as {self.name(done['where'])}, energies "
        if ratio < 0:
            raise DataError(f"{where}rise where forces point; forces are minus the gradient of the energy: give them "
                            "with the opposite sign")
        if not RATIO[0] <= ratio <= RATIO[1]:
            raise DataError(f"{where}change by {ratio:.3g} times the work of the forces instead of 1; energies and "
                            "forces are in units that do not fit (1 Hartree is 27.2 eV, 1 kcal/mol 0.0434 eV, 1 Bohr "
                            "0.529 A), or of two methods: set energy_unit, length_unit, energy_key and forces_key")
        return done

    def check_stress(self) -> None:
        """Raise for stress that is absent or too large."""
        trained = self.trained(self.has_stress)
        if self.stress and not trained.any():
            raise DataError(f"stress is trained, but no training structure such as {self.name(0)} has any under "
                            "REF_stress or stress; name it by stress_key (virials are not read: stress = -virial / "
                            "volume), or train without it")
        if self.stress and not trained.all():
            self.warnings.append(f"{int((~trained).sum()):,} of {len(trained):,} training structures have no stress")
        if not self.has_stress.any():
            return
        sizes = np.abs(self.stresses[self.has_stress]).max(axis=(1, 2))
        median = float(np.median(sizes))
        worst = int(np.flatnonzero(self.has_stress)[sizes.argmax()])
        text = f"the median structure has a stress of {median:.3g} eV/A^3 ({median * GPA_PER_EV_A3:.0f} GPa)"
        if median > MAX_STRESS:
            raise DataError(f"{text}, {self.name(worst)} the largest; set stress_unit (GPa or kbar)")
        if median > HIGH_STRESS:
            self.warnings.append(f"{text}; is it in the unit that stress_unit says?")
        if follows_volume(self.all, self.facts) < -0.5:
            self.warnings.append("stress falls where the volume grows; it must be positive under tension, the opposite "
                                 "of what VASP prints")

    def check_copies(self) -> None:
        """Raise for structures that two parts share."""
        first = self.all.repeats()
        again = np.flatnonzero(first != np.arange(len(first)))
        across = again[self.owner[again] != self.owner[first[again]]]
        if len(across):
            raise DataError(f"{self.name(across[0])} is {self.name(first[across[0]])} once more, and {len(across) - 1} "
                            "other(s) are such copies; a structure belongs to one part: leave them out of one")
        for name in self.parts:
            mine = again[self.owner[again] == name]
            if len(mine):
                differ = np.abs(self.energies[mine] - self.energies[first[mine]]) > 1e-3 * self.atoms[mine]
                self.warnings.append(f"{len(mine)} {name} structure(s) occur before, first {self.name(mine[0])}; "
                                     f"energies of {int(differ.sum())} differ by more than 1 meV/atom")

    def look_at_forces(self) -> None:
        """Warn of net forces, and of forces that are all zero."""
        several = (self.atoms > 1) & self.has_forces
        moved = np.flatnonzero(several & (self.facts.net > NET_FORCE))
        if len(moved):
            worst = int(moved[self.facts.net[moved].argmax()])
            self.warnings.append(f"{len(moved):,} structure(s) have a net force above {NET_FORCE} eV/A, most "
                                 f"{self.name(worst)} with {self.facts.net[worst]:.2f} eV/A")
        still = np.flatnonzero(several & (self.facts.largest == 0))
        if len(still):
            self.warnings.append(f"the forces of {len(still):,} structure(s) are exactly zero, first "
                                 f"{self.name(still[0])}")

    def look_for_outliers(self) -> None:
        """Warn of energies and forces far from those of the same config_type; of forces the logarithm counts."""
        group = self.all.column("config_type")
        group = np.where(np.bincount(group)[group] < GROUP, -1, group)  # small ones are judged together
        force = np.log(self.facts.largest + 1e-3)
        for label, values, shown, unit in (("energy", self.above, self.above, "eV/atom above references"),
                                           ("forces", force, self.facts.largest, "eV/A at most")):
            found = np.concatenate([mine[outliers(values[mine], SIGMAS, 1e-3)]
                                    for mine in (np.flatnonzero(group == k) for k in np.unique(group))])
            if len(found):
                listed = "; ".join(f"{self.name(i)}: {shown[i]:.3g}" for i in found[:LISTED])
                self.warnings.append(f"{len(found):,} structure(s) have outlying {label} ({unit}), {listed}")

    def part(self, name: str) -> Part:
        """Return the numbers of one part."""
        mine = self.owner == name
        atoms, energy = self.atoms[mine], self.energies[mine] / self.atoms[mine]
        directions = self.parts[name].column("pbc").sum(axis=1)
        kinds, counts = np.unique(self.parts[name].column("config_type"), return_counts=True)
        forced, stress = mine & self.has_forces, self.stresses[mine & self.has_stress]
        pressure = -GPA_PER_EV_A3 * np.trace(stress, axis1=1, axis2=2) / 3
        occur = (self.facts.counts[mine] > 0).any(axis=0)
        return Part(
            len(atoms), int(atoms.sum()), (int(atoms.min()), int(atoms.max())),
            tuple(SYMBOLS[z] for z in self.facts.numbers[occur]),
            (int((directions == 0).sum()), int(((directions > 0) & (directions < 3)).sum()),
             int((directions == 3).sum())),
            {self.all.config_types[k]: int(c) for k, c in zip(kinds, counts, strict=True)},
            (float(energy.min()), float(energy.max())), float(np.sqrt(np.mean(self.above[mine] ** 2))),
            float(np.sqrt(self.facts.square[forced].sum() / (3 * self.atoms[forced].sum()))) if forced.any() else None,
            float(self.facts.largest[mine].max()), float(self.facts.net[mine].max()), len(stress),
            float(np.sqrt(np.mean(stress**2))) if len(stress) else None,
            (float(pressure.min()), float(pressure.max())) if len(stress) else None)
