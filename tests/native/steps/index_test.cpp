// Looking up, scattering and sorting against naive loops.
#include "steps.h"

namespace {

Operand indices(const Shape& s, int64_t extent) {
  Operand x = contiguous(DType::I64, s);
  for (int64_t i = 0; i < s.size(); ++i) x.set<int64_t>(i, roll(-extent, extent - 1));
  return x;
}

void indexing() {
  const Op ops[] = {Op::gather, Op::scatter_add, Op::scatter_set};
  for (int trial = 0; trial < 1200; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = ops[rng() % 3];
    Shape s = some_shape(1, 4), S = some_shape(0, 2);
    if (rng() % 20 == 0) s = Shape{roll(1, 40)}, S = Shape{100000};
    bool empty = false;
    std::vector<int64_t> axes;
    for (int k = 0; k < s.rank; ++k)
      if (rng() & 1) axes.push_back(k), empty |= s[k] == 0;
    if (axes.empty()) axes.push_back(0), empty |= s[0] == 0;
    if (empty && S.size()) continue;
    Shape rest;
    for (int k = 0; k < s.rank; ++k)
      if (std::find(axes.begin(), axes.end(), k) == axes.end()) rest.push(s[k]);
    while (rest.size() * S.size() > 3000000) S[0] = 1;
    int at = int(roll(0, rest.rank));
    Shape vs;
    for (int k = 0; k < at; ++k) vs.push(rest[k]);
    for (int64_t d : S) vs.push(d);
    for (int k = at; k < rest.rank; ++k) vs.push(rest[k]);
    std::vector<Operand> idx;
    for (int64_t a : axes) idx.push_back(indices(S, std::max<int64_t>(s[int(a)], 1)));
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(at);
    Operand x = op == Op::gather ? scattered(t, s) : contiguous(t, s), v = contiguous(t, vs),
            y = contiguous(t, op == Op::gather ? vs : s);
    std::vector<const Operand*> in{&x};
    if (op != Op::gather) in.push_back(&v);
    for (auto& i : idx) in.push_back(&i);
    run(op, {&y}, in, attrs, op != Op::gather && rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = op == Op::gather ? contiguous(t, vs) : x;
      for (int64_t i = 0; i < vs.size(); ++i) {
        auto c = unravel(i, vs);
        std::vector<int64_t> sc(c.begin() + at, c.begin() + at + S.rank);
        std::vector<int64_t> rc(c.begin(), c.begin() + at);
        rc.insert(rc.end(), c.begin() + at + S.rank, c.end());
        std::vector<int64_t> xc;
        size_t ai = 0, ri = 0;
        for (int k = 0; k < s.rank; ++k) {
          if (ai < axes.size() && axes[ai] == k) {
            int64_t j = idx[ai].get<int64_t>(ravel(sc, S));
            xc.push_back(j < 0 ? j + s[k] : j);
            ++ai;
          } else {
            xc.push_back(rc[ri++]);
          }
        }
        int64_t p = ravel(xc, s);
        if (op == Op::gather) want.set<T>(i, x.get<T>(p));
        else want.set<T>(p, op == Op::scatter_add ? knet::cpu::add(want.get<T>(p), v.get<T>(i)) : v.get<T>(i));
      }
      bool ok = true;
      for (int64_t i = 0; i < y.size(); ++i) ok &= same(y.get<T>(i), want.get<T>(i));
      check(ok, describe(info(op).name, x) + " S " + str(S) + " at " + std::to_string(at));
    });
  }
  for (int trial = 0; trial < 800; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4), is = s, o = s;
    int axis = int(roll(0, s.rank - 1));
    bool take = rng() & 1, bad = false;
    for (int k = 0; k < s.rank; ++k) {
      if (k == axis) {
        is[k] = roll(0, 9);
        o[k] = is[k];
        bad |= s[k] == 0 && is.size() > 0;
      } else if (rng() % 6 == 0) {
        is[k] = 1;
      } else if (rng() % 8 == 0 && s.size() < 20000) {
        s[k] = 1;
      }
      if (k != axis) o[k] = std::min(s[k], is[k]) == 0 ? 0 : std::max(s[k], is[k]);
    }
    if (s[axis] == 0) continue;
    Operand i = indices(is, s[axis]), x = take ? scattered(t, s) : contiguous(t, s), v = contiguous(t, o),
            y = contiguous(t, take ? o : s);
    if (take) run(Op::take_along_axis, {&y}, {&x, &i}, {axis});
    else run(Op::scatter_along_axis, {&y}, {&x, &v, &i}, {axis}, rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = take ? contiguous(t, o) : x;
      for (int64_t p = 0; p < o.size(); ++p) {
        auto c = unravel(p, o), ci = c, cx = c;
        for (int k = 0; k < s.rank; ++k) {
          if (is[k] == 1) ci[size_t(k)] = 0;
          if (s[k] == 1) cx[size_t(k)] = 0;
        }
        int64_t j = i.get<int64_t>(ravel(ci, is));
        cx[size_t(axis)] = j < 0 ? j + s[axis] : j;
        int64_t q = ravel(cx, s);
        if (take) want.set<T>(p, x.get<T>(q));
        else want.set<T>(q, knet::cpu::add(want.get<T>(q), v.get<T>(p)));
      }
      bool ok = true;
      for (int64_t p = 0; p < y.size(); ++p) ok &= same(y.get<T>(p), want.get<T>(p));
      check(ok, describe(take ? "take_along_axis" : "scatter_along_axis", x) + " i " + str(is) + " axis " +
                     std::to_string(axis));
    });
  }
  Operand x = contiguous(DType::F32, Shape{10, 3}), i = indices(Shape{4}, 10), y = contiguous(DType::F32, Shape{4, 3});
  i.set<int64_t>(2, 12);
  std::string said;
  try {
    run(Op::gather, {&y}, {&x, &i}, {1, 0, 0});
  } catch (const Error& e) {
    said = e.what();
  }
  check(said.starts_with("[index] index 12 is out of range for axis 0 of extent 10"), "index error: " + said);
}

void sorts() {
  for (int trial = 0; trial < 500; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4);
    if (rng() % 25 == 0) s = Shape{roll(1, 2), roll(100000, 400000)};
    int axis = int(roll(0, s.rank - 1));
    bool descending = rng() & 1;
    Operand x = contiguous(t, s), y = contiguous(t, s), at = contiguous(DType::I64, s);
    if (is_float(t) && s.size() && rng() & 1)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int k = 0; k < 5; ++k) x.set<T>(roll(0, s.size() - 1), k % 2 ? T(NAN) : k ? T(-INFINITY) : T(INFINITY));
      });
    run(Op::sort, {&y, &at}, {&x}, {axis, descending});
    Axis a(s, axis);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      std::vector<int64_t> order(size_t(a.n));
      for (int64_t r = 0; r < a.outer * a.inner; ++r) {
        int64_t base = a.inner ? r / a.inner * a.n * a.inner + r % a.inner : 0;
        auto v = [&](int64_t i) { return x.get<T>(base + i * a.inner); };
        for (int64_t i = 0; i < a.n; ++i) order[size_t(i)] = i;
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
          T p = v(i), q = v(j);
          if (p != p || q != q) return p == p && q != q;
          return descending ? p > q : p < q;
        });
        for (int64_t i = 0; i < a.n; ++i) {
          T got = y.get<T>(base + i * a.inner), want = v(order[size_t(i)]);
          ok &= at.get<int64_t>(base + i * a.inner) == order[size_t(i)] && !std::memcmp(&got, &want, sizeof(T));
        }
      }
      check(ok, describe("sort", x) + " axis " + std::to_string(axis));
    });
  }
}

}  // namespace

int main() { return run_all({{"index", indexing}, {"sort", sorts}}); }
