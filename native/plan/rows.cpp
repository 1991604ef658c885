#include "plan/rows.h"

#include <algorithm>

#include "plan/known.h"
#include "plan/products.h"
#include "plan/table.h"

namespace knet {

namespace {

// The sums of rows with one index read d once more, at 0.3 ns an element on one core; a product takes k / 80 ns for
// each element of d, k being what it multiplies it with.
constexpr int64_t kLeastInner = 32;

// Rows at a vector of indices: gather(x, i), scatter_add(x, v, i).
bool by_rows(const Graph& g, const Graph::Node& n) {
  const auto a = g.attr(n);
  const uint16_t n_in = n.op == Op::gather ? 2 : 3;
  return (n.op == Op::gather || n.op == Op::scatter_add) && n.n_in == n_in && a[0] == 1 && a[1] == 0 && a[2] == 0 &&
         g.values[g.in(n)[n_in - 1u]].shape.rank == 1 && g.values[n.out].shape.rank == 2 &&
         is_float(g.values[n.out].dtype);
}

// More than so many indices to a row of the table.
bool many(const Spec& table, const Spec& index) { return index.shape[0] >= 2 * table.shape[0] && table.shape[0] > 0; }

// Of a result of which only runs of rows are read, each of at least so many bytes, each is looked up when it is wanted.
constexpr int64_t kRunBytes = 64 << 10;

class Sharer : Rebuilder {
 public:
  using Rebuilder::Rebuilder;

  Graph run() {
    uses_.assign(g_.values.size(), 0);
    cut_.assign(g_.values.size(), 0);
    for (const auto& n : g_.nodes) {
      for (uint32_t v : g_.in(n)) ++uses_[v];
      if (cuts_rows(n)) ++cut_[g_.in(n)[0]];
    }
    for (uint32_t v : g_.outputs) ++uses_[v];
    for (const auto& n : g_.nodes) {
      if (is_plain_product(g_, n) && (of_gathered(n) || of_turned(n))) continue;
      if (cuts_rows(n) && part_of_gathered(n)) continue;
      if (n.op == Op::scatter_add && scattered_product(n)) continue;
      keep(n);
    }
    return prune(finish());
  }

 private:
  List<uint32_t> uses_, cut_;  // value of g_: readers, and those that cut long runs of rows out of it
  Known known_{out_, 32};
  Table numbers_;        // data type and number -> constant of out_

  const Spec& spec(uint32_t v) const { return g_.values[v]; }
  bool is_table(const Graph::Node& n) const {
    return n.op == Op::gather && by_rows(g_, n) && many(spec(g_.in(n)[0]), spec(g_.in(n)[1]));
  }

  bool cuts_rows(const Graph::Node& n) const {
    const auto a = g_.attr(n);
    return n.op == Op::slice && a[0] == 1 && a[1] == 0 && a[5] == 1 && spec(n.out).bytes() >= kRunBytes;
  }

  // In out_: a node like this one, if there is one; else a new one.
  uint32_t make(Op op, std::initializer_list<uint32_t> in, std::span<const int64_t> attrs, int32_t line) {
    const std::span<const uint32_t> of(in.begin(), in.size());
    const uint64_t h = Known::hash(op, of, attrs);
    uint32_t v = known_.find(h, op, of, attrs);
    if (v == kNone) {
      v = out_.add(op, of, attrs, line);
      known_.add(h, out_.maker[v]);
    }
    return v;
  }
  // 0 or 1.
  uint32_t number(DType t, int64_t x) {
    uint32_t& v = numbers_[uint64_t(t) << 1 | uint64_t(x)];
    return v == kNone ? v = out_.constant({.i = x}, t) : v;
  }
  uint32_t filled(const Shape& s, DType t, int64_t x, int32_t line) {
    return make(Op::broadcast_to, {number(t, x)}, ShapeWords(s), line);
  }
  static constexpr int64_t kRows[] = {1, 0, 0};  // attributes: along axis 0

  // For each of `rows` rows the sum of the rows of d with its index.
  uint32_t sums(uint32_t d, uint32_t index, int64_t rows, int32_t line) {
    const Spec s = out_.values[d];
    return make(Op::scatter_add, {filled(Shape{rows, s.shape[1]}, s.dtype, 0, line), d, index}, kRows, line);
  }
  // Rows of x that no index names are zero, whatever is in them: 0 times infinity would not be.
  uint32_t named(uint32_t x, uint32_t index, int32_t line) {
    const Spec s = out_.values[x];
    const uint32_t none = filled(Shape{s.shape[0]}, DType::Bool, 0, line);
    const uint32_t all = filled(out_.values[index].shape, DType::Bool, 1, line);
    const uint32_t is = make(Op::scatter_set, {none, all, index}, kRows, line);
    const uint32_t column = make(Op::reshape, {is}, ShapeWords(Shape{s.shape[0], 1}), line);
    return make(Op::where, {column, x, number(s.dtype, 0)}, {}, line);
  }

  bool of_gathered(const Graph::Node& n) {
    const auto& rows = g_.made(g_.in(n)[0]);
    if (!is_table(rows)) return false;
    const uint32_t product = make(Op::matmul, {map_[g_.in(rows)[0]], map_[g_.in(n)[1]]}, {}, n.line);
    map_[n.out] = make(Op::gather, {product, map_[g_.in(rows)[1]]}, kRows, rows.line);
    return true;
  }

  // Rows of the result of of_gathered().
  bool part_of_gathered(const Graph::Node& n) {
    const uint32_t all = g_.in(n)[0];
    const auto& rows = out_.made(map_[all]);
    if (!is_plain_product(g_, g_.made(all)) || rows.op != Op::gather || cut_[all] != uses_[all]) return false;
    const uint32_t table = out_.in(rows)[0], index = out_.in(rows)[1];
    const int64_t cut[] = {1, 0, 1, spec(n.out).shape[0], 1, 1};
    const uint32_t some = make(Op::slice, {index, map_[g_.in(n)[1]]}, cut, n.line);
    map_[n.out] = make(Op::gather, {table, some}, kRows, rows.line);
    return true;
  }

  bool of_turned(const Graph::Node& n) {
    const auto& turned = g_.made(g_.in(n)[0]);
    if (turned.op != Op::transpose || g_.attr(turned)[1] != 1) return false;
    const auto& rows = g_.made(g_.in(turned)[0]);
    if (!is_table(rows) || spec(n.out).shape[0] < kLeastInner) return false;
    const uint32_t table = map_[g_.in(rows)[0]], index = map_[g_.in(rows)[1]];
    const uint32_t s = sums(map_[g_.in(n)[1]], index, out_.values[table].shape[0], n.line);
    const int64_t turn[] = {2, 1, 0};
    map_[n.out] = make(Op::matmul, {make(Op::transpose, {named(table, index, n.line)}, turn, n.line), s}, {}, n.line);
    return true;
  }

  bool scattered_product(const Graph::Node& n) {
    if (!by_rows(g_, n)) return false;
    const uint32_t base = g_.in(n)[0], value = g_.in(n)[1], index = map_[g_.in(n)[2]];
    const auto& product = g_.made(value);
    if (!is_plain_product(g_, product) || uses_[value] != 1) return false;
    if (!many(spec(base), spec(g_.in(n)[2])) || spec(value).shape[1] < kLeastInner) return false;
    const auto& zeros = g_.made(base);
    if (zeros.op != Op::broadcast_to || g_.made(g_.in(zeros)[0]).op != Op::constant ||
        g_.attr(g_.made(g_.in(zeros)[0]))[1] != 0)
      return false;
    const uint32_t s = sums(map_[g_.in(product)[0]], index, spec(base).shape[0], n.line);
    map_[n.out] = named(make(Op::matmul, {s, map_[g_.in(product)[1]]}, {}, product.line), index, n.line);
    return true;
  }
};

}  // namespace

Graph share_rows(Graph g) {
  // Most plans look nothing up.
  const auto looks_up = [&](const Graph::Node& n) {
    return by_rows(g, n) && many(g.values[g.in(n)[0]], g.values[g.in(n)[n.n_in - 1u]]);
  };
  return std::ranges::any_of(g.nodes, looks_up) ? Sharer(std::move(g)).run() : std::move(g);
}

}  // namespace knet
