//! Signing with a key in a hardware module or smart card, by PKCS#11 (`cryptoki` speaks it).
//!
//! The module signs a SHA-256 digest with `CKM_ECDSA`, which every module has, or the message itself
//! with `CKM_EDDSA`.

use std::path::PathBuf;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use sha2::{Digest as _, Sha256};

use crate::{files, key_spec::Pkcs11Spec, public_key::PublicKey};

/// A key in a module. The module stays loaded as long as the value lives.
#[derive(Debug)]
pub struct Pkcs11Key {
    session: Session,
    private: ObjectHandle,
    public: PublicKey,
    // After the session, which needs it.
    _module: Pkcs11,
}

impl Pkcs11Key {
    /// Loads the module, logs in, and finds the key.
    ///
    /// # Errors
    /// What is missing or refused, in words.
    pub fn open(place: &Pkcs11Spec) -> Result<Self, String> {
        let Pkcs11Spec { module: path, token, key, pin_file } = place;
        let module = Pkcs11::new(path).map_err(|error| {
            format!("cannot load the PKCS#11 module {}: {error}", path.display())
        })?;
        let failed = |what: String| {
            move |error: cryptoki::error::Error| format!("{what} ({}): {error}", path.display())
        };
        module
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(failed("cannot start the PKCS#11 module".into()))?;
        let slot = slot(&module, token)
            .map_err(failed("cannot list the tokens of the PKCS#11 module".into()))??;
        let session = module
            .open_ro_session(slot)
            .map_err(failed(format!("cannot open the token {token:?}")))?;
        login(&session, pin_file.as_ref())?
            .map_err(failed(format!("cannot log in to the token {token:?}")))?;
        let looked = failed(format!("cannot look for the key {key:?}"));
        let (private, public) = pair(&session, key).map_err(looked)??;
        Ok(Self { session, private, public, _module: module })
    }

    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message: 64 bytes, for P-256 r and s with 32 bytes each.
    ///
    /// # Errors
    /// The module refuses, or the device is gone.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let signed = match self.public {
            PublicKey::Ed25519(_) => {
                let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
                self.session.sign(&pure, self.private, message)
            }
            PublicKey::P256(_) => {
                self.session.sign(&Mechanism::Ecdsa, self.private, &Sha256::digest(message))
            }
        };
        signed.map_err(|error| format!("the PKCS#11 module does not sign: {error}"))
    }
}

fn slot(module: &Pkcs11, token: &str) -> cryptoki::error::Result<Result<Slot, String>> {
    let mut labels = Vec::new();
    let mut found = None;
    for slot in module.get_slots_with_initialized_token()? {
        let label = module.get_token_info(slot)?.label().trim_end().to_owned();
        if label == token {
            if found.is_some() {
                return Ok(Err(format!("several tokens have the label {token:?}")));
            }
            found = Some(slot);
        }
        labels.push(format!("{label:?}"));
    }
    let held = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    Ok(found.ok_or_else(|| format!("no token has the label {token:?}; there is {held}")))
}

fn login(
    session: &Session,
    pin_file: Option<&PathBuf>,
) -> Result<cryptoki::error::Result<()>, String> {
    let Some(path) = pin_file else { return Ok(Ok(())) };
    let text = files::read_text(path, "the PIN").map_err(|error| error.to_string())?;
    let pin = text.lines().next().unwrap_or_default();
    if pin.is_empty() {
        return Err(format!("the first line of {} has no PIN", path.display()));
    }
    let pin = AuthPin::new(pin.to_owned().into());
    Ok(session.login(UserType::User, Some(&pin)))
}

/// The private key with this label, and its public half.
fn pair(
    session: &Session,
    label: &str,
) -> cryptoki::error::Result<Result<(ObjectHandle, PublicKey), String>> {
    let find = |class| {
        session
            .find_objects(&[Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())])
    };
    let (private, public) = (find(ObjectClass::PRIVATE_KEY)?, find(ObjectClass::PUBLIC_KEY)?);
    let (&[private], &[public]) = (&private[..], &public[..]) else {
        return Ok(Err(format!(
            "the token has {} private and {} public keys with the label {label:?}; one of each is \
             needed",
            private.len(),
            public.len()
        )));
    };
    let attributes =
        session.get_attributes(public, &[AttributeType::KeyType, AttributeType::EcPoint])?;
    let (mut kind, mut point) = (None, Vec::new());
    for attribute in attributes {
        match attribute {
            Attribute::KeyType(found) => kind = Some(found),
            Attribute::EcPoint(found) => point = found,
            _ => {}
        }
    }
    // PKCS#11 has the point in an OCTET STRING; some modules leave that away.
    let length = point.get(1).copied().map(usize::from);
    let bare = match point.strip_prefix(&[4]) {
        Some([_, rest @ ..]) if length == Some(rest.len()) => rest,
        _ => &point,
    };
    let read = match kind {
        Some(KeyType::EC) => PublicKey::from_p256_point(bare),
        Some(KeyType::EC_EDWARDS) => PublicKey::from_ed25519(bare),
        _ => Err("it is neither ECDSA P-256 nor Ed25519".to_owned()),
    };
    let named = |why| format!("the key {label:?} of the token does not fit: {why}");
    Ok(read.map(|public| (private, public)).map_err(named))
}
