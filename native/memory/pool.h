// Memory of the host, kept for reuse by size class.
#pragma once
#include <mutex>
#include <vector>
#include "device.h"

namespace knet {

// Classes are 16 to a doubling (at most 1/16 is wasted), 64 bytes apart at the bottom. Freed blocks wait in a list of
// their class until asked for again. At most max(256 MiB, peak of live bytes) wait; beyond that the classes that were
// used longest ago are given back.
class Pool {
 public:
  static Pool& host();  // never destroyed

  void* allocate(size_t bytes);            // 64-aligned; throws Error::Memory, and only that
  void release(void*, size_t bytes);       // the same bytes as asked for
  MemoryStats stats() const;
  void trim();

  static constexpr size_t kMaxBytes = size_t(1) << 46;  // more than any machine has
  static int size_class(size_t bytes);
  static size_t class_bytes(int size_class);

 private:
  struct List {
    // Not linked through the blocks: their first lines may lie in the cache of another core.
    std::vector<void*> blocks;
    uint64_t used = 0;  // tick of the last allocation or release
  };
  static constexpr int kClasses = (46 - 10 + 1) * 16 + 17;

  Pool() = default;
  void* reuse(int size_class);
  void give_back(int64_t bytes);
  void free_list(int size_class);

  mutable std::mutex mutex_;
  uint64_t tick_ = 0;
  MemoryStats stats_;
  List lists_[kClasses];
};

}  // namespace knet
