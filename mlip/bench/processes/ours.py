"""What a process with mlip can be asked for; run by `serving.py`."""

from __future__ import annotations

import copy
import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import mlip
from mlip.bench.dynamics import run_nve
from mlip.bench.equiformer.published import as_published, first_feed_forward
from mlip.bench.profiling import profile, roofline, sgemm_rate
from mlip.bench.tensor_products.contest import Contest
from mlip.bench.training_run import TrainingRun
from mlip.checkpoints import Potential
from mlip.graph import Structure
from mlip.models.mace.blocks import Product
from mlip.neighbors import neighbor_list
from mlip.nn.derivatives import evaluate
from mlip.ops import gaunt_polynomial, symmetric_contraction
from mlip.ops._library import LIBRARY
from mlip.ops.edge_convolution import Edges, edge_convolution
from mlip.so3.degrees import Paths
from mlip.training import TrainingConfig, keep_freed_memory

if TYPE_CHECKING:
    from mlip.bench.openmm_side import Engine
    from mlip.bench.screen_side import Mixed


class Actions:
    """Keeps a model, a structure and the inputs of single operations between requests."""

    potential: Potential
    structure_: Structure
    products: Contest
    engine_: Engine
    mixed_: Mixed

    def versions(self) -> dict[str, str]:
        """Return the versions the times depend on."""
        return {"mlip": mlip.__version__, "torch": str(torch.__version__), "kernels": LIBRARY.isa or "none"}

    def threads(self, count: int) -> None:
        """Set the number of threads of torch."""
        torch.set_num_threads(count)

    def load(self, path: str, backend: str = "auto", radial: str = "exact", published: bool = False) -> dict[str, Any]:
        """Load a model, or compute it as it is published; return its back end and the size of its weights."""
        self.potential = mlip.load(path, backend=backend, radial=radial)
        if published:
            self.potential = as_published(self.potential)
        return {"backend": self.potential.backend,
                "parameters": sum(p.numel() for p in self.potential.model.parameters())}

    def structure(self, path: str, stress: bool = False) -> dict[str, int]:
        """Read a structure and make its neighbour list; return its numbers of atoms and edges.

        From now on evaluations are of this structure, with its stress if that is asked for and exists.
        """
        with np.load(path) as z:
            periodic = bool(z["pbc"]) if "pbc" in z else True
            self.structure_ = Structure.create(z["numbers"], z["positions"], z["cell"] if periodic else None, periodic)
        s, self.stress = self.structure_, stress
        self.edges = neighbor_list(s.positions, self.potential.cutoff, s.cell, s.pbc)
        return {"atoms": len(s), "edges": len(self.edges.senders)}

    def evaluate(self) -> None:
        """Compute energy, forces and maybe stress."""
        self.result = self.potential.evaluate([self.structure_], edges=[self.edges], stress=self.stress)[0]

    def write(self, path: str) -> None:
        """Write the last energy and forces, and the stress if it is there."""
        result = self.result
        out: dict[str, Any] = {"energy": result.energy, "forces": np.asarray(result.forces)}
        if result.stress is not None:
            out["stress"] = result.stress
        np.savez(path, **out)

    def prepare_training(self) -> None:
        """Take weights that can be trained, and the graph of the structure."""
        self.model = copy.deepcopy(self.potential.model).requires_grad_(True)
        self.graph = self.potential.graph([self.structure_], [self.edges])

    def training_step(self) -> float:
        """Compute the derivatives of the loss, with targets of zero, by the weights; return the loss."""
        self.model.zero_grad()
        result = evaluate(self.model, self.graph, training=True)
        assert result.forces is not None
        loss = (result.energy / self.graph.num_atoms).square().mean() + result.forces.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss)

    def prepare_run(self, path: str, steps: int, options: dict[str, Any]) -> dict[str, int]:
        """Get ready to train on structures as `mlip train` does; options are those of `TrainingConfig`."""
        keep_freed_memory()
        self.training = TrainingRun(self.potential, path, steps, TrainingConfig(**options))
        return {"edges": self.training.edges}

    def first_loss(self) -> dict[str, float]:
        """Return the loss of the first structures, and the norm of its gradient without the contractions' weights."""
        return self.training.first_loss()

    def run(self) -> None:
        """Train for some steps."""
        self.training.run()

    def prepare_convolution(self, path: str) -> None:
        """Read the inputs of an edge convolution."""
        with np.load(path) as z:
            inputs = {k: torch.from_numpy(z[k]) for k in z.files}
        self.paths = Paths(tuple((l1, l2, l3) for l1, l2, l3 in inputs["paths"].tolist()))
        self.inputs = [inputs[k].requires_grad_() for k in ("features", "harmonics", "weights")]
        sender, receiver = inputs["edge_index"]
        self.convolution_edges = Edges.of(sender, receiver, len(self.inputs[0]))
        self.gradient = [inputs[f"gradient{l}"] for l in self.paths.slots]

    def convolution(self) -> list[torch.Tensor]:
        """Convolve; keeps what a derivative needs."""
        features, harmonics, weights = self.inputs
        return edge_convolution(features, harmonics, weights, self.convolution_edges, self.paths)

    def convolution_forward(self) -> None:
        """Convolve without derivatives."""
        with torch.no_grad():
            self.convolved = self.convolution()

    def convolution_backward(self) -> None:
        """Convolve, and differentiate by features, harmonics and weights."""
        self.gradients = torch.autograd.grad(self.convolution(), self.inputs, self.gradient)

    def write_convolution(self, path: str) -> None:
        """Write messages and derivatives: what the last two actions found."""
        out: dict[str, Any] = dict(zip(("features", "harmonics", "weights"), self.gradients, strict=True))
        out |= {f"messages{l}": m for l, m in enumerate(self.convolved)}
        np.savez(path, **{k: v.numpy() for k, v in out.items()})

    def prepare_contraction(self, path: str) -> None:
        """Read the inputs of the first symmetric contraction of the model."""
        with np.load(path) as z:
            self.messages, self.elements = torch.from_numpy(z["messages"]), torch.from_numpy(z["elements"])
        product: Product = self.potential.model.products[0]  # type: ignore[index, assignment]
        flat, orders = list(product.weights), product.orders
        channels = self.messages.shape[2]
        self.gaunt_weights = torch.randn(len(flat[0]), orders, product.lmax_out + 1, channels)
        self.weights = [flat[l * orders : (l + 1) * orders] for l in range(product.lmax_out + 1)]

    def contraction(self) -> None:
        """Contract without derivatives."""
        with torch.no_grad():
            lmax = self.potential.model.config.edge_lmax  # type: ignore[attr-defined]
            self.contracted = symmetric_contraction(self.messages, self.weights, self.elements, lmax)

    def gaunt(self) -> None:
        """Take the product of MACE-Gaunt, of as many factors and degrees, without derivatives."""
        with torch.no_grad():
            self.product = gaunt_polynomial(self.messages, self.gaunt_weights, self.elements)

    def write_contraction(self, path: str) -> None:
        """Write what the last contraction found."""
        np.savez(path, features=self.contracted.numpy())

    def prepare_feed_forward(self, path: str) -> None:
        """Read the input of the first feed-forward network of EquiformerV3."""
        with np.load(path) as z:
            self.features = torch.from_numpy(z["features"])
        self.feed_forward_ = first_feed_forward(self.potential)

    def feed_forward(self) -> None:
        """Run it without derivatives."""
        with torch.no_grad():
            self.fed = self.feed_forward_(self.features)

    def write_feed_forward(self, path: str) -> None:
        """Write what it found."""
        np.savez(path, features=self.fed.numpy())

    def contest(self, setting: str, lmax: int, batch: int, channels: int) -> None:
        """Draw signals for products of degrees."""
        gc.collect()
        gc.freeze()  # what is imported: to search it before every run would take 0.1 s, longer than most runs
        self.products = Contest(setting, lmax, batch, channels)

    def product_differences(self, name: str) -> dict[str, float]:
        """Return how far an implementation of a product is from the expected result."""
        return self.products.differences(name)

    def load_product(self, name: str, batch: int) -> None:
        """Put signals into the layout of an implementation."""
        self.products.load(name, batch)

    def product_forward(self, name: str) -> None:
        """Multiply without derivatives."""
        self.products.forward(name)

    def product_backward(self, name: str) -> None:
        """Multiply, and differentiate by both factors."""
        self.products.backward(name)

    def profile(self, runs: int) -> dict[str, Any]:
        """Return the time of an evaluation and its parts."""
        return {**profile(self.evaluate, runs), "roofline": roofline()}

    def sgemm(self, shapes: list[list[int]]) -> float:
        """Return the best rate of products of matrices of these shapes, operations/s."""
        return sgemm_rate(shapes)

    def dynamics(self, steps: int, skin: float, threads: int) -> dict[str, Any]:
        """Run dynamics and return what the neighbour list took."""
        return run_nve(self.potential, self.structure_, steps, skin, threads)

    def engine(self, path: str) -> None:
        """Put the model into OpenMM with a structure of a file."""
        from mlip.bench.openmm_side import Engine  # the only one that needs OpenMM

        self.engine_ = Engine(self.potential, path)

    def run_engine(self, steps: int) -> None:
        """Run dynamics in OpenMM from the start."""
        self.engine_.run(steps)

    def run_blocks(self, steps: int) -> None:
        """Run many steps, from the start again and again."""
        self.engine_.run_blocks(steps)

    def write_engine(self, path: str) -> None:
        """Write energy and forces at the start, as OpenMM has them."""
        self.engine_.stepping.write(path)

    def overhead(self, steps: int) -> dict[str, float]:
        """Return what a step of OpenMM takes, by its parts."""
        return self.engine_.overhead(steps)

    def copies(self) -> dict[str, float]:
        """Return what the System weighs."""
        return self.engine_.copies()

    def relaxations(self, count: int, atoms: int, fmax: float) -> dict[str, dict[str, float]]:
        """Relax crystals by `screen` and by loops of ASE, in turn."""
        from mlip.bench.screen_side import contest  # ASE, and all of the screening

        return contest(self.potential, count, atoms, fmax)

    def mixed(self, count: int, atoms: int, memory: float) -> None:
        """Make crystals of all sizes, and forecast the memory that they need."""
        from mlip.bench.screen_side import Mixed

        self.mixed_ = Mixed(self.potential, count, atoms, memory)

    def run_mixed(self, steps: int) -> None:
        """Relax them by a few steps."""
        self.mixed_.run(steps)

    def mixed_told(self) -> dict[str, float]:
        """Return what was forecast of them."""
        return self.mixed_.told()
