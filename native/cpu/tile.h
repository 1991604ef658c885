// The tile interpreter: fused elementwise programs, with reductions at their ends, on the CPU (native/device.h,
// TileProgram). A program is prepared once (tile.cpp) and run many times (tile_step.h).
#pragma once
#include "device.h"

namespace knet::cpu {

std::unique_ptr<Step> make_tile(const TileProgram&);
int64_t tile_max_row();  // longest row whose reductions are worth fusing

}  // namespace knet::cpu
