"""What the spread of a committee is worth: its spread against its errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints import Committee
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled


@dataclass(frozen=True)
class Calibration:
    """Spread of the forces of a committee against the error of their mean, over all atoms of labelled structures.

    Attributes:
        atoms: number of atoms compared.
        rms_error: root mean square length of the error of the mean force on an atom, eV/A.
        rms_spread: root mean square of `CommitteePrediction.forces_std`, eV/A.
        correlation: rank correlation (Spearman) of spread and error; 1 where larger spread always is larger error.
    """

    atoms: int
    rms_error: float
    rms_spread: float
    correlation: float

    @property
    def scale(self) -> float:
        """The factor that makes the spread as large as the error; a limit of `StopRule` is an error over it."""
        return self.rms_error / self.rms_spread

    def __str__(self) -> str:
        return (f"{self.atoms} atoms: error {1e3 * self.rms_error:.1f} meV/A, spread {1e3 * self.rms_spread:.1f} meV/A "
                f"(RMS), scale {self.scale:.2f}, rank correlation {self.correlation:.2f}")


def spread_against_error(committee: Committee, examples: Iterable[Labelled]) -> Calibration:
    """Compare the spread of a committee with its errors on structures that no member was trained on.

    Raises:
        OptionError: fewer than two atoms with forces, or members that agree on all of them.
    """
    errors, spreads = [np.zeros(0)], [np.zeros(0)]
    for example in examples:
        if example.forces is not None:
            prediction = committee.evaluate([example.structure], stress=False)[0]
            errors.append(np.linalg.norm(prediction.forces - example.forces, axis=1))
            spreads.append(prediction.forces_std)
    error, spread = np.concatenate(errors), np.concatenate(spreads)
    if len(error) < 2 or not spread.any():
        raise OptionError(f"nothing to compare: {len(error)} atom(s) with forces, largest spread "
                          f"{spread.max(initial=0.0)} eV/A; give labelled structures, and members that differ")
    correlation = np.corrcoef(_ranks(error), _ranks(spread))[0, 1]
    return Calibration(len(error), float(np.sqrt(np.mean(error**2))), float(np.sqrt(np.mean(spread**2))),
                       float(correlation))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
