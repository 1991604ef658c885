// One channel in and one out at a time (depthwise), read where they are.
#pragma once
#include "cpu/conv.h"
#include "cpu/isa/micro.h"

namespace knet::cpu::conv {

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

// Convolutions of images of one channel each, in `groups` groups; `Planes::fit(a)` must hold.
template <class T>
std::unique_ptr<Step> make_planes(const Axes& a, int64_t images, int64_t groups, int64_t out_channels);

}  // namespace knet::cpu::conv
