// Rewrites of products around `batch`: what they are made of before it, what they are added to after it.
#pragma once
#include "plan/graph.h"

namespace knet {

// Products of a concatenation, and products of which slices are used, become products of the parts, where some of the
// parts could then be batched: of [x, h] @ w in a recurrent loop, x @ w[:n] needs no earlier step.
Graph split_products(Graph);

// c + a @ b, where nobody else reads the product, becomes one product that adds into c. It rounds the sum inside the
// product's last addition.
bool accumulate_products(Graph&);

// Products of one matrix in a plan from which batching and splitting are worth looking for.
inline constexpr uint32_t kManyProducts = 4;

inline bool is_plain_product(const Graph& g, const Graph::Node& n) {
  return n.op == Op::matmul && n.n_in == 2 && g.values[n.out].shape.rank == 2 && g.values[g.ins[n.in_at]].shape.rank == 2 &&
         g.values[g.ins[n.in_at + 1]].shape.rank == 2;
}

}  // namespace knet
