// Convolutions as implicit matrix products: y (O x P) = w (O x CK) patches (CK x P), one image and group at a time,
// where C is the channels of a group, K the window, P the output positions. The matrix of patches is never written as a
// whole. The inner loops (isa/micro.h) take each row of a panel of B from anywhere, and that decides how each pass is
// done:
//
//   conv     Direct: a vector of B is a piece of the image, read where it lies (Source: in the image itself, or in a
//            copy with its padding, the phases of strides apart); it may reach over several rows, its lanes then close
//            up. Gathered: where too many lanes would be lost, a panel of patches is copied together first. Lines: for
//            three results or fewer to a group. Planes: for one channel in (depthwise), without any copy. Product: a
//            window of 1, its image thinned first where there are strides.
//   conv_dx  Turned: as conv with transposed weights, one convolution for each phase of the strides, or by columns:
//            w^T dy for one channel at a time, its rows added to dx.
//   conv_dw  dw (O x CK) = sum of dy (O x P) patches^T (P x CK): a block of positions at a time, patches gathered with
//            one run per window row. Images are shared out in chunks fixed by the sizes; the partial sums are added in
//            order. Lines: for three results or fewer to a group, vectors along the positions.
//
// What each costs is written where it is chosen; measurements beside PyTorch's are in benchmarks/README.md.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/registry.h"
#include "cpu/threads.h"

namespace knet::cpu {
namespace {

// Most steps are 1, and a division takes as long as copying a row.
int64_t div(int64_t x, int64_t by) { return by == 1 ? x : x / by; }
int64_t rem(int64_t x, int64_t by) { return by == 1 ? 0 : x % by; }
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
  // One output along a dimension: its stride is of no consequence.
  for (int d = 0; d < 3; ++d)
    if (g.y[d] == 1) g.stride[d] = 1;
  // Extents of 1 in the window over whole, unpadded, unstrided rows: rows can be joined into longer ones.
  for (int d = 2; d > 0; --d)
    while (g.w[d] == 1 && g.w[d - 1] == 1 && g.stride[d] == 1 && g.stride[d - 1] == 1 && g.padding[d] == 0 &&
           g.padding[d - 1] == 0 && g.x[d] == g.y[d] && g.x[d - 1] == g.y[d - 1] && g.x[d - 1] > 1) {
      g.x[d] *= g.x[d - 1];
      g.y[d] *= g.y[d - 1];
      g.x[d - 1] = g.y[d - 1] = 1;
    }
  return g;
}

// One dimension of a sweep: result m is a sum over taps t of source[m * stride + taps[t]], zeros outside of [0, x).
struct Axis {
  int64_t x = 1, y = 1, stride = 1;
  std::vector<int64_t> taps;
};
using Axes = std::array<Axis, 3>;

Axes axes(const Geometry& g) {
  Axes a;
  for (size_t d = 0; d < 3; ++d) {
    a[d] = {g.x[d], g.y[d], g.stride[d], {}};
    for (int64_t k = 0; k < g.w[d]; ++k)
      a[d].taps.push_back((g.flip ? g.w[d] - 1 - k : k) * g.dilation[d] - g.padding[d]);
  }
  return a;
}

int64_t taps(const Axes& a) { return int64_t(a[0].taps.size() * a[1].taps.size() * a[2].taps.size()); }
int64_t results(const Axes& a) { return a[0].y * a[1].y * a[2].y; }

// An image as the loops read it. In place where every element that is read is there; else a copy of the part that is
// read, with its padding. If `split`, the copy keeps the elements that one tap meets side by side: the phases of each
// stride lie apart, those that no tap meets are left out.
template <class T>
class Source {
 public:
  Source(const Axes& a, bool split, int64_t slack) : slack(slack) {
    in_place = true;
    for (size_t d = 0; d < 3; ++d) {
      x_[d] = a[d].x;
      stride_[d] = a[d].stride;
      if (!a[d].taps.empty()) first_[d] = *std::min_element(a[d].taps.begin(), a[d].taps.end());
      const int64_t last = a[d].taps.empty() ? 0 : *std::max_element(a[d].taps.begin(), a[d].taps.end());
      extent_[d] = std::max<int64_t>(0, a[d].y - 1) * a[d].stride + last - first_[d] + 1;
      in_place &= first_[d] >= 0 && first_[d] + extent_[d] <= a[d].x && (!split || a[d].stride == 1);
    }
    for (size_t d = 0; d < 3; ++d) {
      if (in_place) first_[d] = 0, extent_[d] = a[d].x;
      step_[d] = split && !in_place ? a[d].stride : 1;
      slot_[d].assign(size_t(step_[d]), -1);
      for (int64_t tap : a[d].taps) slot_[d][size_t((tap - first_[d]) % step_[d])] = 0;
      slots_[d] = 0;
      for (int64_t& slot : slot_[d])
        if (slot == 0) slot = slots_[d]++;
      per_[d] = (extent_[d] + step_[d] - 1) / step_[d];
    }
    line_[2] = 1;
    line_[1] = per_[2];
    line_[0] = slots_[1] * per_[1] * per_[2];
    phase_[1] = per_[1] * per_[2];
    phase_[0] = per_[0] * line_[0];
    phase_[2] = slots_[0] * phase_[0];
    channel = slots_[2] * phase_[2];
    for (int64_t slot : slot_[2]) columns_.push_back(slot < 0 ? -1 : slot * phase_[2]);
  }
  size_t bytes(int64_t channels) const {
    return size_t(round_up((channels * channel + slack) * int64_t(sizeof(T)), 64));
  }
  // What of a dimension results lo to hi - 1 read, from the first that is read on (and what whole vectors do beyond).
  std::pair<int64_t, int64_t> reach(size_t d, int64_t lo, int64_t hi, int64_t y) const {
    const int64_t more = d == 2 ? slack : d == 1 ? slack / std::max<int64_t>(1, per_[2]) + 1 : 1;
    return {lo * stride_[d], std::min(extent_[d], extent_[d] - (y - hi) * stride_[d] + more * step_[d])};
  }
  // Channels from `x` on; of dimension `d` what lies in `part` (reach). `last`: nothing readable lies behind them.
  const T* prepare(const T* x, int64_t channels, bool last, T* room, size_t d, std::pair<int64_t, int64_t> part) const {
    const int64_t plane = x_[0] * x_[1] * x_[2];
    if (in_place && !last) return x;
    std::memset(room + channels * channel, 0, size_t(slack) * sizeof(T));
    if (in_place) {
      int64_t lo = 0, hi = plane;
      if (plane == x_[d] * line_[d]) {  // a part of one dimension is one piece
        lo = std::min(plane, part.first * line_[d]);
        hi = std::min(plane, (part.second + 1) * line_[d] + slack);
      }
      for (int64_t c = 0; c < channels; ++c)
        std::memcpy(room + c * plane + lo, x + c * plane + lo, size_t(hi - lo) * sizeof(T));
      return room;
    }
    int64_t lo[3] = {0, 0, 0}, hi[3] = {extent_[0], extent_[1], extent_[2]};
    lo[d] = part.first;
    hi[d] = part.second;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t u = lo[0]; u < hi[0]; ++u) {
        const int64_t slot = slot_[0][size_t(rem(u, step_[0]))], z = u + first_[0];
        if (slot < 0) continue;
        const bool inside = z >= 0 && z < x_[0];
        slice(room + c * channel + slot * phase_[0] + div(u, step_[0]) * line_[0],
              inside ? x + c * plane + z * x_[1] * x_[2] : nullptr, lo, hi);
      }
    return room;
  }
  // Where each element of a patch of so many channels lies from the patch's first, channel by channel, in the order of
  // the taps.
  std::vector<int64_t> offsets(const Axes& a, int64_t channels) const {
    std::vector<int64_t> off;
    off.reserve(size_t(channels * taps(a)));
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i : a[0].taps)
        for (int64_t j : a[1].taps)
          for (int64_t k : a[2].taps) off.push_back(c * channel + at(0, i) + at(1, j) + at(2, k));
    return off;
  }
  // Where the patch of each result begins.
  std::vector<int64_t> positions(const Axes& a) const {
    std::vector<int64_t> to;
    to.reserve(size_t(results(a)));
    for (int64_t i = 0; i < a[0].y; ++i)
      for (int64_t j = 0; j < a[1].y; ++j)
        for (int64_t k = 0; k < a[2].y; ++k) {
          const int64_t m[3] = {i, j, k};
          int64_t sum = 0;
          for (size_t d = 0; d < 3; ++d) sum += m[d] * (stride_[d] / step_[d]) * line_[d];
          to.push_back(sum);
        }
    return to;
  }

  bool in_place;
  int64_t channel;  // elements from one channel to the next
  int64_t slack;    // elements that may be read beyond the end

 private:
  int64_t at(size_t d, int64_t tap) const {
    const int64_t u = tap - first_[d];
    return slot_[d][size_t(u % step_[d])] * phase_[d] + u / step_[d] * line_[d];
  }
  // One slice's rows and columns lo to hi - 1, zeros if x is null.
  void slice(T* to, const T* x, const int64_t* lo, const int64_t* hi) const {
    auto index = [](int64_t u, int64_t step) { return u <= 0 ? 0 : div(u + step - 1, step); };
    const int64_t j0 = div(lo[2], step_[2]), n = std::min(per_[2], index(hi[2], step_[2])) - j0;
    for (int64_t a = 0; a < step_[1]; ++a) {
      if (slot_[1][size_t(a)] < 0) continue;
      const int64_t r0 = index(lo[1] - a, step_[1]), r1 = std::max(r0, std::min(per_[1], index(hi[1] - a, step_[1])));
      const int64_t top = x ? std::clamp(index(-a - first_[1], step_[1]), r0, r1) : r1;
      const int64_t end = x ? std::clamp(index(x_[1] - a - first_[1], step_[1]), top, r1) : r1;
      T* rows = to + slot_[1][size_t(a)] * phase_[1] + j0;
      auto zeros = [&](int64_t r, int64_t until) {
        for (; r < until; ++r)
          for (int64_t phase : columns_)
            if (phase >= 0) std::fill_n(rows + phase + r * line_[1], n, T(0));
      };
      zeros(r0, top);
      micro_of<T>().thin(rows + top * line_[1], columns_.data(), line_[1],
                         x + (top * step_[1] + a + first_[1]) * x_[2], step_[1] * x_[2], end - top, n,
                         j0 * step_[2] + first_[2], x_[2], step_[2]);
      zeros(end, r1);
    }
  }

  int64_t x_[3], stride_[3], first_[3] = {0, 0, 0}, extent_[3], step_[3], slots_[3], per_[3];
  int64_t line_[3], phase_[3];  // elements from one to the next of a dimension, and of its phases
  std::vector<int64_t> slot_[3], columns_;  // of each phase: its number; of columns': where it begins (or -1)
};

// y (O x P) = w (O x CK) patches (CK x P) for one image and group.
template <class T>
class Sweep {
 public:
  // A share is `per_share` of the results along dimension `d` (those before it have one).
  Sweep(const Source<T>& source, const Axes& a, int64_t in_channels, int64_t out_channels, size_t d, int64_t per_share)
      : out_channels_(out_channels), patch_(in_channels * taps(a)), plane_(results(a)), row_(a[2].y) {
    off_ = source.offsets(a, in_channels);
    at_ = source.positions(a);
    const int64_t lanes = micro_of<T>().lanes;
    share_ = per_share;
    for (size_t e = d + 1; e < 3; ++e) share_ *= a[e].y;
    share_ = std::max<int64_t>(1, share_);
    for (int64_t q = 0; q < plane_; q += share_) {
      first_.push_back(int64_t(pieces_.size()));
      cover(q, std::min(plane_, q + share_));
    }
    // Columns computed for each that is wanted: all that lie between, against a plane padded to vectors plus the
    // gathering, taken as 10 more rows of products (a panel row of 32 floats is copied in two to four pieces).
    const double wanted = double(std::max<int64_t>(plane_, 1));
    const double direct = double(int64_t(pieces_.size()) * lanes) / wanted;
    const double gathered =
        double(round_up(plane_, lanes)) / wanted * (1 + 10 / double(std::max<int64_t>(1, out_channels)));
    direct_ = out_channels <= kLines || direct <= gathered;
    if (!direct_) {
      first_.clear();
      pieces_.clear();
      orders_.clear();
      for (int64_t q = 0; q < plane_; q += share_) {
        first_.push_back(int64_t(pieces_.size()));
        for (int64_t i = q; i < std::min(plane_, q + share_); i += lanes)
          pieces_.push_back({0, i, int(std::min(lanes, std::min(plane_, q + share_) - i)), -1});
      }
    }
    first_.push_back(int64_t(pieces_.size()));
    block_ = direct_ && a[2].taps.size() >= 3 ? kWide : kBlock;
    // Five vectors of multiply-adds a nanosecond; two and a half where each needs a load.
    cost_ns = double(out_channels * patch_) * (direct_ ? direct : gathered) * wanted /
              (double(lanes) * (out_channels <= 1 ? 2.5 : 5));
  }

  double cost_ns;  // of one image and group
  int64_t plane() const { return plane_; }
  // Of the results of a plane: the first of a share, and how many it has.
  int64_t begin(int64_t share) const { return std::min(plane_, share * share_); }
  int64_t size(int64_t share) const { return begin(share + 1) - begin(share); }
  size_t packed_bytes() const { return direct_ ? 0 : size_t(kBlock * 2 * micro_of<T>().lanes) * sizeof(T); }
  const char* text() const { return out_channels_ <= kLines ? "lines" : direct_ ? "direct" : "gathered"; }

  // x: the source; w: (O, CK); y: the share's first result, ldc from one channel to the next; packed: packed_bytes.
  void run(int64_t share, const T* x, const T* w, T* y, int64_t ldc, T* packed) const {
    if (size(share) == 0) return;
    const Micro<T>& micro = micro_of<T>();
    y -= begin(share);
    const int64_t first = first_[size_t(share)], last = first_[size_t(share) + 1];
    if (patch_ == 0) {
      for (int64_t o = 0; o < out_channels_; ++o) std::fill_n(y + begin(share) + o * ldc, size(share), T(0));
      return;
    }
    if (out_channels_ <= kLines) {
      micro.lines(out_channels_, patch_, w, patch_, off_.data(), x, y, ldc, pieces_.data() + first, last - first,
                  orders_.data());
      return;
    }
    const int64_t width = 2 * micro.lanes;
    int64_t rows[kBlock];
    if (!direct_)
      for (int64_t p = 0; p < std::min(kBlock, patch_); ++p) rows[p] = p * width;
    // Weights beyond L2's share are read once for a whole group of panels, a block of rows of patches at a time; the
    // block after that is fetched meanwhile.
    const int64_t group = out_channels_ * patch_ * int64_t(sizeof(T)) <= kWeights
                              ? 2
                              : 2 * std::max<int64_t>(1, kWeights / (out_channels_ * width * int64_t(sizeof(T))));
    for (int64_t begin = first; begin < last; begin += group)
      for (int64_t p0 = 0; p0 < patch_; p0 += block_)
        for (int64_t i = begin; i < std::min(last, begin + group); i += 2) {
          const bool two = i + 1 < last;
          const int64_t kk = std::min(block_, patch_ - p0);
          Panel<T> p;
          for (int v = 0; v < 2; ++v) {
            const Piece& piece = pieces_[size_t(two ? i + v : i)];
            p.b[v] = direct_ ? x + piece.from : packed + v * micro.lanes;
            p.c[v] = y + piece.to;
            p.n[v] = v == 0 || two ? piece.n : 0;
            if (piece.order >= 0) p.order[v] = orders_.data() + piece.order * micro.lanes;
          }
          const int64_t panels = (std::min(last, begin + group) - begin + 1) / 2, panel = (i - begin) / 2;
          if (group > 2 && p0 + block_ < patch_) {
            const int64_t o = out_channels_ * panel / panels;
            p.next = w + o * patch_ + p0 + block_;
            p.next_runs = out_channels_ * (panel + 1) / panels - o;
            p.next_stride = patch_;
            p.next_n = std::min(block_, patch_ - p0 - block_);
          }
          if (!direct_) gather(packed, x, pieces_[size_t(i)].to, p.n[0] + p.n[1], p0, kk, width);
          micro.panel(out_channels_, kk, w + p0, patch_, 1, direct_ ? off_.data() + p0 : rows, p, ldc, p0 > 0);
        }
  }

 private:
  static constexpr int64_t kLines = 3;            // rows of results that are too few for panels
  static constexpr int64_t kBlock = 256;          // rows of a panel: 256 x 32 floats are 32 KiB
  static constexpr int64_t kWide = 576;           // where rows of a panel share their lines in the source
  static constexpr int64_t kWeights = 512 << 10;  // bytes

  // Results q to end - 1, by as few vectors as reach them all from the first that is left.
  void cover(int64_t q, int64_t end) {
    const int64_t lanes = micro_of<T>().lanes;
    while (q < end) {
      const int64_t from = at_[size_t(q)];
      int64_t n = 1;
      while (q + n < end && at_[size_t(q + n)] - from < lanes) ++n;
      int order = -1;
      if (at_[size_t(q + n - 1)] - from != n - 1) {
        order = int(orders_.size() / size_t(lanes));
        for (int64_t j = 0; j < lanes; ++j)
          orders_.push_back(Lane<T>(at_[size_t(std::min(q + j, q + n - 1))] - from));
      }
      pieces_.push_back({from, q, int(n), order});
      q += n;
    }
  }
  // Results q .. q + n of rows p0 .. p0 + kk of the patches.
  void gather(T* to, const T* x, int64_t q, int64_t n, int64_t p0, int64_t kk, int64_t width) const {
    for (int64_t j = 0; j < n;) {
      const int64_t run = std::min(n - j, row_ - (q + j) % row_);
      micro_of<T>().columns(to + j, width, x + at_[size_t(q + j)], off_.data() + p0, kk, run);
      j += run;
    }
    // Columns beyond the last are computed (not stored): they must be numbers that cost nothing, not stale denormals.
    const int64_t whole = round_up(n, micro_of<T>().lanes);
    for (int64_t p = 0; n < whole && p < kk; ++p) std::fill_n(to + p * width + n, whole - n, T(0));
  }

  int64_t out_channels_, patch_, plane_, row_, share_, block_;  // a share: results
  std::vector<int64_t> off_, at_, first_;
  std::vector<Piece> pieces_;
  std::vector<Lane<T>> orders_;
  bool direct_;
};

// How the images and groups of a pass are cut into tasks: shares along dimension `d` of each, or several together.
struct Tasks {
  size_t d;
  int64_t per_share, shares, images, together = 1;
  // The shares of an image take 100 us and 128 results (panels that the weights are read for) or more, and there are no
  // more than make 32 tasks (shares copy again what reaches over their border: half of the rows of 3x56 by 3x3); images
  // that take less are done 30 us together.
  Tasks(const Axes& a, int64_t images, double image_ns, int64_t most_per_share = int64_t(1) << 60) : images(images) {
    d = a[0].y > 1 ? 0 : a[1].y > 1 ? 1 : 2;
    const int64_t y = std::max<int64_t>(1, a[d].y), line = std::max<int64_t>(1, results(a) / y);
    const int64_t least = std::max(int64_t(double(y) * 100e3 / std::max(1.0, image_ns)), (127 + line) / line);
    shares = std::min(y / std::clamp<int64_t>(least, 1, y), 32 / std::max<int64_t>(1, images));
    shares = std::max({int64_t(1), shares, (y + most_per_share - 1) / most_per_share});
    per_share = (y + shares - 1) / shares;
    shares = (y + per_share - 1) / per_share;
    if (shares == 1)
      together = std::clamp<int64_t>(int64_t(30e3 / std::max(1.0, image_ns)), 1, std::max<int64_t>(1, images));
  }
  int64_t count() const { return (images + together - 1) / together * shares; }
  template <class F>
  void run(double cost_ns, const F& body) const {
    parallel(count(), cost_ns, [&](int64_t task) {
      const int64_t first = task / shares * together;
      for (int64_t i = first; i < std::min(images, first + together); ++i) body(i, task % shares);
    });
  }
};

// Of one image and group, roughly.
template <class T>
double image_ns(const Geometry& g) {
  return g.work() / double(std::max<int64_t>(1, g.images * g.groups)) / (micro_of<T>().lanes * 4.0);
}

template <class T>
constexpr int64_t kSlack = 128 / int64_t(sizeof(T));  // two of the widest vectors

// To copy an element of a source.
template <class T>
constexpr double kCopyNs = 0.02 * double(sizeof(T));

// One channel in and one out at a time, read where they are: what lies outside is left out by lanes and by rows.
struct Planes {
  explicit Planes(const Axes& axes) : a(axes) {
    for (size_t d = 0; d < 2; ++d)
      f.x[d] = a[d + 1].x, f.y[d] = a[d + 1].y, f.stride[d] = a[d + 1].stride,
      f.window[d] = int64_t(a[d + 1].taps.size());
  }
  static bool fit(const Axes& a) {
    return a[0].x == 1 && a[0].y == 1 && a[0].taps == std::vector<int64_t>{0} && a[2].stride <= 2 &&
           a[2].taps.size() <= 16;
  }
  Filter filter() const {
    Filter g = f;
    for (size_t d = 0; d < 2; ++d) g.tap[d] = a[d + 1].taps.data();
    return g;
  }
  int64_t x_plane() const { return f.x[0] * f.x[1]; }
  int64_t y_plane() const { return f.y[0] * f.y[1]; }
  // Of one plane: each vector of results loads each element of the window (a pair of them where every other lane is
  // wanted), 0.7 to 1 ns.
  double cost_ns(int64_t lanes) const {
    return double(f.y[0] * (round_up(f.y[1], lanes) / lanes) * taps(a)) * 0.8 * double(f.stride[1]) + 20;
  }
  Axes a;
  Filter f;
};

// Depthwise: images of one channel in each group. Their copies with padding took half of the time.
template <class T>
class ConvPlanes final : public Step {
 public:
  ConvPlanes(const Axes& a, int64_t images, int64_t groups, int64_t out_channels)
      : planes_(a), groups_(groups), out_channels_(out_channels),
        tasks_(a, images * groups, planes_.cost_ns(micro_of<T>().lanes) * double(out_channels)) {
    cost_ns = double(images * groups * out_channels) * planes_.cost_ns(micro_of<T>().lanes) + 100;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    const Filter f = planes_.filter();
    const int64_t window = f.window[0] * f.window[1];
    tasks_.run(cost_ns, [&](int64_t image, int64_t share) {
      const int64_t lo = tasks_.d == 1 ? share * tasks_.per_share : 0;
      const int64_t hi = tasks_.d == 1 ? std::min(f.y[0], lo + tasks_.per_share) : f.y[0];
      for (int64_t o = 0; o < out_channels_; ++o)
        micro_of<T>().filter(f, x + image * planes_.x_plane(), w + (image % groups_ * out_channels_ + o) * window,
                             y + (image * out_channels_ + o) * planes_.y_plane(), lo, hi);
    });
  }
  std::string text() const override { return "planes, " + std::to_string(tasks_.count()) + " tasks"; }

 private:
  Planes planes_;
  int64_t groups_, out_channels_;
  Tasks tasks_;
};

template <class T>
class Conv final : public Step {
 public:
  explicit Conv(const Geometry& g)
      : g_(g), axes_(axes(g)), source_(axes_, true, kSlack<T>),
        tasks_(axes_, g.images * g.groups, image_ns<T>(g)),
        sweep_(source_, axes_, g.in_channels, g.out_channels, tasks_.d, tasks_.per_share) {
    const double copy_ns = source_.in_place ? 0 : double(g.in_channels * source_.channel) * kCopyNs<T>;
    cost_ns = double(tasks_.images) * (sweep_.cost_ns + copy_ns) + 100;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    if (g_.images == 0 || g_.y_plane() == 0 || g_.out_channels == 0) return;
    const int64_t y_plane = g_.y_plane(), y_d = axes_[tasks_.d].y;
    tasks_.run(cost_ns, [&](int64_t image, int64_t share) {
      const size_t room = source_.bytes(g_.in_channels);
      auto* area = static_cast<char*>(workspace(1, room + sweep_.packed_bytes()));
      const T* from = source_.prepare(
          x + image * g_.in_channels * g_.x_plane(), g_.in_channels, image + 1 == tasks_.images,
          reinterpret_cast<T*>(area), tasks_.d,
          source_.reach(tasks_.d, share * tasks_.per_share, std::min(y_d, (share + 1) * tasks_.per_share), y_d));
      sweep_.run(share, from, w + image % g_.groups * g_.out_channels * g_.patch(),
                 y + image * g_.out_channels * y_plane + sweep_.begin(share), y_plane,
                 reinterpret_cast<T*>(area + room));
    });
  }
  std::string text() const override {
    return std::string(sweep_.text()) + ", " + std::to_string(tasks_.count()) + " tasks";
  }

 private:
  Geometry g_;
  Axes axes_;
  Source<T> source_;
  Tasks tasks_;
  Sweep<T> sweep_;
};

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
    for (int d = 0; d < 3; ++d) plain &= g.stride[d] == 1 && g.padding[d] == 0 && g.x[d] == g.y[d];
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

// A window of 1 with strides or padding: what of the images it meets is copied together first. A sweep over 256x56x56
// by 512 with strides of 2 took 15.4 ms, so 13.2.
template <class T>
class ConvThinned final : public Step {
 public:
  explicit ConvThinned(const Geometry& g) : g_(g), source_(axes(g), true, 0), product_(thinned(g), false) {
    scratch_bytes = size_t(g.images * g.groups * g.in_channels * g.y_plane()) * sizeof(T);
    copy_ns_ = double(scratch_bytes) / double(sizeof(T)) * 4 * kCopyNs<T>;
    cost_ns = copy_ns_ + product_.cost_ns;
  }
  static bool fits(const Geometry& g) {
    return g.window() == 1 && g.out_channels > 3 && g.y_plane() > 0 &&
           Source<T>(axes(g), true, 0).channel == g.y_plane();
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto x = reinterpret_cast<const T*>(in[0]);
    const int64_t c = g_.in_channels;
    parallel(g_.images * g_.groups, copy_ns_, [&](int64_t image) {
      source_.prepare(x + image * c * g_.x_plane(), c, true, reinterpret_cast<T*>(scratch) + image * c * g_.y_plane(),
                      2, source_.reach(2, 0, g_.y[2], g_.y[2]));
    });
    const char* const product_in[] = {scratch, in[1]};
    product_.run(out, product_in, nullptr);
  }
  std::string text() const override { return "thinned, " + product_.text(); }

 private:
  static Geometry thinned(Geometry g) {
    for (int d = 0; d < 3; ++d) g.x[d] = g.y[d], g.stride[d] = 1, g.padding[d] = 0;
    return g;
  }
  Geometry g_;
  Source<T> source_;
  ConvPlain<T> product_;
  double copy_ns_;
};

// Phase `at` of dx as a sweep over dy; which elements of the window it meets (unless null).
Axes phase_axes(const Geometry& g, const int64_t* at, std::vector<int64_t>* which) {
  Axes a;
  std::vector<int64_t> kept[3];
  for (size_t d = 0; d < 3; ++d) {
    a[d] = {g.y[d], (g.x[d] - at[d] + g.stride[d] - 1) / g.stride[d], 1, {}};
    for (int64_t k = 0; k < g.w[d]; ++k) {
      const int64_t shift = at[d] + g.padding[d] - (g.flip ? g.w[d] - 1 - k : k) * g.dilation[d];
      if (shift % g.stride[d] == 0) a[d].taps.push_back(shift / g.stride[d]), kept[d].push_back(k);
    }
  }
  for (int64_t i : kept[0])
    for (int64_t j : kept[1])
      for (int64_t k : kept[2])
        if (which) which->push_back((i * g.w[1] + j) * g.w[2] + k);
  return a;
}

// dx by convolving dy: what lies at phase a of a stride s, x = a + s m, meets the filter's elements k with
// a + padding - k * dilation divisible by s alone, and dy at m + (a + padding - k * dilation) / s. So each phase is a
// convolution of stride 1 with its part of the weights (O, C, k) -> (C, O, k); the phases are woven into dx.
template <class T>
class ConvDxTurned final : public Step {
 public:
  explicit ConvDxTurned(const Geometry& g)
      : g_(g), all_(all(g)), source_(all_, true, kSlack<T>),
        tasks_(all_, g.images * g.groups, image_ns<T>(g), most(g)) {
    double sum = source_.in_place ? 0 : double(g.out_channels * source_.channel) * kCopyNs<T>;
    const int64_t steps[3] = {phases(g, 0), phases(g, 1), phases(g, 2)};
    woven_ = steps[0] * steps[1] * steps[2] > 1;
    for (int64_t i = 0; i < steps[0]; ++i)
      for (int64_t j = 0; j < steps[1]; ++j)
        for (int64_t k = 0; k < steps[2]; ++k) {
          Phase p{{i, j, k}, weights_, {}, nullptr};
          const Axes a = phase_axes(g, p.at, &p.taps);
          weights_ += g.groups * g.in_channels * g.out_channels * int64_t(p.taps.size());
          if (!p.taps.empty()) {
            p.sweep = std::make_unique<Sweep<T>>(source_, a, g.out_channels, g.in_channels, tasks_.d, tasks_.per_share);
            sum += p.sweep->cost_ns;
          } else {
            woven_ = true;  // zeros
          }
          phases_.push_back(std::move(p));
        }
    if (woven_) sum += double(g.in_channels * g.x_plane()) * 3 * kCopyNs<T>;
    scratch_bytes = size_t(weights_) * sizeof(T);
    cost_ns = double(tasks_.images) * sum + double(weights_) * 0.5 + 100;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto dx = reinterpret_cast<T*>(out[0]);
    auto turned = reinterpret_cast<T*>(scratch);
    if (g_.images == 0 || g_.in_channels == 0 || g_.x_plane() == 0) return;
    turn(w, turned);
    const size_t room = source_.bytes(g_.out_channels);
    size_t packed = 0, parts = 0;
    for (const Phase& p : phases_)
      if (p.sweep) {
        packed = std::max(packed, p.sweep->packed_bytes());
        parts += woven_ ? size_t(p.sweep->size(0)) : 0;
      }
    parts *= size_t(g_.in_channels) * sizeof(T);
    tasks_.run(cost_ns, [&](int64_t image, int64_t share) {
      auto* area = static_cast<char*>(workspace(1, room + packed + parts));
      const int64_t y_d = all_[tasks_.d].y, lo = share * tasks_.per_share, hi = std::min(y_d, lo + tasks_.per_share);
      const T* from = source_.prepare(dy + image * g_.out_channels * g_.y_plane(), g_.out_channels,
                                      image + 1 == tasks_.images, reinterpret_cast<T*>(area), tasks_.d,
                                      source_.reach(tasks_.d, lo, hi, y_d));
      T* to = dx + image * g_.in_channels * g_.x_plane();
      std::vector<const T*> made;  // the first of each phase's results
      auto* part = reinterpret_cast<T*>(area + room + packed);
      for (const Phase& p : phases_) {
        made.push_back(nullptr);
        if (!p.sweep) continue;
        const int64_t size = woven_ ? p.sweep->size(share) : p.sweep->plane();
        T* y = woven_ ? part : to + p.sweep->begin(share);
        p.sweep->run(share, from,
                     turned + p.weights + image % g_.groups * g_.in_channels * g_.out_channels * int64_t(p.taps.size()),
                     y, size, reinterpret_cast<T*>(area + room));
        made.back() = y;
        if (woven_) part += g_.in_channels * size;
      }
      if (woven_) weave(made, share, lo, hi, to);
    });
  }
  std::string text() const override {
    std::string s = "turned, " + std::to_string(tasks_.count()) + " tasks";
    if (woven_) s += ", " + std::to_string(phases_.size()) + " phases";
    return s;
  }

 private:
  struct Phase {
    int64_t at[3];
    int64_t weights;             // where its weights begin in the scratch
    std::vector<int64_t> taps;   // which elements of the window they are
    std::unique_ptr<Sweep<T>> sweep;
  };
  static int64_t phases(const Geometry& g, int d) { return std::min(g.stride[d], std::max<int64_t>(1, g.x[d])); }
  // The phases of a share lie in L2 until they are woven.
  static int64_t most(const Geometry& g) {
    const int d = g.x[0] > g.stride[0] ? 0 : g.x[1] > g.stride[1] ? 1 : 2;
    int64_t size = g.in_channels * int64_t(sizeof(T)) * g.stride[d];
    if (g.stride[0] * g.stride[1] * g.stride[2] == 1) return int64_t(1) << 60;
    for (int e = d + 1; e < 3; ++e) size *= g.x[e];
    return std::max<int64_t>(1, (512 << 10) / std::max<int64_t>(1, size));
  }
  // What all phases read together.
  static Axes all(const Geometry& g) {
    Axes a;
    for (size_t d = 0; d < 3; ++d) {
      a[d] = {g.y[d], (g.x[d] + g.stride[d] - 1) / g.stride[d], 1, {}};
      for (int64_t i = 0; i < phases(g, int(d)); ++i) {
        int64_t at[3] = {0, 0, 0};
        at[d] = i;
        const Axes phase = phase_axes(g, at, nullptr);
        a[d].taps.insert(a[d].taps.end(), phase[d].taps.begin(), phase[d].taps.end());
      }
    }
    return a;
  }
  void turn(const T* w, T* to) const {
    const int64_t window = g_.window(), c_n = g_.in_channels, o_n = g_.out_channels;
    for (const Phase& p : phases_) {
      const auto n = int64_t(p.taps.size());
      if (n == 0) continue;
      std::vector<int64_t> off;
      off.reserve(size_t(o_n * n));
      for (int64_t o = 0; o < o_n; ++o)
        for (int64_t k : p.taps) off.push_back(o * c_n * window + k);
      // Channels side by side share the lines that they are read from.
      const int64_t together = 16, blocks = (c_n + together - 1) / together;
      parallel(g_.groups * blocks, double(g_.groups * c_n * o_n * n) * 0.5, [&](int64_t task) {
        const int64_t group = task / blocks, first = task % blocks * together;
        for (int64_t c = first; c < std::min(c_n, first + together); ++c)
          filter(to + p.weights + (group * c_n + c) * o_n * n, w + group * o_n * c_n * window + c * window, off, n);
      });
    }
  }
  // One channel's elements of all filters, n of each, from off on.
  void filter(T* to, const T* from, const std::vector<int64_t>& off, int64_t n) const {
    const Micro<T>& micro = micro_of<T>();
    if (n < g_.window()) return micro.runs(to, from, off.data(), g_.out_channels * n, 1);
    const int64_t last = g_.out_channels - 1;  // runs() may go beyond the end of each
    micro.runs(to, from, off.data(), last, n);
    std::memcpy(to + last * n, from + off[size_t(last * n)], size_t(n) * sizeof(T));
  }
  // Results lo to hi - 1 along the shares' dimension, into one image's dx.
  void weave(const std::vector<const T*>& made, int64_t share, int64_t lo, int64_t hi, T* dx) const {
    const auto s = g_.stride;
    int64_t first[3] = {0, 0, 0}, end[3] = {g_.x[0], g_.x[1], g_.x[2]};
    first[tasks_.d] = lo * s[tasks_.d];
    end[tasks_.d] = std::min(g_.x[tasks_.d], hi * s[tasks_.d]);
    const int64_t steps[3] = {phases(g_, 0), phases(g_, 1), phases(g_, 2)};
    std::vector<const T*> from(size_t(s[2]), nullptr);
    for (int64_t c = 0; c < g_.in_channels; ++c)
      for (int64_t i = first[0]; i < end[0]; ++i)
        for (int64_t j = first[1]; j < end[1]; ++j) {
          for (int64_t k = 0; k < steps[2]; ++k) {
            const auto phase = size_t((i % s[0] * steps[1] + j % s[1]) * steps[2] + k);
            if (!made[phase]) continue;
            const int64_t rows = (g_.x[1] - j % s[1] + s[1] - 1) / s[1], row = (g_.x[2] - k + s[2] - 1) / s[2];
            const Sweep<T>& sweep = *phases_[phase].sweep;
            from[size_t(k)] = made[phase] + c * sweep.size(share) - sweep.begin(share) +
                              (i / s[0] * rows + j / s[1]) * row + first[2] / s[2];
          }
          micro_of<T>().weave(dx + ((c * g_.x[0] + i) * g_.x[1] + j) * g_.x[2] + first[2], end[2] - first[2],
                              from.data(), s[2]);
          if (steps[1] > 1 || steps[0] > 1) std::fill(from.begin(), from.end(), nullptr);
        }
  }

  Geometry g_;
  Axes all_;
  Source<T> source_;
  Tasks tasks_;
  int64_t weights_ = 0;
  bool woven_;
  std::vector<Phase> phases_;
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

// dw += the partial sums of the chunks of images after the first, in order.
template <class T>
void add_chunks(T* dw, const T* partial, int64_t size, int64_t chunks) {
  if (chunks == 1) return;
  const int64_t share = 4096;
  parallel((size + share - 1) / share, double(size * chunks) * 0.1, [&](int64_t task) {
    const int64_t first = task * share, last = std::min(size, first + share);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const T* from = partial + (chunk - 1) * size;
      for (int64_t i = first; i < last; ++i) dw[i] += from[i];
    }
  });
}

template <class T>
class ConvDw final : public Step {
 public:
  explicit ConvDw(const Geometry& g) : g_(g), source_(axes(g), g.window() == 1, 64) {
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
    off_ = source_.offsets(axes(g), channels_);
    at_ = source_.positions(axes(g));
    // Runs along the innermost dimension of the window lie side by side in the image, too.
    run_ = g.dilation[2] == 1 && !g.flip ? std::max<int64_t>(1, g.w[2]) : 1;
    plain_ = window == 1 && (at_.empty() || at_.back() == plane - 1);
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
    add_chunks(dw, partial, size_, chunks_);
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
    const auto all = source_.reach(2, 0, g_.y[2], g_.y[2]);
    if (plain_) {
      const Gemm<T> product(o_n, c_n, plane);
      for (int64_t n = first; n < last; ++n) {
        const int64_t image = n * g_.groups + group;
        auto* room = static_cast<T*>(workspace(1, source_.bytes(channels_)));
        const T* from = source_.prepare(x + (image * g_.in_channels + c0) * g_.x_plane(), c_n, false, room, 2, all);
        product.run({dy + image * o_n * plane, plane, 1}, {from, 1, source_.channel}, to, patch, n > first);
      }
      return;
    }
    const size_t room = source_.bytes(channels_);
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
        const T* source = source_.prepare(x + (image * g_.in_channels + c0) * g_.x_plane(), c_n,
                                          image + 1 == g_.images * g_.groups, reinterpret_cast<T*>(area), 2, all);
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
  Source<T> source_;
  std::vector<int64_t> off_, at_;
  int64_t blocks_, channels_, columns_, pitch_, positions_, joined_, run_, chunks_, size_;
  bool plain_ = false;  // window 1: dy x^T, x thinned by the strides; no patches
};

// dw where there are few output channels to a group (depthwise above all): positions along the vectors, so that neither
// dy nor x is rearranged; the lanes are added at the end.
template <class T>
class ConvDwLines final : public Step {
 public:
  explicit ConvDwLines(const Geometry& g) : g_(g), source_(axes(g), true, kSlack<T>), planes_(axes(g)) {
    const Axes a = axes(g);
    in_planes_ = g.in_channels == 1 && Planes::fit(a);
    const int64_t lanes = micro_of<T>().lanes, row = g.y[2];
    off_ = source_.offsets(a, g.in_channels);
    const auto at = source_.positions(a);
    for (int64_t q = 0; q < int64_t(at.size()); q += row)
      for (int64_t j = 0; j < row; j += lanes)
        pieces_.push_back({at[size_t(q + j)], q + j, int(std::min(lanes, row - j)), -1});
    // A load for each vector of multiply-adds.
    const double each = double(g.out_channels * g.patch()) * (double(pieces_.size()) * 0.8 + double(lanes)) +
                        (in_planes_ ? 0 : double(g.in_channels * source_.channel) * kCopyNs<T>);
    cost_ns = each * double(g.images * g.groups) + 100;
    // Chunks of images, each with a dw of its own: 100 us each or more, and no more than 16 tasks need.
    const int64_t groups = std::max<int64_t>(1, g.groups), images = std::max<int64_t>(1, g.images);
    chunks_ = std::clamp<int64_t>(std::min(int64_t(each * double(images) / 100e3), 16 / groups), 1, images);
    together_ = std::clamp<int64_t>(int64_t(30e3 / (each * double(images / chunks_) + 1)), 1, groups);
    size_ = g.groups * g.out_channels * g.patch();
    scratch_bytes = size_t(size_ * (chunks_ - 1)) * sizeof(T);
  }
  static bool fits(const Geometry& g) { return g.out_channels <= 3; }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto partial = reinterpret_cast<T*>(scratch);
    if (size_ == 0) return;
    const int64_t blocks = (g_.groups + together_ - 1) / together_;
    parallel(chunks_ * blocks, cost_ns, [&](int64_t task) {
      const int64_t chunk = task / blocks, first = task % blocks * together_;
      for (int64_t group = first; group < std::min(g_.groups, first + together_); ++group)
        accumulate(dy, x, chunk == 0 ? dw : partial + (chunk - 1) * size_, chunk, group);
    });
    add_chunks(dw, partial, size_, chunks_);
  }
  std::string text() const override { return "lines, " + std::to_string(chunks_) + " chunks of images"; }

 private:
  void accumulate(const T* dy, const T* x, T* dw, int64_t chunk, int64_t group) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), patch = g_.patch(), sums = g_.out_channels * patch;
    const size_t room = source_.bytes(g_.in_channels);
    auto* area = static_cast<char*>(workspace(1, room + size_t(sums * micro.lanes) * sizeof(T)));
    auto* sum = reinterpret_cast<T*>(area + room);
    std::fill_n(sum, sums * micro.lanes, T(0));
    const Filter filter = planes_.filter();
    for (int64_t n = g_.images * chunk / chunks_; plane > 0 && n < g_.images * (chunk + 1) / chunks_; ++n) {
      const int64_t image = n * g_.groups + group;
      if (in_planes_) {
        for (int64_t o = 0; o < g_.out_channels; ++o)
          micro.filter_sums(filter, x + image * g_.x_plane(), dy + (image * g_.out_channels + o) * plane,
                            sum + o * patch * micro.lanes);
        continue;
      }
      const T* source = source_.prepare(x + image * g_.in_channels * g_.x_plane(), g_.in_channels,
                                        image + 1 == g_.images * g_.groups, reinterpret_cast<T*>(area), 2,
                                        source_.reach(2, 0, g_.y[2], g_.y[2]));
      for (int64_t o = 0; o < g_.out_channels; ++o)
        micro.traces(patch, sum + o * patch * micro.lanes, off_.data(), source,
                     dy + (image * g_.out_channels + o) * plane, pieces_.data(), int64_t(pieces_.size()));
    }
    for (int64_t i = 0; i < sums; ++i) {
      T total = 0;
      for (int64_t l = 0; l < micro.lanes; ++l) total += sum[i * micro.lanes + l];
      dw[group * sums + i] = total;
    }
  }

  Geometry g_;
  Source<T> source_;
  Planes planes_;
  bool in_planes_;
  std::vector<int64_t> off_;
  std::vector<Piece> pieces_;
  int64_t chunks_, together_, size_;
};

template <class T>
std::unique_ptr<Step> make(Op op, std::span<const Layout> out, std::span<const Layout> in,
                           std::span<const int64_t> attrs) {
  if (op == Op::conv) {
    Geometry g = geometry(in[0], in[1], out[0], attrs);
    if (ConvPlain<T>::fits(g)) return std::make_unique<ConvPlain<T>>(g, false);
    if (ConvThinned<T>::fits(g)) return std::make_unique<ConvThinned<T>>(g);
    const Axes a = axes(g);
    if (g.in_channels == 1 && g.out_channels <= 3 && Planes::fit(a))
      return std::make_unique<ConvPlanes<T>>(a, g.images, g.groups, g.out_channels);
    return std::make_unique<Conv<T>>(g);
  }
  if (op == Op::conv_dw) {
    Geometry g = geometry(in[1], out[0], in[0], attrs);
    if (ConvDwLines<T>::fits(g)) return std::make_unique<ConvDwLines<T>>(g);
    return std::make_unique<ConvDw<T>>(g);
  }
  Geometry g = geometry(out[0], in[1], in[0], attrs);
  if (ConvPlain<T>::fits(g)) return std::make_unique<ConvPlain<T>>(g, true);
  if (g.y_plane() > 0 && g.window() > 0 && g.out_channels > 0) {
    if (g.in_channels == 1 && g.out_channels == 1 && g.stride[0] * g.stride[1] * g.stride[2] == 1) {
      const Axes a = phase_axes(g, std::array<int64_t, 3>{}.data(), nullptr);
      if (Planes::fit(a)) return std::make_unique<ConvPlanes<T>>(a, g.images, g.groups, 1);
    }
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
