#include "plan/views.h"

#include <algorithm>

namespace knet {

bool is_view(Op op) {
  switch (op) {
    case Op::alias: case Op::param: case Op::stop: case Op::custom:
    case Op::reshape: case Op::transpose: case Op::broadcast_to: case Op::slice: case Op::flip:
      return true;
    default:
      return false;
  }
}

View own_memory(uint32_t value, const Spec& spec) {
  View v;
  v.root = value;
  v.layout = Layout::contiguous(spec.dtype, spec.shape);
  return v;
}

bool is_whole(const View& v, const Graph& g) {
  return v.offset == 0 && v.dynamic.empty() && v.layout.is_contiguous() &&
         v.layout.shape.size() == g.values[v.root].shape.size();
}

bool reshape_strides(const Layout& from, const Shape& to, int64_t* stride) {
  // Both shapes are cut into the smallest groups of adjacent dimensions with equal products; within a group the old
  // strides must chain (each is the next one's stride times extent), and the new ones then follow from the innermost.
  int64_t dims[kMaxRank], strides[kMaxRank];
  int rank = 0;
  for (int i = 0; i < from.shape.rank; ++i)
    if (from.shape[i] != 1) {
      dims[rank] = from.shape[i];
      strides[rank++] = from.stride[i];
    }
  if (to.size() == 0) {
    int64_t s = 1;
    for (int i = to.rank; i-- > 0; s *= std::max<int64_t>(to[i], 1)) stride[i] = s;
    return true;
  }
  int i = 0, j = 0;
  while (i < rank) {
    int i0 = i, j0 = j;
    int64_t a = dims[i++], b = 1;
    while (b != a || (j < to.rank && to[j] == 1)) {
      if (b < a || b == a) b *= to[j++];
      else a *= dims[i++];
    }
    for (int k = i0; k + 1 < i; ++k)
      if (strides[k] != strides[k + 1] * dims[k + 1]) return false;
    int64_t s = strides[i - 1];
    for (int k = j; k-- > j0; s *= to[k]) stride[k] = s;
  }
  for (; j < to.rank; ++j) stride[j] = 1;
  return true;
}

bool view_of(const Graph& g, const Graph::Node& n, const View& of, View& result) {
  const Shape& shape = g.values[n.out].shape;
  result = of;
  Layout& to = result.layout;
  to.shape = shape;
  AttrReader read{g.attr(n)};
  switch (n.op) {
    case Op::reshape:
      return reshape_strides(of.layout, shape, to.stride);
    case Op::transpose: {
      auto axes = read.ints();
      for (int i = 0; i < shape.rank; ++i) to.stride[i] = of.layout.stride[axes[size_t(i)]];
      return true;
    }
    case Op::broadcast_to: {
      int pad = shape.rank - of.layout.shape.rank;
      for (int i = 0; i < shape.rank; ++i) {
        bool repeated = i < pad || (of.layout.shape[i - pad] == 1 && shape[i] != 1);
        to.stride[i] = repeated ? 0 : of.layout.stride[i - pad];
      }
      return true;
    }
    case Op::slice: {
      auto axes = read.ints();
      read.ints();  // lengths: in the shape
      auto steps = read.ints();
      for (size_t k = 0; k < axes.size(); ++k) {
        int axis = int(axes[k]);
        int64_t stride = of.layout.stride[axis];
        uint32_t start = g.in(n)[k + 1];
        const Graph::Node& made = g.made(start);
        if (made.op == Op::constant) result.offset += g.attr(made)[1] * stride;
        else if (stride != 0) result.dynamic.push_back({start, stride});
        to.stride[axis] = stride * steps[k];
      }
      return true;
    }
    case Op::flip:
      for (int64_t axis : read.ints()) {
        if (shape[int(axis)] > 0) result.offset += (shape[int(axis)] - 1) * to.stride[axis];
        to.stride[axis] = -to.stride[axis];
      }
      return true;
    default:
      return true;  // alias, param, stop, custom: input 0 itself
  }
}

}  // namespace knet
