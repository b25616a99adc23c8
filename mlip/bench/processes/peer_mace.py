"""What a process with mace-torch can be asked for; run by `serving.py` in the environment of mace-torch.

It answers to the same names as `ours.py`, reads and writes the same files, and imports nothing of mlip.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools.train import ExponentialMovingAverage
from torch import Tensor


class Actions:
    """Keeps a model, a structure and the inputs of single operations between requests."""

    def versions(self) -> dict[str, str]:
        """Return the versions the times depend on."""
        return {name: importlib.metadata.version(name) for name in ("mace-torch", "torch", "e3nn")}

    def threads(self, count: int) -> None:
        """Set the number of threads of torch."""
        torch.set_num_threads(count)

    def build(self, path: str, seed: int, channels: int, hidden_lmax: int, cutoff: float, edge_lmax: int,
              correlation: int, avg_num_neighbors: float, atomic_numbers: list[int]) -> None:
        """Write a model with random weights, float32; isolated atoms have the energy 0."""
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        model = modules.ScaleShiftMACE(
            r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=edge_lmax, interaction_cls=block,
            interaction_cls_first=block, num_interactions=2, num_elements=len(atomic_numbers),
            hidden_irreps=o3.Irreps([(channels, (l, (-1) ** l)) for l in range(hidden_lmax + 1)]),
            MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(len(atomic_numbers)),
            avg_num_neighbors=avg_num_neighbors, atomic_numbers=atomic_numbers, correlation=correlation,
            gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64], atomic_inter_scale=1.0, atomic_inter_shift=0.0)
        torch.save(model, path)

    def weights(self, path: str, target: str) -> None:
        """Write the tensors of a model."""
        np.savez(target, **{k: v.numpy() for k, v in _load(path).state_dict().items()})

    def fill(self, path: str, tensors: str) -> None:
        """Give a model other tensors, in its own file."""
        model = _load(path)
        with np.load(tensors) as z:
            left = model.load_state_dict({k: torch.from_numpy(z[k]) for k in z.files}, strict=False)
        assert not left.unexpected_keys, left
        torch.save(model, path)

    def load(self, path: str) -> dict[str, Any]:
        """Load a model; return the size of its weights."""
        self.path, self.model = path, _load(path).requires_grad_(False)
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def structure(self, path: str) -> dict[str, int]:
        """Read a structure and make its batch; return its numbers of atoms and edges."""
        with np.load(path) as z:
            config = data.Configuration(atomic_numbers=z["numbers"], positions=z["positions"], properties={},
                                        property_weights={}, cell=z["cell"], pbc=(bool(z["pbc"]),) * 3)
        table = tools.AtomicNumberTable([int(z) for z in self.model.atomic_numbers])
        one = data.AtomicData.from_config(config, z_table=table, cutoff=float(self.model.r_max))
        loader = tools.torch_geometric.dataloader.DataLoader([one], batch_size=1, shuffle=False)
        self.batch = next(iter(loader)).to_dict()
        return {"atoms": len(config.positions), "edges": self.batch["edge_index"].shape[1]}

    def evaluate(self) -> None:
        """Compute energy and forces."""
        self.result = self.model(self.batch, training=False, compute_force=True)

    def write(self, path: str) -> None:
        """Write the last energy and forces."""
        energy, forces = (self.result[k].detach().double().numpy() for k in ("energy", "forces"))
        np.savez(path, energy=energy[0], forces=forces)

    def prepare_training(self) -> None:
        """Let the weights be trained."""
        self.model.requires_grad_(True)

    def training_step(self) -> float:
        """Compute the derivatives of the loss, with targets of zero, by the weights; return the loss."""
        self.model.zero_grad()
        result = self.model(self.batch, training=True, compute_force=True)
        loss = (result["energy"] / len(result["forces"])).square().mean() + result["forces"].square().mean()
        loss.backward()
        return float(loss)

    def prepare_run(self, path: str, steps: int, options: dict[str, Any]) -> dict[str, int]:
        """Get ready to train as `run_train` of mace-torch does, on structures whose edges are found now."""
        self.training = Training(_load(self.path), path, steps, options)
        return {"edges": sum(one.edge_index.shape[1] for one in self.training.loader.dataset)}

    def first_loss(self) -> dict[str, float]:
        """Return the loss of the first structures, and the norm of its gradient without the contractions' weights."""
        return self.training.first_loss()

    def run(self) -> None:
        """Train for some steps."""
        self.training.run()

    def prepare_convolution(self, path: str) -> None:
        """Read the inputs of an edge convolution, and make the tensor product "uvu" of e3nn for its paths."""
        with np.load(path) as z:
            inputs = {k: torch.from_numpy(z[k]) for k in z.files}
        paths, features = inputs["paths"].tolist(), inputs["features"]
        channels, degrees = features.shape[2], (_degree(features.shape[1]), _degree(inputs["harmonics"].shape[1]))
        self.sender, self.receiver = inputs["edge_index"]
        first, second = (o3.Irreps([(count, (l, (-1) ** l)) for l in range(lmax + 1)])
                         for count, lmax in zip((channels, 1), degrees, strict=True))
        third = o3.Irreps([(channels, (l3, (-1) ** l3)) for _, _, l3 in paths])
        instructions = [(l1, l2, k, "uvu", True) for k, (l1, l2, _) in enumerate(paths)]
        self.product = o3.TensorProduct(first, second, third, instructions, shared_weights=False,
                                        internal_weights=False)
        self.degrees = [l3 for _, _, l3 in paths]
        self.inputs = [_channels_first(features), inputs["harmonics"], inputs["weights"].flatten(1)]
        for tensor in self.inputs:
            tensor.requires_grad_()
        self.gradient = _gradient_of([inputs[f"gradient{l}"] for l in range(1 + max(self.degrees))])

    def convolution(self) -> Tensor:
        """Convolve as mace-torch does: gather, tensor product, sum by receiver."""
        features, harmonics, weights = self.inputs
        messages = self.product(features[self.sender], harmonics, weights)
        zeros: Tensor = messages.new_zeros(len(features), messages.shape[1])
        return zeros.index_add(0, self.receiver, messages)

    def convolution_forward(self) -> None:
        """Convolve without derivatives."""
        with torch.no_grad():
            self.convolved = self.convolution()

    def convolution_backward(self) -> None:
        """Convolve, and differentiate by features, harmonics and weights."""
        self.gradients = torch.autograd.grad(self.convolution(), self.inputs, self.gradient)

    def write_convolution(self, path: str) -> None:
        """Write messages and derivatives in the layout of `ours.py`."""
        channels = self.product.irreps_in1[0].mul
        sizes = [channels * (2 * l + 1) for l in self.degrees]
        pieces = [x.reshape(len(x), channels, -1).mT for x in _pieces(self.convolved, sizes)]
        features, harmonics, weights = self.gradients
        out: dict[str, Any] = {"features": _channels_last(features, channels), "harmonics": harmonics,
                               "weights": weights.view(len(weights), -1, channels)}
        for l in sorted(set(self.degrees)):
            paths = [x for x, degree in zip(pieces, self.degrees, strict=True) if degree == l]
            out[f"messages{l}"] = torch.stack(paths, dim=2)
        np.savez(path, **{k: v.numpy() for k, v in out.items()})

    def prepare_contraction(self, path: str) -> None:
        """Read the inputs of the first symmetric contraction of the model."""
        with np.load(path) as z:
            self.messages = torch.from_numpy(z["messages"]).mT.contiguous()
            elements = torch.from_numpy(z["elements"])
        self.one_hot = torch.nn.functional.one_hot(elements, len(self.model.atomic_numbers)).to(self.messages.dtype)

    def contraction(self) -> None:
        """Contract without derivatives."""
        with torch.no_grad():
            self.contracted = self.model.products[0].symmetric_contractions(self.messages, self.one_hot)

    def engine(self, path: str) -> dict[str, str]:
        """Put the model into OpenMM with a structure of a file, as the manual of openmm-ml says; return versions."""
        from openmmml import MLPotential

        ours = runpy.run_path(str(Path(__file__).parents[1] / "stepping.py"))  # what both sides do alike
        topology = ours["topology_of"](path)
        system = MLPotential("mace", modelPath=self.path).createSystem(topology, precision="single")
        self.stepping = ours["Stepping"](system, path, torch.get_num_threads())
        return {name: importlib.metadata.version(name) for name in ("openmm", "openmmml")}

    def run_engine(self, steps: int) -> None:
        """Run dynamics in OpenMM from the start."""
        self.stepping.restart()
        self.stepping.step(steps)

    def write_engine(self, path: str) -> None:
        """Write energy and forces at the start, as OpenMM has them."""
        self.stepping.write(path)

    def gaunt(self) -> None:
        """Contract: mace-torch has no Gaunt product, and this is what takes its place."""
        self.contraction()

    def write_contraction(self, path: str) -> None:
        """Write what the last contraction found, in the layout of `ours.py`."""
        np.savez(path, features=_channels_last(self.contracted, self.messages.shape[1]).numpy())


class Training:
    """A training run; the options are those of `mlip.training.TrainingConfig`."""

    def __init__(self, model: Any, path: str, steps: int, options: dict[str, Any]) -> None:
        self.model, self.steps, self.options = model, steps, options
        batch_size = options["batch_size"]
        structures = _structures(path, model)
        loader = tools.torch_geometric.dataloader.DataLoader
        self.first = next(iter(loader(structures, batch_size=batch_size, shuffle=False)))
        self.loader = loader(structures, batch_size=batch_size, shuffle=True, drop_last=True)
        self.loss = modules.WeightedEnergyForcesLoss(options["energy_weight"], options["forces_weight"])
        self.optimizer = torch.optim.Adam(model.parameters(), lr=options["learning_rate"], amsgrad=True)
        self.average = ExponentialMovingAverage(model.parameters(), decay=options["ema_decay"])

    def first_loss(self) -> dict[str, float]:
        """Return the loss of the first structures, and the norm of its gradient without the contractions' weights."""
        loss = self.differentiate(self.first)
        compared = [p.grad for name, p in self.model.named_parameters() if "symmetric_contractions" not in name]
        norm = sum(float(g.double().square().sum()) for g in compared if g is not None) ** 0.5
        return {"loss": float(loss), "gradient norm": norm}

    def run(self) -> None:
        """Train for some steps."""
        done = 0
        while done < self.steps:
            for batch in itertools.islice(self.loader, self.steps - done):
                self.differentiate(batch)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self.options["max_gradient"])
                self.optimizer.step()
                self.average.update()
                done += 1

    def differentiate(self, batch: Any) -> Tensor:
        """Compute the derivatives of the loss by the weights; return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(batch.to_dict(), training=True, compute_force=True)
        loss: Tensor = self.loss(pred=output, ref=batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _load(path: str) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)


def _structures(path: str, model: Any) -> list[Any]:
    """Read structures that `save_labelled` of `mlip/bench/training_run.py` wrote."""
    table = tools.AtomicNumberTable([int(z) for z in model.atomic_numbers])
    with np.load(path) as z:
        arrays = dict(z)
    bounds = np.cumsum(arrays["sizes"])[:-1]
    out = []
    for numbers, positions, forces, energy, cell, pbc in zip(
            *(np.split(arrays[name], bounds) for name in ("numbers", "positions", "forces")), arrays["energy"],
            arrays["cell"], arrays["pbc"], strict=True):
        one = data.Configuration(atomic_numbers=numbers, positions=positions, cell=cell, pbc=tuple(map(bool, pbc)),
                                 properties={"energy": energy, "forces": forces}, property_weights={})
        out.append(data.AtomicData.from_config(one, z_table=table, cutoff=float(model.r_max)))
    return out


def _degree(components: int) -> int:
    return int(components**0.5 + 0.5) - 1


def _channels_first(x: Tensor) -> Tensor:
    """Turn [N, (l m), C] into the layout of e3nn, [N, l (C m)]."""
    return torch.cat([x[:, l * l : (l + 1) ** 2].mT.flatten(1) for l in range(_degree(x.shape[1]) + 1)], dim=1)


def _channels_last(x: Tensor, channels: int) -> Tensor:
    """Turn the layout of e3nn back into [N, (l m), C]."""
    sizes = [channels * (2 * l + 1) for l in range(_degree(x.shape[1] // channels) + 1)]
    return torch.cat([piece.reshape(len(x), channels, -1).mT for piece in _pieces(x, sizes)], dim=1)


def _pieces(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Cut columns into pieces."""
    bounds = np.cumsum([0, *sizes]).tolist()
    return [x[:, start : start + size] for start, size in zip(bounds[:-1], sizes, strict=True)]


def _gradient_of(by_degree: list[Tensor]) -> Tensor:
    """Turn gradients [N, 2l+1, P(l), C] of each degree into the layout of e3nn; paths are sorted by degree."""
    return torch.cat([g.permute(0, 2, 3, 1).flatten(1) for g in by_degree], dim=1)
