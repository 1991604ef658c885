// differentiate: each `grad` node becomes the operations that compute the gradient.
//
// Reverse accumulation over the graph so far: from the loss back to the leaves, each operation's derivative is a
// template (rulebook.h) put on its gradients, results and inputs. What a rule leaves to us: summing a gradient over
// broadcast axes, adding up the contributions to a value, and knowing what is needed at all. Since a gradient is again
// plain operations, a `grad` node that comes later differentiates through it: any order.
#include <algorithm>
#include <bit>
#include "plan/expander.h"
#include "plan/pipeline.h"
#include "trace/rulebook.h"

namespace knet {

namespace {

class Backward {
 public:
  explicit Backward(Graph& g) : g_(g) {}

  // The gradients of `loss` with respect to `wrt`, appended to the graph.
  List<uint32_t> run(uint32_t loss, std::span<const uint32_t> wrt) {
    size_t n_values = g_.values.size();
    mark(loss, wrt);
    grads_.assign(n_values, kNone);
    if (needed_[loss]) {
      Spec one = g_.values[loss];
      uint32_t seed = g_.constant({.f = 1.0}, one.dtype);
      grads_[loss] = one.shape.rank ? broadcast_to(seed, one.shape) : seed;
      for (int64_t n = int64_t(g_.maker[loss]); n >= int64_t(first_); --n) step(g_.nodes[size_t(n)]);
    }
    List<uint32_t> out;
    for (uint32_t w : wrt) {
      uint32_t d = w < n_values ? grads_[w] : kNone;
      if (d == kNone) d = zeros(g_.values[w]);
      out.push_back(d);
    }
    return out;
  }

 private:
  Graph& g_;
  List<uint8_t> needed_;         // depends on a leaf, through differentiable operations only
  List<uint32_t> grads_;         // per value: its gradient so far
  uint32_t first_ = 0;           // the earliest node that makes a leaf
  // Of the operation that is being differentiated; members, so that their memory is used again.
  List<uint32_t> operands_;
  List<const Spec*> specs_;
  List<int64_t> results_;

  static bool passes(Op op) {
    return op == Op::param || op == Op::alias;
  }

  void mark(uint32_t loss, std::span<const uint32_t> wrt) {
    needed_.assign(g_.values.size(), false);
    first_ = g_.maker[loss];
    for (uint32_t w : wrt) {
      needed_[w] = true;
      first_ = std::min(first_, g_.maker[w]);
    }
    for (uint32_t n = first_; n <= g_.maker[loss]; ++n) {
      const Graph::Node& node = g_.nodes[n];
      const OpInfo& about = info(node.op);
      if (!(about.flags & kDifferentiable) && !passes(node.op) && node.op != Op::custom) continue;
      bool any = false;
      for (uint32_t v : g_.in(node)) any |= needed_[v];
      if (any)
        for (uint32_t i = 0; i < node.n_out; ++i)
          if (is_float(g_.values[node.out + i].dtype)) needed_[node.out + i] = true;
    }
  }

  void step(Graph::Node node) {  // a copy: adding operations moves the nodes
    uint64_t has_dy = 0;
    for (uint32_t i = 0; i < node.n_out; ++i)
      if (grads_[node.out + i] != kNone) has_dy |= 1ull << i;
    if (!has_dy || !node.n_in) return;
    uint64_t needs = 0;
    bool any = false;
    for (size_t i = 0; i < node.n_in; ++i)
      if (needed_[g_.in(node)[i]]) {
        any = true;
        needs |= 1ull << (i & 63);
      }
    if (!any) return;
    if (passes(node.op)) return add(g_.in(node)[0], grads_[node.out]);
    if (node.n_in > 64) needs = ~0ull;  // concatenations of very many: all or none

    operands_.clear();
    specs_.clear();
    for (uint32_t i = 0; i < node.n_out; ++i)
      if (has_dy >> i & 1) operands_.push_back(grads_[node.out + i]);
    for (uint32_t i = 0; i < node.n_out; ++i) operands_.push_back(node.out + i);
    for (uint32_t v : g_.in(node)) operands_.push_back(v);
    const std::span in(operands_.end() - node.n_in, operands_.end());
    for (uint32_t v : in) specs_.push_back(&g_.values[v]);
    for (uint32_t i = 0; i < node.n_out; ++i) specs_.push_back(&g_.values[node.out + i]);
    const std::span specs(specs_);
    const Signature sig{node.op, g_.attr(node), specs.first(node.n_in), specs.subspan(node.n_in), has_dy, needs};
    const TemplateRef rule = derivative(sig);
    if (rule->onto && std::popcount(needs) == 1) {
      // Into the gradient that is there already, rather than into zeros.
      const uint32_t v = in[size_t(std::countr_zero(needs))], acc = grads_[v];
      if (acc != kNone && g_.values[acc].shape == g_.values[v].shape && g_.values[acc].dtype == g_.values[v].dtype) {
        operands_.push_back(acc);
        rule->onto->instantiate(g_, operands_, node.line, results_);
        grads_[v] = uint32_t(results_[0]);
        return;
      }
    }
    rule->instantiate(g_, operands_, node.line, results_);
    size_t r = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      bool asked = node.n_in > 64 || (needs >> i & 1);
      if (!asked) continue;
      int64_t d = results_[r++];
      if (d >= 0 && needed_[in[i]]) add(in[i], fit(uint32_t(d), g_.values[in[i]]));
    }
  }

  // A gradient in the shape and dtype of its value: summed over axes that were broadcast.
  uint32_t fit(uint32_t d, const Spec& want_ref) {
    Spec want = want_ref, have = g_.values[d];
    if (have.dtype != want.dtype) {
      int64_t a = int64_t(want.dtype);
      d = g_.add(Op::cast, {&d, 1}, {&a, 1});
    }
    if (have.shape == want.shape) return d;
    List<int64_t> axes;
    Shape left;  // what the sum leaves, in dimensions that fit those of `want` from the right
    int lead = have.shape.rank - want.shape.rank;
    for (int i = 0; i < have.shape.rank; ++i) {
      bool summed = i < lead || (want.shape[i - lead] == 1 && have.shape[i] != 1);
      if (summed) axes.push_back(i);
      if (i >= lead) left.push(summed ? 1 : have.shape[i]);
    }
    List<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(0);
    if (!axes.empty()) d = g_.add(Op::sum, {&d, 1}, attrs);
    if (!(g_.values[d].shape == left)) d = reshape(d, left);
    return left == want.shape ? d : broadcast_to(d, want.shape);  // a rule may give a number for all elements
  }

  // Contributions that are zero but for a region or a few places are added into what is there, in place if it can be.
  bool onto_zeros(uint32_t v) const {
    const Graph::Node& n = g_.made(v);
    if (n.op != Op::slice_add && n.op != Op::scatter_add && n.op != Op::scatter_along_axis) return false;
    const Graph::Node& base = g_.made(g_.in(n)[0]);
    if (base.op != Op::broadcast_to) return false;
    const Graph::Node* zero = &g_.made(g_.in(base)[0]);
    if (zero->op == Op::cast) zero = &g_.made(g_.in(*zero)[0]);  // a rule's 0 is cast to the type of the gradient
    return zero->op == Op::constant && g_.attr(*zero)[1] == 0;
  }
  uint32_t onto(uint32_t v, uint32_t acc) {
    Graph::Node n = g_.made(v);
    List<uint32_t> in(g_.in(n).begin(), g_.in(n).end());
    in[0] = acc;
    return g_.add(n.op, in, g_.attr(n), n.line);
  }

  void add(uint32_t v, uint32_t d) {
    uint32_t acc = grads_[v];
    if (acc == kNone) {
      grads_[v] = d;
    } else if (onto_zeros(d)) {
      grads_[v] = onto(d, acc);
    } else if (onto_zeros(acc)) {
      grads_[v] = onto(acc, d);
    } else {
      const uint32_t both[] = {acc, d};
      Spec sum = g_.values[acc];
      sum.weak &= g_.values[d].weak;
      grads_[v] = g_.add(Op::add, both, {}, {&sum, 1});
    }
  }

  uint32_t broadcast_to(uint32_t v, const Shape& s) {
    return g_.add(Op::broadcast_to, {&v, 1}, ShapeWords(s));
  }
  uint32_t reshape(uint32_t v, const Shape& s) {
    return g_.add(Op::reshape, {&v, 1}, ShapeWords(s));
  }
  uint32_t zeros(const Spec& like) {
    Spec s = like;
    uint32_t z = g_.constant({.i = 0}, s.dtype);
    return s.shape.rank ? broadcast_to(z, s.shape) : z;
  }
};

// Nodes in whose place others are put: gradients, and what has no derivative of its own but that of its expansion.
bool is_replaced(const Graph::Node& n) {
  const OpInfo& about = info(n.op);
  return n.op == Op::grad || (about.kind == Kind::Compound && !(about.flags & kDifferentiable));
}

class Replacer : Expander {
 public:
  using Expander::Expander;

  Graph run() {
    return Expander::run(3.5, is_replaced, [&](const Graph::Node& n) { n.op == Op::grad ? gradients(n) : expand(n); });
  }

 private:
  void gradients(const Graph::Node& n) {
    in_.clear();
    for (uint32_t v : g_.in(n)) in_.push_back(map_[v]);
    const auto grads = Backward(out_).run(in_[0], std::span(in_).subspan(1));
    std::ranges::copy(grads, map_.begin() + n.out);
  }
};

}  // namespace

Graph differentiate(Graph g) {
  const bool any = std::ranges::any_of(g.nodes, [](const Graph::Node& n) { return n.op == Op::grad; });
  return any ? Replacer(std::move(g)).run() : std::move(g);
}

}  // namespace knet
