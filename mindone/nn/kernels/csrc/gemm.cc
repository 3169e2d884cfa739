// Matrix products in float32, as Goto and van de Geijn describe them (https://doi.org/10.1145/1356052.1356053).
//
// Both matrices are packed: of the right one panels of kColumns columns, shared by all threads, of the left one panels
// of kRows rows, by each thread for the rows that it has. A panel of the right one stays in the first cache while those
// of the left one pass by.

#include "operator.h"
#include "parallel.h"
#include "simd.h"
#include "sums.h"
#include "tile.h"

namespace mindone {
namespace {

constexpr int kRows = kTileRows, kColumns = kTileColumns;
constexpr Index kDepth = 384;              // of the panels that are multiplied at a time
constexpr Index kBlock = 12 * kRows;       // rows that a thread packs at a time
constexpr Index kShared = Index{1} << 22;  // floats of the right matrix that are packed at a time

// An (n, m) matrix, element (i, j) at i * row + j * column.
struct Matrix {
  const float* data;
  Index row, column;
};

// c (kRows, kColumns) = or += a times a panel + bias.
template <Left left, bool add>
void multiply(const float* a, Index a_step, const float* panel, Index depth, const float* bias, float* c,
              Index stride) {
  multiply_tile<kTileVectors, left, add>(a, a_step, panel, kColumns, depth, bias, c, stride);
}

// The same for a corner of less than a whole panel.
template <bool add>
void multiply_part(const float* a, const float* b, Index depth, const float* bias, float* c, Index stride, Index rows,
                   Index columns) {
  float whole[kRows * kColumns];
  multiply<Left::kColumns, false>(a, kRows, b, depth, nullptr, whole, kColumns);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) {
      const float value = whole[i * kColumns + j] + (bias ? bias[j] : 0.0f);
      c[i * stride + j] = add ? c[i * stride + j] + value : value;
    }
}

// c (m, n) = a (m, k) b (k, n) + bias (n) or none.
void product(Index m, Index n, Index k, Matrix a, Matrix b, const float* bias, float* c) {
  const Index panels = ceil_div(n, kColumns), threads = Pool::instance().threads();
  // As many blocks for each thread, equally large.
  const Index wanted = round_up(ceil_div(m, kBlock), threads), block = round_up(ceil_div(m, wanted), kRows);
  const Index blocks = ceil_div(m, block);
  const Index together =
      std::min(round_up(k, kDepth), std::max(kDepth, kShared / (panels * kColumns) / kDepth * kDepth));
  // Few rows: several threads share a block, each with some of the panels.
  const Index shares = std::max<Index>(1, std::min(panels / 4, ceil_div(4 * threads, blocks)));
  thread_local Scratch shared;
  float* right = shared.get(panels * kColumns * together);
  for (Index k0 = 0; k0 < k; k0 += together) {
    const Index k1 = std::min(k, k0 + together);
    parallel_for(panels, [&](Index panel) {
      const Index first = panel * kColumns;
      pack_panel<kColumns>(b.data + k0 * b.row + first * b.column, b.column, b.row,
                           std::min<Index>(kColumns, n - first), k1 - k0, right + panel * kColumns * together);
    });
    parallel_for(blocks * shares, [&](Index item) {
      thread_local Scratch scratch;
      float* left = scratch.get(kBlock * kDepth);
      const bool in_place = a.column == 1, share_is_ragged = n % kColumns && item % shares == shares - 1;
      const Index first_row = item / shares * block, last_row = std::min(m, first_row + block), share = item % shares;
      for (Index k2 = k0; k2 < k1; k2 += kDepth) {
        const Index depth = std::min(kDepth, k1 - k2);
        // Of rows that are neighbours a step at a time, for each line of the cache has values of several panels.
        const Index steps = a.row == 1 ? kLanes : depth;
        for (Index k = 0; k < depth; k += steps)
          for (Index row = first_row; row < last_row; row += kRows)
            if (!in_place || m - row < kRows || share_is_ragged)
              pack_panel<kRows>(a.data + row * a.row + (k2 + k) * a.column, a.row, a.column,
                                std::min<Index>(kRows, m - row), std::min(steps, depth - k),
                                left + (row - first_row) * depth + k * kRows);
        for (Index panel = panels * share / shares; panel < panels * (share + 1) / shares; ++panel) {
          const float* b_panel = right + panel * kColumns * together + (k2 - k0) * kColumns;
          const Index column = panel * kColumns, columns = std::min<Index>(kColumns, n - column);
          const float* add = bias && k2 == 0 ? bias + column : nullptr;
          for (Index row = first_row; row < last_row; row += kRows) {
            const float* a_panel = left + (row - first_row) * depth;
            const Index rows = std::min<Index>(kRows, m - row);
            float* to = c + row * n + column;
            const float* a_rows = a.data + row * a.row + k2;
            if (rows == kRows && columns == kColumns && in_place)
              k2 ? multiply<Left::kRows, true>(a_rows, a.row, b_panel, depth, add, to, n)
                 : multiply<Left::kRows, false>(a_rows, a.row, b_panel, depth, add, to, n);
            else if (rows == kRows && columns == kColumns)
              k2 ? multiply<Left::kColumns, true>(a_panel, kRows, b_panel, depth, add, to, n)
                 : multiply<Left::kColumns, false>(a_panel, kRows, b_panel, depth, add, to, n);
            else
              k2 ? multiply_part<true>(a_panel, b_panel, depth, add, to, n, rows, columns)
                 : multiply_part<false>(a_panel, b_panel, depth, add, to, n, rows, columns);
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace mindone

using namespace mindone;

// x (M, K), weight (N, K), bias (N) → x weight^T + bias (M, N)
MINDONE_OPERATOR(mindone_linear) {
  const Index m = shapes[0][0], k = shapes[0][1], n = shapes[1][0];
  product(m, n, k, {floats(data[0]), k, 1}, {floats(data[1]), 1, k}, floats(data[2]), results(data[3]));
  return 0;
}

// weight (N, K), dy (M, N) → dy weight (M, K)
MINDONE_OPERATOR(mindone_linear_input_gradient) {
  const Index n = shapes[0][0], k = shapes[0][1], m = shapes[1][0];
  product(m, k, n, {floats(data[1]), n, 1}, {floats(data[0]), k, 1}, nullptr, results(data[2]));
  return 0;
}

// x (M, K), dy (M, N) → dy^T x (N, K), the sum of the rows of dy (N)
MINDONE_OPERATOR(mindone_linear_weight_gradient) {
  const Index m = shapes[0][0], k = shapes[0][1], n = shapes[1][1];
  product(n, k, m, {floats(data[1]), 1, n}, {floats(data[0]), k, 1}, nullptr, results(data[2]));
  const float* dy = floats(data[1]);
  sum_over_rows(1, m, n, results(data[3]), [&](Index first, Index last, float* part) {
    for (Index row = first; row < last; ++row)
      for (Index i = 0; i < n; ++i) part[i] += dy[row * n + i];
  });
  return 0;
}
