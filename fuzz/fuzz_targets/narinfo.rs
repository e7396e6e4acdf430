//! Narinfo: see `snowbank::nix::laws::narinfo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::nix::laws::narinfo(bytes));
