//! The URL field of a narinfo: see `snowbank::nix::laws::nar_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::nix::laws::nar_url(bytes));
