//! The cost of the programs for the verifier: far below its limit of a million instructions, so
//! that kernels with other verifiers accept them too.

use jit_tests::{
    kernel::{Kernel, all_programs},
    lacks::{VERIFIED_INSTRUCTIONS, kernel_lacks},
};

const LIMIT: u32 = 200_000;

#[test]
fn the_verifier_accepts_each_program_within_its_budget() {
    let kernel = Kernel::load();
    for program in all_programs() {
        let counted = kernel.verified_instructions(program);
        assert_eq!(counted.is_none(), kernel_lacks(VERIFIED_INSTRUCTIONS), "{counted:?}");
        let Some(instructions) = counted else { continue };
        println!("{program}: {instructions} instructions verified");
        assert!(instructions < LIMIT, "{program}: {instructions}");
        assert!(instructions > 100, "{program}: {instructions}: this is not the gate");
    }
}
