// simplify: what is not needed goes, what is computed twice is computed once, what does nothing disappears.
//
// Every rewrite keeps the bits of the result (x*1, x/1, --x, casts to the same type, moves that do not move).
#include <algorithm>
#include <bit>
#include <numeric>
#include "plan/known.h"
#include "plan/pipeline.h"
#include "trace/rulebook.h"

namespace knet {

namespace {

// Which nodes the outputs need. Inputs and scalars always stay: their order is the order of binding.
List<uint8_t> live_nodes(const Graph& g, const List<uint32_t>& instead) {
  List<uint8_t> live(g.nodes.size());
  auto need = [&](uint32_t v) { live[g.maker[instead.empty() ? v : instead[v]]] = true; };
  for (uint32_t v : g.outputs) need(v);
  for (size_t n = g.nodes.size(); n-- > 0;) {
    const auto& node = g.nodes[n];
    if (node.op == Op::leaf || node.op == Op::scalar) live[n] = true;
    if (live[n])
      for (uint32_t v : g.in(node)) need(v);
  }
  return live;
}

class Rewriter {
 public:
  Rewriter(Graph& out, size_t expect) : g_(out), known_(out, expect) {}

  // The first result of `op` on these inputs (overwritten): an older value where one is as good.
  uint32_t add(Op op, std::span<uint32_t> in, std::span<const int64_t> attrs, std::span<const Spec> specs, int32_t line) {
    if (info(op).kind == Kind::Elementwise && in.size() > 1) peel(in, specs[0].shape);
    if (uint32_t v = identity(op, in, attrs, specs); v != kNone) return v;
    uint64_t h = Known::hash(op, in, attrs);
    if (uint32_t v = known_.find(h, op, in, attrs); v != kNone) return v;
    uint32_t out = g_.add(op, in, attrs, specs, line);
    known_.add(h, uint32_t(g_.nodes.size() - 1));
    return out;
  }

 private:
  Graph& g_;
  Known known_;

  // Is every element of v this constant?
  bool constant_is(uint32_t v, double x) const {
    const Graph::Node* n = &g_.made(v);
    while (n->op == Op::reshape || n->op == Op::broadcast_to) n = &g_.made(g_.in(*n)[0]);
    if (n->op != Op::constant) return false;
    DType t = DType(g_.attr(*n)[0]);
    Scalar s = std::bit_cast<Scalar>(g_.attr(*n)[1]);
    return is_float(t) ? s.f == x : t != DType::Bool && double(s.i) == x;
  }

  // Elementwise operations broadcast by themselves: an explicit broadcast of an operand is dropped when another operand has the
  // shape of the result.
  void peel(std::span<uint32_t> in, const Shape& result) {
    for (size_t i = 0; i < in.size(); ++i) {
      const auto& n = g_.made(in[i]);
      if (n.op != Op::broadcast_to) continue;
      bool other = false;
      for (size_t j = 0; j < in.size(); ++j) other |= j != i && g_.values[in[j]].shape == result;
      if (other) in[i] = g_.in(n)[0];
    }
  }

  uint32_t identity(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, std::span<const Spec> specs) {
    if (in.empty()) return kNone;
    uint32_t x = in[0];
    const Spec& from = g_.values[x];
    const Spec& to = specs[0];
    bool same = from.shape == to.shape && from.dtype == to.dtype;
    switch (op) {
      case Op::param:
      case Op::alias:
      case Op::stop:
      case Op::custom: return x;
      case Op::cast:
        if (same) return x;
        if (const auto& n = g_.made(x); n.op == Op::constant) {
          char cell[16];
          Scalar s = std::bit_cast<Scalar>(g_.attr(n)[1]);
          DType t = DType(g_.attr(n)[0]);
          if (is_float(t) && is_float(to.dtype)) {
            store(s, to.dtype, cell);
            return g_.constant(load(to.dtype, cell), to.dtype);
          }
          if (is_int(t) && is_float(to.dtype)) return g_.constant({.f = double(s.i)}, to.dtype);
        }
        return kNone;
      case Op::copy:
      case Op::broadcast_to: return same ? x : kNone;
      case Op::reshape:
        if (same) return x;
        if (const auto& n = g_.made(x); n.op == Op::reshape) {
          uint32_t y = g_.in(n)[0];
          return add(Op::reshape, {&y, 1}, attrs, specs, n.line);
        }
        return kNone;
      case Op::transpose: {
        auto axes = attrs.subspan(1);
        if (std::ranges::is_sorted(axes)) return x;
        if (const auto& n = g_.made(x); n.op == Op::transpose) {
          auto inner = g_.attr(n).subspan(1);
          List<int64_t> both{attrs[0]};
          for (int64_t a : axes) both.push_back(inner[size_t(a)]);
          uint32_t y = g_.in(n)[0];
          return add(Op::transpose, {&y, 1}, both, specs, n.line);
        }
        return kNone;
      }
      case Op::concatenate: return in.size() == 1 ? x : kNone;
      case Op::multiply:
        if (same && constant_is(in[1], 1)) return x;
        if (constant_is(x, 1) && g_.values[in[1]].shape == to.shape) return in[1];
        return kNone;
      case Op::divide: return same && constant_is(in[1], 1) ? x : kNone;
      case Op::negative: return g_.made(x).op == Op::negative ? g_.in(g_.made(x))[0] : kNone;
      case Op::sum:
      case Op::prod:
      case Op::max:
      case Op::min:
        // Over axes of extent 1 there is nothing to add up.
        if (from.dtype == to.dtype && from.shape.size() == to.shape.size() && from.shape.size() > 0) {
          if (same) return x;
          return add(Op::reshape, {&x, 1}, ShapeWords(to.shape), {&to, 1}, -1);
        }
        return kNone;
      default: return kNone;
    }
  }
};

}  // namespace

Graph prune(Graph g) {
  const auto live = live_nodes(g, {});
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
  // What has run already is read, not made again.
  List<uint32_t> instead;
  if (!g.known.empty()) {
    instead.resize(g.values.size());
    for (uint32_t v = 0; v < instead.size(); ++v) instead[v] = v;
    for (auto [v, leaf] : g.known) instead[v] = leaf;
  }
  auto live = live_nodes(g, instead);

  Graph out;
  out.reserve(g);
  Rewriter rewrite(out, g.nodes.size());
  List<uint32_t> map(g.values.size(), kNone), in;
  auto mapped = [&](uint32_t v) { return map[instead.empty() ? v : instead[v]]; };
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    if (!live[i]) continue;
    const auto& n = g.nodes[i];
    in.clear();
    for (uint32_t v : g.in(n)) in.push_back(mapped(v));
    const std::span<const Spec> specs(g.values.data() + n.out, n.n_out);
    if (n.op == Op::leaf || n.op == Op::scalar) {
      map[n.out] = out.add(n.op, {}, g.attr(n), specs, n.line);
    } else if (info(n.op).kind == Kind::Compound) {
      // The expansion is laid out in a scratch graph and each of its operations rewritten like the others.
      Graph scratch;
      List<uint32_t> operands;
      List<Spec> operand_specs;
      List<const Spec*> pointers;
      operand_specs.reserve(in.size());
      for (uint32_t v : in) operand_specs.push_back(out.values[v]);
      for (size_t k = 0; k < in.size(); ++k) {
        operand_specs[k].weak = g.values[g.in(n)[k]].weak;
        pointers.push_back(&operand_specs[k]);
        operands.push_back(scratch.add(Op::leaf, {}, {}, {&operand_specs[k], 1}));
      }
      List<int64_t> results;
      expansion({n.op, g.attr(n), pointers, {}, 0, 0})->instantiate(scratch, operands, n.line, results);
      List<uint32_t> inner(scratch.values.size());
      for (size_t k = 0; k < in.size(); ++k) inner[operands[k]] = in[k];
      for (const auto& m : scratch.nodes) {
        if (m.op == Op::leaf) continue;
        List<uint32_t> on;
        for (uint32_t v : scratch.in(m)) on.push_back(inner[v]);
        std::span<const Spec> s(scratch.values.data() + m.out, m.n_out);
        uint32_t o = rewrite.add(m.op, on, scratch.attr(m), s, n.line);
        for (uint32_t k = 0; k < m.n_out; ++k) inner[m.out + k] = o + k;
      }
      for (uint32_t k = 0; k < n.n_out; ++k) map[n.out + k] = inner[size_t(results[k])];
    } else {
      uint32_t o = rewrite.add(n.op, in, g.attr(n), specs, n.line);
      for (uint32_t k = 0; k < n.n_out; ++k) map[n.out + k] = o + k;
    }
  }
  for (uint32_t v : g.inputs) out.inputs.push_back(map[v]);
  for (uint32_t v : g.scalars) out.scalars.push_back(map[v]);
  for (uint32_t v : g.outputs) out.outputs.push_back(mapped(v));
  return prune(std::move(out));
}

}  // namespace knet
