"""Every error the package raises on purpose.

Each message names what was given, what is allowed and what to do. Catch `MLIPError` for all of
them; each class also derives from the built-in exception a Python programmer would expect.
"""

from __future__ import annotations

from collections.abc import Sequence


class MLIPError(Exception):
    """Base class of all errors raised by mlip."""


class StructureError(MLIPError, ValueError):
    """A structure that cannot be evaluated: bad shapes, values, cell, coincident atoms."""


class UnknownElementError(StructureError):
    """A structure holds elements the model was not made for."""


class TopologyError(StructureError):
    """An OpenMM topology, atom selection or System that does not fit the model."""


class CloseContactError(StructureError):
    """Two atoms closer than any real ones come; nothing a model says of them can be trusted.

    Attributes:
        atoms: indices of the two.
    """

    def __init__(self, message: str, atoms: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.atoms = tuple(int(i) for i in atoms)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.atoms)


class DataError(MLIPError, ValueError):
    """Labelled data that no model should be trained on: labels missing or wrong, units, duplicates."""


class CheckpointError(MLIPError, ValueError):
    """A checkpoint that a simulation cannot go on from: damaged, or of another run."""


class PropertyError(MLIPError, RuntimeError):
    """A property that this structure does not have or that could not be computed, e.g. a relaxation without end."""


class OptionError(MLIPError, ValueError):
    """An argument or option outside its allowed values."""


class ConfigError(OptionError):
    """A model configuration that describes no model."""


class ModelFileError(MLIPError, ValueError):
    """A model file that is truncated, altered, foreign, or of an unknown version."""


class ModelNotFoundError(MLIPError, FileNotFoundError):
    """A model name or path that leads nowhere."""


class UnsupportedModelError(ModelFileError):
    """A foreign model whose class or options mlip does not implement."""


class MissingDependencyError(MLIPError, ImportError):
    """An optional package is needed for what was asked."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingDependencyError:
        """Return the error for a missing `package` that the extra `extra` installs."""
        return cls(f"this needs the package '{package}', which is not installed; "
                   f"install it with: pip install \"mlip-md[{extra}]\"")


class InstallationError(MLIPError, ImportError):
    """The installation is damaged, e.g. two distributions share the import name `mlip`."""


class BackendError(MLIPError, RuntimeError):
    """A back end that cannot be used here, or whose numbers differ from those of plain torch."""


class WorkerError(MLIPError, RuntimeError):
    """A process that was started to be timed cannot be started, died, kept silent, or reports an error."""


class MemoryLimitError(MLIPError, MemoryError):
    """A structure whose evaluation is forecast to need more memory than is allowed."""


class RelaxationError(MLIPError, ArithmeticError):
    """A relaxation that found no minimum: not within its steps, or the cell exploded or collapsed."""


class EngineMismatchError(MLIPError, ArithmeticError):
    """Two engines give different energies for one structure."""


class DefaultedWarning(UserWarning):
    """A model reads charge and spin, and a structure did not give them: charge 0 and multiplicity 1 are assumed."""


class NonConservativeWarning(UserWarning):
    """A model that predicts forces by itself is put to use in an engine, where dynamics do not conserve the energy."""


class NonFiniteError(MLIPError, ArithmeticError):
    """A prediction holds NaN or infinity; `atoms` lists the indices of the atoms concerned."""

    def __init__(self, message: str, atoms: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.atoms = tuple(int(i) for i in atoms)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.atoms)


class TemperatureError(MLIPError, ArithmeticError):
    """Dynamics have become hotter than their plan allows; `atoms` lists the fastest atoms."""

    def __init__(self, message: str, atoms: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.atoms = tuple(int(i) for i in atoms)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.atoms)


class UncertaintyError(MLIPError, ArithmeticError):
    """The members of a committee are too far apart for a simulation to go on.

    Attributes:
        step: number of the step.
        atom: index of the atom whose forces differ most.
        spread: of its force over the members, eV/A.
        limit: eV/A.
    """

    def __init__(self, message: str, step: int, atom: int, spread: float, limit: float) -> None:
        super().__init__(message)
        self.step, self.atom, self.spread, self.limit = step, atom, spread, limit

    def __reduce__(self) -> tuple[type, tuple[str, int, int, float, float]]:
        return type(self), (str(self), self.step, self.atom, self.spread, self.limit)
