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
      r.second_scalar[0] = second_scalar<F, R32, float>;
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
