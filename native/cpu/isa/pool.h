// Inner loops of pooling: one element of the window against a row of outputs.
#pragma once
#include "types.h"

namespace knet::cpu {

struct PoolKernel {
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
