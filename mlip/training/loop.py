"""`train`: a run from its start, or from where it was interrupted, to the best model."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.checkpoints import ModelInfo, Potential
from mlip.errors import MissingDependencyError, OptionError
from mlip.graph import naming
from mlip.graph.labelled import Labelled
from mlip.training.config import TrainingConfig
from mlip.training.data import Dataset, fingerprint
from mlip.training.plan import Plan
from mlip.training.repulsion import Repulsion
from mlip.training.store import FrameStore

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from mlip.training.keeper import Keeper

CHECKED = 100  # structures whose graphs are made before hours are spent


def train(potential: Potential, training: Sequence[Labelled], validation: Sequence[Labelled], folder: str | Path,
          config: TrainingConfig | None = None, *, info: ModelInfo | None = None, replay: Sequence[Labelled] = (),
          replay_fraction: float = 0.25, devices: int = 1, nodes: int = 1, progress: bool = False,
          report: Callable[[str], object] = str) -> Path:
    """Train a potential, or resume the run in `folder`, and return the path of the best model.

    A run that was killed at any moment continues after its last validation and, on a CPU, ends with the same weights as
    one that was not.

    Args:
        potential: start, from `initial_potential` or `starting_potential`; it is not changed. Its device is that of the
            run. The weights whose `requires_grad` is set are trained; all, if none is.
        training: labelled structures to learn from.
        validation: labelled structures that choose the best weights.
        folder: of the run; gets `best.mlip`, `last.ckpt`, `log.csv`, and a folder `tensorboard` where that package is
            installed.
        config: options.
        info: provenance of the trained model; by default that of the start.
        replay: structures of an earlier training, which are mixed into the batches but do not make epochs longer.
        replay_fraction: their share of each batch.
        devices: processes of one GPU or CPU each on this machine (DDP); each has an equal share of every batch.
        nodes: machines, started as Lightning documents.
        progress: whether to show a bar.
        report: is called with a warning where no validation was better than the start.

    Raises:
        OptionError: no structures to train on or to validate with; no processes; weights of config_types that none has.
        DataError: structures to validate with that have none of the labels a stage trains on.
        StructureError: structures the model cannot take.
        ModelFileError: the folder holds a run with other options, data or model.
        NonFiniteError: the loss became NaN or infinite.
        MissingDependencyError: lightning is not installed.
    """
    config, folder = config or TrainingConfig(), Path(folder)
    _check_processes(config, devices, nodes)
    from torch.utils.data import ConcatDataset

    from mlip.training.keeper import Keeper
    from mlip.training.module import TrainingModule

    potential = potential.to(radial="exact", rotational_average="none")  # tables do not follow the weights
    _check(potential, training, validation)
    if any(stage.config_weights for stage in config.parts):
        config.check_groups(e.config_type for part in (training, replay) for e in part)
    plan = Plan(config, len(training), potential.model.config.family, len(replay), replay_fraction)
    seen: Any = ConcatDataset([training, replay]) if len(replay) else training  # type: ignore[list-item]
    data = Dataset(seen, potential)
    repulsion = Repulsion.of(data.sample(), potential.cutoff) if config.repulsion_weight else None
    module = TrainingModule(potential, config, plan, repulsion)
    info = dataclasses.replace(info or potential.info, description=(info.description if info else "") or (
        f"trained on {len(training)} structures, validated on {len(validation)}"))
    identity = {**dataclasses.asdict(config), "model": potential.info.sha256,
                "trained": [[n, list(w.shape)] for n, w in module.model.named_parameters() if w.requires_grad],
                "data": [fingerprint(part) for part in (training, validation, replay)], "replay": replay_fraction}
    keeper = Keeper(folder, module, validation, info, json.loads(json.dumps(identity)), progress)
    _fit(keeper, data, "gpu" if potential.device.type == "cuda" else "cpu", devices, nodes)
    if not keeper.best_round:
        report("warning: no validation was better than that of the start, whose weights the best model has; lower the "
               "learning rate, or train longer")
    return keeper.best_file


def _fit(keeper: Keeper, data: Dataset, accelerator: str, devices: int, nodes: int) -> None:
    """Do what is left of the run."""
    from lightning.pytorch.utilities import rank_zero_only

    from mlip.training.module import Batches

    done = keeper.resume()
    if not done or not keeper.finished(done):
        with _quiet(), _interruptible():
            _trainer(keeper, accelerator, devices, nodes).fit(
                keeper.module, Batches(data, keeper.module), weights_only=True,
                ckpt_path=keeper.state_file if done else None)
    if not getattr(rank_zero_only, "rank", 0):
        keeper.stamp()


def _check_processes(config: TrainingConfig, devices: int, nodes: int) -> None:
    """Check that there is something to run, and that a batch can be shared."""
    try:
        with _quiet():
            import lightning.pytorch  # noqa: F401
    except ImportError:
        raise MissingDependencyError.of("lightning", "train") from None
    for name, count in (("devices", devices), ("nodes", nodes)):
        if type(count) is not int or count < 1:
            raise OptionError(f"{name} must be a whole number from 1; {count!r} was given")
    if config.batch_size % (devices * nodes):
        raise OptionError(f"batch_size = {config.batch_size} cannot be shared evenly by {devices * nodes} processes, "
                          "each of which counts the same; take a multiple of their number")


def _trainer(keeper: Keeper, accelerator: str, devices: int, nodes: int) -> Trainer:
    """Return Lightning's trainer, of which we use the loop, the processes and the cut of the gradient."""
    from lightning.pytorch import Trainer

    module = keeper.module
    return Trainer(
        max_epochs=module.plan.rounds, accelerator=accelerator, devices=devices, num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto", logger=_logger(keeper.folder), callbacks=[keeper],
        default_root_dir=keeper.folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        gradient_clip_val=module.config.max_gradient or None, use_distributed_sampler=False)


def _check(potential: Potential, training: Sequence[Labelled], validation: Sequence[Labelled]) -> None:
    """Check what is trained on and validated with before the first step."""
    if not training or not validation:
        raise OptionError(f"{len(training)} structure(s) to train on and {len(validation)} to validate with: both need "
                          "at least one")
    check_structures(potential, training)
    check_structures(potential, validation)


def check_structures(potential: Potential, examples: Sequence[Labelled]) -> None:
    """Check that a potential takes structures, the first of them whole.

    Raises:
        StructureError, UnknownElementError, OptionError: it does not; names the structure.
    """
    for i, example in enumerate(examples):
        with naming(examples.origin(i) if isinstance(examples, FrameStore) else i):
            if i < CHECKED:
                potential.check_backend(example.structure, potential.graph([example.structure]))
            else:
                potential.check([example.structure])


def _logger(folder: Path) -> Any:
    """Return a logger for TensorBoard if that is installed, else False."""
    if find_spec("tensorboard") is None:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is everywhere: Lightning would exit, and leave the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of itself; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    before = [log.level for log in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", message=".*does not have many workers|Grad strides do not match bucket")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, before, strict=True):
                log.setLevel(level)
