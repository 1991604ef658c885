// One pool of threads for the whole process.
#pragma once
#include <cstdint>
#include <type_traits>

namespace knet {
struct AsyncTask;
}

namespace knet::cpu {

int threads();             // including the caller; respects affinity, cgroup quota, KNET_THREADS
void set_threads(int n);   // 1 or more

// A borrowed callable: lives only during the call that it is passed to.
class TaskRef {
 public:
  template <class F>
  TaskRef(const F& f) : self_(&f), call_([](const void* s, int64_t i) { (*static_cast<const F*>(s))(i); }) {}
  void operator()(int64_t i) const { call_(self_, i); }

 private:
  const void* self_;
  void (*call_)(const void*, int64_t);
};

// Less work than this, on one core, stays on the caller.
constexpr double kSerialNs = 15e3;

// About n tasks of the same length, as many for each of two or four threads: five of LeNet's second filter gradient
// took 1.07 ms on four threads, of which each worked 0.85.
constexpr int64_t even_tasks(int64_t n) { return n < 3 ? n : (n + 2) / 4 * 4; }

// Runs body(0) ... body(tasks - 1), in any order, on the pool; returns when all are done. The split into tasks must
// depend on sizes only, never on the number of threads: same bits for any number. `cost_ns`: estimate for one core in
// all; below kSerialNs everything runs on the caller. Nested calls run inline. The first exception thrown by a task
// is rethrown here.
void parallel(int64_t tasks, double cost_ns, TaskRef body);

// Work for several threads, `cost_ns` on one core, begins in about `in_ns`: within 20 us, workers that spin do so for
// 20 us more; if all sleep and it is worth it, one is woken.
void expect(double cost_ns, double in_ns);

// Gives a task to the first worker, to go on beside the caller: false if there is none, or if it sleeps and waking it
// would cost more than it saves. One task at a time. What it runs in parallel it shares with the other workers, and
// with who waits for it.
bool launch(AsyncTask&, double cost_ns);
// Until it is done; runs it here if the worker has not begun.
void wait(AsyncTask&);

}  // namespace knet::cpu
