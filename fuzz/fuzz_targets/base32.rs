//! Nix's base 32: see `snowbank::nix::laws::base32`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::nix::laws::base32(bytes));
