// Convolutions as implicit matrix products: y (O x P) = w (O x CK) patches (CK x P), one image and group at a time,
// where C is the channels of a group, K the window, P the output positions. The matrix of patches is never written as a
// whole. The inner loops (isa/micro.h) take each row of a panel of B from anywhere, and that decides how each pass is
// done:
//
//   conv     Channels: vectors along the output channels, weights packed; an element of a patch is read alone, where
//            it lies in the image (itself, where windows are three wide; else a Source: itself, or a copy with its
//            padding, the phases of strides apart). Direct:
//            vectors along the positions, for few channels; a vector of B is a piece of the image, read where it lies;
//            it may reach over several rows, its lanes then close up. Gathered: where too many lanes would be lost, a
//            panel of patches is copied together first. Lines: for three results or fewer to a group. Planes: for one
//            channel in (depthwise), without any copy. Points: a window of 1, a panel of positions at a time beside
//            packed weights; dx as well, spread where there are strides. Product: for few positions, the image thinned
//            first where there are strides.
//   conv_dx  Channels: vectors along the input channels, the phases of strides side by side. Turned: as conv with
//            transposed weights, one convolution for each phase of the strides, or by columns: w^T dy for one channel
//            at a time, its rows added to dx.
//   conv_dw  dw (O x CK) = sum of dy (O x P) patches^T (P x CK): a block of positions at a time. Channels: vectors
//            along the output channels, images read where they lie, dy turned. Else patches are gathered with one run
//            per window row. Images are shared out in chunks fixed by the sizes; the partial sums are added in order.
//            Lines: for three results or fewer to a group, vectors along the positions. Points: for a window of 1,
//            the narrower of dy and x turned, the other read where it lies.
//
// What each costs is written where it is chosen; measurements beside PyTorch's are in benchmarks/README.md.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <vector>
#include "cpu/threads.h"
#include "device.h"

namespace knet::cpu::conv {

// Most steps are 1, and a division takes as long as copying a row.
inline int64_t div(int64_t x, int64_t by) { return by == 1 ? x : x / by; }
inline int64_t rem(int64_t x, int64_t by) { return by == 1 ? 0 : x % by; }
inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

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
Geometry geometry(const Layout& x, const Layout& w, const Layout& y, std::span<const int64_t> attrs);

// One dimension of a sweep: result m is a sum over taps t of source[m * stride + taps[t]], zeros outside of [0, x).
struct Axis {
  int64_t x = 1, y = 1, stride = 1;
  std::vector<int64_t> taps;
};
using Axes = std::array<Axis, 3>;
Axes axes(const Geometry&);
inline int64_t taps(const Axes& a) { return int64_t(a[0].taps.size() * a[1].taps.size() * a[2].taps.size()); }
inline int64_t results(const Axes& a) { return a[0].y * a[1].y * a[2].y; }

// dx of strided convolutions in phases: what lies at phase a of a stride s, x = a + s m, meets the filter's elements k
// with a + padding - k * dilation divisible by s alone, and dy at m + (a + padding - k * dilation) / s. So each phase
// is a convolution of stride 1 over dy with its part of the weights. Phase `at`; which elements of the window it meets
// (unless null); how many phases a dimension has; what all phases read together.
Axes phase_axes(const Geometry&, const int64_t* at, std::vector<int64_t>* which);
int64_t phases(const Geometry&, size_t d);
Axes all_phases(const Geometry&);

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
  // body(image, share) for what a task has.
  template <class F>
  void each(int64_t task, const F& body) const {
    const int64_t first = task / shares * together;
    for (int64_t i = first; i < std::min(images, first + together); ++i) body(i, task % shares);
  }
  template <class F>
  void run(double cost_ns, const F& body) const {
    parallel(count(), cost_ns, [&](int64_t task) { each(task, body); });
  }
};

// The passes: the best way for each, chosen in conv_forward.cpp, conv_dx.cpp, conv_dw.cpp.
template <class T>
std::unique_ptr<Step> make_forward(const Geometry&);
template <class T>
std::unique_ptr<Step> make_dx(const Geometry&);
template <class T>
std::unique_ptr<Step> make_dw(const Geometry&);

// Vectors along the output channels (dx: `back`, the input channels), conv_channels.cpp; null where it cannot be.
template <class T>
std::unique_ptr<Step> make_channels(const Geometry&, bool back);

// dw in the same way (conv_dw_channels.cpp); null where it cannot be, or is not worth it.
template <class T>
std::unique_ptr<Step> make_dw_channels(const Geometry&);

// Windows of 1 (conv_product.cpp); null where they do not fit. Product: Points, or without padding and strides; forward
// or, if `back`, dx. Thinned: the image copied together first.
template <class T>
std::unique_ptr<Step> make_product(const Geometry&, bool back);
template <class T>
std::unique_ptr<Step> make_thinned(const Geometry&);

}  // namespace knet::cpu::conv
