// fuse: which values are views, which nodes become one tile program, which are Steps of their own; and in which
// order they run.
//
// One pass over the nodes decides what each of them is, and puts them into groups, one group a kernel (groups.h); then
// each group becomes a kernel (emit.cpp).
//
// Two kinds of values wait for their readers:
//   deferred  elementwise, read once, made of at most one value of full size. It goes to its reader's group: the
//             derivative 1 - y*y is computed backwards from y, and not forwards to be kept. Moving it never keeps more
//             values alive than placing it at once would. If it is cheap, so that making it costs no more than reading
//             it would, it may be read several times: each reader gets nodes of its own. A reduction of what no tile
//             kernel makes waits as well, for a kernel that reads this value anyway.
//   free      of one element, made of inputs and Python numbers by few operations: recomputed in each group that
//             reads it.
#include <algorithm>

#include "plan/groups.h"

namespace knet {

namespace {

// Nodes that wait together: three such trees and their reader still fit one kernel.
constexpr int kMaxWaiting = 16;
constexpr int kMaxFree = 8;
// What is made again for each reader: few operations, few readers, and of a size at which memory is what costs.
constexpr int kMaxCheap = 4;
constexpr uint32_t kMaxReaders = 8;
constexpr int64_t kCheapBytes = 128 << 10;

bool fusible_reduction(Op op) {
  return op == Op::sum || op == Op::prod || op == Op::max || op == Op::min || op == Op::any || op == Op::all;
}

// An operation that costs about as much as loading its operands.
bool is_cheap(Op op) { return info(op).rule != DTypeRule::Float || op == Op::divide; }

class Fuser : Groups {
 public:
  Fuser(Graph g, Device& device) : Groups(std::move(g), device.max_row()), device_(device) {}

  Schedule run() {
    const size_t n = graph.nodes.size();
    reserve(n);
    for (const Graph::Node& node : graph.nodes)
      for (uint32_t v : graph.in(node)) ++values[v].uses;
    for (uint32_t v : graph.outputs) ++values[v].uses;
    for (size_t i = 0; i < n; ++i) visit(uint32_t(i));
    results();
    return emit(std::move(*this), device_);
  }

 private:
  Device& device_;

  void visit(uint32_t i) {
    const Graph::Node n = graph.nodes[i];
    if (is_view(n.op)) return view(i);
    for (uint32_t k = 0; k < n.n_out; ++k) views[n.out + k] = own_memory(n.out + k, graph.values[n.out + k]);
    if (n.op == Op::leaf || n.op == Op::scalar || n.op == Op::constant) return;
    if (info(n.op).kind == Kind::Elementwise) return elementwise(i);
    if (fusible_reduction(n.op)) return reduce(i);
    step(i);
  }

  uint32_t add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, const Spec& spec, int32_t line) {
    uint32_t v = graph.add(op, in, attrs, {&spec, 1}, line);
    views.resize(graph.values.size());
    values.resize(graph.values.size());
    values[v].uses = 2;  // never waits
    visit(graph.maker[v]);
    return v;
  }

  uint32_t copy(uint32_t u) {
    if (values[u].copy == kNone) {
      Spec spec = graph.values[u];
      uint32_t c = add(Op::copy, {&u, 1}, {}, spec, graph.made(u).line);
      values[u].copy = c;
    }
    return values[u].copy;
  }

  // ------------------------------------------------------------------------------------------ views

  void view(uint32_t i) {
    const Graph::Node n = graph.nodes[i];
    uint32_t u = graph.in(n)[0];
    if (n.op == Op::slice && computed_starts(n)) return;
    if (!view_of(graph, n, views[u], views[n.out])) {
      u = copy(u);
      view_of(graph, n, views[u], views[n.out]);
    }
    see_through(n.out);
  }

  // v is a view, so the uses of v are uses of its root.
  void see_through(uint32_t v) { values[root(v)].uses += values[v].uses - 1; }

  // A slice whose start is the result of a computation cannot be a view, since where it begins is not known before
  // the kernels run: along such axes it is a gather. True if there were any, and the result is in place.
  bool computed_starts(const Graph::Node n) {
    const int64_t rank = graph.attr(n)[0];
    auto known = [&](uint32_t start) {
      Op op = graph.made(start).op;
      return op == Op::scalar || op == Op::constant;
    };
    bool any = false;
    for (int64_t k = 0; k < rank; ++k) any |= !known(graph.in(n)[size_t(k) + 1]);
    if (!any) return false;
    AttrReader attr{graph.attr(n)};
    auto copied = [](std::span<const int64_t> s) { return List<int64_t>(s.begin(), s.end()); };
    auto axes = copied(attr.ints()), lengths = copied(attr.ints()), steps = copied(attr.ints());
    List<uint32_t> in(graph.in(n).begin(), graph.in(n).end()), now{in[0]};
    List<int64_t> a, l, s;
    Spec spec = graph.values[in[0]];
    for (size_t k = 0; k < axes.size(); ++k)
      if (known(in[k + 1])) {
        now.push_back(in[k + 1]);
        a.push_back(axes[k]), l.push_back(lengths[k]), s.push_back(steps[k]);
        spec.shape[int(axes[k])] = lengths[k];
      }
    uint32_t x = in[0];
    if (!a.empty()) {
      List<int64_t> words;
      for (auto* list : {&a, &l, &s}) {
        words.push_back(int64_t(list->size()));
        words.insert(words.end(), list->begin(), list->end());
      }
      x = add(Op::slice, now, words, spec, n.line);
    }
    for (size_t k = 0; k < axes.size(); ++k) {
      if (known(in[k + 1])) continue;
      uint32_t by = graph.constant({.i = steps[k]}, DType::I64);
      views.resize(graph.values.size());
      values.resize(graph.values.size());
      visit(graph.maker[by]);
      Spec index = graph.values[by];
      index.shape = Shape{lengths[k]};
      uint32_t run[2] = {in[k + 1], by};
      int64_t how[2] = {lengths[k], int64_t(DType::I64)};
      uint32_t from[2] = {x, add(Op::iota, run, how, index, n.line)};
      int64_t where[3] = {1, axes[k], axes[k]};
      spec.shape[int(axes[k])] = lengths[k];
      x = add(Op::gather, from, where, spec, n.line);
    }
    views[n.out] = views[x];
    return true;
  }

  // ------------------------------------------------------------------------------------------ Steps

  void step(uint32_t i) {
    const bool in_place = graph.nodes[i].op == Op::concatenate && join_in_place(i);
    const Graph::Node n = graph.nodes[i];
    for (uint32_t j = 0; j < n.n_in; ++j) {
      uint32_t u = graph.ins[n.in_at + j];
      if (n.op != Op::copy && !in_place && !accepts(n.op, j, u)) graph.ins[n.in_at + j] = copy(u);
    }
    groups[place_step(i)].nothing = in_place;
  }

  bool accepts(Op op, uint32_t j, uint32_t u) const {
    const Layout& layout = views[u].layout;
    return layout.is_contiguous() || device_.accepts(op, int(j), layout, values[u].uses);
  }

  // The parts of a concatenation are written where they belong, if most of it is made by kernels for this purpose.
  // Along the outermost axis any kernel can write a part, and what is left is copied there; along others, where parts
  // are strided, only elementwise kernels of which nobody else reads the result. True if so.
  bool join_in_place(uint32_t i) {
    const Graph::Node n = graph.nodes[i];
    const Layout whole = views[n.out].layout;
    const int axis = int(graph.attr(n)[0]);
    if (graph.values[n.out].bytes() < kJoinBytes) return false;
    bool strided = false;
    for (int d = 0; d < axis; ++d) strided |= whole.shape[d] != 1;
    auto fits = [&](uint32_t u) {
      const uint32_t r = root(u);
      const Value& x = values[r];
      if (x.part || x.state != State::Grouped || !is_whole(views[u], graph)) return false;
      if (std::find(graph.outputs.begin(), graph.outputs.end(), r) != graph.outputs.end()) return false;
      return !strided || (u == r && x.uses == 1 && x.cls == Class::Full && groups[find(x.group)].tile);
    };
    uint32_t others = 0;
    for (uint32_t u : graph.in(n)) {
      in_memory(u);
      others += !fits(u);
    }
    if (others > (strided ? 0u : 1u + n.n_in / 8)) return false;
    Joined concatenation{n.out, {}};
    int64_t offset = 0;
    for (uint32_t j = 0; j < n.n_in; ++j) {
      uint32_t u = graph.ins[n.in_at + j];
      const Spec spec = graph.values[u];
      if (spec.shape.size() == 0) continue;
      if (!fits(u)) {  // one that occurs twice does not fit the second time
        graph.ins[n.in_at + j] = u = add(Op::copy, {&u, 1}, {}, spec, n.line);
        in_memory(u);
      }
      const uint32_t r = root(u);
      values[r].part = true;
      if (strided) std::copy(whole.stride, whole.stride + whole.shape.rank, views[r].layout.stride);
      concatenation.parts.push_back({r, offset});
      offset += spec.shape[axis] * whole.stride[axis] * int64_t(itemsize(spec.dtype));
    }
    joined.push_back(std::move(concatenation));
    return true;
  }

  // ------------------------------------------------------------------------------------------ elementwise

  void elementwise(uint32_t i) {
    const Graph::Node n = graph.nodes[i];
    const Shape s = shape(n.out);
    const int64_t size = s.size();
    if (size == 0) {
      values[n.out].state = State::Empty;
      return;
    }
    int waiting = 1;
    bool free = size == 1, one_source = true, cheap = is_cheap(n.op), reshaped = false;
    uint32_t source = kNone;
    auto add_source = [&](uint32_t r) {
      if (r == kNone) return;
      one_source &= source == kNone || source == r;
      source = r;
    };
    for (uint32_t j = 0; j < n.n_in; ++j) {
      const bool comes = follows(i, j, s, reshaped);
      uint32_t u = graph.ins[n.in_at + j], r = root(u);
      if (values[r].state == State::Free) {
        waiting += values[r].waiting;
      } else if (comes) {
        waiting += values[r].waiting;
        cheap &= values[r].cheap && (u == r || is_reshape_of(u, r));
        add_source(values[r].source);
        free = false;
      } else {
        free &= values[r].state == State::Memory;
        if (shape(u).size() == size) add_source(r);
      }
    }
    Value* out = &values[n.out];
    out->reshaped = reshaped;
    cheap = cheap && waiting <= kMaxCheap && source != kNone && worth_making_again(n.out, source);
    if (free && waiting <= kMaxFree) {
      out->state = State::Free;
      out->waiting = uint8_t(waiting);
    } else if (one_source && (out->uses == 1 || cheap) && waiting <= kMaxWaiting) {
      out->state = State::Deferred;
      out->waiting = uint8_t(waiting);
      out->source = source;
      out->cheap = cheap;
    } else {
      place(n.out);
    }
  }

  // v is cheap, and made of one other value of full size: is reading that one, once more for each reader, as good as
  // storing v and reading it?
  bool worth_making_again(uint32_t v, uint32_t source) const {
    return values[v].uses <= kMaxReaders && graph.values[v].bytes() >= kCheapBytes &&
           itemsize(graph.values[v].dtype) >= itemsize(graph.values[source].dtype);
  }

  // Can the waiting value that input j of node i sees go with the node, which reads in shape `s`? If it cannot it is
  // placed now. `reshaped`: the nodes that go with i, and i, have two shapes; they never have three.
  bool follows(uint32_t i, uint32_t j, const Shape& s, bool& reshaped) {
    const size_t at = graph.nodes[i].in_at + j;
    const uint32_t u = graph.ins[at], r = root(u);
    if (values[r].state != State::Deferred) return false;
    if (same_points(u, r, s)) {
      const Shape reading = without_ones(s), made = without_ones(shape(r));
      const int shapes = !(reading == made) + values[r].reshaped + reshaped;
      Shape fine;
      const uint32_t v = shapes > 1 || !refine(reading, made, fine) ? kNone : values[r].uses == 1 ? u : again(u);
      if (v != kNone) {
        graph.ins[at] = v;
        reshaped = shapes > 0;
        return true;
      }
    }
    place(r);
    return false;
  }

  // u, broadcast to shape s, visits the elements of its elementwise root in order, each once.
  bool same_points(uint32_t u, uint32_t r, const Shape& s) const {
    return shape(r).size() == s.size() && shape(u).size() == s.size() && is_whole(views[u], graph) &&
           info(graph.made(r).op).kind == Kind::Elementwise;
  }

  bool is_reshape_of(uint32_t u, uint32_t r) const {
    return graph.made(u).op == Op::reshape && graph.in(graph.made(u))[0] == r;
  }

  // What u sees, made by nodes of its own, for one reader. kNone if it cannot be.
  uint32_t again(uint32_t u) {
    const uint32_t r = root(u);
    if (u != r && !is_reshape_of(u, r)) return kNone;
    --values[r].uses;
    return copy_nodes(u);
  }

  uint32_t copy_nodes(uint32_t v) {  // at most kMaxCheap deep
    const Graph::Node n = graph.made(v);
    const Spec spec = graph.values[v];
    uint32_t in[3];
    for (uint32_t j = 0; j < n.n_in; ++j) {
      const uint32_t u = graph.ins[n.in_at + j];
      in[j] = values[root(u)].state == State::Deferred ? copy_nodes(u) : u;
    }
    const std::vector<int64_t> attrs(graph.attr(n).begin(), graph.attr(n).end());
    const uint32_t w = graph.add(n.op, {in, n.n_in}, attrs, {&spec, 1}, n.line);
    views.resize(graph.values.size());
    values.resize(graph.values.size());
    if (is_view(n.op)) {
      view_of(graph, graph.made(w), views[in[0]], views[w]);
    } else {
      views[w] = own_memory(w, spec);
      values[w] = values[v];
      values[w].uses = 1;
    }
    return w;
  }

  // ------------------------------------------------------------------------------------------ reductions

  void reduce(uint32_t i) {
    const Graph::Node n = graph.nodes[i];
    const uint32_t u = graph.in(n)[0];
    const Shape s = shape(u);
    if (s.size() == 0) return step(i);
    Reduction how = classify(n);
    if (how.what == Reduction::Apart) return step(i);
    if (how.what == Reduction::Nothing) return same_elements(n);
    bool reshaped = false;
    const bool comes = follows(i, 0, s, reshaped);
    values[n.out].reshaped = reshaped;
    const uint32_t r = root(u);
    const bool in_tile = values[r].state == State::Grouped && groups[find(values[r].group)].tile;
    if (comes || in_tile || how.what == Reduction::Row) return place(n.out);
    if (how.what == Reduction::Some && !accepts(n.op, 0, u)) return step(i);
    values[n.out].state = State::Deferred;
  }

  // A reduction over axes of extent 1: the elements themselves, of another shape and perhaps dtype.
  void same_elements(const Graph::Node n) {
    uint32_t u = graph.in(n)[0];
    Spec to = graph.values[n.out], seen = to;
    seen.dtype = graph.values[u].dtype;
    List<int64_t> words{to.shape.rank};
    words.insert(words.end(), to.shape.begin(), to.shape.end());
    uint32_t v = add(Op::reshape, {&u, 1}, words, seen, n.line);
    if (seen.dtype != to.dtype) {
      int64_t t = int64_t(to.dtype);
      v = add(Op::cast, {&v, 1}, {&t, 1}, to, n.line);
    }
    views[n.out] = views[v];
    see_through(n.out);
  }

  // ------------------------------------------------------------------------------------------ results

  // A result is a buffer in C order: an input, or a root under any shape. Anything else is copied.
  void results() {
    for (size_t j = 0; j < graph.outputs.size(); ++j) {
      uint32_t u = graph.outputs[j], r = root(u);
      Op op = graph.made(r).op;
      if (!is_whole(views[u], graph) || op == Op::scalar || op == Op::constant) graph.outputs[j] = u = copy(u);
      in_memory(u, true);
    }
  }
};

}  // namespace

Schedule fuse(Graph g, Device& device) { return Fuser(std::move(g), device).run(); }

}  // namespace knet
