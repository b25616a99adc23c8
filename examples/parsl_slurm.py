"""Up to ten nodes of a Slurm cluster, a process for each of their four GPUs.

    mlip screen INPUT... --model NAME --device cuda --out FOLDER --parsl examples/parsl_slurm.py

Start it on a login node, in a terminal that lasts (tmux), with the environment activated. FOLDER and the file of the
model must be on a disk that all nodes see. Jobs that end at their time limit are replaced, and work goes on where they
stopped.
"""

from parsl import Config
from parsl.addresses import address_by_hostname
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

config = Config(
    executors=[HighThroughputExecutor(
        label="gpus",
        address=address_by_hostname(),  # of this node, as the others see it
        available_accelerators=4,  # each process sees one; on nodes without GPUs say max_workers_per_node=<cores>
        max_workers_per_node=4,
        provider=SlurmProvider(
            partition="gpu",  # yours
            account=None,  # yours
            scheduler_options="#SBATCH --gpus-per-node=4",
            worker_init="source $HOME/venv/bin/activate; export OMP_NUM_THREADS=1",  # your environment
            nodes_per_block=1,
            exclusive=True,
            init_blocks=1,
            min_blocks=0,  # jobs end when there is nothing left to do
            max_blocks=10,
            walltime="04:00:00",
            launcher=SrunLauncher(),
        ),
    )],
    retries=5,  # a job that ends loses the work of four processes; their finished results are kept
)
