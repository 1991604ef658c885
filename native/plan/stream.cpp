#include "plan/stream.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include "trace/trace.h"

namespace knet {

namespace {

// A step whose results are read at once gains nothing: after a read so many runs stay here, twice as many each time
// that it happens again, and half as many when it does not.
constexpr int kFewest = 4, kMost = 1024;
// Below, handing it over costs more than it takes; above, the recording of a step is little beside it, and who waits
// would spin for long.
constexpr double kLeastNs = 1e3, kMostNs = 500e3;

}  // namespace

Stream& Stream::shared() {
  static Stream& s = *new Stream;
  return s;
}

bool Stream::launch(std::shared_ptr<const Program> program, std::unique_ptr<Bound>& bound, Device& device) {
  if (++unread_ <= 0 || program->cost_ns < kLeastNs || program->cost_ns > kMostNs) return false;
  for (const auto* list : {&bound->inputs, &bound->made})
    for (const Located& x : *list)
      if (x.buffer && x.buffer->free_owner) return false;  // memory of somebody who knows nothing of this
  task_.program = std::move(program);
  task_.bound = std::move(bound);
  device_ = &device;
  if (!device.launch(task_, task_.program->cost_ns)) {
    bound = std::move(task_.bound);
    task_.program = nullptr;
    return false;
  }
  if (launches_++ == 0) {
    // Neither the child of a fork nor the end of the process may find a program half-way. At the end nothing can run on
    // this thread any more, which has lost its thread-local variables: what has not begun never does.
    static AsyncTask& task = task_;
    static Device& on = device;
    pthread_atfork([] { on.wait(task); }, nullptr, nullptr);
    std::atexit([] {
      int32_t state = AsyncTask::Launched;
      if (!task.state.compare_exchange_strong(state, AsyncTask::Done))
        while (!task.done()) task.state.wait(AsyncTask::Running);
    });
  }
  for (const Located& x : task_.bound->made) x.buffer->pending = true;
  return true;
}

void Stream::Task::run() noexcept {
  try {
    program->run(*bound);
  } catch (const Error& e) {
    error = std::make_shared<Error>(e);
  } catch (...) {
    error = std::make_shared<Error>(Error::Memory, "[knet] out of memory while a program ran");
  }
}

void Stream::wait() {
  while (task_.program) {
    if (!task_.done()) {
      Device& on = *device_;
      Unlocked unlocked(task_.program->cost_ns);
      on.wait(task_);
    }
    // Whoever had the lock meanwhile may have launched another.
    if (task_.program && task_.done()) retire();
  }
}

void Stream::retire() {
  patience_ = std::max(patience_ / 2, kFewest);
  for (const Located& x : task_.bound->made) {
    x.buffer->pending = false;
    x.buffer->lost = task_.error;
  }
  lost_ |= task_.error != nullptr;
  task_.error = nullptr;
  task_.program = nullptr;
  give_back(std::move(task_.bound));
}

void Stream::read(const Buffer& b) {
  if (b.pending) {
    patience_ = std::min(4 * patience_, 2 * kMost);  // half of it when it retires
    wait();
    unread_ = -patience_;
  }
  if (b.lost) throw *b.lost;
}

std::unique_ptr<Bound> Stream::take() {
  if (spare_.empty()) return std::make_unique<Bound>();
  auto b = std::move(spare_.back());
  spare_.pop_back();
  return b;
}

void Stream::give_back(std::unique_ptr<Bound> b) {
  b->release();
  spare_.push_back(std::move(b));
}

}  // namespace knet
