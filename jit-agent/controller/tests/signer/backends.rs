//! Keys in files, a real ssh-agent, a real SoftHSM, and programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use jit_client::{
    keys::{Key, KeySpec, Pkcs11Spec},
    signing::Algorithm,
};
use jit_controller::signer::{KeySettings, Signer, SignerError};

use crate::world::{
    PROGRAM, Running, World, agreed, eventually, new_key, process, proposal, script, signs, succeed,
};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "8451";

#[tokio::test]
async fn each_grant_has_a_signature_by_every_key() {
    let mut world = World::new();
    for (name, algorithm) in [("p256", Algorithm::P256), ("second", Algorithm::Ed25519)] {
        let (file, _) = new_key(world.directory.path(), name, algorithm);
        world.settings.keys.push(KeySettings::Pem { file });
    }
    let signer = world.start().await;
    let algorithms: Vec<_> = signer.keys().into_iter().map(|key| key.algorithm).collect();
    assert_eq!(algorithms, ["Ed25519", "ECDSA P-256", "Ed25519"]);
    signs(&signer).await;
    drop(signer);
    fs::copy(world.path("signer.key"), world.path("copy.key")).unwrap();
    world.settings.keys.push(KeySettings::Pem { file: world.path("copy.key") });
    let error = world.try_start().await.unwrap_err().to_string();
    assert!(error.contains("the same key"), "{error}");
}

/// Starts an ssh-agent on this socket, and adds keys from files.
fn ssh_agent(socket: &Path, keys: &[PathBuf]) -> Running {
    let _none = fs::remove_file(socket);
    let mut agent = Command::new("ssh-agent");
    let agent = agent.arg("-D").arg("-a").arg(socket).stdout(Stdio::null());
    let agent = Running(agent.spawn().unwrap());
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    succeed(Command::new("ssh-add").arg("-q").args(keys).env("SSH_AUTH_SOCK", socket));
    agent
}

fn ssh_key(world: &World, kind: &str) -> PathBuf {
    let path = world.path(kind);
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", kind, "-N", "", "-C", &format!("{kind} of li"), "-f"]);
    succeed(keygen.arg(&path));
    path
}

#[tokio::test]
async fn an_ssh_agent_signs_with_both_algorithms_and_may_come_back() {
    let mut world = World::new();
    let keys = ["ed25519", "ecdsa", "rsa"].map(|kind| ssh_key(&world, kind));
    let socket = world.path("agent.sock");
    let agent = ssh_agent(&socket, &keys);
    let listed = succeed(Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket));
    let ecdsa = listed.lines().find(|line| line.contains("ECDSA")).unwrap();
    let fingerprint = ecdsa.split(' ').nth(1).unwrap().to_owned();
    let of_agent =
        |key: &str| KeySettings::SshAgent { socket: Some(socket.clone()), key: key.to_owned() };
    world.settings.keys = vec![of_agent("ed25519 of li"), of_agent(&fingerprint)];
    let signer = world.start().await;
    // r and s of ECDSA have leading zeros now and then.
    for _ in 0..40 {
        signs(&signer).await;
    }
    drop(agent);
    let lost = signer.sign(&agreed(proposal())).await;
    assert!(matches!(lost, Err(SignerError::Unavailable(_))), "{lost:?}");
    let _agent = ssh_agent(&socket, &keys);
    eventually("it signs again", async || signer.sign(&agreed(proposal())).await.is_ok()).await;
    for (key, says) in [("rsa of li", "neither Ed25519"), ("nobody", "it holds \"ed25519 of li\"")]
    {
        world.settings.keys = vec![of_agent(key)];
        world.settings.journal = world.path("another.journal");
        let error = world.try_start().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// A token with a key pair in a directory of its own. Returns the program that finds it.
fn softhsm(world: &World) -> PathBuf {
    fs::create_dir(world.path("tokens")).unwrap();
    let configuration = world.path("softhsm2.conf");
    let tokens = world.path("tokens");
    fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let util = || {
        let mut util = Command::new("softhsm2-util");
        util.env("SOFTHSM2_CONF", &configuration);
        util
    };
    let init = ["--init-token", "--free", "--label", "jit", "--so-pin", "9999", "--pin", PIN];
    succeed(util().args(init));
    let (file, _) = new_key(world.directory.path(), "in-hsm", Algorithm::P256);
    let import = ["--token", "jit", "--label", "signing", "--id", "01", "--pin", PIN, "--import"];
    succeed(util().args(import).arg(file));
    fs::write(world.path("pin"), format!("{PIN}\n")).unwrap();
    let program = world.path("with-softhsm");
    let text =
        format!("#!/bin/sh\nSOFTHSM2_CONF={} exec {PROGRAM} \"$@\"\n", configuration.display());
    script(&program, &text);
    program
}

fn in_softhsm(world: &World, token: &str, key: &str) -> KeySettings {
    KeySettings::Pkcs11 {
        module: SOFTHSM.into(),
        token: token.into(),
        key: key.into(),
        pin_file: Some(world.path("pin")),
        network: false,
    }
}

#[tokio::test]
async fn a_hardware_module_signs_without_sockets() {
    let mut world = World::new();
    let program = softhsm(&world);
    world.settings.keys.push(in_softhsm(&world, "jit", "signing"));
    let signer = Signer::start_program(&program, &world.settings).await.unwrap();
    let public = new_key_of(&world.path("in-hsm.key"));
    assert_eq!(signer.keys()[1].key_id, public);
    for _ in 0..10 {
        signs(&signer).await;
    }
    let status = format!("/proc/{}/status", process(&signer).unwrap());
    assert!(fs::read_to_string(status).unwrap().contains("Seccomp:\t2"));
    drop(signer);
    world.settings.journal = world.path("another.journal");
    for (token, key, says) in [
        ("jit", "another", "0 private and 0 public keys"),
        ("tij", "signing", "no token has the label \"tij\"; there is \"jit\""),
    ] {
        world.settings.keys = vec![in_softhsm(&world, token, key)];
        let error = Signer::start_program(&program, &world.settings).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    fs::write(world.path("pin"), "0000\n").unwrap();
    world.settings.keys = vec![in_softhsm(&world, "jit", "signing")];
    let error = Signer::start_program(&program, &world.settings).await.unwrap_err().to_string();
    assert!(error.contains("cannot log in") && !error.contains("0000"), "{error}");
}

fn new_key_of(file: &Path) -> String {
    let key = Key::open(&KeySpec::Pem(file.to_owned())).unwrap();
    key.public().key_id()
}

#[test]
fn a_module_that_is_no_module_is_named() {
    let spec = Pkcs11Spec {
        module: "/etc/hostname".into(),
        token: "jit".into(),
        key: "x".into(),
        pin_file: None,
    };
    let error = Key::open(&KeySpec::Pkcs11(spec)).unwrap_err().to_string();
    assert!(error.contains("cannot load the PKCS#11 module /etc/hostname"), "{error}");
}

/// A program in shell that says its public key, and then what `answers` prints for each line.
fn command(world: &mut World, answers: &str) {
    let (_, key) = new_key(world.directory.path(), "of-command", Algorithm::Ed25519);
    let pem = key.public_pem().replace('\n', "\\\\n");
    let text = format!(
        "#!/bin/sh\nprintf '%b\\n' '{{\"public_key\":\"{pem}\"}}'\n\
         while read -r line; do\n{answers}\ndone\n"
    );
    script(&world.path("sign"), &text);
    world.settings.keys = vec![KeySettings::Command {
        command: vec![world.path("sign").display().to_string()],
        public_key: None,
        timeout: Duration::from_millis(500),
    }];
}

#[tokio::test]
async fn a_program_that_does_not_sign_is_named_and_started_again() {
    for (answers, says) in [
        ("echo '{\"id\":1,\"error\":\"no such key\"}'", "no such key"),
        ("echo '{\"id\":7,\"signature\":\"AAAA\"}'", "answers 7"),
        ("echo '{\"id\":1,\"signature\":\"AAAA\"}'", "no good Ed25519 signature"),
        ("echo '{\"id\":1,\"signature\":\"...\"}'", "not base64"),
        ("echo '{\"id\":1}'", "neither signature nor error"),
        ("echo hello", "not understood"),
        ("sleep 5", "within 500 ms"),
        ("exit 1", "has ended"),
        ("head -c 100000 /dev/zero", "bytes on a line"),
    ] {
        let mut world = World::new();
        command(&mut world, answers);
        let signer = world.start().await;
        let pid = process(&signer);
        match signer.sign(&agreed(proposal())).await {
            Err(SignerError::Unavailable(why)) => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
        eventually("a new start", async || process(&signer).is_some() && process(&signer) != pid)
            .await;
    }
}

#[tokio::test]
async fn a_program_must_have_the_key_that_the_settings_name() {
    let mut world = World::new();
    command(&mut world, "true");
    let (_, other) = new_key(world.directory.path(), "other", Algorithm::Ed25519);
    fs::write(world.path("other.pem"), other.public_pem()).unwrap();
    let pinned = world.path("other.pem");
    if let KeySettings::Command { public_key, .. } = &mut world.settings.keys[0] {
        *public_key = Some(pinned);
    }
    let error = world.try_start().await.unwrap_err().to_string();
    assert!(error.contains("another public key than"), "{error}");
    script(&world.path("sign"), "#!/bin/sh\necho hello\n");
    let error = world.try_start().await.unwrap_err().to_string();
    assert!(error.contains("first line"), "{error}");
    fs::remove_file(world.path("sign")).unwrap();
    let error = world.try_start().await.unwrap_err().to_string();
    assert!(error.contains("does not start"), "{error}");
}
