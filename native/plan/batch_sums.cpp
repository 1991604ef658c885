// batch: sums of many terms, and chains of scatters, as one.
#include <algorithm>

#include "plan/batcher.h"

namespace knet {

// ------------------------------------------------------------------------------------------ found

// Sums of many terms of one shape, of which the partial sums have no other reader.
void Batcher::find_sums() {
  Values stack;
  const auto partial = [&](uint32_t v) { return g_.made(v).op == Op::add && once(v); };
  for (uint32_t i = uint32_t(g_.nodes.size()); i-- > 0;) {
    const auto& n = g_.nodes[i];
    if (n.op != Op::add || absorbed_[i] || !is_float(spec(n.out).dtype)) continue;
    if (!partial(g_.in(n)[0]) && !partial(g_.in(n)[1])) continue;
    List<Term> terms;
    Values inner;
    uint32_t products = 0, columns = 0;
    stack.assign({g_.in(n)[1], g_.in(n)[0]});
    while (!stack.empty()) {
      const uint32_t v = stack.back();
      stack.pop_back();
      const auto& m = g_.made(v);
      const bool alone = once(v) && spec(v).shape == spec(n.out).shape;
      if (m.op == Op::add && alone && !absorbed_[g_.maker[v]]) {
        inner.push_back(g_.maker[v]);
        stack.push_back(g_.in(m)[1]);
        stack.push_back(g_.in(m)[0]);
      } else if (alone && (is_plain_product(g_, m) || column_of_outer(g_, m) >= 0)) {
        terms.push_back({Term::Product, v, left(v), right(v)});
        ++products;
      } else if (alone && sums_columns(m)) {
        terms.push_back({Term::Columns, v});
        ++columns;
      } else {
        terms.push_back({Term::Other, v});
      }
    }
    if (terms.size() < kManyProducts) continue;
    for (Term& t : terms) {
      if (t.what == Term::Product && products < kManyProducts) t.what = Term::Other;
      if (t.what == Term::Columns && columns < kManyProducts) t.what = Term::Other;
      if (t.what != Term::Other) absorbed_[g_.maker[t.value]] = true;
      if (t.what == Term::Product) summed_in_[t.right] = i;
    }
    for (uint32_t k : inner) absorbed_[k] = true;
    role_[i] = uint32_t(sums_.size());
    sums_.push_back(std::move(terms));
  }
}

// A sum over the leading axes.
bool Batcher::sums_columns(const Graph::Node& n) const {
  const auto a = g_.attr(n);
  if (n.op != Op::sum || a[size_t(a[0]) + 1] || a[0] == 0) return false;
  for (int64_t k = 0; k < a[0]; ++k)
    if (a[size_t(k) + 1] != k) return false;
  return spec(n.out).dtype == spec(g_.in(n)[0]).dtype && spec(n.out).shape.rank > 0;
}

// scatter_add(scatter_add(x, v, i), w, j), rows at a vector of indices.
bool Batcher::scatters_rows(const Graph::Node& n) const {
  return n.op == Op::scatter_add && n.n_in == 3 && g_.attr(n)[0] == 1 && g_.attr(n)[1] == 0 && g_.attr(n)[2] == 0 &&
         spec(g_.in(n)[2]).shape.rank == 1;
}

// slice_add(slice_add(x, v, i), w, j), small slices along one axis. (Of large ones each is added as soon as it is
// there, so that it need not be kept.)
bool Batcher::adds_slice(const Graph::Node& n) const {
  return n.op == Op::slice_add && n.n_in == 3 && small(g_.in(n)[1]);
}

void Batcher::find_scatters() {
  for (uint32_t i = uint32_t(g_.nodes.size()); i-- > 0;) {
    if (absorbed_[i] || !(scatters_rows(g_.nodes[i]) || adds_slice(g_.nodes[i]))) continue;
    Values chain{i};
    for (;;) {
      const auto& n = g_.nodes[chain.back()];
      const uint32_t x = g_.in(n)[0];
      const auto& m = g_.made(x);
      if (!once(x) || m.op != n.op || !(scatters_rows(m) || adds_slice(m))) break;
      if (!std::ranges::equal(g_.attr(m), g_.attr(n))) break;
      if (!(spec(g_.in(m)[1]).shape == spec(g_.in(n)[1]).shape)) break;
      chain.push_back(g_.maker[x]);
    }
    if (chain.size() < kManyProducts) continue;
    std::ranges::reverse(chain);
    for (size_t k = 0; k + 1 < chain.size(); ++k) absorbed_[chain[k]] = true;
    role_[i] = kScatters + uint32_t(scatters_.size());
    scatters_.push_back(std::move(chain));
  }
}

// Values that are about to be stacked, and will be wanted as a stack, together with others, by a sum of products: that
// stack is made now.
void Batcher::stack_for_sum(const Values& vs) {
  const uint32_t sum = summed_in_[vs[0]];
  if (sum == kNone || all_same(vs)) return;
  if (!std::ranges::all_of(vs, [&](uint32_t v) { return summed_in_[v] == sum && seat_[v].stack == kNone; })) return;
  Terms list;
  for (const Term& t : *sum_at(sum)) {
    if (t.what != Term::Product) continue;
    if (!(spec(t.right).shape == spec(vs[0]).shape) || !available_[g_.maker[t.right]] || seat_[t.right].stack != kNone)
      return;
    list.push_back(t);
  }
  if (list.empty()) return;  // it has been computed
  in_sum_order(list);
  Values all;
  for (const Term& t : list) all.push_back(t.right);
  stacked(all);
}

// ------------------------------------------------------------------------------------------ made

// A single term, by itself.
uint32_t Batcher::alone(uint32_t v) {
  const auto& n = g_.made(v);
  Values in;
  for (uint32_t u : g_.in(n)) in.push_back(value(u));
  return out_.add(n.op, in, g_.attr(n), {&g_.values[n.out], 1}, n.line);
}

// The matrix whose transpose this is, if it is one.
uint32_t Batcher::turned(uint32_t v) const {
  const auto& n = g_.made(v);
  return n.op == Op::transpose && spec(v).shape.rank == 2 && g_.attr(n)[1] == 1 ? g_.in(n)[0] : kNone;
}

// The left matrix, or what it is the transpose of; a column may have been a vector.
uint32_t Batcher::left(uint32_t product) const {
  const auto& n = g_.made(product);
  if (n.op == Op::matmul) {
    const uint32_t a = g_.in(n)[0];
    return turned(a) == kNone ? a : turned(a);
  }
  const uint32_t column = g_.in(n)[size_t(column_of_outer(g_, n))];
  const auto& made = g_.made(column);
  return made.op == Op::reshape && spec(g_.in(made)[0]).shape.rank == 1 ? g_.in(made)[0] : column;
}

uint32_t Batcher::right(uint32_t product) const {
  const auto& n = g_.made(product);
  return g_.in(n)[n.op == Op::matmul ? 1 : size_t(1 - column_of_outer(g_, n))];
}

// Products that are added up, in the order of a stack that is there already; else as their left matrices were computed.
void Batcher::in_sum_order(Terms& list) const {
  auto lies = [&](auto of) {
    const uint32_t s = seat_[list[0].*of].stack;
    return s != kNone && std::ranges::all_of(list, [&](const Term& t) { return seat_[t.*of].stack == s; });
  };
  if (lies(&Term::left)) std::ranges::stable_sort(list, {}, [&](const Term& t) { return seat_[t.left].at; });
  else if (lies(&Term::right)) std::ranges::stable_sort(list, {}, [&](const Term& t) { return seat_[t.right].at; });
  else std::ranges::stable_sort(list, {}, &Term::left);
}

bool Batcher::follows(const Values& vs, uint32_t t) const {
  const Seat a = seat_[vs[t - 1]], b = seat_[vs[t]];
  return a.stack == b.stack && (a.stack == kNone || b.at == a.at + 1);
}

void Batcher::tell_sum(size_t count, const char* what, const Shape& s) {
  if (told_) *told_ += std::to_string(count) + " " + what + " " + str(s) + " added up as one\n";
}

// The sum over t of as[t]^T @ bs[t] as one product, if what must be copied for it is less than what the partial sums
// would read and write.
template <class Plus>
bool Batcher::long_product(const Values& as, const Values& bs, uint32_t like, Plus plus) {
  int64_t copied = 0;
  for (const Values* vs : {&as, &bs})
    if (!in_order(*vs))
      for (uint32_t v : *vs)
        if (seat_[v].stack != kNone || is_given(v)) copied += spec(v).bytes();
  if (as.size() < kManyProducts || copied > int64_t(as.size()) * 2 * spec(like).bytes()) return false;
  if (all_same(as) || all_same(bs)) return false;
  const int32_t line = g_.made(like).line;
  const Shape y = spec(like).shape;
  const uint32_t a = stacked(as), b = stacked(bs);
  const int64_t k = out_.values[a].shape.size() / y[0];
  const uint32_t in[] = {transpose(reshape(a, Shape{k, y[0]}, line), line), reshape(b, Shape{k, y[1]}, line)};
  tell_sum(as.size(), "products", y);
  plus(out_.add(Op::matmul, in, {}, {&g_.values[like], 1}, line));
  return true;
}

template <class Plus>
void Batcher::sum_products(Terms list, Plus plus) {
  // Rows that are added up lie one under the other: of a^T that is a; a column is the transpose of a row.
  const bool rows_add = std::ranges::all_of(list, [&](const Term& t) {
    const auto& n = g_.made(t.value);
    return n.op != Op::matmul || turned(g_.in(n)[0]) != kNone || spec(g_.in(n)[0]).shape[1] == 1;
  });
  if (list.size() >= kManyProducts && rows_add) {
    in_sum_order(list);
    Values as, bs;
    for (const Term& t : list) as.push_back(t.left), bs.push_back(t.right);
    // Runs that lie in stacks on both sides need no copies; a few of them are as good as one.
    Values runs{0};
    for (uint32_t t = 1; t < list.size(); ++t)
      if (!follows(as, t) || !follows(bs, t)) runs.push_back(t);
    if (runs.size() > 1 + list.size() / 8) runs.resize(1);
    runs.push_back(uint32_t(list.size()));
    for (size_t r = 0; r + 1 < runs.size(); ++r) {
      const uint32_t from = runs[r], to = runs[r + 1];
      auto part = [&](const Values& vs) { return Values(vs.begin() + from, vs.begin() + to); };
      if (long_product(part(as), part(bs), list[from].value, plus)) continue;
      for (uint32_t t = from; t < to; ++t) plus(alone(list[t].value));
    }
    return;
  }
  for (const Term& t : list) plus(alone(t.value));
}

template <class Plus>
void Batcher::sum_columns(const Terms& list, Plus plus) {
  Values of;
  for (const Term& t : list) of.push_back(g_.in(g_.made(t.value))[0]);
  // Only what lies in one stack: this is not worth a copy.
  std::ranges::stable_sort(of, {}, [&](uint32_t v) { return std::pair(seat_[v].stack, seat_[v].at); });
  if (list.size() >= kManyProducts && in_order(of)) {
    const auto& n = g_.made(list[0].value);
    List<int64_t> attrs(g_.attr(n).begin(), g_.attr(n).end());
    attrs.insert(attrs.begin() + 1, 0);
    ++attrs[0];
    for (int64_t k = 1; k < attrs[0]; ++k) attrs[size_t(k) + 1] = k;
    const uint32_t s = seen_as(stacked(of), int64_t(of.size()), spec(of[0]).shape, n.line);
    tell_sum(list.size(), "column sums", spec(list[0].value).shape);
    return plus(out_.add(Op::sum, {&s, 1}, attrs, {&g_.values[list[0].value], 1}, n.line));
  }
  for (const Term& t : list) plus(alone(t.value));
}

// Small members of stacks.
template <class Plus>
void Batcher::sum_members(Terms terms, Plus plus) {
  Values list;
  for (const Term& t : terms) list.push_back(t.value);
  if (list.size() < kManyProducts || all_same(list)) {
    for (uint32_t v : list) plus(value(v));
    return;
  }
  // In one stack as they lie there; else in the order in which products stack them, whose stack may serve for both.
  const auto seat = [&](uint32_t v) { return std::pair(seat_[v].stack, seat_[v].at); };
  if (std::ranges::all_of(list, [&](uint32_t v) { return seat_[v].stack == seat_[list[0]].stack; }))
    std::ranges::stable_sort(list, {}, seat);
  else std::ranges::sort(list);
  const int64_t attrs[] = {1, 0, 0};
  const int32_t line = g_.made(list[0]).line;
  const uint32_t s = seen_as(stacked(list), int64_t(list.size()), spec(list[0]).shape, line);
  tell_sum(list.size(), "members", spec(list[0]).shape);
  plus(out_.add(Op::sum, {&s, 1}, attrs, {&g_.values[list[0]], 1}, line));
}

void Batcher::emit_sum(uint32_t i) {
  const auto& n = g_.nodes[i];
  const Terms terms = std::move(sums_[role_[i]]);
  uint32_t sum = kNone;
  auto plus = [&](uint32_t v) {
    const uint32_t in[] = {sum, v};
    sum = sum == kNone ? v : out_.add(Op::add, in, {}, n.line);
  };
  // Terms that might be one: products of one shape, column sums of one shape, members of stacks.
  struct Alike {
    Term::What what;
    const Shape* shape;
    Terms list;
  };
  List<Alike> kinds;
  for (const Term& t : terms) {
    const auto& made = g_.made(t.value);
    const bool outer = t.what == Term::Product && made.op != Op::matmul;
    const Shape* shape = &spec(outer ? t.left : t.what == Term::Other ? t.value : g_.in(made)[0]).shape;
    if (t.what == Term::Other && (seat_[t.value].stack == kNone || !small(t.value))) {
      plus(value(t.value));
      continue;
    }
    auto k = std::ranges::find_if(kinds, [&](const Alike& a) { return a.what == t.what && *a.shape == *shape; });
    if (k == kinds.end()) k = kinds.insert(k, {t.what, shape, {}});
    k->list.push_back(t);
  }
  for (const Alike& k : kinds) {
    if (k.what == Term::Product) sum_products(k.list, plus);
    else if (k.what == Term::Columns) sum_columns(k.list, plus);
    else sum_members(k.list, plus);
  }
  map_[n.out] = sum;
}

void Batcher::emit_scatters(uint32_t i) {
  Values chain = std::move(scatters_[role_[i] - kScatters]);
  const auto& n = g_.nodes[i];
  const uint32_t base = value(g_.in(g_.nodes[chain[0]])[0]);
  if (n.op == Op::slice_add) {  // one that takes them all, in their order
    Values vs, in{base, kNone};
    for (uint32_t k : chain) {
      vs.push_back(g_.in(g_.nodes[k])[1]);
      in.push_back(value(g_.in(g_.nodes[k])[2]));
    }
    in[1] = seen_as(stacked(vs), int64_t(vs.size()), spec(vs[0]).shape, n.line);
    tell_sum(chain.size(), "slices", spec(g_.in(n)[1]).shape);
    map_[n.out] = out_.add(n.op, in, g_.attr(n), {&g_.values[n.out], 1}, n.line);
    return;
  }
  std::ranges::stable_sort(chain, {}, [&](uint32_t k) {
    const Seat seat = seat_[g_.in(g_.nodes[k])[1]];
    return std::pair(seat.stack, seat.at);
  });
  Values vs, at;
  for (uint32_t k : chain) {
    vs.push_back(g_.in(g_.nodes[k])[1]);
    at.push_back(g_.in(g_.nodes[k])[2]);
  }
  const Shape each = spec(vs[0]).shape;
  Shape flat = each;
  flat[0] *= int64_t(chain.size());
  const uint32_t rows_in = reshape(stacked(vs), flat, n.line);
  const uint32_t index = reshape(stacked(at), Shape{flat[0]}, n.line);
  const uint32_t in[] = {base, rows_in, index};
  tell_sum(chain.size(), "scatters", each);
  map_[n.out] = out_.add(n.op, in, g_.attr(n), {&g_.values[n.out], 1}, n.line);
}

}  // namespace knet
