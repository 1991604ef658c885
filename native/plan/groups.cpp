#include "plan/groups.h"

#include <algorithm>

namespace knet {

namespace {

// Instructions in a kernel. Memory traffic saved by fusing one more is long amortised at 64, and a bound keeps
// merging groups linear: a node is moved at most 64 times.
constexpr int kMaxInstrs = 64;
// Values read by a kernel: about as many streams as a core's prefetchers follow.
constexpr int kMaxInputs = 32;

bool is_prefix(const Shape& p, const Shape& s, int n) {
  return p.rank == n && n <= s.rank && std::equal(p.begin(), p.end(), s.begin());
}

bool admits(int split, Reduction r) {
  return r.what == Reduction::Nothing || r.what == Reduction::All || split == -1 || split == r.split;
}

}  // namespace

Shape without_ones(const Shape& s) {
  Shape r;
  for (int64_t d : s)
    if (d != 1) r.dim[r.rank++] = d;
  return r;
}

int operand_strides(const Layout& from, const Shape& shape, int64_t* stride) {
  int pad = shape.rank - from.shape.rank, n = 0;
  for (int i = 0; i < shape.rank; ++i)
    if (shape[i] != 1) stride[n++] = i < pad || from.shape[i - pad] == 1 ? 0 : from.stride[i - pad];
  return n;
}

void Groups::reserve(size_t n) {
  views.resize(graph.values.size());
  values.resize(graph.values.size());
  next_node.reserve(n + n / 4);
  groups.reserve(n / 2 + 8);
  parent_.reserve(n / 2 + 8);
  reads.reserve(n + 8);
}

const Shape& Groups::reading_shape(uint32_t i) const {
  const Graph::Node& n = graph.nodes[i];
  return shape(info(n.op).kind == Kind::Reduce ? graph.in(n)[0] : n.out);
}

Reduction Groups::classify(const Graph::Node& n) const {
  const Shape& s = shape(graph.in(n)[0]);
  bool reduced[kMaxRank] = {};
  AttrReader attr{graph.attr(n)};
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
  if (row > max_row) return {Reduction::Apart, -1};
  return {Reduction::Row, n_kept};
}

uint32_t Groups::new_group(bool tile, uint32_t depth) {
  uint32_t k = uint32_t(groups.size());
  groups.emplace_back();
  groups[k].tile = tile;
  groups[k].depth = depth;
  parent_.push_back(k);
  return k;
}

// Puts the list of nodes first .. last at the end of the group's.
void Groups::put_nodes(Group& g, uint32_t first, uint32_t last) {
  (g.first_node == kNone ? g.first_node : next_node[g.last_node]) = first;
  g.last_node = last;
}

void Groups::put_node(Group& g, uint32_t i) {
  if (next_node.size() <= i) next_node.resize(graph.nodes.size(), kNone);
  next_node[i] = kNone;
  put_nodes(g, i, i);
}

void Groups::read(Group& g, uint32_t u) {
  for (uint32_t l = g.first_read; l != kNone; l = reads[l].next)
    if (reads[l].value == u) return;
  uint32_t l = uint32_t(reads.size());
  reads.push_back({u, kNone});
  (g.first_read == kNone ? g.first_read : reads[g.last_read].next) = l;
  g.last_read = l;
  ++g.n_reads;
}

void Groups::made(uint32_t v, uint32_t k, Class cls) {
  Value& x = values[v];
  if (x.state != State::Free) x.state = State::Grouped;
  x.group = k;
  x.depth = x.state == State::Free ? 0 : groups[k].depth;
  x.cls = cls;
}

uint32_t Groups::in_memory(uint32_t u) {
  uint32_t r = root(u);
  if (values[r].state == State::Deferred || (values[r].state == State::Free && values[r].group == kNone)) place(r);
  values[r].stored = true;
  return values[r].group == kNone ? 0 : groups[find(values[r].group)].depth;
}

// ------------------------------------------------------------------------------------------ into a group

void Groups::place(uint32_t v) {
  collect(v);
  join(without_ones(shape(v)), {Reduction::Nothing, -1}, kNone);
}

void Groups::place(uint32_t v, const Shape& over, Reduction how) {
  collect(v);
  join(without_ones(over), how, graph.maker[v]);
}

// The waiting nodes that end in value v, and what they read, into tree_ and leaves_.
void Groups::collect(uint32_t v) {
  tree_.clear();
  leaves_.clear();
  stack_.assign(1, graph.maker[v]);
  while (!stack_.empty()) {
    uint32_t i = stack_.back();
    stack_.pop_back();
    tree_.push_back(i);
    for (uint32_t u : graph.in(graph.nodes[i])) {
      uint32_t r = root(u);
      if (values[r].state == State::Deferred) stack_.push_back(graph.maker[r]);
      else leaves_.push_back({u, i});
    }
  }
}

// Puts tree_ (elementwise nodes over one space, after them perhaps the reduction `last`) into a group: the
// deepest ones that make its inputs, or one that reads the same values, or a new one.
void Groups::join(const Shape& space, Reduction reduction, uint32_t last) {
  uint32_t depth = 0;
  int size = int(tree_.size()) + 2 * (last != kNone);
  for (Leaf l : leaves_) {
    const Value& x = values[root(l.value)];
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
    groups[k].space = space;
  }
  Group& g = groups[k];
  g.size += size;
  for (uint32_t i : tree_) {
    put_node(g, i);
    g.order = std::max(g.order, i);
    if (i != last) made(graph.nodes[i].out, k, row ? Class::Row : Class::Full);
  }
  for (Leaf l : leaves_) {
    uint32_t r = root(l.value);
    Value& x = values[r];
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
  else if (g.split == -1 && space.size() <= max_row) g.split = 0;
  bool as_row = reduction.what == Reduction::Row || (reduction.what == Reduction::All && g.split == 0);
  made(graph.nodes[last].out, k, as_row ? Class::Row : Class::Result);
}

// Fix the split, which may have been guessed as 0: sums of everything are then no longer Row registers.
void Groups::set_split(Group& g, int split) {
  if (g.split == 0 && split != 0)
    for (uint32_t i = g.first_node; i != kNone; i = next_node[i])
      if (Value& x = values[graph.nodes[i].out]; x.cls == Class::Row) x.cls = Class::Result;
  g.split = int8_t(split);
}

bool Groups::has_room(const Group& g, int size) const {
  return g.size + size <= kMaxInstrs && g.n_reads + int(leaves_.size()) <= kMaxInputs;
}

// The groups at `depth` that make leaves, made one, if every such leaf can be read as a register. `row`: as Row
// nodes.
uint32_t Groups::producers(const Shape& space, Reduction reduction, uint32_t last, uint32_t depth, int size,
                           bool& row) {
  targets_.clear();
  int split = -1, n_reads = 0;
  bool first = true;
  for (Leaf l : leaves_) {
    uint32_t r = root(l.value);
    const Value& x = values[r];
    if (x.state == State::Free) continue;
    if (x.depth != depth) {
      ++n_reads;
      continue;
    }
    uint32_t k = find(x.group);
    const Group& g = groups[k];
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
    const Group& g = groups[k];
    // Another group's own split counts as well: it may have been seen before only through a Full register.
    int own = g.fixed_split();
    if (own != -1 && split != -1 && own != split) return kNone;
    if (!(g.space == groups[targets_[0]].space)) return kNone;
    size += g.size;
    n_reads += g.n_reads;
  }
  if (size > kMaxInstrs || n_reads > kMaxInputs) return kNone;
  uint32_t into = targets_[0];
  for (uint32_t k : targets_)
    if (k != into) merge(into, k, split);
  return into;
}

void Groups::merge(uint32_t into, uint32_t k, int split) {
  Group &g = groups[into], &o = groups[k];
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
  for (uint32_t l = o.first_read; l != kNone; l = reads[l].next) read(g, reads[l].value);
  parent_[k] = into;
}

// Is reading leaf l the same as naming the register of r in g?
bool Groups::register_strides(Leaf l, uint32_t r, const Group& g, bool row) const {
  const View& view = views[l.value];
  const Class cls = values[r].cls;
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

// A group of that depth over the same space that already reads one of the leaves in full.
uint32_t Groups::sibling(const Shape& space, Reduction reduction, uint32_t depth, int size) const {
  if (space.rank == 0) return kNone;
  for (Leaf l : leaves_) {
    const Value& x = values[root(l.value)];
    if (x.reader == kNone || shape(l.value).size() != space.size()) continue;
    uint32_t k = find(x.reader);
    const Group& g = groups[k];
    if (g.depth == depth && g.space == space && admits(g.fixed_split(), reduction) && has_room(g, size)) return k;
  }
  return kNone;
}

}  // namespace knet
