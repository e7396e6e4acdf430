//! `X-Forwarded-For` and `Forwarded`: see `snowbank::edge::forwarded::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::edge::forwarded::fuzz(bytes));
