// program: a list of Steps and, for each operand, where its pointer comes from. A run adds bases to offsets and calls.
#include "plan/program.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "plan/describe.h"
#include "plan/views.h"

namespace knet {

namespace {

// A pointer of a run is base[which] + offset, and for slices of which the start is data, number * stride for each
// such start. Bases: the arena, the constants, the inputs, the buffers of results.
enum : uint32_t { kArena, kConstants, kNothing, kInputs };

struct Operand {
  uint32_t base;
  uint32_t dynamic;  // index of its first Move, or kFixed
  int64_t offset;    // bytes
};
constexpr uint32_t kFixed = ~0u;

struct Move {
  uint32_t scalar;
  uint32_t last;    // 1: no more for this operand
  int64_t stride;   // bytes
};

struct Call {
  const Step* step;
  uint32_t operands;  // the first; results come before inputs
  uint32_t n_out, n_in;
  int64_t scratch;
  double coming = 0, in = 0;  // cost of the steps for several threads that come soon (0: none do), and how soon (ns)
};

struct Number {  // a bound scalar and its place in the arena
  uint32_t index;
  DType dtype;
  int64_t offset;
};

struct Result {
  bool is_input;
  uint32_t index;  // of the input or of the target
};

// Memory for a call: on the stack if it is little, else one block.
template <class T, size_t kFew>
class Block {
 public:
  explicit Block(size_t n) {
    if (n > kFew) many_.resize(n);
    data_ = n > kFew ? many_.data() : few_;
  }
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  T few_[kFew];
  std::vector<T> many_;
  T* data_;
};

class Flat final : public Program {
 public:
  Flat(const Schedule& s, const Placement& p) {
    const Graph& g = s.graph;
    arena_bytes = p.arena_bytes;
    live_bytes = p.live_bytes;
    kernels = int(s.kernels.size());
    device_ = g.values.empty() ? DeviceId{} : g.values[g.outputs.empty() ? 0 : g.outputs[0]].device;
    n_inputs_ = uint32_t(g.inputs.size());
    reads_.resize(n_inputs_);
    for (uint32_t v : g.scalars) {
      const Place& at = p.places[v];
      numbers_.push_back({at.index, g.values[v].dtype, at.offset});
    }
    constants(g, p);
    results(s, p);
    calls(s, p);
    footprint = sizeof(*this) + steps_.size() * (sizeof(steps_[0]) + sizeof(lines_[0])) +
                operands_.size() * sizeof(Operand) + moves_.size() * sizeof(Move) + calls_.size() * sizeof(Call) +
                numbers_.size() * sizeof(Number) + targets_.size() * sizeof(int64_t) + gifts_.size() * sizeof(Gift) +
                results_.size() * sizeof(Result) + (constants_ ? constants_->bytes : 0);
    // What the device shares between plans is not counted.
  }

  void bind(Bound& b, std::span<const Scalar> scalars, std::span<Located> outputs) const override {
    if (arena_bytes > 0) b.arena = allocate(device_, size_t(arena_bytes));
    b.made.resize(targets_.size());
    for (const Gift& gift : gifts_)  // who has taken it holds it
      if (!b.made[gift.output].buffer && b.inputs[gift.input].buffer.donatable()) b.made[gift.output] = b.inputs[gift.input];
    for (size_t t = 0; t < targets_.size(); ++t)
      if (!b.made[t].buffer) b.made[t].buffer = allocate(device_, size_t(targets_[t]));
    for (size_t j = 0; j < results_.size(); ++j)
      outputs[j] = results_[j].is_input ? b.inputs[results_[j].index] : b.made[results_[j].index];

    b.resize(kInputs + n_inputs_ + targets_.size(), scalars.size());
    char** base = b.base();
    base[kArena] = b.arena ? b.arena->data : nullptr;
    base[kNothing] = nullptr;
    base[kConstants] = constants_ ? constants_->data : nullptr;
    base += kInputs;
    for (const Located& x : b.inputs) *base++ = x.data();
    for (const Located& x : b.made) *base++ = x.data();
    std::copy(scalars.begin(), scalars.end(), b.scalars());
  }

  void check(Bound& b, std::vector<double>* took) const override {
    if (checks_.empty()) return;
    numbers(b);
    call(b, 0, guards_, took);
    Block<char*, 64> pointers(most_operands_);
    for (uint32_t k : checks_) {
      try {
        point(b, calls_[k], pointers.data());
        calls_[k].step->check(pointers.data() + calls_[k].n_out);
      } catch (Error& e) {
        e.at = lines_[k];
        throw;
      }
    }
  }

  void run(Bound& b, std::vector<double>* took) const override {
    if (spread_ns_ > 0) device(device_).expect(spread_ns_, 0);
    if (checks_.empty()) numbers(b);
    call(b, guards_, calls_.size(), took);
  }

  bool reads(size_t input) const override { return reads_[input]; }

 private:
  void numbers(const Bound& b) const {
    for (const Number& n : numbers_) store(b.scalars()[n.index], n.dtype, b.base()[kArena] + n.offset);
  }

  // Where the operands of a call are: results, then inputs.
  void point(const Bound& b, const Call& c, char** pointers) const {
    const Operand* from = operands_.data() + c.operands;
    const uint32_t n = c.n_out + c.n_in;
    for (uint32_t i = 0; i < n; ++i) {
      char* at = b.base()[from[i].base] + from[i].offset;
      if (from[i].dynamic != kFixed)
        for (const Move* m = moves_.data() + from[i].dynamic;; ++m) {
          at += b.scalars()[m->scalar].i * m->stride;
          if (m->last) break;
        }
      pointers[i] = at;
    }
  }

  void call(const Bound& b, size_t begin, size_t end, std::vector<double>* took) const {
    Block<char*, 64> pointers(most_operands_);
    const Call* c = calls_.data() + begin;
    Device& on = device(device_);
    try {
      for (const Call* last = calls_.data() + end; c != last; ++c) {
        if (c->coming > 0) on.expect(c->coming, c->in);
        point(b, *c, pointers.data());
        if (took) [[unlikely]] {
          using Clock = std::chrono::steady_clock;
          auto start = Clock::now();
          c->step->run(pointers.data(), pointers.data() + c->n_out, b.base()[kArena] + c->scratch);
          took->push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
          continue;
        }
        c->step->run(pointers.data(), pointers.data() + c->n_out, b.base()[kArena] + c->scratch);
      }
    } catch (Error& e) {
      e.at = lines_[size_t(c - calls_.data())];
      throw;
    }
  }

  DeviceId device_;
  double spread_ns_ = 0;  // cost of the steps for several threads
  uint32_t n_inputs_ = 0;
  size_t most_operands_ = 0;
  std::vector<Call> calls_;
  std::vector<Operand> operands_;
  std::vector<Move> moves_;
  std::vector<Number> numbers_;
  std::vector<int64_t> targets_;  // bytes of the buffers that are made for results
  std::vector<Gift> gifts_;       // as in Placement, but to targets
  std::vector<Result> results_;
  std::vector<bool> reads_;       // each input
  size_t guards_ = 0;             // so many calls come first, then the checks of these
  std::vector<uint32_t> checks_;
  BufferRef constants_;
  std::vector<std::shared_ptr<const Step>> steps_;
  std::vector<int32_t> lines_;  // of each call: the recorded operation that it stems from
  std::vector<uint32_t> target_of_;  // while building: result -> target

  void constants(const Graph& g, const Placement& p) {
    int64_t end = 0;
    for (const Graph::Node& n : g.nodes)
      if (n.op == Op::constant)
        end = std::max(end, p.places[n.out].offset + int64_t(itemsize(g.values[n.out].dtype)));
    if (!end) return;
    constants_ = allocate(device_, size_t(end));
    for (const Graph::Node& n : g.nodes)
      if (n.op == Op::constant) {
        Scalar x;
        x.i = g.attr(n)[1];
        store(x, g.values[n.out].dtype, constants_->data + p.places[n.out].offset);
      }
  }

  void results(const Schedule& s, const Placement& p) {
    const Graph& g = s.graph;
    target_of_.assign(g.outputs.size(), kFixed);
    for (uint32_t v : g.outputs) {
      const Place& at = p.places[s.views[v].root];
      if (at.what == Place::Input) {
        results_.push_back({true, at.index});
        reads_[at.index] = true;
        continue;
      }
      uint32_t& t = target_of_[at.index];
      if (t == kFixed) {
        t = uint32_t(targets_.size());
        targets_.push_back(g.values[v].bytes());
        output_bytes += g.values[v].bytes();
      }
      results_.push_back({false, t});
    }
    for (const Gift& gift : p.gifts) gifts_.push_back({target_of_[gift.output], gift.input});
  }

  void operand(const Schedule& s, const Placement& p, uint32_t v) {
    const View& view = s.views[v];
    const Place& at = p.places[view.root];
    const int64_t size = int64_t(itemsize(view.layout.dtype));
    if (at.what == Place::None) {
      operands_.push_back({kNothing, kFixed, 0});
      return;
    }
    Operand o{kArena, kFixed, at.offset + view.offset * size};
    if (at.what == Place::Input) o.base = kInputs + at.index, reads_[at.index] = true;
    else if (at.what == Place::Constant) o.base = kConstants;
    else if (at.what == Place::Output) o.base = kInputs + n_inputs_ + target_of_[at.index];
    if (!view.dynamic.empty()) {
      o.dynamic = uint32_t(moves_.size());
      for (const View::Dynamic& d : view.dynamic) moves_.push_back({p.places[d.scalar].index, 0, d.stride * size});
      moves_.back().last = 1;
    }
    operands_.push_back(o);
  }

  void calls(const Schedule& s, const Placement& p) {
    const Graph& g = s.graph;
    size_t n_operands = 0;
    for (const Kernel& k : s.kernels) n_operands += k.n_in + k.n_out;
    operands_.reserve(n_operands);
    calls_.reserve(s.kernels.size());
    lines_.reserve(s.kernels.size());
    steps_.reserve(s.kernels.size());
    for (size_t k = 0; k < s.kernels.size(); ++k) {
      const Kernel& kernel = s.kernels[k];
      Call c;
      c.step = kernel.step.get();
      c.operands = uint32_t(operands_.size());
      const auto in = s.in(kernel), out = s.out(kernel);
      c.n_out = kernel.n_out;
      c.n_in = kernel.n_in;
      c.scratch = p.scratch[k];
      const Graph::Node& first = g.nodes[s.nodes(kernel)[0]];
      for (uint32_t v : out) operand(s, p, v);
      for (uint32_t v : in) operand(s, p, v);
      most_operands_ = std::max(most_operands_, size_t(kernel.n_in + kernel.n_out));
      cost_ns += kernel.step->cost_ns;
      calls_.push_back(c);
      can_fail |= !kernel.tile() && info(first.op).kind == Kind::Index && first.op != Op::sort && first.op != Op::top &&
                  k >= s.guards && std::find(s.checked.begin(), s.checked.end(), k) == s.checked.end();
      steps_.push_back(kernel.step);
      lines_.push_back(first.line);
    }
    guards_ = s.guards;
    checks_.assign(s.checked.begin(), s.checked.end());
    expectations();
  }

  // Threads are told of the work that comes for them, so that they do not fall asleep just before it, or wake in time.
  void expectations() {
    constexpr double kSoonNs = 100e3;
    const double from = device(device_).threads_from_ns();
    double until = kSoonNs, next = 0;  // from here to the next step for several threads; its cost and of those soon after
    for (size_t k = calls_.size(); k-- > 0;) {
      const double cost = steps_[k]->cost_ns;
      if (from > 0 && cost >= from) {
        spread_ns_ += cost;
        next = cost + (until < kSoonNs ? next : 0);
        until = 0;
      } else {
        until += cost;
        if (until < kSoonNs) calls_[k].coming = next, calls_[k].in = until;
      }
    }
  }
};

}  // namespace

void Bound::resize(size_t n_base, size_t n_scalars) {
  static_assert(sizeof(char*) == 8 && sizeof(Scalar) == 8);
  n_base_ = n_base;
  lines_.resize((n_base + n_scalars + 7) / 8);
}

void Bound::release() {
  inputs.clear();
  made.clear();
  arena = {};
}

std::unique_ptr<Program> Program::build(const Schedule& s, const Placement& p, Device&) {
  return std::make_unique<Flat>(s, p);
}

std::vector<std::string> Schedule::lines() const {
  std::vector<std::string> list;
  for (const Kernel& k : kernels) {
    const Graph::Node& first = graph.nodes[nodes(k)[0]];
    std::string s;
    if (k.tile()) {
      s = describe(*k.tile(), in(k), out(k));
    } else {
      const Spec& result = graph.values[out(k)[0]];
      s = std::string(info(first.op).name) + " " + name(result.dtype) + str(result.shape) + ": ";
      for (size_t i = 0; i < k.n_out; ++i) s += (i ? ", v" : "v") + std::to_string(out(k)[i]);
      s += std::string(" = ") + info(first.op).name + "(";
      for (size_t i = 0; i < k.n_in; ++i) s += (i ? ", v" : "v") + std::to_string(in(k)[i]);
      s += ")";
    }
    int64_t bytes = 0;  // read and written
    for (uint32_t v : out(k)) bytes += graph.values[v].bytes();
    for (uint32_t v : in(k)) bytes += std::min(graph.values[v].bytes(), graph.values[views[v].root].bytes());
    s += " | in " + std::to_string(k.n_in) + ", out " + std::to_string(k.n_out) + ", " + human_bytes(bytes);
    if (std::string more = k.step->text(); !more.empty()) s += " | " + more;
    list.push_back(std::move(s));
  }
  return list;
}

std::string program_text(const Program& p, std::span<const std::string> lines, std::span<const double> took) {
  std::string s = std::to_string(p.kernels) + (p.kernels == 1 ? " kernel, arena " : " kernels, arena ") +
                  human_bytes(p.arena_bytes) + " (alive at once " + human_bytes(p.live_bytes) + "), results " +
                  human_bytes(p.output_bytes) + "\n";
  for (size_t k = 0; k < lines.size(); ++k) {
    s += std::to_string(k) + " " + lines[k];
    if (k < took.size()) {
      char us[32];
      std::snprintf(us, sizeof us, " | %.1f us", took[k]);
      s += us;
    }
    s += "\n";
  }
  return s;
}

std::string Schedule::text() const {
  std::string s;
  auto value = [](uint32_t v) { return "v" + std::to_string(v); };
  for (const Graph::Node& n : graph.nodes) {
    if (!is_view(n.op)) continue;
    const View& v = views[n.out];
    s += value(n.out) + ": " + name(v.layout.dtype) + str(v.layout.shape) + " is " + value(v.root) + " with strides (";
    for (int i = 0; i < v.layout.shape.rank; ++i) s += (i ? ", " : "") + std::to_string(v.layout.stride[i]);
    s += ")";
    if (v.offset) s += " from " + std::to_string(v.offset);
    for (const View::Dynamic& d : v.dynamic) s += " + " + value(d.scalar) + " * " + std::to_string(d.stride);
    s += "\n";
  }
  for (size_t k = 0; k < kernels.size(); ++k) {
    const Kernel& kernel = kernels[k];
    s += std::to_string(k) + " ";
    if (kernel.tile()) {
      s += describe(*kernel.tile(), in(kernel), out(kernel));
    } else {
      const Graph::Node& n = graph.nodes[nodes(kernel)[0]];
      s += std::string(info(n.op).name) + ":";
      for (uint32_t v : out(kernel)) s += " " + value(v);
      s += " =";
      for (uint32_t v : in(kernel)) s += " " + value(v);
    }
    s += "\n";
  }
  return s;
}

}  // namespace knet
