"""Two workers on this machine, for `mlip screen INPUT... --model NAME --out FOLDER --parsl examples/parsl_local.py`.

pip install ".[parsl]"; activate the environment, so that Parsl finds its programs.
"""

from parsl import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[HighThroughputExecutor(
        label="workers",
        address="127.0.0.1",
        max_workers_per_node=2,  # processes, of one thread each
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, worker_init="export OMP_NUM_THREADS=1"),
    )],
    retries=2,  # of work whose worker was lost; its finished results are kept
)
