//! Properties of a call before its request is read: who may make it, how large it may be, and how
//! long its answer is.

use jit_proto::{dsse::MAX_ENVELOPE_BYTES, permission::Permission};

use crate::control::server::shape::{self, Shape};

/// Largest request: a batch of a few thousand grants.
pub(super) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Room for one envelope and the fields around it.
const ONE_ENVELOPE: usize = 2 * MAX_ENVELOPE_BYTES;
/// Room for a question. A cursor is its longest part.
const QUESTION: usize = 16 * 1024;

/// A method of the service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// One of these is needed.
    pub(super) needs: &'static [Permission],
    /// Largest size of its request, bytes as received.
    pub(super) largest: usize,
    /// The repeated fields of its request.
    pub(super) shape: Shape,
    pub(super) answer: Answer,
}

/// How long the answer to a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has a small bound.
    Short,
    /// As long as there are grants.
    Long,
    /// It goes on until somebody ends it.
    Endless,
}

impl Call {
    /// The call for a path (gRPC over HTTP/2: `/package.Service/Method`). For a call that does not
    /// exist, nothing is read.
    pub(super) fn of(path: &str) -> Option<Self> {
        use Permission::{Grant, Policy, Read, Revoke};
        let method = path.strip_prefix("/jit.v1.JitAgent/")?;
        let (needs, largest, shape): (&[Permission], _, _) = match method {
            "Push" => (&[Grant], ONE_ENVELOPE, shape::ONE_ENVELOPE),
            "CompareMailbox" => (&[Grant], 2 * ONE_ENVELOPE, shape::ONE_ENVELOPE),
            "PushBatch" => (&[Grant], MAX_MESSAGE_BYTES, shape::BATCH),
            // A signed one needs no permission of its own: the service looks.
            "Revoke" => (&[Revoke, Grant, Policy, Read], MAX_MESSAGE_BYTES, shape::REVOCATION),
            "Denials" | "List" | "Status" | "Watch" | "Why" => (&[Read], QUESTION, shape::PLAIN),
            "ShowPolicy" => (&[Read, Policy], QUESTION, shape::PLAIN),
            "DiffPolicy" => (&[Policy], ONE_ENVELOPE, shape::DRAFT),
            "PushPolicy" => (&[Policy], ONE_ENVELOPE, shape::ONE_ENVELOPE),
            // Beside the permission it needs root on the host.
            "BreakGlass" => (&[Grant], QUESTION, shape::PLAIN),
            "Confirm" | "Enforce" => (&[Policy], QUESTION, shape::PLAIN),
            "ConfirmPolicy" | "SetPolicyFloor" => (&[Policy], QUESTION, shape::PLAIN),
            "InstallCertificate" | "Reconnect" | "RequestCertificate" => {
                (&Permission::ALL, QUESTION, shape::PLAIN)
            }
            _ => return None,
        };
        let answer = match method {
            "Denials" | "List" | "Status" => Answer::Long,
            "Watch" => Answer::Endless,
            _ => Answer::Short,
        };
        Some(Self { needs, largest, shape, answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The service's definition: every method must be listed here, so that none is read unchecked.
    #[test]
    fn every_method_of_the_service_is_known() {
        let definition = include_str!("../../../../proto/jit/v1/agent.proto");
        let methods: Vec<_> = definition
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next())
            .collect();
        assert_eq!(methods.len(), 20, "{methods:?}");
        for method in methods {
            let call = Call::of(&format!("/jit.v1.JitAgent/{method}"));
            assert!(
                call.is_some_and(|call| !call.needs.is_empty() && call.largest > 0),
                "{method}"
            );
        }
        for path in ["", "/", "/jit.v1.JitAgent", "/jit.v1.JitAgent/push", "/jit.v2.JitAgent/Push"]
        {
            assert_eq!(Call::of(path), None, "{path}");
        }
    }
}
