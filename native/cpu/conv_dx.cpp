// conv_dx: the image's gradient from dy and w, by turned weights or by columns (or Channels, conv_channels.cpp).
#include "cpu/conv_planes.h"
#include "cpu/conv_sweep.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// dx by convolving dy, phase by phase (conv.h), with the weights turned, (O, C, k) -> (C, O, k); the phases are woven
// into dx.
template <class T>
class ConvDxTurned final : public Step {
 public:
  explicit ConvDxTurned(const Geometry& g)
      : g_(g), all_(all_phases(g)), source_(all_, true, kSlack<T>),
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
                                      (tasks_.images - image - 1) * g_.out_channels * g_.y_plane(),
                                      reinterpret_cast<T*>(area), tasks_.d,
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
  // The phases of a share lie in L2 until they are woven.
  static int64_t most(const Geometry& g) {
    const int d = g.x[0] > g.stride[0] ? 0 : g.x[1] > g.stride[1] ? 1 : 2;
    int64_t size = g.in_channels * int64_t(sizeof(T)) * g.stride[d];
    if (g.stride[0] * g.stride[1] * g.stride[2] == 1) return int64_t(1) << 60;
    for (int e = d + 1; e < 3; ++e) size *= g.x[e];
    return std::max<int64_t>(1, (512 << 10) / std::max<int64_t>(1, size));
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

}  // namespace

template <class T>
std::unique_ptr<Step> make_dx(const Geometry& g) {
  if (auto step = make_product<T>(g, true)) return step;
  if (g.y_plane() > 0 && g.window() > 0 && g.out_channels > 0) {
    if (g.in_channels == 1 && g.out_channels == 1 && g.stride[0] * g.stride[1] * g.stride[2] == 1) {
      const Axes a = phase_axes(g, std::array<int64_t, 3>{}.data(), nullptr);
      if (Planes::fit(a)) return make_planes<T>(a, g.images, g.groups, 1);
    }
    std::unique_ptr<Step> step = std::make_unique<ConvDxTurned<T>>(g);
    if (auto channels = make_channels<T>(g, true); channels && channels->cost_ns < step->cost_ns)
      step = std::move(channels);
    if (step->cost_ns <= ConvDxColumns<T>::cost(g)) return step;
  }
  return std::make_unique<ConvDxColumns<T>>(g);
}
template std::unique_ptr<Step> make_dx<float>(const Geometry&);
template std::unique_ptr<Step> make_dx<double>(const Geometry&);

}  // namespace knet::cpu::conv
