// Convolutions of (B, C, T, H, W) in float32, forward and backward, as products of packed tiles.
//
// A tile is a run of positions of one frame of the result. What its kernel rows see is packed into short rows of the
// cache, margins included; the taps along the width of a row are shifts of it. Then blocks of channels are added up in
// registers. Positions are counted along rows that overlap in their margins, so that narrow frames fill a vector, too.
//
// Legend: B batch, G groups, C/O channels in/out of a group, T/H/W size of what is read, (kt, kh, kw) kernel.

#include <array>
#include <vector>

#include "operator.h"
#include "parallel.h"
#include "simd.h"

namespace mindone {
namespace {

constexpr int kVectors = 3;
constexpr int kTile = kVectors * kLanes;
constexpr int kMaxShift = 16;
constexpr int kRow = kTile + kMaxShift;
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kOut = 4;
#else
constexpr int kOut = 8;
#endif

using Triple = std::array<Index, 3>;

// One axis: n read, out written, k taps, s stride, p positions of margin before the first one.
struct Axis {
  Index n, out, k, s, p;
};

// A convolution of one group, from planes to planes. What is written may lie apart: position i at first + i * step.
struct Shape {
  Index channels, outs;
  Axis t, h, w;
  bool replicate;
  Triple size_written, first, step;

  Index pitch() const {
    if (!shifts()) return w.out;
    const Index after = w.out + w.k - 1 - w.p - w.n;
    return w.out + w.k - 1 - (replicate ? 0 : std::max<Index>(0, std::min(w.p, after)));
  }
  // Whether the taps along the width are shifts of one packed row; else each has a row of its own.
  bool shifts() const { return w.s == 1 && w.k - 1 <= kMaxShift; }
  Index rows() const { return channels * t.k * h.k; }
  Index taps() const { return rows() * w.k; }
  Index positions() const { return (h.out - 1) * pitch() + w.out; }
};

// A run of positions of one row of the result, within a tile.
struct Piece {
  Index offset, row, column, length;
};

// The pieces of positions [first, last) of a frame, those in margins left out.
int pieces_of(const Shape& shape, Index first, Index last, Piece* pieces) {
  const Index pitch = shape.pitch();
  int count = 0;
  for (Index p = first; p < last;) {
    const Index row = p / pitch, column = p % pitch, stop = std::min(last, (row + 1) * pitch);
    const Index length = std::min(stop - p, shape.w.out - column);
    if (length > 0) pieces[count++] = {p - first, row, column, length};
    p = stop;
  }
  return count;
}

Index clamp(Index i, Index n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

// The plane's row that tap k of an axis sees from position i; -1 if there is none.
Index seen(const Axis& axis, Index i, Index k, bool replicate) {
  const Index at = i * axis.s + k - axis.p;
  if (at >= 0 && at < axis.n) return at;
  return replicate ? clamp(at, axis.n) : -1;
}

// Columns [from, from + length) of a row of n into `to`; beyond the row zeros, or its ends.
void copy_columns(float* to, const float* row, Index n, Index from, Index length, bool replicate) {
  const Index left = std::min(length, std::max<Index>(0, -from));
  const Index right = std::max<Index>(left, std::min(length, n - from));
  for (Index i = 0; i < left; ++i) to[i] = replicate ? row[0] : 0.0f;
  if (right > left) std::memcpy(to + left, row + from + left, (right - left) * sizeof(float));
  for (Index i = right; i < length; ++i) to[i] = replicate ? row[n - 1] : 0.0f;
}

// `count` columns of a row at a stride, the first one at `from`; beyond the row zeros, or its ends.
void pick_columns(float* to, const float* row, const Axis& axis, Index from, Index count, bool replicate) {
  const Index s = axis.s, left = std::min(count, from < 0 ? ceil_div(-from, s) : 0);
  const Index right = std::max(left, std::min(count, from < axis.n ? (axis.n - 1 - from) / s + 1 : 0));
  for (Index i = 0; i < left; ++i) to[i] = replicate ? row[0] : 0.0f;
  if (s == 2)  // known to the compiler, so that it shuffles vectors
    for (Index i = left; i < right; ++i) to[i] = row[from + i * 2];
  else
    for (Index i = left; i < right; ++i) to[i] = row[from + i * s];
  for (Index i = right; i < count; ++i) to[i] = replicate ? row[axis.n - 1] : 0.0f;
}

// Packs what rows [first_row, last_row) of (C, kt, kh) see from positions [first, last) of frame t: `length` floats
// each if taps are shifts, else kw times as many.
void pack(const Shape& s, const float* x, Index t, Index first, Index last, Index first_row, Index last_row,
          Index length, float* packed) {
  const Index pitch = s.pitch(), plane = s.h.n * s.w.n;
  const bool shifts = s.shifts();
  const Index stop = shifts ? std::min(last + s.w.k - 1, s.h.out * pitch + s.w.k - 1) : last;
  for (Index r = first_row; r < last_row; ++r) {
    const Index c = r / (s.t.k * s.h.k), kt = r / s.h.k % s.t.k, kh = r % s.h.k;
    float* to = packed + (r - first_row) * length * (shifts ? 1 : s.w.k);
    const Index frame = seen(s.t, t, kt, s.replicate);
    const float* from = frame < 0 ? nullptr : x + (c * s.t.n + frame) * plane;
    if (shifts) {
      // The last row's margin after it has no row of its own: it belongs to the row before.
      for (Index p = first; p < stop;) {
        const Index row = std::min(p / pitch, s.h.out - 1), column = p - row * pitch;
        const Index end = row == s.h.out - 1 ? stop : std::min(stop, (row + 1) * pitch);
        const Index h = from ? seen(s.h, row, kh, s.replicate) : -1;
        if (h < 0)
          std::memset(to + (p - first), 0, (end - p) * sizeof(float));
        else
          copy_columns(to + (p - first), from + h * s.w.n, s.w.n, column - s.w.p, end - p, s.replicate);
        p = end;
      }
      if (stop - first < length) std::memset(to + (stop - first), 0, (length - (stop - first)) * sizeof(float));
    } else {
      for (Index kw = 0; kw < s.w.k; ++kw, to += length) {
        Index p = first;
        while (p < last) {
          const Index row = p / pitch, column = p - row * pitch, count = std::min(last - p, pitch - column);
          const Index h = from ? seen(s.h, row, kh, s.replicate) : -1;
          if (h < 0)
            std::memset(to + (p - first), 0, count * sizeof(float));
          else
            pick_columns(to + (p - first), from + h * s.w.n, s.w, column * s.w.s + kw - s.w.p, count, s.replicate);
          p += count;
        }
        for (; p < first + length; ++p) to[p - first] = 0.0f;
      }
    }
  }
}

// sums[O][R vectors] of all rows and taps; weights (rows, taps, O).
template <int O, int R>
void multiply(const float* packed, Index rows, Index taps, Index row_step, Index tap_step, const float* weights,
              float* sums) {
  Vector total[O][R] = {};
  for (Index r = 0; r < rows; ++r, packed += row_step) {
    const float* at = packed;
    for (Index k = 0; k < taps; ++k, at += tap_step, weights += O) {
      Vector x[R];
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) x[j] = load(at + j * kLanes);
#pragma GCC unroll 16
      for (int o = 0; o < O; ++o) {
        const Vector weight = splat(weights[o]);
#pragma GCC unroll 8
        for (int j = 0; j < R; ++j) total[o][j] += weight * x[j];
      }
    }
  }
  for (int o = 0; o < O; ++o)
    for (int j = 0; j < R; ++j) store(sums + o * kTile + j * kLanes, total[o][j]);
}

template <int O>
void multiply(Index vectors, const float* packed, Index rows, Index taps, Index row_step, Index tap_step,
              const float* weights, float* sums) {
  if (vectors == 1) return multiply<O, 1>(packed, rows, taps, row_step, tap_step, weights, sums);
  if (vectors == 2) return multiply<O, 2>(packed, rows, taps, row_step, tap_step, weights, sums);
  return multiply<O, 3>(packed, rows, taps, row_step, tap_step, weights, sums);
}

// Channels in blocks of kOut, the last one of half as many if that is enough.
struct Blocks {
  Index outs, taps;
  Index count() const { return ceil_div(outs, kOut); }
  Index width(Index block) const { return outs - block * kOut <= kOut / 2 ? kOut / 2 : kOut; }
  Index padded() const { return (count() - 1) * kOut + width(count() - 1); }
};

// y (O, T', H', W') of one group; packed weights (blocks, rows, kw, width of the block), bias (O) or none.
void correlate(const Shape& s, const float* x, const float* weights, const float* bias, float* y) {
  if (s.t.out <= 0 || s.h.out <= 0 || s.w.out <= 0) return;
  const Index tiles = ceil_div(s.positions(), kTile), items = s.t.out * tiles;
  const Blocks blocks{s.outs, s.taps()};
  const Index shares = std::min(blocks.count(), ceil_div(4 * Pool::instance().threads(), items));
  const Index row_step = s.shifts() ? kRow : kTile * s.w.k, tap_step = s.shifts() ? 1 : kTile;
  const Index plane = s.size_written[1] * s.size_written[2];
  parallel_for(items * shares, [&](Index item) {
    thread_local Scratch scratch;
    const Index share = item % shares, t = item / shares / tiles, first = item / shares % tiles * kTile;
    const Index last = std::min(first + kTile, s.positions());
    float* packed = scratch.get(s.rows() * row_step + kOut * kTile);
    float* sums = packed + s.rows() * row_step;
    pack(s, x, t, first, last, 0, s.rows(), s.shifts() ? kRow : kTile, packed);
    Piece pieces[kTile];
    const int count = pieces_of(s, first, last, pieces);
    for (Index block = blocks.count() * share / shares; block < blocks.count() * (share + 1) / shares; ++block) {
      const float* block_weights = weights + block * kOut * blocks.taps;
      const Index vectors = ceil_div(last - first, kLanes);
      if (blocks.width(block) == kOut)
        multiply<kOut>(vectors, packed, s.rows(), s.w.k, row_step, tap_step, block_weights, sums);
      else
        multiply<kOut / 2>(vectors, packed, s.rows(), s.w.k, row_step, tap_step, block_weights, sums);
      for (Index o = block * kOut; o < std::min(s.outs, (block + 1) * kOut); ++o) {
        const float add = bias ? bias[o] : 0.0f;
        const float* from = sums + (o - block * kOut) * kTile;
        float* to = y + (o * s.size_written[0] + s.first[0] + t * s.step[0]) * plane;
        for (int i = 0; i < count; ++i) {
          const Piece& piece = pieces[i];
          float* line =
              to + (s.first[1] + piece.row * s.step[1]) * s.size_written[2] + s.first[2] + piece.column * s.step[2];
          if (s.step[2] == 1)
            for (Index j = 0; j < piece.length; ++j) line[j] = from[piece.offset + j] + add;
          else
            for (Index j = 0; j < piece.length; ++j) line[j * s.step[2]] = from[piece.offset + j] + add;
        }
      }
    }
  });
}

// What a call is about: sizes from the tensors, the rest from the numbers of `settings`.
struct Call {
  Index batch, groups, channels, outs;
  Triple size, result, kernel, stride, before;
  bool replicate;

  // x (B, G * C, T, H, W), weight (G * O, C, kt, kh, kw), y (B, G * O, T', H', W'),
  // settings (8): stride, margin before, groups, whether edges are repeated.
  Call(const int64_t* x, const int64_t* weight, const int64_t* y, const int32_t* settings)
      : batch(x[0]), groups(settings[6]), channels(weight[1]), outs(weight[0] / settings[6]), replicate(settings[7]) {
    for (int i = 0; i < 3; ++i) {
      size[i] = x[2 + i];
      result[i] = y[2 + i];
      kernel[i] = weight[2 + i];
      stride[i] = settings[i];
      before[i] = settings[3 + i];
    }
    if (taps() == 1 && size == result && stride == Triple{1, 1, 1}) size = result = {1, 1, volume()};
  }
  Index volume() const { return size[0] * size[1] * size[2]; }
  Index result_volume() const { return result[0] * result[1] * result[2]; }
  Index taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  Index weights() const { return outs * channels * taps(); }
  bool depthwise() const { return channels == 1 && outs == 1; }

  Axis axis(int i) const { return {size[i], result[i], kernel[i], stride[i], before[i]}; }
  Shape shape() const { return {channels, outs, axis(0), axis(1), axis(2), replicate, result, {0, 0, 0}, {1, 1, 1}}; }
};

// Weights of one group in blocks: (O, C, kt, kh, kw) as (blocks, C, kt, kh, kw, width).
void pack_weights(const Call& call, const float* weight, float* packed) {
  const Index taps = call.channels * call.taps();
  const Blocks blocks{call.outs, taps};
  parallel_for(blocks.count(), [&](Index block) {
    const Index width = blocks.width(block);
    float* to = packed + block * kOut * taps;
    for (Index o = 0; o < width; ++o) {
      const Index out = block * kOut + o;
      for (Index k = 0; k < taps; ++k) to[k * width + o] = out < call.outs ? weight[out * taps + k] : 0.0f;
    }
  });
}

// --- depth-wise -----------------------------------------------------------------------------------------------------

// One channel's frames with margins, (T, H + margins, pitch), and where its taps look from a position.
struct Plane {
  Index pitch, height, frames, slack;
  std::vector<Index> offsets;

  Plane(const Shape& s) {
    const Index after_w = s.w.out + s.w.k - 1 - s.w.p - s.w.n;
    pitch = s.w.out + s.w.k - 1 - std::max<Index>(0, std::min(s.w.p, after_w));
    height = s.h.out + s.h.k - 1;
    frames = s.t.out + s.t.k - 1;
    slack = 8 * kLanes + s.w.k;
    for (Index t = 0; t < s.t.k; ++t)
      for (Index h = 0; h < s.h.k; ++h)
        for (Index w = 0; w < s.w.k; ++w) offsets.push_back((t * height + h) * pitch + w);
  }
  Index floats() const { return frames * height * pitch + slack; }

  void fill(const Shape& s, const float* x, float* to) const {
    std::memset(to, 0, floats() * sizeof(float));
    for (Index t = 0; t < s.t.n; ++t)
      for (Index h = 0; h < s.h.n; ++h) {
        const Index frame = t + s.t.p, row = h + s.h.p;
        if (frame < 0 || frame >= frames || row < 0 || row >= height) continue;
        const Index skipped = std::max<Index>(0, -s.w.p), length = std::min(s.w.n, pitch + s.w.k - 1 - s.w.p) - skipped;
        std::memcpy(to + (frame * height + row) * pitch + s.w.p + skipped, x + (t * s.h.n + h) * s.w.n + skipped,
                    std::max<Index>(0, length) * sizeof(float));
      }
  }
};

// 8 vectors of positions of one channel.
void depthwise_tile(const float* x, const float* weight, const std::vector<Index>& offsets, float* sums) {
  Vector total[8] = {};
  for (size_t k = 0; k < offsets.size(); ++k) {
    const Vector tap = splat(weight[k]);
    const float* at = x + offsets[k];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) total[j] += tap * load(at + j * kLanes);
  }
  for (int j = 0; j < 8; ++j) store(sums + j * kLanes, total[j]);
}

void depthwise(const Shape& s, Index batch, Index channels, const float* x, const float* weight, const float* bias,
               float* y) {
  const Plane plane(s);
  const Index positions = (s.h.out - 1) * plane.pitch + s.w.out, tile = 8 * kLanes;
  const Index volume = s.t.n * s.h.n * s.w.n, taps = s.t.k * s.h.k * s.w.k;
  parallel_for(batch * channels, [&](Index item) {
    thread_local Scratch scratch;
    const Index channel = item % channels;
    float* padded = scratch.get(plane.floats() + positions + tile);
    float* sums = padded + plane.floats();
    plane.fill(s, x + item * volume, padded);
    for (Index t = 0; t < s.t.out; ++t) {
      const float* frame = padded + t * plane.height * plane.pitch;
      for (Index p = 0; p < positions; p += tile)
        depthwise_tile(frame + p, weight + channel * taps, plane.offsets, sums + p);
      float* to = y + (item * s.t.out + t) * s.h.out * s.w.out;
      const float add = bias ? bias[channel] : 0.0f;
      for (Index h = 0; h < s.h.out; ++h)
        for (Index w = 0; w < s.w.out; ++w) to[h * s.w.out + w] = sums[h * plane.pitch + w] + add;
    }
  });
}

// d_weight[k] = sum over positions of dy * what tap k sees.
void depthwise_weights(const Shape& s, Index batch, Index channels, const float* x, const float* dy, float* d_weight) {
  const Plane plane(s);
  const Index positions = (s.h.out - 1) * plane.pitch + s.w.out, vectors = ceil_div(positions, kLanes);
  const Index volume = s.t.n * s.h.n * s.w.n, taps = s.t.k * s.h.k * s.w.k;
  parallel_for(channels, [&](Index channel) {
    thread_local Scratch scratch;
    float* padded = scratch.get(plane.floats() + vectors * kLanes + taps * kLanes);
    float* rows = padded + plane.floats();
    float* totals = rows + vectors * kLanes;
    std::memset(rows, 0, (vectors + taps) * kLanes * sizeof(float));
    for (Index b = 0; b < batch; ++b) {
      const Index item = b * channels + channel;
      plane.fill(s, x + item * volume, padded);
      for (Index t = 0; t < s.t.out; ++t) {
        const float* frame = padded + t * plane.height * plane.pitch;
        const float* from = dy + (item * s.t.out + t) * s.h.out * s.w.out;
        for (Index h = 0; h < s.h.out; ++h)
          std::memcpy(rows + h * plane.pitch, from + h * s.w.out, s.w.out * sizeof(float));
        for (Index k = 0; k < taps; k += 8) {
          Vector total[8] = {};
          const float* at[8];
          for (int j = 0; j < 8; ++j) at[j] = frame + plane.offsets[std::min(k + j, taps - 1)];
          for (Index v = 0; v < vectors; ++v) {
            const Vector slope = load(rows + v * kLanes);
#pragma GCC unroll 8
            for (int j = 0; j < 8; ++j) total[j] += slope * load(at[j] + v * kLanes);
          }
          for (Index j = 0; j < std::min<Index>(8, taps - k); ++j) {
            float* sum = totals + (k + j) * kLanes;
            store(sum, load(sum) + total[j]);
          }
        }
      }
    }
    for (Index k = 0; k < taps; ++k) {
      float sum = 0.0f;
      for (int j = 0; j < kLanes; ++j) sum += totals[k * kLanes + j];
      d_weight[channel * taps + k] = sum;
    }
  });
}

// --- gradients ------------------------------------------------------------------------------------------------------

// The way back along one axis for the positions that are a phase of a stride: which taps, and where they lie.
struct Phase {
  Index first_tap, taps, before, first, count;

  Phase(Index phase, Index n, Index k, Index s, Index p) {
    first_tap = phase;
    taps = phase < k ? ceil_div(k - phase, s) : 0;
    const Index skipped = std::max<Index>(0, ceil_div(p - phase, s));  // position s * i + phase - p from i = skipped on
    first = s * skipped + phase - p;
    count = first < n ? (n - 1 - first) / s + 1 : 0;
    before = taps - 1 - skipped;
  }
};

// Weights of one group for the way back: (C, taps of a phase reversed, O) in blocks of C.
void pack_reversed(const Call& call, const std::array<Phase, 3>& phase, const float* weight, float* packed) {
  const Index taps = phase[0].taps * phase[1].taps * phase[2].taps, rows = call.outs * taps;
  const Blocks blocks{call.channels, rows};
  parallel_for(blocks.count(), [&](Index block) {
    const Index width = blocks.width(block);
    float* to = packed + block * kOut * rows;
    std::memset(to, 0, width * rows * sizeof(float));
    for (Index o = 0; o < call.outs; ++o)
      for (Index k = 0; k < taps; ++k) {
        Index tap[3] = {k / (phase[1].taps * phase[2].taps), k / phase[2].taps % phase[1].taps, k % phase[2].taps};
        for (int i = 0; i < 3; ++i) tap[i] = phase[i].first_tap + call.stride[i] * (phase[i].taps - 1 - tap[i]);
        const Index at = (tap[0] * call.kernel[1] + tap[1]) * call.kernel[2] + tap[2];
        float* row = to + (o * taps + k) * width;
        for (Index c = block * kOut; c < std::min(call.channels, block * kOut + width); ++c)
          row[c - block * kOut] = weight[(o * call.channels + c) * call.taps() + at];
      }
  });
}

// dx (B, G * C, N...) for frames of `size` with margins `before`.
void input_gradient(const Call& call, const float* dy, const float* weight, const Triple& size, const Triple& before,
                    float* dx) {
  const Index volume = size[0] * size[1] * size[2];
  if (call.stride != Triple{1, 1, 1})
    std::memset(dx, 0, call.batch * call.groups * call.channels * volume * sizeof(float));
  thread_local Scratch scratch;
  float* packed = scratch.get((call.channels + kOut) * call.outs * call.taps());
  for (Index p = 0; p < call.stride[0] * call.stride[1] * call.stride[2]; ++p) {
    const Index at[3] = {p / (call.stride[1] * call.stride[2]), p / call.stride[2] % call.stride[1],
                         p % call.stride[2]};
    auto phase_of = [&](int i) { return Phase(at[i], size[i], call.kernel[i], call.stride[i], before[i]); };
    const std::array<Phase, 3> phase{phase_of(0), phase_of(1), phase_of(2)};
    if (!phase[0].taps || !phase[1].taps || !phase[2].taps) continue;
    auto axis = [&](int i) { return Axis{call.result[i], phase[i].count, phase[i].taps, 1, phase[i].before}; };
    const Shape shape{call.outs,  call.channels, axis(0), axis(1),
                      axis(2),    false,         size,    {phase[0].first, phase[1].first, phase[2].first},
                      call.stride};
    for (Index g = 0; g < call.groups; ++g) {
      pack_reversed(call, phase, weight + g * call.weights(), packed);
      for (Index b = 0; b < call.batch; ++b) {
        const Index group = b * call.groups + g;
        correlate(shape, dy + group * call.outs * call.result_volume(), packed, nullptr,
                  dx + group * call.channels * volume);
      }
    }
  }
}

// Adds what belongs to repeated edges to the edges: (N, size with margins) → (N, size).
void fold_edges(const Call& call, const Triple& padded, const float* from, float* to) {
  parallel_for(call.batch * call.groups * call.channels, [&](Index plane) {
    float* dx = to + plane * call.volume();
    std::memset(dx, 0, call.volume() * sizeof(float));
    for (Index t = 0; t < padded[0]; ++t)
      for (Index h = 0; h < padded[1]; ++h) {
        const float* row = from + ((plane * padded[0] + t) * padded[1] + h) * padded[2];
        float* line =
            dx + (clamp(t - call.before[0], call.size[0]) * call.size[1] + clamp(h - call.before[1], call.size[1])) *
                     call.size[2];
        const Index left = std::min(call.before[2], padded[2]), right = std::min(padded[2], left + call.size[2]);
        for (Index w = 0; w < left; ++w) line[0] += row[w];
        for (Index w = left; w < right; ++w) line[w - left] += row[w];
        for (Index w = right; w < padded[2]; ++w) line[call.size[2] - 1] += row[w];
      }
  });
}

constexpr Index kDepth = 128;  // positions that are packed at a time for the gradient of the weights
constexpr Index kDepthRow = kDepth + kMaxShift;
constexpr Index kTransposed = Index{1} << 22;  // floats of the result's gradient that lie transposed at a time
constexpr int kMaxVectors = kLanes == 16 ? 4 : 2;
constexpr int kTaps = 6;

// sums[taps][R vectors of O] += sum over positions of x[tap][position] * dy[position][O].
template <int R>
void accumulate(const float* const* x, Index depth, const float* dy, Index dy_step, float* sums, Index sums_step,
                int taps) {
  Vector total[kTaps][R] = {};
  for (Index p = 0; p < depth; ++p, dy += dy_step) {
    Vector slope[R];
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) slope[j] = load(dy + j * kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; ++k) {
      const Vector value = splat(x[k][p]);
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) total[k][j] += value * slope[j];
    }
  }
  for (int k = 0; k < taps; ++k)
    for (int j = 0; j < R; ++j) {
      float* sum = sums + k * sums_step + j * kLanes;
      store(sum, load(sum) + total[k][j]);
    }
}

void accumulate(int vectors, const float* const* x, Index depth, const float* dy, Index dy_step, float* sums,
                Index sums_step, int taps) {
  switch (vectors) {
    case 1:
      return accumulate<1>(x, depth, dy, dy_step, sums, sums_step, taps);
    case 2:
      return accumulate<2>(x, depth, dy, dy_step, sums, sums_step, taps);
    case 3:
      return accumulate<3>(x, depth, dy, dy_step, sums, sums_step, taps);
    default:
      return accumulate<kMaxVectors>(x, depth, dy, dy_step, sums, sums_step, taps);
  }
}

// Frame t of dy (O, T', H', W') as (positions, O padded), zero in the margins.
void transpose_frame(const Shape& s, const float* dy, Index t, Index width, float* to) {
  const Index pitch = s.pitch(), plane = s.h.out * s.w.out;
  for (Index h = 0; h < s.h.out; ++h) {
    const float* from = dy + t * plane + h * s.w.out;
    float* row = to + h * pitch * width;
    for (Index first = 0; first < s.w.out; first += kLanes) {
      const Index last = std::min(s.w.out, first + kLanes);
      for (Index o = 0; o < width; ++o)
        for (Index w = first; w < last; ++w) row[w * width + o] = o < s.outs ? from[o * s.t.out * plane + w] : 0.0f;
    }
    if (h + 1 < s.h.out) std::memset(row + s.w.out * width, 0, (pitch - s.w.out) * width * sizeof(float));
  }
}

// Adds one sample's part to sums (rows, kw, O padded) of one group.
void add_weight_gradient(const Shape& s, const float* x, const float* dy, Index width, float* transposed, float* sums) {
  const Index frame = s.positions() * width, together = std::max<Index>(1, std::min(s.t.out, kTransposed / frame));
  const Index items = std::min(s.rows(), Index{4} * Pool::instance().threads());
  const bool shifts = s.shifts();
  for (Index t0 = 0; t0 < s.t.out; t0 += together) {
    const Index frames = std::min(together, s.t.out - t0);
    parallel_for(frames, [&](Index i) { transpose_frame(s, dy, t0 + i, width, transposed + i * frame); });
    parallel_for(items, [&](Index item) {
      thread_local Scratch scratch;
      const Index first_row = s.rows() * item / items, last_row = s.rows() * (item + 1) / items;
      const Index row_step = shifts ? kDepthRow : kDepth * s.w.k, tap_step = shifts ? 1 : kDepth;
      const Index count = (last_row - first_row) * s.w.k;
      float* packed = scratch.get((last_row - first_row) * row_step);
      for (Index i = 0; i < frames; ++i)
        for (Index p = 0; p < s.positions(); p += kDepth) {
          const Index last = std::min(p + kDepth, s.positions());
          pack(s, x, t0 + i, p, last, first_row, last_row, shifts ? kDepthRow : kDepth, packed);
          const float* slopes = transposed + i * frame + p * width;
          for (Index k = 0; k < count; k += kTaps) {
            const float* at[kTaps];
            for (int j = 0; j < kTaps; ++j) {
              const Index tap = std::min(k + j, count - 1);
              at[j] = packed + tap / s.w.k * row_step + tap % s.w.k * tap_step;
            }
            float* rows = sums + (first_row * s.w.k + k) * width;
            for (Index o = 0; o < width; o += kMaxVectors * kLanes) {
              const int vectors = std::min<Index>(kMaxVectors, (width - o) / kLanes);
              accumulate(vectors, at, last - p, slopes + o, width, rows + o, width, std::min<Index>(kTaps, count - k));
            }
          }
        }
    });
  }
}

void weight_gradient(const Call& call, const float* x, const float* dy, float* d_weight) {
  const Shape shape = call.shape();
  const Index width = ceil_div(call.outs, kLanes) * kLanes, taps = shape.taps();
  const Index frames = std::max<Index>(1, std::min(shape.t.out, kTransposed / (shape.positions() * width)));
  thread_local Scratch scratch;
  float* transposed = scratch.get(frames * shape.positions() * width + taps * width);
  float* sums = transposed + frames * shape.positions() * width;
  for (Index g = 0; g < call.groups; ++g) {
    std::memset(sums, 0, taps * width * sizeof(float));
    for (Index b = 0; b < call.batch; ++b) {
      const Index group = b * call.groups + g;
      add_weight_gradient(shape, x + group * call.channels * call.volume(),
                          dy + group * call.outs * call.result_volume(), width, transposed, sums);
    }
    for (Index o = 0; o < call.outs; ++o)
      for (Index k = 0; k < taps; ++k) d_weight[(g * call.outs + o) * taps + k] = sums[k * width + o];
  }
}

// d_bias (O): sums of dy over samples and positions.
void bias_gradient(const Call& call, const float* dy, float* d_bias) {
  const Index outs = call.groups * call.outs, volume = call.result_volume();
  parallel_for(outs, [&](Index o) {
    double total = 0.0;
    for (Index b = 0; b < call.batch; ++b) {
      const float* from = dy + (b * outs + o) * volume;
      for (Index first = 0; first < volume; first += 4096) {
        const Index last = std::min(volume, first + 4096);
        Vector part{};
        Index i = first;
        for (; i + kLanes <= last; i += kLanes) part += load(from + i);
        total += sum(part);
        for (; i < last; ++i) total += from[i];
      }
    }
    d_bias[o] = total;
  });
}

}  // namespace
}  // namespace mindone

using namespace mindone;

// x (B, C, T, H, W), weight (O, C / groups, kt, kh, kw), bias (O), settings (8) → y (B, O, T', H', W')
MINDONE_OPERATOR(mindone_conv) {
  const Call call(shapes[0], shapes[1], shapes[4], static_cast<int32_t*>(data[3]));
  const Shape shape = call.shape();
  const float *x = floats(data[0]), *weight = floats(data[1]), *bias = floats(data[2]);
  float* y = results(data[4]);
  if (call.depthwise() && !call.replicate && call.stride == Triple{1, 1, 1}) {
    depthwise(shape, call.batch, call.groups, x, weight, bias, y);
    return 0;
  }
  thread_local Scratch scratch;
  float* packed = scratch.get((call.outs + kOut) * shape.taps());
  for (Index g = 0; g < call.groups; ++g) {
    pack_weights(call, weight + g * call.weights(), packed);
    for (Index b = 0; b < call.batch; ++b) {
      const Index group = b * call.groups + g;
      correlate(shape, x + group * call.channels * call.volume(), packed, bias + g * call.outs,
                y + group * call.outs * call.result_volume());
    }
  }
  return 0;
}

// x (only its shape), weight, dy, settings → dx
MINDONE_OPERATOR(mindone_conv_input_gradient) {
  const Call call(shapes[0], shapes[1], shapes[2], static_cast<int32_t*>(data[3]));
  const float *weight = floats(data[1]), *dy = floats(data[2]);
  float* dx = results(data[4]);
  if (call.depthwise() && !call.replicate && call.stride == Triple{1, 1, 1}) {
    std::vector<float> reversed(call.groups * call.taps());
    for (Index c = 0; c < call.groups; ++c)
      for (Index k = 0; k < call.taps(); ++k) reversed[c * call.taps() + k] = weight[(c + 1) * call.taps() - 1 - k];
    auto axis = [&](int i) {
      return Axis{call.result[i], call.size[i], call.kernel[i], 1, call.kernel[i] - 1 - call.before[i]};
    };
    const Shape shape{1, 1, axis(0), axis(1), axis(2), false, call.size, {0, 0, 0}, {1, 1, 1}};
    depthwise(shape, call.batch, call.groups, dy, reversed.data(), nullptr, dx);
    return 0;
  }
  if (!call.replicate) {
    input_gradient(call, dy, weight, call.size, call.before, dx);
    return 0;
  }
  Triple padded;
  for (int i = 0; i < 3; ++i)
    padded[i] = std::max(call.before[i] + call.size[i], (call.result[i] - 1) * call.stride[i] + call.kernel[i]);
  thread_local Scratch scratch;
  float* whole = scratch.get(call.batch * call.groups * call.channels * padded[0] * padded[1] * padded[2]);
  input_gradient(call, dy, weight, padded, {0, 0, 0}, whole);
  fold_edges(call, padded, whole, dx);
  return 0;
}

// x, weight (only its shape), dy, settings → d_weight, d_bias
MINDONE_OPERATOR(mindone_conv_weight_gradient) {
  const Call call(shapes[0], shapes[1], shapes[2], static_cast<int32_t*>(data[3]));
  const float *x = floats(data[0]), *dy = floats(data[2]);
  float *d_weight = results(data[4]), *d_bias = results(data[5]);
  bias_gradient(call, dy, d_bias);
  if (call.depthwise() && !call.replicate && call.stride == Triple{1, 1, 1})
    depthwise_weights(call.shape(), call.batch, call.groups, x, dy, d_weight);
  else
    weight_gradient(call, x, dy, d_weight);
  return 0;
}
