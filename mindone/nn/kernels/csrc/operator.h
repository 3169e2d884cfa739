// What the functions share that MindSpore calls as custom operators.
#pragma once

#include <cstdint>

namespace mindone {

using Index = int64_t;

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index round_up(Index n, Index multiple) { return ceil_div(n, multiple) * multiple; }

// The tensors of a call: inputs, then outputs. MindSpore tells no strides: the caller passes contiguous ones.
struct Tensors {
  int count;
  void** data;
  const int* axes;
  int64_t* const* shapes;
  const char* const* dtypes;

  const float* in(int tensor) const { return static_cast<const float*>(data[tensor]); }
  float* out(int tensor) const { return static_cast<float*>(data[tensor]); }
  const int32_t* integers(int tensor) const { return static_cast<const int32_t*>(data[tensor]); }
  float number(int tensor) const { return *in(tensor); }
  Index size(int tensor, int axis) const { return shapes[tensor][axis]; }
  // How many values a tensor has, from the axis `first` on.
  Index values(int tensor, int first = 0) const {
    Index count = 1;
    for (int i = first; i < axes[tensor]; ++i) count *= shapes[tensor][i];
    return count;
  }
};

// Throws std::invalid_argument, with a sentence about it, unless the tensors are as `wanted` says: for each one, after
// a blank, its dtype (f float32, i int32, b bool) and its axes. A letter stands for the same length wherever it is, a
// digit for itself, ? for any length, . at the end for any number of axes, and = for the shape of the first tensor.
// A dtype alone is a number, of any rank.
void check_tensors(const char* name, const char* wanted, const Tensors& tensors);

// The same for what `wanted` cannot say.
void require(bool condition, const char* name, const char* sentence);

}  // namespace mindone

// A function with MindSpore's signature. MindSpore makes an error of its own of what is thrown.
#define MINDONE_OPERATOR(name, wanted)                                                                               \
  static void name##_of(const mindone::Tensors& tensors);                                                            \
  extern "C" __attribute__((visibility("default"))) int name(int count, void** data, int* axes, int64_t** shapes,    \
                                                             const char** dtypes, void*, void*) {                    \
    const mindone::Tensors tensors{count, data, axes, shapes, dtypes};                                               \
    mindone::check_tensors(#name, wanted, tensors);                                                                  \
    name##_of(tensors);                                                                                              \
    return 0;                                                                                                        \
  }                                                                                                                  \
  static void name##_of(const mindone::Tensors& tensors)
