#include "memory/pool.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#if defined(__linux__)
#include <malloc.h>
#include <sys/mman.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace knet {
namespace {

constexpr int64_t kKeep = int64_t(256) << 20;
constexpr size_t kHuge = size_t(2) << 20;

// Fresh memory, untouched. Blocks of 4 MiB and more ask for huge pages: far fewer page faults and TLB misses.
void* system_allocate(size_t bytes) {
#if defined(__linux__)
  if (bytes >= 2 * kHuge) {
    size_t whole = (bytes + kHuge - 1) / kHuge * kHuge;
    void* p = std::aligned_alloc(kHuge, whole);
    if (p) madvise(p, whole, MADV_HUGEPAGE);
    return p;
  }
#endif
  return std::aligned_alloc(64, bytes);
}

std::string readable(double bytes) {
  static const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int u = 0;
  for (; bytes >= 1024 && u < 6; ++u) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
  return text;
}

}  // namespace

Pool& Pool::host() {
  static Pool* pool = [] {
    auto* p = new Pool;
#if !defined(_WIN32)
    // A fork while another thread is in the pool must not leave the child with a lock that nobody opens.
    pthread_atfork([] { host().mutex_.lock(); }, [] { host().mutex_.unlock(); }, [] { host().mutex_.unlock(); });
#endif
    return p;
  }();
  return *pool;
}

// Up to 1 KiB: steps of 64 bytes (classes 0..16). From then on 16 steps to a doubling.
int Pool::size_class(size_t bytes) {
  if (bytes <= 1024) return int((bytes + 63) / 64);
  int log = std::bit_width(bytes - 1) - 1;  // 2^log < bytes <= 2^(log+1)
  int step = int((bytes - 1) >> (log - 4)) - 15;  // 1..16
  return 16 + (log - 10) * 16 + step;
}

size_t Pool::class_bytes(int c) {
  if (c <= 16) return size_t(std::max(c, 1)) * 64;
  int log = 10 + (c - 17) / 16, step = (c - 17) % 16 + 1;
  return (size_t(1) << log) + (size_t(step) << (log - 4));
}

void* Pool::reuse(int c) {
  List& list = lists_[c];
  list.used = ++tick_;
  if (list.blocks.empty()) return nullptr;
  void* p = list.blocks.back();
  list.blocks.pop_back();
  stats_.pooled -= int64_t(class_bytes(c));
  return p;
}

void* Pool::allocate(size_t bytes) {
  void* p = nullptr;
  if (bytes <= kMaxBytes) {
    int c = size_class(bytes);
    size_t size = class_bytes(c);
    {
      std::lock_guard lock(mutex_);
      p = reuse(c);
      if (p) {
        stats_.live += int64_t(size);
        stats_.peak = std::max(stats_.peak, stats_.live);
        return p;
      }
    }
    p = system_allocate(size);
    if (!p) {
      trim();
      p = system_allocate(size);
    }
    if (p) {
      std::lock_guard lock(mutex_);
      stats_.live += int64_t(size);
      stats_.peak = std::max(stats_.peak, stats_.live);
      return p;
    }
  }
  throw Error(Error::Memory,
              "[allocate] " + readable(double(bytes)) +
                  " asked for and not to be had: " + readable(double(stats().live)) +
                  " are in use by arrays. Use smaller arrays or batches, or drop results that are not needed.");
}

void Pool::release(void* p, size_t bytes) {
  int c = size_class(bytes);
  auto size = int64_t(class_bytes(c));
  std::lock_guard lock(mutex_);
  stats_.live -= size;
  List& list = lists_[c];
  list.used = ++tick_;
  try {
    list.blocks.push_back(p);
  } catch (const std::bad_alloc&) {
    std::free(p);
    return;
  }
  stats_.pooled += size;
  if (int64_t most = std::max(kKeep, stats_.peak); stats_.pooled > most) give_back(stats_.pooled - most);
}

void Pool::free_list(int c) {
  auto size = int64_t(class_bytes(c));
  std::vector<void*>& blocks = lists_[c].blocks;
  stats_.pooled -= size * int64_t(blocks.size());
  for (void* p : blocks) std::free(p);
  blocks = {};
}

void Pool::give_back(int64_t bytes) {
  for (int64_t until = stats_.pooled - bytes; stats_.pooled > until;) {
    int oldest = -1;
    for (int c = 0; c < kClasses; ++c)
      if (!lists_[c].blocks.empty() && (oldest < 0 || lists_[c].used < lists_[oldest].used)) oldest = c;
    free_list(oldest);
  }
}

void Pool::trim() {
  {
    std::lock_guard lock(mutex_);
    for (int c = 0; c < kClasses; ++c) free_list(c);
  }
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

MemoryStats Pool::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace knet
