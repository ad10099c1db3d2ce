//! Passwords over the API.

use serde_json::json;

use super::{Caller, Site};
use crate::databases::Database;

on_each_database! {
    administrators_set_passwords_and_others_change_their_own,
}

async fn administrators_set_passwords_and_others_change_their_own(database: Database) {
    let site = Site::new(database).await;
    let (root, bo) = (site.caller("root").await, site.caller("bo").await);
    let own = "/api/v1/accounts/bo/password";
    let first = json!({ "password": "first plain words" });
    // A token alone is not enough: a stolen one would become a password.
    bo.put(own, first.clone()).await.problem(403, "not_admin");
    let guess = json!({ "password": "first plain words", "current": "a guess at random" });
    bo.put(own, guess.clone()).await.problem(403, "wrong_password");
    let reader = Caller { site: &site, token: site.token("root", &["read"]).await };
    reader.put(own, first.clone()).await.problem(403, "scope_missing");
    root.put("/api/v1/accounts/xy/password", first.clone()).await.problem(404, "not_found");
    for weak in ["short", "bo-bo-bo-bo-bo", "aaaaaaaaaaaaaaaa"] {
        let answer = root.put(own, json!({ "password": weak })).await;
        assert_eq!(answer.problem(422, "invalid")["field"], "password", "{weak}");
    }
    root.put(own, first).await.ok(204);
    let second = json!({ "password": "second plain words", "current": "first plain words" });
    bo.put(own, second.clone()).await.ok(204);
    bo.put(own, second).await.problem(403, "wrong_password");
    let audit = root.get("/api/v1/audit?limit=100").await.ok(200);
    let of = |event: &str| {
        audit["items"].as_array().unwrap().iter().filter(|one| one["event"] == event).count()
    };
    assert_eq!(of("password_set"), 2);
    assert!(!audit.to_string().contains("plain words"));
    // Guesses are counted here too.
    bo.put(own, guess.clone()).await.problem(403, "wrong_password");
    bo.put(own, guess.clone()).await.problem(403, "wrong_password");
    bo.put(own, guess).await.problem(429, "too_many_requests");
}
