// Values that are others seen through strides.
#include "plan/views.h"

#include "planned.h"

int main() {
  {  // reshape: strides that fit, and strides that do not
    int64_t stride[kMaxRank];
    Layout l = Layout::contiguous(DType::F32, Shape{4, 6});
    CHECK(reshape_strides(l, Shape{2, 1, 2, 3, 2, 1}, stride));
    CHECK(stride[0] == 12 && stride[2] == 6 && stride[3] == 2 && stride[4] == 1);
    l.stride[0] = 1, l.stride[1] = 4;
    CHECK(!reshape_strides(l, Shape{24}, stride));
    CHECK(reshape_strides(l, Shape{2, 2, 6}, stride) && stride[0] == 2 && stride[1] == 1 && stride[2] == 4);
    l.stride[0] = 0, l.stride[1] = 0;
    CHECK(reshape_strides(l, Shape{3, 8}, stride) && stride[0] == 0 && stride[1] == 0);
    CHECK(reshape_strides(Layout::contiguous(DType::F32, Shape{1, 1}), Shape{}, stride));
    CHECK(reshape_strides(Layout::contiguous(DType::F32, Shape{}), Shape{1, 1, 1}, stride));
  }
  {  // one after the other: offsets and strides in elements; a start that is data stays one
    Build b;
    uint32_t x = b.leaf({4, 6}), at = b.scalar(1, DType::I64);
    View v = own_memory(x, b.g.values[x]);
    const auto see = [&](uint32_t of) {
      View to;
      const bool ok = view_of(b.g, b.g.made(of), v, to);
      x = of, v = to;
      return ok;
    };
    const int64_t* stride = v.layout.stride;
    CHECK(is_whole(v, b.g) && v.root == x);
    CHECK(see(b.list(Op::transpose, x, {1, 0})) && stride[0] == 1 && stride[1] == 6);
    CHECK(see(b.slice(x, 0, b.constant(2, DType::I64), 2, 2)) && v.offset == 2 && stride[0] == 2);
    CHECK(see(b.slice(x, 1, at, 2)) && v.dynamic.size() == 1 && v.dynamic[0].scalar == at && v.dynamic[0].stride == 6);
    CHECK(see(b.list(Op::flip, x, {0})) && v.offset == 4 && stride[0] == -2 && stride[1] == 6);
    CHECK(see(b.list(Op::broadcast_to, x, {3, 2, 2})) && stride[0] == 0 && stride[1] == -2 && stride[2] == 6);
    CHECK(!is_whole(v, b.g) && v.dynamic.size() == 1 && v.offset == 4 && v.root == b.g.inputs[0]);
    CHECK(!see(b.list(Op::reshape, x, {12})));
  }
  return report_all();
}
