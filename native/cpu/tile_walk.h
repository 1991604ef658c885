// A strided operand seen as the flat sequence of its elements in C order.
#pragma once
#include <bit>
#include <cstdlib>
#include <cstring>
#include "cpu/tile_pick.h"
#include "types.h"

namespace knet::cpu::tile {

struct Walk {
  int rank = 0;  // after neighbours that are stepped through as one are joined and extents of 1 dropped
  int64_t dim[kMaxRank], stride[kMaxRank];

  Walk() = default;
  Walk(const int64_t* dims, const int64_t* strides, int n) {
    for (int i = 0; i < n; ++i) {
      if (dims[i] == 1) continue;
      if (rank && stride[rank - 1] == dims[i] * strides[i]) {
        dim[rank - 1] *= dims[i];
        stride[rank - 1] = strides[i];
      } else {
        dim[rank] = dims[i];
        stride[rank++] = strides[i];
      }
    }
  }
  bool contiguous() const { return rank == 0 || (rank == 1 && stride[0] == 1); }
  // Repeats with this period (elements) because the outermost dimension does not move; 0 if it does.
  int64_t period() const {
    if (rank == 0 || stride[0] != 0) return 0;
    int64_t p = 1;
    for (int i = 1; i < rank; ++i) p *= dim[i];
    return p;
  }
  // One contiguous row, repeated.
  bool is_repeated_row() const { return rank == 2 && stride[0] == 0 && stride[1] == 1; }

  // Calls f(offset in elements, count, stride) for the runs that make up elements [at, at + n).
  template <class F>
  void runs(int64_t at, int64_t n, F f) const {
    if (n <= 0) return;
    if (rank == 0) return f(int64_t(0), n, int64_t(0));
    int64_t i[kMaxRank], offset = 0;
    for (int k = rank - 1; k >= 0; --k) {
      i[k] = at % dim[k];
      at /= dim[k];
      offset += i[k] * stride[k];
    }
    const int last = rank - 1;
    while (n > 0) {
      int64_t m = dim[last] - i[last];
      if (m > n) m = n;
      f(offset, m, stride[last]);
      n -= m;
      offset -= i[last] * stride[last];
      i[last] = 0;
      for (int k = last - 1; k >= 0; --k) {
        offset += stride[k];
        if (++i[k] < dim[k]) break;
        offset -= dim[k] * stride[k];
        i[k] = 0;
      }
    }
  }
};

template <class T>
void gather_as(const Walk& w, char* to, const char* from, int64_t at, int64_t n) {
  auto* d = reinterpret_cast<T*>(to);
  auto* s = reinterpret_cast<const T*>(from);
  w.runs(at, n, [&](int64_t offset, int64_t m, int64_t step) {
    const T* x = s + offset;
    if (step == 1) std::memcpy(d, x, size_t(m) * sizeof(T));
    else if (step == 0) casts().splat[std::countr_zero(sizeof(T))](d, x, m);
    else for (int64_t i = 0; i < m; ++i) d[i] = x[i * step];
    d += m;
  });
}
template <class T>
void scatter_as(const Walk& w, char* to, const char* from, int64_t at, int64_t n) {
  auto* d = reinterpret_cast<T*>(to);
  auto* s = reinterpret_cast<const T*>(from);
  w.runs(at, n, [&](int64_t offset, int64_t m, int64_t step) {
    T* y = d + offset;
    if (step == 1) std::memcpy(y, s, size_t(m) * sizeof(T));
    else for (int64_t i = 0; i < m; ++i) y[i * step] = s[i];
    s += m;
  });
}
// Elements [at, at + n) of the operand at `from`, one after the other to `to`.
inline void gather(const Walk& w, size_t item, char* to, const char* from, int64_t at, int64_t n) {
  switch (item) {
    case 1: return gather_as<uint8_t>(w, to, from, at, n);
    case 2: return gather_as<uint16_t>(w, to, from, at, n);
    case 4: return gather_as<uint32_t>(w, to, from, at, n);
    default: return gather_as<uint64_t>(w, to, from, at, n);
  }
}
inline void scatter(const Walk& w, size_t item, char* to, const char* from, int64_t at, int64_t n) {
  switch (item) {
    case 1: return scatter_as<uint8_t>(w, to, from, at, n);
    case 2: return scatter_as<uint16_t>(w, to, from, at, n);
    case 4: return scatter_as<uint32_t>(w, to, from, at, n);
    default: return scatter_as<uint64_t>(w, to, from, at, n);
  }
}

}  // namespace knet::cpu::tile
