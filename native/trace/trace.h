// The trace: operations recorded in this thread and not yet run, and the handles through which a user holds values.
#pragma once
#include <functional>
#include <memory>
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
  void set(Spec s, Located where);      // become a concrete value
  void share(const Handle& other);      // become another handle of the same value
};

// Where in the user's program an operation was recorded (kept only while asked for, see Trace::keep_lines).
struct Line {
  std::string file;
  int line = 0;
};

class Trace {
 public:
  static Trace& current();              // this thread's

  // ---- recording; every function returns value numbers of this trace and throws Error before anything is recorded
  uint32_t use(Handle&);                // the value of a handle; a concrete one becomes a leaf, a failed one throws
  uint32_t scalar(Scalar, DType, bool weak);                       // a Python number: data, not structure
  uint32_t append(Op, std::span<const uint32_t> in, std::span<const int64_t> attrs = {});  // first result
  int results(Op, uint32_t first) const;                           // how many results that node has
  // Elementwise with NumPy's promotion: casts are recorded where dtypes differ.
  uint32_t elementwise(Op, std::span<const uint32_t> in);
  uint32_t cast(uint32_t v, DType to);                             // v itself if it has that dtype already
  void give(uint32_t value, Handle& to);                           // `to` now holds that value (what it held before is let go)
  const Spec& spec(uint32_t v) const { return values_[v].spec; }
  bool tracked(uint32_t v) const { return values_[v].tracked; }

  // ---- differentiated calls
  void enter();                         // an open grad call keeps history until leave()
  void leave() noexcept;
  int depth() const { return depth_; }
  // One node for all gradients of `loss` (a scalar) with respect to `wrt`; first of wrt.size() results.
  uint32_t gradient(uint32_t loss, std::span<const uint32_t> wrt);

  // ---- running
  void run();                           // compute every pending value that a handle still holds
  void realize(Handle&);                // make that handle concrete (or throw its failure)
  size_t pending() const { return pending_; }

  Trace();
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

 private:
  friend struct Handle;
  friend struct Runner;
  friend struct Capture;
  struct Value {
    Spec spec;
    bool tracked = false;
    bool leaf = false;
    Handle* handle = nullptr;           // weak; the handle clears it when it lets go
  };
  std::vector<int64_t> words_;          // the flat encoding: what was recorded, exactly; the key of the plan cache
  std::vector<Value> values_;
  std::vector<Located> buffers_;        // per value: where it is, if it has run or is a leaf
  std::vector<uint32_t> leaves_;
  std::vector<Scalar> scalars_;         // data of scalar nodes, in order
  size_t pending_ = 0;                  // nodes recorded since the last run
  int64_t pending_bytes_ = 0;
  int depth_ = 0;
  void clear();
  void limit();
};

}  // namespace knet
