// batch: members and stacks, and one operation for many.
#include <algorithm>

#include "plan/batcher.h"
#include "plan/views.h"

namespace knet {

namespace {

Shape stacked_shape(size_t count, const Shape& s) {
  Shape r{int64_t(count)};
  for (int64_t d : s) r.push(d);
  return r;
}

// So many members one below the other, along the first axis of each.
Shape piled_shape(int64_t count, const Shape& s) {
  Shape r = s;
  if (r.rank == 0) r.push(1);
  r[0] *= count;
  return r;
}

// The attributes of an operation on members, for one on stacks that makes this shape: axes are counted from 1 on.
void shift_axes(Op op, const Shape& all, List<int64_t>& attrs) {
  switch (op) {
    case Op::broadcast_to:
      attrs.assign(1, all.rank);
      attrs.insert(attrs.end(), all.begin(), all.end());
      break;
    case Op::transpose:
      for (size_t k = 1; k < attrs.size(); ++k) ++attrs[k];
      attrs.insert(attrs.begin() + 1, 0);
      ++attrs[0];
      break;
    case Op::take_along_axis: ++attrs[0]; break;
    default:  // reductions: the number of axes, the axes, keepdims
      for (int64_t k = 0; k < attrs[0]; ++k) ++attrs[size_t(k) + 1];
  }
}

}  // namespace

// ------------------------------------------------------------------------------------------ single values

uint32_t Batcher::number(int64_t i) {
  uint32_t& v = numbers_[uint64_t(i)];
  if (v == kNone) v = out_.constant({.i = i}, DType::I64);
  return v;
}

// A node like this one, if there is one; else a new one.
uint32_t Batcher::shared(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, const Spec& to,
                         int32_t line) {
  const uint64_t h = Known::hash(op, in, attrs);
  uint32_t v = known_.find(h, op, in, attrs);
  if (v == kNone) {
    v = out_.add(op, in, attrs, {&to, 1}, line);
    known_.add(h, out_.maker[v]);
  }
  return v;
}

uint32_t Batcher::reshape(uint32_t v, const Shape& s, int32_t line) {
  if (out_.made(v).op == Op::reshape) v = out_.in(out_.made(v))[0];
  if (out_.values[v].shape == s) return v;
  Spec to = out_.values[v];
  to.shape = s;
  return shared(Op::reshape, {&v, 1}, ShapeWords(s), to, line);
}

uint32_t Batcher::transpose(uint32_t v, int32_t line) {
  const auto& made = out_.made(v);
  if (made.op == Op::transpose && out_.attr(made)[0] == 2) return out_.in(made)[0];  // one that moves nothing is no node
  Spec to = out_.values[v];
  std::swap(to.shape[0], to.shape[1]);
  const int64_t attrs[] = {2, 1, 0};
  return shared(Op::transpose, {&v, 1}, attrs, to, line);
}

// Rows from .. from + count - 1.
uint32_t Batcher::rows(uint32_t v, int64_t from, int64_t count, int32_t line) {
  Spec to = out_.values[v];
  if (from == 0 && count == to.shape[0]) return v;
  to.shape[0] = count;
  const uint32_t in[] = {v, number(from)};
  const int64_t attrs[] = {1, 0, 1, count, 1, 1};
  return shared(Op::slice, in, attrs, to, line);
}

// The value of out_ for a value of g_ that is available.
uint32_t Batcher::value(uint32_t v) {
  if (map_[v] == kNone && seat_[v].stack == kNone) demand(g_.maker[v]);
  if (map_[v] == kNone) {
    const int32_t line = g_.made(v).line;
    map_[v] = reshape(members(seat_[v], 1, spec(v).shape, line), spec(v).shape, line);
  }
  return map_[v];
}

// Emits a node, and before it what it needs, in the old order.
void Batcher::demand(uint32_t node) {
  if (done_[node]) return;
  const auto had = [&](uint32_t v) { return map_[v] != kNone || seat_[v].stack != kNone; };
  if (role_[node] == kNone && std::ranges::all_of(g_.in(g_.nodes[node]), had)) {
    done_[node] = true;
    return emit(node);
  }
  Values todo{node}, list;
  while (!todo.empty()) {
    const uint32_t i = todo.back();
    todo.pop_back();
    if (done_[i]) continue;
    done_[i] = true;
    list.push_back(i);
    const auto need = [&](uint32_t v) {
      if (!had(v)) todo.push_back(g_.maker[v]);
    };
    if (const auto* terms = sum_at(i)) {
      for (const Term& t : *terms)
        if (t.what == Term::Other) need(t.value);
        else if (t.what == Term::Columns) need(g_.in(g_.made(t.value))[0]);
        else need(t.left), need(t.right);
    } else if (const Values* chain = scatters_at(i)) {
      need(g_.in(g_.nodes[chain->front()])[0]);
      for (uint32_t k : *chain)
        for (uint32_t v : g_.in(g_.nodes[k]).subspan(1)) need(v);
    } else {
      for (uint32_t v : g_.in(g_.nodes[i])) need(v);
    }
  }
  std::ranges::sort(list);
  for (uint32_t i : list) emit(i);
}

void Batcher::emit(uint32_t i) {
  const auto& n = g_.nodes[i];
  if (role_[i] != kNone) return role_[i] < kScatters ? emit_sum(i) : emit_scatters(i);
  if (same_memory(n) && map_[g_.in(n)[0]] == kNone) {  // a member seen under another shape
    seat_[n.out] = seat_[g_.in(n)[0]];
    return;
  }
  for (uint32_t v : g_.in(n)) value(v);
  if (n.op == Op::reshape) map_[n.out] = reshape(map_[g_.in(n)[0]], spec(n.out).shape, n.line);
  else keep(n);
}

// A reshape, or a transpose that moves nothing.
bool Batcher::same_memory(const Graph::Node& n) const {
  if (n.op == Op::reshape) return true;
  if (n.op != Op::transpose) return false;
  const Shape& from = spec(g_.in(n)[0]).shape;
  int64_t last = -1;
  for (int64_t axis : g_.attr(n).subspan(1)) {
    if (from[int(axis)] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

// ------------------------------------------------------------------------------------------ stacks

// Are these members of one stack, one after the other?
bool Batcher::in_order(const Values& vs) const {
  const Seat first = seat_[vs[0]];
  if (first.stack == kNone) return false;
  for (size_t i = 1; i < vs.size(); ++i)
    if (seat_[vs[i]].stack != first.stack || seat_[vs[i]].at != first.at + i) return false;
  return true;
}

// The values one after the other, under some shape; copied together if they do not lie so.
uint32_t Batcher::stacked(const Values& vs) {
  if (in_order(vs)) return members(seat_[vs[0]], int64_t(vs.size()), spec(vs[0]).shape, g_.made(vs[0]).line);
  if (const uint32_t c = joined(vs); c != kNone) return c;
  List<Run> runs;
  runs.reserve(vs.size());
  bool cut = false;  // members of a stack are among them
  for (uint32_t i = 0, end; i < vs.size(); i = end) {
    const Seat first = seat_[vs[i]];
    end = i + 1;
    while (first.stack != kNone && end < vs.size() && seat_[vs[end]].stack == first.stack &&
           seat_[vs[end]].at == first.at + (end - i))
      ++end;
    runs.push_back({i, end - i});
    cut |= first.stack != kNone;
  }
  // Large ones, and many of which each is made by itself, may be written where they belong when they are made.
  const bool in_place = !cut && spec(vs[0]).bytes() * int64_t(vs.size()) >= kJoinBytes;
  const bool splice = small(vs[0]) && !in_place && runs.size() <= kMostPieces;
  const uint32_t c = splice ? spliced(vs, runs) : concatenated(vs, runs);
  take_seats(vs, c, false);
  remember(vs, c);
  return c;
}

// Each stack is one operand, however many of its members are wanted.
uint32_t Batcher::spliced(const Values& vs, const List<Run>& runs) {
  Spec all = spec(vs[0]);
  const int64_t each = all.shape.size();
  const bool new_axis = all.shape.rank < kMaxRank;
  all.shape = new_axis ? stacked_shape(vs.size(), all.shape) : piled_shape(int64_t(vs.size()), all.shape);
  List<int64_t> attrs;
  attrs.reserve(2 + kMaxRank + 3 * runs.size());
  attrs.push_back(all.shape.rank);
  attrs.insert(attrs.end(), all.shape.begin(), all.shape.end());
  attrs.push_back(int64_t(3 * runs.size()));
  Values from;
  from.reserve(runs.size());
  for (Run r : runs) {
    const Seat seat = seat_[vs[r.first]];
    const bool single = seat.stack == kNone;
    const uint32_t v = single ? value(vs[r.first]) : stacks_[seat.stack].value;
    const size_t which = single ? from.size() : size_t(std::ranges::find(from, v) - from.begin());
    if (which == from.size()) from.push_back(v);
    const int64_t piece[] = {int64_t(which), single ? 0 : seat.at * each, r.count * each};
    attrs.insert(attrs.end(), piece, piece + 3);
  }
  return out_.add(Op::splice, from, attrs, {&all, 1}, g_.made(vs[0]).line);
}

uint32_t Batcher::concatenated(const Values& vs, const List<Run>& runs) {
  const Shape shape = spec(vs[0]).shape;
  const int32_t line = g_.made(vs[0]).line;
  Values pieces;
  pieces.reserve(runs.size());
  for (Run r : runs) {
    const uint32_t v = vs[r.first];
    const uint32_t piece = r.count > 1 ? members(seat_[v], r.count, shape, line) : value(v);
    pieces.push_back(reshape(piece, piled_shape(r.count, shape), line));
  }
  const int64_t axis[] = {0};
  Spec all = spec(vs[0]);
  all.shape = piled_shape(int64_t(vs.size()), shape);
  return out_.add(Op::concatenate, pieces, axis, {&all, 1}, line);
}

// The stack of these very values that has been made before; kNone if there is none.
uint32_t Batcher::joined(const Values& vs) const {
  for (uint32_t k = joined_at_[vs[0]]; k != kNone; k = joined_[k].next)
    if (joined_[k].of == vs) return joined_[k].stack;
  return kNone;
}

void Batcher::remember(const Values& vs, uint32_t stack) {
  joined_.push_back({vs, stack, joined_at_[vs[0]]});
  joined_at_[vs[0]] = uint32_t(joined_.size() - 1);
}

// The same as (count, *shape of a member).
uint32_t Batcher::seen_as(uint32_t stack, int64_t count, const Shape& member, int32_t line) {
  return reshape(stack, stacked_shape(count, member), line);
}

// Neighbours in a stack: all of it, or (count * d0, d1, ...), one below the other along their first axis, so that a
// single one is the member itself.
uint32_t Batcher::members(Seat first, int64_t count, const Shape& member, int32_t line) {
  Stack& s = stacks_[first.stack];
  if (count == s.count) return s.value;
  const int64_t each = member.rank ? member[0] : 1;
  const Shape pile = piled_shape(s.count, member);
  if (s.pile == kNone || !(out_.values[s.pile].shape == pile)) {  // (a member may be seen under several shapes)
    const auto* made = &out_.made(s.value);
    while (made->op == Op::reshape || made->op == Op::slice) made = &out_.made(out_.in(*made)[0]);
    if (is_view(made->op))  // its axes may not be joined without a copy
      return rows(seen_as(s.value, s.count, member, line), first.at, count, line);
    s.pile = reshape(s.value, pile, line);
  }
  return rows(s.pile, int64_t(first.at) * each, count * each, line);
}

void Batcher::take_seats(const Values& vs, uint32_t stack, bool first_home) {
  stacks_.push_back({stack, uint32_t(vs.size())});
  for (uint32_t i = 0; i < vs.size(); ++i)
    if (first_home || seat_[vs[i]].stack == kNone) seat_[vs[i]] = {uint32_t(stacks_.size() - 1), i};
}

// Nodes that need not be emitted any more: what they make.
Values Batcher::finished(const Values& nodes) {
  Values made;
  made.reserve(nodes.size());
  for (uint32_t i : nodes) {
    made.push_back(g_.nodes[i].out);
    done_[i] = true;
  }
  return made;
}

// The same for operands of a group: what makes small operands is batched as well, if it is alike.
uint32_t Batcher::lifted(const Values& vs, int depth) {
  if (in_order(vs)) return stacked(vs);
  if (const uint32_t c = joined(vs); c != kNone) return c;
  const Values makers = depth < kLiftDepth ? fresh_makers(vs) : Values{};
  // Of small ones also some of them: the others are there already, or are made in another way.
  const bool any = makers.size() == vs.size() || (makers.size() > 1 && small(vs[0]));
  const uint32_t c = any ? together(makers, depth + 1) : kNone;
  if (c == kNone) return stacked(vs);
  take_seats(finished(makers), c, true);
  if (makers.size() < vs.size()) return stacked(vs);
  remember(vs, c);
  return c;
}

// Of the nodes that make these, those that wait for somebody to ask for them and are like the first such. None if they
// cost something to batch: neither small nor elementwise.
Values Batcher::fresh_makers(const Values& vs) const {
  if (!small(vs[0]) && info(g_.made(vs[0]).op).kind != Kind::Elementwise) return {};
  Values makers;
  makers.reserve(vs.size());
  for (uint32_t v : vs) {
    const uint32_t i = g_.maker[v];
    if (done_[i] || is_given(v) || absorbed_[i] || role_[i] != kNone) continue;
    if (alike(makers.empty() ? i : makers[0], i)) makers.push_back(i);
  }
  return makers;
}

// Do the nodes differ in nothing but their operands?
bool Batcher::alike(uint32_t a, uint32_t b) const {
  const auto &n = g_.nodes[a], &m = g_.nodes[b];
  if (m.op != n.op || m.n_in != n.n_in || n.n_out != 1 || m.n_out != 1) return false;
  if (a == b) return true;
  if (!same_words(g_.attr(m), g_.attr(n)) || !same_spec(m.out, n.out)) return false;
  for (uint32_t j = 0; j < n.n_in; ++j)
    if (!same_spec(g_.in(m)[j], g_.in(n)[j])) return false;
  return true;
}
bool Batcher::alike(const Values& nodes) const {
  return std::ranges::all_of(nodes, [&](uint32_t i) { return alike(nodes[0], i); });
}

Values Batcher::operands(const Values& nodes, size_t j) const {
  Values vs;
  vs.reserve(nodes.size());
  for (uint32_t i : nodes) vs.push_back(g_.in(g_.nodes[i])[j]);
  return vs;
}

// ------------------------------------------------------------------------------------------ one for many

// Can a node of this kind run on a stack, given which operands are shared by all?
bool Batcher::stackable(const Graph::Node& n, std::span<const bool> same) const {
  switch (info(n.op).kind) {
    case Kind::Elementwise: return spec(n.out).shape.rank < kMaxRank;
    case Kind::Contraction: {
      if (!is_product(g_, n)) return false;
      return same[1] || (same[0] && is_column(spec(g_.in(n)[1]).shape));
    }
    default: break;
  }
  if (n.op == Op::slice) return same[0] && spec(n.out).shape.rank < kMaxRank;
  if (spec(n.out).shape.rank >= kMaxRank - 1 || same[0]) return n.op == Op::gather && same[0] && gathers_rows(n);
  switch (n.op) {
    case Op::sum: case Op::prod: case Op::max: case Op::min: case Op::any: case Op::all:
    case Op::reshape: case Op::transpose: case Op::broadcast_to:
      return spec(g_.in(n)[0]).shape.rank < kMaxRank - 1;
    case Op::take_along_axis: return !same[1];
    default: return false;
  }
}

bool Batcher::gathers_rows(const Graph::Node& n) const {
  return n.n_in == 2 && g_.attr(n)[0] == 1 && g_.attr(n)[1] == 0 && g_.attr(n)[2] == 0 &&
         spec(g_.in(n)[1]).shape.rank == 1;
}

// One node for all of these (alike). It makes their results one after the other: (count, *shape of a result) under this
// or another shape. kNone: that cannot be.
uint32_t Batcher::together(const Values& nodes, int depth) {
  const Graph::Node n = g_.nodes[nodes[0]];
  const int64_t count = int64_t(nodes.size());
  bool same[kMostOperands];
  if (n.n_in > kMostOperands || n.n_in == 0) return kNone;
  Values in[kMostOperands];
  bool any = false;
  for (size_t j = 0; j < n.n_in; ++j) {
    in[j] = operands(nodes, j);
    same[j] = all_same(in[j]);
    any |= !same[j];
  }
  if (!any || !stackable(n, {same, n.n_in})) return kNone;
  if (n.op == Op::slice) return slices(nodes);
  Values now;
  now.reserve(n.n_in);
  for (size_t j = 0; j < n.n_in; ++j) now.push_back(same[j] ? value(in[j][0]) : lifted(in[j], depth));
  const Spec one = spec(n.out);
  Spec all = one;
  all.shape = stacked_shape(size_t(count), one.shape);
  List<int64_t> attrs(g_.attr(n).begin(), g_.attr(n).end());

  if (n.op == Op::reshape) return now[0];
  if (n.op == Op::matmul) return product(n, now, same[1], count, all);
  if (n.op == Op::gather) {
    now[1] = reshape(now[1], Shape{count * spec(in[1][0]).shape[0]}, n.line);
    all.shape = one.shape;
    all.shape[0] *= count;
    return out_.add(n.op, now, attrs, {&all, 1}, n.line);
  }
  // Members along a new first axis; those of fewer dimensions than the result get them after it.
  for (size_t j = 0; j < n.n_in; ++j) {
    if (same[j]) continue;
    const Shape& s = spec(in[j][0]).shape;
    Shape wide{count};
    for (int i = s.rank; i < one.shape.rank; ++i) wide.push(1);
    for (int64_t d : s) wide.push(d);
    now[j] = reshape(now[j], wide, n.line);
  }
  if (info(n.op).kind != Kind::Elementwise) shift_axes(n.op, all.shape, attrs);
  return out_.add(n.op, now, attrs, {&all, 1}, n.line);
}

// Slices of one value, if where they begin is given.
uint32_t Batcher::slices(const Values& nodes) {
  const auto& n = g_.nodes[nodes[0]];
  Values in{value(g_.in(n)[0])};
  in.reserve(1 + nodes.size() * (n.n_in - 1u));
  for (uint32_t i : nodes)
    for (uint32_t v : g_.in(g_.nodes[i]).subspan(1)) {
      if (!is_given(v)) return kNone;
      in.push_back(value(v));
    }
  Spec all = spec(n.out);
  all.shape = stacked_shape(nodes.size(), all.shape);
  return out_.add(Op::slices, in, g_.attr(n), {&all, 1}, n.line);
}

// a @ w for many a: one product of all their rows. w @ x for many columns x: the rows x^T @ w^T.
uint32_t Batcher::product(const Graph::Node& n, const Values& in, bool right, int64_t count, const Spec& all) {
  Shape a = spec(g_.in(n)[0]).shape, b = spec(g_.in(n)[1]).shape;
  if (a.rank == 1) a = {1, a[0]};
  if (b.rank == 1) b = {b[0], 1};
  const int64_t m = right ? a[0] : 1, k = a[1], columns = right ? b[1] : a[0];
  Values now = in;
  now[0] = reshape(right ? in[0] : in[1], Shape{count * m, k}, n.line);
  now[1] = right ? reshape(in[1], b, n.line) : transpose(reshape(in[0], a, n.line), n.line);
  Spec flat = all;
  flat.shape = Shape{count * m, columns};
  return out_.add(Op::matmul, now, {}, {&flat, 1}, n.line);
}

}  // namespace knet
