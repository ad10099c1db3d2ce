#![no_main]

libfuzzer_sys::fuzz_target!(
    // The database library may panic over a damaged file, and the store catches it. What the store
    // lets out still ends the run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |input: &[u8]| jit_agent_fuzz::store(input)
);
