"""`[start.replay]`: data of the first training, mixed into the new ones so that a model does not forget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlip.checkpoints import Potential
from mlip.errors import DataError, OptionError
from mlip.graph import naming
from mlip.graph.labelled import Labelled
from mlip.io.dataset import iter_labelled, iter_structures
from mlip.training.files import FileOptions, isolated_atoms
from mlip.training.loop import check_structures
from mlip.training.metrics import in_batches
from mlip.training.offsets import ATOMS, check_level
from mlip.training.store import FrameStore
from mlip.training.tables import is_number

LABELS = ("model", "file")


@dataclass(frozen=True)
class ReplayConfig(FileOptions):
    """The table `[start.replay]`. Names and units of its labels, see `FileOptions`, need not be those of `[data]`.

    Attributes:
        files: structures of the first training, mixed into the new ones against forgetting.
        fraction: their share of each batch.
        labels: `"model"`: they are labelled by the model that training starts from, so that they always fit it; labels
            of the files are not looked at. `"file"`: by the files, which must be at the level of theory of that model.
    """

    table = "start.replay"
    lists = ("files",)

    files: tuple[str, ...]
    fraction: float = 0.25
    labels: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in LABELS:
            raise OptionError(f"{self.table}: labels must be one of {', '.join(LABELS)}; {self.labels!r} was given")
        if not is_number(self.fraction) or not 0 < self.fraction < 1:
            raise OptionError(f"{self.table}: fraction must lie between 0 and 1; {self.fraction!r} was given")


def load_replay(config: ReplayConfig, potential: Potential, folder: str | Path, base: str | Path = ".",
                forces: bool = True) -> FrameStore:
    """Read what is replayed into a `FrameStore` in `folder/replay`, or open it where files and potential are the same.

    Isolated atoms are left out, those of a periodic box by their config_type.

    Args:
        config: the files.
        potential: from `starting_potential`: gives the labels, or must fit those of the files.
        folder: of the run.
        base: folder that relative paths start from.
        forces: False reads energies alone.

    Raises:
        DataError: a file that is missing, unreadable or given twice, or lacks what is asked of it; no structures;
            labels of the files at another level of theory.
        UnknownElementError, StructureError: structures that the potential cannot take; names the first.
        OptionError: structures to leave out of none of the files.
    """
    by_model = config.labels == "model"

    def read(name: str, path: Path) -> Iterable[Labelled]:
        left_out = config.leave_out.get(name, ())
        if by_model:
            return relabel(potential, _taken(potential, iter_structures(path, config.keys, config.units, left_out)))
        return iter_labelled(path, config.keys, config.units, forces, left_out)

    labels = {"model": potential.info.sha256} if by_model else {"forces": forces}
    whole = config.stored(Path(folder) / "replay", Path(base), read, **labels)
    store = whole.subset(np.flatnonzero(~isolated_atoms(whole)))
    if not len(store):
        raise DataError(f"the file(s) to replay, {', '.join(config.files)}, hold isolated atoms and nothing to learn "
                        "from")
    if not by_model:
        check_structures(potential, store)
        check_level(potential, store, "Replayed data must be on the scale of the model that training starts from; let "
                    "the model label them, with labels = \"model\".")
    return store


def _taken(potential: Potential, named: Iterable[tuple[str, Labelled]]) -> Iterator[Labelled]:
    """Yield structures that the potential can take, and name the first other one."""
    for name, example in named:
        with naming(name):
            potential.check([example.structure])
        yield example


def relabel(potential: Potential, examples: Iterable[Labelled]) -> Iterator[Labelled]:
    """Yield structures with the energy, forces and, where there is a volume, stress that a potential gives them."""
    for batch in in_batches(examples, ATOMS):
        for example, p in zip(batch, potential.evaluate([e.structure for e in batch]), strict=True):
            yield dataclasses.replace(example, energy=p.energy, forces=p.forces, stress=p.stress)
