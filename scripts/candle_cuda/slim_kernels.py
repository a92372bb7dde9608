#!/usr/bin/env python3
"""A copy of candle-kernels without what only quantised and mixture-of-experts models call.

usage: slim_kernels.py SOURCE TARGET

Functions of the parts left out panic. The copy is made anew only where it differs, so that cargo does not compile it again.
"""
import pathlib
import re
import shutil
import sys

source, target = map(pathlib.Path, sys.argv[1:])
stamp = target / "made-from"
# What this script does to it is part of the stamp.
made_from = f"{source}\n{pathlib.Path(__file__).read_text()}"
if stamp.exists() and stamp.read_text() == made_from:
    sys.exit()

shutil.rmtree(target, ignore_errors=True)
shutil.copytree(source, target)
for left_out in ["src/moe", "src/mmq_gguf"]:
    shutil.rmtree(target / left_out)
(target / "src/mmvq_gguf.cu").unlink()
(target / "src/quantized.cu").write_text("// left out\n")

build = (target / "build.rs").read_text()
start, end = build.index("    let mut moe_sources"), build.rindex("    Ok(())")
(target / "build.rs").write_text("#![allow(dead_code, unused_imports)]\n" + build[:start] + build[end:])

ffi = re.sub(r"//[^\n]*", "", (target / "src/ffi.rs").read_text())
ffi, blocks = re.subn(r'extern "C" \{(.*)\n\}', r"\1", ffi, flags=re.S)
assert blocks == 1, "one block of functions"
body = 'panic!("this build has no kernels for quantised models")'
ffi, functions = re.subn(r"pub fn (\w+)(\([^;]*);", rf'pub unsafe extern "C" fn \1\2 {{ {body} }}', ffi)
assert functions > 10, "functions of C"
(target / "src/ffi.rs").write_text("#![allow(unused_variables, non_snake_case, clippy::all)]\n" + ffi)
stamp.write_text(made_from)
