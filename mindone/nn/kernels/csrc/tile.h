// The product of a few rows with a few vectors of columns, all of whose sums are in registers.
#pragma once

#include "operator.h"
#include "simd.h"

namespace mindone {

// 24 vectors of sums of 32 registers, 12 of 16, or 16 of 32. Columns of a tile are a multiple of its rows.
constexpr int kTileRows = kLanes == 16 ? 8 : 4;
constexpr int kTileVectors = kLanes == 4 ? 4 : 3;
constexpr int kTileColumns = kTileVectors * kLanes;

// How the left matrix lies: a row's values are neighbours, and rows `step` apart, or the other way round.
enum class Left { kRows, kColumns };

// c (kTileRows, vectors) = or += a (kTileRows, depth) b (depth, vectors) + bias or none.
template <int vectors, Left left, bool add>
MINDONE_INLINE void multiply_tile(const float* a, Index a_step, const float* b, Index b_step, Index depth,
                                  const float* bias, float* c, Index c_step) {
  Vector total[kTileRows][vectors] = {};
  const float* rows[kTileRows];
  for (int i = 0; i < kTileRows; ++i) rows[i] = a + i * a_step;
  for (int i = 0; i < kTileRows; ++i)
    for (int j = 0; j < vectors; ++j) __builtin_prefetch(c + i * c_step + j * kLanes, 1);
  for (Index k = 0; k < depth; ++k, b += b_step) {
    // The right one comes from the second cache; a few steps ahead is early enough.
    for (int j = 0; j < vectors; ++j) __builtin_prefetch(b + 8 * b_step + j * kLanes);
    Vector right[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const Vector value = splat(left == Left::kRows ? rows[i][k] : a[k * a_step + i]);
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) total[i][j] += value * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      float* to = c + i * c_step + j * kLanes;
      Vector value = total[i][j];
      if (bias) value += load(bias + j * kLanes);
      store(to, add ? load(to) + value : value);
    }
}

// The same for up to kTileVectors vectors.
template <Left left, bool add>
void multiply_tile(int vectors, const float* a, Index a_step, const float* b, Index b_step, Index depth,
                   const float* bias, float* c, Index c_step) {
  switch (vectors) {
    case 1:
      return multiply_tile<1, left, add>(a, a_step, b, b_step, depth, bias, c, c_step);
    case 2:
      return multiply_tile<2, left, add>(a, a_step, b, b_step, depth, bias, c, c_step);
    case 3:
      return multiply_tile<3, left, add>(a, a_step, b, b_step, depth, bias, c, c_step);
    default:
      return multiply_tile<kTileVectors, left, add>(a, a_step, b, b_step, depth, bias, c, c_step);
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
