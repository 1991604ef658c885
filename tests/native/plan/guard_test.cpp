// Guards: what decides whether a run fails comes first and is checked before anything is written over.
#include "planned.h"

namespace {

// A table whose rows are looked up at indices that are made from others; all is added to the table, whose memory may be
// taken for the result.
struct Lookup : Build {
  uint32_t table = leaf({5, 2}), given = leaf({3}, DType::I64), more = leaf({3, 2}), index, rows;
  explicit Lookup(bool by_product = false) {
    index = by_product ? op(Op::matmul, {leaf({3, 3}, DType::I64), given}) : op(Op::add, {given, constant(1, DType::I64)});
    const std::vector<uint32_t> in{table, index};
    const Words attrs{1, 0, 0};
    const uint32_t first = op(Op::exp, {more});  // comes before, and needs no index
    rows = g.add(Op::gather, in, attrs, 42);
    out(op(Op::add, {op(Op::add, {rows, first}), reduce(Op::sum, table, {0})}));
    out(op(Op::exp, {table}));
  }
};

struct Outcome {
  bool failed = false, kept = true;
  int32_t at = -2;
};

// With memory that nobody else holds.
Outcome run(const Build& b, const Plan& plan) {
  std::vector<Located> in, out(b.g.outputs.size());
  for (size_t i = 0; i < b.inputs.size(); ++i) {
    const Spec& s = b.g.values[b.g.inputs[i]];
    in.push_back({allocate({}, size_t(s.bytes())), 0});
    put(b.inputs[i], s.dtype, in.back().data());
  }
  Outcome o;
  try {
    plan.run(in, b.scalars, out);
  } catch (const Error& e) {
    o.failed = true, o.at = e.at;
  }
  return o;
}

bool can_fail(const Build& b, NaiveDevice& device) { return Plan(b.g, device).program->can_fail; }

}  // namespace

int main() {
  NaiveDevice device;
  {  // what makes the index is the first kernel, and the only one before the check
    Lookup b;
    b.inputs[1] = {0, 3, 1};
    check(b, true);
    const Plan plan(b.g, device);
    CHECK(plan.schedule.guards == 1 && plan.schedule.checked.size() == 1 && !plan.program->can_fail);
    const auto made = plan.schedule.out(plan.schedule.kernels[0]);
    CHECK(made.size() == 1 && made[0] == b.index);
    CHECK(!run(b, plan).failed);
  }
  {  // an index that is given needs no kernel
    Build b;
    const std::vector<uint32_t> in{b.leaf({4, 2}), b.leaf({3}, DType::I64)};
    b.inputs[1] = {3, 0, 3};
    b.out(b.op(Op::exp, {b.op(Op::exp, {in[0]})}));
    const Words attrs{1, 0, 0};
    b.out(b.g.add(Op::gather, in, attrs));
    check(b, true);
    const Plan plan(b.g, device);
    CHECK(plan.schedule.guards == 0 && plan.schedule.checked.size() == 1 && !plan.program->can_fail);
  }
  for (double bad : {4., 17., -2.}) {  // found before the kernels that need no index have run
    Lookup b;
    b.inputs[1] = {0, bad, 1};
    const Plan plan(b.g, device);
    const Outcome o = run(b, plan);
    CHECK(o.failed && o.at == 42);

    Bound bound;
    for (size_t i = 0; i < b.inputs.size(); ++i) {
      const Spec& s = b.g.values[b.g.inputs[i]];
      bound.inputs.push_back({allocate({}, size_t(s.bytes())), 0});
      put(b.inputs[i], s.dtype, bound.inputs.back().data());
    }
    std::vector<Located> out(b.g.outputs.size());
    plan.program->bind(bound, b.scalars, out);
    bool failed = false;
    try {
      plan.program->check(bound);
    } catch (const Error&) {
      failed = true;
    }
    CHECK(failed);
    for (size_t i = 0; i < b.inputs.size(); ++i) {
      const Spec& s = b.g.values[b.g.inputs[i]];
      CHECK(gather_layout(Layout::contiguous(s.dtype, s.shape), bound.inputs[i].data()) == b.inputs[i]);
    }
  }
  {  // what takes long is not moved to the front, and then only the run can tell
    Lookup b(true);
    CHECK(!can_fail(b, device));
    device.cost_ns = 1e6;
    CHECK(can_fail(b, device));
    device.cost_ns = 0;
  }
  {  // nor what makes a result, which may lie in the memory of an input
    Lookup b;
    CHECK(!can_fail(b, device));
    b.out(b.index);
    CHECK(can_fail(b, device));
  }
  return report_all();
}
