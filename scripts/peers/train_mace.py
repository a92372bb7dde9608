"""Runs mace_run_train as it is and prints what its steps took: one JSON object on the last line of stdout.

    python train_mace.py THREADS [arguments of mace_run_train]
"""

from __future__ import annotations

import os
import sys

THREADS = sys.argv.pop(1)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = THREADS

import json
import resource
import statistics
import time
import warnings

warnings.filterwarnings("ignore")

import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
import mace.cli.run_train
import mace.tools.train  # noqa: F401
import torch

torch.set_num_threads(int(THREADS))
train = sys.modules["mace.tools.train"]
steps: list[float] = []
take_step = train.take_step


def timed(*arguments, **keywords):
    start = time.perf_counter()
    result = take_step(*arguments, **keywords)
    steps.append(time.perf_counter() - start)
    return result


train.take_step = timed
mace.cli.run_train.main()
# The first steps compile and allocate.
later = steps[3:]
print(
    json.dumps(
        {
            "steps": len(later),
            "median": statistics.median(later),
            "fastest": min(later),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
