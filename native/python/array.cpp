// KnetArray, the native type: its objects, how errors cross to Python, and what the rest of the binding shares. Its
// slots record operations: operators.cpp, index.cpp, methods.cpp. The ways in and out of Python are in operand.h,
// numbers.cpp, convert.cpp and dlpack.cpp.
#include "python/array.h"

#include <structmember.h>

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
  if (!h.ready()) Trace::current().realize(h);
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
    return PyObject_IsTrue(any);
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
  static std::vector<PyMethodDef> methods = all_methods();
  std::vector<PyType_Slot> slots = {
      slot(Py_tp_dealloc, dealloc),
      slot(Py_tp_new, new_from),
      slot(Py_tp_repr, repr),
      slot(Py_tp_str, to_str),
      slot(Py_tp_hash, identity_hash),
      slot(Py_tp_iter, iterate),
      {Py_tp_getset, kAttributes},
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
  };
  for (const PyType_Slot* table : {kNumberSlots, kOperatorSlots, kBufferSlots})
    for (const PyType_Slot* s = table; s->slot; ++s) slots.push_back(*s);
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
