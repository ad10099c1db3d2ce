use super::*;

const ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org";
const MESSAGE: &[u8] = b"DSSEv1 1 t 1 p";

fn party() -> RelyingParty {
    RelyingParty::new(ID, vec!["https://jit.example.org:8443".into(), ORIGIN.into()]).unwrap()
}

fn authenticator_data(id: &str, flags: u8, rest: &[u8]) -> Vec<u8> {
    [&Sha256::digest(id.as_bytes())[..], &[flags, 0, 0, 0, 7], rest].concat()
}

fn good_data() -> Vec<u8> {
    authenticator_data(ID, USER_PRESENT | USER_VERIFIED, &[])
}

/// As Chromium writes it, with more keys.
fn client_data(more: &str) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(challenge(MESSAGE));
    format!(
        "{{\"type\":\"webauthn.get\",\"challenge\":\"{challenge}\",\"origin\":\"{ORIGIN}\"{more}}}"
    )
}

fn check(data: &[u8], json: &str) -> Result<Vec<u8>, AssertionError> {
    let client_data_json = json.as_bytes().to_vec().into();
    let assertion = v1::Assertion { authenticator_data: data.to_vec().into(), client_data_json };
    party().check(&challenge(MESSAGE), &assertion)
}

#[test]
fn what_is_signed_is_the_authenticators_data_and_the_hash_of_the_browsers() {
    let json = client_data(",\"crossOrigin\":false,\"other_keys_can_be_added_here\":\"x\"");
    let signed = check(&good_data(), &json).unwrap();
    assert_eq!(signed, [good_data(), Sha256::digest(&json).to_vec()].concat());
    let at_another_port = client_data("").replace(ORIGIN, "https://jit.example.org:8443");
    assert!(check(&good_data(), &at_another_port).is_ok());
    let extensions = authenticator_data(ID, 0x85, b"\xa0");
    assert!(check(&extensions, &json).is_ok());
    let backed_up = authenticator_data(ID, 0x1d, &[]);
    assert!(check(&backed_up, &json).is_ok(), "a passkey that is copied between devices");
}

#[test]
fn each_check_of_the_browsers_data_names_itself() {
    let good = client_data("");
    let refused = |json: &str| check(&good_data(), json).unwrap_err();
    let other = URL_SAFE_NO_PAD.encode(challenge(b"another payload"));
    let own = URL_SAFE_NO_PAD.encode(challenge(MESSAGE));
    assert_eq!(refused(&good.replace(&own, &other)), AssertionError::Challenge);
    assert_eq!(refused(&good.replace(&own, &format!("{own}="))), AssertionError::Challenge);
    assert_eq!(refused(&good.replace(&own, "")), AssertionError::Challenge);
    assert_eq!(
        refused(&good.replace("webauthn.get", "webauthn.create")),
        AssertionError::Type { is: "webauthn.create".into(), wanted: GET }
    );
    for origin in [
        "http://jit.example.org",
        "https://jit.example.org/",
        "https://jit.example.org.evil.example",
        "https://JIT.example.org",
        "https://example.org",
        "null",
        "",
    ] {
        let refused = refused(&good.replace(ORIGIN, origin));
        assert_eq!(refused, AssertionError::Origin(origin.into()));
    }
    assert_eq!(refused(&client_data(",\"crossOrigin\":true")), AssertionError::CrossOrigin);
    let top = ",\"crossOrigin\":false,\"topOrigin\":\"https://jit.example.org\"";
    assert_eq!(refused(&client_data(top)), AssertionError::CrossOrigin);
    // The escaped form of the same text is the same text.
    assert!(check(&good_data(), &good.replace("webauthn.get", "webauthn\\u002eget")).is_ok());
}

#[test]
fn the_browsers_data_is_one_object_without_a_key_twice() {
    let good = client_data("");
    for bad in [
        String::new(),
        "null".into(),
        "[]".into(),
        good.replace('}', ""),
        format!("{good}{good}"),
        format!("\u{feff}{good}"),
        good.replace("\"type\":\"webauthn.get\",", ""),
        good.replace("\"origin\"", "\"Origin\""),
        good.replace("\"webauthn.get\"", "1"),
        client_data(",\"crossOrigin\":\"false\""),
        client_data(",\"crossOrigin\":null"),
        client_data(",\"type\":\"webauthn.get\""),
        client_data(",\"typ\\u0065\":\"webauthn.get\""),
        client_data(",\"crossOrigin\":true,\"crossOrigin\":false"),
        client_data(",\"new\":1,\"new\":1"),
    ] {
        let refused = check(&good_data(), &bad).unwrap_err();
        assert!(matches!(refused, AssertionError::ClientData(_)), "{bad}: {refused}");
        assert!(refused.to_string().len() < 200, "{refused}");
    }
    let twice = check(&good_data(), &client_data(",\"origin\":\"x\"")).unwrap_err();
    assert!(twice.to_string().contains("\"origin\" is there twice"), "{twice}");
    let not_utf8 = v1::Assertion {
        authenticator_data: good_data().into(),
        client_data_json: b"{\"type\":\"\xff\"}"[..].into(),
    };
    let not_utf8 = party().check(&challenge(MESSAGE), &not_utf8);
    assert!(matches!(not_utf8, Err(AssertionError::ClientData(_))));
}

#[test]
fn each_check_of_the_authenticators_data_names_itself() {
    let json = client_data("");
    let refused = |data: &[u8]| check(data, &json).unwrap_err();
    let other = authenticator_data("example.org", 5, &[]);
    assert_eq!(refused(&other), AssertionError::RpId(ID.into()));
    assert_eq!(refused(&authenticator_data(ID, 4, &[])), AssertionError::UserPresence);
    assert_eq!(refused(&authenticator_data(ID, 1, &[])), AssertionError::UserVerification);
    let good = good_data();
    let bad = [
        Vec::new(),
        good[..36].to_vec(),
        authenticator_data(ID, 0x45, &[]),
        authenticator_data(ID, 0x85, &[]),
        authenticator_data(ID, 0x05, b"\xa0"),
    ];
    for bad in bad {
        assert!(matches!(refused(&bad), AssertionError::AuthenticatorData(_)), "{bad:?}");
    }
}

#[test]
fn sizes_have_a_limit() {
    let json = client_data("");
    let data = |bytes: usize| authenticator_data(ID, 0x85, &vec![0; bytes - HEADER_BYTES]);
    assert!(check(&data(MAX_AUTHENTICATOR_DATA_BYTES), &json).is_ok());
    let refused = check(&data(MAX_AUTHENTICATOR_DATA_BYTES + 1), &json).unwrap_err();
    assert!(matches!(refused, AssertionError::TooLarge { what: "authenticatorData", .. }));
    let padded = |bytes: usize| format!("{json}{}", " ".repeat(bytes - json.len()));
    assert!(check(&good_data(), &padded(MAX_CLIENT_DATA_BYTES)).is_ok());
    let refused = check(&good_data(), &padded(MAX_CLIENT_DATA_BYTES + 1)).unwrap_err();
    assert!(matches!(refused, AssertionError::TooLarge { what: "clientDataJSON", .. }));
}

#[test]
fn a_relying_party_is_one_that_a_browser_knows() {
    let new = |id: &str, origins: &[&str]| {
        RelyingParty::new(id, origins.iter().map(|origin| (*origin).to_owned()).collect())
    };
    assert!(new("example.org", &["https://jit.example.org", "https://example.org:8443"]).is_ok());
    assert!(new("localhost", &["https://localhost:9443"]).is_ok());
    for id in ["", "Example.org", "https://example.org", "example.org:443", "192.0.2.1", "a..b"] {
        let refused = new(id, &[ORIGIN]).unwrap_err();
        assert_eq!(refused, RelyingPartyError::Id(id.into()));
    }
    assert_eq!(new(ID, &[]), Err(RelyingPartyError::NoOrigin));
    for origin in [
        "http://jit.example.org",
        "https://jit.example.org/",
        "https://jit.example.org:443",
        "https://jit.example.org:08443",
        "https://jit.example.org:0",
        "https://JIT.example.org",
        "https://ana@jit.example.org",
        "https://example.org",
        "https://xjit.example.org",
        "https://.jit.example.org",
        "jit.example.org",
    ] {
        let refused = new(ID, &[ORIGIN, origin]).unwrap_err();
        assert!(matches!(refused, RelyingPartyError::Origin { .. }), "{origin}");
    }
}

/// A new passkey's authenticatorData: model, length of the id, id, key.
fn new_data(flags: u8, id: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(id.len()).unwrap().to_be_bytes();
    authenticator_data(ID, flags, &[&[9; 16][..], &length, id, rest].concat())
}

fn check_new<'d>(data: &'d [u8], json: &str) -> Result<NewPasskey<'d>, AssertionError> {
    party().check_new(&challenge(MESSAGE), json.as_bytes(), data)
}

#[test]
fn a_new_passkey_is_read_up_to_its_key() {
    let json = client_data("").replace(GET, CREATE);
    let data = new_data(0x45, b"credential", b"\xa0");
    let new = check_new(&data, &json).unwrap();
    let expected =
        NewPasskey { sign_count: 7, id: b"credential", key: b"\xa0", has_extensions: false };
    assert_eq!(new, expected);
    assert_eq!(sign_count(&data), Some(7));
    assert_eq!(sign_count(&data[..36]), None);
    assert!(check_new(&new_data(0xc5, b"i", b"\xa0\xa0"), &json).unwrap().has_extensions);
    assert_eq!(named_challenge(json.as_bytes()), Ok(challenge(MESSAGE)));
    let none = json.replace("\"challenge\":\"", "\"challenge\":\"AA");
    assert_eq!(named_challenge(none.as_bytes()), Err(AssertionError::Challenge));
}

#[test]
fn each_check_of_a_new_passkey_names_itself() {
    let json = client_data("").replace(GET, CREATE);
    let good = new_data(0x45, b"credential", b"");
    let refused = |data: &[u8], json: &str| check_new(data, json).unwrap_err();
    let assertion = refused(&good, &client_data(""));
    assert_eq!(assertion, AssertionError::Type { is: GET.into(), wanted: CREATE });
    let elsewhere = json.replace(ORIGIN, "https://evil.example.org");
    assert_eq!(
        refused(&good, &elsewhere),
        AssertionError::Origin("https://evil.example.org".into())
    );
    let other = authenticator_data("example.org", 0x45, &[0; 40]);
    assert_eq!(refused(&other, &json), AssertionError::RpId(ID.into()));
    assert_eq!(refused(&new_data(0x41, b"i", b""), &json), AssertionError::UserVerification);
    assert_eq!(refused(&new_data(0x44, b"i", b""), &json), AssertionError::UserPresence);
    for bad in [new_data(5, b"i", b""), new_data(0x45, b"", b""), good_data()] {
        assert!(matches!(refused(&bad, &json), AssertionError::AuthenticatorData(_)), "{bad:?}");
    }
    for cut in 0..good.len() {
        assert!(check_new(&good[..cut], &json).is_err(), "{cut}");
    }
    let large = new_data(0x45, &[1; MAX_NEW_AUTHENTICATOR_DATA_BYTES], b"");
    assert!(matches!(refused(&large, &json), AssertionError::TooLarge { .. }));
}
