// Where results lie: in one memory as long as it goes, in that of an input that nobody else holds.
#include "planned.h"

int main() {
  {  // an accumulation stays in one memory, the result's
    Build b;
    uint32_t acc = b.op(Op::exp, {b.leaf({50, 4})}), part = b.leaf({1, 4});
    for (int i = 0; i < 50; ++i) acc = b.op(Op::slice_add, {acc, part, b.scalar(i, DType::I64)}, {1, 0, 1, 1});
    b.out(acc);
    Ran r = check(b);
    CHECK(r.plan.arena_bytes() <= 50 * 8 + 64);
  }
  {  // donation: x += 1 again and again needs no second buffer; held inputs stay as they are
    Build b;
    uint32_t x = b.leaf({30});
    b.out(b.op(Op::add, {x, b.scalar(1)}));
    CHECK(check(b, true).donated == 1);
    CHECK(check(b, false).donated == 0);
    b.out(x);
    CHECK(check(b, true).donated == 1);  // the input itself; not written over
  }
  {  // an input that is read again after, or read shifted, is not written over
    Build b;
    uint32_t x = b.leaf({6});
    uint32_t y = b.op(Op::add, {x, b.list(Op::flip, x, {0})});
    b.out(y);
    CHECK(check(b, true).donated == 0);
  }
  return report_all();
}
