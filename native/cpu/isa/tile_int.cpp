// Elementwise loops on integers and bool.
#include "cpu/isa/tile_loops.h"

namespace knet::vm::KNET_ISA {
namespace int_ops {
#define KNET_TILE(NAME, N, RULE, FX, IX, BX) KNET_EXPRESSION(NAME, IX)
#include "tile_ops.inc"
#undef KNET_TILE
}
namespace bool_ops {
#define KNET_TILE(NAME, N, RULE, FX, IX, BX) KNET_EXPRESSION(NAME, BX)
#include "tile_ops.inc"
#undef KNET_TILE
}
}  // namespace knet::vm::KNET_ISA

namespace knet::cpu::KNET_ISA {

template <class I, class B, int N, Rule rule, bool ints, bool bools>
static constexpr MapRow make_row() {
  MapRow r{};
  if constexpr (ints) {
    r.full[kI8] = full_loop<I, I, int8_t, N, rule, false>();
    r.full[kI16] = full_loop<I, I, int16_t, N, rule, false>();
    r.full[kI32] = full_loop<I, I, int32_t, N, rule, false>();
    r.full[kI64] = full_loop<I, I, int64_t, N, rule, false>();
    r.full[kU8] = full_loop<I, I, uint8_t, N, rule, false>();
    r.full[kU16] = full_loop<I, I, uint16_t, N, rule, false>();
    r.full[kU32] = full_loop<I, I, uint32_t, N, rule, false>();
    r.full[kU64] = full_loop<I, I, uint64_t, N, rule, false>();
  }
  if constexpr (bools) r.full[kBool] = full_loop<B, B, bool, N, rule, false>();
  return r;
}

const MapTable tile_int = {{
#define KNET_TILE(NAME, N, RULE, FX, IX, BX) \
  make_row<vm::int_ops::f_##NAME, vm::bool_ops::f_##NAME, N, Rule::RULE, (sizeof(#IX) > 1), (sizeof(#BX) > 1)>(),
#include "tile_ops.inc"
#undef KNET_TILE
}};

}  // namespace knet::cpu::KNET_ISA
