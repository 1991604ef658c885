// The convolutions as operations: their attributes as a geometry, and the pass that each is.
#include "cpu/conv.h"

#include "cpu/registry.h"

namespace knet::cpu {
namespace conv {

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

Axes axes(const Geometry& g) {
  Axes a;
  for (size_t d = 0; d < 3; ++d) {
    a[d] = {g.x[d], g.y[d], g.stride[d], {}};
    for (int64_t k = 0; k < g.w[d]; ++k)
      a[d].taps.push_back((g.flip ? g.w[d] - 1 - k : k) * g.dilation[d] - g.padding[d]);
  }
  return a;
}

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

int64_t phases(const Geometry& g, size_t d) { return std::min(g.stride[d], std::max<int64_t>(1, g.x[d])); }

Axes all_phases(const Geometry& g) {
  Axes a;
  for (size_t d = 0; d < 3; ++d) {
    a[d] = {g.y[d], (g.x[d] + g.stride[d] - 1) / g.stride[d], 1, {}};
    for (int64_t i = 0; i < phases(g, d); ++i) {
      int64_t at[3] = {0, 0, 0};
      at[d] = i;
      const Axes phase = phase_axes(g, at, nullptr);
      a[d].taps.insert(a[d].taps.end(), phase[d].taps.begin(), phase[d].taps.end());
    }
  }
  return a;
}

}  // namespace conv
namespace {

template <class T>
std::unique_ptr<Step> make(Op op, std::span<const Layout> out, std::span<const Layout> in,
                           std::span<const int64_t> attrs) {
  switch (op) {
    case Op::conv: return conv::make_forward<T>(conv::geometry(in[0], in[1], out[0], attrs));
    case Op::conv_dx: return conv::make_dx<T>(conv::geometry(out[0], in[1], in[0], attrs));
    default: return conv::make_dw<T>(conv::geometry(in[1], out[0], in[0], attrs));
  }
}

std::unique_ptr<Step> make_conv(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                std::span<const int64_t> attrs) {
  if (out[0].dtype == DType::F32) return make<float>(op, out, in, attrs);
  if (out[0].dtype == DType::F64) return make<double>(op, out, in, attrs);
  throw Error(Error::Type, std::string("[") + info(op).name + "] has no cpu kernel for " + name(out[0].dtype) +
                               ". Cast to float32 first.");
}

const Register convolutions({Op::conv, Op::conv_dx, Op::conv_dw}, make_conv);

}  // namespace
}  // namespace knet::cpu
