// What the ways in from Python share: numbers (operand.cpp), buffers (buffers.cpp) and lists (lists.cpp).
#pragma once
#include "python/array.h"

namespace knet {

// NumPy's classes, once the user has imported it.
struct NumPy {
  PyTypeObject *ndarray = nullptr, *generic = nullptr;
};
const NumPy& numpy();

// A Python integer as an element of integer type t. False if it does not fit.
bool int_as(PyObject*, DType t, Scalar&);
// A Python number as one element of type t; floats become integers as in NumPy (towards zero).
Scalar number_as(PyObject*, DType t);

// An object's buffer, held while it is read.
class BufferView {
 public:
  // Throws Error::Type if its elements are not of our types, or masked.
  BufferView(PyObject*, const char* op);
  int64_t bytes() const { return held_.b.len; }
  void copy(char* to) const;  // the elements, contiguous and in our byte order

  DType dtype;
  Shape shape;

 private:
  struct Held {
    Py_buffer b;
    Held(PyObject*, const char* op);
    ~Held() { PyBuffer_Release(&b); }
    Held(const Held&) = delete;
  };
  Held held_;
  bool swapped_;  // their bytes are in foreign order
};

// The value of an object with a buffer.
uint32_t buffer_value(Trace&, PyObject*);
// n elements of type f at `from` as type t to `to`.
void convert_elements(const char* from, DType f, char* to, DType t, int64_t n);

// The value of a list. `like` as in value_of.
uint32_t list_value(Trace&, PyObject*, const DType* like);

}  // namespace knet
