"""What only a GPU can show: the published widths in the dtype they ship with, memory against the plan, time of a step.

    python -m tests.gpu                       every part, each in a process of its own, one JSON file each in gpu-results/
    python -m tests.gpu qwen2_vl_2b           one part
    python -m tests.gpu --device cpu --small  the same code on models a few numbers wide

It starts from a checkout: Hydra and OmegaConf, where they are not installed, come from the wheels in `cache/wheels` (`make gpu-wheels`).
"""

import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
if TESTS not in sys.path:  # `checkpoints` lies there
    sys.path.append(TESTS)
