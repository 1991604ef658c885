// KnetArray for the rest of the binding: the object, conversion of operands, and how errors cross to Python.
#pragma once
#include <Python.h>

#include <utility>
#include <vector>
#include "trace/trace.h"

namespace knet {

struct ArrayObject {
  PyObject_HEAD
  Handle handle;
  PyObject* weakrefs;
};
extern PyTypeObject* ArrayType;  // final: no subclasses

void init_array(PyObject* module);
void init_function(PyObject* module);

inline bool is_array(PyObject* o) { return Py_TYPE(o) == ArrayType; }
inline Handle& handle_of(PyObject* o) { return reinterpret_cast<ArrayObject*>(o)->handle; }
ArrayObject* new_array();                // an empty handle; throws PyError without memory
PyObject* wrap(Trace&, uint32_t value);  // a new KnetArray of a value
PyObject* share(PyObject* array);        // a new KnetArray of the same value

// ---- errors

// A Python exception is set: unwinds to the C boundary.
struct PyError {};
// Turns the C++ exception being handled into a Python exception.
void raise_current() noexcept;
// Every function that CPython calls runs its body through this: no C++ exception gets out.
template <class F>
inline auto guarded(F&& body) noexcept -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    raise_current();
    if constexpr (std::is_pointer_v<decltype(body())>)
      return nullptr;
    else
      return decltype(body())(-1);
  }
}

// A reference that is owned. Constructing from a null result of the C API throws PyError.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : p_(owned) {
    if (!p_) throw PyError{};
  }
  static Ref borrow(PyObject* p) {
    Py_XINCREF(p);
    Ref r;
    r.p_ = p;
    return r;
  }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref(const Ref& o) : p_(o.p_) { Py_XINCREF(p_); }
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() { Py_XDECREF(p_); }
  PyObject* get() const { return p_; }
  operator PyObject*() const { return p_; }
  PyObject* release() { return std::exchange(p_, nullptr); }
  explicit operator bool() const { return p_ != nullptr; }

 private:
  PyObject* p_ = nullptr;
};

// ---- dtypes and devices (dtype.cpp)

void init_dtypes(PyObject* module);
PyObject* dtype_object(DType);  // borrowed: one object per type
// "float32", a knet dtype, a NumPy dtype or scalar type, Python's bool, int, float.
DType parse_dtype(PyObject*);                 // throws Error::Type
bool find_dtype(PyObject*, DType&);           // false if it names no element type
DeviceId parse_device(PyObject*);             // None is the CPU
void check_supported(DType, const char* op);  // throws for types that have no kernels yet
DType default_float();                        // what Python floats become in knet.array
void set_default_float(DType);

// ---- operands (operand.cpp, buffers.cpp, lists.cpp)

// Memory that was filled from Python, before it becomes a value.
struct HostArray {
  DType dtype = DType::F32;
  Shape shape;
  Located at;
};

enum class Operand : uint8_t {
  Array,    // KnetArray
  Number,   // Python bool, int, float: takes the dtype of what it meets
  Foreign,  // NumPy array or scalar: has a dtype of its own
  List,     // list or tuple
  None,     // nothing that arithmetic is defined for
};
Operand operand_kind(PyObject*);

// The value of any operand. `like` is the dtype that the other operands have (null: they are numbers as well, or there
// are none). `compare`: an integer that does not fit `like` stays as it is instead of raising OverflowError.
uint32_t value_of(Trace&, PyObject*, const DType* like = nullptr, bool compare = false);
uint32_t value_of(Trace&, HostArray&&);
// A Python integer beside integers of type `common` in an operation that computes in floats: a float from the start,
// so that it need not fit `common`. False: something else.
bool as_float_number(Trace&, PyObject*, DType common, uint32_t& v);

// Copy of a buffer (NumPy array or scalar, memoryview, array.array); throws Error::Type if its elements are not of our
// types.
HostArray read_buffer(PyObject*, const char* op);
// Copy of a nest of lists of Python numbers and NumPy arrays, as elements of type `want` (null: of their own).
// as_index: an empty list is one of integers.
HostArray read_list(PyObject*, const DType* want = nullptr, bool as_index = false);
bool has_knet_array(PyObject* list, int depth = 0);

PyObject* array_object(HostArray&&);
PyObject* array_from(PyObject* obj, PyObject* dtype, PyObject* device);  // knet.array

// ---- the ways out (numbers.cpp, convert.cpp)

extern PyMethodDef kNumberMethods[];
extern PyType_Slot kNumberSlots[];
PyObject* element(const Handle&, int64_t at);  // one element as a Python number
PyObject* read_only_view(PyObject* array);     // memoryview, without the check for tracked values
void refuse_tracked(const Handle&, const char* op);
extern PyMethodDef kConvertMethods[], kConvertFunctions[];
extern PyType_Slot kBufferSlots[];

// ---- differentiated calls (gradient.cpp)
extern PyMethodDef kGradientFunctions[];

// ---- operators (operators.cpp)
extern PyType_Slot kOperatorSlots[];
PyObject* equal(PyObject* a, PyObject* b);  // a == b elementwise, or NotImplemented

// ---- attributes and methods (methods.cpp)
extern PyGetSetDef kAttributes[];
std::vector<PyMethodDef> all_methods();  // those of all files
PyObject* module_attribute(const char* module, const char* name);

// ---- indexing (index.cpp)
PyObject* get_index(PyObject* x, PyObject* key);
int set_index(PyObject* x, PyObject* key, PyObject* v);
PyObject* get_row(PyObject* x, Py_ssize_t i);  // x[i] for iteration

// ---- operations used by several files
uint32_t reshape(Trace&, uint32_t v, const Shape&);
uint32_t broadcast_to(Trace&, uint32_t v, const Shape&);
int64_t to_int(PyObject*);                     // __index__; throws PyError
Shape to_shape(PyObject*, bool negative_one);  // an integer or a sequence of integers
const Spec& realize(PyObject* array);          // makes it concrete

}  // namespace knet
