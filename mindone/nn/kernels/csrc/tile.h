// The product of a few rows with a few vectors of columns, all of whose sums are in registers.
#pragma once

#include "operator.h"
#include "simd.h"

namespace mindone {

// 24 vectors of sums of 32 registers, 12 of 16, or 16 of 32. Columns of a tile are a multiple of its rows.
constexpr int kTileRows = kLanes == 16 ? 8 : 4;
constexpr int kTileVectors = kLanes == 4 ? 4 : 3;
constexpr int kTileColumns = kTileVectors * kLanes;

inline int vectors_of(Index columns) {
  return static_cast<int>(std::min<Index>(kTileVectors, ceil_div(columns, kLanes)));
}

// The left matrix: rows that lie anywhere, each with its values side by side,
template <int rows>
struct Rows {
  const float* row[rows];

  Rows(const float* data, Index step) {
    for (int i = 0; i < rows; ++i) row[i] = data + i * step;
  }
  MINDONE_INLINE float operator()(int i, Index k) const { return row[i][k]; }
};

// or columns that lie end to end,
template <int rows>
struct Packed {
  const float* data;
  MINDONE_INLINE float operator()(int i, Index k) const { return data[k * rows + i]; }
};

// or `step` apart.
struct Columns {
  const float* data;
  Index step;
  MINDONE_INLINE float operator()(int i, Index k) const { return data[k * step + i]; }
};

// The right matrix: rows `step` apart. Others have an `each` of their own, and may be near, as are their results.
struct Panel {
  static constexpr bool kFar = true;  // in the second cache or beyond
  const float* data;
  Index step, depth;

  template <int vectors, class Body>
  MINDONE_INLINE void each(Body body) const {
    const float* at = data;
    for (Index k = 0; k < depth; ++k, at += step) {
      // A few steps ahead is early enough.
      for (int j = 0; j < vectors; ++j) __builtin_prefetch(at + 8 * step + j * kLanes);
      body(k, at);
    }
  }
};

// c (rows, vectors) = or += left (rows, depth) right (depth, vectors) + bias or none. A function of its own, for
// inlined it would have to share the registers.
template <int rows, int vectors, bool add, class Left, class Right>
__attribute__((noinline)) void multiply_tile(const Left& left, const Right& right, const float* bias, float* c,
                                             Index c_step) {
  Vector total[rows][vectors] = {};
  for (int i = 0; Right::kFar && i < rows; ++i)
    for (int j = 0; j < vectors; ++j) __builtin_prefetch(c + i * c_step + j * kLanes, 1);
  right.template each<vectors>([&](Index k, const float* at) __attribute__((always_inline)) {
    Vector values[vectors];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) values[j] = load(at + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Vector value = splat(left(i, k));
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) total[i][j] += value * values[j];
    }
  });
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      float* to = c + i * c_step + j * kLanes;
      Vector value = total[i][j];
      if (bias) value += load(bias + j * kLanes);
      store(to, add ? load(to) + value : value);
    }
}

// The same for up to kTileVectors vectors.
template <int rows, bool add, class Left, class Right>
void multiply_tile(int vectors, const Left& left, const Right& right, const float* bias, float* c, Index c_step) {
  switch (vectors) {
    case 1:
      return multiply_tile<rows, 1, add>(left, right, bias, c, c_step);
    case 2:
      return multiply_tile<rows, 2, add>(left, right, bias, c, c_step);
    case 3:
      return multiply_tile<rows, 3, add>(left, right, bias, c, c_step);
    default:
      return multiply_tile<rows, kTileVectors, add>(left, right, bias, c, c_step);
  }
}

// `width` neighbours of the line axis, for `depth` steps of the other one, as (depth, panel); zeros beyond `width`.
template <int panel>
void pack_panel(const float* from, Index line, Index step, Index width, Index depth, float* to) {
  if (width < panel) std::memset(to, 0, depth * panel * sizeof(float));
  if (line == 1) {
    for (Index k = 0; k < depth; ++k, from += step, to += panel)
      if (width == panel)
        for (int i = 0; i < panel; ++i) to[i] = from[i];
      else
        for (Index i = 0; i < width; ++i) to[i] = from[i];
    return;
  }
  // Lines are far apart, or end to end: squares of them are transposed.
  for (Index i = 0; i < width; i += kLanes) {
    const Index lines = std::min<Index>(kLanes, width - i);
    Index k = 0;
    if (step == 1 && i + kLanes <= panel)
      for (; k + kLanes <= depth; k += kLanes) {
        Vector rows[kLanes];
        for (int j = 0; j < kLanes; ++j) rows[j] = j < lines ? load(from + (i + j) * line + k) : Vector{};
        transpose(rows);
        for (int j = 0; j < kLanes; ++j) store(to + (k + j) * panel + i, rows[j]);
      }
    for (; k < depth; ++k)
      for (Index j = i; j < i + lines; ++j) to[k * panel + j] = from[j * line + k * step];
  }
}

}  // namespace mindone
