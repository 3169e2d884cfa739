// Sums of many values, and sums over the rows of a matrix, by several threads.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "operator.h"
#include "parallel.h"
#include "simd.h"

namespace mindone {

constexpr Index kSums = 1024;    // values that are added up in float32 before float64 goes on
constexpr Index kPiece = 16384;  // values that a thread takes at a time

inline Index rows_together(Index width) { return std::max<Index>(1, kPiece / width); }

inline float sum(const float* x, Index n) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (Index i = 0; i < n; ++i) total += x[i];
  return total;
}

// The sum of squares around a mean.
inline float squares(const float* x, Index n, float mean) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (Index i = 0; i < n; ++i) total += (x[i] - mean) * (x[i] - mean);
  return total;
}

// Calls part(first, count) for pieces of [0, n) that float32 adds up, and gives the sum of what it returns.
template <class Part>
double sum_of_parts(Index n, Part part) {
  double total = 0.0;
  for (Index first = 0; first < n; first += kSums) total += part(first, std::min(kSums, n - first));
  return total;
}

// Calls body(first, last, part) for pieces of the rows of each group; what it adds to `part`, zero at first, is added up
// at the end: `width` values for each of `sums`, (G, width).
template <class Body>
void sum_over_rows(Index groups, Index rows, Index width, const std::vector<float*>& sums, Body body) {
  const Index all = width * static_cast<Index>(sums.size());
  const Index pieces = std::min(rows, std::max<Index>(1, 4 * Pool::instance().threads() / groups));
  thread_local Scratch scratch;
  float* parts = scratch.get(groups * pieces * all);
  parallel_for(groups * pieces, [&](Index item) {
    const Index group = item / pieces, piece = item % pieces;
    float* part = parts + item * all;
    std::memset(part, 0, all * sizeof(float));
    body(group * rows + rows * piece / pieces, group * rows + rows * (piece + 1) / pieces, part);
  });
  constexpr Index kTogether = 16384;  // sums that a thread adds up at a time
  parallel_pieces(groups * all, kTogether, [&](Index first, Index last) {
    for (Index i = first; i < last; ++i) {
      const Index group = i / all, column = i % all;
      const float* part = parts + group * pieces * all + column;
      float total = 0.0f;
      for (Index p = 0; p < pieces; ++p) total += part[p * all];
      sums[column / width][group * width + column % width] = total;
    }
  });
}

}  // namespace mindone
