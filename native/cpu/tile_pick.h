// The loops of this processor's instruction set, by operation and element type. Error where there is none.
#pragma once
#include "cpu/isa/tile_tables.h"
#include "trace/op.h"

namespace knet::cpu::tile {

const MapRow& map_row(Op, DType);
Map map_of(Op, DType from, DType to);
const ReduceLoops& loops_of(Op, DType);
const CastTable& casts();

// ns for one element on one core, for threading only. Measured on float32 with AVX-512: add 0.07, exp 0.35, tanh and
// sigm 0.6, sin 0.75, log1p 1.4, erf 1.8.
double element_ns(Op, DType from, DType to);

}  // namespace knet::cpu::tile
