//! Compressed bodies, the first byte picks the compression: see `snowbank::decompress::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::decompress::fuzz(bytes));
