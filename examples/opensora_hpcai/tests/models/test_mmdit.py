"""The 2.0 denoiser against the numbers of the original, its sizes and its options."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.parallel.sequence import NoParallel
from mindone.testing.golden import loss_and_gradients
from opensora.models.mmdit import MMDIT_PRESETS, MMDiT, MMDiTConfig, time_features

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
        size = (1, txt.shape[1], img.shape[1])
        img, txt = net.double_blocks[0](img, txt, vec, rope, size)
        first = (img, txt)
        for block in net.double_blocks[1:]:
            img, txt = block(img, txt, vec, rope, size)
        single = net.single_blocks[0](ops.concat((txt, img), 1), vec, rope, size)
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


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("MMDiT-11B", 11_891_390_528), ("MMDiT-11B-DCAE", 11_891_971_200), ("Flux.1-dev", 11_901_408_320)],
)
def test_published_models_have_their_published_sizes(preset, parameters):
    with runtime.lazy_parameters():
        denoiser = MMDiT(MMDIT_PRESETS[preset])
    assert sum(math.prod(parameter.shape) for parameter in denoiser.get_parameters()) == parameters


TINY = {
    "in_channels": 5,
    "vec_in_dim": 3,
    "context_in_dim": 6,
    "hidden_size": 20,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": (2, 4, 4),
    "patch_size": 1,
}


def _tiny(parallel=None, **options):
    denoiser, rng = MMDiT(MMDiTConfig(**{**TINY, **options}), parallel), np.random.default_rng(0)
    for parameter in denoiser.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(0.3, 0.2, parameter.shape).astype(np.float32)))
    return denoiser


def _tiny_inputs(batch=2, tokens=7, words=3, same_ids=False):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 9, (1 if same_ids else batch, tokens, 3))
    arrays = (
        rng.normal(size=(batch, tokens, 5)),
        ids,
        rng.normal(size=(batch, words, 6)),
        np.zeros((ids.shape[0], words, 3)),
        rng.random(batch),
        rng.normal(size=(batch, 3)),
        rng.normal(size=(batch, tokens, 6)),
    )
    return [ms.Tensor(array.astype(np.float32)) for array in arrays]


@pytest.mark.parametrize("half", [True, False])
def test_every_sample_may_have_its_own_positions(half):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    denoiser = _tiny(use_liger_rope=half)
    inputs = _tiny_inputs()
    together = denoiser(*inputs).asnumpy()
    for row in range(2):
        alone = denoiser(*(value[row : row + 1] for value in inputs)).asnumpy()
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5 * np.abs(together).max())


class _Backwards(NoParallel):
    """Holds the tokens of text and of video in reverse order everywhere but inside the attention."""

    def split(self, x):
        return ops.flip(x, (2,))

    def gather(self, x, size):
        parts = ops.split(x, size[1:], 2)
        return ops.concat([ops.flip(part, (2,)) for part in parts], 2)

    def before_attention(self, parts, axis, size):
        return tuple([self.gather(part, size) for part in parts])

    def after_attention(self, x, axis, size, heads):
        return self.gather(x, size)


@pytest.mark.parametrize("fused", [True, False])
def test_a_strategy_may_hold_tokens_in_another_order(fused):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    expected = _tiny(fused_qkv=fused)(*_tiny_inputs()).asnumpy()
    found = _tiny(_Backwards(), fused_qkv=fused)(*_tiny_inputs()).asnumpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_recomputed_blocks_give_the_same_gradients():
    runtime.setup("CPU", graph=True)
    inputs, found = _tiny_inputs(batch=1, same_ids=True), []
    for recompute in (False, True):
        denoiser = _tiny(depth=1, depth_single_blocks=1)
        denoiser.recompute_blocks(recompute)
        parameters = list(denoiser.trainable_params())
        _, gradients, _ = loss_and_gradients(_Square(denoiser), parameters, inputs)
        found.append([gradient.asnumpy() for gradient in gradients])
    for plain, recomputed in zip(*found):
        np.testing.assert_allclose(plain, recomputed, atol=1e-5 * np.abs(plain).max())


class _Square(nn.Cell):
    def __init__(self, denoiser):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, *inputs):
        out = self.denoiser(*inputs)
        return ops.square(out).mean(), out


def test_which_blocks_are_recomputed():
    def marked(count):
        denoiser = MMDiT(MMDiTConfig(**TINY), recompute=count)
        blocks = (denoiser.double_blocks, denoiser.single_blocks)
        return [[block._has_config_recompute for block in kind] for kind in blocks]

    assert marked(False) == [[False, False], [False, False]]
    assert marked(True) == [[True, True], [True, True]]
    assert marked(1) == [[True, False], [True, False]]
    assert marked((2, 0)) == [[True, True], [False, False]]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="num_heads=3"):
        MMDiTConfig(**{**TINY, "num_heads": 3})
    with pytest.raises(UserError, match="sum 10"):
        MMDiTConfig(**{**TINY, "axes_dim": (2, 2, 4)})
    with pytest.raises(ValueError, match="cond"):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        _tiny()(*_tiny_inputs()[:-1])
