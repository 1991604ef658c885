// The CPU as a device: kernels from the registry and the tile interpreter, memory from the pool.
#include "device.h"

#include <mutex>
#include <unordered_map>

#include "cpu/registry.h"
#include "cpu/threads.h"
#include "cpu/tile.h"
#include "memory/pool.h"
#include "words.h"

namespace knet {
namespace {

// Steps by what they were made from. Plans have many in common: the kernels of a tree are a dozen, whatever its form.
class Steps {
 public:
  using Key = std::vector<int64_t>;

  // An empty key, whose memory is used again.
  static Key& key() {
    static thread_local Key key;
    key.clear();
    return key;
  }

  template <class Make>
  std::shared_ptr<const Step> get(const Key& key, Make make) {
    {
      std::lock_guard lock(mutex_);
      if (auto it = known_.find(key); it != known_.end()) return it->second;
    }
    std::shared_ptr<const Step> made = make();
    std::lock_guard lock(mutex_);
    if (known_.size() >= kMost) known_.clear();  // plans hold on to their own
    known_.emplace(key, made);
    return made;
  }

 private:
  static constexpr size_t kMost = 4096;  // of a few hundred bytes each
  std::mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const Step>, WordsHash, SameWords> known_;
};

void append(Steps::Key& key, const Layout& l) {
  const bool contiguous = l.is_contiguous();
  key.push_back(int64_t(l.dtype) | int64_t(l.shape.rank) << 8 | int64_t(contiguous) << 16);
  for (int64_t d : l.shape) key.push_back(d);
  for (int i = 0; i < l.shape.rank && !contiguous; ++i) key.push_back(l.stride[i]);
}

const Steps::Key& key_of(const TileProgram& p) {
  Steps::Key& key = Steps::key();
  key.push_back(-1);
  key.push_back(p.dims.rank | int64_t(p.split) << 8 | int64_t(p.inputs.size()) << 16 | int64_t(p.instrs.size()) << 32 |
                int64_t(p.outputs.size()) << 48);
  key.insert(key.end(), p.dims.begin(), p.dims.end());
  for (const auto& in : p.inputs) {
    key.push_back(int64_t(in.dtype) | int64_t(in.cls) << 8);
    if (in.cls != Reg::Scalar) key.insert(key.end(), in.stride, in.stride + (in.cls == Reg::Row ? p.split : p.dims.rank));
  }
  for (const auto& i : p.instrs) {
    key.push_back(int64_t(i.what) | int64_t(i.op) << 8 | int64_t(i.dtype) << 24 | int64_t(i.to) << 32 |
                  int64_t(i.cls) << 40 | int64_t(i.n_src) << 48);
    int64_t src = 0;
    for (int k = 0; k < i.n_src; ++k) src |= int64_t(i.src[k]) << 16 * k;
    key.push_back(src);
  }
  for (const auto& o : p.outputs) {
    key.push_back(int64_t(o.what) | int64_t(o.reg) << 8 | int64_t(o.dtype) << 24 | int64_t(o.reduce) << 32);
    if (o.what == TileProgram::Output::Store || o.what == TileProgram::Output::ReduceSome)
      key.insert(key.end(), o.stride, o.stride + p.dims.rank);
  }
  return key;
}

class CpuDevice final : public Device {
 public:
  bool accepts(Op op, int i, const Layout& layout, uint32_t readers) const override {
    cpu::Accepts ask = cpu::entry(op).accepts;
    return layout.is_contiguous() || (ask && ask(op, i, layout, readers));
  }
  std::shared_ptr<const Step> step(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                   std::span<const int64_t> attrs) override {
    const auto [make, accepts, shared] = cpu::entry(op);
    if (!make)
      throw Error(Error::Runtime,
                  std::string("[") + info(op).name + "] this build has no cpu kernel for it. Please report it.");
    if (!shared) return make(op, out, in, attrs);
    Steps::Key& key = Steps::key();
    key.push_back(int64_t(op) | int64_t(out.size()) << 16 | int64_t(in.size()) << 32);
    for (const Layout& l : out) append(key, l);
    for (const Layout& l : in) append(key, l);
    key.insert(key.end(), attrs.begin(), attrs.end());
    return steps_.get(key, [&, make = make] { return make(op, out, in, attrs); });
  }
  std::shared_ptr<const Step> tile(const TileProgram& program) override {
    return steps_.get(key_of(program), [&] {
      auto step = cpu::make_tile(program);
      step->program = std::make_shared<const TileProgram>(program);
      return step;
    });
  }
  int64_t max_row() const override { return cpu::tile_max_row(); }
  void* allocate(size_t bytes) override { return pool_.allocate(bytes); }
  void release(void* p, size_t bytes) override { pool_.release(p, bytes); }
  MemoryStats memory() const override { return pool_.stats(); }
  void trim() override { pool_.trim(); }
  double threads_from_ns() const override { return cpu::kSerialNs; }
  void expect(double cost_ns, double in_ns) override { cpu::expect(cost_ns, in_ns); }
  bool launch(AsyncTask& task, double cost_ns) override { return cpu::launch(task, cost_ns); }
  void wait(AsyncTask& task) override { cpu::wait(task); }

 private:
  Pool& pool_ = Pool::host();
  Steps steps_;
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
