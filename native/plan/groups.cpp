#include "plan/groups.h"

#include <algorithm>

namespace knet {

namespace {

// Instructions in a kernel. Memory traffic saved by fusing one more is long amortised at 64, and a bound keeps
// merging groups linear: a node is moved at most 64 times.
constexpr int kMaxInstrs = 64;
// Values read by a kernel: about as many streams as a core's prefetchers follow.
constexpr int kMaxInputs = 32;
// A reduction over some axes may end any kernel if its last axes make runs of so many elements, added into one result
// or into as many: there is a call for each run. Not tuned.
constexpr int64_t kMinRun = 32;

// Can r, in its own way, be in a group of so many rows?
bool admits(int64_t rows, Reduction r) {
  return (r.what != Reduction::Row && r.what != Reduction::Columns) || rows == -1 || rows == r.rows;
}

}  // namespace

Shape without_ones(const Shape& s) {
  Shape r;
  for (int64_t d : s)
    if (d != 1) r.dim[r.rank++] = d;
  return r;
}

bool refine(const Shape& a, const Shape& b, Shape& fine) {
  if (a == b) {
    fine = a;
    return true;
  }
  if (a.size() != b.size()) return false;
  Shape r;
  int64_t left_a = 1, left_b = 1;  // of the dimension of each
  for (int i = 0, j = 0; i < a.rank || j < b.rank || left_a > 1 || left_b > 1;) {
    if (left_a == 1) left_a = a[i++];
    if (left_b == 1) left_b = b[j++];
    const int64_t d = std::min(left_a, left_b);
    if (left_a % d || left_b % d || r.rank == kMaxRank) return false;
    r.dim[r.rank++] = d;
    left_a /= d, left_b /= d;
  }
  fine = r;
  return true;
}

int dims_of(const Shape& s, int64_t n) {
  int k = 0;
  for (int64_t points = 1; points < n; ++k) points *= s[k];
  return k;
}

int operand_strides(const Layout& from, const Shape& shape, const Shape& space, int64_t* stride) {
  int pad = shape.rank - from.shape.rank, n = 0;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape[i] == 1) continue;
    int64_t step = i < pad || from.shape[i - pad] == 1 ? 0 : from.stride[i - pad];
    const int first = n;
    for (int64_t points = 1; points < shape[i]; ++n) points *= space[n];
    for (int k = n; k-- > first; step *= space[k]) stride[k] = step;
  }
  return n;
}

void Groups::reserve(size_t n) {
  recorded_ = uint32_t(n);
  graph.values.reserve(graph.values.size() + n / 8);  // for copies
  views.reserve(graph.values.size() + n / 8);
  values.reserve(graph.values.size() + n / 8);
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
  int changes = 0;
  bool was = false;
  int64_t kept = 1, gone = 1, run = 1;
  for (int i = 0; i < s.rank; ++i) {
    if (s[i] == 1) continue;
    if (kept * gone > 1 && reduced[i] != was) ++changes, run = 1;
    was = reduced[i];
    (was ? gone : kept) *= s[i];
    run *= s[i];
  }
  const bool some = run >= kMinRun;
  if (gone == 1) return {Reduction::Nothing};
  if (kept == 1) return {Reduction::All};
  if (changes == 1 && !was) return {Reduction::Columns, gone, some};
  if (changes == 1 && gone <= max_row) return {Reduction::Row, kept, some};
  return {some ? Reduction::Some : Reduction::Apart};
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
  // A tile program reads few values, and each once. A Step may read thousands, and the same one twice.
  for (uint32_t l = g.tile ? g.first_read : kNone; l != kNone; l = reads[l].next)
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

uint32_t Groups::in_memory(uint32_t u, bool last) {
  uint32_t r = root(u);
  if (values[r].state == State::Deferred || (values[r].state == State::Free && values[r].group == kNone)) place(r, last);
  values[r].stored = true;
  return values[r].group == kNone ? 0 : groups[find(values[r].group)].depth;
}

// ------------------------------------------------------------------------------------------ into a group

void Groups::place(uint32_t v, bool late) {
  const uint32_t i = graph.maker[v];
  collect(v);
  if (info(graph.nodes[i].op).kind != Kind::Reduce) return join(without_ones(shape(v)), {Reduction::Nothing}, kNone, late);
  const Shape space = without_ones(reading_shape(i));
  const Reduction how = classify(graph.nodes[i]);
  late |= values[v].state == State::Deferred;
  if (how.what == Reduction::Some && tree_.size() == 1 && late && sibling(space, how, 0, 2, true) == kNone) place_step(i);
  else join(space, how, i, late);
}

uint32_t Groups::place_step(uint32_t i) {
  const Graph::Node n = graph.nodes[i];
  uint32_t depth = 0;
  for (uint32_t u : graph.in(n)) depth = std::max(depth, in_memory(u));
  const uint32_t k = new_group(false, depth + 1);
  put_node(groups[k], i);
  groups[k].order = i;
  for (uint32_t u : graph.in(n)) read(groups[k], u);
  for (uint32_t o = 0; o < n.n_out; ++o) made(n.out + o, k, Class::Full);
  return k;
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
void Groups::join(Shape space, Reduction reduction, uint32_t last, bool late) {
  uint32_t depth = 0;
  int size = int(tree_.size()) + 2 * (last != kNone);
  if (values[graph.nodes[tree_[0]].out].reshaped)
    for (uint32_t i : tree_) refine(space, without_ones(reading_shape(i)), space);
  for (Leaf l : leaves_) {
    const Value& x = values[root(l.value)];
    if (x.state == State::Free) size += x.waiting;
    else depth = std::max(depth, x.depth);
  }
  bool row = false;
  uint32_t k = depth ? producers(space, reduction, last, depth, size, row) : kNone;
  if (k == kNone) {
    row = false;
    k = sibling(space, reduction, depth + 1, size, late);
  }
  if (k == kNone) {
    k = new_group(true, depth + 1);
    groups[k].space = space;
  }
  Group& g = groups[k];
  g.size += size;
  for (uint32_t i : tree_) {
    put_node(g, i);
    if (!is_added(i)) g.order = std::max(g.order, i);
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
  if (!admits(g.fixed_rows(), reduction)) reduction.what = Reduction::Some;
  if (reduction.what == Reduction::Row || reduction.what == Reduction::Columns) set_rows(g, reduction.rows);
  else if (reduction.what == Reduction::All && g.rows == -1 && space.size() <= max_row) g.rows = 1;
  bool as_row = reduction.what == Reduction::Row || (reduction.what == Reduction::All && g.rows == 1);
  made(graph.nodes[last].out, k, as_row ? Class::Row : Class::Result);
}

// Fix the rows, which may have been guessed as one: sums of everything are then no longer Row registers.
void Groups::set_rows(Group& g, int64_t rows) {
  if (g.rows == 1 && rows != 1)
    for (uint32_t i = g.first_node; i != kNone; i = next_node[i])
      if (Value& x = values[graph.nodes[i].out]; x.cls == Class::Row) x.cls = Class::Result;
  g.rows = rows;
}

bool Groups::has_room(const Group& g, int size) const {
  return g.size + size <= kMaxInstrs && g.n_reads + int(leaves_.size()) <= kMaxInputs;
}

// The groups at `depth` that make leaves, made one, if every such leaf can be read as a register. `row`: as Row
// nodes.
uint32_t Groups::producers(const Shape& space, Reduction reduction, uint32_t last, uint32_t depth, int size,
                           bool& row) {
  targets_.clear();
  int64_t rows = -1;
  int n_reads = 0;
  bool first = true;
  Shape fine;
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
    bool as_row = space.size() != g.space.size();
    if (as_row && (last != kNone || g.rows != space.size())) return kNone;
    if (!first && as_row != row) return kNone;
    row = as_row;
    Shape here = space;
    if (row)
      for (int d = dims_of(g.space, g.rows); d < g.space.rank; ++d) here.push(g.space[d]);
    if (!refine(here, g.space, here) || !refine(here, first ? here : fine, fine)) return kNone;
    first = false;
    if (!register_strides(l, r, fine, g.rows, row)) return kNone;
    int64_t need = x.cls == Class::Row ? g.rows : g.fixed_rows();
    if (need != -1) {
      if (rows != -1 && rows != need) return kNone;
      rows = need;
    }
    if (std::find(targets_.begin(), targets_.end(), k) == targets_.end()) targets_.push_back(k);
  }
  if (!admits(rows, reduction) && !reduction.some) return kNone;
  for (uint32_t k : targets_) {
    const Group& g = groups[k];
    // Another group's own rows count as well: they may have been seen before only through a Full register.
    int64_t own = g.fixed_rows();
    if (own != -1 && rows != -1 && own != rows) return kNone;
    size += g.size;
    n_reads += g.n_reads;
  }
  if (size > kMaxInstrs || n_reads > kMaxInputs) return kNone;
  uint32_t into = targets_[0];
  for (uint32_t k : targets_)
    if (k != into) merge(into, k, rows);
  groups[into].space = fine;
  return into;
}

void Groups::merge(uint32_t into, uint32_t k, int64_t rows) {
  Group &g = groups[into], &o = groups[k];
  if (rows > 1 || (rows == -1 && (g.rows > 1 || o.rows > 1))) {
    int64_t to = rows > 1 ? rows : std::max(g.rows, o.rows);
    set_rows(g, to);
    set_rows(o, to);
  }
  g.rows = std::max(g.rows, o.rows);
  g.rows_read |= o.rows_read;
  g.size += o.size;
  g.order = std::max(g.order, o.order);
  put_nodes(g, o.first_node, o.last_node);
  for (uint32_t l = o.first_read; l != kNone; l = reads[l].next) read(g, reads[l].value);
  parent_[k] = into;
}

// Is reading leaf l the same as naming the register of r, in a group of so many rows over `space`?
bool Groups::register_strides(Leaf l, uint32_t r, const Shape& space, int64_t rows, bool row) const {
  const View& view = views[l.value];
  const Class cls = values[r].cls;
  if (row && cls != Class::Row) return false;
  if (l.value != r && (view.offset != 0 || !view.dynamic.empty())) return false;
  const Shape& s = reading_shape(l.node);
  if (l.value == r && cls == Class::Full && shape(r).size() == s.size()) return true;
  int64_t stride[kMaxRank];
  int n = operand_strides(view.layout, s, space, stride);
  const int split = cls == Class::Full ? n : dims_of(space, rows);
  int64_t want = 1;
  for (int i = n; i-- > 0;) {
    if (stride[i] != (i < split ? want : 0)) return false;
    if (i < split) want *= space[i];
  }
  return true;
}

// A group of that depth (late: or deeper) over the same space that already reads one of the leaves in full.
uint32_t Groups::sibling(const Shape& space, Reduction reduction, uint32_t depth, int size, bool late) {
  if (space.rank == 0) return kNone;
  for (Leaf l : leaves_) {
    const Value& x = values[root(l.value)];
    if (x.reader == kNone || shape(l.value).size() != space.size()) continue;
    uint32_t k = find(x.reader);
    Group& g = groups[k];
    if (late ? g.depth < depth : g.depth != depth) continue;
    if (!has_room(g, size) || !(admits(g.fixed_rows(), reduction) || reduction.some)) continue;
    if (g.space.size() == space.size() && refine(g.space, space, g.space)) return k;
  }
  return kNone;
}

}  // namespace knet
