// A block is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011) with
// key = seed (low word, high word), counter = (block low, block high, counter low, counter high), words w0 ... w3:
//   bits       w0, w1, w2, w3 (a 64-bit result is w0 | w1 << 32)
//   uniform32  (w >> 8) 2^-24
//   uniform64  ((w0 | w1 << 32) >> 11) 2^-53
//   normal32   r cos(a), r sin(a) of (w0, w1), then of (w2, w3): r = sqrt(-2 ln u),
//              u = ((w0 >> 1) + 1/2) 2^-31, a = w1 2 pi 2^-32
//   normal64   the same of (w0 | w1 << 32, w2 | w3 << 32) with u = ((v >> 11) + 1/2) 2^-53 and a from 53 bits
// (Box and Muller, 1958.) ln, sin and cos are polynomials below; only + - * / sqrt, each rounded by itself, never
// fused, so that every machine and every device makes the same bits.
#pragma GCC optimize("fp-contract=off")
#ifdef KNET_X86
#include <immintrin.h>
#endif
#include "cpu/isa/random.h"
#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

constexpr int kBlocks = kVectorBytes / 8;  // one block to a 64-bit lane

typedef uint64_t U64 __attribute__((vector_size(kVectorBytes)));
typedef int64_t I64 __attribute__((vector_size(kVectorBytes)));
typedef double F64 __attribute__((vector_size(kVectorBytes)));
typedef uint32_t U32 __attribute__((vector_size(kVectorBytes)));
typedef int32_t I32 __attribute__((vector_size(kVectorBytes)));
typedef float F32 __attribute__((vector_size(kVectorBytes)));

// Product of the low halves of each lane.
inline U64 multiply(U64 a, U64 b) {
#if defined(__AVX512F__)
  return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(KNET_X86)
  return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}
inline F32 root(F32 x) {
#if defined(__AVX512F__)
  return (F32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (F32)_mm256_sqrt_ps((__m256)x);
#elif defined(KNET_X86)
  return (F32)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < kVectorBytes / 4; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
inline F64 root(F64 x) {
#if defined(__AVX512F__)
  return (F64)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  return (F64)_mm256_sqrt_pd((__m256d)x);
#elif defined(KNET_X86)
  return (F64)_mm_sqrt_pd((__m128d)x);
#else
  for (int i = 0; i < kVectorBytes / 8; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// First (Odd = 0) or second (Odd = 1) of each pair of 64-bit lanes of x, each followed by y's.
template <int Odd>
inline U64 pairs(U64 x, U64 y) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(x, y, Odd, 8 + Odd, 2 + Odd, 10 + Odd, 4 + Odd, 12 + Odd, 6 + Odd, 14 + Odd);
#elif defined(__AVX2__)
  return __builtin_shufflevector(x, y, Odd, 4 + Odd, 2 + Odd, 6 + Odd);
#else
  return __builtin_shufflevector(x, y, Odd, 2 + Odd);
#endif
}
// The same for pairs of 32-bit lanes: x0 y0 x1 y1 of the first or second half of each four.
template <int Odd>
inline F32 pairs(F32 x, F32 y) {
  constexpr int o = 2 * Odd, N = kVectorBytes / 4;
#if defined(__AVX512F__)
  return __builtin_shufflevector(x, y, o, N + o, o + 1, N + o + 1, o + 4, N + o + 4, o + 5, N + o + 5,  //
                                 o + 8, N + o + 8, o + 9, N + o + 9, o + 12, N + o + 12, o + 13, N + o + 13);
#elif defined(__AVX2__)
  return __builtin_shufflevector(x, y, o, N + o, o + 1, N + o + 1, o + 4, N + o + 4, o + 5, N + o + 5);
#else
  return __builtin_shufflevector(x, y, o, N + o, o + 1, N + o + 1);
#endif
}

// What a lane's low half is not, is garbage: multiply() does not look at it, and words() drops it.
struct Block {
  U64 w0, w1, w2, w3;
};

struct Philox {
  uint64_t key0[10], key1[10], counter0, counter1;

  Philox(uint64_t seed, uint64_t counter) : counter0(uint32_t(counter)), counter1(counter >> 32) {
    uint32_t a = uint32_t(seed), b = uint32_t(seed >> 32);
    for (int r = 0; r < 10; ++r, a += 0x9E3779B9u, b += 0xBB67AE85u) key0[r] = a, key1[r] = b;
  }
  // `Streams` times kBlocks blocks: the multiplications of one stream hide those of another.
  template <int Streams>
  inline void blocks(U64 index, Block* x) const {
    const U64 m0 = U64{} + 0xD2511F53u, m1 = U64{} + 0xCD9E8D57u;
#pragma GCC unroll 4
    for (int s = 0; s < Streams; ++s) {
      U64 i = index + uint64_t(s * kBlocks);
      x[s] = {i, i >> 32, U64{} + counter0, U64{} + counter1};
    }
#pragma GCC unroll 10
    for (int r = 0; r < 10; ++r) {
      const U64 k0 = U64{} + key0[r], k1 = U64{} + key1[r];
#pragma GCC unroll 4
      for (int s = 0; s < Streams; ++s) {
        U64 p0 = multiply(x[s].w0, m0), p1 = multiply(x[s].w2, m1);
        x[s] = {(p1 >> 32) ^ x[s].w1 ^ k0, p1, (p0 >> 32) ^ x[s].w3 ^ k1, p0};
      }
    }
  }
};

inline U64 words(U64 low, U64 high) { return (low & 0xffffffffu) | (high << 32); }

// Lanes hold blocks in the order that pairs() turns into the order of memory: even lanes the first half.
inline U64 lane_order() {
  U64 i;
  for (int q = 0; q < kBlocks / 2; ++q) i[2 * q] = uint64_t(q), i[2 * q + 1] = uint64_t(kBlocks / 2 + q);
  return i;
}

template <class V>
inline void store(char* to, V a, V b) {
  __builtin_memcpy(to, &a, kVectorBytes);
  __builtin_memcpy(to + kVectorBytes, &b, kVectorBytes);
}

struct Bits {
  static void emit(const Block& x, char* to) {
    U64 a = words(x.w0, x.w1), b = words(x.w2, x.w3);
    store(to, pairs<0>(a, b), pairs<1>(a, b));
  }
};

struct Uniform32 {
  static F32 map(U64 v) { return __builtin_convertvector((I32)((U32)v >> 8), F32) * 0x1p-24f; }
  static void emit(const Block& x, char* to) {
    U64 a = words(x.w0, x.w1), b = words(x.w2, x.w3);
    store(to, map(pairs<0>(a, b)), map(pairs<1>(a, b)));
  }
};

// An integer below 2^53 exactly: its halves placed in the mantissas of 2^84 and 2^52.
inline F64 to_double(U64 v) {
  F64 high = (F64)((v >> 32) | 0x4530000000000000u) - 0x1p84,
      low = (F64)((v & 0xffffffffu) | 0x4330000000000000u) - 0x1p52;
  return high + low;
}

struct Uniform64 {
  static F64 map(U64 v) { return to_double(v >> 11) * 0x1p-53; }
  static void emit(const Block& x, char* to) {
    U64 a = words(x.w0, x.w1), b = words(x.w2, x.w3);
    store(to, map(pairs<0>(a, b)), map(pairs<1>(a, b)));
  }
};

// The polynomials interpolate at Chebyshev nodes. Largest relative errors: 1.3e-8 (sin), 1.1e-9 (cos), 2.8e-9 (ln) for
// float; 2e-17, 1e-18, 3e-20 for double. ln m = 2 s + s z P(z), s = (m - 1) / (m + 1), z = s^2, m in
// [sqrt(1/2), sqrt(2)).
inline F32 radius(U32 v) {
  F32 u = (__builtin_convertvector((I32)(v >> 1), F32) + 0.5f) * 0x1p-31f;
  I32 bits = (I32)u, e = (bits - 0x3f3504f3) >> 23;
  F32 m = (F32)(bits - (e << 23));
  F32 s = (m - 1.0f) / (m + 1.0f), z = s * s;
  F32 p = (0.295809859f * z + 0.399887577f) * z + 0.666666851f;
  F32 ln = __builtin_convertvector(e, F32) * 0.693147181f + (s + s + s * z * p);
  return root(ln * -2.0f);
}
inline F64 radius(U64 v) {
  F64 u = (to_double(v >> 11) + 0.5) * 0x1p-53;
  U64 bits = (U64)u, e = (bits - 0x3fe6a09e667f3bcdu + (1024ull << 52)) >> 52;  // exponent + 1024: never negative
  F64 m = (F64)(bits - (e << 52) + (1024ull << 52));
  F64 s = (m - 1.0) / (m + 1.0), z = s * s;
  F64 p = 0.130880348509275538 * z + 0.132686383692668239;
  p = p * z + 0.153862447376216666;
  p = p * z + 0.181817955475211362;
  p = p * z + 0.222222223925810451;
  p = p * z + 0.28571428570799785;
  p = p * z + 0.400000000000008832;
  p = p * z + 0.666666666666666665;
  F64 exponent = (F64)(e | 0x4330000000000000u) - (0x1p52 + 1024.0);
  F64 ln = exponent * 0.693147180559945309 + (s + s + s * z * p);
  return root(ln * -2.0);
}

// sin and cos of the nearest quarter turn's remainder x, then turned by `quarter` quarters.
template <class U, class F>
inline void turn(U quarter, F sine, F cosine, F r, F& x, F& y) {
  constexpr int top = sizeof(quarter[0]) * 8 - 2;
  auto swap = (quarter & 1) != 0;
  F c = swap ? sine : cosine, s = swap ? cosine : sine;
  x = r * (F)((U)c ^ (((quarter + 1) & 2) << top));
  y = r * (F)((U)s ^ ((quarter & 2) << top));
}
inline void point(F32 r, U32 angle, F32& x, F32& y) {
  U32 quarter = (angle + (1u << 29)) >> 30;
  F32 a = __builtin_convertvector((I32)(angle - (quarter << 30)), F32) * (1.57079633f * 0x1p-30f), z = a * a;
  F32 sine = a + a * z * ((-0.000195878909f * z + 0.00833274827f) * z - 0.166666647f);
  F32 cosine = (z * -0.5f + 1.0f) + z * z * ((2.45479421e-5f * z - 0.0013888303f) * z + 0.0416666647f);
  turn(quarter, sine, cosine, r, x, y);
}
inline void point(F64 r, U64 angle, F64& x, F64& y) {
  angle >>= 11;
  U64 quarter = (angle + (1ull << 50)) >> 51;
  U64 rest = angle - (quarter << 51);  // in [-2^50, 2^50)
  F64 a = ((F64)(rest + (0x4330000000000000u + (1ull << 51))) - (0x1p52 + 0x1p51)) * (1.57079632679489662 * 0x1p-51);
  F64 z = a * a;
  F64 p = 1.59181292948666087e-10 * z - 2.50511318450036244e-8;
  p = p * z + 2.75573161025524401e-6;
  p = p * z - 0.000198412698367585743;
  p = p * z + 0.00833333333333094849;
  p = p * z - 0.166666666666666646;
  F64 q = -1.1382632425521718e-11 * z + 2.08761462684031979e-9;
  q = q * z - 2.75573172717297929e-7;
  q = q * z + 0.0000248015872987656879;
  q = q * z - 0.00138888888888873972;
  q = q * z + 0.0416666666666666654;
  turn(quarter, a + a * z * p, (z * -0.5 + 1.0) + z * z * q, r, x, y);
}

struct Normal32 {
  static void emit(const Block& b, char* to) {
    F32 x, y;
    point(radius((U32)words(b.w0, b.w2)), (U32)words(b.w1, b.w3), x, y);
    store(to, pairs<0>(x, y), pairs<1>(x, y));
  }
};
struct Normal64 {
  static void emit(const Block& b, char* to) {
    F64 x, y;
    point(radius(words(b.w0, b.w1)), words(b.w2, b.w3), x, y);
    store(to, pairs<0>((U64)x, (U64)y), pairs<1>((U64)x, (U64)y));
  }
};

template <class D>
void fill(uint64_t seed, uint64_t counter, uint64_t first, int64_t bytes, void* out) {
  constexpr int kStreams = 2;
  constexpr int64_t kStep = kStreams * 2 * kVectorBytes;
  const Philox philox(seed, counter);
  U64 index = lane_order() + first;
  char* to = static_cast<char*>(out);
  Block x[kStreams];
  for (; bytes > 0; bytes -= kStep, to += kStep, index += uint64_t(kStreams * kBlocks)) {
    philox.blocks<kStreams>(index, x);
    char rest[kStep];
    char* target = bytes < kStep ? rest : to;
    for (int s = 0; s < kStreams; ++s) D::emit(x[s], target + s * 2 * kVectorBytes);
    if (bytes < kStep) __builtin_memcpy(to, rest, size_t(bytes));
  }
}

}  // namespace

extern const RandomTable random_table = {
    {fill<Bits>, fill<Uniform32>, fill<Uniform64>, fill<Normal32>, fill<Normal64>}};

}  // namespace knet::cpu::KNET_ISA
