#include <vector>

#include "conv.h"
#include "sums.h"

using namespace mindone;

namespace {

constexpr Index kDepth = 128;                  // positions that are packed at a time for the gradient of the weights
constexpr Index kTransposed = Index{1} << 22;  // floats of the result's gradient that lie transposed at a time

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

// Weights (O, C, kt, kh, kw) of one group for the way back: (O, taps of a phase reversed) in blocks of C.
void pack_reversed(const Call& call, const std::array<Phase, 3>& phase, const float* weight, float* packed) {
  const Index plane = phase[1].taps * phase[2].taps, taps = phase[0].taps * plane;
  auto source = [&](Index row) {
    const Index k = row % taps;
    Index at = 0, tap[3] = {k / plane, k / phase[2].taps % phase[1].taps, k % phase[2].taps};
    for (int i = 0; i < 3; ++i)
      at = at * call.kernel[i] + phase[i].first_tap + call.stride[i] * (phase[i].taps - 1 - tap[i]);
    return weight + row / taps * call.channels * call.taps() + at;
  };
  Blocks{call.channels, call.outs * taps}.pack(call.taps(), source, packed);
}

// dx (B, G * C, N...) for frames of `size` with margins `before`.
void input_gradient(const Call& call, const float* dy, const float* weight, const Triple& size, const Triple& before,
                    float* dx) {
  const Index volume = product(size), planes = call.batch * call.groups;
  if (call.stride != Triple{1, 1, 1}) std::memset(dx, 0, planes * call.channels * volume * sizeof(float));
  thread_local Scratch scratch;
  float* packed = scratch.get((call.channels + kTileRows) * call.outs * call.taps());
  for (Index p = 0; p < product(call.stride); ++p) {
    const Triple at{p / (call.stride[1] * call.stride[2]), p / call.stride[2] % call.stride[1], p % call.stride[2]};
    auto phase_of = [&](int i) { return Phase(at[i], size[i], call.kernel[i], call.stride[i], before[i]); };
    const std::array<Phase, 3> phase{phase_of(0), phase_of(1), phase_of(2)};
    if (!phase[0].taps || !phase[1].taps || !phase[2].taps) continue;
    auto axis = [&](int i) { return Axis{call.result[i], phase[i].count, phase[i].taps, 1, phase[i].before}; };
    const Shape shape{call.outs, call.channels, axis(0), axis(1),
                      axis(2),   false,         size,    {phase[0].first, phase[1].first, phase[2].first},
                      call.stride};
    for (Index g = 0; g < call.groups; ++g) {
      pack_reversed(call, phase, weight + g * call.weights(), packed);
      for (Index group = g; group < planes; group += call.groups)
        correlate(shape, dy + group * call.outs * call.result_volume(), packed, nullptr,
                  dx + group * call.channels * volume);
    }
  }
}

// Adds what belongs to repeated edges to the edges: (N, size with margins) → (N, size).
void fold_edges(const Call& call, const Triple& padded, const float* from, float* to) {
  parallel_for(call.batch * call.groups * call.channels, [&](Index plane) {
    float* dx = to + plane * call.volume();
    std::memset(dx, 0, call.volume() * sizeof(float));
    auto place = [&](int axis, Index i) { return clamp(i - call.before[axis], call.size[axis]); };
    const Index left = std::min(call.before[2], padded[2]), right = std::min(padded[2], left + call.size[2]);
    const float* row = from + plane * product(padded);
    for (Index t = 0; t < padded[0]; ++t)
      for (Index h = 0; h < padded[1]; ++h, row += padded[2]) {
        float* line = dx + (place(0, t) * call.size[1] + place(1, h)) * call.size[2];
        for (Index w = 0; w < left; ++w) line[0] += row[w];
        for (Index w = left; w < right; ++w) line[w - left] += row[w];
        for (Index w = right; w < padded[2]; ++w) line[call.size[2] - 1] += row[w];
      }
  });
}

// The gradient of the weights of one group: rows of (C, kt, kh) are shared out among threads, each with sums (its rows,
// kw, O padded) and room for a tile's rows behind them. The vectors of O are in panels of as many as a tile has.
struct WeightGradient {
  const Shape s;
  const int tile_rows = s.outs <= kLanes ? 2 * kTileRows : kTileRows;  // a vector's sums would wait for one another
  Index width = round_up(s.outs, kLanes), panels = ceil_div(width, kTileColumns), frame = s.positions() * width;
  Index together = std::max<Index>(1, std::min(s.t.out, kTransposed / frame));
  Index items = std::min(s.rows(), Index{4} * Pool::instance().threads());
  Index transposed_values = together * frame, sum_values = (s.rows() * s.w.k + items * tile_rows) * width;

  Index first_row(Index item) const { return s.rows() * item / items; }
  Index first_sum(Index item) const { return (first_row(item) * s.w.k + item * tile_rows) * width; }
  Index first_out(Index panel) const { return width / kLanes * panel / panels * kLanes; }

  // Frame t of dy (O, T', H', W') as (panels, positions, their part of O), zero in the margins.
  void transpose(const float* dy, Index t, float* to) const {
    const Index plane = s.t.out * s.frame(), margin = s.pitch() - s.w.out;
    for (Index panel = 0; panel < panels; ++panel) {
      const Index out = first_out(panel), step = first_out(panel + 1) - out, valid = std::min(step, s.outs - out);
      for (Index h = 0; h < s.h.out; ++h) {
        const float* from = dy + out * plane + t * s.frame() + h * s.w.out;
        float* row = to + out * s.positions() + h * s.pitch() * step;
        for (Index first = 0; first < s.w.out; first += kLanes) {
          const Index last = std::min(s.w.out, first + kLanes);
          for (Index o = 0; o < step; ++o)
            for (Index w = first; w < last; ++w) row[w * step + o] = o < valid ? from[o * plane + w] : 0.0f;
        }
        if (h + 1 < s.h.out) std::memset(row + s.w.out * step, 0, margin * step * sizeof(float));
      }
    }
  }

  // Adds one sample's part.
  void add(const float* x, const float* dy, float* transposed, float* sums) const {
    auto add_rows = tile_rows == kTileRows ? &WeightGradient::add_positions<kTileRows>
                                           : &WeightGradient::add_positions<2 * kTileRows>;
    for (Index t = 0; t < s.t.out; t += together) {
      const Index frames = std::min(together, s.t.out - t);
      parallel_for(frames, [&](Index i) { transpose(dy, t + i, transposed + i * frame); });
      parallel_for(items, [&](Index item) {
        for (Index i = 0; i < frames; ++i)
          for (Index p = 0; p < s.positions(); p += kDepth)
            (this->*add_rows)(x, item, t + i, p, transposed + i * frame, sums + first_sum(item));
      });
    }
  }

  // Adds what the rows of an item see from kDepth positions of a frame, times their slopes.
  template <int rows>
  void add_positions(const float* x, Index item, Index t, Index first, const float* slopes, float* sums) const {
    thread_local Scratch scratch;
    const Index last = std::min(first + kDepth, s.positions()), first_r = first_row(item), last_r = first_row(item + 1);
    const Index row_step = s.row_step(kDepth), tap_step = s.tap_step(kDepth), count = (last_r - first_r) * s.w.k;
    float* packed = scratch.get((last_r - first_r) * row_step);
    pack(s, x, t, first, last, first_r, last_r, kDepth, packed);
    for (Index k = 0; k < count; k += rows, sums += rows * width) {
      Rows<rows> taps(packed, 0);
      for (int j = 0; j < rows; ++j) {
        const Index tap = std::min(k + j, count - 1);
        taps.row[j] = packed + tap / s.w.k * row_step + tap % s.w.k * tap_step;
      }
      for (Index panel = 0; panel < panels; ++panel) {
        const Index out = first_out(panel), step = first_out(panel + 1) - out;
        const Panel right{slopes + out * s.positions() + first * step, step, last - first};
        if constexpr (rows > kTileRows)
          multiply_tile<rows, 1, true>(taps, right, nullptr, sums, width);
        else
          multiply_tile<rows, true>(vectors_of(step), taps, right, nullptr, sums + out, width);
      }
    }
  }

  // d_weight (O, C, kt, kh, kw) from the sums.
  void write(const float* sums, float* d_weight) const {
    const Index taps = s.rows() * s.w.k;
    parallel_for(items, [&](Index item) {
      const float* from = sums + first_sum(item);
      for (Index k = first_row(item) * s.w.k; k < first_row(item + 1) * s.w.k; ++k, from += width)
        for (Index o = 0; o < s.outs; ++o) d_weight[o * taps + k] = from[o];
    });
  }
};

void weight_gradient(const Call& call, const float* x, const float* dy, float* d_weight) {
  const WeightGradient gradient{call.shape()};
  thread_local Scratch scratch;
  float* transposed = scratch.get(gradient.transposed_values + gradient.sum_values);
  float* sums = transposed + gradient.transposed_values;
  for (Index g = 0; g < call.groups; ++g) {
    std::memset(sums, 0, gradient.sum_values * sizeof(float));
    for (Index group = g; group < call.batch * call.groups; group += call.groups)
      gradient.add(x + group * call.channels * call.volume(), dy + group * call.outs * call.result_volume(), transposed,
                   sums);
    gradient.write(sums, d_weight + g * call.weights());
  }
}

// d_bias (O): sums of dy over samples and positions.
void bias_gradient(const Call& call, const float* dy, float* d_bias) {
  const Index outs = call.groups * call.outs, volume = call.result_volume();
  parallel_for(outs, [&](Index o) {
    double total = 0.0;
    for (Index plane = o; plane < call.batch * outs; plane += outs)
      total += sum_of_parts(volume, [&](Index first, Index count) { return sum(dy + plane * volume + first, count); });
    d_bias[o] = static_cast<float>(total);
  });
}

}  // namespace

// x (only its shape), weight, dy, settings → dx
MINDONE_OPERATOR(mindone_conv_input_gradient, "fBCTHW fOItuv fBOXYZ i8 f=") {
  const Call call(tensors, "mindone_conv_input_gradient", 2);
  const float *weight = tensors.in(1), *dy = tensors.in(2);
  float* dx = tensors.out(4);
  if (call.depthwise()) {
    std::vector<float> reversed(call.groups * call.taps());
    for (Index c = 0; c < call.groups; ++c)
      std::reverse_copy(weight + c * call.taps(), weight + (c + 1) * call.taps(), &reversed[c * call.taps()]);
    auto axis = [&](int i) {
      return Axis{call.result[i], call.size[i], call.kernel[i], 1, call.kernel[i] - 1 - call.before[i]};
    };
    const Shape shape{1, 1, axis(0), axis(1), axis(2), false, call.size};
    return depthwise(shape, call.batch, call.groups, dy, reversed.data(), nullptr, dx);
  }
  if (!call.replicate) return input_gradient(call, dy, weight, call.size, call.before, dx);
  Triple padded;
  for (int i = 0; i < 3; ++i)
    padded[i] = std::max(call.before[i] + call.size[i], (call.result[i] - 1) * call.stride[i] + call.kernel[i]);
  thread_local Scratch scratch;
  float* whole = scratch.get(call.batch * call.groups * call.channels * product(padded));
  input_gradient(call, dy, weight, padded, {0, 0, 0}, whole);
  fold_edges(call, padded, whole, dx);
}

// x, weight (only its shape), dy, settings → d_weight, d_bias
MINDONE_OPERATOR(mindone_conv_weight_gradient, "fBCTHW fOItuv fBOXYZ i8 fOItuv fO") {
  const Call call(tensors, "mindone_conv_weight_gradient", 2);
  const float *x = tensors.in(0), *dy = tensors.in(2);
  bias_gradient(call, dy, tensors.out(5));
  if (call.depthwise())
    depthwise_weights(call.shape(), call.batch, call.groups, x, dy, tensors.out(4));
  else
    weight_gradient(call, x, dy, tensors.out(4));
}
