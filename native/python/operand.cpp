// From Python to values: numbers, NumPy arrays and scalars, nests of lists. What is mutable is copied at once, so that
// it cannot change a recorded result.
#include "python/operand.h"

#include <cmath>

namespace knet {

namespace {

bool is_numpy(PyObject* o) {
  const NumPy& np = numpy();
  return np.ndarray && (PyObject_TypeCheck(o, np.ndarray) || PyObject_TypeCheck(o, np.generic));
}

}  // namespace

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

// ---- numbers

namespace {

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

[[noreturn]] void out_of_bounds(PyObject* o, DType t) {
  throw Error(Error::Overflow,
              "Python integer " + text_of(o) + " out of bounds for " + name(t) + ". Use a wider dtype.");
}

double int_as_double(PyObject* o) {
  const double d = PyLong_AsDouble(o);
  if (d == -1 && PyErr_Occurred()) throw PyError{};
  return d;
}

}  // namespace

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

namespace {

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

}  // namespace

bool as_float_number(Trace& t, PyObject* o, DType common, uint32_t& v) {
  if (!is_int(common) || !PyLong_Check(o) || PyBool_Check(o)) return false;
  Scalar s;
  s.f = int_as_double(o);
  v = t.scalar(s, to_float(common), false);
  return true;
}

// ---- any operand

namespace {

void hold(Handle& h, HostArray&& a) {
  Spec s;
  s.dtype = a.dtype;
  s.shape = a.shape;
  h.set(s, std::move(a.at));
}

}  // namespace

uint32_t value_of(Trace& t, HostArray&& a) {
  Handle h;
  hold(h, std::move(a));
  return t.use(h);
}

PyObject* array_object(HostArray&& a) {
  Ref x(reinterpret_cast<PyObject*>(new_array()));
  hold(handle_of(x), std::move(a));
  return x.release();
}

uint32_t value_of(Trace& t, PyObject* o, const DType* like, bool compare) {
  switch (operand_kind(o)) {
    case Operand::Array: return t.use(handle_of(o));
    case Operand::Number: return number_value(t, o, like, compare);
    case Operand::List: return list_value(t, o, like);
    case Operand::Foreign: return buffer_value(t, o);
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
    a = read_list(o, wanted ? &want : nullptr);
  } else if (kind == Operand::Foreign) {
    a = read_buffer(o, "array");
    if (wanted && a.dtype != want) {
      HostArray b;
      b.dtype = want;
      b.shape = a.shape;
      b.at.buffer = allocate(DeviceId{}, size_t(a.shape.size()) * itemsize(want));
      convert_elements(a.at.data(), a.dtype, b.at.data(), want, a.shape.size());
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
    read_list(o);  // says what is wrong
  }
  return array_object(std::move(a));
}

}  // namespace knet
