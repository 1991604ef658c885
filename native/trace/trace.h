// The trace: operations recorded in this thread and not yet run, and the handles through which a user holds values.
#pragma once
#include <atomic>
#include <memory>
#include <thread>
#include <vector>
#include "memory/buffer.h"
#include "trace/op.h"
#include "types.h"

namespace knet {

class Trace;

// Why a value does not exist: its run failed. Raised again at every use.
struct Failure {
  Error error;
};

// The engine's part of a KnetArray. Pending (trace set, no buffer), concrete (buffer set), or failed.
// A concrete handle that takes part in the trace has both. Not movable: the trace points back at it.
struct Handle {
  Spec spec;
  bool tracked = false;       // depends on a parameter of a grad call that is still open
  Trace* trace = nullptr;
  uint32_t value = 0;         // its value in the trace
  Located at;                 // when concrete
  std::shared_ptr<Failure> failure;

  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { detach(); }
  void detach();                        // forget the value; the handle is empty afterwards
  bool concrete() const { return bool(at.buffer); }
  bool ready() const { return at.buffer && !at.buffer->pending && !at.buffer->lost; }  // it may be read
  void set(const Spec& s, Located where);  // become a concrete value
  void share(Handle& other);            // become another handle of the same value
};

// Where in the user's program an operation was recorded.
struct Line {
  std::string file;
  int line = 0;
};

class Trace {
 public:
  // This thread's. Call it once, at the start of an operation: when too much is pending it runs it first, and value
  // numbers got before are then void.
  static Trace& current();
  // The same, but it runs nothing.
  static Trace& of_this_thread() { return here_ ? *here_ : first_use(); }

  // ---- recording; every function returns value numbers of this trace and throws Error before anything is recorded
  // The value of a handle; a concrete one becomes a leaf, a failed one throws.
  uint32_t use(Handle& h) { return h.trace == this ? h.value : use_new(h); }
  uint32_t scalar(Scalar, DType, bool weak);                       // a Python number: data, not structure
  // Where a slice of x begins: data if x is an array of the user's (a minibatch: a step at other places is the same
  // program), else structure.
  uint32_t start(int64_t i, uint32_t x);
  uint32_t append(Op, std::span<const uint32_t> in, std::span<const int64_t> attrs = {});  // first result
  int results(Op, uint32_t first) const;                           // how many results that node has
  // Elementwise with NumPy's promotion: casts are recorded where dtypes differ.
  uint32_t elementwise(Op, std::span<const uint32_t> in);
  uint32_t cast(uint32_t v, DType to);                             // v itself if it has that dtype already
  void give(uint32_t value, Handle& to);                           // `to` now holds that value (what it held before is let go)
  const Spec& spec(uint32_t v) const { return values_[v].spec; }
  bool tracked(uint32_t v) const { return values_[v].tracked != 0; }

  // ---- differentiated calls
  void enter();                         // an open grad call keeps history until leave()
  void leave() noexcept;
  int depth() const { return int(open_.size()); }
  uint32_t parameter(uint32_t v);       // the same value, marked as a parameter of the innermost open call
  size_t parameters() const { return parameters_.size() - open_.back(); }  // so many has that call
  // One node for all gradients of `loss` (a scalar), with respect to these parameters in their order; the first result.
  uint32_t gradient(uint32_t loss);

  // ---- running
  void run();                           // compute every pending value that a handle still holds; failures go to the handles
  void realize(Handle&);                // make that handle concrete and ready (or throw its failure)
  size_t pending() const { return pending_; }
  bool planning_only = false;           // run() plans and notes what it would need; only what is read is computed

  Trace() = default;
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

 private:
  friend struct Handle;
  friend class Runner;
  friend class Capture;
  struct Value {
    Value(const Spec& s, int64_t its_bytes, uint32_t depends, bool is_given)
        : spec(s), bytes(its_bytes), tracked(depends), given(is_given) {}
    Spec spec;
    int64_t bytes;                      // spec.bytes()
    uint32_t tracked;                   // bit d: depends on a parameter of the open grad call of depth d (deepest bit shared)
    int32_t bound = -1;                 // where in bound_: it is a leaf, or has run already
    bool given;                         // a leaf, or a part of one
    Handle* handle = nullptr;           // weak; the handle clears it when it lets go
  };
  struct Bound {
    uint32_t value;
    bool leaf;
    Located at;
  };
  // What was recorded, exactly; with the set of live values it is the key of the plan cache. Per node: a head (op,
  // counts), its inputs, its attributes. A leaf's attributes are its dtype, device and shape; a scalar's its dtype.
  std::vector<int64_t> words_;
  std::vector<Value> values_;
  std::vector<Bound> bound_;
  std::vector<Scalar> scalars_;         // data of scalar nodes, in order
  std::vector<std::pair<uint32_t, Line>> lines_;  // first result of a node -> where it was recorded, while asked for
  size_t pending_ = 0;                  // nodes recorded since the last run
  int64_t pending_bytes_ = 0;           // of results that a handle waits for, and of arrays that the trace holds
  std::vector<uint32_t> parameters_;    // of the open grad calls, the innermost one's last
  std::vector<size_t> open_;            // for each open call how many parameters there were before it
  bool capturing_ = false;              // records a derivative rule or an expansion: nothing may run
  bool running_ = false;                // a run is under way; planning and kernels may let go of the interpreter lock
  std::thread::id runner_;              // the thread that runs it
  std::atomic<bool> orphan_{false};     // its thread has ended; what is pending is run by whoever reads it

  friend struct Home;

  // What this thread records into: its own trace or, in a derivative rule, that of the rule. Null before its first
  // operation.
  static constinit inline thread_local Trace* here_ = nullptr;
  static Trace& first_use();

  uint32_t use_new(Handle&);
  uint32_t add_number(DType, bool weak);
  uint32_t add_leaf(const Spec&, Located, Handle*);
  void head(Op, size_t n_in, size_t n_attr, size_t n_out);
  uint32_t cast_like(uint32_t v, DType to);  // as `cast`, but numbers stay weak
  void run_keeping(bool history);
  void wait();                          // until no other thread runs it
  bool settled() const;                 // no handle waits for a value
  void clear() noexcept;
};

// The head word of a node in the flat encoding.
struct Head {
  Op op;
  uint32_t n_in, n_attr, n_out;
  static int64_t pack(Op op, size_t n_in, size_t n_attr, size_t n_out) {
    return int64_t(op) | int64_t(n_in) << 16 | int64_t(n_attr) << 36 | int64_t(n_out) << 44;
  }
  static constexpr int64_t kWeak = int64_t(1) << 62;  // a cast whose result is weak
  static Head unpack(int64_t w) {
    return {Op(w & 0xffff), uint32_t(w >> 16 & 0xfffff), uint32_t(w >> 36 & 0xff), uint32_t(w >> 44 & 0x3ffff)};
  }
};

// What the engine needs of its host (the Python binding); set once at load.
struct Host {
  void (*unlock)() = nullptr;           // let other Python threads run
  void (*lock)() = nullptr;
  Line (*line)() = nullptr;             // the user's line that is being executed
};
Host& host();

// While it lives, other Python threads may run, if this one is to be busy for `cost_ns` that are worth it: giving the
// lock away and taking it back costs a few us when another thread wants it.
class Unlocked {
 public:
  explicit Unlocked(double cost_ns) : on_(cost_ns > 50e3 && host().unlock) {
    if (on_) host().unlock();
  }
  ~Unlocked() {
    if (on_) host().lock();
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  const bool on_;
};

struct Limits {
  size_t pending_nodes = 10000;         // a run starts by itself above this (outside differentiated calls)
  // A step of Adam on 7 million parameters, cut in the middle of its formulas at 64 MiB, took 34 ms instead of 20.
  int64_t pending_bytes = 256 << 20;
  bool keep_lines = false;              // note the source line of each operation
};
Limits& limits();

}  // namespace knet
