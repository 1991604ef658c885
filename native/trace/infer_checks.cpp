// Checks that shape rules share.
#include "trace/infer.h"

namespace knet::inference {

void fail(Op op, const std::string& what, Error::Kind kind) {
  throw Error(kind, std::string("[") + info(op).name + "] " + what);
}

void no_rule(Op op) { fail(op, "no shape rule. Add one to native/trace/infer.cpp.", Error::Runtime); }

std::string list(Ints v) {
  std::string text = "(";
  for (size_t i = 0; i < v.size(); ++i) text += (i ? ", " : "") + std::to_string(v[i]);
  return text + (v.size() == 1 ? ",)" : ")");
}

std::string shapes(Ins in) {
  std::string text;
  for (size_t i = 0; i < in.size(); ++i)
    text += (i == 0 ? "" : i + 1 == in.size() ? " and " : ", ") + str(in[i]->shape);
  return text;
}

std::string operands(Ins in) {
  std::string text;
  for (size_t i = 0; i < in.size(); ++i)
    text += std::string(i == 0 ? "" : i + 1 == in.size() ? " and " : ", ") + name(in[i]->dtype) + str(in[i]->shape);
  return text;
}

DeviceId common_device(Op op, Ins in) {
  auto anywhere = [](const Spec& s) { return s.weak && s.shape.rank == 0; };
  const Spec* first = in[0];
  for (const Spec* s : in.subspan(1)) {
    if (s->device == first->device || anywhere(*s)) continue;
    if (anywhere(*first))
      first = s;
    else
      fail(op, "inputs on different devices: " + str(first->device) + " and " + str(s->device) +
                   ". Move one of them: x.to(\"" + str(first->device) + "\").");
  }
  return first->device;
}

Spec& result(Specs& out, DType t, DeviceId device, bool weak) {
  Spec& s = out.add();
  s.dtype = t;
  s.weak = weak;
  s.device = device;
  return s;
}

Spec& like(Specs& out, const Spec& x) {
  Spec& s = out.add();
  s = x;
  return s;
}

void same_dtype(Op op, Ins in) {
  for (const Spec* s : in.subspan(1))
    if (s->dtype != in[0]->dtype)
      fail(op, "inputs have different dtypes: " + operands(in) + ". Cast one of them: x.astype(\"" +
                   name(promote(in[0]->dtype, s->dtype)) + "\").", Error::Type);
}

void integer_index(Op op, const Spec& i) {
  if (i.dtype != DType::I64)
    fail(
        op,
        std::string("indices must be int64, not ") + name(i.dtype) + str(i.shape) + ". Cast them: i.astype(\"int64\").",
        Error::Type);
}

void float_only(Op op, const Spec& x) {
  if (!is_float(x.dtype))
    fail(op,
         std::string("needs a float array, not ") + name(x.dtype) + str(x.shape) + ". Cast it: x.astype(\"float32\").",
         Error::Type);
}

void rank_at_least(Op op, const Spec& x, int rank) {
  if (x.shape.rank < rank)
    fail(op, "needs at least " + std::to_string(rank) + " dimensions: " + str(x.shape) + ". Add some with reshape.");
}

int64_t checked_axis(Op op, int64_t axis, const Shape& s) {
  if (axis < 0 || axis >= s.rank)
    fail(op,
         "axis " + std::to_string(axis) + " is out of range for " + str(s) + ". Use -" + std::to_string(s.rank) +
             " to " + std::to_string(s.rank - 1) + ".",
         Error::Index);
  return axis;
}

void checked_axes(Op op, Ints axes, const Shape& s) {
  for (size_t i = 0; i < axes.size(); ++i) {
    checked_axis(op, axes[i], s);
    if (i && axes[i] <= axes[i - 1])
      fail(op, "axes " + list(axes) + " must be different and in order for " + str(s) + ".");
  }
}

void checked_shape(Op op, const Shape& s) {
  int64_t n = 1;
  for (int64_t d : s.dims()) {
    if (d < 0) fail(op, "negative dimension in " + str(s) + ". Use dimensions of 0 or more.");
    if (d && __builtin_mul_overflow(n, d, &n)) fail(op, "too many elements: " + str(s) + ".", Error::Memory);
  }
}

void drop_axes(const Shape& s, Ints axes, bool keepdims, Shape& y) {
  y.rank = 0;
  size_t k = 0;
  for (int i = 0; i < s.rank; ++i) {
    const bool gone = k < axes.size() && axes[k] == i;
    k += gone;
    if (!gone)
      y.dim[y.rank++] = s[i];
    else if (keepdims)
      y.dim[y.rank++] = 1;
  }
}

}  // namespace knet::inference
