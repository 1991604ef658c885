// What the system says of CPUs, and what the threads of the pool ask of it. Elsewhere than on Linux: how many there
// are.
#pragma once
#include <span>

namespace knet::cpu {

int granted_cpus();         // that this process may use: affinity, and the quota of its control group
void take_short_slices();   // for this thread, not for what it forks; where they cannot be had, nothing changes
int this_thread();          // its number for Waking
int this_cpu();             // where this thread runs now; -1: unknown

// While it lives, a sleeping thread can be woken on one CPU only: where it ran last, if nobody else of ours is there,
// else on the first that is free. Afterwards the system may move it as before.
class Waking {
 public:
  Waking(int thread, int last, std::span<const int> taken);
  ~Waking();
  Waking(const Waking&) = delete;
  int cpu() const { return cpu_; }  // -1: there is none free, it is woken where the system likes

 private:
  static constexpr int kMaxCpus = 1024;
  int thread_, cpu_ = -1;
  unsigned long usual_[kMaxCpus / (8 * sizeof(unsigned long))];
};

}  // namespace knet::cpu
