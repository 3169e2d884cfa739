"""The T5 encoder against the numbers of the original, and its config."""

import math

import pytest
from mindspore import nn, ops

from mindone import runtime
from mindone.models.t5 import T5Config, T5Encoder


class _Loss(nn.Cell):
    """mean(hidden^2) with the padding mask; further results: hidden states with and without it."""

    def __init__(self, encoder):
        super().__init__(auto_prefix=False)
        self.encoder = encoder

    def construct(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids, attention_mask)
        return ops.square(hidden).mean(), hidden, self.encoder(input_ids)


@pytest.mark.golden("t5_encoder")
def test_hidden_states_and_gradients_match_the_original(golden_case, mode):
    encoder = golden_case.load_into(T5Encoder(T5Config.from_dict(golden_case.args)))
    inputs = golden_case.input_tensors(["input_ids", "attention_mask"])
    hidden, unmasked = golden_case.check_loss_and_gradients(encoder, _Loss(encoder), inputs)
    golden_case.check_outputs("last_hidden_state", hidden)
    golden_case.check_outputs("last_hidden_state_no_mask", unmasked)


def test_the_published_xxl_encoder_has_its_published_size():
    with runtime.lazy_parameters():
        encoder = T5Encoder(T5Config())
    assert sum(math.prod(parameter.shape) for parameter in encoder.get_parameters()) == 4_762_310_656
