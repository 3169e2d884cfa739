// What the functions share that MindSpore calls as custom operators.
#pragma once

#include <cstdint>
#include <exception>

namespace mindone {

using Index = int64_t;

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index round_up(Index n, Index multiple) { return ceil_div(n, multiple) * multiple; }

inline const float* floats(void* data) { return static_cast<const float*>(data); }
inline float* results(void* data) { return static_cast<float*>(data); }

// How many values a tensor has, without its first and last axes if asked to.
inline Index values(const int* axes, int64_t* const* shapes, int tensor, int first = 0, int last = 0) {
  Index count = 1;
  for (int i = first; i < axes[tensor] - last; ++i) count *= shapes[tensor][i];
  return count;
}

// The length of a vector, 0 of a number.
inline Index length(const int* axes, int64_t* const* shapes, int tensor) {
  return axes[tensor] ? shapes[tensor][0] : 0;
}

}  // namespace mindone

// A function with MindSpore's signature: inputs, then outputs. What it returns other than 0 becomes MindSpore's error.
#define MINDONE_OPERATOR(name)                                                                     \
  static int name##_of(const int* axes, void** data, int64_t** shapes);                            \
  extern "C" int name(int, void** data, int* axes, int64_t** shapes, const char**, void*, void*) { \
    try {                                                                                          \
      return name##_of(axes, data, shapes);                                                        \
    } catch (const std::exception&) {                                                              \
      return 1;                                                                                    \
    }                                                                                              \
  }                                                                                                \
  static int name##_of([[maybe_unused]] const int* axes, void** data, int64_t** shapes)
