// Products of rows that were gathered from a small table.
#pragma once
#include "plan/graph.h"

namespace knet {

// Where rows of a table e are looked up at i, and i is at least twice as long as e, each row of e goes through a
// product once and not as often as it was looked up:
//   e[i] @ w          is (e @ w)[i],
//   e[i]^T @ d        is e^T @ s, where row r of s is the sum of the rows of d whose index is r,
//   the rows d @ m, added to zeros at i, are s @ m.
// So an embedding of characters and the layer above it cost what the characters cost, not what the text does. The last
// two add in another order. A row of e that i does not name adds nothing, were it infinite.
Graph share_rows(Graph);

}  // namespace knet
