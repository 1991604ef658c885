#include "cpu/registry.h"

namespace knet::cpu {

// A function's own static: kernel files register themselves in no known order.
Entry& entry(Op op) {
  static Entry table[size_t(Op::Count_)];
  return table[size_t(op)];
}

}  // namespace knet::cpu
