// DLPack, both ways, versions 0 and 1. What goes out is read-only: version 1 can say so, version 0 cannot and gets a
// copy. What comes in is borrowed where it lies as we need it: contiguous, aligned to its elements, on a device that we
// have.
#include "python/array.h"

namespace knet {

namespace {

// The structures of dmlc/dlpack, include/dlpack/dlpack.h.
struct DLDevice {
  int32_t type;  // 1 CPU, 2 CUDA, 3 pinned host memory
  int32_t id;
};
struct DLDataType {
  uint8_t code;  // 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool
  uint8_t bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;  // bit 0: read-only, bit 1: copied
  DLTensor tensor;
};
constexpr const char* kName[] = {"dltensor", "dltensor_versioned"};
constexpr const char* kUsed[] = {"used_dltensor", "used_dltensor_versioned"};

DLDataType encode(DType t) {
  const uint8_t code = t == DType::Bool     ? 6
                       : is_signed_int(t)   ? 0
                       : is_unsigned_int(t) ? 1
                       : t == DType::BF16   ? 4
                       : is_float(t)        ? 2
                                            : 5;
  return {code, uint8_t(itemsize(t) * 8), 1};
}

bool decode(DLDataType d, DType& t) {
  if (d.lanes != 1) return false;
  for (int i = 0; i < kDTypes; ++i) {
    const DLDataType e = encode(DType(i));
    if (e.code == d.code && e.bits == d.bits) return t = DType(i), true;
  }
  return false;
}

// ---- out

template <class Managed>
struct Out {
  Managed managed;
  BufferRef memory;
  int64_t shape[kMaxRank], strides[kMaxRank];

  static void let_go(Managed* m) {
    auto* o = static_cast<Out*>(m->context);
    o->memory->exports.fetch_sub(1);
    delete o;
  }
};

template <class Managed>
void capsule_dropped(PyObject* capsule) {
  constexpr const char* name = kName[std::is_same_v<Managed, DLManagedTensorVersioned>];
  if (!PyCapsule_IsValid(capsule, name)) return;  // somebody took it, and lets go of it himself
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  m->deleter(m);
}

template <class Managed>
PyObject* put_out(const Spec& s, const Located& at, uint64_t flags) {
  auto* o = new Out<Managed>{};
  o->memory = at.buffer;
  o->memory->exports.fetch_add(1);
  int64_t stride = 1;
  for (int i = s.shape.rank - 1; i >= 0; --i) {
    o->shape[i] = s.shape[i];
    o->strides[i] = stride;
    stride *= s.shape[i];
  }
  DLTensor& t = o->managed.tensor;
  t.data = at.data();
  t.device = {1, 0};
  t.ndim = s.shape.rank;
  t.dtype = encode(s.dtype);
  t.shape = o->shape;
  t.strides = o->strides;
  t.byte_offset = 0;
  o->managed.context = o;
  o->managed.deleter = Out<Managed>::let_go;
  constexpr bool versioned = std::is_same_v<Managed, DLManagedTensorVersioned>;
  if constexpr (versioned) {
    o->managed.major = 1;
    o->managed.minor = 0;
    o->managed.flags = flags;
  }
  PyObject* capsule = PyCapsule_New(&o->managed, kName[versioned], capsule_dropped<Managed>);
  if (!capsule) {
    Out<Managed>::let_go(&o->managed);
    throw PyError{};
  }
  return capsule;
}

Located copied(const Spec& s, const char* from) {
  Located at;
  at.buffer = allocate(DeviceId{}, size_t(s.bytes()));
  std::memcpy(at.data(), from, size_t(s.bytes()));
  return at;
}

// ---- in

template <class Managed>
void release_owner(void* owner) {
  auto* m = static_cast<Managed*>(owner);
  if (!m->deleter) return;
  // The owner may be a Python object; the engine may let go of a buffer without the interpreter lock.
  if (!Py_IsInitialized()) return;
  const PyGILState_STATE state = PyGILState_Ensure();
  m->deleter(m);
  PyGILState_Release(state);
}

void copy_in(char*& to, const char* from, const DLTensor& t, int axis, size_t size) {
  if (axis == t.ndim) {
    std::memcpy(to, from, size);
    to += size;
    return;
  }
  for (int64_t i = 0; i < t.shape[axis]; ++i)
    copy_in(to, from + i * t.strides[axis] * int64_t(size), t, axis + 1, size);
}

template <class Managed>
PyObject* take_in(PyObject* capsule, PyObject* copy) {
  constexpr bool versioned = std::is_same_v<Managed, DLManagedTensorVersioned>;
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kName[versioned]));
  if (!m) throw PyError{};
  if constexpr (versioned)
    if (m->major != 1)
      throw Error(Error::Value, "[from_dlpack] version " + std::to_string(m->major) + " of DLPack is not known.");
  const DLTensor& t = m->tensor;
  if (t.device.type != 1 && t.device.type != 3) {
    PyErr_SetString(PyExc_BufferError, "[from_dlpack] the array is not in host memory. Move it to the CPU first.");
    throw PyError{};
  }
  Spec s;
  if (!decode(t.dtype, s.dtype))
    throw Error(Error::Type, "[from_dlpack] elements of code " + std::to_string(t.dtype.code) + " and " +
                                 std::to_string(t.dtype.bits) + " bits are not known. Convert them to float32.");
  check_supported(s.dtype, "from_dlpack");
  for (int i = 0; i < t.ndim; ++i) s.shape.push(t.shape[i]);
  const char* data = static_cast<const char*>(t.data) + t.byte_offset;
  bool contiguous = true;
  int64_t stride = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    if (t.strides && t.shape[i] != 1 && t.strides[i] != stride) contiguous = false;
    stride *= t.shape[i];
  }
  if (stride == 0) contiguous = true;
  Ref x(reinterpret_cast<PyObject*>(new_array()));
  Located at;
  bool borrowed = false;
  if (copy != Py_True && stride > 0 && contiguous && reinterpret_cast<uintptr_t>(data) % itemsize(s.dtype) == 0) {
    auto* b = new Buffer;
    b->bytes = size_t(s.bytes());
    b->data = const_cast<char*>(data);
    b->free_owner = release_owner<Managed>;
    b->owner = m;
    at.buffer = BufferRef(b);
    borrowed = true;
  } else if (copy == Py_False) {
    throw Error(Error::Value, "[from_dlpack] the memory of " + str(s.shape) +
                                  " is not contiguous and aligned: it must be copied. Leave out copy=False.");
  } else if (contiguous) {
    at = copied(s, data);
  } else {
    at.buffer = allocate(DeviceId{}, size_t(s.bytes()));
    char* to = at.data();
    copy_in(to, data, t, 0, itemsize(s.dtype));
  }
  // From here on the tensor is ours to let go.
  if (PyCapsule_SetName(capsule, kUsed[versioned]) < 0) throw PyError{};
  handle_of(x).set(s, std::move(at));
  if (!borrowed && m->deleter) m->deleter(m);
  return x.release();
}

}  // namespace

PyObject* to_dlpack(PyObject* x, PyObject* args, PyObject* kw) noexcept {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"stream", "max_version", "dl_device", "copy", nullptr};
    PyObject *stream = Py_None, *version = Py_None, *device = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|$OOOO:__dlpack__", const_cast<char**>(names), &stream, &version,
                                     &device, &copy))
      throw PyError{};
    refuse_tracked(handle_of(x), "dlpack");
    auto refuse = [](const char* why) {
      PyErr_SetString(PyExc_BufferError, why);
      throw PyError{};
    };
    if (stream != Py_None) refuse("[dlpack] an array on the CPU has no stream. Leave it out.");
    if (device != Py_None) {
      int type, id;
      if (!PyArg_ParseTuple(device, "ii", &type, &id)) throw PyError{};
      if (type != 1 || id != 0) refuse("[dlpack] the array is on the CPU. Move the result.");
    }
    bool versioned = false;
    if (version != Py_None) {
      int major, minor;
      if (!PyArg_ParseTuple(version, "ii", &major, &minor)) throw PyError{};
      versioned = major >= 1;
    }
    const Spec& s = realize(x);
    const Handle& h = handle_of(x);
    if (!versioned) {
      // Version 0 has no word for read-only.
      if (copy == Py_False)
        refuse("[dlpack] arrays are immutable, which version 0 cannot express. Ask for max_version=(1, 0) or a copy.");
      return put_out<DLManagedTensor>(s, copied(s, h.at.data()), 0);
    }
    if (copy == Py_True) return put_out<DLManagedTensorVersioned>(s, copied(s, h.at.data()), 2);
    return put_out<DLManagedTensorVersioned>(s, h.at, 1);
  });
}

PyObject* dlpack_device(PyObject* x, PyObject*) noexcept {
  const DeviceId d = handle_of(x).spec.device;
  return Py_BuildValue("(ii)", d.kind == DeviceKind::Cpu ? 1 : 2, int(d.index));
}

PyObject* from_dlpack(PyObject*, PyObject* args, PyObject* kw) noexcept {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"object", "copy", nullptr};
    PyObject *o, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|$O:from_dlpack", const_cast<char**>(names), &o, &copy))
      throw PyError{};
    if (is_array(o)) return share(o);
    Ref capsule;
    if (PyCapsule_CheckExact(o)) {
      capsule = Ref::borrow(o);
    } else {
      Ref method(PyObject_GetAttrString(o, "__dlpack__"));
      Ref none(PyTuple_New(0));
      Ref options(Py_BuildValue("{s(ii)}", "max_version", 1, 0));
      PyObject* c = PyObject_Call(method, none, options);
      if (!c && PyErr_ExceptionMatches(PyExc_TypeError)) {  // an exporter of version 0
        PyErr_Clear();
        c = PyObject_CallNoArgs(method);
      }
      capsule = Ref(c);
    }
    return PyCapsule_IsValid(capsule, kName[1]) ? take_in<DLManagedTensorVersioned>(capsule, copy)
                                                : take_in<DLManagedTensor>(capsule, copy);
  });
}

}  // namespace knet
