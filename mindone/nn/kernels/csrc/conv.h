// Convolutions of (B, C, T, H, W) in float32: sizes, and how what a tile sees is packed.
//
// A tile is a run of positions of one frame of the result. What its kernel rows see is packed into short rows of the
// cache, margins included; the taps along the width of a row are shifts of it. Then blocks of channels are added up in
// registers. Positions are counted along rows that overlap in their margins, so that narrow frames fill a vector, too.
//
// Legend: B batch, G groups, C/O channels in/out of a group, T/H/W size of what is read, (kt, kh, kw) kernel.
#pragma once

#include <array>

#include "parallel.h"
#include "tile.h"

namespace mindone {

constexpr int kMaxShift = 16;  // of a tap along the width that reads the packed row of the first one

using Triple = std::array<Index, 3>;

inline Index product(const Triple& x) { return x[0] * x[1] * x[2]; }
inline Index clamp(Index i, Index n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

// One axis: n read, out written, k taps, s stride, p positions of margin before the first one.
struct Axis {
  Index n, out, k, s, p;
  // From one row of positions to the next, where the margin after a row is the one before the next.
  Index pitch() const { return out + k - 1 - std::max<Index>(0, std::min(p, out + k - 1 - p - n)); }
};

// A convolution of one group, from planes to planes. What is written may lie apart: position i at first + i * step.
struct Shape {
  Index channels, outs;
  Axis t, h, w;
  bool replicate;
  Triple size_written, first = {0, 0, 0}, step = {1, 1, 1};

  // Whether the taps along the width are shifts of one packed row; else each has a row of its own.
  bool shifts() const { return w.s == 1 && w.k - 1 <= kMaxShift; }
  Index pitch() const { return !shifts() ? w.out : replicate ? w.out + w.k - 1 : w.pitch(); }
  Index rows() const { return channels * t.k * h.k; }
  Index positions() const { return (h.out - 1) * pitch() + w.out; }
  Index read() const { return t.n * h.n * w.n; }
  Index frame() const { return h.out * w.out; }
  // How far a packed row is from the next one, and a tap along the width, for tiles of so many positions.
  Index row_step(Index tile) const { return shifts() ? tile + kMaxShift : tile * w.k; }
  Index tap_step(Index tile) const { return shifts() ? 1 : tile; }
};

// What a call is about: sizes from the tensors, the rest from the numbers of `settings`.
struct Call {
  Index batch, groups, channels, outs;
  Triple size, result, kernel, stride, before;
  bool replicate;

  // x (B, G * C, T, H, W), weight (G * O, C, kt, kh, kw), y (B, G * O, T', H', W'),
  // settings (8): stride, margin before, groups, whether edges are repeated.
  Call(const Tensors& tensors, const char* name, int y);

  Index volume() const { return product(size); }
  Index result_volume() const { return product(result); }
  Index taps() const { return product(kernel); }
  Index weights() const { return outs * channels * taps(); }
  // Whether each channel has a kernel of its own.
  bool depthwise() const { return channels == 1 && outs == 1 && !replicate && stride == Triple{1, 1, 1}; }

  Axis axis(int i) const { return {size[i], result[i], kernel[i], stride[i], before[i]}; }
  Shape shape() const { return {channels, outs, axis(0), axis(1), axis(2), replicate, result}; }
};

// Packs what rows [first_row, last_row) of (C, kt, kh) see from positions [first, last) of frame t, in the steps of
// tiles of `tile` positions.
void pack(const Shape& s, const float* x, Index t, Index first, Index last, Index first_row, Index last_row, Index tile,
          float* packed);

// Weights in blocks of kTileRows of `outs`, the last one of half as many if that is enough: (blocks, taps, width).
struct Blocks {
  Index outs, taps;
  Index count() const { return ceil_div(outs, kTileRows); }
  Index width(Index block) const { return outs - block * kTileRows <= kTileRows / 2 ? kTileRows / 2 : kTileRows; }
  Index values() const { return count() * kTileRows * taps; }
  float* at(float* packed, Index block) const { return packed + block * kTileRows * taps; }

  // The weight of `out` for tap k is at source(k)[out * step].
  template <class Source>
  void pack(Index step, Source source, float* packed) const {
    parallel_for(count(), [&](Index block) {
      const Index size = width(block), valid = std::min(size, outs - block * kTileRows);
      float* to = at(packed, block);
      for (Index k = 0; k < taps; ++k, to += size) {
        const float* from = source(k) + block * kTileRows * step;
        for (Index o = 0; o < size; ++o) to[o] = o < valid ? from[o * step] : 0.0f;
      }
    });
  }
};

// y (O, T', H', W') of one group; packed weights (C, kt, kh, kw), bias (O) or none.
void correlate(const Shape& s, const float* x, float* weights, const float* bias, float* y);

void depthwise(const Shape& s, Index batch, Index channels, const float* x, const float* weight, const float* bias,
               float* y);

// d_weight[k] = sum over positions of dy * what tap k sees.
void depthwise_weights(const Shape& s, Index batch, Index channels, const float* x, const float* dy, float* d_weight);

}  // namespace mindone
