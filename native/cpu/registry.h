// Which function makes the Step of which operation. Each kernel file registers its own at load; device.cpp looks them
// up.
#pragma once
#include <initializer_list>
#include <memory>
#include "device.h"

namespace knet::cpu {

using Make = std::unique_ptr<Step> (*)(Op, std::span<const Layout> out, std::span<const Layout> in,
                                       std::span<const int64_t> attrs);
using Accepts = bool (*)(Op, int input, const Layout&, uint32_t readers);

struct Entry {
  Make make = nullptr;
  Accepts accepts = nullptr;  // null: contiguous inputs only
  bool shared = true;         // are Steps looked up among those made before? Not where making one is as quick
};
Entry& entry(Op);

struct Register {
  Register(std::initializer_list<Op> ops, Make make, Accepts accepts = nullptr, bool shared = true) {
    for (Op op : ops) entry(op) = {make, accepts, shared};
  }
};

}  // namespace knet::cpu
