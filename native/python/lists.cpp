// Nests of lists, of numbers, NumPy arrays and KnetArrays: looked through for their shape and type, then read.
#include <algorithm>
#include <vector>

#include "python/operand.h"

namespace knet {

namespace {

// The kinds of Python numbers, each of which lifts those before it.
enum class Numbers : uint8_t { None, Bool, Int, Float };

// What a nest of lists holds: its shape, the kind of its Python numbers, the common type of everything that has a type.
struct Scan {
  Shape shape;
  bool known = false;   // the rank is known: some element has been seen
  bool arrays = false;  // there are KnetArrays
  bool typed = false;
  bool unsigned64 = false;
  DType strong = DType::Bool;
  Numbers numbers = Numbers::None;

  void extent(int depth, int64_t n) {
    if (depth < shape.rank ? shape[depth] != n : known)
      throw Error(Error::Value, "[array] the nest of lists is ragged: at depth " + std::to_string(depth) +
                                    " there are " + std::to_string(n) + " elements and " +
                                    (depth < shape.rank ? std::to_string(shape[depth]) : "one") +
                                    ". Make the lengths equal, or use a list of arrays.");
    if (depth == shape.rank) shape.push(n);
  }
  void leaf(int depth) {
    if (depth != shape.rank)
      throw Error(Error::Value,
                  "[array] the nest of lists is ragged: a number stands beside a list. Make the lengths equal.");
    known = true;
  }
  void type(DType t) {
    strong = typed ? promote(strong, t) : t;
    typed = true;
  }
};

void scan(PyObject* o, int depth, Scan& s) {
  switch (operand_kind(o)) {
    case Operand::Number:
      s.leaf(depth);
      s.numbers =
          std::max(s.numbers, PyBool_Check(o) ? Numbers::Bool : PyLong_Check(o) ? Numbers::Int : Numbers::Float);
      if (s.numbers == Numbers::Int && !s.unsigned64 && !PyBool_Check(o)) {
        Scalar x;
        s.unsigned64 = !int_as(o, DType::I64, x);
      }
      return;
    case Operand::List: {
      if (depth >= kMaxRank)
        throw Error(Error::Value, "[array] lists are nested too deeply. Use at most 12 dimensions.");
      const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
      s.extent(depth, n);
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i) scan(PySequence_Fast_GET_ITEM(o, i), depth + 1, s);
      return;
    }
    case Operand::Array: {
      const Spec& spec = handle_of(o).spec;
      for (int i = 0; i < spec.shape.rank; ++i) s.extent(depth + i, spec.shape[i]);
      s.leaf(depth + spec.shape.rank);
      s.arrays = true;
      if (spec.weak)
        s.numbers = std::max(s.numbers, is_float(spec.dtype)        ? Numbers::Float
                                        : spec.dtype == DType::Bool ? Numbers::Bool
                                                                    : Numbers::Int);
      else
        s.type(spec.dtype);
      return;
    }
    case Operand::Foreign: {
      const BufferView v(o, "array");
      for (int i = 0; i < v.shape.rank; ++i) s.extent(depth + i, v.shape[i]);
      s.leaf(depth + v.shape.rank);
      s.type(v.dtype);
      return;
    }
    case Operand::None:
      throw Error(Error::Type, std::string("[array] a ") + Py_TYPE(o)->tp_name +
                                   " is not a number, an array, or a list of these. Pass the numbers it holds.");
  }
}

// The type of the array: numbers lift the kind of typed elements, or meet `like`, or stand alone.
DType resolve(const Scan& s, const DType* like) {
  const bool typed = s.typed || like;
  DType t = s.typed ? s.strong : like ? *like : default_float();
  switch (s.numbers) {
    case Numbers::Float: return typed ? (is_float(t) ? t : DType::F64) : t;
    case Numbers::Int: return typed && t != DType::Bool ? t : s.unsigned64 ? DType::U64 : DType::I64;
    case Numbers::Bool: return typed ? t : DType::Bool;
    default: return t;
  }
}

// `end`: where the memory ends, because reading foreign objects may run code that changes the list.
void fill(PyObject* o, DType t, char*& to, const char* end) {
  auto room = [&](size_t bytes) {
    if (size_t(end - to) < bytes) throw Error(Error::Runtime, "[array] the list changed while it was read.");
  };
  switch (operand_kind(o)) {
    case Operand::Number:
      room(itemsize(t));
      if (PyFloat_CheckExact(o) && t == DType::F32) {
        const float f = float(PyFloat_AS_DOUBLE(o));
        std::memcpy(to, &f, 4);
      } else {
        store(number_as(o, t), t, to);
      }
      to += itemsize(t);
      return;
    case Operand::List:
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i) fill(PySequence_Fast_GET_ITEM(o, i), t, to, end);
      return;
    default: {
      const BufferView v(o, "array");
      room(size_t(v.shape.size()) * itemsize(t));
      if (v.dtype == t) {
        v.copy(to);
      } else {
        std::vector<char> raw(size_t(v.bytes()));
        v.copy(raw.data());
        convert_elements(raw.data(), v.dtype, to, t, v.shape.size());
      }
      to += size_t(v.shape.size()) * itemsize(t);
    }
  }
}

HostArray build(PyObject* o, const Scan& s, DType t) {
  HostArray a;
  a.dtype = t;
  a.shape = s.shape;
  const size_t bytes = size_t(s.shape.size()) * itemsize(t);
  a.at.buffer = allocate(DeviceId{}, bytes);
  // Nothing to read, and not to be read: an empty array among others may be pending, and computing it would end the
  // trace that the caller has values of.
  if (bytes == 0) return a;
  char* to = a.at.data();
  fill(o, t, to, to + bytes);
  if (to != a.at.data() + bytes) throw Error(Error::Runtime, "[array] the list changed while it was read.");
  return a;
}

// A nest with KnetArrays inside is recorded: gradients pass through it.
uint32_t stack(Trace& t, PyObject* o, DType d) {
  const Operand kind = operand_kind(o);
  if (kind != Operand::List) return t.cast(value_of(t, o, &d), d);
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  std::vector<uint32_t> parts;
  for (Py_ssize_t i = 0; i < n; ++i) {
    const uint32_t v = stack(t, PySequence_Fast_GET_ITEM(o, i), d);
    Shape s{1};
    for (int64_t e : t.spec(v).shape.dims()) s.push(e);
    parts.push_back(reshape(t, v, s));
  }
  if (n == 1) return parts[0];
  const int64_t axis = 0;
  return t.append(Op::concatenate, parts, {&axis, 1});
}

}  // namespace

void convert_elements(const char* from, DType f, char* to, DType t, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    Scalar s = load(f, from + size_t(i) * itemsize(f));
    if (is_float(t) && !is_float(f))
      s.f = is_unsigned_int(f) ? double(s.u) : double(s.i);
    else if (!is_float(t) && is_float(f))
      s.i = t == DType::Bool ? s.f != 0 : int64_t(s.f);
    else if (t == DType::Bool)
      s.i = s.i != 0;
    store(s, t, to + size_t(i) * itemsize(t));
  }
}

uint32_t list_value(Trace& t, PyObject* o, const DType* like) {
  Scan s;
  scan(o, 0, s);
  const DType d = resolve(s, like);
  if (s.arrays && s.shape.size() > 0) return stack(t, o, d);
  return value_of(t, build(o, s, d));
}

bool has_knet_array(PyObject* o, int depth) {
  if (is_array(o)) return true;
  if (depth > kMaxRank || !(PyList_Check(o) || PyTuple_Check(o))) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i)
    if (has_knet_array(PySequence_Fast_GET_ITEM(o, i), depth + 1)) return true;
  return false;
}

HostArray read_list(PyObject* o, const DType* want, bool as_index) {
  Scan s;
  scan(o, 0, s);
  DType t = want ? *want : resolve(s, nullptr);
  if (as_index && s.shape.size() == 0 && !s.typed) t = DType::I64;  // x[[]]
  return build(o, s, t);
}

}  // namespace knet
