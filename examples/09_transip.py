"""Teach a plain Transformer rotations, see how well it learned them, and run conservative dynamics with it in OpenMM.

    python examples/09_transip.py [output folder] [--frames N] [--epochs N] [--steps N]

The data come from dynamics of acetylacetone with the bundled MACE, which also is the judge. The small TransIP trained
here, in some minutes, is not built for rotations; reports show what is left to learn, before and after training and
with the average over the rotations of a cube. Then both models run the same molecule at constant energy. Run it again
with the same folder and it goes on where it was. Writes frames.* (the structures to learn from) and acac/ (training).
"""

import argparse
import tempfile
from pathlib import Path

import torch
from ase.io import read

import mlip
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.simulation.ase_engine import run_ase
from mlip.simulation.openmm_engine import run_openmm
from mlip.simulation.quickstart import acetylacetone
from mlip.simulation.record import Plan
from mlip.training import TrainingConfig, initial_potential, split, train
from mlip.verify.symmetry import symmetry_report

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--frames", type=int, default=300, help="structures to learn from")
arguments.add_argument("--epochs", type=int, default=60)
arguments.add_argument("--steps", type=int, default=1000, help="of 0.5 fs, of the dynamics")
options = arguments.parse_args()
folder = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # models as small as these are fastest so

# 1. Structures from dynamics with the bundled MACE, and what it says of them.
mace = mlip.load("mace-acac")
molecule = acetylacetone()


def labelled(frames: int) -> list[Labelled]:
    """Return structures from dynamics at 500 K with energies and forces of the MACE."""
    file, every = folder / "frames.xyz", 20
    if not file.is_file() or len(read(file, index=":")) < frames:
        plan = Plan(steps=every * (frames - 1), every=every, temperature=500, ensemble="nvt", friction=20)
        run_ase(molecule, mace, plan, trajectory=file)
    found = read(file, index=":")
    return [Labelled(structure_of(atoms), p.energy, p.forces)
            for atoms, p in zip(found, mace.predict(found), strict=True)]


# 2. Train. Every structure is seen in two random orientations; `latent_weight` is TransIP's loss, which asks that the
#    embeddings of the two can be told from each other and the rotation between, `torque_weight` punishes the derivative
#    of the energy by a rotation.
examples = labelled(options.frames)
isolated = dict(zip(mace.elements, mace.model.atomic_energies[0].tolist(), strict=True))
start = initial_potential("transip", examples, isolated, channels=64, num_layers=3, num_heads=4, cutoff=5.0)
print(f"before training: {symmetry_report(start, molecule)}\n")
config = TrainingConfig(epochs=options.epochs, batch_size=5, latent_weight=100.0, torque_weight=10.0)
transip = mlip.load(train(start, *split(examples, 0.1, 0), folder / "acac", config))
print(f"after training: {symmetry_report(transip, molecule)}\n")
averaged = transip.to(rotational_average="O")
print(f"averaged over the 24 rotations of a cube: {symmetry_report(averaged, molecule)}\n")
print("errors on held-out structures: "
      + ", ".join(f"{name} {value:.3g}" for name, value in transip.info.validation.items()))

# 3. The same dynamics at constant energy in OpenMM. TransIP's forces are derivatives of its energy, so it is conserved
#    as well as with MACE, whatever was learned; what is not conserved is the angular momentum.
plan = Plan(steps=options.steps, timestep=0.5, temperature=300)
for name, potential in (("MACE", mace), ("TransIP", transip)):
    record = run_openmm(molecule, potential, plan)
    print(f"{name:8} drift {record.drift():+8.3f} meV/atom/ps, fluctuation {record.fluctuation():.3f} meV/atom, "
          f"mean temperature {record.temperature.mean():.0f} K")
