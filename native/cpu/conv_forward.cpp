// conv: y from x and w.
#include "cpu/conv_planes.h"
#include "cpu/conv_sweep.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

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
          x + image * g_.in_channels * g_.x_plane(), g_.in_channels,
          (tasks_.images - image - 1) * g_.in_channels * g_.x_plane(), reinterpret_cast<T*>(area), tasks_.d,
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

}  // namespace

template <class T>
std::unique_ptr<Step> make_forward(const Geometry& g) {
  if (auto step = make_product<T>(g, false)) return step;
  if (auto step = make_thinned<T>(g)) return step;
  const Axes a = axes(g);
  if (g.in_channels == 1 && g.out_channels <= 3 && Planes::fit(a))
    return make_planes<T>(a, g.images, g.groups, g.out_channels);
  auto sweep = std::make_unique<Conv<T>>(g);
  if (auto step = make_channels<T>(g, false); step && step->cost_ns < sweep->cost_ns) return step;
  return sweep;
}
template std::unique_ptr<Step> make_forward<float>(const Geometry&);
template std::unique_ptr<Step> make_forward<double>(const Geometry&);

}  // namespace knet::cpu::conv
