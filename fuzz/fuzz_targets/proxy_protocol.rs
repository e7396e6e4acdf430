//! The PROXY protocol: see `snowbank::edge::proxy_protocol::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::edge::proxy_protocol::fuzz(bytes));
