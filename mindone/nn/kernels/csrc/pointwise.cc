// Activations, gates and rotary embedding in float32, forward and backward, each in one pass.
//
// Legend: G groups of rows that share a gate, R rows of a group, D width.

#include "sums.h"

using namespace mindone;

namespace {

// `count` of a vector's values, the others zero.
MINDONE_INLINE Vector load_part(const float* from, Index count) {
  float part[kLanes] = {};
  std::memcpy(part, from, count * sizeof(float));
  return load(part);
}

// y = function(a, b), by the same instructions for vectors and for what is left of them.
template <class Function>
void map(Index n, const float* a, const float* b, float* y, Function function) {
  parallel_pieces(n, kPiece, [&](Index first, Index last) {
    Index i = first;
    for (; i + kLanes <= last; i += kLanes) store(y + i, function(load(a + i), load(b + i)));
    if (i == last) return;
    float part[kLanes];
    store(part, function(load_part(a + i, last - i), load_part(b + i, last - i)));
    std::memcpy(y + i, part, (last - i) * sizeof(float));
  });
}

// The function x sigmoid(rate x).
template <int thousandths>
struct Gated {
  static constexpr float kRate = thousandths / 1000.0f;
  Vector value(Vector x) const { return x * sigmoid(kRate * x); }
  Vector slope(Vector x) const {
    const Vector gate = sigmoid(kRate * x);
    return gate * (1.0f + kRate * x * (1.0f - gate));
  }
};

// GELU in its tanh form, x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
struct Gelu {
  static constexpr float kSlope = 1.5957691216057308f, kCubic = 0.044715f * kSlope;
  Vector value(Vector x) const { return x * sigmoid(x * (kSlope + kCubic * x * x)); }
  Vector slope(Vector x) const {
    const Vector gate = sigmoid(x * (kSlope + kCubic * x * x));
    return gate * (1.0f + x * (1.0f - gate) * (kSlope + 3.0f * kCubic * x * x));
  }
};

// x → y
template <class Activation>
void activate(const Tensors& t, Activation f) {
  map(t.values(0), t.in(0), t.in(0), t.out(1), [&](Vector x, Vector) { return f.value(x); });
}

// x, dy → dx
template <class Activation>
void activation_gradient(const Tensors& t, Activation f) {
  map(t.values(0), t.in(0), t.in(1), t.out(2), [&](Vector x, Vector dy) { return dy * f.slope(x); });
}

}  // namespace

MINDONE_OPERATOR(mindone_silu, "f. f=") { activate(tensors, Gated<1000>{}); }
MINDONE_OPERATOR(mindone_silu_gradient, "f. f= f=") { activation_gradient(tensors, Gated<1000>{}); }
MINDONE_OPERATOR(mindone_quick_gelu, "f. f=") { activate(tensors, Gated<1702>{}); }
MINDONE_OPERATOR(mindone_quick_gelu_gradient, "f. f= f=") { activation_gradient(tensors, Gated<1702>{}); }
MINDONE_OPERATOR(mindone_gelu, "f. f=") { activate(tensors, Gelu{}); }
MINDONE_OPERATOR(mindone_gelu_gradient, "f. f= f=") { activation_gradient(tensors, Gelu{}); }

// x, gate, y → x + gate * y
MINDONE_OPERATOR(mindone_gated_sum, "fGRD fG1D f= f=") {
  const Index rows = tensors.size(0, 1), width = tensors.size(0, 2);
  const float *x = tensors.in(0), *gate = tensors.in(1), *y = tensors.in(2);
  float* out = tensors.out(3);
  parallel_pieces(tensors.size(0, 0) * rows, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const float* row = gate + r / rows * width;
#pragma omp simd
      for (Index i = 0; i < width; ++i) out[r * width + i] = x[r * width + i] + row[i] * y[r * width + i];
    }
  });
}

// gate, y, d_out → d_gate, dy
MINDONE_OPERATOR(mindone_gated_sum_gradient, "fG1D fGRD fGRD f= fGRD") {
  const Index rows = tensors.size(1, 1), width = tensors.size(1, 2);
  const float *gate = tensors.in(0), *y = tensors.in(1), *d_out = tensors.in(2);
  float* dy = tensors.out(4);
  sum_over_rows(tensors.size(1, 0), rows, width, {tensors.out(3)}, [&](Index first, Index last, float* part) {
    for (Index r = first; r < last; ++r) {
      const float* row = gate + r / rows * width;
#pragma omp simd
      for (Index i = 0; i < width; ++i) {
        part[i] += d_out[r * width + i] * y[r * width + i];
        dy[r * width + i] = d_out[r * width + i] * row[i];
      }
    }
  });
}

// x (B, N, h, D), cos and sin (N, D / 2) or (B, N, D / 2), settings: whether pairs are halves (else neighbours) of the
// last axis, 1 to rotate or -1 to rotate back → y
MINDONE_OPERATOR(mindone_rotate, "fBNhD f. f. i2 f=") {
  const int32_t* settings = tensors.integers(3);
  const bool halves = settings[0], each_sample = tensors.axes[1] == 3;
  const float *x = tensors.in(0), *cos = tensors.in(1), *sin = tensors.in(2), sign = settings[1];
  const Index length = tensors.size(0, 1), heads = tensors.size(0, 2), width = tensors.size(0, 3), half = width / 2;
  const Index angles = (each_sample ? tensors.size(0, 0) : 1) * length * half;
  require(width == 2 * half && tensors.values(1) == angles && tensors.values(2) == angles, "mindone_rotate",
          "there has to be an angle for each pair of the last axis");
  float* y = tensors.out(4);
  parallel_pieces(tensors.size(0, 0) * length * heads, rows_together(width), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      const Index at = each_sample ? r / heads : r / heads % length;
      const float *c = cos + at * half, *s = sin + at * half, *from = x + r * width;
      float* to = y + r * width;
      auto turn = [&](Index i, Index one, Index other) {
        const float a = from[one], b = from[other], angle = sign * s[i];
        to[one] = a * c[i] - b * angle;
        to[other] = b * c[i] + a * angle;
      };
      if (halves) {
#pragma omp simd
        for (Index i = 0; i < half; ++i) turn(i, i, half + i);
      } else {
#pragma omp simd
        for (Index i = 0; i < half; ++i) turn(i, 2 * i, 2 * i + 1);
      }
    }
  });
}
