// Attributes and methods of KnetArray. Those that are functions as well (x.sum() is knet.sum(x)) come from one table.
#include <array>
#include <vector>

#include "python/array.h"

namespace knet {

namespace {

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

PyObject* method_namespace(PyObject*, PyObject*, PyObject*) { return PyImport_ImportModule("knet"); }

template <class F>
constexpr PyCFunction method(F* f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(f));
}

PyMethodDef methods[] = {
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

}  // namespace

PyObject* module_attribute(const char* module, const char* name) {
  Ref m(PyImport_ImportModule(module));
  return PyObject_GetAttrString(m, name);
}

PyGetSetDef kAttributes[] = {
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

std::vector<PyMethodDef> all_methods() {
  std::vector<PyMethodDef> all;
  for (const PyMethodDef& m : forwards(std::make_index_sequence<kForwards>{})) all.push_back(m);
  for (const PyMethodDef* table : {methods, kNumberMethods, kConvertMethods})
    for (const PyMethodDef* m = table; m->ml_name; ++m) all.push_back(*m);
  all.push_back({});
  return all;
}

}  // namespace knet
