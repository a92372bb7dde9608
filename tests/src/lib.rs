//! End-to-end, conformance and hostile-input tests.
