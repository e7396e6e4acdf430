//! `Range` and `If-None-Match`: see `snowbank::edge::range::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::edge::range::fuzz(bytes));
