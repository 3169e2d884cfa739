// softmax(scale q k^T + bias) v in float32, forward and backward, with the scores of a few queries in memory at a time.
//
// The forward pass keeps the logarithm of each softmax's sum, with which the backward pass computes the weights again
// (https://arxiv.org/abs/2205.14135). Keys and values are packed once, and shared by all threads.
//
// Heads come before tokens, (B, h, N, D), or after them, (B, N, h, D).
//
// Legend: B batch, h heads, N queries, M keys, D size of queries and keys, E size of values.

#include <cmath>

#include "operator.h"
#include "parallel.h"
#include "simd.h"
#include "tile.h"

namespace mindone {
namespace {

constexpr int kRows = kTileRows, kColumns = kTileColumns;
constexpr Index kQueries = 6 * kRows;  // whose scores are in memory together
constexpr Index kPart = 256;           // keys that a thread copies at a time
constexpr Index kDepth = 128;          // keys that are added up in one go

struct Sizes {
  bool tokens_first;
  Index batch, heads, queries, keys, size, value_size;
  float scale;
  const float* bias;
  Index bias_batch, bias_head, bias_query, bias_key;  // its strides, 0 where it is the same for all

  // bias has four axes, each as long as that of the scores (B, h, N, M) or 1; one value stands for none. settings (2):
  // the scale, and whether tokens come before heads.
  Sizes(const int64_t* q, const int64_t* v, void* bias_data, const int64_t* bias_shape, const float* settings)
      : tokens_first(settings[1] != 0.0f), batch(q[0]), heads(q[tokens_first ? 2 : 1]), queries(q[tokens_first ? 1 : 2]),
        keys(v[tokens_first ? 1 : 2]), size(q[3]), value_size(v[3]), scale(settings[0]) {
    Index strides[4], total = 1;
    for (int i = 3; i >= 0; --i) {
      strides[i] = bias_shape[i] == 1 ? 0 : total;
      total *= bias_shape[i];
    }
    bias = total == 1 ? nullptr : floats(bias_data);
    bias_batch = strides[0];
    bias_head = strides[1];
    bias_query = strides[2];
    bias_key = strides[3];
  }

  // Where a token of a pair of sample and head begins, and how far from one token to the next.
  Index start(Index pair, Index token, Index tokens, Index width) const {
    if (!tokens_first) return (pair * tokens + token) * width;
    return ((pair / heads * tokens + token) * heads + pair % heads) * width;
  }
  Index step(Index width) const { return tokens_first ? heads * width : width; }

  Index pairs() const { return batch * heads; }
  Index panels() const { return ceil_div(keys, kColumns); }
  Index padded_keys() const { return panels() * kColumns; }
  Index blocks() const { return ceil_div(queries, kQueries); }
  const float* bias_of(Index pair, Index query) const {
    return bias ? bias + pair / heads * bias_batch + pair % heads * bias_head + query * bias_query : nullptr;
  }
};

int vectors_of(Index columns) { return std::min<Index>(kTileVectors, ceil_div(columns, kLanes)); }

// Keys or values as panels of keys (pairs, panels, width, kColumns).
void pack_keys(const Sizes& s, const float* from, Index width, float* to) {
  parallel_for(s.pairs() * s.panels(), [&](Index item) {
    const Index pair = item / s.panels(), first = item % s.panels() * kColumns;
    pack_panel<kColumns>(from + s.start(pair, first, s.keys, width), s.step(width), 1,
                         std::min<Index>(kColumns, s.keys - first), width, to + item * width * kColumns);
  });
}

// Rows of `width`, `step` apart, as rows of whole vectors, times a factor; zeros beyond.
void pad_rows(const float* from, Index step, Index rows, Index width, float factor, Index padded_rows, float* to) {
  const Index padded = round_up(width, kLanes);
  for (Index r = 0; r < padded_rows; ++r)
    for (Index i = 0; i < padded; ++i) to[r * padded + i] = r < rows && i < width ? from[r * step + i] * factor : 0.0f;
}

// c (rows, columns) += a (rows, depth) b (depth, columns): whole vectors of columns, whole tiles of rows.
template <Left left>
void add_product(Index rows, Index columns, Index depth, const float* a, Index a_step, const float* b, Index b_step,
                 float* c, Index c_step) {
  for (Index k = 0; k < depth; k += kDepth)
    for (Index j = 0; j < columns; j += kColumns)
      for (Index i = 0; i < rows; i += kRows)
        multiply_tile<left, true>(vectors_of(columns - j), left == Left::kRows ? a + i * a_step + k : a + k * a_step + i,
                                  a_step, b + k * b_step + j, b_step, std::min(kDepth, depth - k), nullptr,
                                  c + i * c_step + j, c_step);
}

// scores (rows, padded keys) = rows (rows, width) of which each is `step` long times packed keys.
void score(const Sizes& s, Index rows, const float* from, Index width, Index step, const float* packed, float* scores) {
  for (Index panel = 0; panel < s.panels(); ++panel) {
    const Index first = panel * kColumns;
    for (Index i = 0; i < rows; i += kRows)
      multiply_tile<Left::kRows, false>(vectors_of(s.keys - first), from + i * step, step,
                                        packed + panel * width * kColumns, kColumns, width, nullptr,
                                        scores + i * s.padded_keys() + first, s.padded_keys());
  }
}

void add_bias(const Sizes& s, const float* bias, float* row) {
  if (!bias) return;
  if (s.bias_key)
    for (Index i = 0; i < s.keys; ++i) row[i] += bias[i];
  else
    for (Index i = 0; i < s.keys; ++i) row[i] += *bias;
}

// row = e^(row - shift); returns the sum. What is beyond the keys becomes zero.
float exponentials(Index keys, Index padded, float shift, float* row) {
  for (Index i = keys; i < padded; ++i) row[i] = -std::numeric_limits<float>::infinity();
  Vector total{};
  for (Index i = 0; i < padded; i += kLanes) {
    const Vector y = exponential(load(row + i) - shift);
    store(row + i, y);
    total += y;
  }
  return sum(total);
}

float maximum(const float* row, Index n) {
  Vector largest = splat(row[0]);
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vector x = load(row + i);
    largest = x > largest ? x : largest;
  }
  float result = largest[0];
  for (int j = 1; j < kLanes; ++j) result = std::max(result, largest[j]);
  for (; i < n; ++i) result = std::max(result, row[i]);
  return result;
}

// Keys or values as rows of whole vectors, (pairs, M, padded width).
void pad_all(const Sizes& s, const float* from, Index width, float* to) {
  const Index padded = round_up(width, kLanes), parts = ceil_div(s.keys, kPart);
  parallel_for(s.pairs() * parts, [&](Index item) {
    const Index pair = item / parts, first = item % parts * kPart, count = std::min(kPart, s.keys - first);
    pad_rows(from + s.start(pair, first, s.keys, width), s.step(width), count, width, 1.0f, count,
             to + (pair * s.keys + first) * padded);
  });
}

void attend(const Sizes& s, const float* q, const float* k, const float* v, float* out, float* sums) {
  const Index width = round_up(s.value_size, kLanes), step = round_up(s.size, kLanes);
  thread_local Scratch shared;
  float* keys = shared.get(s.pairs() * (s.padded_keys() * s.size + s.keys * width));
  float* padded_values = keys + s.pairs() * s.padded_keys() * s.size;
  pack_keys(s, k, s.size, keys);
  const bool in_place = width == s.value_size;
  if (!in_place) pad_all(s, v, s.value_size, padded_values);
  parallel_for(s.pairs() * s.blocks(), [&](Index item) {
    thread_local Scratch scratch;
    const Index pair = item / s.blocks(), first = item % s.blocks() * kQueries;
    const Index count = std::min(kQueries, s.queries - first), rows = round_up(count, kRows);
    float* scores = scratch.get(kQueries * (s.padded_keys() + step + width));
    float* queries = scores + kQueries * s.padded_keys();
    float* result = queries + kQueries * step;
    pad_rows(q + s.start(pair, first, s.queries, s.size), s.step(s.size), count, s.size, s.scale, rows, queries);
    score(s, rows, queries, s.size, step, keys + pair * s.padded_keys() * s.size, scores);
    float totals[kQueries];
    for (Index r = 0; r < count; ++r) {
      float* row = scores + r * s.padded_keys();
      add_bias(s, s.bias_of(pair, first + r), row);
      const float largest = maximum(row, s.keys);
      totals[r] = exponentials(s.keys, s.padded_keys(), largest, row);
      sums[pair * s.queries + first + r] = largest + std::log(totals[r]);
    }
    std::memset(result, 0, rows * width * sizeof(float));
    const float* values = in_place ? v + s.start(pair, 0, s.keys, width) : padded_values + pair * s.keys * width;
    add_product<Left::kRows>(rows, width, s.keys, scores, s.padded_keys(), values, in_place ? s.step(width) : width,
                             result, width);
    for (Index r = 0; r < count; ++r) {
      const float factor = 1.0f / totals[r];
      float* to = out + s.start(pair, first + r, s.queries, s.value_size);
      for (Index i = 0; i < s.value_size; ++i) to[i] = result[r * width + i] * factor;
    }
  });
}

void attend_gradient(const Sizes& s, const float* q, const float* k, const float* v, const float* out, const float* sums,
                     const float* d_out, float* dq, float* dk, float* dv) {
  const Index width = round_up(s.value_size, kLanes), step = round_up(s.size, kLanes), padded = s.padded_keys();
  const Index key_rows = round_up(s.keys, kRows);
  // Fewer pairs than threads: several of them share a pair, each with gradients of keys and values of its own.
  const Index shares = std::min(s.blocks(), std::max<Index>(1, 2 * Pool::instance().threads() / s.pairs()));
  thread_local Scratch shared;
  const Index packed = s.pairs() * padded, parts = s.pairs() * shares * key_rows;
  float* keys = shared.get(packed * (s.size + s.value_size) + s.pairs() * s.keys * step + parts * (step + width));
  float* values = keys + packed * s.size;
  float* padded_keys = values + packed * s.value_size;
  float* dk_parts = padded_keys + s.pairs() * s.keys * step;
  float* dv_parts = dk_parts + parts * step;
  pack_keys(s, k, s.size, keys);
  pack_keys(s, v, s.value_size, values);
  pad_all(s, k, s.size, padded_keys);
  parallel_for(s.pairs() * shares, [&](Index item) {
    thread_local Scratch scratch;
    const Index pair = item / shares, share = item % shares;
    float* weights = scratch.get(kQueries * 2 * (padded + step + width));
    float* slopes = weights + kQueries * padded;
    float* queries = slopes + kQueries * padded;
    float* plain = queries + kQueries * step;
    float* d_rows = plain + kQueries * step;
    float* dk_part = dk_parts + item * key_rows * step;
    float* dv_part = dv_parts + item * key_rows * width;
    std::memset(dk_part, 0, key_rows * step * sizeof(float));
    std::memset(dv_part, 0, key_rows * width * sizeof(float));
    for (Index block = s.blocks() * share / shares; block < s.blocks() * (share + 1) / shares; ++block) {
      const Index first = block * kQueries, count = std::min(kQueries, s.queries - first), rows = round_up(count, kRows);
      const Index start = s.start(pair, first, s.queries, s.size), row_step = s.step(s.size);
      const Index out_start = s.start(pair, first, s.queries, s.value_size), out_step = s.step(s.value_size);
      pad_rows(q + start, row_step, count, s.size, s.scale, rows, queries);
      pad_rows(d_out + out_start, out_step, count, s.value_size, 1.0f, rows, d_rows);
      score(s, rows, queries, s.size, step, keys + pair * padded * s.size, weights);
      score(s, rows, d_rows, s.value_size, width, values + pair * padded * s.value_size, slopes);
      for (Index r = 0; r < rows; ++r) {
        float *weight = weights + r * padded, *slope = slopes + r * padded;
        if (r >= count) {
          std::memset(weight, 0, padded * sizeof(float));
          std::memset(slope, 0, padded * sizeof(float));
          continue;
        }
        add_bias(s, s.bias_of(pair, first + r), weight);
        exponentials(s.keys, padded, sums[pair * s.queries + first + r], weight);
        float delta = 0.0f;
        for (Index i = 0; i < s.value_size; ++i)
          delta += d_rows[r * width + i] * out[out_start + r * out_step + i];
        for (Index i = 0; i < s.keys; ++i) slope[i] = weight[i] * (slope[i] - delta);
        for (Index i = s.keys; i < padded; ++i) slope[i] = 0.0f;
      }
      // dq = scale dS k; as the packed queries are scaled already, dk = dS^T (scale q).
      std::memset(plain, 0, rows * step * sizeof(float));
      add_product<Left::kRows>(rows, step, s.keys, slopes, padded, padded_keys + pair * s.keys * step, step, plain, step);
      for (Index r = 0; r < count; ++r)
        for (Index i = 0; i < s.size; ++i) dq[start + r * row_step + i] = plain[r * step + i] * s.scale;
      add_product<Left::kColumns>(key_rows, step, count, slopes, padded, queries, step, dk_part, step);
      add_product<Left::kColumns>(key_rows, width, count, weights, padded, d_rows, width, dv_part, width);
    }
  });
  auto join = [&](const float* from, Index row, Index size, float* to) {
    parallel_pieces(s.pairs() * s.keys, 64, [&](Index first, Index last) {
      for (Index r = first; r < last; ++r) {
        float* row_to = to + s.start(r / s.keys, r % s.keys, s.keys, size);
        const float* part = from + (r / s.keys * shares * key_rows + r % s.keys) * row;
        for (Index i = 0; i < size; ++i) {
          float total = 0.0f;
          for (Index share = 0; share < shares; ++share) total += part[share * key_rows * row + i];
          row_to[i] = total;
        }
      }
    });
  };
  join(dk_parts, step, s.size, dk);
  join(dv_parts, width, s.value_size, dv);
}

}  // namespace
}  // namespace mindone

using namespace mindone;

// q (B, h, N, D), k (B, h, M, D), v (B, h, M, E), bias, settings (2) → out (B, h, N, E), logarithms of sums (B, h, N)
MINDONE_OPERATOR(mindone_attention) {
  const Sizes sizes(shapes[0], shapes[2], data[3], shapes[3], floats(data[4]));
  attend(sizes, floats(data[0]), floats(data[1]), floats(data[2]), results(data[5]), results(data[6]));
  return 0;
}

// q, k, v, bias, settings, out, logarithms of sums, d_out → dq, dk, dv
MINDONE_OPERATOR(mindone_attention_gradient) {
  const Sizes sizes(shapes[0], shapes[2], data[3], shapes[3], floats(data[4]));
  attend_gradient(sizes, floats(data[0]), floats(data[1]), floats(data[2]), floats(data[5]), floats(data[6]),
                  floats(data[7]), results(data[8]), results(data[9]), results(data[10]));
  return 0;
}
