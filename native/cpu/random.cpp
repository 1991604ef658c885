// random_uniform, random_normal, random_bits: block b of a call depends on seed, counter and b alone, so any split of
// the work gives the same numbers.
#include "isa.h"
#include "isa/random.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

#ifdef KNET_X86
const RandomTable& table() { return pick(v2::random_table, v3::random_table, v4::random_table); }
#else
const RandomTable& table() { return base::random_table; }
#endif

class RandomStep : public Step {
 public:
  RandomStep(Distribution d, const Layout& out)
      : fill_(table().fill[d]), bytes_(out.shape.size() * int64_t(itemsize(out.dtype))) {
    cost_ns = 20 + double(bytes_) * (d == kNormal64 ? 0.6 : d == kNormal32 ? 0.3 : 0.12);
  }
  void run(char* const* out, const char* const* in, char*) const override {
    const uint64_t seed = *reinterpret_cast<const uint64_t*>(in[0]),
                   counter = *reinterpret_cast<const uint64_t*>(in[1]);
    Split split(bytes_, 1 << 16);  // whole blocks of 16 bytes
    parallel(split.tasks(), cost_ns, [&](int64_t i) {
      int64_t begin = split.begin(i);
      fill_(seed, counter, uint64_t(begin / 16), split.end(i) - begin, out[0] + begin);
    });
  }

 private:
  void (*fill_)(uint64_t, uint64_t, uint64_t, int64_t, void*);
  int64_t bytes_;
};

Register randoms({Op::random_uniform, Op::random_normal, Op::random_bits},
                 [](Op op, std::span<const Layout> out, std::span<const Layout>, std::span<const int64_t>)
                     -> std::unique_ptr<Step> {
                   DType t = out[0].dtype;
                   bool bits = op == Op::random_bits, uniform = op == Op::random_uniform;
                   if (bits ? t != DType::U32 && t != DType::U64 : t != DType::F32 && t != DType::F64)
                     throw Error(Error::Type, std::string("[") + info(op).name + "] cannot make " + name(t) +
                                                  ". Ask for " +
                                                  (bits ? "uint32 or uint64." : "float32 or float64, and convert."));
                   Distribution d = bits ? kBits
                                    : t == DType::F32 ? (uniform ? kUniform32 : kNormal32)
                                                      : (uniform ? kUniform64 : kNormal64);
                   return std::make_unique<RandomStep>(d, out[0]);
                 });

}  // namespace
}  // namespace knet::cpu
