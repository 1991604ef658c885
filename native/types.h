// The vocabulary of the engine: element types, shapes, devices, what is known of a value
// before it has run, and the one exception type. No Python, no kernels.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace knet {

enum class DType : uint8_t {
  Bool, I8, I16, I32, I64, U8, U16, U32, U64, F16, BF16, F32, F64, C64, C128, Count
};
inline constexpr int kDTypes = int(DType::Count);

inline constexpr uint8_t kItemsize[kDTypes] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8, 8, 16};
inline size_t itemsize(DType t) { return kItemsize[int(t)]; }  // bytes of one element
const char* name(DType);              // NumPy's name: "float32"
inline bool is_float(DType t) { return t >= DType::F16 && t <= DType::F64; }
inline bool is_signed_int(DType t) { return t >= DType::I8 && t <= DType::I64; }
inline bool is_unsigned_int(DType t) { return t >= DType::U8 && t <= DType::U64; }
inline bool is_int(DType t) { return t >= DType::I8 && t <= DType::U64; }
// NumPy's promotion of two arrays' types (int64 + float32 is float64, int8 + uint8 is int16, ...).
DType promote(DType, DType);
// The float type that a float-only function computes an integer in (NumPy: int32, int64 -> float64; smaller ->
// float32).
DType to_float(DType);

inline constexpr int kMaxRank = 12;

// A copy of fixed size is two moves; planning copies shapes all the time, and nearly all have few dimensions.
inline void copy_dims(int64_t* to, const int64_t* from, int rank) {
  constexpr int kFew = 4;
  std::memcpy(to, from, sizeof(int64_t) * kFew);
  if (rank > kFew) [[unlikely]] std::memcpy(to + kFew, from + kFew, sizeof(int64_t) * size_t(rank - kFew));
}

// Dimensions, outermost first. Plain data: copied freely, compared by value.
struct Shape {
  int32_t rank = 0;
  int64_t dim[kMaxRank];

  Shape() = default;
  Shape(std::initializer_list<int64_t> d);
  explicit Shape(std::span<const int64_t> d);        // throws if the rank is above kMaxRank
  Shape(const Shape& o) { *this = o; }
  Shape& operator=(const Shape& o) {
    rank = o.rank;
    copy_dims(dim, o.dim, rank);
    return *this;
  }
  int64_t operator[](int i) const { return dim[i]; }
  int64_t& operator[](int i) { return dim[i]; }
  bool operator==(const Shape& o) const {
    if (rank != o.rank) return false;
    for (int i = 0; i < rank; ++i)
      if (dim[i] != o.dim[i]) return false;
    return true;
  }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  std::span<const int64_t> dims() const { return {dim, size_t(rank)}; }
  const int64_t* begin() const { return dim; }
  const int64_t* end() const { return dim + rank; }
  void push(int64_t d) {                              // append; throws above kMaxRank
    if (rank == kMaxRank) [[unlikely]] too_many(kMaxRank + 1);
    dim[rank++] = d;
  }

 private:
  [[noreturn]] static void too_many(size_t dimensions);
};
std::string str(const Shape&);                        // "(3, 4)", "(5,)", "()"

enum class DeviceKind : uint8_t { Cpu, Cuda };
struct DeviceId {
  DeviceKind kind = DeviceKind::Cpu;
  uint8_t index = 0;
  bool operator==(const DeviceId&) const = default;
};
std::string str(DeviceId);                            // "cpu", "cuda:0"

// What is known of a value at the moment it is recorded.
// `weak`: came from Python numbers only, so it takes the dtype of what it meets (NumPy's rule for Python scalars).
struct Spec {
  DType dtype = DType::F32;
  bool weak = false;
  DeviceId device;
  Shape shape;
  int64_t bytes() const { return shape.size() * int64_t(itemsize(dtype)); }
};

// The engine's only exception. The binding turns `kind` into the Python class of the same name.
struct Error : std::runtime_error {
  enum Kind : uint8_t { Type, Value, Index, Memory, Runtime, Overflow } kind;
  int32_t at = -1;  // the recorded operation (Graph::Node::line) whose run failed, set by the program
  Error(Kind k, const std::string& what) : std::runtime_error(what), kind(k) {}
};

// One element of any dtype as 8 bytes: how Python scalars travel to a run.
union Scalar {
  double f;
  int64_t i;
  uint64_t u;
};
// Store scalar `s` (f for float types, i for signed and bool, u for unsigned) as one element of type t at `to`.
void store(Scalar s, DType t, void* to);
Scalar load(DType t, const void* from);

}  // namespace knet
