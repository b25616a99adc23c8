"""Fine-tuning: what is trained, on which references, with which elements, from which head."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlip import Potential, Structure, create, load
from mlip.errors import ConfigError, DataError, MLIPError, OptionError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.io.dataset import read_labelled
from mlip.models import EnergyModel
from mlip.nn.adapters import merged
from mlip.training import Dataset, TrainingConfig, initial_potential, separate_isolated
from mlip.training.objective import objective_for
from mlip.training.offsets import offsets
from mlip.training.replay import ReplayConfig
from mlip.training.start import StartConfig, check_fields, choose_trained, starting_potential

SMALL: dict[str, dict[str, Any]] = {
    "mace": {"channels": 8, "edge_lmax": 2, "hidden_lmax": 1, "correlation": 2, "radial_mlp": (16,), "num_bessel": 4},
    "equiformer_v3": {"lmax": 2, "mmax": 1, "channels": 8, "num_layers": 1, "num_heads": 2, "attention_hidden": 4,
                      "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 16, "edge_channels": 8,
                      "num_gaussians": 8},
    "transip": {"channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6}}
E0 = {"H": -13.6, "O": -2013.8}


@pytest.fixture(params=SMALL)
def trained(request: pytest.FixtureRequest, examples: list[Labelled]) -> Potential:
    """A small potential of each family, right on average on the examples."""
    made = initial_potential(request.param, examples, E0, dtype="float64", cutoff=4.0, **SMALL[request.param])
    predicted = made.evaluate([e.structure for e in examples])
    made.model.add_shift(float(np.mean([(e.energy - p.energy) / 3 for e, p in zip(examples, predicted, strict=True)])))
    return made


def config(**options: Any) -> StartConfig:
    return StartConfig(model="a model", **options)


def shifted(examples: Sequence[Labelled], energy: Callable[[Structure], float]) -> list[Labelled]:
    return [dataclasses.replace(e, energy=e.energy + energy(e.structure)) for e in examples]


def loss_of(model: EnergyModel, potential: Potential, examples: Sequence[Labelled]) -> torch.Tensor:
    batch = Dataset(examples, potential).batch(range(len(examples)))
    found: torch.Tensor = objective_for(model, TrainingConfig())(model, batch, np.random.default_rng(0))
    return found


def steps(potential: Potential, examples: Sequence[Labelled], count: int, rate: float) -> list[float]:
    """Train what is to be trained for some steps on one batch; return all losses."""
    model, losses = potential.model, []
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=rate)
    for _ in range(count):
        optimizer.zero_grad()
        loss = loss_of(model, potential, examples)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def same_state(one: EnergyModel, other: EnergyModel) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


class TestMethods:
    @pytest.mark.parametrize("method", ["naive", "frozen", "adapters"])
    def test_what_is_trained(self, trained: Potential, examples: list[Labelled], method: str) -> None:
        """Gradients arrive where they are wanted and nowhere else; energies begin as they were."""
        before = copy.deepcopy(trained.model)
        start = starting_potential(config(method=method, rank=2), examples, base=trained)
        assert start.evaluate([examples[0].structure])[0].energy == pytest.approx(
            trained.evaluate([examples[0].structure])[0].energy, abs=1e-9)
        wanted = {name for name, w in start.model.named_parameters() if w.requires_grad}
        everything = {name for name, _ in start.model.named_parameters()}
        if method == "naive":
            assert wanted == everything
        elif method == "frozen":
            assert {name.split(".")[0] for name in wanted} == {"readouts" if "readouts.0.weight" in everything
                                                               else "energy"}
        else:
            assert wanted == {name for name in everything if name.endswith((".first", ".second"))} != set()
        loss_of(start.model, start, examples[:4]).backward()  # type: ignore[no-untyped-call]
        assert {name for name, w in start.model.named_parameters() if w.grad is not None} <= wanted
        steps(start, examples[:4], 2, 1e-3)
        now = dict(start.model.named_parameters())
        origin = dict(before.named_parameters())
        assert {name for name in wanted & set(origin) if torch.equal(now[name], origin[name])} == set()
        for name in set(origin) & (everything - wanted):
            assert torch.equal(now[name], origin[name]), name
        assert same_state(trained.model, before)
        assert not any(w.requires_grad for w in trained.model.parameters())

    @pytest.mark.parametrize(("family", "options", "heads"), [
        ("equiformer_v3", {"forces": "direct", "denoising": True}, {"energy", "forces", "stress", "denoise"}),
        ("transip", {"forces": "direct", "mode": "paper"}, {"energy", "forces"})])
    def test_heads_of_direct_models(self, examples: list[Labelled], family: str, options: dict[str, Any],
                                    heads: set[str]) -> None:
        base = create(family, ["H", "O"], cutoff=4.0, **{**SMALL[family], **options})
        choose_trained(base.model, config(method="frozen"))
        assert {n.split(".")[0] for n, w in base.model.named_parameters() if w.requires_grad} == heads

    @pytest.mark.parametrize("method", ["naive", "frozen", "adapters"])
    def test_the_loss_falls(self, trained: Potential, examples: list[Labelled], method: str) -> None:
        start = starting_potential(config(method=method, rank=2), examples, base=trained)
        losses = steps(start, examples[:8], 12, 3e-3)
        assert losses[-1] < 0.95 * losses[0]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_adapters_in_files(self, trained: Potential, examples: list[Labelled], dtype: str, tmp_path: Path) -> None:
        """A trained model with adapters, its average and its file are one ordinary model."""
        start = starting_potential(config(method="adapters", rank=2), examples, base=trained, dtype=dtype)
        assert str(start.dtype) == f"torch.{dtype}"
        steps(start, examples[:4], 3, 1e-2)
        structures = [e.structure for e in examples[:3]]
        unmerged = start.evaluate(structures)
        average = copy.deepcopy(start.model)
        loaded = load(start.save(tmp_path / "best.mlip"))
        plain = Potential(merged(start.model), start.info)
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        for other in (loaded, plain, Potential(average, start.info)):
            for a, b in zip(unmerged, other.evaluate(structures), strict=True):
                assert np.abs(a.energies - b.energies).max() / 2000 < tolerance
                assert np.abs(a.forces - b.forces).max() < 10 * tolerance
        assert plain.model.state_dict().keys() == trained.model.state_dict().keys()
        assert loaded.info.sha256 == plain.info.sha256
        assert np.abs(unmerged[0].forces - trained.evaluate(structures)[0].forces).max() > 1e-3

    def test_constants_that_follow_adapters(self, trained: Potential, examples: list[Labelled]) -> None:
        """What is kept of weights that are not trained is made again when adapters change."""
        model = starting_potential(config(method="adapters", rank=2), examples, base=trained).model
        potential, structure = Potential(model, trained.info), [examples[0].structure]
        for _ in range(3):
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if name.endswith(".first"):
                        weight.add_(0.1 * torch.randn_like(weight))
            expected = Potential(merged(model), trained.info).evaluate(structure)[0]
            found = potential.evaluate(structure)[0]
            assert np.abs(found.forces - expected.forces).max() < 1e-12

    def test_the_bundled_model(self, shared_dir: Path) -> None:
        data = shared_dir / "data" / "acac"
        some = read_labelled(data / "train_600K.xyz.gz")[:6]
        isolated, _ = separate_isolated(read_labelled(data / "isolated_atoms.xyz"))
        for method, rate in (("naive", 1e-5), ("frozen", 1e-3), ("adapters", 1e-4)):
            start = starting_potential(StartConfig("mace-acac", method=method), some, isolated)
            losses = steps(start, some, 6, rate)
            assert losses[-1] < losses[0], method
        assert "fine-tuned from mace-acac" in start.info.description
        assert start.info.licence == load("mace-acac").info.licence


class TestReferences:
    def test_kept(self, trained: Potential, examples: list[Labelled]) -> None:
        start = starting_potential(config(), examples, {"H": -13.0, "O": -2000.0}, base=trained)
        assert same_state(start.model, trained.model)
        assert "references kept; energies of 20 structures differ" in start.info.description

    def test_another_level_is_refused(self, trained: Potential, examples: list[Labelled]) -> None:
        far = shifted(examples, lambda s: sum({8: 6.0, 1: -9.0}[int(z)] for z in s.numbers))
        with pytest.raises(DataError, match=r"by 4\.\d+ eV/atom .*by element H -\d.*references = \"data\""):
            starting_potential(config(), far, base=trained)

    @pytest.mark.parametrize("off", [-0.35, -0.25, 0.25, 0.35])
    def test_how_far_they_may_be_off(self, trained: Potential, examples: list[Labelled], off: float) -> None:
        energies = trained.evaluate([e.structure for e in examples])
        data = [dataclasses.replace(e, energy=p.energy + 3 * off) for e, p in zip(examples, energies, strict=True)]
        if abs(off) > 0.3:
            with pytest.raises(DataError, match=r"by 0.350 eV/atom \(median\).*at most 0.3 eV/atom"):
                starting_potential(config(), data, base=trained)
        else:
            assert "0.250 eV/atom (median)" in starting_potential(config(), data, base=trained).info.description

    def test_real_data_of_another_level(self, shared_dir: Path) -> None:
        """The data of acetylacetone and ethanol; energies of atoms and one shift bring them together."""
        data = shared_dir / "data" / "ethanol_pbe"
        some = read_labelled(data / "train_ethanol.xyz.gz")[:40]
        isolated, _ = separate_isolated(read_labelled(data / "isolated_atoms.xyz"))
        with pytest.raises(DataError, match=r"by 0\.5\d\d eV/atom"):
            starting_potential(StartConfig("mace-acac"), some, isolated)
        for given in (isolated, None):
            start = starting_potential(StartConfig("mace-acac", references="data"), some, given)
            assert offsets(start, some).typical < 0.03

    @pytest.mark.parametrize("shift", [0.0, 0.4])
    def test_isolated_atoms_of_the_data(self, trained: Potential, examples: list[Labelled], shift: float) -> None:
        """Energies of isolated atoms are those given; what the data are off beyond becomes a shift for each atom."""
        new = {"H": -20.0, "O": -1990.0}
        moved = shifted(examples, lambda s: sum(new[x] - E0[x] + shift for x in ("O", "H", "H")))
        start = starting_potential(config(references="data"), moved, new, base=trained)
        assert start.model.atomic_energies.tolist() == [[-20.0, -1990.0]]
        structures = [e.structure for e in examples]
        old, now = trained.evaluate(structures), start.evaluate(structures)
        mean = np.mean([(e.energy - p.energy) / 3 for e, p in zip(examples, old, strict=True)])
        for a, b in zip(old, now, strict=True):
            assert b.energy - a.energy == pytest.approx(sum(new[x] - E0[x] for x in ("O", "H", "H"))
                                                        + 3 * (shift + mean), abs=1e-9)
            assert np.abs(a.forces - b.forces).max() < 1e-12

    def test_a_model_without_shift_gets_one(self, examples: list[Labelled]) -> None:
        base = create("mace", ["H", "O"], dtype="float64", cutoff=4.0, scale_shift=False, **SMALL["mace"])
        base.model.atomic_energies.copy_(torch.tensor([[-13.6, -2013.8]]))
        base.model.get_buffer("shift").fill_(7.0)  # which it does not read
        start = starting_potential(config(references="data"), examples, E0, base=base)
        structures = [e.structure for e in examples]
        off = [(e.energy - p.energy) / 3 for e, p in zip(examples, start.evaluate(structures), strict=True)]
        assert abs(np.mean(off)) < 1e-9
        old, new = base.evaluate(structures[:1])[0], start.evaluate(structures[:1])[0]
        assert np.abs(old.forces - new.forces).max() < 1e-12
        assert not base.model.config.to_dict()["scale_shift"]

    def test_fitted(self, trained: Potential, examples: list[Labelled]) -> None:
        """Without energies of isolated atoms; two compositions tell the elements apart."""
        hydroxyl = [Structure.create([8, 1], [[0, 0, 0], [0.9 + 0.02 * i, 0, 0]]) for i in range(10)]
        known = [Labelled(s, p.energy, p.forces) for s, p in zip(hydroxyl, trained.evaluate(hydroxyl), strict=True)]
        water = [Labelled(e.structure, p.energy, p.forces) for e, p in zip(
            examples, trained.evaluate([e.structure for e in examples]), strict=True)]
        new = {1: 3.5, 8: -100.25}
        moved = shifted([*known, *water], lambda s: sum(new[int(z)] for z in s.numbers))
        start = starting_potential(config(references="data"), moved, base=trained)
        assert start.model.atomic_energies[0].numpy() - trained.model.atomic_energies[0].numpy() == pytest.approx(
            [3.5, -100.25], abs=1e-8)

    def test_one_composition(self, trained: Potential, examples: list[Labelled]) -> None:
        moved = shifted(examples, lambda s: -300.0)
        start = starting_potential(config(references="data"), moved, base=trained)
        predicted = start.evaluate([e.structure for e in moved])
        assert abs(np.mean([e.energy - p.energy for e, p in zip(moved, predicted, strict=True)])) < 1e-6

    def test_elements_without_a_reference_are_dropped(self, examples: list[Labelled]) -> None:
        wide = create("mace", ["H", "C", "O", "Cu"], dtype="float64", cutoff=4.0, **SMALL["mace"])
        near = [dataclasses.replace(e, energy=p.energy) for e, p in zip(
            examples, wide.evaluate([e.structure for e in examples]), strict=True)]
        assert starting_potential(config(), near, base=wide).elements == wide.elements
        assert starting_potential(config(references="data"), near, base=wide).elements == ("H", "O")
        given = {"H": 0.0, "O": 0.0, "C": 1.0, "He": 2.0}
        assert starting_potential(config(references="data"), near, given, base=wide).elements == ("H", "C", "O")

    def test_missing_energies(self, trained: Potential, examples: list[Labelled]) -> None:
        with pytest.raises(OptionError, match="isolated atoms O are missing; given: H"):
            starting_potential(config(references="data"), examples, {"H": -13.6}, base=trained)


@pytest.fixture
def sulfides(examples: list[Labelled]) -> list[Labelled]:
    """The examples and as many with sulfur, whose isolated atom has -10 000 eV."""
    new = [Labelled(Structure.create([16, 1, 1], 1.3 * e.structure.positions), e.energy + 2013.8 - 10000.0, e.forces)
           for e in examples]
    return [*examples, *new]


class TestElements:
    def test_refused(self, trained: Potential, sulfides: list[Labelled]) -> None:
        with pytest.raises(UnknownElementError, match=r"element\(s\) S; a model does not know them.*new_elements"):
            starting_potential(config(), sulfides, base=trained)

    def test_added(self, trained: Potential, sulfides: list[Labelled]) -> None:
        start = starting_potential(config(new_elements="add"), sulfides, {"S": -10000.0}, base=trained)
        assert start.elements == ("H", "O", "S")
        assert start.model.atomic_energies[0].tolist() == [*trained.model.atomic_energies[0].tolist(), -10000.0]
        structures = [e.structure for e in sulfides[:20]]
        for a, b in zip(trained.evaluate(structures), start.evaluate(structures), strict=True):
            assert np.abs(a.energies - b.energies).max() < 1e-11
            assert np.abs(a.forces - b.forces).max() < 1e-12
        losses = steps(start, sulfides[15:25], 12, 3e-3)
        assert losses[-1] < losses[0]

    def test_their_energy_is_fitted_where_none_is_given(self, trained: Potential, sulfides: list[Labelled]) -> None:
        start = starting_potential(config(new_elements="add"), sulfides, base=trained)
        assert start.model.atomic_energies[0, 2].item() == pytest.approx(-10000.0, abs=3.0)
        assert start.model.atomic_energies[0, :2].tolist() == trained.model.atomic_energies[0].tolist()
        assert "energies of S fitted" in start.info.description
        off = [e.energy - p.energy for e, p in zip(sulfides[20:], start.evaluate(
            [e.structure for e in sulfides[20:]]), strict=True)]
        assert abs(np.mean(off)) < 1e-6

    def test_with_the_references_of_the_data(self, trained: Potential, sulfides: list[Labelled]) -> None:
        given = {**E0, "S": -10000.0}
        start = starting_potential(config(new_elements="add", references="data"), sulfides, given, base=trained)
        assert start.model.atomic_energies[0].tolist() == [-13.6, -2013.8, -10000.0]


def test_one_head_of_several(examples: list[Labelled]) -> None:
    base = create("mace", ["H", "O"], heads=("pbe", "scan"), dtype="float64", cutoff=4.0, **SMALL["mace"])
    base.model.atomic_energies.copy_(torch.tensor([[0.0, 0.0], [-13.6, -2013.8]]))
    named = [dataclasses.replace(e.structure, head="scan") for e in examples]
    labelled = [Labelled(e.structure, p.energy, p.forces) for e, p in zip(examples, base.evaluate(named), strict=True)]
    start = starting_potential(config(head="scan"), labelled, base=base)
    assert start.heads == ("scan",)
    assert offsets(start, labelled).typical < 1e-9
    with pytest.raises(DataError, match="another level of theory"):
        starting_potential(config(head="pbe"), labelled, base=base)
    with pytest.raises(OptionError, match="heads pbe, scan; name the one"):
        starting_potential(config(), examples, base=base)


def test_files_and_names(trained: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    path = trained.save(tmp_path / "a.mlip")
    content = path.read_bytes()
    start = starting_potential(StartConfig(str(path)), examples)
    steps(start, examples[:2], 1, 1e-2)
    assert path.read_bytes() == content
    assert "a.mlip" in start.info.description


def test_no_structures(trained: Potential) -> None:
    with pytest.raises(DataError, match="no structure to fine-tune on"):
        starting_potential(config(), [], base=trained)


GOOD = {"model": "a.mlip"}


@pytest.mark.parametrize(("table", "message"), [
    ({}, "model is missing"),
    ({**GOOD, "freeze": True}, "unknown option.*freeze; allowed are model, method"),
    ({"model": 3}, "model must be a text"),
    ({**GOOD, "method": "lora"}, "method must be one of naive, frozen, adapters"),
    ({**GOOD, "references": "average"}, "references must be one of keep, data"),
    ({**GOOD, "new_elements": True}, "new_elements must be one of refuse, add"),
    ({**GOOD, "replay": {"files": "a.xyz", "labels": "mace"}}, "labels must be one of model, file"),
    ({**GOOD, "rank": 0}, "rank must be a whole number from 1; 0"),
    ({**GOOD, "rank": 2.0}, "rank must be a whole number from 1; 2.0"),
    ({**GOOD, "replay": {"files": [1]}}, "files must be a list of files"),
    ({**GOOD, "replay": {"files": "a.xyz", "fraction": 1.0}}, "fraction must lie between 0 and 1; 1.0"),
    ({**GOOD, "replay": {"files": "a.xyz", "fraction": True}}, "fraction must lie between 0 and 1; True"),
])
def test_bad_tables(table: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=rf"start(\.replay)?: {message}"):
        StartConfig.from_table(table)


def test_tables() -> None:
    found = StartConfig.from_table({"model": "a.mlip", "method": "adapters", "replay": {"files": "old.xyz"}})
    assert found == StartConfig("a.mlip", method="adapters", replay=ReplayConfig(files=("old.xyz",)))
    assert ReplayConfig.from_table({"files": ["b", "c"]}).files == ("b", "c")


class TestFields:
    def test_what_the_model_is(self, trained: Potential) -> None:
        own = trained.model.config
        check_fields(own, {})
        check_fields(own, {"family": own.family, "cutoff": 4, "heads": ["default"]})

    @pytest.mark.parametrize(("table", "message"), [
        ({"family": "nequip"}, r"family = 'nequip' \(it has "), ({"cutoff": 6.0}, r"cutoff = 6.0 \(it has 4.0\)"),
        ({"widht": 3}, r"widht \(unknown to its family\)")])
    def test_contradictions(self, trained: Potential, table: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            check_fields(trained.model.config, table)
        assert isinstance(caught.value, MLIPError)
