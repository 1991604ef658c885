// What the engine knows of each operation. The list itself is generated at build time from the entries in
// src/knet/ops (generate.py writes ops.inc): nothing here or elsewhere in native/ is a hand-kept list of operations.
#pragma once
#include "types.h"

namespace knet {

enum class Op : uint16_t {
#define KNET_OP(name, kind, n_in, n_out, flags, rule) name,
#include "ops.inc"
#undef KNET_OP
  Count_
};

enum class Kind : uint8_t {
  Meta,         // leaf, scalar, constant, param, alias, stop, grad, custom: bookkeeping of the trace
  Elementwise,  // one result element per broadcast element; has a tile opcode
  Reduce,       // fewer elements along axes
  Movement,     // same elements elsewhere: reshape, transpose, slice, ...
  Contraction,  // matmul, convolutions
  Index,        // data-dependent addressing: gather, scatter, sort
  Create,       // iota and the like: no array input
  Random,       // counter-based generators
  Other,        // scans, pools
  Compound,     // written in terms of the others (an `expand` rule); never reaches a device
};

// How an elementwise operation chooses the type it computes in, and of its result.
enum class DTypeRule : uint8_t {
  Same,      // any numeric type, result the same (add); bool is an error unless flag BoolOk
  Float,     // computes in float; integers are promoted by to_float (exp)
  Compare,   // any type in, bool out (less)
  Logical,   // inputs cast to bool, bool out (logical_and)
  IntBits,   // integers and bool only (bitwise_and)
  FloatTest, // float in, bool out (isnan)
  Where,     // (bool, T, T) -> T
  None,      // not elementwise: the shape function decides
};

enum OpFlags : uint16_t {
  kDifferentiable = 1,  // has a derivative rule
  kVariadic = 2,        // n_in is a minimum
  kBoolOk = 4,          // DTypeRule::Same and IntBits also accept bool
  kCommutative = 8,
};

struct OpInfo {
  const char* name;
  Kind kind;
  int8_t n_in;    // array inputs
  int8_t n_out;
  uint16_t flags;
  DTypeRule rule;
};

extern const OpInfo kOps[];
inline const OpInfo& info(Op op) { return kOps[size_t(op)]; }
Op op_by_name(std::string_view);  // throws Error::Value if there is none
bool has_op(std::string_view);

// Reads an operation's attributes in the order of its entry: `int`/`bool` is one word, `ints` is a count and its words.
struct AttrReader {
  std::span<const int64_t> a;
  size_t at = 0;
  int64_t integer() { return a[at++]; }
  bool flag() { return a[at++] != 0; }
  std::span<const int64_t> ints() {
    size_t n = size_t(a[at++]);
    auto s = a.subspan(at, n);
    at += n;
    return s;
  }
};

// Shapes and dtypes of the results of `op`, appended to `out`. Elementwise inputs must already agree in dtype.
// Throws Error with a message "[name] what is wrong: the shapes. What to do.".
struct Specs;  // a small fixed buffer
struct Specs {
  static constexpr int kMax = 4;
  Spec v[kMax];
  int n = 0;
  Spec& add() { return v[n++]; }
};
void infer(Op op, std::span<const Spec* const> in, std::span<const int64_t> attrs, Specs& out);
Shape broadcast(Op op, std::span<const Spec* const> in);  // NumPy broadcasting of all inputs; throws

}  // namespace knet
