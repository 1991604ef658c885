// simplify: what is not needed goes, what is computed twice is computed once, what does nothing disappears.
//
// Every rewrite keeps the bits of the result (x*1, x/1, --x, casts to the same type, moves that do not move).
#include <algorithm>
#include <bit>
#include <numeric>
#include "plan/expander.h"
#include "plan/known.h"
#include "plan/pipeline.h"

namespace knet {

namespace {

// Which nodes the outputs need. Inputs and scalars always stay: their order is the order of binding.
List<uint8_t> live_nodes(const Graph& g) {
  List<uint8_t> live(g.nodes.size());
  auto need = [&](uint32_t v) { live[g.maker[v]] = true; };
  for (uint32_t v : g.outputs) need(v);
  for (size_t n = g.nodes.size(); n-- > 0;) {
    const auto& node = g.nodes[n];
    if (node.op == Op::leaf || node.op == Op::scalar) live[n] = true;
    if (live[n])
      for (uint32_t v : g.in(node)) need(v);
  }
  return live;
}

// What has run already is read, not made again: value -> the value that stands for it. Empty if nothing has.
List<uint32_t> read_instead(const Graph& g) {
  List<uint32_t> instead;
  if (g.known.empty()) return instead;
  instead.resize(g.values.size());
  std::iota(instead.begin(), instead.end(), 0u);
  for (auto [v, leaf] : g.known) instead[v] = leaf;
  return instead;
}

bool is_compound(const Graph::Node& n) { return info(n.op).kind == Kind::Compound; }

// Goes through the nodes once. Each is left as it is, changed where it is, or its results are read from an older value.
class Rewriter {
 public:
  explicit Rewriter(Graph g) : g_(std::move(g)), map_(g_.values.size()), known_(g_, g_.nodes.size()) {}

  Graph run() {
    std::iota(map_.begin(), map_.end(), 0u);
    const auto instead = read_instead(g_);
    for (uint32_t i = 0; i < g_.nodes.size(); ++i) {
      const Graph::Node& n = g_.nodes[i];
      if (n.op == Op::leaf || n.op == Op::scalar) continue;
      for (uint32_t& v : inputs(n)) v = map_[v];
      if (const uint32_t older = rewrite(i); older != kNone)
        for (uint32_t k = 0; k < n.n_out; ++k) map_[n.out + k] = older + k;
      if (!instead.empty())
        for (uint32_t k = 0; k < n.n_out; ++k)
          if (const uint32_t v = n.out + k; instead[v] != v) map_[v] = instead[v];
    }
    for (uint32_t& v : g_.outputs) v = map_[v];
    g_.known.clear();
    return prune(std::move(g_));
  }

 private:
  Graph g_;
  List<uint32_t> map_;  // value -> the value that is read instead
  Known known_;

  std::span<uint32_t> inputs(const Graph::Node& n) { return {g_.ins.data() + n.in_at, n.n_in}; }

  // The node is now this operation on the first of its inputs.
  void become(Graph::Node& n, Op op, std::span<const int64_t> attrs) {
    n.op = op;
    n.attr_at = uint32_t(g_.attrs.size());
    n.n_attr = uint16_t(attrs.size());
    g_.attrs.insert(g_.attrs.end(), attrs.begin(), attrs.end());
  }
  void become_constant(Graph::Node& n, Scalar s, DType t) {
    const int64_t words[] = {int64_t(t), s.i};
    become(n, Op::constant, words);
    n.n_in = 0;
  }

  // An older value that is as good as the first result of node i, or kNone.
  uint32_t rewrite(uint32_t i) {
    Graph::Node& n = g_.nodes[i];
    if (info(n.op).kind == Kind::Elementwise && n.n_in > 1) peel(inputs(n), g_.values[n.out].shape);
    if (const uint32_t v = identity(n); v != kNone) return v;
    const auto in = g_.in(n);
    const auto attrs = g_.attr(n);
    const uint64_t h = Known::hash(n.op, in, attrs);
    const uint32_t v = known_.find(h, n.op, in, attrs);
    if (v == kNone) known_.add(h, i);
    return v;
  }

  // Is every element of v this constant?
  bool constant_is(uint32_t v, double x) const {
    const Graph::Node* n = &g_.made(v);
    while (n->op == Op::reshape || n->op == Op::broadcast_to) n = &g_.made(g_.in(*n)[0]);
    if (n->op != Op::constant) return false;
    DType t = DType(g_.attr(*n)[0]);
    Scalar s = std::bit_cast<Scalar>(g_.attr(*n)[1]);
    return is_float(t) ? s.f == x : t != DType::Bool && double(s.i) == x;
  }

  // Elementwise operations broadcast by themselves: an explicit broadcast of an operand is dropped when another operand
  // has the shape of the result.
  void peel(std::span<uint32_t> in, const Shape& result) {
    for (size_t i = 0; i < in.size(); ++i) {
      const auto& n = g_.made(in[i]);
      if (n.op != Op::broadcast_to) continue;
      bool other = false;
      for (size_t j = 0; j < in.size(); ++j) other |= j != i && g_.values[in[j]].shape == result;
      if (other) in[i] = g_.in(n)[0];
    }
  }

  // An older value that the node does nothing to; or kNone, and the node may have become a simpler one.
  uint32_t identity(Graph::Node& n) {
    if (n.n_in == 0) return kNone;
    const auto in = inputs(n);
    const uint32_t x = in[0];
    const Graph::Node& made = g_.made(x);
    const Spec& from = g_.values[x];
    const Spec& to = g_.values[n.out];
    const bool same = from.shape == to.shape && from.dtype == to.dtype;
    switch (n.op) {
      case Op::param:
      case Op::alias:
      case Op::stop:
      case Op::custom: return x;
      case Op::cast:
        if (same) return x;
        if (made.op == Op::constant) {
          char cell[16];
          const Scalar s = std::bit_cast<Scalar>(g_.attr(made)[1]);
          const DType t = DType(g_.attr(made)[0]);
          if (is_float(t) && is_float(to.dtype)) {
            store(s, to.dtype, cell);
            become_constant(n, load(to.dtype, cell), to.dtype);
          } else if (is_int(t) && is_float(to.dtype)) {
            become_constant(n, {.f = double(s.i)}, to.dtype);
          }
        }
        return kNone;
      case Op::copy:
      case Op::broadcast_to: return same ? x : kNone;
      case Op::reshape:
        if (same) return x;
        if (made.op != Op::reshape) return kNone;
        in[0] = g_.in(made)[0];
        return identity(n);
      case Op::transpose: {
        const auto axes = g_.attr(n).subspan(1);
        if (std::ranges::is_sorted(axes)) return x;
        if (made.op != Op::transpose) return kNone;
        const auto inner = g_.attr(made).subspan(1);
        List<int64_t> both{int64_t(axes.size())};
        for (int64_t a : axes) both.push_back(inner[size_t(a)]);
        become(n, Op::transpose, both);
        in[0] = g_.in(made)[0];
        return identity(n);
      }
      case Op::concatenate: return in.size() == 1 ? x : kNone;
      case Op::multiply:
        if (same && constant_is(in[1], 1)) return x;
        if (constant_is(x, 1) && g_.values[in[1]].shape == to.shape) return in[1];
        return kNone;
      case Op::divide: return same && constant_is(in[1], 1) ? x : kNone;
      case Op::negative: return made.op == Op::negative ? g_.in(made)[0] : kNone;
      case Op::sum:
      case Op::prod:
      case Op::max:
      case Op::min:
        // Over axes of extent 1 there is nothing to add up.
        if (from.dtype != to.dtype || from.shape.size() != to.shape.size() || from.shape.size() == 0) return kNone;
        if (same) return x;
        become(n, Op::reshape, ShapeWords(to.shape));
        return identity(n);
      default: return kNone;
    }
  }
};

}  // namespace

Graph prune(Graph g) {
  const auto live = live_nodes(g);
  // A constant that nobody reads may stay where nothing else must go: it costs nothing.
  size_t first = 0;
  while (first < live.size() && (live[first] || g.nodes[first].op == Op::constant)) ++first;
  if (first == live.size()) return g;
  // What comes after the first that goes moves up; its words stay where they are.
  uint32_t n_nodes = uint32_t(first), n_values = g.nodes[first].out;
  List<uint32_t> map(g.values.size());
  std::iota(map.begin(), map.begin() + n_values, 0u);
  for (size_t i = first; i < g.nodes.size(); ++i) {
    if (!live[i]) continue;
    Graph::Node n = g.nodes[i];
    for (uint32_t j = n.in_at; j < n.in_at + n.n_in; ++j) g.ins[j] = map[g.ins[j]];
    for (uint32_t k = 0; k < n.n_out; ++k) {
      map[n.out + k] = n_values + k;
      g.maker[n_values + k] = n_nodes;
      g.values[n_values + k] = g.values[n.out + k];
    }
    n.out = n_values;
    n_values += n.n_out;
    g.nodes[n_nodes++] = n;
  }
  g.nodes.resize(n_nodes);
  g.values.resize(n_values);
  g.maker.resize(n_values);
  for (auto* list : {&g.inputs, &g.scalars, &g.outputs})
    for (uint32_t& v : *list) v = map[v];
  return g;
}

Graph simplify(Graph g) {
  if (std::ranges::any_of(g.nodes, is_compound)) {
    Expander all(std::move(g));
    g = all.run(1.5, is_compound, [&](const Graph::Node& n) { all.expand(n); });
  }
  return Rewriter(std::move(g)).run();
}

}  // namespace knet
