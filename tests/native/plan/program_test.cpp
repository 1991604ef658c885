// Programs: their results in every form, starts of slices that are computed, errors.
#include "planned.h"

int main() {
  {  // results: twice the same, reshaped, an input, a view, a number, an empty one
    Build b;
    uint32_t x = b.leaf({3, 4}), y = b.op(Op::exp, {x});
    b.out(y), b.out(y), b.out(b.list(Op::reshape, y, {12})), b.out(x), b.out(b.list(Op::reshape, x, {2, 6}));
    b.out(b.list(Op::transpose, y, {1, 0})), b.out(b.scalar(5)), b.out(b.constant(6));
    b.out(b.list(Op::transpose, x, {1, 0}));
    b.out(b.op(Op::exp, {b.leaf({0, 3})})), b.out(b.reduce(Op::sum, b.leaf({0, 3}), {0}));
    b.out(b.list(Op::broadcast_to, b.scalar(2), {2, 3}));
    Ran r = check(b);
    CHECK(r.outputs[0].data() == r.outputs[2].data());
    CHECK(r.outputs[0].data() == r.outputs[1].data());
  }
  {  // a start that is computed, forwards and backwards, with one that is bound
    Build b;
    uint32_t x = b.leaf({8, 6});
    uint32_t at = b.op(Op::argmax, {b.leaf({3})}, {0, 0});
    b.out(b.op(Op::slice, {x, at, b.scalar(1, DType::I64)}, {2, 0, 1, 2, 3, 2, 2, 2, 2}));
    uint32_t seven = b.op(Op::add, {at, b.constant(5, DType::I64)});
    b.out(b.op(Op::slice, {x, seven}, {1, 0, 1, 3, 1, -1}));
    check(b);
  }
  {  // reductions over axes of extent 1, with and without a change of type
    Build b;
    uint32_t x = b.leaf({3, 1, 2}), i = b.leaf({1, 4}, DType::I32), t = b.leaf({2, 1}, DType::Bool);
    b.out(b.reduce(Op::sum, x, {1})), b.out(b.reduce(Op::sum, i, {0})), b.out(b.reduce(Op::sum, t, {1}, true));
    b.out(b.reduce(Op::sum, t, {0, 1})), b.out(b.reduce(Op::any, x, {0, 2})), b.out(b.reduce(Op::max, x, {1}, true));
    check(b);
  }
  {  // an error names the operation and leaves the results alone
    Build b;
    uint32_t x = b.leaf({3});
    uint32_t i = b.op(Op::add, {b.scalar(7, DType::I64), b.constant(1, DType::I64)});
    std::vector<uint32_t> in{x, b.list(Op::broadcast_to, i, {2})};
    Words attrs{1, 0, 0};
    b.out(b.g.add(Op::gather, in, attrs, 42));
    NaiveDevice device;
    const Plan plan(b.g, device);
    std::vector<Located> inputs{{allocate({}, 24), 0}}, outputs(1);
    int32_t at = -2;
    try {
      plan.run(inputs, b.scalars, outputs);
    } catch (const Error& e) {
      at = e.at;
    }
    CHECK(at == 42 && !outputs[0].buffer);
  }
  return report_all();
}
