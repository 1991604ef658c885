"""Writes the engine's tables from the entries: ops.inc (all operations) and tile_ops.inc (C expressions of elementwise
operations). Run by the build as `python generate.py OUTDIR`, before the native module exists."""
import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose random.py is not the standard library's

import importlib.util
import pathlib


def ops_inc(registry):
    lines = []
    for op in registry:
        flags = " | ".join(op.flags) or "0"
        lines.append(f"KNET_OP({op.name}, {op.kind}, {op.n_in}, {op.n_out}, {flags}, {op.rule})\n")
    return "".join(lines)


def tile_ops_inc(registry):
    """KNET_TILE(name, inputs, rule, (float), (int), (bool)): an expression is left empty where the type is not served.
    `cast` has no expression: the engine builds every pair of types."""
    lines = []
    for op in registry:
        if op.kind == "Elementwise" and op.name != "cast":
            expressions = ", ".join(f"({c})" if c else "" for c in (op.c, op.c_int, op.c_bool))
            lines.append(f"KNET_TILE({op.name}, {op.n_in}, {op.rule}, {expressions})\n")
    return "".join(lines)


def write(path, text):
    """Unchanged files keep their time, so that nothing is compiled again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def load():
    """The entries as a package of their own: `knet` itself needs the native module, which is what is being built."""
    here = pathlib.Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location("knet_ops", here / "__init__.py",
                                                  submodule_search_locations=[str(here)])
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    return package


def main(outdir):
    package = load()
    registry = [entry for entry in package.REGISTRY.values() if isinstance(entry, package.Op)]
    outdir = pathlib.Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    write(outdir / "ops.inc", ops_inc(registry))
    write(outdir / "tile_ops.inc", tile_ops_inc(registry))


if __name__ == "__main__":
    main(sys.argv[1])
