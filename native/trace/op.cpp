#include "trace/op.h"

#include <unordered_map>

namespace knet {

constexpr OpInfo kOps[] = {
#define KNET_OP(name, kind, n_in, n_out, flags, rule) \
  {#name, Kind::kind, int8_t(n_in), int8_t(n_out), uint16_t(flags), DTypeRule::rule},
#include "ops.inc"
#undef KNET_OP
};
static_assert(std::size(kOps) == size_t(Op::Count_));

namespace {

const std::unordered_map<std::string_view, Op>& by_name() {
  static const auto* table = [] {
    auto* t = new std::unordered_map<std::string_view, Op>;
    for (size_t i = 0; i < std::size(kOps); ++i) t->emplace(kOps[i].name, Op(i));
    return t;
  }();
  return *table;
}

}  // namespace

Op op_by_name(std::string_view name) {
  const auto it = by_name().find(name);
  if (it == by_name().end())
    throw Error(Error::Value, "[" + std::string(name) + "] no such operation. Declare it in knet/ops.");
  return it->second;
}

bool has_op(std::string_view name) { return by_name().count(name) != 0; }

}  // namespace knet
