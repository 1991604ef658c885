// Copies, concatenations, splices, and slices that are read, written or added to, against naive loops.
#include "steps.h"

namespace {

void copies() {
  for (int trial = 0; trial < 1500; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape();
    Operand x = scattered(t, s), y = contiguous(t, s);
    run(Op::copy, {&y}, {&x}, {});
    bool ok = true;
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      for (int64_t i = 0; i < s.size(); ++i) ok &= same(y.get<T>(i), x.get<T>(i));
    });
    check(ok, describe("copy", x));
  }
  for (int trial = 0; trial < 400; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4);
    int axis = int(roll(0, s.rank - 1)), n = int(roll(1, 5));
    std::vector<Operand> xs;
    std::vector<const Operand*> in;
    int64_t total = 0;
    for (int k = 0; k < n; ++k) {
      Shape p = s;
      p[axis] = roll(0, 6);
      total += p[axis];
      xs.push_back(scattered(t, p));
    }
    for (auto& x : xs) in.push_back(&x);
    Shape o = s;
    o[axis] = total;
    Operand y = contiguous(t, o);
    run(Op::concatenate, {&y}, in, {axis});
    bool ok = true;
    int64_t before = 0;
    for (auto& x : xs) {
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int64_t i = 0; i < x.size(); ++i) {
          auto c = unravel(i, x.layout.shape);
          c[size_t(axis)] += before;
          ok &= same(y.get<T>(ravel(c, o)), x.get<T>(i));
        }
      });
      before += x.layout.shape[axis];
    }
    check(ok, "concatenate " + str(o));
  }
}

void splices() {
  for (int trial = 0; trial < 400; ++trial) {
    DType t = kTypes[rng() % 11];
    std::vector<Operand> xs;
    for (int k = int(roll(1, 4)); k > 0; --k) xs.push_back(contiguous(t, some_shape(0, 3)));
    std::vector<const Operand*> in;
    for (auto& x : xs) in.push_back(&x);
    std::vector<int64_t> attrs{1, 0, 0};
    std::vector<std::pair<size_t, int64_t>> from;  // of each element: of which input, where
    for (int k = int(roll(0, 6)); k > 0; --k) {
      const size_t which = size_t(roll(0, int64_t(xs.size()) - 1));
      const int64_t start = roll(0, xs[which].size()), n = roll(0, xs[which].size() - start);
      attrs.insert(attrs.end(), {int64_t(which), start, n});
      attrs[2] += 3;
      for (int64_t i = start; i < start + n; ++i) from.push_back({which, i});
    }
    attrs[1] = int64_t(from.size());
    Operand y = contiguous(t, Shape{attrs[1]});
    run(Op::splice, {&y}, in, attrs);
    bool ok = true;
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      for (size_t i = 0; i < from.size(); ++i) ok &= same(y.get<T>(int64_t(i)), xs[from[i].first].get<T>(from[i].second));
    });
    check(ok, "splice of " + std::to_string(from.size()));
  }
}

Operand scalar(int64_t v) {
  Operand x = contiguous(DType::I64, Shape{});
  x.set<int64_t>(0, v);
  return x;
}

void slices() {
  for (int trial = 0; trial < 600; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::slice_update : Op::slice_add;
    Shape s = some_shape(0, 4), r = s;
    std::vector<int64_t> axes, steps;
    std::vector<Operand> starts;
    for (int k = 0; k < s.rank; ++k) {
      if (rng() % 3 == 0 || s[k] == 0) continue;
      int64_t step = roll(1, 3) * (rng() & 1 ? 1 : -1), start = roll(0, s[k] - 1);
      int64_t most = step > 0 ? (s[k] - 1 - start) / step + 1 : start / -step + 1;
      r[k] = roll(0, most);
      axes.push_back(k);
      steps.push_back(step);
      starts.push_back(scalar(start));
    }
    // Several are added one after the other; they may overlap.
    const size_t parts = op == Op::slice_add && axes.size() > 0 ? size_t(roll(1, 4)) : 1;
    for (size_t part = 1; part < parts; ++part)
      for (size_t k = 0; k < axes.size(); ++k) {
        const int64_t n = s[int(axes[k])], reach = std::max<int64_t>(r[int(axes[k])] - 1, 0) * steps[k];
        starts.push_back(scalar(reach > 0 ? roll(0, n - 1 - reach) : roll(-reach, n - 1)));
      }
    Operand x = contiguous(t, s), y = contiguous(t, s);
    Shape many{int64_t(parts)};
    for (int64_t d : r) many.push(d);
    Operand v = scattered(t, parts > 1 ? many : r);
    std::vector<const Operand*> in{&x, &v};
    for (const Operand& start : starts) in.push_back(&start);
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(int64_t(steps.size()));
    attrs.insert(attrs.end(), steps.begin(), steps.end());
    run(op, {&y}, in, attrs, rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = x;
      for (size_t part = 0; part < parts; ++part)
        for (int64_t i = 0; i < r.size(); ++i) {
          auto c = unravel(i, r);
          for (size_t k = 0; k < axes.size(); ++k)
            c[size_t(axes[k])] = starts[part * axes.size() + k].get<int64_t>(0) + c[size_t(axes[k])] * steps[k];
          const int64_t p = ravel(c, s);
          const T one = v.get<T>(int64_t(part) * r.size() + i);
          want.set<T>(p, op == Op::slice_add ? knet::cpu::add(want.get<T>(p), one) : one);
        }
      bool ok = true;
      for (int64_t i = 0; i < s.size(); ++i) ok &= same(y.get<T>(i), want.get<T>(i));
      check(ok, describe(info(op).name, x) + " region " + str(r));
    });
    if (axes.empty()) continue;
    // The same regions, read.
    Operand z = scattered(t, s), all = contiguous(t, many);
    in.erase(in.begin() + 1);
    in[0] = &z;
    attrs.insert(attrs.begin() + ptrdiff_t(1 + axes.size()), int64_t(axes.size()));
    for (size_t k = 0; k < axes.size(); ++k) attrs.insert(attrs.begin() + ptrdiff_t(2 + axes.size() + k), r[int(axes[k])]);
    run(Op::slices, {&all}, in, attrs);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      for (int64_t i = 0; i < all.size(); ++i) {
        auto c = unravel(i % r.size(), r);
        for (size_t k = 0; k < axes.size(); ++k)
          c[size_t(axes[k])] = starts[size_t(i / r.size()) * axes.size() + k].get<int64_t>(0) + c[size_t(axes[k])] * steps[k];
        ok &= same(all.get<T>(i), z.get<T>(ravel(c, s)));
      }
      check(ok, describe("slices", z) + " regions " + str(many));
    });
  }
}

}  // namespace

int main() { return run_all({{"copy", copies}, {"splice", splices}, {"slice", slices}}); }
