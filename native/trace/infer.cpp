// Shapes and dtypes of results, at the moment of recording: by kind, and for each primitive where a kind does not
// decide. Everything a user can get wrong in a shape is found here, so that the error carries the user's line.
#include "trace/infer.h"

namespace knet {

using namespace inference;

namespace {

// ------------------------------------------------------------------------------------------------- elementwise
// The hot path of recording. Loops over the few dimensions, because a call of memcmp or memcpy costs more than they do.

inline bool equal_shapes(const Shape& a, const Shape& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.dim[i] != b.dim[i]) return false;
  return true;
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
  y.shape = a.shape;
  for (size_t i = 1; i < in.size(); ++i) {
    const Spec& b = *in[i];
    weak &= b.weak;
    here &= b.device == a.device;
    if (!equal_shapes(b.shape, y.shape) && !broadcast_into(b.shape, y.shape)) no_broadcast(op, in);
  }
  y.device = here ? a.device : common_device(op, in);
  y.weak = weak && op != Op::cast && y.shape.rank == 0;
}

// ---------------------------------------------------------------------------------------------- reductions, scans

// NumPy: sums and products of bool and of integers narrower than 64 bits are made in 64 bits.
DType accumulator(DType t) {
  if (t == DType::Bool || is_signed_int(t)) return DType::I64;
  return is_unsigned_int(t) ? DType::U64 : t;
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

void scan(Op op, Ins in, Ints attrs, Specs& out) {
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
  if (!count_ok && !(op == Op::matmul && in.size() == 3))  // the third is added to the product
    wrong_count(op, op_info, in.size());
  if (in.empty()) fail(op, "needs at least one array.");
  switch (op_info.kind) {
    case Kind::Elementwise: return elementwise(op, op_info, in, attrs, out);
    case Kind::Reduce: return reduce(op, in, attrs, out);
    case Kind::Movement: return movement(op, in, attrs, out);
    case Kind::Index: return index(op, in, attrs, out);
    case Kind::Contraction: return op == Op::matmul ? matmul(in, out) : conv(op, in, attrs, out);
    case Kind::Other:
      return op == Op::cumsum || op == Op::cumprod ? scan(op, in, attrs, out) : pool(op, in, attrs, out);
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
