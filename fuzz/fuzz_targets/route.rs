//! A request target: see `snowbank::edge::route::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::edge::route::fuzz(bytes));
