// Reductions, places of extremes and scans against naive loops; how exact sums are.
#include "steps.h"

namespace {

void reductions() {
  const Op ops[] = {Op::sum, Op::prod, Op::max, Op::min, Op::any, Op::all};
  for (int trial = 0; trial < 1500; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = ops[rng() % 6];
    Shape s = some_shape();
    bool extreme = op == Op::max || op == Op::min;
    Operand x = scattered(t, s);
    std::vector<int64_t> axes;
    for (int k = 0; k < s.rank; ++k)
      if (rng() & 1) axes.push_back(k);
    Shape o;
    int64_t reduced = 1;
    bool keep = rng() & 1;
    for (int k = 0; k < s.rank; ++k) {
      if (std::find(axes.begin(), axes.end(), k) == axes.end()) o.push(s[k]);
      else if (reduced *= s[k]; keep) o.push(1);
    }
    if (extreme && reduced == 0) continue;
    DType to = op == Op::any || op == Op::all ? DType::Bool
               : extreme || is_float(t) ? (rng() % 4 || extreme ? t : DType::F64)
               : is_unsigned_int(t) ? DType::U64 : rng() % 4 ? DType::I64 : DType::F64;
    Operand y = contiguous(to, o);
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(keep);
    if (is_float(t) && rng() % 4 == 0 && x.memory.size() > 64)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        reinterpret_cast<T*>(x.memory.data())[rng() % (x.memory.size() / sizeof(T))] = T(NAN);
      });
    run(op, {&y}, {&x}, attrs);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      using A =
          std::conditional_t<std::is_floating_point_v<T>, long double,
                             std::conditional_t<std::is_signed_v<T> || std::is_same_v<T, bool>, int64_t, uint64_t>>;
      std::vector<A> sum(size_t(o.size()), op == Op::prod ? A(1) : A(0));
      std::vector<A> magnitude(size_t(o.size()), A(0));
      std::vector<char> seen(size_t(o.size()), 0), flag(size_t(o.size()), op == Op::all);
      std::vector<T> best(size_t(o.size()) + 1);
      for (int64_t i = 0; i < s.size(); ++i) {
        auto c = unravel(i, s);
        std::vector<int64_t> d;
        for (int k = 0; k < s.rank; ++k) {
          if (std::find(axes.begin(), axes.end(), k) == axes.end())
            d.push_back(c[size_t(k)]);
          else if (keep)
            d.push_back(0);
        }
        size_t j = size_t(ravel(d, o));
        T v = x.get<T>(i);
        if constexpr (std::is_floating_point_v<T>) {
          if (op == Op::sum) sum[j] += A(v);
          if (op == Op::prod) sum[j] *= A(v);
          magnitude[j] += std::abs(A(v));
        } else {
          if (op == Op::sum) sum[j] = A(uint64_t(sum[j]) + uint64_t(v));
          if (op == Op::prod) sum[j] = A(uint64_t(sum[j]) * uint64_t(v));
        }
        if (!seen[j] || v != v || (best[j] == best[j] && (op == Op::max ? v > best[j] : v < best[j]))) best[j] = v;
        seen[j] = 1;
        if (op == Op::any) flag[j] |= v != T(0);
        if (op == Op::all) flag[j] &= v != T(0);
      }
      bool ok = true;
      for (size_t j = 0; j < size_t(o.size()); ++j) {
        if (op == Op::any || op == Op::all)
          ok &= y.get<bool>(int64_t(j)) == bool(flag[j]);
        else if (extreme)
          ok &= same<T>(y.get<T>(int64_t(j)), best[j]);
        else
          by_dtype("test", to, [&]<class O>(std::type_identity<O>) {
            if constexpr (std::is_floating_point_v<O>) {
              double eps = sizeof(O) == 4 ? 1.2e-7 : 1e-13;
              double got = double(y.get<O>(int64_t(j))), want = double(O(sum[j]));
              double scale =
                  op == Op::sum ? eps * (std::abs(want) + 1e-8 * double(magnitude[j])) : 1e-6 * std::abs(want) + 1e-30;
              ok &= same(got, want) || std::abs(got - want) <= scale + 1e-12 * double(magnitude[j]);
            } else {
              ok &= y.get<O>(int64_t(j)) == O(sum[j]);
            }
          });
      }
      check(ok, describe(info(op).name, x) + " -> " + str(o) + " " + name(to));
    });
  }
}

void args() {
  for (int trial = 0; trial < 800; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::argmax : Op::argmin;
    Shape s = some_shape(1, 4);
    if (rng() % 20 == 0) s = Shape{300000};
    int axis = int(roll(0, s.rank - 1));
    if (s[axis] == 0) continue;
    Operand x = scattered(t, s);
    if (is_float(t) && rng() % 2)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int k = 0; k < 3; ++k)
          reinterpret_cast<T*>(x.memory.data())[rng() % (x.memory.size() / sizeof(T))] = T(NAN);
      });
    Shape o;
    for (int k = 0; k < s.rank; ++k)
      if (k != axis) o.push(s[k]);
    Operand y = contiguous(DType::I64, o);
    run(op, {&y}, {&x}, {axis, 0});
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      for (int64_t j = 0; j < o.size(); ++j) {
        auto c = unravel(j, o);
        c.insert(c.begin() + axis, 0);
        int64_t at = 0;
        T best{};
        for (int64_t r = 0; r < s[axis]; ++r) {
          c[size_t(axis)] = r;
          T v = x.get<T>(ravel(c, s));
          if (r == 0 || (best == best && (v != v || (op == Op::argmax ? v > best : v < best)))) best = v, at = r;
        }
        ok &= y.get<int64_t>(j) == at;
      }
      check(ok, describe(info(op).name, x) + " axis " + std::to_string(axis));
    });
  }
}

void scans() {
  for (int trial = 0; trial < 400; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::cumsum : Op::cumprod;
    Shape s = some_shape(1, 4);
    if (rng() % 10 == 0) s = Shape{2, 100000};
    int axis = int(roll(0, s.rank - 1));
    bool reverse = rng() & 1;
    Operand x = contiguous(t, s);
    DType to = is_float(t) ? t : is_unsigned_int(t) ? DType::U64 : DType::I64;
    Operand y = contiguous(to, s);
    run(op, {&y}, {&x}, {axis, reverse});
    Axis a(s, axis);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      for (int64_t o = 0; o < a.outer; ++o)
        for (int64_t i = 0; i < a.inner; ++i) {
          Accumulator<T> acc = op == Op::cumprod ? 1 : 0;
          for (int64_t r = 0; r < a.n; ++r) {
            int64_t p = (o * a.n + (reverse ? a.n - 1 - r : r)) * a.inner + i;
            acc = op == Op::cumprod ? acc * Accumulator<T>(x.get<T>(p)) : acc + Accumulator<T>(x.get<T>(p));
            if (is_float(t))
              ok &= same(t == DType::F32 ? double(y.get<float>(p)) : y.get<double>(p),
                         t == DType::F32 ? double(float(acc)) : double(acc), 1e-6);
            else ok &= y.get<uint64_t>(p) == uint64_t(acc);
          }
        }
      check(ok, describe(info(op).name, x) + " axis " + std::to_string(axis));
    });
  }
}

void accuracy() {
  Operand seed = contiguous(DType::U64, Shape{}), counter = contiguous(DType::U64, Shape{});
  for (Shape s : {Shape{10000000}, Shape{1000, 10000}, Shape{1000000, 10}}) {
    Operand u = contiguous(DType::F32, s);
    run(Op::random_uniform, {&u}, {&seed, &counter}, {});
    for (bool all : {true, false}) {
      Operand y = contiguous(DType::F32, all ? Shape{} : Shape{s[s.rank - 1]});
      if (!all && s.rank == 1) continue;
      if (all && s.rank == 2) run(Op::sum, {&y}, {&u}, {2, 0, 1, 0});
      else run(Op::sum, {&y}, {&u}, {1, 0, 0});
      double worst = 0;
      std::vector<double> want(size_t(y.size()));
      for (int64_t i = 0; i < u.size(); ++i) want[size_t(i % y.size())] += double(u.get<float>(i));
      for (int64_t i = 0; i < y.size(); ++i)
        worst = std::max(worst, std::abs(double(y.get<float>(i)) - want[size_t(i)]) / want[size_t(i)]);
      check(worst < 6.1e-8, "sum of uniforms " + str(s) + ": relative error " + std::to_string(worst));
    }
  }
}

}  // namespace

int main() { return run_all({{"reduce", reductions}, {"arg", args}, {"scan", scans}, {"accuracy", accuracy}}); }
