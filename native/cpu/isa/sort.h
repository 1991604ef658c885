// Inner loops of sort and top, one table per instruction set.
#pragma once
#include "types.h"

namespace knet::cpu {

constexpr int64_t kSkip = 32;  // elements looked at together

struct SortTable {
  // How many elements at the front of x[0:n], in whole groups of kSkip, are not below (skip[0]) or not above (skip[1])
  // *limit, which is not NaN.
  int64_t (*skip[2][kDTypes])(const void* x, int64_t n, const void* limit);
  // Sorts a[0:n]; b has room for as many. Null without vectors that can do it.
  void (*words32)(uint32_t* a, uint32_t* b, int64_t n) = nullptr;
  void (*words64)(uint64_t* a, uint64_t* b, int64_t n) = nullptr;
};

#ifdef KNET_X86
namespace v2 { extern const SortTable sort_table; }
namespace v3 { extern const SortTable sort_table; }
namespace v4 { extern const SortTable sort_table; }
#else
namespace base { extern const SortTable sort_table; }
#endif

}  // namespace knet::cpu
