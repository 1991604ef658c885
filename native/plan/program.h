// The last form of a plan: Steps in order over an arena, and how their pointers are found at each run.
#pragma once
#include <memory>
#include <string>
#include <vector>
#include "device.h"
#include "memory/buffer.h"
#include "plan/graph.h"

namespace knet {

// fuse: which values are views of others, which nodes become one tile program, which are Steps of their own.
struct View {             // a value as strides over the memory of another value (`root`), no kernel needed
  uint32_t root;
  int64_t offset = 0;     // elements, fixed
  struct Dynamic { uint32_t scalar; int64_t stride; };  // + bound I64 scalar * stride: slice starts are data
  List<Dynamic> dynamic;
  Layout layout;          // last, since it is long
};
struct Kernel {
  // In Schedule::words, one after the other: its nodes of the graph (more than one only in a tile program),
  // the values it reads (through their views), the values it writes.
  uint32_t at = 0, n_nodes = 0, n_in = 0, n_out = 0;
  std::shared_ptr<const Step> step;   // made by the device; shared with the program
  // For elementwise and fused reductions; else (null) nodes[0] is a Step of its own.
  const TileProgram* tile() const { return step->program.get(); }
};
// A concatenation that no kernel copies: its parts are written where they belong.
struct Joined {
  uint32_t whole;
  struct Part { uint32_t value; int64_t offset; };  // bytes from its beginning
  List<Part> parts;
};
struct Schedule {
  Graph graph;
  List<View> views;            // per value; views[v].root == v for a value with memory of its own
  std::vector<Kernel> kernels;        // in order of execution
  List<uint32_t> words;        // what kernels are made of, see Kernel::at
  List<Joined> joined;
  // guard: the first so many kernels make the indices of the kernels in `checked`, which can be checked when they have
  // run.
  uint32_t guards = 0;
  List<uint32_t> checked;
  std::span<const uint32_t> nodes(const Kernel& k) const { return {words.data() + k.at, k.n_nodes}; }
  std::span<const uint32_t> in(const Kernel& k) const { return {words.data() + k.at + k.n_nodes, k.n_in}; }
  std::span<const uint32_t> out(const Kernel& k) const { return {words.data() + k.at + k.n_nodes + k.n_in, k.n_out}; }
  std::string text() const;
  std::vector<std::string> lines() const;  // each kernel in words
};
Schedule fuse(Graph, Device&);
void guard(Schedule&);

// place: lifetimes to offsets. Each root value lies in an input's buffer, in the scalars, in the arena or in an
// output's buffer.
struct Place {
  enum What : uint8_t { None, Input, ScalarSlot, Constant, Arena, Output } what = None;
  uint32_t index = 0;   // which input / scalar / constant / output
  int64_t offset = 0;   // bytes (Arena, ScalarSlot, Constant)
};
// An input that an output may take over. When it runs, an output takes the first that nobody else holds.
struct Gift { uint32_t output, input; };
struct Placement {
  List<Place> places;     // per value; views have none (see their root)
  List<int64_t> scratch;  // per kernel: where in the arena its scratch lies (0 if it needs none)
  List<Gift> gifts;       // in the order in which the outputs are written
  int64_t arena_bytes = 0;
  int64_t live_bytes = 0;     // the most that is alive at once by liveness: the floor for arena_bytes
  std::string text(const Schedule&) const;
};
Placement place(const Schedule&);

// What one run works on, and holds until it has ended.
class Bound {
 public:
  // What the thread reads that runs it, in lines of the cache of their own, since that may be another one than binds
  // it.
  struct alignas(64) Line { char bytes[64]; };
  char** base() const { return reinterpret_cast<char**>(const_cast<Line*>(lines_.data())); }
  Scalar* scalars() const { return reinterpret_cast<Scalar*>(base() + n_base_); }
  void resize(size_t n_base, size_t n_scalars);

 private:
  std::vector<Line> lines_;
  size_t n_base_ = 0;

 public:
  alignas(64) std::vector<Located> inputs;  // in the order of Graph::inputs
  std::vector<Located> made;                // the memory of results
  BufferRef arena;
  void release();                           // lets go of all, but keeps its own room for the next run
};

// program: pointers and Steps only. May be run by several threads at once.
class Program {
 public:
  static std::unique_ptr<Program> build(const Schedule&, const Placement&, Device&);
  // A run is bind, check, run. bind takes memory and tells where the results will be, in the order of Graph::outputs: a
  // buffer of Bound::inputs that is `donatable()` may be overwritten and come back as an output. `scalars` in the order
  // of Graph::scalars. On Error nothing was filled.
  virtual void bind(Bound&, std::span<const Scalar> scalars, std::span<Located> outputs) const = 0;
  // Throws if an index in the data is out of range, as far as this can be told beforehand. Nothing was overwritten.
  virtual void check(Bound&, std::vector<double>* took = nullptr) const = 0;
  // `took`: filled with the microseconds of each kernel.
  virtual void run(Bound&, std::vector<double>* took = nullptr) const = 0;
  virtual bool reads(size_t input) const = 0;
  virtual ~Program() = default;
  int64_t arena_bytes = 0, live_bytes = 0, output_bytes = 0;
  int kernels = 0;
  double cost_ns = 0;    // sum over steps
  bool can_fail = false; // it looks up places that only the run tells: it may end in an index error, which check() does not see
  size_t footprint = 0;  // bytes that this program itself keeps (for the bounded plan cache)
};

// A program in words, for `explain`: `lines` of its schedule, and the microseconds that each kernel took.
std::string program_text(const Program&, std::span<const std::string> lines, std::span<const double> took);

}  // namespace knet
