#![no_main]
//! The manifest decoder: no input may panic it, and what it accepts has one encoding.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::store::manifest::fuzz(bytes));
