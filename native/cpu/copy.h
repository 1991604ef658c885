// Moving elements between two layouts of one shape and dtype.
#pragma once
#include "strided.h"

namespace knet::cpu {

// Prepared once for a pair of layouts, run with any pointers. The destination must not overlap itself (no zero strides
// over extents above 1) nor the source.
class StridedMove {
 public:
  enum What : uint8_t { Copy, Add };  // destination = source, destination += source
  StridedMove() = default;
  StridedMove(DType, const Shape&, const int64_t* to_stride, const int64_t* from_stride, What = Copy);

  void run(char* to, const char* from) const;  // on the pool
  int64_t tasks() const { return tasks_; }     // for callers that make one parallel region of many moves
  void task(int64_t i, char* to, const char* from) const;
  double cost_ns() const { return cost_ns_; }
  const char* text() const;

 private:
  enum How : uint8_t {
    Empty,
    Runs,       // the innermost dimension is contiguous in both: memcpy
    Transpose,  // contiguous in the destination along one dimension, in the source along another: blocks through
                // registers
    Elements,   // anything else: one strided loop per row
  };
  void transpose(int64_t i, char* to, const char* from) const;
  void elements(int64_t i, char* to, const char* from) const;

  Dims dims_;  // strides in bytes: a of the destination, b of the source
  How how_ = Empty;
  What what_ = Copy;
  DType dtype_ = DType::F32;
  int64_t size_ = 1;                // bytes of an element
  int64_t to_base_ = 0, from_base_ = 0;  // bytes from the first element to the lowest one
  int64_t tasks_ = 0, grain_ = 1, pieces_ = 1;
  int64_t tile_rows_ = 0, tile_cols_ = 0;  // Transpose: elements
  double cost_ns_ = 0;
};

// to and from in C order with the strides of `from` as given.
void copy_strided(DType, const Shape&, char* to, const int64_t* to_stride, const char* from,
                  const int64_t* from_stride);

// All of a contiguous value, on the pool.
void copy_bytes(char* to, const char* from, int64_t bytes);

}  // namespace knet::cpu
