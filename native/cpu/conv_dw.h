// What the passes that make conv_dw share.
#pragma once
#include "cpu/conv.h"

namespace knet::cpu::conv {

// dw += the partial sums of the chunks after the first, in order.
template <class T>
void add_chunks(T* dw, const T* partial, int64_t size, int64_t chunks) {
  if (chunks == 1) return;
  const int64_t share = 4096;
  parallel((size + share - 1) / share, double(size * chunks) * 0.2, [&](int64_t task) {
    const int64_t first = task * share, last = std::min(size, first + share);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const T* from = partial + (chunk - 1) * size;
      for (int64_t i = first; i < last; ++i) dw[i] += from[i];
    }
  });
}

}  // namespace knet::cpu::conv
