import numpy as np
import pytest

from mindone import runtime
from mindone.diffusion.shifted_flow import pack, point_on_path, shift_of, timesteps_from_draws, velocity_of
from mindone.errors import UserError
from mindone.testing.stand_ins import toy_encode
from opensora.conditions.visual import (
    KINDS,
    draw_kinds,
    drawn_ends,
    encoded,
    given_frames,
    pad_for_condition,
    possible,
    sampling_condition,
    training_condition,
)


def by_row(encode):
    """An encoder of a batch as one of a row."""
    return lambda row, pixels: encode(pixels)[0]


def close(ours, expected, what):
    assert ours.shape == expected.shape, what
    assert np.abs(ours - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-3), what


@pytest.mark.golden("sched_v20_losses_conditions")
def test_conditions_of_training_and_sampling_match_the_original(golden_case):
    inputs, outputs = golden_case.inputs, golden_case.outputs
    encode, video = toy_encode(4, causal=True), inputs["video"]
    for kind in KINDS:
        x_start = encode(video)
        close(x_start, outputs[f"condition/{kind}/x_0"], kind)
        condition = training_condition(x_start, [kind], encoded(video, by_row(encode), 4), True)
        close(condition, outputs[f"condition/{kind}/cond"], kind)
    references = [inputs["long_ref"][0], inputs["long_ref2"][0]]
    shape = inputs["zlong"].shape[1:]
    for kind in KINDS:
        # Of a picture only one latent frame is there; the reference runs hand whole clips over.
        given = references
        if kind == "i2v_head":
            given = [references[0][:, :1]]
        elif kind == "i2v_tail":
            given = [references[0][:, -1:]]
        elif kind == "i2v_loop":
            given = [references[0][:, :1], references[1][:, -1:]]
        masks, latents = sampling_condition([kind], [given], shape, causal=True)
        assert np.array_equal(masks, outputs[f"inference_condition/{kind}/masks"]), kind
        assert np.array_equal(latents, outputs[f"inference_condition/{kind}/masked_ref"]), kind


@pytest.mark.golden("sched_v20_losses_conditions")
def test_an_image_has_no_condition(golden_case):
    outputs, channels = golden_case.outputs, golden_case.outputs["condition/image/x_0"].shape[1]
    x_start = outputs["condition/image/x_0"]
    video = np.zeros((1, 3, 1, 8 * x_start.shape[3], 8 * x_start.shape[4]), np.float32)
    (kind,) = draw_kinds({"i2v_head": 1.0}, 1, [runtime.stream(0, "condition")])
    condition = training_condition(x_start, [kind], encoded(video, by_row(toy_encode(channels, True)), 4), True)
    close(condition, outputs["condition/image/cond"], "image")


@pytest.mark.golden("v20_train_condition_noncausal")
def test_conditions_of_a_non_causal_autoencoder_match_the_original(golden_case):
    inputs, outputs, args = golden_case.inputs, golden_case.outputs, golden_case.args
    encode = toy_encode(args["latent_channels"], False, args["time_compression_ratio"])
    video = inputs["video"]
    for kind in KINDS:
        x_start = encode(video)
        close(x_start, outputs[f"{kind}/x_0"], kind)
        given = encoded(video, by_row(encode), args["time_compression_ratio"])
        condition = training_condition(x_start, [kind], given, False)
        close(condition, outputs[f"{kind}/cond"], kind)
    short = encode(inputs["short"])
    kinds = ["i2v_tail", "i2v_loop"]
    condition = training_condition(short, kinds, encoded(inputs["short"], by_row(encode), 4), False)
    close(short, outputs["short/x_0"], "short")
    close(condition, outputs["short/cond"], "short")


@pytest.mark.golden("v20_train_condition_noncausal")
def test_padding_for_a_non_causal_autoencoder_matches_the_original(golden_case):
    inputs, outputs, args = golden_case.inputs, golden_case.outputs, golden_case.args
    compression = args["time_compression_ratio"]
    encode = toy_encode(args["latent_channels"], False, compression)
    for kind in ("i2v_head", "i2v_tail", "i2v_loop"):
        clip, pictures = pad_for_condition(inputs["video"][0], kind, compression - 1)
        close(encode(clip[None]), outputs[f"{kind}_padded/x_0"], kind)
        given = [encode(picture[None])[0] for picture in pictures]
        shape = outputs[f"{kind}_padded/x_0"].shape[1:]
        masks, latents = sampling_condition([kind], [given], shape, causal=False)
        close(np.concatenate([masks, latents], 1), outputs[f"{kind}_padded/cond"], kind)


@pytest.mark.golden("sched_v20_losses_conditions")
def test_a_loss_without_the_given_frames_matches_the_original(golden_case):
    inputs, outputs = golden_case.inputs, golden_case.outputs
    for name in ("a", "b"):
        x_start, noise = inputs[f"x0_{name}"], inputs[f"x1_{name}"]
        frames, height, width = x_start.shape[2:]
        t = timesteps_from_draws(inputs[f"eps_{name}"], shift_of(height * width // 4, frames))
        packed = pack(x_start, 2)
        prediction = 0.3 * point_on_path(packed, noise, t) + 0.1 * t[:, None, None]
        error = np.square(prediction - velocity_of(packed, noise)).mean(-1)
        kept = 1 - pack(inputs[f"mask_{name}"][:, None], 2).mean(-1)
        loss = ((error * kept).sum(1) / kept.sum(1)).mean()
        assert loss == pytest.approx(float(outputs[f"{name}/loss_i2v_masked"]), rel=1e-4)


def test_kinds_are_drawn_by_weight_and_short_videos_have_no_clips():
    weights = {"t2v": 1.0, "i2v_head": 3.0, "v2v_head": 4.0}
    streams = [runtime.stream(0, "condition", 0, i) for i in range(4000)]
    drawn = draw_kinds(weights, 20, streams)
    for kind, share in (("t2v", 1 / 8), ("i2v_head", 3 / 8), ("v2v_head", 1 / 2)):
        assert abs(drawn.count(kind) / 4000 - share) < 0.03
    assert possible(weights, 8) == {"t2v": 1.0, "i2v_head": 3.0}
    assert weights == {"t2v": 1.0, "i2v_head": 3.0, "v2v_head": 4.0}
    assert possible(weights, 1) == {} and draw_kinds(weights, 1, streams[:2]) == ["t2v", "t2v"]


def test_a_cache_has_to_hold_only_what_a_video_of_its_length_may_be_given():
    weights = {"t2v": 1.0, "i2v_loop": 3.0, "v2v_head": 4.0}
    assert drawn_ends(weights, 1) == []
    assert drawn_ends(weights, 5) == ["head_1", "tail_1"]
    assert drawn_ends(weights, 13) == ["head_1", "tail_1", "head_9"]


def test_samples_of_a_batch_have_their_own_conditions():
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(2, 4, 1, 2, 2)).astype(np.float32)
    masks, latents = sampling_condition(["i2v_tail", "t2v", "i2v_loop"], [[last], [], [first, last]], (4, 5, 2, 2))
    assert masks[:, 0, :, 0, 0].tolist() == [[0, 0, 0, 0, 1], [0] * 5, [1, 0, 0, 0, 1]]
    assert np.array_equal(latents[0, :, 4], last[:, 0]) and np.array_equal(latents[2, :, 0], first[:, 0])
    assert not latents[1].any()


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("i2v_loop", [np.zeros((4, 1, 2, 2))], "needs 2 references"),
        ("i2v_middle", [], "not known"),
        ("v2v_head", [np.zeros((4, 3, 2, 2))], "clip of 9 latent frames"),
    ],
)
def test_what_does_not_fit_is_refused(kind, given, message):
    with pytest.raises(UserError, match=message):
        sampling_condition([kind], [given], (4, 12, 2, 2))
    with pytest.raises(UserError, match="too short|has 5"):
        given_frames("v2v_head", True, 5)
