#!/usr/bin/env python3
"""Archives that stand for NVIDIA's libraries when linking where there are none (x86-64, System V ABI).

usage: link_shim.py CUDARC TARGET

TARGET/libcuda.a has every function that cudarc declares of driver, cuBLAS, cuRAND and NVRTC; the other archives are empty. A function's first call opens
its library and goes on there, at once ever after; where there is no library it returns 100 (CUDA_ERROR_NO_DEVICE, and no success in the others).
"""
import pathlib
import re
import subprocess
import sys

LIBRARIES = {
    "driver": ["libcuda.so.1"],
    "cublas": ["libcublas.so.13", "libcublas.so.12"],
    "cublaslt": ["libcublasLt.so.13", "libcublasLt.so.12"],
    "curand": ["libcurand.so.10"],
    "nvrtc": ["libnvrtc.so.13", "libnvrtc.so.12"],
}
cudarc, target = map(pathlib.Path, sys.argv[1:])
target.mkdir(parents=True, exist_ok=True)

functions = {}
for module, names in LIBRARIES.items():
    text = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
    for name in sorted(set(re.findall(r"\bfn ((?:cu|nvrtc)\w+)\s*\(", text)) - {"culib"}):
        functions.setdefault(name, ":".join(names))

# Registers that carry arguments are kept while the function is looked up.
integers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "rbp"]
lines = [".text"]
for i, name in enumerate(functions):
    lines += [f".globl {name}", f".type {name},@function", f"{name}:", f" movq shim_table+{8 * i}(%rip),%r11", " testq %r11,%r11", " jz 1f"]
    lines += [" jmp *%r11", f"1: pushq ${i}", " jmp shim_first_call"]
lines += ["shim_first_call:", *(f" pushq %{r}" for r in integers), " movq %rsp,%rbp", " subq $128,%rsp", " andq $-16,%rsp"]
lines += [f" movups %xmm{i},{16 * i}(%rsp)" for i in range(8)]
lines += [f" movq {8 * len(integers)}(%rbp),%rdi", " call shim_find", " movq %rax,%r11"]
lines += [f" movups {16 * i}(%rsp),%xmm{i}" for i in range(8)]
lines += [" movq %rbp,%rsp", *(f" popq %{r}" for r in reversed(integers)), " addq $8,%rsp", " jmp *%r11"]
lines += ['.section .note.GNU-stack,"",@progbits', ""]
(target / "calls.s").write_text("\n".join(lines))

entries = ",\n".join(f'    {{"{name}", "{names}"}}' for name, names in functions.items())
(target / "find.c").write_text(f"""#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
static const struct {{ const char *name, *libraries; }} functions[] = {{
{entries}
}};
__attribute__((visibility("hidden"))) void *shim_table[{len(functions)}];
static int missing(void) {{ return 100; }}
__attribute__((visibility("hidden"))) void *shim_find(long i) {{
    char names[128];
    strncpy(names, functions[i].libraries, 127);
    names[127] = 0;
    void *library = 0;
    char *rest = 0;
    for (char *name = strtok_r(names, ":", &rest); name && !library; name = strtok_r(0, ":", &rest)) library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    void *found = library ? dlsym(library, functions[i].name) : 0;
    return shim_table[i] = found ? found : (void *)missing;
}}
""")
for command in [
    ["cc", "-c", "-O2", "-fPIC", "calls.s", "-o", "calls.o"],
    ["cc", "-c", "-O2", "-fPIC", "find.c", "-o", "find.o"],
    ["ar", "rcs", "libcuda.a", "calls.o", "find.o"],
    *(["ar", "rcs", f"lib{name}.a"] for name in ["cublas", "cublasLt", "curand", "nvrtc", "cudart"]),
]:
    subprocess.run(command, cwd=target, check=True)
