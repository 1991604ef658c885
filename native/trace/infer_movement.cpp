// Shapes of elements elsewhere: reshaped, transposed, sliced, joined.
#include "trace/infer.h"

namespace knet::inference {

namespace {

void reshape(const Spec& x, Ints to, Spec& y) {
  const Op op = Op::reshape;
  Shape s(to);
  int unknown = -1;
  int64_t known = 1;
  for (int i = 0; i < s.rank; ++i) {
    if (s[i] == -1 && unknown < 0)
      unknown = i;
    else if (s[i] < 0)
      fail(op, "cannot reshape to " + list(to) + ": one dimension may be -1, no other negative. Give the lengths.");
    else if (s[i] && __builtin_mul_overflow(known, s[i], &known))
      fail(op, "too many elements: " + list(to) + ".");
    else if (s[i] == 0)
      known = 0;
  }
  const int64_t n = x.shape.size();
  if (unknown >= 0 && known > 0 && n % known == 0) {
    s[unknown] = n / known;
    known = n;
  }
  // A -1 beside a 0 has no answer.
  if ((unknown >= 0 && s[unknown] < 0) || known != n)
    fail(op, "cannot reshape " + str(x.shape) + ", which has " + std::to_string(n) + " elements, to " + list(to) +
                 ". Give as many elements, or -1 for one dimension.");
  y.shape = s;
}

void transpose(const Spec& x, Ints axes, Spec& y) {
  const Op op = Op::transpose;
  uint32_t seen = 0;
  y.shape.rank = x.shape.rank;
  bool ok = axes.size() == size_t(x.shape.rank);
  for (size_t i = 0; ok && i < axes.size(); ++i) {
    ok = axes[i] >= 0 && axes[i] < x.shape.rank && !(seen >> axes[i] & 1);
    if (!ok) break;
    seen |= 1u << axes[i];
    y.shape.dim[i] = x.shape[int(axes[i])];
  }
  if (!ok)
    fail(op, "axes " + list(axes) + " are not a permutation of the dimensions of " + str(x.shape) +
                 ". Name each axis once.");
}

void broadcast_to(const Spec& x, Ints to, Spec& y) {
  const Op op = Op::broadcast_to;
  Shape s(to);
  checked_shape(op, s);
  bool ok = s.rank >= x.shape.rank;
  for (int i = 0; ok && i < x.shape.rank; ++i) {
    const int64_t d = x.shape[i];
    ok = d == 1 || d == s[s.rank - x.shape.rank + i];
  }
  if (!ok)
    fail(op, "cannot broadcast " + str(x.shape) + " to " + list(to) +
                 ". Counted from the right, dimensions must be equal or 1 before: use reshape.");
  y.shape = s;
}

// A region of x: one start value, one step, and a length for each listed axis. Starts are data and are checked at run
// time (they come from Python slices, which clip); lengths are structure and are checked here.
void region(Op op, const Spec& x, Ints axes, Ints lengths, Ints steps, Ins starts) {
  checked_axes(op, axes, x.shape);
  if (lengths.size() != axes.size() || steps.size() != axes.size() || starts.size() != axes.size())
    fail(op, "needs one start, length and step for each of the axes " + list(axes) + ".");
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t n = lengths[i], step = steps[i], have = x.shape[int(axes[i])];
    if (step == 0)
      fail(op, "a step of 0 along axis " + std::to_string(axes[i]) + " of " + str(x.shape) +
                   ". Use 1 or more, or -1 or less.");
    const int64_t stride = step < 0 ? -step : step;
    if (n < 0 || n > have || (n > 1 && (n - 1) > (have - 1) / stride))
      fail(op,
           std::to_string(n) + " elements with step " + std::to_string(step) + " do not fit axis " +
               std::to_string(axes[i]) + " of " + str(x.shape) + ". Use a smaller length.",
           Error::Index);
    if (starts[i]->shape.rank != 0 || !is_int(starts[i]->dtype))
      fail(op, "starts must be integer scalars, not " + operands(starts) + ".", Error::Type);
  }
}

void slice(Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  AttrReader a{attrs};
  const Ints axes = a.ints(), lengths = a.ints(), steps = a.ints();
  region(Op::slice, x, axes, lengths, steps, in.subspan(1));
  Spec& y = like(out, x);
  for (size_t i = 0; i < axes.size(); ++i) y.shape[int(axes[i])] = lengths[i];
}

void slices(Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  AttrReader a{attrs};
  const Ints axes = a.ints(), lengths = a.ints(), steps = a.ints();
  const size_t n_starts = in.size() - 1;
  if (axes.empty() || n_starts % axes.size())
    fail(Op::slices, std::to_string(n_starts) + " starts are not one for each slice and axis of " + list(axes) + ".");
  for (size_t i = 0; i < n_starts; i += axes.size())
    region(Op::slices, x, axes, lengths, steps, in.subspan(1 + i, axes.size()));
  Spec& y = like(out, x);
  for (size_t i = 0; i < axes.size(); ++i) y.shape[int(axes[i])] = lengths[i];
  Shape all{int64_t(n_starts / axes.size())};
  for (int64_t d : y.shape) all.push(d);
  y.shape = all;
}

void splice(Ins in, Ints attrs, Specs& out) {
  same_dtype(Op::splice, in);
  AttrReader a{attrs};
  const Ints shape = a.ints(), pieces = a.ints();
  Spec& y = result(out, in[0]->dtype, common_device(Op::splice, in));
  y.shape = Shape(shape);
  int64_t total = 0;
  bool ok = pieces.size() % 3 == 0;
  for (size_t i = 0; ok && i < pieces.size(); i += 3) {
    const int64_t which = pieces[i], from = pieces[i + 1], n = pieces[i + 2];
    ok = which >= 0 && size_t(which) < in.size() && from >= 0 && n >= 0 && n <= in[size_t(which)]->shape.size() - from;
    total += n;
  }
  if (!ok || total != y.shape.size())
    fail(Op::splice, "pieces " + list(pieces) + " of " + shapes(in) + " do not make " + list(shape) + ".");
}

void slice_write(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec &x = *in[0], &v = *in[1];
  AttrReader a{attrs};
  const Ints axes = a.ints(), steps = a.ints();
  same_dtype(op, in.first(2));
  checked_axes(op, axes, x.shape);
  Shape lengths;
  bool ok = v.shape.rank == x.shape.rank;
  for (int i = 0, k = 0; ok && i < x.shape.rank; ++i) {
    if (size_t(k) < axes.size() && axes[size_t(k)] == i) {
      lengths.push(v.shape[i]);
      ++k;
    } else {
      ok = v.shape[i] == x.shape[i];
    }
  }
  if (!ok)
    fail(op, "a value of shape " + str(v.shape) + " does not fit the region of " + str(x.shape) + " along axes " +
                 list(axes) + ". Give it the region's shape with broadcast_to or reshape.");
  region(op, x, axes, lengths.dims(), steps, in.subspan(2));
  Spec& y = like(out, x);
  y.device = common_device(op, in.first(2));
  y.weak = false;
}

void concatenate(Ins in, Ints attrs, Specs& out) {
  const Op op = Op::concatenate;
  const Spec& x = *in[0];
  rank_at_least(op, x, 1);
  const int64_t axis = checked_axis(op, AttrReader{attrs}.integer(), x.shape);
  same_dtype(op, in);
  int64_t total = 0;
  for (const Spec* s : in) {
    bool ok = s->shape.rank == x.shape.rank;
    for (int i = 0; ok && i < x.shape.rank; ++i) ok = i == axis || s->shape[i] == x.shape[i];
    if (!ok)
      fail(op, "shapes differ elsewhere than along axis " + std::to_string(axis) + ": " + shapes(in) +
                   ". Make the other dimensions equal with reshape, slices or pad.");
    total += s->shape[int(axis)];
  }
  Spec& y = result(out, x.dtype, common_device(op, in));
  y.shape = x.shape;
  y.shape[int(axis)] = total;
}

}  // namespace

void movement(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  switch (op) {
    case Op::slice: return slice(in, attrs, out);
    case Op::slices: return slices(in, attrs, out);
    case Op::splice: return splice(in, attrs, out);
    case Op::slice_update: case Op::slice_add: return slice_write(op, in, attrs, out);
    case Op::concatenate: return concatenate(in, attrs, out);
    case Op::flip: checked_axes(op, AttrReader{attrs}.ints(), x.shape); like(out, x); return;
    case Op::copy: like(out, x); return;
    default: break;
  }
  Spec& y = result(out, x.dtype, x.device);
  switch (op) {
    case Op::reshape: reshape(x, AttrReader{attrs}.ints(), y); break;
    case Op::transpose: transpose(x, AttrReader{attrs}.ints(), y); break;
    case Op::broadcast_to: broadcast_to(x, AttrReader{attrs}.ints(), y); break;
    default: no_rule(op);
  }
  y.weak = x.weak && y.shape.rank == 0;
}

}  // namespace knet::inference
