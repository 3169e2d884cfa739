// Matrix products in float32, as Goto and van de Geijn describe them (https://doi.org/10.1145/1356052.1356053).
//
// Both matrices are packed: of the right one panels of kTileColumns columns, shared by all threads, of the left one
// panels of kTileRows rows, by each thread for the rows that it has, unless they can be read where they are. A panel of
// the right one stays in the first cache while those of the left one pass by.

#include "sums.h"
#include "tile.h"

using namespace mindone;

namespace {

constexpr Index kDepth = 384;              // of the panels that are multiplied at a time
constexpr Index kBlock = 12 * kTileRows;   // rows that a thread packs at a time
constexpr Index kShared = Index{1} << 22;  // floats of the right matrix that are packed at a time

// An (n, m) matrix, element (i, j) at i * row + j * column.
struct Matrix {
  const float* data;
  Index row, column;
};

// c (rows, columns) = or += left times a panel + bias: a whole tile, or a corner of one.
template <bool add, class Left>
void multiply(const Left& left, const Panel& panel, const float* bias, float* c, Index c_step, Index rows,
              Index columns) {
  if (rows == kTileRows && columns == kTileColumns)
    return multiply_tile<kTileRows, kTileVectors, add>(left, panel, bias, c, c_step);
  float whole[kTileRows * kTileColumns];
  multiply_tile<kTileRows, kTileVectors, false>(left, panel, nullptr, whole, kTileColumns);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) {
      const float value = whole[i * kTileColumns + j] + (bias ? bias[j] : 0.0f);
      c[i * c_step + j] = add ? c[i * c_step + j] + value : value;
    }
}

// c (m, n) = a (m, k) b (k, n) + bias (n) or none.
struct Product {
  Index m, n, k;
  Matrix a, b;
  const float* bias;
  float* c;
  Index panels = ceil_div(n, kTileColumns);
  Index together = std::min(round_up(k, kDepth), std::max(kDepth, kShared / (panels * kTileColumns) / kDepth * kDepth));

  // Steps [k0, k0 + depth) of some rows with panels [first, last) of `right`, whose first step is `k_right`.
  void multiply_block(Index first_row, Index last_row, Index first, Index last, Index k0, Index depth,
                      const float* right, Index k_right) const {
    thread_local Scratch scratch;
    float* left = scratch.get(kBlock * kDepth);
    // Of rows that are neighbours a step at a time, for each line of the cache has values of several panels.
    const Index steps = a.row == 1 ? kLanes : depth;
    auto in_place = [&](Index row) { return a.column == 1 && m - row >= kTileRows; };
    for (Index step = 0; step < depth; step += steps)
      for (Index row = first_row; row < last_row; row += kTileRows)
        if (!in_place(row))
          pack_panel<kTileRows>(a.data + row * a.row + (k0 + step) * a.column, a.row, a.column,
                                std::min<Index>(kTileRows, m - row), std::min(steps, depth - step),
                                left + (row - first_row) * depth + step * kTileRows);
    auto multiply_panel = [&](auto add, Index panel) {
      const Index column = panel * kTileColumns, columns = std::min<Index>(kTileColumns, n - column);
      const Panel b_panel{right + column * together + (k0 - k_right) * kTileColumns, kTileColumns, depth};
      const float* shift = bias && k0 == 0 ? bias + column : nullptr;
      for (Index row = first_row; row < last_row; row += kTileRows) {
        const Index rows = std::min<Index>(kTileRows, m - row);
        float* to = c + row * n + column;
        if (in_place(row))
          multiply<add>(Rows<kTileRows>(a.data + row * a.row + k0, a.row), b_panel, shift, to, n, rows, columns);
        else
          multiply<add>(Packed<kTileRows>{left + (row - first_row) * depth}, b_panel, shift, to, n, rows, columns);
      }
    };
    for (Index panel = first; panel < last; ++panel)
      k0 ? multiply_panel(std::true_type(), panel) : multiply_panel(std::false_type(), panel);
  }

  void run() const {
    const Index threads = Pool::instance().threads();
    // As many blocks for each thread, equally large.
    const Index wanted = round_up(ceil_div(m, kBlock), threads), block = round_up(ceil_div(m, wanted), kTileRows);
    const Index blocks = ceil_div(m, block);
    // Few rows: several threads share a block, each with some of the panels.
    const Index shares = std::max<Index>(1, std::min(panels / 4, ceil_div(4 * threads, blocks)));
    thread_local Scratch scratch;
    float* right = scratch.get(panels * kTileColumns * together);
    for (Index k0 = 0; k0 < k; k0 += together) {
      const Index k1 = std::min(k, k0 + together);
      parallel_for(panels, [&](Index panel) {
        const Index first = panel * kTileColumns;
        pack_panel<kTileColumns>(b.data + k0 * b.row + first * b.column, b.column, b.row,
                                 std::min<Index>(kTileColumns, n - first), k1 - k0, right + first * together);
      });
      parallel_for(blocks * shares, [&](Index item) {
        const Index row = item / shares * block, share = item % shares;
        for (Index at = k0; at < k1; at += kDepth)
          multiply_block(row, std::min(m, row + block), panels * share / shares, panels * (share + 1) / shares, at,
                         std::min(kDepth, k1 - at), right, k0);
      });
    }
  }
};

}  // namespace

// x, weight, bias → x weight^T + bias
MINDONE_OPERATOR(mindone_linear, "fMK fNK fN fMN") {
  const Index m = tensors.size(0, 0), k = tensors.size(0, 1), n = tensors.size(1, 0);
  Product{m, n, k, {tensors.in(0), k, 1}, {tensors.in(1), 1, k}, tensors.in(2), tensors.out(3)}.run();
}

// weight, dy → dy weight
MINDONE_OPERATOR(mindone_linear_input_gradient, "fNK fMN fMK") {
  const Index n = tensors.size(0, 0), k = tensors.size(0, 1), m = tensors.size(1, 0);
  Product{m, k, n, {tensors.in(1), n, 1}, {tensors.in(0), k, 1}, nullptr, tensors.out(2)}.run();
}

// x, dy → dy^T x, the sum of the rows of dy
MINDONE_OPERATOR(mindone_linear_weight_gradient, "fMK fMN fNK fN") {
  const Index m = tensors.size(0, 0), k = tensors.size(0, 1), n = tensors.size(1, 1);
  const float* dy = tensors.in(1);
  Product{n, k, m, {dy, 1, n}, {tensors.in(0), k, 1}, nullptr, tensors.out(2)}.run();
  sum_over_rows(1, m, n, {tensors.out(3)}, [&](Index first, Index last, float* part) {
    for (Index row = first; row < last; ++row)
#pragma omp simd
      for (Index i = 0; i < n; ++i) part[i] += dy[row * n + i];
  });
}
