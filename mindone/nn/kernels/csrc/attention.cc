// softmax(scale q k^T + bias) v in float32, forward and backward, with the scores of a few queries in memory at a time.
//
// The forward pass keeps the logarithm of each softmax's sum, with which the backward pass computes the weights again
// (https://arxiv.org/abs/2205.14135). Keys and values are packed once, and shared by all threads. A query that may
// attend to no key gets zeros. The bias gets no gradient. Tokens come before heads, (B, N, h, D).
//
// Legend: B batch, h heads, N queries, M keys, D size of queries and keys, E size of values.

#include <cmath>

#include "parallel.h"
#include "tile.h"

using namespace mindone;

namespace {

constexpr Index kQueries = 6 * kTileRows;  // whose scores are in memory together
constexpr Index kPart = 256;               // keys that a thread copies at a time
constexpr Index kDepth = 128;              // keys that are added up in one go
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values for all scores, of four axes, each as long as that of the scores (B, h, N, M) or 1: the stride is 0 there.
struct Spread {
  Index values = 1, strides[4];

  Spread(const int64_t* shape, const Index (&scores)[4]) {
    for (int i = 3; i >= 0; --i) {
      require(shape[i] == 1 || shape[i] == scores[i], "mindone_attention", "bias and mask have to fit the scores");
      strides[i] = shape[i] == 1 ? 0 : values;
      values *= shape[i];
    }
  }
};

// A call with q, k, v, bias, mask, scale.
struct Call {
  float scale;
  Index batch, heads, queries, keys, size, value_size;
  Spread bias_spread, mask_spread;
  const float* bias;    // added to the scores; none if it is the same for all
  const uint8_t* mask;  // 0 leaves a key out; none if it leaves out none

  explicit Call(const Tensors& t)
      : scale(t.number(5)),
        batch(t.size(0, 0)),
        heads(t.size(0, 2)),
        queries(t.size(0, 1)),
        keys(t.size(2, 1)),
        size(t.size(0, 3)),
        value_size(t.size(2, 3)),
        bias_spread(t.shapes[3], {batch, heads, queries, keys}),
        mask_spread(t.shapes[4], {batch, heads, queries, keys}),
        bias(bias_spread.values == 1 ? nullptr : t.in(3)),
        mask(static_cast<const uint8_t*>(t.data[4])) {
    if (mask_spread.values == 1 && *mask) mask = nullptr;
  }

  // Where a token of a pair of sample and head begins, and how far from one token to the next.
  Index start(Index pair, Index token, Index tokens, Index width) const {
    return ((pair / heads * tokens + token) * heads + pair % heads) * width;
  }
  Index step(Index width) const { return heads * width; }

  Index pairs() const { return batch * heads; }
  Index panels() const { return ceil_div(keys, kTileColumns); }
  Index padded_keys() const { return panels() * kTileColumns; }
  Index blocks() const { return ceil_div(queries, kQueries); }
  Index first_of(const Spread& spread, Index pair, Index query) const {
    return pair / heads * spread.strides[0] + pair % heads * spread.strides[1] + query * spread.strides[2];
  }
};

// Keys or values as panels of keys (pairs, panels, width, kTileColumns).
void pack_keys(const Call& s, const float* from, Index width, float* to) {
  parallel_for(s.pairs() * s.panels(), [&](Index item) {
    const Index pair = item / s.panels(), first = item % s.panels() * kTileColumns;
    pack_panel<kTileColumns>(from + s.start(pair, first, s.keys, width), s.step(width), 1,
                             std::min<Index>(kTileColumns, s.keys - first), width, to + item * width * kTileColumns);
  });
}

// Rows of `width`, `step` apart, as rows of whole vectors, times a factor; zeros beyond.
void pad_rows(const float* from, Index step, Index rows, Index width, float factor, Index padded_rows, float* to) {
  const Index padded = round_up(width, kLanes);
  for (Index r = 0; r < rows; ++r, from += step, to += padded) {
    for (Index i = 0; i < width; ++i) to[i] = from[i] * factor;
    for (Index i = width; i < padded; ++i) to[i] = 0.0f;
  }
  std::memset(to, 0, (padded_rows - rows) * padded * sizeof(float));
}

// Keys or values as rows of whole vectors, (pairs, M, padded width).
void pad_keys(const Call& s, const float* from, Index width, float* to) {
  const Index padded = round_up(width, kLanes), parts = ceil_div(s.keys, kPart);
  parallel_for(s.pairs() * parts, [&](Index item) {
    const Index pair = item / parts, first = item % parts * kPart, count = std::min(kPart, s.keys - first);
    pad_rows(from + s.start(pair, first, s.keys, width), s.step(width), count, width, 1.0f, count,
             to + (pair * s.keys + first) * padded);
  });
}

// c (rows, columns) += left (rows, depth) b (depth, columns), where left(row, k) is the left matrix from there on:
// whole vectors of columns, whole tiles of rows.
template <class Left>
void add_product(Index rows, Index columns, Index depth, Left left, const float* b, Index b_step, float* c,
                 Index c_step) {
  for (Index k = 0; k < depth; k += kDepth)
    for (Index j = 0; j < columns; j += kTileColumns)
      for (Index i = 0; i < rows; i += kTileRows)
        multiply_tile<kTileRows, true>(vectors_of(columns - j), left(i, k),
                                       Panel{b + k * b_step + j, b_step, std::min(kDepth, depth - k)}, nullptr,
                                       c + i * c_step + j, c_step);
}

// scores (rows, padded keys) = rows (rows, width) of which each is `step` long times packed keys.
void score(const Call& s, Index rows, const float* from, Index width, Index step, const float* packed, float* scores) {
  for (Index first = 0; first < s.keys; first += kTileColumns)
    for (Index i = 0; i < rows; i += kTileRows)
      multiply_tile<kTileRows, false>(vectors_of(s.keys - first), Rows<kTileRows>(from + i * step, step),
                                      Panel{packed + first * width, kTileColumns, width}, nullptr,
                                      scores + i * s.padded_keys() + first, s.padded_keys());
}

// Adds the bias to a query's scores, and sets those that are left out, and what is beyond, to minus infinity.
void complete(const Call& s, Index pair, Index query, float* row) {
  if (s.bias) {
    const float* bias = s.bias + s.first_of(s.bias_spread, pair, query);
    if (s.bias_spread.strides[3])
      for (Index i = 0; i < s.keys; ++i) row[i] += bias[i];
    else
      for (Index i = 0; i < s.keys; ++i) row[i] += *bias;
  }
  if (s.mask) {
    const uint8_t* mask = s.mask + s.first_of(s.mask_spread, pair, query);
    if (s.mask_spread.strides[3])
      for (Index i = 0; i < s.keys; ++i) row[i] = mask[i] ? row[i] : -kInfinity;
    else if (!*mask)
      std::fill(row, row + s.keys, -kInfinity);
  }
  std::fill(row + s.keys, row + s.padded_keys(), -kInfinity);
}

// row = e^(row - shift), of whole vectors; returns the sum.
float exponentials(float* row, Index n, float shift) {
  Vector total{};
  for (Index i = 0; i < n; i += kLanes) {
    const Vector y = exponential(load(row + i) - shift);
    store(row + i, y);
    total += y;
  }
  return sum(total);
}

float maximum(const float* row, Index n) {
  Vector largest = load(row);
  for (Index i = kLanes; i < n; i += kLanes) {
    const Vector x = load(row + i);
    largest = x > largest ? x : largest;
  }
  float result = largest[0];
  for (int j = 1; j < kLanes; ++j) result = std::max(result, largest[j]);
  return result;
}

void attend(const Call& s, const float* q, const float* k, const float* v, float* out, float* sums) {
  const Index width = round_up(s.value_size, kLanes), step = round_up(s.size, kLanes), padded = s.padded_keys();
  thread_local Scratch shared;
  float* keys = shared.get(s.pairs() * (padded * s.size + s.keys * width));
  float* padded_values = keys + s.pairs() * padded * s.size;
  pack_keys(s, k, s.size, keys);
  const bool in_place = width == s.value_size;
  if (!in_place) pad_keys(s, v, s.value_size, padded_values);
  parallel_for(s.pairs() * s.blocks(), [&](Index item) {
    thread_local Scratch scratch;
    const Index pair = item / s.blocks(), first = item % s.blocks() * kQueries;
    const Index count = std::min(kQueries, s.queries - first), rows = round_up(count, kTileRows);
    float* scores = scratch.get(kQueries * (padded + step + width));
    float* queries = scores + kQueries * padded;
    float* result = queries + kQueries * step;
    pad_rows(q + s.start(pair, first, s.queries, s.size), s.step(s.size), count, s.size, s.scale, rows, queries);
    score(s, rows, queries, s.size, step, keys + pair * padded * s.size, scores);
    float totals[kQueries];
    for (Index r = 0; r < count; ++r) {
      float* row = scores + r * padded;
      complete(s, pair, first + r, row);
      const float largest = maximum(row, padded);
      const bool none = largest == -kInfinity;
      totals[r] = exponentials(row, padded, none ? 0.0f : largest) + none;
      sums[pair * s.queries + first + r] = none ? kInfinity : largest + std::log(totals[r]);
    }
    std::memset(result, 0, rows * width * sizeof(float));
    const float* values = in_place ? v + s.start(pair, 0, s.keys, width) : padded_values + pair * s.keys * width;
    auto weights = [&](Index i, Index key) { return Rows<kTileRows>(scores + i * padded + key, padded); };
    add_product(rows, width, s.keys, weights, values, in_place ? s.step(width) : width, result, width);
    for (Index r = 0; r < count; ++r) {
      const float factor = 1.0f / totals[r];
      float* to = out + s.start(pair, first + r, s.queries, s.value_size);
      for (Index i = 0; i < s.value_size; ++i) to[i] = result[r * width + i] * factor;
    }
  });
}

// The backward pass. Fewer pairs than threads: several of them share a pair, each with gradients of keys and values of
// its own.
struct Backward {
  const Call& s;
  const float *q, *k, *v, *out, *sums, *d_out;
  float* dq;
  Index width = round_up(s.value_size, kLanes), step = round_up(s.size, kLanes), padded = s.padded_keys();
  Index key_rows = round_up(s.keys, kTileRows);
  Index shares = std::min(s.blocks(), std::max<Index>(1, 2 * Pool::instance().threads() / s.pairs()));
  float *padded_keys = nullptr, *dk_parts = nullptr, *dv_parts = nullptr, *keys = nullptr, *values = nullptr;

  // What a thread has of a block of queries: weights and slopes of the scores (rows, padded keys), the queries, scaled
  // and padded, the padded gradients of their results, and their own gradients.
  struct Block {
    float *weights, *slopes, *queries, *d_rows, *plain;
  };

  void run(float* dk, float* dv) {
    const Index parts = s.pairs() * shares * key_rows;
    thread_local Scratch scratch;
    padded_keys = scratch.get(s.pairs() * (s.keys * step + padded * (s.size + s.value_size)) + parts * (step + width));
    dk_parts = padded_keys + s.pairs() * s.keys * step;
    dv_parts = dk_parts + parts * step;
    keys = dv_parts + parts * width;
    values = keys + s.pairs() * padded * s.size;
    pad_keys(s, k, s.size, padded_keys);
    pack_keys(s, k, s.size, keys);
    pack_keys(s, v, s.value_size, values);
    parallel_for(s.pairs() * shares, [&](Index item) { add_share(item); });
    join(dk_parts, step, s.size, dk);
    join(dv_parts, width, s.value_size, dv);
  }

  // Fills weights, slopes and padded rows of `count` queries from `first` on.
  void fill(const Block& block, Index pair, Index first, Index count) const {
    const Index rows = round_up(count, kTileRows), out_step = s.step(s.value_size);
    const Index out_start = s.start(pair, first, s.queries, s.value_size);
    pad_rows(q + s.start(pair, first, s.queries, s.size), s.step(s.size), count, s.size, s.scale, rows, block.queries);
    pad_rows(d_out + out_start, out_step, count, s.value_size, 1.0f, rows, block.d_rows);
    score(s, rows, block.queries, s.size, step, keys + pair * padded * s.size, block.weights);
    score(s, rows, block.d_rows, s.value_size, width, values + pair * padded * s.value_size, block.slopes);
    for (Index r = 0; r < count; ++r) {
      float *weight = block.weights + r * padded, *slope = block.slopes + r * padded;
      complete(s, pair, first + r, weight);
      exponentials(weight, padded, sums[pair * s.queries + first + r]);
      float delta = 0.0f;
      for (Index i = 0; i < s.value_size; ++i) delta += block.d_rows[r * width + i] * out[out_start + r * out_step + i];
      for (Index i = 0; i < s.keys; ++i) slope[i] = weight[i] * (slope[i] - delta);
      std::fill(slope + s.keys, slope + padded, 0.0f);
    }
    std::memset(block.weights + count * padded, 0, (rows - count) * padded * sizeof(float));
    std::memset(block.slopes + count * padded, 0, (rows - count) * padded * sizeof(float));
  }

  // Gradients of the queries of a share of a pair, and its part of those of keys and values.
  void add_share(Index item) const {
    thread_local Scratch scratch;
    const Index pair = item / shares, share = item % shares;
    float* memory = scratch.get(kQueries * (2 * padded + 2 * step + width));
    const Block block{memory, memory + kQueries * padded, memory + kQueries * 2 * padded,
                      memory + kQueries * (2 * padded + step), memory + kQueries * (2 * padded + step + width)};
    float *dk_part = dk_parts + item * key_rows * step, *dv_part = dv_parts + item * key_rows * width;
    std::memset(dk_part, 0, key_rows * step * sizeof(float));
    std::memset(dv_part, 0, key_rows * width * sizeof(float));
    auto slopes = [&](Index i, Index key) { return Rows<kTileRows>(block.slopes + i * padded + key, padded); };
    auto slope_columns = [&](Index i, Index row) { return Columns{block.slopes + row * padded + i, padded}; };
    auto weight_columns = [&](Index i, Index row) { return Columns{block.weights + row * padded + i, padded}; };
    for (Index i = s.blocks() * share / shares; i < s.blocks() * (share + 1) / shares; ++i) {
      const Index first = i * kQueries, count = std::min(kQueries, s.queries - first);
      const Index rows = round_up(count, kTileRows);
      fill(block, pair, first, count);
      // dq = scale dS k; as the padded queries are scaled already, dk = dS^T (scale q).
      std::memset(block.plain, 0, rows * step * sizeof(float));
      add_product(rows, step, s.keys, slopes, padded_keys + pair * s.keys * step, step, block.plain, step);
      for (Index r = 0; r < count; ++r) {
        float* to = dq + s.start(pair, first + r, s.queries, s.size);
        for (Index j = 0; j < s.size; ++j) to[j] = block.plain[r * step + j] * s.scale;
      }
      add_product(key_rows, step, count, slope_columns, block.queries, step, dk_part, step);
      add_product(key_rows, width, count, weight_columns, block.d_rows, width, dv_part, width);
    }
  }

  // Adds up the parts of shares, (pairs, shares, key rows, row).
  void join(const float* parts, Index row, Index size, float* to) const {
    parallel_pieces(s.pairs() * s.keys, 64, [&](Index first, Index last) {
      for (Index r = first; r < last; ++r) {
        float* row_to = to + s.start(r / s.keys, r % s.keys, s.keys, size);
        const float* part = parts + (r / s.keys * shares * key_rows + r % s.keys) * row;
        for (Index i = 0; i < size; ++i) {
          float total = 0.0f;
          for (Index share = 0; share < shares; ++share) total += part[share * key_rows * row + i];
          row_to[i] = total;
        }
      }
    });
  }
};

}  // namespace

// q, k, v, bias, mask, scale → out, logarithms of sums
MINDONE_OPERATOR(mindone_attention, "fBNhD fBMhD fBMhE f???? b???? f fBNhE fBhN") {
  const Call call(tensors);
  attend(call, tensors.in(0), tensors.in(1), tensors.in(2), tensors.out(6), tensors.out(7));
}

// q, k, v, bias, mask, scale, out, logarithms of sums, d_out → dq, dk, dv
MINDONE_OPERATOR(mindone_attention_gradient,
                 "fBNhD fBMhD fBMhE f???? b???? f fBNhE fBhN fBNhE fBNhD fBMhD fBMhE") {
  const Call call(tensors);
  Backward{call, tensors.in(0), tensors.in(1), tensors.in(2), tensors.in(6), tensors.in(7), tensors.in(8),
           tensors.out(9)}
      .run(tensors.out(10), tensors.out(11));
}
