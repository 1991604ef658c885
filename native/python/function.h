// The arguments of an operation's recording function: what function.cpp, which takes the calls, shares with
// arguments.cpp, which reads what they bring.
#pragma once
#include <string>
#include <vector>

#include "python/array.h"

namespace knet {

enum class AttrKind : uint8_t { Int, Bool, Ints, Axis, Axes, Shape, DType };

// What is done with an input before it is recorded.
enum class Role : uint8_t {
  Data,     // promoted with the others where the operation wants one type
  Into,     // cast to the type of input 0: values written into an array
  Index,    // integers become int64
  Seed,     // uint64
  Element,  // cast to the dtype attribute
};

struct Input {
  PyObject* name;   // interned
  PyObject* value;  // its default number, or null
  Role role;
};

struct Attribute {
  PyObject* name;
  AttrKind kind;
  PyObject* value;  // its default, or null: required
};

struct Entry {
  Op op;
  const OpInfo* about;
  std::vector<Input> inputs;
  std::vector<Attribute> attrs;
  bool variadic = false;  // the last input may occur any number of times
  bool one_type = false;  // data inputs are promoted to a common type
  PyObject *name, *doc;
  int dtype_at = -1, axis_at = -1, keepdims_at = -1;

  size_t fixed() const { return inputs.size() - size_t(variadic); }
};

std::string text(PyObject*);
// "x, axis=None, keepdims=False"
std::string parameters(const Entry&);
[[noreturn, gnu::cold]] void wrong_call(const Entry&, const std::string& what);
inline bool is_sequence(PyObject* o) { return PyTuple_Check(o) || PyList_Check(o); }

// Attributes as words.
struct Words {
  int64_t few[3 * kMaxRank + 16];
  size_t n = 0;
  void push(const Entry& e, int64_t w) {
    if (n == std::size(few))
      throw Error(Error::Value, std::string("[") + e.about->name + "] too many numbers in its attributes.");
    few[n++] = w;
  }
};

void encode(const Entry&, const Attribute&, PyObject*, const Shape& first, Words&);

// Values of the inputs. What has a type of its own goes first; Python numbers then take the common type.
struct Values {
  uint32_t few[8];
  std::vector<uint32_t> many;
  uint32_t* v = few;
  size_t n = 0;
};

void convert(Trace&, const Entry&, PyObject* const* objects, size_t n, Values& out, DType element, bool has_element);

// What would run Python code, or compute something, while it is converted: done before anything is recorded, since a
// run voids the numbers of values. Replaced arguments live in `kept`.
void settle(const Entry&, PyObject** objects, size_t n, PyObject** attrs, std::vector<Ref>& kept);
bool settled(const Entry&, PyObject* const* objects, size_t n, PyObject* const* attrs);

}  // namespace knet
