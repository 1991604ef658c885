// Memory of a plan while it is being made. The stages fill thousands of lists, and none outlives the planning: they are
// taken from blocks, one after the other, and given back all at once. (Half of the time to plan a small graph went to malloc,
// free, and to page faults, since the C library returns the end of its heap to the system at every large free.)
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

namespace knet {

class Blocks {
 public:
  static Blocks& here() {
    static thread_local Blocks blocks;
    return blocks;
  }
  void* take(size_t bytes) {
    bytes = (bytes + 15) & ~size_t(15);
    if (at_ + bytes > size_) next(bytes);
    void* p = block_ + at_;
    at_ += bytes;
    return p;
  }

  // All that is taken in its lifetime is given back at its end; what was taken before stays.
  class Scope {
   public:
    Scope() : blocks_(here()), kept_(blocks_.used_), at_(blocks_.at_) {}
    ~Scope() { blocks_.back_to(kept_, at_); }
    Scope(const Scope&) = delete;

   private:
    Blocks& blocks_;
    size_t kept_, at_;
  };

 private:
  static constexpr size_t kBlock = 256 << 10;
  static constexpr size_t kKept = 4 << 20;  // bytes for the next time
  struct Block {
    std::unique_ptr<char[]> data;
    size_t size;
  };
  std::vector<Block> list_;
  size_t used_ = 0;  // blocks in use; the last of them is block_
  char* block_ = nullptr;
  size_t at_ = 0, size_ = 0;

  void next(size_t bytes) {
    if (used_ == list_.size() || list_[used_].size < bytes) {
      list_.resize(used_);
      const size_t size = bytes > kBlock ? bytes : kBlock;
      list_.push_back({std::make_unique_for_overwrite<char[]>(size), size});
    }
    enter(++used_);
    at_ = 0;
  }
  void enter(size_t used) {
    used_ = used;
    block_ = used ? list_[used - 1].data.get() : nullptr;
    size_ = used ? list_[used - 1].size : 0;
  }
  void back_to(size_t used, size_t at) {
    size_t kept = 0, n = used;
    while (n < list_.size() && kept + list_[n].size <= kKept) kept += list_[n++].size;
    list_.resize(n);
    enter(used);
    at_ = at;
  }
};

// For std::vector: it must not outlive the innermost Blocks::Scope in which it was filled.
template <class T>
struct Bump {
  using value_type = T;
  Bump() = default;
  template <class U>
  Bump(const Bump<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(Blocks::here().take(n * sizeof(T))); }
  void deallocate(T*, size_t) {}
  template <class U>
  bool operator==(const Bump<U>&) const { return true; }
};
template <class T>
using List = std::vector<T, Bump<T>>;

}  // namespace knet
