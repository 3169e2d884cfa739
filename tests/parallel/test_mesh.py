"""Who works with whom."""

import subprocess
import sys

import pytest

from mindone.errors import UserError
from mindone.parallel.mesh import Mesh


def test_neighbours_share_samples_and_rows_have_different_ones():
    meshes = [Mesh(rank, 6, sequence=2) for rank in range(6)]
    assert [mesh.data_index for mesh in meshes] == [0, 0, 1, 1, 2, 2]
    assert [mesh.sequence_index for mesh in meshes] == [0, 1, 0, 1, 0, 1]
    assert meshes[3].data == 3
    assert list(meshes[3].sequence_ranks) == [2, 3]
    assert list(meshes[3].data_ranks) == [1, 3, 5]
    assert [mesh.is_main for mesh in meshes] == [True] + [False] * 5


def test_one_rank_is_a_mesh_of_its_own():
    mesh = Mesh()
    assert (mesh.data, mesh.data_index, mesh.is_main, list(mesh.sequence_ranks)) == (1, 0, True, [0])


def test_ranks_that_do_not_make_whole_rows_are_refused():
    with pytest.raises(UserError, match="6 ranks cannot be shared out in groups of 4"):
        Mesh(0, 6, sequence=4)


def test_a_mesh_does_not_need_mindspore():
    code = "import sys, mindone.parallel.mesh; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
