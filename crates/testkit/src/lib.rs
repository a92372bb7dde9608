//! Finite differences, rotations and golden readers for tests.
