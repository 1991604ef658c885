// Nodes of a graph, found by what they do.
#pragma once
#include <bit>

#include "plan/graph.h"

namespace knet {

// Finds a node equal to a new one: same operation, inputs and attributes. Open addressing over node numbers.
class Known {
 public:
  explicit Known(const Graph& g, size_t expect) : g_(g), slots_(std::bit_ceil(expect * 2 + 16), kNone) {}

  static uint64_t hash(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs) {
    uint64_t h = uint64_t(op) * 0x9e3779b97f4a7c15ull;
    for (uint32_t v : in) h = (h ^ v) * 0xd6e8feb86659fd93ull;
    for (int64_t a : attrs) h = (h ^ uint64_t(a)) * 0xa0761d6478bd642full, h ^= h >> 29;
    return h ^ h >> 32;
  }
  uint32_t find(uint64_t h, Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs) const {
    for (size_t i = h & (slots_.size() - 1); slots_[i] != kNone; i = (i + 1) & (slots_.size() - 1)) {
      const auto& n = g_.nodes[slots_[i]];
      if (n.op == op && same_words(g_.in(n), in) && same_words(g_.attr(n), attrs)) return n.out;
    }
    return kNone;
  }
  void add(uint64_t h, uint32_t node) {
    if (++count_ * 2 > slots_.size()) grow();
    put(h, node);
  }

 private:
  const Graph& g_;
  List<uint32_t> slots_;
  size_t count_ = 0;
  void put(uint64_t h, uint32_t node) {
    size_t i = h & (slots_.size() - 1);
    while (slots_[i] != kNone) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = node;
  }
  void grow() {
    auto old = std::move(slots_);
    slots_.assign(old.size() * 2, kNone);
    for (uint32_t n : old)
      if (n != kNone) put(hash(g_.nodes[n].op, g_.in(g_.nodes[n]), g_.attr(g_.nodes[n])), n);
  }
};

}  // namespace knet
