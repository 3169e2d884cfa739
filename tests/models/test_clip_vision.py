"""CLIP's vision transformer, both towers, and the head that scores pictures, against the numbers of the originals."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.models.aesthetic import AestheticHead
from mindone.models.clip import CLIPTextConfig
from mindone.models.clip_vision import (
    CLIP,
    MEAN,
    STD,
    CLIPVisionConfig,
    CLIPVisionProjection,
    normalised,
    pixel_values,
)


class _Loss(nn.Cell):
    def __init__(self, encoder):
        super().__init__(auto_prefix=False)
        self.encoder = encoder

    def construct(self, pixels):
        vectors, hidden, pooled = self.encoder(pixels)
        loss = ops.square(vectors).mean() + ops.square(hidden).mean()
        model = self.encoder.vision_model
        embeddings = model.pre_layrnorm(model.embeddings(pixels))
        return loss, vectors, hidden, pooled, normalised(vectors), embeddings, model.encoder.layers[0](embeddings)


@pytest.mark.golden("clip_vision")
def test_vectors_hidden_states_and_gradients_match_the_original(golden_case, mode):
    encoder = golden_case.load_into(CLIPVisionProjection(CLIPVisionConfig.from_dict(golden_case.args)))
    inputs = golden_case.input_tensors(["pixel_values"])
    results = golden_case.check_loss_and_gradients(encoder, _Loss(encoder), inputs)
    vectors, hidden, pooled, directions, embeddings, layer = results
    golden_case.check_outputs("image_embeds", vectors)
    golden_case.check_outputs("last_hidden_state", hidden)
    golden_case.check_outputs("pooler_output", pooled)
    golden_case.check_outputs("image_embeds_normalised", directions)
    golden_case.check_intermediate("embeddings_after_pre_norm", embeddings)
    golden_case.check_intermediate("layer_0", layer)


@pytest.mark.golden("clip_matching")
def test_matches_of_pictures_and_texts_are_those_of_the_original(golden_case, mode):
    args = golden_case.args
    towers = CLIP(CLIPTextConfig.from_dict(args["text"]), CLIPVisionConfig.from_dict(args["vision"]))
    golden_case.load_into(towers)
    pixels, ids = golden_case.input_tensors(["pixel_values", "input_ids"])
    golden_case.check_outputs("match", towers(pixels, ids))
    pictures, texts = towers.of_pictures(pixels).asnumpy(), towers.of_texts(ids).asnumpy()
    golden_case.check_outputs("cosine_all_pairs", pictures @ texts.T)
    golden_case.check_outputs("image_similarity", pictures @ pictures.T)


class _SumOfScores(nn.Cell):
    def __init__(self, head):
        super().__init__(auto_prefix=False)
        self.head = head

    def construct(self, features):
        scores = self.head(features)
        return scores.sum(), scores, normalised(features)


@pytest.mark.golden("aesthetic_head")
def test_scores_of_pictures_match_the_original(golden_case, mode):
    head = golden_case.load_into(AestheticHead(golden_case.args["input_size"]))
    inputs = golden_case.input_tensors(["features"])
    scores, directions = golden_case.check_loss_and_gradients(head, _SumOfScores(head), inputs)
    golden_case.check_outputs("score_per_frame", scores)
    golden_case.check_outputs("normalised", directions)
    golden_case.check_outputs("score", head.of_videos(*inputs, golden_case.sidecar["forward_args"]["frames_per_video"]))


def test_the_published_sizes_have_the_published_number_of_parameters():
    with runtime.lazy_parameters():
        towers = CLIP(CLIPTextConfig(), CLIPVisionConfig())
    assert sum(int(np.prod(parameter.shape)) for parameter in towers.get_parameters()) == 427_616_513


def test_pictures_are_resized_by_their_shorter_side_cropped_at_the_centre_and_normalised():
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 255
    values = pixel_values(frame[None], 10)
    assert values.shape == (1, 3, 10, 10) and values.dtype == np.float32
    white = (1 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(values[0, :, 5, 5], white, rtol=1e-5)


def test_a_picture_that_patches_do_not_divide_is_refused():
    with pytest.raises(UserError, match="image_size=30 is not divisible by patch_size=8"):
        CLIPVisionConfig(image_size=30, patch_size=8)


def test_the_config_of_a_whole_clip_has_that_of_its_vision_tower():
    values = {"projection_dim": 24, "vision_config": {"hidden_size": 48, "num_attention_heads": 4, "patch_size": 16}}
    config = CLIPVisionConfig.from_dict(values)
    assert (config.hidden_size, config.patch_size, config.projection_dim) == (48, 16, 24)
    np.testing.assert_allclose(normalised(Tensor([[3.0, 4.0]])).asnumpy(), [[0.6, 0.8]], rtol=1e-6)
