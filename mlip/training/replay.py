"""Data of the first training, mixed into the new ones so that a model does not forget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.errors import DataError, OptionError
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.training.metrics import in_batches
from mlip.training.offsets import ATOMS, check_level
from mlip.training.preflight import MAX_FORCE
from mlip.training.start import StartConfig


def replay_examples(config: StartConfig, potential: Potential, frames: Sequence[Labelled]) -> Sequence[Labelled]:
    """Return what is replayed, with labels that fit the potential which training starts from.

    Args:
        config: options.
        potential: from `starting_potential`.
        frames: of the files of `config.replay`.

    Raises:
        DataError: no frames; labels of the files at another level of theory; forces that no calculation gives.
        UnknownElementError: elements that the potential does not know.
    """
    if not frames:
        raise DataError(f"the replay file(s) {', '.join(config.replay)} hold no structures")
    if config.replay_labels == "model":
        frames = list(relabel(potential, (frame.structure for frame in frames)))
    else:
        check_level(potential, frames, "Replayed data must be on the scale of the model that training starts from; let "
                    "the model label them, with replay_labels = \"model\".")
    for i, frame in enumerate(frames):
        if frame.forces is not None and np.abs(frame.forces).max(initial=0.0) > MAX_FORCE:
            raise DataError(f"structure {i} of the replay file(s) {', '.join(config.replay)} has forces of "
                            f"{np.abs(frame.forces).max():.0f} eV/A; beyond {MAX_FORCE:.0f} eV/A something is wrong. "
                            "Are its positions in another unit? length_unit and energy_unit hold for these files, too")
    return frames


def relabel(potential: Potential, structures: Iterable[Structure]) -> Iterator[Labelled]:
    """Yield structures with the energy, forces and, where there is a volume, stress that a potential gives them."""
    for batch in in_batches(structures, ATOMS):
        for structure, p in zip(batch, potential.evaluate(batch), strict=True):
            yield Labelled(structure, p.energy, p.forces, p.stress, "replay")


def replay_batches(new: int, replay: int, size: int, fraction: float,
                   generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the batches of an epoch: each new structure once, and in each batch a share of replayed ones.

    Replayed structures are drawn anew in each epoch, none a second time before all were there.

    Args:
        new: number of new structures.
        replay: number of structures to replay, at least one.
        size: of a batch, at least 2: one or more of each kind.
        fraction: share of the replayed in a batch.
        generator: draws the order.

    Yields:
        Indices, [size] or fewer: below `new` new structures, from `new` on replayed ones.

    Raises:
        OptionError: batches of one structure.
    """
    if size < 2:
        raise OptionError(f"a batch of {size} has no room for new and replayed structures; use batch_size = 2 or more")
    old = min(max(round(fraction * size), 1), size - 1)
    fresh = size - old
    order, steps = generator.permutation(new), -(-new // fresh)
    rounds = -(-steps * old // replay)
    drawn = new + np.concatenate([generator.permutation(replay) for _ in range(rounds)])
    for i in range(steps):
        yield np.concatenate([order[i * fresh : (i + 1) * fresh], drawn[i * old : (i + 1) * old]])
