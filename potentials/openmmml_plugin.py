"""The factory by which openmm-ml finds the package: `MLPotential("mlip", model="mace-acac")`.

It has several names there: `mlip` for all models; `mace-mlip`, `gaunt-mace`, `equiformer-v3` and `transip` refuse
models of another family.

`import openmmml` loads and instantiates the factory of every installed plugin. So this file imports
nothing, openmm-ml neither: it may be in the middle of its own import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.potentials.openmmml_impl import MLIPPotentialImpl


class MLIPPotentialImplFactory:
    """Makes `MLIPPotentialImpl` objects; keeps the contract of `openmmml.MLPotentialImplFactory`."""

    def createImpl(self, name: str, **args: Any) -> MLIPPotentialImpl:  # noqa: N802
        """Return the implementation of `MLPotential(name, **args)`; see `MLIPPotentialImpl`."""
        from mlip.potentials.openmmml_impl import MLIPPotentialImpl

        return MLIPPotentialImpl(potential_name=name, **args)
