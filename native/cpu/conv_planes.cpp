#include "cpu/conv_planes.h"

#include <string>

namespace knet::cpu::conv {
namespace {

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

}  // namespace

template <class T>
std::unique_ptr<Step> make_planes(const Axes& a, int64_t images, int64_t groups, int64_t out_channels) {
  return std::make_unique<ConvPlanes<T>>(a, images, groups, out_channels);
}
template std::unique_ptr<Step> make_planes<float>(const Axes&, int64_t, int64_t, int64_t);
template std::unique_ptr<Step> make_planes<double>(const Axes&, int64_t, int64_t, int64_t);

}  // namespace knet::cpu::conv
