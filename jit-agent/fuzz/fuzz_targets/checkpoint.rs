#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| jit_agent_fuzz::checkpoint(input));
