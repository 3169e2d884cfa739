"""The training losses of `mindone.diffusion.iddpm`, as arithmetic on MindSpore tensors inside a graph.

Nichol and Dhariwal, "Improved DDPM": squared error of the prediction, and for a learned variance the variational bound
in bits per dimension, in which the prediction is held fixed.

Legend: ``B`` batch, ``C`` channels, ``T`` frames, ``H``/``W`` height and width.
"""

from __future__ import annotations

import math

from mindspore import Tensor, ops

LN2 = math.log(2.0)
# A step of 8-bit pixels scaled to [-1, 1], and the tails beyond them.
HALF_BIN, EDGE, SMALLEST = 1 / 255, 0.999, 1e-12


def noisy(x_start: Tensor, noise: Tensor, coefficients: Tensor, frames_mask: Tensor | None = None) -> Tensor:
    """x_t (B, C, T, H, W) of x_0 and noise.

    Args:
        coefficients: (B, 11), see `mindone.diffusion.iddpm.Diffusion.coefficients`.
        frames_mask: (B, T) bool; a given frame (False) is at step 0, which is almost, not exactly, x_0.
    """
    table = _columns(coefficients)
    x_t = table[0] * x_start + table[1] * noise
    if frames_mask is None:
        return x_t
    return ops.where(_of_frames(frames_mask), x_t, table[2] * x_start + table[3] * noise)


def training_losses(
    output: Tensor,
    x_start: Tensor,
    x_t: Tensor,
    noise: Tensor,
    is_first: Tensor,
    coefficients: Tensor,
    frames_mask: Tensor | None = None,
    learn_sigma: bool = True,
    predict_xstart: bool = False,
    loss: str = "mse",
    num_timesteps: int = 1000,
    columns: Tensor | None = None,
    snr_range: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its squared error and its bound, each (B,) float32.

    Args:
        output: the network's (B, C or 2C, T, H, W).
        x_start, x_t, noise: (B, C, T, H, W).
        is_first: (B,) bool, whether the step is 0.
        coefficients: (B, 11).
        frames_mask: (B, T) bool; given frames (False) are left out of all means.
        num_timesteps: steps of the schedule, for rescaled losses.
        columns: (B, W), 1 where there is something along the width, and 0 for what is left out of all means.
        snr_range: limits of `snr_weights`, by which the error counts in the loss; None: it counts once.
    """
    channels = x_start.shape[1]
    prediction = output[:, :channels]
    zero = ops.zeros_like(coefficients[:, 0])
    target = x_start if predict_xstart else noise
    error = zero if loss == "rescaled_kl" else _mean(ops.square(target - prediction), frames_mask, columns)
    bound = zero
    if learn_sigma or loss == "rescaled_kl":
        held = prediction if loss == "rescaled_kl" else ops.stop_gradient(prediction)
        variance = output[:, channels:] if learn_sigma else None
        bound = _bound(held, variance, x_start, x_t, is_first, coefficients, frames_mask, predict_xstart, columns)
        if loss == "rescaled_kl":
            bound = bound * num_timesteps
        elif loss == "rescaled_mse":
            bound = bound * (num_timesteps / 1000.0)
    weighted = error if snr_range is None else error * snr_weights(coefficients, snr_range)
    return weighted + bound, error, bound


def snr_weights(coefficients: Tensor, snr_range: tuple[float, float]) -> Tensor:
    """What the error of a predicted x_0 counts: the signal-to-noise ratio of its step, within a range; (B,).

    A lower limit of 1 is the truncated weighting of Salimans and Ho, "Progressive Distillation"; an upper limit that of
    Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy".
    """
    ratio = ops.square(coefficients[:, 0] / coefficients[:, 1])
    return ops.clamp(ratio, snr_range[0], snr_range[1])


def _bound(
    prediction, variance, x_start, x_t, is_first, coefficients, frames_mask, predict_xstart: bool, columns
) -> Tensor:
    """One term of the variational bound in bits per dimension, (B,)."""
    table = _columns(coefficients)
    guess = prediction if predict_xstart else table[4] * x_t - table[5] * prediction
    mean = table[6] * guess + table[7] * x_t
    log_variance = table[8]
    if variance is not None:
        share = (variance + 1) / 2
        log_variance = share * table[9] + (1 - share) * table[8]
    true_mean = table[6] * x_start + table[7] * x_t
    distance = _normal_kl(true_mean, table[10], mean, log_variance)
    likelihood = _discretized_log_likelihood(x_start, mean, 0.5 * log_variance)
    likelihood, distance = _mean(-likelihood, frames_mask, columns), _mean(distance, frames_mask, columns)
    return ops.where(is_first, likelihood / LN2, distance / LN2)


def _normal_kl(mean1, log_variance1, mean2, log_variance2):
    difference = log_variance1 - log_variance2
    return 0.5 * (ops.exp(difference) - 1.0 - difference + ops.square(mean1 - mean2) * ops.exp(-log_variance2))


def _discretized_log_likelihood(x, mean, log_scale):
    """Log-probability of the 8-bit value that ``x`` in [-1, 1] stands for, under a normal distribution."""
    centred, inverse = x - mean, ops.exp(-log_scale)
    above = _normal_cdf(inverse * (centred + HALF_BIN))
    below = _normal_cdf(inverse * (centred - HALF_BIN))
    inside = ops.log(ops.maximum(above - below, SMALLEST))
    upper = ops.log(ops.maximum(1.0 - below, SMALLEST))
    lower = ops.log(ops.maximum(above, SMALLEST))
    return ops.where(x < -EDGE, lower, ops.where(x > EDGE, upper, inside))


def _normal_cdf(x):
    """The tanh approximation that the published losses use."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    # Not ops.tanh: on a CPU it is off by up to 1e-4, and differences of this function decide.
    decay = ops.exp(-2.0 * ops.abs(u))
    return 0.5 * (1.0 + ops.sign(u) * (1.0 - decay) / (1.0 + decay))


def _columns(coefficients: Tensor) -> Tensor:
    """(11, B, 1, 1, 1, 1) of (B, 11)."""
    return coefficients.T.reshape(coefficients.shape[1], -1, 1, 1, 1, 1)


def _of_frames(mask: Tensor) -> Tensor:
    return mask[:, None, :, None, None]


def _mean(values: Tensor, frames_mask: Tensor | None, columns: Tensor | None) -> Tensor:
    """Mean per sample, (B,), over the frames that are generated and the columns that there are."""
    if columns is None:
        per_frame = values.mean((1, 3, 4))
    else:
        # selected, not multiplied: what is left out may be anything
        kept = ops.where(columns[:, None, None, None, :] > 0, values, ops.zeros_like(values))
        per_frame = kept.mean((1, 3)).sum(2) / columns.sum(1, keepdims=True)
    if frames_mask is None:
        return per_frame.mean(1)
    weight = frames_mask.astype(values.dtype)
    return (per_frame * weight).sum(1) / ops.maximum(weight.sum(1), 1.0)
