// Inner loops of sort and top, one table per instruction set.
#pragma once
#include "types.h"

namespace knet::cpu {

constexpr int64_t kSkip = 32;  // elements looked at together

// For either function, b has room for as many as a.
template <class U>
struct Quicksort {
  int64_t most = 0;                               // words that sort can sort
  void (*sort)(U* a, U* b, int64_t n) = nullptr;  // a[0:n], in place
  // Writes a[0:n] to b, such that the first k are below all others or all equal. Returns k, 0 < k <= n. Null without
  // vectors that can do it.
  int64_t (*split)(const U* a, U* b, int64_t n) = nullptr;
};

struct SortTable {
  // How many elements at the front of x[0:n], in whole groups of kSkip, are not below (skip[0]) or not above (skip[1])
  // *limit, which is not NaN.
  int64_t (*skip[2][kDTypes])(const void* x, int64_t n, const void* limit);
  Quicksort<uint32_t> of32;
  Quicksort<uint64_t> of64;
};

#ifdef KNET_X86
namespace v2 { extern const SortTable sort_table; }
namespace v3 { extern const SortTable sort_table; }
namespace v4 { extern const SortTable sort_table; }
#else
namespace base { extern const SortTable sort_table; }
#endif

const SortTable& sorting();  // of this processor's instruction set

}  // namespace knet::cpu
