// Products of windows of 1: a panel of positions that is read once, beside packed weights. See micro.h.
#pragma once
#include <cstdint>

#include "cpu/isa/micro.h"
#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

// What a block fetches: at step s the line at from + s * step, or, if `Evenly`, two lines of row s * rate >> 16, when
// that is a new one, `second` apart.
template <class T>
struct Fetch {
  const T* from;
  int64_t step, second, rate;
};

// R rows, NV vectors of columns. Keep: B is left in `keep` for the blocks that follow.
template <class T, int Most, int R, int NV, bool Keep, bool Evenly>
void point_block(const Point<T>& p, const T* a, const T* b, T* c, Fetch<T> fetch) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  V sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sum[i][v] = V{};
  if (!p.around)  // the rows of c are far apart: on their way while the sums are made
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) __builtin_prefetch(c + i * p.ldc + v * L, 1);
  [[maybe_unused]] T* keep = p.keep;
  const int64_t pitch = Keep ? p.ldb : 2 * L;
  [[maybe_unused]] const T* const idle = reinterpret_cast<const T*>(&p);
  [[maybe_unused]] const int64_t ahead = fetch.from - idle;
  [[maybe_unused]] int64_t line = 0;
  for (int64_t s = 0; s < p.k; ++s, a += Most, b += pitch) {
    V y[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      y[v] = load(b + v * L);
      if constexpr (Keep) *reinterpret_cast<V*>(keep + v * L) = y[v];
    }
    if constexpr (Keep) keep += 2 * L;
    if constexpr (Evenly) {
      const int64_t now = -int64_t((line & 0xffff) < fetch.rate);  // all ones or none: not a branch
      const T* next = idle + (((line >> 16) * fetch.step + ahead) & now);
      __builtin_prefetch(next, 0, 2);
      __builtin_prefetch(next + (fetch.second & now), 0, 2);
      line += fetch.rate;
    } else {
      __builtin_prefetch(fetch.from, 0, 2);
      fetch.from += fetch.step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sum[i][v] += a[i] * y[v];
  }
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    T* to = c + v * L;
    if (p.n - v * L < L) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) store_part(to + i * p.ldc, sum[i][v], p.n - v * L);
    } else if (p.around) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) store_around(to + i * p.ldc, sum[i][v]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) *reinterpret_cast<V*>(to + i * p.ldc) = sum[i][v];
    }
  }
}

template <class T>
using PointBlock = void (*)(const Point<T>&, const T*, const T*, T*, Fetch<T>);
template <class T, int Most, int NV, bool Keep, bool Evenly, int... R>
struct PointBlocks {
  static constexpr PointBlock<T> table[] = {point_block<T, Most, R + 1, NV, Keep, Evenly>...};
};
template <class T, int Most, bool Keep, bool Evenly, int... R>
const PointBlock<T>* point_blocks(bool two, std::integer_sequence<int, R...>) {
  return two ? PointBlocks<T, Most, 2, Keep, Evenly, R...>::table : PointBlocks<T, Most, 1, Keep, Evenly, R...>::table;
}

// What comes next is fetched meanwhile, line by line in blocks of their own; where there are few blocks, in pairs and
// evenly over all of them, for a core waits where more than 16 lines are on their way, and the processor brings
// neighbours in pairs: 64x56x56 from 256, not in the cache, took 7.0 ms, so 5.9.
template <class T, int Most>
void point(const Point<T>& p) {
  constexpr auto heights = std::make_integer_sequence<int, Most>();
  const bool two = p.n > Vec<T>::lanes;
  const int64_t blocks = (p.m + Most - 1) / Most, height = p.m / blocks, higher = p.m % blocks;
  const bool evenly = blocks < 12 && 2 * blocks >= p.lines;
  const auto* table = evenly ? point_blocks<T, Most, false, true>(two, heights)
                     : point_blocks<T, Most, false, false>(two, heights);
  const auto* keeping = evenly ? point_blocks<T, Most, true, true>(two, heights)
                       : point_blocks<T, Most, true, false>(two, heights);
  // A fetch reaches so many blocks' steps, and lines of each row.
  const int64_t parts = evenly ? (p.lines + 1) / 2 : p.lines, per = parts && blocks >= parts ? blocks / parts : 1;
  const int64_t rate = (1 << 16) / per, apart = evenly ? p.k / per * p.next_step : 0;
  for (int64_t block = 0, i = 0, part = 0, at = 0; block < blocks; ++block) {
    const int64_t r = height + (block < higher);
    Fetch<T> fetch{reinterpret_cast<const T*>(&p), 0, 0, 0};  // nothing: a line in L1
    if (part < parts) {
      const int64_t* line = p.line + (evenly ? 2 * part : part);
      if (evenly)
        fetch = {p.next + line[0] + at * apart, p.next_step, 2 * part + 1 < p.lines ? line[1] - line[0] : 0, rate};
      else if (at == 0)
        fetch = {p.next + line[0], p.next_step, 0, 0};
      if (++at == per) at = 0, ++part;
    }
    const bool first = block == 0 && p.keep;
    (first ? keeping : table)[r - 1](p, p.a + block * p.k * Most, first || !p.keep ? p.b : p.keep, p.c + i * p.ldc,
                                     fetch);
    i += r;
  }
}

// R rows of A, where they lie, beside a packed panel of B, two vectors wide.
template <class T, int R>
void sums_block(const Sums<T>& t, const T* a, T* c, const T* next) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes, line = 64 / int64_t(sizeof(T));
  constexpr int kThirds = (R + 2) / 3;
  V sum[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[i][v] = V{};
  for (int64_t segment = 0; segment < t.segments; ++segment, a += t.a_segment, next += t.a_segment) {
    const T *b = t.b + segment * t.b_segment, *q[kThirds];
    for (int i = 0; i < kThirds; ++i) q[i] = a + 3 * i * t.lda;
    for (int64_t s = 0; s < t.k; ++s, b += 2 * L) {
      const V b0 = load(b), b1 = load(b + L);
      __builtin_prefetch(next + (s >> 4) * t.next_step + (s & 15) * line, 0, 2);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const T x = q[i / 3][i % 3 * t.lda];
        sum[i][0] += x * b0;
        sum[i][1] += x * b1;
      }
#pragma GCC unroll 8
      for (int i = 0; i < kThirds; ++i) ++q[i];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      auto* to = reinterpret_cast<V*>(c + i * t.ldc + v * L);
      *to = t.add ? *to + sum[i][v] : sum[i][v];
    }
}

template <class T>
using SumsBlock = void (*)(const Sums<T>&, const T*, T*, const T*);
template <class T, int... R>
const SumsBlock<T>* sums_blocks(std::integer_sequence<int, R...>) {
  static constexpr SumsBlock<T> table[] = {sums_block<T, R + 1>...};
  return table;
}

template <class T, int Most>
void sums(const Sums<T>& t) {
  const auto* table = sums_blocks<T>(std::make_integer_sequence<int, Most>());
  const int64_t blocks = (t.m + Most - 1) / Most, height = t.m / blocks, higher = t.m % blocks;
  for (int64_t block = 0, i = 0; block < blocks; ++block) {
    const int64_t r = height + (block < higher), ahead = i < t.next_rows ? i : 0;
    table[r - 1](t, t.a + i * t.lda, t.c + i * t.ldc, t.next + ahead * t.next_step);
    i += r;
  }
}

}  // namespace
}  // namespace knet::cpu::KNET_ISA
