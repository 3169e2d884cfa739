// What the functions share that MindSpore calls as custom operators.
#pragma once

#include <cstdint>

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

}  // namespace mindone

// MindSpore's signature: inputs, then outputs. A result other than 0 becomes an error that names it.
#define MINDONE_OPERATOR(name)                                                                        \
  extern "C" int name([[maybe_unused]] int count, void** data, [[maybe_unused]] int* axes, int64_t** shapes, \
                      const char**, void*, void*)
