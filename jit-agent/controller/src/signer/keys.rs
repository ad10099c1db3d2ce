//! The keys that the signer holds, opened before the process is closed. A key that fails is opened again
//! by a new start of the signer.

use jit_client::{
    files::read_text,
    keys::{Key, KeySpec, Pkcs11Spec},
    public_key::PublicKey,
    ssh_agent::SshAgent,
};
use jit_proto::{dsse::pre_authentication_encoding, v1};

use super::{KeyInfo, command::CommandKey, confine::Needs, key_settings::KeySettings};

/// All keys, in the order of the settings.
#[derive(Debug)]
pub(super) struct Keys(Vec<Held>);

#[derive(Debug)]
struct Held {
    info: KeyInfo,
    public: PublicKey,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Command(CommandKey),
    Shared(Key),
}

impl Keys {
    /// Opens the keys. None of them is among these `others`.
    ///
    /// # Errors
    /// The first one that cannot be opened, in words.
    pub(super) fn open(settings: &[KeySettings], others: &[KeyInfo]) -> Result<Self, String> {
        let mut keys: Vec<Held> = Vec::new();
        for one in settings {
            let (kind, name) = described(one);
            let held =
                open(one).map_err(|why| format!("cannot open the {kind} key {name}: {why}"))?;
            let key_id = held.public().key_id();
            let known = keys.iter().map(|key| &key.info).chain(others);
            if known.into_iter().any(|other| other.key_id == key_id) {
                return Err(format!("the {kind} key {name} is the same key as another one"));
            }
            let public = held.public();
            let info = KeyInfo {
                kind: kind.to_owned(),
                algorithm: public.algorithm().to_owned(),
                key_id,
                public_key: public.pem(),
            };
            keys.push(Held { info, public, place: held });
        }
        Ok(Self(keys))
    }

    /// Whether there is none.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they are, without secrets.
    pub(super) fn infos(&self) -> Vec<KeyInfo> {
        self.0.iter().map(|held| held.info.clone()).collect()
    }

    /// A signature by each key, each verified.
    ///
    /// # Errors
    /// A key does not sign.
    pub(super) fn sign(
        &mut self,
        payload_type: &str,
        payload: &[u8],
    ) -> Result<Vec<v1::Signature>, String> {
        let message = pre_authentication_encoding(payload_type, payload);
        let sign = |Held { info, public, place }: &mut Held| {
            let signed = match place {
                Place::Command(key) => {
                    key.sign(&message).and_then(|raw| public.finished(&message, &raw))
                }
                Place::Shared(key) => key.sign(&message),
            };
            let named = |why| format!("the {} key {}: {why}", info.kind, info.key_id);
            let signature = signed.map_err(named)?;
            Ok(v1::Signature {
                key_id: info.key_id.clone(),
                signature: signature.into(),
                ..v1::Signature::default()
            })
        };
        self.0.iter_mut().map(sign).collect()
    }
}

impl Place {
    fn public(&self) -> PublicKey {
        match self {
            Self::Command(key) => key.public().clone(),
            Self::Shared(key) => key.public(),
        }
    }
}

/// What the keys need of the process when they are open.
pub(super) fn needs<'s>(settings: impl Iterator<Item = &'s KeySettings>) -> Needs {
    let need = |key: &KeySettings| match key {
        KeySettings::Pkcs11 { network: true, .. } => Needs::NetworkModule,
        KeySettings::Pkcs11 { .. } => Needs::Module,
        _ => Needs::Nothing,
    };
    let needs: Vec<_> = settings.map(need).collect();
    [Needs::NetworkModule, Needs::Module]
        .into_iter()
        .find(|one| needs.contains(one))
        .unwrap_or(Needs::Nothing)
}

/// Kind and name of a key.
fn described(settings: &KeySettings) -> (&'static str, String) {
    match settings {
        KeySettings::Command { command, .. } => {
            ("command", format!("{:?}", command.first().map_or("", String::as_str)))
        }
        KeySettings::Pem { file } => ("pem", file.display().to_string()),
        KeySettings::Pkcs11 { token, key, .. } => ("pkcs11", format!("{key:?} of token {token:?}")),
        KeySettings::SshAgent { key, .. } => ("ssh-agent", format!("{key:?}")),
    }
}

fn open(settings: &KeySettings) -> Result<Place, String> {
    let shared = |spec: &KeySpec| Key::open(spec).map(Place::Shared).map_err(|error| error.why);
    match settings {
        KeySettings::Command { command, public_key, timeout } => {
            let key = CommandKey::start(command, *timeout)?;
            if let Some(file) = public_key {
                let pem = read_text(file, "its public key").map_err(|error| error.to_string())?;
                if PublicKey::from_pem(&pem)? != *key.public() {
                    let file = file.display();
                    return Err(format!("it has another public key than {file}"));
                }
            }
            Ok(Place::Command(key))
        }
        KeySettings::Pem { file } => shared(&KeySpec::Pem(file.clone())),
        KeySettings::Pkcs11 { module, token, key, pin_file, network: _ } => {
            let (module, token) = (module.clone(), token.clone());
            let (key, pin_file) = (key.clone(), pin_file.clone());
            shared(&KeySpec::Pkcs11(Pkcs11Spec { module, token, key, pin_file }))
        }
        KeySettings::SshAgent { socket, key } => {
            let key = SshAgent::connect(socket.as_deref())?.key(key)?;
            Ok(Place::Shared(Key::SshAgent(key)))
        }
    }
}
