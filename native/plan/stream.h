// A program that runs beside the recording of the next step. At most one is on its way; whoever needs what it makes, or
// wants to run another, waits for it. To be called with the interpreter lock held.
#pragma once
#include <memory>
#include "plan/program.h"

namespace knet {

class Stream {
 public:
  static Stream& shared();  // never destroyed

  // A program begins, after a wait(). Is it worth launching, and can it be? Then its results are `pending` until it has
  // ended; else it is to be run here and now.
  bool launch(std::shared_ptr<const Program>, std::unique_ptr<Bound>&, Device&);
  void wait();
  // Somebody reads a buffer: returns when it holds its value, throws why it never will.
  void read(const Buffer&);
  // Is there a buffer that holds no value because its program failed?
  bool lost() const { return lost_; }
  uint64_t launches() const { return launches_; }

  std::unique_ptr<Bound> take();              // for a run
  void give_back(std::unique_ptr<Bound>);     // and after it

 private:
  struct Task final : AsyncTask {
    alignas(64) std::shared_ptr<const Program> program;  // null: nothing is on its way
    std::unique_ptr<Bound> bound;
    std::shared_ptr<const Error> error;
    void run() noexcept override;
  };

  Stream() = default;
  void retire();

  Task task_;
  Device* device_ = nullptr;
  uint64_t launches_ = 0;
  int patience_ = 4;  // so many runs stay here when a result has been asked for at once
  int unread_ = -4;   // runs since, less these
  bool lost_ = false;
  std::vector<std::unique_ptr<Bound>> spare_;
};

}  // namespace knet
