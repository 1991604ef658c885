// Graphs, planned on the naive device, run, and compared with direct evaluation.
// A test is a program of one file: the memory and the device that plans need are defined here.
#pragma once
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <string>

#include "check.h"
#include "naive.h"
#include "plan/program.h"

// ---- memory: malloc, poisoned, counted

inline int64_t live_buffers = 0;
namespace knet {
BufferRef allocate(DeviceId, size_t bytes) {
  Buffer* b = new Buffer;
  b->bytes = bytes;
  b->data = static_cast<char*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64));
  std::memset(b->data, 0x7b, bytes);
  ++live_buffers;
  return BufferRef(b);
}
void destroy(Buffer* b) {
  std::memset(b->data, 0x5c, b->bytes);
  std::free(b->data);
  delete b;
  --live_buffers;
}
Device& device(DeviceId) {
  static NaiveDevice d;
  return d;
}
}  // namespace knet

// What a test ends with.
inline int report_all() {
  CHECK(live_buffers == 0);
  return report();
}

// ---- all stages

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What the stages make of a graph. In these tests the interface of Program is known here alone.
struct Plan {
  Schedule schedule;
  Placement placement;
  std::unique_ptr<Program> program;
  double seconds[3];  // of fuse, place, program

  Plan(Graph g, Device& device) {
    const double start = now();
    schedule = fuse(std::move(g), device);
    guard(schedule);
    const double fused = now();
    placement = place(schedule);
    const double placed = now();
    program = Program::build(schedule, placement, device);
    seconds[0] = fused - start, seconds[1] = placed - fused, seconds[2] = now() - placed;
  }
  int kernels() const { return program->kernels; }
  int64_t arena_bytes() const { return program->arena_bytes; }
  std::string text() const { return program_text(*program, schedule.lines(), {}); }
  void run(std::span<Located> inputs, std::span<const Scalar> scalars, std::span<Located> outputs) const {
    Bound b;
    b.inputs.assign(std::make_move_iterator(inputs.begin()), std::make_move_iterator(inputs.end()));
    std::vector<Located> results(outputs.size());
    program->bind(b, scalars, results);
    program->check(b);
    program->run(b);
    std::ranges::move(b.inputs, inputs.begin());  // what was not donated
    std::ranges::move(results, outputs.begin());
  }
};

// ---- building graphs and running them both ways

using Words = std::vector<int64_t>;
struct Build {
  Graph g;
  std::vector<Numbers> inputs;
  std::vector<Scalar> scalars;
  std::mt19937 rng;

  uint32_t leaf(Shape s, DType t = DType::F64) {
    Spec spec;
    spec.dtype = t;
    spec.shape = s;
    uint32_t v = g.add(Op::leaf, {}, {}, std::span<const Spec>(&spec, 1));
    g.inputs.push_back(v);
    Numbers x(size_t(s.size()));
    for (double& e : x) e = t == DType::Bool ? double(rng() % 2) : double(rng() % 50);
    inputs.push_back(x);
    return v;
  }
  uint32_t scalar(double x, DType t = DType::F64) {
    Spec spec;
    spec.dtype = t;
    uint32_t v = g.add(Op::scalar, {}, {}, std::span<const Spec>(&spec, 1));
    g.scalars.push_back(v);
    Scalar s;
    if (is_float(t)) s.f = x;
    else s.i = int64_t(x);
    scalars.push_back(s);
    return v;
  }
  uint32_t constant(double x, DType t = DType::F64) {
    Scalar s;
    if (is_float(t)) s.f = x;
    else s.i = int64_t(x);
    return g.constant(s, t);
  }
  uint32_t op(Op o, std::vector<uint32_t> in, Words attrs = {}) { return g.add(o, in, attrs); }
  uint32_t reduce(Op o, uint32_t x, Words axes, bool keep = false) {
    Words w{int64_t(axes.size())};
    w.insert(w.end(), axes.begin(), axes.end());
    w.push_back(keep);
    return op(o, {x}, w);
  }
  uint32_t list(Op o, uint32_t x, Words l) {
    Words w{int64_t(l.size())};
    w.insert(w.end(), l.begin(), l.end());
    return op(o, {x}, w);
  }
  uint32_t slice(uint32_t x, int64_t axis, uint32_t start, int64_t length, int64_t step = 1) {
    return op(Op::slice, {x, start}, {1, axis, 1, length, 1, step});
  }
  void out(uint32_t v) { g.outputs.push_back(v); }
  const Shape& shape(uint32_t v) const { return g.values[v].shape; }
};

inline std::vector<Numbers> direct(const Build& b) {
  std::vector<Operand> value(b.g.values.size());
  size_t n_leaf = 0, n_scalar = 0;
  for (const Graph::Node& n : b.g.nodes) {
    Operand& r = value[n.out];
    r.spec = b.g.values[n.out];
    if (n.op == Op::leaf) r.x = b.inputs[n_leaf++];
    else if (n.op == Op::scalar || n.op == Op::constant) {
      Scalar s;
      if (n.op == Op::scalar) s = b.scalars[n_scalar++];
      else s.i = b.g.attr(n)[1];
      r.x = {is_float(r.spec.dtype) ? s.f : double(s.i)};
    } else {
      std::vector<Operand> in;
      for (uint32_t u : b.g.in(n)) in.push_back(value[u]);
      r.x = compute(n.op, in, b.g.attr(n), r.spec);
    }
  }
  std::vector<Numbers> out;
  for (uint32_t v : b.g.outputs) out.push_back(value[v].x);
  return out;
}

struct Ran {
  Plan plan;
  std::vector<Located> outputs = {};
  int donated = 0;  // outputs in the memory of an input
};

inline Ran check(const Build& b, bool donate = false, bool only_contiguous = true, int64_t longest_row = 12) {
  static NaiveDevice device;
  device.only_contiguous = only_contiguous;
  device.longest_row = longest_row;
  auto expected = direct(b);
  Ran ran{Plan(b.g, device)};
  const Plan& plan = ran.plan;
  CHECK(plan.placement.arena_bytes >= plan.placement.live_bytes);
  for (int again = 0; again < 2; ++again) {
    std::vector<Located> in;
    std::vector<char*> data;
    for (size_t i = 0; i < b.inputs.size(); ++i) {
      const Spec& s = b.g.values[b.g.inputs[i]];
      in.push_back({allocate({}, size_t(std::max<int64_t>(s.bytes(), 1))), 0});
      put(b.inputs[i], s.dtype, in.back().data());
      data.push_back(in.back().data());
    }
    std::vector<Located> held = in;
    if (donate) held.clear();
    ran.outputs.assign(b.g.outputs.size(), {});
    plan.run(in, b.scalars, ran.outputs);
    bool same = true;
    for (size_t j = 0; j < expected.size(); ++j) {
      const Spec& s = b.g.values[b.g.outputs[j]];
      Numbers got = gather_layout(Layout::contiguous(s.dtype, s.shape), ran.outputs[j].data());
      same &= got == expected[j];
      for (char* d : data) ran.donated += ran.outputs[j].data() == d && !again;
    }
    if (!donate)
      for (size_t i = 0; i < b.inputs.size(); ++i) {
        const Spec& s = b.g.values[b.g.inputs[i]];
        same &= gather_layout(Layout::contiguous(s.dtype, s.shape), held[i].data()) == b.inputs[i];
      }
    CHECK(same);
    if (!same && failures < 4)
      std::printf("%s%s%s%s", b.g.text().c_str(), plan.schedule.text().c_str(),
                  plan.placement.text(plan.schedule).c_str(), plan.text().c_str());
  }
  CHECK(!plan.text().empty());
  return ran;
}
