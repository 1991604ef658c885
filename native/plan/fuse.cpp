// fuse: which values are views, which nodes become one tile program, which are Steps of their own; and in which
// order they run.
//
// One pass over the nodes puts them into groups, one group a kernel. Every group has a depth: one more than the
// deepest group that makes its inputs, so whatever a group reads from memory was made at a smaller depth. A node
// may therefore join the deepest groups that make its inputs, and these may become one (equal depth: none reads
// another), without ever making a cycle.
//
// A group has a space, the shape it runs over (extents of 1 left out). In it a value is a register in one of two
// classes: Full, one element per point, or Row, one per row, where a row is space[split:]. A value made in the
// group is read as a register only if the reading strides are those under which it would be stored; any other
// reading (transposed, sliced) goes through memory.
//
// Two kinds of values wait for their readers:
//   deferred  elementwise, read once, made of at most one value of full size. It goes to its reader's group: the
//             derivative 1 - y*y is computed backwards from y, and not forwards to be kept. Moving it never keeps more
//             values alive than placing it at once would.
//   free      of one element, made of inputs and Python numbers by few operations: recomputed in each group that
//             reads it.
#include <algorithm>

#include "plan/views.h"

namespace knet {

namespace {

constexpr uint32_t kNone = ~0u;
// Instructions in a kernel. Memory traffic saved by fusing one more is long amortised at 64, and a bound keeps
// merging groups linear: a node is moved at most 64 times.
constexpr int kMaxInstrs = 64;
// Values read by a kernel: about as many streams as a core's prefetchers follow.
constexpr int kMaxInputs = 32;
// Parts of a concatenation are written in place from this many bytes on: below, one kernel that copies them all is as good.
constexpr int64_t kJoinBytes = 8 << 10;
// Nodes that wait together: three such trees and their reader still fit one kernel.
constexpr int kMaxWaiting = 16;
constexpr int kMaxFree = 8;

bool fusible_reduction(Op op) {
  return op == Op::sum || op == Op::prod || op == Op::max || op == Op::min || op == Op::any || op == Op::all;
}

Shape without_ones(const Shape& s) {
  Shape r;
  for (int64_t d : s)
    if (d != 1) r.dim[r.rank++] = d;
  return r;
}

bool is_prefix(const Shape& p, const Shape& s, int n) {
  return p.rank == n && n <= s.rank && std::equal(p.begin(), p.end(), s.begin());
}

// Strides of `from`, broadcast to `shape`, over the dimensions of `shape` that are not 1.
int operand_strides(const Layout& from, const Shape& shape, int64_t* stride) {
  int pad = shape.rank - from.shape.rank, n = 0;
  for (int i = 0; i < shape.rank; ++i)
    if (shape[i] != 1) stride[n++] = i < pad || from.shape[i - pad] == 1 ? 0 : from.stride[i - pad];
  return n;
}

enum class State : uint8_t { Memory, Grouped, Deferred, Free, Empty };
enum class Class : uint8_t { Full, Row, Result };  // Result: of a reduction that is complete only when the kernel ends

struct Value {
  State state = State::Memory;
  Class cls = Class::Full;
  bool stored = false;      // somebody reads it from memory
  uint8_t waiting = 0;      // deferred or free: number of its nodes
  uint16_t reg = 0;         // while emitting
  uint32_t reg_group = kNone;
  uint32_t group = kNone;
  uint32_t depth = 0;
  uint32_t uses = 0;
  uint32_t reader = kNone;  // the last tile group that reads all of it
  uint32_t copy = kNone;    // a contiguous copy of this value
  bool part = false;        // written in place into a concatenation
  uint32_t source = kNone;  // deferred: the value of full size that it is made of
};

struct Group {
  bool tile = true;
  bool nothing = false;    // no kernel: a concatenation whose parts are in place
  bool rows_read = false;  // a Row register is read by another instruction
  int8_t split = -1;       // -1: not decided
  uint32_t depth = 0;
  uint32_t order = 0;      // the last node in it
  int size = 0;            // instructions
  int n_reads = 0;
  uint32_t first_node = kNone, last_node = kNone;  // a list, linked by next_node_
  uint32_t first_read = kNone, last_read = kNone;  // values read from memory: a list in reads_
  Shape space;

  // What later nodes must respect. A split of 0 (the row is everything) was only a guess until somebody reads the
  // Row register.
  int fixed_split() const { return split == 0 && !rows_read ? -1 : split; }
};

struct Reduction {
  enum What : uint8_t { Nothing, All, Row, Columns, Apart } what;
  int split;
};

struct Read {
  uint32_t value, next;
};

struct Leaf {  // value read by a node
  uint32_t value, node;
};

class Fuser {
 public:
  Fuser(Graph g, Device& device) : g_(std::move(g)), device_(device), max_row_(device.max_row()) {}

  Schedule run() {
    const size_t n = g_.nodes.size();
    views_.resize(g_.values.size());
    values_.resize(g_.values.size());
    for (uint32_t v : g_.ins) ++values_[v].uses;
    for (uint32_t v : g_.outputs) ++values_[v].uses;
    next_node_.reserve(n + n / 4);
    groups_.reserve(n / 2 + 8);
    parent_.reserve(n / 2 + 8);
    reads_.reserve(n + 8);
    for (size_t i = 0; i < n; ++i) visit(uint32_t(i));
    results();
    Schedule s;
    emit_all(s);
    s.graph = std::move(g_);
    s.views = std::move(views_);
    s.joined = std::move(joined_);
    return s;
  }

 private:
  Graph g_;
  Device& device_;
  const int64_t max_row_;
  std::vector<View> views_;
  std::vector<Value> values_;
  std::vector<Group> groups_;
  mutable std::vector<uint32_t> parent_;  // groups that became one; find() shortens the way
  std::vector<uint32_t> next_node_;  // node -> the next one in its group
  std::vector<Read> reads_;
  std::vector<uint32_t> tree_;    // nodes about to be placed together
  std::vector<Leaf> leaves_;      // and what they read
  std::vector<uint32_t> targets_, stack_;
  std::vector<Joined> joined_;

  // ------------------------------------------------------------------------------------------ small things

  uint32_t root(uint32_t v) const { return views_[v].root; }
  uint32_t find(uint32_t k) const {
    while (parent_[k] != k) k = parent_[k] = parent_[parent_[k]];
    return k;
  }
  const Shape& shape(uint32_t v) const { return g_.values[v].shape; }

  uint32_t add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, const Spec& spec, int32_t line) {
    uint32_t v = g_.add(op, in, attrs, {&spec, 1}, line);
    views_.resize(g_.values.size());
    values_.resize(g_.values.size());
    values_[v].uses = 2;  // never waits
    visit(g_.maker[v]);
    return v;
  }

  uint32_t copy(uint32_t u) {
    if (values_[u].copy == kNone) {
      Spec spec = g_.values[u];
      uint32_t c = add(Op::copy, {&u, 1}, {}, spec, g_.made(u).line);
      values_[u].copy = c;
    }
    return values_[u].copy;
  }

  uint32_t new_group(bool tile, uint32_t depth) {
    uint32_t k = uint32_t(groups_.size());
    groups_.emplace_back();
    groups_[k].tile = tile;
    groups_[k].depth = depth;
    parent_.push_back(k);
    return k;
  }

  void read(Group& g, uint32_t u) {
    for (uint32_t l = g.first_read; l != kNone; l = reads_[l].next)
      if (reads_[l].value == u) return;
    uint32_t l = uint32_t(reads_.size());
    reads_.push_back({u, kNone});
    (g.first_read == kNone ? g.first_read : reads_[g.last_read].next) = l;
    g.last_read = l;
    ++g.n_reads;
  }

  // Puts the list of nodes first .. last at the end of the group's.
  void put_nodes(Group& g, uint32_t first, uint32_t last) {
    (g.first_node == kNone ? g.first_node : next_node_[g.last_node]) = first;
    g.last_node = last;
  }
  void put_node(Group& g, uint32_t i) {
    if (next_node_.size() <= i) next_node_.resize(g_.nodes.size(), kNone);
    next_node_[i] = kNone;
    put_nodes(g, i, i);
  }

  // `u` is going to be read from memory: see that it is there. Returns the depth at which it is made.
  uint32_t in_memory(uint32_t u) {
    uint32_t r = root(u);
    if (values_[r].state == State::Deferred || (values_[r].state == State::Free && values_[r].group == kNone)) place(r);
    values_[r].stored = true;
    return values_[r].group == kNone ? 0 : groups_[find(values_[r].group)].depth;
  }

  // ------------------------------------------------------------------------------------------ node by node

  void visit(uint32_t i) {
    const Graph::Node n = g_.nodes[i];
    if (is_view(n.op)) return view(i);
    for (uint32_t k = 0; k < n.n_out; ++k) views_[n.out + k] = own_memory(n.out + k, g_.values[n.out + k]);
    if (n.op == Op::leaf || n.op == Op::scalar || n.op == Op::constant) return;
    if (info(n.op).kind == Kind::Elementwise) return elementwise(i);
    if (fusible_reduction(n.op)) return reduce(i);
    step(i);
  }

  void view(uint32_t i) {
    const Graph::Node n = g_.nodes[i];
    uint32_t u = g_.in(n)[0];
    if (n.op == Op::slice && computed_starts(n)) return;
    if (!view_of(g_, n, views_[u], views_[n.out])) {
      u = copy(u);
      view_of(g_, n, views_[u], views_[n.out]);
    }
    see_through(n.out);
  }

  // v is a view, so the uses of v are uses of its root.
  void see_through(uint32_t v) { values_[root(v)].uses += values_[v].uses - 1; }

  // A slice whose start is the result of a computation cannot be a view, since where it begins is not known before
  // the kernels run: along such axes it is a gather. True if there were any, and the result is in place.
  bool computed_starts(const Graph::Node n) {
    const int64_t rank = g_.attr(n)[0];
    auto known = [&](uint32_t start) {
      Op op = g_.made(start).op;
      return op == Op::scalar || op == Op::constant;
    };
    bool any = false;
    for (int64_t k = 0; k < rank; ++k) any |= !known(g_.in(n)[size_t(k) + 1]);
    if (!any) return false;
    AttrReader attr{g_.attr(n)};
    auto copied = [](std::span<const int64_t> s) { return std::vector<int64_t>(s.begin(), s.end()); };
    auto axes = copied(attr.ints()), lengths = copied(attr.ints()), steps = copied(attr.ints());
    std::vector<uint32_t> in(g_.in(n).begin(), g_.in(n).end()), now{in[0]};
    std::vector<int64_t> a, l, s;
    Spec spec = g_.values[in[0]];
    for (size_t k = 0; k < axes.size(); ++k)
      if (known(in[k + 1])) {
        now.push_back(in[k + 1]);
        a.push_back(axes[k]), l.push_back(lengths[k]), s.push_back(steps[k]);
        spec.shape[int(axes[k])] = lengths[k];
      }
    uint32_t x = in[0];
    if (!a.empty()) {
      std::vector<int64_t> words;
      for (auto* list : {&a, &l, &s}) {
        words.push_back(int64_t(list->size()));
        words.insert(words.end(), list->begin(), list->end());
      }
      x = add(Op::slice, now, words, spec, n.line);
    }
    for (size_t k = 0; k < axes.size(); ++k) {
      if (known(in[k + 1])) continue;
      uint32_t by = g_.constant({.i = steps[k]}, DType::I64);
      views_.resize(g_.values.size());
      values_.resize(g_.values.size());
      visit(g_.maker[by]);
      Spec index = g_.values[by];
      index.shape = Shape{lengths[k]};
      uint32_t run[2] = {in[k + 1], by};
      int64_t how[2] = {lengths[k], int64_t(DType::I64)};
      uint32_t from[2] = {x, add(Op::iota, run, how, index, n.line)};
      int64_t where[3] = {1, axes[k], axes[k]};
      spec.shape[int(axes[k])] = lengths[k];
      x = add(Op::gather, from, where, spec, n.line);
    }
    views_[n.out] = views_[x];
    return true;
  }

  // The parts of a concatenation are written where they belong, if most of it is made by kernels for this purpose. Along the
  // outermost axis any kernel can write a part, and what is left is copied there; along others, where parts are strided, only
  // elementwise kernels of which nobody else reads the result. True if so.
  bool join_in_place(uint32_t i) {
    const Graph::Node n = g_.nodes[i];
    const Layout whole = views_[n.out].layout;
    const int axis = int(g_.attr(n)[0]);
    if (g_.values[n.out].bytes() < kJoinBytes) return false;
    bool strided = false;
    for (int d = 0; d < axis; ++d) strided |= whole.shape[d] != 1;
    auto fits = [&](uint32_t u) {
      const uint32_t r = root(u);
      const Value& x = values_[r];
      if (x.part || x.state != State::Grouped || !is_whole(views_[u], g_)) return false;
      if (std::find(g_.outputs.begin(), g_.outputs.end(), r) != g_.outputs.end()) return false;
      return !strided || (u == r && x.uses == 1 && x.cls == Class::Full && groups_[find(x.group)].tile);
    };
    uint32_t others = 0;
    for (uint32_t u : g_.in(n)) {
      in_memory(u);
      others += !fits(u);
    }
    if (others > (strided ? 0 : 1 + n.n_in / 8)) return false;
    Joined joined{n.out, {}};
    int64_t offset = 0;
    for (uint32_t j = 0; j < n.n_in; ++j) {
      uint32_t u = g_.ins[n.in_at + j];
      const Spec spec = g_.values[u];
      if (spec.shape.size() == 0) continue;
      if (!fits(u)) {  // one that occurs twice does not fit the second time
        g_.ins[n.in_at + j] = u = add(Op::copy, {&u, 1}, {}, spec, n.line);
        in_memory(u);
      }
      const uint32_t r = root(u);
      values_[r].part = true;
      if (strided) std::copy(whole.stride, whole.stride + whole.shape.rank, views_[r].layout.stride);
      joined.parts.push_back({r, offset});
      offset += spec.shape[axis] * whole.stride[axis] * int64_t(itemsize(spec.dtype));
    }
    joined_.push_back(std::move(joined));
    return true;
  }

  void step(uint32_t i) {
    const bool in_place = g_.nodes[i].op == Op::concatenate && join_in_place(i);
    const Graph::Node n = g_.nodes[i];
    uint32_t depth = 0;
    for (uint32_t j = 0; j < n.n_in; ++j) {
      uint32_t u = g_.ins[n.in_at + j];
      if (n.op != Op::copy && !in_place && !views_[u].layout.is_contiguous() && !device_.accepts(n.op, int(j), views_[u].layout))
        g_.ins[n.in_at + j] = u = copy(u);
      depth = std::max(depth, in_memory(u));
    }
    uint32_t k = new_group(false, depth + 1);
    put_node(groups_[k], i);
    groups_[k].order = i;
    groups_[k].nothing = in_place;
    for (uint32_t u : g_.in(n)) read(groups_[k], u);
    for (uint32_t o = 0; o < n.n_out; ++o) made(n.out + o, k, Class::Full);
  }

  void made(uint32_t v, uint32_t k, Class cls) {
    Value& x = values_[v];
    if (x.state != State::Free) x.state = State::Grouped;
    x.group = k;
    x.depth = x.state == State::Free ? 0 : groups_[k].depth;
    x.cls = cls;
  }

  // Can the waiting value that u sees go to a reader of shape `s`? If it cannot it is placed now.
  bool follows(uint32_t u, const Shape& s) {
    uint32_t r = root(u);
    if (values_[r].state != State::Deferred) return false;
    if (values_[r].uses == 1 && same_points(u, r, s)) return true;
    place(r);
    return false;
  }

  // u, broadcast to shape s, visits the elements of its root in order, each once.
  bool same_points(uint32_t u, uint32_t r, const Shape& s) const {
    if (shape(r).size() != s.size() || shape(u).size() != s.size()) return false;
    return u == r ? without_ones(shape(r)) == without_ones(s)
                  : is_whole(views_[u], g_) && without_ones(shape(u)) == without_ones(shape(r));
  }

  void elementwise(uint32_t i) {
    const Graph::Node n = g_.nodes[i];
    const Shape s = shape(n.out);
    const int64_t size = s.size();
    if (size == 0) {
      values_[n.out].state = State::Empty;
      return;
    }
    int waiting = 1;
    bool free = size == 1, one_source = true;
    uint32_t source = kNone;
    auto add_source = [&](uint32_t r) {
      if (r == kNone) return;
      one_source &= source == kNone || source == r;
      source = r;
    };
    for (uint32_t j = 0; j < n.n_in; ++j) {
      uint32_t u = g_.ins[n.in_at + j], r = root(u);
      if (values_[r].state == State::Free) {
        waiting += values_[r].waiting;
      } else if (follows(u, s)) {
        waiting += values_[r].waiting;
        add_source(values_[r].source);
        free = false;
      } else {
        free &= values_[r].state == State::Memory;
        if (shape(u).size() == size) add_source(r);
      }
    }
    Value* out = &values_[n.out];
    if (free && waiting <= kMaxFree) {
      out->state = State::Free;
      out->waiting = uint8_t(waiting);
    } else if (one_source && out->uses == 1 && waiting <= kMaxWaiting) {
      out->state = State::Deferred;
      out->waiting = uint8_t(waiting);
      out->source = source;
    } else {
      place(n.out);
    }
  }

  // ------------------------------------------------------------------------------------------ into a group

  // The waiting nodes that end in value v, and what they read, into tree_ and leaves_.
  void collect(uint32_t v) {
    stack_.assign(1, g_.maker[v]);
    while (!stack_.empty()) {
      uint32_t i = stack_.back();
      stack_.pop_back();
      tree_.push_back(i);
      for (uint32_t u : g_.in(g_.nodes[i])) {
        uint32_t r = root(u);
        if (values_[r].state == State::Deferred) stack_.push_back(g_.maker[r]);
        else leaves_.push_back({u, i});
      }
    }
  }

  void place(uint32_t v) {
    tree_.clear();
    leaves_.clear();
    collect(v);
    join(without_ones(shape(v)), {Reduction::Nothing, -1}, kNone);
  }

  // Puts tree_ (elementwise nodes over one space, after them perhaps the reduction `last`) into a group: the
  // deepest ones that make its inputs, or one that reads the same values, or a new one.
  void join(const Shape& space, Reduction reduction, uint32_t last) {
    uint32_t depth = 0;
    int size = int(tree_.size()) + 2 * (last != kNone);
    for (Leaf l : leaves_) {
      const Value& x = values_[root(l.value)];
      if (x.state == State::Free) size += x.waiting;
      else depth = std::max(depth, x.depth);
    }
    bool row = false;
    uint32_t k = depth ? producers(space, reduction, last, depth, size, row) : kNone;
    if (k == kNone) {
      row = false;
      k = sibling(space, reduction, depth + 1, size);
    }
    if (k == kNone) {
      k = new_group(true, depth + 1);
      groups_[k].space = space;
    }
    Group& g = groups_[k];
    g.size += size;
    for (uint32_t i : tree_) {
      put_node(g, i);
      g.order = std::max(g.order, i);
      if (i != last) made(g_.nodes[i].out, k, row ? Class::Row : Class::Full);
    }
    for (Leaf l : leaves_) {
      uint32_t r = root(l.value);
      Value& x = values_[r];
      if (x.state == State::Free) continue;
      if (x.group != kNone && find(x.group) == k) {
        g.rows_read |= x.cls == Class::Row;
        continue;
      }
      read(g, l.value);
      x.stored = true;
      if (shape(l.value).size() == space.size()) x.reader = k;
    }
    if (last == kNone) return;
    if (reduction.what != Reduction::All) set_split(g, reduction.split);
    else if (g.split == -1 && space.size() <= max_row_) g.split = 0;
    bool as_row = reduction.what == Reduction::Row || (reduction.what == Reduction::All && g.split == 0);
    made(g_.nodes[last].out, k, as_row ? Class::Row : Class::Result);
  }

  // Fix the split, which may have been guessed as 0: sums of everything are then no longer Row registers.
  void set_split(Group& g, int split) {
    if (g.split == 0 && split != 0)
      for (uint32_t i = g.first_node; i != kNone; i = next_node_[i])
        if (Value& x = values_[g_.nodes[i].out]; x.cls == Class::Row) x.cls = Class::Result;
    g.split = int8_t(split);
  }

  bool has_room(const Group& g, int size) const {
    return g.size + size <= kMaxInstrs && g.n_reads + int(leaves_.size()) <= kMaxInputs;
  }
  static bool admits(int split, Reduction r) {
    return r.what == Reduction::Nothing || r.what == Reduction::All || split == -1 || split == r.split;
  }

  // The groups at `depth` that make leaves, made one, if every such leaf can be read as a register. `row`: as Row
  // nodes.
  uint32_t producers(const Shape& space, Reduction reduction, uint32_t last, uint32_t depth, int size, bool& row) {
    targets_.clear();
    int split = -1, reads = 0;
    bool first = true;
    for (Leaf l : leaves_) {
      uint32_t r = root(l.value);
      const Value& x = values_[r];
      if (x.state == State::Free) continue;
      if (x.depth != depth) {
        ++reads;
        continue;
      }
      uint32_t k = find(x.group);
      const Group& g = groups_[k];
      if (!g.tile || x.cls == Class::Result) return kNone;
      bool as_row = !(g.space == space);
      if (as_row && (last != kNone || g.split < 0 || !is_prefix(space, g.space, g.split))) return kNone;
      if (!first && as_row != row) return kNone;
      row = as_row;
      first = false;
      if (!register_strides(l, r, g, row)) return kNone;
      int need = x.cls == Class::Row ? g.split : g.fixed_split();
      if (need != -1) {
        if (split != -1 && split != need) return kNone;
        split = need;
      }
      if (std::find(targets_.begin(), targets_.end(), k) == targets_.end()) targets_.push_back(k);
    }
    if (!admits(split, reduction)) return kNone;
    for (uint32_t k : targets_) {
      const Group& g = groups_[k];
      // Another group's own split counts as well: it may have been seen before only through a Full register.
      int own = g.fixed_split();
      if (own != -1 && split != -1 && own != split) return kNone;
      if (!(g.space == groups_[targets_[0]].space)) return kNone;
      size += g.size;
      reads += g.n_reads;
    }
    if (size > kMaxInstrs || reads > kMaxInputs) return kNone;
    uint32_t into = targets_[0];
    for (uint32_t k : targets_)
      if (k != into) merge(into, k, split);
    return into;
  }

  void merge(uint32_t into, uint32_t k, int split) {
    Group &g = groups_[into], &o = groups_[k];
    if (split > 0 || (split == -1 && (g.split > 0 || o.split > 0))) {
      int to = split > 0 ? split : std::max(g.split, o.split);
      set_split(g, to);
      set_split(o, to);
    }
    g.split = std::max(g.split, o.split);
    g.rows_read |= o.rows_read;
    g.size += o.size;
    g.order = std::max(g.order, o.order);
    put_nodes(g, o.first_node, o.last_node);
    for (uint32_t l = o.first_read; l != kNone; l = reads_[l].next) read(g, reads_[l].value);
    parent_[k] = into;
  }

  // Is reading leaf l the same as naming the register of r in g?
  bool register_strides(Leaf l, uint32_t r, const Group& g, bool row) const {
    const View& view = views_[l.value];
    const Class cls = values_[r].cls;
    if (row && cls != Class::Row) return false;
    if (l.value != r && (view.offset != 0 || !view.dynamic.empty())) return false;
    const Shape& s = reading_shape(l.node);
    if (l.value == r && cls == Class::Full && shape(r).size() == s.size()) return true;
    int64_t stride[kMaxRank];
    int n = operand_strides(view.layout, s, stride);
    int64_t want = 1;
    for (int i = n; i-- > 0;) {
      bool inside = cls == Class::Full || i < g.split;
      if (stride[i] != (inside ? want : 0)) return false;
      if (inside) want *= g.space[i];
    }
    return true;
  }

  // The shape over which node i reads its inputs.
  const Shape& reading_shape(uint32_t i) const {
    const Graph::Node& n = g_.nodes[i];
    return shape(info(n.op).kind == Kind::Reduce ? g_.in(n)[0] : n.out);
  }

  // A group of that depth over the same space that already reads one of the leaves in full.
  uint32_t sibling(const Shape& space, Reduction reduction, uint32_t depth, int size) const {
    if (space.rank == 0) return kNone;
    for (Leaf l : leaves_) {
      const Value& x = values_[root(l.value)];
      if (x.reader == kNone || shape(l.value).size() != space.size()) continue;
      uint32_t k = find(x.reader);
      const Group& g = groups_[k];
      if (g.depth == depth && g.space == space && admits(g.fixed_split(), reduction) && has_room(g, size)) return k;
    }
    return kNone;
  }

  // ------------------------------------------------------------------------------------------ reductions

  Reduction classify(const Graph::Node& n) const {
    const Shape& s = shape(g_.in(n)[0]);
    bool reduced[kMaxRank] = {};
    AttrReader attr{g_.attr(n)};
    for (int64_t a : attr.ints()) reduced[a] = true;
    int n_kept = 0, n_reduced = 0, changes = 0;
    bool was = false;
    int64_t row = 1;
    for (int i = 0; i < s.rank; ++i) {
      if (s[i] == 1) continue;
      if (n_kept + n_reduced > 0 && reduced[i] != was) ++changes;
      was = reduced[i];
      if (was) ++n_reduced, row *= s[i];
      else ++n_kept;
    }
    if (n_reduced == 0) return {Reduction::Nothing, -1};
    if (n_kept == 0) return {Reduction::All, -1};
    if (changes > 1) return {Reduction::Apart, -1};
    if (!was) return {Reduction::Columns, n_reduced};
    if (row > max_row_) return {Reduction::Apart, -1};
    return {Reduction::Row, n_kept};
  }

  void reduce(uint32_t i) {
    const Graph::Node n = g_.nodes[i];
    const uint32_t u = g_.in(n)[0];
    const Shape s = shape(u);
    if (s.size() == 0) return step(i);
    Reduction how = classify(n);
    if (how.what == Reduction::Apart) return step(i);
    if (how.what == Reduction::Nothing) return same_elements(n);
    follows(u, s);  // places it, if it waits and cannot follow
    tree_.clear();
    leaves_.clear();
    collect(n.out);
    join(without_ones(s), how, i);
  }

  // A reduction over axes of extent 1: the elements themselves, of another shape and perhaps dtype.
  void same_elements(const Graph::Node n) {
    uint32_t u = g_.in(n)[0];
    Spec to = g_.values[n.out], seen = to;
    seen.dtype = g_.values[u].dtype;
    std::vector<int64_t> words{to.shape.rank};
    words.insert(words.end(), to.shape.begin(), to.shape.end());
    uint32_t v = add(Op::reshape, {&u, 1}, words, seen, n.line);
    if (seen.dtype != to.dtype) {
      int64_t t = int64_t(to.dtype);
      v = add(Op::cast, {&v, 1}, {&t, 1}, to, n.line);
    }
    views_[n.out] = views_[v];
    see_through(n.out);
  }

  // ------------------------------------------------------------------------------------------ results

  // A result is a buffer in C order: an input, or a root under any shape. Anything else is copied.
  void results() {
    for (size_t j = 0; j < g_.outputs.size(); ++j) {
      uint32_t u = g_.outputs[j], r = root(u);
      Op op = g_.made(r).op;
      if (!is_whole(views_[u], g_) || op == Op::scalar || op == Op::constant) g_.outputs[j] = u = copy(u);
      in_memory(u);
    }
  }

  // ------------------------------------------------------------------------------------------ kernels

  // Program order, except that what is read comes before: a kernel stands where its last node stood, or just before
  // its first reader.
  std::vector<uint32_t> ordered() {
    std::vector<uint32_t> by_order, done;
    for (uint32_t k = 0; k < groups_.size(); ++k)
      if (find(k) == k) by_order.push_back(k);
    std::sort(by_order.begin(), by_order.end(), [&](uint32_t a, uint32_t b) {
      return groups_[a].order != groups_[b].order ? groups_[a].order < groups_[b].order : a < b;
    });
    done.reserve(by_order.size());
    constexpr uint32_t kListed = kNone - 1;
    // Per group: which of its reads is looked at next; kListed when the group is in `done`.
    std::vector<uint32_t> next(groups_.size());
    for (uint32_t k : by_order) next[k] = groups_[k].first_read;
    for (uint32_t top : by_order) {
      stack_.assign(1, top);
      while (!stack_.empty()) {
        uint32_t k = stack_.back();
        if (next[k] == kListed) {
          stack_.pop_back();
        } else if (next[k] == kNone) {
          next[k] = kListed;
          done.push_back(k);
          stack_.pop_back();
        } else {
          Read r = reads_[next[k]];
          next[k] = r.next;
          uint32_t maker = values_[root(r.value)].group;
          if (maker != kNone && next[maker = find(maker)] != kListed) stack_.push_back(maker);
        }
      }
    }
    return done;
  }

  void emit_all(Schedule& s) {
    auto order = ordered();
    s.kernels.reserve(order.size());
    s.words.reserve(g_.nodes.size() + reads_.size());
    for (uint32_t k : order) {
      if (groups_[k].nothing) continue;
      Kernel kernel;
      nodes_.clear(), in_.clear(), out_.clear();
      for (uint32_t i = groups_[k].first_node; i != kNone; i = next_node_[i]) nodes_.push_back(i);
      if (groups_[k].tile) {
        kernel.tile = emit(k);
        if (out_.empty()) continue;
        kernel.step = device_.tile(*kernel.tile);
      } else {
        kernel.step = emit_step(g_.nodes[nodes_[0]]);
      }
      kernel.at = uint32_t(s.words.size());
      kernel.n_nodes = uint32_t(nodes_.size());
      kernel.n_in = uint32_t(in_.size());
      kernel.n_out = uint32_t(out_.size());
      for (auto* words : {&nodes_, &in_, &out_}) s.words.insert(s.words.end(), words->begin(), words->end());
      s.kernels.push_back(std::move(kernel));
    }
  }

  std::vector<uint32_t> nodes_, in_, out_;  // of the kernel being made
  std::vector<Layout> in_layouts_, out_layouts_;

  std::shared_ptr<const Step> emit_step(const Graph::Node& n) {
    in_layouts_.clear();
    out_layouts_.clear();
    for (uint32_t u : g_.in(n)) {
      in_.push_back(u);
      in_layouts_.push_back(views_[u].layout);
    }
    for (uint32_t o = 0; o < n.n_out; ++o) {
      out_.push_back(n.out + o);
      out_layouts_.push_back(views_[n.out + o].layout);
    }
    return device_.step(n.op, out_layouts_, in_layouts_, g_.attr(n));
  }

  // While a tile program is made, registers of instructions carry this bit; they are numbered after the inputs at
  // the end.
  static constexpr uint16_t kInstr = 0x8000;
  struct Emit {
    uint32_t group;
    int split;
    bool point;  // the space has one point only: everything is Full
    Shape space;
    TileProgram* p;
  };

  Reg class_of(const Emit& e, uint16_t r) const {
    return r & kInstr ? e.p->instrs[r & ~kInstr].cls : e.p->inputs[r].cls;
  }
  DType type_of(const Emit& e, uint16_t r) const {
    return r & kInstr ? e.p->instrs[r & ~kInstr].to : e.p->inputs[r].dtype;
  }

  uint16_t map(Emit& e, Op op, DType from, DType to, Reg cls, std::span<const uint16_t> src) {
    TileProgram::Instr in{};
    in.what = TileProgram::Instr::Map;
    in.op = op;
    in.dtype = from;
    in.to = to;
    in.cls = cls;
    in.n_src = uint8_t(src.size());
    std::copy(src.begin(), src.end(), in.src);
    e.p->instrs.push_back(in);
    return uint16_t(kInstr | (e.p->instrs.size() - 1));
  }

  uint16_t input(Emit& e, uint32_t u, const Shape& reading) {
    TileProgram::Input in;
    in.dtype = g_.values[u].dtype;
    std::fill(in.stride, in.stride + kMaxRank, 0);
    operand_strides(views_[u].layout, reading, in.stride);
    auto zero = [&](int a, int b) {
      return std::all_of(in.stride + a, in.stride + b, [](int64_t s) { return s == 0; });
    };
    in.cls = e.point ? Reg::Full : zero(0, e.space.rank) ? Reg::Scalar
             : e.split >= 0 && zero(e.split, e.space.rank) ? Reg::Row : Reg::Full;
    const View& view = views_[u];
    for (size_t j = 0; j < e.p->inputs.size(); ++j) {
      const View& other = views_[in_[j]];
      if (other.root != view.root || other.offset != view.offset) continue;
      if (other.dynamic.size() != view.dynamic.size()) continue;
      bool same = std::equal(in.stride, in.stride + e.space.rank, e.p->inputs[j].stride);
      for (size_t d = 0; same && d < view.dynamic.size(); ++d)
        same = view.dynamic[d].scalar == other.dynamic[d].scalar && view.dynamic[d].stride == other.dynamic[d].stride;
      if (same) return uint16_t(j);
    }
    in_.push_back(u);
    e.p->inputs.push_back(in);
    return uint16_t(e.p->inputs.size() - 1);
  }

  uint16_t operand(Emit& e, uint32_t u, uint32_t node) {
    uint32_t r = root(u);
    Value& x = values_[r];
    if (x.reg_group == e.group) return x.reg;
    if (x.state == State::Free) {  // at most kMaxFree deep
      emit_map(e, g_.maker[r], Reg::Scalar);
      return x.reg;
    }
    if (x.group == kNone || find(x.group) != e.group) return input(e, u, reading_shape(node));
    // Made here, but by a node that was added after its reader was recorded.
    emit_map(e, g_.maker[r], x.cls == Class::Row ? Reg::Row : Reg::Full);
    return x.reg;
  }

  void emit_map(Emit& e, uint32_t i, Reg cls) {
    const Graph::Node& n = g_.nodes[i];
    Value& x = values_[n.out];
    if (x.reg_group == e.group) return;
    uint16_t src[4];
    auto in = g_.in(n);
    for (size_t j = 0; j < in.size(); ++j) src[j] = operand(e, in[j], i);
    DType from = g_.values[in[info(n.op).rule == DTypeRule::Where ? 1 : 0]].dtype;
    x.reg = map(e, n.op, from, g_.values[n.out].dtype, e.point ? Reg::Full : cls, {src, in.size()});
    x.reg_group = e.group;
  }

  void emit_reduction(Emit& e, uint32_t i) {
    const Graph::Node& n = g_.nodes[i];
    Value& x = values_[n.out];
    DType t = g_.values[n.out].dtype;
    uint16_t src = operand(e, g_.in(n)[0], i);
    // Sums of bool and small integers, any and all work in the type of the result; and only Full registers are reduced.
    if (type_of(e, src) != t || class_of(e, src) != Reg::Full)
      src = map(e, Op::cast, type_of(e, src), t, Reg::Full, {&src, 1});
    if (x.cls == Class::Row && e.split >= 0) {
      x.reg = map(e, n.op, t, t, Reg::Row, {&src, 1});
      e.p->instrs.back().what = TileProgram::Instr::RowReduce;
    } else {
      x.reg = src;
    }
    x.reg_group = e.group;
  }

  std::shared_ptr<const TileProgram> emit(uint32_t k) {
    const Group& g = groups_[k];
    auto program = std::make_shared<TileProgram>();
    TileProgram& p = *program;
    std::sort(nodes_.begin(), nodes_.end());
    Emit e{k, g.fixed_split(), g.space.rank == 0, g.space, &p};
    p.instrs.reserve(size_t(g.size));
    p.inputs.reserve(size_t(g.n_reads) + 2);
    for (uint32_t i : nodes_) {
      const Graph::Node& n = g_.nodes[i];
      if (info(n.op).kind == Kind::Reduce) emit_reduction(e, i);
      else emit_map(e, i, values_[n.out].cls == Class::Row ? Reg::Row : Reg::Full);
    }
    for (uint32_t i : nodes_) {
      const Graph::Node& n = g_.nodes[i];
      const Value& x = values_[n.out];
      if (!x.stored) continue;
      TileProgram::Output o{};
      o.reg = x.reg;
      o.dtype = g_.values[n.out].dtype;
      o.reduce = n.op;
      bool reduced = info(n.op).kind == Kind::Reduce && !(x.cls == Class::Row && e.split >= 0);
      if (!reduced) operand_strides(views_[n.out].layout, shape(n.out), o.stride);
      if (reduced)
        o.what = classify(n).what == Reduction::Columns ? TileProgram::Output::ReduceCols
                                                         : TileProgram::Output::ReduceAll;
      p.outputs.push_back(o);
      out_.push_back(n.out);
    }
    const uint16_t n_in = uint16_t(p.inputs.size());
    auto number = [&](uint16_t& r) { if (r & kInstr) r = uint16_t(n_in + (r & ~kInstr)); };
    for (auto& o : p.outputs) number(o.reg);
    for (auto& in : p.instrs)
      for (int j = 0; j < in.n_src; ++j) number(in.src[j]);
    collapse(p, e);
    return program;
  }

  // Adjacent dimensions become one where every operand steps through them evenly; rows and what is in a row stay apart.
  static void collapse(TileProgram& p, const Emit& e) {
    const int split = std::max(e.split, 0);
    int w = -1, rows = 0;
    // Does it store one element per point?
    auto whole = [&](const TileProgram::Output& o) {
      return o.what == TileProgram::Output::Store &&
             (o.reg < p.inputs.size() ? p.inputs[o.reg].cls : p.instrs[o.reg - p.inputs.size()].cls) == Reg::Full;
    };
    p.dims.rank = 0;
    for (int i = 0; i < e.space.rank; ++i) {
      const int64_t d = e.space[i];
      bool joins = w >= 0 && (i != split || split == 0);
      for (const auto& in : p.inputs) {
        if (!joins) break;
        if (in.cls == Reg::Scalar || (in.cls == Reg::Row && i >= split)) continue;
        joins = in.stride[w] == in.stride[i] * d;
      }
      for (const auto& o : p.outputs) joins = joins && (!whole(o) || o.stride[w] == o.stride[i] * d);
      if (!joins) {
        ++w;
        p.dims.dim[w] = 1;
        rows += i < split;
      }
      p.dims.dim[w] *= d;
      for (auto& in : p.inputs) in.stride[w] = in.stride[i];
      for (auto& o : p.outputs) o.stride[w] = o.stride[i];
    }
    p.dims.rank = w + 1;
    p.split = rows;
    if (w < 0) p.dims = Shape{1};
    for (auto& o : p.outputs) {
      std::fill(o.stride + (whole(o) ? p.dims.rank : 0), o.stride + kMaxRank, 0);
      if (o.what != TileProgram::Output::Store || whole(o)) continue;
      int64_t s = 1;
      for (int i = p.split; i-- > 0; s *= p.dims[i]) o.stride[i] = s;
    }
  }
};

}  // namespace

Schedule fuse(Graph g, Device& device) { return Fuser(std::move(g), device).run(); }

}  // namespace knet
