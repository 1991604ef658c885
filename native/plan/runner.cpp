#include "plan/runner.h"

#include <algorithm>
#include <list>
#include <unordered_map>
#include "device.h"
#include "plan/stream.h"
#include "words.h"

namespace knet {

struct Plan {
  std::vector<int64_t> key;
  uint64_t hash = 0;
  uint64_t next = 0;  // the hash of the plan that was asked for after this one, when last it was
  std::shared_ptr<const Program> program;
  std::vector<uint32_t> outputs;  // values of the trace, in the program's order
  size_t bytes() const { return key.size() * 8 + outputs.size() * 4 + program->footprint + sizeof(Plan); }
};

namespace {

// ---- the plan cache

using PlanRef = std::shared_ptr<Plan>;  // a running plan outlives its eviction

struct Cache {
  std::list<PlanRef> order;  // most recently used first
  std::unordered_multimap<uint64_t, std::list<PlanRef>::iterator> by_hash;
  PlanStats stats;
  int64_t limit = 256 << 20;

  // A loop asks for the same plans in turn: what followed the latest one is tried before the key is hashed, which takes
  // eight times as long as to compare it.
  PlanRef find(const std::vector<int64_t>& key, uint64_t& hash) {
    PlanRef p;
    if (latest) p = same(hash = latest->next, key);
    if (!p) p = same(hash = knet::hash(key), key);
    follow(hash, p.get());
    return p;
  }
  void add(PlanRef p) {
    stats.bytes += int64_t(p->bytes());
    ++stats.plans;
    order.push_front(p);
    by_hash.emplace(p->hash, order.begin());
    while (stats.bytes > limit && order.size() > 1) drop_last();
    latest = p.get();
  }
  void drop_last() {
    const auto end = std::prev(order.end());
    auto [a, b] = by_hash.equal_range((*end)->hash);
    for (auto it = a; it != b; ++it)
      if (it->second == end) {
        by_hash.erase(it);
        break;
      }
    if (latest == end->get()) latest = nullptr;
    stats.bytes -= int64_t((*end)->bytes());
    --stats.plans;
    ++stats.evicted;
    order.erase(end);
  }

 private:
  Plan* latest = nullptr;  // the plan that was asked for last, if it is still there

  PlanRef same(uint64_t hash, const std::vector<int64_t>& key) {
    auto [a, b] = by_hash.equal_range(hash);
    for (auto it = a; it != b; ++it)
      if ((*it->second)->key == key) {
        order.splice(order.begin(), order, it->second);
        return order.front();
      }
    return nullptr;
  }
  // `p`, null if it is yet to be made, comes after the latest one.
  void follow(uint64_t hash, Plan* p) {
    if (latest) latest->next = hash;
    latest = p;
  }
};

Cache& cache() {
  static Cache& c = *new Cache;  // never destroyed: threads may end after main
  return c;
}

// ---- what differed from the nearest known plan, in words

struct Parsed {
  size_t begin, end;
  Head head;
};

std::vector<Parsed> parse(const std::vector<int64_t>& w) {
  std::vector<Parsed> nodes;
  for (size_t i = 0; i < w.size() && w[i] != -1;) {
    Head h = Head::unpack(w[i]);
    size_t end = i + 1 + h.n_in + h.n_attr;
    nodes.push_back({i, end, h});
    i = end;
  }
  return nodes;
}

std::string words_of(const std::vector<int64_t>& w, const Parsed& p) {
  std::string s = info(p.head.op).name;
  if (p.head.op == Op::leaf) {
    Shape shape(std::span<const int64_t>(w).subspan(p.begin + 2, p.head.n_attr - 1));
    return std::string("array ") + name(DType(w[p.begin + 1] & 0xff)) + str(shape);
  }
  s += "(";
  for (size_t i = 0; i < p.head.n_in; ++i) s += (i ? ", v" : "v") + std::to_string(w[p.begin + 1 + i]);
  s += ")";
  if (p.head.n_attr) {
    s += "[";
    for (size_t i = 0; i < p.head.n_attr; ++i) s += (i ? " " : "") + std::to_string(w[p.begin + 1 + p.head.n_in + i]);
    s += "]";
  }
  return s;
}

std::string difference(const std::vector<int64_t>& key, const std::vector<PlanRef>& known) {
  const Plan* nearest = nullptr;
  size_t best = 0;
  for (const PlanRef& p : known) {
    size_t n = std::min(p->key.size(), key.size()), i = 0;
    while (i < n && p->key[i] == key[i]) ++i;
    if (!nearest || i > best) nearest = p.get(), best = i;
  }
  if (!nearest) return "the first plan";
  auto a = parse(key), b = parse(nearest->key);
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    std::string now = i < a.size() ? words_of(key, a[i]) : "nothing", then = i < b.size() ? words_of(nearest->key, b[i]) : "nothing";
    if (now != then) return "operation " + std::to_string(i) + " is " + now + "; in the nearest known plan it is " + then;
  }
  return "the same operations; other values are still held by a variable";
}

}  // namespace

PlanStats plan_stats() { return cache().stats; }
int64_t& plan_cache_bytes() { return cache().limit; }
void clear_plans() {
  Cache& c = cache();
  while (!c.order.empty()) c.drop_last();
}
std::vector<Estimate>& estimates() {
  static thread_local std::vector<Estimate> list;
  return list;
}
std::function<void(Report)>& reporter() {
  static auto& f = *new std::function<void(Report)>;
  return f;
}

// ---- trace to graph

Graph Runner::graph(std::span<const uint32_t> outputs) const {
  Graph g;
  // Values that have run come first, as inputs; then the trace, so that value v of the trace is base + v of the graph.
  uint32_t base = 0;
  for (const auto& b : t_.bound_)
    if (!b.leaf) ++base;
  g.nodes.reserve(base + t_.values_.size());  // nearly all have one result
  g.ins.reserve(t_.words_.size() / 2);
  g.attrs.reserve(t_.words_.size() / 2);
  g.values.reserve(base + t_.values_.size());
  g.maker.reserve(base + t_.values_.size());
  List<uint32_t> input_of(t_.bound_.size());
  for (size_t i = 0; i < t_.bound_.size(); ++i)
    if (!t_.bound_[i].leaf) {
      const Spec& s = t_.values_[t_.bound_[i].value].spec;
      input_of[i] = g.add(Op::leaf, {}, {}, {&s, 1});
      g.known.emplace_back(base + t_.bound_[i].value, input_of[i]);
    } else {
      input_of[i] = base + t_.bound_[i].value;
    }
  g.inputs = std::move(input_of);
  uint32_t v = 0;
  List<uint32_t> in;
  List<Spec> specs;
  for (size_t w = 0; w < t_.words_.size();) {
    Head h = Head::unpack(t_.words_[w]);
    in.clear();
    for (uint32_t i = 0; i < h.n_in; ++i) in.push_back(base + uint32_t(t_.words_[w + 1 + i]));
    std::span<const Spec> made(&t_.values_[v].spec, 1);
    if (h.n_out != 1) {  // rare
      specs.clear();
      for (uint32_t i = 0; i < h.n_out; ++i) specs.push_back(t_.values_[v + i].spec);
      made = specs;
    }
    std::span<const int64_t> attrs(t_.words_.data() + w + 1 + h.n_in, h.n_attr);
    uint32_t out = g.add(h.op, in, attrs, made, int32_t(v));
    if (h.op == Op::scalar) g.scalars.push_back(out);
    v += h.n_out;
    w += 1 + h.n_in + h.n_attr;
  }
  for (uint32_t o : outputs) g.outputs.push_back(base + o);
  return g;
}

std::vector<uint32_t> Runner::kept(std::span<const uint32_t> wanted) const {
  // Reachable from what is wanted, not there yet, and dear to make again.
  std::vector<size_t> at;  // where in words_ each node begins
  std::vector<uint32_t> node(t_.values_.size()), first;
  uint32_t v = 0;
  for (size_t w = 0; w < t_.words_.size();) {
    Head h = Head::unpack(t_.words_[w]);
    for (uint32_t i = 0; i < h.n_out; ++i) node[v + i] = uint32_t(at.size());
    at.push_back(w);
    first.push_back(v);
    v += h.n_out;
    w += 1 + h.n_in + h.n_attr;
  }
  std::vector<bool> reached(t_.values_.size()), out(t_.values_.size());
  for (uint32_t o : wanted) reached[o] = out[o] = true;
  std::vector<uint32_t> more;
  for (size_t n = at.size(); n-- > 0;) {
    Head h = Head::unpack(t_.words_[at[n]]);
    bool any = false, all_bound = true;
    for (uint32_t i = 0; i < h.n_out; ++i) {
      any |= reached[first[n] + i];
      all_bound &= t_.values_[first[n] + i].bound >= 0;
    }
    if (!any || all_bound) continue;
    for (uint32_t i = 0; i < h.n_in; ++i) reached[size_t(t_.words_[at[n] + 1 + i])] = true;
    Kind k = info(h.op).kind;
    if (k == Kind::Elementwise || k == Kind::Movement || k == Kind::Meta || k == Kind::Create) continue;
    for (uint32_t i = 0; i < h.n_out; ++i)
      if (uint32_t o = first[n] + i; !out[o] && t_.values_[o].bound < 0) more.push_back(o);
  }
  return more;
}

// ---- running

std::vector<uint32_t> Runner::wanted() const {
  std::vector<uint32_t> list;
  list.reserve(16);  // more than a step of a small model, where it matters, has
  for (size_t v = 0; v < t_.values_.size(); ++v) {
    const Trace::Value& x = t_.values_[v];
    if (x.handle && x.bound < 0) list.push_back(uint32_t(v));
  }
  return list;
}

void Runner::run(bool history) {
  if (std::vector<uint32_t> list = wanted(); !list.empty()) compute(std::move(list), history);
}

void Runner::estimate() {
  const std::vector<uint32_t> list = wanted();
  if (list.empty()) return;
  Report report;
  const auto p = plan_for(list, false, report);
  estimates().push_back({p->program->arena_bytes, p->program->output_bytes, p->program->kernels});
}

// The plan for these values: known, or made now.
std::shared_ptr<Plan> Runner::plan_for(std::span<const uint32_t> wanted, bool history, Report& report) {
  // The key: what was recorded, what is wanted, what has run already.
  auto& key = t_.words_;
  const size_t recorded = key.size();
  struct Restore {
    std::vector<int64_t>& words;
    size_t n;
    ~Restore() { words.resize(n); }
  } restore{key, recorded};
  key.push_back(-1);
  key.push_back(int64_t(history) | int64_t(wanted.size()) << 1);
  key.insert(key.end(), wanted.begin(), wanted.end());
  for (const auto& b : t_.bound_)
    if (!b.leaf) key.push_back(b.value);

  Cache& c = cache();
  ++c.stats.runs;
  uint64_t hash;
  PlanRef p = c.find(key, hash);
  Device& on = device(t_.values_[wanted[0]].spec.device);
  if (p && !reporter()) {
    ++c.stats.hits;
    return p;
  }
  if (reporter()) {
    report.fresh = !p;
    if (!p) report.difference = difference(key, {c.order.begin(), c.order.end()});
  }
  Blocks::Scope scope;
  std::vector<int64_t> whole = key;
  key.resize(recorded);
  std::vector<uint32_t> outputs(wanted.begin(), wanted.end());
  if (history) {
    auto more = kept(wanted);
    outputs.insert(outputs.end(), more.begin(), more.end());
  }
  if (reporter()) {
    plan(graph(outputs), on, &report.stages);
    report.lines = t_.lines_;
  }
  if (p) {
    ++c.stats.hits;
    return p;
  }
  ++c.stats.misses;
  p = std::make_shared<Plan>();
  p->program = plan(graph(outputs), on);
  p->outputs = std::move(outputs);
  p->key = std::move(whole);
  p->hash = hash;
  c.add(p);
  return p;
}

void Runner::compute(std::vector<uint32_t> wanted, bool history) {
  std::shared_ptr<Plan> p;
  Report report;
  try {
    p = plan_for(wanted, history, report);
  } catch (const Error& e) {
    return fail(wanted, e);
  } catch (const std::bad_alloc&) {
    return fail(wanted, Error(Error::Memory, "[knet] out of memory while planning " + std::to_string(t_.values_.size()) + " values"));
  }
  if (t_.planning_only) estimates().push_back({p->program->arena_bytes, p->program->output_bytes, p->program->kernels});

  Stream& stream = Stream::shared();
  stream.wait();
  const std::shared_ptr<const Program> program = p->program;
  // Without history the trace ends here, so its hold on the inputs goes to the program, which may write over what
  // nobody else has. Not if the run may fail: then the values that do not need what failed are computed again from the
  // same inputs.
  const bool lend = history || program->can_fail;
  std::unique_ptr<Bound> bound = stream.take();
  for (auto& b : t_.bound_) {
    if (lend) bound->inputs.push_back(b.at);
    else bound->inputs.push_back(std::move(b.at));
  }
  std::vector<Located> outputs(p->outputs.size());
  std::vector<double> took;
  std::unique_ptr<Error> error;
  bool begun = false;
  try {
    if (stream.lost()) [[unlikely]]
      for (size_t i = 0; i < bound->inputs.size(); ++i)
        if (program->reads(i)) stream.read(*bound->inputs[i].buffer.get());
    program->bind(*bound, t_.scalars_, outputs);
    program->check(*bound, reporter() ? &took : nullptr);
    begun = true;
    if (lend || reporter() || !stream.launch(program, bound, device(t_.values_[wanted[0]].spec.device))) {
      Unlocked unlocked(program->cost_ns);
      program->run(*bound, reporter() ? &took : nullptr);
    }
  } catch (const Error& e) {
    error = std::make_unique<Error>(e);
  } catch (const std::bad_alloc&) {
    error = std::make_unique<Error>(Error::Memory, "[knet] out of memory: a run needs " +
                                    std::to_string(program->arena_bytes + program->output_bytes) + " bytes");
  }
  if (error) {
    // Exactly the values that need what failed are lost: the others are computed one by one. Only memory can have
    // failed when inputs were given away and perhaps written over; then all are lost.
    if (!lend)
      for (size_t i = 0; i < t_.bound_.size(); ++i) t_.bound_[i].at = std::move(bound->inputs[i]);
    outputs.clear();
    stream.give_back(std::move(bound));
    if ((begun && !lend) || wanted.size() == 1) return fail(wanted, *error);
    for (uint32_t v : wanted)
      if (t_.values_[v].handle && t_.values_[v].bound < 0) compute({v}, true);
    return;
  }
  if (bound) stream.give_back(std::move(bound));
  for (size_t i = 0; i < outputs.size(); ++i) {
    Trace::Value& v = t_.values_[p->outputs[i]];
    if (v.handle) v.handle->at = outputs[i];
    if (history) {
      v.bound = int32_t(t_.bound_.size());
      t_.bound_.push_back({p->outputs[i], false, std::move(outputs[i])});
    }
  }
  if (reporter()) {
    report.stages.program = program_text(*p->program, report.stages.lines, took);
    reporter()(std::move(report));
  }
}

// The name of the operation whose first result is v.
const char* Runner::recorded(uint32_t value) const {
  uint32_t v = 0;
  for (size_t w = 0; w < t_.words_.size();) {
    Head h = Head::unpack(t_.words_[w]);
    if (v == value) return info(h.op).name;
    v += h.n_out;
    w += 1 + h.n_in + h.n_attr;
  }
  return nullptr;
}

void Runner::fail(std::span<const uint32_t> values, Error e) {
  if (e.at >= 0)
    for (auto& [v, line] : t_.lines_)
      if (int32_t(v) == e.at && line.line) {
        // The operation that failed may be part of the expansion of the recorded one: name that.
        const char* op = recorded(v);
        std::string what = e.what();
        if (op && info(op_by_name(op)).kind == Kind::Compound) what = std::string("[") + op + "] " + what;
        Error with(e.kind, what + " (recorded at " + line.file + ":" + std::to_string(line.line) + ")");
        e = with;
        break;
      }
  auto why = std::make_shared<Failure>(Failure{e});
  for (uint32_t v : values) {
    Handle* h = t_.values_[v].handle;
    if (!h) continue;
    Spec s = h->spec;
    h->detach();
    h->spec = s;
    h->failure = why;
  }
}

}  // namespace knet
