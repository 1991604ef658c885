// Differentiated calls: what grad.py asks of the engine in every step. Plain functions of CPython, since a step of a
// small model makes four of these calls in as many microseconds.
#include <algorithm>
#include <vector>

#include "device.h"
#include "python/array.h"

namespace knet {

namespace {

bool is_float_list(PyObject* o) {
  if (!PyList_CheckExact(o)) return false;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(o); ++i) {
    PyObject* x = PyList_GET_ITEM(o, i);
    if (!is_array(x) || !is_float(handle_of(x).spec.dtype)) return false;
  }
  return true;
}

PyObject* new_parameter(Trace& t, PyObject* x) { return wrap(t, t.parameter(value_of(t, x))); }

PyObject* new_parameters(Trace& t, PyObject* list) {
  const Py_ssize_t n = PyList_GET_SIZE(list);
  Ref parameters(PyList_New(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    // Counted again: to use an array may wait for another thread, which may change the list.
    if (i >= PyList_GET_SIZE(list)) throw Error(Error::Runtime, "[grad] the list of parameters changed while it was read.");
    Ref x = Ref::borrow(PyList_GET_ITEM(list, i));
    PyList_SET_ITEM(parameters.get(), i, new_parameter(t, x));
  }
  return parameters.release();
}

PyObject* enter(PyObject*, PyObject* target) noexcept {
  return guarded([&] {
    Trace& t = Trace::current();
    const bool usual = is_float_list(target);
    t.enter();
    cpu_device().expect(0, 0);  // in a training loop the next step begins here
    try {
      return usual ? new_parameters(t, target) : Py_NewRef(Py_None);
    } catch (...) {
      t.leave();
      throw;
    }
  });
}

// The trace of this thread, in which a call is open.
Trace& entered() {
  Trace& t = Trace::current();
  if (t.depth() == 0) throw Error(Error::Runtime, "[grad] no differentiated call is open.");
  return t;
}

PyObject* parameter(PyObject*, PyObject* x) noexcept {
  return guarded([&] { return new_parameter(entered(), x); });
}

PyObject* call_with(PyObject*, PyObject* const* given, Py_ssize_t n_given) noexcept {
  return guarded([&] {
    if (n_given != 5 || !PyTuple_Check(given[1]) || !PyDict_Check(given[2]) ||
        (PyTuple_Check(given[3]) && !PyList_Check(given[4])))
      throw Error(Error::Type, "[call_with] takes (f, args, kwargs, wrt, inner).");
    PyObject *f = given[0], *args = given[1], *kwargs = given[2], *wrt = given[3], *inner = given[4];
    const Py_ssize_t n = PyTuple_GET_SIZE(args);
    PyObject* few[16];
    std::vector<PyObject*> many;
    PyObject** stack = few;
    if (size_t(n) >= std::size(few)) {
      many.resize(size_t(n) + 1);
      stack = many.data();
    }
    PyObject** to = stack + 1;  // the place before is for the callee (PY_VECTORCALL_ARGUMENTS_OFFSET)
    for (Py_ssize_t i = 0; i < n; ++i) to[i] = PyTuple_GET_ITEM(args, i);
    const auto place = [&](PyObject* position) -> PyObject*& {
      const int64_t i = to_int(position), at = i < 0 ? i + n : i;
      if (at < 0 || at >= n) throw Error(Error::Index, "[call_with] there is no argument " + std::to_string(i) + ".");
      return to[at];
    };
    if (PyTuple_Check(wrt))
      for (Py_ssize_t i = 0; i < std::min(PyTuple_GET_SIZE(wrt), PyList_GET_SIZE(inner)); ++i)
        place(PyTuple_GET_ITEM(wrt, i)) = PyList_GET_ITEM(inner, i);
    else
      place(wrt) = inner;
    return PyObject_VectorcallDict(f, to, size_t(n) | PY_VECTORCALL_ARGUMENTS_OFFSET, kwargs);
  });
}

PyObject* gradient(PyObject*, PyObject* loss) noexcept {
  return guarded([&] {
    if (!is_array(loss) || handle_of(loss).spec.shape.rank || !is_float(handle_of(loss).spec.dtype))
      return Py_NewRef(Py_None);
    Trace& t = entered();
    const uint32_t first = t.gradient(t.use(handle_of(loss)));
    const size_t n = t.parameters();
    Ref gradients(PyList_New(Py_ssize_t(n)));
    for (size_t i = 0; i < n; ++i) PyList_SET_ITEM(gradients.get(), Py_ssize_t(i), wrap(t, first + uint32_t(i)));
    return gradients.release();
  });
}

PyObject* leave(PyObject*, PyObject*) noexcept {
  return guarded([&] {
    Trace& t = entered();
    t.leave();
    if (t.depth() == 0) t.run();
    return PyLong_FromLong(t.depth());
  });
}

PyObject* depth(PyObject*, PyObject*) noexcept { return PyLong_FromLong(Trace::current().depth()); }

PyObject* stop(PyObject*, PyObject* x) noexcept {
  return guarded([&] {
    Trace& t = Trace::current();
    const uint32_t v = value_of(t, x);
    return wrap(t, t.append(Op::stop, {&v, 1}));
  });
}

PyObject* tracked(PyObject*, PyObject* x) noexcept { return PyBool_FromLong(is_array(x) && handle_of(x).tracked); }

}  // namespace

PyMethodDef kGradientFunctions[] = {
    {"enter", enter, METH_O,
     "Begin a differentiated call; of a list of float arrays, give the parameters that stand for them, else None."},
    {"parameter", parameter, METH_O, "An array or a number as one more parameter of the innermost call."},
    {"call_with", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call_with)), METH_FASTCALL,
     "call_with(f, args, kwargs, wrt, inner)\n--\n\n"
     "f(*args, **kwargs), with `inner` for the argument at position `wrt`, or each of `inner` for each of a tuple."},
    {"gradient", gradient, METH_O,
     "The gradients of a loss, one for each parameter of the innermost call; None if it is no float array of shape ()."},
    {"leave", leave, METH_NOARGS,
     "End the innermost call, and say how many are still open; the outermost computes what is pending."},
    {"depth", depth, METH_NOARGS, "How many differentiated calls are open."},
    {"stop", stop, METH_O, "The value of an array, through which no gradient flows."},
    {"tracked", tracked, METH_O, "Does it depend on a parameter of an open call?"},
    {}};

}  // namespace knet
