// Kernels in words, for `explain`.
#pragma once
#include "plan/program.h"

namespace knet {

// "tile float32(100, 64): v7 = relu(add(v5, v6)); v8 = sum rows(v7)": values by their numbers in the graph.
std::string describe(const TileProgram&, std::span<const uint32_t> in, std::span<const uint32_t> out);
std::string human_bytes(int64_t);  // "25.6 kB"

}  // namespace knet
