// Element types and devices as Python sees them. `knet.float32` equals "float32", numpy.float32 and
// numpy.dtype("float32"), without NumPy being imported.
#include "python/array.h"

#include "device.h"

namespace knet {

namespace {

struct DTypeObject {
  PyObject_HEAD
  DType dtype;
};

PyTypeObject* dtype_type;
PyObject* objects[kDTypes];
PyObject* names[kDTypes];  // interned, as strings that are written in a program are
DType float_default = DType::F32;

DType of(PyObject* o) { return reinterpret_cast<DTypeObject*>(o)->dtype; }

PyObject* dtype_str(PyObject* self) { return Py_NewRef(names[int(of(self))]); }
PyObject* dtype_repr(PyObject* self) { return PyUnicode_FromFormat("knet.%s", name(of(self))); }

// As the string, which it equals.
Py_hash_t dtype_hash(PyObject* self) { return PyObject_Hash(names[int(of(self))]); }

PyObject* dtype_compare(PyObject* self, PyObject* other, int op) noexcept {
  return guarded([&]() -> PyObject* {
    DType t;
    if ((op != Py_EQ && op != Py_NE) || !find_dtype(other, t)) Py_RETURN_NOTIMPLEMENTED;
    return PyBool_FromLong((of(self) == t) == (op == Py_EQ));
  });
}

PyObject* get_name(PyObject* self, void*) { return dtype_str(self); }
PyObject* get_itemsize(PyObject* self, void*) { return PyLong_FromSize_t(itemsize(of(self))); }
// NumPy's one-letter kind: "b", "i", "u", "f", "c" ("V" for bfloat16, which NumPy does not have).
PyObject* get_kind(PyObject* self, void*) {
  const DType t = of(self);
  const char* k = t == DType::Bool     ? "b"
                  : is_signed_int(t)   ? "i"
                  : is_unsigned_int(t) ? "u"
                  : t == DType::BF16   ? "V"
                  : is_float(t)        ? "f"
                                       : "c";
  return PyUnicode_FromString(k);
}
// The NumPy dtype: how numpy.dtype(knet.float32) finds it.
PyObject* get_numpy(PyObject* self, void*) noexcept {
  return guarded([&] {
    Ref numpy(PyImport_ImportModule("numpy"));
    return PyObject_CallMethod(numpy, "dtype", "s", name(of(self)));
  });
}
PyGetSetDef dtype_getset[] = {{"name", get_name, nullptr, "NumPy's name of the type.", nullptr},
                              {"itemsize", get_itemsize, nullptr, "Bytes of one element.", nullptr},
                              {"kind", get_kind, nullptr, "NumPy's letter: b, i, u, f or c.", nullptr},
                              {"dtype", get_numpy, nullptr, "The NumPy dtype.", nullptr},
                              {"__numpy_dtype__", get_numpy, nullptr, "The NumPy dtype.", nullptr},
                              {}};

PyObject* dtype_new(PyTypeObject*, PyObject* args, PyObject*) noexcept {
  return guarded([&] {
    PyObject* o;
    if (!PyArg_ParseTuple(args, "O:dtype", &o)) throw PyError{};
    return Py_NewRef(dtype_object(parse_dtype(o)));
  });
}

// knet.float32(3) is a 0-d array of that type.
PyObject* dtype_call(PyObject* self, PyObject* args, PyObject*) noexcept {
  return guarded([&] {
    PyObject* o;
    if (!PyArg_ParseTuple(args, "O", &o)) throw PyError{};
    return array_from(o, self, Py_None);
  });
}

PyObject* dtype_reduce(PyObject* self, PyObject*) {
  return Py_BuildValue("O(s)", reinterpret_cast<PyObject*>(dtype_type), name(of(self)));
}
PyMethodDef dtype_methods[] = {{"__reduce__", dtype_reduce, METH_NOARGS, nullptr}, {}};

PyType_Slot dtype_slots[] = {
    {Py_tp_str, reinterpret_cast<void*>(dtype_str)},
    {Py_tp_repr, reinterpret_cast<void*>(dtype_repr)},
    {Py_tp_hash, reinterpret_cast<void*>(dtype_hash)},
    {Py_tp_richcompare, reinterpret_cast<void*>(dtype_compare)},
    {Py_tp_getset, dtype_getset},
    {Py_tp_methods, dtype_methods},
    {Py_tp_new, reinterpret_cast<void*>(dtype_new)},
    {Py_tp_call, reinterpret_cast<void*>(dtype_call)},
    {Py_tp_doc, const_cast<char*>("An element type: knet.dtype(\"float32\"), or knet.float32.")},
    {}};
PyType_Spec dtype_spec = {"knet.dtype", sizeof(DTypeObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                          dtype_slots};

// NumPy's names: "float32", "f4", "<f4", "float", "d".
bool by_name(const char* s, DType& out) {
  static constexpr struct {
    const char* name;
    DType dtype;
  } kShort[] = {{"bool_", DType::Bool}, {"?", DType::Bool},    {"b1", DType::Bool},  {"i1", DType::I8},
                {"i2", DType::I16},     {"i4", DType::I32},    {"i8", DType::I64},   {"u1", DType::U8},
                {"u2", DType::U16},     {"u4", DType::U32},    {"u8", DType::U64},   {"f2", DType::F16},
                {"f4", DType::F32},     {"f8", DType::F64},    {"f", DType::F32},    {"d", DType::F64},
                {"int", DType::I64},    {"float", DType::F64}, {"half", DType::F16}, {"single", DType::F32},
                {"double", DType::F64}, {"c8", DType::C64},    {"c16", DType::C128}};
  if ((*s == '<' || *s == '=' || *s == '|') && s[1]) ++s;
  for (const auto& k : kShort)
    if (!std::strcmp(s, k.name)) return out = k.dtype, true;
  for (int i = 0; i < kDTypes; ++i)
    if (!std::strcmp(s, name(DType(i)))) {
      out = DType(i);
      return true;
    }
  return false;
}

}  // namespace

PyObject* dtype_object(DType t) { return objects[int(t)]; }

bool find_dtype(PyObject* o, DType& out) {
  if (Py_TYPE(o) == dtype_type) {
    out = of(o);
    return true;
  }
  if (PyUnicode_Check(o)) {
    for (int i = 0; i < kDTypes; ++i)
      if (o == names[i]) return out = DType(i), true;
    const char* s = PyUnicode_AsUTF8(o);
    if (!s) throw PyError{};
    return by_name(s, out);
  }
  if (PyType_Check(o)) {
    if (o == reinterpret_cast<PyObject*>(&PyFloat_Type)) return out = DType::F64, true;
    if (o == reinterpret_cast<PyObject*>(&PyLong_Type)) return out = DType::I64, true;
    if (o == reinterpret_cast<PyObject*>(&PyBool_Type)) return out = DType::Bool, true;
    const char* full = reinterpret_cast<PyTypeObject*>(o)->tp_name;
    const char* dot = std::strrchr(full, '.');
    return dot && by_name(dot + 1, out);
  }
  // A NumPy dtype; any other object with a name is not one.
  if (std::strncmp(Py_TYPE(o)->tp_name, "numpy.", 6)) return false;
  PyObject* n = PyObject_GetAttrString(o, "name");
  if (!n) {
    PyErr_Clear();
    return false;
  }
  Ref own(n);
  const char* s = PyUnicode_Check(n) ? PyUnicode_AsUTF8(n) : nullptr;
  if (!s) {
    PyErr_Clear();
    return false;
  }
  return by_name(s, out);
}

DType parse_dtype(PyObject* o) {
  DType t;
  if (find_dtype(o, t)) return t;
  Ref text(PyObject_Repr(o));
  const char* s = PyUnicode_AsUTF8(text);
  throw Error(Error::Type,
              std::string("[dtype] ") + (s ? s : "this") +
                  " is not an element type. Use one of bool, int8 to int64, uint8 to uint64, float32, float64.");
}

DeviceId parse_device(PyObject* o) {
  DeviceId id;
  if (o == Py_None) return id;
  const char* s = PyUnicode_Check(o) ? PyUnicode_AsUTF8(o) : nullptr;
  if (!s) {
    PyErr_Clear();
    throw Error(Error::Type, "[device] a device is named by a string. Use \"cpu\" or \"cuda:0\".");
  }
  if (!std::strcmp(s, "cpu")) return id;
  if (!std::strncmp(s, "cuda", 4)) {
    id.kind = DeviceKind::Cuda;
    if (!s[4]) return id;
    char* end;
    const long n = s[4] == ':' ? std::strtol(s + 5, &end, 10) : -1;
    if (n >= 0 && n < 256 && s[5] && !*end) {
      id.index = uint8_t(n);
      return id;
    }
  }
  throw Error(Error::Value, std::string("[device] there is no device \"") + s + "\". Use \"cpu\" or \"cuda:0\".");
}

void check_supported(DType t, const char* op) {
  if (t <= DType::U64 || t == DType::F32 || t == DType::F64) return;
  const bool complex = t >= DType::C64;
  throw Error(Error::Type, std::string("[") + op + "] " + name(t) + " has no kernels. Use " +
                               (complex ? "real arrays: x.real and x.imag." : "x.astype(\"float32\")."));
}

DType default_float() { return float_default; }
void set_default_float(DType t) {
  if (t != DType::F32 && t != DType::F64)
    throw Error(Error::Value, std::string("[set_default_dtype] Python floats cannot become ") + name(t) +
                                  ". Use float32 or float64.");
  float_default = t;
}

void init_dtypes(PyObject* module) {
  Ref type(PyType_FromSpec(&dtype_spec));
  dtype_type = reinterpret_cast<PyTypeObject*>(type.get());
  if (PyModule_AddObjectRef(module, "dtype", type) < 0) throw PyError{};
  for (int i = 0; i < kDTypes; ++i) {
    auto* o = PyObject_New(DTypeObject, dtype_type);
    if (!o) throw PyError{};
    o->dtype = DType(i);
    objects[i] = reinterpret_cast<PyObject*>(o);
    names[i] = Ref(PyUnicode_InternFromString(name(DType(i)))).release();
  }
  type.release();
}

}  // namespace knet
