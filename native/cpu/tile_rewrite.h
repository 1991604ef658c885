// A tile program made such that it runs better, with the same results.
#pragma once
#include "device.h"

namespace knet::cpu::tile {

// Elements of a tile. Measured (benchmarks/tile_bench.cpp, Sapphire Rapids, AVX-512, a busy machine) with 512, 1024,
// 2048, 4096, 8192: four operations on 1e6 floats 475, 491, 509, 585, 663 us (one loop by hand 426); LSTM cell 128x256
// 130, 136, 148, 165, 170 us; softmax 128x1000 100, 100, 94, 94, 101 us.
constexpr int64_t kTile = 1024;

// A program without rows, with those in which operands are the same along the last dimensions (a number for each
// channel of an image): such operands are then one number a row, and what is made of them alone is computed once a row.
TileProgram with_rows(TileProgram);

// The instructions in stages, in each of which first what is one number a row is computed, then what goes over the
// elements of a row: all that needs no sum of the same stage, or of a later one.
TileProgram in_stages(TileProgram);

// What a sum along rows adds up: a register, or the product of two, or the negative of that. The instructions that made
// these, if nobody else reads them, are not needed.
struct Summand {
  uint16_t a, b;
  bool product = false, negative = false;
};
Summand summand(const TileProgram&, size_t sum, std::vector<bool>& needless);

}  // namespace knet::cpu::tile
