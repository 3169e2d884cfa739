"""Compares an MMDiT whose keys and values go round the ranks of a launch with the same one on one process.

``ring_script.py FILE``, on three ranks: differences by mode, as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sequence_script import JOINT, differences, tokens

from mindone import runtime
from mindone.parallel.mesh import make_mesh
from mindone.parallel.ring import Ring
from opensora.models.mmdit import MMDiTConfig


def main(file):
    found = {}
    # Of 7 video tokens the first rank has three, the others two; of 2 text tokens the last has none.
    config, inputs = MMDiTConfig(**JOINT), tokens(MMDiTConfig(**JOINT), 2, (2, 7), np.random.default_rng(1))
    for graph in (False, True):
        runtime.setup("CPU", graph=graph, use_parallel=True)
        mesh = make_mesh(3)
        found["graph" if graph else "pynative"] = {
            name: float(value) for name, value in differences(config, inputs, Ring, mesh).items()
        }
    if mesh.is_main:
        Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
