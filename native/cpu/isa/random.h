// Philox4x32-10 and the distributions made of it, one table per instruction set. All give the same bits.
#pragma once
#include "types.h"

namespace knet::cpu {

enum Distribution : int { kBits, kUniform32, kUniform64, kNormal32, kNormal64, kDistributions };

struct RandomTable {
  // Every distribution makes 16 bytes of results from one block of four words, so block b fills bytes [16 b, 16 b +
  // 16): `bytes` of them go to `out`, from block `first` on.
  void (*fill[kDistributions])(uint64_t seed, uint64_t counter, uint64_t first, int64_t bytes, void* out);
};

#ifdef KNET_X86
namespace v2 { extern const RandomTable random_table; }
namespace v3 { extern const RandomTable random_table; }
namespace v4 { extern const RandomTable random_table; }
#else
namespace base { extern const RandomTable random_table; }
#endif

}  // namespace knet::cpu
