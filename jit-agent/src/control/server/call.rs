//! Properties of a call before its request is read: who may make it, and how large it may be.

use http_body_util::Limited;
use jit_proto::{dsse::MAX_ENVELOPE_BYTES, permission::Permission};
use tonic::{Request, body::Body, codegen::http};

/// Largest request: a batch of a few thousand grants.
pub(super) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Room for one envelope and the fields around it.
const ONE_ENVELOPE: usize = 2 * MAX_ENVELOPE_BYTES;
/// Room for a question. A cursor is its longest part.
const QUESTION: usize = 16 * 1024;

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// One of these is needed.
    pub(super) needs: &'static [Permission],
    /// Largest size of its request, bytes as received.
    largest: usize,
}

impl Call {
    /// The call for a path (gRPC over HTTP/2: `/package.Service/Method`). For a call that does not
    /// exist, nothing is read.
    fn of(path: &str) -> Option<Self> {
        let (needs, largest): (&[Permission], _) = match path.strip_prefix("/jit.v1.JitAgent/")? {
            "Push" => (&[Permission::Grant], ONE_ENVELOPE),
            "PushBatch" => (&[Permission::Grant], MAX_MESSAGE_BYTES),
            "Revoke" => (&[Permission::Revoke], MAX_MESSAGE_BYTES),
            "List" | "Status" | "Watch" => (&[Permission::Read], QUESTION),
            "ShowPolicy" => (&[Permission::Read, Permission::Policy], QUESTION),
            "DiffPolicy" | "PushPolicy" => (&[Permission::Policy], ONE_ENVELOPE),
            "ConfirmPolicy" | "SetPolicyFloor" => (&[Permission::Policy], QUESTION),
            _ => return None,
        };
        Some(Self { needs, largest })
    }

    /// Notes the call in its request, and limits the request to the size that the call needs.
    pub(super) fn mark(request: http::Request<Body>) -> http::Request<Body> {
        let call = Self::of(request.uri().path());
        let largest = call.map_or(0, |call| call.largest);
        let mut request = request.map(|body| Body::new(Limited::new(body, largest)));
        if let Some(call) = call {
            request.extensions_mut().insert(call);
        }
        request
    }

    /// The call that was noted.
    pub(super) fn noted<T>(request: &Request<T>) -> Option<Self> {
        request.extensions().get().copied()
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
        assert_eq!(methods.len(), 11, "{methods:?}");
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
