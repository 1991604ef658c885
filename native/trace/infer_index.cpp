// Shapes of elements chosen by indices: gathers, scatters, sorting.
#include "trace/infer.h"

namespace knet::inference {

namespace {

// The shape of gather's result: the axes not indexed, in order, with the common shape of the indices put in at `at`.
Shape gathered(Op op, const Spec& x, Ins idx, Ints axes, int64_t at) {
  checked_axes(op, axes, x.shape);
  if (axes.empty() || idx.size() != axes.size())
    fail(op, "needs one index array for each of the axes " + list(axes) + ", not " + std::to_string(idx.size()) + ".");
  for (const Spec* i : idx) {
    integer_index(op, *i);
    if (!(i->shape == idx[0]->shape))
      fail(op, "index arrays must have one shape: " + shapes(idx) + ". Use broadcast_to.", Error::Index);
  }
  Shape rest, y;
  drop_axes(x.shape, axes, false, rest);
  if (at < 0 || at > rest.rank)
    fail(op, "position " + std::to_string(at) + " is out of range for " + str(rest) + ".", Error::Index);
  for (int i = 0; i < rest.rank; ++i) {
    if (i == at)
      for (int64_t d : idx[0]->shape.dims()) y.push(d);
    y.push(rest[i]);
  }
  if (at == rest.rank)
    for (int64_t d : idx[0]->shape.dims()) y.push(d);
  return y;
}

// take_along_axis and its adjoint: equal shapes apart from `axis`.
void along_axis(Op op, const Spec& x, const Spec& i, int64_t axis) {
  checked_axis(op, axis, x.shape);
  integer_index(op, i);
  bool ok = x.shape.rank == i.shape.rank;
  for (int k = 0; ok && k < x.shape.rank; ++k) ok = k == axis || x.shape[k] == i.shape[k];
  if (!ok)
    fail(op, "array and indices must have equal shapes apart from axis " + std::to_string(axis) + ": " + str(x.shape) +
                 " and " + str(i.shape) + ". Use expand_dims or broadcast_to.");
}

}  // namespace

void index(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  AttrReader a{attrs};
  switch (op) {
    case Op::gather: {
      const Ints axes = a.ints();
      result(out, x.dtype, common_device(op, in)).shape = gathered(op, x, in.subspan(1), axes, a.integer());
      return;
    }
    case Op::scatter_add: case Op::scatter_set: {
      const Ints axes = a.ints();
      const Shape s = gathered(op, x, in.subspan(2), axes, a.integer());
      same_dtype(op, in.first(2));
      if (!(in[1]->shape == s))
        fail(op, "values of shape " + str(in[1]->shape) + " do not fit the indexed part of " + str(x.shape) +
                     ", which has shape " + str(s) + ". Use broadcast_to or reshape.");
      Spec& y = like(out, x);
      y.device = common_device(op, in);
      y.weak = false;
      return;
    }
    case Op::take_along_axis: {
      along_axis(op, x, *in[1], a.integer());
      result(out, x.dtype, common_device(op, in)).shape = in[1]->shape;
      return;
    }
    case Op::scatter_along_axis: {
      along_axis(op, x, *in[2], a.integer());
      same_dtype(op, in.first(2));
      if (!(in[1]->shape == in[2]->shape))
        fail(op, "values and indices must have one shape: " + str(in[1]->shape) + " and " + str(in[2]->shape) +
                     ". Use broadcast_to.");
      Spec& y = like(out, x);
      y.device = common_device(op, in);
      y.weak = false;
      return;
    }
    case Op::sort: {
      checked_axis(op, a.integer(), x.shape);
      like(out, x);
      result(out, DType::I64, x.device).shape = x.shape;
      return;
    }
    default: no_rule(op);
  }
}

}  // namespace knet::inference
