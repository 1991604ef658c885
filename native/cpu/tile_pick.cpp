#include "cpu/tile_pick.h"

#include <vector>

#include "cpu/isa.h"

#ifdef KNET_X86
KNET_TILE_TABLES(v2)
KNET_TILE_TABLES(v3)
KNET_TILE_TABLES(v4)
#else
KNET_TILE_TABLES(base)
#endif

namespace knet::cpu::tile {

static_assert(int(DType::Bool) == kBool && int(DType::I8) == kI8 && int(DType::I64) == kI64 && int(DType::U8) == kU8 &&
              int(DType::U64) == kU64 && int(DType::F32) == kF32 && int(DType::F64) == kF64 && kDTypes == kLanes);

namespace {

#ifdef KNET_X86
const MapTable& float_maps() { return pick(v2::tile_float, v3::tile_float, v4::tile_float); }
const MapTable& int_maps() { return pick(v2::tile_int, v3::tile_int, v4::tile_int); }
const ReduceTable& reductions() { return pick(v2::tile_reduce, v3::tile_reduce, v4::tile_reduce); }
#else
const MapTable& float_maps() { return base::tile_float; }
const MapTable& int_maps() { return base::tile_int; }
const ReduceTable& reductions() { return base::tile_reduce; }
#endif

int tile_index(Op op) {
  static const auto table = [] {
    std::vector<int16_t> t(size_t(Op::Count_), -1);
#define KNET_TILE(NAME, ...) t[size_t(Op::NAME)] = tile_##NAME;
#include "tile_ops.inc"
#undef KNET_TILE
    return t;
  }();
  return table[size_t(op)];
}

[[noreturn]] void no_loop(Op op, DType t) {
  throw Error(Error::Type, std::string("[") + info(op).name + "] does not work on " + name(t) +
                               " arrays. Cast the array first.");
}

}  // namespace

const MapRow& map_row(Op op, DType t) {
  int i = tile_index(op);
  if (i < 0) no_loop(op, t);
  return (t == DType::F32 || t == DType::F64 ? float_maps() : int_maps()).row[i];
}

Map map_of(Op op, DType from, DType to) {
  Map f = op == Op::cast ? casts().cast[int(from)][int(to)] : map_row(op, from).full[int(from)];
  if (!f) no_loop(op, from);
  return f;
}

const ReduceLoops& loops_of(Op op, DType t) {
  Reduction r;
  switch (op) {
    case Op::sum: r = kSum; break;
    case Op::prod: r = kProd; break;
    case Op::max: r = kMax; break;
    case Op::min: r = kMin; break;
    case Op::any: r = kAny; break;
    default: r = kAll;
  }
  const ReduceLoops& l = reductions().loops[r][int(t)];
  if (!l.rows) no_loop(op, t);
  return l;
}

const CastTable& casts() {
#ifdef KNET_X86
  return pick(v2::tile_cast, v3::tile_cast, v4::tile_cast);
#else
  return base::tile_cast;
#endif
}

double element_ns(Op op, DType from, DType to) {
  double ns = 0.02 * double(itemsize(from) + itemsize(to));
  if (op != Op::cast && info(op).rule == DTypeRule::Float) ns += from == DType::F64 ? 2.0 : 0.5;
  return isa() == Isa::V4 ? ns : 2 * ns;
}

}  // namespace knet::cpu::tile
