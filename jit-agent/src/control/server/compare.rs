//! `CompareMailbox`: what has arrived here, beside what a checkpoint says.

use jit_proto::{
    mailbox::MAX_LISTED,
    merkle::{Hash, MAX_PATH},
    permission::Permission,
    v1,
};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{
        answer::{gone, refused_status},
        authority::Authority,
    },
    gate::{Asked, GateHandle},
    rules::freshness::Proof,
};

/// Answers it. Whoever may push grants may ask: it is how what was pushed is compared, and to make a host
/// say that it is forked needs a signed checkpoint.
pub(super) async fn answer(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::CompareMailboxRequest>,
) -> Result<Response<v1::CompareMailboxResponse>, Status> {
    let by = authority.authorize(&request, Permission::Grant)?;
    let asked = asked(request.into_inner())?;
    let compared = gate.compare(asked, &by).await.map_err(gone)?;
    compared.map(Response::new).map_err(|refused| refused_status(&refused))
}

fn asked(request: v1::CompareMailboxRequest) -> Result<Asked, Status> {
    let v1::CompareMailboxRequest { checkpoint, index, path, listed, items } = request;
    let envelope = checkpoint.ok_or_else(|| Status::invalid_argument("checkpoint is missing"))?;
    let proof = Proof { index, path: hashes("path", &path, MAX_PATH)? };
    let items = hashes("items", &items, MAX_LISTED)?;
    if !listed && !items.is_empty() {
        return Err(Status::invalid_argument("items are there, and listed is not set"));
    }
    Ok(Asked { envelope, proof, list: listed.then_some(items) })
}

fn hashes(name: &str, bytes: &[u8], most: usize) -> Result<Vec<Hash>, Status> {
    let (hashes, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(Status::invalid_argument(format!("{name}: hashes have 32 bytes each")));
    }
    if hashes.len() > most {
        let text = format!("{name}: {} hashes; at most {most}", hashes.len());
        return Err(Status::invalid_argument(text));
    }
    Ok(hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(change: impl FnOnce(&mut v1::CompareMailboxRequest)) -> Option<String> {
        let mut request = v1::CompareMailboxRequest {
            checkpoint: Some(v1::Envelope::default()),
            path: vec![1; 64].into(),
            listed: true,
            items: vec![2; 96].into(),
            ..v1::CompareMailboxRequest::default()
        };
        change(&mut request);
        asked(request).err().map(|status| status.message().to_owned())
    }

    #[test]
    fn hashes_are_whole_and_bounded_and_an_empty_list_is_a_list() {
        assert_eq!(why(|_| {}), None);
        assert_eq!(why(|one| one.items = Vec::new().into()), None);
        assert!(why(|one| one.checkpoint = None).is_some());
        assert!(why(|one| one.listed = false).unwrap().contains("listed is not set"));
        assert!(why(|one| one.path = vec![1; 63].into()).unwrap().contains("32 bytes"));
        assert!(why(|one| one.path = vec![1; 33 * 32].into()).unwrap().contains("at most 32"));
        let most = MAX_LISTED * 32;
        assert_eq!(why(|one| one.items = vec![1; most].into()), None);
        assert!(why(|one| one.items = vec![1; most + 32].into()).unwrap().contains("at most"));
        let empty = v1::CompareMailboxRequest {
            checkpoint: Some(v1::Envelope::default()),
            listed: true,
            ..v1::CompareMailboxRequest::default()
        };
        assert_eq!(asked(empty).unwrap().list, Some(Vec::new()));
    }
}
