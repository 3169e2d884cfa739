"""Where the denoisers call the strategy of sequence parallelism."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone.parallel.sequence import NoParallel
from mindone.testing import golden
from opensora.models.stdit import STDiTConfig
from opensora.models.stdit2 import STDiT2Config
from opensora.models.stdit3 import STDiT3Config
from opensora.networks import denoiser_class

SMALL = {"hidden_size": 24, "depth": 2, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}
SPATIAL = ["frames space", "before_attention space", "after_attention space"]
TEMPORAL = ["frames time", "before_attention time", "after_attention time"]
BLOCK = [*SPATIAL, "to_temporal", *TEMPORAL, "to_spatial"]
# The first block of STDiT also asks for the positions of its frames.
FIRST = [*SPATIAL, "to_temporal", "frames time", *TEMPORAL, "to_spatial"]
CONDITIONS = {STDiTConfig: 0, STDiT2Config: 5, STDiT3Config: 3}


class Recorder(NoParallel):
    """Writes down what it is asked, with the axis."""

    def __init__(self):
        super().__init__()
        self.calls = []


def _recorded(name):
    def call(self, x, *about):
        axis = [each for each in about if isinstance(each, str)]
        assert all(each == (2, 4) for each in about if isinstance(each, tuple))
        self.calls.append(" ".join((name, *axis)))
        return x

    return call


for _name in ("split", "gather", "frames", "before_attention", "after_attention", "to_temporal", "to_spatial"):
    setattr(Recorder, _name, _recorded(_name))


@pytest.mark.parametrize(
    ("config", "blocks"),
    [(STDiTConfig(**SMALL), FIRST + BLOCK), (STDiT2Config(**SMALL), 2 * BLOCK), (STDiT3Config(**SMALL), 2 * BLOCK)],
    ids=lambda value: type(value).__name__,
)
def test_tokens_are_handed_to_the_strategy_around_blocks_and_attentions(config, blocks):
    golden.use_mode("pynative")
    recorder = Recorder()
    rng = np.random.default_rng(0)
    x, y = (Tensor(rng.standard_normal(shape), ms.float32) for shape in ((1, 4, 2, 4, 4), (1, 1, 4, 8)))
    count = CONDITIONS[type(config)]
    conditions = [None] * bool(count) + [Tensor([32.0], ms.float32)] * count
    denoiser_class(config)(config, recorder)(x, Tensor([5.0], ms.float32), y, None, *conditions)
    assert recorder.calls == ["split", *blocks, "gather"]
