//! A grant inside an answer: encoded, as it was signed.

use prost::Message as _;

use crate::v1;

impl v1::GrantState {
    /// The grant; `None`: there is none, or it is no [`v1::Grant`].
    pub fn signed(&self) -> Option<v1::Grant> {
        // A clone shares the bytes, and so do the ids and addresses of what is decoded from it.
        let bytes = self.grant.clone();
        if bytes.is_empty() { None } else { v1::Grant::decode(bytes).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message as the contract has it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Contract {
        #[prost(message, optional, tag = "1")]
        grant: Option<v1::Grant>,
        #[prost(uint64, tag = "5")]
        hits: u64,
    }

    #[test]
    fn a_grant_that_stays_encoded_is_the_contracts_message() {
        let grant =
            v1::Grant { id: vec![1; 16].into(), requester: "ana".into(), ..v1::Grant::default() };
        let sent = v1::GrantState {
            grant: grant.encode_to_vec().into(),
            hits: 7,
            ..v1::GrantState::default()
        };
        let contract = Contract { grant: Some(grant.clone()), hits: 7 };
        assert_eq!(Contract::decode(&*sent.encode_to_vec()).unwrap(), contract);
        let read = v1::GrantState::decode(&*contract.encode_to_vec()).unwrap();
        assert_eq!(read.signed(), Some(grant));
        assert_eq!(v1::GrantState::default().signed(), None);
        let bad = v1::GrantState { grant: vec![0xff].into(), ..v1::GrantState::default() };
        assert_eq!(bad.signed(), None);
    }
}
