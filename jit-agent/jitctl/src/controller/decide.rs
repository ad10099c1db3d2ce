//! `jitctl approve` and `deny`: a person reads a request, and says yes or no to exactly that.

use std::path::Path;

use clap::Args;
use jit_client::{
    controller::{
        call::Call,
        types::{DecisionInput, RequestView},
    },
    exit::Exit,
    files::read,
    keys::{Key, KeySpec},
    status::Page,
};
use jit_proto::{
    payload_type::{GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
    words::counted,
};
use prost::Message as _;

use super::{
    Output, ask,
    session::{Session, To},
    show, signature, wait,
};
use crate::{
    failure::{self, Failure},
    text,
};

const EXAMPLES: &str = "\
Shows the request first, and asks. What is sent is the hash of what was shown: if the request has
changed meanwhile, the approval is refused. Nobody approves his own request.

Examples:
    jitctl requests --pending
    jitctl approve 01KPEXAMP1E000000000000001
    jitctl approve 01KPEXAMP1E000000000000001 --hash 5f0c... --reason 'seen INC-4211'";

/// Arguments of `approve`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ApproveArgs {
    /// Id of the request
    id: String,
    /// Why you agree, in words
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Hash of the request that you have read elsewhere: nothing is asked, and nothing else is approved
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
    /// Also sign it with a key of your own, for hosts that ask for several signatures: a PEM file,
    /// ssh-agent:KEY or pkcs11:URI. If others must agree first, run this again afterwards
    #[arg(long, value_name = "KEY")]
    signing_key: Option<KeySpec>,
    /// Ask nothing: approve what is there now
    #[arg(long, conflicts_with = "hash")]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `deny`.
#[derive(Args, Debug)]
pub(crate) struct DenyArgs {
    /// Id of the request
    id: String,
    /// Why not, in words: the requester reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

/// Agrees to a request.
pub(super) fn approve(to: To<'_>, args: &ApproveArgs) -> Result<Exit, Failure> {
    if let Some(why) = no_request(&args.id) {
        return Err(Failure::usage(why));
    }
    let page = Page::of_stdout(args.output.colours.style());
    // Before anything is decided: a key that is missing is found at once.
    let key = args.signing_key.as_ref().map(Key::open).transpose();
    let key = key.map_err(|error| Failure::files(error.to_string()))?;
    to.call(async |session| {
        let view: RequestView = session.fetch(wait::read(&args.id)).await?;
        if !args.output.json {
            text::print(&show::head(&view, page))?;
            text::print(&show::verdict(&view.verdict, page))?;
        }
        match &args.hash {
            Some(hash) if !hash.eq_ignore_ascii_case(&view.hash) => {
                return Err(Failure::refused(format!(
                    "refused: changed: the hash of {} is {}, not the one that you named; read it \
                     again",
                    text::printable(&view.id),
                    text::printable(&view.hash)
                )));
            }
            Some(_) => {}
            None if args.yes => {}
            None => {
                if !ask::confirm("Approve this?", "--hash HASH of what you have read, or --yes")? {
                    return Err(Failure::refused("nothing was approved"));
                }
            }
        }
        // Whoever signs may have approved before, or others have.
        let mut decided = match view.state.as_str() {
            "awaiting_signatures" if key.is_some() => view,
            _ => decide(session, &view, "approve", &args.reason).await?,
        };
        if let Some(key) = &key {
            match signature::add(session, &decided, key).await {
                Ok((now, 0)) => {
                    decided = now;
                    failure::warn("nothing waits for a signature of this key now");
                }
                Ok((now, signed)) => {
                    decided = now;
                    failure::note(&format!("signed {}", counted(signed, "grant")));
                }
                Err(failure) => {
                    // What was done is done, whatever comes of the signature.
                    said(&decided, args.output, "approved")?;
                    failure::warn("approved, but not signed:");
                    return Err(failure);
                }
            }
        }
        said(&decided, args.output, "approved")
    })
}

/// Why this is no id of a request but a file that somebody else may have sent: an envelope.
fn no_request(id: &str) -> Option<String> {
    let bytes = read(Path::new(id), "the envelope").ok()?;
    let envelope = v1::Envelope::decode(&*bytes).ok()?;
    let name = text::printable(id);
    match envelope.payload_type.as_str() {
        REVOCATION_TYPE => Some(format!(
            "{name} is a signed revocation: one signature is enough, and nobody approves it; \
             deliver it with: jitctl push {name}"
        )),
        GRANT_TYPE | POLICY_TYPE => Some(format!(
            "{name} is an envelope, and no id of a request; add your signature to it with: jitctl \
             sign {name} --signing-key KEY"
        )),
        _ => None,
    }
}

/// Refuses a request.
pub(super) fn deny(to: To<'_>, args: &DenyArgs) -> Result<Exit, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty; say why: the requester reads it"));
    }
    to.call(async |session| {
        let view: RequestView = session.fetch(wait::read(&args.id)).await?;
        let decided = decide(session, &view, "deny", &args.reason).await?;
        said(&decided, args.output, "denied")
    })
}

/// Sends a decision on what was shown.
async fn decide(
    session: &Session,
    view: &RequestView,
    ruling: &str,
    reason: &str,
) -> Result<RequestView, Failure> {
    let input = DecisionInput {
        ruling: ruling.to_owned(),
        reason: reason.to_owned(),
        hash: view.hash.clone(),
    };
    let path = ["requests", view.id.as_str(), "decision"];
    // Of one person the same decision twice is one decision.
    session.fetch(Call::post(path).json(&input).key(ulid::Ulid::generate().to_string())).await
}

fn said(view: &RequestView, output: Output, word: &str) -> Result<Exit, Failure> {
    if output.json {
        text::print_pretty(view)?;
        return Ok(Exit::Success);
    }
    let missing = match view.missing_text.as_str() {
        "" => String::new(),
        missing if view.state == "pending" => format!("; still missing: {missing}"),
        _ => String::new(),
    };
    let text = format!("{word} {}: it is {}{missing}", view.id, view.state);
    text::print(&format!("{}\n", text::printable(&text)))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_no_request_and_the_answer_says_what_to_do_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("envelope");
        let path = file.display().to_string();
        for (payload_type, says) in [
            (REVOCATION_TYPE, Some("jitctl push")),
            (GRANT_TYPE, Some("jitctl sign")),
            (POLICY_TYPE, Some("jitctl sign")),
            ("text/plain", None),
        ] {
            let envelope = v1::Envelope {
                payload_type: payload_type.into(),
                payload: vec![1].into(),
                ..v1::Envelope::default()
            };
            std::fs::write(&file, envelope.encode_to_vec()).unwrap();
            let why = no_request(&path);
            assert_eq!(why.is_some(), says.is_some(), "{payload_type}");
            let why = why.unwrap_or_default();
            assert!(why.contains(says.unwrap_or_default()), "{payload_type}: {why}");
        }
        std::fs::write(&file, "no envelope").unwrap();
        assert_eq!(no_request(&path), None);
        assert_eq!(no_request("01KPEXAMP1E000000000000001"), None);
    }
}
