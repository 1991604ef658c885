// Register-blocked inner loops. See micro.h for what they compute.
#include "cpu/isa/micro.h"

#include <cstring>
#include <type_traits>
#include <utility>

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
using LaneList __attribute__((vector_size(kVectorBytes))) = Lane<T>;
template <class T>
inline __attribute__((always_inline)) auto lane_list(const Lane<T>* p) {
  typedef Lane<T> Loose __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  return LaneList<T>(*reinterpret_cast<const Loose*>(p));
}

// Rows of B that a block reads ahead where they are far apart, which the processor does not by itself.
constexpr int kAhead = 12;
constexpr int64_t kKept = 256;  // most rows of B that are kept

// R rows of A are reached from every third one, R / 3 pointers and one stride: they fit the integer registers.
template <class T, int R, int NV, bool Keep>
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
  if (k >= 64)  // the rows of c are far apart: on their way while the sums are made
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < NV; ++v) __builtin_prefetch(p.c[v] + (row + i) * ldc, 1);
  [[maybe_unused]] const int64_t pitch = Keep && k > 1 ? off[1] - off[0] : 0;
  [[maybe_unused]] T* keep = p.keep;
  for (int64_t s = 0; s < k; ++s) {
    V b[NV];
    if constexpr (Keep) {
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
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      T x = q[i / 3][(i % 3) * rsa];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sum[i][v] += x * b[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kThirds; ++i) q[i] += csa;
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

template <class T, int NV, bool Keep, int... R>
struct Blocks {
  static constexpr Block<T> table[] = {block<T, R + 1, NV, Keep>...};
};
template <class T, int NV, bool Keep, int N, int... R>
struct MakeBlocks : MakeBlocks<T, NV, Keep, N - 1, N - 1, R...> {};
template <class T, int NV, bool Keep, int... R>
struct MakeBlocks<T, NV, Keep, 0, R...> : Blocks<T, NV, Keep, R...> {};

// Part `part` of `parts` of what comes next.
template <class T>
inline void fetch(const Panel<T>& p, int64_t part, int64_t parts) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t r = p.next_runs * part / parts; r < p.next_runs * (part + 1) / parts; ++r)
    for (int64_t j = 0; j < p.next_n; j += line) __builtin_prefetch(p.next + r * p.next_stride + j, 0, 2);
}

template <class T, int NV>
void rows(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, const Panel<T>& p,
          int64_t ldc, bool add) {
  const int64_t blocks = (m + kRows - 1) / kRows;
  for (int64_t b = 0, i = 0; b < blocks; ++b) {
    const int64_t r = (m - i + blocks - b - 1) / (blocks - b);
    if (p.next_runs) fetch(p, b, blocks);
    MakeBlocks<T, NV, false, kRows>::table[r - 1](k, p.a_block ? a + b * p.a_block : a + i * rsa, rsa, csa, off, p, i,
                                                  ldc, add);
    i += r;
  }
}

// The same, with B kept by the first block.
template <class T, int NV>
void rows_keeping(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, Panel<T> p,
                  int64_t ldc, bool add) {
  const int64_t blocks = (m + kRows - 1) / kRows, r = (m + blocks - 1) / blocks;
  MakeBlocks<T, NV, true, kRows>::table[r - 1](k, a, rsa, csa, off, p, 0, ldc, add);
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
  if (p.keep) (p.n[1] ? rows_keeping<T, 2> : rows_keeping<T, 1>)(m, k, a, rsa, csa, off, p, ldc, add);
  else if (p.n[1]) rows<T, 2>(m, k, a, rsa, csa, off, p, ldc, add);
  else rows<T, 1>(m, k, a, rsa, csa, off, p, ldc, add);
}

template <class T, int R, int L>
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
  for (int64_t s = 0; s < k; ++s, b += 2 * kLanes) {
    const V b0 = load(b), b1 = load(b + kLanes);
    const int64_t at = off[s];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        const T x = q[r][at + i];
        sum[r * L + i][0] += x * b0;
        sum[r * L + i][1] += x * b1;
      }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * L; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) *reinterpret_cast<V*>(place(i, v)) = sum[i][v];
}

template <class T>
using TileBlock = void (*)(const Tile<T>&, int64_t, const int64_t*, const T*, bool);

// The blocks of R runs, by their length; null where that would be too high.
template <class T, int R, int L>
constexpr TileBlock<T> tile_entry() {
  if constexpr (R * L <= kRows) return tile_block<T, R, L>;
  else return nullptr;
}
template <class T, int R, int... L>
struct TileBlocks {
  static constexpr TileBlock<T> table[] = {tile_entry<T, R, L>()...};
};
template <class T, int R, int... L>
constexpr const TileBlock<T>* tile_blocks(std::integer_sequence<int, L...>) {
  return TileBlocks<T, R, L + 1 ...>::table;
}

template <class T>
void tile(const Tile<T>& t, int64_t k, const int64_t* off, const T* b, bool add) {
  constexpr auto lengths = std::make_integer_sequence<int, kRows>();
  static constexpr const TileBlock<T>* tables[kRuns] = {tile_blocks<T, 1>(lengths), tile_blocks<T, 2>(lengths),
                                                        tile_blocks<T, 3>(lengths), tile_blocks<T, 4>(lengths)};
  tables[t.runs - 1][t.len - 1](t, k, off, b, add);
}

// An 8 x 8 (float) or 4 x 4 (double) transpose in registers: columns of src become rows of dst.
inline void transpose8(float* dst, int64_t width, const float* src, int64_t cs) {
  typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
  typedef int I __attribute__((vector_size(32)));
  V r[8], t[8];
  for (int j = 0; j < 8; ++j) r[j] = *reinterpret_cast<const V*>(src + j * cs);
  for (int j = 0; j < 8; j += 2) {
    t[j] = __builtin_shuffle(r[j], r[j + 1], I{0, 8, 2, 10, 4, 12, 6, 14});
    t[j + 1] = __builtin_shuffle(r[j], r[j + 1], I{1, 9, 3, 11, 5, 13, 7, 15});
  }
  for (int j = 0; j < 8; j += 4)
    for (int h = 0; h < 2; ++h) {
      r[j + h] = __builtin_shuffle(t[j + h], t[j + 2 + h], I{0, 1, 8, 9, 4, 5, 12, 13});
      r[j + 2 + h] = __builtin_shuffle(t[j + h], t[j + 2 + h], I{2, 3, 10, 11, 6, 7, 14, 15});
    }
  for (int j = 0; j < 4; ++j) {
    t[j] = __builtin_shuffle(r[j], r[j + 4], I{0, 1, 2, 3, 8, 9, 10, 11});
    t[j + 4] = __builtin_shuffle(r[j], r[j + 4], I{4, 5, 6, 7, 12, 13, 14, 15});
  }
  for (int j = 0; j < 8; ++j) *reinterpret_cast<V*>(dst + j * width) = t[j];
}
inline void transpose8(double* dst, int64_t width, const double* src, int64_t cs) {
  for (int p = 0; p < 8; ++p)
    for (int j = 0; j < 8; ++j) dst[p * width + j] = src[j * cs + p];
}

template <class T>
void pack(T* dst, int64_t k, int64_t n, int64_t padded, int64_t width, const T* src, int64_t rs, int64_t cs) {
  if (cs == 1) {
    for (int64_t p = 0; p < k; ++p) {
      T* to = dst + p * width;
      const T* from = src + p * rs;
      int64_t j = 0;
      for (; j + Vec<T>::lanes <= n; j += Vec<T>::lanes)
        *reinterpret_cast<typename Vec<T>::type*>(to + j) = load(from + j);
      if (j < n) {
        auto rest = load_part(from + j, n - j);
        if (padded - j >= Vec<T>::lanes) *reinterpret_cast<typename Vec<T>::type*>(to + j) = rest, j += Vec<T>::lanes;
        else store_part(to + j, rest, padded - j), j = padded;
      }
      for (; j < padded; ++j) to[j] = 0;
    }
    return;
  }
  int64_t j = 0;
  if (rs == 1 && n >= 8)
    for (; j < n; j += 8) {
      if (j + 8 > n) j = n - 8;  // the last eight overlap those before them
      int64_t p = 0;
      for (; p + 8 <= k; p += 8) transpose8(dst + p * width + j, width, src + j * cs + p, cs);
      for (; p < k; ++p)
        for (int64_t i = j; i < j + 8; ++i) dst[p * width + i] = src[i * cs + p];
    }
  for (; j < n; ++j)
    for (int64_t p = 0; p < k; ++p) dst[p * width + j] = src[p * rs + j * cs];
  if (n < padded)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t i = n; i < padded; ++i) dst[p * width + i] = 0;
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
    for (int64_t q = p; q < (p + 4 < k ? p + 4 : k); ++q) sum[q - p] += x[q * xs] * load_part(b + q * ldb + j, n - j);
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  store_part(c + j, add ? load_part(c + j, n - j) + sum[0] : sum[0], n - j);
}

// Lane l of the result is x[l] + x[l + H] where bit H of l is 0, y[l - H] + y[l] where it is 1.
template <int H, class V, class I, int... l>
inline __attribute__((always_inline)) V fold(V x, V y, I, std::integer_sequence<int, l...>) {
  constexpr int L = sizeof...(l);
  return __builtin_shuffle(x, y, I{(l & H ? L + l - H : l)...}) +
         __builtin_shuffle(x, y, I{(l & H ? L + l : l + H)...});
}

// As many sums as a vector has lanes, R x N of them; vector i * N + j ends in lane i * N + j.
template <class T, int R, int N>
void dots_block(int64_t rows, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t rsc,
                int64_t csc, bool add) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  static_assert(R * N == L);
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> I __attribute__((vector_size(kVectorBytes)));
  V sum[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) sum[i] = V{};
  const T* x[R];
  for (int i = 0; i < R; ++i) x[i] = a + (i < rows ? i : rows - 1) * lda;
  auto step = [&](auto&& get, int64_t p) __attribute__((always_inline)) {
    V y[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) y[j] = get(b + j * ldb + p);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      V v = get(x[i] + p);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) sum[i * N + j] += v * y[j];
    }
  };
  int64_t p = 0;
  for (; p + L <= k; p += L) step([](const T* q) __attribute__((always_inline)) { return load(q); }, p);
  if (p < k) step([&](const T* q) __attribute__((always_inline)) { return load_part(q, k - p); }, p);
  constexpr auto lanes = std::make_integer_sequence<int, L>();
#pragma GCC unroll 8
  for (int i = 0; i < L; i += 2) sum[i] = fold<1>(sum[i], sum[i + 1], I{}, lanes);
  if constexpr (L > 2)
#pragma GCC unroll 8
    for (int i = 0; i < L; i += 4) sum[i] = fold<2>(sum[i], sum[i + 2], I{}, lanes);
  if constexpr (L > 4)
#pragma GCC unroll 8
    for (int i = 0; i < L; i += 8) sum[i] = fold<4>(sum[i], sum[i + 4], I{}, lanes);
  if constexpr (L > 8) sum[0] = fold<8>(sum[0], sum[8], I{}, lanes);
  if (N == 1 && rsc == 1) {
    if (rows >= L) *reinterpret_cast<V*>(c) = add ? load(c) + sum[0] : sum[0];
    else store_part(c, add ? load_part(c, rows) + sum[0] : sum[0], rows);
    return;
  }
  T lane[L];
  *reinterpret_cast<V*>(lane) = sum[0];
  for (int64_t i = 0; i < (rows < R ? rows : R); ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      T& to = c[i * rsc + j * csc];
      to = add ? to + lane[i * N + j] : lane[i * N + j];
    }
}

template <class T>
void dots(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t rsc,
          int64_t csc, bool add) {
  constexpr int L = Vec<T>::lanes;
  for (int64_t i = 0; i < m; i += L) {  // rows of a stay near for all columns
    const int64_t rows = m - i < L ? m - i : L;
    auto columns = [&]<int N>(int64_t j) {
      for (int64_t r = 0; r < rows; r += L / N)
        dots_block<T, L / N, N>(rows - r, k, a + (i + r) * lda, lda, b + j * ldb, ldb, c + (i + r) * rsc + j * csc, rsc,
                                csc, add);
      return N;
    };
    for (int64_t j = 0; j < n;) {
      if (L >= 16 && n - j >= 4) j += columns.template operator()<(L >= 16 ? 4 : 1)>(j);
      else if (L >= 4 && n - j >= 2) j += columns.template operator()<(L >= 4 ? 2 : 1)>(j);
      else j += columns.template operator()<1>(j);
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

// Every other lane of x and y, from lane First on.
template <class T, int First, int... l>
inline __attribute__((always_inline)) auto halves(typename Vec<T>::type x, typename Vec<T>::type y,
                                                  std::integer_sequence<int, l...>) {
  return __builtin_shuffle(x, y, LaneList<T>{2 * l + First...});
}
// The lanes of x and y in turns: the first half of them, the second.
template <class T, int Half, int... l>
inline __attribute__((always_inline)) auto turns(typename Vec<T>::type x, typename Vec<T>::type y,
                                                 std::integer_sequence<int, l...>) {
  constexpr int L = Vec<T>::lanes;
  return __builtin_shuffle(x, y, LaneList<T>{(l % 2 ? L : 0) + l / 2 + Half * L / 2 ...});
}

// Rows that come next, which the processor does not see: depthwise 96x112x112 with strides of 2 took 5.8 ms, so 2.8.
template <class T, int S>
inline void fetch_rows(const T* x, int64_t pitch, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (int s = 0; s < S; ++s) __builtin_prefetch(x + r * pitch + s * Vec<T>::lanes);
}
constexpr int64_t kRowsAhead = 4;

// What one tap of a window reads for a vector of results q to q + n - 1: from where in a row, and which lanes of it.
template <class T, int S>
struct Reach {
  int64_t at;
  Some<T> lanes[S];
  bool whole;  // all of them

  void aim(const Filter& f, int64_t q, int64_t n, int64_t tap) {
    constexpr int64_t L = Vec<T>::lanes;
    at = q * S + tap;
    const int64_t end = f.x[1] - at < (n - 1) * S + 1 ? f.x[1] - at : (n - 1) * S + 1;
    whole = at >= 0 && end >= (L - 1) * S + 1 && (S == 1 || f.x[1] - at >= L * S);
    for (int s = 0; s < S; ++s) {
      auto lane = [&](int64_t i) { return i - s * L < 0 ? 0 : i - s * L > L ? L : i - s * L; };
      lanes[s] = some<T>(lane(-at), lane(end) > lane(-at) ? lane(end) : lane(-at));
    }
  }
  template <bool Whole = false>
  inline __attribute__((always_inline)) auto read(const T* row) const {
    auto part = [&](int s) __attribute__((always_inline)) {
      return Whole ? load(row + at + s * Vec<T>::lanes) : load(row + at + s * Vec<T>::lanes, lanes[s]);
    };
    if constexpr (S == 1) return part(0);
    else return halves<T, 0>(part(0), part(1), std::make_integer_sequence<int, Vec<T>::lanes>());
  }
};
constexpr int64_t kReach = 16;  // taps of a window's row

// R rows of results from row h on, one vector of each; W: how wide the window is, if known. Rows beyond the plane are
// met where R is 1 alone.
template <class T, int S, int R, int W, bool Whole>
void filter_block(const Filter& f, const Reach<T, S>* reach, const T* x, const T* w, T* y, int64_t h, int64_t n) {
  typename Vec<T>::type sum[R] = {};
  const int64_t pitch = f.stride[0] * f.x[1];
  Reach<T, S> at[W ? W : 1];
  for (int j = 0; j < W; ++j) at[j] = reach[j];
  for (int64_t i = 0; i < f.window[0]; ++i, w += f.window[1]) {
    const int64_t first = h * f.stride[0] + f.tap[0][i];
    if (R == 1 && uint64_t(first) >= uint64_t(f.x[0])) continue;
    const T* row[R];
    for (int r = 0; r < R; ++r) row[r] = x + first * f.x[1] + r * pitch;
    if constexpr (W > 0) {
#pragma GCC unroll 4
      for (int j = 0; j < W; ++j)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] += w[j] * at[j].template read<Whole>(row[r]);
    } else {
      for (int64_t j = 0; j < f.window[1]; ++j) {
        at[0] = reach[j];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] += w[j] * at[0].template read<Whole>(row[r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T* to = y + r * f.y[1];
    if (n >= Vec<T>::lanes) *reinterpret_cast<typename Vec<T>::type*>(to) = sum[r];
    else store_part(to, sum[r], n);
  }
}

// The same for a window of 3 x 3 whose rows are neighbours, the results' rows P apart: each row of the plane is loaded
// once for all results that meet it. In the order of the window's rows, upwards where those go up: the same sums.
template <class T, int S, int R, int P, bool Whole>
void filter_square(const Filter& f, const Reach<T, S>* reach, const T* x, const T* w, T* y, int64_t h, int64_t n) {
  using V = typename Vec<T>::type;
  V sum[R] = {};
  const bool down = f.tap[0][1] > f.tap[0][0];
  const int64_t pitch = down ? f.x[1] : -f.x[1];
  const T* row = x + ((down ? h : h + R - 1) * P + f.tap[0][0]) * f.x[1];
  const Reach<T, S> at[3] = {reach[0], reach[1], reach[2]};
#pragma GCC unroll 20
  for (int p = 0; p < (R - 1) * P + 3; ++p, row += pitch) {
    const V v[3] = {at[0].template read<Whole>(row), at[1].template read<Whole>(row), at[2].template read<Whole>(row)};
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      if (const int i = p - r * P; i >= 0 && i < 3)
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) sum[r] += w[3 * i + j] * v[j];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T* to = y + (down ? r : R - 1 - r) * f.y[1];
    if (n >= Vec<T>::lanes) *reinterpret_cast<V*>(to) = sum[r];
    else store_part(to, sum[r], n);
  }
}

template <class T, int S, int W>
void filter_rows(const Filter& f, const T* x, const T* w, T* y, int64_t lo, int64_t hi) {
  constexpr int64_t L = Vec<T>::lanes;
  Reach<T, S> reach[kReach];
  int64_t least = f.tap[0][0], most = least;
  for (int64_t i = 1; i < f.window[0]; ++i) {
    least = f.tap[0][i] < least ? f.tap[0][i] : least;
    most = f.tap[0][i] > most ? f.tap[0][i] : most;
  }
  const int64_t way = f.window[0] == 3 ? f.tap[0][1] - f.tap[0][0] : 0;
  const bool square = W == 3 && f.stride[0] == S && (way == 1 || way == -1) && f.tap[0][2] - f.tap[0][1] == way;
  // Of the rows, those that meet no row beyond the plane. They are done 8 or 4 at once, the last of them over again
  // with those that are left (the same sums), for single rows wait for their own additions.
  const int64_t step = f.stride[0], left = f.x[0] - 1 - most, after = left < 0 ? 0 : left / step + 1;
  const int64_t before = least >= 0 ? 0 : (step - 1 - least) / step;
  const int64_t first = before > lo ? before : lo, end = after < hi ? after : hi;
  for (int64_t h = lo, rows; h < hi; h += rows) {
    rows = 1;
    if (h >= first && h < end) {
      if (end - first >= 4) rows = 4;
      if (kVectorBytes == 64 && end - first >= 8 && end - h > 4) rows = 8;
      if (end - h < rows) h = end - rows;
    }
    for (int64_t q = 0; q < f.y[1]; q += L) {
      const int64_t n = f.y[1] - q < L ? f.y[1] - q : L;
      bool whole = true;
      if (h == lo || f.y[1] > L)
        for (int64_t j = 0; j < f.window[1]; ++j) reach[j].aim(f, q, n, f.tap[1][j]);
      for (int64_t j = 0; j < f.window[1]; ++j) whole &= reach[j].whole;
      auto block = [&]<int R>() {
        if (R > 1) fetch_rows<T, S>(x + ((h + R) * f.stride[0] + most) * f.x[1] + q * S, f.x[1], R * f.stride[0]);
        auto f_block = whole ? filter_block<T, S, R, W, true> : filter_block<T, S, R, W, false>;
        if constexpr (W == 3 && R > 1)
          if (square) f_block = whole ? filter_square<T, S, R, S, true> : filter_square<T, S, R, S, false>;
        f_block(f, reach, x, w, y + h * f.y[1] + q, h, n);
      };
      if (rows == 8) block.template operator()<8>();
      else if (rows == 4) block.template operator()<4>();
      else block.template operator()<1>();
    }
  }
}

template <class T>
void filter(const Filter& f, const T* x, const T* w, T* y, int64_t lo, int64_t hi) {
  auto rows = f.window[1] == 3 ? (f.stride[1] == 1 ? filter_rows<T, 1, 3> : filter_rows<T, 2, 3>)
                               : (f.stride[1] == 1 ? filter_rows<T, 1, 0> : filter_rows<T, 2, 0>);
  rows(f, x, w, y, lo, hi);
}

// I x K taps of the window from row i on, for one vector of each row h to end - 1 of results; all meet rows of the
// plane.
template <class T, int S, int I, int K, bool Whole>
void filter_sums_block(const Filter& f, const Reach<T, S>* reach, int64_t i, const T* x, const T* dy, int64_t n,
                       T* sums, int64_t h, int64_t end) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V sum[I][K];
  Reach<T, S> at[K];
  const T* row[I];
  for (int p = 0; p < K; ++p) at[p] = reach[p];
  for (int r = 0; r < I; ++r) {
    row[r] = x + (h * f.stride[0] + f.tap[0][i + r]) * f.x[1];
    for (int p = 0; p < K; ++p) sum[r][p] = load(sums + (r * f.window[1] + p) * L);
  }
  const Some<T> lanes = some<T>(0, n);
  if constexpr (I == 3 && K == 3 && kRows >= 12) {  // 32 registers
    // Rows that are neighbours: what the next row of results meets again is not loaded again.
    if (f.stride[0] == S && row[1] - row[0] == f.x[1] && row[2] - row[1] == f.x[1]) {
      V v[3][3];
      const T* next = row[0];
      auto read = [&](int r) __attribute__((always_inline)) {
        for (int p = 0; p < 3; ++p) v[r][p] = at[p].template read<Whole>(next);
        next += f.x[1];
      };
      for (int r = 0; r < 3 - S && h < end; ++r) read(r);
      for (; h < end; ++h) {
        for (int r = 3 - S; r < 3; ++r) read(r);
        const V y = Whole ? load(dy + h * f.y[1]) : load(dy + h * f.y[1], lanes);
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r)
#pragma GCC unroll 3
          for (int p = 0; p < 3; ++p) sum[r][p] += v[r][p] * y;
#pragma GCC unroll 3
        for (int r = 0; r < 3 - S; ++r)
#pragma GCC unroll 3
          for (int p = 0; p < 3; ++p) v[r][p] = v[r + S][p];
      }
    }
  }
  for (; h < end; ++h) {
    const V y = Whole ? load(dy + h * f.y[1]) : load(dy + h * f.y[1], lanes);
#pragma GCC unroll 3
    for (int r = 0; r < I; ++r) {
#pragma GCC unroll 3
      for (int p = 0; p < K; ++p) sum[r][p] += at[p].template read<Whole>(row[r]) * y;
      row[r] += f.stride[0] * f.x[1];
    }
  }
  for (int r = 0; r < I; ++r)
    for (int p = 0; p < K; ++p) *reinterpret_cast<V*>(sums + (r * f.window[1] + p) * L) = sum[r][p];
}

// I rows of taps: the results that meet rows of the plane with all of them, and those that do with some.
template <class T, int S, int I, int K, bool Whole>
void filter_sums_taps(const Filter& f, const Reach<T, S>* reach, int64_t i, const T* x, const T* dy, int64_t n,
                      T* sums) {
  int64_t first[I], end[I], from = 0, to = f.y[0];
  for (int r = 0; r < I; ++r) {
    const int64_t tap = f.tap[0][i + r], s = f.stride[0], left = f.x[0] - 1 - tap;
    first[r] = tap >= 0 ? 0 : (s - 1 - tap) / s;
    end[r] = left < 0 ? 0 : left / s + 1 < f.y[0] ? left / s + 1 : f.y[0];
    from = first[r] > from ? first[r] : from;
    to = end[r] < to ? end[r] : to;
  }
  if (from > to) from = to = 0;
  filter_sums_block<T, S, I, K, Whole>(f, reach, i, x, dy, n, sums, from, to);
  for (int r = 0; I > 1 && r < I; ++r) {
    T* sum = sums + r * f.window[1] * Vec<T>::lanes;
    const int64_t before = end[r] < from ? end[r] : from, after = first[r] > to ? first[r] : to;
    if (first[r] < before) filter_sums_block<T, S, 1, K, Whole>(f, reach, i + r, x, dy, n, sum, first[r], before);
    if (after < end[r]) filter_sums_block<T, S, 1, K, Whole>(f, reach, i + r, x, dy, n, sum, after, end[r]);
  }
}

template <class T, int S>
void filter_sums_rows(const Filter& f, const T* x, const T* dy, T* sum) {
  constexpr int64_t L = Vec<T>::lanes;
  Reach<T, S> reach[kReach];
  for (int64_t q = 0; q < f.y[1]; q += L) {
    const int64_t n = f.y[1] - q < L ? f.y[1] - q : L, w = f.window[1];
    bool whole = true;
    for (int64_t j = 0; j < w; ++j) reach[j].aim(f, q, n, f.tap[1][j]), whole &= reach[j].whole;
    auto taps = [&]<int I, int K>(int64_t i, int64_t j) {
      (whole ? filter_sums_taps<T, S, I, K, true> : filter_sums_taps<T, S, I, K, false>)(
          f, reach + j, i, x, dy + q, n, sum + (i * w + j) * L);
    };
    for (int64_t i = 0; i < f.window[0];) {
      const bool three = i + 3 <= f.window[0];
      int64_t j = 0;
      for (; j + 3 <= w; j += 3)
        if (three) taps.template operator()<3, 3>(i, j);
        else taps.template operator()<1, 3>(i, j);
      for (; j < w; ++j)
        if (three) taps.template operator()<3, 1>(i, j);
        else taps.template operator()<1, 1>(i, j);
      i += three ? 3 : 1;
    }
  }
}

template <class T>
void filter_sums(const Filter& f, const T* x, const T* dy, T* sum) {
  (f.stride[1] == 1 ? filter_sums_rows<T, 1> : filter_sums_rows<T, 2>)(f, x, dy, sum);
}

template <class T, int K>
void traces_block(T* sums, const int64_t* off, const T* b, const T* c, const Piece* pieces, int64_t count) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V sum[K];
  const T* from[K];
  for (int p = 0; p < K; ++p) sum[p] = load(sums + p * L), from[p] = b + off[p];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = pieces[i].from;
    const T* to = c + pieces[i].to;
    if (int n = pieces[i].n; n == L) {
      const V y = load(to);
#pragma GCC unroll 12
      for (int p = 0; p < K; ++p) sum[p] += load(from[p] + at) * y;
    } else {
      const V y = load_part(to, n);
#pragma GCC unroll 12
      for (int p = 0; p < K; ++p) sum[p] += load_part(from[p] + at, n) * y;
    }
  }
  for (int p = 0; p < K; ++p) *reinterpret_cast<V*>(sums + p * L) = sum[p];
}

// Nine at once: a window of 3 x 3 in one pass.
template <class T>
void traces(int64_t k, T* sum, const int64_t* off, const T* b, const T* c, const Piece* pieces, int64_t count) {
  constexpr int L = Vec<T>::lanes;
  int64_t p = 0;
  for (; p + 9 <= k; p += 9) traces_block<T, 9>(sum + p * L, off + p, b, c, pieces, count);
  for (; p + 4 <= k; p += 4) traces_block<T, 4>(sum + p * L, off + p, b, c, pieces, count);
  for (; p < k; ++p) traces_block<T, 1>(sum + p * L, off + p, b, c, pieces, count);
}

// Strides of 1 and 2: S vectors are read for S phases of one each.
template <class T, int S>
void thin_rows(T* to, const int64_t* phase, int64_t to_pitch, const T* from, int64_t from_pitch, int64_t rows,
               int64_t n, int64_t first, int64_t extent) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  const int64_t phases[2] = {phase[0], phase[S - 1]};
  for (; rows > 0; --rows, to += to_pitch, from += from_pitch) {
    auto part = [&](int64_t at) __attribute__((always_inline)) {
      const int64_t a = -at > 0 ? -at : 0, b = extent - at < L ? extent - at : L;
      return a >= b ? V{} : load_lanes(from + at, a, b);
    };
    auto put = [&](int64_t p, int64_t j, V v) __attribute__((always_inline)) {
      if (p < 0) return;
      if (n - j >= L) *reinterpret_cast<V*>(to + p + j) = v;
      else store_part(to + p + j, v, n - j);
    };
    for (int64_t j = 0; j < n; j += L) {
      const int64_t at = first + j * S;
      const bool inside = at >= 0 && at + S * L <= extent;
      const V x = inside ? load(from + at) : part(at);
      if constexpr (S == 1) {
        put(phases[0], j, x);
      } else {
        // Rows may be skipped, which the processor does not foresee.
        fetch_rows<T, S>(from + at + kRowsAhead * from_pitch, 0, 1);
        const V y = inside ? load(from + at + L) : part(at + L);
        put(phases[0], j, halves<T, 0>(x, y, lanes));
        put(phases[1], j, halves<T, 1>(x, y, lanes));
      }
    }
  }
}

template <class T>
void thin(T* to, const int64_t* phase, int64_t to_pitch, const T* from, int64_t from_pitch, int64_t rows, int64_t n,
          int64_t first, int64_t extent, int64_t stride) {
  if (stride == 1) return thin_rows<T, 1>(to, phase, to_pitch, from, from_pitch, rows, n, first, extent);
  if (stride == 2) return thin_rows<T, 2>(to, phase, to_pitch, from, from_pitch, rows, n, first, extent);
  for (; rows > 0; --rows, to += to_pitch, from += from_pitch)
    for (int64_t b = 0; b < stride; ++b)
      for (int64_t j = 0, i = first + b; phase[b] >= 0 && j < n; ++j, i += stride)
        to[phase[b] + j] = i >= 0 && i < extent ? from[i] : T(0);
}

template <class T>
void weave(T* to, int64_t n, const T* const* from, int64_t stride) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  if (stride != 2) {
    for (int64_t b = 0; b < stride; ++b)
      for (int64_t j = b, i = 0; j < n; j += stride, ++i) to[j] = from[b] ? from[b][i] : T(0);
    return;
  }
  for (int64_t j = 0; j < n; j += 2 * L) {
    auto part = [&](int b) __attribute__((always_inline)) {
      const int64_t left = (n - j + 1 - b) / 2;
      return !from[b] ? V{} : left >= L ? load(from[b] + j / 2) : load_part(from[b] + j / 2, left);
    };
    const V x = part(0), y = part(1), low = turns<T, 0>(x, y, lanes), high = turns<T, 1>(x, y, lanes);
    if (n - j >= 2 * L) {
      *reinterpret_cast<V*>(to + j) = low;
      *reinterpret_cast<V*>(to + j + L) = high;
    } else {
      if (n - j >= L) *reinterpret_cast<V*>(to + j) = low;
      else store_part(to + j, low, n - j);
      if (n - j > L) store_part(to + j + L, high, n - j - L);
    }
  }
}

// N elements, known here, so that each copy is one or two moves.
template <class T, int N>
void columns_of(T* dst, int64_t width, const T* src, const int64_t* off, int64_t k) {
  for (int64_t p = 0; p < k; ++p) std::memcpy(dst + p * width, src + off[p], N * sizeof(T));
}

template <class T>
void columns(T* dst, int64_t width, const T* src, const int64_t* off, int64_t k, int64_t n) {
  for (; n >= 16; n -= 16, dst += 16, src += 16) columns_of<T, 16>(dst, width, src, off, k);
  if (n & 8) columns_of<T, 8>(dst, width, src, off, k), dst += 8, src += 8;
  if (n & 4) columns_of<T, 4>(dst, width, src, off, k), dst += 4, src += 4;
  if (n & 2) columns_of<T, 2>(dst, width, src, off, k), dst += 2, src += 2;
  if (n & 1) columns_of<T, 1>(dst, width, src, off, k);
}

template <class T>
void shifted(T* to, int64_t n, const T* from, const int64_t* off, const int64_t* shift, int64_t count, int64_t m) {
  constexpr int64_t L = Vec<T>::lanes;
  for (int64_t x = 0; x < n; x += L) {
    typename Vec<T>::type sum{};
    for (int64_t s = 0; s < count; ++s) {
      const int64_t first = shift[s] - x, end = first + m;
      const int64_t lo = first < 0 ? 0 : first, hi = end > L ? L : end;
      if (lo < hi) sum += load_lanes(from + off[s] - first, lo, hi);
    }
    if (n - x >= L) *reinterpret_cast<typename Vec<T>::type*>(to + x) = sum;
    else store_part(to + x, sum, n - x);
  }
}

template <class T, int W>
void copy_runs(T* dst, const T* src, const int64_t* off, int64_t runs, int64_t len) {
  struct Chunk { T v[W]; };
  for (int64_t r = 0; r < runs; ++r) {
    Chunk c;
    std::memcpy(&c, src + off[r * len], sizeof c);
    std::memcpy(dst + r * len, &c, sizeof c);
  }
}

template <class T>
void runs(T* dst, const T* src, const int64_t* off, int64_t runs, int64_t len) {
  if (len == 1)
    for (int64_t r = 0; r < runs; ++r) dst[r] = src[off[r]];
  else if (len == 2) copy_runs<T, 2>(dst, src, off, runs, len);
  else if (len <= 4) copy_runs<T, 4>(dst, src, off, runs, len);
  else if (len <= 8) copy_runs<T, 8>(dst, src, off, runs, len);
  else if (len <= 16) copy_runs<T, 16>(dst, src, off, runs, len);
  else
    for (int64_t r = 0; r < runs; ++r) std::memcpy(dst + r * len, src + off[r * len], size_t(len) * sizeof(T));
}

template <class T>
constexpr Micro<T> table() {
  return {Vec<T>::lanes, kRows, panel<T>, tile<T>, pack<T>, vecmat<T>, dots<T>, lines<T>, filter<T>,
          filter_sums<T>, traces<T>, thin<T>, weave<T>,
          columns<T>, shifted<T>, runs<T>};
}

}  // namespace


constinit const MicroTable micro_table = {table<float>(), table<double>()};

}  // namespace knet::cpu::KNET_ISA
