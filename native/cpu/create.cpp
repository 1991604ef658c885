// iota: start + i * step, each element from its own index, so that nothing accumulates.
#include "dtypes.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

template <class T>
class IotaStep : public Step {
 public:
  explicit IotaStep(int64_t n) : n_(n) { cost_ns = 0.5 * double(n); }

  void run(char* const* out, const char* const* in, char*) const override {
    using A = Accumulator<T>;
    const A start = A(*reinterpret_cast<const T*>(in[0])), step = A(*reinterpret_cast<const T*>(in[1]));
    T* to = reinterpret_cast<T*>(out[0]);
    Split split(n_, 1 << 15);
    parallel(split.tasks(), cost_ns, [&](int64_t task) {
      for (int64_t i = split.begin(task); i < split.end(task); ++i) to[i] = T(start + A(i) * step);
    });
  }

 private:
  int64_t n_;
};

Register iotas({Op::iota},
               [](Op, std::span<const Layout> out, std::span<const Layout>, std::span<const int64_t>)
                   -> std::unique_ptr<Step> {
                 return by_dtype("iota", out[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                   return std::make_unique<IotaStep<T>>(out[0].shape.size());
                 });
               });

}  // namespace
}  // namespace knet::cpu
