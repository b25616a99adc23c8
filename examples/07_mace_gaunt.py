"""Swap MACE for MACE-Gaunt: the same script, one word of the configuration.

    python examples/07_mace_gaunt.py [output folder] [--data FOLDER] [--epochs N] [--tensor-product NAME ...]

Trains a small model of each kind on the 300 K structures of acetylacetone (train_300K.xyz.gz, a folder of the BOTNet
data sets) and compares errors at 600 K, which none has seen, and time. Where there are no data it times models with
random weights only. Run it twice with the same folder: training goes on where it was.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import mlip
from mlip.io.dataset import isolated_energies, read_labelled
from mlip.simulation.quickstart import acetylacetone
from mlip.training import Dataset, TrainingConfig, errors, initial_potential, split, train

SHARED = Path(os.environ.get("MLIP_SHARED", Path(__file__).resolve().parents[2] / "shared"))
arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--data", type=Path, default=SHARED / "data" / "acac")
arguments.add_argument("--epochs", type=int, default=30)
arguments.add_argument("--structures", type=int, default=500, help="at most, for training and for the test")
arguments.add_argument("--channels", type=int, default=32)
arguments.add_argument("--tensor-product", nargs="+",
                       default=["clebsch_gordan", "gaunt", "gaunt_full", "gaunt_antisymmetric"])
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
shape = {"channels": options.channels, "hidden_lmax": 1, "edge_lmax": 3, "correlation": 3, "cutoff": 5.0}


def milliseconds(potential: mlip.Potential) -> float:
    """Return the time of energy and forces of the molecule: the least of some runs."""
    molecule, times = acetylacetone(), []
    for _ in range(20):
        start = time.perf_counter()
        potential.predict(molecule)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def time_only() -> None:
    """Time models with random weights."""
    print(f"no data in {options.data}: models with random weights, times only; give --data")
    for name in options.tensor_product:
        potential = mlip.create("mace", ["H", "C", "O"], tensor_product=name, **shape)  # the one line
        print(f"{name:20} {milliseconds(potential):6.1f} ms")


def compare(train_file: Path, test_file: Path) -> None:
    """Train one model of each kind, and print its errors and times."""
    isolated = isolated_energies(options.data / "isolated_atoms.xyz")
    examples, unseen = (read_labelled(file)[: options.structures] for file in (train_file, test_file))
    config = TrainingConfig(epochs=options.epochs)
    seen, held_out = split(examples, 0.1, config.seed)
    print(f"{'tensor product':20} {'E meV/atom':>10} {'F meV/A':>8} {'weights':>8} {'ms':>6} {'training s':>10}")
    for name in options.tensor_product:
        start = initial_potential("mace", seen, isolated, tensor_product=name, **shape)  # the one line
        clock = time.perf_counter()
        best = mlip.load(train(start, seen, held_out, output / name, config))
        seconds = time.perf_counter() - clock
        found, weights = errors(Dataset(unseen, best)), sum(p.numel() for p in best.model.parameters())
        print(f"{name:20} {found.energy_rmse:10.2f} {found.forces_rmse:8.1f} {weights:8,d} {milliseconds(best):6.1f} "
              f"{seconds:10.0f}", flush=True)


files = options.data / "train_300K.xyz.gz", options.data / "train_600K.xyz.gz"
if all(file.is_file() for file in files):
    compare(*files)
else:
    time_only()
