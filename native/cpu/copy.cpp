#include "copy.h"
#include <cstring>
#include <utility>
#include <vector>
#include "dtypes.h"
#include "registry.h"
#include "threads.h"

namespace knet::cpu {
namespace {

constexpr int64_t kChunk = 256 << 10;  // bytes a task moves: some 20 us from memory

// Interleaves until transposed: log2(N) rounds over N vectors of N elements in 16 bytes. The shuffles are the unpack
// instructions that every x86-64 and NEON has; wider registers gain nothing here, the loads and stores do not keep up.
template <class T>
struct Square {
  static constexpr int N = 16 / int(sizeof(T));
  using Lanes = std::make_integer_sequence<int, N>;
  typedef T V __attribute__((vector_size(16)));

  template <int First, int... I>
  static V interleave(V x, V y, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(x, y, (First + I / 2 + (I % 2 ? N : 0))...);
  }
  // to[i][j] = from[j][i]; strides in bytes between rows.
  static inline void run(char* to, int64_t to_row, const char* from, int64_t from_row) {
    V r[N], s[N];
    for (int i = 0; i < N; ++i) std::memcpy(&r[i], from + i * from_row, 16);
    for (int step = 1; step < N; step *= 2) {
      for (int i = 0; i < N / 2; ++i) {
        s[2 * i] = interleave<0>(r[i], r[i + N / 2], Lanes());
        s[2 * i + 1] = interleave<N / 2>(r[i], r[i + N / 2], Lanes());
      }
      for (int i = 0; i < N; ++i) r[i] = s[i];
    }
    for (int i = 0; i < N; ++i) std::memcpy(to + i * to_row, &r[i], 16);
  }
};

// to[i][j] = from[j][i] for `rows` x `cols` of `to`. Whole cache lines on both sides at a time.
template <class T>
void transpose_tile(char* to, int64_t to_row, const char* from, int64_t from_row, int64_t rows, int64_t cols) {
  constexpr int64_t E = sizeof(T);
  auto plain = [&](int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
    for (int64_t i = i0; i < i1; ++i)
      for (int64_t j = j0; j < j1; ++j) std::memcpy(to + i * to_row + j * E, from + j * from_row + i * E, E);
  };
  if constexpr (E > 8) {
    plain(0, rows, 0, cols);
  } else {
    constexpr int64_t N = Square<T>::N, L = 64 / E;
    int64_t whole_rows = rows / N * N, whole_cols = cols / N * N;
    for (int64_t i0 = 0; i0 < whole_rows; i0 += L)
      for (int64_t j0 = 0; j0 < whole_cols; j0 += L)
        for (int64_t i = i0; i < std::min(i0 + L, whole_rows); i += N)
          for (int64_t j = j0; j < std::min(j0 + L, whole_cols); j += N)
            Square<T>::run(to + i * to_row + j * E, to_row, from + j * from_row + i * E, from_row);
    plain(0, whole_rows, whole_cols, cols);
    plain(whole_rows, rows, 0, cols);
  }
}

template <class T>
void copy_row(char* to, int64_t a, const char* from, int64_t b, int64_t n) {
  if (b == 0) {
    T x;
    std::memcpy(&x, from, sizeof(T));
    const T zero{};
    if (a == int64_t(sizeof(T)) && std::memcmp(&x, &zero, sizeof(T)) == 0) {
      std::memset(to, 0, size_t(n) * sizeof(T));  // with the widest stores that there are
    } else if (a == int64_t(sizeof(T))) {
      T* t = reinterpret_cast<T*>(to);
      for (int64_t i = 0; i < n; ++i) t[i] = x;
    } else {
      for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(to + i * a) = x;
    }
    return;
  }
  if (a == int64_t(sizeof(T))) {
    T* t = reinterpret_cast<T*>(to);
    const T* f = reinterpret_cast<const T*>(from);
    if (b == -int64_t(sizeof(T)))
      for (int64_t i = 0; i < n; ++i) t[i] = f[-i];
    else
      for (int64_t i = 0; i < n; ++i) t[i] = *reinterpret_cast<const T*>(from + i * b);
    return;
  }
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(to + i * a) = *reinterpret_cast<const T*>(from + i * b);
}

template <class T>
void add_row(char* to, int64_t a, const char* from, int64_t b, int64_t n) {
  constexpr int64_t E = sizeof(T);
  if (a == E && b == E) {
    T* __restrict t = reinterpret_cast<T*>(to);
    const T* __restrict f = reinterpret_cast<const T*>(from);
    for (int64_t i = 0; i < n; ++i) t[i] = add(t[i], f[i]);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    T* t = reinterpret_cast<T*>(to + i * a);
    *t = add(*t, *reinterpret_cast<const T*>(from + i * b));
  }
}

}  // namespace

StridedMove::StridedMove(DType dtype, const Shape& shape, const int64_t* to_stride, const int64_t* from_stride,
                         What what)
    : what_(what), dtype_(dtype), size_(int64_t(itemsize(dtype))) {
  for (int i = 0; i < shape.rank; ++i) {
    int64_t n = shape[i], a = to_stride[i] * size_, b = from_stride[i] * size_;
    if (a < 0) {  // walk the destination upwards
      to_base_ += (n - 1) * a;
      from_base_ += (n - 1) * b;
      a = -a;
      b = -b;
    }
    dims_.push(n, a, b);
  }
  int64_t total = dims_.size();
  if (total == 0) return;
  dims_.sort_by_a();
  dims_.merge();
  if (dims_.rank == 0) dims_.push(1, size_, size_);
  Dim inner = dims_.last();
  bool runs = inner.a == size_ && inner.b == size_;
  int across = -1;
  if (what == Copy && !runs && inner.a == size_ && size_ <= 8)
    for (int i = 0; i < dims_.rank - 1; ++i)
      if (dims_.d[i].b == size_ && dims_.d[i].n * size_ >= 16 && inner.n * size_ >= 16) across = i;
  if (across >= 0) {
    how_ = Transpose;
    std::rotate(dims_.d + across, dims_.d + across + 1, dims_.d + dims_.rank - 1);  // now the last but one
    // A tile of 64 rows of the destination by 1024 bytes: 64 + 1024/size pages, which the second-level TLB holds.
    tile_rows_ = std::max<int64_t>(64, 256 / size_);
    tile_cols_ = 1024 / size_;
    int64_t tiles = ceil_div(dims_.d[dims_.rank - 2].n, tile_rows_) * ceil_div(inner.n, tile_cols_);
    pieces_ = tiles;
    int64_t all = tiles * (total / (dims_.d[dims_.rank - 2].n * inner.n));
    int64_t tile_bytes = std::min(tile_rows_, dims_.d[dims_.rank - 2].n) * std::min(tile_cols_, inner.n) * size_;
    grain_ = std::max<int64_t>(1, kChunk / tile_bytes);
    tasks_ = ceil_div(all, grain_);
    cost_ns_ = 20 + 0.2 * double(total * size_);
    return;
  }
  how_ = runs ? Runs : Elements;
  if (!runs && inner.n < 16) {  // the longest loop innermost: a row costs more than its elements
    int longest = dims_.rank - 1;
    for (int i = 0; i < dims_.rank; ++i)
      if (dims_.d[i].n > dims_.d[longest].n) longest = i;
    std::rotate(dims_.d + longest, dims_.d + longest + 1, dims_.d + dims_.rank);
    inner = dims_.last();
  }
  const bool fills = what == Copy && inner.a == size_ && inner.b == 0;  // with one element
  int64_t row_bytes = inner.n * (runs || fills ? size_ : size_ * 4), rows = total / inner.n;
  if (row_bytes > kChunk) {
    pieces_ = ceil_div(row_bytes, kChunk);
    tasks_ = rows * pieces_;
  } else {
    grain_ = kChunk / row_bytes;
    tasks_ = ceil_div(rows, grain_);
  }
  // (Zeros of 256 kB, in the cache: 8 us.)
  cost_ns_ = 10 + double(rows) * 3 + double(total) * (runs ? 0.1 * double(size_) : fills ? 0.04 * double(size_) : 0.8);
}

void StridedMove::elements(int64_t i, char* to, const char* from) const {
  const Dim inner = dims_.last();
  int outer = dims_.rank - 1;
  auto row = [&](char* t, const char* f, int64_t n) {
    if (what_ == Add)
      by_dtype("add", dtype_, [&]<class T>(std::type_identity<T>) { add_row<T>(t, inner.a, f, inner.b, n); });
    else if (how_ == Runs)
      std::memcpy(t, f, size_t(n * size_));
    else
      by_size(size_t(size_), [&]<class T>(std::type_identity<T>) { copy_row<T>(t, inner.a, f, inner.b, n); });
  };
  if (pieces_ > 1) {
    Walk at(dims_.d, outer, i / pieces_);
    Split split(inner.n, ceil_div(inner.n, pieces_));
    int64_t p = i % pieces_, begin = split.begin(p), end = split.end(p);
    if (begin < end) row(to + at.a + begin * inner.a, from + at.b + begin * inner.b, end - begin);
    return;
  }
  int64_t rows = dims_.size() / inner.n, begin = i * grain_, end = std::min(rows, begin + grain_);
  Walk at(dims_.d, outer, begin);
  for (int64_t r = begin; r < end; ++r, at.next()) row(to + at.a, from + at.b, inner.n);
}

void StridedMove::transpose(int64_t i, char* to, const char* from) const {
  const Dim inner = dims_.last(), across = dims_.d[dims_.rank - 2];
  int outer = dims_.rank - 2;
  int64_t tile_cols = ceil_div(inner.n, tile_cols_);
  int64_t all = pieces_;
  for (int k = 0; k < outer; ++k) all *= dims_.d[k].n;
  for (int64_t t = i * grain_; t < std::min(all, (i + 1) * grain_); ++t) {
    Walk at(dims_.d, outer, t / pieces_);
    int64_t r0 = t % pieces_ / tile_cols * tile_rows_, c0 = t % pieces_ % tile_cols * tile_cols_;
    int64_t rows = std::min(tile_rows_, across.n - r0), cols = std::min(tile_cols_, inner.n - c0);
    by_size(size_t(size_), [&]<class T>(std::type_identity<T>) {
      transpose_tile<T>(to + at.a + r0 * across.a + c0 * inner.a, across.a,
                        from + at.b + r0 * across.b + c0 * inner.b, inner.b, rows, cols);
    });
  }
}

void StridedMove::task(int64_t i, char* to, const char* from) const {
  to += to_base_;
  from += from_base_;
  if (how_ == Transpose)
    transpose(i, to, from);
  else
    elements(i, to, from);
}

void StridedMove::run(char* to, const char* from) const {
  if (how_ == Empty) return;
  parallel(tasks_, cost_ns_, [&](int64_t i) { task(i, to, from); });
}

const char* StridedMove::text() const {
  switch (how_) {
    case Empty: return "empty";
    case Runs: return "runs";
    case Transpose: return "transpose";
    default: return "strided";
  }
}

void copy_strided(DType dtype, const Shape& shape, char* to, const int64_t* to_stride, const char* from,
                  const int64_t* from_stride) {
  StridedMove(dtype, shape, to_stride, from_stride).run(to, from);
}

void copy_bytes(char* to, const char* from, int64_t bytes) {
  Split split(bytes, kChunk);
  parallel(split.tasks(), 0.1 * double(bytes), [&](int64_t i) {
    std::memcpy(to + split.begin(i), from + split.begin(i), size_t(split.end(i) - split.begin(i)));
  });
}

namespace {

class CopyStep : public Step {
 public:
  CopyStep(const Layout& out, const Layout& in) : move_(out.dtype, out.shape, out.stride, in.stride) {
    cost_ns = move_.cost_ns();
  }
  void run(char* const* out, const char* const* in, char*) const override { move_.run(out[0], in[0]); }
  std::string text() const override { return move_.text(); }

 private:
  StridedMove move_;
};

class ConcatenateStep : public Step {
 public:
  ConcatenateStep(const Layout& out, std::span<const Layout> in, int axis) {
    int64_t at = 0;
    for (const Layout& x : in) {
      Part p{StridedMove(out.dtype, x.shape, out.stride, x.stride),
             at * out.stride[axis] * int64_t(itemsize(out.dtype)), tasks_};
      at += x.shape[axis];
      tasks_ += p.move.tasks();
      cost_ns += p.move.cost_ns();
      parts_.push_back(p);
    }
  }
  void run(char* const* out, const char* const* in, char*) const override {
    parallel(tasks_, cost_ns, [&](int64_t i) {
      auto p = std::upper_bound(parts_.begin(), parts_.end(), i,
                                [](int64_t t, const Part& part) { return t < part.first_task; }) - 1;
      p->move.task(i - p->first_task, out[0] + p->offset, in[p - parts_.begin()]);
    });
  }

 private:
  struct Part {
    StridedMove move;
    int64_t offset;      // bytes into the result
    int64_t first_task;
  };
  std::vector<Part> parts_;
  int64_t tasks_ = 0;
};

// Runs of bytes one after the other.
class SpliceStep : public Step {
 public:
  // Vectors, each whole.
  explicit SpliceStep(std::span<const Layout> in) {
    pieces_.reserve(in.size() + 1);
    for (size_t k = 0; k < in.size(); ++k) add(int64_t(k), 0, in[k].shape[0] * int64_t(itemsize(in[k].dtype)));
    finish();
  }
  // (input, first element, elements) for each.
  SpliceStep(DType t, std::span<const int64_t> pieces) {
    const int64_t size = int64_t(itemsize(t));
    pieces_.reserve(pieces.size() / 3 + 1);
    for (size_t k = 0; k < pieces.size(); k += 3) add(pieces[k], pieces[k + 1] * size, pieces[k + 2] * size);
    finish();
  }
  void run(char* const* out, const char* const* in, char*) const override {
    const Split split(bytes_, kChunk);
    parallel(split.tasks(), cost_ns, [&](int64_t i) {
      const int64_t end = split.end(i);
      int64_t at = split.begin(i);
      auto p = std::ranges::upper_bound(pieces_, at, {}, &Piece::at) - 1;
      for (; at < end; ++p) {
        const int64_t n = std::min(end, p[1].at) - at;
        std::memcpy(out[0] + at, in[p->which] + p->from + (at - p->at), size_t(n));
        at += n;
      }
    });
  }

 private:
  struct Piece {
    int64_t which, from;  // of which input, from which byte on
    int64_t at;           // where it begins in the result
  };
  std::vector<Piece> pieces_;  // and the end
  int64_t bytes_ = 0;

  void add(int64_t which, int64_t from, int64_t bytes) {
    pieces_.push_back({which, from, bytes_});
    bytes_ += bytes;
  }
  void finish() {
    cost_ns = 10 + 5.0 * double(pieces_.size()) + 0.1 * double(bytes_);
    pieces_.push_back({0, 0, bytes_});
  }
};

bool any_layout(Op, int, const Layout&, uint32_t) { return true; }

Register copies({Op::copy}, [](Op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t>)
                                -> std::unique_ptr<Step> { return std::make_unique<CopyStep>(out[0], in[0]); },
                any_layout);
Register concatenates({Op::concatenate},
                      [](Op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                          -> std::unique_ptr<Step> {
                        const auto vector = [](const Layout& x) { return x.shape.rank == 1 && x.is_contiguous(); };
                        if (vector(out[0]) && std::ranges::all_of(in, vector)) return std::make_unique<SpliceStep>(in);
                        return std::make_unique<ConcatenateStep>(out[0], in, int(attrs[0]));
                      },
                      any_layout);
Register splices({Op::splice},
                 [](Op, std::span<const Layout> out, std::span<const Layout>, std::span<const int64_t> attrs)
                     -> std::unique_ptr<Step> {
                   AttrReader read{attrs};
                   read.ints();  // the shape
                   return std::make_unique<SpliceStep>(out[0].dtype, read.ints());
                 },
                 nullptr, /*shared=*/false);

}  // namespace
}  // namespace knet::cpu
