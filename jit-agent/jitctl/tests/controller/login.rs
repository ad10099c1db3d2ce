//! Logins: what is kept, what is sent where.

use std::os::unix::fs::MetadataExt as _;

use crate::server::{Controller, me, ok, page, problem};

#[test]
fn a_login_keeps_a_token_that_the_controller_knows() {
    let controller = Controller::start();
    controller.says("GET /me", ok(&me()));
    let said = controller.jitctl_with(&controller.login(), "jit_ana\n").good();
    for part in ["ana@example.org, account ana", "until      2099-01-01T00:00:00Z", "read, request"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(controller.asked()[0].header("authorization"), "Bearer jit_ana");
    let tokens = controller.file(".config/jitctl/tokens.toml");
    assert_eq!(tokens.metadata().unwrap().mode() & 0o777, 0o600);
    let listed = controller.jitctl("context list").good();
    assert!(listed.contains(&format!("*  prod  {}/  ana      yes", controller.url)), "{listed}");
    controller.says("GET /requests", page(&[(); 0], None));
    controller.jitctl("requests --mine").good();
    let asked = controller.asked();
    assert_eq!(asked[0].header("authorization"), "Bearer jit_ana");
    assert!(asked[0].query.contains("mine=true"), "{asked:?}");
    controller.jitctl("logout").good();
    controller.jitctl("requests").fails(64, "prod is logged out: jitctl login --context prod");
    assert!(controller.asked().is_empty());
    // The address and the CA are still known.
    controller.jitctl_with("login", "jit_new\n").good();
    assert_eq!(controller.asked()[0].header("authorization"), "Bearer jit_new");
    controller.jitctl("context remove prod").good();
    controller.jitctl("requests").fails(64, "which controller?");
}

#[test]
fn a_token_that_the_controller_refuses_is_not_kept_and_not_shown() {
    let controller = Controller::start();
    controller.says("GET /me", problem(401, "token_unknown", "there is no such token"));
    let said = controller.jitctl_with(&controller.login(), "jit_wrong\n");
    assert!(!format!("{said:?}").contains("jit_wrong"), "{said:?}");
    said.fails(77, "refused: token_unknown: there is no such token");
    assert!(!controller.file(".config/jitctl/tokens.toml").exists());
    controller.jitctl_with(&controller.login(), "\n").fails(64, "the token is empty");
}

#[test]
fn a_certificate_of_another_ca_is_named_and_gets_no_token() {
    let controller = Controller::start();
    let other = Controller::start();
    let login =
        format!("login --controller {} --ca {}", controller.url, other.file("ca.pem").display());
    controller.jitctl_with(&login, "jit_ana\n").fails(69, "comes from no CA that is trusted here");
    let login = format!("login --controller {}", controller.url);
    controller.jitctl_with(&login, "jit_ana\n").fails(69, "comes from no CA that is trusted here");
    let login = login.replace("https://127.0.0.1", "http://127.0.0.1");
    controller.jitctl_with(&login, "jit_ana\n").fails(64, "must begin with https://");
    assert!(controller.asked().is_empty());
}

#[test]
fn a_redirect_is_not_followed() {
    let controller = Controller::with_login();
    let other = Controller::start();
    let moved = problem(307, "", "").header("location", &format!("{}/api/v1/me", other.url));
    controller.says("GET /me", moved);
    assert_eq!(controller.jitctl("context show").exit, Some(77));
    assert!(other.asked().is_empty());
}

#[test]
fn in_a_pipeline_the_environment_is_enough() {
    let controller = Controller::start();
    controller.says("GET /requests", page(&[(); 0], None));
    let mut command = controller.command("requests --json");
    command
        .env_remove("HOME")
        .env("JITCTL_CONTROLLER", &controller.url)
        .env("JITCTL_CA", controller.file("ca.pem"))
        .env("JITCTL_TOKEN", "jit_ci");
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"[]\n"[..]));
    assert_eq!(controller.asked()[0].header("authorization"), "Bearer jit_ci");
}

#[test]
fn nobody_at_the_address_is_no_connection() {
    let controller = Controller::with_login();
    let said = controller.jitctl("requests --controller https://127.0.0.1:1 --timeout 2s");
    said.fails(64, "there is no login at https://127.0.0.1:1/");
    let mut command = controller.command("requests --controller https://127.0.0.1:1 --timeout 2s");
    let output = command.env("JITCTL_TOKEN", "jit_x").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("cannot talk to the controller at https://127.0.0.1:1:"), "{error}");
    assert!(error.contains("refused") && !error.contains("jit_x"), "{error}");
}
