// Norms, activations, gates and rotary embedding in float32, forward and backward, each in one or two passes.
//
// Legend: G groups of rows that share a gain, R rows of a group, D width; N samples, C channels, L positions.

#include <cmath>

#include "operator.h"
#include "parallel.h"
#include "simd.h"
#include "sums.h"

namespace mindone {
namespace {

constexpr Index kPiece = 16384;  // values that a thread takes at a time
constexpr Index kSums = 4096;    // values that are added up in float32 before float64 goes on

Index rows_together(Index width) { return std::max<Index>(1, kPiece / width); }

// Calls vectors(i) for whole vectors of [0, n) and values(i) for the rest.
template <class Vectors, class Values>
MINDONE_INLINE void for_each(Index n, Vectors vectors, Values values) {
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) vectors(i);
  for (; i < n; ++i) values(i);
}

// `count` of a vector's values, the others zero.
MINDONE_INLINE Vector load_part(const float* from, Index count) {
  float part[kLanes] = {};
  std::memcpy(part, from, count * sizeof(float));
  return load(part);
}

MINDONE_INLINE void store_part(float* to, Index count, Vector x) {
  float part[kLanes];
  store(part, x);
  std::memcpy(to, part, count * sizeof(float));
}

// --- activations ----------------------------------------------------------------------------------------------------

// The same function for vectors and for what is left of them.
template <class Function>
void map(Index n, const float* a, const float* b, float* y, Function function) {
  parallel_pieces(n, kPiece, [&](Index first, Index last) {
    Index i = first;
    for (; i + kLanes <= last; i += kLanes) store(y + i, function(load(a + i), load(b + i)));
    if (i < last) store_part(y + i, last - i, function(load_part(a + i, last - i), load_part(b + i, last - i)));
  });
}

// The same function of x + bias, where x (n) are rows as long as the bias; all of x if that has no length.
template <class Function>
void map_biased(Index n, Index width, const float* x, const float* bias, float* y, Function function) {
  if (!width) {
    map(n, x, x, y, [&](Vector v, Vector) { return function(v + *bias); });
    return;
  }
  parallel_pieces(n / width, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float* from = x + r * width;
      float* to = y + r * width;
      Index i = 0;
      for (; i + kLanes <= width; i += kLanes) store(to + i, function(load(from + i) + load(bias + i)));
      if (i < width)
        store_part(to + i, width - i, function(load_part(from + i, width - i) + load_part(bias + i, width - i)));
    }
  });
}

constexpr float kGeluSlope = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

MINDONE_INLINE Vector gelu(Vector x) { return x * sigmoid(x * (kGeluSlope + kGeluSlope * kGeluCubic * x * x)); }

MINDONE_INLINE Vector gelu_slope(Vector x) {
  const Vector gate = sigmoid(x * (kGeluSlope + kGeluSlope * kGeluCubic * x * x));
  return gate * (1.0f + x * (1.0f - gate) * (kGeluSlope + 3.0f * kGeluSlope * kGeluCubic * x * x));
}

MINDONE_INLINE Vector quick_gelu(Vector x) { return x * sigmoid(1.702f * x); }

MINDONE_INLINE Vector quick_gelu_slope(Vector x) {
  const Vector gate = sigmoid(1.702f * x);
  return gate * (1.0f + 1.702f * x * (1.0f - gate));
}

// --- norms of rows --------------------------------------------------------------------------------------------------

struct Moments {
  float mean, squares;
};

// Mean (0 unless centred) of values, and the sum of their squares around it.
template <bool centred>
MINDONE_INLINE Moments moments(const float* x, Index n) {
  float mean = 0.0f;
  if (centred) {
    Vector total{};
    float rest = 0.0f;
    for_each(n, [&](Index i) { total += load(x + i); }, [&](Index i) { rest += x[i]; });
    mean = (sum(total) + rest) / n;
  }
  Vector squares{};
  float rest = 0.0f;
  for_each(
      n,
      [&](Index i) {
        const Vector d = load(x + i) - mean;
        squares += d * d;
      },
      [&](Index i) { rest += (x[i] - mean) * (x[i] - mean); });
  return {mean, sum(squares) + rest};
}

struct Statistics {
  float mean, factor;
};

// Mean (0 unless centred) of a row and 1 / sqrt(mean square around it + eps).
template <bool centred>
MINDONE_INLINE Statistics statistics(const float* x, Index width, float eps) {
  const Moments row = moments<centred>(x, width);
  return {row.mean, 1.0f / std::sqrt(row.squares / width + eps)};
}

// y = (x - mean) * factor * gain + shift: x (G, R, D), gain and shift (G, D); stats (G * R, 2).
template <bool centred>
void norm_rows(Index groups, Index rows, Index width, const float* x, const float* gain, const float* shift, float eps,
               float* y, float* stats) {
  parallel_pieces(groups * rows, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float *from = x + r * width, *scale = gain + r / rows * width;
      float* to = y + r * width;
      const Statistics s = statistics<centred>(from, width, eps);
      stats[2 * r] = s.mean;
      stats[2 * r + 1] = s.factor;
      if (shift) {
        const float* add = shift + r / rows * width;
        for_each(
            width,
            [&](Index i) { store(to + i, (load(from + i) - s.mean) * s.factor * load(scale + i) + load(add + i)); },
            [&](Index i) { to[i] = (from[i] - s.mean) * s.factor * scale[i] + add[i]; });
      } else {
        for_each(
            width, [&](Index i) { store(to + i, (load(from + i) - s.mean) * s.factor * load(scale + i)); },
            [&](Index i) { to[i] = (from[i] - s.mean) * s.factor * scale[i]; });
      }
    }
  });
}

// Gradients of map_biased for a function's slope; zero for a bias without a length.
template <class Function>
void map_biased_gradient(Index n, Index width, const float* x, const float* bias, const float* dy, float* dx,
                         float* d_bias, Function slope) {
  if (!width) {
    map(n, x, dy, dx, [&](Vector v, Vector d) { return d * slope(v + *bias); });
    *d_bias = 0.0f;
    return;
  }
  sum_over_rows(1, n / width, width, d_bias, [&](Index first, Index last, float* part) {
    for (Index r = first; r < last; ++r) {
      const float *from = x + r * width, *d = dy + r * width;
      float* to = dx + r * width;
      Index i = 0;
      for (; i + kLanes <= width; i += kLanes) {
        const Vector y = load(d + i) * slope(load(from + i) + load(bias + i));
        store(to + i, y);
        store(part + i, load(part + i) + y);
      }
      if (const Index rest = width - i) {
        const Vector y = load_part(d + i, rest) * slope(load_part(from + i, rest) + load_part(bias + i, rest));
        store_part(to + i, rest, y);
        store_part(part + i, rest, load_part(part + i, rest) + y);
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
      Vector plain{}, along{};
      float plain_rest = 0.0f, along_rest = 0.0f;
      for_each(
          width,
          [&](Index i) {
            const Vector normal = (load(from + i) - mean) * factor, d = load(slope + i), g = d * load(scale + i);
            store(d_gain + i, load(d_gain + i) + d * normal);
            if (centred) store(d_shift + i, load(d_shift + i) + d);
            plain += g;
            along += g * normal;
          },
          [&](Index i) {
            const float normal = (from[i] - mean) * factor, d = slope[i], g = d * scale[i];
            d_gain[i] += d * normal;
            if (centred) d_shift[i] += d;
            plain_rest += g;
            along_rest += g * normal;
          });
      const float average = centred ? (sum(plain) + plain_rest) / width : 0.0f,
                  pull = (sum(along) + along_rest) / width;
      for_each(
          width,
          [&](Index i) {
            const Vector normal = (load(from + i) - mean) * factor;
            store(to + i, (load(slope + i) * load(scale + i) - average - normal * pull) * factor);
          },
          [&](Index i) { to[i] = (slope[i] * scale[i] - average - (from[i] - mean) * factor * pull) * factor; });
    }
  });
}

// --- group norm -----------------------------------------------------------------------------------------------------

// Mean and 1 / sqrt(biased variance + eps) of n values: pieces in float32 around their own mean, joined in float64.
Statistics statistics_of_many(const float* x, Index n, float eps) {
  double mean = 0.0, squares = 0.0;
  for (Index first = 0; first < n; first += kSums) {
    const Index count = std::min(kSums, n - first);
    const Moments piece = moments<true>(x + first, count);
    const double difference = piece.mean - mean, together = first + count;
    squares += piece.squares + difference * difference * first * count / together;
    mean += difference * count / together;
  }
  return {static_cast<float>(mean), static_cast<float>(1.0 / std::sqrt(squares / n + eps))};
}

struct Groups {
  Index samples, channels, length, groups;
  Index each() const { return channels / groups; }
};

void group_norm(const Groups& g, const float* x, const float* weight, const float* bias, float eps, float* y,
                float* stats) {
  parallel_for(g.samples * g.groups, [&](Index item) {
    const float* group = x + item * g.each() * g.length;
    const Statistics s = statistics_of_many(group, g.each() * g.length, eps);
    stats[2 * item] = s.mean;
    stats[2 * item + 1] = s.factor;
    for (Index c = 0; c < g.each(); ++c) {
      const Index channel = item % g.groups * g.each() + c;
      const float gain = s.factor * weight[channel], shift = bias[channel];
      const float* from = group + c * g.length;
      float* to = y + (item * g.each() + c) * g.length;
      for_each(
          g.length, [&](Index i) { store(to + i, (load(from + i) - s.mean) * gain + shift); },
          [&](Index i) { to[i] = (from[i] - s.mean) * gain + shift; });
    }
  });
}

void group_norm_gradient(const Groups& g, const float* x, const float* weight, const float* stats, const float* dy,
                         float* dx, float* d_weight, float* d_bias) {
  thread_local Scratch scratch;
  float* sums = scratch.get(2 * g.samples * g.channels);  // of each sample's channels: dy, and dy * normalised x
  parallel_for(g.samples * g.groups, [&](Index item) {
    const float mean = stats[2 * item], factor = stats[2 * item + 1];
    double plain = 0.0, along = 0.0;
    for (Index c = 0; c < g.each(); ++c) {
      const Index row = item * g.each() + c;
      const float *from = x + row * g.length, *slope = dy + row * g.length;
      double row_plain = 0.0, row_along = 0.0;
      for (Index first = 0; first < g.length; first += kSums) {
        const Index last = std::min(g.length, first + kSums);
        Vector a{}, b{};
        float a_rest = 0.0f, b_rest = 0.0f;
        for_each(
            last - first,
            [&](Index i) {
              const Vector d = load(slope + first + i);
              a += d;
              b += d * (load(from + first + i) - mean);
            },
            [&](Index i) {
              a_rest += slope[first + i];
              b_rest += slope[first + i] * (from[first + i] - mean);
            });
        row_plain += sum(a) + a_rest;
        row_along += sum(b) + b_rest;
      }
      row_along *= factor;
      const Index channel = row % g.channels;
      sums[2 * row] = row_plain;
      sums[2 * row + 1] = row_along;
      plain += weight[channel] * row_plain;
      along += weight[channel] * row_along;
    }
    const Index n = g.each() * g.length;
    const float average = plain / n, pull = along / n;
    for (Index c = 0; c < g.each(); ++c) {
      const Index row = item * g.each() + c;
      const float *from = x + row * g.length, *slope = dy + row * g.length;
      float* to = dx + row * g.length;
      const float gain = weight[row % g.channels];
      for_each(
          g.length,
          [&](Index i) {
            store(to + i, (load(slope + i) * gain - average - (load(from + i) - mean) * (factor * pull)) * factor);
          },
          [&](Index i) { to[i] = (slope[i] * gain - average - (from[i] - mean) * (factor * pull)) * factor; });
    }
  });
  for (Index c = 0; c < g.channels; ++c) {
    double plain = 0.0, along = 0.0;
    for (Index n = 0; n < g.samples; ++n) {
      plain += sums[2 * (n * g.channels + c)];
      along += sums[2 * (n * g.channels + c) + 1];
    }
    d_bias[c] = plain;
    d_weight[c] = along;
  }
}

// --- norm over channels ---------------------------------------------------------------------------------------------

constexpr Index kColumns = 256;  // positions whose channels are normalised at a time

// y = x / sqrt(mean of x^2 over channels + eps) * weight + bias: (N, C, L); factors (N, L).
void channel_norm(Index samples, Index channels, Index length, const float* x, const float* weight, const float* bias,
                  float eps, float* y, float* factors) {
  const Index pieces = ceil_div(length, kColumns);
  parallel_for(samples * pieces, [&](Index item) {
    const Index n = item / pieces, first = item % pieces * kColumns, count = std::min(kColumns, length - first);
    float sums[kColumns] = {};
    const float* from = x + n * channels * length + first;
    for (Index c = 0; c < channels; ++c)
      for (Index i = 0; i < count; ++i) sums[i] += from[c * length + i] * from[c * length + i];
    for (Index i = 0; i < count; ++i) sums[i] = 1.0f / std::sqrt(sums[i] / channels + eps);
    std::memcpy(factors + n * length + first, sums, count * sizeof(float));
    float* to = y + n * channels * length + first;
    for (Index c = 0; c < channels; ++c)
      for (Index i = 0; i < count; ++i) to[c * length + i] = from[c * length + i] * sums[i] * weight[c] + bias[c];
  });
}

// sums (2 C): gradients of weight and bias.
void channel_norm_gradient(Index samples, Index channels, Index length, const float* x, const float* weight,
                           const float* factors, const float* dy, float* dx, float* sums) {
  const Index pieces = ceil_div(length, kColumns);
  sum_over_rows(1, samples * pieces, 2 * channels, sums, [&](Index first_item, Index last_item, float* part) {
    for (Index item = first_item; item < last_item; ++item) {
      const Index n = item / pieces, first = item % pieces * kColumns, count = std::min(kColumns, length - first);
      const float *from = x + n * channels * length + first, *slope = dy + n * channels * length + first;
      const float* factor = factors + n * length + first;
      float* to = dx + n * channels * length + first;
      float pull[kColumns] = {};
      for (Index c = 0; c < channels; ++c)
        for (Index i = 0; i < count; ++i) pull[i] += slope[c * length + i] * from[c * length + i] * weight[c];
      for (Index i = 0; i < count; ++i) pull[i] *= factor[i] * factor[i] * factor[i] / channels;
      for (Index c = 0; c < channels; ++c) {
        const float *row = from + c * length, *d = slope + c * length;
        float* out = to + c * length;
        Vector a{}, b{};
        float a_rest = 0.0f, b_rest = 0.0f;
        for_each(
            count,
            [&](Index i) {
              const Vector v = load(d + i), u = load(row + i), f = load(factor + i);
              store(out + i, v * f * weight[c] - u * load(pull + i));
              a += v * u * f;
              b += v;
            },
            [&](Index i) {
              out[i] = d[i] * factor[i] * weight[c] - row[i] * pull[i];
              a_rest += d[i] * row[i] * factor[i];
              b_rest += d[i];
            });
        part[c] += sum(a) + a_rest;
        part[channels + c] += sum(b) + b_rest;
      }
    }
  });
}

// --- rotary embedding -----------------------------------------------------------------------------------------------

// Rotates pairs of the last axis: x (B, h, N, D), or (B, N, h, D) if tokens come first, angles (N, D / 2) or
// (B, N, D / 2); neighbours, or halves. `sign` -1 rotates back.
void rotate(Index batch, Index heads, Index length, Index width, bool tokens_first, const float* x, const float* cos,
            const float* sin, bool each_sample, bool halves, float sign, float* y) {
  const Index half = width / 2;
  parallel_pieces(batch * heads * length, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const Index at = (each_sample ? r / (heads * length) * length : 0) + (tokens_first ? r / heads : r) % length;
      const float *c = cos + at * half, *s = sin + at * half, *from = x + r * width;
      float* to = y + r * width;
      if (halves) {
        for (Index i = 0; i < half; ++i) {
          const float a = from[i], b = from[half + i], turn = sign * s[i];
          to[i] = a * c[i] - b * turn;
          to[half + i] = b * c[i] + a * turn;
        }
      } else {
        for (Index i = 0; i < half; ++i) {
          const float a = from[2 * i], b = from[2 * i + 1], turn = sign * s[i];
          to[2 * i] = a * c[i] - b * turn;
          to[2 * i + 1] = b * c[i] + a * turn;
        }
      }
    }
  });
}

}  // namespace
}  // namespace mindone

using namespace mindone;

// x → x sigmoid(x)
MINDONE_OPERATOR(mindone_silu) {
  map(values(axes, shapes, 0), floats(data[0]), floats(data[0]), results(data[1]),
      [](Vector x, Vector) { return x * sigmoid(x); });
  return 0;
}

// x, dy → dx
MINDONE_OPERATOR(mindone_silu_gradient) {
  map(values(axes, shapes, 0), floats(data[0]), floats(data[1]), results(data[2]), [](Vector x, Vector dy) {
    const Vector gate = sigmoid(x);
    return dy * gate * (1.0f + x * (1.0f - gate));
  });
  return 0;
}

// x (..., D), bias (D) or a number → GELU in its tanh form of x + bias: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))
MINDONE_OPERATOR(mindone_gelu) {
  map_biased(values(axes, shapes, 0), length(axes, shapes, 1), floats(data[0]), floats(data[1]), results(data[2]),
             [](Vector x) { return gelu(x); });
  return 0;
}

// x, bias, dy → dx, d_bias
MINDONE_OPERATOR(mindone_gelu_gradient) {
  map_biased_gradient(values(axes, shapes, 0), length(axes, shapes, 1), floats(data[0]), floats(data[1]),
                      floats(data[2]), results(data[3]), results(data[4]), [](Vector x) { return gelu_slope(x); });
  return 0;
}

// x (..., D), bias (D) or a number → (x + bias) sigmoid(1.702 (x + bias))
MINDONE_OPERATOR(mindone_quick_gelu) {
  map_biased(values(axes, shapes, 0), length(axes, shapes, 1), floats(data[0]), floats(data[1]), results(data[2]),
             [](Vector x) { return quick_gelu(x); });
  return 0;
}

// x, bias, dy → dx, d_bias
MINDONE_OPERATOR(mindone_quick_gelu_gradient) {
  map_biased_gradient(values(axes, shapes, 0), length(axes, shapes, 1), floats(data[0]), floats(data[1]),
                      floats(data[2]), results(data[3]), results(data[4]),
                      [](Vector x) { return quick_gelu_slope(x); });
  return 0;
}

// x (G, R, D), gain (G, 1, D), shift (G, 1, D), eps → y, statistics (G, R, 2)
MINDONE_OPERATOR(mindone_layer_norm) {
  norm_rows<true>(shapes[0][0], shapes[0][1], shapes[0][2], floats(data[0]), floats(data[1]), floats(data[2]),
                  *floats(data[3]), results(data[4]), results(data[5]));
  return 0;
}

// x, gain, statistics, dy → dx, (G, 2, D): gradients of gain and shift
MINDONE_OPERATOR(mindone_layer_norm_gradient) {
  norm_rows_gradient<true>(shapes[0][0], shapes[0][1], shapes[0][2], floats(data[0]), floats(data[1]), floats(data[2]),
                           floats(data[3]), results(data[4]), results(data[5]));
  return 0;
}

// x (R, D), weight (D), eps → y, statistics (R, 2)
MINDONE_OPERATOR(mindone_rms_norm) {
  norm_rows<false>(1, shapes[0][0], shapes[0][1], floats(data[0]), floats(data[1]), nullptr, *floats(data[2]),
                   results(data[3]), results(data[4]));
  return 0;
}

// x, weight, statistics, dy → dx, (2, D): the gradient of the weight, and zeros
MINDONE_OPERATOR(mindone_rms_norm_gradient) {
  norm_rows_gradient<false>(1, shapes[0][0], shapes[0][1], floats(data[0]), floats(data[1]), floats(data[2]),
                            floats(data[3]), results(data[4]), results(data[5]));
  return 0;
}

// x (N, C, ...), weight (C), bias (C), eps, groups → y, statistics (N, groups, 2)
MINDONE_OPERATOR(mindone_group_norm) {
  const Groups groups{shapes[0][0], shapes[0][1], values(axes, shapes, 0, 2), *static_cast<int32_t*>(data[4])};
  group_norm(groups, floats(data[0]), floats(data[1]), floats(data[2]), *floats(data[3]), results(data[5]),
             results(data[6]));
  return 0;
}

// x, weight, statistics, dy → dx, d_weight, d_bias
MINDONE_OPERATOR(mindone_group_norm_gradient) {
  const Groups groups{shapes[0][0], shapes[0][1], values(axes, shapes, 0, 2), shapes[2][1]};
  group_norm_gradient(groups, floats(data[0]), floats(data[1]), floats(data[2]), floats(data[3]), results(data[4]),
                      results(data[5]), results(data[6]));
  return 0;
}

// x (N, C, L), weight (C), bias (C), eps → y, factors (N, L)
MINDONE_OPERATOR(mindone_channel_norm) {
  channel_norm(shapes[0][0], shapes[0][1], shapes[0][2], floats(data[0]), floats(data[1]), floats(data[2]),
               *floats(data[3]), results(data[4]), results(data[5]));
  return 0;
}

// x, weight, factors, dy → dx, (2, C): gradients of weight and bias
MINDONE_OPERATOR(mindone_channel_norm_gradient) {
  channel_norm_gradient(shapes[0][0], shapes[0][1], shapes[0][2], floats(data[0]), floats(data[1]), floats(data[2]),
                        floats(data[3]), results(data[4]), results(data[5]));
  return 0;
}

// x (G, R, D), gate (G, 1, D), y (G, R, D) → x + gate * y
MINDONE_OPERATOR(mindone_gated_sum) {
  const Index rows = shapes[0][1], width = shapes[0][2];
  const float *x = floats(data[0]), *gate = floats(data[1]), *y = floats(data[2]);
  float* out = results(data[3]);
  parallel_pieces(shapes[0][0] * rows, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float* row = gate + r / rows * width;
      for (Index i = 0; i < width; ++i) out[r * width + i] = x[r * width + i] + row[i] * y[r * width + i];
    }
  });
  return 0;
}

// gate, y, d_out → d_gate, dy
MINDONE_OPERATOR(mindone_gated_sum_gradient) {
  const Index groups = shapes[1][0], rows = shapes[1][1], width = shapes[1][2];
  const float *gate = floats(data[0]), *y = floats(data[1]), *d_out = floats(data[2]);
  float* dy = results(data[4]);
  sum_over_rows(groups, rows, width, results(data[3]), [&](Index first, Index last, float* part) {
    for (Index r = first; r < last; ++r) {
      const float* row = gate + r / rows * width;
      for (Index i = 0; i < width; ++i) {
        part[i] += d_out[r * width + i] * y[r * width + i];
        dy[r * width + i] = d_out[r * width + i] * row[i];
      }
    }
  });
  return 0;
}

// x (B, h, N, D) or (B, N, h, D), cos and sin (N, D / 2) or (B, N, D / 2), settings (3): whether halves, the sign,
// whether tokens come first → y
MINDONE_OPERATOR(mindone_rotate) {
  const int32_t* settings = static_cast<int32_t*>(data[3]);
  const int64_t* size = shapes[0];
  const bool tokens_first = settings[2];
  rotate(size[0], size[tokens_first ? 2 : 1], size[tokens_first ? 1 : 2], size[3], tokens_first, floats(data[0]),
         floats(data[1]), floats(data[2]), axes[1] == 3, settings[0], settings[1], results(data[4]));
  return 0;
}
