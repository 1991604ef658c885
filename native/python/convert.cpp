// The ways out of a KnetArray: numbers and lists, the buffer protocol, NumPy, pickling. Views that go out are
// read-only, cost no copy, and pin the memory: the engine writes into a buffer only when nobody else can see it.
#include "python/array.h"

#include <vector>

namespace knet {

PyObject* element(const Handle& h, int64_t at) {
  const DType t = h.spec.dtype;
  const Scalar s = load(t, h.at.data() + size_t(at) * itemsize(t));
  PyObject* o = is_float(t)          ? PyFloat_FromDouble(s.f)
                : t == DType::Bool   ? PyBool_FromLong(s.i != 0)
                : is_unsigned_int(t) ? PyLong_FromUnsignedLongLong(s.u)
                                     : PyLong_FromLongLong(s.i);
  if (!o) throw PyError{};
  return o;
}

namespace {

// ---- the buffer protocol

const char* format(DType t) {
  static constexpr const char* formats[] = {"?", "b", "h", "i", "q", "B",  "H", "I",
                                            "Q", "e", "H", "f", "d", "Zf", "Zd"};
  return formats[int(t)];
}

// A view that is out: it holds the memory, and the words that Py_buffer points to.
struct Export {
  BufferRef memory;
  Py_ssize_t shape[kMaxRank], strides[kMaxRank];
};

int fill_view(PyObject* self, Py_buffer* view, int flags) {
  const Spec& s = realize(self);
  const Handle& h = handle_of(self);
  if (flags & PyBUF_WRITABLE) {
    PyErr_SetString(PyExc_BufferError,
                    "[buffer] an array is an immutable value: its memory cannot be written. Use x.numpy().");
    throw PyError{};
  }
  if (!(s.device == DeviceId{}))
    throw Error(Error::Type, "[buffer] the array is on " + str(s.device) + ". Use x.to_device(\"cpu\").");
  auto* e = new Export{h.at.buffer, {}, {}};
  Py_ssize_t stride = Py_ssize_t(itemsize(s.dtype));
  for (int i = s.shape.rank - 1; i >= 0; --i) {
    e->shape[i] = Py_ssize_t(s.shape[i]);
    e->strides[i] = stride;
    stride *= Py_ssize_t(s.shape[i]);
  }
  e->memory->exports.fetch_add(1);
  *view = Py_buffer{};
  view->buf = h.at.data();
  view->obj = Py_NewRef(self);
  view->len = Py_ssize_t(s.bytes());
  view->itemsize = Py_ssize_t(itemsize(s.dtype));
  view->readonly = 1;
  view->ndim = s.shape.rank;
  view->format = flags & PyBUF_FORMAT ? const_cast<char*>(format(s.dtype)) : nullptr;
  view->shape = (flags & PyBUF_ND) == PyBUF_ND ? e->shape : nullptr;
  view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? e->strides : nullptr;
  view->internal = e;
  return 0;
}

// read_only_view() lets printing and reading on purpose see values that depend on a parameter; holding the interpreter
// lock.
bool on_purpose = false;

int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
  view->obj = nullptr;
  return guarded([&]() -> int {
    if (!on_purpose) refuse_tracked(handle_of(self), "buffer");
    return fill_view(self, view, flags);
  });
}

void release_buffer(PyObject*, Py_buffer* view) noexcept {
  auto* e = static_cast<Export*>(view->internal);
  e->memory->exports.fetch_sub(1);
  delete e;
}

// ---- lists

PyObject* to_list(const Handle& h, int depth, int64_t& at) {
  if (depth == h.spec.shape.rank) return element(h, at++);
  const int64_t n = h.spec.shape[depth];
  Ref list(PyList_New(Py_ssize_t(n)));
  for (int64_t i = 0; i < n; ++i) PyList_SET_ITEM(list.get(), Py_ssize_t(i), to_list(h, depth + 1, at));
  return list.release();
}

PyObject* tolist(PyObject* x, PyObject*) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "tolist");
    realize(x);
    int64_t at = 0;
    return to_list(handle_of(x), 0, at);
  });
}

// ---- NumPy

// A NumPy array of its own memory.
PyObject* numpy_copy(PyObject* x) {
  const Spec& s = realize(x);
  static PyObject* empty = nullptr;
  if (!empty) empty = PyObject_GetAttrString(Ref(PyImport_ImportModule("numpy")), "empty");
  if (!empty) throw PyError{};
  Ref shape(PyObject_GetAttrString(x, "shape"));
  Ref a(PyObject_CallFunction(empty, "Os", shape.get(), name(s.dtype)));
  Py_buffer b;
  if (PyObject_GetBuffer(a, &b, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) throw PyError{};
  std::memcpy(b.buf, handle_of(x).at.data(), size_t(b.len));
  PyBuffer_Release(&b);
  return a.release();
}

// A read-only NumPy array over our memory.
PyObject* numpy_view(PyObject* x) {
  Ref view(read_only_view(x));
  Ref numpy(PyImport_ImportModule("numpy"));
  return PyObject_CallMethod(numpy, "asarray", "O", view.get());
}

PyObject* to_numpy(PyObject* x, PyObject*) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "numpy");
    return numpy_copy(x);
  });
}

// numpy.asarray(x): without a copy unless it is asked for, or another type is.
PyObject* array_protocol(PyObject* x, PyObject* args, PyObject* kw) noexcept {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"dtype", "copy", nullptr};
    PyObject *dtype = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|OO:__array__", const_cast<char**>(names), &dtype, &copy))
      throw PyError{};
    refuse_tracked(handle_of(x), "numpy.asarray");
    DType t = handle_of(x).spec.dtype;
    const bool same = dtype == Py_None || (find_dtype(dtype, t) && t == handle_of(x).spec.dtype);
    if (same) return copy == Py_True ? numpy_copy(x) : numpy_view(x);
    if (copy == Py_False)
      throw Error(Error::Value, "[numpy.asarray] another dtype needs a copy. Leave out copy=False.");
    Ref view(numpy_view(x));
    return PyObject_CallMethod(view, "astype", "O", dtype);
  });
}

PyObject* memory(PyObject* x, PyObject*) noexcept {
  return guarded([&] { return read_only_view(x); });
}

// ---- pickling: (memory, dtype, shape); with protocol 5 the memory may travel out of band

PyObject* reduce(PyObject* x, PyObject* protocol) noexcept {
  return guarded([&] {
    refuse_tracked(handle_of(x), "pickle");
    const Spec& s = realize(x);
    const long p = PyLong_AsLong(protocol);
    if (p == -1 && PyErr_Occurred()) throw PyError{};
    Ref data = p >= 5 ? Ref(PyPickleBuffer_FromObject(x))
                      : Ref(PyBytes_FromStringAndSize(handle_of(x).at.data(), Py_ssize_t(s.bytes())));
    Ref module(PyImport_ImportModule("knet._core"));
    Ref rebuild(PyObject_GetAttrString(module, "_rebuild"));
    Ref shape(PyObject_GetAttrString(x, "shape"));
    return Py_BuildValue("O(OsO)", rebuild.get(), data.get(), name(s.dtype), shape.get());
  });
}

PyObject* rebuild(PyObject*, PyObject* args) noexcept {
  return guarded([&] {
    PyObject *data, *shape, *dtype;
    if (!PyArg_ParseTuple(args, "OOO!:_rebuild", &data, &dtype, &PyTuple_Type, &shape)) throw PyError{};
    Spec s;
    s.dtype = parse_dtype(dtype);
    check_supported(s.dtype, "pickle");
    int64_t bytes = int64_t(itemsize(s.dtype));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape); ++i) {
      const int64_t d = to_int(PyTuple_GET_ITEM(shape, i));
      if (d < 0 || __builtin_mul_overflow(bytes, d, &bytes))
        throw Error(Error::Value, "[pickle] damaged: an impossible shape.");
      s.shape.push(d);
    }
    Py_buffer b;
    if (PyObject_GetBuffer(data, &b, PyBUF_SIMPLE) < 0) throw PyError{};
    struct Release {
      Py_buffer* b;
      ~Release() { PyBuffer_Release(b); }
    } release{&b};
    if (b.len != bytes)
      throw Error(Error::Value,
                  "[pickle] damaged: " + std::to_string(b.len) + " bytes for " + name(s.dtype) + str(s.shape) + ".");
    Located at;
    at.buffer = allocate(DeviceId{}, size_t(bytes));
    std::memcpy(at.data(), b.buf, size_t(bytes));
    if (s.dtype == DType::Bool)  // any other byte would be a bool that is neither true nor false
      for (int64_t i = 0; i < bytes; ++i) at.data()[i] = at.data()[i] != 0;
    Ref x(reinterpret_cast<PyObject*>(new_array()));
    handle_of(x).set(s, std::move(at));
    return x.release();
  });
}

// ---- module functions

PyObject* make_array(PyObject*, PyObject* args, PyObject* kw) noexcept {
  return guarded([&] {
    static const char* names[] = {"object", "dtype", "device", "copy", nullptr};
    PyObject *o, *dtype = Py_None, *device = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|OOO:array", const_cast<char**>(names), &o, &dtype, &device, &copy))
      throw PyError{};
    if (copy == Py_False && !is_array(o))
      throw Error(Error::Value,
                  "[array] what Python can change is always copied. Leave out copy=False, or use knet.from_dlpack.");
    return array_from(o, dtype, device);
  });
}

PyObject* set_default_dtype(PyObject*, PyObject* dtype) noexcept {
  return guarded([&]() -> PyObject* {
    set_default_float(parse_dtype(dtype));
    Py_RETURN_NONE;
  });
}

PyObject* dtypes(PyObject*, PyObject*) noexcept {
  return guarded([] {
    Ref all(PyDict_New());
    for (int i = 0; i < kDTypes; ++i)  // `bool` stays Python's own
      if (PyDict_SetItemString(all, i ? name(DType(i)) : "bool_", dtype_object(DType(i))) < 0) throw PyError{};
    if (PyDict_SetItemString(all, "dtype", reinterpret_cast<PyObject*>(Py_TYPE(dtype_object(DType::F32)))) < 0)
      throw PyError{};
    return all.release();
  });
}

PyObject* get_default_dtype(PyObject*, PyObject*) { return Py_NewRef(dtype_object(default_float())); }

}  // namespace

PyObject* read_only_view(PyObject* x) {
  realize(x);
  on_purpose = true;
  PyObject* view = PyMemoryView_FromObject(x);
  on_purpose = false;
  if (!view) throw PyError{};
  return view;
}

// dlpack.cpp
PyObject* to_dlpack(PyObject*, PyObject*, PyObject*) noexcept;
PyObject* dlpack_device(PyObject*, PyObject*) noexcept;
PyObject* from_dlpack(PyObject*, PyObject*, PyObject*) noexcept;

PyMethodDef kConvertMethods[] = {
    {"tolist", tolist, METH_NOARGS, "The elements as Python numbers in nested lists."},
    {"numpy", to_numpy, METH_NOARGS,
     "A NumPy array of the same elements, with memory of its own. numpy.asarray(x) is read-only and copies nothing."},
    {"_memory", memory, METH_NOARGS, "A read-only memoryview, of values that depend on a parameter too."},
    {"__array__", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(array_protocol)), METH_VARARGS | METH_KEYWORDS,
     nullptr},
    {"__reduce_ex__", reduce, METH_O, nullptr},
    {"__dlpack__", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(to_dlpack)), METH_VARARGS | METH_KEYWORDS,
     nullptr},
    {"__dlpack_device__", dlpack_device, METH_NOARGS, nullptr},
    {}};

PyMethodDef kConvertFunctions[] = {
    {"array", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(make_array)), METH_VARARGS | METH_KEYWORDS,
     "array(object, dtype=None, device=None, copy=None)\n--\n\n"
     "A KnetArray of numbers, nested lists, NumPy arrays or KnetArrays (gradients pass through these).\n\n"
     "Python floats become float32 (see knet.config), integers int64; NumPy arrays keep their dtype and are copied.\n"
     "Raises TypeError for what holds no numbers, ValueError for ragged lists.\n\n"
     ">>> knet.array([[1.0, 2.0], [3.0, 4.0]]).shape\n(2, 2)\n"},
    {"from_dlpack", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(from_dlpack)), METH_VARARGS | METH_KEYWORDS,
     "from_dlpack(object, *, copy=None)\n--\n\n"
     "A KnetArray of another library's array, without a copy where its memory is contiguous and aligned.\n\n"
     "The memory must not be written while it is shared. Raises TypeError for other element types, BufferError for "
     "other devices.\n\n"
     ">>> knet.from_dlpack(np.ones(3, np.float32)).shape\n(3,)\n"},
    {"set_default_dtype", set_default_dtype, METH_O,
     "set_default_dtype(dtype)\n--\n\nWhat Python floats become in knet.array: float32 or float64."},
    {"default_dtype", get_default_dtype, METH_NOARGS,
     "default_dtype()\n--\n\nWhat Python floats become in knet.array."},
    {"dtypes", dtypes, METH_NOARGS, "dtypes()\n--\n\nThe element types by their public names."},
    {"_rebuild", rebuild, METH_VARARGS, nullptr},
    {}};

PyType_Slot kBufferSlots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
                              {Py_bf_releasebuffer, reinterpret_cast<void*>(release_buffer)},
                              {}};

}  // namespace knet
