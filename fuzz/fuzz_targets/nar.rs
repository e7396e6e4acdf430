//! The archive format: see `snowbank::nix::nar::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::nix::nar::fuzz(bytes));
