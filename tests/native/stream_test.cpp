// The stream: when a program is handed over, what waits for it, and what becomes of one that fails.
#include "plan/stream.h"

#include "check.h"

using namespace knet;

namespace {

// Begins what is launched when somebody waits for it.
struct Lazy final : Device {
  bool free = true;  // has it a thread at hand?
  bool launch(AsyncTask& task, double) override {
    if (free) task.state = AsyncTask::Launched;
    return free;
  }
  void wait(AsyncTask& task) override {
    if (task.done()) return;
    task.run();
    task.state = AsyncTask::Done;
  }
  bool accepts(Op, int, const Layout&, uint32_t) const override { return true; }
  std::shared_ptr<const Step> step(Op, std::span<const Layout>, std::span<const Layout>, std::span<const int64_t>) override {
    return nullptr;
  }
  std::shared_ptr<const Step> tile(const TileProgram&) override { return nullptr; }
  int64_t max_row() const override { return 0; }
  void* allocate(size_t) override { return nullptr; }
  void release(void*, size_t) override {}
  MemoryStats memory() const override { return {}; }
  void trim() override {}
};

// Writes a number, or fails.
struct Writes final : Program {
  char number;
  explicit Writes(char n, double cost = 10e3) : number(n) { cost_ns = cost; }
  void bind(Bound& b, std::span<const Scalar>, std::span<Located>) const override { b.made.push_back({allocate({}, 1), 0}); }
  void check(Bound&, std::vector<double>*) const override {}
  void run(Bound& b, std::vector<double>*) const override {
    if (number < 0) throw Error(Error::Memory, "[test] no memory");
    *b.made[0].data() = number;
  }
  bool reads(size_t) const override { return true; }
};

Lazy lazy;  // outlives all, as devices do
Stream& stream = Stream::shared();

struct Launch {
  bool on_its_way;
  BufferRef made;
  Launch(std::shared_ptr<const Program> p, BufferRef input = {}) {
    stream.wait();
    auto bound = stream.take();
    if (input) bound->inputs.push_back({input, 0});
    p->bind(*bound, {}, {});
    made = bound->made[0].buffer;
    on_its_way = stream.launch(p, bound, lazy);
    if (!on_its_way) {
      p->run(*bound, nullptr);
      stream.give_back(std::move(bound));
    }
  }
};

std::shared_ptr<const Program> writes(char n, double cost = 10e3) { return std::make_shared<Writes>(n, cost); }

// Runs programs until one is handed over, and reads what that makes: how many stayed.
int until_read() {
  for (int stayed = 0; stayed < 5000; ++stayed) {
    const Launch l(writes(30));
    if (!l.on_its_way) continue;
    stream.read(*l.made.get());
    CHECK(!l.made->pending && *l.made->data == 30);
    return stayed;
  }
  return 5000;
}

}  // namespace

int main() {
  int stayed = 0;
  while (!Launch(writes(1)).on_its_way) ++stayed;
  CHECK(stayed > 0);          // not the first ones
  for (char n = 2; n < 20; ++n) {  // and then each
    const Launch l(writes(n));
    CHECK(l.on_its_way && l.made->pending);
    stream.wait();
    CHECK(!l.made->pending && *l.made->data == n);
  }
  {  // after a read some stay here: the more, the oftener it happens, up to a limit, and fewer when it does not
    CHECK(until_read() == 0);
    int before = 0;
    for (int i = 0; i < 5; ++i) {
      stayed = until_read();
      CHECK(stayed > before);
      before = stayed;
    }
    for (int i = 0; i < 20; ++i) stayed = until_read();
    CHECK(stayed > before && stayed < 2000);
    while (!Launch(writes(1)).on_its_way) {}
    for (int i = 0; i < 20; ++i) CHECK(Launch(writes(1)).on_its_way);
    CHECK(until_read() == 0 && until_read() < before);
    while (!Launch(writes(1)).on_its_way) {}
  }
  // What is too short, too long, borrowed, or finds no thread, stays.
  CHECK(!Launch(writes(1, 10)).on_its_way && !Launch(writes(1, 1e9)).on_its_way);
  {
    BufferRef theirs = allocate({}, 1);
    char* own = theirs->data;
    theirs->free_owner = [](void*) {};
    CHECK(!Launch(writes(1), theirs).on_its_way);
    theirs->free_owner = nullptr, theirs->data = own;
    CHECK(Launch(writes(1), theirs).on_its_way);
  }
  lazy.free = false;
  CHECK(!Launch(writes(1)).on_its_way);
  lazy.free = true;
  {  // what a failed program should have made is lost, and nothing else
    const Launch good(writes(5)), bad(writes(-1)), after(writes(6));
    CHECK(stream.lost() && bad.made->lost && !good.made->lost && *good.made->data == 5);
    bool thrown = false;
    try {
      stream.read(*bad.made.get());
    } catch (const Error& e) {
      thrown = std::string(e.what()) == "[test] no memory";
    }
    CHECK(thrown);
    stream.read(*after.made.get());
    CHECK(*after.made->data == 6);
  }
  {  // it holds what it works on until it has ended
    BufferRef input = allocate({}, 1);
    while (!Launch(writes(1), input).on_its_way) {}
    CHECK(!input.donatable());
    stream.wait();
    CHECK(input.donatable());
  }
  return report();
}
