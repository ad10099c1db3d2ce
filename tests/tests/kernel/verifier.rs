//! What the programs cost the verifier: far from its limit of a million instructions, so that a
//! kernel with a less patient verifier takes them too.

use jit_tests::kernel::{Kernel, PROGRAMS};

const LIMIT: u32 = 100_000;

#[test]
fn the_verifier_accepts_each_program_within_its_budget() {
    let mut kernel = Kernel::load();
    for program in PROGRAMS {
        let instructions = kernel.verified_instructions(program);
        println!("{program}: {instructions} instructions verified");
        assert!(instructions < LIMIT, "{program}: {instructions}");
        assert!(instructions > 1_000, "{program}: {instructions}: this is not the gate");
    }
}
