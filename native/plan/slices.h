// Rewrites of slices and of what is put together from slices.
#pragma once
#include "plan/graph.h"

namespace knet {

// A slice of an elementwise result of which only slices are read is computed from slices of the operands: the gates of
// an LSTM are never stored before they are cut.
Graph push_slices(Graph);

// Slices added into zeros, one after the other, until they fill it are a concatenation: the gradient of cutting
// something into parts. (It keeps a negative zero, which 0 + x would not.)
void join_slices(Graph&);

}  // namespace knet
