// The module knet._core: arrays and operations (array.h), and below the functions through which the package steers the
// engine.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu/isa.h"
#include "cpu/threads.h"
#include "device.h"
#include "plan/runner.h"
#include "plan/stream.h"
#include "python/array.h"
#include "python/rules.h"
#include "trace/rulebook.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace knet {

namespace {

// Engine errors inside nanobind functions become the Python exceptions of the same name.
template <class F>
auto checked(F&& body) {
  try {
    return body();
  } catch (const nb::python_error&) {
    throw;
  } catch (...) {
    raise_current();
    throw nb::python_error();
  }
}

nb::object steal(PyObject* o) { return nb::steal(o); }

std::string& package_folder() {
  static auto& s = *new std::string;
  return s;
}

// The innermost frame outside the package.
Line user_line() {
  Line line;
  PyFrameObject* f = PyEval_GetFrame();
  Py_XINCREF(f);
  while (f) {
    PyCodeObject* code = PyFrame_GetCode(f);
    PyObject* file = PyObject_GetAttrString(reinterpret_cast<PyObject*>(code), "co_filename");
    const char* path = file ? PyUnicode_AsUTF8(file) : nullptr;
    bool inside = path && !package_folder().empty() && std::string_view(path).starts_with(package_folder());
    if (path && !inside) line = {path, PyFrame_GetLineNumber(f)};
    Py_XDECREF(file);
    Py_DECREF(code);
    PyFrameObject* back = inside ? PyFrame_GetBack(f) : nullptr;
    Py_DECREF(f);
    f = back;
  }
  PyErr_Clear();
  return line;
}

thread_local PyThreadState* saved_state = nullptr;

nb::dict report_dict(const Report& r) {
  nb::dict d;
  d["fresh"] = r.fresh;
  d["difference"] = r.difference;
  d["recorded"] = r.stages.recorded;
  d["differentiated"] = r.stages.differentiated;
  d["simplified"] = r.stages.simplified;
  d["batched"] = r.stages.batched;
  d["fused"] = r.stages.fused;
  d["placed"] = r.stages.placed;
  d["program"] = r.stages.program;
  d["kernels"] = r.stages.kernels;
  d["arena_bytes"] = r.stages.arena_bytes;
  d["live_bytes"] = r.stages.live_bytes;
  d["output_bytes"] = r.stages.output_bytes;
  nb::dict lines;
  for (auto& [v, line] : r.lines) lines[nb::int_(v)] = nb::make_tuple(line.file, line.line);
  d["lines"] = lines;
  return d;
}

std::vector<uint32_t> values_of(Trace& t, nb::handle arrays) {
  std::vector<uint32_t> v;
  for (nb::handle a : arrays) v.push_back(value_of(t, a.ptr()));
  return v;
}

}  // namespace

NB_MODULE(_core, m) {
  host().unlock = [] { saved_state = PyEval_SaveThread(); };
  host().lock = [] { PyEval_RestoreThread(saved_state); };
  host().line = user_line;

  init_dtypes(m.ptr());
  init_array(m.ptr());
  init_function(m.ptr());
  if (PyModule_AddFunctions(m.ptr(), kGradientFunctions) < 0) throw nb::python_error();

  m.def("run", [] {
    checked([] {
      Trace::current().run();
      Stream::shared().wait();
    });
  }, "Compute everything that is pending.");
  m.def("pending", [] { return Trace::current().pending(); });

  // ---- rules
  m.def("set_rules", [](nb::object derive, nb::object expand) { set_rules(derive.ptr(), expand.ptr()); });
  m.def("add_rule", [](nb::object rule) { return add_user_rule(rule.ptr()); });
  m.def("custom", [](nb::object y, nb::list xs, int64_t rule) {
    return checked([&] {
      Trace& t = Trace::current();
      std::vector<uint32_t> in{value_of(t, y.ptr())};
      for (uint32_t v : values_of(t, xs)) in.push_back(v);
      return steal(wrap(t, t.append(Op::custom, in, {&rule, 1})));
    });
  });

  // ---- settings
  m.def("set_package", [](std::string folder) { package_folder() = folder; });
  m.def("threads", [] { return cpu::threads(); });
  m.def("set_threads", [](int n) {
    if (n < 1) throw nb::value_error("[config] threads must be 1 or more");
    cpu::set_threads(n);
  });
  m.def("isa", [] { return cpu::isa_name(); });
  m.def("limit_isa", [](int level) { cpu::limit_isa(level < 3 ? cpu::Isa::V2 : level < 4 ? cpu::Isa::V3 : cpu::Isa::V4); },
        "For tests: use no instruction set beyond x86-64-v`level`. To be called before anything runs.", "level"_a);
  m.def("keep_lines", [] { return limits().keep_lines; });
  m.def("set_keep_lines", [](bool on) { limits().keep_lines = on; });
  m.def("pending_limit", [] { return limits().pending_nodes; });
  m.def("set_pending_limit", [](size_t n) { limits().pending_nodes = n; });
  m.def("pending_bytes", [] { return limits().pending_bytes; });
  m.def("set_pending_bytes", [](int64_t n) { limits().pending_bytes = n; });
  m.def("plan_cache_bytes", [] { return plan_cache_bytes(); });
  m.def("set_plan_cache_bytes", [](int64_t n) { plan_cache_bytes() = n; });

  // ---- inspection
  m.def("memory", [] {
    Stream::shared().wait();  // it holds memory until it has ended
    MemoryStats s = cpu_device().memory();
    PlanStats p = plan_stats();
    nb::dict d;
    d["live"] = s.live;
    d["peak"] = s.peak;
    d["pooled"] = s.pooled;
    d["plans"] = p.plans;
    d["plan_bytes"] = p.bytes;
    d["plan_hits"] = p.hits;
    d["plan_misses"] = p.misses;
    d["runs"] = p.runs;
    d["launched"] = Stream::shared().launches();
    d["evicted"] = p.evicted;
    d["templates"] = templates();
    d["pending"] = Trace::current().pending();
    return d;
  });
  m.def("planning_only", [] { return Trace::current().planning_only; });
  m.def("plan_only", [](bool on) {
    Trace::current().planning_only = on;
    estimates().clear();
  }, "While on, run() runs nothing, but plans and notes what programs would need.");
  m.def("estimates", [] {
    nb::list list;
    for (const Estimate& e : estimates()) list.append(nb::make_tuple(e.arena, e.results, e.kernels));
    return list;
  }, "(bytes of the arena, bytes of results, kernels) of each program since planning began.");
  m.def("clear_plans", [] { clear_plans(); });
  m.def("trim", [] { cpu_device().trim(); });
  m.def("report", [](nb::object callback) {
    if (callback.is_none()) {
      reporter() = nullptr;
    } else {
      reporter() = [callback](Report r) { callback(report_dict(r)); };
    }
  }, "Call back with every run's stages, or None to stop.", "callback"_a.none());
}

}  // namespace knet
