// The pool of threads. One job at a time: the caller publishes it, works on it too, closes it, and waits for the
// workers that had joined. A worker that the system has not scheduled never joined, so nobody waits for it: a busy
// machine costs parallelism, not time.
#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <signal.h>

#include "cpu/cpus.h"
#include "device.h"

namespace knet::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(20);
// While others still work on the same job a worker spins on, so long at most: one that fell asleep between the products
// of an LSTM came late to the next, for which the others then waited and fell asleep (216 us a product instead of 138).
constexpr auto kTail = std::chrono::microseconds(200);
// To wake a sleeping worker takes its waker 13 us in a virtual machine (1 or 2 without one), and the worker begins 45
// us later, with the data in another core's cache. A spinning one begins at once. So: a helper must find about this
// much work,
constexpr double kWorkPerThreadNs = 4e3;
// less than kSerialNs stays on the caller, and less than this does when all workers sleep: the two products of a
// perceptron's step (60 us each) took 127 us on one core, 170 on four that slept between. Unless jobs of kRepeatedNs
// have come one after the other kRepeats times, each sooner than a worker that spins falls asleep (what is estimated
// may take twice as long on a slow core): 784x100 by 100x64, again and again, 95 us became 53.
constexpr double kColdNs = 150e3;
constexpr double kRepeatedNs = 40e3;
constexpr int kRepeats = 4;
// A program of this much work for several threads wakes a worker when it begins, and that one the next.
constexpr double kRouseNs = 100e3;
// A worker that joins a job of this much wakes the next one before it works, else after.
constexpr double kChainNs = 120e3;
// The caller wakes all: 16 tasks of 100 us on 4 busy cores took 1.0 to 1.6 ms by chain, 0.75 so.
constexpr double kWakeAllNs = 300e3;
// A sleeping worker is woken for a launched task of this much, or when tasks have come one after the other kRepeats
// times.
constexpr double kLaunchNs = 60e3;
// Who waits for a launched task helps with jobs of this much even if no worker is awake: for less it costs as much to
// fetch their data to another core.
constexpr double kHelpNs = 40e3;
constexpr int kMaxThreads = 1024;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls `ready` for at most so long.
template <class F>
bool spin(std::chrono::microseconds most, F ready) {
  auto end = Clock::now() + most;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (Clock::now() < end);
  return ready();
}

int default_threads() {
  if (const char* s = std::getenv("KNET_THREADS")) {
    char* end;
    long n = std::strtol(s, &end, 10);
    if (end != s && n >= 1) return int(std::min<long>(n, kMaxThreads));
  }
  return std::min(granted_cpus(), kMaxThreads);
}

struct Job {
  Job(TaskRef body, int64_t tasks, int helpers) : body(body), tasks(tasks), failed(tasks), helpers(helpers) {}
  TaskRef body;
  int64_t tasks;
  std::atomic<int64_t> failed;  // the lowest task that threw
  int helpers;
  std::mutex mutex;  // guards the error
  std::exception_ptr error;

  // After a failure only tasks before it run, so the error that is kept is that of the lowest failing task: the same
  // for any number of threads.
  void run(int64_t task) {
    if (task > failed.load(std::memory_order_relaxed)) return;
    try {
      body(task);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (task < failed.load(std::memory_order_relaxed)) {
        failed.store(task, std::memory_order_relaxed);
        error = std::current_exception();
      }
    }
  }
};

// Has work come one piece after the other, each before a worker that spins would have fallen asleep?
class Row {
 public:
  bool next(double cost_ns) {
    const auto now = Clock::now();
    soon_ = now < due_ ? soon_ + 1 : 0;
    due_ = now + kSpin + std::chrono::nanoseconds(int64_t(2 * cost_ns));
    return soon_ >= kRepeats;
  }

 private:
  Clock::time_point due_;
  int soon_ = 0;
};

thread_local bool inside = false;  // this thread is running tasks: nested calls are inline

class Pool {
 public:
  // False if another thread is using the pool, or if all workers sleep and waking them would cost more than they save.
  bool run(Job& job, double cost_ns) {
    if (cost_ns < kRepeatedNs && !awake()) return false;
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    if (cost_ns < kColdNs && !helped(cost_ns) && !jobs_.next(cost_ns)) {
      busy_.store(false, std::memory_order_release);
      return false;
    }
    start(job.helpers);
    job.helpers = std::min(job.helpers, started_.load(std::memory_order_relaxed));
    shares_ = std::min(job.helpers + 1, kMaxShares);
    for (int64_t s = 0; s < shares_; ++s) {
      share_[s].next.store(job.tasks * s / shares_, std::memory_order_relaxed);
      share_[s].end = job.tasks * (s + 1) / shares_;
    }
    job_ = &job;
    wanted_.store(job.helpers, std::memory_order_relaxed);
    chain_ = cost_ns > kChainNs;
    gate_.store(kOpen | uint32_t(job.helpers) * kSlot, std::memory_order_release);
    call_.fetch_add(1);
    if (cost_ns >= kWakeAllNs) {
      while (wake_next()) {}
    } else if (!helped(cost_ns)) {
      wake_next();
    }
    work(0);
    uint32_t gate = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    if ((gate & kActive) && !spin(kTail, [&] { return !((gate = gate_.load(std::memory_order_acquire)) & kActive); }))
      while ((gate = gate_.load(std::memory_order_acquire)) & kActive) gate_.wait(gate, std::memory_order_acquire);
    busy_.store(false, std::memory_order_release);
    return true;
  }

  // Does a worker spin, or is one waking up?
  bool awake() const { return spinning() > 0; }
  // Or somebody who waits for a launched task, if the work is worth fetching its data to another core?
  bool helped(double cost_ns) const {
    return awake() || (cost_ns >= kHelpNs && waiting_.load(std::memory_order_relaxed));
  }

  // Workers that are not asleep, without one that runs a launched task.
  int spinning() const {
    return started_.load(std::memory_order_relaxed) - asleep_.load() - calling_.load(std::memory_order_relaxed);
  }

  // Workers that spin begin their 20 us again.
  void hold() { hold_.store(hold_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

  bool launch(AsyncTask& task, double cost_ns) {
    if (started_.load(std::memory_order_acquire) == 0 || worker_[0]->asleep.load(std::memory_order_relaxed)) {
      const bool often = launches_.next(cost_ns);
      if ((cost_ns < kLaunchNs && !often) || busy_.exchange(true, std::memory_order_acquire)) return false;
      start(1);
      const bool any = started_.load(std::memory_order_relaxed) > 0;
      const bool there = any && (wake(*worker_[0]) || !worker_[0]->asleep.load());
      busy_.store(false, std::memory_order_release);
      if (!there) return false;
    }
    if (task_.load(std::memory_order_relaxed) != &task) task_.store(&task);
    if (const int here = this_cpu(); launcher_.load(std::memory_order_relaxed) != here) launcher_.store(here);
    task.state.store(AsyncTask::Launched, std::memory_order_release);
    return true;
  }

  void wait(AsyncTask& task) {
    if (begin(task)) return finish(task);
    // The thread that runs it has our place among the callers, so we take its place among the workers.
    const bool was = std::exchange(inside, true);
    waiting_.fetch_add(1, std::memory_order_relaxed);
    for (auto end = Clock::now() + kTail; !task.done();) {
      if (join()) {
        serve(1);
        end = Clock::now() + kTail;
      } else if (!spin(std::chrono::microseconds(1), [&] { return task.done() || open(); }) && Clock::now() > end) {
        task.state.wait(AsyncTask::Running, std::memory_order_acquire);
      }
    }
    waiting_.fetch_sub(1, std::memory_order_relaxed);
    inside = was;
  }

  void rouse(int helpers) {
    if (awake() || busy_.exchange(true, std::memory_order_acquire)) return;
    start(helpers);
    wanted_.store(std::min(helpers, started_.load(std::memory_order_relaxed)), std::memory_order_relaxed);
    wake_next();
    busy_.store(false, std::memory_order_release);
  }

 private:
  // gate_: bit 31 open, bits 16..30 free slots, bits 0..15 workers inside. job_ and the shares are fixed while it is
  // open or not empty.
  static constexpr uint32_t kOpen = 1u << 31, kSlot = 1u << 16, kSlots = 0x7fff0000u, kActive = 0xffffu;
  static constexpr int kMaxShares = 64, kMaxSpread = 64;
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  struct alignas(64) Worker {
    Pool* pool;
    int id;  // 1, 2, ...; the caller is 0
    int thread = 0;
    std::atomic<int32_t> asleep{0};  // 1; 2 while somebody wakes it
    std::atomic<bool> waker{false};  // somebody does, and may yet have to give it back the CPUs that it may run on
    std::atomic<int> cpu{-1};        // where it was last seen, or is woken
  };

  // Each thread begins with the same tasks at each run, whose data its caches may still hold, then helps the others:
  // the products of an LSTM took 0.52 ms with tasks claimed by whoever came first, weights wandering between caches.
  void work(int thread) {
    for (int s = 0; s < shares_; ++s) {
      Share& mine = share_[(thread + s) % shares_];
      while (mine.next.load(std::memory_order_relaxed) < mine.end) {
        const int64_t task = mine.next.fetch_add(1, std::memory_order_relaxed);
        if (task < mine.end) job_->run(task);
      }
    }
  }

  // A job that has been joined.
  void serve(int thread) {
    work(thread);
    gate_.fetch_and(~kOpen, std::memory_order_relaxed);  // no tasks are left: late workers need not look
    // Before the decrement the job is alive; after it only the pool is.
    uint32_t g = gate_.fetch_sub(1, std::memory_order_acq_rel);
    if ((g & kActive) == 1) gate_.notify_one();
  }

  static bool begin(AsyncTask& task) {
    int32_t state = AsyncTask::Launched;
    return task.state.load(std::memory_order_relaxed) == state &&
           task.state.compare_exchange_strong(state, AsyncTask::Running);
  }
  static void finish(AsyncTask& task) {
    task.run();
    task.state.store(AsyncTask::Done, std::memory_order_release);
    task.state.notify_all();
  }

  bool open() const { return gate_.load(std::memory_order_relaxed) & kOpen; }

  bool join() {
    uint32_t g = gate_.load(std::memory_order_relaxed);
    while ((g & kOpen) && (g & kSlots))
      if (gate_.compare_exchange_weak(g, g - kSlot + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    return false;
  }

  // Wakes the first sleeping worker, if fewer than wanted are awake.
  bool wake_next() {
    const int started = started_.load(std::memory_order_acquire), wanted = wanted_.load(std::memory_order_relaxed);
    if (spinning() >= wanted) return false;
    for (int w = 0; w < started; ++w)
      if (worker_[w]->asleep.load() && wake(*worker_[w])) return true;
    return false;
  }

  bool wake(Worker& w) {
    if (w.waker.exchange(true, std::memory_order_acquire)) return false;
    int32_t yes = 1;
    const bool sleeps = w.asleep.compare_exchange_strong(yes, 2);
    if (sleeps) {
      asleep_.fetch_sub(1);
      int taken[kMaxSpread + 2];
      const Waking waking(w.thread, w.cpu.load(std::memory_order_relaxed), taken_cpus(taken, w));
      if (waking.cpu() >= 0) w.cpu.store(waking.cpu(), std::memory_order_relaxed);
      w.asleep.store(0);
      w.asleep.notify_one();
    }
    w.waker.store(false, std::memory_order_release);
    return sleeps;
  }

  // Where our threads are. The system would wake one where it ran last or where its waker runs, even if another of ours
  // is there (it looks for a CPU that idles; but in a virtual machine those that have been idle for long look as if
  // they were not to be had), and leave it there for milliseconds. So each is woken on a CPU of its own, which costs 6
  // us of a wake's 21. A 3x3 layer of 64x56x56 on four threads, 30 ms of calls after a pause: 5.3 ms a call became 4.2
  // (PyTorch 4.4); of 256x14x14 5.4 became 4.1 (3.9), where only those were led elsewhere that would have met where
  // they ran last.
  std::span<const int> taken_cpus(std::span<int> all, const Worker& woken) const {
    all[0] = this_cpu();
    all[1] = launcher_.load(std::memory_order_relaxed);
    size_t n = calling_.load(std::memory_order_relaxed) ? 2 : 1;
    const int started = std::min(started_.load(), kMaxSpread);
    for (int i = 0; i < started; ++i)
      if (worker_[i].get() != &woken && worker_[i]->asleep.load(std::memory_order_relaxed) != 1)
        all[n++] = worker_[i]->cpu.load(std::memory_order_relaxed);
    return all.first(n);
  }

  void loop(Worker& me) {
    me.thread = this_thread();
    take_short_slices();
    inside = true;
    bool wakes = true;  // others, when it has nothing to do. Not after a launched task: the next one is not far, and would wait
    for (;;) {
      const int32_t seen = call_.load();
      while (join()) {
        me.cpu.store(this_cpu(), std::memory_order_relaxed);
        wakes = true;
        if (chain_) wake_next();
        serve(me.id);
      }
      if (launched(me) && begin(*task_.load(std::memory_order_relaxed))) {
        inside = false;
        calling_.store(1, std::memory_order_relaxed);
        finish(*task_.load(std::memory_order_relaxed));
        calling_.store(0, std::memory_order_relaxed);
        inside = true;
        wakes = false;
        continue;
      }
      if (wakes) wake_next();
      if (idle(me, seen)) continue;
      wakes = true;
      me.cpu.store(this_cpu(), std::memory_order_relaxed);
      asleep_.fetch_add(1);
      me.asleep.store(1);
      int32_t state = 1;
      // A call after `seen`, or a launch, may have missed that this worker sleeps.
      if ((call_.load() != seen || launched(me)) && me.asleep.compare_exchange_strong(state, 0)) asleep_.fetch_sub(1);
      while ((state = me.asleep.load())) me.asleep.wait(state);
    }
  }

  // Is there a launched task? The first worker takes it.
  bool launched(const Worker& me) const {
    const AsyncTask* task = me.id == 1 ? task_.load(std::memory_order_relaxed) : nullptr;
    return task && task->state.load(std::memory_order_relaxed) == AsyncTask::Launched;
  }

  // Spins until there is a job (true), at most kSpin from the end of the last one and from the last hold().
  bool idle(const Worker& me, int32_t seen) {
    const auto start = Clock::now();
    int32_t hold = hold_.load(std::memory_order_relaxed);
    for (auto now = start, end = start + kSpin; now < end; now = Clock::now()) {
      for (int i = 0; i < 16; ++i) {
        if (call_.load(std::memory_order_relaxed) != seen || launched(me)) return true;
        relax();
      }
      const int32_t held = hold_.load(std::memory_order_relaxed);
      if (held != hold || (now < start + kTail && busy_.load(std::memory_order_relaxed))) end = now + kSpin;
      hold = held;
    }
    return call_.load() != seen || launched(me);
  }

  // Workers are detached and live as long as the process; with too few (no more threads to be had) work goes on with
  // those.
  void start(int n) {
    int started = started_.load(std::memory_order_relaxed);
    if (started >= n) return;
    take_short_slices();  // the caller as well; another thread that calls later keeps its own
    sigset_t all, old;
    sigfillset(&all);  // signals belong to the threads of the program
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (; started < n; ++started) {
      worker_[started].reset(new Worker{this, started + 1});
      pthread_t t;
      auto body = [](void* worker) -> void* {
        auto* w = static_cast<Worker*>(worker);
        w->pool->loop(*w);
        return nullptr;
      };
      if (pthread_create(&t, nullptr, body, worker_[started].get())) break;
      pthread_detach(t);
      started_.store(started + 1, std::memory_order_release);
    }
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }

  std::atomic<bool> busy_{false};
  std::atomic<int> started_{0}, wanted_{0};
  Job* job_ = nullptr;
  int shares_ = 1;
  bool chain_ = false;  // the job is long enough for a worker that joins it to wake the next one first
  Share share_[kMaxShares];
  std::unique_ptr<Worker> worker_[kMaxThreads];
  alignas(64) std::atomic<uint32_t> gate_{0};
  alignas(64) std::atomic<int32_t> call_{0};  // jobs so far
  std::atomic<int32_t> hold_{0}, calling_{0}, waiting_{0};
  alignas(64) std::atomic<AsyncTask*> task_{nullptr};  // launched last
  std::atomic<int> launcher_{-1};                      // the CPU of who launched it
  Row launches_, jobs_;  // that found the first worker, all workers, asleep
  alignas(64) std::atomic<int32_t> asleep_{0};
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
  if (tasks > 1 && cost_ns >= kSerialNs && !inside) {
    const int64_t most = std::min<int64_t>(threads(), tasks);
    const int helpers = int(std::min(double(most), cost_ns / kWorkPerThreadNs)) - 1;
    if (helpers > 0) {
      Job job(body, tasks, helpers);
      inside = true;
      bool ran = pool().run(job, cost_ns);
      inside = false;
      if (ran) {
        if (job.error) std::rethrow_exception(job.error);
        return;
      }
    }
  }
  for (int64_t i = 0; i < tasks; ++i) body(i);
}

bool launch(AsyncTask& task, double cost_ns) { return threads() > 1 && !inside && pool().launch(task, cost_ns); }

void wait(AsyncTask& task) {
  if (!task.done()) pool().wait(task);
}

void expect(double cost_ns, double in_ns) {
  const int most = threads();
  if (most == 1 || inside) return;
  Pool& p = pool();
  if (!p.awake()) {
    if (cost_ns >= kRouseNs) p.rouse(most - 1);
  } else if (in_ns <= kSpin.count() * 1e3) {
    p.hold();
  }
}

}  // namespace knet::cpu
