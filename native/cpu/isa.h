// Which build of the kernels this processor runs.
#pragma once

namespace knet::cpu {

enum class Isa { Base, V2, V3, V4 };  // x86-64-v2, -v3, -v4; Base elsewhere
Isa isa();                            // found once
const char* isa_name();               // "x86-64-v3"
void limit_isa(Isa newest);           // for tests, before the first kernel of the process is chosen

#ifdef KNET_X86
template <class T>
const T& pick(const T& v2, const T& v3, const T& v4) {
  return isa() == Isa::V4 ? v4 : isa() == Isa::V3 ? v3 : v2;
}
#endif

}  // namespace knet::cpu
