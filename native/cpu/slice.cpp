// slice_update and slice_add: a region of x, at starts that are data, replaced by v or added to. The planner may have
// joined several slice_adds along one axis: (x, v, start, v, start, ...).
#include "copy.h"
#include "registry.h"

namespace knet::cpu {
namespace {

class SliceStep : public Step {
 public:
  SliceStep(Op op, const Layout& out, std::span<const Layout> in, std::span<const int64_t> attrs)
      : op_(op), shape_(out.shape), region_(in[1].shape), bytes_(out.shape.size() * int64_t(itemsize(out.dtype))) {
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
    const auto what = op == Op::slice_add ? StridedMove::Add : StridedMove::Copy;
    cost_ns = 0.1 * double(bytes_);
    for (size_t i = 1; i < in.size(); i += 1 + axes.size()) {
      moves_.emplace_back(out.dtype, region_, to, in[i].stride, what);
      cost_ns += moves_.back().cost_ns();
    }
  }

  void run(char* const* out, const char* const* in, char*) const override {
    const size_t each = size_t(1 + axis_.rank);
    check(in);  // nothing is written if one is out of range
    if (out[0] != in[0]) copy_bytes(out[0], in[0], bytes_);
    for (size_t i = 0; i < moves_.size() && region_.size() > 0; ++i)
      moves_[i].run(out[0] + offset_of(in + 2 + i * each), in[1 + i * each]);
  }
  bool may_alias(int out, int in) const override { return out == 0 && in == 0; }
  bool decides(int in) const override { return in > 0 && (in - 1) % (1 + axis_.rank) > 0; }
  void check(const char* const* in) const override {
    for (size_t i = 0; i < moves_.size(); ++i) offset_of(in + 2 + i * size_t(1 + axis_.rank));
  }
  std::string text() const override { return moves_[0].text(); }

 private:
  Op op_;
  Shape shape_, region_, axis_, step_, stride_;  // per sliced axis: which, its step, bytes between its elements
  int64_t bytes_;
  std::vector<StridedMove> moves_;

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

Register slices({Op::slice_update, Op::slice_add},
                [](Op op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                    -> std::unique_ptr<Step> { return std::make_unique<SliceStep>(op, out[0], in, attrs); },
                [](Op, int i, const Layout& x, uint32_t) { return i % 2 == 1 || x.is_contiguous(); });

}  // namespace
}  // namespace knet::cpu
