// softmax(scale q k^T + bias) v in float32, forward and backward, with the scores of a few queries in memory at a time.
//
// The forward pass keeps the logarithm of each softmax's sum, with which the backward pass computes the weights again
// (https://arxiv.org/abs/2205.14135). Keys and values are packed once, and shared by all threads. A query that may
// attend to no key gets zeros.
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
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values for all scores, of four axes, each as long as that of the scores (B, h, N, M) or 1: the stride is 0 there.
struct Spread {
  Index values = 1, batch, head, query, key;

  explicit Spread(const int64_t* shape) {
    Index* strides[4] = {&batch, &head, &query, &key};
    for (int i = 3; i >= 0; --i) {
      *strides[i] = shape[i] == 1 ? 0 : values;
      values *= shape[i];
    }
  }
};

struct Sizes {
  bool tokens_first;
  Index batch, heads, queries, keys, size, value_size;
  float scale;
  Spread bias_spread, mask_spread;
  const float* bias;    // added to the scores; none if it is the same for all
  const uint8_t* mask;  // 0 leaves a key out; none if it leaves out none

  // Of the inputs of an operator: q, k, v, bias, mask, settings (2): the scale, and whether tokens come before heads.
  Sizes(void** data, int64_t** shapes)
      : tokens_first(floats(data[5])[1] != 0.0f),
        batch(shapes[0][0]),
        heads(shapes[0][tokens_first ? 2 : 1]),
        queries(shapes[0][tokens_first ? 1 : 2]),
        keys(shapes[2][tokens_first ? 1 : 2]),
        size(shapes[0][3]),
        value_size(shapes[2][3]),
        scale(*floats(data[5])),
        bias_spread(shapes[3]),
        mask_spread(shapes[4]),
        bias(bias_spread.values == 1 ? nullptr : floats(data[3])),
        mask(static_cast<const uint8_t*>(data[4])) {
    if (mask_spread.values == 1 && *mask) mask = nullptr;
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
  Index first_of(const Spread& values, Index pair, Index query) const {
    return pair / heads * values.batch + pair % heads * values.head + query * values.query;
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
  for (Index r = 0; r < rows; ++r, from += step, to += padded) {
    for (Index i = 0; i < width; ++i) to[i] = from[i] * factor;
    for (Index i = width; i < padded; ++i) to[i] = 0.0f;
  }
  std::memset(to, 0, (padded_rows - rows) * padded * sizeof(float));
}

// c (rows, columns) += a (rows, depth) b (depth, columns): whole vectors of columns, whole tiles of rows.
template <Left left>
void add_product(Index rows, Index columns, Index depth, const float* a, Index a_step, const float* b, Index b_step,
                 float* c, Index c_step) {
  for (Index k = 0; k < depth; k += kDepth)
    for (Index j = 0; j < columns; j += kColumns)
      for (Index i = 0; i < rows; i += kRows)
        multiply_tile<left, true>(
            vectors_of(columns - j), left == Left::kRows ? a + i * a_step + k : a + k * a_step + i, a_step,
            b + k * b_step + j, b_step, std::min(kDepth, depth - k), nullptr, c + i * c_step + j, c_step);
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

// Adds the bias to a query's scores, and sets those that are left out to minus infinity.
void complete(const Sizes& s, Index pair, Index query, float* row) {
  if (s.bias) {
    const float* bias = s.bias + s.first_of(s.bias_spread, pair, query);
    if (s.bias_spread.key)
      for (Index i = 0; i < s.keys; ++i) row[i] += bias[i];
    else
      for (Index i = 0; i < s.keys; ++i) row[i] += *bias;
  }
  if (s.mask) {
    const uint8_t* mask = s.mask + s.first_of(s.mask_spread, pair, query);
    if (s.mask_spread.key)
      for (Index i = 0; i < s.keys; ++i) row[i] = mask[i] ? row[i] : -kInfinity;
    else if (!*mask)
      std::fill(row, row + s.keys, -kInfinity);
  }
}

// row = e^(row - shift); returns the sum. What is beyond the keys becomes zero.
float exponentials(Index keys, Index padded, float shift, float* row) {
  for (Index i = keys; i < padded; ++i) row[i] = -kInfinity;
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
      complete(s, pair, first + r, row);
      const float largest = maximum(row, s.keys);
      const bool none = largest == -kInfinity;
      totals[r] = exponentials(s.keys, s.padded_keys(), none ? 0.0f : largest, row) + none;
      sums[pair * s.queries + first + r] = none ? kInfinity : largest + std::log(totals[r]);
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

// What the backward pass knows, and what of it is packed for all threads.
struct Backward {
  const Sizes& s;
  const float *q, *k, *v, *out, *sums, *d_out;
  Index width = round_up(s.value_size, kLanes), step = round_up(s.size, kLanes), padded = s.padded_keys();
  float *keys = nullptr, *values = nullptr;

  Index packed() const { return s.pairs() * padded * (s.size + s.value_size); }

  void pack(float* to) {
    keys = to;
    values = keys + s.pairs() * padded * s.size;
    pack_keys(s, k, s.size, keys);
    pack_keys(s, v, s.value_size, values);
  }

  // Of a block of queries, which with their slopes are kept scaled and padded: weights (rows, padded keys) and slopes
  // of the scores.
  struct Block {
    float *weights, *slopes, *queries, *d_rows;

    Block(const Backward& b, float* memory)
        : weights(memory),
          slopes(weights + kQueries * b.padded),
          queries(slopes + kQueries * b.padded),
          d_rows(queries + kQueries * b.step) {}
    static Index values(const Backward& b) { return kQueries * (2 * b.padded + b.step + b.width); }
  };

  void fill(Block& block, Index pair, Index first, Index count) const {
    const Index rows = round_up(count, kRows), out_step = s.step(s.value_size);
    const Index out_start = s.start(pair, first, s.queries, s.value_size);
    pad_rows(q + s.start(pair, first, s.queries, s.size), s.step(s.size), count, s.size, s.scale, rows, block.queries);
    pad_rows(d_out + out_start, out_step, count, s.value_size, 1.0f, rows, block.d_rows);
    score(s, rows, block.queries, s.size, step, keys + pair * padded * s.size, block.weights);
    score(s, rows, block.d_rows, s.value_size, width, values + pair * padded * s.value_size, block.slopes);
    for (Index r = 0; r < count; ++r) {
      float *weight = block.weights + r * padded, *slope = block.slopes + r * padded;
      complete(s, pair, first + r, weight);
      exponentials(s.keys, padded, sums[pair * s.queries + first + r], weight);
      float delta = 0.0f;
      for (Index i = 0; i < s.value_size; ++i) delta += block.d_rows[r * width + i] * out[out_start + r * out_step + i];
      for (Index i = 0; i < s.keys; ++i) slope[i] = weight[i] * (slope[i] - delta);
      for (Index i = s.keys; i < padded; ++i) slope[i] = 0.0f;
    }
    std::memset(block.weights + count * padded, 0, (rows - count) * padded * sizeof(float));
    std::memset(block.slopes + count * padded, 0, (rows - count) * padded * sizeof(float));
  }
};

void attend_gradient(Backward b, float* dq, float* dk, float* dv) {
  const Sizes& s = b.s;
  const Index key_rows = round_up(s.keys, kRows);
  // Fewer pairs than threads: several of them share a pair, each with gradients of keys and values of its own.
  const Index shares = std::min(s.blocks(), std::max<Index>(1, 2 * Pool::instance().threads() / s.pairs()));
  const Index parts = s.pairs() * shares * key_rows;
  thread_local Scratch shared;
  float* padded_keys = shared.get(b.packed() + s.pairs() * s.keys * b.step + parts * (b.step + b.width));
  float* dk_parts = padded_keys + s.pairs() * s.keys * b.step;
  float* dv_parts = dk_parts + parts * b.step;
  b.pack(dv_parts + parts * b.width);
  pad_all(s, b.k, s.size, padded_keys);
  parallel_for(s.pairs() * shares, [&](Index item) {
    thread_local Scratch scratch;
    const Index pair = item / shares, share = item % shares;
    float* plain = scratch.get(kQueries * b.step + Backward::Block::values(b));
    Backward::Block block(b, plain + kQueries * b.step);
    float* dk_part = dk_parts + item * key_rows * b.step;
    float* dv_part = dv_parts + item * key_rows * b.width;
    std::memset(dk_part, 0, key_rows * b.step * sizeof(float));
    std::memset(dv_part, 0, key_rows * b.width * sizeof(float));
    for (Index i = s.blocks() * share / shares; i < s.blocks() * (share + 1) / shares; ++i) {
      const Index first = i * kQueries, count = std::min(kQueries, s.queries - first), rows = round_up(count, kRows);
      b.fill(block, pair, first, count);
      // dq = scale dS k; as the packed queries are scaled already, dk = dS^T (scale q).
      std::memset(plain, 0, rows * b.step * sizeof(float));
      add_product<Left::kRows>(rows, b.step, s.keys, block.slopes, b.padded, padded_keys + pair * s.keys * b.step,
                               b.step, plain, b.step);
      for (Index r = 0; r < count; ++r) {
        float* to = dq + s.start(pair, first + r, s.queries, s.size);
        for (Index j = 0; j < s.size; ++j) to[j] = plain[r * b.step + j] * s.scale;
      }
      add_product<Left::kColumns>(key_rows, b.step, count, block.slopes, b.padded, block.queries, b.step, dk_part,
                                  b.step);
      add_product<Left::kColumns>(key_rows, b.width, count, block.weights, b.padded, block.d_rows, b.width, dv_part,
                                  b.width);
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
  join(dk_parts, b.step, s.size, dk);
  join(dv_parts, b.width, s.value_size, dv);
}

// The bias's gradient: slopes of the scores, those that share a value added up by one thread.
void bias_gradient(Backward b, float* d_bias) {
  const Sizes& s = b.s;
  const Spread& spread = s.bias_spread;
  std::memset(d_bias, 0, spread.values * sizeof(float));
  if (!s.bias) return;  // one value for all scores changes nothing
  const Index batches = spread.batch ? s.batch : 1, heads = spread.head ? s.heads : 1;
  const Index blocks = spread.query ? s.blocks() : 1;
  thread_local Scratch shared;
  b.pack(shared.get(b.packed()));
  parallel_for(batches * heads * blocks, [&](Index item) {
    thread_local Scratch scratch;
    Backward::Block block(b, scratch.get(Backward::Block::values(b)));
    const Index item_batch = item / (heads * blocks), item_head = item / blocks % heads, item_block = item % blocks;
    for (Index batch = item_batch; batch < s.batch; batch += batches)
      for (Index head = item_head; head < s.heads; head += heads)
        for (Index i = item_block; i < s.blocks(); i += blocks) {
          const Index pair = batch * s.heads + head, first = i * kQueries,
                      count = std::min(kQueries, s.queries - first);
          b.fill(block, pair, first, count);
          for (Index r = 0; r < count; ++r) {
            float* to = d_bias + s.first_of(spread, pair, first + r);
            const float* slope = block.slopes + r * b.padded;
            for (Index key = 0; key < s.keys; ++key) to[key * spread.key] += slope[key];
          }
        }
  });
}

}  // namespace
}  // namespace mindone

using namespace mindone;

// q (B, h, N, D), k (B, h, M, D), v (B, h, M, E), bias, mask, settings (2) → out (B, h, N, E), logarithms of sums
// (B, h, N)
MINDONE_OPERATOR(mindone_attention) {
  const Sizes sizes(data, shapes);
  attend(sizes, floats(data[0]), floats(data[1]), floats(data[2]), results(data[6]), results(data[7]));
  return 0;
}

static Backward backward(const Sizes& sizes, void** data) {
  return {sizes, floats(data[0]), floats(data[1]), floats(data[2]), floats(data[6]), floats(data[7]), floats(data[8])};
}

// q, k, v, bias, mask, settings, out, logarithms of sums, d_out → dq, dk, dv
MINDONE_OPERATOR(mindone_attention_gradient) {
  const Sizes sizes(data, shapes);
  attend_gradient(backward(sizes, data), results(data[9]), results(data[10]), results(data[11]));
  return 0;
}

// The same → the gradient of the bias
MINDONE_OPERATOR(mindone_attention_bias_gradient) {
  const Sizes sizes(data, shapes);
  bias_gradient(backward(sizes, data), results(data[9]));
  return 0;
}
