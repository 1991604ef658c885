#include "trace/trace.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include "plan/runner.h"
#include "plan/stream.h"
#include "trace/rulebook.h"

namespace knet {

Host& host() {
  static Host h;
  return h;
}
Limits& limits() {
  static Limits l;
  return l;
}

// ---- handles

void Handle::detach() {
  if (trace) {
    auto& v = trace->values_[value];
    if (v.handle == this) {
      v.handle = nullptr;
      if (v.bound < 0) trace->pending_bytes_ -= v.bytes;
    }
    trace = nullptr;
  }
  tracked = false;
  if (at.buffer) at = {};
  if (failure) failure.reset();
}

void Handle::set(const Spec& s, Located where) {
  detach();
  spec = s;
  at = std::move(where);
}

void Handle::share(Handle& other) {
  if (&other == this) return;
  if (other.failure) {
    auto why = other.failure;
    detach();
    spec = other.spec;
    failure = why;
  } else if (other.trace && !(other.concrete() && !other.tracked)) {
    Trace& t = Trace::current();
    uint32_t v = t.use(other);
    t.give(t.append(Op::alias, {&v, 1}), *this);
  } else {
    set(other.spec, other.at);
  }
}

// ---- recording

// Traces outlive their threads, since handles of pending values may: when a thread ends, its trace waits for a new one.
struct Home {
  Trace* trace;
  Home() {
    std::lock_guard lock(mutex());
    for (auto& t : idle())
      if (t->settled()) {
        trace = t;
        trace->clear();
        trace->orphan_ = false;
        t = idle().back();
        idle().pop_back();
        return;
      }
    trace = new Trace;
  }
  // Runs without the interpreter lock: nothing but `orphan_` may be touched.
  ~Home() {
    std::lock_guard lock(mutex());
    trace->orphan_ = true;
    idle().push_back(trace);
    ++waiting();
  }
  // Traces of ended threads whose values were computed or dropped let go of what they hold.
  static void sweep() {
    if (waiting().load(std::memory_order_relaxed) == 0) [[likely]] return;
    std::vector<Trace*> done;
    {
      std::lock_guard lock(mutex());
      waiting() = 0;
      for (Trace* t : idle()) {
        if (t->settled()) done.push_back(t);
        else ++waiting();
      }
    }
    for (Trace* t : done) t->clear();
  }
  static std::atomic<int>& waiting() {
    static std::atomic<int> n{0};
    return n;
  }
  static std::mutex& mutex() {
    static auto& m = *new std::mutex;
    return m;
  }
  static std::vector<Trace*>& idle() {
    static auto& v = *new std::vector<Trace*>;
    return v;
  }
};

Trace& Trace::first_use() {
  static thread_local Home home;
  return *(here_ = home.trace);
}

Trace& Trace::current() {
  Trace& t = of_this_thread();
  if ((t.pending_ > limits().pending_nodes || t.pending_bytes_ > limits().pending_bytes) && t.depth() == 0 &&
      !t.planning_only) [[unlikely]]
    t.run();
  return t;
}

Trace::~Trace() { clear(); }

bool Trace::settled() const {
  return !running_ && std::all_of(values_.begin(), values_.end(), [](const Value& v) { return !v.handle || v.bound >= 0; });
}

void Trace::wait() {
  if (runner_ == std::this_thread::get_id())
    throw Error(Error::Runtime, "[knet] while values are computed, neither a derivative rule nor what it calls may use values of "
                                "the function around it. Pass them as arguments.");
  while (running_) {
    host().unlock();
    std::this_thread::yield();
    host().lock();
  }
}

[[noreturn, gnu::cold, gnu::noinline]] static void too_many(Op op, size_t operands) {
  throw Error(Error::Value, std::string("[") + info(op).name + "] " + std::to_string(operands) +
                                " operands are too many: at most 65535 arrays take part in one operation. Join them in parts.");
}

inline void Trace::head(Op op, size_t n_in, size_t n_attr, size_t n_out) {
  // The planner's nodes count in 16 bits (Graph::Node), attributes in 8 here.
  if (n_in > 0xffff || n_out > 0xffff || n_attr > 0xff) [[unlikely]] too_many(op, std::max({n_in, n_out, n_attr}));
  if (running_) [[unlikely]] wait();  // another thread computes values of this one
  words_.push_back(Head::pack(op, n_in, n_attr, n_out));
}

uint32_t Trace::add_leaf(const Spec& s, Located at, Handle* h) {
  head(Op::leaf, 0, size_t(1 + s.shape.rank), 1);
  words_.push_back(int64_t(s.dtype) | int64_t(s.weak) << 8 | int64_t(s.device.kind) << 16 | int64_t(s.device.index) << 24);
  for (int64_t d : s.shape) words_.push_back(d);
  const uint32_t id = uint32_t(values_.size());
  Value& v = values_.emplace_back(s, s.bytes(), 0, true);
  v.handle = h;
  v.bound = int32_t(bound_.size());
  bound_.push_back({id, true, std::move(at)});
  pending_bytes_ += v.bytes;  // the trace holds on to it
  return id;
}

uint32_t Trace::use_new(Handle& h) {
  if (h.failure) throw h.failure->error;
  if (h.trace && !h.concrete()) {
    if (h.trace->capturing_ || capturing_)
      throw Error(Error::Runtime, "[knet] a derivative rule may use only its own arguments. Pass what it needs as an argument.");
    h.trace->realize(h);
  }
  if (!h.concrete()) throw Error(Error::Runtime, "[knet] this array holds no value.");
  if (h.at.buffer->lost) [[unlikely]] throw *h.at.buffer->lost;
  // A handle that already stands in another thread's trace stays there; here its memory alone becomes a leaf.
  bool attach = !h.trace;
  uint32_t id = add_leaf(h.spec, h.at, attach ? &h : nullptr);
  if (attach) h.trace = this, h.value = id;
  return id;
}

uint32_t Trace::scalar(Scalar s, DType t, bool weak) {
  head(Op::scalar, 0, 1, 1);
  words_.push_back(int64_t(t) | int64_t(weak) << 8);
  scalars_.push_back(s);
  return add_number(t, weak);
}

uint32_t Trace::add_number(DType t, bool weak) {
  Spec s;
  s.dtype = t;
  s.weak = weak;
  values_.emplace_back(s, int64_t(itemsize(t)), 0, false);
  return uint32_t(values_.size() - 1);
}

uint32_t Trace::start(int64_t i, uint32_t x) {
  if (values_[x].given) return scalar({.i = i}, DType::I64, true);
  head(Op::constant, 0, 2, 1);
  words_.push_back(int64_t(DType::I64));
  words_.push_back(i);
  return add_number(DType::I64, false);
}

[[noreturn, gnu::cold, gnu::noinline]] static void too_large(Op op, const Spec& s) {
  throw Error(Error::Memory, std::string("[") + info(op).name + "] a result of shape " + str(s.shape) + " and dtype " +
                                 name(s.dtype) + " does not fit into any memory. Make it smaller.");
}

// Bytes of a result; more than any machine has is refused here, where the line is known and products cannot overflow.
static int64_t checked_bytes(Op op, const Spec& s) {
  int64_t n = int64_t(itemsize(s.dtype));
  bool empty = false;
  for (int64_t d : s.shape) {
    empty |= d == 0;
    if (__builtin_mul_overflow(n, d ? d : 1, &n) || n > int64_t(1) << 47) [[unlikely]] too_large(op, s);
  }
  return empty ? 0 : n;
}

uint32_t Trace::append(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs) {
  constexpr size_t kFew = 8;
  const Spec* few[kFew];
  std::vector<const Spec*> many;
  const Spec** specs = few;
  if (in.size() > kFew) {
    many.resize(in.size());
    specs = many.data();
  }
  uint32_t tracked = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const Value& v = values_[in[i]];
    specs[i] = &v.spec;
    tracked |= v.tracked;
  }
  Specs one;
  const Spec* out = one.v;
  size_t n_out;
  bool can_fail = false;  // when it runs, not now: then its line is noted
  const OpInfo& about = info(op);
  if (about.kind == Kind::Compound) {
    const TemplateRef t = expansion({op, attrs, {specs, in.size()}, {}, 0, 0});
    n_out = t->results.size();
    can_fail = t->can_fail;
    for (size_t i = 0; i < n_out; ++i) one.add() = t->specs[size_t(t->results[i])];
  } else {
    infer(op, {specs, in.size()}, attrs, one);
    n_out = size_t(one.n);
    can_fail = about.kind == Kind::Index;
  }
  int64_t bytes[Specs::kMax];
  for (size_t i = 0; i < n_out; ++i) bytes[i] = checked_bytes(op, out[i]);
  if (op == Op::stop || !(about.kind == Kind::Compound || about.kind == Kind::Meta || (about.flags & kDifferentiable)))
    tracked = 0;
  head(op, in.size(), attrs.size(), n_out);
  for (uint32_t v : in) words_.push_back(v);
  for (int64_t a : attrs) words_.push_back(a);
  const uint32_t first = uint32_t(values_.size());
  const bool given = (about.kind == Kind::Movement || about.kind == Kind::Meta) && !in.empty() && values_[in[0]].given;
  for (size_t i = 0; i < n_out; ++i) values_.emplace_back(out[i], bytes[i], is_float(out[i].dtype) ? tracked : 0, given);
  ++pending_;
  if ((limits().keep_lines || can_fail) && host().line && !capturing_) lines_.emplace_back(first, host().line());
  return first;
}

int Trace::results(Op op, uint32_t first) const {
  int n = info(op).n_out;
  return n > 0 ? n : int(values_.size() - first);
}

uint32_t Trace::cast(uint32_t v, DType to) {
  if (spec(v).dtype == to) return v;
  int64_t attr = int64_t(to);
  return append(Op::cast, {&v, 1}, {&attr, 1});
}

uint32_t Trace::cast_like(uint32_t v, DType to) {
  if (spec(v).dtype == to) return v;
  bool weak = spec(v).weak;
  size_t at = words_.size();
  uint32_t c = cast(v, to);
  if (weak) {
    values_[c].spec.weak = true;
    words_[at] |= Head::kWeak;
  }
  return c;
}

// The type in which arrays and Python numbers meet: arrays promote among themselves; a number only lifts the kind
// (bool < int < float), as in NumPy 2.
static DType meet(const Trace& t, std::span<const uint32_t> in) {
  bool any_strong = false;
  DType strong = DType::Bool, weak = DType::Bool;
  for (uint32_t v : in) {
    const Spec& s = t.spec(v);
    if (s.weak) {
      weak = promote(weak, s.dtype);
    } else {
      strong = any_strong ? promote(strong, s.dtype) : s.dtype;
      any_strong = true;
    }
  }
  if (!any_strong) return weak;
  if (is_float(weak) && !is_float(strong)) return DType::F64;
  if (is_int(weak) && strong == DType::Bool) return DType::I64;
  return strong;
}

uint32_t Trace::elementwise(Op op, std::span<const uint32_t> in) {
  const OpInfo& about = info(op);
  // Nearly always: nothing to promote.
  bool same = true;
  DType first = spec(in[0]).dtype;
  for (uint32_t v : in) same &= spec(v).dtype == first;
  if (same && (about.rule == DTypeRule::Same ? (first != DType::Bool || (about.flags & kBoolOk))
                                             : about.rule == DTypeRule::Float && is_float(first)))
    return append(op, in);

  uint32_t cast_in[8];
  if (in.size() > 8) throw Error(Error::Value, std::string("[") + about.name + "] too many operands");
  std::copy(in.begin(), in.end(), cast_in);
  size_t from = 0;
  DType t;
  switch (about.rule) {
    case DTypeRule::Where:
      cast_in[0] = cast(in[0], DType::Bool);
      from = 1;
      t = meet(*this, in.subspan(1));
      break;
    case DTypeRule::Logical: t = DType::Bool; break;
    case DTypeRule::Float:
    case DTypeRule::FloatTest: t = to_float(meet(*this, in)); break;
    default: t = meet(*this, in);
  }
  for (size_t i = from; i < in.size(); ++i) cast_in[i] = cast_like(in[i], t);
  return append(op, {cast_in, in.size()});
}

void Trace::give(uint32_t value, Handle& to) {
  if (to.trace == this && to.value == value) return;
  Value& v = values_[value];
  if (v.handle && v.handle != &to) {  // one handle per value: a second one holds an alias
    uint32_t again = append(Op::alias, {&value, 1});
    give(again, to);
    return;
  }
  to.detach();
  to.spec = v.spec;
  to.tracked = v.tracked != 0;
  to.trace = this;
  to.value = value;
  if (v.bound < 0 && v.handle != &to) pending_bytes_ += v.bytes;
  v.handle = &to;
  if (v.bound >= 0) to.at = bound_[size_t(v.bound)].at;
}

// ---- differentiated calls

static uint32_t depth_bit(int depth) { return 1u << std::min(depth, 31); }

void Trace::enter() { open_.push_back(parameters_.size()); }

void Trace::leave() noexcept {
  const uint32_t bit = depth_bit(depth());
  parameters_.resize(open_.back());
  open_.pop_back();
  if (depth() >= 31) return;
  for (Value& v : values_) {
    v.tracked &= ~bit;
    if (v.handle) v.handle->tracked = v.tracked != 0;
  }
}

uint32_t Trace::parameter(uint32_t v) {
  uint32_t p = append(Op::param, {&v, 1});
  values_[p].tracked |= depth_bit(depth());
  parameters_.push_back(p);
  return p;
}

uint32_t Trace::gradient(uint32_t loss) {
  const auto wrt = std::span(parameters_).subspan(open_.back());
  head(Op::grad, 1 + wrt.size(), 0, wrt.size());
  words_.push_back(loss);
  for (uint32_t w : wrt) words_.push_back(w);
  uint32_t first = uint32_t(values_.size());
  uint32_t tracked = values_[loss].tracked;
  for (uint32_t w : wrt) tracked |= values_[w].tracked;
  for (uint32_t w : wrt) values_.emplace_back(values_[w].spec, values_[w].bytes, tracked, false);
  ++pending_;
  return first;
}

// ---- running

void Trace::realize(Handle& h) {
  // Whenever the interpreter lock was given away the handle may stand for something else.
  for (const Trace* tried = nullptr;;) {
    if (h.failure) throw h.failure->error;
    if (h.concrete()) return Stream::shared().read(*h.at.buffer.get());
    if (!h.trace || h.trace == tried) throw Error(Error::Runtime, "[knet] this array holds no value.");
    Trace& t = *h.trace;
    if (t.capturing_)
      throw Error(Error::Runtime,
                  "[knet] a derivative rule cannot read values: it is run once and recorded. Use knet.where to choose.");
    if (t.running_) {  // another thread computes it now
      t.wait();
      continue;
    }
    // Another thread's trace may be in the middle of an operation: its value numbers must stay.
    bool orphan = t.orphan_, foreign = &t != &Trace::of_this_thread() && !orphan;
    t.run_keeping((t.depth() > 0 && !orphan) || foreign);
    tried = &t;
  }
}

void Trace::run() {
  if (capturing_ || running_) return;
  if (planning_only) return Runner(*this).estimate();
  run_keeping(depth() > 0);
}

void Trace::run_keeping(bool history) {
  running_ = true;
  runner_ = std::this_thread::get_id();
  struct Done {
    Trace& t;
    ~Done() {
      t.running_ = false;
      t.runner_ = {};
    }
  };
  {
    Done done{*this};
    Runner(*this).run(history);
  }
  pending_ = 0;
  pending_bytes_ = 0;
  if (!history) clear();
  Home::sweep();
}

void Trace::clear() noexcept {
  for (Value& v : values_)
    if (v.handle) {
      v.handle->trace = nullptr;
      v.handle->tracked = false;
    }
  if (orphan_) {
    open_.clear();
    parameters_.clear();
  }
  words_.clear();
  values_.clear();
  scalars_.clear();
  lines_.clear();
  // Letting go of a buffer may run foreign code (the owner of borrowed memory), which may record: empty the list first.
  auto bound = std::move(bound_);
  bound_.clear();
  bound.clear();
  if (bound_.empty()) bound_.swap(bound);  // keeps its memory for the next step
}

}  // namespace knet
