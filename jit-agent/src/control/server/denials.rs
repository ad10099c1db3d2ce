//! The call about denials: checks what is asked for, before the gate sees it.

use jit_proto::{PortRange, SourcePrefix, WallTime, permission::Permission, v1};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{answer::gone, authority::Authority},
    gate::GateHandle,
    rules::denials::Query,
};

/// The most that are listed, and the number if the caller names none.
const MOST: u32 = 4_096;
const USUAL: u32 = 20;

pub(super) async fn list(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::DenialsRequest>,
) -> Result<Response<v1::DenialsResponse>, Status> {
    authority.authorize(&request, Permission::Read)?;
    let query = query(request.get_ref()).map_err(Status::invalid_argument)?;
    gate.denials(query).await.map(Response::new).map_err(gone)
}

fn query(request: &v1::DenialsRequest) -> Result<Query, String> {
    let v1::DenialsRequest { since_ms, source, port, top, requester } = request;
    let source = source.as_ref().map(SourcePrefix::try_from).transpose();
    let port = port.as_ref().map(PortRange::try_from).transpose();
    let top = if *top == 0 { USUAL } else { (*top).min(MOST) };
    Ok(Query {
        since: (*since_ms > 0).then_some(WallTime(*since_ms)),
        source: source.map_err(|error| format!("source: {error}"))?,
        port: port.map_err(|error| format!("port: {error}"))?,
        requester: Some(requester.clone()).filter(|name| !name.is_empty()),
        top: usize::try_from(top).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_and_zero_means_all() {
        let all = query(&v1::DenialsRequest::default()).unwrap();
        assert!(all.since.is_none() && all.source.is_none() && all.port.is_none());
        assert!(all.requester.is_none() && all.top == 20);
        let many = query(&v1::DenialsRequest { top: u32::MAX, ..Default::default() }).unwrap();
        assert_eq!(many.top, 4_096);
        let source = Some(v1::Source { address: vec![1; 5].into(), prefix_length: 8 });
        assert!(query(&v1::DenialsRequest { source, ..Default::default() }).is_err());
        let port = Some(v1::PortRange { protocol: 1, first: 5, last: 4 });
        assert!(query(&v1::DenialsRequest { port, ..Default::default() }).is_err());
    }
}
