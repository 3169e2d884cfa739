// What an update does to every parameter, in one pass and in place.

#include <cmath>
#include <vector>

#include "sums.h"

using namespace mindone;

// In place: parameter p, moments m and v; gradient g; numbers rate, beta1, beta2, eps, decay, scale; a zero.
// m = b1 m + (1 - b1) scale g, v = b2 v + (1 - b2) (scale g)^2, p -= rate (m / (sqrt(v) + eps) + decay p).
// A scale of zero stands for a gradient of zero, whatever it is.
MINDONE_OPERATOR(mindone_adamw, "f. f= f= f= f f f f f f f") {
  float *p = tensors.out(0), *m = tensors.out(1), *v = tensors.out(2);
  const float *g = tensors.in(3), rate = tensors.number(4), b1 = tensors.number(5), b2 = tensors.number(6);
  const float eps = tensors.number(7), decay = tensors.number(8), scale = tensors.number(9);
  parallel_pieces(tensors.values(0), kPiece, [&](Index first, Index last) {
#pragma omp simd
    for (Index i = first; i < last; ++i) {
      const float slope = scale == 0.0f ? 0.0f : g[i] * scale;
      m[i] = b1 * m[i] + (1.0f - b1) * slope;
      v[i] = b2 * v[i] + (1.0f - b2) * slope * slope;
      p[i] -= rate * (m[i] / (std::sqrt(v[i]) + eps) + decay * p[i]);
    }
  });
  *tensors.out(10) = 0.0f;
}

// In place: average += rate (p - average); a zero.
MINDONE_OPERATOR(mindone_move_towards, "f. f= f f") {
  float* average = tensors.out(0);
  const float *p = tensors.in(1), rate = tensors.number(2);
  parallel_pieces(tensors.values(0), kPiece, [&](Index first, Index last) {
    for (Index i = first; i < last; ++i) average[i] += rate * (p[i] - average[i]);
  });
  *tensors.out(3) = 0.0f;
}

// x → the sum of its squares (1).
MINDONE_OPERATOR(mindone_square_sum, "f. f1") {
  const float* x = tensors.in(0);
  const Index n = tensors.values(0);
  std::vector<double> sums(ceil_div(n, kPiece));
  parallel_pieces(n, kPiece, [&](Index first, Index last) {
    constexpr int kTogether = 4;  // sums of their own, which need not wait for one another
    Vector totals[kTogether] = {};
    Index i = first;
    for (; i + kTogether * kLanes <= last; i += kTogether * kLanes)
      for (int j = 0; j < kTogether; ++j) totals[j] += load(x + i + j * kLanes) * load(x + i + j * kLanes);
    double total = squares(x + i, last - i, 0.0f);
    for (int j = 0; j < kTogether; ++j) total += sum(totals[j]);
    sums[first / kPiece] = total;
  });
  double total = 0.0;
  for (double part : sums) total += part;
  *tensors.out(1) = static_cast<float>(total);
}
