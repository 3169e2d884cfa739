from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindone.diffusion.shifted_flow import (
    ShiftedFlow,
    ShiftedFlowConfig,
    pack,
    point_on_path,
    shift_of,
    timesteps_from_draws,
    token_positions,
    unpack,
    velocity_of,
)
from mindone.testing.stand_ins import toy_encode
from opensora.conditions.visual import encoded, training_condition
from opensora.families.base import LatentBatch, SampleRequest
from opensora.families.mmdit import (
    TEXT_DROPOUT,
    FlowMatchingLoss,
    FlowMatchingObjective,
    GuidedSampler,
    with_dropped,
)
from opensora.families.v2_0 import prompt_text, sampling_interval, training_text, with_fps, with_motion


class ToyNetwork(nn.Cell):
    """The stand-in for MMDiT of the reference runs; ``condition`` says how much it sees of what is given."""

    def __init__(self, patch, condition=0.0, cond_embed=True, guidance_embed=True):
        super().__init__()
        self.config = SimpleNamespace(patch_size=patch, cond_embed=cond_embed, guidance_embed=guidance_embed)
        self.condition = condition

    def construct(self, img, img_ids, txt, txt_ids, timesteps, y_vec, cond=None, guidance=None):
        rows = 0.1 * timesteps + 0.2 * txt.mean((1, 2)) + 0.1 * y_vec.mean(1)
        if guidance is not None:
            rows = rows + 0.01 * guidance
        out = 0.3 * img + rows.reshape(-1, 1, 1)
        if cond is not None:
            out = out + self.condition * cond.mean(-1, keep_dims=True)
        return out


@pytest.mark.golden("v20_train_step")
def test_inputs_and_loss_of_a_training_step_match_the_original(golden_case, mode):
    limit = golden_case.sidecar["tolerance"]["outputs_atol_over_max"]

    def close(ours, name):
        expected = golden_case.outputs[name]
        ours = np.broadcast_to(np.asarray(ours), expected.shape)
        assert np.abs(ours - expected).max() <= limit * max(np.abs(expected).max(), 1e-3), name

    null = {"text": golden_case.inputs["null_txt"], "pooled": golden_case.inputs["null_vec"]}
    for case, settings in golden_case.sidecar["cases"].items():
        inputs = {name: golden_case.inputs[f"{case}/{name}"] for name in ("video", "t5", "clip", "eps", "x_1")}
        patch, causal = settings["patch_size"], settings["causal_autoencoder"]
        channels = inputs["x_1"].shape[2] // patch**2
        encode = toy_encode(channels, causal)
        latents = encode(inputs["video"])
        size = latents.shape[2:]
        t = timesteps_from_draws(inputs["eps"], shift_of(size[1] * size[2] // 4, size[0]))
        dropped = {
            "text": golden_case.inputs[f"{case}/u_t5"] < TEXT_DROPOUT,
            "pooled": golden_case.inputs[f"{case}/u_clip"] < TEXT_DROPOUT,
        }
        text = with_dropped({"text": inputs["t5"], "pooled": inputs["clip"]}, null, dropped)
        guidance = np.full(len(latents), settings["guidance_in_config"] or 4.0, np.float32)
        packed = pack(latents, patch)
        noisy, target = point_on_path(packed, inputs["x_1"], t), velocity_of(packed, inputs["x_1"])
        for name, value in (
            ("x_0", packed),
            ("img", noisy),
            ("img_ids", token_positions(size, patch)),
            ("txt", text["text"]),
            ("txt_ids", 0),
            ("y_vec", text["pooled"]),
            ("timesteps", t),
            ("guidance", guidance),
            ("target", target),
        ):
            close(value, f"{case}/{name}")
        condition = None
        if settings["drawn_conditions"]:
            kinds = settings["drawn_conditions"]
            given = encoded(inputs["video"], lambda row, pixels, encode=encode: encode(pixels)[0], 4)
            condition = training_condition(latents, kinds, given, causal)
            close(pack(condition, patch), f"{case}/cond")
        cell = FlowMatchingLoss(ToyNetwork(patch, cond_embed=condition is not None))
        noise = unpack(inputs["x_1"], size, patch)
        arrays = (latents, noise, t, token_positions(size, patch), text["text"], text["pooled"], condition, guidance)
        loss = cell(*(None if array is None else Tensor(np.ascontiguousarray(array)) for array in arrays))
        close(loss.asnumpy(), f"{case}/loss")
        prediction = 0.3 * noisy + (
            0.1 * t + 0.2 * text["text"].mean((1, 2)) + 0.1 * text["pooled"].mean(1) + 0.01 * guidance
        ).reshape(-1, 1, 1)
        gradient = 2 * (prediction - target) / target.size
        expected = golden_case.grads[f"{case}/pred"]
        assert np.abs(gradient - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_compiled_cell_samples_as_the_flow_itself_does(mode):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 3, 4, 6)).astype(np.float32)
    text, negative = (
        {"text": rng.normal(size=(2, 5, 6)).astype(np.float32), "pooled": rng.normal(size=(2, 7)).astype(np.float32)}
        for _ in range(2)
    )
    condition = rng.normal(size=(2, 5, 3, 4, 6)).astype(np.float32)
    condition[:, 0] = 0
    flow = ShiftedFlow(ShiftedFlowConfig(14, text_osci=True, image_osci=True, scale_temporal_osci=True))

    def velocity(z, t, text_scale, image_scale):
        def predict(arrays, seen):
            rows = 0.1 * t + 0.2 * arrays["text"].mean((1, 2)) + 0.1 * arrays["pooled"].mean(1) + 0.01 * 7.5
            tokens = 0.3 * pack(z, 2) + rows[:, None, None] + 0.25 * pack(seen, 2).mean(-1, keepdims=True)
            return unpack(tokens, z.shape[2:], 2)

        both, image = predict(text, condition), predict(negative, condition)
        none = predict(negative, np.zeros_like(condition))
        return none + image_scale[:, None, None] * (image - none) + text_scale * (both - image)

    *_, expected = flow.sample(velocity, z, 6)
    sampler = GuidedSampler(ToyNetwork(2, condition=0.25), flow)
    *_, latent = sampler.steps(SampleRequest(z, text, (9, 32, 48), 8, negative, condition=condition))
    assert np.abs(latent - expected).max() <= 1e-4 * np.abs(expected).max()


def test_without_anything_given_a_third_of_the_work_is_left_out(mode):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 3, 4, 6)).astype(np.float32)
    text = {"text": rng.normal(size=(2, 5, 6)).astype(np.float32), "pooled": rng.normal(size=(2, 7)).astype(np.float32)}
    sampler = GuidedSampler(ToyNetwork(2, condition=0.25), ShiftedFlow(ShiftedFlowConfig(3)))
    nothing = np.zeros((2, 5, 3, 4, 6), np.float32)
    *_, two = sampler.steps(SampleRequest(z, text, (9, 32, 48), 8, text))
    *_, three = sampler.steps(SampleRequest(z, text, (9, 32, 48), 8, text, condition=nothing))
    np.testing.assert_allclose(two, three, rtol=1e-5, atol=1e-5)
    assert set(sampler._cells) == {2, 3}


def test_a_sample_of_a_batch_keeps_its_own_given_frames(mode):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 3, 4, 6)).astype(np.float32)
    text = {"text": np.zeros((2, 5, 6), np.float32), "pooled": np.zeros((2, 7), np.float32)}
    condition = np.zeros((2, 5, 3, 4, 6), np.float32)
    condition[0, 0, 0], condition[1, 0, 2] = 1, 1
    condition[0, 1:, 0], condition[1, 1:, 2] = 5, 7
    sampler = GuidedSampler(ToyNetwork(2), ShiftedFlow(ShiftedFlowConfig(2)))
    *_, latent = sampler.steps(SampleRequest(z, text, (9, 32, 48), 8, text, condition=condition))
    assert (latent[0, :, 0] == 5).all() and (latent[1, :, 2] == 7).all()
    assert not (latent[0, :, 2] == 5).any() and not (latent[1, :, 0] == 7).any()


def test_texts_are_dropped_independently_and_by_sample():
    from mindone.train.loop import Place

    null = {"text": np.full((1, 2, 3), 9.0, np.float32), "pooled": np.full((1, 3), 9.0, np.float32)}
    objective = FlowMatchingObjective(2, null, takes_condition=False)
    ones = {"text": np.ones((200, 4, 3), np.float32), "pooled": np.ones((200, 3), np.float32)}
    size = np.ones(200, np.float32)
    batch = LatentBatch(Tensor(np.zeros((200, 4, 1, 2, 2), np.float32)), ones, size, size, size, size)
    shares = []
    for step in range(10):
        inputs = objective.loss_inputs(batch, Place(0, step, range(200)))
        shares.append([inputs[4].asnumpy()[:, 0, 0] == 9, inputs[5].asnumpy()[:, 0] == 9])
    text, pooled = np.concatenate(shares, 1)
    assert abs(text.mean() - 0.316) < 0.03 and abs(pooled.mean() - 0.316) < 0.03
    assert abs((text & pooled).mean() - 0.1) < 0.02
    assert inputs[6] is None and inputs[7].dtype == ms.float32


@pytest.mark.golden("data_v20_prompt_format")
def test_prompts_are_written_as_the_original_writes_them(golden_case):
    for prompt, fps, expected in golden_case.sidecar["fps"]["rows"]:
        assert with_fps(prompt, fps) == expected
    for prompt, score, expected in golden_case.sidecar["motion_score"]["rows"]:
        assert with_motion(prompt, score) == expected


@pytest.mark.golden("data_v20_prompt_format")
def test_captions_are_trained_on_as_the_original_writes_them(golden_case):
    for text, fps, motion, fps_max, says_motion, expected, interval in golden_case.sidecar["training_text"]["rows"]:
        assert training_text(text, fps, motion if says_motion else None, fps_max) == expected
        assert sampling_interval(fps, fps_max) == interval


def test_a_prompt_says_its_frame_rate_and_motion():
    assert prompt_text(" A cat ", 24, 4.0) == "A cat. 24 FPS. 4 motion score."
    assert prompt_text("A cat", None, None) == "A cat"
