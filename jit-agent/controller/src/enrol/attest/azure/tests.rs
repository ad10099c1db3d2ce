use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;
use crate::enrol::attest::forge::Forge;

const NONCE: &str = "0123456789abcdef0123456789abcdef";
const VM: &str = "02aab8a4-74ef-476e-8182-f6d2ba4166a6";
const SUBSCRIPTION: &str = "8d10da13-8125-4ba9-a717-bf7490507b3d";
const LEAF: &str = "basicConstraints = CA:FALSE\nextendedKeyUsage = clientAuth,serverAuth\n";
const AUTHORITY: &str =
    "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n";

/// Azure with a root, an authority below it and one signer.
struct World {
    forge: Forge,
    azure: Azure,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        let forge = Forge::new();
        forge.root("root", "rsa:2048", "");
        forge.issued("between", "root", 2, AUTHORITY);
        forge.issued("azure", "between", 3, &leaf("eastus.metadata.azure.com"));
        let azure = Azure {
            roots: vec![forge.der("root").into()],
            intermediates: Vec::new(),
            subscriptions: [SUBSCRIPTION.to_owned()].into(),
        };
        // Later certificates of a test have begun by then.
        Self { forge, azure, now_ms: Timestamp::now().as_millisecond() + 3_600_000 }
    }

    fn document(&self) -> String {
        let time = |after_s: i64| {
            let at = Timestamp::from_millisecond(self.now_ms + after_s * 1000).unwrap();
            at.strftime("%m/%d/%y %H:%M:%S -0000").to_string()
        };
        format!(
            r#"{{"licenseType":"","nonce":"{NONCE}","plan":{{"name":"","product":"","publisher":""}},
            "sku":"12","subscriptionId":"{}","timeStamp":{{"createdOn":"{}","expiresOn":"{}"}},
            "vmId":"{VM}"}}"#,
            SUBSCRIPTION.to_uppercase(),
            time(-2),
            time(6 * 3600),
        )
    }

    fn signed(&self, name: &str, document: &str, more: &str) -> String {
        STANDARD.encode(self.forge.signed(name, document.as_bytes(), more))
    }

    fn machine(&self, text: &str) -> Result<Machine, AzureError> {
        self.azure.machine(text, NONCE, self.now_ms)
    }
}

fn leaf(name: &str) -> String {
    format!("{LEAF}subjectAltName = DNS:{name}\n")
}

fn host(id: &str, vm_id: &str) -> Host {
    let labels = [(LABEL.to_owned(), vm_id.to_owned())].into();
    Host { id: id.into(), labels, ..Host::default() }
}

#[test]
fn a_machine_is_the_host_that_has_its_id_as_a_label() {
    let world = World::new();
    for more in ["-certfile between.pem", "-certfile between.pem -noattr"] {
        let text = world.signed("azure", &world.document(), more);
        let machine = world.machine(&text).unwrap();
        assert_eq!(machine.vm_id(), VM);
        let hosts = [host("web-1", "other"), host("web-2", &VM.to_uppercase())];
        let proof = machine.clone().prove(&hosts).unwrap();
        assert_eq!((proof.host_id(), proof.method()), ("web-2", Method::Azure));
        assert_eq!(proof.facts()["subscription"], SUBSCRIPTION);
        assert_eq!(machine.clone().prove(&hosts[..1]), Err(AzureError::Unknown(VM.into())));
        let double = [host("web-1", VM), host("web-2", VM)];
        assert!(matches!(machine.clone().prove(&double), Err(AzureError::Double(..))));
        let resource = |subscription: &str| {
            let id = format!("/Subscriptions/{subscription}/resourceGroups/r/providers/x/y");
            machine.clone().prove(&[host(&id, VM)])
        };
        assert!(resource(&SUBSCRIPTION.to_uppercase()).is_ok());
        let refused = resource("00000000-0000-0000-0000-000000000000");
        assert!(matches!(refused, Err(AzureError::Foreign(..))));
    }
}

#[test]
fn a_certificate_that_did_not_come_with_it_is_taken_from_the_configuration() {
    let mut world = World::new();
    let text = world.signed("azure", &world.document(), "");
    assert!(matches!(world.machine(&text), Err(AzureError::Chain(_))));
    world.azure.intermediates = vec![world.forge.der("between").into()];
    assert!(world.machine(&text).is_ok());
}

#[test]
fn only_who_really_signed_counts() {
    let world = World::new();
    let document = world.document();
    // Azure's own certificates come with it, and another one has signed.
    world.forge.root("thief", "rsa:2048", "-addext subjectAltName=DNS:metadata.azure.com");
    let text = world.signed("thief", &document, "-certfile azure.pem -certfile between.pem");
    assert!(matches!(world.machine(&text), Err(AzureError::Chain(_))));
    // It bears the name and the number of Azure's certificate.
    world.forge.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout double.key -out double.pem -set_serial 3 \
         -subj /O=Example/CN=between -days 30 -addext subjectAltName=DNS:metadata.azure.com",
    );
    let text = world.signed("double", &document, "-certfile azure.pem -certfile between.pem");
    assert!(matches!(world.machine(&text), Err(AzureError::Chain(_))));
    // Issued by who is no authority, and by a root that does not count.
    world.forge.issued("below", "azure", 4, &leaf("metadata.azure.com"));
    let text = world.signed("below", &document, "-certfile azure.pem -certfile between.pem");
    assert!(matches!(world.machine(&text), Err(AzureError::Chain(_))));
    world.forge.issued("foreign", "thief", 5, &leaf("metadata.azure.com"));
    let text = world.signed("foreign", &document, "-certfile thief.pem");
    assert!(matches!(world.machine(&text), Err(AzureError::Chain(_))));
}

#[test]
fn the_signers_own_name_is_that_of_the_metadata_service() {
    let world = World::new();
    let document = world.document();
    for (number, (name, is_good)) in (10..).zip([
        ("metadata.azure.com", true),
        ("*.metadata.azure.com", true),
        ("usgovvirginia.metadata.azure.us", true),
        ("metadata.azure.com.example.org", false),
        ("evilmetadata.azure.com", false),
        ("portal.azure.com", false),
    ]) {
        world.forge.issued("signer", "between", number, &leaf(name));
        let text = world.signed("signer", &document, "-certfile between.pem");
        let found = world.machine(&text);
        assert_eq!(found.as_ref().err(), (!is_good).then_some(&AzureError::Name), "{name}");
    }
    // The name of an authority above it is of no use.
    let named = format!("{AUTHORITY}subjectAltName = DNS:metadata.azure.com\n");
    world.forge.issued("named", "root", 20, &named);
    world.forge.issued("signer", "named", 21, &leaf("portal.azure.com"));
    let text = world.signed("signer", &document, "-certfile named.pem");
    assert_eq!(world.machine(&text), Err(AzureError::Name));
    // Nor is a common name.
    world.forge.issued("metadata.azure.com", "between", 22, LEAF);
    let text = world.signed("metadata.azure.com", &document, "-certfile between.pem");
    assert_eq!(world.machine(&text), Err(AzureError::Name));
}

#[test]
fn another_nonce_is_refused() {
    let world = World::new();
    let text = world.signed("azure", &world.document(), "-certfile between.pem");
    for nonce in ["", "1", &NONCE.to_uppercase()] {
        assert_eq!(world.azure.machine(&text, nonce, world.now_ms), Err(AzureError::Nonce));
    }
    let without = world.document().replace(NONCE, "");
    let text = world.signed("azure", &without, "-certfile between.pem");
    assert_eq!(world.azure.machine(&text, "", world.now_ms), Err(AzureError::Nonce));
}

#[test]
fn a_document_counts_in_its_time_with_certificates_of_that_time() {
    let world = World::new();
    let text = world.signed("azure", &world.document(), "-certfile between.pem");
    let at = |after_ms: i64| world.azure.machine(&text, NONCE, world.now_ms + after_ms);
    assert!(at(6 * 3_600_000).is_ok());
    for after_ms in [-63_000, 6 * 3_600_000 + 61_000, 19 * 86_400_000] {
        let refused = at(after_ms).unwrap_err();
        assert!(matches!(refused, AzureError::Ended { .. } | AzureError::Chain(_)), "{refused}");
    }
    // After 20 days the signer's certificate has ended.
    let refused = at(21 * 86_400_000).unwrap_err();
    assert!(matches!(&refused, AzureError::Chain(why) if why.contains("Expired")), "{refused}");
    assert!(matches!(at(-world.now_ms), Err(AzureError::Chain(_))));
}

#[test]
fn documents_that_lie_are_refused() {
    let world = World::new();
    let with = |from: &str, to: &str| {
        let document = world.document().replace(from, to);
        assert_ne!(document, world.document());
        world.machine(&world.signed("azure", &document, "-certfile between.pem")).unwrap_err()
    };
    let other = "11111111-2222-3333-4444-555555555555";
    let refused = with(&SUBSCRIPTION.to_uppercase(), other);
    assert_eq!(refused, AzureError::Subscription(other.into()));
    for (from, to) in [
        (VM, "02aab8a4"),
        (VM, "02aab8a4-74ef-476e-8182-f6d2ba4166ax"),
        ("vmId", "id"),
        (" -0000", ""),
        ("/26 ", "/2026 "),
        ("timeStamp", "time"),
    ] {
        let refused = with(from, to);
        assert!(matches!(refused, AzureError::Document(_)), "{from} {to}: {refused}");
    }
    assert_eq!(
        time("09/25/26 08:42:17 -0000"),
        Ok("2026-09-25T08:42:17Z".parse::<Timestamp>().unwrap().as_millisecond())
    );
}
