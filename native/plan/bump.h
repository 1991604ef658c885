// Memory for the short lists that a stage makes by the thousand: taken from blocks, given back all at once.
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
  static constexpr size_t kBlock = 64 << 10;
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
    constexpr size_t kKept = 16;  // blocks for the next time
    if (list_.size() > used + kKept) list_.resize(used + kKept);
    enter(used);
    at_ = at;
  }
};

// For std::vector: must not outlive the Blocks::Scope in which it was filled.
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

}  // namespace knet
