// Images as the loops of convolutions read them: in place, or a copy with padding, the phases of strides apart.
#pragma once
#include <cstring>
#include <utility>
#include "cpu/conv.h"
#include "cpu/isa/micro.h"

namespace knet::cpu::conv {

template <class T>
constexpr int64_t kSlack = 128 / int64_t(sizeof(T));  // two of the widest vectors

// Of one image and group, roughly.
template <class T>
double image_ns(const Geometry& g) {
  return g.work() / double(std::max<int64_t>(1, g.images * g.groups)) / (micro_of<T>().lanes * 4.0);
}

// To copy an element of a source.
template <class T>
constexpr double kCopyNs = 0.02 * double(sizeof(T));

// Runs of n elements that will be read, line by line.
template <class T>
struct Next {
  const T* at = nullptr;
  int64_t n = 0, stride = 0, runs = 0, done = 0, due = 0;
  int64_t lines() const { return (n + kLine - 1) / kLine * runs; }
  // The next one of so many equal parts: each(line).
  template <class F>
  void part_of(int64_t parts, const F& each) {
    for (due += lines(); due >= parts; due -= parts) {
      each(at + done);
      done += kLine;
      if (done >= n) done = 0, at += stride;
    }
  }
  static constexpr int64_t kLine = 64 / int64_t(sizeof(T));
};

// Are places neighbours, n at a time?
inline bool near(const std::vector<int64_t>& at, int64_t n) {
  bool all = int64_t(at.size()) % n == 0;
  for (size_t i = 0; all && i < at.size(); ++i) all = at[i] == at[i - i % size_t(n)] + int64_t(i % size_t(n));
  return all;
}

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
  // Channels from `x` on; of dimension `d` what lies in `part` (reach). `behind`: so many elements behind them may be
  // read; kCopy: they are copied in any case.
  static constexpr int64_t kCopy = -1;
  const T* prepare(const T* x, int64_t channels, int64_t behind, T* room, size_t d,
                   std::pair<int64_t, int64_t> part) const {
    const int64_t plane = x_[0] * x_[1] * x_[2];
    if (in_place && behind >= slack) return x;
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

}  // namespace knet::cpu::conv
