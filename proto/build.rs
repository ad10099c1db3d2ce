//! Compiles the `.proto` files with protox: no `protoc` needed on the machine.

use std::error::Error;

/// The number of the type `bytes` in descriptor.proto.
const BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=jit");
    let mut files = protox::compile(
        [
            "jit/v1/grant.proto",
            "jit/v1/policy.proto",
            "jit/v1/checkpoint.proto",
            "jit/v1/revocation.proto",
            "jit/v1/agent.proto",
        ],
        ["."],
    )?;
    // A signed grant inside an answer stays encoded: the agent passes it on as it was signed, and
    // only what shows it decodes it. On the wire both types are the same.
    let messages = files.file.iter_mut().flat_map(|file| &mut file.message_type);
    let state = messages.filter(|message| message.name() == "GrantState");
    for field in state.flat_map(|message| &mut message.field) {
        if field.name() == "grant" {
            field.r#type = Some(BYTES);
            field.type_name = None;
        }
    }
    tonic_prost_build::configure()
        .bytes(".")
        // Few signatures have one, and a batch has very many signatures.
        .boxed(".jit.v1.Signature.assertion")
        .compile_fds(files)?;
    Ok(())
}
