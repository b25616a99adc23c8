"""Commands that time parts of mlip, beside other packages where there are any: bench."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.cli.common import Commands

if TYPE_CHECKING:
    from mlip.bench.choices import Choice
    from mlip.bench.equiformer.choice import EquiformerChoice
    from mlip.bench.sides import Variant

FIELDS = {"mace": {"channels": "channels", "hidden_lmax": "hidden_lmax"},
          "equiformer_v3": {"channels": "channels", "hidden_lmax": "lmax", "mmax": "mmax", "layers": "layers"},
          "transip": {"model_size": "size"}}
"""The options that choose a model of each family, and the fields of its choice that they give."""
TIMED = {"mace": ("sizes", "radial", "tensor_product", "peer_python", "plot"),
         "equiformer_v3": ("structures", "as_published"),
         "transip": ("sizes", "peer_python", "plot")}
"""The further options of `bench model` that not every family has."""


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    bench = commands.add_parser("bench", help="time parts of mlip beside other packages")
    subjects = bench.add_subparsers(dest="subject", metavar="subject", required=True)
    lists = subjects.add_parser("neighbors", help="neighbour lists beside vesin, matscipy and ASE")
    lists.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000, 1_000_000])
    _add_threads(lists)
    lists.set_defaults(run=_neighbors)
    _add_model(subjects)
    _add_ops(subjects)
    _add_size(subjects)
    _add_profile(subjects)
    _add_skin(subjects)
    _add_tensor_products(subjects)
    _add_training(subjects)
    _add_learned_symmetry(subjects)
    _add_openmm(subjects)
    _add_md(subjects)
    _add_screen(subjects)
    for subject in subjects.choices.values():
        subject.add_argument("--json", type=Path, help="file for the numbers")


def _add_model(subjects: Commands) -> None:
    model = subjects.add_parser("model", help="energy and forces beside mace-torch, or the published EquiformerV3: "
                                "time, memory, picture")
    _add_choice(model)
    model.add_argument("--sizes", type=int, nargs="+", help="mace, transip: atoms of water (default: 24 to 12 288)")
    model.add_argument("--structures", nargs="+", help="equiformer_v3: water, isobutane, cu4, cu32, cu108, cu256, "
                       "cu1000 (default: isobutane cu32 cu108 cu1000)")
    model.add_argument("--as-published", action="store_true", default=None,
                       help="equiformer_v3: time the published algorithm beside ours")
    _add_threads(model)
    _add_peer(model)
    model.add_argument("--backend", nargs="+", default=["auto"], help="auto, compiled, reference (default: auto)")
    model.add_argument("--radial", nargs="+", help="mace: exact, tabulated (default: both)")
    model.add_argument("--tensor-product", nargs="+", help="mace: clebsch_gordan, gaunt, gaunt_grid, gaunt_full, "
                       "gaunt_antisymmetric (default: the first)")
    model.add_argument("--plot", type=Path, help="mace, transip: file for a picture, PNG")
    model.set_defaults(run=_model)


def _add_ops(subjects: Commands) -> None:
    ops = subjects.add_parser("ops", help="single operations and a step of training beside mace-torch and e3nn")
    _add_choice(ops)
    _add_atoms(ops)
    _add_threads(ops)
    _add_peer(ops)
    ops.set_defaults(run=_ops)


def _add_size(subjects: Commands) -> None:
    size = subjects.add_parser("size", help="time per atom, and the largest box that fits the memory")
    _add_choice(size)
    size.add_argument("--sizes", type=int, nargs="+", help="atoms (default: 192 to 49 152)")
    size.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    size.add_argument("--memory", type=float, default=24.0, help="GB of the process (default: %(default)s)")
    _add_way(size)
    size.set_defaults(run=_size)


def _add_profile(subjects: Commands) -> None:
    profile = subjects.add_parser("profile", help="the share of each operation in energy and forces")
    _add_box(profile)
    profile.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    _add_way(profile)
    profile.set_defaults(run=_profile)


def _add_skin(subjects: Commands) -> None:
    skin = subjects.add_parser("skin", help="the share of the neighbour list in dynamics")
    _add_box(skin)
    skin.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    skin.add_argument("--skin", type=float, default=1.0, help="A (default: %(default)s)")
    _add_threads(skin)
    _add_way(skin)
    skin.set_defaults(run=_skin)


def _add_tensor_products(subjects: Commands) -> None:
    products = subjects.add_parser("tensor-products", help="products of degrees beside e3nn and plain torch: time, "
                                   "expressivity, picture")
    products.add_argument("--lmax", type=int, default=8, help="largest degree L (default: %(default)s)")
    products.add_argument("--batch", type=int, default=1000, help="pairs of signals (default: %(default)s)")
    products.add_argument("--channels", type=int, default=64, help="of each signal (default: %(default)s)")
    _add_threads(products)
    products.add_argument("--settings", nargs="+", metavar="SETTING",
                          help="SISO, SIMO, MIMO, 'MIMO truncated' (default: all)")
    products.add_argument("--implementations", nargs="+", metavar="NAME", help="such as mlip, e3nn, 'torch grid' "
                          "(default: all; a wrong name lists them)")
    products.add_argument("--rounds", type=int, default=10, help="turns of each (default: %(default)s)")
    products.add_argument("--limit", type=float, default=20.0,
                          help="s; what takes longer for one run is left out (default: %(default)s)")
    products.add_argument("--csv", type=Path, help="file for the numbers, CSV")
    products.add_argument("--plot", type=Path, help="file for a picture, PNG")
    products.set_defaults(run=_tensor_products)


def _add_training(subjects: Commands) -> None:
    training = subjects.add_parser("training", help="training of MACE beside mace-torch: structures per second, memory")
    training.add_argument("--data", type=Path, help="structures with energies and forces (extended XYZ; default: "
                          "distorted acetylacetone)")
    training.add_argument("--structures", type=int, default=320,
                          help="how many to take, from the first (default: %(default)s)")
    training.add_argument("--channels", type=int, default=128, help="of each degree (default: %(default)s)")
    training.add_argument("--hidden-lmax", type=int, default=1, help="largest degree of features (default: 1)")
    training.add_argument("--batch-sizes", type=int, nargs="+", default=[5, 16], help="default: 5 16")
    _add_threads(training)
    training.add_argument("--steps", type=int, default=10, help="in a block (default: %(default)s)")
    _add_peer(training, rounds=5)
    training.add_argument("--backend", nargs="+", default=["auto"], help="auto, compiled, reference (default: auto)")
    training.add_argument("--tensor-product", nargs="+", default=["clebsch_gordan"],
                          help="as of `bench model` (default: the exact one)")
    training.set_defaults(run=_training)


def _add_learned_symmetry(subjects: Commands) -> None:
    learned = subjects.add_parser(
        "learned-symmetry", help="errors and symmetry of TransIP with and without the losses that teach it rotations",
        description="Trains a model for each seed and weight; the same command again resumes what was interrupted.")
    learned.add_argument("data", type=Path, nargs="+", help="structures with energies and forces (extended XYZ)")
    learned.add_argument("--test", type=Path, nargs="+", required=True, help="structures to measure errors on")
    learned.add_argument("--output", "-o", type=Path, required=True, help="folder of the runs")
    learned.add_argument("--isolated", type=Path, help="file with the isolated atoms "
                         "(default: those among the data, else fitted energies)")
    learned.add_argument("--model-size", default="XS", help="XS, S, M or L (default: %(default)s)")
    learned.add_argument("--cutoff", type=float, default=5.0, help="A (default: %(default)s)")
    learned.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    learned.add_argument("--weights", type=float, nargs=2, action="append", metavar=("LATENT", "TORQUE"),
                         help="weights to compare with 0 0; may be given again (default: 100 0 and 0 10)")
    learned.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    learned.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    learned.add_argument("--learning-rate", type=float, default=0.003, help="default: %(default)s")
    learned.set_defaults(run=_learned_symmetry)


def _add_openmm(subjects: Commands) -> None:
    engine = subjects.add_parser("openmm", help="what a step of OpenMM costs beside the model in it: time, memory, "
                                 "size of the System")
    engine.add_argument("--sizes", type=int, nargs="+", default=[1000], help="atoms (default: 1000)")
    engine.add_argument("--steps", type=int, default=1000, help="that are timed (default: %(default)s)")
    engine.add_argument("--memory-steps", type=int, default=10_000,
                        help="over which the memory is watched (default: %(default)s)")
    engine.set_defaults(run=_openmm)


def _add_md(subjects: Commands) -> None:
    md = subjects.add_parser("md", help="ns/day in OpenMM beside openmm-ml with mace-torch: a molecule, and water")
    md.add_argument("--structure", type=Path, help="file of the molecule, its last structure (default: acetylacetone)")
    md.add_argument("--model", "-m", default="mace-acac", help="a MACE that was trained for it (default: %(default)s)")
    md.add_argument("--channels", type=int, default=128, help="of the model of water (default: %(default)s)")
    md.add_argument("--hidden-lmax", type=int, default=1, help="its largest degree of features (default: %(default)s)")
    _add_atoms(md)
    _add_threads(md)
    md.add_argument("--steps", type=int, default=20, help="of a run of the molecule, ten times those of water "
                    "(default: %(default)s)")
    _add_peer(md, rounds=5)
    md.add_argument("--radial", nargs="+", default=["exact", "tabulated"], help="default: exact tabulated")
    md.set_defaults(run=_md)


def _add_screen(subjects: Commands) -> None:
    many = subjects.add_parser("screen", help="relaxations an hour beside a plain loop of ASE; memory beside its "
                               "forecast")
    many.add_argument("--model", "-m", default="gaunt-mace-elements", help="name or path of a model of crystals "
                      "(default: %(default)s)")
    many.add_argument("--structures", type=int, default=200, help="small crystals to relax (default: %(default)s)")
    many.add_argument("--fmax", type=float, default=0.01, help="eV/A, of these (default: %(default)s)")
    many.add_argument("--mixed", type=int, default=1000, help="crystals of 2 to 200 atoms for the memory (default: "
                      "%(default)s)")
    many.add_argument("--memory", type=float, default=4.0, help="GB these may take (default: %(default)s)")
    many.set_defaults(run=_screen)


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("--family", choices=tuple(FIELDS), default="mace", help="default: %(default)s")
    command.add_argument("--channels", type=int, help="mace, equiformer_v3: of each degree (default: 128)")
    command.add_argument("--hidden-lmax", type=int, help="largest degree of features (default: 1; equiformer_v3: 4)")
    command.add_argument("--mmax", type=int, help="equiformer_v3: largest order in the frames of edges (default: 2)")
    command.add_argument("--layers", type=int, help="equiformer_v3: blocks (default: 7)")
    command.add_argument("--model-size", help="transip: XS, S, M or L (default: S)")


def _add_box(command: argparse.ArgumentParser) -> None:
    """Add the model, a random or a named one, and the size of its box of water."""
    _add_choice(command)
    command.add_argument("--model", "-m", help="name or path of a model that knows H and O, instead of a random one")
    _add_atoms(command)


def _add_atoms(command: argparse.ArgumentParser) -> None:
    command.add_argument("--size", type=int, default=192, help="atoms (default: %(default)s)")


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")


def _add_peer(command: argparse.ArgumentParser, rounds: int = 20) -> None:
    command.add_argument("--rounds", type=int, default=rounds, help="turns of each side (default: %(default)s)")
    command.add_argument("--peer-python", help="Python of an environment with mace-torch "
                         "(default: the environment variable MLIP_PEER_MACE_PYTHON)")


def _add_way(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", default="auto", help="auto, compiled or reference (default: %(default)s)")
    command.add_argument("--radial", default="exact", help="exact or tabulated (default: %(default)s)")


def _choice(options: argparse.Namespace) -> Choice:
    from mlip.bench.choices import LoadedChoice, MACEChoice, TransIPChoice
    from mlip.bench.equiformer.choice import EquiformerChoice

    file, family = getattr(options, "model", None), options.family
    if file is not None:
        _refuse(options, {**FIELDS, file: ()}, file)
        return LoadedChoice(file)
    _refuse(options, FIELDS, family)
    found = {field: getattr(options, name) for name, field in FIELDS[family].items()}
    kinds: dict[str, Callable[..., Choice]] = {"mace": MACEChoice, "equiformer_v3": EquiformerChoice,
                                               "transip": TransIPChoice}
    return kinds[family](**{field: value for field, value in found.items() if value is not None})


def _refuse(options: argparse.Namespace, allowed: Mapping[str, Iterable[str]], model: str) -> None:
    """Raise `OptionError` where an option was given that others have, but this family or model does not."""
    from mlip.errors import OptionError

    others = dict.fromkeys(name for names in allowed.values() for name in names if name not in allowed[model])
    given = [f"--{name.replace('_', '-')}" for name in others if getattr(options, name, None) is not None]
    if given:
        raise OptionError(f"{', '.join(given)}: there is no such option for {model}")


def _way(options: argparse.Namespace) -> Variant:
    from mlip.bench.sides import Variant

    return Variant(options.backend, options.radial)


def _report(options: argparse.Namespace, found: Callable[[], Sequence[dict[str, Any]]],
            table: Callable[[Sequence[dict[str, Any]]], str]) -> Sequence[dict[str, Any]]:
    """Make the rows, once it is known that they can be written, and print and write them."""
    from mlip.bench.rows import save
    from mlip.io.files import check_target

    if options.json is not None:
        check_target(options.json, (".json",))
    rows = found()
    print(table(rows))
    if options.json is not None:
        save(rows, options.json)
    return rows


def _neighbors(options: argparse.Namespace) -> None:
    from mlip.bench.neighbors import bench_neighbors, table

    _report(options, lambda: bench_neighbors(sizes=tuple(options.sizes), threads=tuple(options.threads)), table)


def _model(options: argparse.Namespace) -> None:
    from mlip.bench.equiformer.choice import EquiformerChoice

    _refuse(options, TIMED, options.family)
    choice = _choice(options)
    if isinstance(choice, EquiformerChoice):
        _model_published(options, choice)
    else:
        _model_water(options, choice)


def _model_water(options: argparse.Namespace, choice: Choice) -> None:
    from mlip.bench.choices import EXACT
    from mlip.bench.model import SIZES, bench_model, table
    from mlip.bench.plot import plot
    from mlip.io.files import check_target

    if options.plot is not None:
        check_target(options.plot, (".png",))
    rows = _report(options, lambda: bench_model(
        choice, options.sizes or SIZES, options.threads, rounds=options.rounds, backends=options.backend,
        radials=options.radial, products=options.tensor_product or (EXACT,), peer=options.peer_python), table)
    if options.plot is not None and rows:
        plot(rows, options.plot)


def _model_published(options: argparse.Namespace, choice: EquiformerChoice) -> None:
    from mlip.bench.equiformer.study import DEFAULT, bench_equiformer
    from mlip.bench.equiformer.table import table

    _report(options, lambda: bench_equiformer(
        choice, options.structures or DEFAULT, options.threads, rounds=options.rounds, backends=options.backend,
        published=bool(options.as_published)), table)


def _ops(options: argparse.Namespace) -> None:
    from mlip.bench.ops import bench_ops, table

    _report(options, lambda: bench_ops(_choice(options), options.size, options.threads, rounds=options.rounds,
                                       peer=options.peer_python), table)


def _size(options: argparse.Namespace) -> None:
    from mlip.bench.size import SIZES, bench_size, table

    _report(options, lambda: bench_size(_choice(options), options.sizes or SIZES, threads=options.threads,
                                        memory=options.memory, way=_way(options)), table)


def _profile(options: argparse.Namespace) -> None:
    from mlip.bench.profile import bench_profile, profile_table

    _report(options, lambda: [bench_profile(_choice(options), options.size, threads=options.threads,
                                            way=_way(options))], lambda rows: profile_table(rows[0]))


def _skin(options: argparse.Namespace) -> None:
    from mlip.bench.profile import bench_skin, skin_table

    _report(options, lambda: bench_skin(_choice(options), options.size, steps=options.steps, skin=options.skin,
                                        threads=options.threads, way=_way(options)), skin_table)


def _tensor_products(options: argparse.Namespace) -> None:
    from mlip.bench.tensor_products.cases import SETTINGS
    from mlip.bench.tensor_products.implementations import IMPLEMENTATIONS
    from mlip.bench.tensor_products.plot import plot
    from mlip.bench.tensor_products.study import bench_tensor_products, save_csv
    from mlip.bench.tensor_products.table import table
    from mlip.io.files import check_target

    for target, ending in ((options.csv, ".csv"), (options.plot, ".png")):
        if target is not None:
            check_target(target, (ending,))
    rows = _report(options, lambda: bench_tensor_products(
        options.lmax, options.threads, batch=options.batch, channels=options.channels,
        settings=options.settings or SETTINGS, implementations=options.implementations or tuple(IMPLEMENTATIONS),
        rounds=options.rounds, limit=options.limit), table)
    if options.csv is not None:
        save_csv(rows, options.csv)
    if options.plot is not None:
        plot(rows, options.plot)


def _training(options: argparse.Namespace) -> None:
    from mlip.bench.choices import MACEChoice
    from mlip.bench.training import acetylacetones, bench_training, table
    from mlip.io.dataset import read_labelled
    from mlip.training import separate_isolated

    examples = (acetylacetones(options.structures) if options.data is None
                else separate_isolated(read_labelled(options.data))[1][: options.structures])
    _report(options, lambda: bench_training(
        examples, MACEChoice(options.channels, options.hidden_lmax), options.batch_sizes, options.threads,
        steps=options.steps, rounds=options.rounds, backends=options.backend, products=options.tensor_product,
        peer=options.peer_python), table)


def _learned_symmetry(options: argparse.Namespace) -> None:
    from mlip.bench.learned_symmetry import ARMS, PLAIN, bench_learned_symmetry, table
    from mlip.cli.common import show_progress
    from mlip.io.dataset import isolated_energies, read_labelled
    from mlip.training import TrainingConfig, separate_isolated

    found, training = separate_isolated([e for path in options.data for e in read_labelled(path)])
    _, test = separate_isolated([e for path in options.test for e in read_labelled(path)])
    config = TrainingConfig(epochs=options.epochs, batch_size=options.batch_size, patience=options.epochs,
                            learning_rate=options.learning_rate, optimizer="adamw")  # of the numbers in the README
    isolated = (found or None) if options.isolated is None else isolated_energies(options.isolated)
    weights = [PLAIN, *((latent, torque) for latent, torque in options.weights)] if options.weights else ARMS
    _report(options, lambda: bench_learned_symmetry(
        training, test, options.output, seeds=options.seeds, weights=weights, config=config,
        isolated=isolated, progress=show_progress(), size=options.model_size, cutoff=options.cutoff), table)


def _openmm(options: argparse.Namespace) -> None:
    from mlip.bench.overhead import bench_openmm, table

    _report(options, lambda: bench_openmm(options.sizes, steps=options.steps, memory_steps=options.memory_steps),
            table)


def _md(options: argparse.Namespace) -> None:
    from mlip.bench.choices import MACEChoice
    from mlip.bench.openmm_peers import bench_md, table
    from mlip.io.ase import structure_of
    from mlip.io.files import read_structures

    molecule = None if options.structure is None else structure_of(read_structures(options.structure)[-1])
    _report(options, lambda: bench_md(
        molecule, options.model, water=options.size, choice=MACEChoice(options.channels, options.hidden_lmax),
        threads=options.threads, steps=options.steps, rounds=options.rounds, radials=options.radial,
        peer=options.peer_python), table)


def _screen(options: argparse.Namespace) -> None:
    from mlip.bench.screen import bench_screen, table

    _report(options, lambda: bench_screen(options.model, structures=options.structures, fmax=options.fmax,
                                          mixed=options.mixed, memory=options.memory), table)
