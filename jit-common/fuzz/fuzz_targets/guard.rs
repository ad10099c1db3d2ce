#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| jit_common_fuzz::guard_lookup(input));
