// Vectors of float32 as wide as the registers that the compiler may use.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mindone {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

#define MINDONE_INLINE inline __attribute__((always_inline))

MINDONE_INLINE Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
MINDONE_INLINE void store(float* to, Vector x) { *reinterpret_cast<Unaligned*>(to) = x; }

MINDONE_INLINE Vector splat(float x) { return x - Vector{}; }

MINDONE_INLINE float sum(Vector x) {
  float total = 0.0f;
  for (int j = 0; j < kLanes; ++j) total += x[j];
  return total;
}

// e^x with a relative error of 1e-7 (Cephes' polynomial); 0 below -87, infinite above 88.
MINDONE_INLINE Vector exponential(Vector argument) {
#if defined(__AVX512F__)
  // Of two numbers of which one is none these instructions give the second.
  const Vector x = _mm512_min_ps(splat(89.0f), _mm512_max_ps(splat(-87.0f), argument));
#else
  Vector x = argument < -87.0f ? splat(-87.0f) : argument;
  x = x > 88.0f ? splat(88.0f) : x;
#endif
  const Vector shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds: 1.5 * 2^23 has no bits behind the point
  const Vector n = shifted - 12582912.0f;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vector power = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  const Vector y = _mm512_scalef_ps(power, n);
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(argument, splat(-87.0f), _CMP_LT_OQ), Vector{});
#else
  typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
  Integers bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;
  Vector scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const Vector y = argument < -87.0f ? Vector{} : power * scale;
  return argument > 88.0f ? splat(std::numeric_limits<float>::infinity()) : y;
#endif
}

MINDONE_INLINE Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-x)); }

// Transposes a square of kLanes rows in place.
MINDONE_INLINE void transpose(Vector* rows) {
#if defined(__clang__)
  float whole[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store(whole[i], rows[i]);
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) rows[i][j] = whole[j][i];
#else
  typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
  // Swaps the off-diagonal squares of `size` in each square of twice the size.
#pragma GCC unroll 4
  for (int size = 1; size < kLanes; size *= 2) {
    Integers upper, lower;
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) {
      upper[j] = j & size ? kLanes + j - size : j;
      lower[j] = j & size ? kLanes + j : j + size;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & size) continue;
      const Vector a = rows[i], b = rows[i + size];
      rows[i] = __builtin_shuffle(a, b, upper);
      rows[i + size] = __builtin_shuffle(a, b, lower);
    }
  }
#endif
}

// Floats that are not initialised, aligned to a cache line. A thread keeps its own between calls: the pages of fresh
// memory are filled by the system one after the other. What is larger than kKept is given back by the next smaller
// call.
class Scratch {
 public:
  float* get(size_t count) {
    if (size_ > kKept && count <= kKept) {
      memory_.reset();
      size_ = 0;
    }
    if (count > size_) {
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64)));
      size_ = memory_ ? count : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  static constexpr size_t kKept = size_t{1} << 23;
  std::unique_ptr<float, Free> memory_;
  size_t size_ = 0;
};

}  // namespace mindone
