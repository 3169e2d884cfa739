// Norms in float32, forward and backward, each in one or two passes.
//
// Legend: G groups of rows that share a gain, R rows of a group, D width; N samples, C channels, L positions.

#include <cmath>

#include "sums.h"

using namespace mindone;

namespace {

constexpr Index kColumns = 256;  // positions whose channels are normalised at a time

struct Statistics {
  float mean, factor;
};

// Mean (0 unless centred) of a row and 1 / sqrt(mean square around it + eps).
template <bool centred>
MINDONE_INLINE Statistics statistics(const float* x, Index width, float eps) {
  const float mean = centred ? sum(x, width) / width : 0.0f;
  return {mean, 1.0f / std::sqrt(squares(x, width, mean) / width + eps)};
}

// y = (x - mean) * factor * gain, + shift if centred: x (G, R, D), gain and shift (G, D); stats (G * R, 2).
template <bool centred>
void norm_rows(Index groups, Index rows, Index width, const float* x, const float* gain, const float* shift, float eps,
               float* y, float* stats) {
  parallel_pieces(groups * rows, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float *from = x + r * width, *scale = gain + r / rows * width, *add = shift + r / rows * width;
      float* to = y + r * width;
      const auto [mean, factor] = statistics<centred>(from, width, eps);
      stats[2 * r] = mean;
      stats[2 * r + 1] = factor;
#pragma omp simd
      for (Index i = 0; i < width; ++i) {
        const float value = (from[i] - mean) * factor * scale[i];
        to[i] = centred ? value + add[i] : value;
      }
    }
  });
}

// Gradients of norm_rows; sums (G, 2 D): those of gain and shift.
template <bool centred>
void norm_rows_gradient(Index groups, Index rows, Index width, const float* x, const float* gain, const float* stats,
                        const float* dy, float* dx, float* sums) {
  sum_over_rows(groups, rows, 2 * width, sums, [&](Index first, Index last, float* part) {
    float *d_gain = part, *d_shift = part + width;
    for (Index r = first; r < last; ++r) {
      const float *from = x + r * width, *slope = dy + r * width, *scale = gain + r / rows * width;
      float* to = dx + r * width;
      const float mean = stats[2 * r], factor = stats[2 * r + 1];
      float plain = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : plain, along)
      for (Index i = 0; i < width; ++i) {
        const float normal = (from[i] - mean) * factor, d = slope[i], g = d * scale[i];
        d_gain[i] += d * normal;
        if (centred) d_shift[i] += d;
        plain += g;
        along += g * normal;
      }
      const float average = centred ? plain / width : 0.0f, pull = along / width;
#pragma omp simd
      for (Index i = 0; i < width; ++i)
        to[i] = (slope[i] * scale[i] - average - (from[i] - mean) * factor * pull) * factor;
    }
  });
}

// Mean and 1 / sqrt(biased variance + eps) of n values: pieces in float32 around their own mean, joined in float64.
Statistics statistics_of_many(const float* x, Index n, float eps) {
  double mean = 0.0, total = 0.0;
  for (Index first = 0; first < n; first += kSums) {
    const Index count = std::min(kSums, n - first);
    const float piece_mean = sum(x + first, count) / count;
    const double difference = piece_mean - mean, together = first + count;
    total += squares(x + first, count, piece_mean) + difference * difference * first * count / together;
    mean += difference * count / together;
  }
  return {static_cast<float>(mean), static_cast<float>(1.0 / std::sqrt(total / n + eps))};
}

struct Groups {
  Index samples, channels, length, groups;
  Index each() const { return channels / groups; }
};

void group_norm(const Groups& g, const float* x, const float* weight, const float* bias, float eps, float* y,
                float* stats) {
  parallel_for(g.samples * g.groups, [&](Index item) {
    const float* group = x + item * g.each() * g.length;
    const auto [mean, factor] = statistics_of_many(group, g.each() * g.length, eps);
    stats[2 * item] = mean;
    stats[2 * item + 1] = factor;
    for (Index c = 0; c < g.each(); ++c) {
      const Index channel = item % g.groups * g.each() + c;
      const float gain = factor * weight[channel], shift = bias[channel], centre = mean;
      const float* from = group + c * g.length;
      float* to = y + (item * g.each() + c) * g.length;
#pragma omp simd
      for (Index i = 0; i < g.length; ++i) to[i] = (from[i] - centre) * gain + shift;
    }
  });
}

// The sums of n values of dy, and of dy * (x - mean).
MINDONE_INLINE void slope_sums(const float* x, const float* dy, Index n, float mean, double* plain, double* along) {
  *along = sum_of_parts(n, [&](Index first, Index count) {
    float a = 0.0f, b = 0.0f;
    const float *from = x + first, *slope = dy + first;
#pragma omp simd reduction(+ : a, b)
    for (Index i = 0; i < count; ++i) {
      a += slope[i];
      b += slope[i] * (from[i] - mean);
    }
    *plain += a;
    return b;
  });
}

void group_norm_gradient(const Groups& g, const float* x, const float* weight, const float* stats, const float* dy,
                         float* dx, float* d_weight, float* d_bias) {
  thread_local Scratch scratch;
  float* sums = scratch.get(2 * g.samples * g.channels);  // of each sample's channels: dy, and dy * normalised x
  parallel_for(g.samples * g.groups, [&](Index item) {
    const float mean = stats[2 * item], factor = stats[2 * item + 1];
    double plain = 0.0, along = 0.0;
    for (Index row = item * g.each(); row < (item + 1) * g.each(); ++row) {
      double row_plain = 0.0, row_along = 0.0;
      slope_sums(x + row * g.length, dy + row * g.length, g.length, mean, &row_plain, &row_along);
      row_along *= factor;
      sums[2 * row] = static_cast<float>(row_plain);
      sums[2 * row + 1] = static_cast<float>(row_along);
      plain += weight[row % g.channels] * row_plain;
      along += weight[row % g.channels] * row_along;
    }
    const Index n = g.each() * g.length;
    const float average = static_cast<float>(plain / n), pull = factor * static_cast<float>(along / n);
    for (Index row = item * g.each(); row < (item + 1) * g.each(); ++row) {
      const float *from = x + row * g.length, *slope = dy + row * g.length, gain = weight[row % g.channels];
      float* to = dx + row * g.length;
#pragma omp simd
      for (Index i = 0; i < g.length; ++i) to[i] = (slope[i] * gain - average - (from[i] - mean) * pull) * factor;
    }
  });
  for (Index c = 0; c < g.channels; ++c) {
    double plain = 0.0, along = 0.0;
    for (Index row = c; row < g.samples * g.channels; row += g.channels) {
      plain += sums[2 * row];
      along += sums[2 * row + 1];
    }
    d_bias[c] = static_cast<float>(plain);
    d_weight[c] = static_cast<float>(along);
  }
}

}  // namespace

// x, gain, shift, eps → y, statistics
MINDONE_OPERATOR(mindone_layer_norm, "fGRD fG1D fG1D f f= fGR2") {
  norm_rows<true>(tensors.size(0, 0), tensors.size(0, 1), tensors.size(0, 2), tensors.in(0), tensors.in(1),
                  tensors.in(2), tensors.number(3), tensors.out(4), tensors.out(5));
}

// x, gain, statistics, dy → dx, gradients of gain and shift
MINDONE_OPERATOR(mindone_layer_norm_gradient, "fGRD fG1D fGR2 f= f= fG2D") {
  norm_rows_gradient<true>(tensors.size(0, 0), tensors.size(0, 1), tensors.size(0, 2), tensors.in(0), tensors.in(1),
                           tensors.in(2), tensors.in(3), tensors.out(4), tensors.out(5));
}

// x, weight, eps → y, statistics
MINDONE_OPERATOR(mindone_rms_norm, "fRD fD f f= fR2") {
  norm_rows<false>(1, tensors.size(0, 0), tensors.size(0, 1), tensors.in(0), tensors.in(1), tensors.in(1),
                   tensors.number(2), tensors.out(3), tensors.out(4));
}

// x, weight, statistics, dy → dx, the gradient of the weight and zeros
MINDONE_OPERATOR(mindone_rms_norm_gradient, "fRD fD fR2 f= f= f2D") {
  norm_rows_gradient<false>(1, tensors.size(0, 0), tensors.size(0, 1), tensors.in(0), tensors.in(1), tensors.in(2),
                            tensors.in(3), tensors.out(4), tensors.out(5));
}

// x, weight, bias, eps, number of groups → y, statistics
MINDONE_OPERATOR(mindone_group_norm, "fNC. fC fC f i f= fNG2") {
  const Groups groups{tensors.size(0, 0), tensors.size(0, 1), tensors.values(0, 2), tensors.integers(4)[0]};
  require(groups.groups == tensors.size(6, 1) && groups.channels % groups.groups == 0, "mindone_group_norm",
          "the number of groups has to divide that of channels");
  group_norm(groups, tensors.in(0), tensors.in(1), tensors.in(2), tensors.number(3), tensors.out(5), tensors.out(6));
}

// x, weight, statistics, dy → dx, d_weight, d_bias
MINDONE_OPERATOR(mindone_group_norm_gradient, "fNC. fC fNG2 f= f= fC fC") {
  const Groups groups{tensors.size(0, 0), tensors.size(0, 1), tensors.values(0, 2), tensors.size(2, 1)};
  require(groups.channels % groups.groups == 0, "mindone_group_norm_gradient",
          "the number of groups has to divide that of channels");
  group_norm_gradient(groups, tensors.in(0), tensors.in(1), tensors.in(2), tensors.in(3), tensors.out(4),
                      tensors.out(5), tensors.out(6));
}

// x, weight, bias, eps → y = x / sqrt(mean of x^2 over channels + eps) * weight + bias, and the factors of x
MINDONE_OPERATOR(mindone_channel_norm, "fNCL fC fC f f= fNL") {
  const Index channels = tensors.size(0, 1), length = tensors.size(0, 2), pieces = ceil_div(length, kColumns);
  const float *x = tensors.in(0), *weight = tensors.in(1), *bias = tensors.in(2), eps = tensors.number(3);
  parallel_for(tensors.size(0, 0) * pieces, [&](Index item) {
    const Index n = item / pieces, first = item % pieces * kColumns, count = std::min(kColumns, length - first);
    const float* from = x + n * channels * length + first;
    float* to = tensors.out(4) + n * channels * length + first;
    float factors[kColumns] = {};
    for (Index c = 0; c < channels; ++c)
      for (Index i = 0; i < count; ++i) factors[i] += from[c * length + i] * from[c * length + i];
    for (Index i = 0; i < count; ++i) factors[i] = 1.0f / std::sqrt(factors[i] / channels + eps);
    std::memcpy(tensors.out(5) + n * length + first, factors, count * sizeof(float));
    for (Index c = 0; c < channels; ++c) {
      const float gain = weight[c], shift = bias[c];
#pragma omp simd
      for (Index i = 0; i < count; ++i) to[c * length + i] = from[c * length + i] * factors[i] * gain + shift;
    }
  });
}

// x, weight, factors, dy → dx, gradients of weight and bias
MINDONE_OPERATOR(mindone_channel_norm_gradient, "fNCL fC fNL f= f= f2C") {
  const Index channels = tensors.size(0, 1), length = tensors.size(0, 2), pieces = ceil_div(length, kColumns);
  const float *x = tensors.in(0), *weight = tensors.in(1), *factors = tensors.in(2), *dy = tensors.in(3);
  float* dx = tensors.out(4);
  auto slopes = [&](Index item, float* part) {
    const Index n = item / pieces, first = item % pieces * kColumns, count = std::min(kColumns, length - first);
    const Index start = n * channels * length + first;
    const float* factor = factors + n * length + first;
    float pull[kColumns] = {};
    for (Index c = 0; c < channels; ++c) {
      const float *row = x + start + c * length, *d = dy + start + c * length, gain = weight[c];
#pragma omp simd
      for (Index i = 0; i < count; ++i) pull[i] += d[i] * row[i] * gain;
    }
    for (Index i = 0; i < count; ++i) pull[i] *= factor[i] * factor[i] * factor[i] / channels;
    for (Index c = 0; c < channels; ++c) {
      const float *row = x + start + c * length, *d = dy + start + c * length, gain = weight[c];
      float *to = dx + start + c * length, along = 0.0f, plain = 0.0f;
#pragma omp simd reduction(+ : along, plain)
      for (Index i = 0; i < count; ++i) {
        to[i] = d[i] * factor[i] * gain - row[i] * pull[i];
        along += d[i] * row[i] * factor[i];
        plain += d[i];
      }
      part[c] += along;
      part[channels + c] += plain;
    }
  };
  sum_over_rows(1, tensors.size(0, 0) * pieces, 2 * channels, tensors.out(5),
                [&](Index first, Index last, float* part) {
                  for (Index item = first; item < last; ++item) slopes(item, part);
                });
}
