// OpFunction: the recording function of one operation, made from its entry. Reads the arguments of a call by the
// entry's signature (inputs, then attributes), converts and promotes the inputs, encodes the attributes as words
// (arguments.cpp), appends to the trace.
#include "python/function.h"

#include <structmember.h>

#include <algorithm>

namespace knet {

std::string text(PyObject* s) {
  const char* c = PyUnicode_AsUTF8(s);
  if (!c) throw PyError{};
  return c;
}

std::string parameters(const Entry& e) {
  std::string out;
  auto add = [&](const std::string& s) { out += (out.empty() ? "" : ", ") + s; };
  auto with_default = [&](PyObject* name, PyObject* value) {
    std::string s = text(name);
    if (value) {
      Ref r(PyObject_Repr(value));
      s += '=';
      s += text(r);
    }
    add(s);
  };
  // A parameter without a default cannot follow one that has it: the rest is by keyword.
  bool defaults = false, keywords = false;
  for (size_t i = 0; i < e.inputs.size(); ++i) {
    const bool star = e.variadic && i + 1 == e.inputs.size();
    if (star) {
      add("*" + text(e.inputs[i].name));
      keywords = true;
      continue;
    }
    with_default(e.inputs[i].name, e.inputs[i].value);
    defaults |= e.inputs[i].value != nullptr;
  }
  for (const Attribute& a : e.attrs) {
    if (!a.value && defaults && !keywords) add("*"), keywords = true;
    with_default(a.name, a.value);
    defaults |= a.value != nullptr;
  }
  return out;
}

void wrong_call(const Entry& e, const std::string& what) {
  throw Error(Error::Type, std::string("[") + e.about->name + "] " + what + ". It takes (" + parameters(e) + ").");
}

namespace {

struct FunctionObject {
  PyObject_HEAD
  vectorcallfunc vectorcall;
  Entry* entry;
};

PyObject* record(const Entry& e, PyObject* const* objects, size_t n, PyObject* const* attrs) {
  if (!settled(e, objects, n, attrs)) [[unlikely]] {
    std::vector<PyObject*> inputs(objects, objects + n), options(attrs, attrs + e.attrs.size());
    std::vector<Ref> kept;
    settle(e, inputs.data(), n, options.data(), kept);
    return record(e, inputs.data(), n, options.data());
  }
  Trace& t = Trace::current();
  DType element = DType::F32;
  const bool has_element = e.dtype_at >= 0 && attrs[e.dtype_at] != Py_None;
  if (has_element) element = parse_dtype(attrs[e.dtype_at]);
  if (!n && !e.inputs.empty())
    throw Error(Error::Value, std::string("[") + e.about->name + "] needs at least one array.");
  Values in;
  convert(t, e, objects, n, in, element, has_element);

  if (e.about->kind == Kind::Elementwise && e.attrs.empty()) return wrap(t, t.elementwise(e.op, {in.v, in.n}));

  // The axis None: over the elements in order.
  Shape restore;
  bool flattened = false;
  if (e.axis_at >= 0 && attrs[e.axis_at] == Py_None && in.n) {
    const Shape s = t.spec(in.v[0]).shape;
    for (size_t i = 0; i < in.n; ++i) in.v[i] = reshape(t, in.v[i], Shape{t.spec(in.v[i]).shape.size()});
    if (e.keepdims_at >= 0) {
      const int keep = PyObject_IsTrue(attrs[e.keepdims_at]);
      if (keep < 0) throw PyError{};
      if (keep) {
        flattened = true;
        for (int i = 0; i < s.rank; ++i) restore.push(1);
      }
    }
  }
  const Shape first = in.n ? t.spec(in.v[0]).shape : Shape();
  Words w;
  for (size_t i = 0; i < e.attrs.size(); ++i) encode(e, e.attrs[i], attrs[i], first, w);
  const uint32_t y = t.append(e.op, {in.v, in.n}, {w.few, w.n});
  const int results = t.results(e.op, y);
  if (results == 1) return wrap(t, flattened ? reshape(t, y, restore) : y);
  Ref tuple(PyTuple_New(results));
  for (int i = 0; i < results; ++i) PyTuple_SET_ITEM(tuple.get(), i, wrap(t, y + uint32_t(i)));
  return tuple.release();
}

bool same_name(PyObject* a, PyObject* b) { return a == b || PyUnicode_Compare(a, b) == 0; }

PyObject* call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* names) noexcept {
  return guarded([&] {
    const Entry& e = *reinterpret_cast<FunctionObject*>(self)->entry;
    const size_t n = size_t(PyVectorcall_NARGS(nargsf));
    const size_t fixed = e.fixed(), n_attrs = e.attrs.size();
    if (!names && n == fixed && !e.variadic && n_attrs == 0) return record(e, args, n, nullptr);

    constexpr size_t kMaxParameters = 24;
    PyObject* slots[kMaxParameters] = {};  // fixed inputs, then attributes
    PyObject* const* rest = nullptr;       // variadic inputs
    size_t n_rest = 0;
    size_t taken = std::min(n, fixed);
    std::copy(args, args + taken, slots);
    if (e.variadic) {
      // concatenate([a, b], 0): a sequence of arrays, then attributes. Only where nothing comes before: x[[0, 1]] is
      // one index.
      if (fixed == 0 && n > 0 && is_sequence(args[0])) {
        rest = PySequence_Fast_ITEMS(args[0]);
        n_rest = size_t(PySequence_Fast_GET_SIZE(args[0]));
        taken = 1;
      } else {
        rest = args + taken;
        n_rest = n - taken;
        taken = n;
      }
    }
    if (n - taken > n_attrs) wrong_call(e, std::to_string(n) + " positional arguments are too many");
    std::copy(args + taken, args + n, slots + fixed);

    const Py_ssize_t n_names = names ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t k = 0; k < n_names; ++k) {
      PyObject* name = PyTuple_GET_ITEM(names, k);
      PyObject* value = args[n + size_t(k)];
      size_t at = 0;
      while (at < fixed && !same_name(e.inputs[at].name, name)) ++at;
      if (at == fixed)
        while (at < fixed + n_attrs && !same_name(e.attrs[at - fixed].name, name)) ++at;
      if (at == fixed + n_attrs) {
        if (e.variadic && same_name(e.inputs.back().name, name) && is_sequence(value) && n_rest == 0) {
          rest = PySequence_Fast_ITEMS(value);
          n_rest = size_t(PySequence_Fast_GET_SIZE(value));
          continue;
        }
        wrong_call(e, "there is no argument " + text(name));
      }
      if (slots[at]) wrong_call(e, "the argument " + text(name) + " is given twice");
      slots[at] = value;
    }
    for (size_t i = 0; i < fixed; ++i)
      if (!slots[i] && !(slots[i] = e.inputs[i].value))
        wrong_call(e, "the argument " + text(e.inputs[i].name) + " is missing");
    for (size_t i = 0; i < n_attrs; ++i)
      if (!slots[fixed + i] && !(slots[fixed + i] = e.attrs[i].value))
        wrong_call(e, "the argument " + text(e.attrs[i].name) + " is missing");
    if (!n_rest) return record(e, slots, fixed, slots + fixed);
    std::vector<PyObject*> all(slots, slots + fixed);
    all.insert(all.end(), rest, rest + n_rest);
    return record(e, all.data(), all.size(), slots + fixed);
  });
}

// ---- making one

AttrKind attr_kind(const std::string& kind) {
  static const char* names[] = {"int", "bool", "ints", "axis", "axes", "shape", "dtype"};
  for (int i = 0; i < int(std::size(names)); ++i)
    if (kind == names[i]) return AttrKind(i);
  throw Error(Error::Value, "[OpFunction] there is no kind of attribute " + kind + ".");
}

Role role_of(Op op, const OpInfo& about, const std::string& name) {
  if (about.kind == Kind::Elementwise) return Role::Data;
  if (about.kind == Kind::Create) return Role::Element;
  if (about.kind == Kind::Random || name == "seed" || name == "counter") return Role::Seed;
  if (name == "starts" || name == "idx" || name == "i" || name == "labels") return Role::Index;
  if (name == "v" && op != Op::gather) return Role::Into;
  return Role::Data;
}

PyObject* intern(PyObject* s, size_t skip = 0) {
  const std::string t = text(s).substr(skip);
  return Ref(PyUnicode_InternFromString(t.c_str())).release();
}

PyTypeObject* function_type;

// Entries live as long as the process: one for each operation.
PyObject* function_new(PyTypeObject*, PyObject* args, PyObject*) noexcept {
  return guarded([&] {
    PyObject *name, *inputs, *defaults, *attrs, *doc;
    if (!PyArg_ParseTuple(args, "UO!O!O!O:OpFunction", &name, &PyTuple_Type, &inputs, &PyDict_Type, &defaults,
                          &PyTuple_Type, &attrs, &doc))
      throw PyError{};
    auto e = std::make_unique<Entry>();
    e->op = op_by_name(text(name));
    e->about = &info(e->op);
    e->name = intern(name);
    e->doc = Py_NewRef(doc);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(inputs); ++i) {
      PyObject* n = PyTuple_GET_ITEM(inputs, i);
      const bool star = text(n)[0] == '*';
      e->variadic |= star;
      PyObject* value = PyDict_GetItemWithError(defaults, n);
      Py_XINCREF(value);
      PyObject* plain = intern(n, star);
      e->inputs.push_back({plain, value, role_of(e->op, *e->about, text(plain))});
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(attrs); ++i) {
      PyObject *n, *kind, *value;
      if (!PyArg_ParseTuple(PyTuple_GET_ITEM(attrs, i), "UUO", &n, &kind, &value)) throw PyError{};
      const AttrKind k = attr_kind(text(kind));
      if (k == AttrKind::DType) e->dtype_at = int(i);
      if (k == AttrKind::Axis) e->axis_at = int(i);
      if (text(n) == "keepdims") e->keepdims_at = int(i);
      const bool required = !std::strcmp(Py_TYPE(value)->tp_name, "Required");
      e->attrs.push_back({intern(n), k, required ? nullptr : Py_NewRef(value)});
    }
    if (e->inputs.size() + e->attrs.size() > 24) throw Error(Error::Value, "[OpFunction] too many parameters.");
    e->one_type = e->about->kind == Kind::Contraction || e->about->kind == Kind::Movement;
    auto* f = PyObject_New(FunctionObject, function_type);
    if (!f) throw PyError{};
    f->vectorcall = call;
    f->entry = e.release();
    return reinterpret_cast<PyObject*>(f);
  });
}

Entry& entry_of(PyObject* self) { return *reinterpret_cast<FunctionObject*>(self)->entry; }

PyObject* get_name(PyObject* self, void*) { return Py_NewRef(entry_of(self).name); }
PyObject* get_doc(PyObject* self, void*) { return Py_NewRef(entry_of(self).doc); }
PyObject* get_module(PyObject*, void*) { return PyUnicode_InternFromString("knet"); }

// inspect.Signature, from the text of a function of the same parameters.
PyObject* get_signature(PyObject* self, void*) noexcept {
  return guarded([&] {
    Ref inspect(PyImport_ImportModule("inspect"));
    Ref globals(PyDict_New());
    if (PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) < 0) throw PyError{};
    const std::string source = "lambda " + parameters(entry_of(self)) + ": None";
    Ref f(PyRun_String(source.c_str(), Py_eval_input, globals, globals));
    return PyObject_CallMethod(inspect, "signature", "O", f.get());
  });
}

PyObject* function_repr(PyObject* self) noexcept {
  return guarded([&] {
    const std::string s = "<knet." + text(entry_of(self).name) + "(" + parameters(entry_of(self)) + ")>";
    return PyUnicode_FromString(s.c_str());
  });
}

// Pickled by name: knet.<name>.
PyObject* function_reduce(PyObject* self, PyObject*) { return Py_NewRef(entry_of(self).name); }

void function_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyGetSetDef function_getset[] = {{"__name__", get_name, nullptr, nullptr, nullptr},
                                 {"__qualname__", get_name, nullptr, nullptr, nullptr},
                                 {"__doc__", get_doc, nullptr, nullptr, nullptr},
                                 {"__module__", get_module, nullptr, nullptr, nullptr},
                                 {"__signature__", get_signature, nullptr, nullptr, nullptr},
                                 {}};
PyMethodDef function_methods[] = {{"__reduce__", function_reduce, METH_NOARGS, nullptr}, {}};
PyMemberDef function_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FunctionObject, vectorcall), READONLY, nullptr}, {}};
PyType_Slot function_slots[] = {{Py_tp_new, reinterpret_cast<void*>(function_new)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(function_dealloc)},
                                {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                                {Py_tp_repr, reinterpret_cast<void*>(function_repr)},
                                {Py_tp_getset, function_getset},
                                {Py_tp_methods, function_methods},
                                {Py_tp_members, function_members},
                                {}};
PyType_Spec function_spec = {"knet._core.OpFunction", sizeof(FunctionObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
                             function_slots};

}  // namespace

void init_function(PyObject* module) {
  Ref type(PyType_FromSpec(&function_spec));
  function_type = reinterpret_cast<PyTypeObject*>(type.get());
  if (PyModule_AddObjectRef(module, "OpFunction", type) < 0) throw PyError{};
  type.release();
}

}  // namespace knet
