// Arrays of others, NumPy's above all, read through the buffer protocol: NumPy itself is never imported here.
#include <algorithm>
#include <bit>

#include "python/operand.h"

namespace knet {

namespace {

// The element type of a struct-module format, and whether its bytes are in foreign order. False: not one of ours.
bool parse_format(const char* f, Py_ssize_t size, DType& t, bool& swapped) {
  swapped = false;
  if (!f) f = "B";
  if (*f == '>' || *f == '!')
    swapped = size > 1, ++f;
  else if (*f == '<' || *f == '=' || *f == '@')
    ++f;
  static_assert(std::endian::native == std::endian::little);
  if (f[0] == 'Z' && (f[1] == 'f' || f[1] == 'd') && !f[2]) return t = f[1] == 'f' ? DType::C64 : DType::C128, true;
  if (!f[0] || f[1]) return false;
  const int log = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1;
  if (log < 0) return false;
  switch (*f) {
    case '?': t = DType::Bool; return size == 1;
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n': t = DType(int(DType::I8) + log); return true;
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N': t = DType(int(DType::U8) + log); return true;
    case 'e': t = DType::F16; return size == 2;
    case 'f': t = DType::F32; return size == 4;
    case 'd': t = DType::F64; return size == 8;
    default: return false;
  }
}

template <size_t N>
void copy_row(char* to, const char* from, Py_ssize_t n, Py_ssize_t stride) {
  for (Py_ssize_t i = 0; i < n; ++i) std::memcpy(to + size_t(i) * N, from + i * stride, N);
}

// Strided to contiguous, outermost dimension first.
void copy_strided(char*& to, const char* from, const Py_ssize_t* shape, const Py_ssize_t* strides, int rank,
                  size_t size) {
  if (rank == 1) {
    const Py_ssize_t n = shape[0], stride = strides[0];
    if (size_t(stride) == size)
      std::memcpy(to, from, size_t(n) * size);
    else if (size == 4)
      copy_row<4>(to, from, n, stride);
    else if (size == 8)
      copy_row<8>(to, from, n, stride);
    else if (size == 1)
      copy_row<1>(to, from, n, stride);
    else
      copy_row<2>(to, from, n, stride);
    to += size_t(n) * size;
    return;
  }
  for (Py_ssize_t i = 0; i < shape[0]; ++i)
    copy_strided(to, from + i * strides[0], shape + 1, strides + 1, rank - 1, size);
}

void swap_bytes(char* p, size_t count, size_t size) {
  for (size_t i = 0; i < count; ++i, p += size) std::reverse(p, p + size);
}

void refuse_mask(PyObject* o, const char* op) {
  if (Py_TYPE(o) == numpy().ndarray || std::strcmp(Py_TYPE(o)->tp_name, "MaskedArray")) return;
  throw Error(Error::Type, std::string("[") + op + "] a masked array would lose its mask. Use x.filled(value).");
}

HostArray copied(const BufferView& v) {
  HostArray a;
  a.dtype = v.dtype;
  a.shape = v.shape;
  a.at.buffer = allocate(DeviceId{}, size_t(v.bytes()));
  v.copy(a.at.data());
  return a;
}

}  // namespace

BufferView::Held::Held(PyObject* o, const char* op) {
  refuse_mask(o, op);
  if (PyObject_GetBuffer(o, &b, PyBUF_STRIDES | PyBUF_FORMAT) == 0) return;
  PyErr_Clear();
  throw Error(Error::Type, std::string("[") + op + "] a " + Py_TYPE(o)->tp_name +
                               " holds no numbers of ours. Use bool, integer, float32 or float64 elements.");
}

BufferView::BufferView(PyObject* o, const char* op) : held_(o, op) {
  const Py_buffer& b = held_.b;
  if (!parse_format(b.format, b.itemsize, dtype, swapped_))
    throw Error(Error::Type, std::string("[") + op + "] elements of a " + Py_TYPE(o)->tp_name + " with format \"" +
                                 (b.format ? b.format : "") +
                                 "\" are not numbers of ours. Use bool, integers, float32 or float64.");
  check_supported(dtype, op);
  if (b.ndim > kMaxRank) throw Error(Error::Value, std::string("[") + op + "] too many dimensions. Use reshape.");
  for (int i = 0; i < b.ndim; ++i) shape.push(b.shape[i]);
}

void BufferView::copy(char* to) const {
  const Py_buffer& b = held_.b;
  const size_t bytes = size_t(b.len);
  if (bytes == 0) return;
  char* at = to;
  if (b.ndim == 0 || PyBuffer_IsContiguous(&b, 'C'))
    std::memcpy(to, b.buf, bytes);
  else
    copy_strided(at, static_cast<const char*>(b.buf), b.shape, b.strides, b.ndim, itemsize(dtype));
  if (swapped_) swap_bytes(to, bytes / itemsize(dtype), itemsize(dtype));
}

HostArray read_buffer(PyObject* o, const char* op) { return copied(BufferView(o, op)); }

uint32_t buffer_value(Trace& t, PyObject* o) {
  const BufferView v(o, "array");
  if (v.shape.rank > 0) return value_of(t, copied(v));
  char raw[16];  // a number with a type of its own: data, like a Python number
  v.copy(raw);
  return t.scalar(load(v.dtype, raw), v.dtype, false);
}

}  // namespace knet
