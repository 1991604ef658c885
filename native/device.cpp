#include "device.h"

namespace knet {

Layout Layout::contiguous(DType t, const Shape& shape) {
  Layout l;
  l.dtype = t;
  l.shape = shape;
  int64_t s = 1;
  for (int i = shape.rank; i-- > 0;) {
    l.stride[i] = s;
    s *= shape[i];
  }
  return l;
}

bool Layout::is_contiguous() const {
  int64_t s = 1;
  for (int i = shape.rank; i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && stride[i] != s) {
      for (int j = i; j-- > 0;)
        if (shape[j] == 0) return true;
      return false;
    }
    s *= shape[i];
  }
  return true;
}

}  // namespace knet
