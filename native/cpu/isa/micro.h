// The inner loops of products and convolutions, one table per instruction set. Plain declarations only: this header is
// compiled into every instruction set.
#pragma once
#include <cstdint>
#include <type_traits>

namespace knet::cpu {

// The number of a vector's lane.
template <class T>
using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// A vector of results: where it begins in B and in C, how many of its lanes are results, and which: those of the list
// `order` (a list has as many lanes as a vector); below 0: the first n.
struct Piece {
  int64_t from, to;
  int n, order;
};

// A filter over one plane: result (h, q) meets element (h * stride[0] + tap[0][i], q * stride[1] + tap[1][j]) of the
// plane with element (i, j) of the window; outside of the plane are zeros. Strides along rows are 1 or 2, windows at
// most 16 wide.
struct Filter {
  int64_t x[2], y[2], stride[2], window[2];
  const int64_t* tap[2];
};

// What will be read soon: `runs` runs of n elements, `stride` from one to the next.
template <class T>
struct Soon {
  const T* at = nullptr;
  int64_t runs = 0, stride = 0, n = 0;
};

// A panel is up to two vectors of columns wide; each vector has its own place in B and in C, so that the two may come
// from different rows of an image. Row p of B is at b[v] + off[p]: packed, strided or gathered from an image, all the
// same.
//   c[v][i * ldc + j] (+)= sum over p < k of a[i * rsa + p * csa] * b[v][off[p] + j],  i < m, j < n[v]
// Whole vectors of B are read (b[v] + off[p] + lanes must be readable) even where n[v] is less. The sum over p is in
// order, one fused chain per element: the result depends neither on m nor on the panel's place.
template <class T>
struct Panel {
  const T* b[2];
  T* c[2];
  int n[2];  // n[1] = 0: one vector only
  // Rows of B far apart and evenly spaced (off[1] - off[0]), read by several blocks of rows: room for k x 2 vectors,
  // k <= 256. The first block leaves B here for the others, which spares a pass over B. Null: B is read where it is.
  T* keep = nullptr;
  // What will be read next, of B and of A: it is fetched into L2 between the blocks of rows.
  Soon<T> next[2];
  // Packed A: elements from one block of rows to the next. 0: row i is at a + i * rsa.
  int64_t a_block = 0;
  // A by columns (rsa = 1) that other panels will read as well: each block of rows leaves its own packed here for them,
  // columns kept_column apart (whole vectors are written), blocks a_block. Then n[1] > 0, and B is near.
  T* keep_a = nullptr;
  int64_t kept_column = 0;
  // The lanes that are results (n[v] of them, the rest is anything): c[v][j] takes lane order[v][j]. Null: in order.
  const Lane<T>* order[2] = {nullptr, nullptr};
};

// Rows of A in runs of neighbours: runs <= kRuns, runs * len <= Micro::rows. Steps of the sum that meet neighbours, so
// many at a time (`near`: 1, 2 or 3; their number is a multiple of it), read them once.
constexpr int kRuns = 4;
template <class T>
struct Tile {
  const T* a[kRuns];
  T* c;
  int64_t run_step, step;
  int runs, len, near = 1;
  const T *const *next, *const *next_end;  // lines that will be used next, fetched into L2 meanwhile; the last is read
};

// Results side by side in a row, of windows three columns wide that meet the image where it lies, with a packed B, two
// vectors (w lanes) wide:
//   c[i * step + j] = sum over q < channels, r < rows, p < 3 of
//                     x[q * channel + r * row + i * stride + p] * b[q * b_channel + (3 * r + p) * w + j],
//                     i < len <= Micro::rows, j < w
// in order, one fused chain. The first and the last column that are met may lie beyond the image: then they are zeros,
// and not read. The stride is 1 or 2.
template <class T>
struct Triples {
  const T* x;
  const T* b;
  T* c;
  int64_t channels, channel, rows, row, b_channel, step;
  int stride, len;
  bool first, last;  // they lie in the image
  const T *const *next, *const *next_end;  // lines that will be used next, fetched into L2 meanwhile; the last is read
};

// c[i * ldc + j] = sum over p < k of a(i, p) * b[p * ldb + j], i < m, j < n; n is at most two vectors. A is packed in
// blocks of about equal height, at most Micro::rows: a(i, p) of block b, whose first row is i0, is
// a[(b * k + p) * rows + i - i0].
template <class T>
struct Point {
  int64_t m, k;
  const T* a;
  const T* b;        // whole vectors of it are read
  int64_t ldb;       // two vectors where `keep` is null
  T* keep;           // room for k x 2 vectors, where the first block leaves B for the others; null: B is near already
  T* c;
  int64_t ldc;
  int n;
  bool around;       // c is written around the caches: whole vectors aligned to vectors, Micro::settle() at the end
  // What will be read next, fetched into L2 meanwhile: next[line[l] + p * next_step], l < lines, p < k.
  const T* next;
  int64_t next_step;
  const int64_t* line;
  int64_t lines;
};

// c[i * ldc + j] (+)= sum over segments g and p < k of a[g * a_segment + i * lda + p] * b[g * b_segment + p * w + j],
// i < m, j < w, two vectors. B is packed.
template <class T>
struct Sums {
  int64_t m, k, segments;
  const T* a;
  int64_t lda, a_segment;
  const T* b;
  int64_t b_segment;
  T* c;
  int64_t ldc;
  bool add;
  // What will be read next: 16 lines of each of `next_rows` rows, fetched into L2 meanwhile, row i with row i of A.
  const T* next;
  int64_t next_step, next_rows;
};

template <class T>
struct Micro {
  int lanes;  // elements of a vector
  int rows;   // most rows held in registers; rows beyond that are done in blocks of about equal height
  void (*panel)(int64_t m, int64_t k, const T* a, int64_t rsa, int64_t csa, const int64_t* off, const Panel<T>& p,
                int64_t ldc, bool add);
  // A tile of results with a packed B, two vectors (w lanes) wide:
  //   c[r * run_step + i * step + j] (+)= sum over s < k of a[r][off[s] + i] * b[s * w + j],  r < runs, i < len, j < w
  // Nothing else of A is read. The sum over s is in order, one fused chain.
  void (*tile)(const Tile<T>& t, int64_t k, const int64_t* off, const T* b, bool add);
  void (*triples)(const Triples<T>& t);
  // dst[p * width + j] = src[p * rs + j * cs] for p < k, j < n; zeros for n <= j < padded.
  void (*pack)(T* dst, int64_t k, int64_t n, int64_t padded, int64_t width, const T* src, int64_t rs, int64_t cs);
  // c[j] (+)= sum over p < k of x[p * xs] * b[p * ldb + j], j < n
  void (*vecmat)(int64_t n, int64_t k, const T* x, int64_t xs, const T* b, int64_t ldb, T* c, bool add);
  // c[i * rsc + j * csc] (+)= sum over p < k of a[i * lda + p] * b[j * ldb + p], i < m, j < n: vectors along the sum,
  // for results too narrow to be a panel.
  void (*dots)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t rsc,
               int64_t csc, bool add);
  // c[i * ldc + to + j] = sum over p < k of a[i * rsa + p] * b[off[p] + from + j] for each piece (`count` of them),
  // i < m <= 3: many vectors at once where there are too few rows to hide the latency of an addition.
  void (*lines)(int64_t m, int64_t k, const T* a, int64_t rsa, const int64_t* off, const T* b, T* c, int64_t ldc,
                const Piece* pieces, int64_t count, const Lane<T>* orders);
  // Rows lo to hi - 1 of the results of a filter, into y (whose first row is row 0).
  void (*filter)(const Filter& f, const T* x, const T* w, T* y, int64_t lo, int64_t hi);
  // sum[(i * window[1] + j) * lanes + l] += what element (i, j) of the window meets times dy, added up by lanes. The
  // planes next_x and next_dy, which come next, are fetched meanwhile.
  void (*filter_sums)(const Filter& f, const T* x, const T* dy, T* sum, const T* next_x, const T* next_dy);
  // sum[p * lanes + l] += b[off[p] + from + l] * c[to + l] over the pieces (in order, no lists), p < k. Nothing but the
  // lanes below n is read.
  void (*traces)(int64_t k, T* sum, const int64_t* off, const T* b, const T* c, const Piece* pieces, int64_t count);
  // to[phase[b] + r * to_pitch + j] = from[r * from_pitch + i], i = first + j * stride + b, where 0 <= i < extent,
  // else 0; for r < rows, j < n, b < stride where phase[b] >= 0. Nothing else is read or written.
  void (*thin)(T* to, const int64_t* phase, int64_t to_pitch, const T* from, int64_t from_pitch, int64_t rows,
               int64_t n, int64_t first, int64_t extent, int64_t stride);
  // to[j] = from[j % stride][j / stride], j < n; zeros where from[...] is null.
  void (*weave)(T* to, int64_t n, const T* const* from, int64_t stride);
  // dst[p * width + j] = src[off[p] + j] for p < k, j < n.
  void (*columns)(T* dst, int64_t width, const T* src, const int64_t* off, int64_t k, int64_t n);
  // to[x] = sum over s < count of from[off[s] + x - shift[s]] where 0 <= x - shift[s] < m, in order; x < n.
  void (*shifted)(T* to, int64_t n, const T* from, const int64_t* off, const int64_t* shift, int64_t count, int64_t m);
  // Copies `runs` runs of `len` elements: run r from src + off[r * len] to dst + r * len. Writes and reads up to 15
  // elements beyond each run (later runs overwrite it).
  void (*runs)(T* dst, const T* src, const int64_t* off, int64_t runs, int64_t len);
  void (*point)(const Point<T>& p);
  void (*sums)(const Sums<T>& t);
  // Copies n elements around the caches, settle() at the end.
  void (*around)(T* to, const T* from, int64_t n);
  void (*settle)();  // what was written around the caches is there for other threads
};

struct MicroTable {
  Micro<float> f32;
  Micro<double> f64;
};

#if defined(KNET_X86)
namespace v2 { extern const MicroTable micro_table; }
namespace v3 { extern const MicroTable micro_table; }
namespace v4 { extern const MicroTable micro_table; }
#else
namespace base { extern const MicroTable micro_table; }
#endif

const MicroTable& micro();
template <class T>
const Micro<T>& micro_of();

}  // namespace knet::cpu
