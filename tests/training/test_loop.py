"""Training runs: they learn, they stop, and an interrupted run ends like one that was not."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlip import Potential, Structure, load
from mlip.errors import ModelFileError, NonFiniteError, OptionError
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, TrainingConfig, errors, initial_potential, loop, train
from mlip.training.data import split
from mlip.training.objective import Objective


def log_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "last.pt", weights_only=True)
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def total(found: Any, config: TrainingConfig) -> float:
    return config.energy_weight * found.energy_rmse**2 + config.forces_weight * found.forces_rmse**2


def test_it_learns(start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    config = TrainingConfig(epochs=25, learning_rate=0.03, ema_decay=0.5)
    path = train(start, examples, tmp_path / "run", config, progress=False)
    trained = load(path)
    before, after = errors(Dataset(examples, start)), errors(Dataset(examples, trained))
    assert total(after, config) < 0.1 * total(before, config)
    assert trained.elements == ("H", "O")
    assert trained.dtype == torch.float64
    _, validation = split(examples, config.validation_fraction, config.seed)
    assert trained.info.validation == errors(Dataset(validation, trained)).to_dict()
    log = log_of(tmp_path / "run")
    assert [row["epoch"] for row in log] == list(range(1, len(log) + 1))
    scores = [config.energy_weight * r["energy_rmse"] ** 2 + config.forces_weight * r["forces_rmse"] ** 2 for r in log]
    assert trained.info.validation["forces_rmse_mev_per_angstrom"] == log[int(np.argmin(scores))]["forces_rmse"]


def test_single_precision_and_the_start_is_left_alone(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                                      tmp_path: Path) -> None:
    single = start.to(dtype="float32")
    before = {k: v.clone() for k, v in single.model.state_dict().items()}
    trained = load(train(single, examples, tmp_path, fast, progress=False))
    assert trained.dtype == torch.float32
    assert equal(before, single.model.state_dict())
    assert not any(p.requires_grad for p in single.model.parameters())
    assert not equal(before["embedding"], trained.model.state_dict()["embedding"])
    assert equal(before["atomic_energies"], trained.model.state_dict()["atomic_energies"])


def test_the_same_run_twice(start: Potential, examples: list[Labelled], fast: TrainingConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    a = train(start, examples, tmp_path / "a", fast, progress=False)
    torch.manual_seed(2)  # the run draws from generators of its own
    b = train(start, examples, tmp_path / "b", fast, progress=False)
    assert a.read_bytes() == b.read_bytes()
    assert equal(state_of(tmp_path / "a"), state_of(tmp_path / "b"))
    other = dataclasses.replace(fast, seed=1)
    assert train(start, examples, tmp_path / "c", other, progress=False).read_bytes() != a.read_bytes()


class Interruption:
    """Stops the process, so to say, after a number of training steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.forward = monkeypatch, Objective.forward

    def run(self, steps: int, *arguments: Any) -> None:
        left = iter(range(steps))

        def counted(*a: Any) -> torch.Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return self.forward(*a)

        with self.monkeypatch.context() as patch:
            patch.setattr(Objective, "forward", counted)
            with pytest.raises(KeyboardInterrupt):
                train(*arguments, progress=False)


@pytest.mark.parametrize("stops", [(8,), (6,), (3,), (5, 4, 2)], ids=str)
def test_resumed_run_ends_like_an_uninterrupted_one(stops: tuple[int, ...], start: Potential, examples: list[Labelled],
                                                    fast: TrainingConfig, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between epochs (4 steps each), within one, before the first was done, several times."""
    whole = train(start, examples, tmp_path / "whole", fast, progress=False)
    for steps in stops:
        Interruption(monkeypatch).run(steps, start, examples, tmp_path / "parts", fast)
    parts = train(start, examples, tmp_path / "parts", fast, progress=False)
    assert parts.read_bytes() == whole.read_bytes()
    assert equal(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))
    without = [[{k: v for k, v in row.items() if k != "seconds"} for row in log_of(tmp_path / n)]
               for n in ("parts", "whole")]
    assert without[0] == without[1]


def test_a_finished_run_is_left_alone(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                      tmp_path: Path) -> None:
    path = train(start, examples, tmp_path, fast, progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert train(start, examples, tmp_path, fast, progress=False) == path
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert set(before) == {"best.mlip", "last.pt", "log.csv"}


def test_early_stop_and_nothing_more_after_it(start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    """Without learning only the first epoch is an improvement (over nothing)."""
    config = TrainingConfig(epochs=30, learning_rate=0.0, patience=3)
    train(start, examples, tmp_path, config, progress=False)
    assert len(log_of(tmp_path)) == 4
    train(start, examples, tmp_path, config, progress=False)
    assert len(log_of(tmp_path)) == 4


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_moving_average(decay: float, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=100, ema_decay=decay)  # one single step
    best = load(train(start, examples, tmp_path, config, progress=False))
    state = state_of(tmp_path)
    first, average = dict(start.model.named_parameters()), dict(best.model.named_parameters())
    for name, weight in first.items():
        now = state["model"][name]
        torch.testing.assert_close(average[name], decay * weight + (1 - decay) * now, rtol=1e-12, atol=1e-14)
        assert torch.equal(average[name], state["average"][name])
    assert not torch.equal(state["model"]["embedding"], first["embedding"])


def test_learning_rate_falls_to_zero(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                     tmp_path: Path) -> None:
    train(start, examples, tmp_path, fast, progress=False)
    (group,) = state_of(tmp_path)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.0, abs=1e-12)
    assert group["amsgrad"]


def test_loss_by_hand(start: Potential, examples: list[Labelled]) -> None:
    config = TrainingConfig(energy_weight=3.0, forces_weight=7.0)
    data = Dataset(examples[:4], start)
    batch = data.batch([2, 0])
    value = Objective(config)(start.model, batch, np.random.default_rng(0))
    predictions = start.evaluate([examples[2].structure, examples[0].structure])
    energy = [((p.energy - e.energy) / 3) ** 2 for p, e in zip(predictions, (examples[2], examples[0]), strict=True)]
    forces = [(p.forces - e.forces) ** 2 for p, e in zip(predictions, (examples[2], examples[0]), strict=True)]
    assert value.item() == pytest.approx(3 * np.mean(energy) + 7 * np.mean(forces), rel=1e-10)


def test_isolated_atoms_and_crystals_among_the_examples(fast: TrainingConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    structures = [Structure.create([1], [[0, 0, 0]]), Structure.create([8], [[0, 0, 0]], [9, 9, 9], True)]
    structures += [Structure.create([1, 8], rng.uniform(0, 2.5, (2, 3)), [2.8] * 3, True) for _ in range(4)]
    mixed = [Labelled(s, -2.0 * len(s), np.zeros((len(s), 3))) for s in structures]
    potential = initial_potential("mace", mixed, channels=2, edge_lmax=1, radial_mlp=(4,), cutoff=3.0)
    path = train(potential, mixed, tmp_path, dataclasses.replace(fast, epochs=2, batch_size=1), progress=False)
    assert all(math.isfinite(v) for v in load(path).info.validation.values())


class TestErrors:
    def test_too_few(self, start: Potential, examples: list[Labelled], fast: TrainingConfig, tmp_path: Path) -> None:
        for count in (0, 1):
            with pytest.raises(OptionError, match="too few"):
                train(start, examples[:count], tmp_path, fast, progress=False)
        train(start, examples[:2], tmp_path, fast, progress=False)

    def test_other_options(self, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                           tmp_path: Path) -> None:
        train(start, examples, tmp_path, fast, progress=False)
        with pytest.raises(ModelFileError, match="other options"):
            train(start, examples, tmp_path, dataclasses.replace(fast, learning_rate=0.5), progress=False)

    def test_other_model(self, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                         tmp_path: Path) -> None:
        train(start, examples, tmp_path, fast, progress=False)
        config = {k: v for k, v in start.model.config.to_dict().items() if k not in ("atomic_numbers", "cutoff")}
        for other in (initial_potential("mace", examples, channels=2, edge_lmax=1, radial_mlp=(8,), cutoff=3.5),
                      initial_potential("mace", examples, cutoff=start.cutoff + 0.5, **config),  # tensors of one shape
                      initial_potential("mace", examples, {"H": -13.0, "O": -2000.0}, cutoff=start.cutoff, **config)):
            with pytest.raises(ModelFileError, match="different: model"):
                train(other, examples, tmp_path, fast, progress=False)

    @pytest.mark.parametrize("junk", [b"", b"junk", None])
    def test_damaged_state(self, junk: bytes | None, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                           tmp_path: Path) -> None:
        train(start, examples, tmp_path, fast, progress=False)
        state = tmp_path / "last.pt"
        state.write_bytes(state.read_bytes()[:-500] if junk is None else junk)
        with pytest.raises(ModelFileError, match="damaged"):
            train(start, examples, tmp_path, fast, progress=False)

    @pytest.mark.parametrize("field", ["energy", "forces"])
    def test_labels_that_are_no_numbers(self, field: str, start: Potential, examples: list[Labelled],
                                        fast: TrainingConfig, tmp_path: Path) -> None:
        wrong = {"energy": float("nan"), "forces": np.full((3, 3), np.inf)}
        spoilt = [dataclasses.replace(e, **{field: wrong[field]}) for e in examples]
        with pytest.raises(NonFiniteError):
            train(start, spoilt, tmp_path, fast, progress=False)
        assert not (tmp_path / "best.mlip").exists()

    def test_weights_that_explode_do_not_spoil_the_state(self, start: Potential, examples: list[Labelled],
                                                         fast: TrainingConfig, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
        """NaN weights after the last step of an epoch must not be what the run resumes from."""
        keep = loop.nn.utils.clip_grad_norm_
        steps = iter(range(100))

        def explode(parameters: Any, limit: float) -> None:
            parameters = list(parameters)
            keep(parameters, limit)
            if next(steps) == 7:  # the last step of the second epoch
                for p in parameters:
                    p.grad.fill_(float("nan"))

        with monkeypatch.context() as patch:
            patch.setattr(loop.nn.utils, "clip_grad_norm_", explode)
            with pytest.raises(NonFiniteError, match="another folder"):
                train(start, examples, tmp_path, fast, progress=False)
        assert state_of(tmp_path)["epoch"] == 1
        train(start, examples, tmp_path, fast, progress=False)
        whole = train(start, examples, tmp_path / "whole", fast, progress=False)
        assert (tmp_path / "best.mlip").read_bytes() == whole.read_bytes()
