// The CPU as a device: kernels from the registry and the tile interpreter, memory from the pool.
#include "device.h"

#include "cpu/registry.h"
#include "cpu/threads.h"
#include "cpu/tile.h"
#include "memory/pool.h"

namespace knet {
namespace {

class CpuDevice final : public Device {
 public:
  bool accepts(Op op, int i, const Layout& layout) const override {
    cpu::Accepts ask = cpu::entry(op).accepts;
    return layout.is_contiguous() || (ask && ask(op, i, layout));
  }
  std::unique_ptr<Step> step(Op op, std::span<const Layout> out, std::span<const Layout> in,
                             std::span<const int64_t> attrs) override {
    cpu::Make make = cpu::entry(op).make;
    if (!make)
      throw Error(Error::Runtime,
                  std::string("[") + info(op).name + "] this build has no cpu kernel for it. Please report it.");
    return make(op, out, in, attrs);
  }
  std::unique_ptr<Step> tile(const TileProgram& program) override { return cpu::make_tile(program); }
  int64_t max_row() const override { return cpu::tile_max_row(); }
  void* allocate(size_t bytes) override { return pool_.allocate(bytes); }
  void release(void* p, size_t bytes) override { pool_.release(p, bytes); }
  MemoryStats memory() const override { return pool_.stats(); }
  void trim() override { pool_.trim(); }
  double threads_from_ns() const override { return cpu::kSerialNs; }
  void expect(double cost_ns) override { cpu::expect(cost_ns); }

 private:
  Pool& pool_ = Pool::host();
};

}  // namespace

// Never destroyed: buffers may be freed while the process ends.
Device& cpu_device() {
  static CpuDevice* cpu = new CpuDevice;
  return *cpu;
}

Device& device(DeviceId id) {
  if (id.kind == DeviceKind::Cpu && id.index == 0) return cpu_device();
  if (id.kind == DeviceKind::Cpu)
    throw Error(Error::Runtime, "[device] there is no " + str(id) + ". The one CPU device is \"cpu\".");
  throw Error(Error::Runtime,
              "[device] " + str(id) + " is not there: this build of knet has no CUDA. Use device \"cpu\".");
}

}  // namespace knet
