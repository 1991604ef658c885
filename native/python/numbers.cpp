// One element as a Python number: bool(x), float(x), int(x), x as an index, x.item().
#include "python/array.h"

namespace knet {

namespace {

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

template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}

}  // namespace

PyMethodDef kNumberMethods[] = {
    {"item", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(item)), METH_FASTCALL,
     "The only element, or the one at the given index, as a Python number."},
    {}};

PyType_Slot kNumberSlots[] = {slot(Py_nb_bool, truth), slot(Py_nb_float, to_float_object),
                              slot(Py_nb_int, to_int_object), slot(Py_nb_index, to_index_object), {}};

}  // namespace knet
