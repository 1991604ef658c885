// Random numbers: known answers, moments, the formula in long double, every instruction set alike; and ranges of
// numbers.
#include "cpu/isa/random.h"

#include "steps.h"

namespace {

void philox(const uint32_t* c, const uint32_t* k, uint32_t* out) {
  uint32_t x[4] = {c[0], c[1], c[2], c[3]}, k0 = k[0], k1 = k[1];
  for (int r = 0; r < 10; ++r, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    uint64_t a = uint64_t(x[0]) * 0xD2511F53u, b = uint64_t(x[2]) * 0xCD9E8D57u;
    uint32_t y[4] = {uint32_t(b >> 32) ^ x[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ x[3] ^ k1, uint32_t(a)};
    std::memcpy(x, y, 16);
  }
  std::memcpy(out, x, 16);
}

std::vector<const RandomTable*> random_tables() {
#ifdef KNET_X86
  std::vector<const RandomTable*> t{&v2::random_table};
  if (isa() >= Isa::V3) t.push_back(&v3::random_table);
  if (isa() >= Isa::V4) t.push_back(&v4::random_table);
  return t;
#else
  return {&base::random_table};
#endif
}

void randoms() {
  // Known answers of the Random123 distribution: counter, key, result.
  const uint32_t known[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                 {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                 {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
                                  0x94fdcceb, 0x5001e420, 0x24126ea1}};
  auto pair = [](const uint32_t* w) { return w[0] | uint64_t(w[1]) << 32; };
  for (auto* t : random_tables()) {
    for (auto& k : known) {
      uint32_t got[4];
      t->fill[kBits](pair(k + 4), pair(k + 2), pair(k), 16, got);
      check(!std::memcmp(got, k + 6, 16), "philox known answer");
    }
    uint32_t got[4 * 777], want[4 * 777], key[2] = {123, 456};
    t->fill[kBits](pair(key), 789, 0xfffffff0u, sizeof got, got);
    for (uint32_t b = 0; b < 777; ++b) {
      uint64_t index = 0xfffffff0u + uint64_t(b);
      uint32_t c[4] = {uint32_t(index), uint32_t(index >> 32), 789, 0};
      philox(c, key, want + 4 * b);
    }
    check(!std::memcmp(got, want, sizeof got), "philox blocks");
    for (int d = 0; d < kDistributions; ++d)
      for (int64_t bytes : {4, 8, 100, 1000, 65536 + 24}) {
        std::vector<char> a(size_t(bytes) + 8, 1), b(size_t(bytes) + 8, 1);
        random_tables()[0]->fill[d](99, 7, 3, bytes, a.data());
        t->fill[d](99, 7, 3, bytes, b.data());
        check(a == b, "same numbers on every instruction set, distribution " + std::to_string(d));
      }
  }
  Operand seed = contiguous(DType::U64, Shape{}), counter = contiguous(DType::U64, Shape{});
  seed.set<uint64_t>(0, 0x123456789abcdefull);
  counter.set<uint64_t>(0, 5);
  const int64_t n = 4000003;
  for (DType t : {DType::F32, DType::F64}) {
    Operand u = contiguous(t, Shape{n}), z = contiguous(t, Shape{n}), w = contiguous(DType::U32, Shape{2 * n + 4});
    run(Op::random_uniform, {&u}, {&seed, &counter}, {1, n, int64_t(t)});
    run(Op::random_normal, {&z}, {&seed, &counter}, {1, n, int64_t(t)});
    run(Op::random_bits, {&w}, {&seed, &counter}, {1, 2 * n + 4, int64_t(DType::U32)});
    double m[5] = {}, mean = 0, square = 0, low = 1, high = 0, worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      double x = t == DType::F32 ? double(u.get<float>(i)) : u.get<double>(i),
             y = t == DType::F32 ? double(z.get<float>(i)) : z.get<double>(i);
      mean += x, square += x * x, low = std::min(low, x), high = std::max(high, x);
      for (int k = 1; k < 5; ++k) m[k] += std::pow(y, k);
      // Box-Muller in long double from the same bits.
      uint32_t b[4];
      for (int k = 0; k < 4; ++k) b[k] = w.get<uint32_t>(t == DType::F32 ? i / 4 * 4 + k : i / 2 * 4 + k);
      long double v, a, pi = std::acos(-1.0L);
      if (t == DType::F32) {
        const uint32_t* q = b + i % 4 / 2 * 2;
        v = (long double)(float((q[0] >> 1)) + 0.5f) * 0x1p-31L;
        a = q[1] * 0x1p-32L;
      } else {
        v = (long double)(double(pair(b) >> 11) + 0.5) * 0x1p-53L;
        a = (long double)(pair(b + 2) >> 11) * 0x1p-53L;
      }
      long double r = std::sqrt(-2 * std::log(v)), want = r * (i & 1 ? std::sin(2 * pi * a) : std::cos(2 * pi * a));
      worst = std::max(worst, double(std::abs(want - (long double)y) / std::max(r, 1e-6L)));
    }
    mean /= n, square /= n;
    for (double& k : m) k /= n;
    check(low >= 0 && high < 1 && low < 1e-5 && high > 1 - 1e-5, "uniform range");
    check(std::abs(mean - 0.5) < 6e-4 && std::abs(square - 1 / 3.0) < 6e-4, "uniform moments");
    check(std::abs(m[1]) < 2e-3 && std::abs(m[2] - 1) < 3e-3 && std::abs(m[3]) < 5e-3 && std::abs(m[4] - 3) < 3e-2,
           "normal moments");
    check(worst < (t == DType::F32 ? 4e-7 : 1e-15), "normal accuracy " + std::to_string(worst * 1e16) + "e-16");
    std::printf("normal %s: worst error %.2g of the radius\n", name(t), worst);
  }
}

void iotas() {
  for (DType t : kTypes) {
    if (t == DType::Bool) continue;
    Operand a = contiguous(t, Shape{}), b = contiguous(t, Shape{}), y = contiguous(t, Shape{100001});
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      a.set<T>(0, T(3));
      b.set<T>(0, T(-0.1) ? T(-0.1) : T(-2));
      run(Op::iota, {&y}, {&a, &b}, {100001, int64_t(t)});
      bool ok = true;
      for (int64_t i = 0; i < y.size(); ++i) {
        Accumulator<T> want = Accumulator<T>(a.get<T>(0)) + Accumulator<T>(i) * Accumulator<T>(b.get<T>(0));
        ok &= y.get<T>(i) == T(want);
      }
      check(ok, std::string("iota ") + name(t));
    });
  }
}

}  // namespace

int main() { return run_all({{"random", randoms}, {"iota", iotas}}); }
