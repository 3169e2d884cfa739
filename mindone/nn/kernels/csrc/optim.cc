// What an update does to every parameter, in one pass and in place.

#include <cmath>
#include <vector>

#include "operator.h"
#include "parallel.h"
#include "simd.h"

namespace mindone {
namespace {

constexpr Index kPiece = 65536;

}  // namespace
}  // namespace mindone

using namespace mindone;

// In place: parameter p, moments m and v; gradient g; numbers rate, beta1, beta2, eps, decay, scale.
// m = b1 m + (1 - b1) scale g, v = b2 v + (1 - b2) (scale g)^2, p -= rate (m / (sqrt(v) + eps) + decay p).
// A scale of zero stands for a gradient of zero, whatever it is.
MINDONE_OPERATOR(mindone_adamw) {
  float *p = results(data[0]), *m = results(data[1]), *v = results(data[2]);
  const float *g = floats(data[3]), rate = *floats(data[4]), b1 = *floats(data[5]), b2 = *floats(data[6]);
  const float eps = *floats(data[7]), decay = *floats(data[8]), scale = *floats(data[9]);
  parallel_pieces(values(axes, shapes, 0), kPiece, [&](Index first, Index last) {
    for (Index i = first; i < last; ++i) {
      const float slope = scale == 0.0f ? 0.0f : g[i] * scale;
      m[i] = b1 * m[i] + (1.0f - b1) * slope;
      v[i] = b2 * v[i] + (1.0f - b2) * slope * slope;
      p[i] -= rate * (m[i] / (std::sqrt(v[i]) + eps) + decay * p[i]);
    }
  });
  *results(data[10]) = 0.0f;
  return 0;
}

// In place: average += rate (p - average).
MINDONE_OPERATOR(mindone_move_towards) {
  float* average = results(data[0]);
  const float *p = floats(data[1]), rate = *floats(data[2]);
  parallel_pieces(values(axes, shapes, 0), kPiece, [&](Index first, Index last) {
    for (Index i = first; i < last; ++i) average[i] += rate * (p[i] - average[i]);
  });
  *results(data[3]) = 0.0f;
  return 0;
}

// x → the sum of its squares (1).
MINDONE_OPERATOR(mindone_square_sum) {
  const float* x = floats(data[0]);
  const Index n = values(axes, shapes, 0);
  std::vector<double> sums((n + kPiece - 1) / kPiece);
  parallel_pieces(n, kPiece, [&](Index first, Index last) {
    constexpr int kTogether = 4;
    Vector totals[kTogether] = {};
    Index i = first;
    for (; i + kTogether * kLanes <= last; i += kTogether * kLanes)
      for (int j = 0; j < kTogether; ++j) totals[j] += load(x + i + j * kLanes) * load(x + i + j * kLanes);
    double total = 0.0;
    for (int j = 0; j < kTogether; ++j) total += sum(totals[j]);
    for (; i < last; ++i) total += x[i] * x[i];
    sums[first / kPiece] = total;
  });
  double total = 0.0;
  for (double part : sums) total += part;
  *results(data[1]) = total;
  return 0;
}
