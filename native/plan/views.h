// Which values are other values seen through strides: no kernel, no memory.
#pragma once
#include "plan/program.h"

namespace knet {

// Movement and bookkeeping whose result is its input 0 seen otherwise (a reshape only where the strides allow).
bool is_view(Op);
// A value with memory of its own: contiguous.
View own_memory(uint32_t value, const Spec&);
// The result of view node `n` on a value seen as `of`. False if no strides describe it: copy the input first.
// Slice starts must be scalars or constants.
bool view_of(const Graph&, const Graph::Node& n, const View& of, View& result);
// Strides under which `from` has shape `to` (equal sizes), in the same C order. False if there are none.
bool reshape_strides(const Layout& from, const Shape& to, int64_t* stride);
// All of the root's memory in its order: the same bytes under another shape, perhaps.
bool is_whole(const View&, const Graph&);

}  // namespace knet
