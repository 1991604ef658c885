// Elementary functions for vectorised loops: branch-free, inlined, on float, double and (where it means something)
// integers.
//
// The compiler turns a loop over them into vector code for the instruction set that the file is built for. Everything
// lives in an inline namespace named after that instruction set, so that the linker can never mix the copies.
// Polynomials are interpolations at Chebyshev nodes in 60 digits; the relative error of each stands beside it.
// float functions that need more than float inside (sin, erf, pow...) compute in double, which vectorises at half the
// width; double functions that need more compute in pairs of doubles. Results are within 1 ulp, but for some of double
// (tests/exact.py says which; tests/test_vmath.py holds it).
// Not vectorised: gamma functions, erfinv, fmod, and sin, cos and tan of blocks with an argument beyond kWide.
#pragma once
#include "cpu/vmath/exponential.h"
#include "cpu/vmath/special.h"
#include "cpu/vmath/trigonometric.h"

namespace knet::vm {
#ifdef KNET_ISA
inline namespace KNET_ISA {
#endif

// For loops that have met an argument beyond kWide: the same names (also as vm::sin), valid for all numbers.
namespace wide {
namespace vm {
using namespace knet::vm;
KNET_VM float sin(float x) { return float(__builtin_sin(double(x))); }
KNET_VM float cos(float x) { return float(__builtin_cos(double(x))); }
KNET_VM float tan(float x) { return float(__builtin_tan(double(x))); }
KNET_VM double sin(double x) { return __builtin_sin(x); }
KNET_VM double cos(double x) { return __builtin_cos(x); }
KNET_VM double tan(double x) { return __builtin_tan(x); }
}  // namespace vm
using vm::cos;
using vm::sin;
using vm::tan;
}  // namespace wide

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
