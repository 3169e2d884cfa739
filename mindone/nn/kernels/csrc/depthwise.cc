// Convolutions of which each channel has a kernel of its own, without strides.

#include <vector>

#include "conv.h"

namespace mindone {
namespace {

constexpr int kTogether = 8;  // vectors of positions, or taps, that are added up together

// One channel's frames with margins, (T, H + margins, pitch), and where its taps look from a position.
struct Plane {
  Index pitch, height, frames, positions, taps;
  std::vector<Index> offsets;

  explicit Plane(const Shape& s)
      : pitch(s.w.pitch()),
        height(s.h.out + s.h.k - 1),
        frames(s.t.out + s.t.k - 1),
        positions((s.h.out - 1) * pitch + s.w.out),
        taps(s.t.k * s.h.k * s.w.k) {
    for (Index t = 0; t < s.t.k; ++t)
      for (Index h = 0; h < s.h.k; ++h)
        for (Index w = 0; w < s.w.k; ++w) offsets.push_back((t * height + h) * pitch + w);
  }
  // With what whole vectors read beyond the last position.
  Index floats(const Shape& s) const { return frames * height * pitch + kTogether * kLanes + s.w.k; }

  void fill(const Shape& s, const float* x, float* to) const {
    std::memset(to, 0, floats(s) * sizeof(float));
    const Index skipped = std::max<Index>(0, -s.w.p), length = std::min(s.w.n, pitch + s.w.k - 1 - s.w.p) - skipped;
    for (Index t = 0; t < s.t.n; ++t)
      for (Index h = 0; h < s.h.n; ++h) {
        const Index frame = t + s.t.p, row = h + s.h.p;
        if (frame < 0 || frame >= frames || row < 0 || row >= height || length <= 0) continue;
        std::memcpy(to + (frame * height + row) * pitch + s.w.p + skipped, x + (t * s.h.n + h) * s.w.n + skipped,
                    length * sizeof(float));
      }
  }
};

// The right matrix of a tile: for each tap the positions that it sees.
struct Taps {
  static constexpr bool kFar = false;
  const float* data;
  const std::vector<Index>& offsets;

  template <int vectors, class Body>
  MINDONE_INLINE void each(Body body) const {
    const Index* offset = offsets.data();
    for (Index k = 0, count = offsets.size(); k < count; ++k) body(k, data + offset[k]);
  }
};

// totals[k][lane] += sum over vectors of slopes * what tap k sees.
void add_products(const Plane& plane, const float* frame, const float* slopes, Index vectors, float* totals) {
  for (Index k = 0; k < plane.taps; k += kTogether) {
    Vector total[kTogether] = {};
    const float* at[kTogether];
    for (int j = 0; j < kTogether; ++j) at[j] = frame + plane.offsets[std::min(k + j, plane.taps - 1)];
    for (Index v = 0; v < vectors * kLanes; v += kLanes) {
      const Vector slope = load(slopes + v);
#pragma GCC unroll 8
      for (int j = 0; j < kTogether; ++j) total[j] += slope * load(at[j] + v);
    }
    for (Index j = 0; j < std::min<Index>(kTogether, plane.taps - k); ++j) {
      float* to = totals + (k + j) * kLanes;
      store(to, load(to) + total[j]);
    }
  }
}

}  // namespace

void depthwise(const Shape& s, Index batch, Index channels, const float* x, const float* weight, const float* bias,
               float* y) {
  const Plane plane(s);
  constexpr Index kTile = kTogether * kLanes;
  parallel_for(batch * channels, [&](Index item) {
    thread_local Scratch scratch;
    const Index channel = item % channels;
    float* padded = scratch.get(plane.floats(s) + plane.positions + kTile);
    float* sums = padded + plane.floats(s);
    plane.fill(s, x + item * s.read(), padded);
    for (Index t = 0; t < s.t.out; ++t) {
      const float* frame = padded + t * plane.height * plane.pitch;
      for (Index p = 0; p < plane.positions; p += kTile)
        multiply_tile<1, kTogether, false>(Rows<1>(weight + channel * plane.taps, 0), Taps{frame + p, plane.offsets},
                                           nullptr, sums + p, kTile);
      float* to = y + (item * s.t.out + t) * s.frame();
      const float add = bias ? bias[channel] : 0.0f;
      for (Index h = 0; h < s.h.out; ++h)
        for (Index w = 0; w < s.w.out; ++w) to[h * s.w.out + w] = sums[h * plane.pitch + w] + add;
    }
  });
}

void depthwise_weights(const Shape& s, Index batch, Index channels, const float* x, const float* dy, float* d_weight) {
  const Plane plane(s);
  const Index vectors = ceil_div(plane.positions, kLanes);
  parallel_for(channels, [&](Index channel) {
    thread_local Scratch scratch;
    float* padded = scratch.get(plane.floats(s) + (vectors + plane.taps) * kLanes);
    float* slopes = padded + plane.floats(s);
    float* totals = slopes + vectors * kLanes;
    std::memset(slopes, 0, (vectors + plane.taps) * kLanes * sizeof(float));
    for (Index item = channel; item < batch * channels; item += channels) {
      plane.fill(s, x + item * s.read(), padded);
      for (Index t = 0; t < s.t.out; ++t) {
        const float* from = dy + (item * s.t.out + t) * s.frame();
        for (Index h = 0; h < s.h.out; ++h)
          std::memcpy(slopes + h * plane.pitch, from + h * s.w.out, s.w.out * sizeof(float));
        add_products(plane, padded + t * plane.height * plane.pitch, slopes, vectors, totals);
      }
    }
    for (Index k = 0; k < plane.taps; ++k) d_weight[channel * plane.taps + k] = sum(load(totals + k * kLanes));
  });
}

}  // namespace mindone
