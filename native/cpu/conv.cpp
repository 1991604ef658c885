// Convolutions as implicit matrix products: y (O x P) = w (O x CK) patches (CK x P), one image and group at a time,
// where C is the channels of a group, K the window, P the output positions. The matrix of patches is never written as a
// whole. The inner loops (isa/micro.h) take each row of a panel of B from anywhere, and that decides how each pass is
// done:
//
//   conv     Direct: a vector of B is a piece of an image row, read in place at base + off[channel, window position].
//            Gathered: for strides along the row, and for rows much shorter than a vector, a panel of patches is copied
//            together first.
//   conv_dx  As conv with transposed weights and the window turned round (stride 1), or by columns: w^T dy for one
//            channel at a time, its rows added to dx.
//   conv_dw  dw (O x CK) = sum of dy (O x P) patches^T (P x CK): a block of positions at a time, patches gathered with
//            one run per window row. Images are shared out in chunks fixed by the sizes; the partial sums are added in
//            order.
//
// One core of a Sapphire Rapids (shared machine, minima), ms here / PyTorch 2.13 (oneDNN) / the same, channels-last.
// 100 x 1x28x28 by 20x1x5x5: forward 0.55 / 1.5 / 1.0, dw 0.91 / 1.9 / 0.88; 100 x 20x12x12 by 50x20x5x5: forward 2.4 /
// 4.9 / 2.8, dx 2.8 / 4.7 / 4.3, dw 3.0 / 5.6 / 3.2; 8 x 64x56x56 by 64x64x3x3: forward 15 / 19 / 14, dx 15 / 19 / 14;
// 2 x 128x112x112 by 128x128x3x3: forward 51 / 56 / 49. Behind still: 8 x 512x7x7 by 512x512x3x3 forward 18 / 13 / 14;
// depthwise 8 x 64x56x56 2.0 / 1.9 / 0.83, its dw 10 / 4 / 1.3.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/registry.h"
#include "cpu/threads.h"

namespace knet::cpu {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// One convolution, always with three spatial dimensions (leading ones are added).
struct Geometry {
  int64_t images, groups, in_channels, out_channels;  // channels of one group
  int64_t x[3], y[3], w[3], stride[3], padding[3], dilation[3];
  bool flip;
  int64_t x_plane() const { return x[0] * x[1] * x[2]; }
  int64_t y_plane() const { return y[0] * y[1] * y[2]; }
  int64_t window() const { return w[0] * w[1] * w[2]; }
  int64_t patch() const { return in_channels * window(); }
  double work() const {  // multiply-adds
    return double(images) * double(groups) * double(out_channels) * double(patch()) * double(y_plane());
  }
};

Geometry geometry(const Layout& x, const Layout& w, const Layout& y, std::span<const int64_t> attrs) {
  AttrReader r{attrs};
  auto stride = r.ints(), padding = r.ints(), dilation = r.ints();
  Geometry g;
  g.groups = r.integer();
  g.flip = r.flag();
  g.images = x.shape[0];
  g.in_channels = w.shape[1];
  g.out_channels = w.shape[0] / std::max<int64_t>(1, g.groups);
  const int spatial = x.shape.rank - 2;
  for (int d = 0; d < 3; ++d) {
    int s = d - (3 - spatial);
    g.x[d] = s < 0 ? 1 : x.shape[s + 2];
    g.y[d] = s < 0 ? 1 : y.shape[s + 2];
    g.w[d] = s < 0 ? 1 : w.shape[s + 2];
    g.stride[d] = s < 0 ? 1 : stride[size_t(s)];
    g.padding[d] = s < 0 ? 0 : padding[size_t(s)];
    g.dilation[d] = s < 0 ? 1 : dilation[size_t(s)];
  }
  // Extents of 1 in the window over whole, unpadded, unstrided rows: rows can be joined into longer ones.
  for (int d = 2; d > 0; --d)
    while (g.w[d] == 1 && g.w[d - 1] == 1 && g.stride[d] == 1 && g.stride[d - 1] == 1 && g.padding[d] == 0 &&
           g.padding[d - 1] == 0 && g.x[d - 1] > 1) {
      g.x[d] *= g.x[d - 1];
      g.y[d] *= g.y[d - 1];
      g.x[d - 1] = g.y[d - 1] = 1;
    }
  return g;
}

// The images as the loops read them: with their padding, or in place where there is none.
template <class T>
struct Padded {
  int64_t extent[3];  // with padding
  int64_t pitch[2];   // of planes' rows: elements from one [d][h] to the next d, h
  int64_t channel;    // elements from one channel to the next
  bool in_place;
  int64_t slack;      // elements that may be read beyond the end

  Padded(const Geometry& g, int64_t slack) : slack(slack) {
    in_place = true;
    for (int d = 0; d < 3; ++d) {
      extent[d] = g.x[d] + 2 * g.padding[d];
      in_place &= g.padding[d] == 0;
    }
    pitch[1] = extent[2];
    pitch[0] = extent[1] * extent[2];
    channel = extent[0] * pitch[0];
  }
  size_t bytes(int64_t channels) const { return size_t(channels * channel + slack) * sizeof(T); }
  int64_t rows() const { return extent[0] * extent[1]; }
  // Channels from `x` on, of each the rows lo to hi - 1 (with padding); `last`: nothing readable lies behind them.
  const T* prepare(const Geometry& g, const T* x, int64_t channels, bool last, T* room, int64_t lo, int64_t hi) const {
    if (in_place && !last) return x;
    std::memset(room + channels * channel, 0, size_t(slack) * sizeof(T));
    for (int64_t c = 0; c < channels; ++c) {
      T* to = room + c * channel;
      const T* from = x + c * g.x_plane();
      if (in_place) {
        std::memcpy(to + lo * pitch[1], from + lo * pitch[1], size_t((hi - lo) * pitch[1]) * sizeof(T));
        continue;
      }
      std::memset(to + lo * pitch[1], 0, size_t((hi - lo) * pitch[1]) * sizeof(T));
      for (int64_t d = 0; d < g.x[0]; ++d) {
        const int64_t first = (d + g.padding[0]) * extent[1] + g.padding[1];  // the row of h = 0
        for (int64_t h = std::max<int64_t>(0, lo - first); h < std::min(g.x[1], hi - first); ++h)
          std::memcpy(to + (first + h) * pitch[1] + g.padding[2], from + (d * g.x[1] + h) * g.x[2],
                      size_t(g.x[2]) * sizeof(T));
      }
    }
    return room;
  }
  // Where each element of a patch lies from the patch's first, in the order of w's memory (turned round for `flip`).
  std::vector<int64_t> offsets(const Geometry& g, bool flip) const {
    std::vector<int64_t> off;
    off.reserve(size_t(g.patch()));
    for (int64_t c = 0; c < g.in_channels; ++c)
      for (int64_t i = 0; i < g.w[0]; ++i)
        for (int64_t j = 0; j < g.w[1]; ++j)
          for (int64_t k = 0; k < g.w[2]; ++k) {
            int64_t d = flip ? g.w[0] - 1 - i : i, h = flip ? g.w[1] - 1 - j : j, w = flip ? g.w[2] - 1 - k : k;
            off.push_back(c * channel + d * g.dilation[0] * pitch[0] + h * g.dilation[1] * pitch[1] +
                          w * g.dilation[2]);
          }
    return off;
  }
  // Where the patch of each output position begins.
  std::vector<int64_t> positions(const Geometry& g) const {
    std::vector<int64_t> at;
    at.reserve(size_t(g.y_plane()));
    for (int64_t d = 0; d < g.y[0]; ++d)
      for (int64_t h = 0; h < g.y[1]; ++h)
        for (int64_t w = 0; w < g.y[2]; ++w)
          at.push_back(d * g.stride[0] * pitch[0] + h * g.stride[1] * pitch[1] + w * g.stride[2]);
    return at;
  }
};

// The forward pass over given weights; conv_dx uses it too.
template <class T>
class Forward {
 public:
  Forward(const Geometry& g, bool flip)
      : g_(g), padded_(g, slack()), off_(padded_.offsets(g, flip)), at_(padded_.positions(g)) {
    const int64_t lanes = micro_of<T>().lanes, row = g.y[2], plane = g.y_plane();
    // Columns computed for each that is wanted: rows padded to vectors, against a plane padded to vectors plus the
    // gathering, taken as 10 more rows of products (a panel row of 32 floats is copied in two to four pieces).
    double direct = double(round_up(row, lanes)) / double(std::max<int64_t>(row, 1));
    double gathered =
        double(round_up(plane, lanes)) / double(std::max<int64_t>(plane, 1)) * (1 + 10 / double(g.out_channels));
    direct_ = g.stride[2] == 1 && direct <= gathered;
    // Fewer than 4 rows are too few sums at once to hide the latency of an addition.
    const double waste =
        (direct_ ? direct : gathered) * std::max(1.0, 4 / double(std::max<int64_t>(1, g.out_channels)));
    cost_ns = g.work() * waste / (double(lanes) * 5) + 100;
    // Vectors of output columns: (start of the patch, place in y, columns).
    if (direct_) {
      for (int64_t r = 0; r * row < plane && row > 0; ++r)
        for (int64_t w = 0; w < row; w += lanes)
          pieces_.push_back({at_[size_t(r * row + w)], r * row + w, std::min(lanes, row - w)});
    } else {
      for (int64_t q = 0; q < plane; q += lanes) pieces_.push_back({0, q, std::min(lanes, plane - q)});
    }
    // A task: all channels of some panels of one image.
    const auto panels = int64_t(pieces_.size() + 1) / 2;
    const double each = cost_ns / double(std::max<int64_t>(1, g.images * g.groups));
    shares_ = std::clamp<int64_t>(int64_t(each / 100e3), 1, std::max<int64_t>(1, panels / 4));
    per_share_ = (panels + shares_ - 1) / std::max<int64_t>(1, shares_);
  }

  double cost_ns = 0;
  std::string text() const {
    return std::string(direct_ ? "direct" : "gathered") + ", " + std::to_string(g_.images * g_.groups * shares_) +
           " tasks";
  }

  // w: (groups * O, C, window) as in memory. y and x: whole arrays.
  void run(const T* x, const T* w, T* y) const {
    if (g_.images == 0 || g_.y_plane() == 0 || g_.out_channels == 0) return;
    parallel(g_.images * g_.groups * shares_, cost_ns, [&](int64_t task) {
      const int64_t image = task / shares_, share = task % shares_, group = image % g_.groups;
      const int64_t from = g_.in_channels * g_.x_plane(), to = g_.out_channels * g_.y_plane();
      const size_t room = round_up(int64_t(padded_.bytes(g_.in_channels)), 64);
      auto* area =
          static_cast<char*>(workspace(1, room + (direct_ ? 0 : size_t(kBlock * 2 * micro_of<T>().lanes) * sizeof(T))));
      const auto [lo, hi] = rows_of(share);
      const T* source = padded_.prepare(g_, x + image * from, g_.in_channels, image + 1 == g_.images * g_.groups,
                                        reinterpret_cast<T*>(area), lo, hi);
      panels(share * per_share_, (share + 1) * per_share_, source, w + group * g_.out_channels * g_.patch(),
             y + image * to, reinterpret_cast<T*>(area + room));
    });
  }

 private:
  static constexpr int64_t kBlock = 256;  // rows of a panel: 256 x 32 floats are 32 KiB
  static constexpr int64_t kWeights = 512 << 10;  // bytes
  struct Piece { int64_t from, to, n; };
  static int64_t slack() { return 2 * micro_of<T>().lanes; }

  // The rows of a channel that a share of the panels reads. Padding the whole image for each share took half of the
  // time of 64x56x56 by 64x3x3, and three quarters of that of 128x112x112.
  std::pair<int64_t, int64_t> rows_of(int64_t share) const {
    const auto n = int64_t(pieces_.size());
    const int64_t first = std::min(2 * share * per_share_, n - 1), last = std::min(2 * (share + 1) * per_share_, n) - 1;
    const int64_t begin = at_[size_t(pieces_[size_t(first)].to)];
    const Piece& end = pieces_[size_t(std::max(first, last))];
    int64_t reach = slack();
    for (int d = 0; d < 3; ++d) reach += (g_.w[d] - 1) * g_.dilation[d] * (d == 2 ? 1 : padded_.pitch[d]);
    return {begin / padded_.extent[2],
            std::min(padded_.rows(), (at_[size_t(end.to + end.n - 1)] + reach) / padded_.extent[2] + 1)};
  }

  void panels(int64_t first, int64_t last, const T* x, const T* w, T* y, T* packed) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes, patch = g_.patch(), plane = g_.y_plane();
    int64_t rows[kBlock];
    if (!direct_)
      for (int64_t p = 0; p < std::min(kBlock, patch); ++p) rows[p] = p * width;
    last = std::min(last, int64_t(pieces_.size() + 1) / 2);
    if (patch == 0) {
      for (int64_t i = 2 * first; i < std::min(2 * last, int64_t(pieces_.size())); ++i)
        for (int64_t o = 0; o < g_.out_channels; ++o)
          std::fill_n(y + pieces_[size_t(i)].to + o * plane, pieces_[size_t(i)].n, T(0));
      return;
    }
    // Weights beyond L2's share are read once for a whole group of panels, a block of rows of patches at a time.
    const int64_t group = g_.out_channels * patch * int64_t(sizeof(T)) <= kWeights
                              ? 1
                              : std::max<int64_t>(1, kWeights / (g_.out_channels * width * int64_t(sizeof(T))));
    for (int64_t begin = first; begin < last; begin += group)
      for (int64_t p0 = 0; p0 < patch; p0 += kBlock)
        for (int64_t i = begin; i < std::min(last, begin + group); ++i) {
          const Piece& a = pieces_[size_t(2 * i)];
          const bool two = size_t(2 * i + 1) < pieces_.size();
          const Piece& b = pieces_[size_t(two ? 2 * i + 1 : 2 * i)];
          const int64_t kk = std::min(kBlock, patch - p0);
          Panel<T> p;
          p.c[0] = y + a.to;
          p.c[1] = y + b.to;
          p.n[0] = int(a.n);
          p.n[1] = two ? int(b.n) : 0;
          if (direct_) {
            p.b[0] = x + a.from;
            p.b[1] = x + b.from;
          } else {
            gather(packed, x, a.to, std::min(width, plane - a.to), p0, kk, width);
            p.b[0] = packed;
            p.b[1] = packed + micro.lanes;
          }
          micro.panel(g_.out_channels, kk, w + p0, patch, 1, direct_ ? off_.data() + p0 : rows, p, plane, p0 > 0);
        }
  }

  // Columns q .. q + n of rows p0 .. p0 + kk of the patches.
  void gather(T* to, const T* x, int64_t q, int64_t n, int64_t p0, int64_t kk, int64_t width) const {
    const int64_t row = g_.y[2], s = g_.stride[2];
    for (int64_t j = 0; j < n;) {
      const int64_t run = std::min(n - j, row - (q + j) % row);
      const T* from = x + at_[size_t(q + j)];
      if (s == 1) micro_of<T>().columns(to + j, width, from, off_.data() + p0, kk, run);
      else
        for (int64_t p = 0; p < kk; ++p)
          for (int64_t i = 0; i < run; ++i) to[p * width + j + i] = from[off_[size_t(p0 + p)] + i * s];
      j += run;
    }
    // Columns beyond the last are computed (not stored): they must be numbers that cost nothing, not stale denormals.
    const int64_t whole = round_up(n, micro_of<T>().lanes);
    for (int64_t p = 0; n < whole && p < kk; ++p) std::fill_n(to + p * width + n, whole - n, T(0));
  }

  Geometry g_;
  Padded<T> padded_;
  std::vector<int64_t> off_, at_;
  bool direct_;
  std::vector<Piece> pieces_;
  int64_t shares_ = 1, per_share_ = 1;
};

template <class T>
class Conv final : public Step {
 public:
  explicit Conv(const Geometry& g) : forward_(g, g.flip) { cost_ns = forward_.cost_ns; }
  void run(char* const* out, const char* const* in, char*) const override {
    forward_.run(reinterpret_cast<const T*>(in[0]), reinterpret_cast<const T*>(in[1]), reinterpret_cast<T*>(out[0]));
  }
  std::string text() const override { return forward_.text(); }

 private:
  Forward<T> forward_;
};

// dx of a convolution with stride 1: a convolution of dy, weights (O, C) -> (C, O), window turned round, padded by what
// the window reaches beyond the padding.
Geometry backward(const Geometry& g) {
  Geometry b = g;
  std::swap(b.in_channels, b.out_channels);
  for (int d = 0; d < 3; ++d) {
    b.x[d] = g.y[d];
    b.y[d] = g.x[d];
    b.padding[d] = g.dilation[d] * (g.w[d] - 1) - g.padding[d];
  }
  return b;
}

// A window of 1 without padding and strides: y = w x for each image, or dx = w^T dy.
template <class T>
class ConvPlain final : public Step {
 public:
  ConvPlain(const Geometry& g, bool back)
      : rows_(back ? g.in_channels : g.out_channels), depth_(back ? g.out_channels : g.in_channels),
        plane_(g.y_plane()), groups_(g.groups), images_(g.images * g.groups), back_(back) {
    const int64_t images = std::max<int64_t>(1, images_);
    gemm_ = Gemm<T>(rows_, plane_, depth_, Gemm<T>::pieces(rows_ * images, plane_, depth_) / images, back);
    cost_ns = gemm_.cost_ns() * double(images);
  }
  static bool fits(const Geometry& g) {
    bool plain = g.window() == 1;
    for (int d = 0; d < 3; ++d) plain &= g.stride[d] == 1 && g.padding[d] == 0;
    return plain;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    parallel(images_ * gemm_.tiles(), cost_ns, [&](int64_t task) {
      const int64_t image = task / gemm_.tiles(), group = image % groups_;
      const T* a = w + group * rows_ * depth_;
      gemm_.tile(task % gemm_.tiles(), back_ ? Mat<T>{a, 1, rows_} : Mat<T>{a, depth_, 1},
                 {x + image * depth_ * plane_, plane_, 1}, y + image * rows_ * plane_, plane_, false);
    });
  }
  std::string text() const override { return "product, " + std::to_string(images_) + " of " + gemm_.text(); }

 private:
  int64_t rows_, depth_, plane_, groups_, images_;
  bool back_;
  Gemm<T> gemm_;
};

template <class T>
class ConvDxTurned final : public Step {
 public:
  explicit ConvDxTurned(const Geometry& g) : g_(g), forward_(backward(g), !g.flip) {
    scratch_bytes = size_t(g.groups * g.out_channels * g.patch()) * sizeof(T);
    cost_ns = forward_.cost_ns;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto w = reinterpret_cast<const T*>(in[1]);
    auto t = reinterpret_cast<T*>(scratch);
    const int64_t window = g_.window(), c_n = g_.in_channels, o_n = g_.out_channels;
    for (int64_t group = 0; group < g_.groups; ++group)
      for (int64_t o = 0; o < o_n; ++o)
        for (int64_t c = 0; c < c_n; ++c)
          std::memcpy(t + ((group * c_n + c) * o_n + o) * window, w + ((group * o_n + o) * c_n + c) * window,
                      size_t(window) * sizeof(T));
    forward_.run(reinterpret_cast<const T*>(in[0]), t, reinterpret_cast<T*>(out[0]));
  }
  std::string text() const override { return "turned, " + forward_.text(); }

 private:
  Geometry g_;
  Forward<T> forward_;
};

template <class T>
class ConvDxColumns final : public Step {
 public:
  explicit ConvDxColumns(const Geometry& g) : g_(g) {
    cost_ns = cost(g);
    const double each = cost_ns / double(std::max<int64_t>(1, g.images * g.groups));
    shares_ = std::clamp<int64_t>(int64_t(each / 50e3), 1, std::max<int64_t>(1, g.in_channels));
    if (g.stride[2] == 1) list_rows();
  }
  // Products with whole vectors (few rows at a time: a third more), and an estimate of 1 ns for each piece of a row
  // added and 0.3 ns an element.
  static double cost(const Geometry& g) {
    const int64_t lanes = micro_of<T>().lanes, plane = std::max<int64_t>(1, g.y_plane());
    const double adds = double(g.images * g.groups) * double(g.patch()) * double(plane);
    return g.work() * double(round_up(plane, lanes)) / double(plane) * 1.3 / (double(lanes) * 5) +
           adds * (0.3 * sizeof(T) / 4 + 1.0 / double(std::max<int64_t>(1, g.y[2]))) + 100;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto dx = reinterpret_cast<T*>(out[0]);
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), window = g_.window(), x_plane = g_.x_plane(), patch = g_.patch(),
                  o_n = g_.out_channels;
    const int64_t pitch = round_up(plane, micro.lanes), width = 2 * micro.lanes;
    const int64_t images = g_.images * g_.groups;
    if (images == 0 || g_.in_channels == 0) return;
    std::vector<int64_t> in_place(static_cast<size_t>(o_n)), copied(static_cast<size_t>(o_n));
    for (int64_t o = 0; o < o_n; ++o) in_place[size_t(o)] = o * plane, copied[size_t(o)] = o * micro.lanes;
    parallel(images * shares_, cost_ns, [&](int64_t task) {
      const int64_t image = task / shares_, share = task % shares_, group = image % g_.groups;
      const int64_t first = g_.in_channels * share / shares_, last = g_.in_channels * (share + 1) / shares_;
      const T* d = dy + image * o_n * plane;
      T* cols = static_cast<T*>(workspace(1, size_t(window * pitch + o_n * micro.lanes) * sizeof(T)));
      T* tail = cols + window * pitch;
      const int64_t rest = plane % micro.lanes;  // the last, partial vector of each row of dy, padded
      if (rest) micro.pack(tail, o_n, rest, micro.lanes, micro.lanes, d + plane - rest, plane, 1);
      for (int64_t c = first; c < last; ++c) {
        T* to = dx + (image * g_.in_channels + c) * x_plane;
        if (o_n == 0 || plane == 0 || g_.stride[2] != 1) std::memset(to, 0, size_t(x_plane) * sizeof(T));
        if (o_n == 0 || plane == 0) continue;
        const T* a = w + group * o_n * patch + c * window;
        const int64_t whole = plane - rest;
        for (int64_t q = 0; q < whole; q += width) {
          const bool two = q + width <= whole;
          Panel<T> p{
              {d + q, d + q + micro.lanes}, {cols + q, cols + q + micro.lanes}, {micro.lanes, two ? micro.lanes : 0}};
          micro.panel(window, o_n, a, 1, patch, in_place.data(), p, pitch, false);
        }
        if (rest) {
          Panel<T> p{{tail, tail}, {cols + whole, cols}, {micro.lanes, 0}};
          micro.panel(window, o_n, a, 1, patch, copied.data(), p, pitch, false);
        }
        if (g_.stride[2] == 1) {
          for (size_t row = 0; row + 1 < first_.size(); ++row)
            micro.shifted(to + int64_t(row) * g_.x[2], g_.x[2], cols, off_.data() + first_[row],
                          shift_.data() + first_[row], first_[row + 1] - first_[row], g_.y[2]);
        } else {
          add(to, cols, pitch);
        }
      }
    });
  }
  std::string text() const override { return "columns, " + std::to_string(g_.images * g_.groups * shares_) + " tasks"; }

 private:
  // Each row of dx is a sum of shifted rows of the columns: made in registers and stored once. Adding every column to
  // dx instead took 4.1 ms for LeNet's second convolution (rows of 8), this 2.8.
  void list_rows() {
    const int64_t pitch = round_up(g_.y_plane(), micro_of<T>().lanes);
    for (int64_t d = 0; d < g_.x[0]; ++d)
      for (int64_t h = 0; h < g_.x[1]; ++h) {
        first_.push_back(int64_t(off_.size()));
        for (int64_t k = 0; k < g_.window(); ++k) {
          int64_t at[3] = {k / (g_.w[1] * g_.w[2]), k / g_.w[2] % g_.w[1], k % g_.w[2]}, y[2];
          for (int e = 0; e < 3; ++e) at[e] = (g_.flip ? g_.w[e] - 1 - at[e] : at[e]) * g_.dilation[e] - g_.padding[e];
          y[0] = d - at[0];
          y[1] = h - at[1];
          bool inside = true;
          for (int e = 0; e < 2; ++e) {
            inside &= y[e] >= 0 && y[e] % g_.stride[e] == 0 && y[e] / g_.stride[e] < g_.y[e];
            y[e] /= g_.stride[e];
          }
          if (!inside) continue;
          off_.push_back(k * pitch + (y[0] * g_.y[1] + y[1]) * g_.y[2]);
          shift_.push_back(at[2]);
        }
      }
    first_.push_back(int64_t(off_.size()));
  }
  // dx of one channel += its columns (window x pitch), clipped to the image.
  void add(T* dx, const T* cols, int64_t pitch) const {
    for (int64_t k = 0; k < g_.window(); ++k) {
      int64_t at[3] = {k / (g_.w[1] * g_.w[2]), k / g_.w[2] % g_.w[1], k % g_.w[2]}, lo[3], hi[3], shift[3];
      for (int d = 0; d < 3; ++d) {
        int64_t i = g_.flip ? g_.w[d] - 1 - at[d] : at[d];
        shift[d] = i * g_.dilation[d] - g_.padding[d];  // x = y * stride + shift
        lo[d] = shift[d] >= 0 ? 0 : (-shift[d] + g_.stride[d] - 1) / g_.stride[d];
        hi[d] = g_.x[d] - 1 - shift[d] < 0 ? 0 : std::min(g_.y[d], (g_.x[d] - 1 - shift[d]) / g_.stride[d] + 1);
      }
      const T* col = cols + k * pitch;
      const int64_t s = g_.stride[2];
      for (int64_t i = lo[0]; i < hi[0]; ++i)
        for (int64_t j = lo[1]; j < hi[1]; ++j) {
          const T* from = col + (i * g_.y[1] + j) * g_.y[2];
          T* to = dx + ((i * g_.stride[0] + shift[0]) * g_.x[1] + j * g_.stride[1] + shift[1]) * g_.x[2] + shift[2];
          if (s == 1)
            for (int64_t q = lo[2]; q < hi[2]; ++q) to[q] += from[q];
          else
            for (int64_t q = lo[2]; q < hi[2]; ++q) to[q * s] += from[q];
        }
    }
  }
  Geometry g_;
  int64_t shares_ = 1;
  // Of each row of dx: its first piece; of each piece: where it lies in the columns, and in the row.
  std::vector<int64_t> first_, off_, shift_;
};

template <class T>
class ConvDw final : public Step {
 public:
  explicit ConvDw(const Geometry& g) : g_(g), padded_(g, 64) {
    const Micro<T>& micro = micro_of<T>();
    // A block of channels is at most 384 patch elements, gathered for up to 256 positions: 400 KiB at most, and as much
    // of dw. Long sums matter more than wide rows, for dw is read and written once for each. Small planes are joined,
    // as many images as make 256 positions (their rows of dy are copied together).
    const int64_t window = std::max<int64_t>(1, g.window()), plane = std::max<int64_t>(1, g.y_plane());
    const int64_t most = std::clamp<int64_t>(384 / window, 1, std::max<int64_t>(1, g.in_channels));
    blocks_ = (std::max<int64_t>(1, g.in_channels) + most - 1) / most;
    channels_ = (g.in_channels + blocks_ - 1) / blocks_;
    columns_ = channels_ * window;
    pitch_ = round_up(columns_ + 16, micro.lanes);
    positions_ = kPositions;
    joined_ = plane <= kPositions / 2 ? kPositions / plane : 1;
    Geometry part = g;
    part.in_channels = channels_;
    off_ = padded_.offsets(part, g.flip);
    at_ = padded_.positions(g);
    // Runs along the innermost dimension of the window lie side by side in the image, too.
    run_ = g.dilation[2] == 1 && !g.flip ? std::max<int64_t>(1, g.w[2]) : 1;
    plain_ = window == 1 && padded_.in_place;
    for (int d = 0; d < 3; ++d) plain_ &= g.stride[d] == 1;
    const double waste = double(round_up(columns_, micro.lanes)) / double(std::max<int64_t>(1, columns_));
    cost_ns = g.work() * waste / (double(micro.lanes) * 5) +
              double(g.images * g.groups * g.y_plane()) * double(g.patch()) * (run_ == 1 ? 0.5 : 0.12) + 200;
    // Chunks of images, each with a dw of its own: 100 us each or more, and no more than 16 tasks need.
    const double per_chunk = cost_ns / double(blocks_ * g.groups);
    chunks_ = std::clamp<int64_t>(std::min(int64_t(per_chunk / 100e3), 16 / (blocks_ * std::max<int64_t>(1, g.groups))),
                                  1, std::max<int64_t>(1, g.images));
    size_ = g.groups * g.out_channels * g.patch();
    scratch_bytes = chunks_ > 1 ? size_t(size_ * (chunks_ - 1)) * sizeof(T) : 0;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto partial = reinterpret_cast<T*>(scratch);
    if (size_ == 0) return;
    parallel(chunks_ * g_.groups * blocks_, cost_ns, [&](int64_t task) {
      const int64_t chunk = task / (g_.groups * blocks_), group = task / blocks_ % g_.groups, block = task % blocks_;
      accumulate(dy, x, chunk == 0 ? dw : partial + (chunk - 1) * size_, chunk, group, block);
    });
    if (chunks_ == 1) return;
    const int64_t share = 4096, shares = (size_ + share - 1) / share;
    parallel(shares, double(size_ * chunks_) * 0.1, [&](int64_t task) {
      const int64_t first = task * share, last = std::min(size_, first + share);
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        const T* from = partial + (chunk - 1) * size_;
        for (int64_t i = first; i < last; ++i) dw[i] += from[i];
      }
    });
  }
  std::string text() const override {
    return std::to_string(chunks_) + " chunks of images, " + std::to_string(blocks_) + " blocks of channels";
  }

 private:
  void accumulate(const T* dy, const T* x, T* dw, int64_t chunk, int64_t group, int64_t block) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), o_n = g_.out_channels, patch = g_.patch(), window = g_.window();
    const int64_t c0 = block * channels_, c_n = std::min(channels_, g_.in_channels - c0), columns = c_n * window;
    const int64_t first = g_.images * chunk / chunks_, last = g_.images * (chunk + 1) / chunks_;
    T* to = dw + group * o_n * patch + c0 * window;
    if (c_n <= 0) return;
    if (first == last || plane == 0) {
      for (int64_t o = 0; o < o_n; ++o) std::fill_n(to + o * patch, columns, T(0));
      return;
    }
    if (plain_) {
      const Gemm<T> product(o_n, c_n, plane);
      for (int64_t n = first; n < last; ++n) {
        const int64_t image = n * g_.groups + group;
        product.run({dy + image * o_n * plane, plane, 1}, {x + (image * g_.in_channels + c0) * plane, 1, plane}, to,
                    patch, n > first);
      }
      return;
    }
    const size_t room = size_t(round_up(int64_t(padded_.bytes(channels_)), 64));
    const size_t gathered = size_t(round_up((positions_ * pitch_ + 16) * int64_t(sizeof(T)), 64));
    auto* area =
        static_cast<char*>(workspace(1, room + gathered + (joined_ > 1 ? size_t(o_n * positions_) * sizeof(T) : 0)));
    auto* rows = reinterpret_cast<T*>(area + room);
    auto* joined = reinterpret_cast<T*>(area + room + gathered);
    int64_t off[kPositions];
    for (int64_t p = 0; p < positions_; ++p) off[p] = p * pitch_;
    auto gather = [&](const T* source, int64_t q, int64_t count, T* to) {
      for (int64_t p = 0; p < count; ++p)
        micro.runs(to + p * pitch_, source + at_[size_t(q + p)], off_.data(), columns / run_, run_);
    };
    bool add = false;
    auto multiply = [&](const T* a, int64_t stride, int64_t count) {
      for (int64_t j = 0; j < columns; j += 2 * micro.lanes) {
        const int64_t n0 = std::min<int64_t>(micro.lanes, columns - j);
        const int64_t n1 = std::clamp<int64_t>(columns - j - micro.lanes, 0, micro.lanes);
        Panel<T> panel{{rows + j, rows + j + micro.lanes}, {to + j, to + j + micro.lanes}, {int(n0), int(n1)}};
        micro.panel(o_n, count, a, stride, 1, off, panel, patch, add);
      }
      add = true;
    };
    for (int64_t n = first; n < last; n += joined_) {
      const int64_t together = std::min(joined_, last - n);
      for (int64_t i = 0; i < together; ++i) {
        const int64_t image = (n + i) * g_.groups + group;
        const T* source = padded_.prepare(g_, x + (image * g_.in_channels + c0) * g_.x_plane(), c_n,
                                          image + 1 == g_.images * g_.groups, reinterpret_cast<T*>(area), 0,
                                          padded_.rows());
        const T* d = dy + image * o_n * plane;
        if (joined_ == 1) {
          for (int64_t q = 0; q < plane; q += positions_) {
            const int64_t count = std::min(positions_, plane - q);
            gather(source, q, count, rows);
            multiply(d + q, plane, count);
          }
        } else {
          gather(source, 0, plane, rows + i * plane * pitch_);
          for (int64_t o = 0; o < o_n; ++o)
            std::memcpy(joined + o * positions_ + i * plane, d + o * plane, size_t(plane) * sizeof(T));
        }
      }
      if (joined_ > 1) multiply(joined, positions_, together * plane);
    }
  }
  static constexpr int64_t kPositions = 256;
  Geometry g_;
  Padded<T> padded_;
  std::vector<int64_t> off_, at_;
  int64_t blocks_, channels_, columns_, pitch_, positions_, joined_, run_, chunks_, size_;
  bool plain_ = false;  // window 1: dy x^T, no patches
};

template <class T>
std::unique_ptr<Step> make(Op op, std::span<const Layout> out, std::span<const Layout> in,
                           std::span<const int64_t> attrs) {
  if (op == Op::conv) {
    Geometry g = geometry(in[0], in[1], out[0], attrs);
    if (ConvPlain<T>::fits(g)) return std::make_unique<ConvPlain<T>>(g, false);
    return std::make_unique<Conv<T>>(g);
  }
  if (op == Op::conv_dw) return std::make_unique<ConvDw<T>>(geometry(in[1], out[0], in[0], attrs));
  Geometry g = geometry(out[0], in[1], in[0], attrs);
  if (ConvPlain<T>::fits(g)) return std::make_unique<ConvPlain<T>>(g, true);
  bool turnable = true;
  for (int d = 0; d < 3; ++d)
    turnable &= g.stride[d] == 1 && g.padding[d] <= g.dilation[d] * (g.w[d] - 1) && g.y[d] > 0 && g.w[d] > 0;
  if (turnable) {
    auto turned = std::make_unique<ConvDxTurned<T>>(g);
    if (turned->cost_ns <= ConvDxColumns<T>::cost(g)) return turned;
  }
  return std::make_unique<ConvDxColumns<T>>(g);
}

std::unique_ptr<Step> make_conv(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                std::span<const int64_t> attrs) {
  if (out[0].dtype == DType::F32) return make<float>(op, out, in, attrs);
  if (out[0].dtype == DType::F64) return make<double>(op, out, in, attrs);
  throw Error(Error::Type, std::string("[") + info(op).name + "] has no cpu kernel for " + name(out[0].dtype) +
                               ". Cast to float32 first.");
}

const Register conv({Op::conv, Op::conv_dx, Op::conv_dw}, make_conv);

}  // namespace
}  // namespace knet::cpu
