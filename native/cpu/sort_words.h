// Sorting of unsigned words, upwards.
#pragma once
#include <cstdint>

namespace knet::cpu {

// Sorts a[0:n] for words whose bits from `high` on are 0 and whose bits below `low` go upwards already. b has room for
// as many. Returns where the words lie then: a or b. For U = uint32_t or uint64_t.
template <class U>
U* sort_words(U* a, U* b, int64_t n, int low, int high);

// The same by all threads.
constexpr int64_t kSortCounts = 64 << 11;  // length of `counts`
template <class U>
U* sort_long(U* a, U* b, int64_t n, int low, int high, int64_t* counts);

}  // namespace knet::cpu
