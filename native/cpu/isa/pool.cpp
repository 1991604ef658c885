#include "cpu/isa/pool.h"

namespace knet::cpu::KNET_ISA {
namespace {

// Strides 1 and 2 are loops of their own: known strides are loaded as vectors and shuffled.
template <class T, int S>
void max_loop(T* __restrict best, int32_t* __restrict at, const T* __restrict x, int64_t n, int64_t stride,
              int32_t first) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) {
    T v = x[i * stride], b = best[i];
    bool take = (v > b) | ((v != v) & (b == b));
    best[i] = take ? v : b;
    at[i] = take ? first + int32_t(i) * int32_t(stride) : at[i];
  }
}
template <class T>
void max_row(void* best, int32_t* at, const void* x, int64_t n, int64_t stride, int32_t first) {
  auto loop = stride == 1 ? max_loop<T, 1> : stride == 2 ? max_loop<T, 2> : max_loop<T, 0>;
  loop(static_cast<T*>(best), at, static_cast<const T*>(x), n, stride, first);
}

template <class T, int S>
void add_loop(T* __restrict sum, const T* __restrict x, int64_t n, int64_t stride) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i * stride];
}
template <class T>
void add_row(void* sum, const void* x, int64_t n, int64_t stride) {
  auto loop = stride == 1 ? add_loop<T, 1> : stride == 2 ? add_loop<T, 2> : add_loop<T, 0>;
  loop(static_cast<T*>(sum), static_cast<const T*>(x), n, stride);
}

template <class T, int S>
void back_loop(T* __restrict x, const T* __restrict dy, int64_t n, int64_t stride) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) x[i * stride] += dy[i];
}
template <class T>
void add_back(void* x, const void* dy, int64_t n, int64_t stride) {
  auto loop = stride == 1 ? back_loop<T, 1> : stride == 2 ? back_loop<T, 2> : back_loop<T, 0>;
  loop(static_cast<T*>(x), static_cast<const T*>(dy), n, stride);
}

constexpr PoolTable make() {
  PoolTable t;
  auto set = [&](DType d, auto zero) {
    using T = decltype(zero);
    t.of[int(d)].max_row = max_row<T>;
    if constexpr (T(0.5) != T(0)) {
      t.of[int(d)].add_row = add_row<T>;
      t.of[int(d)].add_back = add_back<T>;
    }
  };
  set(DType::F32, 0.0f);
  set(DType::F64, 0.0);
  set(DType::I8, int8_t(0));
  set(DType::I16, int16_t(0));
  set(DType::I32, int32_t(0));
  set(DType::I64, int64_t(0));
  set(DType::U8, uint8_t(0));
  set(DType::U16, uint16_t(0));
  set(DType::U32, uint32_t(0));
  set(DType::U64, uint64_t(0));
  return t;
}

}  // namespace

constinit const PoolTable pool_table = make();

}  // namespace knet::cpu::KNET_ISA
