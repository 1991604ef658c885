#include "cpu/cpus.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace knet::cpu {

#if defined(__linux__)
namespace {

// On a busy machine a thread may lose its core in the middle of a task, and all the others wait for it. It gets the
// core back sooner, for no larger share of it, when it asks for short slices (Linux 6.12 and later; 0.1 ms is the
// least): LeNet's step beside four busy processes on four cores took 25 ms without, 14.5 with short slices for the
// workers, 13.2 for the caller as well; 4.7 alone.
constexpr uint64_t kSliceNs = 100'000;

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
    std::string controllers = std::string(",") + line.substr(c1 + 1, c2 - c1 - 1) + ",", path = line.substr(c2 + 1);
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

}  // namespace

int granted_cpus() {
  int n = int(std::max(1u, std::thread::hardware_concurrency()));
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
  return n;
}

void take_short_slices() {
#if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
  struct {  // sched_attr of linux/sched/types.h, its first version
    uint32_t size = sizeof(*this), policy = 0;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime = 0, deadline = 0, period = 0;
  } attr;
  static_assert(sizeof attr == 48);
  constexpr uint64_t kResetOnFork = 1;
  if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) || attr.policy != SCHED_OTHER) return;
  if (attr.nice < 0) return;  // it would be reset in children as well
  attr.runtime = kSliceNs;
  attr.flags |= kResetOnFork;
  syscall(SYS_sched_setattr, 0, &attr, 0);
#endif
}

int this_thread() { return int(syscall(SYS_gettid)); }
int this_cpu() { return sched_getcpu(); }

Waking::Waking(int thread, int last, std::span<const int> taken) : thread_(thread) {
  static_assert(sizeof(cpu_set_t) == sizeof usual_);
  auto* usual = reinterpret_cast<cpu_set_t*>(usual_);
  if (sched_getaffinity(thread, sizeof(cpu_set_t), usual)) return;
  auto free = [&](int cpu) {
    return cpu >= 0 && cpu < kMaxCpus && CPU_ISSET(size_t(cpu), usual) && std::ranges::find(taken, cpu) == taken.end();
  };
  int cpu = last;
  if (!free(cpu))
    for (cpu = 0; cpu < kMaxCpus && !free(cpu); ++cpu) {}
  if (cpu == kMaxCpus) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(size_t(cpu), &one);
  if (!sched_setaffinity(thread, sizeof one, &one)) cpu_ = cpu;
}

Waking::~Waking() {
  if (cpu_ >= 0) sched_setaffinity(thread_, sizeof usual_, reinterpret_cast<const cpu_set_t*>(usual_));
}

#else
int granted_cpus() { return int(std::max(1u, std::thread::hardware_concurrency())); }
void take_short_slices() {}
int this_thread() { return 0; }
int this_cpu() { return -1; }
Waking::Waking(int, int, std::span<const int>) {}
Waking::~Waking() {}
#endif

}  // namespace knet::cpu
