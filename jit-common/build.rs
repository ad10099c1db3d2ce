//! Chooses the layouts of the tables. The environment does, and no feature: whatever combination of
//! features cargo is asked for, agents that are installed and the kernel programs in them agree.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(jit_next_abi)");
    println!("cargo::rerun-if-env-changed=JIT_NEXT_ABI");
    println!("cargo::rerun-if-changed=build.rs");
    // Another version, with another layout of the grant tables: for tests of upgrades.
    if std::env::var_os("JIT_NEXT_ABI").is_some_and(|next| next == "1") {
        println!("cargo::rustc-cfg=jit_next_abi");
    }
}
