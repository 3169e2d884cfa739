"""A training in slices on two ranks that saves after each update, goes on where it was, and may stand still.

``killed_script.py FOLDER [slices|index]``: in its second save the last rank stops half-way in a file of its slices, or
the first one between the files of all ranks and the manifest; the number of that process is in ``FOLDER/standing``.
"""

import os
import sys
import time
from pathlib import Path

from zero_script import UPDATES, build, checkpoints, train

from mindone import runtime
from mindone.checkpoint import slices
from mindone.checkpoint.run import RunCheckpoints
from mindone.parallel.mesh import make_mesh
from mindone.train import checkpoints as saving
from mindone.train.checkpoints import TrainState

GROUP = "optimizer"


def stand(folder):
    """Says so, and waits to be killed."""
    (folder / "standing.new").write_text(str(os.getpid()))
    os.rename(folder / "standing.new", folder / "standing")
    time.sleep(600)


def stand_in_slices(folder):
    save = slices.save_safetensors

    def half(path, *content):
        if path.parent.name != GROUP:
            save(path, *content)
            return
        path.write_bytes(b"half of a file")
        stand(folder)

    slices.save_safetensors = half


def stand_before_manifest(folder):
    index = saving.index_slices

    def waiting(path):
        if path.name == GROUP:
            stand(folder)
        index(path)

    saving.index_slices = waiting


def main():
    folder, where = Path(sys.argv[1]), sys.argv[2:]
    runtime.setup("CPU", use_parallel=True)
    mesh = make_mesh()
    network, step = build(mesh, 3, 1)
    saver, found = checkpoints(folder, network, step, mesh), RunCheckpoints(folder / "ckpt").latest()
    done = saver.restore(found).step if found else 0
    for update in range(done, UPDATES):
        train(step, mesh, 1, [update])
        if update == 1 and where == ["slices"] and mesh.rank == 1:
            stand_in_slices(folder)
        if update == 1 and where == ["index"] and mesh.is_main:
            stand_before_manifest(folder)
        saver.save(TrainState(step=update + 1))
    if mesh.is_main:
        print(f"went on from update {done}", flush=True)
    saver.export()


if __name__ == "__main__":
    main()
