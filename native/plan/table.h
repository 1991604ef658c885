// A small hash table for planning.
#pragma once
#include <cstdint>

#include "plan/graph.h"

namespace knet {

// From a number of 64 bits to one of 32, kNone if there is none yet. Open addressing.
class Table {
 public:
  uint32_t& operator[](uint64_t key) {
    if (2 * count_ >= slots_.size()) grow();
    Slot& s = find(key);
    if (!s.used) s = {key, kNone, true}, ++count_;
    return s.value;
  }

 private:
  struct Slot {
    uint64_t key;
    uint32_t value;
    bool used = false;
  };
  List<Slot> slots_;
  size_t count_ = 0;
  Slot& find(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t i = (key * 0x9e3779b97f4a7c15ull >> 32) & mask;
    while (slots_[i].used && slots_[i].key != key) i = (i + 1) & mask;
    return slots_[i];
  }
  void grow() {
    const List<Slot> old = std::exchange(slots_, List<Slot>(std::max<size_t>(64, 2 * slots_.size())));
    for (const Slot& s : old)
      if (s.used) find(s.key) = s;
  }
};

}  // namespace knet
