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
from mlip.training import Dataset, TrainingConfig, errors, initial_potential, split, train
from mlip.training.module import TrainingModule
from mlip.training.objective import Objective


def log_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def state_of(folder: Path) -> dict[str, Any]:
    """Return the state of a run, without what depends on the clock."""
    state: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    del state["mlip"]["seconds"]
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
    path = train(start, *split(examples, 0.1, 0), tmp_path / "run", config)
    trained = load(path)
    before, after = errors(Dataset(examples, start)), errors(Dataset(examples, trained))
    assert total(after, config) < 0.1 * total(before, config)
    assert trained.elements == ("H", "O")
    assert trained.dtype == torch.float64
    _, validation = split(examples, 0.1, 0)
    assert trained.info.validation == errors(Dataset(validation, trained)).to_dict()
    log = log_of(tmp_path / "run")
    assert [row["epoch"] for row in log] == list(range(len(log)))
    scores = [config.energy_weight * r["energy_rmse"] ** 2 + config.forces_weight * r["forces_rmse"] ** 2 for r in log]
    assert trained.info.validation["forces_rmse_mev_per_angstrom"] == log[int(np.argmin(scores))]["forces_rmse"]


def test_single_precision_and_the_start_is_left_alone(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                                      tmp_path: Path) -> None:
    single = start.to(dtype="float32")
    before = {k: v.clone() for k, v in single.model.state_dict().items()}
    trained = load(train(single, *split(examples, 0.1, 0), tmp_path, fast))
    assert trained.dtype == torch.float32
    assert equal(before, single.model.state_dict())
    assert not any(p.requires_grad for p in single.model.parameters())
    assert not equal(before["embedding"], trained.model.state_dict()["embedding"])
    assert equal(before["atomic_energies"], trained.model.state_dict()["atomic_energies"])


def test_the_same_run_twice(start: Potential, examples: list[Labelled], fast: TrainingConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    a = train(start, *split(examples, 0.1, 0), tmp_path / "a", fast)
    torch.manual_seed(2)  # the run draws from generators of its own
    b = train(start, *split(examples, 0.1, 0), tmp_path / "b", fast)
    assert a.read_bytes() == b.read_bytes()
    assert equal(state_of(tmp_path / "a"), state_of(tmp_path / "b"))
    other = dataclasses.replace(fast, seed=1)
    assert train(start, *split(examples, 0.1, 0), tmp_path / "c", other).read_bytes() != a.read_bytes()


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
                train(*arguments)


@pytest.mark.parametrize("stops", [(8,), (6,), (3,), (5, 4, 2)], ids=str)
def test_resumed_run_ends_like_an_uninterrupted_one(stops: tuple[int, ...], start: Potential, examples: list[Labelled],
                                                    fast: TrainingConfig, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between epochs (4 steps each), within one, before the first was done, several times."""
    whole = train(start, *split(examples, 0.1, 0), tmp_path / "whole", fast)
    for steps in stops:
        Interruption(monkeypatch).run(steps, start, *split(examples, 0.1, 0), tmp_path / "parts", fast)
    parts = train(start, *split(examples, 0.1, 0), tmp_path / "parts", fast)
    assert parts.read_bytes() == whole.read_bytes()
    assert equal(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))
    without = [[{k: v for k, v in row.items() if k != "seconds"} for row in log_of(tmp_path / n)]
               for n in ("parts", "whole")]
    assert without[0] == without[1]


def test_a_finished_run_is_left_alone(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                      tmp_path: Path) -> None:
    path = train(start, *split(examples, 0.1, 0), tmp_path, fast)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert train(start, *split(examples, 0.1, 0), tmp_path, fast) == path
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert set(before) == {"best.mlip", "last.ckpt", "log.csv"}


def test_early_stop_and_nothing_more_after_it(start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    """Without learning no epoch is better than the start."""
    config = TrainingConfig(epochs=30, learning_rate=0.0, patience=3)
    train(start, *split(examples, 0.1, 0), tmp_path, config)
    assert [row["epoch"] for row in log_of(tmp_path)] == [0, 1, 2, 3]
    train(start, *split(examples, 0.1, 0), tmp_path, config)
    assert [row["epoch"] for row in log_of(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_moving_average(decay: float, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
    """Two single steps; the first few weigh more than the decay says."""
    config = TrainingConfig(epochs=2, batch_size=100, ema_decay=decay, schedule="constant", energy_weight=1e6,
                            learning_rate=0.001)
    train(start, *split(examples, 0.1, 0), tmp_path / "one", dataclasses.replace(config, epochs=1))
    best = load(train(start, *split(examples, 0.1, 0), tmp_path / "two", config))
    steps = [state_of(tmp_path / name)["state_dict"] for name in ("one", "two")]
    average = dict(best.model.named_parameters())
    for name, weight in start.model.named_parameters():
        expected = weight
        for step, state in enumerate(steps, start=1):
            keep = min(decay, step / (step + 9))
            expected = keep * expected + (1 - keep) * state[f"model.{name}"]
            torch.testing.assert_close(state[f"average.{name}"], expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(average[name], steps[1][f"average.{name}"])
    assert not torch.equal(steps[0]["model.embedding"], start.model.state_dict()["embedding"])


def test_learning_rate_falls_to_zero(start: Potential, examples: list[Labelled], fast: TrainingConfig,
                                     tmp_path: Path) -> None:
    train(start, *split(examples, 0.1, 0), tmp_path, fast)
    (group,) = state_of(tmp_path)["optimizer_states"][0]["param_groups"]
    assert 0 < group["lr"] < 0.03 * fast.learning_rate  # of the last step; the one after it would be 0
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
    path = train(potential, *split(mixed, 0.1, 0), tmp_path, dataclasses.replace(fast, epochs=2, batch_size=1))
    assert all(math.isfinite(v) for v in load(path).info.validation.values())


class TestErrors:
    def test_too_few(self, start: Potential, examples: list[Labelled], fast: TrainingConfig, tmp_path: Path) -> None:
        for count in (0, 1):
            with pytest.raises(OptionError, match="too few"):
                train(start, *split(examples[:count], 0.1, 0), tmp_path, fast)
        train(start, *split(examples[:2], 0.1, 0), tmp_path, fast)

    def test_other_options(self, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                           tmp_path: Path) -> None:
        train(start, *split(examples, 0.1, 0), tmp_path, fast)
        with pytest.raises(ModelFileError, match="other options"):
            train(start, *split(examples, 0.1, 0), tmp_path, dataclasses.replace(fast, learning_rate=0.5))

    def test_other_model(self, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                         tmp_path: Path) -> None:
        train(start, *split(examples, 0.1, 0), tmp_path, fast)
        config = {k: v for k, v in start.model.config.to_dict().items() if k not in ("atomic_numbers", "cutoff")}
        for other in (initial_potential("mace", examples, channels=2, edge_lmax=1, radial_mlp=(8,), cutoff=3.5),
                      initial_potential("mace", examples, cutoff=start.cutoff + 0.5, **config),  # tensors of one shape
                      initial_potential("mace", examples, {"H": -13.0, "O": -2000.0}, cutoff=start.cutoff, **config)):
            with pytest.raises(ModelFileError, match="different: model"):
                train(other, *split(examples, 0.1, 0), tmp_path, fast)

    @pytest.mark.parametrize("junk", [b"", b"junk", None])
    def test_damaged_state(self, junk: bytes | None, start: Potential, examples: list[Labelled], fast: TrainingConfig,
                           tmp_path: Path) -> None:
        train(start, *split(examples, 0.1, 0), tmp_path, fast)
        state = tmp_path / "last.ckpt"
        state.write_bytes(state.read_bytes()[:-500] if junk is None else junk)
        with pytest.raises(ModelFileError, match="damaged"):
            train(start, *split(examples, 0.1, 0), tmp_path, fast)

    @pytest.mark.parametrize("field", ["energy", "forces"])
    def test_labels_that_are_no_numbers(self, field: str, start: Potential, examples: list[Labelled],
                                        fast: TrainingConfig, tmp_path: Path) -> None:
        wrong = {"energy": float("nan"), "forces": np.full((3, 3), np.inf)}
        spoilt = [dataclasses.replace(e, **{field: wrong[field]}) for e in examples]
        with pytest.raises(NonFiniteError):
            train(start, *split(spoilt, 0.1, 0), tmp_path, fast)
        assert not (tmp_path / "best.mlip").exists()

    def test_weights_that_explode_do_not_spoil_the_state(self, start: Potential, examples: list[Labelled],
                                                         fast: TrainingConfig, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
        """NaN weights after the last step of an epoch must not be what the run resumes from."""
        def explode(module: TrainingModule, *_: Any) -> None:
            if module.global_step == 7:  # the last step of the second epoch
                for p in module.model.parameters():
                    p.grad.fill_(float("nan"))

        with monkeypatch.context() as patch:
            patch.setattr(TrainingModule, "on_before_optimizer_step", explode)
            with pytest.raises(NonFiniteError, match="another folder"):
                train(start, *split(examples, 0.1, 0), tmp_path, fast)
        assert state_of(tmp_path)["global_step"] == 4
        train(start, *split(examples, 0.1, 0), tmp_path, fast)
        whole = train(start, *split(examples, 0.1, 0), tmp_path / "whole", fast)
        assert (tmp_path / "best.mlip").read_bytes() == whole.read_bytes()
