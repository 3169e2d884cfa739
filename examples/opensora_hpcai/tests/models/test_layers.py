"""Layers of the STDiT family against the numbers of the original."""

import pytest
from mindspore import nn, ops

from opensora.models.layers import CaptionEmbedder


class _Loss(nn.Cell):
    """mean(dropped^2); further results: the captions with and without dropping."""

    def __init__(self, embedder):
        super().__init__(auto_prefix=False)
        self.embedder = embedder

    def construct(self, caption, force_drop_ids):
        dropped = self.embedder(caption, force_drop_ids)
        return ops.square(dropped).mean(), dropped, self.embedder(caption)


@pytest.mark.golden("v1x_caption_embedder")
def test_caption_embedder_matches_the_original(golden_case, mode):
    args = golden_case.args
    embedder = golden_case.load_into(CaptionEmbedder(args["in_channels"], args["hidden_size"], args["token_num"]))
    inputs = golden_case.input_tensors(("caption", "force_drop_ids"))
    dropped, plain = golden_case.check_loss_and_gradients(embedder, _Loss(embedder), inputs)
    golden_case.check_outputs("dropped", dropped)
    golden_case.check_outputs("no_drop", plain)
