#include "cpu/isa.h"

namespace knet::cpu {
namespace {

Isa find() {
#ifdef KNET_X86
  __builtin_cpu_init();
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
            __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") &&
            __builtin_cpu_supports("movbe");
  bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return v4 ? Isa::V4 : v3 ? Isa::V3 : Isa::V2;
#else
  return Isa::Base;
#endif
}

Isa& chosen() {
  static Isa found = find();
  return found;
}

}  // namespace

Isa isa() { return chosen(); }
void limit_isa(Isa newest) {
  if (newest < chosen()) chosen() = newest;
}

const char* isa_name() {
  switch (isa()) {
    case Isa::V4: return "x86-64-v4";
    case Isa::V3: return "x86-64-v3";
    case Isa::V2: return "x86-64-v2";
    default: return "base";
  }
}

}  // namespace knet::cpu
