#include "conv.h"

namespace mindone {
namespace {

constexpr int kTile = kTileColumns;

// A run of positions of one row of the result, from `offset` of a tile to `place` of a plane that is written.
struct Piece {
  Index offset, place, length;
};

// The pieces of positions [first, last) of a frame, those in margins left out.
int pieces_of(const Shape& s, Index first, Index last, Piece* pieces) {
  const Index pitch = s.pitch();
  int count = 0;
  for (Index p = first, stop; p < last; p = stop) {
    const Index row = p / pitch, column = p % pitch, length = std::min(last - p, s.w.out - column);
    stop = (row + 1) * pitch;
    const Index place = (s.first[1] + row * s.step[1]) * s.size_written[2] + s.first[2] + column * s.step[2];
    if (length > 0) pieces[count++] = {p - first, place, length};
  }
  return count;
}

// The plane's row that tap k of an axis sees from position i; -1 if there is none.
Index seen(const Axis& axis, Index i, Index k, bool replicate) {
  const Index at = i * axis.s + k - axis.p;
  if (at >= 0 && at < axis.n) return at;
  return replicate ? clamp(at, axis.n) : -1;
}

// `count` columns of a row at the axis' stride, the first one at `from`; beyond the row zeros, or its ends.
void copy_columns(float* to, const float* row, const Axis& axis, Index from, Index count, bool replicate) {
  const Index s = axis.s;
  // How many columns there are before a place of the row; a division takes as long as copying several vectors.
  auto before = [&](Index place) {
    const Index n = s == 1 ? place - from : ceil_div(place - from, s);
    return std::min(count, std::max<Index>(0, n));
  };
  const Index left = before(0), right = before(axis.n);
  std::fill(to, to + left, replicate ? row[0] : 0.0f);
  if (s == 1 && right > left)
    std::memcpy(to + left, row + from + left, (right - left) * sizeof(float));
  else if (s == 2)  // known to the compiler, so that it shuffles vectors
    for (Index i = left; i < right; ++i) to[i] = row[from + i * 2];
  else
    for (Index i = left; i < right; ++i) to[i] = row[from + i * s];
  std::fill(to + right, to + count, replicate ? row[axis.n - 1] : 0.0f);
}

// The right matrix of a tile: for each tap the positions that it sees.
struct Windows {
  static constexpr bool kFar = false;
  const float* packed;
  Index rows, taps, row_step, tap_step;

  Windows(const Shape& s, const float* packed)
      : packed(packed), rows(s.rows()), taps(s.w.k), row_step(s.row_step(kTile)), tap_step(s.tap_step(kTile)) {
    if (s.shifts() && taps > 1) return;
    if (taps == 1) tap_step = row_step;
    taps *= rows;  // all the same distance apart
    rows = 1;
  }

  template <int vectors, class Body>
  MINDONE_INLINE void each(Body body) const {
    const float* row = packed;
    for (Index r = 0, k = 0; r < rows; ++r, row += row_step) {
      const float* at = row;
      for (Index tap = 0; tap < taps; ++tap, ++k, at += tap_step) body(k, at);
    }
  }
};

// Writes the sums of one channel's tile where its pieces belong.
MINDONE_INLINE void write_pieces(const Piece* pieces, int count, Index step, const float* sums, float add, float* y) {
  for (int i = 0; i < count; ++i) {
    const float* from = sums + pieces[i].offset;
    float* to = y + pieces[i].place;
    const Index length = pieces[i].length;
    if (step == 1)
      for (Index j = 0; j < length; ++j) to[j] = from[j] + add;
    else
      for (Index j = 0; j < length; ++j) to[j * step] = from[j] + add;
  }
}

}  // namespace

void pack(const Shape& s, const float* x, Index t, Index first, Index last, Index first_row, Index last_row, Index tile,
          float* packed) {
  const Index pitch = s.pitch(), lines = s.shifts() ? 1 : s.w.k, length = s.row_step(tile) / lines;
  const Index stop = s.shifts() ? std::min(last + s.w.k - 1, s.h.out * pitch + s.w.k - 1) : last;
  for (Index r = first_row; r < last_row; ++r) {
    const Index c = r / (s.t.k * s.h.k), kt = r / s.h.k % s.t.k, kh = r % s.h.k;
    const Index frame = seen(s.t, t, kt, s.replicate);
    const float* from = x + (c * s.t.n + frame) * s.h.n * s.w.n;
    for (Index line = 0; line < lines; ++line, packed += length) {
      for (Index p = first, end; p < stop; p = end) {
        // The last row's margin after it has no row of its own: it belongs to the row before.
        const Index row = std::min(p / pitch, s.h.out - 1), column = p - row * pitch;
        end = row == s.h.out - 1 ? stop : std::min(stop, (row + 1) * pitch);
        const Index h = frame < 0 ? -1 : seen(s.h, row, kh, s.replicate);
        if (h < 0)
          std::fill(packed + (p - first), packed + (end - first), 0.0f);
        else
          copy_columns(packed + (p - first), from + h * s.w.n, s.w, column * s.w.s + line - s.w.p, end - p,
                       s.replicate);
      }
      std::fill(packed + (stop - first), packed + length, 0.0f);
    }
  }
}

void correlate(const Shape& s, const float* x, float* weights, const float* bias, float* y) {
  if (s.t.out <= 0 || s.h.out <= 0 || s.w.out <= 0) return;
  const Index tiles = ceil_div(s.positions(), kTile), items = s.t.out * tiles;
  const Blocks blocks{s.outs, s.rows() * s.w.k};
  const Index shares = std::min(blocks.count(), ceil_div(4 * Pool::instance().threads(), items));
  const Index row_step = s.row_step(kTile), plane = s.size_written[1] * s.size_written[2];
  parallel_for(items * shares, [&](Index item) {
    thread_local Scratch scratch;
    const Index share = item % shares, t = item / shares / tiles, first = item / shares % tiles * kTile;
    const Index last = std::min(first + kTile, s.positions());
    float* packed = scratch.get(s.rows() * row_step + kTileRows * kTile);
    float* sums = packed + s.rows() * row_step;
    pack(s, x, t, first, last, 0, s.rows(), kTile, packed);
    const Windows windows(s, packed);
    Piece pieces[kTile];
    const int count = pieces_of(s, first, last, pieces);
    for (Index block = blocks.count() * share / shares; block < blocks.count() * (share + 1) / shares; ++block) {
      const float* left = blocks.at(weights, block);
      const int vectors = vectors_of(last - first);
      if (blocks.width(block) == kTileRows)
        multiply_tile<kTileRows, false>(vectors, Packed<kTileRows>{left}, windows, nullptr, sums, kTile);
      else
        multiply_tile<kTileRows / 2, false>(vectors, Packed<kTileRows / 2>{left}, windows, nullptr, sums, kTile);
      for (Index o = block * kTileRows; o < std::min(s.outs, (block + 1) * kTileRows); ++o)
        write_pieces(pieces, count, s.step[2], sums + (o - block * kTileRows) * kTile, bias ? bias[o] : 0.0f,
                     y + (o * s.size_written[0] + s.first[0] + t * s.step[0]) * plane);
    }
  });
}

Call::Call(const Tensors& t, const char* name, int y)
    : batch(t.size(0, 0)), channels(t.size(1, 1)), replicate(t.integers(3)[7]) {
  const int32_t* settings = t.integers(3);
  groups = settings[6];
  require(groups > 0 && t.size(1, 0) % groups == 0 && t.size(0, 1) == groups * channels, name,
          "the channels of input and weight do not fit the number of groups");
  outs = t.size(1, 0) / groups;
  for (int i = 0; i < 3; ++i) {
    require(settings[i] > 0, name, "strides have to be positive");
    size[i] = t.size(0, 2 + i);
    result[i] = t.size(y, 2 + i);
    kernel[i] = t.size(1, 2 + i);
    stride[i] = settings[i];
    before[i] = settings[3 + i];
  }
  if (taps() == 1 && size == result && stride == Triple{1, 1, 1}) size = result = {1, 1, volume()};
}

}  // namespace mindone

using namespace mindone;

// x, weight, bias, settings → y
MINDONE_OPERATOR(mindone_conv, "fBCTHW fOItuv fO i8 fBOXYZ") {
  const Call call(tensors, "mindone_conv", 4);
  const Shape shape = call.shape();
  const float *x = tensors.in(0), *weight = tensors.in(1), *bias = tensors.in(2);
  float* y = tensors.out(4);
  if (call.depthwise()) return depthwise(shape, call.batch, call.groups, x, weight, bias, y);
  const Blocks blocks{call.outs, call.channels * call.taps()};
  thread_local Scratch scratch;
  float* packed = scratch.get(blocks.values());
  for (Index g = 0; g < call.groups; ++g) {
    blocks.pack(blocks.taps, [&](Index k) { return weight + g * call.weights() + k; }, packed);
    for (Index group = g; group < call.batch * call.groups; group += call.groups)
      correlate(shape, x + group * call.channels * call.volume(), packed, bias + g * call.outs,
                y + group * call.outs * call.result_volume());
  }
}
