// What a plan asks of a device. A plan is a list of Steps; a device makes them. Nothing here knows of plans or Python.
#pragma once
#include <atomic>
#include <memory>
#include <vector>
#include "trace/op.h"
#include "types.h"

namespace knet {

// Where the elements of an operand lie, relative to its pointer: strides in elements (0 = broadcast, may be negative).
struct Layout {
  DType dtype = DType::F32;
  Shape shape;
  int64_t stride[kMaxRank];
  Layout() = default;
  Layout(const Layout& o) { *this = o; }
  Layout& operator=(const Layout& o) {
    dtype = o.dtype;
    shape = o.shape;
    copy_dims(stride, o.stride, shape.rank);
    return *this;
  }
  static Layout contiguous(DType, const Shape&);
  bool is_contiguous() const;  // C order, no gaps (dimensions of extent 1 are ignored; empty is contiguous)
};

struct TileProgram;

// One prepared kernel call: everything but the pointers is fixed. Stateless while running, so a plan may be run again
// at once. `out[k]`/`in[k]` point at the first element of each operand's layout; `scratch` has `scratch_bytes` bytes,
// 64-aligned. The same inputs give the same bits for any number of threads. Throws Error (only) when data is bad (an
// index out of range).
class Step {
 public:
  virtual ~Step() = default;
  virtual void run(char* const* out, const char* const* in, char* scratch) const = 0;
  // May out[k] be the same memory as in[j]? (in-place). Asked by the planner; only for operands of equal layout.
  virtual bool may_alias(int /*out*/, int /*in*/) const { return false; }
  // May out[k] be null where nobody reads it?
  virtual bool may_skip(int /*out*/) const { return false; }
  // Do the elements of in[j] decide whether run() throws? check() throws as run() would and reads nothing but these.
  virtual bool decides(int /*in*/) const { return false; }
  virtual void check(const char* const* /*in*/) const {}
  virtual std::string text() const { return {}; }  // one line for explain: kernel variant, tile sizes
  std::shared_ptr<const TileProgram> program;  // what Device::tile() made it from; null: not of a tile program
  size_t scratch_bytes = 0;
  double cost_ns = 0;  // rough estimate on one core, for threading and for releasing the interpreter lock
};

// A fused elementwise-and-reduce kernel, as data. Registers are values over the iteration space, in three classes:
//   Full   one element per point of `dims`
//   Row    one element per row (a row is dims[split:], so a point of dims[:split])
//   Scalar one element in all
// Instructions are in order, in SSA form: register r is written once, by input r or by instruction r - inputs.size().
enum class Reg : uint8_t { Scalar, Row, Full };
struct TileProgram {
  struct Input {
    DType dtype;
    Reg cls;
    int64_t stride[kMaxRank];  // in elements, over dims (Full) or dims[:split] (Row); nothing for Scalar
  };
  struct Instr {
    enum What : uint8_t {
      Map,        // tile opcode `op` on registers of lower or equal class (lower ones are broadcast)
      RowReduce,  // Full -> Row over the row; `op` is sum, prod, max, min, any or all
    } what = Map;
    Op op;              // an Elementwise op (cast included, with dtype = from, to = dtype of the result)
    DType dtype;        // type of the inputs (for where: of the two values)
    DType to;           // type of the result
    Reg cls;            // class of the result
    uint8_t n_src = 0;
    uint16_t src[4];
  };
  struct Output {
    enum What : uint8_t {
      Store,      // write a Full register with strides over dims, a Row register with strides over dims[:split], a Scalar
      ReduceAll,  // reduce a Full register over everything to one element
      ReduceCols, // reduce a Full register over dims[:split], leaving a row: contiguous, product(dims[split:]) elements
      ReduceSome, // reduce a Full register over the dims whose stride is 0, leaving the others: contiguous, in C order
    } what = Store;
    uint16_t reg;
    DType dtype;
    Op reduce;                 // sum, prod, max, min, any, all
    int64_t stride[kMaxRank];  // Store and ReduceSome
  };
  Shape dims;      // iteration space, C order, collapsed as far as all strides allow
  int split = 0;   // dims[split:] is a row. A program with no Row register and no ReduceCols has split 0 and no rows
  std::vector<Input> inputs;
  std::vector<Instr> instrs;
  std::vector<Output> outputs;
};

struct MemoryStats {
  int64_t live = 0;      // bytes in buffers that somebody holds
  int64_t peak = 0;      // most bytes ever live
  int64_t pooled = 0;    // bytes kept for reuse
};

// Work that may go on beside the thread that launched it. It throws nothing. A thread that waits for tasks looks at
// `state` all the time: what a task works on belongs into other lines of the cache.
struct alignas(64) AsyncTask {
  virtual void run() noexcept = 0;
  enum State : int32_t { Done, Launched, Running };
  std::atomic<int32_t> state{Done};
  bool done() const { return state.load(std::memory_order_acquire) == Done; }

 protected:
  ~AsyncTask() = default;
};

class Device {
 public:
  virtual ~Device() = default;
  // Should `op` read input `i` in this layout, which so many steps read? If not the planner makes a contiguous copy for
  // all of them.
  virtual bool accepts(Op op, int i, const Layout&, uint32_t readers) const = 0;
  // Steps are shared by all plans that need the same.
  virtual std::shared_ptr<const Step> step(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                           std::span<const int64_t> attrs) = 0;
  virtual std::shared_ptr<const Step> tile(const TileProgram&) = 0;
  // Longest row (in elements of the widest register) for which row reductions are fused (the row must fit the tile).
  virtual int64_t max_row() const = 0;
  virtual void* allocate(size_t bytes) = 0;  // 64-aligned; throws Error::Memory
  virtual void release(void*, size_t bytes) = 0;
  virtual MemoryStats memory() const = 0;
  virtual void trim() = 0;  // give pooled memory back to the system
  // Steps of `cost_ns` and more may use several threads. expect() says that such work begins in about `in_ns`.
  virtual double threads_from_ns() const { return 0; }
  virtual void expect(double /*cost_ns*/, double /*in_ns*/) {}
  // Begins a task of about `cost_ns`, if there is a thread for it at hand, or one worth waking; else false. One at a
  // time.
  virtual bool launch(AsyncTask&, double /*cost_ns*/) { return false; }
  virtual void wait(AsyncTask&) {}  // until it is done
};
Device& device(DeviceId);  // throws Error::Runtime if it was not built in or is not there
Device& cpu_device();      // native/cpu/device.cpp

}  // namespace knet
