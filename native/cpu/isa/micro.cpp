// Products in registers, and the table of all inner loops. See micro.h for what they compute.
#include "cpu/isa/micro.h"

#include <type_traits>
#include <utility>

#include "cpu/isa/micro_filter.h"
#include "cpu/isa/micro_move.h"
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

template <class T>
constexpr Micro<T> table() {
  return {Vec<T>::lanes, kRows, panel<T>, pack<T>, vecmat<T>, dots<T>, lines<T>, filter<T>,
          filter_sums<T>, traces<T>, thin<T>, weave<T>,
          columns<T>, shifted<T>, runs<T>};
}

}  // namespace

constinit const MicroTable micro_table = {table<float>(), table<double>()};

}  // namespace knet::cpu::KNET_ISA
