// Products in registers, and the table of all inner loops. See micro.h for what they compute.
#include "cpu/isa/micro.h"

#include <type_traits>
#include <utility>

#include "cpu/isa/micro_filter.h"
#include "cpu/isa/micro_move.h"
#include "cpu/isa/micro_point.h"
#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 14;  // 28 sums, 2 vectors of B, 1 broadcast in 32 registers
#elif defined(__AVX__)
constexpr int kRows = 6;   // 12 sums, 2 vectors of B, 1 broadcast in 16 registers
#elif defined(__aarch64__)
constexpr int kRows = 12;
#else
constexpr int kRows = 5;
#endif

template <class T>
inline __attribute__((always_inline)) auto lane_list(const Lane<T>* p) {
  typedef Lane<T> Loose __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  return LaneList<T>(*reinterpret_cast<const Loose*>(p));
}

// Rows of B that a block reads ahead where they are far apart, which the processor does not by itself.
constexpr int kAhead = 12;
constexpr int64_t kKept = 256;  // most rows of B that are kept

// Part `part` of `parts` of what comes next.
template <class T>
inline __attribute__((always_inline)) Soon<T> share(const Soon<T>& a, int64_t part, int64_t parts) {
  const int64_t first = a.runs * part / parts;
  return {a.at + first * a.stride, a.runs * (part + 1) / parts - first, a.stride, a.n};
}
template <class T>
inline __attribute__((always_inline)) void fetch(const Soon<T>& a) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t r = 0; r < a.runs; ++r)
    for (int64_t j = 0; j < a.n; j += line) __builtin_prefetch(a.at + r * a.stride + j, 0, 2);
}

// What a block of rows leaves for those that come after it.
enum class Keep { Nothing, B, A };

// R rows of A are reached from every third one, R / 3 pointers and one stride: they fit the integer registers.
template <class T, int R, int NV, Keep kKeep>
void block(int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, const Panel<T>& p, int64_t row,
           int64_t ldc, bool add) {
  using V = typename Vec<T>::type;
  V sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sum[i][v] = V{};
  constexpr int kThirds = (R + 2) / 3;
  const T* q[kThirds];
  for (int i = 0; i < kThirds; ++i) q[i] = a + 3 * i * rsa;
  const T *b0 = p.b[0], *b1 = p.b[1];
  // The rows of C, far apart, are on their way while the sums are made, and so is what comes next: in four portions,
  // for a core waits when it has asked for more than some 16 lines. 12800x256x1024 ran at 139 GFLOP/s when all were
  // asked for at once, at 147 in four portions, at 144 in one for each row.
  constexpr int kPortions = 4;
  // Steps of the sum at a time: four were 1 to 3 % faster than one with AVX-512, 1 % slower with AVX2.
  constexpr int kSteps = kVectorBytes == 64 ? 4 : 1;
  const int64_t portion = k >= 64 && (p.next[0].runs || p.next[1].runs)
                              ? (k + kPortions * kSteps - 1) / (kPortions * kSteps) * kSteps : k;
  auto fetch_c = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
    for (int64_t i = from; i < to; ++i)
      for (int v = 0; v < NV; ++v) __builtin_prefetch(p.c[v] + (row + i) * ldc, 1);
  };
  if (k >= 64 && portion == k) fetch_c(0, R);
  [[maybe_unused]] const int64_t pitch = kKeep == Keep::B && k > 1 ? off[1] - off[0] : 0;
  [[maybe_unused]] T* keep = kKeep == Keep::A ? p.keep_a : p.keep;
  for (int64_t s = 0, end = 0, part = 0; s < k; ++part) {
    end = end + portion < k ? end + portion : k;
    if (portion < k) {
      fetch_c(R * part / kPortions, R * (part + 1) / kPortions);
      for (const auto& next : p.next) fetch(share(next, part, kPortions));
    }
#pragma GCC unroll kSteps
    for (; s < end; ++s) {
      V b[NV];
      if constexpr (kKeep == Keep::B) {
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) {
          const T* from = v ? b1 : b0;
          b[v] = load(from);
          __builtin_prefetch(from + kAhead * pitch);
          *reinterpret_cast<V*>(keep + v * Vec<T>::lanes) = b[v];
        }
        b0 += pitch;
        b1 += pitch;
        keep += 2 * Vec<T>::lanes;
      } else {
        b[0] = load(b0 + off[s]);
        if constexpr (NV > 1) b[1] = load(b1 + off[s]);
      }
      if constexpr (kKeep == Keep::A) {
        constexpr int L = Vec<T>::lanes;
        __builtin_prefetch(q[0] + kAhead * csa + R - 1);
#pragma GCC unroll 8
        for (int v = 0; v < R; v += L)
          *reinterpret_cast<V*>(keep + v) = R - v < L ? load_part(q[0] + v, R - v) : load(q[0] + v);
        keep += p.kept_column;
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        T x = kKeep == Keep::A ? q[0][i] : q[i / 3][(i % 3) * rsa];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sum[i][v] += x * b[v];
      }
#pragma GCC unroll 8
      for (int i = 0; i < kThirds; ++i) q[i] += csa;
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    if (p.order[v]) {
      const auto order = lane_list<T>(p.order[v]);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][v] = __builtin_shuffle(sum[i][v], order);
    }
    T* c = p.c[v] + row * ldc;
    if (int n = p.n[v]; n < Vec<T>::lanes) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i)
        store_part<T>(c + i * ldc, add ? load_part(c + i * ldc, n) + sum[i][v] : sum[i][v], n);
    } else if (add) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) *reinterpret_cast<V*>(c + i * ldc) += sum[i][v];
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) *reinterpret_cast<V*>(c + i * ldc) = sum[i][v];
    }
  }
}

template <class T>
using Block = void (*)(int64_t, const T*, int64_t, int64_t, const int64_t*, const Panel<T>&, int64_t, int64_t, bool);

template <class T, int NV, Keep kKeep, int... R>
struct Blocks {
  static constexpr Block<T> table[] = {block<T, R + 1, NV, kKeep>...};
};
template <class T, int NV, Keep kKeep, int N, int... R>
struct MakeBlocks : MakeBlocks<T, NV, kKeep, N - 1, N - 1, R...> {};
template <class T, int NV, Keep kKeep, int... R>
struct MakeBlocks<T, NV, kKeep, 0, R...> : Blocks<T, NV, kKeep, R...> {};

template <class T, int NV, Keep kKeep = Keep::Nothing>
void rows(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, Panel<T> p, int64_t ldc,
          bool add) {
  const int64_t blocks = (m + kRows - 1) / kRows;
  const Soon<T> next[] = {p.next[0], p.next[1]};
  const int64_t a_block = p.a_block && kKeep != Keep::A ? p.a_block : 0;
  for (int64_t b = 0, i = 0; b < blocks; ++b) {
    const int64_t r = (m - i + blocks - b - 1) / (blocks - b);
    for (int n = 0; n < 2; ++n) p.next[n] = share(next[n], b, blocks);
    MakeBlocks<T, NV, kKeep, kRows>::table[r - 1](k, a_block ? a + b * a_block : a + i * rsa, rsa, csa, off, p, i, ldc,
                                                  add);
    if constexpr (kKeep == Keep::A) p.keep_a += p.a_block;
    i += r;
  }
}

// The same, with B kept by the first block.
template <class T, int NV>
void rows_keeping(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, Panel<T> p,
                  int64_t ldc, bool add) {
  const int64_t blocks = (m + kRows - 1) / kRows, r = (m + blocks - 1) / blocks;
  const Soon<T> next[] = {std::exchange(p.next[0], {}), std::exchange(p.next[1], {})};
  MakeBlocks<T, NV, Keep::B, kRows>::table[r - 1](k, a, rsa, csa, off, p, 0, ldc, add);
  for (int n = 0; n < 2; ++n) p.next[n] = next[n];
  int64_t kept[kKept];
  for (int64_t s = 0; s < k; ++s) kept[s] = 2 * Vec<T>::lanes * s;
  p.b[0] = p.keep;
  p.b[1] = p.keep + Vec<T>::lanes;
  p.c[0] += r * ldc;
  p.c[1] += r * ldc;
  rows<T, NV>(m - r, k, a + (p.a_block ? p.a_block : r * rsa), rsa, csa, kept, p, ldc, add);
}

template <class T>
void panel(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, const Panel<T>& p,
           int64_t ldc, bool add) {
  if (p.keep_a) rows<T, 2, Keep::A>(m, k, a, rsa, csa, off, p, ldc, add);
  else if (p.keep) (p.n[1] ? rows_keeping<T, 2> : rows_keeping<T, 1>)(m, k, a, rsa, csa, off, p, ldc, add);
  else if (p.n[1]) rows<T, 2>(m, k, a, rsa, csa, off, p, ldc, add);
  else rows<T, 1>(m, k, a, rsa, csa, off, p, ldc, add);
}

// Rows of B that a tile fetches ahead into L2.
constexpr int kTileAhead = 64;
// Turns of a tile's loop for each line of what comes next.
constexpr int kFetch = 4;

// N steps of the sum at a time, which meet neighbours of A.
template <class T, int R, int L, int N>
void tile_block(const Tile<T>& t, int64_t k, const int64_t* off, const T* b, bool add) {
  using V = typename Vec<T>::type;
  constexpr int kLanes = Vec<T>::lanes;
  auto place = [&](int i, int v) __attribute__((always_inline)) {
    return t.c + i / L * t.run_step + i % L * t.step + v * kLanes;
  };
  V sum[R * L][2];
#pragma GCC unroll 16
  for (int i = 0; i < R * L; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[i][v] = add ? load(place(i, v)) : V{};
  const T* q[R];
  for (int r = 0; r < R; ++r) q[r] = t.a[r];
  const T* const* next = t.next;
  for (int64_t s = 0, end = 0; s < k;) {
    __builtin_prefetch(*next, 0, 2);
    next += next != t.next_end;
    end = k - end < kFetch * N ? k : end + kFetch * N;
    for (; s < end; s += N, b += N * 2 * kLanes) {
      V w[N][2];
#pragma GCC unroll 3
      for (int n = 0; n < N; ++n) w[n][0] = load(b + 2 * n * kLanes), w[n][1] = load(b + (2 * n + 1) * kLanes);
      for (int v = 0; v < 2 * N; ++v) __builtin_prefetch(b + (kTileAhead * 2 + v) * kLanes, 0, 2);
      const int64_t at = off[s];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < L + N - 1; ++i) {
          const T x = q[r][at + i];
#pragma GCC unroll 3
          for (int n = 0; n < N; ++n)
            if (i >= n && i - n < L) {
              sum[r * L + i - n][0] += x * w[n][0];
              sum[r * L + i - n][1] += x * w[n][1];
            }
        }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * L; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) *reinterpret_cast<V*>(place(i, v)) = sum[i][v];
}

template <class T>
using TileBlock = void (*)(const Tile<T>&, int64_t, const int64_t*, const T*, bool);

// The blocks of R runs, by their length; null where that would be too high. Several steps at a time where there are
// registers for as many rows of B.
template <class T, int R, int L, int N>
constexpr TileBlock<T> tile_entry() {
  constexpr bool several = kVectorBytes == 64 && L >= 3 && (N == 2 || R <= 2);
  if constexpr (R * L <= kRows) return tile_block<T, R, L, several ? N : 1>;
  else return nullptr;
}
template <class T, int R, int N, int... L>
struct TileBlocks {
  static constexpr TileBlock<T> table[] = {tile_entry<T, R, L, N>()...};
};
template <class T, int R, int N, int... L>
constexpr const TileBlock<T>* tile_blocks(std::integer_sequence<int, L...>) {
  return TileBlocks<T, R, N, L + 1 ...>::table;
}

template <class T, int N>
void tile_of(const Tile<T>& t, int64_t k, const int64_t* off, const T* b, bool add) {
  constexpr auto lengths = std::make_integer_sequence<int, kRows>();
  static constexpr const TileBlock<T>* tables[kRuns] = {
      tile_blocks<T, 1, N>(lengths), tile_blocks<T, 2, N>(lengths), tile_blocks<T, 3, N>(lengths),
      tile_blocks<T, 4, N>(lengths)};
  tables[t.runs - 1][t.len - 1](t, k, off, b, add);
}

template <class T>
void tile(const Tile<T>& t, int64_t k, const int64_t* off, const T* b, bool add) {
  (t.near == 3 ? tile_of<T, 3> : t.near == 2 ? tile_of<T, 2> : tile_of<T, 1>)(t, k, off, b, add);
}

// A number that is met by the three taps of three results is read once for them, where there are registers for three
// rows of B beside the sums: 2.7 instructions a cycle instead of 3.5. A core that shares its front end with another
// program's thread issues no more than 3: 122 GFLOP/s became 149, on a core of its own 176 became 177.
template <class T, int S, int R>
void triples_block(const Triples<T>& t) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes, kMet = S * (R - 1) + 3, kWidth = 2 * L;
  static constexpr T zero = 0;
  V sum[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[i][v] = V{};
  const T* b = t.b;
  const T* const* next = t.next;
  for (int64_t q = 0; q < t.channels; ++q, b += t.b_channel - t.rows * 3 * kWidth) {
    const T* x = t.x + q * t.channel;
    for (int64_t r = 0; r < t.rows; ++r, x += t.row, b += 3 * kWidth) {
      __builtin_prefetch(*next, 0, 2);
      next += next != t.next_end;
      const T* last = x + kMet - 1;
      if constexpr (kVectorBytes == 64) {
        const T *first = t.first ? x : &zero, *end = t.last ? last : &zero;
        for (int v = 0; v < 6; ++v) __builtin_prefetch(b + (kTileAhead * 2 + v) * L, 0, 2);
        V w[3][2];
#pragma GCC unroll 3
        for (int p = 0; p < 3; ++p) w[p][0] = load(b + p * kWidth), w[p][1] = load(b + p * kWidth + L);
#pragma GCC unroll 32
        for (int i = 0; i < kMet; ++i) {
          const T y = i == 0 ? *first : i == kMet - 1 ? *end : x[i];
#pragma GCC unroll 3
          for (int p = 0; p < 3; ++p)
            if ((i - p) % S == 0 && i >= p && (i - p) / S < R) {
              sum[(i - p) / S][0] += y * w[p][0];
              sum[(i - p) / S][1] += y * w[p][1];
            }
        }
      } else {
#pragma GCC unroll 1
        for (int p = 0; p < 3; ++p) {
          const V b0 = load(b + p * kWidth), b1 = load(b + p * kWidth + L);
          __builtin_prefetch(b + kTileAhead * 2 * L + p * kWidth, 0, 2);
          const T *from = x + p, *first = p || t.first ? from : &zero, *end = p < 2 || t.last ? last - 2 + p : &zero;
#pragma GCC unroll 16
          for (int i = 0; i < R; ++i) {
            const T y = R == 1 ? *(p ? end : first) : i == 0 ? *first : i == R - 1 ? *end : from[S * i];
            sum[i][0] += y * b0;
            sum[i][1] += y * b1;
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) *reinterpret_cast<V*>(t.c + i * t.step + v * L) = sum[i][v];
}

template <class T, int S, int... R>
void triples_blocks(const Triples<T>& t, std::integer_sequence<int, R...>) {
  static constexpr void (*table[])(const Triples<T>&) = {triples_block<T, S, R + 1>...};
  table[t.len - 1](t);
}

template <class T>
void triples(const Triples<T>& t) {
  constexpr auto lengths = std::make_integer_sequence<int, kRows>();
  (t.stride == 1 ? triples_blocks<T, 1>(t, lengths) : triples_blocks<T, 2>(t, lengths));
}

// V vectors of columns at a time: 8 hide the latency of the additions, and read b in long pieces.
template <class T, int V>
int64_t vecmat_part(int64_t j, int64_t n, int64_t k, const T* x, int64_t xs, const T* b, int64_t ldb, T* c, bool add) {
  constexpr int L = Vec<T>::lanes;
  for (; j + V * L <= n; j += V * L) {
    typename Vec<T>::type sum[V] = {};
    for (int64_t p = 0; p < k; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[v] += x[p * xs] * load(b + p * ldb + j + v * L);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      auto* to = reinterpret_cast<typename Vec<T>::type*>(c + j + v * L);
      *to = add ? *to + sum[v] : sum[v];
    }
  }
  return j;
}

template <class T>
void vecmat(int64_t n, int64_t k, const T* x, int64_t xs, const T* b, int64_t ldb, T* c, bool add) {
  int64_t j = vecmat_part<T, 8>(0, n, k, x, xs, b, ldb, c, add);
  j = vecmat_part<T, 1>(j, n, k, x, xs, b, ldb, c, add);
  if (j == n) return;
  typename Vec<T>::type sum[4] = {};  // rows p, p + 4, ... in one: four hide the latency of the additions
  for (int64_t p = 0; p < k; p += 4)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q)
      if (p + q < k) sum[q] += x[(p + q) * xs] * load_part(b + (p + q) * ldb + j, n - j);
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  store_part(c + j, add ? load_part(c + j, n - j) + sum[0] : sum[0], n - j);
}

// Lane l of the result is x[l] + x[l + H] where bit H of l is 0, y[l] + y[l - H] where it is 1. The first of the two
// shuffles leaves all lanes where they are, which needs no port for shuffles.
template <int H, class V, class I, int... l>
inline __attribute__((always_inline)) V fold(V x, V y, I, std::integer_sequence<int, l...>) {
  constexpr int L = sizeof...(l);
  return __builtin_shuffle(x, y, I{(l & H ? L + l : l)...}) +
         __builtin_shuffle(x, y, I{(l & H ? L + l - H : l + H)...});
}

// Sum i of M ends in lane i % L of vector i / L. The order of its additions is the same for any M and i.
template <class T, int H, int M, class V>
inline __attribute__((always_inline)) void fold_all(V* sum) {
  constexpr int L = Vec<T>::lanes;
  if constexpr (H < L) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i += 2)
      sum[i / 2] = fold<H>(sum[i], i + 1 < M ? sum[i + 1] : V{}, LaneList<T>{}, std::make_integer_sequence<int, L>());
    fold_all<T, 2 * H, (M + 1) / 2>(sum);
  }
}

// R x N sums, all in registers; Whole: there are as many rows. Rows of A are reached as in `block`; when they were R
// pointers, GCC 12 made vectors of them and took these apart again: 506x13x1 took 2.7 us.
template <class T, int R, int N, bool Whole>
void dots_block(int64_t rows, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t rsc,
                int64_t csc, bool add) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes, kSums = R * N;
  V sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = V{};
  constexpr int kEach = Whole ? 3 : 1, kPointers = (R + kEach - 1) / kEach;  // rows to a pointer
  const T* x[kPointers];
  for (int i = 0; i < kPointers; ++i) x[i] = a + (Whole || i < rows ? kEach * i : rows - 1) * lda;
  auto row = [&](int i) __attribute__((always_inline)) { return x[i / kEach] + i % kEach * lda; };
  auto step = [&](auto&& get, int64_t p) __attribute__((always_inline)) {
    if constexpr (R < N) {
      V v[R];
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) v[i] = get(row(i));
#pragma GCC unroll 16
      for (int j = 0; j < N; ++j) {
        V y = get(b + j * ldb + p);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i * N + j] += v[i] * y;
      }
    } else {
      V y[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) y[j] = get(b + j * ldb + p);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        V v = get(row(i));
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) sum[i * N + j] += v * y[j];
      }
    }
  };
  auto advance = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) x[i] += L;
  };
  int64_t p = 0;
  for (; p + L <= k; p += L, advance()) step([](const T* q) __attribute__((always_inline)) { return load(q); }, p);
  if (p < k) step([&](const T* q) __attribute__((always_inline)) { return load_part(q, k - p); }, p);
  fold_all<T, 1, kSums>(sum);
  if (N == 1 && rsc == 1) {
    if (rows >= L) *reinterpret_cast<V*>(c) = add ? load(c) + sum[0] : sum[0];
    else store_part(c, add ? load_part(c, rows) + sum[0] : sum[0], rows);
    return;
  }
  T lane[(kSums + L - 1) / L * L];
#pragma GCC unroll 2
  for (int i = 0; i < kSums; i += L) *reinterpret_cast<V*>(lane + i) = sum[i / L];
  for (int64_t i = 0; i < (rows < R ? rows : R); ++i)
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      T& to = c[i * rsc + j * csc];
      to = add ? to + lane[i * N + j] : lane[i * N + j];
    }
}

template <class T>
using Dots = void (*)(int64_t, int64_t, const T*, int64_t, const T*, int64_t, T*, int64_t, int64_t, bool);
template <class T>
struct DotsOf {
  int rows, columns;
  Dots<T> whole, part;
};
template <class T, int R, int N>
constexpr DotsOf<T> dots_of() { return {R, N, dots_block<T, R, N, true>, dots_block<T, R, N, false>}; }

// With 32 registers up to 12 columns go through the rows of a together: for 100x784x10 in columns of 4, 4 and 2 a was
// read three times from L2, which took 15 us instead of 10.
template <class T>
DotsOf<T> dots_for(int64_t columns) {
  constexpr int L = Vec<T>::lanes;
  if constexpr (L >= 16) {
    constexpr DotsOf<T> wide[] = {dots_of<T, 3, 5>(), dots_of<T, 3, 6>(), dots_of<T, 3, 7>(), dots_of<T, 3, 8>(),
                                  dots_of<T, 2, 9>(), dots_of<T, 2, 10>(), dots_of<T, 2, 11>(), dots_of<T, 2, 12>()};
    if (columns > 12) return wide[8 - 5];
    if (columns > 4) return wide[columns - 5];
    if (columns == 4) return dots_of<T, 4, 4>();
  }
  if constexpr (L >= 4)
    if (columns >= 2) return dots_of<T, L / 2, 2>();
  return dots_of<T, L, 1>();
}

template <class T>
void dots(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t rsc,
          int64_t csc, bool add) {
  constexpr int64_t kNear = 48;  // rows of a that stay near for all columns: a multiple of all numbers of rows but 1
  for (int64_t i = 0; i < m; i += kNear) {
    const int64_t rows = m - i < kNear ? m - i : kNear;
    for (int64_t j = 0; j < n;) {
      const DotsOf<T> block = dots_for<T>(n - j);
      for (int64_t r = 0; r < rows; r += block.rows) {
        const Dots<T> run = rows - r >= block.rows ? block.whole : block.part;
        run(rows - r, k, a + (i + r) * lda, lda, b + j * ldb, ldb, c + (i + r) * rsc + j * csc, rsc, csc, add);
      }
      j += block.columns;
    }
  }
}

template <class T, int R, int V>
void lines_block(int64_t k, const T* a, int64_t rsa, const int64_t* off, const T* b, T* c, int64_t ldc,
                 const Piece* pieces, const Lane<T>* orders) {
  constexpr int L = Vec<T>::lanes;
  typename Vec<T>::type sum[R][V] = {};
  const T* from[V];
  for (int v = 0; v < V; ++v) from[v] = b + pieces[v].from;
  for (int64_t p = 0; p < k; ++p) {
    const int64_t o = off[p];
    T x[R];
    for (int i = 0; i < R; ++i) x[i] = a[i * rsa + p];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const auto y = load(from[v] + o);
#pragma GCC unroll 3
      for (int i = 0; i < R; ++i) sum[i][v] += x[i] * y;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 3
    for (int i = 0; i < R; ++i) {
      const Piece& piece = pieces[v];
      T* to = c + i * ldc + piece.to;
      auto y = sum[i][v];
      if (piece.order >= 0) y = __builtin_shuffle(y, lane_list<T>(orders + piece.order * L));
      if (piece.n == L) *reinterpret_cast<typename Vec<T>::type*>(to) = y;
      else store_part(to, y, piece.n);
    }
}

template <class T, int R>
void lines_rows(int64_t k, const T* a, int64_t rsa, const int64_t* off, const T* b, T* c, int64_t ldc,
                const Piece* pieces, int64_t count, const Lane<T>* orders) {
  auto blocks = [&]<int V>() {
    for (; count >= V; count -= V, pieces += V) lines_block<T, R, V>(k, a, rsa, off, b, c, ldc, pieces, orders);
  };
  if constexpr (R == 1) blocks.template operator()<8>();
  blocks.template operator()<4>();
  blocks.template operator()<2>();
  blocks.template operator()<1>();
}

template <class T>
void lines(int64_t m, int64_t k, const T* a, int64_t rsa, const int64_t* off, const T* b, T* c, int64_t ldc,
           const Piece* pieces, int64_t count, const Lane<T>* orders) {
  auto rows = m == 1 ? lines_rows<T, 1> : m == 2 ? lines_rows<T, 2> : lines_rows<T, 3>;
  if (m > 0) rows(k, a, rsa, off, b, c, ldc, pieces, count, orders);
}

template <class T>
constexpr Micro<T> table() {
  return {Vec<T>::lanes, kRows, panel<T>, tile<T>, triples<T>, pack<T>, vecmat<T>, dots<T>, lines<T>, filter<T>,
          filter_sums<T>, traces<T>, thin<T>, weave<T>,
          columns<T>, shifted<T>, runs<T>, point<T, kRows>, sums<T, kRows>, around<T>, settle};
}

}  // namespace

constinit const MicroTable micro_table = {table<float>(), table<double>()};

}  // namespace knet::cpu::KNET_ISA
