// What the shape rules of all kinds of operations share: checks, and the messages of those that fail.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
// Shapes have a few dimensions: vectorised loops over them took twice the time (infer of an elementwise op, 30 against
// 14 ns).
#pragma GCC optimize("no-tree-vectorize")
#endif
#include <string>

#include "trace/op.h"

namespace knet::inference {

using Ins = std::span<const Spec* const>;
using Ints = std::span<const int64_t>;

// "[op] what".
[[noreturn, gnu::cold, gnu::noinline]] void fail(Op, const std::string& what, Error::Kind = Error::Value);
[[noreturn, gnu::cold, gnu::noinline]] void no_rule(Op);

// For messages: (1, 2), the shapes, and dtypes with shapes.
std::string list(Ints);
std::string shapes(Ins);
std::string operands(Ins);

// The device that all data inputs share. Python numbers go anywhere.
DeviceId common_device(Op, Ins);
// A result with the first data input's device; dtype and weakness as given.
Spec& result(Specs& out, DType, DeviceId, bool weak = false);
Spec& like(Specs& out, const Spec&);

void same_dtype(Op, Ins);
void integer_index(Op, const Spec&);
void float_only(Op, const Spec&);
void rank_at_least(Op, const Spec&, int rank);
int64_t checked_axis(Op, int64_t axis, const Shape&);
// Axes in range, in increasing order, none twice.
void checked_axes(Op, Ints axes, const Shape&);
void checked_shape(Op, const Shape&);
// y: s without the axes, or with 1 for each.
void drop_axes(const Shape& s, Ints axes, bool keepdims, Shape& y);

// The rules by kind, in infer_movement.cpp, infer_index.cpp and infer_contraction.cpp; all others are in infer.cpp.
void movement(Op, Ins, Ints attrs, Specs& out);
void index(Op, Ins, Ints attrs, Specs& out);
void matmul(Ins, Specs& out);
void conv(Op, Ins, Ints attrs, Specs& out);
void pool(Op, Ins, Ints attrs, Specs& out);

}  // namespace knet::inference
