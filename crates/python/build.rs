//! Says to the linker of macOS that Python's symbols are found when the module is loaded; elsewhere nothing.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
