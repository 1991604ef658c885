// Inner loops of pooling: one element of the window against a row of outputs.
#pragma once
#include "types.h"

namespace knet::cpu {

// A window of w over a plane that has no padding, or has it written out. Extents of outputs and window, strides, and
// the elements from one slice, and one row, to the next: in the plane, and in the plane without padding that indices
// count, where the plane's first element would be at `index`. `plane`: elements from one plane to the next.
struct PoolWindow {
  int64_t y[3], w[3], stride[3], pitch[2], index_pitch[2], index, plane;
  int64_t outputs() const { return y[0] * y[1] * y[2]; }
};

struct PoolKernel {
  // Maxima of planes and where they lie in each: the first greatest, or the first NaN; -1 if all are -infinity. True
  // if any is -1. Float types only: rows shorter than a vector are no slower than whole ones, and those shorter than
  // half of one are done several at once.
  bool (*max_planes)(const PoolWindow& g, const void* x, void* y, int64_t* at, int64_t count) = nullptr;
  // Where x[i * stride] beats best[i] (is greater, or the first NaN): best[i] = it, at[i] = first + i * stride; i < n.
  void (*max_row)(void* best, int32_t* at, const void* x, int64_t n, int64_t stride, int32_t first) = nullptr;
  void (*add_row)(void* sum, const void* x, int64_t n, int64_t stride) = nullptr;  // sum[i] += x[i * stride]
  void (*add_back)(void* x, const void* dy, int64_t n, int64_t stride) = nullptr;  // x[i * stride] += dy[i]
};

struct PoolTable {
  PoolKernel of[kDTypes];
};

#ifdef KNET_X86
namespace v2 { extern const PoolTable pool_table; }
namespace v3 { extern const PoolTable pool_table; }
namespace v4 { extern const PoolTable pool_table; }
#else
namespace base { extern const PoolTable pool_table; }
#endif

}  // namespace knet::cpu
