// Vectors of float32 as wide as the registers that the compiler may use.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

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

// Floats that are not initialised, aligned to a cache line; memory of a thread that it keeps between calls.
class Scratch {
 public:
  float* get(size_t count) {
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
  std::unique_ptr<float, Free> memory_;
  size_t size_ = 0;
};

}  // namespace mindone
