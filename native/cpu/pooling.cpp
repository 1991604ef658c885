// Pooling: a plane (one image, one channel) is one unit of work; a row of outputs meets one element of the window at a
// time.
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/isa.h"
#include "cpu/isa/pool.h"
#include "cpu/registry.h"
#include "cpu/threads.h"

namespace knet::cpu {
namespace {

const PoolKernel& kernel(DType t) {
#ifdef KNET_X86
  static const PoolTable& table = pick(v2::pool_table, v3::pool_table, v4::pool_table);
#else
  static const PoolTable& table = base::pool_table;
#endif
  return table.of[int(t)];
}

[[noreturn]] void no_kernel(Op op, DType t) {
  throw Error(Error::Type,
              std::string("[") + info(op).name + "] has no cpu kernel for " + name(t) + ". Cast to float32 first.");
}

// Planes with three dimensions (leading ones are added).
struct Window {
  int64_t planes, x[3], y[3], w[3], stride[3], padding[3];
  int64_t x_plane() const { return x[0] * x[1] * x[2]; }
  int64_t y_plane() const { return y[0] * y[1] * y[2]; }

  Window(const Layout& lx, const Layout& ly, AttrReader& r) {
    auto ws = r.ints(), ss = r.ints(), ps = r.ints();
    const int spatial = lx.shape.rank - 2;
    planes = lx.shape[0] * lx.shape[1];
    for (int d = 0; d < 3; ++d) {
      int s = d - (3 - spatial);
      x[d] = s < 0 ? 1 : lx.shape[s + 2];
      y[d] = s < 0 ? 1 : ly.shape[s + 2];
      w[d] = s < 0 ? 1 : ws[size_t(s)];
      stride[d] = s < 0 ? 1 : ss[size_t(s)];
      padding[d] = s < 0 ? 0 : ps[size_t(s)];
    }
  }
  // Outputs o in [lo, hi) whose window element k along d lies inside the image.
  void range(int d, int64_t k, int64_t& lo, int64_t& hi) const {
    const int64_t shift = k - padding[d];
    lo = std::min(y[d], shift >= 0 ? 0 : (-shift + stride[d] - 1) / stride[d]);
    hi = std::max(lo, x[d] - 1 < shift ? 0 : std::min(y[d], (x[d] - 1 - shift) / stride[d] + 1));
  }
  // For each row of outputs in order: begin(row), then each(row, lo, hi, where the element for output lo lies in the
  // plane) for the elements of the window in order that are inside, then end(row).
  template <class Begin, class Each, class End>
  void rows(Begin begin, Each each, End end) const {
    for (int64_t d = 0; d < y[0]; ++d)
      for (int64_t h = 0; h < y[1]; ++h) {
        const int64_t row = (d * y[1] + h) * y[2];
        begin(row);
        for (int64_t i = 0; i < w[0]; ++i) {
          const int64_t at0 = d * stride[0] - padding[0] + i;
          if (at0 < 0 || at0 >= x[0]) continue;
          for (int64_t j = 0; j < w[1]; ++j) {
            const int64_t at1 = h * stride[1] - padding[1] + j;
            if (at1 < 0 || at1 >= x[1]) continue;
            for (int64_t k = 0; k < w[2]; ++k) {
              int64_t lo, hi;
              range(2, k, lo, hi);
              if (lo < hi) each(row, lo, hi, (at0 * x[1] + at1) * x[2] + lo * stride[2] - padding[2] + k);
            }
          }
        }
        end(row);
      }
  }
  double cost() const { return double(planes) * (double(y_plane()) * double(w[0] * w[1]) * double(w[2]) * 0.3 + 20); }
};

// Planes are shared out in groups of about 20 us: body(first, last).
template <class F>
void over_groups(int64_t planes, double cost_ns, const F& body) {
  const int64_t tasks = std::clamp<int64_t>(even_tasks(int64_t(cost_ns / 20e3)), 1, std::max<int64_t>(1, planes));
  parallel(tasks, cost_ns, [&](int64_t task) { body(planes * task / tasks, planes * (task + 1) / tasks); });
}
template <class F>
void over_planes(int64_t planes, double cost_ns, const F& body) {
  over_groups(planes, cost_ns, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) body(p);
  });
}

// Any value beats the lowest of its type, except itself: the index starts at the first element that is inside.
template <class T>
class MaxPool final : public Step {
 public:
  MaxPool(const Window& g, DType t) : g_(g), kernel_(kernel(t)) {
    cost_ns = g.cost();
    for (int d = 0; d < 3; ++d) {
      extent_[d] = g.x[d] + 2 * g.padding[d];
      padded_ |= g.padding[d] != 0;
      window_.y[d] = g.y[d];
      window_.w[d] = g.w[d];
      window_.stride[d] = g.stride[d];
    }
    window_.pitch[1] = extent_[2];
    window_.pitch[0] = extent_[1] * extent_[2];
    window_.index_pitch[1] = g.x[2];
    window_.index_pitch[0] = g.x[1] * g.x[2];
    window_.plane = extent_[0] * window_.pitch[0];
    window_.index = -(g.padding[0] * window_.index_pitch[0] + g.padding[1] * g.x[2] + g.padding[2]);
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]);
    auto y = reinterpret_cast<T*>(out[0]);
    auto index = reinterpret_cast<int64_t*>(out[1]);
    const T lowest =
        std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
    const int64_t n = g_.y[2];
    if constexpr (std::is_floating_point_v<T>) {
      // Of planes that are copied with their padding, a few at a time stay near.
      const int64_t most = padded_ ? std::max<int64_t>(1, 4096 / (window_.plane + 1)) : g_.planes;
      over_groups(g_.planes, cost_ns, [&](int64_t first, int64_t last) {
        T* room = nullptr;
        if (padded_) {
          const int64_t size = std::min(most, last - first) * window_.plane;
          room = static_cast<T*>(workspace(1, size_t(size) * sizeof(T)));
          std::fill_n(room, size, -std::numeric_limits<T>::infinity());
        }
        for (int64_t p = first; p < last; p += most)
          max_planes(x + p * g_.x_plane(), room, y + p * g_.y_plane(), index + p * g_.y_plane(),
                     std::min(most, last - p));
      });
      return;
    }
    over_planes(g_.planes, cost_ns, [&](int64_t plane) {
      const T* from = x + plane * g_.x_plane();
      T* best = y + plane * g_.y_plane();
      int64_t* to = index + plane * g_.y_plane();
      auto* at = static_cast<int32_t*>(workspace(1, size_t(n) * sizeof(int32_t)));
      g_.rows(
          [&](int64_t row) {
            std::fill_n(best + row, n, lowest);
            std::fill_n(at, n, -1);
          },
          [&](int64_t row, int64_t lo, int64_t hi, int64_t first) {
            kernel_.max_row(best + row + lo, at + lo, from + first, hi - lo, g_.stride[2], int32_t(first));
          },
          [&](int64_t row) {
            for (int64_t i = 0; i < n; ++i) to[row + i] = at[i] < 0 ? first_inside(row, i) : at[i];
          });
    });
  }

 private:
  // Planes with padding are copied into `room`, where it is written out as -infinity, which is never chosen.
  void max_planes(const T* x, T* room, T* y, int64_t* at, int64_t count) const {
    const int64_t outputs = g_.y_plane();
    if (padded_) {
      for (int64_t p = 0; p < count; ++p)
        for (int64_t d = 0; d < g_.x[0]; ++d)
          for (int64_t h = 0; h < g_.x[1]; ++h)
            std::copy_n(x + ((p * g_.x[0] + d) * g_.x[1] + h) * g_.x[2], g_.x[2],
                        room + p * window_.plane +
                            ((d + g_.padding[0]) * extent_[1] + h + g_.padding[1]) * extent_[2] + g_.padding[2]);
      x = room;
    }
    if (kernel_.max_planes(window_, x, y, at, count))
      for (int64_t i = 0; i < outputs * count; ++i)
        if (at[i] < 0) at[i] = first_inside(i % outputs / g_.y[2] * g_.y[2], i % g_.y[2]);
  }
  int64_t first_inside(int64_t row, int64_t i) const {
    const int64_t o[3] = {row / (g_.y[1] * g_.y[2]), row / g_.y[2] % g_.y[1], i};
    int64_t at = 0;
    for (int d = 0; d < 3; ++d)
      at = at * g_.x[d] + std::max<int64_t>(0, std::min(o[d] * g_.stride[d] - g_.padding[d], g_.x[d] - 1));
    return at;
  }
  Window g_;
  const PoolKernel& kernel_;
  PoolWindow window_;
  int64_t extent_[3];  // of a plane with its padding
  bool padded_ = false;
};

[[noreturn]] void bad_index(const char* op, int64_t i, int64_t size) {
  throw Error(Error::Index, std::string("[") + op + "] index " + std::to_string(i) + " is outside a plane of " +
                                std::to_string(size) +
                                " elements. Use the indices that maxpool gave for planes of this size.");
}

template <class T>
class PlaneGather final : public Step {
 public:
  PlaneGather(int64_t planes, int64_t x_plane, int64_t y_plane) : planes_(planes), x_(x_plane), y_(y_plane) {
    cost_ns = double(planes) * double(y_plane) * 0.6;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]);
    auto index = reinterpret_cast<const int64_t*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    over_planes(planes_, cost_ns, [&](int64_t p) {
      for (int64_t i = p * y_; i < (p + 1) * y_; ++i) {
        if (uint64_t(index[i]) >= uint64_t(x_)) bad_index("plane_gather", index[i], x_);
        y[i] = x[p * x_ + index[i]];
      }
    });
  }

 private:
  int64_t planes_, x_, y_;
};

template <class T>
class PlaneScatter final : public Step {
 public:
  PlaneScatter(int64_t planes, int64_t x_plane, int64_t y_plane) : planes_(planes), x_(x_plane), y_(y_plane) {
    cost_ns = double(planes) * (double(y_plane) * 0.8 + double(x_plane) * 0.1);
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto dy = reinterpret_cast<const T*>(in[0]);
    auto index = reinterpret_cast<const int64_t*>(in[1]);
    auto dx = reinterpret_cast<T*>(out[0]);
    over_planes(planes_, cost_ns, [&](int64_t p) {
      std::fill_n(dx + p * x_, x_, T(0));
      for (int64_t i = p * y_; i < (p + 1) * y_; ++i) {
        if (uint64_t(index[i]) >= uint64_t(x_)) bad_index("plane_scatter", index[i], x_);
        dx[p * x_ + index[i]] += dy[i];
      }
    });
  }

 private:
  int64_t planes_, x_, y_;
};

// Averages and their adjoint share the weight of each output: 1 / the window, or 1 / what of it is inside.
template <class T>
class AvgPool final : public Step {
 public:
  AvgPool(const Window& g, DType t, bool count_padding, bool back) : g_(g), kernel_(kernel(t)), back_(back) {
    cost_ns = g.cost();
    weight_.resize(size_t(g.y_plane()));
    for (int64_t i = 0; i < g.y_plane(); ++i) {
      const int64_t o[3] = {i / (g.y[1] * g.y[2]), i / g.y[2] % g.y[1], i % g.y[2]};
      int64_t count = 1;
      for (int d = 0; d < 3; ++d) {
        int64_t lo = o[d] * g.stride[d] - g.padding[d], hi = lo + g.w[d];
        count *= count_padding ? g.w[d] : std::min(hi, g.x[d]) - std::max<int64_t>(lo, 0);
      }
      weight_[size_t(i)] = count > 0 ? T(1) / T(count) : T(0);
    }
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto from = reinterpret_cast<const T*>(in[0]);
    auto to = reinterpret_cast<T*>(out[0]);
    const int64_t n = g_.y[2], x_plane = g_.x_plane(), y_plane = g_.y_plane();
    if (!back_) {
      over_planes(g_.planes, cost_ns, [&](int64_t p) {
        T* y = to + p * y_plane;
        g_.rows([&](int64_t row) { std::fill_n(y + row, n, T(0)); },
                [&](int64_t row, int64_t lo, int64_t hi, int64_t first) {
                  kernel_.add_row(y + row + lo, from + p * x_plane + first, hi - lo, g_.stride[2]);
                },
                [&](int64_t row) {
                  for (int64_t i = 0; i < n; ++i) y[row + i] *= weight_[size_t(row + i)];
                });
      });
      return;
    }
    over_planes(g_.planes, cost_ns, [&](int64_t p) {
      T* dx = to + p * x_plane;
      std::fill_n(dx, x_plane, T(0));
      auto* share = static_cast<T*>(workspace(1, size_t(n) * sizeof(T)));
      g_.rows(
          [&](int64_t row) {
            for (int64_t i = 0; i < n; ++i) share[i] = from[p * y_plane + row + i] * weight_[size_t(row + i)];
          },
          [&](int64_t, int64_t lo, int64_t hi, int64_t first) {
            kernel_.add_back(dx + first, share + lo, hi - lo, g_.stride[2]);
          },
          [](int64_t) {});
    });
  }

 private:
  Window g_;
  const PoolKernel& kernel_;
  bool back_;
  std::vector<T> weight_;
};

int64_t plane_of(const Layout& l) {
  int64_t n = 1;
  for (int d = 2; d < l.shape.rank; ++d) n *= l.shape[d];
  return n;
}

template <class T>
std::unique_ptr<Step> make_typed(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                 std::span<const int64_t> attrs) {
  AttrReader r{attrs};
  if (op == Op::maxpool) {
    Window g(in[0], out[0], r);
    if (g.x_plane() > std::numeric_limits<int32_t>::max())
      throw Error(Error::Value,
                  "[maxpool] planes of more than 2^31 - 1 elements are not supported: " + str(in[0].shape) + ".");
    return std::make_unique<MaxPool<T>>(g, in[0].dtype);
  }
  return std::make_unique<PlaneScatter<T>>(in[0].shape[0] * in[0].shape[1], plane_of(out[0]), plane_of(in[0]));
}

std::unique_ptr<Step> make_pool(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                std::span<const int64_t> attrs) {
  switch (out[0].dtype) {
    case DType::F32: return make_typed<float>(op, out, in, attrs);
    case DType::F64: return make_typed<double>(op, out, in, attrs);
    case DType::I8: return make_typed<int8_t>(op, out, in, attrs);
    case DType::I16: return make_typed<int16_t>(op, out, in, attrs);
    case DType::I32: return make_typed<int32_t>(op, out, in, attrs);
    case DType::I64: return make_typed<int64_t>(op, out, in, attrs);
    case DType::U8: return make_typed<uint8_t>(op, out, in, attrs);
    case DType::U16: return make_typed<uint16_t>(op, out, in, attrs);
    case DType::U32: return make_typed<uint32_t>(op, out, in, attrs);
    case DType::U64: return make_typed<uint64_t>(op, out, in, attrs);
    default: no_kernel(op, out[0].dtype);
  }
}

std::unique_ptr<Step> make_gather(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                  std::span<const int64_t>) {
  const int64_t planes = in[0].shape[0] * in[0].shape[1], x = plane_of(in[0]), y = plane_of(out[0]);
  switch (itemsize(out[0].dtype)) {
    case 1: return std::make_unique<PlaneGather<uint8_t>>(planes, x, y);
    case 2: return std::make_unique<PlaneGather<uint16_t>>(planes, x, y);
    case 4: return std::make_unique<PlaneGather<uint32_t>>(planes, x, y);
    case 8: return std::make_unique<PlaneGather<uint64_t>>(planes, x, y);
    default: no_kernel(op, out[0].dtype);
  }
}

std::unique_ptr<Step> make_avg(Op op, std::span<const Layout> out, std::span<const Layout> in,
                               std::span<const int64_t> attrs) {
  const bool back = op == Op::avgpool_back;
  AttrReader r{attrs};
  Window g(back ? out[0] : in[0], back ? in[0] : out[0], r);
  const bool count_padding = r.flag();
  if (out[0].dtype == DType::F32) return std::make_unique<AvgPool<float>>(g, DType::F32, count_padding, back);
  if (out[0].dtype == DType::F64) return std::make_unique<AvgPool<double>>(g, DType::F64, count_padding, back);
  no_kernel(op, out[0].dtype);
}

const Register pools({Op::maxpool, Op::plane_scatter}, make_pool);
const Register gather({Op::plane_gather}, make_gather);
const Register averages({Op::avgpool, Op::avgpool_back}, make_avg);

}  // namespace
}  // namespace knet::cpu
