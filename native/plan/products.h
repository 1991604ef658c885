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

// A product of two matrices.
inline bool is_plain_product(const Graph& g, const Graph::Node& n) {
  return n.op == Op::matmul && n.n_in == 2 && g.values[n.out].shape.rank == 2 && g.values[g.ins[n.in_at]].shape.rank == 2 &&
         g.values[g.ins[n.in_at + 1]].shape.rank == 2;
}

// One of two matrices, or of a matrix and a vector: on the right a column, on the left a row.
inline bool is_product(const Graph& g, const Graph::Node& n) {
  if (n.op != Op::matmul || n.n_in != 2) return false;
  const int a = g.values[g.ins[n.in_at]].shape.rank, b = g.values[g.ins[n.in_at + 1]].shape.rank;
  return a <= 2 && b <= 2 && a + b > 2;
}
inline bool is_column(const Shape& s) { return s.rank == 1 || s[1] == 1; }

// The product of a column and a row, as an elementwise one that broadcasts: which input is the column; -1: it is none.
inline int column_of_outer(const Graph& g, const Graph::Node& n) {
  if (n.op != Op::multiply) return -1;
  const Shape& y = g.values[n.out].shape;
  if (y.rank != 2 || y[0] == 1 || y[1] == 1) return -1;
  for (int i = 0; i < 2; ++i) {
    const Shape &column = g.values[g.in(n)[size_t(i)]].shape, &row = g.values[g.in(n)[size_t(1 - i)]].shape;
    if (column.rank == 2 && column[1] == 1 && row.rank > 0 && row[row.rank - 1] == y[1] && row.size() == y[1]) return i;
  }
  return -1;
}

}  // namespace knet
