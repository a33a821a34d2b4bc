"""How PyTorch's threads wait: imported before PyTorch is, as its OpenMP library reads this when it is loaded.

OpenMP's threads wait for their next loop by spinning, for some milliseconds, on cores that our kernels need meanwhile: a
step of ResNet-18 took 820 to 860 ms, and 670 to 740 ms where they sleep (Zen 3, batch 16, 2 threads). In a process that
has imported PyTorch before this package, set `OMP_WAIT_POLICY=passive` in its environment.
"""

from __future__ import annotations

import os
import sys

__all__ = ["SPINS"]

if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
#: Whether PyTorch's threads spin, as far as can be known.
SPINS = os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive" and os.environ.get("GOMP_SPINCOUNT") != "0"
