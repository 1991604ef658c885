// The pool of threads. One job at a time: the caller publishes it, works on it too, closes it, and waits for the
// workers that had joined. A worker that the system has not scheduled never joined, so nobody waits for it: a busy
// machine costs parallelism, not time.
#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif
#include <signal.h>

namespace knet::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(20);
// Waking three sleeping workers took the caller 40 us on a busy virtual machine, nothing when they still spin: a
// helper must find about this much work to be worth its wake.
constexpr double kWorkPerThreadNs = 15e3;
constexpr double kSerialNs = 30e3;
// When all workers sleep, less work than this stays on the caller: they wake after 15 us or more and find the data in
// another core's cache. The two products of a perceptron's step (60 us each) took 127 us on one core, 170 on four.
constexpr double kColdNs = 150e3;
// The first wake costs the caller 2 us, each further one 20 (measured in a virtual machine), so below this the caller wakes
// one worker, and workers wake the next while more than kNextNs was to do.
constexpr double kChainNs = 300e3;
constexpr double kNextNs = 120e3;
constexpr int kMaxThreads = 1024;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls `ready` for at most kSpin.
template <class F>
bool spin(F ready) {
  auto end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (Clock::now() < end);
  return ready();
}

#if defined(__linux__)
std::string slurp(const std::string& path) {
  std::string text;
  if (FILE* f = std::fopen(path.c_str(), "r")) {
    char chunk[1024];
    while (size_t n = std::fread(chunk, 1, sizeof chunk, f)) text.append(chunk, n);
    std::fclose(f);
  }
  return text;
}

// CPUs granted by the quota of one cgroup directory (0: none is set).
double quota_in(const std::string& dir, bool v2) {
  double quota = 0, period = 0;
  if (v2) {
    if (std::sscanf(slurp(dir + "/cpu.max").c_str(), "%lf %lf", &quota, &period) != 2) return 0;  // "max 100000"
  } else {
    if (std::sscanf(slurp(dir + "/cpu.cfs_quota_us").c_str(), "%lf", &quota) != 1 ||
        std::sscanf(slurp(dir + "/cpu.cfs_period_us").c_str(), "%lf", &period) != 1)
      return 0;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The tightest quota on the way from our cgroup to the root. Inside a container the path in /proc/self/cgroup may be
// the host's, unknown in here: then only the mount point itself answers, which is the container's own group.
double cgroup_quota() {
  double best = 0;
  std::string groups = slurp("/proc/self/cgroup");
  for (size_t at = 0; at < groups.size();) {
    size_t end = std::min(groups.find('\n', at), groups.size());
    std::string line = groups.substr(at, end - at);
    at = end + 1;
    size_t c1 = line.find(':'), c2 = line.find(':', c1 + 1);
    if (c1 == line.npos || c2 == line.npos) continue;
    std::string controllers = "," + line.substr(c1 + 1, c2 - c1 - 1) + ",", path = line.substr(c2 + 1);
    bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == controllers.npos) continue;
    for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
      if (v2 != !std::strcmp(root, "/sys/fs/cgroup")) continue;
      for (std::string p = path;; p.resize(p.rfind('/'))) {
        double q = quota_in(root + (p == "/" ? "" : p), v2);
        if (q > 0 && (best == 0 || q < best)) best = q;
        if (p.empty() || p.rfind('/') == p.npos) break;
      }
    }
  }
  return best;
}
#endif

int default_threads() {
  if (const char* s = std::getenv("KNET_THREADS")) {
    char* end;
    long n = std::strtol(s, &end, 10);
    if (end != s && n >= 1) return int(std::min<long>(n, kMaxThreads));
  }
  int n = int(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  for (int cpus = 1024; cpus <= 1 << 16; cpus *= 4) {  // the kernel refuses a set that is smaller than its own
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (!set) break;
    size_t bytes = CPU_ALLOC_SIZE(cpus);
    bool ok = !sched_getaffinity(0, bytes, set);
    if (ok) n = std::max(1, CPU_COUNT_S(bytes, set));
    CPU_FREE(set);
    if (ok) break;
  }
  if (double q = cgroup_quota(); q > 0) n = std::min(n, std::max(1, int(std::ceil(q))));
#endif
  return std::min(n, kMaxThreads);
}

struct Job {
  TaskRef body;
  int64_t tasks;
  double cost_ns;
  alignas(64) std::atomic<int64_t> next{0};
  std::mutex mutex;  // guards the error
  int64_t failed = -1;
  std::exception_ptr error;

  // Tasks are claimed in order, so when task i fails all before it run to their end, and the error that is kept is that
  // of the lowest failing task: the same for any number of threads.
  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        body(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (failed < 0 || i < failed) {
          failed = i;
          error = std::current_exception();
        }
        next.store(tasks, std::memory_order_relaxed);
      }
    }
  }
};

thread_local bool inside = false;  // this thread is running tasks: nested calls are inline

class Pool {
 public:
  // False if another thread is using the pool.
  bool run(Job& job, int helpers) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    start(helpers);
    helpers = std::min(helpers, started_.load());
    job_ = &job;
    gate_.store(kOpen | uint32_t(helpers) * kSlot, std::memory_order_release);
    call_.fetch_add(1);
    // The caller wakes all that it wants. Workers that wake each other cost it less, but a worker that is slow to start
    // then holds up the rest: 16 tasks of 100 us on 4 busy cores took 1.0 to 1.6 ms instead of 0.75.
    if (int asleep = sleepers_.load(); asleep > 0) {
      if (job.cost_ns < kChainNs) call_.notify_one();
      else if (asleep <= helpers) call_.notify_all();
      else
        for (int i = 0; i < helpers; ++i) call_.notify_one();
    }
    job.work();
    uint32_t gate = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    if ((gate & kActive) && !spin([&] { return !((gate = gate_.load(std::memory_order_acquire)) & kActive); }))
      while ((gate = gate_.load(std::memory_order_acquire)) & kActive) gate_.wait(gate, std::memory_order_acquire);
    busy_.store(false, std::memory_order_release);
    return true;
  }

  // Is a worker still spinning?
  bool awake() const { return started_.load(std::memory_order_relaxed) > sleepers_.load(std::memory_order_relaxed); }

 private:
  // gate_: bit 31 open, bits 16..30 free slots, bits 0..15 workers inside. job_ is fixed while it is open or not empty.
  static constexpr uint32_t kOpen = 1u << 31, kSlot = 1u << 16, kSlots = 0x7fff0000u, kActive = 0xffffu;

  bool join() {
    uint32_t g = gate_.load(std::memory_order_relaxed);
    while ((g & kOpen) && (g & kSlots))
      if (gate_.compare_exchange_weak(g, g - kSlot + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    return false;
  }

  void loop() {
    inside = true;
    for (;;) {
      int32_t seen = call_.load();
      while (join()) {
        if (job_->cost_ns < kChainNs && job_->cost_ns > kNextNs && (gate_.load(std::memory_order_relaxed) & kSlots) &&
            sleepers_.load(std::memory_order_relaxed) > 0)
          call_.notify_one();
        job_->work();
        gate_.fetch_and(~kOpen, std::memory_order_relaxed);  // no tasks are left: late workers need not look
        // Before the decrement the job is alive; after it only the pool is.
        uint32_t g = gate_.fetch_sub(1, std::memory_order_acq_rel);
        if ((g & kActive) == 1) gate_.notify_one();
      }
      if (spin([&] { return call_.load(std::memory_order_relaxed) != seen; })) continue;
      sleepers_.fetch_add(1);
      call_.wait(seen);
      sleepers_.fetch_sub(1);
    }
  }

  // Workers are detached and live as long as the process; with too few (no more threads to be had) work goes on with
  // those.
  void start(int n) {
    if (started_ >= n) return;
    sigset_t all, old;
    sigfillset(&all);  // signals belong to the threads of the program
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (; started_ < n; ++started_) {
      pthread_t t;
      auto body = [](void* self) -> void* {
        static_cast<Pool*>(self)->loop();
        return nullptr;
      };
      if (pthread_create(&t, nullptr, body, this)) break;
      pthread_detach(t);
    }
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }

  std::atomic<bool> busy_{false};
  std::atomic<int> started_{0};
  Job* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> gate_{0};
  alignas(64) std::atomic<int32_t> call_{0};
  std::atomic<int32_t> sleepers_{0};
};

std::atomic<int> wanted{0};  // 0: not yet asked
std::atomic<Pool*> shared{nullptr};

// Made at first use and never destroyed: workers may outlive static objects.
Pool& pool() {
  Pool* p = shared.load(std::memory_order_acquire);
  if (p) return *p;
  static std::once_flag registered;
  std::call_once(registered, [] {
    // The child of a fork has no workers; it gets a new pool, and leaves the old one (some lines of memory) alone.
    pthread_atfork(nullptr, nullptr, [] { shared.store(nullptr); });
  });
  auto* fresh = new Pool;
  if (shared.compare_exchange_strong(p, fresh)) return *fresh;
  delete fresh;
  return *p;
}

}  // namespace

int threads() {
  int n = wanted.load(std::memory_order_relaxed);
  if (n == 0) {
    int expected = 0;
    n = default_threads();
    if (!wanted.compare_exchange_strong(expected, n)) n = expected;
  }
  return n;
}

void set_threads(int n) { wanted.store(std::clamp(n, 1, kMaxThreads)); }

void parallel(int64_t tasks, double cost_ns, TaskRef body) {
  if (tasks > 1 && cost_ns >= kSerialNs && !inside && (cost_ns >= kColdNs || pool().awake())) {
    int64_t most = std::min<int64_t>(threads(), tasks);
    int helpers = int(std::min(double(most), cost_ns / kWorkPerThreadNs)) - 1;
    if (helpers > 0) {
      Job job{body, tasks, cost_ns};
      inside = true;
      bool ran = pool().run(job, helpers);
      inside = false;
      if (ran) {
        if (job.error) std::rethrow_exception(job.error);
        return;
      }
    }
  }
  for (int64_t i = 0; i < tasks; ++i) body(i);
}

}  // namespace knet::cpu
