// Elementwise loops on float32 and float64.
#include "cpu/isa/tile_loops.h"

namespace knet::vm::KNET_ISA {
namespace float_ops {
#define KNET_TILE(NAME, N, RULE, FX, IX, BX) KNET_EXPRESSION(NAME, FX)
#include "tile_ops.inc"
#undef KNET_TILE
}
namespace wide {
namespace float_ops {
#define KNET_TILE(NAME, N, RULE, FX, IX, BX) KNET_EXPRESSION(NAME, FX)
#include "tile_ops.inc"
#undef KNET_TILE
}
}  // namespace wide
}  // namespace knet::vm::KNET_ISA

namespace knet::cpu::KNET_ISA {

// x / y for one y, with the bits of the division. By a power of two it is a multiplication. Otherwise, with 512-bit
// vectors, of which the divider takes one in 10 cycles: r = 1 / y rounded, q = x r, and twice q += r (x - q y), where
// fma gives x - q y exactly; the first makes q one of the two floats around x / y, after which the second rounds
// correctly (Markstein). 0.12 ns an element instead of 0.21, where the exponents leave room; -0 would become 0.
static void divide_by_one(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<float*>(dst);
  auto* x = static_cast<const float*>(src[0]);
  const float y = *static_cast<const float*>(src[1]), r = 1 / y;
  auto bits = [](float f) __attribute__((always_inline)) { return __builtin_bit_cast(uint32_t, f); };
  constexpr uint32_t kAbs = 0x7fffffff, kExponent = 0x7f800000, kOne = 0x3f800000, kRoom = 60u << 23;
  auto roomy = [&](uint32_t b) __attribute__((always_inline)) { return (b & kAbs) - (kOne - kRoom) < 2 * kRoom; };
  if (roomy(bits(y)) && !(bits(y) & ~kExponent & kAbs)) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) d[i] = x[i] * r;
    return;
  }
#ifdef __AVX512F__
  for (int64_t block = 256; n > 0; n -= block, x += block, d += block) {
    const int64_t m = n < block ? n : block;
    uint32_t bad = !roomy(bits(y));
    for (int64_t i = 0; i < m; ++i) bad |= bits(x[i]) == 0 ? 0u : roomy(bits(x[i])) ? 0u : 1u;
    if (bad) {
#pragma GCC ivdep
      for (int64_t i = 0; i < m; ++i) d[i] = x[i] / y;
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < m; ++i) {
        const float q = x[i] * r, near = __builtin_fmaf(__builtin_fmaf(-q, y, x[i]), r, q);
        d[i] = __builtin_fmaf(__builtin_fmaf(-near, y, x[i]), r, near);
      }
    }
  }
#else
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = x[i] / y;
#endif
}

template <class F, class Wide, int N, Rule rule, bool exists, bool narrow>
static constexpr MapRow make_row() {
  MapRow r{};
  if constexpr (exists) {
    r.full[kF32] = full_loop<F, Wide, float, N, rule, narrow>();
    r.full[kF64] = full_loop<F, Wide, double, N, rule, narrow>();
    if constexpr (N == 2) {
      using R32 = std::conditional_t<gives_bool(rule), bool, float>;
      using R64 = std::conditional_t<gives_bool(rule), bool, double>;
      r.first_scalar[0] = first_scalar<F, R32, float>;
      r.first_scalar[1] = first_scalar<F, R64, double>;
      r.second_scalar[0] = std::is_same_v<F, vm::float_ops::f_divide> ? divide_by_one : second_scalar<F, R32, float>;
      r.second_scalar[1] = second_scalar<F, R64, double>;
    }
  }
  return r;
}

const MapTable tile_float = {{
#define KNET_TILE(NAME, N, RULE, FX, IX, BX)                                                                   \
  make_row<vm::float_ops::f_##NAME, vm::wide::float_ops::f_##NAME, N, Rule::RULE, (sizeof(#FX) > 1), is_narrow(#FX)>(),
#include "tile_ops.inc"
#undef KNET_TILE
}};

}  // namespace knet::cpu::KNET_ISA
