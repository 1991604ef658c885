// Reference-counted device memory. Contents never change while somebody else may look: a run writes only into buffers
// that it has just allocated, or that it alone holds (`donatable`).
#pragma once
#include <atomic>
#include <memory>
#include <utility>
#include "types.h"

namespace knet {

struct Buffer {
  std::atomic<int32_t> refs{0};
  std::atomic<int32_t> exports{0};  // NumPy, DLPack and memoryview views now alive: they pin the contents
  DeviceId device;
  size_t bytes = 0;
  char* data = nullptr;
  void (*free_owner)(void*) = nullptr;  // memory borrowed from elsewhere (from_dlpack): called instead of release
  void* owner = nullptr;
  bool pending = false;                // a program that is still running will write it: wait before reading (plan/stream.h)
  std::shared_ptr<const Error> lost;   // why it never did
};
void destroy(Buffer*);  // returns memory to its device's pool

class BufferRef {
 public:
  BufferRef() = default;
  explicit BufferRef(Buffer* b) : b_(b) { if (b_) b_->refs.fetch_add(1, std::memory_order_relaxed); }
  BufferRef(const BufferRef& o) : BufferRef(o.b_) {}
  BufferRef(BufferRef&& o) noexcept : b_(std::exchange(o.b_, nullptr)) {}
  BufferRef& operator=(BufferRef o) noexcept { std::swap(b_, o.b_); return *this; }
  ~BufferRef() { if (b_ && b_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(b_); }
  Buffer* get() const { return b_; }
  Buffer* operator->() const { return b_; }
  explicit operator bool() const { return b_ != nullptr; }
  bool donatable() const { return b_->refs.load(std::memory_order_acquire) == 1 && b_->exports.load() == 0 && !b_->free_owner; }

 private:
  Buffer* b_ = nullptr;
};
BufferRef allocate(DeviceId, size_t bytes);  // uninitialised, 64-aligned, at least 1 byte; throws Error::Memory

// A value in memory: always contiguous, C order.
struct Located {
  BufferRef buffer;
  int64_t offset = 0;  // bytes
  char* data() const { return buffer->data + offset; }
};

}  // namespace knet
