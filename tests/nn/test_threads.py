"""Kernels take the threads that torch has, and leave torch as many."""

import os
import subprocess
import sys

PROGRAM = """
import torch
from bedplate.nn.linear import Linear
before = torch.get_num_threads()
with torch.inference_mode():
    Linear(32, 32)(torch.randn(1, 32))
assert torch.get_num_threads() == before == 1, (before, torch.get_num_threads())
"""


def test_the_first_kernel_does_not_change_the_number_of_threads() -> None:
    """Sums over several threads differ from those of one in their last bits, so that training before it would too."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
