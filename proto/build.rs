//! Compiles the `.proto` files with protox: no `protoc` needed on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=jit");
    let files = protox::compile(
        ["jit/v1/grant.proto", "jit/v1/policy.proto", "jit/v1/agent.proto"],
        ["."],
    )?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
