//! `traceparent`: see `snowbank::trace::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::trace::fuzz(bytes));
