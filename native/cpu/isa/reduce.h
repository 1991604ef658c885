// Inner loops of reductions, one table per instruction set.
#pragma once
#include "types.h"

namespace knet::cpu {

enum Reduction : int { kSum, kProd, kMax, kMin, kAny, kAll, kReductions };

// Accumulators (the type is fixed by reduction and dtype; reduce.cpp knows the same rule):
//   sum, prod: double for floats, uint64 (modulo 2^64) for integers and bool
//   max, min:  the element type
//   any, all:  a signed integer of the element's size, 0 or -1
// Every function combines into accumulators that hold something already. Strides in elements.
struct ReduceKernel {
  // acc[k] = combine(acc[k], x[k * count_stride + r * stride]) over r < n, for k < count.
  void (*rows)(const void* x, int64_t count, int64_t count_stride, int64_t n, int64_t stride, void* acc) = nullptr;
  // acc[c] = combine(acc[c], x[r * row_stride + c]) over r < rows, for c < cols.
  void (*cols)(const void* x, int64_t cols, int64_t rows, int64_t row_stride, void* acc) = nullptr;
  // max and min only: best[c], at[c] over rows first_row + r (r < rows) of x[r * row_stride + c * col_stride]; the
  // first of equals stays, a NaN wins over what is not.
  void (*arg)(const void* x, int64_t cols, int64_t col_stride, int64_t rows, int64_t row_stride, int64_t first_row,
              void* best, int64_t* at) = nullptr;
};

struct ReduceTable {
  ReduceKernel of[kReductions][kDTypes];
};

#ifdef KNET_X86
namespace v2 { extern const ReduceTable reduce_table; }
namespace v3 { extern const ReduceTable reduce_table; }
namespace v4 { extern const ReduceTable reduce_table; }
#else
namespace base { extern const ReduceTable reduce_table; }
#endif

}  // namespace knet::cpu
