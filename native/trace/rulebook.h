// Derivative rules and expansions, captured. A rule is Python; it runs once per signature (op, attributes, specs of its
// operands), and what it recorded is kept as a Template, which the planner instantiates without Python.
#pragma once
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>
#include "plan/graph.h"
#include "trace/trace.h"

namespace knet {

struct Template;
// Shared: making one may push others out of the bounded book.
using TemplateRef = std::shared_ptr<const Template>;

struct Template {
  uint32_t formals = 0;             // operands: the first values
  std::vector<int64_t> words;       // as in a trace, without the formals
  std::vector<Spec> specs;          // per value, formals included
  std::vector<Scalar> scalars;      // numbers written in the rule: constants
  std::vector<int32_t> results;     // value, or -1: no result (a zero gradient)
  bool can_fail = false;            // it looks up places that only the data tells
  bool exact = false;               // `specs` are those that its values will have, if no operand is weak
  // If its one result is something added into zeros that it makes: the same, added into one more operand. Else null.
  TemplateRef onto;

  // Append the recorded operations to a graph on these operands. `into`: the results as values of the graph, or -1.
  // Compound operations among them are expanded on the way.
  void instantiate(Graph&, std::span<const uint32_t> operands, int32_t line, List<int64_t>& into) const;
};

// While it lives, this thread records into a trace of its own.
class Capture {
 public:
  Capture();
  ~Capture();
  uint32_t formal(const Spec&, Handle&);        // an operand of the rule; `Handle` now stands for it
  Template finish(std::span<const int64_t> results);  // value numbers of Trace::current(), or -1

 private:
  Trace trace_;
  Trace* outer_;
  uint32_t formals_ = 0;
};

// A signature: what a template depends on. (A derivative does not depend on whether its operands are weak, and that of
// an elementwise operation not on their shapes: one template serves all.)
struct Signature {
  Op op;
  std::span<const int64_t> attrs;
  std::span<const Spec* const> in, out;   // out: only for derivatives
  uint64_t has_dy = 0, needs = 0;         // bit per result with a gradient, per input that needs one
};

// The binding's side: run the Python rule under a Capture. Operands of a derivative: gradients that exist (in order),
// results, inputs; its results: one per needed input, in order. Operands of an expansion: the inputs.
struct RuleSource {
  std::function<Template(const Signature&)> derivative, expansion;
};
RuleSource& rule_source();

TemplateRef derivative(const Signature&);
TemplateRef expansion(const Signature&);
size_t templates();  // how many are kept

}  // namespace knet
