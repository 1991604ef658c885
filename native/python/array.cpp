// KnetArray, the native type: its slots record operations. Indexing is in index.cpp, the ways in and out of Python in operand.cpp,
// convert.cpp and dlpack.cpp; methods that are functions as well (x.sum() is knet.sum(x)) come from one table.
#include "python/array.h"

#include <structmember.h>

#include <array>
#include <vector>

namespace knet {

PyTypeObject* ArrayType;

// ---------------------------------------------------------------------------------------------- objects and errors

namespace {

// Objects that were let go, ready for reuse: making a handle costs 10 ns instead of 40.
constexpr int kFreeMax = 512;
ArrayObject* free_list[kFreeMax];
int n_free = 0;

void dealloc(PyObject* self) {
  auto* a = reinterpret_cast<ArrayObject*>(self);
  if (a->weakrefs) PyObject_ClearWeakRefs(self);
  a->handle.~Handle();
  PyTypeObject* type = Py_TYPE(self);
  if (n_free < kFreeMax)
    free_list[n_free++] = a;
  else
    PyObject_Free(a);
  Py_DECREF(type);
}

}  // namespace

ArrayObject* new_array() {
  ArrayObject* a = n_free ? free_list[--n_free] : static_cast<ArrayObject*>(PyObject_Malloc(sizeof(ArrayObject)));
  if (!a) [[unlikely]] {
    PyErr_NoMemory();
    throw PyError{};
  }
  PyObject_Init(reinterpret_cast<PyObject*>(a), ArrayType);
  new (&a->handle) Handle;
  a->weakrefs = nullptr;
  return a;
}

PyObject* wrap(Trace& t, uint32_t value) {
  ArrayObject* a = new_array();
  try {
    t.give(value, a->handle);
  } catch (...) {
    Py_DECREF(a);
    throw;
  }
  return reinterpret_cast<PyObject*>(a);
}

PyObject* share(PyObject* array) {
  Ref copy(reinterpret_cast<PyObject*>(new_array()));
  handle_of(copy).share(handle_of(array));
  return copy.release();
}

void raise_current() noexcept {
  static PyObject* const* const classes[] = {&PyExc_TypeError,   &PyExc_ValueError,   &PyExc_IndexError,
                                             &PyExc_MemoryError, &PyExc_RuntimeError, &PyExc_OverflowError};
  try {
    throw;
  } catch (const PyError&) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "[knet] an exception was lost");
  } catch (const Error& e) {
    if (!PyErr_Occurred()) PyErr_SetString(*classes[e.kind], e.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "[knet] unknown error");
  }
}

const Spec& realize(PyObject* array) {
  Handle& h = handle_of(array);
  if (!h.concrete()) Trace::current().realize(h);
  return h.spec;
}

void refuse_tracked(const Handle& h, const char* op) {
  if (!h.tracked) return;
  throw Error(Error::Type, std::string("[") + op +
                               "] this value depends on a parameter that is being differentiated, and would become a constant. Use "
                               "x.item() or knet.value(x) to read a number on purpose, knet.sin for math.sin, and knet.stack or "
                               "knet.array for np.array([...]).");
}

uint32_t reshape(Trace& t, uint32_t v, const Shape& s) {
  int64_t attrs[1 + kMaxRank] = {s.rank};
  std::copy(s.begin(), s.end(), attrs + 1);
  return t.append(Op::reshape, {&v, 1}, {attrs, size_t(1 + s.rank)});
}

uint32_t broadcast_to(Trace& t, uint32_t v, const Shape& s) {
  if (t.spec(v).shape == s) return v;
  int64_t attrs[1 + kMaxRank] = {s.rank};
  std::copy(s.begin(), s.end(), attrs + 1);
  return t.append(Op::broadcast_to, {&v, 1}, {attrs, size_t(1 + s.rank)});
}

int64_t to_int(PyObject* o) {
  if (PyLong_CheckExact(o)) {
    const int64_t i = PyLong_AsLongLong(o);
    if (i == -1 && PyErr_Occurred()) throw PyError{};
    return i;
  }
  Ref n(PyNumber_Index(o));
  const int64_t i = PyLong_AsLongLong(n);
  if (i == -1 && PyErr_Occurred()) throw PyError{};
  return i;
}

Shape to_shape(PyObject* o, bool negative_one) {
  Shape s;
  auto add = [&](PyObject* d) {
    const int64_t n = to_int(d);
    if (n < 0 && !(negative_one && n == -1))
      throw Error(Error::Value, "[shape] negative dimension " + std::to_string(n) + ". Use dimensions of 0 or more.");
    s.push(n);
  };
  if (PyTuple_Check(o) || PyList_Check(o)) {
    Ref seq(PySequence_Fast(o, "a shape is a tuple of integers"));
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(seq.get()); ++i) add(PySequence_Fast_GET_ITEM(seq.get(), i));
  } else {
    add(o);
  }
  return s;
}

// ------------------------------------------------------------------------------------------------------- operators

namespace {

// Values of the operands of a binary slot, at least one of which is a KnetArray. False: not an operand that we know.
bool operands(Trace& t, PyObject* a, PyObject* b, bool compare, uint32_t v[2]) {
  if (is_array(a) && is_array(b)) {
    v[0] = t.use(handle_of(a));
    v[1] = t.use(handle_of(b));
    return true;
  }
  const int known = is_array(a) ? 0 : 1;
  PyObject* array = known ? b : a;
  PyObject* other = known ? a : b;
  if (operand_kind(other) == Operand::None) return false;
  const Spec& s = handle_of(array).spec;
  v[known] = t.use(handle_of(array));
  // Also beside a number of ours, which stays weak: a cast between the two would make it strong.
  const DType like = s.dtype;
  v[1 - known] = value_of(t, other, s.weak && !is_float(like) ? nullptr : &like, compare);
  return true;
}

PyObject* binary_op(Op op, PyObject* a, PyObject* b, bool compare) {
  Trace& t = Trace::current();
  uint32_t v[2];
  if (!operands(t, a, b, compare, v)) Py_RETURN_NOTIMPLEMENTED;
  return wrap(t, t.elementwise(op, v));
}

template <Op op>
PyObject* binary(PyObject* a, PyObject* b) noexcept {
  return guarded([&] { return binary_op(op, a, b, false); });
}

template <Op op>
PyObject* unary(PyObject* a) noexcept {
  return guarded([&] {
    Trace& t = Trace::current();
    const uint32_t v = t.use(handle_of(a));
    return wrap(t, t.elementwise(op, {&v, 1}));
  });
}

PyObject* positive(PyObject* a) noexcept {
  return guarded([&] { return share(a); });
}

PyObject* divmod(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    Ref q(wrap(t, t.elementwise(Op::floor_divide, v)));
    Ref r(wrap(t, t.elementwise(Op::remainder, v)));
    return PyTuple_Pack(2, q.get(), r.get());
  });
}

// x ** n for a number that is written in the program and has a cheaper form. Structure, unlike other exponents: they are few.
// Returns false if there is none.
bool literal_power(Trace& t, uint32_t x, PyObject* exponent, uint32_t& y) {
  const DType d = t.spec(x).dtype;
  double n;
  if (PyLong_CheckExact(exponent)) {
    int overflow;
    const long i = PyLong_AsLongAndOverflow(exponent, &overflow);
    if (is_int(d) && (i < 0 || overflow < 0))
      throw Error(Error::Value, std::string("[power] integers to negative powers are not integers: ") + name(d) +
                                    str(t.spec(x).shape) + ". Use x.astype(\"float64\") ** n.");
    n = double(i);
  } else if (PyFloat_CheckExact(exponent) && is_float(d)) {
    n = PyFloat_AS_DOUBLE(exponent);
  } else {
    return false;
  }
  if (d == DType::Bool) return false;
  if (n == 2 || n == 3) {
    y = t.append(Op::square, {&x, 1});
    if (n == 3) {
      const uint32_t v[2] = {y, x};
      y = t.append(Op::multiply, v);
    }
    return true;
  }
  if (n == 1) return y = x, true;
  if (n == 0.5) return y = t.append(Op::sqrt, {&x, 1}), true;
  if (n == -1) return y = t.append(Op::reciprocal, {&x, 1}), true;
  return false;
}

bool power_value(Trace& t, PyObject* a, PyObject* b, PyObject* mod, uint32_t& y) {
  if (mod != Py_None) throw Error(Error::Type, "[power] pow with a modulus is not defined for arrays. Use x ** y % m.");
  if (is_array(a) && !is_array(b)) {
    const uint32_t x = t.use(handle_of(a));
    if (literal_power(t, x, b, y)) return true;
  }
  uint32_t v[2];
  if (!operands(t, a, b, false, v)) return false;
  y = t.elementwise(Op::power, v);
  return true;
}

PyObject* power(PyObject* a, PyObject* b, PyObject* mod) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t y;
    if (!power_value(t, a, b, mod, y)) Py_RETURN_NOTIMPLEMENTED;
    return wrap(t, y);
  });
}

// NumPy's conventions for vectors: a vector on the left is a row, on the right a column, and its dimension does not stay.
uint32_t matmul_value(Trace& t, uint32_t a, uint32_t b) {
  const Shape sa = t.spec(a).shape, sb = t.spec(b).shape;
  if (sa.rank == 0 || sb.rank == 0)
    throw Error(Error::Value, "[matmul] a number has no dimension to sum over: " + str(sa) + " @ " + str(sb) + ". Use *.");
  if (sa[sa.rank - 1] != sb[sb.rank == 1 ? 0 : sb.rank - 2])
    throw Error(Error::Value, "[matmul] inner dimensions differ: " + str(sa) + " @ " + str(sb) +
                                  ". The last of the first must equal the last but one of the second: transpose or reshape one of them.");
  if (t.spec(a).dtype != t.spec(b).dtype) {
    const Spec x = t.spec(a), y = t.spec(b);
    const DType d = x.weak && !y.weak ? y.dtype : y.weak && !x.weak ? x.dtype : promote(x.dtype, y.dtype);
    a = t.cast(a, d);
    b = t.cast(b, d);
  }
  if (sa.rank == 1) a = reshape(t, a, Shape{1, sa[0]});
  if (sb.rank == 1) b = reshape(t, b, Shape{sb[0], 1});
  const uint32_t v[2] = {a, b};
  uint32_t y = t.append(Op::matmul, v);
  if (sa.rank == 1 || sb.rank == 1) {
    const Shape full = t.spec(y).shape;
    Shape s(full.dims().first(size_t(full.rank - 2)));
    if (sa.rank > 1) s.push(full[full.rank - 2]);
    if (sb.rank > 1) s.push(full[full.rank - 1]);
    y = reshape(t, y, s);
  }
  return y;
}

PyObject* matmul(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return wrap(t, matmul_value(t, v[0], v[1]));
  });
}

// May a result of type `from` be written into an array of type `to`? NumPy's casting rule "same_kind".
bool same_kind(DType from, DType to) {
  auto kind = [](DType t) { return t == DType::Bool ? 0 : is_unsigned_int(t) ? 1 : is_signed_int(t) ? 2 : is_float(t) ? 3 : 4; };
  return kind(from) <= kind(to);
}

// a += b: this handle gets the new value, of its own dtype; no other handle changes.
PyObject* assign(Trace& t, PyObject* a, uint32_t v, const char* sign) {
  Handle& h = handle_of(a);
  const Spec& s = t.spec(v);
  if (!(s.shape == h.spec.shape))
    throw Error(Error::Value, std::string("[") + sign + "] the result has shape " + str(s.shape) + ", which does not fit " +
                                  str(h.spec.shape) + ". Use a = a " + std::string(sign, std::strlen(sign) - 1) + " b.");
  if (s.dtype != h.spec.dtype && !h.spec.weak) {
    if (!same_kind(s.dtype, h.spec.dtype))
      throw Error(Error::Type, std::string("[") + sign + "] the result is " + name(s.dtype) + ", which does not fit " +
                                   name(h.spec.dtype) + str(h.spec.shape) + ". Use a = a " + std::string(sign, std::strlen(sign) - 1) +
                                   " b, or a.astype(\"" + name(s.dtype) + "\") before.");
    v = t.cast(v, h.spec.dtype);
  }
  t.give(v, h);
  return Py_NewRef(a);
}

constexpr const char* sign_of(Op op) {
  switch (op) {
    case Op::add: return "+=";
    case Op::subtract: return "-=";
    case Op::multiply: return "*=";
    case Op::divide: return "/=";
    case Op::floor_divide: return "//=";
    case Op::remainder: return "%=";
    case Op::left_shift: return "<<=";
    case Op::right_shift: return ">>=";
    case Op::bitwise_and: return "&=";
    case Op::bitwise_or: return "|=";
    default: return "^=";
  }
}

template <Op op>
PyObject* in_place(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, t.elementwise(op, v), sign_of(op));
  });
}

PyObject* in_place_power(PyObject* a, PyObject* b, PyObject* mod) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t y;
    if (!power_value(t, a, b, mod, y)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, y, "**=");
  });
}

PyObject* in_place_matmul(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, matmul_value(t, v[0], v[1]), "@=");
  });
}

PyObject* compare(PyObject* a, PyObject* b, int how) noexcept {
  static constexpr Op ops[] = {Op::less, Op::less_equal, Op::equal, Op::not_equal, Op::greater, Op::greater_equal};
  return guarded([&]() -> PyObject* {
    if ((how == Py_EQ || how == Py_NE) && operand_kind(b) == Operand::List) {
      // A ragged or foreign list is merely different.
      try {
        return binary_op(ops[how], a, b, true);
      } catch (...) {
        PyErr_Clear();
        Py_RETURN_NOTIMPLEMENTED;
      }
    }
    return binary_op(ops[how], a, b, true);
  });
}

Py_hash_t identity_hash(PyObject* self) { return Py_hash_t(reinterpret_cast<uintptr_t>(self) >> 4); }

// ------------------------------------------------------------------------------------------------- reading a number

const Handle& one_element(PyObject* x, const char* op) {
  Handle& h = handle_of(x);
  if (h.spec.shape.size() != 1)
    throw Error(op[0] == 'i' && op[2] == 'e' ? Error::Value : Error::Type,
                std::string("[") + op + "] an array of shape " + str(h.spec.shape) +
                    " is not one number. Use x.tolist(), or choose an element: x[0].");
  realize(x);
  return h;
}

int truth(PyObject* x) noexcept {
  return guarded([&]() -> int {
    Handle& h = handle_of(x);
    if (h.spec.shape.size() != 1)
      throw Error(Error::Value, "[bool] an array of shape " + str(h.spec.shape) +
                                    " is neither true nor false. Use x.any() or x.all(); for Python's max, min, and, or, not use "
                                    "knet.maximum, knet.minimum, &, |, ~; for a choice by elements knet.where.");
    realize(x);
    Ref number(element(h, 0));
    return PyObject_IsTrue(number);
  });
}

PyObject* to_float_object(PyObject* x) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "float");
    Ref n(element(one_element(x, "float"), 0));
    return PyNumber_Float(n);
  });
}

PyObject* to_int_object(PyObject* x) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "int");
    Ref n(element(one_element(x, "int"), 0));
    return PyNumber_Long(n);
  });
}

PyObject* to_index_object(PyObject* x) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "int");
    const Spec& s = handle_of(x).spec;
    if (s.shape.rank || !is_int(s.dtype))
      throw Error(Error::Type, std::string("[index] only an integer array of shape () is an index, not ") + name(s.dtype) + str(s.shape) +
                                   ". Use int(x).");
    return element(one_element(x, "int"), 0);
  });
}

PyObject* item(PyObject* x, PyObject* const* args, Py_ssize_t n) noexcept {
  return guarded([&] {
    if (n == 0) return element(one_element(x, "item"), 0);
    Ref key = n == 1 ? Ref::borrow(args[0]) : Ref(PyTuple_New(n));
    if (n > 1)
      for (Py_ssize_t i = 0; i < n; ++i) PyTuple_SET_ITEM(key.get(), i, Py_NewRef(args[i]));
    Ref part(get_index(x, key));
    return element(one_element(part, "item"), 0);
  });
}

// ------------------------------------------------------------------------------------------------------- a sequence

Py_ssize_t length(PyObject* x) noexcept {
  return guarded([&]() -> Py_ssize_t {
    const Shape& s = handle_of(x).spec.shape;
    if (!s.rank) throw Error(Error::Type, "[len] an array of shape () has no length. Use x.size.");
    return Py_ssize_t(s[0]);
  });
}

PyObject* row(PyObject* x, Py_ssize_t i) noexcept {
  return guarded([&] { return get_row(x, i); });
}

PyObject* iterate(PyObject* x) noexcept {
  return guarded([&] {
    if (!handle_of(x).spec.shape.rank)
      throw Error(Error::Type, "[iter] an array of shape () has no elements to iterate over. Use x.item().");
    return PySeqIter_New(x);
  });
}

int contains(PyObject* x, PyObject* v) noexcept {
  return guarded([&]() -> int {
    Ref same(binary_op(Op::equal, x, v, true));
    if (same.get() == Py_NotImplemented) return 0;
    Trace& t = Trace::current();
    const uint32_t u = t.use(handle_of(same));
    const int rank = t.spec(u).shape.rank;
    int64_t attrs[2 + kMaxRank] = {rank};
    for (int i = 0; i < rank; ++i) attrs[1 + i] = i;
    attrs[1 + rank] = 0;
    Ref any(wrap(t, t.append(Op::any, {&u, 1}, {attrs, size_t(2 + rank)})));
    return truth(any);
  });
}

PyObject* subscript(PyObject* x, PyObject* key) noexcept {
  return guarded([&] { return get_index(x, key); });
}

int assign_subscript(PyObject* x, PyObject* key, PyObject* v) noexcept {
  return guarded([&]() -> int {
    if (!v) throw Error(Error::Type, "[del] elements of an array cannot be deleted. Use knet.concatenate of what stays.");
    return set_index(x, key, v);
  });
}

// ------------------------------------------------------------------------------------------------------ attributes

PyObject* get_shape(PyObject* x, void*) {
  const Shape& s = handle_of(x).spec.shape;
  PyObject* tuple = PyTuple_New(s.rank);
  for (int i = 0; tuple && i < s.rank; ++i) {
    PyObject* d = PyLong_FromLongLong(s[i]);
    if (!d) {
      Py_DECREF(tuple);
      return nullptr;
    }
    PyTuple_SET_ITEM(tuple, i, d);
  }
  return tuple;
}
PyObject* get_dtype(PyObject* x, void*) { return Py_NewRef(dtype_object(handle_of(x).spec.dtype)); }
PyObject* get_ndim(PyObject* x, void*) { return PyLong_FromLong(handle_of(x).spec.shape.rank); }
PyObject* get_size(PyObject* x, void*) { return PyLong_FromLongLong(handle_of(x).spec.shape.size()); }
PyObject* get_itemsize(PyObject* x, void*) { return PyLong_FromSize_t(itemsize(handle_of(x).spec.dtype)); }
PyObject* get_nbytes(PyObject* x, void*) { return PyLong_FromLongLong(handle_of(x).spec.bytes()); }
PyObject* get_device(PyObject* x, void*) { return PyUnicode_InternFromString(str(handle_of(x).spec.device).c_str()); }
PyObject* get_weak(PyObject* x, void*) { return PyBool_FromLong(handle_of(x).spec.weak); }
PyObject* get_tracked(PyObject* x, void*) { return PyBool_FromLong(handle_of(x).tracked); }
PyObject* get_concrete(PyObject* x, void*) { return PyBool_FromLong(handle_of(x).concrete()); }
PyObject* get_priority(PyObject*, void*) { return PyFloat_FromDouble(1000); }

PyObject* transposed(PyObject* x, std::span<const int64_t> axes) {
  Trace& t = Trace::current();
  const uint32_t v = t.use(handle_of(x));
  int64_t attrs[1 + kMaxRank] = {int64_t(axes.size())};
  std::copy(axes.begin(), axes.end(), attrs + 1);
  return wrap(t, t.append(Op::transpose, {&v, 1}, {attrs, 1 + axes.size()}));
}

PyObject* get_T(PyObject* x, void*) noexcept {
  return guarded([&] {
    const int rank = handle_of(x).spec.shape.rank;
    if (rank < 2) return share(x);
    int64_t axes[kMaxRank];
    for (int i = 0; i < rank; ++i) axes[i] = rank - 1 - i;
    return transposed(x, {axes, size_t(rank)});
  });
}

PyObject* get_mT(PyObject* x, void*) noexcept {
  return guarded([&] {
    const int rank = handle_of(x).spec.shape.rank;
    if (rank < 2)
      throw Error(Error::Value, "[mT] a transposed matrix needs two dimensions: " + str(handle_of(x).spec.shape) + ". Use reshape.");
    int64_t axes[kMaxRank];
    for (int i = 0; i < rank; ++i) axes[i] = i;
    std::swap(axes[rank - 1], axes[rank - 2]);
    return transposed(x, {axes, size_t(rank)});
  });
}

PyGetSetDef getset[] = {
    {"shape", get_shape, nullptr, "Extents of the dimensions, a tuple.", nullptr},
    {"dtype", get_dtype, nullptr, "Type of the elements; equal to its name (\"float32\") and to NumPy's dtype.", nullptr},
    {"ndim", get_ndim, nullptr, "Number of dimensions.", nullptr},
    {"size", get_size, nullptr, "Number of elements.", nullptr},
    {"itemsize", get_itemsize, nullptr, "Bytes of one element.", nullptr},
    {"nbytes", get_nbytes, nullptr, "Bytes of all elements.", nullptr},
    {"device", get_device, nullptr, "Where the elements lie: \"cpu\" or \"cuda:0\".", nullptr},
    {"T", get_T, nullptr, "Dimensions in reverse order.", nullptr},
    {"mT", get_mT, nullptr, "The last two dimensions swapped.", nullptr},
    {"_weak", get_weak, nullptr, "Made of Python numbers only: takes the dtype of what it meets.", nullptr},
    {"_tracked", get_tracked, nullptr, "Depends on a parameter of an open call of grad.", nullptr},
    {"_concrete", get_concrete, nullptr, "Has been computed.", nullptr},
    {"__array_priority__", get_priority, nullptr, nullptr, nullptr},
    {}};

// --------------------------------------------------------------------------------------------------------- methods

// The axes or extents of x.reshape(2, 3) and x.reshape((2, 3)).
Shape arguments(PyObject* const* args, Py_ssize_t n) {
  if (n == 1) return to_shape(args[0], true);
  Shape s;
  for (Py_ssize_t i = 0; i < n; ++i) s.push(to_int(args[i]));
  return s;
}

PyObject* method_reshape(PyObject* x, PyObject* const* args, Py_ssize_t n) noexcept {
  return guarded([&] {
    if (n == 0) throw Error(Error::Type, "[reshape] there is no shape. Use x.reshape(2, -1).");
    const Shape s = arguments(args, n);
    Trace& t = Trace::current();
    return wrap(t, reshape(t, t.use(handle_of(x)), s));
  });
}

PyObject* method_flatten(PyObject* x, PyObject*) noexcept {
  return guarded([&] {
    Trace& t = Trace::current();
    return wrap(t, reshape(t, t.use(handle_of(x)), Shape{handle_of(x).spec.shape.size()}));
  });
}

PyObject* method_transpose(PyObject* x, PyObject* const* args, Py_ssize_t n) noexcept {
  return guarded([&]() -> PyObject* {
    if (n == 0 || (n == 1 && args[0] == Py_None)) return get_T(x, nullptr);
    const Shape& s = handle_of(x).spec.shape;
    std::vector<int64_t> axes;
    Ref given = n == 1 && (PyTuple_Check(args[0]) || PyList_Check(args[0])) ? Ref(PySequence_Tuple(args[0])) : Ref();
    const Py_ssize_t count = given ? PyTuple_GET_SIZE(given.get()) : n;
    for (Py_ssize_t i = 0; i < count; ++i) {
      const int64_t a = to_int(given ? PyTuple_GET_ITEM(given.get(), i) : args[i]);
      axes.push_back(a < 0 ? a + s.rank : a);
    }
    if (axes.size() != size_t(s.rank))
      throw Error(Error::Value, "[transpose] " + std::to_string(axes.size()) + " axes for an array of shape " + str(s) +
                                    ". Name each axis once.");
    return transposed(x, axes);
  });
}

PyObject* method_astype(PyObject* x, PyObject* args, PyObject* kw) noexcept {
  return guarded([&] {
    static const char* names[] = {"dtype", "copy", nullptr};
    PyObject *d, *copy = nullptr;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|O:astype", const_cast<char**>(names), &d, &copy)) throw PyError{};
    const DType to = parse_dtype(d);
    check_supported(to, "astype");
    if (handle_of(x).spec.dtype == to && !handle_of(x).spec.weak) return share(x);
    Trace& t = Trace::current();
    const uint32_t v = t.use(handle_of(x));
    const int64_t attr = int64_t(to);
    return wrap(t, t.append(Op::cast, {&v, 1}, {&attr, 1}));
  });
}

PyObject* method_copy(PyObject* x, PyObject*) noexcept {
  return guarded([&] { return share(x); });
}

PyObject* method_to_device(PyObject* x, PyObject* device) noexcept {
  return guarded([&] {
    const DeviceId to = parse_device(device);
    if (!(to == handle_of(x).spec.device))
      throw Error(Error::Runtime, "[to_device] there is no device \"" + str(to) + "\" in this build. Use \"cpu\".");
    return share(x);
  });
}

PyObject* module_attribute(const char* module, const char* name) {
  Ref m(PyImport_ImportModule(module));
  return PyObject_GetAttrString(m, name);
}

// Methods that are functions as well: x.sum(axis=0) is knet.sum(x, axis=0).
constexpr const char* kForwarded[] = {"sum",     "mean",    "prod",     "max",     "min",      "argmax", "argmin", "any",  "all",
                                      "var",     "std",     "cumsum",   "cumprod", "squeeze",  "swapaxes", "dot",  "clip", "sort",
                                      "argsort", "repeat",  "take",     "round",   "diagonal", "norm"};
constexpr size_t kForwards = std::size(kForwarded);

PyObject* call_with_self(PyObject* f, PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) {
  const size_t all = size_t(n) + (names ? size_t(PyTuple_GET_SIZE(names)) : 0);
  PyObject* few[16];
  std::vector<PyObject*> many;
  PyObject** stack = few;
  if (all + 2 > std::size(few)) {
    many.resize(all + 2);
    stack = many.data();
  }
  stack[1] = self;
  std::copy(args, args + all, stack + 2);
  return PyObject_Vectorcall(f, stack + 1, size_t(n + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
}

template <size_t I>
PyObject* forward(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) noexcept {
  return guarded([&]() -> PyObject* {
    static PyObject* function = nullptr;
    if (!function && !(function = module_attribute("knet", kForwarded[I]))) return nullptr;
    return call_with_self(function, self, args, n, names);
  });
}

template <size_t... I>
std::array<PyMethodDef, sizeof...(I)> forwards(std::index_sequence<I...>) {
  static std::string docs[] = {"The function knet." + std::string(kForwarded[I]) + " of this array."...};
  return {PyMethodDef{kForwarded[I], reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(forward<I>)),
                      METH_FASTCALL | METH_KEYWORDS, docs[I].c_str()}...};
}

// What is written in Python: `knet.<module>.<function>(self, ...)`, imported at the first call.
template <const char* const* where>
PyObject* python_method(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names) noexcept {
  return guarded([&]() -> PyObject* {
    static PyObject* function = nullptr;
    if (!function && !(function = module_attribute(where[0], where[1]))) return nullptr;
    return call_with_self(function, self, args, n, names);
  });
}
constexpr const char* kUfunc[] = {"knet.interop", "array_ufunc"};
constexpr const char* kFunction[] = {"knet.interop", "array_function"};
constexpr const char* kFormat[] = {"knet.printing", "format_array"};
constexpr const char* kRound[] = {"knet", "round"};

PyObject* repr(PyObject* self) noexcept {
  return guarded([&]() -> PyObject* {
    static PyObject* function = nullptr;
    if (!function && !(function = module_attribute("knet.printing", "repr_array"))) return nullptr;
    return PyObject_CallOneArg(function, self);
  });
}

PyObject* to_str(PyObject* self) noexcept {
  return guarded([&]() -> PyObject* {
    static PyObject* function = nullptr;
    if (!function && !(function = module_attribute("knet.printing", "str_array"))) return nullptr;
    return PyObject_CallOneArg(function, self);
  });
}

PyObject* method_namespace(PyObject*, PyObject*, PyObject*) { return PyImport_ImportModule("knet"); }

template <class F>
constexpr PyCFunction method(F* f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(f));
}

PyMethodDef own_methods[] = {
    {"item", method(item), METH_FASTCALL, "The only element, or the one at the given index, as a Python number."},
    {"reshape", method(method_reshape), METH_FASTCALL, "The same elements in another shape; one extent may be -1."},
    {"flatten", method_flatten, METH_NOARGS, "The elements in one dimension."},
    {"ravel", method_flatten, METH_NOARGS, "The elements in one dimension."},
    {"transpose", method(method_transpose), METH_FASTCALL, "Dimensions in the order of the given axes, or reversed."},
    {"astype", method(method_astype), METH_VARARGS | METH_KEYWORDS, "The elements as another type."},
    {"copy", method_copy, METH_NOARGS, "Another array of the same value, which is never changed through this one."},
    {"__copy__", method_copy, METH_NOARGS, nullptr},
    {"__deepcopy__", method_copy, METH_O, nullptr},
    {"to_device", method_to_device, METH_O, "The same value on a device: \"cpu\"."},
    {"__array_ufunc__", method(python_method<kUfunc>), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"__array_function__", method(python_method<kFunction>), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"__array_namespace__", method(method_namespace), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"__format__", method(python_method<kFormat>), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"__round__", method(python_method<kRound>), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {}};

PyMemberDef members[] = {{"__weaklistoffset__", T_PYSSIZET, offsetof(ArrayObject, weakrefs), READONLY, nullptr}, {}};

PyObject* new_from(PyTypeObject*, PyObject* args, PyObject* kw) noexcept {
  return guarded([&] {
    static const char* names[] = {"object", "dtype", "device", nullptr};
    PyObject *o, *dtype = Py_None, *device = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|OO:KnetArray", const_cast<char**>(names), &o, &dtype, &device)) throw PyError{};
    return array_from(o, dtype, device);
  });
}

template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}

}  // namespace

void init_array(PyObject* module) {
  static std::vector<PyMethodDef> methods;
  for (const PyMethodDef& m : forwards(std::make_index_sequence<kForwards>{})) methods.push_back(m);
  for (const PyMethodDef* m = own_methods; m->ml_name; ++m) methods.push_back(*m);
  for (const PyMethodDef* m = kConvertMethods; m->ml_name; ++m) methods.push_back(*m);
  methods.push_back({});

  std::vector<PyType_Slot> slots = {
      slot(Py_tp_dealloc, dealloc),
      slot(Py_tp_new, new_from),
      slot(Py_tp_repr, repr),
      slot(Py_tp_str, to_str),
      slot(Py_tp_hash, identity_hash),
      slot(Py_tp_richcompare, compare),
      slot(Py_tp_iter, iterate),
      {Py_tp_getset, getset},
      {Py_tp_members, members},
      {Py_tp_methods, methods.data()},
      {Py_tp_doc, const_cast<char*>("KnetArray(object, dtype=None, device=None)\n--\n\nAn array: an immutable value with a shape, a "
                                    "dtype and a device. `a += b` and `a[i] = v` give this array a new value; no other "
                                    "array ever changes.")},
      slot(Py_mp_length, length),
      slot(Py_mp_subscript, subscript),
      slot(Py_mp_ass_subscript, assign_subscript),
      slot(Py_sq_length, length),
      slot(Py_sq_item, row),
      slot(Py_sq_contains, contains),
      slot(Py_nb_add, binary<Op::add>),
      slot(Py_nb_subtract, binary<Op::subtract>),
      slot(Py_nb_multiply, binary<Op::multiply>),
      slot(Py_nb_true_divide, binary<Op::divide>),
      slot(Py_nb_floor_divide, binary<Op::floor_divide>),
      slot(Py_nb_remainder, binary<Op::remainder>),
      slot(Py_nb_divmod, divmod),
      slot(Py_nb_power, power),
      slot(Py_nb_matrix_multiply, matmul),
      slot(Py_nb_lshift, binary<Op::left_shift>),
      slot(Py_nb_rshift, binary<Op::right_shift>),
      slot(Py_nb_and, binary<Op::bitwise_and>),
      slot(Py_nb_or, binary<Op::bitwise_or>),
      slot(Py_nb_xor, binary<Op::bitwise_xor>),
      slot(Py_nb_inplace_add, in_place<Op::add>),
      slot(Py_nb_inplace_subtract, in_place<Op::subtract>),
      slot(Py_nb_inplace_multiply, in_place<Op::multiply>),
      slot(Py_nb_inplace_true_divide, in_place<Op::divide>),
      slot(Py_nb_inplace_floor_divide, in_place<Op::floor_divide>),
      slot(Py_nb_inplace_remainder, in_place<Op::remainder>),
      slot(Py_nb_inplace_power, in_place_power),
      slot(Py_nb_inplace_matrix_multiply, in_place_matmul),
      slot(Py_nb_inplace_lshift, in_place<Op::left_shift>),
      slot(Py_nb_inplace_rshift, in_place<Op::right_shift>),
      slot(Py_nb_inplace_and, in_place<Op::bitwise_and>),
      slot(Py_nb_inplace_or, in_place<Op::bitwise_or>),
      slot(Py_nb_inplace_xor, in_place<Op::bitwise_xor>),
      slot(Py_nb_negative, unary<Op::negative>),
      slot(Py_nb_positive, positive),
      slot(Py_nb_absolute, unary<Op::absolute>),
      slot(Py_nb_invert, unary<Op::invert>),
      slot(Py_nb_bool, truth),
      slot(Py_nb_float, to_float_object),
      slot(Py_nb_int, to_int_object),
      slot(Py_nb_index, to_index_object),
  };
  for (const PyType_Slot* s = kBufferSlots; s->slot; ++s) slots.push_back(*s);
  slots.push_back({});
  PyType_Spec spec = {"knet.KnetArray", sizeof(ArrayObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots.data()};
  Ref type(PyType_FromSpec(&spec));
  ArrayType = reinterpret_cast<PyTypeObject*>(type.get());
  if (PyModule_AddObjectRef(module, "KnetArray", type) < 0 || PyModule_AddFunctions(module, kConvertFunctions) < 0) throw PyError{};
  type.release();
}

}  // namespace knet
