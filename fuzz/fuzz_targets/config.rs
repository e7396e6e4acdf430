//! The text of a configuration file: see `snowbank::config::laws::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowbank::config::laws::config(bytes));
