//! What a letter is, as far as a hub must know: whom to give it to, and what an answer is about. Pure. It
//! is the host that verifies it.

use bytes::Bytes;
use jit_proto::{
    GrantId,
    dsse::MAX_ENVELOPE_BYTES,
    mailbox::item,
    merkle::Hash,
    payload_type::{GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
};
use prost::Message as _;

/// A letter.
pub(super) struct Letter {
    pub(super) item: Hash,
    pub(super) kind: Kind,
    pub(super) envelope: v1::Envelope,
}

/// What it is.
pub(super) enum Kind {
    Grant {
        id: GrantId,
        begins_ms: i64,
    },
    Policy,
    /// Of grants with these ids; none: of others.
    Revocation(Vec<GrantId>),
}

impl Letter {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says why it is none.
    pub(super) fn read(bytes: &Bytes) -> Result<Self, &'static str> {
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err("it is longer than an envelope");
        }
        let envelope = v1::Envelope::decode(bytes.clone()).map_err(|_| "it is no envelope")?;
        let v1::Envelope { payload_type, payload, .. } = &envelope;
        let kind = match payload_type.as_str() {
            GRANT_TYPE => {
                let grant = v1::Grant::decode(payload.clone()).map_err(|_| "it is no grant")?;
                let id = GrantId::from_bytes(&grant.id).ok_or("its grant has no id")?;
                Kind::Grant { id, begins_ms: grant.not_before_ms }
            }
            POLICY_TYPE => Kind::Policy,
            REVOCATION_TYPE => {
                let decoded = v1::Revocation::decode(payload.clone());
                let ids = decoded.map_err(|_| "it is no revocation")?.grant_ids;
                Kind::Revocation(ids.iter().filter_map(|id| GrantId::from_bytes(id)).collect())
            }
            _ => return Err("its kind is unknown here"),
        };
        Ok(Self { item: item(payload_type, payload), kind, envelope })
    }

    /// Revocations are given first.
    pub(super) const fn order(&self) -> u8 {
        match self.kind {
            Kind::Revocation(_) => 0,
            Kind::Grant { .. } => 1,
            Kind::Policy => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: &str, payload: Vec<u8>) -> Bytes {
        let payload_type = kind.to_owned();
        v1::Envelope { payload_type, payload: payload.into(), signatures: vec![] }
            .encode_to_vec()
            .into()
    }

    #[test]
    fn a_letter_says_what_its_answer_is_about_and_nonsense_is_none() {
        let id = GrantId([7; 16]);
        let ids = vec![id.0.to_vec().into()];
        let grant = v1::Grant { id: id.0.to_vec().into(), not_before_ms: 5, ..Default::default() };
        let read = Letter::read(&envelope(GRANT_TYPE, grant.encode_to_vec())).unwrap();
        assert!(matches!(read.kind, Kind::Grant { id: of, begins_ms: 5 } if of == id));
        let revocation = v1::Revocation { grant_ids: ids, ..Default::default() };
        let read = Letter::read(&envelope(REVOCATION_TYPE, revocation.encode_to_vec())).unwrap();
        assert!(matches!(&read.kind, Kind::Revocation(of) if *of == [id]));
        assert_eq!(read.order(), 0);
        for bad in [
            Bytes::from_static(b"nonsense"),
            envelope("other", vec![]),
            envelope(GRANT_TYPE, vec![]),
            vec![0; MAX_ENVELOPE_BYTES + 1].into(),
        ] {
            assert!(Letter::read(&bad).is_err());
        }
    }
}
