// Loops over strided operands: dimensions with one stride per operand, made as few as they can be.
#pragma once
#include <algorithm>
#include <cstdlib>
#include "device.h"

namespace knet::cpu {

// Extent, and the strides of two operands (in elements, or in whatever the kernel counts in).
struct Dim {
  int64_t n, a, b;
};

struct Dims {
  Dim d[kMaxRank];
  int rank = 0;

  void push(int64_t n, int64_t a, int64_t b) { d[rank++] = {n, a, b}; }
  const Dim& last() const { return d[rank - 1]; }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= d[i].n;
    return n;
  }
  // Joins neighbours that both operands step through as one, and drops extents of 1.
  void merge() {
    int m = 0;
    for (int i = 0; i < rank; ++i) {
      if (d[i].n == 1) continue;
      if (m && d[m - 1].a == d[i].n * d[i].a && d[m - 1].b == d[i].n * d[i].b)
        d[m - 1] = {d[m - 1].n * d[i].n, d[i].a, d[i].b};
      else
        d[m++] = d[i];
    }
    rank = m;
  }
  // Largest steps of operand `a` outermost: memory order for that operand.
  void sort_by_a() {
    std::stable_sort(d, d + rank, [](const Dim& x, const Dim& y) { return std::abs(x.a) > std::abs(y.a); });
  }
};

// A position in the first `rank` dimensions, in C order, with the offset of each operand.
class Walk {
 public:
  Walk(const Dim* d, int rank, int64_t at) : d_(d), rank_(rank) {
    for (int i = rank - 1; i >= 0; --i) {
      i_[i] = at % d[i].n;
      at /= d[i].n;
      a += i_[i] * d[i].a;
      b += i_[i] * d[i].b;
    }
  }
  void next() {
    for (int i = rank_ - 1; i >= 0; --i) {
      a += d_[i].a;
      b += d_[i].b;
      if (++i_[i] < d_[i].n) return;
      a -= d_[i].n * d_[i].a;
      b -= d_[i].n * d_[i].b;
      i_[i] = 0;
    }
  }
  int64_t a = 0, b = 0;

 private:
  const Dim* d_;
  int rank_;
  int64_t i_[kMaxRank];
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Splits [0, n) into tasks of `grain`: range(i) is the i-th.
struct Split {
  int64_t n, grain;
  Split(int64_t total, int64_t grain_) : n(total), grain(std::max<int64_t>(grain_, 1)) {}
  int64_t tasks() const { return ceil_div(n, grain); }
  int64_t begin(int64_t i) const { return i * grain; }
  int64_t end(int64_t i) const { return std::min(n, (i + 1) * grain); }
};

// A contiguous value seen as (outer, n, inner) around one axis.
struct Axis {
  int64_t outer = 1, n = 1, inner = 1;
  Axis(const Shape& s, int axis) {
    for (int i = 0; i < axis; ++i) outer *= s[i];
    n = s[axis];
    for (int i = axis + 1; i < s.rank; ++i) inner *= s[i];
  }
};

}  // namespace knet::cpu
