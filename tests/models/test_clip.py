"""CLIP's text transformer against the numbers of the original, and its rules."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder, CLIPTextProjection


class _Loss(nn.Cell):
    """mean(pooled^2) + mean(hidden^2) without a mask; further results: both without and with it, first layers."""

    def __init__(self, encoder):
        super().__init__(auto_prefix=False)
        self.encoder = encoder

    def construct(self, input_ids, attention_mask):
        hidden, pooled = self.encoder(input_ids)
        loss = ops.square(pooled).mean() + ops.square(hidden).mean()
        embeddings = self.encoder.text_model.embeddings(input_ids)
        length = input_ids.shape[1]
        causal = ms.Tensor(np.tril(np.ones((1, 1, length, length), np.bool_)))
        layer = self.encoder.text_model.encoder.layers[0](embeddings, causal)
        return loss, hidden, pooled, *self.encoder(input_ids, attention_mask), embeddings, layer


class _ProjectedLoss(_Loss):
    def construct(self, input_ids, attention_mask):
        hidden, pooled = self.encoder(input_ids)
        loss = ops.square(pooled).mean() + ops.square(hidden).mean()
        return loss, hidden, pooled, self.encoder(input_ids, attention_mask)[1]


@pytest.mark.golden("clip_text_projection")
def test_projected_vectors_and_gradients_match_the_original(golden_case, mode):
    args = dict(golden_case.args)
    encoder = CLIPTextProjection(CLIPTextConfig.from_dict(args), args["projection_dim"])
    golden_case.load_into(encoder)
    inputs = golden_case.input_tensors(["input_ids", "attention_mask"])
    hidden, pooled, masked = golden_case.check_loss_and_gradients(encoder, _ProjectedLoss(encoder), inputs)
    golden_case.check_outputs("last_hidden_state", hidden)
    golden_case.check_outputs("text_embeds", pooled)
    golden_case.check_outputs("text_embeds_masked", masked)


@pytest.mark.golden("clip_text.")
def test_hidden_states_pooled_vectors_and_gradients_match_the_original(golden_case, mode):
    encoder = golden_case.load_into(CLIPTextEncoder(CLIPTextConfig.from_dict(golden_case.args)))
    inputs = golden_case.input_tensors(["input_ids", "attention_mask"])
    results = golden_case.check_loss_and_gradients(encoder, _Loss(encoder), inputs)
    hidden, pooled, masked, pooled_masked, embeddings, layer = results
    golden_case.check_intermediate("embeddings", embeddings)
    golden_case.check_intermediate("layer_0", layer)
    golden_case.check_outputs("last_hidden_state", hidden)
    golden_case.check_outputs("pooler_output", pooled)
    golden_case.check_outputs("last_hidden_state_masked", masked)
    golden_case.check_outputs("pooler_output_masked", pooled_masked)


TINY = {"vocab_size": 12, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("eos_token_id", "ids", "expected"),
    [
        (2, [[1, 2, 11, 11], [11, 3, 2, 1], [5, 5, 5, 5]], [2, 0, 0]),
        (7, [[1, 7, 11, 7], [11, 3, 2, 7], [5, 5, 5, 5]], [1, 3, 0]),
    ],
)
def test_a_text_ends_at_its_largest_id_or_at_its_first_end_token(eos_token_id, ids, expected):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model = CLIPTextEncoder(CLIPTextConfig(**TINY, eos_token_id=eos_token_id)).text_model
    assert model.end_positions(ms.Tensor(ids, ms.int32)).asnumpy().tolist() == expected


def test_the_config_of_the_whole_clip_is_read_for_its_text_half():
    config = CLIPTextConfig.from_dict({"text_config": {**TINY, "hidden_act": "gelu"}, "hidden_size": 1})
    assert (config.hidden_size, config.hidden_act, config.max_position_embeddings) == (8, "gelu", 77)
    with pytest.raises(UserError, match="hidden_act=relu"):
        CLIPTextConfig.from_dict({"hidden_act": "relu"})
    with pytest.raises(UserError, match="num_attention_heads=7"):
        CLIPTextConfig(num_attention_heads=7)


def test_the_published_encoder_of_vit_l_has_its_published_size():
    with runtime.lazy_parameters():
        encoder = CLIPTextEncoder(CLIPTextConfig())
    assert sum(math.prod(parameter.shape) for parameter in encoder.get_parameters()) == 123_060_480
