//! Signatures, public and secret keys: see `snowbank::proxy::sign::laws::signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::proxy::sign::laws::signature(bytes));
