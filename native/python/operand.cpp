// From Python to values: numbers, NumPy arrays and scalars, nests of lists. NumPy is read through the buffer protocol
// and is never imported here. What is mutable is copied at once, so that it cannot change a recorded result.
#include "python/array.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace knet {

namespace {

// NumPy's classes, once the user has imported it.
struct NumPy {
  PyTypeObject *ndarray = nullptr, *generic = nullptr;
};
const NumPy& numpy() {
  static NumPy types;
  if (!types.ndarray) [[unlikely]] {
    static PyObject* const key = PyUnicode_InternFromString("numpy");
    PyObject* modules = PyImport_GetModuleDict();
    PyObject* m = PyDict_GetItemWithError(modules, key);
    if (!m) return types;
    PyObject* array = PyObject_GetAttrString(m, "ndarray");
    PyObject* generic = PyObject_GetAttrString(m, "generic");
    if (array && generic && PyType_Check(array) && PyType_Check(generic)) {
      types = {reinterpret_cast<PyTypeObject*>(array), reinterpret_cast<PyTypeObject*>(generic)};
    } else {  // NumPy is being imported at this moment
      PyErr_Clear();
      Py_XDECREF(array);
      Py_XDECREF(generic);
    }
  }
  return types;
}

bool is_numpy(PyObject* o) {
  const NumPy& np = numpy();
  return np.ndarray && (PyObject_TypeCheck(o, np.ndarray) || PyObject_TypeCheck(o, np.generic));
}

// ---- numbers

struct Bounds {
  int64_t lo;
  uint64_t hi;
};
Bounds bounds(DType t) {
  const int bits = int(itemsize(t)) * 8;
  if (is_unsigned_int(t)) return {0, bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1};
  return {bits == 64 ? INT64_MIN : -(int64_t(1) << (bits - 1)), (uint64_t(1) << (bits - 1)) - 1};
}

std::string text_of(PyObject* o) {
  Ref r(PyObject_Repr(o));
  const char* s = PyUnicode_AsUTF8(r);
  return s ? s : "?";
}

// A Python integer as an element of integer type t. False if it does not fit.
bool int_as(PyObject* o, DType t, Scalar& s) {
  int overflow;
  const long long i = PyLong_AsLongLongAndOverflow(o, &overflow);
  if (i == -1 && !overflow && PyErr_Occurred()) throw PyError{};
  const Bounds b = bounds(t);
  if (overflow > 0 && t == DType::U64) {
    s.u = PyLong_AsUnsignedLongLong(o);
    if (!PyErr_Occurred()) return true;
    PyErr_Clear();
    return false;
  }
  if (overflow || i < b.lo || (i > 0 && uint64_t(i) > b.hi)) return false;
  s.i = i;
  return true;
}

[[noreturn]] void out_of_bounds(PyObject* o, DType t) {
  throw Error(Error::Overflow,
              "Python integer " + text_of(o) + " out of bounds for " + name(t) + ". Use a wider dtype.");
}

double int_as_double(PyObject* o) {
  const double d = PyLong_AsDouble(o);
  if (d == -1 && PyErr_Occurred()) throw PyError{};
  return d;
}

// A Python number as one element of type t; floats become integers as in NumPy (towards zero).
Scalar number_as(PyObject* o, DType t) {
  Scalar s;
  s.i = 0;
  if (PyBool_Check(o)) {
    if (is_float(t))
      s.f = o == Py_True;
    else
      s.i = o == Py_True;
  } else if (PyLong_Check(o)) {
    if (is_float(t))
      s.f = int_as_double(o);
    else if (t == DType::Bool)
      s.i = PyObject_IsTrue(o);
    else if (!int_as(o, t, s))
      out_of_bounds(o, t);
  } else {
    const double d = PyFloat_AsDouble(o);
    if (d == -1 && PyErr_Occurred()) throw PyError{};
    if (is_float(t)) {
      s.f = d;
    } else if (t == DType::Bool) {
      s.i = d != 0;
    } else {
      if (!std::isfinite(d))
        throw Error(Error::Value, "[array] " + text_of(o) + " is not an integer. Use a float dtype.");
      Ref whole(PyLong_FromDouble(d));
      if (!int_as(whole, t, s)) out_of_bounds(whole, t);
    }
  }
  return s;
}

uint32_t number_value(Trace& t, PyObject* o, const DType* like, bool compare) {
  Scalar s;
  if (PyFloat_Check(o)) {
    s.f = PyFloat_AS_DOUBLE(o);
    return t.scalar(s, like && is_float(*like) ? *like : DType::F64, true);
  }
  if (PyBool_Check(o)) {
    const DType d = like ? *like : DType::Bool;
    return t.scalar(number_as(o, d), d, true);
  }
  if (like && is_float(*like)) {
    s.f = int_as_double(o);
    return t.scalar(s, *like, true);
  }
  if (like && *like != DType::Bool) {
    if (int_as(o, *like, s)) return t.scalar(s, *like, true);
    if (!compare) out_of_bounds(o, *like);
    // Compared with something wider than any element: an ordinary number of its own type.
    if (int_as(o, DType::I64, s)) return t.scalar(s, DType::I64, false);
    s.f = int_as_double(o);
    return t.scalar(s, DType::F64, false);
  }
  if (int_as(o, DType::I64, s)) return t.scalar(s, DType::I64, true);
  if (int_as(o, DType::U64, s)) return t.scalar(s, DType::U64, true);
  out_of_bounds(o, DType::I64);
}

// ---- buffers

struct View {
  Py_buffer b;
  explicit View(PyObject* o, const char* op) {
    if (PyObject_GetBuffer(o, &b, PyBUF_STRIDES | PyBUF_FORMAT) == 0) return;
    PyErr_Clear();
    throw Error(Error::Type, std::string("[") + op + "] a " + Py_TYPE(o)->tp_name +
                                 " holds no numbers of ours. Use bool, integer, float32 or float64 elements.");
  }
  ~View() { PyBuffer_Release(&b); }
  View(const View&) = delete;
};

// The element type of a struct-module format, and whether its bytes are in foreign order. False: not one of ours.
bool parse_format(const char* f, Py_ssize_t size, DType& t, bool& swapped) {
  swapped = false;
  if (!f) f = "B";
  if (*f == '>' || *f == '!')
    swapped = size > 1, ++f;
  else if (*f == '<' || *f == '=' || *f == '@')
    ++f;
  static_assert(std::endian::native == std::endian::little);
  if (f[0] == 'Z' && (f[1] == 'f' || f[1] == 'd') && !f[2]) return t = f[1] == 'f' ? DType::C64 : DType::C128, true;
  if (!f[0] || f[1]) return false;
  const int log = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1;
  if (log < 0) return false;
  switch (*f) {
    case '?': t = DType::Bool; return size == 1;
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n': t = DType(int(DType::I8) + log); return true;
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N': t = DType(int(DType::U8) + log); return true;
    case 'e': t = DType::F16; return size == 2;
    case 'f': t = DType::F32; return size == 4;
    case 'd': t = DType::F64; return size == 8;
    default: return false;
  }
}

template <size_t N>
void copy_row(char* to, const char* from, Py_ssize_t n, Py_ssize_t stride) {
  for (Py_ssize_t i = 0; i < n; ++i) std::memcpy(to + size_t(i) * N, from + i * stride, N);
}

// Strided to contiguous, outermost dimension first.
void copy_strided(char*& to, const char* from, const Py_ssize_t* shape, const Py_ssize_t* strides, int rank,
                  size_t size) {
  if (rank == 1) {
    const Py_ssize_t n = shape[0], stride = strides[0];
    if (size_t(stride) == size)
      std::memcpy(to, from, size_t(n) * size);
    else if (size == 4)
      copy_row<4>(to, from, n, stride);
    else if (size == 8)
      copy_row<8>(to, from, n, stride);
    else if (size == 1)
      copy_row<1>(to, from, n, stride);
    else
      copy_row<2>(to, from, n, stride);
    to += size_t(n) * size;
    return;
  }
  for (Py_ssize_t i = 0; i < shape[0]; ++i)
    copy_strided(to, from + i * strides[0], shape + 1, strides + 1, rank - 1, size);
}

void swap_bytes(char* p, size_t count, size_t size) {
  for (size_t i = 0; i < count; ++i, p += size) std::reverse(p, p + size);
}

void copy_view(const Py_buffer& b, DType t, bool swapped, char* to) {
  const size_t bytes = size_t(b.len);
  if (bytes == 0) return;
  char* at = to;
  if (b.ndim == 0 || PyBuffer_IsContiguous(&b, 'C'))
    std::memcpy(to, b.buf, bytes);
  else
    copy_strided(at, static_cast<const char*>(b.buf), b.shape, b.strides, b.ndim, itemsize(t));
  if (swapped) swap_bytes(to, bytes / itemsize(t), itemsize(t));
}

void describe(PyObject* o, const Py_buffer& b, const char* op, DType& t, bool& swapped, Shape& shape) {
  if (!parse_format(b.format, b.itemsize, t, swapped))
    throw Error(Error::Type, std::string("[") + op + "] elements of a " + Py_TYPE(o)->tp_name + " with format \"" +
                                 (b.format ? b.format : "") +
                                 "\" are not numbers of ours. Use bool, integers, float32 or float64.");
  check_supported(t, op);
  if (b.ndim > kMaxRank) throw Error(Error::Value, std::string("[") + op + "] too many dimensions. Use reshape.");
  for (int i = 0; i < b.ndim; ++i) shape.push(b.shape[i]);
}

void refuse_mask(PyObject* o, const char* op) {
  if (Py_TYPE(o) == numpy().ndarray || std::strcmp(Py_TYPE(o)->tp_name, "MaskedArray")) return;
  throw Error(Error::Type, std::string("[") + op + "] a masked array would lose its mask. Use x.filled(value).");
}

}  // namespace

Operand operand_kind(PyObject* o) {
  if (is_array(o)) return Operand::Array;
  if (PyFloat_CheckExact(o) || PyLong_Check(o)) return Operand::Number;
  if (PyList_Check(o) || PyTuple_Check(o)) return Operand::List;
  if (is_numpy(o)) return Operand::Foreign;
  if (PyFloat_Check(o)) return Operand::Number;
  // Other holders of numbers (memoryview, array.array), but not text.
  if (PyObject_CheckBuffer(o) && !PyBytes_Check(o) && !PyByteArray_Check(o)) return Operand::Foreign;
  return Operand::None;
}

HostArray read_buffer(PyObject* o, const char* op) {
  refuse_mask(o, op);
  View v(o, op);
  HostArray a;
  bool swapped;
  describe(o, v.b, op, a.dtype, swapped, a.shape);
  a.at.buffer = allocate(DeviceId{}, size_t(v.b.len));
  copy_view(v.b, a.dtype, swapped, a.at.data());
  return a;
}

uint32_t value_of(Trace& t, HostArray&& a) {
  Handle h;
  Spec s;
  s.dtype = a.dtype;
  s.shape = a.shape;
  h.set(s, std::move(a.at));
  return t.use(h);
}

// ---- lists

namespace {

enum class Kind0 : uint8_t { None, Bool, Int, Float };

// What a nest of lists holds: its shape, the kind of its Python numbers, the common type of everything that has a type.
struct Scan {
  Shape shape;
  bool known = false;   // the rank is known: some element has been seen
  bool arrays = false;  // there are KnetArrays
  bool typed = false;
  bool unsigned64 = false;
  DType strong = DType::Bool;
  Kind0 numbers = Kind0::None;

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
      s.numbers = std::max(s.numbers, PyBool_Check(o) ? Kind0::Bool : PyLong_Check(o) ? Kind0::Int : Kind0::Float);
      if (s.numbers == Kind0::Int && !s.unsigned64 && !PyBool_Check(o)) {
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
        s.numbers = std::max(s.numbers, is_float(spec.dtype)        ? Kind0::Float
                                        : spec.dtype == DType::Bool ? Kind0::Bool
                                                                    : Kind0::Int);
      else
        s.type(spec.dtype);
      return;
    }
    case Operand::Foreign: {
      refuse_mask(o, "array");
      View v(o, "array");
      DType t;
      bool swapped;
      Shape shape;
      describe(o, v.b, "array", t, swapped, shape);
      for (int i = 0; i < shape.rank; ++i) s.extent(depth + i, shape[i]);
      s.leaf(depth + shape.rank);
      s.type(t);
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
  DType t = s.typed ? (like && s.numbers == Kind0::None ? s.strong : s.strong) : like ? *like : default_float();
  switch (s.numbers) {
    case Kind0::Float: return typed ? (is_float(t) ? t : DType::F64) : t;
    case Kind0::Int: return typed && t != DType::Bool ? t : s.unsigned64 ? DType::U64 : DType::I64;
    case Kind0::Bool: return typed ? t : DType::Bool;
    default: return t;
  }
}

// Elements of typed arrays that are not of the common type, one by one.
void convert(const char* from, DType f, char* to, DType t, int64_t n) {
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
      View v(o, "array");
      DType f;
      bool swapped;
      Shape shape;
      describe(o, v.b, "array", f, swapped, shape);
      room(size_t(shape.size()) * itemsize(t));
      if (f == t) {
        copy_view(v.b, f, swapped, to);
      } else {
        std::vector<char> raw(size_t(v.b.len));
        copy_view(v.b, f, swapped, raw.data());
        convert(raw.data(), f, to, t, shape.size());
      }
      to += size_t(shape.size()) * itemsize(t);
    }
  }
}

HostArray build(PyObject* o, const Scan& s, DType t) {
  HostArray a;
  a.dtype = t;
  a.shape = s.shape;
  const size_t bytes = size_t(s.shape.size()) * itemsize(t);
  a.at.buffer = allocate(DeviceId{}, bytes);
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

uint32_t list_value(Trace& t, PyObject* o, const DType* like) {
  Scan s;
  scan(o, 0, s);
  const DType d = resolve(s, like);
  if (s.arrays && s.shape.size() > 0) return stack(t, o, d);
  return value_of(t, build(o, s, d));
}

}  // namespace

bool has_knet_array(PyObject* o, int depth) {
  if (is_array(o)) return true;
  if (depth > kMaxRank || !(PyList_Check(o) || PyTuple_Check(o))) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i)
    if (has_knet_array(PySequence_Fast_GET_ITEM(o, i), depth + 1)) return true;
  return false;
}

HostArray read_list(PyObject* o, const DType* like, bool as_index) {
  Scan s;
  scan(o, 0, s);
  DType t = resolve(s, like);
  if (as_index && s.shape.size() == 0 && !s.typed) t = DType::I64;  // x[[]]
  return build(o, s, t);
}

bool as_float_number(Trace& t, PyObject* o, DType common, uint32_t& v) {
  if (!is_int(common) || !PyLong_Check(o) || PyBool_Check(o)) return false;
  Scalar s;
  s.f = int_as_double(o);
  v = t.scalar(s, to_float(common), false);
  return true;
}

uint32_t value_of(Trace& t, PyObject* o, const DType* like, bool compare) {
  switch (operand_kind(o)) {
    case Operand::Array: return t.use(handle_of(o));
    case Operand::Number: return number_value(t, o, like, compare);
    case Operand::List: return list_value(t, o, like);
    case Operand::Foreign: {
      refuse_mask(o, "array");
      View v(o, "array");
      HostArray a;
      bool swapped;
      describe(o, v.b, "array", a.dtype, swapped, a.shape);
      if (v.b.ndim == 0) {  // a number with a type of its own: data, like a Python number
        char raw[16];
        copy_view(v.b, a.dtype, swapped, raw);
        return t.scalar(load(a.dtype, raw), a.dtype, false);
      }
      a.at.buffer = allocate(DeviceId{}, size_t(v.b.len));
      copy_view(v.b, a.dtype, swapped, a.at.data());
      return value_of(t, std::move(a));
    }
    case Operand::None: break;
  }
  throw Error(Error::Type, std::string("[array] a ") + Py_TYPE(o)->tp_name +
                               " is not a number, an array, or a list of these. Use knet.array of what it holds.");
}

// knet.array
PyObject* array_from(PyObject* o, PyObject* dtype, PyObject* device) {
  const DeviceId where = parse_device(device);
  if (!(where == DeviceId{}))
    throw Error(Error::Runtime, "[array] there is no device \"" + str(where) + "\" in this build. Use \"cpu\".");
  DType want = DType::F32;
  const bool wanted = dtype != Py_None;
  if (wanted) check_supported(want = parse_dtype(dtype), "array");
  Operand kind = operand_kind(o);
  if (kind == Operand::Array || (kind == Operand::List && has_knet_array(o))) {
    Trace& t = Trace::current();
    uint32_t v;
    if (kind == Operand::Array) {
      const Spec& s = handle_of(o).spec;
      if (!s.weak && (!wanted || s.dtype == want)) return share(o);
      if (!wanted) want = is_float(s.dtype) ? default_float() : s.dtype;
      v = t.use(handle_of(o));
    } else {
      v = list_value(t, o, nullptr);
      if (!wanted) want = t.spec(v).dtype;
    }
    if (t.spec(v).dtype == want && !t.spec(v).weak) return wrap(t, v);
    const int64_t attr = int64_t(want);
    return wrap(t, t.append(Op::cast, {&v, 1}, {&attr, 1}));
  }
  HostArray a;
  if (kind == Operand::Number || kind == Operand::List) {
    Scan s;
    scan(o, 0, s);
    a = build(o, s, wanted ? want : resolve(s, nullptr));
  } else if (kind == Operand::Foreign) {
    a = read_buffer(o, "array");
    if (wanted && a.dtype != want) {
      HostArray b;
      b.dtype = want;
      b.shape = a.shape;
      b.at.buffer = allocate(DeviceId{}, size_t(a.shape.size()) * itemsize(want));
      convert(a.at.data(), a.dtype, b.at.data(), want, a.shape.size());
      a = std::move(b);
    }
  } else if (PyObject_HasAttrString(o, "__dlpack__")) {
    Ref from(PyImport_ImportModule("knet._core"));
    Ref x(PyObject_CallMethod(from, "from_dlpack", "O", o));
    return wanted ? array_from(x, dtype, Py_None) : x.release();
  } else if (PyObject_HasAttrString(o, "__array__")) {
    Ref x(PyObject_CallMethod(o, "__array__", nullptr));
    return array_from(x, dtype, Py_None);
  } else {
    Scan s;
    scan(o, 0, s);  // says what is wrong
  }
  Ref x(reinterpret_cast<PyObject*>(new_array()));
  Spec s;
  s.dtype = a.dtype;
  s.shape = a.shape;
  handle_of(x).set(s, std::move(a.at));
  return x.release();
}

}  // namespace knet
