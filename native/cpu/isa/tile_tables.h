// Tables of the vectorised loops that the tile interpreter calls.
#pragma once
#include <stdint.h>

namespace knet::cpu::tile {

// Element types, numbered as knet::DType (tile_pick.cpp checks it). Not knet/types.h itself: files built per
// instruction set see no header with inline functions that the linker could merge.
enum Lane : int { kBool, kI8, kI16, kI32, kI64, kU8, kU16, kU32, kU64, kF16, kBF16, kF32, kF64, kC64, kC128, kLanes };

// dst[i] = f(src[0][i], ...) for i < n. dst may be exactly one of the sources if their items are of one size.
using Map = void (*)(void* dst, const void* const* src, int64_t n);

// One row per line of tile_ops.inc; null where the operation has no meaning for the type.
enum TileIndex : int {
#define KNET_TILE(NAME, ...) tile_##NAME,
#include "tile_ops.inc"
#undef KNET_TILE
  kTileOps
};
struct MapRow {
  Map full[kLanes];
  Map first_scalar[2], second_scalar[2];  // binary operations on F32, F64 where that source is one element
};
struct MapTable { MapRow row[kTileOps]; };

struct CastTable {
  Map cast[kLanes][kLanes];              // [from][to]
  // By log2 of the item's bytes: n copies of one value; each of `rows` values `width` times.
  void (*splat[4])(void* dst, const void* value, int64_t n);
  void (*spread[4])(void* dst, const void* values, int64_t rows, int64_t width);
};

// Reductions accumulate in a type of their own: double for sums and products of floats, 64 bits for those of integers,
// the type itself for max and min, bool for any and all.
enum Reduction : int { kSum, kProd, kMax, kMin, kAny, kAll, kReductions };
struct ReduceLoops {
  void (*rows)(void* acc, const void* src, int64_t rows, int64_t cols);  // acc[r] = reduction of row r
  void (*cols)(void* acc, const void* src, int64_t rows, int64_t cols);  // acc[c] = acc[c] with column c
  void (*combine)(void* acc, const void* other, int64_t n);              // acc[i] = acc[i] with other[i]
  void (*identity)(void* acc, int64_t n);
  int acc;  // Lane of the accumulator
  // acc[r] = sum of the products of rows r of a and b; sums of floats only.
  void (*products)(void* acc, const void* a, const void* b, int64_t rows, int64_t cols);
};
struct ReduceTable { ReduceLoops loops[kReductions][kLanes]; };

// Each instruction set fills these.
#define KNET_TILE_TABLES(ISA)                   \
  namespace knet::cpu::ISA {                    \
  extern const tile::MapTable tile_float;       \
  extern const tile::MapTable tile_int;         \
  extern const tile::CastTable tile_cast;       \
  extern const tile::ReduceTable tile_reduce;   \
  }

}  // namespace knet::cpu::tile
