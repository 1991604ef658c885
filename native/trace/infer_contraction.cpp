// Shapes of matrix products, and of windows that move over images: convolutions and pools.
#include "trace/infer.h"

#include <algorithm>

namespace knet::inference {

void matmul(Ins in, Specs& out) {
  const Op op = Op::matmul;
  const Spec &a = *in[0], &b = *in[1];
  const int ra = a.shape.rank, rb = b.shape.rank;
  if (ra == 0 || rb == 0)
    fail(op, "a number has no dimension to sum over: " + str(a.shape) + " @ " + str(b.shape) + ". Use *.");
  same_dtype(op, in);
  if (a.dtype == DType::Bool)
    fail(op, "does not take bool: " + operands(in.first(2)) + ". Cast first: x.astype(\"float32\").", Error::Type);
  if (a.shape[ra - 1] != b.shape[rb == 1 ? 0 : rb - 2])
    fail(op,
         "inner dimensions differ: " + str(a.shape) + " @ " + str(b.shape) +
             ". The last of the first must equal the last but one of the second: transpose or reshape one of them.");
  Spec& y = result(out, a.dtype, common_device(op, in));
  const int stacks = std::max({ra, rb, 2}) - 2;
  y.shape.rank = stacks;
  for (int i = 3; i <= stacks + 2; ++i) {
    const int64_t da = i <= ra ? a.shape[ra - i] : 1, db = i <= rb ? b.shape[rb - i] : 1;
    if (da != db && da != 1 && db != 1)
      fail(op, "stacks of matrices do not broadcast: " + str(a.shape) + " @ " + str(b.shape) +
                   ". All but the last two dimensions must be equal or 1.");
    y.shape[stacks + 2 - i] = da == 1 ? db : da;
  }
  // A vector is a row on the left and a column on the right, and its dimension is not in the result.
  if (ra > 1) y.shape.push(a.shape[ra - 2]);
  if (rb > 1) y.shape.push(b.shape[rb - 1]);
  if (in.size() == 3 && !(in[2]->shape == y.shape))
    fail(op, "a sum of shape " + str(in[2]->shape) + " does not fit the product of shape " + str(y.shape) + ".");
}

namespace {

struct ConvAttrs {
  Ints stride, padding, dilation;
  int64_t groups;
  bool flip;
  explicit ConvAttrs(AttrReader& a)
      : stride(a.ints()), padding(a.ints()), dilation(a.ints()), groups(a.integer()), flip(a.flag()) {}
};

// One number per spatial dimension, none below `least`.
void spatial_attr(Op op, const char* what, Ints v, int dims, int64_t least) {
  if (v.size() != size_t(dims))
    fail(op, std::string(what) + " " + list(v) + " must have one number for each of the " + std::to_string(dims) +
                 " spatial dimensions. Give one number or " + std::to_string(dims) + ".");
  for (int64_t n : v)
    if (n < least) fail(op, std::string(what) + " " + list(v) + " must be at least " + std::to_string(least) + ".");
}

int spatial_dims(Op op, const Shape& s, const char* what) {
  if (s.rank < 3 || s.rank > 5)
    fail(op, std::string(what) + " needs 1 to 3 spatial dimensions after its first two: " + str(s) +
                 ". Add dimensions with reshape.");
  return s.rank - 2;
}

// Output length of a window of `span` elements moved over `n` elements padded by p on both sides.
int64_t steps_of(Op op, int64_t n, int64_t span, int64_t stride, int64_t p, const Shape& x, Ints window) {
  if (n + 2 * p < span)
    fail(op, "the window does not fit: " + list(window) + " over " + str(x) + " with padding " + std::to_string(p) +
                 ". Use a smaller window or more padding.");
  return 1 + (n + 2 * p - span) / stride;
}

// The shape of conv(x, w), from shapes alone: also what conv_dx and conv_dw must be given.
Shape conv_shape(Op op, const Shape& x, const Shape& w, const ConvAttrs& c) {
  const int d = spatial_dims(op, x, "the image");
  if (w.rank != x.rank)
    fail(op, "images and filters differ in dimensions: x " + str(x) + ", w " + str(w) +
                 ". Use x (N, C, ...) and w (O, I, ...).");
  spatial_attr(op, "stride", c.stride, d, 1);
  spatial_attr(op, "padding", c.padding, d, 0);
  spatial_attr(op, "dilation", c.dilation, d, 1);
  if (c.groups < 1 || w[0] % c.groups || x[1] % c.groups)
    fail(op, std::to_string(c.groups) + " groups do not divide the channels: x " + str(x) + ", w " + str(w) +
                 ". Use a divisor of both.");
  if (x[1] / c.groups != w[1])
    fail(op, "channels differ: x " + str(x) + " has " + std::to_string(x[1]) + ", w " + str(w) + " expects " +
                 std::to_string(w[1] * c.groups) + ". x is (N, C, ...) and w is (O, C/group, ...).");
  Shape y;
  y.push(x[0]);
  y.push(w[0]);
  for (int i = 0; i < d; ++i) {
    if (w[i + 2] == 0) fail(op, "empty filter: " + str(w) + ". Give it at least one element.");
    y.push(steps_of(op, x[i + 2], (w[i + 2] - 1) * c.dilation[size_t(i)] + 1, c.stride[size_t(i)], c.padding[size_t(i)],
                    x, w.dims().subspan(2)));
  }
  return y;
}

Shape pool_shape(Op op, const Shape& x, Ints window, Ints stride, Ints padding) {
  const int d = spatial_dims(op, x, "the image");
  spatial_attr(op, "window", window, d, 1);
  spatial_attr(op, "stride", stride, d, 1);
  spatial_attr(op, "padding", padding, d, 0);
  Shape y;
  y.push(x[0]);
  y.push(x[1]);
  for (int i = 0; i < d; ++i) {
    const size_t k = size_t(i);
    // A window wholly inside the padding would have nothing to take a maximum or a mean of.
    if (padding[k] >= window[k])
      fail(op, "padding " + list(padding) + " must be less than the window " + list(window) +
                   ". Use a larger window or pad the array.");
    if (x[i + 2] == 0) fail(op, "nothing in the windows of an empty image: " + str(x) + ". Test x.size first.");
    y.push(steps_of(op, x[i + 2], window[k], stride[k], padding[k], x, window));
  }
  return y;
}

}  // namespace

void conv(Op op, Ins in, Ints attrs, Specs& out) {
  AttrReader a{attrs};
  const ConvAttrs c(a);
  const Spec &p = *in[0], &q = *in[1];
  float_only(op, p);
  same_dtype(op, in);
  Spec& y = result(out, p.dtype, common_device(op, in));
  if (op == Op::conv) {
    y.shape = conv_shape(op, p.shape, q.shape, c);
    return;
  }
  const int d = spatial_dims(op, p.shape, "the gradient");
  const Ints given = a.ints();
  const char* what = op == Op::conv_dx ? "spatial" : "kernel";
  spatial_attr(op, what, given, d, 0);
  // p is dy; q is w for conv_dx and x for conv_dw; the result stands for the other of x and w.
  Shape x, w;
  if (q.shape.rank != p.shape.rank)
    fail(op, "inputs differ in dimensions: " + shapes(in) + ". Use (N, C, ...) and (O, I, ...).");
  if (op == Op::conv_dx) {
    w = q.shape;
    x.push(p.shape[0]);
    x.push(q.shape[1] * c.groups);
  } else {
    x = q.shape;
    w.push(p.shape[1]);
    w.push(q.shape[1] / std::max<int64_t>(c.groups, 1));
  }
  for (int64_t n : given) (op == Op::conv_dx ? x : w).push(n);
  const Shape expected = conv_shape(op, x, w, c);
  if (!(expected == p.shape))
    fail(op, "a gradient of shape " + str(p.shape) + " does not belong to images " + str(x) + " and filters " + str(w) +
                 ", whose convolution has shape " + str(expected) + ". Check padding, stride and channels.");
  y.shape = op == Op::conv_dx ? x : w;
}

void pool(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  AttrReader a{attrs};
  switch (op) {
    case Op::maxpool: {
      const Ints window = a.ints(), stride = a.ints(), padding = a.ints();
      const Shape y = pool_shape(op, x.shape, window, stride, padding);
      result(out, x.dtype, x.device).shape = y;
      result(out, DType::I64, x.device).shape = y;
      return;
    }
    case Op::avgpool: case Op::avgpool_back: {
      const Ints window = a.ints(), stride = a.ints(), padding = a.ints();
      a.flag();
      float_only(op, x);
      Spec& y = result(out, x.dtype, x.device);
      if (op == Op::avgpool) {
        y.shape = pool_shape(op, x.shape, window, stride, padding);
        return;
      }
      const Ints given = a.ints();
      spatial_attr(op, "spatial", given, spatial_dims(op, x.shape, "the gradient"), 0);
      y.shape.push(x.shape[0]);
      y.shape.push(x.shape[1]);
      for (int64_t n : given) y.shape.push(n);
      const Shape expected = pool_shape(op, y.shape, window, stride, padding);
      if (!(expected == x.shape))
        fail(op, "a gradient of shape " + str(x.shape) + " does not belong to images " + str(y.shape) +
                     ", whose pool has shape " + str(expected) + ". Check window, padding and stride.");
      return;
    }
    case Op::plane_gather: case Op::plane_scatter: {
      const Spec& i = *in[1];
      integer_index(op, i);
      bool ok = x.shape.rank == i.shape.rank && x.shape[0] == i.shape[0] && x.shape[1] == i.shape[1];
      if (ok && op == Op::plane_scatter) ok = x.shape == i.shape;
      spatial_dims(op, x.shape, "the image");
      if (!ok)
        fail(op, "the image and its indices do not fit: " + shapes(in) + ". Both are (N, C, ...) with equal N and C.");
      Spec& y = result(out, x.dtype, common_device(op, in));
      if (op == Op::plane_gather) {
        y.shape = i.shape;
        return;
      }
      const Ints given = a.ints();
      spatial_attr(op, "spatial", given, x.shape.rank - 2, 0);
      y.shape.push(x.shape[0]);
      y.shape.push(x.shape[1]);
      for (int64_t n : given) y.shape.push(n);
      return;
    }
    default: no_rule(op);
  }
}

}  // namespace knet::inference
