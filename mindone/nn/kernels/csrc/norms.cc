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

// x, gain, shift, settings → y = (x - mean) * factor * gain, + shift if centred; statistics
template <bool centred>
void norm_rows(const Tensors& t) {
  const Index rows = t.size(0, 1), width = t.size(0, 2);
  const float eps = t.number(3);
  float *y = t.out(4), *stats = t.out(5);
  parallel_pieces(t.size(0, 0) * rows, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float *from = t.in(0) + r * width, *scale = t.in(1) + r / rows * width, *add = t.in(2) + r / rows * width;
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

// x, gain, dy, statistics, settings → dx, d_gain, d_shift
template <bool centred>
void norm_rows_gradient(const Tensors& t) {
  const Index rows = t.size(0, 1), width = t.size(0, 2);
  const float *x = t.in(0), *gain = t.in(1), *dy = t.in(2), *stats = t.in(3);
  float* dx = t.out(5);
  sum_over_rows(t.size(0, 0), rows, width, {t.out(6), t.out(7)}, [&](Index first, Index last, float* part) {
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
  Index samples, channels, length, groups, each;

  Groups(const Tensors& t, const char* name, int statistics)
      : samples(t.size(0, 0)),
        channels(t.size(0, 1)),
        length(t.values(0, 2)),
        groups(t.size(statistics, 1)),
        each(channels / groups) {
    require(channels % groups == 0, name, "the number of groups has to divide that of channels");
  }
};

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

}  // namespace

// Of rows, with gain and shift of each group; settings: eps, and whether the mean is subtracted.
MINDONE_OPERATOR(mindone_row_norm, "fGRD fG1D fG1D f2 f= fGR2") {
  tensors.in(3)[1] ? norm_rows<true>(tensors) : norm_rows<false>(tensors);
}

MINDONE_OPERATOR(mindone_row_norm_gradient, "fGRD fG1D f= fGR2 f2 f= fG1D fG1D") {
  tensors.in(4)[1] ? norm_rows_gradient<true>(tensors) : norm_rows_gradient<false>(tensors);
}

// Of the positions of groups of channels: x, weight, bias, eps → y, statistics
MINDONE_OPERATOR(mindone_group_norm, "fNC. fC fC f f= fNG2") {
  const Groups g(tensors, "mindone_group_norm", 5);
  const float *weight = tensors.in(1), *bias = tensors.in(2), eps = tensors.number(3);
  parallel_for(g.samples * g.groups, [&](Index item) {
    const Index start = item * g.each * g.length;
    const auto [mean, factor] = statistics_of_many(tensors.in(0) + start, g.each * g.length, eps);
    tensors.out(5)[2 * item] = mean;
    tensors.out(5)[2 * item + 1] = factor;
    for (Index c = 0; c < g.each; ++c) {
      const Index channel = item % g.groups * g.each + c;
      const float gain = factor * weight[channel], shift = bias[channel], centre = mean;
      const float* from = tensors.in(0) + start + c * g.length;
      float* to = tensors.out(4) + start + c * g.length;
#pragma omp simd
      for (Index i = 0; i < g.length; ++i) to[i] = (from[i] - centre) * gain + shift;
    }
  });
}

// x, weight, dy, statistics, eps → dx, d_weight, d_bias
MINDONE_OPERATOR(mindone_group_norm_gradient, "fNC. fC f= fNG2 f f= fC fC") {
  const Groups g(tensors, "mindone_group_norm_gradient", 3);
  const float *x = tensors.in(0), *weight = tensors.in(1), *dy = tensors.in(2), *stats = tensors.in(3);
  thread_local Scratch scratch;
  float* sums = scratch.get(2 * g.samples * g.channels);  // of each sample's channels: dy, and dy * normalised x
  parallel_for(g.samples * g.groups, [&](Index item) {
    const float mean = stats[2 * item], factor = stats[2 * item + 1];
    double plain = 0.0, along = 0.0;
    for (Index row = item * g.each; row < (item + 1) * g.each; ++row) {
      double row_plain = 0.0, row_along = 0.0;
      slope_sums(x + row * g.length, dy + row * g.length, g.length, mean, &row_plain, &row_along);
      row_along *= factor;
      sums[2 * row] = static_cast<float>(row_plain);
      sums[2 * row + 1] = static_cast<float>(row_along);
      plain += weight[row % g.channels] * row_plain;
      along += weight[row % g.channels] * row_along;
    }
    const Index n = g.each * g.length;
    const float average = static_cast<float>(plain / n), pull = factor * static_cast<float>(along / n);
    for (Index row = item * g.each; row < (item + 1) * g.each; ++row) {
      const float *from = x + row * g.length, *slope = dy + row * g.length, gain = weight[row % g.channels];
      float* to = tensors.out(5) + row * g.length;
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
    tensors.out(7)[c] = static_cast<float>(plain);
    tensors.out(6)[c] = static_cast<float>(along);
  }
}

// Of the channels of a position: x, weight, bias, eps → y = x / sqrt(mean of x^2 + eps) * weight + bias, the factors of x
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

// x, weight, dy, factors, eps → dx, d_weight, d_bias
MINDONE_OPERATOR(mindone_channel_norm_gradient, "fNCL fC f= fNL f f= fC fC") {
  const Index channels = tensors.size(0, 1), length = tensors.size(0, 2), pieces = ceil_div(length, kColumns);
  const float *x = tensors.in(0), *weight = tensors.in(1), *dy = tensors.in(2), *factors = tensors.in(3);
  float* dx = tensors.out(5);
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
  sum_over_rows(1, tensors.size(0, 0) * pieces, channels, {tensors.out(6), tensors.out(7)},
                [&](Index first, Index last, float* part) {
                  for (Index item = first; item < last; ++item) slopes(item, part);
                });
}
