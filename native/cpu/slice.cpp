// slice_update and slice_add: a region of x, at starts that are data, replaced by v or added to. The planner may have
// joined several slice_adds: then v has one more axis, the first, and there are starts for each of its members. And
// slices: several regions of x along a new first axis.
#include "copy.h"
#include "registry.h"

namespace knet::cpu {
namespace {

class SliceStep : public Step {
 public:
  SliceStep(Op op, const Layout& out, std::span<const Layout> in, std::span<const int64_t> attrs)
      : op_(op), shape_(out.shape), bytes_(out.shape.size() * int64_t(itemsize(out.dtype))) {
    AttrReader read{attrs};
    auto axes = read.ints(), steps = read.ints();
    int64_t to[kMaxRank];
    for (int i = 0; i < out.shape.rank; ++i) to[i] = out.stride[i];
    for (size_t k = 0; k < axes.size(); ++k) {
      axis_.push(axes[k]);
      step_.push(steps[k]);
      stride_.push(out.stride[axes[k]] * int64_t(itemsize(out.dtype)));
      to[axes[k]] *= steps[k];
    }
    const Layout& v = in[1];
    const int more = v.shape.rank - out.shape.rank;
    region_ = Shape(v.shape.dims().subspan(size_t(more)));
    if (more) count_ = v.shape[0], member_ = v.stride[0] * int64_t(itemsize(v.dtype));
    const auto what = op == Op::slice_add ? StridedMove::Add : StridedMove::Copy;
    move_ = StridedMove(out.dtype, region_, to, v.stride + more, what);
    cost_ns = double(count_) * move_.cost_ns();  // in place, as nearly always
  }

  void run(char* const* out, const char* const* in, char*) const override {
    check(in);  // nothing is written if one is out of range
    if (out[0] != in[0]) copy_bytes(out[0], in[0], bytes_);
    for (int64_t i = 0; i < count_ && region_.size() > 0; ++i)
      move_.run(out[0] + offset_of(in + 2 + i * axis_.rank), in[1] + i * member_);
  }
  bool may_alias(int out, int in) const override { return out == 0 && in == 0; }
  bool decides(int in) const override { return in > 1; }
  void check(const char* const* in) const override {
    for (int64_t i = 0; i < count_; ++i) offset_of(in + 2 + i * axis_.rank);
  }
  std::string text() const override { return move_.text(); }

 private:
  Op op_;
  Shape shape_, region_, axis_, step_, stride_;  // per sliced axis: which, its step, bytes between its elements
  int64_t bytes_;
  StridedMove move_;
  int64_t count_ = 1, member_ = 0;  // how many regions; bytes from what is written to one to the next

  // Bytes from the beginning of the result to a region.
  int64_t offset_of(const char* const* starts) const {
    int64_t offset = 0;
    for (int k = 0; k < axis_.rank; ++k) {
      const int axis = int(axis_[k]);
      const int64_t start = *reinterpret_cast<const int64_t*>(starts[k]), n = region_[axis], extent = shape_[axis];
      const int64_t end = start + (n - 1) * step_[k];
      if (n > 0 && (start < 0 || start >= extent || end < 0 || end >= extent))
        throw Error(Error::Index, "[" + std::string(info(op_).name) + "] elements " + std::to_string(start) + " to " +
                                      std::to_string(end) + " are out of range for axis " + std::to_string(axis) +
                                      " of shape " + str(shape_) + ". Check the start of the slice.");
      offset += start * stride_[k];
    }
    return offset;
  }
};

class SlicesStep : public Step {
 public:
  SlicesStep(const Layout& out, const Layout& x, std::span<const int64_t> attrs) : count_(out.shape[0]) {
    AttrReader read{attrs};
    const auto axes = read.ints();
    read.ints();  // lengths: in the shape
    const auto steps = read.ints();
    const int64_t size = int64_t(itemsize(x.dtype));
    int64_t from[kMaxRank];
    std::copy(x.stride, x.stride + x.shape.rank, from);
    for (size_t k = 0; k < axes.size(); ++k) {
      stride_.push(x.stride[axes[k]] * size);
      from[axes[k]] *= steps[k];
    }
    move_ = StridedMove(out.dtype, Shape(out.shape.dims().subspan(1)), out.stride + 1, from);
    member_ = out.stride[0] * size;
    cost_ns = double(count_) * (5 + move_.cost_ns());
  }

  void run(char* const* out, const char* const* in, char*) const override {
    const char* const* start = in + 1;
    for (int64_t i = 0; i < count_; ++i) {
      const char* from = in[0];
      for (int64_t stride : stride_) from += *reinterpret_cast<const int64_t*>(*start++) * stride;
      move_.run(out[0] + i * member_, from);
    }
  }
  std::string text() const override { return move_.text(); }

 private:
  int64_t count_, member_;  // how many; bytes from one to the next
  Shape stride_;            // bytes between the elements of each sliced axis
  StridedMove move_;
};

Register writes({Op::slice_update, Op::slice_add},
                [](Op op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                    -> std::unique_ptr<Step> { return std::make_unique<SliceStep>(op, out[0], in, attrs); },
                [](Op, int i, const Layout& x, uint32_t) { return i == 1 || x.is_contiguous(); });
Register reads({Op::slices},
               [](Op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                   -> std::unique_ptr<Step> { return std::make_unique<SlicesStep>(out[0], in[0], attrs); },
               [](Op, int i, const Layout& x, uint32_t) { return i == 0 || x.is_contiguous(); });

}  // namespace
}  // namespace knet::cpu
