// Matrix products. The inner loops are in isa/micro.cpp: blocks of up to 14 x 2 vectors in registers. Around them are
// tiles (tasks), blocks over k that keep a panel of b in L1, and packing where it pays: rows of a are read where they
// are, rows of b are copied by the block that reads them first, columns of a by the panel that does. Packing both for
// all tiles of a step at once gained nothing: one tile that packs everything once ran 1024^3 no faster than 16 that
// share nothing.
//
// There is no BLAS underneath: it would bring its own threads, fork handlers and environment variables. On one core we
// are at 0.9 to 1.1 of the better of OpenBLAS and MKL, of small products ahead: benchmarks/README.md.
#include "cpu/gemm.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "cpu/isa.h"
#include "cpu/registry.h"
#include "cpu/threads.h"

namespace knet::cpu {

const MicroTable& micro() {
#if defined(KNET_X86)
  return pick(v2::micro_table, v3::micro_table, v4::micro_table);
#else
  return base::micro_table;
#endif
}
template <>
const Micro<float>& micro_of<float>() { return micro().f32; }
template <>
const Micro<double>& micro_of<double>() { return micro().f64; }

void* workspace(int slot, size_t bytes) {
  struct Area {
    void* data = nullptr;
    size_t bytes = 0;
    ~Area() { std::free(data); }
  };
  static thread_local Area areas[2];
  Area& a = areas[slot];
  if (bytes > a.bytes) {
    std::free(a.data);
    a.bytes = 0;
    size_t size = (bytes + bytes / 8 + 4095) / 4096 * 4096;
    a.data = std::aligned_alloc(64, size);
    if (!a.data)
      throw Error(Error::Memory, "[matmul] no memory for " + std::to_string(size) + " bytes of working space.");
    a.bytes = size;
  }
  return a.data;
}

namespace {

// A panel of b is kBlock x 2 vectors: 32 KiB with 64-byte vectors, of 32 to 48 KiB of L1.
constexpr int64_t kBlock = 256;
// Largest tile: elements of a that stay for all its panels (0.34 MiB of floats, for an L2 of 512 KiB or more), columns.
constexpr int64_t kTileA = 336 * kBlock, kTileN = 1024;
constexpr int64_t kTallM = 256;  // most rows where a's columns are packed, in one of several tiles

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// off[p] = p * ld for packed panels.
template <class T>
const int64_t* packed_rows(int64_t width) {
  static const auto* table = [](int64_t w) {
    auto* t = new int64_t[kBlock];
    for (int64_t p = 0; p < kBlock; ++p) t[p] = p * w;
    return t;
  }(width);
  return table;
}

// c (1 x n) = [c +] x (1 x k) b: memory-bound, each element of b is used once.
template <class T>
void vector_times(int64_t n, int64_t k, const T* x, int64_t xs, Mat<T> b, T* c, int64_t cs, bool add) {
  const Micro<T>& micro = micro_of<T>();
  if (b.cs == 1 && cs == 1) return micro.vecmat(n, k, x, xs, b.data, b.rs, c, add);
  if (xs != 1) {
    T* packed = static_cast<T*>(workspace(0, size_t(k) * sizeof(T)));
    for (int64_t p = 0; p < k; ++p) packed[p] = x[p * xs];
    x = packed;
  }
  if (b.rs == 1) return micro.dots(n, 1, k, b.data, b.cs, x, k, c, cs, 1, add);
  for (int64_t j = 0; j < n; ++j) {
    T sum = 0;
    for (int64_t p = 0; p < k; ++p) sum += x[p] * b.data[p * b.rs + j * b.cs];
    c[j * cs] = add ? c[j * cs] + sum : sum;
  }
}

// c (m x n) of few columns, a by rows: sums along the vectors. 100x784x10 took 10 us instead of 21.
template <class T>
void narrow_by_rows(int64_t m, int64_t n, int64_t k, Mat<T> a, Mat<T> b, T* c, int64_t ldc, bool add) {
  constexpr int64_t kDeep = 1024;
  const Micro<T>& micro = micro_of<T>();
  const int64_t kb = std::min(k, kDeep), pitch = round_up(kb, micro.lanes) + micro.lanes;
  T* turned = b.rs == 1 ? nullptr : static_cast<T*>(workspace(0, size_t(n * pitch) * sizeof(T)));
  for (int64_t p = 0; p < k; p += kDeep) {
    const int64_t kk = std::min(kDeep, k - p);
    if (turned) micro.pack(turned, n, kk, kk, pitch, b.data + p * b.rs, b.cs, b.rs);
    micro.dots(m, n, kk, a.data + p, a.rs, turned ? turned : b.data + p, turned ? pitch : b.cs, c, ldc, 1, add || p);
  }
}

// The same, a by columns: c^T = b^T a^T, a panel of 2 vectors of c^T at a time, turned when it is done. 784x100x10 took
// 13 us instead of 20.
template <class T>
void narrow_by_columns(int64_t m, int64_t n, int64_t k, Mat<T> a, Mat<T> b, T* c, int64_t ldc, bool add) {
  const Micro<T>& micro = micro_of<T>();
  const int64_t lanes = micro.lanes, width = 2 * lanes, kb = std::min(k, kBlock);
  T* turned = static_cast<T*>(workspace(0, size_t((n + kb) * width) * sizeof(T)));
  T* packed = turned + n * width;
  int64_t direct[kBlock];
  for (int64_t p = 0; p < kb; ++p) direct[p] = p * a.cs;
  for (int64_t i = 0; i < m; i += width) {
    const int64_t rows = std::min(width, m - i);
    if (add) micro.pack(turned, n, rows, rows, width, c + i * ldc, 1, ldc);
    for (int64_t p = 0; p < k; p += kBlock) {
      const int64_t kk = std::min(kBlock, k - p);
      Panel<T> panel{
          {a.data + i + p * a.cs, nullptr}, {turned, turned + lanes}, {int(lanes), rows > lanes ? int(lanes) : 0}};
      const int64_t* off = direct;
      if (rows % lanes) {
        micro.pack(packed, kk, rows, round_up(rows, lanes), width, panel.b[0], a.cs, 1);
        panel.b[0] = packed;
        off = packed_rows<T>(width);
      }
      panel.b[1] = panel.b[0] + lanes;
      micro.panel(n, kk, b.data + p * b.rs, b.cs, b.rs, off, panel, width, add || p);
    }
    micro.pack(c + i * ldc, rows, n, n, ldc, turned, 1, width);
  }
}

}  // namespace

template <class T>
int64_t Gemm<T>::pieces(int64_t m, int64_t n, int64_t k) {
  // Narrow tiles cost: 128x1024x512 (b^T) took 0.92 ms in 8 tiles of 128x64, 1.22 in 32 of 42x64.
  const double ns = double(m) * double(n) * double(k) / (5 * micro_of<T>().lanes);
  return std::clamp<int64_t>(int64_t(ns / 15e3), 1, std::clamp<int64_t>(int64_t(ns / 25e3), 8, 16));
}

template <class T>
Gemm<T>::Gemm(int64_t m, int64_t n, int64_t k, int64_t pieces, bool a_by_columns) : m(m), n(n), k(k) {
  const Micro<T>& micro = micro_of<T>();
  const int64_t width = 2 * micro.lanes;
  // Multiply-adds per ns: 2 vectors a cycle at 2.5 GHz; what is padded costs as well. Reading b or c once: 10 GB/s.
  cost_ns_ = double(m) * double(round_up(n, micro.lanes)) * double(k) / (micro.lanes * 5.0) +
             double(m * k + k * n + m * n) * sizeof(T) / 40 + 50;
  if (m == 0 || n == 0) return;
  tile_m_ = std::min(m, a_by_columns && pieces > 1 ? kTallM : kTileA / std::clamp<int64_t>(k, 64, kBlock));
  tile_n_ = std::min(n, kTileN);
  if (m == 1 || n == 1) {
    // Vectors: 64 Ki elements of the matrix a task.
    int64_t most = std::max<int64_t>(256, round_up((int64_t(1) << 16) / std::max<int64_t>(k, 1), 64));
    (m == 1 ? tile_n_ : tile_m_) = std::min(most, std::max(m, n));
  } else {
    // Where rows of a are read in place, columns are cut first, for b is copied by each tile's first block of rows:
    // with b in no cache 100x800x500 took 11 % less in 16 tiles of 100x32 than of 50x64, which read it twice. Where a
    // is read by columns, down to 2 panels, and tiles stay tall: 512^3 on four threads ran at 640 GFLOP/s in tiles of
    // 256x64, at 611 in 128x128, at 594 in 103x128.
    auto halve = [](int64_t& tile, int64_t unit) { tile = round_up(tile / 2, unit); };
    while ((m + tile_m_ - 1) / tile_m_ * ((n + tile_n_ - 1) / tile_n_) < pieces) {
      if (a_by_columns && tile_n_ > 2 * width) halve(tile_n_, width);
      else if (tile_n_ > std::max(tile_m_, 2 * width)) halve(tile_n_, width);
      else if (tile_m_ > 16 * micro.rows) halve(tile_m_, micro.rows);
      else if (tile_n_ > 2 * width) halve(tile_n_, width);
      else if (tile_n_ > width) halve(tile_n_, width);
      else if (tile_m_ > 4 * micro.rows) halve(tile_m_, micro.rows);
      else if (tile_m_ > 2 * micro.rows) halve(tile_m_, micro.rows);
      else break;
    }
  }
  rows_ = (m + tile_m_ - 1) / tile_m_;
  cols_ = (n + tile_n_ - 1) / tile_n_;
  // Even shares: 1000 rows are 3 tiles of 336, not 2 and a rest.
  if (m > 1 && n > 1) {
    tile_m_ = (m + rows_ - 1) / rows_;
    if (a_by_columns && n < micro.lanes) tile_m_ = std::min(m, round_up(tile_m_, width));  // vectors along m
    tile_n_ = std::min(n, round_up((n + cols_ - 1) / cols_, width));
    rows_ = (m + tile_m_ - 1) / tile_m_;
    cols_ = (n + tile_n_ - 1) / tile_n_;
  }
}

template <class T>
std::string Gemm<T>::text() const {
  return std::to_string(m) + "x" + std::to_string(k) + "x" + std::to_string(n) + ", " + std::to_string(tiles()) +
         " tiles of " + std::to_string(tile_m_) + "x" + std::to_string(tile_n_);
}

template <class T>
void Gemm<T>::tile(int64_t t, Mat<T> a, Mat<T> b, T* c, int64_t ldc, bool add) const {
  const int64_t i0 = t / cols_ * tile_m_, j0 = t % cols_ * tile_n_;
  const int64_t tm = std::min(tile_m_, m - i0), tn = std::min(tile_n_, n - j0);
  a.data += i0 * a.rs;
  b.data += j0 * b.cs;
  c += i0 * ldc + j0;
  if (k == 0) {
    if (!add)
      for (int64_t i = 0; i < tm; ++i) std::memset(c + i * ldc, 0, size_t(tn) * sizeof(T));
    return;
  }
  if (m == 1) return vector_times<T>(tn, k, a.data, a.cs, b, c, 1, add);
  if (n == 1) return vector_times<T>(tm, k, b.data, b.rs, {a.data, a.cs, a.rs}, c, ldc, add);

  const Micro<T>& micro = micro_of<T>();
  const int64_t lanes = micro.lanes, width = 2 * lanes;
  // Cycles of a row: k / 2 for a panel of one vector; n k / 2 lanes along the sum, and 45 / lanes for each end of a
  // sum.
  if (a.cs == 1 && n < lanes && k * (lanes - n) > 90 * n) return narrow_by_rows<T>(tm, n, k, a, b, c, ldc, add);
  if (a.rs == 1 && a.cs != 1 && n < lanes && n <= micro.rows && m >= 2 * lanes)
    return narrow_by_columns<T>(tm, n, k, a, b, c, ldc, add);
  const int64_t blocks = (tm + micro.rows - 1) / micro.rows;
  // Rows of a are read where they are, at any stride: 170 of 179 GFLOP/s. Its columns at 146 to 162, worth a copy when
  // enough panels use it, which the first panel makes by the way: 20 to 70 us of 1.7 ms less (512^3) than before it.
  const bool by_columns = a.cs != 1, pack_a = by_columns && tn > 3 * width;
  // Blocks of about the same depth: 800 are 4 of 208, not 3 of 256 and one of 32.
  const int64_t count = (k + kBlock - 1) / kBlock, kb = std::min(k, round_up((k + count - 1) / count, 16));
  const int64_t high = round_up(micro.rows, 8), panels = (tn + width - 1) / width;
  T* panel_b = static_cast<T*>(workspace(0, size_t(kb * (width + (pack_a ? blocks * high : 0))) * sizeof(T)));
  T* packed_a = panel_b + kb * width;
  int64_t direct[kBlock];
  for (int64_t p = 0; p < kb; ++p) direct[p] = p * b.rs;
  const int64_t* packed = packed_rows<T>(width);

  for (int64_t p0 = 0; p0 < k; p0 += kb) {
    const int64_t kk = std::min(kb, k - p0), then = std::min(kb, k - p0 - kk);  // `then`: the depth of the next block
    const T* a_block = a.data + p0 * a.cs;
    const T* b_block = b.data + p0 * b.rs;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t j = panel * width, cols = std::min(width, tn - j);
      const bool first = panel == 0, last = panel + 1 == panels;
      Panel<T> p;
      p.n[0] = int(std::min(cols, lanes));
      p.n[1] = int(std::max<int64_t>(0, cols - lanes));
      p.c[0] = c + j;
      p.c[1] = p.c[0] + lanes;
      p.b[0] = b_block + j * b.cs;
      const int64_t* off = direct;
      if (b.cs != 1 || cols % lanes || (pack_a && first)) {  // whole vectors would read beyond the rows of b
        micro.pack(panel_b, kk, cols, round_up(cols, lanes), width, p.b[0], b.rs, b.cs);
        p.b[0] = panel_b;
        off = packed;
      } else if (blocks > 2) {
        p.keep = panel_b;
      }
      p.b[1] = p.b[0] + lanes;
      // The panel after this one, or the first of the next rows of b.
      if ((blocks >= 16 || pack_a) && (!last || then)) {
        const int64_t deep = last ? then : kk, wide = std::min(width, last ? tn : tn - j - width);
        const T* next = last ? b_block + kb * b.rs : b_block + (j + width) * b.cs;
        p.next[0] = b.cs == 1 ? Soon<T>{next, deep, b.rs, wide} : Soon<T>{next, wide, b.cs, deep};
      }
      // Each panel its share of the next columns of a: 512x1600x1024 (a^T) ran at 152 GFLOP/s, at 146 without.
      if (by_columns) {
        const int64_t from = then * panel / panels;
        p.next[1] = {a_block + (kk + from) * a.cs, then * (panel + 1) / panels - from, a.cs, tm};
      }
      if (pack_a) p.a_block = kk * high;
      if (pack_a && first) p.keep_a = packed_a, p.kept_column = high;
      if (pack_a && !first) micro.panel(tm, kk, packed_a, 1, high, off, p, ldc, add || p0);
      else micro.panel(tm, kk, a_block, a.rs, a.cs, off, p, ldc, add || p0);
    }
  }
}

template class Gemm<float>;
template class Gemm<double>;

namespace {

// The batch dimensions of a product: where each of its matrices begins.
struct Batch {
  int rank = 0;
  int64_t count = 1;
  int64_t dim[kMaxRank], stride[3][kMaxRank];  // strides of a, b, out

  int64_t at(int operand, int64_t index) const {
    int64_t offset = 0;
    for (int d = rank - 1; d >= 0; --d) {
      offset += index % dim[d] * stride[operand][d];
      index /= dim[d];
    }
    return offset;
  }
};

struct Problem {
  int64_t m, n, k;
  int64_t rsa, csa, rsb, csb;
  Batch batch;
};

// A vector as the matrix that it stands for: a row on the left (input 0), a column on the right.
Layout matrix(int input, Layout l) {
  if (l.shape.rank != 1) return l;
  const int at = input == 0 ? 1 : 0;  // its own dimension
  l.shape = at ? Shape{1, l.shape[0]} : Shape{l.shape[0], 1};
  l.stride[at] = l.stride[0];
  l.stride[1 - at] = 1;
  return l;
}

Problem problem(const Layout& out, const Layout& left, const Layout& right) {
  Problem q;
  const Layout a = matrix(0, left), b = matrix(1, right);
  const int ra = a.shape.rank, rb = b.shape.rank, ro = std::max(ra, rb);
  q.m = a.shape[ra - 2];
  q.k = a.shape[ra - 1];
  q.n = b.shape[rb - 1];
  q.rsa = a.stride[ra - 2];
  q.csa = a.stride[ra - 1];
  q.rsb = b.stride[rb - 2];
  q.csb = b.stride[rb - 1];
  // A stride over an extent of 1 says nothing; give it the value that makes the layout plain.
  if (q.k == 1) q.csa = q.rsa == 1 ? q.m : 1, q.rsb = q.csb == 1 ? q.n : 1;
  if (q.m == 1) q.rsa = q.csa == 1 ? q.k : 1;
  if (q.n == 1) q.csb = q.rsb == 1 ? q.k : 1;
  Batch& t = q.batch;
  for (int d = 0; d < ro - 2; ++d) {
    int64_t extent = out.shape[d];
    t.count *= extent;
    if (extent == 1) continue;
    int da = d - (ro - ra), db = d - (ro - rb);
    t.dim[t.rank] = extent;
    t.stride[0][t.rank] = da >= 0 && a.shape[da] != 1 ? a.stride[da] : 0;
    t.stride[1][t.rank] = db >= 0 && b.shape[db] != 1 ? b.stride[db] : 0;
    t.stride[2][t.rank] = out.stride[d];
    ++t.rank;
  }
  // One b for a whole stack of a's that lie one under the other: one tall product.
  while (t.count > 0 && t.rank && t.stride[1][t.rank - 1] == 0 && t.stride[0][t.rank - 1] == q.m * q.rsa) {
    --t.rank;
    t.count /= t.dim[t.rank];
    q.m *= t.dim[t.rank];
  }
  return q;
}

// How many parts a long sum is cut into, each with a c of its own, added up in order: they read each row of a and b
// once, where tiles would read them several times: 512x12800x1024 (a^T) took 101 ms on one core instead of 130, and
// 256x12800x84 6.7 instead of 9.6. No more than make eight tasks, for each c is written and read once more.
template <class T>
int64_t parts_of(const Problem& q) {
  const int64_t tiles = std::max<int64_t>(1, Gemm<T>(q.m, q.n, q.k, 1, q.csa != 1).tiles());
  const int64_t most = std::min((8 + tiles - 1) / tiles, q.k / 1024);
  if (q.batch.count != 1 || q.m == 1 || q.n == 1 || most < 2) return 1;
  // Their memory: at most a quarter of a and b.
  return std::clamp<int64_t>((q.m + q.n) * q.k / 4 / std::max<int64_t>(1, q.m * q.n), 1, most);
}

template <class T>
class FloatMatmul final : public Step {
 public:
  FloatMatmul(const Problem& q, bool add)
      : q_(q), add_(add), parts_(parts_of<T>(q)), part_((q.k + parts_ - 1) / parts_) {
    const int64_t products = std::max<int64_t>(1, q.batch.count * parts_);
    const int64_t rows = q.m * std::max<int64_t>(1, q.batch.count);
    const int64_t pieces = parts_ > 1 ? 1 : Gemm<T>::pieces(rows, q.n, q.k) / products;
    gemm_ = Gemm<T>(q.m, q.n, part_, pieces, q.csa != 1);
    last_ = Gemm<T>(q.m, q.n, q.k - (parts_ - 1) * part_, pieces, q.csa != 1);
    alone_ = Gemm<T>(q.m, q.n, q.k, 1, q.csa != 1);
    cost_ns = gemm_.cost_ns() * double(products);
    scratch_bytes = size_t((parts_ - 1) * q.m * q.n) * sizeof(T);
    // Small products of a batch share a task: 20 us each.
    if (gemm_.tiles() == 1 && parts_ == 1)
      group_ = std::clamp<int64_t>(int64_t(20e3 / gemm_.cost_ns()), 1, std::max<int64_t>(1, q.batch.count));
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto a = reinterpret_cast<const T*>(in[0]), b = reinterpret_cast<const T*>(in[1]);
    auto c = reinterpret_cast<T*>(out[0]);
    if (add_ && in[2] != out[0]) std::memcpy(c, in[2], size_t(q_.batch.count * q_.m * q_.n) * sizeof(T));
    const Gemm<T>& gemm = threads() == 1 ? alone_ : gemm_;
    const int64_t tiles = gemm.tiles(), count = q_.batch.count;
    if (tiles == 0 || count == 0) return;
    if (parts_ > 1) return sum_parts(a, b, c, reinterpret_cast<T*>(scratch));
    parallel((count + group_ - 1) / group_ * tiles, cost_ns, [&](int64_t task) {
      int64_t first = task / tiles * group_, last = std::min(count, first + group_);
      for (int64_t i = first; i < last; ++i)
        gemm.tile(task % tiles, {a + q_.batch.at(0, i), q_.rsa, q_.csa}, {b + q_.batch.at(1, i), q_.rsb, q_.csb},
                   c + q_.batch.at(2, i), q_.n, add_);
    });
  }
  bool may_alias(int, int in) const override { return in == 2; }
  std::string text() const override {
    return (q_.batch.count > 1 ? std::to_string(q_.batch.count) + " of " : "") +
           (parts_ > 1 ? std::to_string(parts_) + " parts of " : "") + gemm_.text() + (add_ ? ", added in place" : "");
  }

 private:
  void sum_parts(const T* a, const T* b, T* c, T* partial) const {
    const int64_t tiles = gemm_.tiles(), size = q_.m * q_.n;
    parallel(parts_ * tiles, cost_ns, [&](int64_t task) {
      const int64_t part = task / tiles;
      const Gemm<T>& gemm = part + 1 < parts_ ? gemm_ : last_;
      gemm.tile(task % tiles, {a + part * part_ * q_.csa, q_.rsa, q_.csa}, {b + part * part_ * q_.rsb, q_.rsb, q_.csb},
                part ? partial + (part - 1) * size : c, q_.n, add_ && part == 0);
    });
    const int64_t share = 8192;
    parallel((size + share - 1) / share, double(size * parts_) * 0.3, [&](int64_t task) {
      const int64_t first = task * share, last = std::min(size, first + share);
      for (int64_t part = 1; part < parts_; ++part) {
        const T* from = partial + (part - 1) * size;
        for (int64_t i = first; i < last; ++i) c[i] += from[i];
      }
    });
  }
  Problem q_;
  bool add_;
  int64_t parts_, part_;  // part_: elements of the sum in each part but the last
  // The last part's, and what one thread alone runs: the same sums in larger tiles, 512x512x512 (a^T) in 1.63 ms
  // instead of 1.94.
  Gemm<T> gemm_, last_, alone_;
  int64_t group_ = 1;
};

// Integers (modulo 2^bits, so unsigned arithmetic serves the signed types too) and bool (or of ands).
template <class T>
class IntMatmul final : public Step {
 public:
  IntMatmul(const Problem& q, bool add) : q_(q), add_(add) {
    cost_ns = double(q.batch.count) * double(q.m) * double(q.n) * double(q.k) * 0.15 * sizeof(T) + 50;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto a = reinterpret_cast<const T*>(in[0]), b = reinterpret_cast<const T*>(in[1]);
    auto c = reinterpret_cast<T*>(out[0]);
    const int64_t m = q_.m, n = q_.n, k = q_.k, count = q_.batch.count;
    if (m == 0 || n == 0 || count == 0) return;
    if (add_ && in[2] != out[0]) std::memcpy(c, in[2], size_t(count * m * n) * sizeof(T));
    const int64_t tall = 16, tiles = (m + tall - 1) / tall;
    parallel(count * tiles, cost_ns, [&](int64_t task) {
      const T* x = a + q_.batch.at(0, task / tiles);
      const T* y = b + q_.batch.at(1, task / tiles);
      T* z = c + q_.batch.at(2, task / tiles);
      const int64_t first = task % tiles * tall, last = std::min(m, first + tall);
      if (!add_) std::memset(z + first * n, 0, size_t((last - first) * n) * sizeof(T));
      for (int64_t p0 = 0; p0 < k; p0 += 64)  // 64 rows of b serve all rows of the tile while they are in cache
        for (int64_t i = first; i < last; ++i)
          for (int64_t p = p0; p < std::min(k, p0 + 64); ++p) {
            const T s = x[i * q_.rsa + p * q_.csa];
            const T* row = y + p * q_.rsb;
            T* to = z + i * n;
            if constexpr (std::is_same_v<T, bool>) {
              if (s)
                for (int64_t j = 0; j < n; ++j) to[j] = to[j] | row[j * q_.csb];
            } else if (q_.csb == 1) {
              for (int64_t j = 0; j < n; ++j) to[j] = T(to[j] + wide(s) * row[j]);
            } else {
              for (int64_t j = 0; j < n; ++j) to[j] = T(to[j] + wide(s) * row[j * q_.csb]);
            }
          }
    });
  }
  bool may_alias(int, int in) const override { return in == 2; }

 private:
  // uint16 * uint16 would be computed in (signed) int and could overflow it.
  static auto wide(T x) { return std::conditional_t<(sizeof(T) < 4), uint32_t, T>(x); }
  Problem q_;
  bool add_;
};

std::unique_ptr<Step> make_matmul(Op, std::span<const Layout> out, std::span<const Layout> in,
                                  std::span<const int64_t>) {
  Problem q = problem(out[0], in[0], in[1]);
  const bool add = in.size() == 3;
  switch (out[0].dtype) {
    case DType::F32: return std::make_unique<FloatMatmul<float>>(q, add);
    case DType::F64: return std::make_unique<FloatMatmul<double>>(q, add);
    case DType::Bool: return std::make_unique<IntMatmul<bool>>(q, add);
    case DType::I8: case DType::U8: return std::make_unique<IntMatmul<uint8_t>>(q, add);
    case DType::I16: case DType::U16: return std::make_unique<IntMatmul<uint16_t>>(q, add);
    case DType::I32: case DType::U32: return std::make_unique<IntMatmul<uint32_t>>(q, add);
    case DType::I64: case DType::U64: return std::make_unique<IntMatmul<uint64_t>>(q, add);
    default:
      throw Error(Error::Type,
                  std::string("[matmul] has no cpu kernel for ") + name(out[0].dtype) + ". Cast to float32 first.");
  }
}

// A column-major b is turned by each tile that reads it, which for 128x1024x256 is a quarter of the work. So many
// products of the same b are worth a copy, by rows.
constexpr uint32_t kTurnOnce = 8;

// The matrices row- or column-major, the batch dimensions anyhow.
bool accepts_matmul(Op, int input, const Layout& given, uint32_t readers) {
  if (input == 2) return given.is_contiguous();
  const Layout l = matrix(input, given);
  const int r = l.shape.rank;
  const int64_t rows = l.shape[r - 2], cols = l.shape[r - 1], rs = l.stride[r - 2], cs = l.stride[r - 1];
  bool row_major = (cs == 1 || cols == 1) && (rs >= cols || rows == 1);
  bool col_major = (rs == 1 || rows == 1) && (cs >= rows || cols == 1);
  return row_major || (col_major && !(input == 1 && r == 2 && readers >= kTurnOnce));
}

const Register matmul({Op::matmul}, make_matmul, accepts_matmul);

}  // namespace
}  // namespace knet::cpu
