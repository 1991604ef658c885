// Matrix products on strided operands, for the kernels of products and convolutions.
#pragma once
#include <cstddef>
#include <string>
#include "cpu/isa/micro.h"

namespace knet::cpu {

// A matrix whose element (i, j) is at data[i * rs + j * cs]. Products want one of the strides to be 1.
template <class T>
struct Mat {
  const T* data;
  int64_t rs, cs;
};

// One product c (m x n, row stride ldc) = [c +] a (m x k) b (k x n), cut into tiles of fixed size, each computed by one
// task alone. Works for any extents, 0 included; k = 0 gives zeros (or c).
template <class T>
class Gemm {
 public:
  Gemm() = default;
  // `pieces`: about so many tiles are wanted for the threads, where that costs little; large tiles read and pack less.
  // `a_by_columns`: a.rs is 1, so each tile packs its rows of a.
  Gemm(int64_t m, int64_t n, int64_t k, int64_t pieces = 1, bool a_by_columns = false);
  // Pieces of 15 us up to 8, of 100 us up to 16.
  static int64_t pieces(int64_t m, int64_t n, int64_t k);
  int64_t tiles() const { return rows_ * cols_; }
  double cost_ns() const { return cost_ns_; }
  void tile(int64_t t, Mat<T> a, Mat<T> b, T* c, int64_t ldc, bool add) const;
  // All tiles, on the calling thread.
  void run(Mat<T> a, Mat<T> b, T* c, int64_t ldc, bool add) const {
    for (int64_t t = 0; t < tiles(); ++t) tile(t, a, b, c, ldc, add);
  }
  std::string text() const;
  int64_t m = 0, n = 0, k = 0;

 private:
  int64_t tile_m_ = 1, tile_n_ = 1, rows_ = 0, cols_ = 0;
  double cost_ns_ = 0;
};

// Memory of the calling thread for packed operands, 64-aligned, kept between calls. Two slots that may be in use at
// once: 0 belongs to Gemm, 1 to its callers.
void* workspace(int slot, size_t bytes);

}  // namespace knet::cpu
