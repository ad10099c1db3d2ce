//! Signatures of people, for hosts that ask for more than the controller's own: whose key, over
//! what, and how many people.

use jit_client::signing::{Algorithm, SigningKey};
use jit_controller::{
    desk::DeskError,
    model::{Account, State, host::ObservedPort},
    store::{Request, accounts},
};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};

use super::{HOUR, Office, account, now_ms, ssh, word};
use crate::databases::Database;

on_each_database! {
    a_good_signature_of_another_person_is_the_second,
    what_is_no_signature_of_the_callers_own_key_is_refused_by_name,
    a_key_is_of_one_account_and_no_key_of_the_controller_is_a_persons,
    two_keys_of_one_person_are_one_approver,
    a_revoked_key_counts_no_longer_also_where_it_has_signed,
}

fn key(algorithm: Algorithm) -> SigningKey {
    let provider = rustls::crypto::ring::default_provider();
    SigningKey::generate(algorithm, provider.secure_random).unwrap()
}

impl Office {
    /// One whose web-2 asks for signatures by this number of keys.
    async fn asking_for(database: &Database, approvals: u32) -> Self {
        let office = Self::open(database).await;
        let mut observed = office.store.host("web-2").await.unwrap().unwrap().observed;
        observed.ports = vec![ObservedPort {
            port: "22/tcp".into(),
            mode: "enforce".into(),
            max_duration_ms: HOUR,
            approvals,
            exemptions: Vec::new(),
        }];
        office.store.observe("web-2", &observed).await.unwrap();
        let mut tx = office.store.begin().await.unwrap();
        let second = account("li-two", "li@example.org", &["sre"]);
        accounts::put(&mut tx, &second).await.unwrap();
        tx.commit().await.unwrap();
        office
    }

    async fn waiting(&self, name: &str) -> Request {
        let request = self.submit(name, ssh()).await;
        if request.state == State::Pending {
            self.decide("li", &request, now_ms()).await.unwrap();
            self.decide("bo", &request, now_ms()).await.unwrap();
        }
        self.desk.sign_waiting(now_ms()).await.unwrap();
        let request = self.read(&request.proposal.id).await;
        assert_eq!(request.state, State::AwaitingSignatures);
        request
    }

    /// A key of this account that is registered.
    async fn key_of(&self, name: &str) -> SigningKey {
        let new = key(Algorithm::P256);
        self.register(name, &new).await.unwrap();
        new
    }

    async fn register(&self, name: &str, new: &SigningKey) -> Result<(), DeskError> {
        let by = self.account("max").await;
        let pem = new.public_pem();
        self.desk.add_key(&by, name, &new.key_id(), &pem, now_ms()).await.map(drop)
    }

    async fn signature(&self, request: &Request, key: &SigningKey) -> v1::Signature {
        let grants = self.store.grants_of(&request.proposal.id).await.unwrap();
        let message = pre_authentication_encoding(GRANT_TYPE, &grants[0].part.payload);
        v1::Signature {
            key_id: key.key_id(),
            signature: key.sign(&message).into(),
            ..v1::Signature::default()
        }
    }

    async fn add(
        &self,
        who: &Account,
        request: &Request,
        signature: v1::Signature,
    ) -> Result<Request, DeskError> {
        let grants = self.store.grants_of(&request.proposal.id).await.unwrap();
        let grant = grants[0].part.id.to_string();
        self.desk.add_signature(who, &grant, signature, now_ms()).await
    }

    async fn signs(
        &self,
        name: &str,
        request: &Request,
        key: &SigningKey,
    ) -> Result<Request, DeskError> {
        let signature = self.signature(request, key).await;
        self.add(&self.account(name).await, request, signature).await
    }

    async fn signatures(&self, request: &Request) -> usize {
        let grants = self.store.grants_of(&request.proposal.id).await.unwrap();
        grants[0].envelope.as_ref().map_or(0, |envelope| envelope.signatures.len())
    }
}

async fn a_good_signature_of_another_person_is_the_second(database: Database) {
    let office = Office::asking_for(&database, 2).await;
    let request = office.waiting("robot").await;
    let id = &request.proposal.id;
    assert!(office.store.deliveries_of(id).await.unwrap().is_empty());
    let key = office.key_of("li").await;
    let after = office.signs("li", &request, &key).await.unwrap();
    assert_eq!(after.state, State::Delivering);
    assert_eq!(office.store.deliveries_of(id).await.unwrap().len(), 2);
    let lines = office.store.audit_of(id).await.unwrap();
    assert!(lines.iter().any(|line| line.code == "R008" && line.line.contains(&key.key_id())));
}

async fn what_is_no_signature_of_the_callers_own_key_is_refused_by_name(database: Database) {
    let office = Office::asking_for(&database, 2).await;
    let request = office.waiting("ana").await;
    let li = office.account("li").await;
    let unregistered = key(Algorithm::Ed25519);
    let refused = office.signs("li", &request, &unregistered).await;
    let said = refused.as_ref().unwrap_err().to_string();
    assert!(said.contains("jitctl accounts keys add li --public-key"), "{said}");
    assert_eq!(word(refused), "unknown_key");
    let (own, of_bo) = (office.key_of("li").await, office.key_of("bo").await);
    // A good signature by somebody else's key, brought by Li; also from her other account.
    assert_eq!(word(office.signs("li", &request, &of_bo).await), "not_your_key");
    assert_eq!(word(office.signs("li-two", &request, &own).await), "not_your_key");
    // Nonsense, another's signature under Li's name, and a signature over something else.
    let good = office.signature(&request, &own).await;
    let nonsense = v1::Signature { signature: vec![7; 64].into(), ..good.clone() };
    assert_eq!(word(office.add(&li, &request, nonsense).await), "wrong_signature");
    let of_bo = office.signature(&request, &of_bo).await;
    let renamed = v1::Signature { key_id: own.key_id(), ..of_bo };
    assert_eq!(word(office.add(&li, &request, renamed).await), "wrong_signature");
    let other = office.waiting("ana").await;
    let elsewhere = office.signature(&other, &own).await;
    assert_eq!(word(office.add(&li, &request, elsewhere).await), "wrong_signature");
    let nameless = v1::Signature { key_id: String::new(), ..good.clone() };
    assert_eq!(word(office.add(&li, &request, nameless).await), "unknown_key");
    // Who asked does not sign, also not with a second account.
    let of_ana = office.key_of("ana-admin").await;
    assert_eq!(word(office.signs("ana-admin", &request, &of_ana).await), "self_approval");
    let own_too = office.waiting("ana-admin").await;
    office.renamed("ana-admin", "ana.married@example.org").await;
    assert_eq!(word(office.signs("ana-admin", &own_too, &of_ana).await), "self_approval");
    // Nothing of it was kept, all of it is in the audit, and the request is not lost.
    assert_eq!(office.signatures(&request).await, 1);
    let lines = office.store.audit_of(&request.proposal.id).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.code == "R014").count(), 8);
    let after = office.add(&li, &request, good).await.unwrap();
    assert_eq!(after.state, State::Delivering);
}

async fn a_key_is_of_one_account_and_no_key_of_the_controller_is_a_persons(database: Database) {
    let office = Office::asking_for(&database, 2).await;
    let key = office.key_of("li").await;
    // The same again is the same.
    office.register("li", &key).await.unwrap();
    assert!(matches!(office.register("bo", &key).await, Err(DeskError::Conflict(_))));
    assert!(matches!(office.register("nobody", &key).await, Err(DeskError::NotFound(_))));
    let by = office.account("max").await;
    let own = office.desk.add_key(&by, "li", &"0".repeat(16), &key.public_pem(), now_ms()).await;
    assert!(matches!(own, Err(DeskError::Invalid { field: "public_key", .. })), "{own:?}");
    let signer = office.signer().keys().remove(0);
    let own = office.desk.add_key(&by, "li", &signer.key_id, &signer.public_key, now_ms()).await;
    assert!(own.unwrap_err().to_string().contains("controller's own key"));
    let request = office.waiting("robot").await;
    let grants = office.store.grants_of(&request.proposal.id).await.unwrap();
    let first = grants[0].envelope.as_ref().unwrap().signatures[0].clone();
    let li = office.account("li").await;
    assert_eq!(word(office.add(&li, &request, first.clone()).await), "not_your_key");
    // Nor where the signer is in another process.
    let apart = jit_controller::desk::Desk::new(
        office.store.clone(),
        None,
        jit_controller::desk::Settings::default(),
    );
    let grant = grants[0].part.id.to_string();
    assert_eq!(word(apart.add_signature(&li, &grant, first, now_ms()).await), "not_your_key");
}

async fn two_keys_of_one_person_are_one_approver(database: Database) {
    let office = Office::asking_for(&database, 3).await;
    let request = office.waiting("robot").await;
    let first = office.key_of("li").await;
    let (second, third) = (office.key_of("li").await, office.key_of("li-two").await);
    office.signs("li", &request, &first).await.unwrap();
    // The same again is the same.
    office.signs("li", &request, &first).await.unwrap();
    assert_eq!(word(office.signs("li", &request, &second).await), "already_signed");
    assert_eq!(word(office.signs("li-two", &request, &third).await), "already_signed");
    assert_eq!(office.signatures(&request).await, 2);
    assert_eq!(office.read(&request.proposal.id).await.state, State::AwaitingSignatures);
    let of_bo = office.key_of("bo").await;
    let after = office.signs("bo", &request, &of_bo).await.unwrap();
    assert_eq!(after.state, State::Delivering);
}

async fn a_revoked_key_counts_no_longer_also_where_it_has_signed(database: Database) {
    let office = Office::asking_for(&database, 3).await;
    let request = office.waiting("robot").await;
    let (of_li, of_bo) = (office.key_of("li").await, office.key_of("bo").await);
    office.signs("li", &request, &of_li).await.unwrap();
    let by = office.account("max").await;
    office.desk.revoke_key(&by, "li", &of_li.key_id(), now_ms()).await.unwrap();
    office.desk.revoke_key(&by, "li", &of_li.key_id(), now_ms()).await.unwrap();
    let missing = office.desk.revoke_key(&by, "li", &of_bo.key_id(), now_ms()).await;
    assert!(matches!(missing, Err(DeskError::NotFound(_))), "{missing:?}");
    assert_eq!(word(office.signs("li", &request, &of_li).await), "unknown_key");
    let after = office.signs("bo", &request, &of_bo).await.unwrap();
    assert_eq!(after.state, State::AwaitingSignatures);
    assert_eq!(office.signatures(&request).await, 2, "the controller's and Bo's");
    let new = office.key_of("li").await;
    let after = office.signs("li", &request, &new).await.unwrap();
    assert_eq!(after.state, State::Delivering);
    let lines = office.store.audit_after(0, 1000).await.unwrap();
    assert!(["A004", "A005"].iter().all(|code| lines.iter().any(|line| line.code == *code)));
}
