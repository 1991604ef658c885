// Shapes and dtypes of results, at the moment of recording: by kind, and for each primitive where a kind does not
// decide. Everything a user can get wrong in a shape is found here, so that the error carries the user's line.
#if defined(__GNUC__) && !defined(__clang__)
// Shapes have a few dimensions: vectorised loops over them took twice the time (infer of an elementwise op, 30 against
// 14 ns).
#pragma GCC optimize("no-tree-vectorize")
#endif
#include <algorithm>

#include "trace/op.h"

namespace knet {

namespace {

using Ins = std::span<const Spec* const>;
using Ints = std::span<const int64_t>;

[[noreturn, gnu::cold, gnu::noinline]] void fail(Op op, const std::string& what, Error::Kind kind = Error::Value) {
  throw Error(kind, std::string("[") + info(op).name + "] " + what);
}

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

// ---------------------------------------------------------------------------------------------- devices and dtypes

bool anywhere(const Spec& s) { return s.weak && s.shape.rank == 0; }

// The device that all data inputs share. Python numbers go anywhere.
DeviceId common_device(Op op, Ins in) {
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

// A result with the first data input's device; dtype and weakness as given.
Spec& result(Specs& out, DType t, DeviceId device, bool weak = false) {
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

// Axes in range, in increasing order, none twice.
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

// ------------------------------------------------------------------------------------------------- elementwise
// The hot path of recording. Loops over the few dimensions, because a call of memcmp or memcpy costs more than they do.

inline bool equal_shapes(const Shape& a, const Shape& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.dim[i] != b.dim[i]) return false;
  return true;
}

inline void copy_shape(const Shape& from, Shape& to) {
  to.rank = from.rank;
  for (int i = 0; i < from.rank; ++i) to.dim[i] = from.dim[i];
}

// NumPy broadcasting of `s` into `out`; false if they do not fit.
inline bool broadcast_into(const Shape& s, Shape& out) {
  const int more = s.rank - out.rank;
  if (more > 0) {
    for (int i = out.rank; i-- > 0;) out.dim[i + more] = out.dim[i];
    for (int i = 0; i < more; ++i) out.dim[i] = 1;
    out.rank = s.rank;
  }
  int64_t* d = out.dim + (out.rank - s.rank);
  for (int i = 0; i < s.rank; ++i) {
    if (d[i] == s.dim[i] || s.dim[i] == 1) continue;
    if (d[i] != 1) return false;
    d[i] = s.dim[i];
  }
  return true;
}

[[noreturn, gnu::cold, gnu::noinline]] void no_broadcast(Op op, Ins in) {
  fail(op, "shapes do not broadcast: " + shapes(in) +
               ". Counted from the right, dimensions must be equal or 1: use reshape.");
}

[[gnu::cold, gnu::noinline]] void wrong_dtype(Op op, Ins in, const char* wants, const char* remedy) {
  fail(op, std::string("needs ") + wants + ", not " + operands(in) + ". " + remedy, Error::Type);
}

[[gnu::cold, gnu::noinline]] void where_dtype(Op op, Ins in) {
  fail(op,
       "needs (bool, T, T), not " + operands(in) +
           ". Compare something to get the bool, and cast the values to one dtype.",
       Error::Type);
}

DType elementwise_dtype(Op op, const OpInfo& op_info, Ins in, Ints attrs) {
  const DType t = in[0]->dtype;
  if (op == Op::cast) {
    if (attrs.empty() || attrs[0] < 0 || attrs[0] >= kDTypes)
      fail(op, "unknown dtype. Name one: \"float32\".", Error::Type);
    return DType(attrs[0]);
  }
  if (op_info.rule == DTypeRule::Where) {
    if (t != DType::Bool || in[1]->dtype != in[2]->dtype) where_dtype(op, in);
    return in[1]->dtype;
  }
  for (size_t i = 1; i < in.size(); ++i)
    if (in[i]->dtype != t) same_dtype(op, in);
  switch (op_info.rule) {
    case DTypeRule::Same:
      if (t == DType::Bool && !(op_info.flags & kBoolOk))
        wrong_dtype(op, in, "numbers",
                    "Cast first, x.astype(\"int64\"), or use logical_and, logical_or, logical_not, logical_xor.");
      return t;
    case DTypeRule::Float:
      if (t < DType::F16) wrong_dtype(op, in, "floats", "Cast first: x.astype(\"float32\").");
      return t;
    case DTypeRule::Compare: return DType::Bool;
    case DTypeRule::Logical:
      if (t != DType::Bool) wrong_dtype(op, in, "bool", "Compare first: x != 0.");
      return DType::Bool;
    case DTypeRule::IntBits:
      if (t >= DType::F16) wrong_dtype(op, in, "integers or bool", "Cast first: x.astype(\"int64\").");
      if (t == DType::Bool && !(op_info.flags & kBoolOk))
        wrong_dtype(op, in, "integers", "Cast first: x.astype(\"int64\").");
      return t;
    case DTypeRule::FloatTest:
      if (t < DType::F16) wrong_dtype(op, in, "floats", "Cast first: x.astype(\"float32\").");
      return DType::Bool;
    default: return t;
  }
}

void elementwise(Op op, const OpInfo& op_info, Ins in, Ints attrs, Specs& out) {
  const DType t = elementwise_dtype(op, op_info, in, attrs);
  Spec& y = out.add();
  y.dtype = t;
  const Spec& a = *in[0];
  bool weak = a.weak, here = true;
  copy_shape(a.shape, y.shape);
  for (size_t i = 1; i < in.size(); ++i) {
    const Spec& b = *in[i];
    weak &= b.weak;
    here &= b.device == a.device;
    if (!equal_shapes(b.shape, y.shape) && !broadcast_into(b.shape, y.shape)) no_broadcast(op, in);
  }
  y.device = here ? a.device : common_device(op, in);
  y.weak = weak && op != Op::cast && y.shape.rank == 0;
}

// ---------------------------------------------------------------------------------------------------- reductions

// NumPy: sums and products of bool and of integers narrower than 64 bits are made in 64 bits.
DType accumulator(DType t) {
  if (t == DType::Bool || is_signed_int(t)) return DType::I64;
  return is_unsigned_int(t) ? DType::U64 : t;
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

[[gnu::cold, gnu::noinline]] void no_identity(Op op, const Shape& s) {
  fail(op, "nothing to choose from along an axis of length 0: " + str(s) +
               ". Test x.size first, or concatenate a default.");
}

void reduce(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  AttrReader a{attrs};
  DType t = x.dtype;
  Ints axes;
  int64_t one;
  switch (op) {
    case Op::argmax: case Op::argmin:
      one = a.integer();
      axes = Ints(&one, 1);
      t = DType::I64;
      break;
    case Op::sum: case Op::prod: axes = a.ints(); t = accumulator(t); break;
    case Op::any: case Op::all: axes = a.ints(); t = DType::Bool; break;
    default: axes = a.ints(); break;
  }
  const bool keepdims = a.flag();
  checked_axes(op, axes, x.shape);
  if (op == Op::max || op == Op::min || op == Op::argmax || op == Op::argmin)
    for (int64_t axis : axes)
      if (x.shape[int(axis)] == 0) no_identity(op, x.shape);
  Spec& y = result(out, t, x.device, x.weak && x.shape.rank == 0);
  drop_axes(x.shape, axes, keepdims, y.shape);
}

// ------------------------------------------------------------------------------------------------------ movement

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

void movement(Op op, Ins in, Ints attrs, Specs& out) {
  const Spec& x = *in[0];
  switch (op) {
    case Op::slice: return slice(in, attrs, out);
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
    default: fail(op, "no shape rule. Add one to native/trace/infer.cpp.", Error::Runtime);
  }
  y.weak = x.weak && y.shape.rank == 0;
}

// --------------------------------------------------------------------------------------------------------- index

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
    case Op::top: {
      const int64_t k = a.integer(), axis = checked_axis(op, a.integer(), x.shape);
      if (k < 0 || k > x.shape[axis])
        fail(op, "k = " + std::to_string(k) + " is out of range for axis " + std::to_string(axis) + " of " + str(x.shape) +
                     ". Use 0 to " + std::to_string(x.shape[axis]) + ".");
      for (DType t : {x.dtype, DType::I64}) {
        Spec& y = result(out, t, x.device);
        y.shape = x.shape;
        y.shape[axis] = k;
      }
      return;
    }
    default: fail(op, "no shape rule. Add one to native/trace/infer.cpp.", Error::Runtime);
  }
}

// ------------------------------------------------------------------------------------------------------- contraction

void matmul(Ins in, Specs& out) {
  const Op op = Op::matmul;
  const Spec &a = *in[0], &b = *in[1];
  if (a.shape.rank < 2 || b.shape.rank < 2)
    fail(op, "needs two matrices or stacks of them: " + str(a.shape) + " @ " + str(b.shape) +
                 ". Add dimensions with reshape.");
  same_dtype(op, in);
  if (a.dtype == DType::Bool)
    fail(op, "does not take bool: " + operands(in.first(2)) + ". Cast first: x.astype(\"float32\").", Error::Type);
  const int ra = a.shape.rank, rb = b.shape.rank;
  if (a.shape[ra - 1] != b.shape[rb - 2])
    fail(op,
         "inner dimensions differ: " + str(a.shape) + " @ " + str(b.shape) +
             ". The last of the first must equal the last but one of the second: transpose or reshape one of them.");
  Spec& y = result(out, a.dtype, common_device(op, in));
  y.shape.rank = std::max(ra, rb);
  y.shape[y.shape.rank - 2] = a.shape[ra - 2];
  y.shape[y.shape.rank - 1] = b.shape[rb - 1];
  for (int i = 3; i <= y.shape.rank; ++i) {
    const int64_t da = i <= ra ? a.shape[ra - i] : 1, db = i <= rb ? b.shape[rb - i] : 1;
    if (da != db && da != 1 && db != 1)
      fail(op, "stacks of matrices do not broadcast: " + str(a.shape) + " @ " + str(b.shape) +
                   ". All but the last two dimensions must be equal or 1.");
    y.shape[y.shape.rank - i] = da == 1 ? db : da;
  }
  if (in.size() == 3 && !(in[2]->shape == y.shape))
    fail(op, "a sum of shape " + str(in[2]->shape) + " does not fit the product of shape " + str(y.shape) + ".");
}

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

// --------------------------------------------------------------------------------------------------- scans and pools

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
    default: fail(op, "no shape rule. Add one to native/trace/infer.cpp.", Error::Runtime);
  }
}

void other(Op op, Ins in, Ints attrs, Specs& out) {
  if (op != Op::cumsum && op != Op::cumprod) return pool(op, in, attrs, out);
  const Spec& x = *in[0];
  checked_axis(op, AttrReader{attrs}.integer(), x.shape);
  Spec& y = like(out, x);
  y.weak = false;
  y.dtype = accumulator(x.dtype);
}

// ---------------------------------------------------------------------------------------------- numbers from nothing

void create(Op op, Ins in, Ints attrs, Specs& out) {
  AttrReader a{attrs};
  const int64_t n = a.integer(), t = a.integer();
  if (n < 0) fail(op, "a negative length: " + std::to_string(n) + ". Use 0 or more.");
  if (t < 0 || t >= kDTypes) fail(op, "unknown dtype. Name one: \"float32\".", Error::Type);
  for (const Spec* s : in)
    if (s->shape.rank) fail(op, "start and step must be scalars: " + shapes(in) + ".");
  result(out, DType(t), in[0]->device).shape.push(n);
}

void random(Op op, Ins in, Ints attrs, Specs& out) {
  AttrReader a{attrs};
  const Shape s(a.ints());
  const int64_t t = a.integer();
  checked_shape(op, s);
  const bool bits = op == Op::random_bits;
  if (t < 0 || t >= kDTypes ||
      (bits ? DType(t) != DType::U32 && DType(t) != DType::U64 : DType(t) != DType::F32 && DType(t) != DType::F64))
    fail(op, std::string("makes ") + (bits ? "uint32 or uint64" : "float32 or float64") + ", not " +
                 (t >= 0 && t < kDTypes ? name(DType(t)) : "an unknown dtype") + ". Cast the result.", Error::Type);
  for (const Spec* i : in)
    if (i->shape.rank || (i->dtype != DType::U64 && i->dtype != DType::I64))
      fail(op, "seed and counter must be 64-bit integer scalars: " + operands(in) + ".", Error::Type);
  result(out, DType(t), in[0]->device).shape = s;
}

[[gnu::cold, gnu::noinline]] void wrong_count(Op op, const OpInfo& op_info, size_t n) {
  fail(op,
       "takes " + std::string(op_info.flags & kVariadic ? "at least " : "") + std::to_string(op_info.n_in) +
           " arrays, not " + std::to_string(n) + ".",
       Error::Type);
}

}  // namespace

Shape broadcast(Op op, std::span<const Spec* const> in) {
  Shape out = in[0]->shape;
  for (const Spec* s : in.subspan(1))
    if (!broadcast_into(s->shape, out)) no_broadcast(op, in);
  return out;
}

void infer(Op op, std::span<const Spec* const> in, std::span<const int64_t> attrs, Specs& out) {
  const OpInfo& op_info = info(op);
  const bool count_ok =
      op_info.flags & kVariadic ? in.size() >= size_t(op_info.n_in) : in.size() == size_t(op_info.n_in);
  if (!count_ok && !(op == Op::matmul && in.size() == 3))
    wrong_count(op, op_info, in.size());  // the third is added to the product
  if (in.empty()) fail(op, "needs at least one array.");
  switch (op_info.kind) {
    case Kind::Elementwise: return elementwise(op, op_info, in, attrs, out);
    case Kind::Reduce: return reduce(op, in, attrs, out);
    case Kind::Movement: return movement(op, in, attrs, out);
    case Kind::Index: return index(op, in, attrs, out);
    case Kind::Contraction: return op == Op::matmul ? matmul(in, out) : conv(op, in, attrs, out);
    case Kind::Other: return other(op, in, attrs, out);
    case Kind::Create: return create(op, in, attrs, out);
    case Kind::Random: return random(op, in, attrs, out);
    case Kind::Meta:
      if (op == Op::param || op == Op::alias || op == Op::stop || op == Op::custom) {
        like(out, *in[0]);
        return;
      }
      break;
    case Kind::Compound: break;
  }
  fail(op, "has no shape rule: its results are known by other means.", Error::Runtime);
}

}  // namespace knet
