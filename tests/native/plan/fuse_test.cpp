// What must fuse, and how.
#include "planned.h"

int main() {
  {  // a chain is one kernel; a bound number is a Scalar register; arithmetic on numbers costs no kernel
    Build b;
    uint32_t x = b.leaf({3, 4}), lr = b.scalar(2), two = b.constant(3);
    uint32_t y = b.op(Op::add, {b.op(Op::multiply, {x, b.op(Op::multiply, {lr, two})}), b.leaf({4})});
    b.out(b.op(Op::relu, {y}));
    CHECK(check(b).plan.kernels() == 1);
  }
  {  // softmax and its sum over the batch: one kernel
    Build b;
    uint32_t x = b.leaf({5, 7});
    uint32_t m = b.reduce(Op::max, x, {1}, true);
    uint32_t e = b.op(Op::exp, {b.op(Op::subtract, {x, m})});
    uint32_t y = b.op(Op::divide, {e, b.reduce(Op::sum, e, {1}, true)});
    b.out(y);
    b.out(b.reduce(Op::sum, y, {0}));
    Ran r = check(b);
    CHECK(r.plan.kernels() == 1);
    CHECK(check(b, false, true, 3).plan.kernels() > 1);  // rows too long for a tile
  }
  {  // a small loss in one kernel with what follows from it
    Build b;
    uint32_t x = b.leaf({3, 4}), y = b.leaf({3, 4});
    uint32_t d = b.op(Op::subtract, {x, y});
    uint32_t s = b.reduce(Op::sum, b.op(Op::multiply, {d, d}), {0, 1});
    b.out(b.op(Op::multiply, {s, b.constant(2)}));
    CHECK(check(b).plan.kernels() == 1);
    b.out(b.reduce(Op::sum, d, {0}));
    check(b);
  }
  {  // the split guessed for a sum of everything gives way to a real one
    Build b;
    uint32_t x = b.leaf({3, 4});
    uint32_t y = b.op(Op::exp, {b.op(Op::add, {x, b.leaf({3, 4})})});
    b.out(b.reduce(Op::sum, y, {0, 1}));
    b.out(b.reduce(Op::sum, y, {0}));
    b.out(b.op(Op::subtract, {y, b.reduce(Op::max, y, {1}, true)}));
    check(b);
  }
  {  // what only the backward pass needs is not computed forwards
    Build b;
    uint32_t x = b.leaf({4, 4}), w = b.leaf({4, 4});
    uint32_t y = b.op(Op::tanh, {b.op(Op::add, {b.op(Op::matmul, {x, w}), b.leaf({4})})});
    uint32_t dy = b.op(Op::matmul, {y, w});
    uint32_t slope = b.op(Op::subtract, {b.constant(1), b.op(Op::multiply, {y, y})});
    uint32_t dx = b.op(Op::multiply, {dy, slope});
    b.out(dx);
    b.out(b.reduce(Op::sum, dx, {0}));
    Ran r = check(b);
    CHECK(r.plan.kernels() == 4);
    for (const Kernel& k : r.plan.schedule.kernels)
      if (k.tile()) CHECK(k.n_out == (k.n_nodes > 2 ? 2u : 1u));
  }
  {  // gates: four slices of one product, one kernel
    Build b;
    uint32_t a = b.op(Op::matmul, {b.leaf({3, 2}), b.leaf({2, 8})}), c = b.leaf({3, 2});
    auto gate = [&](int64_t k, Op o) { return b.op(o, {b.slice(a, 1, b.constant(double(2 * k), DType::I64), 2)}); };
    uint32_t i = gate(0, Op::exp), f = gate(1, Op::exp), o = gate(2, Op::exp), g = gate(3, Op::tanh);
    uint32_t c2 = b.op(Op::add, {b.op(Op::multiply, {f, c}), b.op(Op::multiply, {i, g})});
    b.out(c2);
    b.out(b.op(Op::multiply, {o, b.op(Op::tanh, {c2})}));
    CHECK(check(b).plan.kernels() == 2);
  }
  return report_all();
}
