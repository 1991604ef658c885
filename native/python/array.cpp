// KnetArray, the native type: its slots record operations. Indexing is in index.cpp, the ways in and out of Python in
// operand.h, convert.cpp and dlpack.cpp; methods that are functions as well (x.sum() is knet.sum(x)) come from one
// table.
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
  throw Error(Error::Type,
              std::string("[") + op +
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

namespace {

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
      throw Error(Error::Value,
                  "[bool] an array of shape " + str(h.spec.shape) +
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
      throw Error(Error::Type, std::string("[index] only an integer array of shape () is an index, not ") +
                                   name(s.dtype) + str(s.shape) + ". Use int(x).");
    return element(one_element(x, "int"), 0);
  });
}

// The index of element `i` of the flattened array.
Ref flat_index(const Shape& shape, PyObject* i) {
  Py_ssize_t at = PyNumber_AsSsize_t(i, PyExc_IndexError);
  if (at == -1 && PyErr_Occurred()) throw PyError{};
  Py_ssize_t size = 1;
  for (int64_t n : shape) size *= Py_ssize_t(n);
  if (at < -size || at >= size)
    throw Error(Error::Index, "[item] element " + std::to_string(at) + " is out of range for " + str(shape) +
                                  ", which has " + std::to_string(size) + ". Use x[i] for a row.");
  if (at < 0) at += size;
  Ref key(PyTuple_New(shape.rank));
  for (int axis = shape.rank - 1; axis >= 0; --axis) {
    PyObject* k = PyLong_FromSsize_t(at % Py_ssize_t(shape[axis]));
    if (!k) throw PyError{};
    PyTuple_SET_ITEM(key.get(), axis, k);
    at /= Py_ssize_t(shape[axis]);
  }
  return key;
}

PyObject* item(PyObject* x, PyObject* const* args, Py_ssize_t n) noexcept {
  return guarded([&] {
    if (n == 0) return element(one_element(x, "item"), 0);
    const Shape& shape = handle_of(x).spec.shape;
    if (n == 1 && shape.rank != 1 && PyIndex_Check(args[0]) && !is_array(args[0])) {
      Ref part(get_index(x, flat_index(shape, args[0])));
      return element(one_element(part, "item"), 0);
    }
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
    Ref same(equal(x, v));
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
    if (!v)
      throw Error(Error::Type, "[del] elements of an array cannot be deleted. Use knet.concatenate of what stays.");
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
      throw Error(Error::Value,
                  "[mT] a transposed matrix needs two dimensions: " + str(handle_of(x).spec.shape) + ". Use reshape.");
    int64_t axes[kMaxRank];
    for (int i = 0; i < rank; ++i) axes[i] = i;
    std::swap(axes[rank - 1], axes[rank - 2]);
    return transposed(x, {axes, size_t(rank)});
  });
}

PyGetSetDef getset[] = {
    {"shape", get_shape, nullptr, "Extents of the dimensions, a tuple.", nullptr},
    {"dtype", get_dtype, nullptr, "Type of the elements; equal to its name (\"float32\") and to NumPy's dtype.",
     nullptr},
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
constexpr const char* kForwarded[] = {"sum",  "mean", "prod",    "max",    "min",     "argmax",  "argmin",   "any",
                                      "all",  "var",  "std",     "cumsum", "cumprod", "squeeze", "swapaxes", "dot",
                                      "clip", "sort", "argsort", "repeat", "take",    "round",   "diagonal", "norm",
                                      "trace", "nonzero"};
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
  static std::string docs[] = {"The function knet." + std::string(kForwarded[I]) + " of this array." ...};
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
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|OO:KnetArray", const_cast<char**>(names), &o, &dtype, &device))
      throw PyError{};
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
      slot(Py_tp_iter, iterate),
      {Py_tp_getset, getset},
      {Py_tp_members, members},
      {Py_tp_methods, methods.data()},
      {Py_tp_doc, const_cast<char*>(
                      "KnetArray(object, dtype=None, device=None)\n--\n\nAn array: an immutable value with a shape, a "
                      "dtype and a device. `a += b` and `a[i] = v` give this array a new value; no other "
                      "array ever changes.")},
      slot(Py_mp_length, length),
      slot(Py_mp_subscript, subscript),
      slot(Py_mp_ass_subscript, assign_subscript),
      slot(Py_sq_length, length),
      slot(Py_sq_item, row),
      slot(Py_sq_contains, contains),
      slot(Py_nb_bool, truth),
      slot(Py_nb_float, to_float_object),
      slot(Py_nb_int, to_int_object),
      slot(Py_nb_index, to_index_object),
  };
  for (const PyType_Slot* s = kOperatorSlots; s->slot; ++s) slots.push_back(*s);
  for (const PyType_Slot* s = kBufferSlots; s->slot; ++s) slots.push_back(*s);
  slots.push_back({});
  PyType_Spec spec = {"knet.KnetArray", sizeof(ArrayObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                      slots.data()};
  Ref type(PyType_FromSpec(&spec));
  ArrayType = reinterpret_cast<PyTypeObject*>(type.get());
  if (PyModule_AddObjectRef(module, "KnetArray", type) < 0 || PyModule_AddFunctions(module, kConvertFunctions) < 0)
    throw PyError{};
  type.release();
}

}  // namespace knet
