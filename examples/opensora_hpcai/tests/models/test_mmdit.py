"""The 2.0 denoiser against the numbers of the original, its sizes and its options."""

import numpy as np
import pytest
from mindspore import nn, ops

from opensora.models.mmdit import MMDiT, MMDiTConfig, time_features

INPUTS = ("img", "img_ids", "txt", "txt_ids", "timesteps", "y_vec", "cond", "guidance")


class _Loss(nn.Cell):
    """mean(out^2); further results: the output, the embeddings, the tables, and what the first blocks give."""

    def __init__(self, denoiser):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, img, img_ids, txt, txt_ids, timesteps, y_vec, cond, guidance):
        net = self.denoiser
        out = net(img, img_ids, txt, txt_ids, timesteps, y_vec, cond, guidance)
        embedded = (net.img_in(img), net.txt_in(txt), net.time_in(time_features(timesteps)), net.vector_in(y_vec))
        vec = net.condition(timesteps, y_vec, guidance)
        img, txt, rope = net.tokens(img, img_ids, txt, txt_ids, cond)
        img, txt = net.double_blocks[0](img, txt, vec, rope)
        first = (img, txt)
        for block in net.double_blocks[1:]:
            img, txt = block(img, txt, vec, rope)
        single = net.single_blocks[0](ops.concat((txt, img), 1), vec, rope)
        return ops.square(out).mean(), out, *embedded, *rope, *first, single


@pytest.mark.golden("v20_mmdit_")
def test_velocity_and_gradients_match_the_original(golden_case, mode):
    denoiser = golden_case.load_into(MMDiT(MMDiTConfig(**golden_case.args)))
    inputs = golden_case.input_tensors(INPUTS)
    results = golden_case.check_loss_and_gradients(denoiser, _Loss(denoiser), inputs)
    out, img_in, txt_in, time_in, vector_in, cos, sin, img, txt, single = results
    golden_case.check_intermediate("img_in", img_in)
    golden_case.check_intermediate("txt_in", txt_in)
    golden_case.check_intermediate("time_in", time_in)
    golden_case.check_intermediate("vector_in", vector_in)
    cos, sin = _per_sample(cos, img_in), _per_sample(sin, img_in)
    golden_case.check_intermediate("rope_cos", np.concatenate((cos, cos), -1))
    golden_case.check_intermediate("rope_sin", np.concatenate((sin, sin), -1))
    matrix = np.stack((np.stack((cos, -sin), -1), np.stack((sin, cos), -1)), -2)
    golden_case.check_intermediate("rope_matrix", matrix[:, None])
    golden_case.check_intermediate("double_block_0_img", img)
    golden_case.check_intermediate("double_block_0_txt", txt)
    golden_case.check_intermediate("single_block_0", single)
    golden_case.check_outputs("out", out)


def _per_sample(table, like):
    """The rotary table of every sample of ``like``: (N, d/2) or (B, N, d/2) → (B, N, d/2)."""
    table = table.asnumpy()
    return np.broadcast_to(table, (like.shape[0], *table.shape[-2:]))
